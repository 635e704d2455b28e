"""Against engines that are not ours: DuckDB and polars, on random ticks in columns of all kinds and recorded trades."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from streammachine.ohlc import threads
from support.oracles import assert_agree, by_duckdb, by_polars

RECORDED = Path(__file__).parents[4] / "shared/data/binance_spot_btcusdt_trades_20240808-09.csv.gz"
MINUTE = 60_000


def from_ours(agg: Any, interval: int) -> pd.DataFrame:
    rows = [
        (s, c.candle_start_ms, c.open, c.high, c.low, c.close, c.volume, c.timestamp_ms, c.trade_count)
        for s in agg.symbols
        for c in agg.get_candles(s, interval)
    ]
    return pd.DataFrame(rows, columns=["symbol", "start", "open", "high", "low", "close", "volume", "last", "n"])


def assert_all_agree(agg: Any, ticks: pd.DataFrame, intervals: list[int]) -> None:
    for interval in intervals:
        ours = from_ours(agg, interval)
        for oracle in (by_duckdb, by_polars):
            assert_agree(ours, oracle(ticks, interval))


def random_ticks(count: int) -> pd.DataFrame:
    """Fifty symbols over some hours with holes, two decimals (so that prices tie), one in ten out of order."""
    rng = np.random.default_rng(20240808)
    ms = 1_700_000_000_000 + np.sort(rng.integers(0, 6 * 60 * MINUTE, count))
    ms += (ms // (40 * MINUTE) % 2) * 40 * MINUTE  # with holes
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
    assert_all_agree(agg, ticks, intervals)


COLUMNS: dict[str, Callable[[list[str]], Any]] = {
    "objects": lambda symbols: np.array(symbols, object),
    "fixed width": np.array,
    "pandas text": lambda symbols: pd.Series(symbols, dtype="str"),
    "pandas categories": pd.Categorical,
    "Arrow": pa.array,
    "Arrow dictionary": lambda symbols: pa.array(symbols).dictionary_encode(),
    "polars String": pl.Series,
    "polars Categorical": lambda symbols: pl.Series(symbols, dtype=pl.Categorical),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_columns_of_every_kind_on_several_threads_agree(
    engine: ModuleType, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "THREADS_FROM", 1)
    ticks = random_ticks(20_000)
    agg = engine.FastOHLC([MINUTE, 90_000])
    symbols = COLUMNS[kind](ticks["symbol"].astype(str).tolist())
    assert agg.update_batch(symbols, ticks["price"], ticks["volume"], ticks["ms"]) == len(ticks)
    assert_all_agree(agg, ticks, [MINUTE, 90_000])


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
    assert_all_agree(agg, ticks, intervals)
