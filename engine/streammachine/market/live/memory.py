"""What a runner remembers between two starts: how far its sinks have come, in a small file of the data directory.

The file (0600, written whole under another name and then renamed, so that a kill leaves the old or the new one) holds
the last closed candle of each symbol and timeframe, or the last trade or quote, that every sink has taken. It is
written about once a second, so that a killed runner repeats at most what its sinks took after that: each row at least
once. A CSV leaves out what stands at its end already; Redis, PostgreSQL and DuckDB take a row once in any
case.

A file is of one exchange, timeframe and set of sinks, and of some symbols; a runner of other symbols finds what is
there of its own. A new set of sinks goes on where those of its sinks that are known had come to, the one furthest
behind: none of them gets a hole, and one may get rows again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from streammachine.market.backfill.journal import digest
from streammachine.market.backfill.sink import data_dir
from streammachine.market.emitters.base import DataEmitter
from streammachine.market.emitters.logger import Logger
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.kline import Gap, Trade
from streammachine.market.model.quote import Quote

if TYPE_CHECKING:
    from streammachine.market.emitters.outlet import Outlet
    from streammachine.market.exchanges.base import Adapter, Urls
    from streammachine.market.model.data_input import DataInput

try:
    import fcntl
except ImportError:  # Windows: nobody keeps two runners apart there
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

EVERY: Final = 1.0  # seconds, real ones, between two looks at how far the sinks are
MOST_FILES: Final = 200  # in the folder; the oldest go
MOST_BYTES: Final = 16 << 20  # of one file: 100,000 symbols
MOST_CANDLES: Final = 20_000  # missed candles of a symbol that are loaded; before them stands a Gap
MOST_TRADES: Final = 2 * timeframes.HOUR  # milliseconds of missed trades that are asked for
NO_QUOTES: Final = "nobody ran, and quotes of the past cannot be had"
VERSION: Final = 1

Candles = dict[tuple[str, str], int]
Trades = dict[str, tuple[str, int]]  # by symbol: the id and time of the last one; of a quote the time only


@dataclass
class Remembered:
    """What an earlier run left behind, as far as it is of use now.

    Attributes:
        candles: (symbol, timeframe) to the open_ts of the last closed candle. trades: by symbol, the last one's id and
            time. gaps: what was missed and is too much, or too long ago, to be had.
    """

    candles: Candles = field(default_factory=dict)
    trades: Trades = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)

    @property
    def after(self) -> dict[tuple[str, str | None], int | str]:
        """Where the feed goes on with trades."""
        return {(symbol, None): identifier for symbol, (identifier, _) in self.trades.items()}


class Memory:
    """The file of one runner. Use with ``with``: it is this process's alone while it runs.

    Args:
        folder: where the files are; None: below the data directory.
        fresh: begin anew; what was remembered is replaced at the first checkpoint.
    """

    def __init__(
        self,
        adapter: Adapter,
        urls: Urls,
        data_input: DataInput,
        emitters: Sequence[Any],
        *,
        folder: Path | None = None,
        fresh: bool = False,
    ) -> None:
        host = "" if urls.rest == adapter.default_urls.rest else urlsplit(urls.rest).hostname or ""
        places = sorted(_place(emitter) for emitter in emitters)
        facts = [adapter.name, adapter.market_type, host, data_input.kind, data_input.timeframe]
        self._series = digest(json.dumps([*facts, places, sorted(data_input.aggregate_list)]))
        self._base = digest(json.dumps([*facts, sorted(data_input.aggregate_list)]))
        self._sinks = [digest(place) for place in places]
        self._folder = folder if folder is not None else data_dir() / "runners"
        symbols = digest(json.dumps(sorted(data_input.symbols)))[:8]
        self.path = self._folder / f"{adapter.name}-{self._series}-{symbols}.json"
        self._adapter = adapter
        self._input = data_input
        self._fresh = fresh
        self._lock: Any = None
        self._written: Any = None

    @staticmethod
    def is_of_use(emitters: Sequence[Any]) -> bool:
        """Whether any of the sinks keeps what it gets."""
        return any(not isinstance(emitter, Logger) for emitter in emitters)

    def __enter__(self) -> Self:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._lock = lock
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._release()
            log.warning("the same runner is at work in another process: this one will not be remembered")
        except OSError as error:
            self._release()
            log.warning("this runner will not be remembered: %s cannot be written: %s", self._folder, error.strerror)
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    # -- reading ------------------------------------------------------------------------------

    def recall(self, now: int) -> Remembered:
        """What is of use of what earlier runs left.

        Args:
            now: epoch milliseconds.
        """
        found = Remembered()
        if self._fresh:
            return found
        symbols = set(self._input.symbols)
        for path in sorted(self._folder.glob(f"{self._adapter.name}-{self._series}-*.json"))[:MOST_FILES]:
            self._take(_read(path), found, symbols, now, newest=True)
        if not found.candles and not found.trades:
            for path in sorted(self._folder.glob(f"{self._adapter.name}-*.json"))[:MOST_FILES]:
                values = _read(path)
                if values.get("base") == self._base and not set(self._sinks).isdisjoint(values.get("sinks", ())):
                    self._take(values, found, symbols, now, newest=False)
        self._bound(found, now)
        return found

    @staticmethod
    def _take(values: dict[str, Any], found: Remembered, symbols: set[str], now: int, *, newest: bool) -> None:
        """Add what a file holds of these symbols; of two places the newest or the one further behind."""
        choose = max if newest else min
        for symbol, timeframe, open_ts in values.get("candles", ()):
            if symbol in symbols and open_ts < now:
                place = symbol, timeframe
                found.candles[place] = choose(found.candles.get(place, open_ts), open_ts)
        for symbol, identifier, ts in values.get("trades", ()):
            if symbol in symbols and ts <= now:
                had = found.trades.get(symbol, (identifier, ts))
                found.trades[symbol] = choose(had, (identifier, ts), key=lambda trade: trade[1])

    def _bound(self, found: Remembered, now: int) -> None:
        source, base = self._adapter.source, self._input.timeframe
        if self._input.kind == "quote":
            for symbol, (_, ts) in found.trades.items():
                if ts + 1 < now:
                    found.gaps.append(Gap(source, symbol, "quote", ts + 1, now, NO_QUOTES))
                found.trades[symbol] = "quote", now  # what is before has been told
            return
        for symbol, (_, ts) in list(found.trades.items()):
            if now - ts > MOST_TRADES:
                del found.trades[symbol]
                found.gaps.append(Gap(source, symbol, "trade", ts + 1, now, "nobody ran for more than two hours"))
        if base is None:
            return
        able = self._input.kind == "kline" or base in self._adapter.timeframes
        running = timeframes.floor(base, now)
        for symbol in self._input.symbols:
            had = found.candles.get((symbol, base))
            if had is None:
                continue
            due = timeframes.end_of(base, had)
            first = timeframes.shift(base, running, -MOST_CANDLES) if able else running
            if due < first:
                reason = "nobody ran" if able else f"nobody ran, and there are no {base} candles to load"
                found.gaps.append(Gap(source, symbol, base, due, first, reason))
                found.candles[symbol, base] = timeframes.shift(base, first, -1)
                for target in self._input.aggregate_list:
                    found.candles.pop((symbol, target), None)

    # -- writing ------------------------------------------------------------------------------

    async def save(self, candles: Candles, trades: Trades) -> None:
        """Keep how far every sink is. A disk that is full costs the memory, not the run."""
        values = {
            "version": VERSION,
            "base": self._base,
            "sinks": self._sinks,
            "candles": [[symbol, timeframe, open_ts] for (symbol, timeframe), open_ts in sorted(candles.items())],
            "trades": [[symbol, identifier, ts] for symbol, (identifier, ts) in sorted(trades.items())],
        }
        if self._lock is None or values == self._written or not (candles or trades):
            return
        try:
            await anyio.to_thread.run_sync(self._write, json.dumps({**values, "saved": time.time()}).encode())
        except OSError as error:
            log.warning("how far this runner is could not be kept in %s: %s", self.path, error.strerror)
        else:
            self._written = values

    def _write(self, content: bytes) -> None:
        half = self.path.with_suffix(f".{os.getpid()}.part")
        try:
            descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            half.replace(self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                half.unlink(missing_ok=True)
            raise
        if self._written is None:
            self._prune()

    def _prune(self) -> None:
        """Keep the newest files; what a killed process left half written goes too."""
        with contextlib.suppress(OSError):
            by_age = sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
            for path in by_age[MOST_FILES:]:
                path.unlink(missing_ok=True)
                path.with_suffix(".lock").unlink(missing_ok=True)
            for path in self._folder.glob(f"{self.path.stem}.*.part"):
                path.unlink(missing_ok=True)

    def _release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


@dataclass(slots=True)
class _Mark:
    """What had been handed on at a moment: how far, how many rows to each outlet, and what its emitter then had."""

    candles: Candles
    trades: Trades
    put: list[int]
    taken: list[int] | None = None


class Checkpoints:
    """Finds the moments at which every sink has taken what was handed on, and has the memory keep them.

    Args:
        lock: held while rows are handed on, so that what is noted and what was handed on agree.
    """

    def __init__(self, memory: Memory, outlets: Sequence[Outlet], lock: anyio.Lock) -> None:
        self._memory = memory
        self._outlets = outlets
        self._lock = lock
        self._last: Mapping[tuple[str, str], Any] = {}
        self.candles: Candles = {}
        self.trades: Trades = {}

    def note(self, last: Mapping[tuple[str, str], Any], rows: Sequence[Any]) -> None:
        """Rows were handed on; ``last``: the last closed candle of each symbol and timeframe by then."""
        self._last = last
        for row in rows:
            if isinstance(row, Trade):
                self.trades[row.symbol] = row.trade_id, row.ts
            elif isinstance(row, Quote):
                self.trades[row.symbol] = "quote", row.ts

    async def run(self) -> None:
        """Keep checkpoints until cancelled."""
        mark: _Mark | None = None
        while True:
            await anyio.sleep(EVERY)
            if mark is None:
                async with self._lock:
                    mark = _Mark(*self._now(), [outlet.progress[0] for outlet in self._outlets])
            if self._is_kept(mark):
                await self._memory.save(mark.candles, mark.trades)
                mark = None

    def _is_kept(self, mark: _Mark) -> bool:
        """Whether every sink has what the mark speaks of, so that a kill does not lose it."""
        if any(outlet.progress[1] < put for outlet, put in zip(self._outlets, mark.put, strict=True)):
            return False
        emitters = [outlet.emitter for outlet in self._outlets if isinstance(outlet.emitter, DataEmitter)]
        if mark.taken is None:
            mark.taken = [emitter.taken for emitter in emitters]
        return all(emitter.settled(taken) for emitter, taken in zip(emitters, mark.taken, strict=True))

    async def finish(self) -> None:
        """All sinks have taken and flushed everything."""
        with anyio.CancelScope(shield=True):
            await self._memory.save(*self._now())

    def _now(self) -> tuple[Candles, Trades]:
        candles = {**self.candles, **{place: kline.open_ts for place, kline in self._last.items()}}
        return candles, dict(self.trades)


def _place(emitter: Any) -> str:
    target = getattr(emitter, "target", None)
    return str(target) if target else f"{type(emitter).__module__}.{type(emitter).__qualname__}"


def _read(path: Path) -> dict[str, Any]:
    """What a file holds, checked; nothing where it is not one of ours."""
    try:
        if path.stat().st_size > MOST_BYTES:
            return {}
        values = json.loads(path.read_bytes())
        if values["version"] != VERSION:
            return {}
        for symbol, timeframe, open_ts in values["candles"]:
            if not isinstance(symbol, str) or type(open_ts) is not int or timeframe not in timeframes.TIMEFRAMES:
                raise ValueError("no candle")
        for symbol, identifier, ts in values["trades"]:
            if not isinstance(symbol, str) or not isinstance(identifier, str) or type(ts) is not int:
                raise ValueError("no trade")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning("%s is left out: %s", path, error)
        return {}
    else:
        return dict(values)
