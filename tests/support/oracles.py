"""Candles by engines that are not ours: DuckDB and polars, from a frame of ticks (symbol, price, volume, ms, row)."""

from __future__ import annotations

import duckdb
import numpy as np
import pandas as pd
import polars as pl

EXACT = ("symbol", "start", "open", "high", "low", "close", "n")

# Ties at one time are settled by arrival: the first opens, the last closes.
_CANDLES = """
    SELECT symbol, ms - ms % $interval AS start, arg_min(price, (ms, row)) AS open, max(price) AS high,
        min(price) AS low, arg_max(price, (ms, row)) AS close, fsum(volume) AS volume, count(*) AS n
    FROM {ticks} GROUP BY ALL ORDER BY symbol, start
"""
# ``newest``: the newest time of the symbol before this row, less the grace. A row is late where that had finished a
# candle that an earlier row was in and that ends behind the row's time.
_NOT_LATE = """(
    WITH placed AS (
        SELECT *, ms - ms % $interval + $interval AS ending, max(ms) OVER (
            PARTITION BY symbol ORDER BY row ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) - $grace AS newest, max(ms) OVER (PARTITION BY symbol) - $grace AS last
        FROM ticks
    )
    SELECT * FROM placed WHERE ending <= last AND row NOT IN (
        SELECT k.row FROM placed k JOIN placed j ON j.symbol = k.symbol AND j.row < k.row
        AND j.ending <= k.newest AND j.ending > k.ms
    )
)"""


def by_duckdb(ticks: pd.DataFrame, interval: int, grace: int | None = None) -> pd.DataFrame:
    """The finished candles of ticks in the order of ``row``; without ``grace`` all, and no tick is late."""
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.register("ticks", ticks)
        if grace is None:
            return connection.execute(_CANDLES.format(ticks="ticks"), {"interval": interval}).df()
        values = {"interval": interval, "grace": grace}
        return connection.execute(_CANDLES.format(ticks=_NOT_LATE), values).df()


def by_polars(ticks: pd.DataFrame, interval: int, grace: int | None = None) -> pd.DataFrame:
    """The same."""
    placed = pl.from_pandas(ticks).with_columns(
        pl.col("symbol").cast(pl.String), start=pl.col("ms") // interval * interval
    )
    if grace is not None:
        placed = placed.sort("row").with_columns(
            newest=pl.col("ms").cum_max().shift(1).over("symbol") - grace,
            last=pl.col("ms").max().over("symbol") - grace,
        )
        ends = placed.select("symbol", earlier="row", end=pl.col("start") + interval)
        pairs = placed.join(ends, on="symbol").filter(
            pl.col("earlier") < pl.col("row"), pl.col("end") <= pl.col("newest"), pl.col("end") > pl.col("ms")
        )
        placed = placed.join(pairs, on="row", how="anti").filter(pl.col("start") + interval <= pl.col("last"))
    price = pl.col("price")
    return (
        placed.sort("ms", "row")
        .group_by("symbol", "start", maintain_order=True)
        .agg(
            open=price.first(), high=price.max(), low=price.min(), close=price.last(),
            volume=pl.col("volume").sum(), n=pl.len(),
        )
        .sort("symbol", "start")
        .to_pandas()
    )  # fmt: skip


def assert_agree(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    """Prices and counts are the same; sums to 1e-9."""
    assert len(ours) == len(theirs)
    for name in EXACT:
        assert ours[name].tolist() == theirs[name].tolist(), name
    np.testing.assert_allclose(ours["volume"].to_numpy(), theirs["volume"].to_numpy(), rtol=1e-9, atol=0)
