"""The work of the active consumer of a tick stream: read, fold, commit, until the lease is lost or given up."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple

import anyio

from streammachine.backoff import Backoff
from streammachine.errors import RedisUnavailableError, StreamMachineError, WrongTypeError
from streammachine.ohlc.consumer.candle_book import CandleBook, Entry
from streammachine.redis.connection import RedisConnection
from streammachine.redis.scripts import AHEAD, MAY
from streammachine.redis.transport.codec import RespError, parse_stream_reply
from streammachine.redis.transport.raw_connection import RawConnection, encode_command, refused

log = logging.getLogger("streammachine.ohlc.consumer.consumer")

READ_COUNT = 1000  # entries in one read
READ_BLOCK_MS = 500  # of one read; silent symbols are checked after each
READ_MARGIN = 2.0  # seconds beyond the block before the link counts as dead
IDLE_CHECK_MS = 100  # between two checks of the silent symbols
COMMIT_ENTRIES = 10_000  # entries folded, or
COMMIT_SECONDS = 0.1  # since the last commit, before the next one
BACKOFF_FIRST, BACKOFF_LAST = 0.05, 5.0  # seconds after a failed read
DEAD_LETTER_MAXLEN = 100_000
MOST_ARGUMENTS = 7000  # of one XADD in a script; Lua's unpack ends at about 8000
_COMMIT = MAY + AHEAD + files(__package__).joinpath("commit.lua").read_text()


class LeaseLostError(StreamMachineError):
    """Another instance is active, or the lease ran out. Nothing was written."""


class _Read(NamedTuple):
    """One read: entries, and the time up to which there were no others (0: there may be more)."""

    entries: Sequence[Entry]
    as_of: float


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

    def place(self, interval: int) -> int:
        """The place of an interval's stream in ``keys``, from 1."""
        return 5 + self.intervals.index(interval)


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
        self._arrived, self._taken = anyio.Event(), anyio.Event()

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
                await self._fold(stop)
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
        backoff = Backoff(BACKOFF_FIRST, BACKOFF_LAST)
        raw: RawConnection | None = None
        try:
            while True:
                try:
                    if raw is None:
                        raw = await self._connection.open_connection(stream)
                    asked = self._now()
                    entries = await self._next(raw, position)
                except StreamMachineError as error:
                    log.warning("Reading ticks from %r: %s", stream, error)
                    if raw is not None:
                        await raw.aclose()
                        raw = None
                    await anyio.sleep(backoff.pause())
                    continue
                backoff.reset()
                if entries:
                    position = entries[-1][0]
                while self._next_read is not None:
                    self._taken = anyio.Event()
                    await self._taken.wait()
                self._next_read = _Read(entries, asked if len(entries) < READ_COUNT else 0)
                self._arrived.set()
        finally:
            if raw is not None:
                await raw.aclose()

    async def _next(self, raw: RawConnection, position: bytes) -> Sequence[Entry]:
        stream = self._job.stream
        command = ("XREAD", "COUNT", READ_COUNT, "BLOCK", READ_BLOCK_MS, "STREAMS", stream, position)
        (reply,) = await raw.exchange(encode_command(command), 1, READ_BLOCK_MS / 1000 + READ_MARGIN)
        if reply is None:
            return ()
        if isinstance(reply, RespError):
            raise refused(reply, self._connection.name, command)
        return next(iter(parse_stream_reply(reply).values()))

    # -- folding ------------------------------------------------------------------------------

    async def _fold(self, stop: anyio.Event) -> None:
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
                    book.fold(read.entries, self._now())
                    self._folded = read.entries[-1][0]
                if read.as_of > self._next_idle_check:
                    book.close_idle(read.as_of)
                    self._next_idle_check = read.as_of + IDLE_CHECK_MS
            if stop.is_set():
                await self._commit(lease_ms=0)
                return
            if self._wait() <= 0:
                await self._commit(lease_ms)

    def _wait(self) -> float:
        """Seconds until the next commit is due."""
        finished, since = self._book.finished, (self._now() - self._last_commit) / 1000
        if finished.entries >= COMMIT_ENTRIES:
            return 0.0
        if finished.candles and self._next_read is None:
            return 0.0
        if finished.entries:
            return COMMIT_SECONDS - since
        return self._job.lease / 3 - since

    async def _commit(self, lease_ms: int) -> None:
        """Write what the book has finished; with nothing finished, only renew the lease.

        Raises:
            LeaseLostError: it was not done.
            RedisUnavailableError: whether it was done, the state tells.
            WrongTypeError: a key holds another type of value; nothing was written.
        """
        job = self._job
        finished = self._book.take()
        bad, candles = self._bad + len(finished.refused), self._candles + len(finished.candles)
        state: dict[str | bytes, Any] = {b"s:" + name: data for name, data in finished.states.items()}
        if finished.refused or finished.candles:
            state |= {"bad": bad, "candles": candles}
        arguments: list[Any] = [
            self._value, lease_ms, job.group, self._commits, self._connection.settings.stream_maxlen,
            DEAD_LETTER_MAXLEN, self._folded, finished.entries, len(state),
        ]  # fmt: skip
        for pair in state.items():
            arguments += pair
        names = list(finished.candles[0][1]) if finished.candles else []
        arguments += [len(names), *names, len(finished.candles)]
        for interval, fields in finished.candles:
            arguments.append(job.place(interval))
            arguments += fields.values()
        arguments.append(len(finished.refused))
        for refusal in finished.refused:
            flat = self._dead_letter(*refusal)
            arguments += [len(flat), *flat]
        self._last_commit = self._now()
        outcome, *detail = await self._connection.command("EVAL", _COMMIT, len(job.keys), *job.keys, *arguments)
        if outcome == -2:
            raise WrongTypeError(f"The key {detail[0].decode()!r} is a {detail[1].decode()}; remove or rename it.")
        if outcome == -3:
            raise RedisUnavailableError(f"The stream {job.stream!r} was deleted; it is read from its start.")
        if outcome != 1:
            raise LeaseLostError("Another instance took over, or this one was paused beyond its lease.")
        self._committed = self._folded
        self._bad, self._candles = bad, candles
        self._commits += bool(finished.entries or state)

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
