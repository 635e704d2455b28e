"""The chart tool: candles as a picture in the chat, and as an interactive page where the client shows MCP Apps."""

import base64
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, cast

from fastmcp.tools.base import ToolResult
from mcp_types import ImageContent, TextContent
from pydantic import Field
from typing_extensions import TypedDict

from streammachine.errors import ChartError
from streammachine.market.model.timeframe import MILLISECONDS
from streammachine_mcp import candle_series
from streammachine_mcp.argument_types import Exchange, Interval, Moment, Timeframe
from streammachine_mcp.candle_table import Indicators, history_of, indicator_columns, indicators_of
from streammachine_mcp.page import CANDLES_URI
from streammachine_mcp.pictures import Pictures
from streammachine_mcp.safety import Confirmer
from streammachine_mcp.tools import market, ohlc
from streammachine_mcp.tools.family import Family, tool

if TYPE_CHECKING:
    from streammachine.charts import ChartLine
    from streammachine.indicators import Indicator
    from streammachine_mcp.state import ServerState

MOST_INDICATORS = 4
MOST_GAPS = 20  # that a summary names
WIDTH, HEIGHT = 1000, 600

_Range = tuple[int | None, int | None]


class ChartSummary(TypedDict):
    # high and low have value and at (ms); data has a tool and arguments that give the same candles, ended (they are of
    # the past only) and lines (how indicators look). A docstring, and more types, would stand in the schema.
    title: str
    count: int
    first_ms: int
    last_ms: int
    open: float
    close: float
    change_percent: float | None
    high: dict[str, Any]
    low: dict[str, Any]
    volume: float | None
    indicators: dict[str, Any]
    missing: int
    gaps: list[list[int]]
    incomplete: int
    last_is_open: bool
    data: dict[str, Any]
    truncated: bool
    hint: NotRequired[str]
    picture_problem: NotRequired[str]


@dataclass(frozen=True)
class _Series:
    """Candles to draw, wherever they are from.

    Attributes:
        names, rows: as ``candle_table`` has them. history: before them. start, closed, complete: of a row.
        following: where the next candle begins. tool, arguments: what gives the same candles as numbers.
    """

    title: str
    names: Sequence[str]
    rows: Sequence[Sequence[Any]]
    history: Sequence[Sequence[Any]]
    closed: list[bool]
    complete: list[bool]
    following: Callable[[int], int]
    more: bool
    tool: str
    arguments: dict[str, Any]

    def column(self, name: str) -> list[Any]:
        place = self.names.index(name)
        return [row[place] for row in self.rows]


