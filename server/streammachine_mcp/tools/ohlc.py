"""OHLC tools: durable candle aggregators (streammachine.ohlc.durable)."""

import math
import time
from collections.abc import Sequence
from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from streammachine.errors import IntervalError, TickError
from streammachine.ohlc.aggregator import IMPLEMENTATION, CandleData
from streammachine.ohlc.durable import DurableAggregator, Tick
from streammachine.redis.streams import nearest
from streammachine_mcp.argument_types import Interval, TimeMs, TimeMsOrNow
from streammachine_mcp.candle_table import CandleTable, Fields, Form, Indicators, indicators_of
from streammachine_mcp.results import MAX_BATCH, MAX_RESULT_BYTES, fit
from streammachine_mcp.tools.family import BRIEF, Family, tool

COLUMNS = ("candle_start_ms", "open", "high", "low", "close", "volume", "timestamp_ms", "trade_count")
SYMBOL_BYTES = 20_000  # of the symbols that ohlc_stats lists

Name = Annotated[str, Field(description="Aggregator name", min_length=1, max_length=200)]
Symbol = Annotated[str, Field(description="Symbol, e.g. BTCUSDT", min_length=1, max_length=200)]
IntervalMs = Annotated[Interval, Field(description="Candle length: 60000 or '1m'")]
BeforeMs = Annotated[TimeMsOrNow, Field(description="Candles that end by this time; 0 = now")]
Limit = Annotated[int, Field(description="Most candles, the newest", ge=1, le=1000)]


class TickIn(TypedDict):
    symbol: Annotated[str, Field(min_length=1, max_length=200)]
    price: float
    volume: float
    timestamp_ms: NotRequired[TimeMs]


class AggregatorCreated(TypedDict):
    name: str
    intervals: list[int]
    implementation: str
    created: bool


class Updated(TypedDict):
    name: str
    symbol: str
    tick_count: int
    accepted: int


class AggregatorCandles(TypedDict):
    name: str
    symbol: str
    interval_ms: int
    candle_count: int
    columns: dict[str, Any]  # a list of numbers each; said here it would cost every client
    candles: NotRequired[list[dict[str, Any]]]
    truncated: bool
    hint: NotRequired[str]


class CompletedCandles(TypedDict):
    name: str
    symbol: str
    interval_ms: int
    completed_count: int
    columns: dict[str, Any]  # a list of numbers each; said here it would cost every client
    candles: NotRequired[list[dict[str, Any]]]
    truncated: bool
    hint: NotRequired[str]


class Flushed(TypedDict):
    name: str
    flushed: int


class AggregatorCleared(TypedDict):
    name: str
    cleared: bool
    ticks_removed: int


class AggregatorStats(TypedDict):
    name: str
    tick_count: int
    late_count: int
    dropped_count: int
    symbols: list[str]
    symbol_count: int
    intervals: list[int]
    implementation: str
    truncated: bool
    hint: NotRequired[str]


class Listed(TypedDict):
    name: str
    intervals: list[int]


class Aggregators(TypedDict):
    aggregators: list[str]
    details: list[Annotated[Listed, BRIEF]]
    count: int
    truncated: bool
    hint: NotRequired[str]


