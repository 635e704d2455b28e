"""A feed against a simulated exchange on one virtual clock, and DuckDB's own fold of the tape to check it against."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import anyio
import duckdb
import pandas as pd

from streammachine.market.clock.clock import VirtualClock
from streammachine.market.exchanges import adapter_for
from streammachine.market.live.feed import Feed
from streammachine.market.live.feed_options import FeedOptions, FeedStats
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.data_input import DataInput
from streammachine.market.model.kline import Gap, Kline, Trade
from streammachine.market.model.rows import Row
from streammachine.market.network.rest_client import RestClient
from streammachine.market.simulator import Fault, Simulator, Tape

START = 1_700_000_040_000  # on the minute
SYMBOLS = ("BTC/USDT", "ETH/USDT")


@dataclass
class Watched:
    """What a feed delivered, and what there was to deliver."""

    exchange: str
    tape: Tape
    names: dict[str, str]  # the exchange's spelling to the tape's
    timeframe: str
    began: int
    ended: int
    first: int = 0  # open_ts of the candle that was running when the streams were first served
    first_trade: int = 0  # when they were
    rows: list[Row] = field(default_factory=list, repr=False)
    times: list[int] = field(default_factory=list, repr=False)  # when each row was delivered
    log: list[Any] = field(default_factory=list, repr=False)
    stats: FeedStats = field(default_factory=FeedStats)

    def closed(self, symbol: str) -> list[Kline]:
        return [row for row in self.rows if isinstance(row, Kline) and row.is_closed and row.symbol == symbol]

    @property
    def gaps(self) -> list[Gap]:
        return [row for row in self.rows if isinstance(row, Gap)]

    @property
    def trades(self) -> list[Trade]:
        return [row for row in self.rows if isinstance(row, Trade)]

    def happened(self, what: str) -> list[Any]:
        return [entry for entry in self.log if entry.what == what]


async def watch(
    exchange: str,
    faults: Iterable[Fault | str] = (),
    *,
    minutes: float = 8.0,
    begin: float = 20.0,
    tape: Tape | None = None,
    symbols: Iterable[str] = SYMBOLS,
    kind: str = "kline",
    timeframe: str = "1m",
    options: FeedOptions | None = None,
    rules: Mapping[str, Any] | None = None,
    market_type: str = "SPOT",
    meanwhile: Callable[[Feed, VirtualClock, Simulator], Any] | None = None,
    rest_attempts: int = 6,
) -> Watched:
    """Run a feed for some minutes of the tape, ``begin`` seconds after a full minute; where the socket has no candles
    of the timeframe, with one that it has, for two candles more."""
    clock = VirtualClock(START + round(begin * 1000))
    tape = tape or tape_of(tuple(symbols))
    script = [Fault.parse(fault) if isinstance(fault, str) else fault for fault in faults]
    simulator = Simulator(tape, (exchange,), clock, script, rules={exchange: rules or {}})
    adapter = adapter_for(exchange, market_type)
    if kind == "kline" and adapter.pushed is not None and timeframe not in adapter.pushed:
        timeframe = adapter.pushed[0]
        minutes += 2 * timeframes.MILLISECONDS[timeframe] / timeframes.MINUTE + 0.5
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.drive)
        async with simulator:
            names = {simulator.symbol(exchange, symbol): symbol for symbol in symbols}
            seen = Watched(exchange, tape, names, timeframe, clock.time_ms(), 0)
            urls = simulator.urls(exchange, market_type)
            async with RestClient(adapter, urls, clock=clock, attempts=rest_attempts) as rest:
                wanted = DataInput(kind, list(names), timeframe if kind == "kline" else None)
                feed = Feed(
                    adapter,
                    wanted,
                    urls=urls,
                    rest=rest,
                    clock=clock,
                    options=options or FeedOptions(seed=1, give_up=60.0),
                )

                async def deliver(rows: list[Row]) -> None:
                    seen.rows += rows
                    seen.times += [clock.time_ms()] * len(rows)

                async def stop() -> None:
                    await clock.sleep(minutes * 60)
                    seen.stats = feed.stats
                    feed.close()

                tasks.start_soon(stop)
                if meanwhile is not None:
                    tasks.start_soon(meanwhile, feed, clock, simulator)
                try:
                    await feed.run(deliver)
                except Exception as error:
                    failure = error
                seen.ended = clock.time_ms()
        seen.log = list(simulator.log)
        served = [entry.time_ms for entry in seen.happened("subscribe")]
        seen.first_trade = max(served, default=seen.began)
        seen.first = timeframes.floor(timeframe, min(served, default=seen.began))
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return seen


@lru_cache
def tape_of(symbols: tuple[str, ...] = SYMBOLS, seed: int = 3, trades_per_minute: int = 30) -> Tape:
    """A tape that begins two minutes before the tests do."""
    return Tape.generate(seed, symbols, START - 120_000, minutes=60, trades_per_minute=trades_per_minute)


@lru_cache(maxsize=64)
def truth(
    tape: Tape, symbol: str, timeframe: str, start: int = START - 600_000, end: int = START + 2_400_000
) -> dict[int, dict[str, Any]]:
    """The candles that begin within [start, end), by DuckDB: the tape's trades grouped, quiet ones flat."""
    step = timeframes.MILLISECONDS[timeframe]
    trades = pd.DataFrame(
        [
            (trade.id, trade.ts, float(trade.price), trade.price, trade.quantity)
            for trade in tape.rows(symbol, start - 3_600_000, end)
        ],
        columns=["id", "ts", "price", "price_text", "quantity_text"],
    )
    with duckdb.connect() as connection:
        connection.register("trades", trades)
        found = connection.execute(
            """
            WITH folded AS (
                SELECT ts // $step * $step AS open_ts, arg_min(price, id) AS open, max(price) AS high,
                       min(price) AS low, arg_max(price, id) AS close,
                       sum(quantity_text::DECIMAL(38, 12))::DOUBLE AS volume,
                       sum(price_text::DECIMAL(19, 8) * quantity_text::DECIMAL(19, 8))::DOUBLE AS quote_volume,
                       count(*) AS n_trades
                FROM trades GROUP BY 1),
            filled AS (
                SELECT open_ts, folded.* EXCLUDE (open_ts),
                       last_value(close IGNORE NULLS) OVER (ORDER BY open_ts) AS carried
                FROM (SELECT unnest(range($begin, $end, $step)) AS open_ts) LEFT JOIN folded USING (open_ts))
            SELECT open_ts, coalesce(open, carried) AS open, coalesce(high, carried) AS high,
                   coalesce(low, carried) AS low, coalesce(close, carried) AS close, coalesce(volume, 0) AS volume,
                   coalesce(quote_volume, 0) AS quote_volume, coalesce(n_trades, 0) AS n_trades
            FROM filled WHERE open_ts >= $start ORDER BY open_ts
            """,
            {"step": step, "begin": (start - 3_600_000) // step * step, "start": start, "end": end},
        )
        names = [column[0] for column in found.description]
        return {row[0]: dict(zip(names, row, strict=True)) for row in found.fetchall()}


def check(seen: Watched, *, unobtainable: Iterable[tuple[str, int]] = (), spare: float = 10.0) -> None:
    """Every candle from the first running one to the last that ended ``spare`` seconds before the end was delivered
    once, in order and as DuckDB has it, but for the unobtainable ones (symbol of the tape, open_ts), each of which lies
    in a Gap; and open states came for the next candle only."""
    step = timeframes.MILLISECONDS[seen.timeframe]
    lost = set(unobtainable)
    until = timeframes.floor(seen.timeframe, seen.ended - round(spare * 1000))
    for name, symbol in seen.names.items():
        told = _told(seen, name)
        wanted = list(range(seen.first, until, step))
        got = [open_ts for open_ts, _ in told]
        assert got[: len(wanted)] == wanted, f"{name}: {got} instead of {wanted}"
        assert got == list(range(seen.first, seen.first + len(got) * step, step)), f"{name}: {got}"
        gaps = {open_ts for open_ts, kline in told if kline is None}
        assert gaps == {open_ts for of, open_ts in lost if of == symbol}, f"{name}: {seen.gaps}"
        tape = truth(seen.tape, symbol, seen.timeframe)
        for open_ts, kline in told:
            if kline is not None:
                _same(kline, tape[open_ts], seen.exchange)


def _told(seen: Watched, name: str) -> list[tuple[int, Kline | None]]:
    """What a symbol's rows say, candle by candle: a kline, or None for a gap."""
    step = timeframes.MILLISECONDS[seen.timeframe]
    told: list[tuple[int, Kline | None]] = []
    for row in seen.rows:
        if row.symbol != name:
            continue
        if isinstance(row, Gap):
            told += [(open_ts, None) for open_ts in range(row.start, row.end, step)]
        elif isinstance(row, Kline) and row.is_closed:
            told.append((row.open_ts, row))
        elif isinstance(row, Kline):
            assert row.is_closed is False, row
            assert row.open_ts == (told[-1][0] + step if told else row.open_ts), f"{row} after {told[-1:]}"
    return told


def _same(kline: Kline, true: Mapping[str, Any], exchange: str) -> None:
    for name in ("open", "high", "low", "close"):
        assert getattr(kline, name) == true[name], f"{name} of {kline}: {true}"
    assert math.isclose(kline.volume, true["volume"], rel_tol=1e-9, abs_tol=1e-9), f"{kline}: {true}"
    if kline.n_trades is not None:
        assert kline.n_trades == true["n_trades"], f"{kline}: {true}"
    if kline.quote_volume is not None:
        exact = 1e-9 if exchange != "kraken" else 1e-3  # Kraken's is estimated from a truncated vwap
        assert math.isclose(kline.quote_volume, true["quote_volume"], rel_tol=exact, abs_tol=1e-6), f"{kline}: {true}"
    assert kline.is_complete
    assert kline.end_ts == kline.open_ts + timeframes.MILLISECONDS[kline.timeframe] - 1


def check_trades(seen: Watched, *, spare: float = 10.0, in_order: bool = True) -> None:
    """From the first trade after subscribing on, every trade of the tape was delivered once, and there is no gap."""
    assert not seen.gaps, seen.gaps
    until = seen.ended - round(spare * 1000)
    for name, symbol in seen.names.items():
        got = [trade for trade in seen.trades if trade.symbol == name]
        if not in_order:
            got.sort(key=_tape_id)
        tape = {trade.id: trade for trade in seen.tape.rows(symbol, seen.began - 60_000, seen.ended)}
        first = min(trade.id for trade in tape.values() if trade.ts > seen.first_trade)
        last = max(trade.id for trade in tape.values() if trade.ts < until)
        behind = _tape_id(got[0]) - got[0].fills
        assert behind < first, f"{name}: begins with {got[0]} instead of {tape[first]}"
        assert got[0].ts >= seen.began - 2000, f"{name}: {got[0]} is from before {seen.began}"
        for trade in got:
            assert _tape_id(trade) - trade.fills == behind, f"{name}: {trade} follows {behind}"
            part = [tape[number] for number in range(behind + 1, _tape_id(trade) + 1)]
            behind = part[-1].id
            amount = sum(float(each.quantity) for each in part)
            assert math.isclose(amount, trade.volume, rel_tol=1e-9), (trade, part)
            assert (float(part[-1].price), part[-1].ts) == (trade.price, trade.ts), (trade, part)
        assert behind >= last, f"{name}: ends with {behind}, not {last}"


def _tape_id(trade: Trade) -> int:
    """The tape's id of a trade; Bybit's simulated ids begin with a constant."""
    return int(trade.trade_id) % 1_000_000_000_000