class ChartTools(Family):
    toolset = "market"

    def __init__(self, state: "ServerState", confirmer: Confirmer) -> None:
        super().__init__(state, confirmer)
        self.pictures = Pictures()

    @tool("candles_chart", "Draw candles", reads=True, page=CANDLES_URI)
    async def chart(
        self,
        exchange: Annotated[Exchange | None, Field(description="Exchange")] = None,
        symbol: Annotated[str | None, Field(description="Symbol", max_length=200)] = None,
        timeframe: Timeframe = "1m",
        start: Annotated[Moment | None, Field(description="As in candles_read")] = None,
        end: Annotated[Moment | None, Field(description="As in candles_read")] = None,
        limit: Annotated[int, Field(description="Most candles", ge=1, le=1000)] = 200,
        indicators: Indicators = None,
        theme: Annotated[Literal["light", "dark"], Field(description="Theme")] = "light",
        name: Annotated[str | None, Field(description="Aggregator, not exchange", max_length=200)] = None,
        interval: Annotated[Interval | None, Field(description="Of the aggregator")] = None,
    ) -> ChartSummary:
        """A picture of candles, with up to 4 indicators and gaps marked, and a summary: of an exchange (what runners
        and backfills wrote) or an aggregator (name, symbol, interval). Interactive with MCP Apps."""
        self.pictures.warm_up()
        wanted = await indicators_of(indicators, most=MOST_INDICATORS)
        given = (None if start is None else market.moment_ms(start), None if end is None else market.moment_ms(end))
        async with self.pictures.turn():
            if name is not None:
                length = interval if interval is not None else MILLISECONDS.get(timeframe)
                series = await self._of_aggregator(name, symbol, length, given, limit, wanted)
            else:
                series = await self._of_exchange(exchange, symbol, timeframe, given, limit, wanted)
            values = await indicator_columns(wanted, series.names, series.rows, series.history)
            summary = _summary(series, values, wanted, ended=end is not None)
            try:
                picture = await self._picture(series, wanted, values, theme)
            except ChartError as error:
                summary["picture_problem"] = str(error)
                picture = None
        return cast(ChartSummary, _result(summary, picture))

    async def _of_exchange(
        self,
        exchange: str | None,
        symbol: str | None,
        timeframe: str,
        given: _Range,
        limit: int,
        wanted: "Sequence[Indicator]",
    ) -> _Series:
        from streammachine.market.exchanges import adapter_for
        from streammachine.market.model import timeframe as timeframes

        if exchange is None or symbol is None:
            raise ChartError(
                "Say what to draw: exchange, symbol, timeframe, or an aggregator's name, symbol, interval."
            )
        connection = await self.state.redis()
        name = adapter_for(exchange, "SPOT").check_symbol(symbol)
        stream = f"kline:{exchange}:{name}:{timeframe}"
        rows, more, _ = await candle_series.read_series(connection, stream, given[0], given[1], limit)
        closed, complete = (candle_series.COLUMNS.index(flag) for flag in ("is_closed", "is_complete"))
        return _Series(
            f"{name} · {timeframe} · {exchange}",
            candle_series.COLUMNS,
            rows,
            await candle_series.history(connection, stream, rows, history_of(wanted)),
            [row[closed] for row in rows],
            [row[complete] for row in rows],
            lambda at: timeframes.shift(timeframe, at),
            more,
            "candles_read",
            {
                "exchange": exchange,
                "symbol": name,
                "timeframe": timeframe,
                **{key: value for key, value in zip(("start", "end"), given, strict=True) if value is not None},
                "limit": limit,
                "fields": ["open", "high", "low", "close", "volume", "is_closed", "is_complete"],
            },
        )

    async def _of_aggregator(
        self,
        name: str,
        symbol: str | None,
        interval: int | None,
        given: _Range,
        limit: int,
        wanted: "Sequence[Indicator]",
    ) -> _Series:
        if symbol is None or interval is None:
            raise ChartError("A chart of an aggregator needs its name, a symbol and an interval.")
        aggregator = await (await self.state.aggregators()).get(name)
        ohlc.check_interval(aggregator, interval)
        first, last = given
        every = [ohlc.candle_row(candle) for candle in await aggregator.candles(symbol, interval)]
        found = [row for row in every if (first or 0) <= row[0] and (last is None or row[0] < last)]
        rows = found[-limit:] if first is None else found[:limit]
        before = [row for row in every if rows and row[0] < rows[0][0]]
        now = time.time_ns() // 1_000_000
        return _Series(
            f"{symbol} · {_length(interval)} · {name}",
            ohlc.COLUMNS,
            rows,
            before[max(0, len(before) - history_of(wanted)) :],
            [row[0] + interval <= now for row in rows],
            [True] * len(rows),
            lambda at: at + interval,
            len(found) > len(rows),
            "ohlc_get_candles",
            {
                "name": name,
                "symbol": symbol,
                "interval_ms": interval,
                **({} if last is None or not rows else {"end_ms": rows[-1][0] + interval}),
                "limit": len(rows) if first is not None and last is not None else limit,
                "fields": ["open", "high", "low", "close", "volume"],
            },
        )

    async def _picture(self, series: _Series, wanted: "Sequence[Indicator]", values: Any, theme: str) -> bytes:
        from streammachine.charts import Chart

        return await self.pictures.draw(
            Chart(
                title=series.title,
                times=series.column(series.names[0]),
                open=series.column("open"),
                high=series.column("high"),
                low=series.column("low"),
                close=series.column("close"),
                volume=series.column("volume"),
                closed=series.closed,
                complete=series.complete,
                missing=[count for count, _, _ in _missing(series)],
                lines=[_line(each, values) for each in wanted],
                theme=theme,
                width=WIDTH,
                height=HEIGHT,
            )
        )


