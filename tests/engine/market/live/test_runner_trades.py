"""Trades as ticks: handed on, and folded to candles that equal the exchange's own."""

from __future__ import annotations

from typing import Any

import pytest

from streammachine import Kline, Trade
from streammachine.market.simulator import Fault
from support.market_runs import EXCHANGES, MINUTE, START, Collector, run_until, same, short, world

pytestmark = pytest.mark.anyio


def enough(count: int, timeframe: str = "1m") -> Any:
    return lambda rows: sum(isinstance(row, Kline) and row.timeframe == timeframe for row in rows) >= count


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_candles_from_trades_equal_those_of_the_tape_and_of_the_exchange(exchange: str) -> None:
    async with world(exchange, quiet=0.4) as there:
        ticks = there.runner(exchange, targets=["5m"], kind="trade")
        from_ticks, from_exchange = Collector(enough(14)), Collector(enough(14))
        await run_until(ticks, from_ticks)
        ours = from_ticks.klines(timeframe="1m")
        assert [row.is_complete for row in ours] == [False] + [True] * (len(ours) - 1)
        same(short(ours), there.truth("BTC/USDT", "1m", ours[0].open_ts, ours[-1].end_ts + 1)[: len(ours)])
        assert any(row.n_trades == 0 for row in ours)  # a minute without trades, closed by the clock
        assert [row.is_complete for row in from_ticks.klines(timeframe="5m")][:2] == [False, True]
    async with world(exchange, quiet=0.4) as there:
        klines = there.runner(exchange)
        await run_until(klines, from_exchange)
    theirs = {row.open_ts: row for row in from_exchange.klines()}
    shared = [row for row in ours[1:] if row.open_ts in theirs]
    assert len(shared) > 10
    for row in shared:
        other = theirs[row.open_ts]
        assert (row.open, row.high, row.low, row.close) == (other.open, other.high, other.low, other.close)
        assert row.volume == pytest.approx(other.volume, rel=1e-9)
        assert row.quote_volume == pytest.approx(other.quote_volume, rel=1e-4 if other.estimated else 1e-9)


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_trades_without_a_timeframe_are_all_those_of_the_tape(exchange: str) -> None:
    async with world(exchange) as there:
        runner = there.runner(exchange, timeframe=None, kind="trade")
        collector = Collector(200)
        await run_until(runner, collector)
        trades = [row for row in collector.rows if isinstance(row, Trade)]
        assert len(trades) == len(collector.rows)
        tape = list(there.tape.rows("BTC/USDT", trades[0].ts, trades[-1].ts + 1))
        at = 0
        for row in trades:  # OKX's socket joins trades of one price; the last one's time and id stand for all
            at += row.fills
            assert (row.ts, row.price) == (tape[at - 1].ts, float(tape[at - 1].price))
        assert at == len(tape)


async def test_stream_yields_trades_only_where_there_is_no_timeframe() -> None:
    async with world() as there:
        kinds = []
        for timeframe in (None, "1m"):
            runner = there.runner(timeframe=timeframe, kind="trade", emit_trades=True)
            collector = Collector()
            runner.register_emitter(collector)
            rows = runner.stream()
            async for row in rows:
                kinds.append(type(row))
                break
            await rows.aclose()
            assert any(isinstance(row, Trade) for row in collector.rows)
        assert kinds == [Trade, Kline]


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_with_warmup_the_first_candle_is_complete(exchange: str) -> None:
    async with world(exchange) as there:
        await there.clock.sleep(4 * 60 + 25.0)
        runner = there.runner(exchange, targets=["5m"], kind="trade", emit_warmup=True)
        collector = Collector(enough(2, "5m"))
        await run_until(runner, collector)
        begin = (START + 4 * MINUTE) // (5 * MINUTE) * 5 * MINUTE
        ours = collector.klines(timeframe="1m")
        assert ours[0].open_ts == begin
        assert all(row.is_complete for row in collector.klines())
        same(short(ours), there.truth("BTC/USDT", "1m", begin, ours[-1].end_ts + 1))


@pytest.mark.parametrize("exchange", ["binance", "kraken"])
@pytest.mark.parametrize("kind", ["reset", "stall", "freeze", "close"])
async def test_trades_lost_with_a_connection_are_healed_and_no_candle_is_closed_too_early(
    exchange: str, kind: str
) -> None:
    faults = [Fault(kind, at=100.0), Fault(kind, at=290.0)]
    async with world(exchange, faults=faults) as there:
        runner = there.runner(exchange, kind="trade")
        collector = Collector(enough(12))
        await run_until(runner, collector)
        ours = collector.klines()
        same(short(ours), there.truth("BTC/USDT", "1m", ours[0].open_ts, ours[-1].end_ts + 1))
        assert all(row.is_complete for row in ours[1:])
        assert runner.stats().late == 0
    assert not runner.gaps


async def test_a_timeframe_that_the_exchange_does_not_have_is_built_from_trades_all_the_same() -> None:
    faults = [Fault("stall", at=200.0), Fault("mute", at=700.0)]
    async with world("kraken", faults=faults, quiet=0.5, symbols=["BTC/USDT"]) as there:
        runner = there.runner("kraken", timeframe="3m", targets=["2h"], kind="trade")
        collector = Collector(enough(9, "3m"))
        await run_until(runner, collector)
        ours = collector.klines(timeframe="3m")
        same(short(ours), there.truth("BTC/USDT", "3m", ours[0].open_ts, ours[-1].end_ts + 1))
        assert all(row.is_complete for row in ours[1:])
        assert runner.stats().late == 0


async def test_running_candles_of_trades_come_where_they_are_asked_for() -> None:
    async with world() as there:
        runner = there.runner(kind="trade", emit_only_closed_candles=False)
        collector = Collector(lambda rows: sum(bool(row.is_closed) for row in rows) >= 3)
        await run_until(runner, collector)
        running = [row for row in collector.klines() if not row.is_closed]
        assert len(running) > 10
        order = [(row.open_ts, bool(row.is_closed)) for row in collector.klines()]
        assert order == sorted(order)
