"""GroupReader: one consumer of one group on one stream, as an async iterator."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Generator, Sequence
from typing import TYPE_CHECKING, Any

import anyio

from streammachine.errors import RedisTimeoutError

if TYPE_CHECKING:
    from coredis import Redis
    from coredis.response.types import StreamEntry

    from streammachine.redis.connection import RedisConnection

BLOCK_MS = 1000  # one blocking read; short enough to notice a closing connection soon
BLOCK_MARGIN = 2.0  # seconds beyond BLOCK_MS before the link counts as dead
_PAGE = 100  # entries claimed at a time
_GROUP_GONE = object()

log = logging.getLogger(__name__)


class GroupReader:
    """What ``RedisConnection.consumer`` gives; ``await`` it or iterate it directly.

    Yields ``(stream name, entry)``; ``entry.identifier`` is the id and ``entry.field_values`` the fields, both
    bytes. The group is created at the stream's start (so is the stream), and again if it vanishes. Reads ask for
    STREAMMACHINE_COUNT entries at most. One task iterates it at a time.

    Raises (while iterating):
        RedisUnavailableError: the server went away; iterate again, or with ``start_from_backlog=True`` in a new reader
        to be given what it had assigned before. WrongTypeError: the key is no stream.
    """

    def __init__(
        self,
        connection: RedisConnection,
        channel: str,
        consumer: str,
        group: str,
        *,
        backlog: bool,
        acknowledge: bool,
        timeout_ms: int | None,
    ) -> None:
        if timeout_ms is not None and timeout_ms < 0:
            raise ValueError(f"timeout={timeout_ms!r}: give milliseconds, or None to wait for ever.")
        self._connection = connection
        self._channel = channel
        self._consumer = consumer
        self._group = group
        self._backlog = backlog
        self._acknowledge = acknowledge
        self._timeout = None if not timeout_ms else timeout_ms / 1000
        self._ahead: deque[StreamEntry] = deque()  # assigned to this consumer, not handed out yet

    def __await__(self) -> Generator[Any, None, GroupReader]:
        return self._prepared().__await__()

    async def _prepared(self) -> GroupReader:
        await self._create_group()
        return self

    async def acknowledge(self, entry: StreamEntry | bytes | str) -> bool:
        """Acknowledge one entry (or id); False when it was not pending any more."""
        identifier = entry if isinstance(entry, (bytes, str)) else entry.identifier
        done = await self._connection.run(
            lambda client: client.xack(self._channel, self._group, [identifier]), repeatable=True
        )
        return done == 1

    async def __aiter__(self) -> AsyncIterator[tuple[str, StreamEntry]]:
        await self._create_group()
        start = "-"
        while self._backlog:
            start = await self._claim_page(start)
            async for item in self._deliver():
                yield item
        idle_since = time.monotonic()
        while True:
            if not self._ahead:
                self._ahead.extend(await self._read(idle_since))
            if self._ahead:
                async for item in self._deliver():
                    yield item
                idle_since = time.monotonic()
            elif self._timeout is not None and time.monotonic() - idle_since >= self._timeout:
                return

    async def _deliver(self) -> AsyncIterator[tuple[str, StreamEntry]]:
        while self._ahead:
            entry = self._ahead.popleft()
            yield self._channel, entry
            # Reached only when the loop's body ended without an exception.
            if self._acknowledge:
                await self.acknowledge(entry)

    async def _read(self, idle_since: float) -> Sequence[StreamEntry]:
        block = BLOCK_MS
        if self._timeout is not None:
            left = self._timeout - (time.monotonic() - idle_since)
            block = max(1, min(BLOCK_MS, int(left * 1000)))

        async def read(client: Redis[bytes]) -> Any:
            from coredis.exceptions import StreamConsumerGroupError, UnblockedError

            try:
                with anyio.fail_after(block / 1000 + BLOCK_MARGIN):
                    return await client.xreadgroup(
                        self._group,
                        self._consumer,
                        streams={self._channel: ">"},
                        count=self._connection.settings.count,
                        block=block,
                    )
            except (StreamConsumerGroupError, UnblockedError):  # the stream or its group was deleted
                return _GROUP_GONE
            except TimeoutError:
                self._connection.drop_readers()
                raise RedisTimeoutError(
                    f"Redis did not answer a blocking read of {self._channel!r} in time; entries that it had "
                    "already assigned are given again with start_from_backlog=True."
                ) from None

        reply = await self._connection.run_reader(read)
        if reply is _GROUP_GONE:
            log.warning("Group %r of %r is gone; creating it again at the stream's start", self._group, self._channel)
            await self._create_group()
            return ()
        return next(iter(reply.values())) if reply else ()

    async def _claim_page(self, start: str) -> str:
        """Take the next of what this consumer was given before, oldest first; gives where to go on.

        Claimed, since reading history breaks on deleted entries (coredis 6.9).
        """

        async def pending(client: Redis[bytes]) -> Any:
            return await client.xpending(
                self._channel, self._group, start=start, end="+", count=_PAGE, consumer=self._consumer
            )

        async def claim(client: Redis[bytes]) -> Any:
            return await client.xclaim(self._channel, self._group, self._consumer, 0, identifiers)

        identifiers: list[bytes] = [item.identifier for item in await self._connection.run(pending, repeatable=True)]
        if not identifiers:
            self._backlog = False
            return start
        self._ahead.extend(await self._connection.run(claim, repeatable=True))
        return "(" + identifiers[-1].decode()

    async def _create_group(self) -> None:
        from streammachine.redis.streams import ensure_group

        await ensure_group(self._connection, self._channel, self._group)
