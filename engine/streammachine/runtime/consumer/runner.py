"""Running the handler: one message or a batch, under its timeout, and what follows from how it ends."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Any

import anyio

from streammachine.errors import (
    RedisAuthError,
    RedisDiskError,
    RedisFullError,
    RedisReadOnlyError,
    RedisTimeoutError,
    RedisUnavailableError,
    StreamMachineError,
    text_of,
)
from streammachine.runtime.consumer.context import ConsumerContext
from streammachine.runtime.consumer.messages import message_of
from streammachine.runtime.delivery.group import MOST_ARGUMENTS, Guard, Item, LostError, NoRoomError, UncommittedError
from streammachine.runtime.delivery.keys import dedup_key
from streammachine.runtime.handlers import as_failure, call, finish, is_async
from streammachine.runtime.model.message import Message, MessageBatch
from streammachine.runtime.model.retry import HandlerTimeoutError, Reject, Retry, Skip, Unfit

log = logging.getLogger(__name__)

IN_PLACE = 5.0  # longest retry wait slept in place (never more than half the lease)
MOST_FIELDS = MOST_ARGUMENTS // 2 - 10  # of a message that a script can pass on, with ours
MOST_BREAKS = 20  # broken connections that one message's attempts may meet and that are not held against it
BREAK_PAUSE = 0.2  # seconds after one of them, at most
REDIS_AWAY_PAUSE = 1.0  # seconds between two looks for a Redis that was away when a handler failed


class HandlerRunner:
    """Runs one consumer's handler.

    Args:
        context: what the consumer's parts share. handler: the handler; sync ones run in a thread.
    """

    def __init__(self, context: ConsumerContext, handler: Callable[..., Any]) -> None:
        self._context = context
        self._config = context.config
        self._topic = context.topic
        self._delivery = context.delivery
        self._name = context.delivery.consumer
        self._state = context.state
        self._metrics = context.metrics
        self._settler = context.settler
        self._handler = handler
        self._async = is_async(handler)
        self._committer = context.committer

    async def run(self, items: list[Item]) -> None:
        """Run the handler on begun items, each to its end: finished, delayed, given up, or put back."""
        context = self._context
        context.active += 1
        try:
            if self._config.batch is None:
                for item in items:
                    await self._run_one(item)
                return
            # A commit is for one lane, so a batch is.
            for lane in (self._delivery.main, self._delivery.retry):
                pairs = [(item, self._message(item)) for item in items if item.lane is lane]
                if pairs:
                    await self._run_batch(pairs)
        finally:
            context.active -= 1
            if context.exclusive:
                context.quiesced.ring()

    # -- one message --------------------------------------------------------------------------

    async def _run_one(self, item: Item) -> None:
        message = self._message(item)
        while not item.lost:
            began = time.perf_counter()
            try:
                acknowledged = await self._attempt(item, message)
            except Skip:
                acknowledged = False
            except LostError:
                self._metrics.lost += 1
                return
            except (UncommittedError, NoRoomError) as error:
                self._settler.uncommitted([item], error)
                return
            except BaseException as failure:  # noqa: BLE001 - whatever the handler ended by
                if not await self._failed(item, message, await as_failure(failure)):
                    return
                continue
            self._metrics.handled(time.perf_counter() - began, message)
            if not acknowledged:
                self._settler.acknowledge(item)
            return

    async def _attempt(self, item: Item, message: Message) -> bool:
        """Call the handler; whether the item is acknowledged already (by a commit)."""
        if item.error is not None:
            raise item.error
        guard = self._guard(message)
        if guard is not None and await self._context.connection.command("EXISTS", guard.key, repeatable=True):
            self._metrics.repeats += 1
            raise Skip("a repeat")
        if self._committer is not None:
            if not await self._committer(self._delivery, [item], lambda: self._call(message), guard):
                self._metrics.repeats += 1
            self._settler.committed()
            return True
        await self._call(message)
        if guard is None:
            return False
        await self._settler.commit(item, guard)
        return True

    async def _call(self, argument: Message | MessageBatch) -> None:
        """Call the handler under its timeout; a sync one in a thread."""
        timeout = self._config.timeout
        if timeout is not None or not self._async:
            await call(self._handler, argument, in_loop=self._async, limiter=self._context.limiter, timeout=timeout)
        elif (given := await self._handler(argument)) is not None:  # most handlers go this way
            await finish(given)

    def _guard(self, message: Message) -> Guard | None:
        if self._config.dedup is None:
            return None
        key = self._config.dedup(message)
        if key is None:
            return None
        name = dedup_key(self._topic, f"{self._config.group}:{key}")
        return Guard(name, max(1, int(self._config.dedup_window * 1000)))

    def _message(self, item: Item) -> Message:
        return message_of(self._topic, item, self._name, self._state)

    # -- batches ------------------------------------------------------------------------------

    async def _run_batch(self, pairs: list[tuple[Item, Message]]) -> None:
        """Run the handler on the batch; when it raises, the batch is split to find who is to blame."""
        pairs = [(item, message) for item, message in pairs if not item.lost]
        if not pairs:
            return
        items = [item for item, _ in pairs]
        batch = MessageBatch([message for _, message in pairs])
        began = time.perf_counter()
        try:
            await self._call_batch(items, batch)
        except Skip:
            batch.failed.clear()
            for item in items:
                self._settler.acknowledge(item)
            return
        except LostError as error:
            self._metrics.lost += len(error.ids)
            await self._run_batch([(item, message) for item, message in pairs if item.id not in error.ids])
            return
        except (UncommittedError, NoRoomError) as error:
            self._settler.uncommitted(items, error)
            return
        except RedisFullError as error:
            if await self._delivery.wait_for_room(error):
                await self._run_batch(pairs)
            else:
                self._settler.uncommitted(items, error)
            return
        except BaseException as failure:  # noqa: BLE001 - whatever the handler ended by
            await self._blame(pairs, await as_failure(failure))
            return
        seconds = (time.perf_counter() - began) / len(pairs)
        again = []
        for index, (item, message) in enumerate(pairs):
            failed = batch.failed.get(index)
            if failed is None or isinstance(failed, Skip):
                self._metrics.handled(seconds, message)
                if self._committer is None:
                    self._settler.acknowledge(item)
            elif await self._failed(item, message, failed):
                again.append((item, message))
        for pair in again:
            await self._run_batch([pair])

    async def _call_batch(self, items: list[Item], batch: MessageBatch) -> None:
        if self._committer is None:
            await self._call(batch)
            return

        async def body() -> None:
            batch.failed.clear()
            await self._call(batch)
            for failed in batch.failed.values():
                if not isinstance(failed, Skip):
                    raise failed  # one failed item discards the batch's effects

        await self._committer(self._delivery, items, body, None)
        self._settler.committed()

    async def _blame(self, pairs: list[tuple[Item, Message]], error: Exception) -> None:
        """A batch failed as a whole: halve it until the failing messages stand alone."""
        if len(pairs) == 1:
            item, message = pairs[0]
            if await self._failed(item, message, error):
                await self._run_batch(pairs)
            return
        middle = len(pairs) // 2
        for half in (pairs[:middle], pairs[middle:]):
            if self._context.stopping:
                for item, _ in reversed(half):
                    self._context.queue.put_back(item)  # handed back with the rest
            else:
                await self._run_batch(half)

    # -- failures -----------------------------------------------------------------------------

    async def _failed(self, item: Item, message: Message, error: Exception) -> bool:
        """Decide on a failure: True to call the handler again now, False when the item is dealt with."""
        if item.lost:
            return False
        if isinstance(error, RedisFullError):  # what the handler sent itself: no fault of the message
            if await self._delivery.wait_for_room(error):
                return not item.lost
            self._settler.uncommitted([item], error)
            return False
        if isinstance(error, RedisUnavailableError):
            refuses = isinstance(error, (RedisReadOnlyError, RedisDiskError))
            if refuses or not await self._context.connection.health_check():
                return await self._redis_is_back(item)
            if not isinstance(error, (RedisTimeoutError, RedisAuthError)) and item.breaks < MOST_BREAKS:
                # It is back already. A command that makes Redis close the connection is the message's fault, though.
                item.breaks += 1
                await self._context.pause(random.uniform(0, BREAK_PAUSE))
                if not self._context.stopping:
                    return not item.lost
                self._settler.uncommitted([item], error)
                return False
        self._metrics.failed += 1
        policy = self._config.retry
        attempt = message.attempt
        if isinstance(error, Reject):
            await self._settler.give_up(item, "decode" if isinstance(error, Unfit) else "rejected", attempt, error)
            return False
        if policy.gives_up(error, attempt):
            reason = "timeout" if isinstance(error, HandlerTimeoutError) else "retries"
            if isinstance(error, policy.give_up_on):
                reason = "decode"
            await self._settler.give_up(item, reason, attempt, error)
            return False
        delay = error.after if isinstance(error, Retry) and error.after is not None else policy.delay(attempt)
        self._metrics.retried += 1
        log.info(
            "%r in group %r, attempt %d: %s; again in %.2f s",
            self._topic, self._config.group, attempt, text_of(error), delay,
        )  # fmt: skip
        # What keeps its order waits here, and what has more fields than the way through Redis and back can take.
        keyed = self._config.key is not None or len(item.fields) > MOST_FIELDS
        if not keyed and delay > min(IN_PLACE, self._config.lease / 2):
            await self._settler.delay(item, delay, attempt)
            return False
        ends = anyio.current_time() + delay
        await self._context.pause(delay)
        if self._context.stopping and (left := ends - anyio.current_time()) > 0:
            if keyed:
                self._context.queue.put_back(item)  # handed back with the rest, in its place
            else:
                await self._settler.delay(item, left, attempt)
            return False
        message.attempt += 1
        return not item.lost

    async def _redis_is_back(self, item: Item) -> bool:
        """Wait for Redis: an attempt that failed because it was away is none. False when we are to end first."""
        while not self._context.stopping:
            await self._context.pause(REDIS_AWAY_PAUSE)
            if await self._context.connection.health_check():
                return not item.lost
        self._settler.uncommitted([item], StreamMachineError("Redis is away"))
        return False
