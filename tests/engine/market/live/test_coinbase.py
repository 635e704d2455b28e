"""Coinbase on the whole road: candles that its socket does not push are folded, and what it omits comes from trades."""

from __future__ import annotations

import pytest

from streammachine import DataInput, Kline
from streammachine.market.exchanges import adapter_for
from streammachine.market.live.runner import runner_for
from streammachine.market.model.timeframe import MINUTE
from streammachine.market.network import rest_queries
from streammachine.market.simulator import Fault
from streammachine.market.simulator.faults.scripts import random_script
from support.backfill import assert_golden, utc
from support.backfill import market as past_market
from support.feed import START as FEED_START
from support.feed import SYMBOLS, Tape, check, check_trades, watch
from support.market_runs import Collector, run_until, same, short, world

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("seed", range(200, 250))
async def test_random_scripts(seed: int) -> None:
    kind = ("kline", "trade")[seed % 2]
    tape = Tape.generate(seed, SYMBOLS, FEED_START + 20_000, minutes=40, trades_per_minute=20)
    script = random_script(seed, tape, "coinbase", minutes=10, harsh=0)
    seen = await watch("coinbase", script.faults, minutes=12, tape=tape, kind=kind)
    if kind == "kline":
        check(seen)
    else:
        check_trades(seen)


async def test_candles_that_are_folded_are_complete_from_the_first_on_and_go_on_over_a_break() -> None:
    faults = [Fault("reset", at=100.0), Fault("stall", at=230.0)]
    async with world("coinbase", faults=faults, quiet=0.3) as there:
        await there.clock.sleep(25.0)
        runner = there.runner("coinbase", targets=["3m"])
        collector = Collector(lambda rows: len([row for row in rows if getattr(row, "timeframe", "") == "1m"]) >= 8)
        await run_until(runner, collector)
        ours = collector.klines(timeframe="1m")
        assert {type(row) for row in collector.rows} == {Kline}
        assert all(row.is_complete and row.origin == "trades" for row in ours)
        same(short(ours), there.truth("BTC/USDT", "1m", ours[0].open_ts, ours[-1].end_ts + 1))
        assert runner.stream_input is not None
        assert runner.stream_input.kind == "kline"
        assert not runner.gaps


async def test_running_candles_that_are_folded_are_shown_too() -> None:
    async with world("coinbase") as there:
        runner = there.runner("coinbase", emit_only_closed_candles=False)
        collector = Collector(20)
        await run_until(runner, collector)
        assert {row.is_closed for row in collector.klines()} == {True, False}


async def test_empty_minutes_of_the_past_are_flat_where_no_trade_was() -> None:
    start, end = utc("2024-02-03T02:00"), utc("2024-02-03T04:00")
    tape = Tape.generate(seed=11, symbols=("BTC/USDT",), start_ms=utc("2024-02-03T04:00"), quiet=0.6)
    async with past_market("coinbase", tape=tape) as market:
        rows = [row async for batch in market.backfill("1m", start, end).stream() for row in batch]
        assert_golden(rows, tape, "1m", start, end)
        assert [row for row in rows if row["n_trades"] == 0]


async def test_a_candle_that_rest_lacks_is_made_of_its_trades() -> None:
    start, end = utc("2024-02-03T02:00"), utc("2024-02-03T03:00")
    lost = start + 20 * MINUTE
    async with past_market("coinbase", faults=[Fault("missing", value=lost)]) as market:
        backfill = market.backfill("1m", start, end)
        rows = [row async for batch in backfill.stream() for row in batch]
        assert_golden(rows, market.tape, "1m", start, end)
        assert [row["origin"] for row in rows if row["open_ts"] == lost] == ["trades"]


async def test_trades_of_a_range_come_oldest_first_however_many_there_are() -> None:
    start, end = utc("2024-02-03T02:00"), utc("2024-02-03T02:40")
    async with past_market("coinbase", rules={"trades_page": 50}) as market, market.rest() as rest:
        rest.adapter.rest = rest.adapter.rest.__class__(weight=10, within=1.0, page=300, trades_page=50)
        found = await rest_queries.fetch_trades(rest, market.symbol, since=start, until=end)
        want = list(market.tape.rows("BTC/USDT", start, end))
        assert [int(trade.trade_id) for trade in found] == [row.id for row in want]


def test_a_runner_takes_every_timeframe_of_rest_and_no_other() -> None:
    for timeframe in adapter_for("coinbase").timeframes:
        runner = runner_for("coinbase", DataInput("kline", ["BTC-USD"], timeframe))
        assert runner.stream_input is not None
