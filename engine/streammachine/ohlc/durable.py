"""Aggregators kept in Redis: a journal of ticks, a snapshot, and the fold of both.

Why it is so: docs/decisions/12-durable-aggregators.md.

Every change of an aggregator (ticks, flush, clear) is one entry of its journal stream, and an answer is given only
after this process has folded the journal to its end. So an acknowledged tick survives any crash, and two servers on one
Redis agree: both fold the same entries in the same order. A snapshot with the id of the last entry in it is written
by compare-and-set every 10,000 ticks and at exit; then the journal is trimmed up to that id. A process that is behind
the trim loads the snapshot and folds on from there.

Keys, for an aggregator ``btc`` (the braces keep them in one Cluster slot):
``sm:ohlc:{btc}`` hash: generation, intervals, id and data of the snapshot. ``sm:ohlc:{btc}:journal`` stream.
``sm:ohlc`` set: the names.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import anyio

from streammachine.errors import (
    AggregatorExistsError,
    AggregatorNotFoundError,
    IntervalError,
    SnapshotError,
    StreamMachineError,
    WrongTypeError,
)
from streammachine.ohlc.aggregator import FastOHLC, create_ohlc_aggregator
from streammachine.redis.connection import RedisConnection
from streammachine.redis.scripts import AHEAD, LuaScript
from streammachine.redis.streams import nearest

if TYPE_CHECKING:
    from streammachine.ohlc.aggregator import CandleData

T = TypeVar("T")
_Intervals = list[int]  # in DurableAggregators `list` is a method
log = logging.getLogger(__name__)

INDEX = "sm:ohlc"
SNAPSHOT_EVERY = 10_000  # ticks folded since the last snapshot
MAX_CANDLES = 10_000  # per symbol and interval; the oldest are dropped and counted
PAGE = 500  # journal entries per round trip
DEFAULT_INTERVALS = (60_000, 300_000)
# What reading something foreign may raise: JSON that nests too deep is a RecursionError.
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError, StreamMachineError)
_NAME = re.compile(r"^[^\s{}\x00-\x1f\x7f]{1,200}$")

# ``folded`` is the id this process has folded up to, ``page`` how many entries to give at most, ``operation`` what to
# append ("" for none).
# Gives {"gone"} when the aggregator does not exist; {"broken", id} when its snapshot's id is none;
# {"behind", generation} when the snapshot is ahead of ``folded``; else {"ok", generation, entries behind it}.
# The operation is appended unless "gone" or "broken".
_SYNC = LuaScript(
    AHEAD
    + """
local state = redis.call('HMGET', KEYS[1], 'generation', 'id')
if not state[1] then return {'gone'} end
if state[2] and not string.match(state[2], '^%d+%-%d+$') then return {'broken', state[2]} end
if ARGV[3] ~= '' then redis.call('XADD', KEYS[2], '*', 'op', ARGV[3]) end
if state[2] and ahead(state[2], ARGV[1]) then return {'behind', state[1]} end
return {'ok', state[1], redis.call('XRANGE', KEYS[2], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])}
""",
    keys=("state", "journal"),
    args=("folded", "page", "operation"),
)

# Writes the snapshot up to the id ``last`` and trims the journal to the id behind it (``rest``), unless a newer one
# stands. 1 or 0.
_SNAPSHOT = LuaScript(
    AHEAD
    + """
local state = redis.call('HMGET', KEYS[1], 'generation', 'id')
if state[1] ~= ARGV[1] or (state[2] and not ahead(ARGV[2], state[2])) then return 0 end
redis.call('HSET', KEYS[1], 'id', ARGV[2], 'data', ARGV[3])
redis.call('XTRIM', KEYS[2], 'MINID', '=', ARGV[4])
return 1
""",
    keys=("state", "journal"),
    args=("generation", "last", "data", "rest"),
)

# Creates the aggregator with a new generation unless it is there; gives the intervals and the generation that stand.
_CREATE = LuaScript(
    """
