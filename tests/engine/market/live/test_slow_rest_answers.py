"""What REST says is as old as the question: a candle that ended while the answer was on its way is not closed by it."""

from __future__ import annotations

import pytest

from streammachine.market.backfill.collector import Collector
from streammachine.market.healing.candle_ledger import CandleLedger
from streammachine.market.healing.healer import Healer
from streammachine.market.model.kline import Kline
from streammachine.market.model.rows import Row
from streammachine.market.network import rest_queries
from streammachine.market.simulator import Fault
from support.backfill import SYMBOL, Market, golden, market, utc

pytestmark = pytest.mark.anyio

EXCHANGES = pytest.mark.parametrize("exchange", ["binance", "okx", "bybit", "kraken"])
MINUTE = 60_000
END = utc("2024-02-03T05:01:00")  # of the candle that runs when REST is asked
SLOW = Fault("slow", seconds=9.0)  # within the time that one answer may take


def whole(here: Market, klines: list[Kline]) -> None:
    """Each of the candles has all its trades."""
    truth = {row[0]: row[1:5] for row, _ in golden(here.tape, "1m", END - 5 * MINUTE, END + MINUTE, symbol=SYMBOL)}
    for kline in klines:
        assert (kline.open, kline.high, kline.low, kline.close) == truth[kline.open_ts]


@EXCHANGES
async def test_history_does_not_close_what_ran_when_it_was_asked(exchange: str) -> None:
    async with market(exchange, now=END - 5_000, faults=[SLOW]) as here, here.rest() as rest:
        klines = await rest_queries.fetch_window(rest, here.symbol, "1m", END - 3 * MINUTE, END)
        assert here.clock.time_ms() > END
        assert [kline.open_ts for kline in klines[:2]] == [END - 3 * MINUTE, END - 2 * MINUTE]
        whole(here, klines)


@EXCHANGES
async def test_a_backfill_looks_again_at_a_last_candle_that_rest_was_behind_with(exchange: str) -> None:
    faults = [SLOW, Fault("behind", seconds=5.0, lasts=8.0)]
    found: list[Kline] = []

    async def keep(klines: list[Kline]) -> None:
        found.extend(klines)

    async with market(exchange, now=END + 1_500, faults=faults) as here, here.rest() as rest:
        collector = Collector(rest, here.symbol, "1m", END - 3 * MINUTE, END, keep)
        await collector.run()
        assert [kline.open_ts for kline in found] == [END - 3 * MINUTE, END - 2 * MINUTE, END - MINUTE]
        whole(here, found)


@EXCHANGES
async def test_healing_does_not_close_what_ran_when_it_was_asked(exchange: str) -> None:
    """The candle behind the missing one still runs, and is the newest of the answer."""
    rows: list[Row] = []

    async def publish(some: list[Row]) -> None:
        rows.extend(some)

    async with market(exchange, now=END - 3_000, faults=[SLOW]) as here, here.rest() as rest:
        healer = Healer(rest, here.clock, 10.0, publish, lambda _: None)
        ledger = CandleLedger(rest.adapter.source, here.symbol, "1m", rest.adapter.closes, after=END - 3 * MINUTE)
        ledger.subscribed(here.clock.time_ms())
        ledger.tick(here.clock.time_ms(), rows)
        assert ledger.healing
        assert healer.admit(ledger)
        await healer.heal(ledger)
        klines = [row for row in rows if isinstance(row, Kline)]
        assert klines[0].open_ts == END - 2 * MINUTE
        whole(here, klines)
