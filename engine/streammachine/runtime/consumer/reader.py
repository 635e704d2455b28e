"""The reader: fills the free slots of one consumer from its stream, and takes over what others dropped.

One task does all that takes messages from Redis, so what is held never exceeds the prefetch.
"""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING

import anyio

from streammachine.errors import (
    RedisAuthError,
    RedisDiskError,
    RedisReadOnlyError,
    RedisUnavailableError,
    StreamMachineError,
)
from streammachine.redis.transport.raw_connection import RawConnection, encode_command
from streammachine.runtime.delivery.group import NoGroupError

if TYPE_CHECKING:
    from streammachine.runtime.consumer.consumer import StreamConsumer

log = logging.getLogger(__name__)

SWEEP_PERIOD = 1.0  # seconds between two sweeps, at most; a quarter of the lease where that is shorter
BACKOFF_FIRST, BACKOFF_LAST = 0.05, 5.0  # seconds after a failed read
ROOM_LOOK = 1.0  # seconds between two looks for free slots, should no bell ring (a pause that ended)


class Reader:
    """Reads one stream for one consumer."""

    def __init__(self, consumer: StreamConsumer) -> None:
        self._consumer = consumer
        self._delivery = consumer.delivery
        self._settler = consumer.settler
        self._metrics = consumer.metrics
        self._limit = max(consumer.config.held, 1)
        self._count = consumer.connection.settings.count
        self._worthwhile = max(1, min(self._count, self._limit) // 2)
        self._period = min(SWEEP_PERIOD, consumer.config.lease / 4)
        self._client_id: int | None = None
        self.last_error = ""  # why the last read failed, until one comes back

    async def open_group(self) -> None:
        """Create the group unless it is there; waits for a Redis that is away.

        Raises:
            StreamMachineError: Redis refuses, and waiting would not change that.
        """
        backoff = BACKOFF_FIRST
        while not self._consumer.stopping:
            try:
                await self._delivery.open_group(self._consumer.config.start)
                await self._delivery.open_retry()
            except (RedisAuthError, RedisReadOnlyError, RedisDiskError):
                raise
            except RedisUnavailableError as error:
                self.last_error = str(error)
                log.warning("Opening group %r on %r: %s", self._delivery.group, self._delivery.stream, error)
                await self._consumer.pause(random.uniform(backoff / 2, backoff))
                backoff = min(backoff * 2, BACKOFF_LAST)
            else:
                return

    async def run(self) -> None:
        """Read until the consumer stops."""
        backoff = BACKOFF_FIRST
        road: RawConnection | None = None
        try:
            while not self._consumer.stopping:
                try:
                    if road is None or road.broken:
                        road = await self._connect()
                    await self._turn(road)
                except NoGroupError as error:
                    if not self._consumer.stopping:
                        await self._reopen(error)
                except StreamMachineError as error:
                    self._metrics.reconnects += 1
                    self.last_error = str(error)
                    log.warning("Reading %r for group %r: %s", self._delivery.stream, self._delivery.group, error)
                    if road is not None:
                        await road.aclose()  # a reply that comes late must not be taken for another's
                    road = None
                    await self._consumer.pause(random.uniform(backoff / 2, backoff))
                    backoff = min(backoff * 2, BACKOFF_LAST)
                else:
                    backoff = BACKOFF_FIRST
        finally:
            self._client_id = None
            if road is not None:
                await road.aclose()

    async def unblock(self) -> None:
        """End a blocking read that is under way."""
        if self._client_id is not None:
            command = encode_command(("CLIENT", "UNBLOCK", self._client_id))
            # On a Cluster at the node that serves the stream: the id is that node's.
            await self._consumer.connection.exchange(command, 1, key=self._delivery.stream)

    async def _connect(self) -> RawConnection:
        road = await self._consumer.connection.open_connection(self._delivery.stream)
        (reply,) = await road.exchange(b"*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n", 1, 5)
        self._client_id = reply if isinstance(reply, int) else None  # a user without the right waits for a read's end
        self._settler.recover = True  # what a lost reply had brought stands under our name
        self._next_sweep = 0.0
        return road

    async def _turn(self, road: RawConnection) -> None:
        """One read, or a sweep when its time has come."""
        if self._settler.recover:
            self._settler.recover = False
            try:
                self._consumer.queue.put(await self._delivery.recover_own())
            except BaseException:
                self._settler.recover = True
                raise
            self.last_error = ""
        free = await self._room()
        if not free:
            return
        now = time.monotonic()
        if now >= self._next_sweep:
            self._next_sweep = now + self._period * random.uniform(0.75, 1.25)
            free -= await self._sweep(road, free)
            if not free:
                return
        block_ms = max(1, int((self._next_sweep - time.monotonic()) * 1000))
        items = await self._delivery.read(road, min(free, self._count), block_ms)
        self._metrics.polled()
        self.last_error = ""
        if items:
            self._consumer.queue.put(items)

    async def _sweep(self, road: RawConnection, free: int) -> int:
        """Take over what others dropped and what came back for another try; gives how many."""
        taken = await self._delivery.sweep(free)
        self._metrics.reclaimed += len(taken)
        self._consumer.queue.put(taken)  # now: the next await may break, and what is held must run
        if not self._delivery.retry_open or free <= len(taken):
            return len(taken)
        again = await self._delivery.read_retries(road, free - len(taken))
        self._consumer.queue.put(again)
        return len(taken) + len(again)

    async def _room(self) -> int:
        """Wait until slots are free, as many as are worth a round trip unless a worker has nothing to do."""
        consumer = self._consumer
        while not consumer.stopping:
            if self._settler.group_lost:
                raise NoGroupError("It is gone.")
            free = self._limit - consumer.held
            may = free > 0 and not consumer.paused and not consumer.quarantine.quiet
            if may and (free >= self._worthwhile or consumer.idle):
                return free
            if free < self._worthwhile:
                self._settler.flush_now()
            with anyio.move_on_after(ROOM_LOOK):
                await self._settler.slots_available.wait()
        return 0

    async def _reopen(self, error: Exception) -> None:
        """The group is gone: create it again where nothing is skipped. Bounded by a pause, so it never spins."""
        self._metrics.groups_recreated += 1
        log.warning("Group %r on %r: %s It is created again.", self._delivery.group, self._delivery.stream, error)
        self._settler.group_lost = False
        self._settler.recover = True  # should it have been there all the same
        # What waits is read again; what runs is left alone when it comes again.
        for item in self._consumer.queue.drain():
            self._delivery.drop(item)
        try:
            await self._delivery.reopen_group()
        except StreamMachineError as problem:
            log.warning("Creating group %r on %r: %s", self._delivery.group, self._delivery.stream, problem)
        await self._consumer.pause(BACKOFF_FIRST)
