"""Messages that may have killed their process run one at a time, each in a process of its own.

Where no other process can import the App (made in a function, a notebook) it runs here, with nothing beside it.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

import anyio

from streammachine.errors import StreamMachineError
from streammachine.runtime.alone import ProcessDied, Unrunnable
from streammachine.runtime.delivery import Item
from streammachine.runtime.queues import Bell

if TYPE_CHECKING:
    from streammachine.runtime.alone import AloneRunner
    from streammachine.runtime.consumer import StreamConsumer

log = logging.getLogger(__name__)

SUSPECT_AFTER = 2  # starts without an end
LINGER = 30.0  # seconds that the process of suspects waits for another one


class Quarantine:
    """The lane for suspects of one consumer.

    Attributes:
        quiet: a suspect runs here, or waits for it: nobody else begins anything.
    """

    def __init__(self, consumer: StreamConsumer, runner: AloneRunner | None) -> None:
        self._consumer = consumer
        self._runner = runner
        self._waiting: deque[Item] = deque()
        self._next: list[Item] = []  # taken out, and not finished
        self._bell = Bell()
        self._lane = anyio.Lock()
        self.quiet = False
        self.calm = Bell()  # rings when a worker has finished something while it is quiet

    @property
    def busy(self) -> bool:
        """Whether a suspect runs."""
        return self._lane.locked()

    @staticmethod
    def suspects(item: Item) -> bool:
        """Whether the item must run alone."""
        return not item.begun and item.deliveries >= SUSPECT_AFTER

    def put(self, item: Item) -> None:
        """Queue a suspect."""
        self._waiting.append(item)
        self._bell.ring()

    def items(self) -> list[Item]:
        """What waits, and what runs of it."""
        return [*self._waiting, *self._next]

    def drain(self) -> list[Item]:
        """Take out what waits."""
        waiting = list(self._waiting)
        self._waiting.clear()
        return waiting

    def wake(self) -> None:
        """Have ``run`` look whether the consumer stops."""
        self._bell.ring()
        self.calm.ring()

    async def run(self) -> None:
        """Run the suspects until the consumer stops."""
        while not self._consumer.stopping:
            if self._waiting:
                self._next = [self._waiting.popleft()]
                try:
                    await self.run_item(self._next[0])
                finally:
                    self._next = []
                continue
            with anyio.move_on_after(LINGER) as idle:
                await self._bell.wait()
            if idle.cancelled_caught and not self.busy:
                await self.aclose()

    async def aclose(self) -> None:
        """End the process that waits for suspects."""
        if self._runner is not None:
            await self._runner.aclose()

    async def run_item(self, item: Item) -> None:
        """Run one suspect to its end. It is a dead letter when it has killed its process here too."""
        consumer = self._consumer
        async with self._lane:
            try:
                if self._runner is None:
                    await self._run_here(item)
                else:
                    await self._run_apart(self._runner, item)
            except StreamMachineError as error:
                log.warning("Running %s of %r alone: %s", item.id.decode(), consumer.topic, error)
                consumer.delivery.drop(item)
            finally:
                consumer.settler.freed.ring()

    async def _run_apart(self, runner: AloneRunner, item: Item) -> None:
        consumer = self._consumer
        while not consumer.stopping:
            if not await consumer.delivery.begin(item):
                return
            consumer.metrics.alone += 1
            item.apart = True
            try:
                death = await runner.run(consumer, item)
            except Unrunnable as error:
                log.error("Message %s of %r: %s", item.id.decode(), consumer.topic, error)
                await consumer.delivery.hand_back([item], at_once=False)
                return
            finally:
                item.apart = False
            if death is None:
                consumer.delivery.drop(item)  # committed there; what could not be comes when its lease runs out
                return
            # Only a death that was seen is held against it: a parent that was killed says nothing of the message.
            if item.deliveries >= consumer.config.max_deliveries:
                await consumer.settler.give_up(item, "max-deliveries", item.deliveries, death)
                return
            item.begun = False
        await consumer.delivery.hand_back([item])

    async def _run_here(self, item: Item) -> None:
        consumer = self._consumer
        if item.deliveries >= consumer.config.max_deliveries:
            error = ProcessDied(f"It was started {item.deliveries} times, and no process lived to its end.")
            await consumer.settler.give_up(item, "max-deliveries", item.deliveries, error)
            return
        self.quiet = True
        try:
            while consumer.active and not consumer.stopping:
                await self.calm.wait()
            if consumer.stopping:
                await consumer.delivery.hand_back([item])
            elif await consumer.delivery.begin(item):
                consumer.metrics.alone += 1
                await consumer.handle([item])
        finally:
            self.quiet = False
            consumer.queue.wake_all()
