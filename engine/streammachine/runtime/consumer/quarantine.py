"""Messages that may have killed their process run one at a time, each in a process of its own.

Where no other process can import the App (made in a function, a notebook) it runs here, with nothing beside it. Where
one should be able to and is not (its module raises there, a start-up hook fails), it runs here if this process is
itself a supervised child, else it is a dead letter with the reason.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

import anyio

from streammachine.errors import StreamMachineError
from streammachine.runtime.consumer.work_queue import Bell
from streammachine.runtime.delivery.group import Item
from streammachine.runtime.processes.isolated import ProcessDied, Unrunnable

if TYPE_CHECKING:
    from streammachine.runtime.consumer.consumer import StreamConsumer
    from streammachine.runtime.processes.isolated import IsolatedRunner

log = logging.getLogger(__name__)

SUSPECT_AFTER = 2  # starts without an end
TRIES = 5  # starts of the process that fail before a suspect ends without one
BACKOFF = 0.5  # seconds between the first two of them; doubled each time
LINGER = 30.0  # seconds that the process of suspects waits for another one


class Quarantine:
    """The lane for suspects of one consumer.

    Args:
        in_place: what cannot run in a process of its own, though it should, runs here; else it is a dead letter.

    Attributes:
        quiet: a suspect runs here, or waits for it: nobody else begins anything.
        problem: why suspects cannot run in a process of their own; "" when they can.
    """

    def __init__(self, consumer: StreamConsumer, runner: IsolatedRunner | None, *, in_place: bool) -> None:
        self._consumer = consumer
        self._runner = runner
        self._in_place = in_place
        self._failures = 0  # starts of the process that failed, one after the other
        self._waiting: deque[Item] = deque()
        self._next: list[Item] = []  # taken out, and not finished
        self._bell = Bell()
        self._lane = anyio.Lock()
        self.quiet = False
        self.problem = ""
        self.quiesced = Bell()  # rings when a worker has finished something while it is quiet

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
        self.quiesced.ring()

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
                consumer.settler.slots_available.ring()

    async def _run_apart(self, runner: IsolatedRunner, item: Item) -> None:
        consumer = self._consumer
        while not consumer.stopping:
            try:
                await runner.open(consumer)
                if not await consumer.delivery.begin(item):
                    return
                consumer.metrics.alone += 1
                item.apart = True
                death = await runner.run(consumer, item)
            except Unrunnable as error:
                if item.begun:  # that was no start of its handler
                    item.begun, item.deliveries = False, item.deliveries - 1
                if await self._tries_again(item, error):
                    continue
                return
            finally:
                item.apart = False
            self._failures, self.problem = 0, ""
            if death is None:
                consumer.delivery.drop(item)  # committed there; what could not be comes when its lease runs out
                return
            # Only a death that was seen is held against it: a parent that was killed says nothing of the message.
            if item.deliveries >= consumer.config.max_deliveries:
                await consumer.settler.give_up(item, "max-deliveries", item.deliveries, death)
                return
            item.begun = False
        await consumer.delivery.hand_back([item])

    async def _tries_again(self, item: Item, error: Unrunnable) -> bool:
        """After a failed start of the process: whether to try again; what cannot run there at all ends otherwise.

        In place where a death ends only a process that is started again, else as a dead letter.
        """
        consumer = self._consumer
        self.problem = str(error)
        log.error("Message %s of %r cannot run alone: %s", item.id.decode(), consumer.topic, error)
        if not await consumer.connection.health_check():  # that may be why
            await consumer.delivery.hand_back([item], at_once=False)
            return False
        self._failures += 1
        if self._failures < TRIES:
            await consumer.pause(BACKOFF * 2 ** (self._failures - 1))
            return True
        if self._in_place:
            await self._run_here(item)
        else:
            text = f"{error}. Its handler may have ended its process {item.deliveries} times, so it runs nowhere else."
            await consumer.settler.give_up(item, "unrunnable", item.deliveries, Unrunnable(text))
        return False

    async def _run_here(self, item: Item) -> None:
        consumer = self._consumer
        if item.deliveries >= consumer.config.max_deliveries:
            error = ProcessDied(f"It was started {item.deliveries} times, and no process lived to its end.")
            await consumer.settler.give_up(item, "max-deliveries", item.deliveries, error)
            return
        self.quiet = True
        try:
            while consumer.active and not consumer.stopping:
                await self.quiesced.wait()
            if consumer.stopping:
                await consumer.delivery.hand_back([item])
            elif await consumer.delivery.begin(item):
                consumer.metrics.alone += 1
                await consumer.handle([item])
        finally:
            self.quiet = False
            consumer.queue.wake_all()
