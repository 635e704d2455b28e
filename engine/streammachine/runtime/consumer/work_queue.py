"""What a consumer has read and not begun: one queue, or with ``key=`` a lane for each worker."""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Iterable

from streammachine.runtime.consumer.messages import message_of
from streammachine.runtime.delivery.group import Item
from streammachine.runtime.model.config import ConsumerConfig


class Bell:
    """Wakes everybody who waits at the moment when it rings. Look at the condition, then wait: nothing lies between."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wake the waiting."""
        self._event.set()
        self._event.clear()

    async def wait(self) -> None:
        """Wait for the next ring."""
        await self._event.wait()


class WorkQueue:
    """The waiting items. With ``key=`` all of a key wait in one lane that one worker serves: that keeps their order.

    Args:
        config: what the agent declared. topic: the stream, for what a key function is given.

    Attributes:
        lanes: the queues. bells: one for each, rung when something was put there.
    """

    def __init__(self, config: ConsumerConfig, topic: str) -> None:
        self._key = config.key
        self._topic = topic
        self.lanes: list[deque[Item]] = [deque() for _ in range(config.concurrency if config.key is not None else 1)]
        self.bells = [Bell() for _ in self.lanes]

    def put(self, items: Iterable[Item]) -> None:
        """Queue items, and wake who serves them."""
        if self._key is None:
            self.lanes[0].extend(items)
            self.bells[0].ring()
            return
        rung = set()
        for item in items:
            lane = self._lane_of(item)
            self.lanes[lane].append(item)
            rung.add(lane)
        for lane in rung:
            self.bells[lane].ring()

    def put_back(self, item: Item) -> None:
        """Queue an item before all others of its lane."""
        lane = self._lane_of(item)
        self.lanes[lane].appendleft(item)
        self.bells[lane].ring()

    def waiting(self) -> list[Item]:
        """What waits."""
        return [item for lane in self.lanes for item in lane]

    def drain(self) -> list[Item]:
        """Take everything out."""
        waiting = self.waiting()
        for lane in self.lanes:
            lane.clear()
        return waiting

    def wake_all(self) -> None:
        """Wake every worker, to look at what has changed."""
        for bell in self.bells:
            bell.ring()

    def __len__(self) -> int:
        return sum(map(len, self.lanes))

    def _lane_of(self, item: Item) -> int:
        if len(self.lanes) == 1:
            return 0
        key = self._key
        if not callable(key):
            assert key is not None
            return zlib.crc32(item.fields.get(key.encode(), b"")) % len(self.lanes)
        try:
            value = str(key(message_of(self._topic, item)))
        except Exception as error:  # noqa: BLE001 - the user's function; the message fails with it, not the reader
            item.error = error
            return 0
        return zlib.crc32(value.encode("utf-8", "backslashreplace")) % len(self.lanes)
