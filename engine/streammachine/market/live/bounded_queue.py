"""A bounded queue of rows between a run and the ``async for`` that takes them, and a count of rows per second."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import anyio

if TYPE_CHECKING:
    from streammachine.market.clock.clock import Clock

T = TypeVar("T")

WINDOW: Final = 60  # seconds that a rate is taken over


class Queue(Generic[T]):
    """Rows in, lists of rows out; ``put`` waits while it is full. One taker, any number of givers."""

    def __init__(self, capacity: int) -> None:
        self._capacity = max(1, capacity)
        self._rows: deque[T] = deque()
        self._came = anyio.Event()
        self._went = anyio.Event()
        self._ended = False
        self._bounded = True

    def __len__(self) -> int:
        return len(self._rows)

    async def put(self, rows: Sequence[T]) -> None:
        """Add rows, in order; waits until the last is in. After ``end`` they are not taken."""
        at = 0
        while at < len(rows) and not self._ended:
            room = self._capacity - len(self._rows) if self._bounded else len(rows)
            if room <= 0:
                self._went = anyio.Event()
                await self._went.wait()
                continue
            self._rows.extend(rows[at : at + room])
            at += room
            self._came.set()

    async def get(self) -> list[T]:
        """All rows there are; waits for one. Empty: it has ended."""
        while not self._rows:
            if self._ended:
                return []
            self._came = anyio.Event()
            await self._came.wait()
        rows = list(self._rows)
        self._rows.clear()
        self._went.set()
        return rows

    def open_up(self) -> None:
        """Let nobody wait any longer with what is still to come: the taker may be the one who ends it."""
        self._bounded = False
        self._went.set()

    def end(self) -> None:
        """Nothing more comes; what is there can still be taken."""
        self._ended = True
        self._came.set()
        self._went.set()

    def discard(self) -> None:
        """The taker is gone."""
        self._rows.clear()
        self.end()


class RowRate:
    """Counts, and says how many a second there were in the last minute."""

    def __init__(self, clock: Clock) -> None:
        self.total = 0
        self._clock = clock
        self._began = clock.monotonic()
        self._seconds: deque[tuple[int, int]] = deque()  # second, count

    def add(self, count: int) -> None:
        """So many more."""
        self.total += count
        second = int(self._clock.monotonic())
        if self._seconds and self._seconds[-1][0] == second:
            count += self._seconds.pop()[1]
        self._seconds.append((second, count))
        while self._seconds[0][0] <= second - WINDOW:
            self._seconds.popleft()

    def per_second(self) -> float:
        """Of the last minute, or of the time since it was made."""
        now = self._clock.monotonic()
        seen = sum(count for second, count in self._seconds if second > now - WINDOW)
        return seen / max(1.0, min(WINDOW, now - self._began))
