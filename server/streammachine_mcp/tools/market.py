"""Market tools: runners that stream an exchange's candles, backfills, and reading the candles they wrote."""

import logging
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

import anyio
from pydantic import Field
from typing_extensions import TypedDict

from streammachine.errors import DataInputError, ExchangeUnavailableError
from streammachine.market.emitters.registry import hosted_forms
from streammachine.market.exchanges import registry as exchanges
from streammachine.redis import streams
from streammachine_mcp.argument_types import Exchange, History, Moment, OneTimeframe, Timeframe
from streammachine_mcp.candle_series import COLUMNS, exists, history, read_series
from streammachine_mcp.candle_table import CandleTable, Fields, Form, Indicators, indicators_of
from streammachine_mcp.results import fit
from streammachine_mcp.tools.family import Family, tool

if TYPE_CHECKING:  # the market room is loaded by the first call that needs it: it would delay the first tools/list
    from streammachine.market.exchanges.base import Adapter
    from streammachine.market.model.data_input import DataInput
    from streammachine.redis.connection import RedisConnection
    from streammachine.runtime.admin.remembered import BackfillSpec, RunnerSpec

log = logging.getLogger(__name__)

EXCHANGE_WAIT = 8.0  # seconds for the exchange to say whether it has the symbols
STOP_WAIT = 10.0  # seconds for a runner's host to release its lease
MOST_SYMBOLS = 200
MOST_STREAMS = 40  # that an answer names
DAY = 86_400_000
SKEW = 60_000  # milliseconds that a caller's clock may be ahead of ours
_SPAN = re.compile(r"[0-9]+(\.[0-9]+)?\s*((?i:ms)|[smhdwSHDWM])", re.ASCII)

_AS_WRITTEN = f"{exchanges.symbols_text()}"
Symbol = Annotated[str, Field(description=_AS_WRITTEN)]
_SINKS = ", ".join(hosted_forms()).replace("redis", "redis (default)", 1)
Emit = Annotated[
    list[str] | None,
    Field(description=f"Sinks: {_SINKS}"),
]
Market = Annotated[str, Field(description=exchanges.markets_text(between_kinds=", ", between_exchanges="; "))]


class Started(TypedDict):
    name: str
    started: bool
    streams: NotRequired[list[str]]


class Stopped(TypedDict):
    name: str
    stopped: bool


class Runners(TypedDict):
    runners: list[dict[str, Any]]
    count: int
    truncated: bool


class Backfills(TypedDict):
    backfills: list[dict[str, Any]]
    count: int
    truncated: bool


class CandleColumns(TypedDict):
    exchange: str
    symbol: str
    timeframe: str
    count: int
    columns: dict[str, Any]  # a list of numbers each; said here it would cost every client
    candles: NotRequired[list[dict[str, Any]]]
    rows_left_out: NotRequired[int]
    rows_hint: NotRequired[str]
    truncated: bool
    hint: NotRequired[str]


