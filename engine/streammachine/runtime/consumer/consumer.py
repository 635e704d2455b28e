"""StreamConsumer: one agent on one stream, from reading to acknowledging.

Its tasks share what is held: the reader fills the free slots (``reading.py``), the workers run the handler
(``running.py``), suspects run alone (``quarantine.py``), the settler sends acknowledgements and commits
(``settling.py``), and two more renew the lease and move what is due (``tending.py``). They end in that order, the
keeper
of the lease last: until an entry is finished or handed back nobody else may take it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import anyio.lowlevel

from streammachine.errors import SettingsError, StreamMachineError
from streammachine.runtime.consumer.facts import consumer_facts
from streammachine.runtime.consumer.maintenance import keep_lease, maintain
from streammachine.runtime.consumer.quarantine import Quarantine
from streammachine.runtime.consumer.reader import Reader
from streammachine.runtime.consumer.runner import Runner
from streammachine.runtime.consumer.settler import Settler
from streammachine.runtime.consumer.work_queue import WorkQueue
from streammachine.runtime.delivery.group import Delivery, Item
from streammachine.runtime.delivery.slot_state import SlotState, state_key
from streammachine.runtime.delivery.transaction import Committer, hold
from streammachine.runtime.model.config import ConsumerConfig
from streammachine.runtime.model.counters import ConsumerMetrics
from streammachine.runtime.model.message import MessageBatch

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection
    from streammachine.runtime.processes.isolated import IsolatedRunner

__all__ = ["MessageBatch", "StreamConsumer"]

log = logging.getLogger(__name__)

PART_TIME = 5.0  # seconds for handing back and the last acknowledgements at the end
YIELD_EVERY = 100  # messages handled before the other tasks get a turn, even if no handler waits


class StreamConsumer:
    """Consumes one stream for one group. ``App`` makes one per agent and stream; ``run`` it in a task group.

    Args:
        config: what the agent declared.
        handler: the handler; sync ones run in a thread.
        connection: the connection to use. topic: the stream, where ``config`` names several.
        consumer: this consumer's name in the group. limiter: bounds the threads of sync handlers.
        alone: runs what may have killed its process in one of its own; in_place: what it cannot run may run here.
        committer: runs and commits the handler of a transactional agent (``transaction.py``); owner: its App.

    Attributes:
        paused: set it to stop reading; what is held is finished.
    """

    def __init__(
        self,
        config: ConsumerConfig,
        handler: Callable[..., Any],
        *,
        connection: RedisConnection,
        topic: str | None = None,
        consumer: str = "streammachine",
        limiter: anyio.CapacityLimiter | None = None,
        alone: IsolatedRunner | None = None,
        in_place: bool = False,
        committer: Committer | None = None,
        owner: object = None,
    ) -> None:
        if topic is None and len(config.topics) > 1:
            raise SettingsError("A consumer reads one stream; say which of the agent's with topic=.")
        self.config = config
        self.topic = topic if topic is not None else config.topics[0]
        self.connection = connection
        self.limiter = limiter
        self.committer = committer
        self.metrics = ConsumerMetrics()
        self.delivery = Delivery(connection, self.topic, config.group, consumer, lease=config.lease)
        key = state_key(self.topic, config.group)
        self.state = SlotState(connection, hold=hold(owner, key) if owner is not None else None, key=key)
        self.settler = Settler(config, self.delivery, self.metrics)
        self.queue = WorkQueue(config, self.topic)
        self.quarantine = Quarantine(self, alone, in_place=in_place)
        self.held_back = False  # paused by its owner
        self.paused_by_name = False  # paused for every process, in Redis (presence.py)
        self.running = False  # whether run() is under way
        self.active = 0  # handlers that run now
        self.upkeep: dict[str, str] = {}  # what fails beside the messages (tending.py), and why
        self._taken: dict[int, Item] = {}  # what workers have taken and not finished, by identity
        self.idle = 0  # workers with nothing to do
        self._reader = Reader(self)
        self._runner = Runner(self, handler)
        self._stop = self.delivery.stop

    @property
    def stopping(self) -> bool:
        """Whether ``drain`` was called."""
        return self._stop.is_set()

    @property
    def paused(self) -> bool:
        """Whether it reads nothing new for now. Each kind of pause is ended by whoever began it."""
        return self.held_back or self.paused_by_name

    @property
    def last_error(self) -> str:
        """Why it cannot read or finish anything just now; "" when it can."""
        if self._reader.last_error:
            return f"cannot read: {self._reader.last_error}"
        return f"waits: {self.delivery.full}" if self.delivery.full else self.settler.last_error

    @property
    def held(self) -> int:
        """Messages read and not finished."""
        return self.delivery.held

    def strays(self) -> list[Item]:
        """What is held and nobody waits with, runs or acknowledges. There is no such thing, unless we have erred: the
        lease of such a message is renewed for ever (``keep_lease`` gives it back)."""
        if self.stopping or not self.running:
            return []
        known = self._taken.keys() | {id(item) for item in self.queue.waiting() + self.quarantine.items()}
        found = []
        for lane in (self.delivery.main, self.delivery.retry):
            ending = {*lane.acks, *lane.sending}
            found += [item for item in lane.held.values() if id(item) not in known and item.id not in ending]
        return found

    def facts(self, agent: str) -> dict[str, Any]:
        """How it is, under its agent's name."""
        return consumer_facts(agent, self)

    # -- life cycle ---------------------------------------------------------------------------

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Consume until ``drain`` has ended; started once the group exists. May be called again when it failed."""
        self._begin_anew()
        await self._reader.open_group()
        self.running = True
        try:
            async with anyio.create_task_group() as keepers:
                keepers.start_soon(keep_lease, self)
                try:
                    async with anyio.create_task_group() as helpers:
                        helpers.start_soon(self.settler.run)
                        helpers.start_soon(maintain, self)
                        async with anyio.create_task_group() as workers:
                            workers.start_soon(self._reader.run)
                            workers.start_soon(self.quarantine.run)
                            for number in range(self.config.concurrency):
                                workers.start_soon(self._work, number if self.config.key is not None else 0)
                            task_status.started()
                        self.settler.close()
                finally:
                    with anyio.CancelScope(shield=True), anyio.move_on_after(PART_TIME):
                        await self.quarantine.aclose()
                        await self._part()
                keepers.cancel_scope.cancel()
        finally:
            self.running = False

    async def run_one(self, item: Item) -> None:
        """Run one entry that somebody else holds (a message alone in its process), to its commit."""
        item.lane.held[item.id] = item
        await self.handle([item])
        await self.delivery.flush()

    async def drain(self) -> None:
        """Stop reading; the workers finish what they run, the rest is handed back. ``run`` returns then."""
        self._stop.set()
        waiting = self._take_waiting()
        self.queue.wake_all()
        self.quarantine.wake()
        self.settler.slots_available.ring()
        try:
            await self._reader.unblock()  # else the read ends by itself within a second
            await self.delivery.hand_back(waiting)
        except StreamMachineError as error:
            log.warning("Handing back messages of %r: %s; the lease gives them back", self.topic, error)

    async def pause(self, seconds: float) -> None:
        """Sleep, but not beyond the stop."""
        with anyio.move_on_after(seconds):
            await self._stop.wait()

    # -- workers ------------------------------------------------------------------------------

    async def _work(self, number: int) -> None:
        lane, bell = self.queue.lanes[number], self.queue.bells[number]
        handled = 0
        while not self.stopping:
            if not lane or self.quarantine.quiet:
                self.idle += 1
                self.settler.slots_available.ring()
                try:
                    await bell.wait()
                finally:
                    self.idle -= 1
                handled = 0
                continue
            if self.config.batch is not None:
                await self._fill(number)
                if self.quarantine.quiet:
                    continue
                items = [lane.popleft() for _ in range(min(self.config.batch.size, len(lane)))]
            else:
                items = [lane.popleft()]
            await self._take(items)
            handled += 1
            if handled >= YIELD_EVERY:
                handled = 0
                await anyio.lowlevel.checkpoint()

    async def _fill(self, number: int) -> None:
        """Wait for the batch to fill, as long as the agent allows."""
        batch = self.config.batch
        assert batch is not None
        lane, bell = self.queue.lanes[number], self.queue.bells[number]
        if not batch.within or len(lane) >= batch.size:
            return
        self.idle += 1
        self.settler.slots_available.ring()
        try:
            with anyio.move_on_after(batch.within):
                while len(lane) < batch.size and not self.stopping:
                    await bell.wait()
        finally:
            self.idle -= 1

    async def _take(self, items: list[Item]) -> None:
        """Run what a worker took; what must run alone, does."""
        taken = {id(item): item for item in items}
        self._taken |= taken
        try:
            await self._run(items)
        finally:
            for each in taken:
                del self._taken[each]

    async def _run(self, items: list[Item]) -> None:
        ready = []
        for item in items:
            if item.lost:
                continue
            if item.begun:
                ready.append(item)
            elif not self.quarantine.suspects(item):
                if await self._begin(item):
                    ready.append(item)
            elif self.config.key is not None:
                await self.quarantine.run_item(item)  # its lane waits, for the order
            else:
                self.quarantine.put(item)
        if ready:
            await self.handle(ready)

    async def _begin(self, item: Item) -> bool:
        try:
            return await self.delivery.begin(item)
        except StreamMachineError as error:
            self.settler.uncommitted([item], error)
            return False

    async def handle(self, items: list[Item]) -> None:
        """Run the handler on begun items."""
        self.active += 1
        try:
            await self._runner.run(items)
        finally:
            self.active -= 1
            if self.quarantine.quiet:
                self.quarantine.quiesced.ring()

    # -- details ------------------------------------------------------------------------------

    def _begin_anew(self) -> None:
        """After a failure: what was held is recovered from the pending list."""
        self._take_waiting()
        for lane in (self.delivery.main, self.delivery.retry):
            lane.held.clear()
            lane.acks.clear()
        self._taken.clear()
        self.upkeep.clear()
        self.active = self.idle = 0
        self.quarantine.quiet = False

    async def _part(self) -> None:
        """Send the last acknowledgements, hand back what is not finished, leave no consumer behind."""
        waiting = {id(item) for item in self._take_waiting()}
        try:
            await self.delivery.flush()
            left = [item for lane in (self.delivery.main, self.delivery.retry) for item in lane.held.values()]
            for item in left:
                if id(item) not in waiting:
                    item.begun = False  # it was cancelled while it ran: that start counts
            await self.delivery.hand_back(left)
            await self.delivery.leave()
        except StreamMachineError as error:
            log.warning(
                "Leaving group %r on %r: %s; the lease gives the rest back", self.config.group, self.topic, error
            )

    def _take_waiting(self) -> list[Item]:
        return self.queue.drain() + self.quarantine.drain()
