"""The work of the active consumer of a tick stream: read, fold, commit, until the lease is lost or given up."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any, NamedTuple

import anyio
from anyio.abc import TaskGroup

from streammachine.backoff import Backoff
from streammachine.errors import RedisUnavailableError, StreamMachineError, WrongTypeError
from streammachine.ohlc.consumer.candle_book import CandleBook, packed
from streammachine.ohlc.consumer.tick_book import TickBook
from streammachine.redis.connection import RedisConnection
from streammachine.redis.scripts import AHEAD, MAY
from streammachine.redis.transport.codec import RespError
from streammachine.redis.transport.raw_connection import RawConnection, encode_arguments, encode_command, refused
from streammachine.redis.transport.ticks import NOT_OTHER, TickReply, read_entries

log = logging.getLogger("streammachine.ohlc.consumer.consumer")

READ_COUNT = 1000  # entries in one read; so many times as many
READ_MORE = 4  # where the stream has more than that, and
READ_BYTES = 1 << 22  # a read of so many will be no longer than this
READ_BLOCK_MS = 500  # of one read; silent symbols are checked after each
READ_MARGIN = 2.0  # seconds beyond the block before the link counts as dead
IDLE_CHECK_MS = 100  # between two checks of the silent symbols
COMMIT_ENTRIES = 50_000  # entries folded, or
COMMIT_CANDLES = 3000  # candles finished (about 8 ms of a script, which holds the server up), or
COMMIT_SECONDS = 0.1  # since the last commit, before the next one
BACKOFF_FIRST, BACKOFF_LAST = 0.05, 5.0  # seconds after a failed read
DEAD_LETTER_MAXLEN = 100_000
MOST_ARGUMENTS = 7000  # of one XADD in a script; Lua's unpack ends at about 8000
_COMMIT = MAY + AHEAD + files(__package__).joinpath("commit.lua").read_text()


class LeaseLostError(StreamMachineError):
    """Another instance is active, or the lease ran out. Nothing was written."""


class _Read(NamedTuple):
    """One read: how many entries, the id of the last, what folds them, given the time of their arrival, and the time
    up to which there were no others (0: there may be more)."""

    entries: int
    last: bytes
    fold: Callable[[float], None]
    as_of: float = 0.0
    size: int = 0  # bytes, where they were counted


class _Commit(NamedTuple):
    """One commit, encoded: the position it reaches, the totals with it, and whether it writes more than the lease."""

    payload: bytes
    position: bytes
    bad: int
    candles: int
    writes: bool


@dataclass(frozen=True)
class Job:
    """What a session works on: names, intervals, and the seconds of lease and grace.

    ``keys``: state, lease, stream, dead letters, and the candle streams in the order of ``intervals``.
    """

    stream: str
    group: str
    owner: str
    intervals: Sequence[int]
    keys: Sequence[str]
    lease: float
    grace: float


class ActiveSession:
    """One span of being active: from the loaded state to the loss of the lease.

    Args:
        job: what is worked on.
        connection: to the server that holds all of the job's keys.
        book: the open candles as the last commit left them.
        value: the lease's value, which every commit checks.
        position: the id up to which the last commit reached.
        state: the fields of the state hash.
    """

    def __init__(
        self,
        job: Job,
        connection: RedisConnection,
        book: CandleBook,
        value: bytes,
        position: bytes,
        state: dict[bytes, bytes],
    ) -> None:
        self._job = job
        self._connection = connection
        self._book = book
        self._rows = book.reader() if isinstance(book, TickBook) else None
        self._value = value
        self._committed = self._folded = position
        self._commits = int(state.get(b"commits", 0))
        self._bad = int(state.get(b"bad", 0))
        self._candles = int(state.get(b"candles", 0))
        # Wall time that no step of the system's clock disturbs.
        self._offset = time.time() * 1000 - time.monotonic() * 1000
        # Silent symbols wait for the grace anew: after an outage their ticks may be on their way.
        self._next_idle_check = self._now() + job.grace * 1000
        self._last_commit = self._now()
        self._next_read: _Read | None = None
        self._behind = False  # whether the stream had more than the last read took
        self._arrived, self._taken, self._settled = anyio.Event(), anyio.Event(), anyio.Event()
        self._committing = False  # folding goes on meanwhile; the next commit waits for the one under way
        self._failure: Exception | None = None  # of a commit

    def counts(self) -> dict[str, Any]:
        """See ``FastOHLCConsumer.stats``."""
        totals = {"bad": self._bad, "candles": self._candles, "position": self._committed.decode()}
        return {**self._book.counts(), **totals}

    async def run(self, stop: anyio.Event) -> None:
        """Read, fold and commit until ``stop``, then give the lease up.

        Raises:
            LeaseLostError, or whatever broke a commit: the state is to be loaded again.
        """
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read)
            try:
                await self._fold(stop, tasks)
            except Exception as error:  # noqa: BLE001 - raised below, out of the group
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def wake(self) -> None:
        """End the wait for entries: commit or leave now where that is due."""
        self._arrived.set()

    # -- reading ------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Read on from the position; one read is under way while another is folded."""
        position = self._committed
        stream = self._job.stream
        count = READ_COUNT
        backoff = Backoff(BACKOFF_FIRST, BACKOFF_LAST)
        raw: RawConnection | None = None
        try:
            while True:
                try:
                    if raw is None:
                        raw = await self._connection.open_connection(stream)
                    asked = self._now()
                    read = await self._next(raw, position, count)
                except StreamMachineError as error:
                    log.warning("Reading ticks from %r: %s", stream, error)
                    if raw is not None:
                        await raw.aclose()
                        raw = None
                    await anyio.sleep(backoff.pause())
                    continue
                backoff.reset()
                if read.entries:
                    position = read.last
                while self._next_read is not None:
                    self._taken = anyio.Event()
                    await self._taken.wait()
                self._next_read = read if read.entries >= count else read._replace(as_of=asked)
                count = self._count_after(read, count)
                self._arrived.set()
        finally:
            if raw is not None:
                await raw.aclose()

    def _count_after(self, read: _Read, count: int) -> int:
        """How many entries to ask for next: more while the stream has them, so that the server waits less for us."""
        more = min(READ_MORE * READ_COUNT, self._book.max_candles)  # a read must not open more candles than are held
        if not read.size or read.entries < count or read.size * more > READ_BYTES * read.entries:
            return READ_COUNT
        return more

    async def _next(self, raw: RawConnection, position: bytes, count: int) -> _Read:
        stream = self._job.stream
        command = ("XREAD", "COUNT", count, "BLOCK", READ_BLOCK_MS, "STREAMS", stream, position)
        timeout = READ_BLOCK_MS / 1000 + READ_MARGIN
        if self._rows is None:
            (reply,) = await raw.exchange(encode_command(command), 1, timeout)
        else:
            rows = self._rows.reply()
            await raw.receive(encode_command(command), rows, timeout)
            if rows.other is NOT_OTHER:
                return _Read(rows.count, rows.last_id or b"", partial(self._fold_rows, rows), size=rows.size)
            reply = rows.other
        if isinstance(reply, RespError):
            raise refused(reply, self._connection.name, command)
        entries = read_entries(reply)
        return _Read(len(entries), entries[-1][0] if entries else b"", partial(self._book.fold, entries))

    def _fold_rows(self, rows: TickReply, now_ms: float) -> None:
        book = self._book
        assert isinstance(book, TickBook)
        book.fold_rows(rows, now_ms)

    # -- folding ------------------------------------------------------------------------------

    async def _fold(self, stop: anyio.Event, tasks: TaskGroup) -> None:
        book = self._book
        lease_ms = int(self._job.lease * 1000)
        while True:
            if self._next_read is None and not stop.is_set():
                self._arrived = anyio.Event()
                with anyio.move_on_after(self._wait()):
                    await self._arrived.wait()
            read, self._next_read = self._next_read, None
            self._taken.set()
            if read is not None:
                if read.entries:
                    read.fold(self._now())
                    self._folded = read.last
                self._behind = not read.as_of
                if read.as_of > self._next_idle_check:
                    book.close_idle(read.as_of)
                    self._next_idle_check = read.as_of + IDLE_CHECK_MS
            if stop.is_set() or self._full() or self._failure is not None:
                await self._settle()
            if stop.is_set():
                await self._send(self._prepare(lease_ms=0))
                return
            if self._wait() <= 0:
                self._committing, self._settled = True, anyio.Event()
                tasks.start_soon(self._commit, self._prepare(lease_ms))

    def _full(self) -> bool:
        """Whether the book holds as much as one commit may write."""
        return self._book.folded >= COMMIT_ENTRIES or self._book.closed >= COMMIT_CANDLES

    def _wait(self) -> float:
        """Seconds until the next commit is due; while one is under way its end is waited for."""
        if self._committing:
            return math.inf
        book, since = self._book, (self._now() - self._last_commit) / 1000
        if self._full():
            return 0.0
        if (book.closed or book.folded >= READ_COUNT) and self._next_read is None and not self._behind:
            return 0.0  # nothing more stands in the stream: what was caught up with is committed without delay
        if book.folded:
            return COMMIT_SECONDS - since
        return self._job.lease / 3 - since

    async def _settle(self) -> None:
        """Wait for the end of the commit that is under way, if any.

        Raises:
            What broke it.
        """
        if self._committing:
            await self._settled.wait()
        if self._failure is not None:
            raise self._failure

    async def _commit(self, commit: _Commit) -> None:
        """Write while folding goes on; what breaks it is kept for the task that folds."""
        try:
            await self._send(commit)
        except Exception as error:  # noqa: BLE001 - raised by _settle
            self._failure = error
        self._committing = False
        self._settled.set()
        self._arrived.set()

    def _prepare(self, lease_ms: int) -> _Commit:
        """Take what the book has finished; with nothing finished, only the lease is renewed."""
        job = self._job
        finished = self._book.take()
        states, outputs = finished.encoded_states(), finished.encoded_candles(job.intervals)
        closed = sum(output.items for output in outputs)
        bad, candles = self._bad + len(finished.refused), self._candles + closed
        totals = [packed("bad", str(bad), "candles", str(candles))] if finished.refused or closed else []
        head: list[Any] = [
            "EVAL", _COMMIT, len(job.keys), *job.keys,
            self._value, lease_ms, job.group, self._commits, self._connection.settings.stream_maxlen,
            DEAD_LETTER_MAXLEN, self._folded, finished.entries, states.count + len(totals), *totals,
        ]  # fmt: skip
        letters: list[Any] = [len(finished.refused)]
        for refusal in finished.refused:
            flat = self._dead_letter(*refusal)
            letters += [len(flat), *flat]
        size = len(head) + states.count + sum(2 + output.count for output in outputs) + len(letters)
        parts = [b"*%d\r\n" % size, encode_arguments(head), states.arguments]
        for interval, output in zip(job.intervals, outputs, strict=True):
            parts += (encode_arguments([interval, output.count]), output.arguments)
        payload = b"".join((*parts, encode_arguments(letters)))
        self._last_commit = self._now()
        return _Commit(payload, self._folded, bad, candles, bool(finished.entries or states.count or totals))

    async def _send(self, commit: _Commit) -> None:
        """Have the server do it.

        Raises:
            LeaseLostError: it was not done.
            RedisUnavailableError: whether it was done, the state tells.
            WrongTypeError: a key holds another type of value; nothing was written.
        """
        job = self._job
        outcome, *detail = await self._connection.encoded(commit.payload, "EVAL", "", len(job.keys), *job.keys)
        if outcome == -2:
            raise WrongTypeError(f"The key {detail[0].decode()!r} is a {detail[1].decode()}; remove or rename it.")
        if outcome == -3:
            raise RedisUnavailableError(f"The stream {job.stream!r} was deleted; it is read from its start.")
        if outcome != 1:
            raise LeaseLostError("Another instance took over, or this one was paused beyond its lease.")
        self._committed = commit.position
        self._bad, self._candles = commit.bad, commit.candles
        self._commits += commit.writes

    def _dead_letter(self, identifier: bytes, fields: dict[bytes, bytes], error: Exception) -> list[Any]:
        """The dead letter of a refused tick: its own fields, and the rest in ``sm-`` fields."""
        job = self._job
        facts: dict[str, Any] = {
            "sm-reason": "decode",
            "sm-group": job.group,
            "sm-consumer": job.owner,
            "sm-attempts": 1,
            "sm-origin-stream": job.stream,
            "sm-origin-id": identifier,
            "sm-first-seen": int(self._now()),
            "sm-failed-at": int(self._now()),
            "sm-error-type": type(error).__name__,
            "sm-error": str(error).encode("utf-8", "backslashreplace")[:4096],
        }
        names = {name.encode() for name in facts}
        flat: list[Any] = [part for pair in fields.items() if pair[0] not in names for part in pair]
        return [*flat[:MOST_ARGUMENTS], *(part for pair in facts.items() for part in pair)]

    def _now(self) -> float:
        return time.monotonic() * 1000 + self._offset