class MarketTools(Family):
    toolset = "market"

    @tool("runner_start", "Stream an exchange", idempotent=True, open_world=True)
    async def start(
        self,
        exchange: Exchange,
        symbols: Annotated[list[str], Field(description=_AS_WRITTEN, min_length=1, max_length=MOST_SYMBOLS)],
        timeframe: Timeframe = "1m",
        aggregate: Annotated[list[OneTimeframe] | None, Field(description="Higher timeframes to build too")] = None,
        emit: Emit = None,
        market_type: Market = "SPOT",
        history: Annotated[History | None, Field(description="Past to write first: 7d, 12h, or a UTC date")] = None,
        type: Annotated[
            Literal["kline", "trade", "quote"], Field(description="Candles, trades, or best bid and ask")
        ] = "kline",
        every: Annotated[str | None, Field(description="Of quotes: one in so long, e.g. 100ms")] = None,
        indicators: Indicators = None,
    ) -> Started:
        """Start a runner: live closed candles of an exchange go to the sinks, gaps healed, also after restarts, until
        runner_stop. Read them with candles_read; trades and quotes (never healed) with stream_read."""
        from streammachine.market.model.data_input import DataInput
        from streammachine.runtime.admin.remembered import RUNNERS, RunnerSpec, name_for
        from streammachine_mcp.hosting import sinks

        unit = timeframe if type == "kline" else None
        if unit is None and (aggregate or history or indicators):
            raise DataInputError(
                f"aggregate, history and indicators are of candles: leave them away with type={type!r}"
            )
        await indicators_of(indicators)
        wanted = DataInput(type, symbols, unit, aggregate or [], every)
        adapter, names = await _checked(exchange, market_type, wanted)
        emitters = sinks.check(["redis"] if emit is None else emit)
        words = [exchange, unit or type, sorted(names), sorted(aggregate or []), emitters, adapter.market_type]
        name = name_for(*words, *([every] if every else []), *([indicators] if indicators else []))
        now = int(time.time() * 1000)
        spec = RunnerSpec(
            name, exchange, names, unit, list(aggregate or []), emitters, type=type, every=every,
            indicators=list(indicators or []), market_type=adapter.market_type, created_ms=now,
            history=history or "", history_from_ms=history_start(history, now) if history else 0,
        )  # fmt: skip
        connection = await self.state.redis()
        new = await RUNNERS.remember(connection, spec)
        if not new and _wants_more(spec, await RUNNERS.get(connection, name)):
            await RUNNERS.renew(connection, spec)
            new = True
        self.state.hosting.check_now()
        result: Started = {"name": name, "started": new}
        if "redis" in emitters:
            made = dict.fromkeys((timeframe, *(aggregate or [])))
            streams = [f"kline:{exchange}:{each}:{one}" for each in names for one in made]
            if unit is None:
                streams = [f"{type}s:{exchange}:{each}" for each in names]
            result["streams"] = streams[:MOST_STREAMS]
        return result

    @tool("runner_stop", "Stop a runner", idempotent=True)
    async def stop(self, name: Annotated[str, Field(description="As runner_list gives it")]) -> Stopped:
        """End a runner and forget it. What it wrote stays."""
        from streammachine.runtime.admin.remembered import RUNNERS

        connection = await self.state.redis()
        await RUNNERS.get(connection, name)
        await RUNNERS.forget(connection, name)
        with anyio.move_on_after(STOP_WAIT):
            await RUNNERS.released(connection, name)
        await RUNNERS.forget(connection, name)  # the state that its host reported last
        return {"name": name, "stopped": True}

    @tool("runner_list", "List runners", reads=True)
    async def runners(self) -> Runners:
        """Runners with state, rates, gaps healed, last candle of each symbol, sinks, and what is wrong."""
        from streammachine.runtime.admin.remembered import RUNNERS, SILENT

        connection = await self.state.redis()
        statuses = await RUNNERS.statuses(connection)
        rows = []
        for name, spec in (await RUNNERS.all(connection)).items():
            status = statuses.get(name, {"state": "waiting"})
            silent = status.pop("silent_s", 0.0)
            if silent > SILENT:
                status = {"state": "lost", "problem": f"no word from its host for {silent:.0f} s", **_without(status)}
            names = ("symbols", "aggregate", *(["indicators"] if spec.indicators else []))
            rows.append({**_shown(spec, *names), **status})
        kept, cut = fit(rows)
        return {"runners": kept, "count": len(rows), "truncated": cut}

    @tool("backfill_start", "Fetch older candles", idempotent=True, open_world=True)
    async def backfill(
        self,
        exchange: Exchange,
        symbol: Symbol,
        start: Annotated[Moment, Field(description="UTC date or time (2024-01-31T12:00), or now-7d")],
        end: Annotated[Moment, Field(description="The same; of a date, the whole day")] = "now",
        timeframe: Timeframe = "1m",
        emit: Emit = None,
        market_type: Market = "SPOT",
    ) -> Started:
        """Fetch past candles in the background (backfill_status shows how far), also after restarts. candles_read reads
        them together with a runner's."""
        from streammachine.market.model.data_input import DataInput
        from streammachine.runtime.admin.remembered import BACKFILLS, BackfillSpec, name_for
        from streammachine_mcp.hosting import sinks

        adapter, names = await _checked(exchange, market_type, DataInput("kline", [symbol], timeframe))
        emitters = sinks.check(["redis"] if emit is None else emit)
        first, last = backfill_range(start, end, int(time.time() * 1000))
        connection = await self.state.redis()
        name = name_for(exchange, timeframe, names[0], start, end, emitters, adapter.market_type, first, last)
        spec = BackfillSpec(
            name, exchange, names[0], timeframe, first, last, emitters, adapter.market_type, int(time.time() * 1000)
        )
        new = await BACKFILLS.remember(connection, spec)
        if not new and await _is_lost(connection, spec):
            await BACKFILLS.renew(connection, spec)
            new = True
        self.state.hosting.check_now()
        result: Started = {"name": name, "started": new}
        if "redis" in emitters:
            result["streams"] = [f"kline:{exchange}:{names[0]}:{timeframe}"]
        return result

    @tool("backfill_status", "Show backfills", reads=True)
    async def backfills(self, name: Annotated[str | None, Field(description="Only this one")] = None) -> Backfills:
        """Backfills: state, candles written, how far (0 to 1), seconds left, gaps, and what is wrong."""
        from streammachine.runtime.admin.remembered import BACKFILLS

        connection = await self.state.redis()
        known = await BACKFILLS.all(connection)
        if name is not None:
            known = {name: await BACKFILLS.get(connection, name)}
        statuses = await BACKFILLS.statuses(connection)
        rows = []
        for found in sorted(known.values(), key=lambda spec: spec.created_ms, reverse=True):
            status = statuses.get(found.name, {"state": "waiting"})
            status.pop("silent_s", None)
            rows.append({**_shown(found, "symbol", "start_ms", "end_ms"), **status})
        kept, cut = fit(rows)
        return {"backfills": kept, "count": len(rows), "truncated": cut}

    @tool("candles_read", "Read candles", reads=True)
    async def read(
        self,
        exchange: Exchange,
        symbol: Symbol,
        timeframe: Timeframe = "1m",
        start: Annotated[
            Moment | None, Field(description="UTC date, time, epoch ms or now-2h; default: the newest")
        ] = None,
        end: Annotated[Moment | None, Field(description="Candles that begin before this")] = None,
        limit: Annotated[int, Field(description="Most candles", ge=1, le=2000)] = 200,
        indicators: Indicators = None,
        fields: Fields = None,
        format: Form = "columns",
    ) -> CandleColumns:
        """Candles that runners and backfills wrote to Redis, oldest first, as columns; open_ts is epoch ms. Indicators
        are computed with the candles before them."""
        connection = await self.state.redis()
        adapter = await _loaded(exchange, "SPOT")
        (name,) = _spelled(adapter, [symbol])
        stream = f"kline:{exchange}:{name}:{timeframe}"
        table = CandleTable(COLUMNS, fields, format, await indicators_of(indicators), rare=("is_complete",))
        first, last = (None if text is None else moment_ms(text) for text in (start, end))
        rows, more, left_out = await read_series(connection, stream, first, last, limit)
        kept, cut = table.fit(rows, newest=start is None)
        before = await history(connection, stream, kept, table.history)
        page: CandleColumns = {
            "exchange": exchange,
            "symbol": name,
            "timeframe": timeframe,
            "count": len(kept),
            **(await table.body(kept, before)),  # type: ignore[typeddict-item]
            "truncated": more or cut,
        }
        if more or cut:
            page["hint"] = (
                f"To go on: start={kept[-1][0] + 1}" if start is not None else f"Older ones: end={kept[0][0]}"
            )
        if left_out:
            page["rows_left_out"] = left_out
            page["rows_hint"] = "Entries of the stream that are no candles; stream_read shows them."
        return page


