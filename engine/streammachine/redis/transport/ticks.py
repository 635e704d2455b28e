"""Stream replies as rows of ticks: ``tick_columns.pyx`` where it is built, else its twin ``tick_columns_reference.py``.

``HAS_NATIVE`` tells which. The twin documents the names; it is no faster than the codec, so who wants speed asks first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streammachine.redis.transport.codec import Entry, parse_stream_reply
from streammachine.redis.transport.tick_columns_reference import GONE, NOT_OTHER, ODD, ROW

if TYPE_CHECKING:
    from streammachine.redis.transport.tick_columns_reference import TickReader, TickReply

    HAS_NATIVE: bool
else:
    try:
        from streammachine.redis.transport.tick_columns import TickReader, TickReply

        HAS_NATIVE = True
    except ImportError:
        from streammachine.redis.transport.tick_columns_reference import TickReader, TickReply

        HAS_NATIVE = False

__all__ = ["GONE", "HAS_NATIVE", "NOT_OTHER", "ODD", "ROW", "TickReader", "TickReply", "read_entries"]


def read_entries(reply: Any) -> list[Entry]:
    """The entries of a reply of one stream that was not read into rows."""
    return next(iter(parse_stream_reply(reply).values()), [])
