"""ConsumerContext: what the parts of one consumer share, so that none of them needs the consumer itself."""

from __future__ import annotations

from collections import deque

import anyio

from streammachine.redis.connection import RedisConnection
from streammachine.runtime.consumer.settler import Settler
from streammachine.runtime.consumer.work_queue import Bell, WorkQueue
from streammachine.runtime.delivery.group import Delivery, Item
from streammachine.runtime.delivery.slot_state import SlotState, state_key
from streammachine.runtime.delivery.transaction import Committer, hold
from streammachine.runtime.model.config import ConsumerConfig
from streammachine.runtime.model.counters import ConsumerMetrics


class ConsumerContext:
    """What reader, runner, quarantine and maintenance of one consumer share.

    Args:
        config: what the agent declared. topic: the stream. connection: the connection to use.
        consumer: the consumer's name in the group. limiter: bounds the threads of sync handlers.
        committer: runs and commits a transactional handler. owner: the App, whose transactions hold back writes.

    Attributes:
        metrics: its counters. delivery: the Redis side. state: what handlers get as ``message.state``.
        settler: ends items. queue: what is read and not begun.
        taken: what workers have taken and not finished, by identity.
        running: whether ``StreamConsumer.run`` is under way. active: handlers that run now. idle: workers with nothing
            to do.
        held_back: paused by its owner. paused_by_name: paused for every process, in Redis (``presence.py``).
        suspects: what waits to run isolated (``quarantine.py``). suspect: the one of them that was taken out and is not
            finished. isolation: held while a suspect runs, in whichever process.
        exclusive: a suspect runs in this process, or waits for that: nobody else begins anything.
        quiesced: rings when a handler has ended while ``exclusive`` is set.
        read_error, isolation_error: why it cannot read, and why suspects cannot run in a process of their own; "" when
            they can.
        maintenance_errors: the steps of maintenance that fail, and why.
    """

    def __init__(
        self,
        config: ConsumerConfig,
        topic: str,
        connection: RedisConnection,
        consumer: str,
        *,
        limiter: anyio.CapacityLimiter | None = None,
        committer: Committer | None = None,
        owner: object = None,
    ) -> None:
        self.config = config
        self.topic = topic
        self.connection = connection
        self.limiter = limiter
        self.committer = committer
        self.metrics = ConsumerMetrics()
        self.delivery = Delivery(connection, topic, config.group, consumer, lease=config.lease)
        self.stop = self.delivery.stop
        key = state_key(topic, config.group)
        self.state = SlotState(connection, hold=hold(owner, key) if owner is not None else None, key=key)
        self.settler = Settler(config, self.delivery, self.metrics)
        self.queue = WorkQueue(config, topic)
        self.taken: dict[int, Item] = {}
        self.running = False
        self.active = 0
        self.idle = 0
        self.held_back = False
        self.paused_by_name = False
        self.suspects: deque[Item] = deque()
        self.suspect: Item | None = None
        self.isolation = anyio.Lock()
        self.exclusive = False
        self.quiesced = Bell()
        self.read_error = ""
        self.isolation_error = ""
        self.maintenance_errors: dict[str, str] = {}

    @property
    def stopping(self) -> bool:
        """Whether the consumer is to end."""
        return self.stop.is_set()

    @property
    def paused(self) -> bool:
        """Whether it reads nothing new for now. Each kind of pause is ended by whoever began it."""
        return self.held_back or self.paused_by_name

    @property
    def held(self) -> int:
        """Messages read and not finished."""
        return self.delivery.held

    @property
    def last_error(self) -> str:
        """Why it cannot read or finish anything just now; "" when it can."""
        if self.read_error:
            return f"cannot read: {self.read_error}"
        return f"waits: {self.delivery.full}" if self.delivery.full else self.settler.last_error

    async def pause(self, seconds: float) -> None:
        """Sleep, but not beyond the stop."""
        with anyio.move_on_after(seconds):
            await self.stop.wait()

    def strays(self) -> list[Item]:
        """What is held and nobody waits with, runs or acknowledges.

        There is no such thing, unless we have erred: the lease of such a message is renewed for ever
        (``maintenance.give_back_strays`` gives it back).
        """
        if self.stopping or not self.running:
            return []
        known = self.taken.keys() | {id(item) for item in (*self.queue.waiting(), *self.suspects, self.suspect)}
        found = []
        for lane in (self.delivery.main, self.delivery.retry):
            ending = {*lane.acks, *lane.sending}
            found += [item for item in lane.held.values() if id(item) not in known and item.id not in ending]
        return found

    def begin_anew(self) -> None:
        """After a failure: hold nothing; what was held is recovered from the pending list."""
        self.queue.drain()
        self.suspects.clear()
        for lane in (self.delivery.main, self.delivery.retry):
            lane.held.clear()
            lane.acks.clear()
        self.taken.clear()
        self.maintenance_errors.clear()
        self.active = self.idle = 0
        self.exclusive = False
