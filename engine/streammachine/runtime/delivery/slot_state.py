"""``record.state``: values in the stream's own Cluster slot, where a transactional handler can commit them."""

from __future__ import annotations

from streammachine.redis.storage import Storage
from streammachine.runtime.delivery.keys import tagged


class SlotState(Storage):
    """A storage whose hash is ``{stream}:state:<group>``: shared by all consumers of the group, seen by no other.

    The same methods as ``app.storage``. In a transactional handler writes are held back until the commit.
    """


def state_key(stream: str, group: str) -> str:
    """The hash that holds the state of ``group`` on ``stream``."""
    return f"{tagged(stream)}:state:{group}"
