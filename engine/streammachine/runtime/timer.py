"""Timers: what a decorator declares, and the loop that runs it.

Tick k of an interval timer is due at ``origin + k * interval``: a late or long tick never shifts the ones after it (no
drift). Ticks that were missed are skipped. A timer never overlaps itself unless asked. With ``scope="fleet"`` every
process wakes for a tick and the first to set the tick's key in Redis runs it; while it runs, it holds a second key, so
that a long tick is not overlapped by another process. A process that is killed meanwhile leaves that key behind: the
fleet has no tick until the key's lease has run out (it is renewed every third of its time).
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
import zoneinfo
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import anyio

from streammachine.errors import StreamMachineError
from streammachine.redis.lease import Lease
from streammachine.runtime.handlers import as_failure, call, is_async
from streammachine.runtime.model.config import TimerConfig

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection

log = logging.getLogger(__name__)

TICK_LIFE = 60.0  # seconds a fleet tick's key outlives the tick, at least
LONGEST_SLEEP = 1.0  # seconds, so that a clock that was set is noticed

# KEYS[1] the tick, KEYS[2] the running one; ARGV[1] our token, ARGV[2] the tick's life, ARGV[3] the run's lease, both
# in ms, ARGV[4] "1" where ticks may overlap. Gives 1 to exactly one process of all that ask for a tick, and to none
# while another tick runs.
_CLAIM = """
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 0 end
if ARGV[4] == '1' then return 1 end
return redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[3]) and 1 or 0
"""


class Timer:
    """A declared timer and the loop that runs it.

    Args:
        config: what the decorator declared. handler: what runs at each tick.
        app_name, name: make the keys of fleet ticks. connection: where they are.
        limiter: bounds the threads of sync handlers.
        clock: seconds; tests inject one. Without it the time of day for cron strings and the fleet, whose processes
            must agree on their ticks, else the monotonic clock.

    Attributes:
        ticks, failures: how many there were. lateness: seconds by which the last tick came late.
        running: ticks that run now. due: the next tick's time, by the timer's clock.
        took: seconds that the last tick ran. paused_by_name: set while it is paused for every process: no tick runs.
    """

    def __init__(
        self,
        config: TimerConfig,
        handler: Callable[[], Any],
        *,
        app_name: str,
        name: str,
        connection: RedisConnection,
        limiter: anyio.CapacityLimiter | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.config = config
        self.name = name
        self.ticks = 0
        self.failures = 0
        self.lateness = 0.0  # seconds, of the last tick
        self.running = 0
        self.took = 0.0
        self.paused_by_name = False
        self.due = 0.0  # the next tick's time, by the timer's clock
        by_day = isinstance(config.t, str) or config.scope == "fleet"
        self._handler = handler
        self._async = is_async(handler)
        self._key = f"sm:tick:{app_name}:{name}"
        self._connection = connection
        self._limiter = limiter
        self._clock = clock if clock is not None else time.time if by_day else time.monotonic
        self._origin = 0.0
        self._last = -1  # the number of the last tick
        self._stopping = anyio.Event()
        self._ended = anyio.Event()

    async def run(self) -> None:
        """Run the ticks until ``stop``; a tick that runs then is finished."""
        self._origin = 0.0 if self.config.scope == "fleet" else self._clock()
        self._last = -1
        try:
            async with anyio.create_task_group() as running:
                while not self._stopping.is_set():
                    self.due = due = self._next_due()
                    if not await self._sleep_until(due):
                        continue
                    if self.paused_by_name:
                        continue
                    self.lateness = max(0.0, self._clock() - due)
                    if self.config.overlap:
                        running.start_soon(self._tick, due)
                    else:
                        await self._tick(due)
        finally:
            self._ended.set()

    def facts(self) -> dict[str, Any]:
        """How it is, for other processes."""
        every = self.config.t if isinstance(self.config.t, str) else f"{self.config.t:g} s"
        return {
            "timer": self.name,
            "every": every,
            "scope": self.config.scope,
            "ticks": self.ticks,
            "failures": self.failures,
            "late_ms": round(self.lateness * 1000, 1),
            "took_ms": round(self.took * 1000, 1),
            "running": self.running,
        }

    async def finished(self) -> None:
        """Wait until ``run`` has returned."""
        await self._ended.wait()

    def stop(self) -> None:
        """Begin no further tick; ``run`` returns when the running one has ended."""
        self._stopping.set()

    def _next_due(self) -> float:
        """The next due time after now. Fleet ticks are aligned to the epoch, so that all processes agree on them."""
        now = self._clock()
        if isinstance(self.config.t, str):
            from croniter import croniter

            zone = zoneinfo.ZoneInfo(self.config.timezone)
            moment = datetime.fromtimestamp(now, zone)
            return float(croniter(self.config.t, moment).get_next(datetime).timestamp())
        interval = float(self.config.t)
        number = int((now - self._origin) // interval) + 1
        if number == self._last:  # a rounding error before the tick that has just run
            number += 1
        self._last = number
        return self._origin + number * interval

    async def _sleep_until(self, due: float) -> bool:
        """Sleep until ``due``; False when the clock was set back meanwhile, or ``stop`` was called."""
        before = self._clock()
        while not self._stopping.is_set():
            now = self._clock()
            if now >= due:
                return True
            if now < before - LONGEST_SLEEP:
                return False
            before = now
            with anyio.move_on_after(min(due - now, LONGEST_SLEEP)):
                await self._stopping.wait()
        return False

    async def _tick(self, due: float) -> None:
        if self.config.scope != "fleet":
            await self._run_handler()
            return
        async with self._claimed(due) as ours:
            if ours:
                await self._run_handler()

    @contextlib.asynccontextmanager
    async def _claimed(self, due: float) -> AsyncIterator[bool]:
        """Whether this process may run the fleet's tick; while it does, no other process runs one."""
        token = uuid.uuid4().hex
        tick = f"{{{self._key}}}:{int(due * 1000)}"
        lease = Lease(self._connection, f"{{{self._key}}}:running", token, self.config.lease)
        interval = 60.0 if isinstance(self.config.t, str) else float(self.config.t)
        tick_life = int(max(TICK_LIFE, 2 * interval) * 1000)
        overlap = "1" if self.config.overlap else "0"
        try:
            ours = await self._connection.command(
                "EVAL", _CLAIM, 2, tick, lease.key, token, tick_life, lease.milliseconds, overlap
            )
        except StreamMachineError as error:
            log.warning("Timer %s: the fleet's tick cannot be claimed: %s", self.name, error)
            ours = 0
        if not ours or self.config.overlap:
            yield bool(ours)
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._renew_lease, lease)
            yield True
            tasks.cancel_scope.cancel()
        with contextlib.suppress(StreamMachineError):  # it runs out by itself then
            await lease.release()

    async def _renew_lease(self, lease: Lease) -> None:
        while True:
            await anyio.sleep(self.config.lease / 3)
            try:
                await lease.renew()
            except StreamMachineError as error:
                log.warning("Timer %s: its lease cannot be renewed: %s", self.name, error)

    async def _run_handler(self) -> None:
        self.running += 1
        self.ticks += 1
        began = time.monotonic()
        try:
            await call(self._handler, in_loop=self._async, limiter=self._limiter)
        except BaseException as failure:
            await as_failure(failure)
            self.failures += 1
            log.exception("Timer %s failed; it goes on with its next tick", self.name)
        finally:
            self.running -= 1
            self.took = time.monotonic() - began