def backfill_range(start: str, end: str, now: int) -> tuple[int, int]:
    """What a backfill's start and end mean, in epoch ms; today as end means as far as it has come.

    Raises:
        DataInputError: they are reversed, or in the future.
    """
    first, last = moment_ms(start), moment_ms(end, day_end=True)
    if first >= last:
        raise DataInputError(f"start ({start}) must be before end ({end})")
    if first > now:
        raise DataInputError(f"start ({start}) is in the future: {_here(now)}")
    if last == now - now % DAY + DAY:
        last = now
    if last > now + SKEW:
        raise DataInputError(f"end ({end}) is in the future ({_here(now)}): give now for as far as there are candles")
    return first, min(last, now)


def history_start(history: str, now: int) -> int:
    """What a runner's history means as the epoch ms it begins at: 7d, 12h, now-7d, a date or a time.

    Raises:
        StreamIdError: it is none of these. DataInputError: it is in the future.
    """
    text = history.strip()
    first = moment_ms(f"now-{text}" if _SPAN.fullmatch(text) else text)
    if first >= now:
        raise DataInputError(
            f"history ({history}) is in the future ({_here(now)}): give how far back, e.g. 7d, or a date"
        )
    return first


def _here(now: int) -> str:
    from streammachine.market.model.timespan import clock_says

    return clock_says(now, "this server's clock")


