"""One reader for everybody who waits for a stream to grow.

A single task asks Redis for new entries of exactly those streams that somebody waits for, and tells those who wait;
with nobody waiting it asks nothing. It hands on no data: who is told reads for himself, from where he is, so that a
slow one holds nobody up and a lost connection loses nothing.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

import anyio

from streammachine.errors import StreamMachineError
from streammachine.redis.commands import RedisCommands
from streammachine.redis.transport.cluster import slot_of
from streammachine.redis.transport.codec import RespError, parse_entries
from streammachine.redis.transport.raw_connection import encode_command

log = logging.getLogger(__name__)

BLOCK_MS = 250  # of one read; a stream that somebody has just begun to wait for is in the next one
PAUSE = 0.02  # seconds between two reads: what comes meanwhile is told at once
RETRY = 1.0  # seconds after Redis failed, or where what is waited for is no stream
REPLY_WAIT = 10.0  # seconds for the answer of a read, beyond BLOCK_MS
MOST_STREAMS = 10_000  # that are waited for at a time

Listener = Callable[[str], None]
_Keyed = tuple[str, list[str | int]]  # a command and its key
_Ask = Callable[[Sequence[_Keyed]], Awaitable[list[Any]]]


class TooManyStreamsError(StreamMachineError):
    """No more streams can be watched."""


class StreamWatch:
    """Tells when streams grow.

    Args:
        connect: gives the open connection; waits for it, and raises RedisUnavailableError when there is none.
    """

    def __init__(self, connect: Callable[[], Awaitable[RedisCommands]]) -> None:
        self._connect = connect
        self._positions: dict[str, tuple[int, int]] = {}
        self._listeners: dict[str, dict[object, Listener]] = {}
        self._wanted = anyio.Event()

    @property
    def streams(self) -> list[str]:
        """What somebody waits for now."""
        return list(self._listeners)

    def listen(self, stream: str, after: str, listener: Listener) -> Callable[[], None]:
        """Call ``listener(stream)`` whenever the stream has grown beyond what it was told of.

        Args:
            after: the id up to which the caller knows the stream. listener: returns at once, raises nothing.

        Returns:
            What ends it; to call it twice does no harm.

        Raises:
            TooManyStreamsError: ``MOST_STREAMS`` are watched.
        """
        position = id_parts(after)
        if stream not in self._listeners:
            if len(self._listeners) >= MOST_STREAMS:
                raise TooManyStreamsError(f"{MOST_STREAMS:,} streams are watched already. Try again later.")
            self._listeners[stream] = {}
            self._positions[stream] = position
        elif self._positions[stream] > position:
            listener(stream)
        token = object()
        self._listeners[stream][token] = listener
        self._wanted.set()

        def end() -> None:
            found = self._listeners.get(stream)
            if found is not None and found.pop(token, None) is not None and not found:
                del self._listeners[stream], self._positions[stream]

        return end

    @contextlib.contextmanager
    def waiting(self, streams: Iterable[tuple[str, str]]) -> Iterator[Waiter]:
        """A waiter that is woken when one of the streams grows beyond its id."""
        waiter = Waiter()
        ends: list[Callable[[], None]] = []
        try:
            for stream, after in streams:
                ends.append(self.listen(stream, after, waiter.wake))
            yield waiter
        finally:
            for end in ends:
                end()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            if not self._listeners:
                self._wanted = anyio.Event()
                await self._wanted.wait()
            try:
                await self._watch(await self._connect())
            except StreamMachineError as error:
                log.debug("Watching streams: %s", error)
                await anyio.sleep(RETRY)
            except Exception:
                log.exception("Watching streams failed; beginning anew")
                await anyio.sleep(RETRY)

    async def _watch(self, connection: RedisCommands) -> None:
        """Read until nobody waits, or the connection breaks."""
        if connection.is_cluster:
            await self._watch_cluster(connection)
            return
        raw = await connection.open_connection()

        async def ask(commands: Sequence[_Keyed]) -> list[Any]:
            payload = b"".join(encode_command(command) for _, command in commands)
            return await raw.exchange(payload, len(commands), REPLY_WAIT)

        try:
            while self._listeners:
                streams = list(self._listeners)
                reply = (await ask([self._read(streams, "BLOCK", BLOCK_MS)]))[0]
                await self._tell(reply, streams, ask)
                await anyio.sleep(PAUSE)
        finally:
            raw.close()

    async def _watch_cluster(self, connection: RedisCommands) -> None:
        """As ``_watch``: a read has the streams of one slot, so none of them blocks."""

        async def ask(commands: Sequence[_Keyed]) -> list[Any]:
            found: list[Any] = []
            for key, command in commands:
                found += await connection.exchange(encode_command(command), 1, key=key, repeatable=True)
            return found

        while self._listeners:
            slots: dict[int, list[str]] = {}
            for stream in self._listeners:
                slots.setdefault(slot_of(stream), []).append(stream)
            for streams in slots.values():
                here = [stream for stream in streams if stream in self._listeners]
                if here:
                    await self._tell((await ask([self._read(here)]))[0], here, ask)
            await anyio.sleep(BLOCK_MS / 1000)

    def _read(self, streams: list[str], *options: str | int) -> _Keyed:
        ids = ["{}-{}".format(*self._positions[stream]) for stream in streams]
        return streams[0], ["XREAD", "COUNT", 1, *options, "STREAMS", *streams, *ids]

    async def _tell(self, reply: Any, streams: list[str], ask: _Ask) -> None:
        """Take one read's answer: go on to the end of each stream that grew, and tell who waits for it."""
        if isinstance(reply, RespError):
            await self._without_others(reply, streams, ask)
            return
        pairs = reply.items() if isinstance(reply, dict) else (reply or [])
        grown = [bytes(name).decode("utf-8", "surrogateescape") for name, _ in pairs]
        if not grown:
            return
        ends = await ask([(stream, ["XREVRANGE", stream, "+", "-", "COUNT", 1]) for stream in grown])
        for stream, last in zip(grown, ends, strict=True):
            if stream not in self._listeners or isinstance(last, RespError):
                continue
            entries = parse_entries(last)
            if entries:
                self._positions[stream] = max(self._positions[stream], id_parts(entries[0][0].decode()))
            for listener in list(self._listeners[stream].values()):
                listener(stream)

    async def _without_others(self, error: RespError, streams: list[str], ask: _Ask) -> None:
        """A key that is no stream makes Redis refuse the whole read: read one by one, this once."""
        if not error.message.startswith("WRONGTYPE"):
            raise StreamMachineError(error.message)
        if len(streams) > 1:
            for stream in streams:
                if stream in self._listeners:
                    await self._tell((await ask([self._read([stream])]))[0], [stream], ask)
        await anyio.sleep(RETRY / len(streams))


class Waiter:
    """Somebody who waits until something grows.

    Attributes:
        grown: what grew since the last wait ended.
    """

    def __init__(self) -> None:
        self.grown: set[str] = set()
        self._event = anyio.Event()

    def wake(self, stream: str) -> None:
        """A stream has grown."""
        self.grown.add(stream)
        self._event.set()

    async def wait(self) -> set[str]:
        """Wait until something grew since the last wait; gives what."""
        await self._event.wait()
        return self.take()

    def take(self) -> set[str]:
        """What grew since the last wait, without waiting."""
        grown, self.grown = self.grown, set()
        self._event = anyio.Event()
        return grown


def id_parts(identifier: str) -> tuple[int, int]:
    """A stream id as numbers, which compare as ids do; a time without a sequence is its first id."""
    milliseconds, _, sequence = identifier.partition("-")
    return int(milliseconds), int(sequence or 0)
