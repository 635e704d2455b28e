"""A runner's indicators are further columns of its candles, from the first one on, and the sinks write them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from streammachine import DataInput, Kline
from streammachine.errors import DataInputError, IndicatorError
from streammachine.indicators import compute, parse_all
from streammachine.market.emitters.csv import CSVEmitter
from support.market_runs import MINUTE, START, Collector, run_until, world

pytestmark = pytest.mark.anyio
TEXTS = ["sma:5", "rsi:3", "macd:3,6,2"]
BEFORE = 400  # candles of the tape that the values may depend on


def wanted(there: Any, timeframe: str, ours: list[Kline]) -> dict[str, list[float | None]]:
    """The values over the tape's own candles, from long before the first of ours."""
    step = ours[0].end_ts + 1 - ours[0].open_ts
    rows = there.truth("BTC/USDT", timeframe, ours[0].open_ts - BEFORE * step, ours[-1].end_ts + 1)
    assert rows[-len(ours)][0] == ours[0].open_ts
    names = ("open", "high", "low", "close", "volume")  # a count for the volume, which these do not look at
    prices = {name: [row[place] for row in rows] for place, name in enumerate(names, 1)}
    return compute(parse_all(TEXTS), prices, shown=len(ours))


@pytest.mark.parametrize("exchange", ["binance", "okx"])
async def test_the_first_live_candle_has_the_values_of_the_whole_series(exchange: str, tmp_path: Path) -> None:
    async with world(exchange) as there:
        runner = there.runner(exchange, targets=["5m"], indicators=TEXTS)
        path = tmp_path / "candles.csv"
        runner.register_emitter(CSVEmitter(file_path=path))
        collector = Collector(lambda rows: sum(row.timeframe == "5m" for row in rows) >= 3)
        await run_until(runner, collector)
        for timeframe in ("1m", "5m"):
            ours: list[Any] = collector.klines(timeframe=timeframe)
            assert isinstance(ours[0], Kline)
            for name, values in wanted(there, timeframe, ours).items():
                assert [getattr(row, name) for row in ours] == pytest.approx(values, rel=1e-9, abs=1e-9), name
                assert [row.model_dump()[name] for row in ours] == [getattr(row, name) for row in ours]
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert {"open", "close", "sma5", "rsi3", "macd3_6_2_hist"} <= set(rows[0])
    assert float(rows[0]["sma5"]) == getattr(collector.klines()[0], "sma5")  # noqa: B009 - a column made at run time


async def test_candles_built_from_trades_have_them_too() -> None:
    async with world() as there:
        runner = there.runner(kind="trade", indicators=["sma:5"])
        collector = Collector(3)
        await run_until(runner, collector)
        ours: list[Any] = collector.klines()
        assert ours[0].open_ts >= START - MINUTE
        assert all(row.sma5 is not None for row in ours)


async def test_what_is_no_indicator_is_refused_at_once() -> None:
    async with world() as there:
        with pytest.raises(IndicatorError, match="Did you mean 'rsi'"):
            there.runner(indicators=["rsii"])
        runner = there.runner(indicators=["rsi"])
        runner.set_stream_input(DataInput("trade", runner.stream_input.symbols))
        with pytest.raises(DataInputError, match="indicators need candles"):
            await runner.run()