def _wants_more(spec: "RunnerSpec", known: "RunnerSpec") -> bool:
    """Whether a runner is asked for with a history that the one of its name does not have."""
    if not spec.history_from_ms or spec.history == known.history:
        return False
    return not known.history_from_ms or spec.history_from_ms < known.history_from_ms


async def _is_lost(connection: "RedisConnection", spec: "BackfillSpec") -> bool:
    """Whether a backfill of its name is over, and what it was to write is not there: it failed, or that was deleted."""
    from streammachine.market.emitters.redis import archive_of
    from streammachine.runtime.admin.remembered import BACKFILLS

    state = (await BACKFILLS.statuses(connection)).get(spec.name, {}).get("state")
    if state != "done" or spec.emit != ["redis"]:
        return state == "failed"
    stream = f"kline:{spec.exchange}:{spec.symbol}:{spec.timeframe}"
    return not await exists(connection, stream, *await archive_of(connection, stream))


def _adapter(exchange: str, market_type: str) -> "Adapter":
    from streammachine.market.exchanges import adapter_for

    return adapter_for(exchange, market_type)


async def _loaded(exchange: str, market_type: str) -> "Adapter":
    """The adapter; ccxt takes seconds to load, in which other calls go on."""
    return await anyio.to_thread.run_sync(_adapter, exchange, market_type)


def _spelled(adapter: "Adapter", symbols: Sequence[str]) -> list[str]:
    """The symbols as the exchange writes them, as far as that is known without asking it."""
    from streammachine.market.network.symbols import spelled

    return spelled(adapter, adapter.urls(), list(symbols))


async def _checked(exchange: str, market_type: str, wanted: "DataInput") -> tuple["Adapter", list[str]]:
    """The adapter and the symbols as it writes them; asks the exchange whether it has them.

    An exchange that does not answer is no reason to refuse: the runner waits for it.
    """
    from streammachine.market.clock.clock import SystemClock
    from streammachine.market.network.rest_client import client_for
    from streammachine.market.network.rest_queries import check_symbols
    from streammachine.market.network.symbols import settled

    adapter = await _loaded(exchange, market_type)
    adapter.check_kind(wanted.kind)
    names = _spelled(adapter, wanted.symbols)
    if wanted.timeframe is not None:
        adapter.check_timeframe(wanted.timeframe)
    with anyio.move_on_after(EXCHANGE_WAIT):
        try:
            async with client_for(adapter, adapter.urls(), clock=SystemClock(), attempts=2) as rest:
                names = await settled(rest, names)
                await check_symbols(rest, names)
        except ExchangeUnavailableError as error:
            log.info("Not asked for the symbols: %s", error)
    return adapter, names


def moment_ms(text: str, *, day_end: bool = False) -> int:
    """Epoch ms of a date, a time, epoch ms or a relative time; ``day_end``: a date means the end of its day."""
    try:
        day = datetime.strptime(text.strip(), "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        return int(streams.parse_position(text).partition("-")[0])
    return int(day.timestamp() * 1000) + (DAY if day_end else 0)


def _shown(spec: Any, *names: str) -> dict[str, Any]:
    always = ("name", "exchange", "timeframe", "emit")
    return {name: getattr(spec, name) for name in (*always, *names)}


def _without(status: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in status.items() if key not in ("state", "problem")}
