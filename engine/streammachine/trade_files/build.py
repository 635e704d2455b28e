"""``build_candles``: trade files into candles of any timeframes, into sinks."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import anyio.to_thread

from streammachine.errors import DataInputError, TickError
from streammachine.market.backfill.progress import bar
from streammachine.market.emitters.outlet import Outlet
from streammachine.market.emitters.sink_text import emitters_for
from streammachine.market.model.kline import Kline
from streammachine.market.model.rows import Lane
from streammachine.trade_files.blocks import BAD_FILE
from streammachine.trade_files.folding import Folding, checked_timeframes
from streammachine.trade_files.sources import Part, parts_of

ROWS: Final = 5_000  # candles that are handed on at once
LOOK: Final = 0.05  # seconds after which the bar moves, and the work can be ended, also where no candle is over


@dataclass(slots=True)
class BuiltCandles:
    """What ``build_candles`` did.

    Attributes:
        files: read, members of a zip and frames among them. trades: in candles. candles: made. duplicates: rows left
            out, their id having been there. late: trades that came more than an hour after their candle, and are in
            none. failed: candles that a sink refused. symbols: met, sorted.
    """

    files: int = 0
    trades: int = 0
    candles: int = 0
    duplicates: int = 0
    late: int = 0
    failed: int = 0
    symbols: list[str] = field(default_factory=list)


def build_candles(
    source: Any,
    timeframes: str | Sequence[str],
    to: Any,
    *,
    symbol: str | None = None,
    exchange: str | None = None,
    progress: bool | None = None,
) -> BuiltCandles:
    """Build candles from trade files, a block at a time: memory does not grow with the files.

    The layouts of Binance (trades and aggTrades, spot and futures), OKX, Bybit and Kraken are known; other files need a
    first line of names. The candles are those of ``FastOHLC`` over the same trades: where nobody traded there is none.
    ``quote_volume`` is the sum of price times volume. A symbol's last candle has ``is_closed`` None, since the file may
    end in the middle of it.

    Args:
        source: a path or pattern (``trades/*.zip``) of CSV, .gz, .zip or Parquet files, several of them, in any order;
            or a pandas or polars DataFrame or Arrow table.
        timeframes: such as ``["1m", "5m"]`` or ``"1m,5m"``; all but 1M.
        to: where the candles go: a sink's text (``parquet:FOLDER``, ``csv:out.csv``, ...), an emitter, or several.
        symbol: of files that have no column of symbols; else their names say it (``BTCUSDT-trades-2025-01.zip``).
        exchange: the candles' source where the layout does not tell it.
        progress: a bar on stderr; None: where that is a terminal.

    Returns:
        What was done.

    Raises:
        DataInputError: a file is missing or cannot be read as trades; the text names the file and the line. Candles
            that were built before have been emitted.
        EmitterError: a sink cannot be used. TimeframeError: one is none.

    Example:
        >>> build_candles("BTCUSDT-trades-2025-*.zip", "1m,1h", to="parquet:candles")  # doctest: +SKIP
    """
    return anyio.run(
        lambda: abuild_candles(source, timeframes, to, symbol=symbol, exchange=exchange, progress=progress)
    )


async def abuild_candles(
    source: Any,
    timeframes: str | Sequence[str],
    to: Any,
    *,
    symbol: str | None = None,
    exchange: str | None = None,
    progress: bool | None = None,
) -> BuiltCandles:
    """``build_candles`` in a running loop, which goes on meanwhile."""
    wanted = checked_timeframes(timeframes)
    emitters = _emitters(to)
    parts = await anyio.to_thread.run_sync(parts_of, source, symbol)
    built = BuiltCandles()
    work = _Work(parts, wanted, exchange)
    lanes = [
        Lane(part.layout.source or exchange or "", part.symbol, name, None)
        for part in parts
        for name in wanted
        if "symbol" not in part.layout.places
    ]
    async with AsyncExitStack() as stack:
        outlets = [
            await stack.enter_async_context(Outlet(emitter, expected=list(dict.fromkeys(lanes))))
            for emitter in emitters
        ]
        show = stack.enter_context(bar("trades", work.size, note=work.note, wanted=progress))
        steps = work.steps()
        try:
            while (candles := await anyio.to_thread.run_sync(next, steps, None)) is not None:
                built.candles += len(candles)
                for at in range(0, len(candles), ROWS):
                    for outlet in outlets:
                        await outlet.put(candles[at : at + ROWS])
                show(work.done, built.candles)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(steps.close)
        for outlet in outlets:
            await outlet.drain()
        built.failed = sum(outlet.stats.failed for outlet in outlets)
    work.report(built)
    return built


def _emitters(to: Any) -> list[Any]:
    """The emitters of texts and objects, mixed.

    Raises:
        DataInputError: there is none.
    """
    given = [to] if isinstance(to, str) or not isinstance(to, Sequence) else list(to)
    texts = [each for each in given if isinstance(each, str)]
    made = iter(emitters_for(texts))
    found = [next(made) if isinstance(each, str) else each for each in given if each is not None]
    if not found:
        raise DataInputError("there is no sink for the candles: give to='parquet:FOLDER', 'csv:FILE' or another")
    return found


class _Work:
    """The parts, one after the other, each source folded apart. ``done``: bytes of ``size`` that are read."""

    def __init__(self, parts: list[Part], wanted: list[str], exchange: str | None) -> None:
        self.size = sum(part.size for part in parts) or 1
        self.done = 0
        self._parts = parts
        self._wanted = wanted
        self._exchange = exchange
        self._foldings: dict[str | None, Folding] = {}
        self._symbols: set[str] = set()

    def steps(self) -> Generator[list[Kline]]:
        """The candles as they come; [] now and then where none is over, so that the bar moves."""
        due = 0.0
        last = {part.lane: at for at, part in enumerate(self._parts)}
        for at, part in enumerate(self._parts):
            folding = self._folding(part)
            before = self.done
            try:
                for rows, read in part.read():
                    folding.add(rows, part.symbol, rising=part.layout.rising)
                    self._symbols.update(rows.symbols or [part.symbol])
                    self.done = before + min(read, part.size)
                    found = [] if part.backwards else folding.over()
                    if found or time.monotonic() >= due:
                        yield found
                        due = time.monotonic() + LOOK
            except (*BAD_FILE, TickError, ValueError) as error:
                raise DataInputError(f"{part.name}: {error}") from error
            self.done = before + part.size
            if last[part.lane] == at and part.lane[1]:
                yield folding.rest(part.symbol)
        for folding in self._foldings.values():
            yield folding.rest()

    def note(self) -> str:
        """How far it is, in trades, for the bar."""
        return f"{sum(folding.trades for folding in self._foldings.values()):,} trades"

    def report(self, built: BuiltCandles) -> None:
        built.files = len(self._parts)
        built.symbols = sorted(self._symbols)
        for folding in self._foldings.values():
            built.trades += folding.trades
            built.duplicates += folding.duplicates
            built.late += folding.late

    def _folding(self, part: Part) -> Folding:
        source = part.layout.source or self._exchange or ""  # a table's key has no place for None
        folding = self._foldings.setdefault(source, Folding(source, self._wanted))
        folding.begin_file(joins="first" in part.layout.places)
        return folding
