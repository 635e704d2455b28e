"""StreamConsumer: one agent on one stream, from reading to acknowledging.

Its tasks share a ``ConsumerContext`` (``context.py``): the reader fills the free slots (``reader.py``), the workers run
the handler (``runner.py``), suspects run isolated (``quarantine.py``), the settler sends acknowledgements and commits
(``settler.py``), and two more renew the lease and move what is due (``maintenance.py``). They end in that order, the
keeper of the lease last: until an entry is finished or handed back nobody else may take it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import anyio.lowlevel

from streammachine.errors import SettingsError, StreamMachineError
from streammachine.runtime.consumer.context import ConsumerContext
from streammachine.runtime.consumer.facts import consumer_facts
from streammachine.runtime.consumer.maintenance import keep_lease, maintain
from streammachine.runtime.consumer.quarantine import Quarantine
from streammachine.runtime.consumer.reader import Reader
from streammachine.runtime.consumer.runner import HandlerRunner
from streammachine.runtime.delivery.group import Item
from streammachine.runtime.delivery.transaction import Committer
from streammachine.runtime.model.config import ConsumerConfig

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection
    from streammachine.runtime.processes.isolated import IsolatedRunner

log = logging.getLogger(__name__)

LEAVE_TIME = 5.0  # seconds for handing back and the last acknowledgements at the end
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
        context: what its parts share. config, topic, connection, metrics, delivery, settler, queue: as there.

    Raises:
        SettingsError: ``config`` names several streams, and ``topic`` none of them.
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
        self.context = ConsumerContext(
            config, self.topic, connection, consumer, limiter=limiter, committer=committer, owner=owner
        )
        self.metrics = self.context.metrics
        self.delivery = self.context.delivery
        self.settler = self.context.settler
        self.queue = self.context.queue
        self._reader = Reader(self.context)
        self._runner = HandlerRunner(self.context, handler)
        self._quarantine = Quarantine(self.context, self._runner.run, alone, in_place=in_place)

    @property
    def running(self) -> bool:
        """Whether ``run`` is under way."""
        return self.context.running

    @property
    def active(self) -> int:
        """Handlers that run now."""
        return self.context.active

    @property
    def held(self) -> int:
        """Messages read and not finished."""
        return self.context.held

    @property
    def stopping(self) -> bool:
        """Whether ``drain`` was called."""
        return self.context.stopping

    @property
    def paused(self) -> bool:
        """Whether it reads nothing new for now; what is held is finished all the same."""
        return self.context.paused

    @property
    def held_back(self) -> bool:
        """Whether its owner has paused it; set it to pause and to resume."""
        return self.context.held_back

    @held_back.setter
    def held_back(self, value: bool) -> None:
        self.context.held_back = value

    @property
    def paused_by_name(self) -> bool:
        """Whether its agent is paused for every process, in Redis; ``presence.py`` sets it."""
        return self.context.paused_by_name

    @paused_by_name.setter
    def paused_by_name(self, value: bool) -> None:
        self.context.paused_by_name = value

    @property
    def last_error(self) -> str:
        """Why it cannot read or finish anything just now; "" when it can."""
        return self.context.last_error

    def facts(self, agent: str) -> dict[str, Any]:
        """How it is, under its agent's name (see ``consumer_facts``)."""
        return consumer_facts(agent, self.context)

    # -- life cycle ---------------------------------------------------------------------------

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Consume until ``drain`` has ended; started once the group exists. May be called again when it failed."""
        self.context.begin_anew()
        await self._reader.open_group()
        self.context.running = True
        try:
            async with anyio.create_task_group() as keepers:
                keepers.start_soon(keep_lease, self.context)
                try:
                    async with anyio.create_task_group() as helpers:
                        helpers.start_soon(self.settler.run)
                        helpers.start_soon(maintain, self.context)
                        async with anyio.create_task_group() as workers:
                            workers.start_soon(self._reader.run)
                            workers.start_soon(self._quarantine.run)
                            for number in range(self.config.concurrency):
                                workers.start_soon(self._work, number if self.config.key is not None else 0)
                            task_status.started()
                        self.settler.close()
                finally:
                    with anyio.CancelScope(shield=True), anyio.move_on_after(LEAVE_TIME):
                        await self._quarantine.aclose()
                        await self._leave()
                keepers.cancel_scope.cancel()
        finally:
            self.context.running = False

    async def run_one(self, item: Item) -> None:
        """Run one entry that another process holds (this one isolates it), to its commit."""
        item.lane.held[item.id] = item
        await self._runner.run([item])
        await self.delivery.flush()

    async def drain(self) -> None:
        """Stop reading; the workers finish what they run, the rest is handed back. ``run`` returns then."""
        self.context.stop.set()
        waiting = self._take_waiting()
        self.queue.wake_all()
        self._quarantine.wake()
        self.settler.slots_available.ring()
        try:
            await self._reader.unblock()  # else the read ends by itself within a second
            await self.delivery.hand_back(waiting)
        except StreamMachineError as error:
            log.warning("Handing back messages of %r: %s; the lease gives them back", self.topic, error)

    # -- workers ------------------------------------------------------------------------------

    async def _work(self, number: int) -> None:
        context = self.context
        lane, bell = self.queue.lanes[number], self.queue.bells[number]
        handled = 0
        while not context.stopping:
            if not lane or context.exclusive:
                context.idle += 1
                self.settler.slots_available.ring()
                try:
                    await bell.wait()
                finally:
                    context.idle -= 1
                handled = 0
                continue
            if self.config.batch is not None:
                await self._fill(number)
                if context.exclusive:
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
        context, batch = self.context, self.config.batch
        assert batch is not None
        lane, bell = self.queue.lanes[number], self.queue.bells[number]
        if not batch.within or len(lane) >= batch.size:
            return
        context.idle += 1
        self.settler.slots_available.ring()
        try:
            with anyio.move_on_after(batch.within):
                while len(lane) < batch.size and not context.stopping:
                    await bell.wait()
        finally:
            context.idle -= 1

    async def _take(self, items: list[Item]) -> None:
        """Run what a worker took; what must run isolated, does."""
        known = self.context.taken
        taken = {id(item): item for item in items}
        known.update(taken)
        try:
            await self._run(items)
        finally:
            for each in taken:
                del known[each]

    async def _run(self, items: list[Item]) -> None:
        ready = []
        for item in items:
            if item.lost:
                continue
            if item.begun:
                ready.append(item)
            elif not self._quarantine.suspects(item):
                if await self._begin(item):
                    ready.append(item)
            elif self.config.key is not None:
                await self._quarantine.run_item(item)  # its lane waits, for the order
            else:
                self._quarantine.put(item)
        if ready:
            await self._runner.run(ready)

    async def _begin(self, item: Item) -> bool:
        try:
            return await self.delivery.begin(item)
        except StreamMachineError as error:
            self.settler.uncommitted([item], error)
            return False

    # -- details ------------------------------------------------------------------------------

    async def _leave(self) -> None:
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
        return self.queue.drain() + self._quarantine.drain()