def _line(indicator: "Indicator", values: Any) -> "ChartLine":
    from streammachine.charts import ChartLine

    columns = {name: values[name] for name in indicator.columns}
    return ChartLine(indicator.text, columns, indicator.styles, indicator.on_price)


def _missing(series: _Series) -> list[tuple[int, int, int]]:
    """For each candle how many are missing before it, and the range that they would fill."""
    starts = series.column(series.names[0])
    found = [(0, 0, 0)]
    for before, after in itertools.pairwise(starts):
        expected = series.following(before)
        step = max(1, expected - before)
        count = -((expected - after) // step) if after > expected else 0
        found.append((count, expected, after))
    return found[: len(starts)]


def _summary(series: _Series, values: Any, wanted: "Sequence[Indicator]", *, ended: bool) -> ChartSummary:
    if not series.rows:
        raise ChartError(f"There are no candles to draw of {series.title} in that range.")
    starts = series.column(series.names[0])
    highs, lows, opens, closes = (series.column(name) for name in ("high", "low", "open", "close"))
    high, low = max(range(len(starts)), key=highs.__getitem__), min(range(len(starts)), key=lows.__getitem__)
    gaps = [(count, first, last) for count, first, last in _missing(series) if count]
    summary: ChartSummary = {
        "title": series.title,
        "count": len(starts),
        "first_ms": starts[0],
        "last_ms": starts[-1],
        "open": opens[0],
        "close": closes[-1],
        "change_percent": _finite(round((closes[-1] / opens[0] - 1) * 100, 4)) if opens[0] else None,
        "high": {"value": highs[high], "at": starts[high]},
        "low": {"value": lows[low], "at": starts[low]},
        "volume": _finite(sum(value for value in series.column("volume") if value is not None)),
        "indicators": {name: column[-1] for name, column in values.items()},
        "missing": sum(count for count, _, _ in gaps),
        "gaps": [[first, last] for _, first, last in gaps[-MOST_GAPS:]],
        "incomplete": series.complete.count(False),
        "last_is_open": not series.closed[-1],
        "data": {
            "tool": series.tool,
            "arguments": {**series.arguments, **({"indicators": [each.text for each in wanted]} if wanted else {})},
            "ended": ended,
            "lines": [
                {"columns": list(each.columns), "styles": list(each.styles), "on_price": each.on_price}
                for each in wanted
            ],
        },
        "truncated": series.more,
    }
    if series.more:
        summary["hint"] = f"There are more candles: limit (at most 1000), or end={starts[0]} for those before."
    return summary


def _finite(value: float) -> float | None:
    return float(f"{value:.12g}") if abs(value) <= 1.7e308 else None


def _result(summary: ChartSummary, picture: bytes | None) -> ToolResult:
    """The summary as text and data, the same in both; the picture after it."""
    import orjson

    content: list[Any] = [TextContent(type="text", text=orjson.dumps(summary).decode())]
    if picture is not None:
        content.append(ImageContent(type="image", data=base64.b64encode(picture).decode(), mime_type="image/png"))
    return ToolResult(content=content, structured_content=cast(dict[str, Any], summary))


def _length(interval: int) -> str:
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if interval % size == 0:
            return f"{interval // size}{unit}"
    return f"{interval} ms"