class OhlcTools(Family):
    toolset = "ohlc"

    @tool("ohlc_create", "Create an aggregator", idempotent=True)
    async def create(
        self,
        name: Name,
        intervals: Annotated[
            list[Interval] | None,
            Field(description="Candle lengths: 60000 or '1m'; default [60000, 300000]", min_length=1, max_length=20),
        ] = None,
    ) -> AggregatorCreated:
        """Create a durable aggregator that turns ticks into OHLC candles, or get the one of that name and intervals.
        Feed it with ohlc_update."""
        aggregator, new = await (await self.state.aggregators()).create(name, intervals)
        return {
            "name": name,
            "intervals": aggregator.intervals,
            "implementation": IMPLEMENTATION,
            "created": new,
        }

    @tool("ohlc_update", "Add ticks")
    async def update(
        self,
        name: Name,
        symbol: Annotated[str | None, Field(description="Symbol, e.g. BTCUSDT", min_length=1, max_length=200)] = None,
        price: Annotated[float | None, Field(description="Trade price")] = None,
        volume: Annotated[float | None, Field(description="Trade volume")] = None,
        timestamp_ms: Annotated[
            TimeMs | None, Field(description="Time of the trade: epoch ms, ISO; default now")
        ] = None,
        ticks: Annotated[list[TickIn] | None, Field(description="Instead of one trade", max_length=MAX_BATCH)] = None,
    ) -> Updated:
        """Add one trade (symbol, price, volume) or a batch (ticks). Answered when it is safe in Redis; a refused tick
        refuses the whole call."""
        batch = _ticks(symbol, price, volume, timestamp_ms, ticks)
        aggregator = await self._get(name)
        count = await aggregator.update(batch)
        return {"name": name, "symbol": batch[-1].symbol, "tick_count": count, "accepted": len(batch)}

    @tool("ohlc_get_candles", "Get candles", reads=True)
    async def get_candles(
        self,
        name: Name,
        symbol: Symbol,
        interval_ms: IntervalMs,
        limit: Limit = 200,
        end_ms: BeforeMs = 0,
        indicators: Indicators = None,
        fields: Fields = None,
        format: Form = "columns",
    ) -> AggregatorCandles:
        """Candles of a symbol, oldest first, the open one included, as columns. A volume too large is null.
        For older ones give the first candle_start_ms as end_ms."""
        table = CandleTable(COLUMNS, fields, format, await indicators_of(indicators))
        aggregator = await self._get(name)
        check_interval(aggregator, interval_ms)
        found = await aggregator.candles(symbol, interval_ms)
        if end_ms:
            found = [candle for candle in found if candle.candle_start_ms + interval_ms <= end_ms]
        kept, more, body = await _newest(table, found, limit)
        page: AggregatorCandles = {
            "name": name,
            "symbol": symbol,
            "interval_ms": interval_ms,
            "candle_count": len(kept),
            **body,  # type: ignore[typeddict-item]
            "truncated": more,
        }
        if more:
            page["hint"] = f"There are older candles: call again with end_ms={kept[0][0]}."
        elif not kept and not end_ms:
            page["hint"] = await _no_candles(aggregator, symbol)
        return page

    @tool("ohlc_get_completed", "Get completed candles", reads=True)
    async def get_completed(
        self,
        name: Name,
        symbol: Symbol,
        interval_ms: IntervalMs,
        before_timestamp_ms: BeforeMs = 0,
        limit: Limit = 200,
        indicators: Indicators = None,
        fields: Fields = None,
        format: Form = "columns",
    ) -> CompletedCandles:
        """Candles whose time is over, oldest first, as columns. When you have used them, remove them with
        ohlc_flush."""
        table = CandleTable(COLUMNS, fields, format, await indicators_of(indicators))
        aggregator = await self._get(name)
        check_interval(aggregator, interval_ms)
        found = await aggregator.completed(symbol, interval_ms, before_timestamp_ms)
        kept, more, body = await _newest(table, found, limit)
        page: CompletedCandles = {
            "name": name,
            "symbol": symbol,
            "interval_ms": interval_ms,
            "completed_count": len(kept),
            **body,  # type: ignore[typeddict-item]
            "truncated": more,
        }
        if more:
            page["hint"] = f"There are older ones: call again with before_timestamp_ms={kept[0][0]}."
        elif not kept:
            page["hint"] = await _no_candles(aggregator, symbol)
        return page

    @tool("ohlc_flush", "Remove completed candles", destructive=True, idempotent=True)
    async def flush(
        self, name: Name, symbol: Symbol, interval_ms: IntervalMs, before_timestamp_ms: BeforeMs = 0
    ) -> Flushed:
        """Remove the completed candles at once and say how many. Later ticks of that time count as late."""
        aggregator = await self._get(name)
        return {"name": name, "flushed": await aggregator.flush(symbol, interval_ms, before_timestamp_ms)}

    @tool("ohlc_clear", "Clear an aggregator", destructive=True, idempotent=True)
    async def clear(self, name: Name) -> AggregatorCleared:
        """Remove all candles and counts of an aggregator at once; the aggregator stays."""
        return {"name": name, "cleared": True, "ticks_removed": await (await self._get(name)).clear()}

    @tool("ohlc_stats", "Aggregator statistics", reads=True)
    async def stats(
        self,
        name: Name,
        symbols_after: Annotated[str | None, Field(description="To go on: the last symbol you got")] = None,
    ) -> AggregatorStats:
        """Ticks taken, late ticks, dropped candles and symbols of an aggregator."""
        aggregator = await self._get(name)
        facts = await aggregator.stats()
        known = sorted(facts["symbols"])
        symbols, cut = fit((name for name in known if symbols_after is None or name > symbols_after), SYMBOL_BYTES)
        page: AggregatorStats = {
            "name": name,
            "tick_count": facts["tick_count"],
            "late_count": facts["late_count"],
            "dropped_count": facts["dropped_count"],
            "symbols": symbols,
            "symbol_count": len(known),
            "intervals": aggregator.intervals,
            "implementation": IMPLEMENTATION,
            "truncated": cut,
        }
        if cut:
            page["hint"] = "There are more symbols: call again with symbols_after=<the last one>."
        return page

    @tool("ohlc_list", "List aggregators", reads=True)
    async def find(
        self,
        after: Annotated[str | None, Field(description="To go on: the last you got")] = None,
    ) -> Aggregators:
        """List the aggregators and their intervals, sorted."""
        found = await (await self.state.aggregators()).list()
        details: list[Listed] = [
            {"name": name, "intervals": intervals} for name, intervals in found if after is None or name > after
        ]
        kept, cut = fit(details, MAX_RESULT_BYTES // 2)  # each name is given twice
        page: Aggregators = {
            "aggregators": [listed["name"] for listed in kept],
            "details": kept,
            "count": len(found),
            "truncated": cut,
        }
        if cut:
            page["hint"] = "There are more: call again with after=<the last name>."
        return page

    async def _get(self, name: str) -> DurableAggregator:
        return await (await self.state.aggregators()).get(name)


def _ticks(
    symbol: str | None,
    price: float | None,
    volume: float | None,
    timestamp_ms: int | None,
    ticks: list[TickIn] | None,
) -> list[Tick]:
    now = time.time_ns() // 1_000_000
    single = (symbol, price, volume)
    if ticks is not None:
        if any(part is not None for part in (*single, timestamp_ms)):
            raise TickError("Give either symbol, price and volume, or ticks, not both.")
        if not ticks:
            raise TickError("ticks is empty; give at least one tick.")
        return [Tick(tick["symbol"], tick["price"], tick["volume"], tick.get("timestamp_ms", now)) for tick in ticks]
    if symbol is None or price is None or volume is None:
        missing = [name for name, part in zip(("symbol", "price", "volume"), single, strict=True) if part is None]
        raise TickError(f"{', '.join(missing)} missing: one trade needs symbol, price and volume (or give ticks).")
    return [Tick(symbol, price, volume, now if timestamp_ms is None else timestamp_ms)]


def check_interval(aggregator: DurableAggregator, interval_ms: int) -> None:
    if interval_ms not in aggregator.intervals:
        raise IntervalError(
            f"Aggregator {aggregator.name!r} has no interval {interval_ms} ms; it has {aggregator.intervals}."
        )


async def _newest(
    table: CandleTable, found: Sequence[CandleData], limit: int
) -> tuple[list[Sequence[Any]], bool, dict[str, Any]]:
    """The newest candles within limit and size as rows of ``COLUMNS``, oldest first; whether older ones were left out;
    and what goes into the result."""
    kept, cut = table.fit([candle_row(candle) for candle in found[-limit:]], newest=True)
    before = found[max(0, len(found) - len(kept) - table.history) : len(found) - len(kept)]
    body = await table.body(kept, [candle_row(candle) for candle in before])
    return kept, cut or len(found) > limit, body


def candle_row(candle: CandleData) -> list[Any]:
    """A candle as a row of ``COLUMNS``; a volume whose sum is beyond what a float holds is None."""
    values = candle.to_dict()
    if values["volume"] is not None and not math.isfinite(values["volume"]):
        values["volume"] = None
    return [values[name] for name in COLUMNS]


async def _no_candles(aggregator: DurableAggregator, symbol: str) -> str:
    known = await aggregator.symbols()
    if symbol in known:
        return "No candle matches; the symbol's open candle is not complete yet, or all were flushed."
    return f"No tick of {symbol!r} has come yet.{nearest(symbol, known)}"
