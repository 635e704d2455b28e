"""Against an engine that is not ours: DuckDB's GROUP BY, on random ticks and on recorded trades."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

RECORDED = Path(__file__).parents[4] / "shared/data/binance_spot_btcusdt_trades_20240808-09.csv.gz"
MINUTE = 60_000

# Ties at one time are settled by arrival, which is `row`: the first opens, the last closes.
CANDLES = """
    SELECT symbol, ms - ms % {interval} AS start, arg_min(price, (ms, row)) AS open, max(price) AS high,
        min(price) AS low, arg_max(price, (ms, row)) AS close, fsum(volume) AS volume, max(ms) AS last, count(*) AS n
    FROM ticks GROUP BY ALL ORDER BY symbol, start
"""


def from_duckdb(ticks: pd.DataFrame, interval: int) -> pd.DataFrame:
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.register("ticks", ticks)
        return connection.sql(CANDLES.format(interval=interval)).df()


def from_ours(agg: Any, interval: int) -> pd.DataFrame:
    rows = [
        (s, c.candle_start_ms, c.open, c.high, c.low, c.close, c.volume, c.timestamp_ms, c.trade_count)
        for s in agg.symbols
        for c in agg.get_candles(s, interval)
    ]
    return pd.DataFrame(rows, columns=["symbol", "start", "open", "high", "low", "close", "volume", "last", "n"])


def assert_agree(agg: Any, ticks: pd.DataFrame, intervals: list[int]) -> None:
    for interval in intervals:
        ours, theirs = from_ours(agg, interval), from_duckdb(ticks, interval)
        assert ours["symbol"].tolist() == theirs["symbol"].tolist()
        for name in ("start", "open", "high", "low", "close", "last", "n"):
            assert np.array_equal(ours[name].to_numpy(), theirs[name].to_numpy()), (interval, name)
        np.testing.assert_allclose(ours["volume"], theirs["volume"], rtol=1e-9, atol=0)


def random_ticks(count: int) -> pd.DataFrame:
    """Fifty symbols over some hours, two decimals (so that prices tie), one in ten out of order."""
    rng = np.random.default_rng(20240808)
    ms = 1_700_000_000_000 + np.sort(rng.integers(0, 6 * 60 * MINUTE, count))
    late = rng.random(count) < 0.1
    ms[late] -= rng.integers(0, 10 * MINUTE, late.sum())
    return pd.DataFrame(
        {
            "symbol": pd.Categorical.from_codes(rng.integers(0, 50, count), [f"S{k:02d}" for k in range(50)]),
            "price": np.round(100 + rng.standard_normal(count), 2),
            "volume": rng.random(count),
            "ms": ms,
            "row": np.arange(count),
        }
    )


def test_random_ticks_agree(engine: ModuleType) -> None:
    intervals = [MINUTE, 5 * MINUTE, 15 * MINUTE, 90_000]
    native = engine.__name__.endswith("fast")
    ticks = random_ticks(1_000_000 if native else 100_000)
    agg = engine.FastOHLC(intervals)
    assert agg.update_batch(ticks["symbol"], ticks["price"], ticks["volume"], ticks["ms"]) == len(ticks)
    assert (agg.tick_count, agg.late_count) == (len(ticks), 0)
    assert_agree(agg, ticks, intervals)


def test_recorded_trades_agree(engine: ModuleType) -> None:
    if not RECORDED.exists():
        pytest.skip(f"the recorded trades are not here: {RECORDED.name}")
    trades = pd.read_csv(RECORDED, dtype={"price": str, "qty": str})
    assert len(trades) == 19_904
    intervals = [1_000, MINUTE, 5 * MINUTE]
    entries = [
        (f"{ms}-{k}", {"price": price, "volume": qty})
        for k, (ms, price, qty) in enumerate(zip(trades["trade_ms"], trades["price"], trades["qty"], strict=True))
    ]
    agg = engine.FastOHLC(intervals)
    assert agg.process_stream_batch({"BTCUSDT": entries}) == len(trades)
    ticks = pd.DataFrame(
        {
            "symbol": "BTCUSDT",
            "price": trades["price"].map(float),
            "volume": trades["qty"].map(float),
            "ms": trades["trade_ms"],
            "row": np.arange(len(trades)),
        }
    )
    assert_agree(agg, ticks, intervals)
