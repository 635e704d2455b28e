"""Whatever goes wrong, what a runner emits as complete is what the tape says, and what is missing it says.

Random fault scripts; FEED's own tests go through every fault one by one.
"""

from __future__ import annotations

import pytest

from streammachine import Gap, Kline
from streammachine.market.model import timeframe as timeframes
from streammachine.market.simulator import random_script
from support.market_runs import EXCHANGES, MINUTE, START, Collector, World, run_until, short, without_counts, world

pytestmark = pytest.mark.anyio

MINUTES = 25
SEEDS = range(4)


def until(minutes: int, timeframe: str = "1m") -> object:
    """A candle, or a gap, that ends so many minutes after the start or later has come."""

    def enough(rows: list[object]) -> bool:
        return any(
            (row.end_ts + 1 if isinstance(row, Kline) else row.end) >= START + minutes * MINUTE
            for row in rows[-20:]
            if isinstance(row, (Kline, Gap)) and row.timeframe == timeframe
        )

    return enough


def holds(there: World, collector: Collector, timeframe: str, *, first_complete: bool) -> tuple[int, int]:
    """Candles and gaps cover the time in order, once; complete ones are the tape's. How many of each there are."""
    rows = [row for row in collector.rows if isinstance(row, (Kline, Gap)) and row.timeframe == timeframe]
    due = None
    klines = []
    for row in rows:
        start, end = (row.start, row.end) if isinstance(row, Gap) else (row.open_ts, row.end_ts + 1)
        assert due in (None, start), (timeframe, due, start)
        due = end
        if isinstance(row, Kline):
            klines.append(row)
    assert klines
    truth = there.truth("BTC/USDT", timeframe, klines[0].open_ts, klines[-1].end_ts + 1)
    right = {row[0]: row for row in without_counts(truth)}
    for row in klines[0 if first_complete else 1 :]:
        if row.is_complete:
            assert without_counts(short([row])) == [right[row.open_ts]]
    return len(klines), len(rows) - len(klines)


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("seed", SEEDS)
async def test_candles_and_those_built_from_them(exchange: str, seed: int) -> None:
    async with world(exchange) as plain:
        script = random_script(seed, tape=plain.tape, exchange=exchange, timeframe="1m", minutes=MINUTES)
    async with world(exchange, faults=script, seed=7) as there:
        runner = there.runner(exchange, targets=["15m", "5m"], emit_warmup=True, emit_gap=True)
        collector = Collector(until(MINUTES + 5))  # type: ignore[arg-type]
        await run_until(runner, collector)
        lost = {ts for _, timeframe, ts in script.unobtainable if timeframe == "1m"}
        holds(there, collector, "1m", first_complete=True)
        gaps = {ts for gap in runner.gaps if gap.timeframe == "1m" for ts in range(gap.start, gap.end, MINUTE)}
        assert gaps <= lost, sorted(gaps - lost)
        for timeframe in ("5m", "15m"):
            holds(there, collector, timeframe, first_complete=True)
            for row in collector.klines(timeframe=timeframe):
                inside = set(timeframes.starts("1m", row.open_ts, row.end_ts + 1))
                assert row.is_complete == (not inside & gaps), (timeframe, row.open_ts)


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("seed", SEEDS)
async def test_candles_built_from_trades(exchange: str, seed: int) -> None:
    async with world(exchange) as plain:
        script = random_script(seed, tape=plain.tape, exchange=exchange, timeframe="1m", minutes=MINUTES)
    async with world(exchange, faults=script, seed=7) as there:
        runner = there.runner(exchange, targets=["5m"], kind="trade", emit_gap=True)
        collector = Collector(until(MINUTES))  # type: ignore[arg-type]
        await run_until(runner, collector)
        holds(there, collector, "1m", first_complete=False)
        holds(there, collector, "5m", first_complete=False)
        # The first candle is incomplete anyway; its end is not waited for as long.
        assert runner.stats().late == 0 or not collector.klines(timeframe="1m")[0].is_complete
