"""GroupReader: one consumer of one group on one stream, as an async iterator."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Generator, Sequence
from typing import TYPE_CHECKING, Any

from streammachine.errors import RedisTimeoutError, StreamMachineError, WrongTypeError
from streammachine.redis.codec import RespError, parse_entries, parse_stream_reply
from streammachine.redis.road import Road, encode_command, group_is_gone, refused
from streammachine.redis.streams import ensure_group, require_stream

if TYPE_CHECKING:
    from coredis.response.types import StreamEntry

    from streammachine.redis.connection import RedisConnection

BLOCK_MS = 1000  # one blocking read; short enough to notice a closing connection soon
BLOCK_MARGIN = 2.0  # seconds beyond BLOCK_MS before the link counts as dead
_PAGE = 100  # entries claimed at a time

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
        self._road: Road | None = None
        self._moved = False  # whether the last read met a replica
        self._ahead: deque[StreamEntry] = deque()  # assigned to this consumer, not handed out yet

    def __await__(self) -> Generator[Any, None, GroupReader]:
        return self._prepared().__await__()

    async def _prepared(self) -> GroupReader:
        await self._create_group()
        return self

    async def acknowledge(self, entry: StreamEntry | bytes | str) -> bool:
        """Acknowledge one entry (or id); False when it was not pending any more."""
        identifier = entry if isinstance(entry, (bytes, str)) else entry.identifier
        return bool(await self._connection.command("XACK", self._channel, self._group, identifier, repeatable=True))

    async def __aiter__(self) -> AsyncIterator[tuple[str, StreamEntry]]:
        await self._create_group()
        start = "-"
        while self._backlog:
            start = await self._claim_page(start)
            async for item in self._deliver():
                yield item
        try:
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
        finally:
            if self._road is not None:
                self._road.close()

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

        if self._road is None or self._road.broken:
            self._road = await self._connection.open_road(self._channel)
        count = self._connection.settings.count
        command: list[bytes | str | int] = [
            "XREADGROUP",
            "GROUP",
            self._group,
            self._consumer,
            "COUNT",
            count,
            "BLOCK",
            block,
            "STREAMS",
        ]
        try:
            payload = encode_command([*command, self._channel, ">"])
            (reply,) = await self._road.exchange(payload, 1, block / 1000 + BLOCK_MARGIN)
        except RedisTimeoutError:
            raise RedisTimeoutError(
                f"Redis did not answer a blocking read of {self._channel!r} in time; entries that it had "
                "already assigned are given again with start_from_backlog=True."
            ) from None
        if isinstance(reply, RespError):
            if not group_is_gone(reply):
                return await self._elsewhere(reply)
            self._moved = False
            log.warning("Group %r of %r is gone; creating it again at the stream's start", self._group, self._channel)
            await self._create_group()
            return ()
        self._moved = False
        if reply is None:
            return ()
        return [_entry(*pair) for pair in next(iter(parse_stream_reply(reply).values()))]

    async def _elsewhere(self, reply: RespError) -> Sequence[StreamEntry]:
        """After a failover the same address may lead to the new primary: look there once, before it is an error."""
        if self._moved or self._road is None or not self._road.retired:
            self._moved = False
            raise await self._refused(reply)
        self._moved = True
        return ()

    async def _refused(self, reply: RespError) -> StreamMachineError:
        error = refused(reply, self._connection.name, ("XREADGROUP", "STREAMS", self._channel))
        if isinstance(error, WrongTypeError):
            await require_stream(self._connection, self._channel)
        return error

    async def _claim_page(self, start: str) -> str:
        """Take the next of what this consumer was given before, oldest first; gives where to go on.

        Claimed, since a history read counts as a delivery and stumbles over deleted entries.
        """
        where = (self._channel, self._group)
        page = await self._connection.command("XPENDING", *where, start, "+", _PAGE, self._consumer, repeatable=True)
        identifiers = [bytes(row[0]) for row in page]
        if not identifiers:
            self._backlog = False
            return start
        claimed = await self._connection.command("XCLAIM", *where, self._consumer, 0, *identifiers, repeatable=True)
        self._ahead.extend(_entry(*pair) for pair in parse_entries(claimed))
        return "(" + identifiers[-1].decode()

    async def _create_group(self) -> None:
        await ensure_group(self._connection, self._channel, self._group)


def _entry(identifier: bytes, fields: dict[bytes, bytes] | None) -> StreamEntry:
    from coredis.response.types import StreamEntry

    return StreamEntry(identifier, OrderedDict[Any, Any](fields or {}))