if redis.call('HSETNX', KEYS[1], 'generation', ARGV[1]) == 1 then redis.call('HSET', KEYS[1], 'intervals', ARGV[2]) end
return redis.call('HMGET', KEYS[1], 'intervals', 'generation')
""",
    keys=("state",),
    args=("generation", "intervals"),
)


class Tick(NamedTuple):
    """One trade: symbol, price, volume, and its time in epoch milliseconds."""

    symbol: str
    price: float
    volume: float
    timestamp_ms: int


class DurableAggregator:
    """One aggregator in Redis, seen from this process. Get it from ``DurableAggregators``.

    All methods fold the journal to its end first; with Redis away they raise instead of answering from memory.
    """

    def __init__(self, connection: RedisConnection, name: str, intervals: Sequence[int]) -> None:
        self.name = name
        self.intervals = list(intervals)
        self._connection = connection
        self._state_key = f"sm:ohlc:{{{name}}}"
        self._journal = f"{self._state_key}:journal"
        self._lock = anyio.Lock()
        self._readings: list[tuple[Callable[[FastOHLC], Any], asyncio.Future[Any]]] = []
        self._reader: asyncio.Task[None] | None = None  # held, or it might be collected
        # Refuses what the real one would refuse, before a tick reaches the journal.
        self._probe = create_ohlc_aggregator(self.intervals)
        self._reset("")

    def _reset(self, generation: str) -> None:
        self._generation = generation
        self._folded = "0-0"
        self._since_snapshot = 0
        self._memory = create_ohlc_aggregator(self.intervals, max_candles=MAX_CANDLES)

    async def update(self, ticks: Iterable[Tick]) -> int:
        """Journal the ticks in one entry, fold, and give the tick count. All of them or, if one is refused, none.

        Raises:
            TickError: names the tick that is refused and why.
        """
        batch = [Tick(*tick) for tick in ticks]
        try:
            for tick in batch:
                self._probe.update_tick(tick.symbol, tick.price, tick.volume, tick.timestamp_ms)
        finally:
            self._probe.clear()
        operation = {"t": [[t.symbol, float(t.price), float(t.volume), int(t.timestamp_ms)] for t in batch]}
        async with self._lock:
            await self._sync(operation if batch else None)
            count = self._memory.tick_count
            await self._snapshot_if_due()
        return count

    async def candles(self, symbol: str, interval: int) -> list[CandleData]:
        """All candles of the symbol, oldest first, the open one included."""
        return await self._read(lambda memory: memory.get_candles(symbol, interval))

    async def completed(self, symbol: str, interval: int, before_ms: int = 0) -> list[CandleData]:
        """The candles that end at or before ``before_ms`` (0 = now), oldest first."""
        return await self._read(lambda memory: memory.get_completed_candles(symbol, interval, before_ms))

    async def flush(self, symbol: str, interval: int, before_ms: int = 0) -> int:
        """Remove the candles that end at or before ``before_ms`` (0 = now); gives how many.

        A tick of that time that comes later counts as late and makes no second candle.
        """
        if interval not in self.intervals:
            raise _unknown_interval(self.name, interval, self.intervals)
        cut = before_ms if before_ms else time.time_ns() // 1_000_000
        async with self._lock:
            await self._sync()
            before = len(self._memory.get_completed_candles(symbol, interval, cut))
            if before:
                await self._sync({"f": [symbol, interval, cut]})
            return before

    async def clear(self) -> int:
        """Remove all candles and counts; gives how many ticks had been counted."""
        async with self._lock:
            await self._sync()
            count = self._memory.tick_count
            await self._sync({"c": 1})
            return count

    async def stats(self) -> dict[str, Any]:
        """Counts of this aggregator: ticks, late ticks, dropped candles, symbols."""
        return await self._read(
            lambda memory: {
                "tick_count": memory.tick_count,
                "late_count": memory.late_count,
                "dropped_count": memory.dropped_count,
                "symbols": list(memory.symbols),
            }
        )

    async def symbols(self) -> list[str]:
        """The symbols that ticks came for."""
        return await self._read(lambda memory: list(memory.symbols))

    async def snapshot(self) -> None:
        """Write the snapshot now if anything was folded since the last one."""
        async with self._lock:
            if self._since_snapshot:
                await self._write_snapshot()

    # -- details ------------------------------------------------------------------------------

    async def _read(self, view: Callable[[FastOHLC], T]) -> T:
        """What ``view`` makes of the memory once the journal was folded to its end, as it was when this was called.

        Where others are at work already, all that ask meanwhile share the next fold: it begins after they asked.
        """
        if not self._readings and not self._lock.locked():
            async with self._lock:
                await self._sync()
                return view(self._memory)
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._readings.append((view, answer))
        if len(self._readings) == 1:
            self._reader = asyncio.ensure_future(self._answer_readings())
        return await answer

    async def _answer_readings(self) -> None:
        """Fold once for all that wait; a task of its own, so that none who goes takes it from the others."""
        readings: list[tuple[Callable[[FastOHLC], Any], asyncio.Future[Any]]] = []
        try:
            async with self._lock:
                readings, self._readings = self._readings, []
                await self._sync()
                for view, answer in readings:
                    _answer(answer, view, self._memory)
        except Exception as error:  # noqa: BLE001  # each who waits gets it
            for _, answer in readings:
                if not answer.done():
                    answer.set_exception(error)
        finally:
            if not readings:  # it was cancelled while it waited
                readings, self._readings = self._readings, []
            for _, answer in readings:
                answer.cancel()  # nothing where it was answered

    async def _sync(self, operation: dict[str, Any] | None = None) -> None:
        """Append the operation (if any), then fold everything behind what this process has seen."""
        payload = json.dumps(operation, separators=(",", ":"), ensure_ascii=False) if operation else ""
        while True:
            reply = await _SYNC(
                self._connection,
                state=self._state_key,
                journal=self._journal,
                folded=self._folded,
                page=PAGE,
                operation=payload,
            )
            payload = ""
            verdict = _text(reply[0])
            if verdict == "gone":
                self._reset("")
                raise AggregatorNotFoundError(f"There is no aggregator {self.name!r} any more. Create it again.")
            if verdict == "broken":
                raise SnapshotError(
                    f"The snapshot of aggregator {self.name!r} cannot be read: its id is {_text(reply[1])[:100]!r}. "
                    f"Delete the keys {self._state_key} and {self._journal}, and create it again."
                )
            generation = _text(reply[1])
            if generation != self._generation:
                self._reset(generation)
                continue
            if verdict == "behind":
                await self._load_snapshot()
                continue
            entries = reply[2]
            for identifier, fields in entries:
                self._fold(_text(identifier), fields)
            if len(entries) < PAGE:
                return

    def _fold(self, identifier: str, fields: Any) -> None:
        try:
            operation = json.loads(fields[1])
            for symbol, price, volume, timestamp_ms in operation.get("t", ()):
                self._memory.update_tick(symbol, price, volume, timestamp_ms)
                self._since_snapshot += 1
            if "f" in operation:
                symbol, interval, cut = operation["f"]
                self._memory.flush_interval(symbol, interval, cut)
                self._since_snapshot += 1
            if "c" in operation:
                self._memory.clear()
                self._since_snapshot += 1
        except _UNREADABLE as error:
            # Not ours: every process skips it alike, so they still agree.
            log.error("Journal of %r: entry %s is not readable and was skipped (%s)", self.name, identifier, error)
        self._folded = identifier

    async def _load_snapshot(self) -> None:
        state = await self._connection.command("HMGET", self._state_key, "generation", "id", "data", repeatable=True)
        generation, identifier, data = state
        self._reset(_text(generation) if generation is not None else "")
        if identifier is None or data is None:
            return
        try:
            memory = FastOHLC.load(data)
        except SnapshotError as error:
            raise SnapshotError(f"The snapshot of aggregator {self.name!r} cannot be read: {error}") from error
        if memory.intervals != self.intervals:
            raise SnapshotError(f"The snapshot of aggregator {self.name!r} is one of other intervals.")
        self._memory = memory
        self._folded = _text(identifier)

    async def _snapshot_if_due(self) -> None:
        if self._since_snapshot >= SNAPSHOT_EVERY:
            try:
                await self._write_snapshot()
            except StreamMachineError as error:
                # The ticks stand in the journal; only the next start takes longer.
                log.warning("The snapshot of aggregator %r was put off: %s", self.name, error)

    async def _write_snapshot(self) -> None:
        milliseconds, _, sequence = self._folded.partition("-")
        await _SNAPSHOT(
            self._connection,
            state=self._state_key,
            journal=self._journal,
            generation=self._generation,
            last=self._folded,
            data=self._memory.dump(),
            rest=f"{milliseconds}-{int(sequence) + 1}",
        )
        self._since_snapshot = 0


class DurableAggregators:
    """The aggregators that stand in one Redis, by name."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._known: dict[str, DurableAggregator] = {}
        self._reported: set[bytes] = set()  # names of the index whose error was logged

    async def create(self, name: str, intervals: Sequence[int] | None = None) -> tuple[DurableAggregator, bool]:
        """Create the aggregator, or give the existing one of the same intervals; and whether it is new.

        Raises:
            AggregatorExistsError: it exists with other intervals. IntervalError: an interval is refused.
            ValueError: the name is not usable.
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is not usable as an aggregator's name: give 1 to 200 characters, no spaces or braces."
            )
        wanted = sorted(
            create_ohlc_aggregator(list(intervals) if intervals is not None else list(DEFAULT_INTERVALS)).intervals
        )
        await self._connection.command("SADD", INDEX, name, repeatable=True)
        mine = secrets.token_hex(8)

        try:
            stands, generation = await _CREATE(
                self._connection, state=_key(name), generation=mine, intervals=json.dumps(wanted), repeatable=True
            )
        except WrongTypeError as error:
            raise _broken(name, "the key holds another type of value") from error
        existing = _intervals(name, stands)
        if existing != wanted:
            raise AggregatorExistsError(
                f"Aggregator {name!r} exists with the intervals {existing}, not {wanted}. Use those, or another name."
            )
        return self._remember(name, existing), _text(generation) == mine

    async def get(self, name: str) -> DurableAggregator:
        """The aggregator of this name.

        Raises:
            AggregatorNotFoundError, with the nearest names.
        """
        known = self._known.get(name)
        if known is not None:
            return known
        intervals = None
        if isinstance(name, str) and _NAME.fullmatch(name):
            intervals = await self._read_intervals(name)
        if intervals is None:
            names = [listed for listed, _ in await self.list()]
            raise AggregatorNotFoundError(
                f"There is no aggregator {name!r}.{nearest(str(name), names)} ohlc_create makes one."
            )
        return self._remember(name, intervals)

    async def list(self) -> list[tuple[str, list[int]]]:
        """Names and intervals of all aggregators, sorted by name. A broken one is left out, and logged once."""
        found = []
        for raw in sorted(await self._connection.command("SMEMBERS", INDEX, repeatable=True)):
            try:
                name = raw.decode()
                intervals = await self._read_intervals(name)
            except (UnicodeDecodeError, WrongTypeError) as error:
                if raw not in self._reported:
                    self._reported.add(raw)
                    log.error("The index of aggregators (%s) names %r, which is left out: %s", INDEX, raw, error)
                continue
            if intervals is not None:
                found.append((name, intervals))
        return found

    def forget(self, name: str) -> None:
        """Drop this process' view of an aggregator; the next use reads it from Redis again."""
        self._known.pop(name, None)

    async def snapshot_all(self) -> None:
        """Write every snapshot that is due, at exit. What fails is in the journal all the same."""
        for aggregator in list(self._known.values()):
            try:
                await aggregator.snapshot()
            except StreamMachineError as error:
                log.warning("The snapshot of aggregator %r was not written: %s", aggregator.name, error)

    async def _read_intervals(self, name: str) -> _Intervals | None:
        """The intervals that stand in Redis; None where there is no such aggregator.

        Raises:
            WrongTypeError: what stands there is no aggregator of ours.
        """
        try:
            stands = await self._connection.command("HGET", _key(name), "intervals", repeatable=True)
        except WrongTypeError as error:
            raise _broken(name, "the key holds another type of value") from error
        return None if stands is None else _intervals(name, stands)

    def _remember(self, name: str, intervals: Sequence[int]) -> DurableAggregator:
        known = self._known.get(name)
        if known is None or known.intervals != list(intervals):
            known = self._known[name] = DurableAggregator(self._connection, name, intervals)
        return known


