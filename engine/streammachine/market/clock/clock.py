"""The one source of time of the market package: the system's, a scaled one, or one that jumps.

Sessions, healing, backfill and the simulator ask a ``Clock`` for the time and let it wake them; none calls
``time.time`` or ``asyncio.sleep`` itself. So a test runs client and simulator on one ``VirtualClock``: as soon as
nobody has anything left to do, it jumps to the next moment somebody waits for, and an hour of market takes as long as
its work does.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import anyio

SETTLED_TURNS = 6  # turns of the loop in a row without work before a VirtualClock jumps
REAL_PAUSE = 0.0005  # seconds of real time for one of them in a loop that does not show what is due (uvloop)


class Wakeup(Protocol):
    """A callback that waits for its time."""

    def cancel(self) -> None:
        """Do not call it."""


class Clock:
    """What every clock can do. Subclasses give ``time_ms``, ``monotonic`` and ``call_later``."""

    def time_ms(self) -> int:
        """UTC, epoch milliseconds."""
        raise NotImplementedError

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        raise NotImplementedError

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Wakeup:
        """Call back in so many seconds of this clock, in the running loop."""
        raise NotImplementedError

    def patience(self, seconds: float) -> float:
        """Seconds of this clock in which as many real ones pass at least: for what takes the time it takes, such as an
        answer over a network, however fast the market is played."""
        return seconds * max(1.0, getattr(self, "speed", None) or 1.0)

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds of this clock; none or less gives way to others once."""
        if seconds <= 0:
            await anyio.lowlevel.checkpoint()
            return
        woken = anyio.Event()
        wakeup = self.call_later(seconds, woken.set)
        try:
            await woken.wait()
        finally:
            wakeup.cancel()

    async def sleep_until(self, time_ms: int) -> None:
        """Wait until this clock shows the time."""
        while (left := time_ms - self.time_ms()) > 0:
            await self.sleep(left / 1000)

    @contextmanager
    def move_on_after(self, seconds: float | None) -> Iterator[anyio.CancelScope]:
        """As ``anyio.move_on_after``, by this clock. None: no limit."""
        with anyio.CancelScope() as scope:
            if seconds is None:
                yield scope
                return
            wakeup = self.call_later(max(seconds, 0.0), scope.cancel)
            try:
                yield scope
            finally:
                wakeup.cancel()

    @contextmanager
    def fail_after(self, seconds: float | None) -> Iterator[anyio.CancelScope]:
        """As ``anyio.fail_after``, by this clock: raises TimeoutError."""
        with self.move_on_after(seconds) as scope:
            yield scope
        if scope.cancelled_caught:
            raise TimeoutError(f"nothing within {seconds} s")


class SystemClock(Clock):
    """The system's time."""

    def time_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Wakeup:
        return asyncio.get_running_loop().call_later(seconds, callback)


class ScaledClock(Clock):
    """The system's time, ``speed`` times as fast, from ``start_ms`` on.

    Args:
        speed: seconds of this clock per real second, above 0.
        start_ms: what it shows now, epoch milliseconds; by default the system's time.
    """

    def __init__(self, speed: float = 1.0, start_ms: int | None = None) -> None:
        if not speed > 0:
            raise ValueError(f"speed={speed!r} is not accepted: give a number above 0")
        self.speed = speed
        self._began = time.monotonic()
        self._start_ms = time.time_ns() // 1_000_000 if start_ms is None else start_ms

    def time_ms(self) -> int:
        return self._start_ms + int(self.monotonic() * 1000)

    def monotonic(self) -> float:
        return (time.monotonic() - self._began) * self.speed

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Wakeup:
        return asyncio.get_running_loop().call_later(seconds / self.speed, callback)


class VirtualClock(Clock):
    """A clock that stands still while there is work, and jumps to the next wake-up when there is none. (Bytes sent over
    loopback can be read in the very next turn of the loop, so what is on its way there counts as work.)

    Client and simulator must run in this loop, on this clock. Something waited for elsewhere (a thread, another
    process, a real timer) counts as no work: tests that use those hold the clock (``with clock.held():``).
    Run ``drive`` in a task beside them.

    Args:
        start_ms: what it shows first, epoch milliseconds.
        speed: at most so many of its seconds pass per real second (a slow machine makes it slower, never late); None:
            as fast as the work is done.
    """

    def __init__(self, start_ms: int = 1_700_000_000_000, speed: float | None = None) -> None:
        if speed is not None and not speed > 0:
            raise ValueError(f"speed={speed!r} is not accepted: give a number above 0, or None")
        self.speed = speed
        self._jumped = time.monotonic()
        self._start_ms = start_ms
        self._now = 0.0  # seconds since start_ms
        self._order = itertools.count()
        self._heap: list[tuple[float, int, _Entry]] = []
        self._holds = 0
        self._changed = asyncio.Event()

    def time_ms(self) -> int:
        return self._start_ms + int(self._now * 1000 + 1e-6)

    def monotonic(self) -> float:
        return self._now

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Wakeup:
        entry = _Entry(callback)
        heapq.heappush(self._heap, (self._now + max(seconds, 0.0), next(self._order), entry))
        self._changed.set()
        return entry

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no time pass inside, whatever is waited for."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self._changed.set()

    async def drive(self) -> None:
        """Let time pass, until cancelled."""
        while True:
            await self._settle()
            while self._heap and self._heap[0][2].cancelled:
                heapq.heappop(self._heap)
            if not self._heap or self._holds:
                self._changed.clear()
                await self._changed.wait()
                continue
            if self.speed is not None and not await self._pace(self._heap[0][0]):
                continue  # something else came first
            moment, _, entry = heapq.heappop(self._heap)
            self._now = max(self._now, moment)
            self._jumped = time.monotonic()
            entry.fire()

    async def _pace(self, moment: float) -> bool:
        """Wait for the real time that goes by until the moment; False when there was news meanwhile."""
        assert self.speed is not None
        left = (moment - self._now) / self.speed - (time.monotonic() - self._jumped)
        if left <= 0:
            return True
        self._changed.clear()
        with anyio.move_on_after(left):
            await self._changed.wait()
            return False
        return True

    async def _settle(self) -> None:
        """Return once the loop had nothing to do for a few turns, the kernel's deliveries included."""
        ready = getattr(asyncio.get_running_loop(), "_ready", None)
        idle = 0
        while idle < SETTLED_TURNS:
            await asyncio.sleep(0)
            if ready:  # others are due in the same turn
                idle = 0
                continue
            idle += 1
            if ready is None:  # another kind of loop does not show what is due
                await asyncio.sleep(REAL_PAUSE)


class _Entry:
    __slots__ = ("_callback", "cancelled")

    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def fire(self) -> None:
        self.cancelled = True
        self._callback()
