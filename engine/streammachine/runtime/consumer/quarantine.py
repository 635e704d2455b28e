"""Messages that may have killed their process run one at a time, each isolated in a process of its own.

Where no other process can import the App (made in a function, a notebook) it runs here, with nothing beside it. Where
one should be able to and is not (its module raises there, a start-up hook fails), it runs here if this process is
itself a supervised child, else it is a dead letter with the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio

from streammachine.backoff import Backoff
from streammachine.errors import StreamMachineError
from streammachine.runtime.consumer.context import ConsumerContext
from streammachine.runtime.consumer.work_queue import Bell
from streammachine.runtime.delivery.group import Item
from streammachine.runtime.processes.isolated import IsolatedRunner, ProcessDied, Unrunnable

log = logging.getLogger(__name__)

SUSPECT_AFTER = 2  # starts without an end
TRIES = 5  # starts of the process that fail before a suspect ends without one
BACKOFF_FIRST, BACKOFF_LAST = 0.5, 4.0  # seconds between two of them
IDLE_LIFE = 30.0  # seconds that the process of suspects waits for another one


class Quarantine:
    """The queue of suspects of one consumer, and who runs them.

    Args:
        context: what the consumer's parts share. handle: runs the handler on begun items, in this process.
        isolated: runs a suspect in a process of its own, where there can be one.
        in_place: what cannot run in a process of its own, though it should, runs here; else it is a dead letter.
    """

    def __init__(
        self,
        context: ConsumerContext,
        handle: Callable[[list[Item]], Awaitable[None]],
        isolated: IsolatedRunner | None,
        *,
        in_place: bool,
    ) -> None:
        self._context = context
        self._handle = handle
        self._isolated = isolated
        self._in_place = in_place
        self._failures = 0  # starts of the process that failed, one after the other
        self._backoff = Backoff(BACKOFF_FIRST, BACKOFF_LAST)
        self._bell = Bell()

    @staticmethod
    def suspects(item: Item) -> bool:
        """Whether the item must run isolated."""
        return not item.begun and item.deliveries >= SUSPECT_AFTER

    def put(self, item: Item) -> None:
        """Queue a suspect."""
        self._context.suspects.append(item)
        self._bell.ring()

    def drain(self) -> list[Item]:
        """Take out what waits."""
        waiting = list(self._context.suspects)
        self._context.suspects.clear()
        return waiting

    def wake(self) -> None:
        """Have ``run`` look whether the consumer stops."""
        self._bell.ring()
        self._context.quiesced.ring()

    async def run(self) -> None:
        """Run the suspects until the consumer stops."""
        context = self._context
        while not context.stopping:
            if context.suspects:
                context.suspect = context.suspects.popleft()
                try:
                    await self.run_item(context.suspect)
                finally:
                    context.suspect = None
                continue
            with anyio.move_on_after(IDLE_LIFE) as idle:
                await self._bell.wait()
            if idle.cancelled_caught and not context.isolation.locked():
                await self.aclose()

    async def aclose(self) -> None:
        """End the process that waits for suspects."""
        if self._isolated is not None:
            await self._isolated.aclose()

    async def run_item(self, item: Item) -> None:
        """Run one suspect to its end. It is a dead letter when it has killed its process here too."""
        context = self._context
        async with context.isolation:
            try:
                if self._isolated is None:
                    await self._run_here(item)
                else:
                    await self._run_isolated(self._isolated, item)
            except StreamMachineError as error:
                log.warning("Running %s of %r alone: %s", item.id.decode(), context.topic, error)
                context.delivery.drop(item)
            finally:
                context.settler.slots_available.ring()

    async def _run_isolated(self, isolated: IsolatedRunner, item: Item) -> None:
        context = self._context
        delivery = context.delivery
        while not context.stopping:
            try:
                await isolated.open(context.topic, delivery.consumer, context.connection.url)
                if not await delivery.begin(item):
                    return
                context.metrics.alone += 1
                item.isolated = True
                death = await isolated.run(context.topic, item.lane.key, item.id, item.deliveries)
            except Unrunnable as error:
                if item.begun:  # that was no start of its handler
                    item.begun, item.deliveries = False, item.deliveries - 1
                if await self._tries_again(item, error):
                    continue
                return
            finally:
                item.isolated = False
            self._failures, context.isolation_error = 0, ""
            self._backoff.reset()
            if death is None:
                delivery.drop(item)  # committed there; what could not be comes when its lease runs out
                return
            # Only a death that was seen is held against it: a parent that was killed says nothing of the message.
            if item.deliveries >= context.config.max_deliveries:
                await context.settler.give_up(item, "max-deliveries", item.deliveries, death)
                return
            item.begun = False
        await delivery.hand_back([item])

    async def _tries_again(self, item: Item, error: Unrunnable) -> bool:
        """After a failed start of the process: whether to try again; what cannot run there at all ends otherwise.

        In place where a death ends only a process that is started again, else as a dead letter.
        """
        context = self._context
        context.isolation_error = str(error)
        log.error("Message %s of %r cannot run alone: %s", item.id.decode(), context.topic, error)
        if not await context.connection.health_check():  # that may be why
            await context.delivery.hand_back([item], at_once=False)
            return False
        self._failures += 1
        if self._failures < TRIES:
            await context.pause(self._backoff.pause())
            return True
        if self._in_place:
            await self._run_here(item)
        else:
            text = f"{error}. Its handler may have ended its process {item.deliveries} times, so it runs nowhere else."
            await context.settler.give_up(item, "unrunnable", item.deliveries, Unrunnable(text))
        return False

    async def _run_here(self, item: Item) -> None:
        context = self._context
        if item.deliveries >= context.config.max_deliveries:
            error = ProcessDied(f"It was started {item.deliveries} times, and no process lived to its end.")
            await context.settler.give_up(item, "max-deliveries", item.deliveries, error)
            return
        context.exclusive = True
        try:
            while context.active and not context.stopping:
                await context.quiesced.wait()
            if context.stopping:
                await context.delivery.hand_back([item])
            elif await context.delivery.begin(item):
                context.metrics.alone += 1
                await self._handle([item])
        finally:
            context.exclusive = False
            context.queue.wake_all()
