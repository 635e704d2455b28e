"""Candles as a DataFrame, from the records that both engines write."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# A record as it lies in memory and in a dump ("<5d4q"); ``first`` is the event time of the tick that gave the open.
_RECORD = [
    *((name, "<f8") for name in ("open", "high", "low", "close", "volume")),
    *((name, "<i8") for name in ("candle_start_ms", "first", "timestamp_ms", "trade_count")),
]
_COLUMNS = ("open", "high", "low", "close", "volume", "timestamp_ms", "candle_start_ms", "trade_count")


def candle_frame(records: bytes) -> pd.DataFrame:
    """One row per record; the columns are the values of ``CandleData`` in its order, float64 and int64."""
    import numpy as np
    import pandas as pd

    candles = np.frombuffer(records, dtype=_RECORD)
    return pd.DataFrame({name: candles[name].astype(candles[name].dtype.newbyteorder("=")) for name in _COLUMNS})
