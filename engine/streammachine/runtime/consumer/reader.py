"""The reader: fills the free slots of one consumer from its stream, and takes over what others dropped.

One task does all that takes messages from Redis, so what is held never exceeds the prefetch.
"""

from __future__ import annotations

import logging
import random
import time

import anyio

from streammachine.backoff import Backoff
from streammachine.errors import (
    RedisAuthError,
    RedisDiskError,
    RedisReadOnlyError,
    RedisUnavailableError,
    StreamMachineError,
)
from streammachine.redis.transport.raw_connection import RawConnection, encode_command
from streammachine.runtime.consumer.context import ConsumerContext
from streammachine.runtime.delivery.group import NoGroupError

log = logging.getLogger(__name__)

SWEEP_PERIOD = 1.0  # seconds between two sweeps, at most; a quarter of the lease where that is shorter
BACKOFF_FIRST, BACKOFF_LAST = 0.05, 5.0  # seconds after a failed read
SLOTS_PERIOD = 1.0  # seconds between two looks for free slots, should no bell ring (a pause that ended)


class Reader:
    """Reads one stream for one consumer.

    Args:
        context: what the consumer's parts share.
    """

    def __init__(self, context: ConsumerContext) -> None:
        self._context = context
        self._delivery = context.delivery
        self._settler = context.settler
        self._metrics = context.metrics
        self._limit = max(context.config.held, 1)
        self._count = context.connection.settings.count
        self._worthwhile = max(1, min(self._count, self._limit) // 2)
        self._period = min(SWEEP_PERIOD, context.config.lease / 4)
        self._client_id: int | None = None

    async def open_group(self) -> None:
        """Create the group unless it is there; waits for a Redis that is away.

        Raises:
            StreamMachineError: Redis refuses, and waiting would not change that.
        """
        backoff = Backoff(BACKOFF_FIRST, BACKOFF_LAST)
        while not self._context.stopping:
            try:
                await self._delivery.open_group(self._context.config.start)
                await self._delivery.open_retry()
            except (RedisAuthError, RedisReadOnlyError, RedisDiskError):
                raise
            except RedisUnavailableError as error:
                self._context.read_error = str(error)
                log.warning("Opening group %r on %r: %s", self._delivery.group, self._delivery.stream, error)
                await self._context.pause(backoff.pause())
            else:
                return

    async def run(self) -> None:
        """Read until the consumer stops."""
        backoff = Backoff(BACKOFF_FIRST, BACKOFF_LAST)
        raw: RawConnection | None = None
        try:
            while not self._context.stopping:
                try:
                    if raw is None or raw.broken:
                        raw = await self._connect()
                    await self._read_or_sweep(raw)
                except NoGroupError as error:
                    if not self._context.stopping:
                        await self._reopen(error)
                except StreamMachineError as error:
                    self._metrics.reconnects += 1
                    self._context.read_error = str(error)
                    log.warning("Reading %r for group %r: %s", self._delivery.stream, self._delivery.group, error)
                    if raw is not None:
                        await raw.aclose()  # a reply that comes late must not be taken for another's
                    raw = None
                    await self._context.pause(backoff.pause())
                else:
                    backoff.reset()
        finally:
            self._client_id = None
            if raw is not None:
                await raw.aclose()

    async def unblock(self) -> None:
        """End a blocking read that is under way."""
        if self._client_id is not None:
            command = encode_command(("CLIENT", "UNBLOCK", self._client_id))
            # On a Cluster at the node that serves the stream: the id is that node's.
            await self._context.connection.exchange(command, 1, key=self._delivery.stream)

    async def _connect(self) -> RawConnection:
        raw = await self._context.connection.open_connection(self._delivery.stream)
        (reply,) = await raw.exchange(b"*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n", 1, 5)
        self._client_id = reply if isinstance(reply, int) else None  # a user without the right waits for a read's end
        self._settler.recover = True  # what a lost reply had brought stands under our name
        self._next_sweep = 0.0
        return raw

    async def _read_or_sweep(self, raw: RawConnection) -> None:
        """One read, or a sweep when its time has come."""
        if self._settler.recover:
            self._settler.recover = False
            try:
                self._context.queue.put(await self._delivery.recover_own())
            except BaseException:
                self._settler.recover = True
                raise
            self._context.read_error = ""
        free = await self._free_slots()
        if not free:
            return
        now = time.monotonic()
        if now >= self._next_sweep:
            self._next_sweep = now + self._period * random.uniform(0.75, 1.25)
            free -= await self._sweep(raw, free)
            if not free:
                return
        block_ms = max(1, int((self._next_sweep - time.monotonic()) * 1000))
        items = await self._delivery.read(raw, min(free, self._count), block_ms)
        self._metrics.polled()
        self._context.read_error = ""
        if items:
            self._context.queue.put(items)

    async def _sweep(self, raw: RawConnection, free: int) -> int:
        """Take over what others dropped and what came back for another try; gives how many."""
        taken = await self._delivery.sweep(free)
        self._metrics.reclaimed += len(taken)
        self._context.queue.put(taken)  # now: the next await may break, and what is held must run
        if not self._delivery.retry_open or free <= len(taken):
            return len(taken)
        again = await self._delivery.read_retries(raw, free - len(taken))
        self._context.queue.put(again)
        return len(taken) + len(again)

    async def _free_slots(self) -> int:
        """Wait until slots are free, as many as are worth a round trip unless a worker has nothing to do."""
        context = self._context
        while not context.stopping:
            if self._settler.group_lost:
                raise NoGroupError("It is gone.")
            free = self._limit - context.held
            may = free > 0 and not context.paused and not context.exclusive
            if may and (free >= self._worthwhile or context.idle):
                return free
            if free < self._worthwhile:
                self._settler.flush_now()
            with anyio.move_on_after(SLOTS_PERIOD):
                await self._settler.slots_available.wait()
        return 0

    async def _reopen(self, error: Exception) -> None:
        """The group is gone: create it again where nothing is skipped. Bounded by a pause, so it never spins."""
        self._metrics.groups_recreated += 1
        log.warning("Group %r on %r: %s It is created again.", self._delivery.group, self._delivery.stream, error)
        self._settler.group_lost = False
        self._settler.recover = True  # should it have been there all the same
        # What waits is read again; what runs is left alone when it comes again.
        for item in self._context.queue.drain():
            self._delivery.drop(item)
        try:
            await self._delivery.reopen_group()
        except StreamMachineError as problem:
            log.warning("Creating group %r on %r: %s", self._delivery.group, self._delivery.stream, problem)
        await self._context.pause(BACKOFF_FIRST)
