"""Warm-up: what happened before we came, so far as the candles now running need it.

For candles: every closed base candle since the start of the earliest target candle that is now running (without
targets: since 00:00 UTC), from REST. Kraken gives 720 back and no more; a target that began before stays incomplete.
For trades: those of the base candle now running (of two hours at most), and the closed base candles before it as for
candles.

What closes between warm-up and the first live frame is the feed's to heal: ``after`` tells it where to go on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import anyio

from streammachine.market.healing.trade_ledger import TradesHad
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.data_input import DataInput
from streammachine.market.model.kline import Gap, Kline, Trade
from streammachine.market.network import rest_queries

if TYPE_CHECKING:
    from streammachine.market.network.rest_client import RestClient

log = logging.getLogger(__name__)

LONGEST: Final = 2 * timeframes.HOUR  # of trades to load; of Binance's BTCUSDT that is some hundred thousand
LAG: Final = 3  # candles that REST may be behind, which are then folded from trades
After = dict[tuple[str, str | None], int | str | TradesHad]


@dataclass(frozen=True, slots=True)
class Warmup:
    """What was loaded.

    Attributes:
        live_from: where the candle begins that was running when we began; what begins earlier is history.
        rows: closed base candles, and a Gap for each that the exchange does not have between them, by time.
        trades: (type trade) by symbol: from which moment on they are known, the last price before, the trades.
        after: for the feed: (symbol, timeframe) to the open_ts of the last candle, (symbol, None) to the last trade id.
    """

    live_from: int = 0
    rows: list[Kline | Gap] = field(default_factory=list)
    trades: dict[str, tuple[int, float | None, list[Trade]]] = field(default_factory=dict)
    after: After = field(default_factory=dict)


Resume = Mapping[tuple[str, str], int]


async def load(
    rest: RestClient, data_input: DataInput, resume: Resume | None = None, *, running: bool = False
) -> Warmup:
    """Load what ``data_input`` needs, several symbols at a time within the exchange's limits.

    Args:
        resume: (symbol, timeframe) to the open_ts of the last candle that the caller has: of these symbols everything
            since is loaded, and what the targets that he lacks need.
        running: load no more than the trades of the base candle that is running.

    Raises:
        ExchangeError, ExchangeUnavailableError: REST refuses, or does not answer.
    """
    base = data_input.timeframe
    if base is None:
        return Warmup()
    now = rest.clock.time_ms()
    found = Warmup(timeframes.floor(base, now))
    limiter = anyio.CapacityLimiter(max(1, rest.adapter.rest.parallel))
    load_symbol = _load_trades if data_input.kind == "trade" else _load_klines

    async def one(symbol: str) -> None:
        async with limiter:
            begun = (found.live_from, None) if running else begin(data_input, symbol, now, resume or {})
            await load_symbol(rest, data_input, symbol, begun, found)

    async with anyio.create_task_group() as group:
        for symbol in data_input.symbols:
            group.start_soon(one, symbol)
    found.rows.sort(key=_start)
    return found


def begin(data_input: DataInput, symbol: str, now: int, resume: Resume) -> tuple[int, int | None]:
    """Where the warm-up of a symbol begins, and from where on every base candle is owed (None: none is).

    That is the start of the earliest target that is running, or that the caller lacks; without targets, of the UTC day.
    """
    base = data_input.timeframe or ""
    had = resume.get((symbol, base))
    if had is None:
        targets = data_input.aggregate_list or (["1d"] if timeframes.nests(base, "1d") else [base])
        return min(timeframes.floor(target, now) for target in targets), None
    due = timeframes.end_of(base, had)
    starts = [due]
    for target in data_input.aggregate_list:
        starts.append(timeframes.floor(target, due))
        if (target_had := resume.get((symbol, target))) is not None:
            starts.append(timeframes.end_of(target, target_had))
    return min(starts), due


async def _load_klines(
    rest: RestClient, data_input: DataInput, symbol: str, begun: tuple[int, int | None], found: Warmup
) -> None:
    base = data_input.timeframe or ""
    start, due = begun
    klines = await _final(rest, symbol, base, start, found.live_from)
    found.rows.extend(_with_gaps(klines, rest.adapter.source, symbol, base, due))
    last = timeframes.shift(base, found.live_from if due is None else due, -1)
    if klines and (due is None or klines[-1].open_ts > last):
        last = klines[-1].open_ts
    found.after[symbol, base] = last


async def _load_trades(
    rest: RestClient, data_input: DataInput, symbol: str, begun: tuple[int, int | None], found: Warmup
) -> None:
    base = data_input.timeframe or ""
    since, price = found.live_from, None
    if base in rest.adapter.timeframes:
        start, due = begun
        klines = [] if start >= since else await _final(rest, symbol, base, start, since)
        found.rows.extend(_with_gaps(klines, rest.adapter.source, symbol, base, due))
        if klines:
            price = klines[-1].close
            end = timeframes.end_of(base, klines[-1].open_ts)
            if end >= timeframes.shift(base, since, -LAG):
                since = end
    if rest.clock.time_ms() - since > LONGEST:
        log.warning(
            "the trades of the %s candle of %s now running are too many to load: it will be incomplete", base, symbol
        )
        return
    trades = await rest_queries.fetch_trades(rest, symbol, since=since)
    found.trades[symbol] = (since, price, trades)
    if not rest.adapter.contiguous_ids:
        found.after[symbol, None] = TradesHad(since, trades)
    elif trades:
        found.after[symbol, None] = trades[-1].trade_id


async def _final(rest: RestClient, symbol: str, base: str, start: int, end: int) -> list[Kline]:
    """The candles that the exchange itself shows to be final: REST may lag, and its last one be half of it."""
    klines = await rest_queries.fetch_klines(rest, symbol, base, start, timeframes.end_of(base, end), running=True)
    return [kline for kline in klines if kline.is_closed and kline.open_ts < end]


def _with_gaps(klines: list[Kline], source: str, symbol: str, base: str, first: int | None = None) -> list[Kline | Gap]:
    """The candles with a Gap in place of those that are missing between them, and from ``first`` on."""
    rows: list[Kline | Gap] = []
    due = first
    for kline in klines:
        if due is not None and kline.open_ts > due:
            log.warning("%s REST lacks the %s candles of %s from %d to %d", source, base, symbol, due, kline.open_ts)
            rows.append(Gap(source, symbol, base, due, kline.open_ts, "REST does not have them"))
        rows.append(kline)
        end = timeframes.end_of(base, kline.open_ts)
        due = end if due is None else max(due, end)
    return rows


def _start(row: Kline | Gap) -> int:
    return row.start if isinstance(row, Gap) else row.open_ts