def _key(name: str) -> str:
    return f"sm:ohlc:{{{name}}}"


def _intervals(name: str, stands: Any) -> list[int]:
    """The intervals behind the stored JSON."""
    try:
        return list(create_ohlc_aggregator(json.loads(stands)).intervals)
    except _UNREADABLE as error:
        raise _broken(name, f"its intervals are {_text(stands)[:100]!r}, no JSON list of milliseconds") from error


def _broken(name: str, why: str) -> WrongTypeError:
    return WrongTypeError(
        f"The aggregator {name!r} in Redis was not written by StreamMachine: {why}. Delete the keys {_key(name)} and "
        f"{_key(name)}:journal, then create it again."
    )


def _unknown_interval(name: str, interval: int, intervals: Sequence[int]) -> IntervalError:
    return IntervalError(f"Aggregator {name!r} has no interval {interval} ms; it has {list(intervals)}.")


def _text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _answer(answer: asyncio.Future[Any], view: Callable[[FastOHLC], Any], memory: FastOHLC) -> None:
    """Answer one who waits; what the view raises is for that one alone."""
    if answer.done():  # its caller was cancelled
        return
    try:
        answer.set_result(view(memory))
    except Exception as error:  # noqa: BLE001  # raised where it is awaited
        answer.set_exception(error)
