"""GroupReader: one consumer of one group on one stream or several, as an async iterator."""

from __future__ import annotations

import functools
import logging
import os
import socket
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Generator, Sequence
from typing import TYPE_CHECKING, Any

from anyio import to_thread

from streammachine.errors import CrossSlotError, RedisTimeoutError, StreamMachineError, WrongTypeError
from streammachine.redis.commands import RedisCommands
from streammachine.redis.streams import ensure_group, require_stream
from streammachine.redis.transport.cluster import slot_of
from streammachine.redis.transport.codec import RespError, parse_entries, parse_stream_reply
from streammachine.redis.transport.raw_connection import RawConnection, encode_command, group_is_gone, refused

if TYPE_CHECKING:
    from coredis.response.types import StreamEntry

BLOCK_MS = 1000  # one blocking read; short enough to notice a closing connection soon
BLOCK_MARGIN = 2.0  # seconds beyond BLOCK_MS before the link counts as dead
_PAGE = 100  # entries claimed at a time

log = logging.getLogger(__name__)


class GroupReader:
    """What ``RedisConnection.consumer`` gives; ``await`` it or iterate it directly.

    Yields ``(stream name, entry)``; ``entry.identifier`` is the id and ``entry.field_values`` the fields, both
    bytes. The group is created at the stream's start (so is the stream), and again if it vanishes. Reads ask for
    STREAMMACHINE_COUNT entries of each stream at most. One task iterates it at a time.

    Raises (while iterating):
        RedisUnavailableError: the server went away; iterate again, or with ``start_from_backlog=True`` in a new reader
        to be given what it had assigned before. WrongTypeError: the key is no stream.
    """

    def __init__(
        self,
        connection: RedisCommands,
        channels: Sequence[str],
        consumer: str | None,
        group: str,
        *,
        backlog: bool,
        acknowledge: bool,
        timeout_ms: int | None,
    ) -> None:
        if timeout_ms is not None and timeout_ms < 0:
            raise ValueError(f"timeout={timeout_ms!r}: give milliseconds, or None to wait for ever.")
        self._connection = connection
        self._channels = tuple(dict.fromkeys(channels))
        self._consumer = consumer or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._group = group
        self._backlog = backlog
        self._acknowledge = acknowledge
        self._timeout = None if not timeout_ms else timeout_ms / 1000
        self._reads: RawConnection | None = None
        self._moved = False  # whether the last read met a replica
        self._ahead: deque[tuple[str, StreamEntry]] = deque()  # assigned to this consumer, not handed out yet
        if not self._channels:
            raise ValueError("channel=[]: name at least one stream.")

    def __await__(self) -> Generator[Any, None, GroupReader]:
        return self._prepared().__await__()

    async def _prepared(self) -> GroupReader:
        await self._create_groups()
        return self

    async def acknowledge(self, entry: StreamEntry | bytes | str, channel: str | None = None) -> bool:
        """Acknowledge one entry (or id); False when it was not pending any more.

        Args:
            channel: the stream it is of; needed where several are read.
        """
        if channel is None:
            if len(self._channels) > 1:
                raise ValueError("Several streams are read: acknowledge(entry, stream), as the iteration gave them.")
            channel = self._channels[0]
        identifier = entry if isinstance(entry, (bytes, str)) else entry.identifier
        return bool(await self._connection.command("XACK", channel, self._group, identifier, repeatable=True))

    async def __aiter__(self) -> AsyncIterator[tuple[str, StreamEntry]]:
        await self._create_groups()
        for channel in self._channels if self._backlog else ():
            start: str | None = "-"
            while start is not None:
                start = await self._claim_page(channel, start)
                async for item in self._deliver():
                    yield item
        self._backlog = False
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
            if self._reads is not None:
                self._reads.close()

    async def _deliver(self) -> AsyncIterator[tuple[str, StreamEntry]]:
        while self._ahead:
            channel, entry = self._ahead.popleft()
            yield channel, entry
            # Reached only when the loop's body ended without an exception.
            if self._acknowledge:
                await self.acknowledge(entry, channel)

    async def _read(self, idle_since: float) -> Sequence[tuple[str, StreamEntry]]:
        block = BLOCK_MS
        if self._timeout is not None:
            left = self._timeout - (time.monotonic() - idle_since)
            block = max(1, min(BLOCK_MS, int(left * 1000)))

        if self._reads is None or self._reads.broken:
            self._reads = await self._connection.open_connection(self._channels[0])
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
            payload = encode_command([*command, *self._channels, *[">"] * len(self._channels)])
            (reply,) = await self._reads.exchange(payload, 1, block / 1000 + BLOCK_MARGIN)
        except RedisTimeoutError:
            raise RedisTimeoutError(
                f"Redis did not answer a blocking read of {self._named} in time; entries that it had "
                "already assigned are given again with start_from_backlog=True."
            ) from None
        if isinstance(reply, RespError):
            if not group_is_gone(reply):
                return await self._elsewhere(reply)
            self._moved = False
            log.warning("Group %r of %s is gone; creating it again at the stream's start", self._group, self._named)
            await self._create_groups()
            return ()
        self._moved = False
        if reply is None:
            return ()
        found = parse_stream_reply(reply)
        return [(name.decode(), _entry(*pair)) for name, pairs in found.items() for pair in pairs]

    async def _elsewhere(self, reply: RespError) -> Sequence[tuple[str, StreamEntry]]:
        """After a failover the same address may lead to the new primary: look there once, before it is an error."""
        if self._moved or self._reads is None or not self._reads.retired:
            self._moved = False
            raise await self._refused(reply)
        self._moved = True
        return ()

    async def _refused(self, reply: RespError) -> StreamMachineError:
        error = refused(reply, self._connection.name, ("XREADGROUP", "STREAMS", *self._channels))
        if isinstance(error, WrongTypeError):
            for channel in self._channels:
                await require_stream(self._connection, channel)
        return error

    async def _claim_page(self, channel: str, start: str) -> str | None:
        """Take the next of what this consumer was given before, oldest first; gives where to go on, None at the end.

        Claimed, since a history read counts as a delivery and stumbles over deleted entries.
        """
        where = (channel, self._group)
        page = await self._connection.command("XPENDING", *where, start, "+", _PAGE, self._consumer, repeatable=True)
        identifiers = [bytes(row[0]) for row in page]
        if not identifiers:
            return None
        claimed = await self._connection.command("XCLAIM", *where, self._consumer, 0, *identifiers, repeatable=True)
        self._ahead.extend((channel, _entry(*pair)) for pair in parse_entries(claimed))
        return "(" + identifiers[-1].decode()

    async def _create_groups(self) -> None:
        await to_thread.run_sync(_entry_type)  # a sixth of a second for the first reader of a process
        for channel in self._channels:
            await ensure_group(self._connection, channel, self._group)
        if self._connection.is_cluster and len(set(map(slot_of, self._channels))) > 1:
            raise CrossSlotError(
                f"{self._named} stand in different slots of the Cluster, and one read takes one slot. Give them a "
                "common {tag} in their names, or read each with a consumer of its own."
            )

    @property
    def _named(self) -> str:
        return ", ".join(map(repr, self._channels))


@functools.cache
def _entry_type() -> type[StreamEntry]:
    """coredis' entry, which is what users get; loaded when the first one reads."""
    from coredis.response.types import StreamEntry

    return StreamEntry


def _entry(identifier: bytes, fields: dict[bytes, bytes] | None) -> StreamEntry:
    return _entry_type()(identifier, OrderedDict[Any, Any](fields or {}))
