"""How items end: acknowledged in bulk, committed with effects, delayed, or given up."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio

from streammachine.errors import RedisAuthError, RedisFullError, RedisUnavailableError, StreamMachineError, text_of
from streammachine.runtime.consumer.work_queue import Bell
from streammachine.runtime.delivery.dead_letter import move_to_dead_letters
from streammachine.runtime.delivery.group import Delivery, Guard, Item, LostError, NoRoomError, UncommittedError
from streammachine.runtime.model.config import ConsumerConfig
from streammachine.runtime.model.counters import ConsumerMetrics

log = logging.getLogger(__name__)

ACK_EVERY = 100  # acknowledgements collected before they are sent, where the prefetch is not larger
ACK_DELAY = 0.005  # seconds an acknowledgement waits for others
ACK_BACKOFF = 0.2  # seconds before acknowledgements that could not be sent are sent again


class Settler:
    """Ends the items of one consumer. ``run`` sends the collected acknowledgements.

    Args:
        config: what the agent declared. delivery: the Redis side. metrics: the consumer's counters.

    Attributes:
        slots_available: rings when slots have become free. recover: entries may stand in the pending list under our
            name that are not held here; the reader looks for them. group_lost: the group is gone; the reader creates
            it again.
        last_error: what Redis refuses that only somebody can mend (a right that is missing); "" once it is taken.
    """

    def __init__(self, config: ConsumerConfig, delivery: Delivery, metrics: ConsumerMetrics) -> None:
        self._config = config
        self._delivery = delivery
        self._metrics = metrics
        self._flush_at = max(ACK_EVERY, config.held // 4)
        self._bell = Bell()
        self._flush_asked = False
        self._closed = False
        self.slots_available = Bell()
        self.recover = False
        self.group_lost = False
        self.last_error = ""

    @property
    def collected(self) -> int:
        """Acknowledgements not sent yet."""
        return len(self._delivery.main.acks) + len(self._delivery.retry.acks)

    def acknowledge(self, item: Item) -> None:
        """Acknowledge the item with the next ones: after ACK_DELAY at most."""
        acks = item.lane.acks
        acks.append(item.id)
        if len(acks) == 1 or len(acks) == self._flush_at:
            self._bell.ring()

    def flush_now(self) -> None:
        """Send at once what is collected: the slots are needed."""
        if self.collected:
            self._flush_asked = True
            self._bell.ring()

    def close(self) -> None:
        """Nothing more comes: ``run`` sends the rest and ends."""
        self._closed = True
        self._bell.ring()

    async def run(self) -> None:
        """Send the collected acknowledgements until closed."""
        self._closed = self._flush_asked = False
        while True:
            if not self.collected:
                if self._closed:
                    return
                await self._bell.wait()
                continue
            with anyio.move_on_after(ACK_DELAY):
                while self.collected < self._flush_at and not self._flush_asked and not self._closed:
                    await self._bell.wait()
            self._flush_asked = False
            try:
                await self._delivery.flush()
            except StreamMachineError as error:
                if not _is_away(error) and self.last_error != f"cannot acknowledge: {error}":
                    self.last_error = f"cannot acknowledge: {error}"
                    log.error("Acknowledging in %r: %s; trying again", self._delivery.stream, error)
                elif not self.last_error:
                    log.warning("Acknowledging in %r: %s; trying again", self._delivery.stream, error)
                await anyio.sleep(ACK_BACKOFF)
            else:
                self.last_error = ""
                self.slots_available.ring()

    def committed(self) -> None:
        """Redis has taken a commit: slots are free, and nothing is refused any more."""
        self.last_error = ""
        self.slots_available.ring()

    async def commit(self, item: Item, guard: Guard | None) -> bool:
        """Acknowledge the item now and set its guard.

        Returns:
            False when it was lost, Redis is away, or the guard was there.
        """
        done = False

        async def commit() -> None:
            nonlocal done
            done = await self._delivery.commit([item], guard=guard)

        return await self.settle(commit, item) and done

    async def delay(self, item: Item, seconds: float, attempts: int) -> None:
        """Have the group try the item again after ``seconds``."""
        await self.settle(lambda: self._delivery.delay(item, seconds, attempts), item)

    async def give_up(self, item: Item, reason: str, attempts: int, error: BaseException | None) -> None:
        """Make the item a dead letter; drop it where the agent wants none.

        Args:
            reason: why, in one word. attempts: how often it was tried. error: what the last attempt failed with.
        """
        log.error(
            "%r in group %r: message %s is given up after %d attempts (%s): %s",
            self._delivery.stream, self._delivery.group, item.id.decode(), attempts, reason, text_of(error),
        )  # fmt: skip
        if not self._config.dead_letter:
            self._metrics.dead += 1
            self.acknowledge(item)
            return
        maxlen = self._config.dead_letter_maxlen

        async def move() -> None:
            await move_to_dead_letters(self._delivery, item, reason, attempts, error, maxlen=maxlen)

        if await self.settle(move, item):
            self._metrics.dead += 1

    async def settle(self, commit: Callable[[], Awaitable[Any]], item: Item) -> bool:
        """Await a commit, as soon as Redis takes it.

        Args:
            commit: does it. item: what it ends.

        Returns:
            False when somebody else had finished the item, or when it was not done.
        """
        try:
            while True:
                try:
                    await commit()
                    break
                except (NoRoomError, RedisFullError) as error:
                    if not await self._delivery.wait_for_room(error):
                        raise
        except LostError:
            self._metrics.lost += 1
            return False
        except StreamMachineError as error:
            self.uncommitted([item], error)
            return False
        finally:
            self.slots_available.ring()
        self.last_error = ""
        return True

    def uncommitted(self, items: Sequence[Item], error: StreamMachineError) -> None:
        """Let go of items whose commit failed; what is still pending is given out again."""
        away = _is_away(error)
        log.log(
            logging.WARNING if away else logging.ERROR,
            "Committing %d messages of %r: %s; they come again", len(items), self._delivery.stream, error,
        )  # fmt: skip
        for item in items:
            self._delivery.forgive_start(item)
        if away:
            self.recover = True
        else:
            self.last_error = f"cannot commit: {error}"
        self.slots_available.ring()


def _is_away(error: StreamMachineError) -> bool:
    """Whether Redis did not take it because it is away or has no room, which passes by itself."""
    if isinstance(error, RedisAuthError):
        return False
    return isinstance(error, (UncommittedError, RedisUnavailableError, NoRoomError, RedisFullError))
