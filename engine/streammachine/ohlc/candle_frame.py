"""Candles as a frame of pandas, polars or Arrow, from the records that both engines write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streammachine.errors import SettingsError
from streammachine.ohlc.values import show

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# A record as it lies in memory and in a dump ("<5d4q"); ``first`` is the event time of the tick that gave the open.
_RECORD = [
    *((name, "<f8") for name in ("open", "high", "low", "close", "volume")),
    *((name, "<i8") for name in ("candle_start_ms", "first", "timestamp_ms", "trade_count")),
]
_COLUMNS = ("open", "high", "low", "close", "volume", "timestamp_ms", "candle_start_ms", "trade_count")
KINDS = ("pandas", "polars", "arrow")


def candle_frame(records: bytes, kind: str = "pandas") -> Any:
    """One row per record; the columns are the values of ``CandleData`` in its order, float64 and int64.

    Args:
        kind: "pandas" for a DataFrame, "polars" for one of polars, "arrow" for a ``pyarrow.Table``.

    Raises:
        SettingsError: there is no such kind, or its library is not installed.
    """
    checked_kind(kind)
    columns = candle_columns(records)
    try:
        return _made(columns, kind)
    except ImportError as error:
        extra = "polars" if kind == "polars" else "parquet"
        raise SettingsError(f'{error.name} is not installed: pip install "streammachine-mcp[{extra}]"') from error


def checked_kind(kind: object) -> None:
    """Refuse what is no kind of frame, before anything is made."""
    if kind not in KINDS:
        raise SettingsError(f"kind {show(kind)} is refused: it must be one of {', '.join(KINDS)}.")


def candle_columns(records: bytes) -> dict[str, NDArray[Any]]:
    """The columns as arrays of their own: in a record they stand beside each other, so this is the one copy."""
    import numpy as np

    candles: NDArray[np.void] = np.frombuffer(records, dtype=_RECORD)
    return {name: candles[name].astype(candles[name].dtype.newbyteorder("=")) for name in _COLUMNS}


def _made(columns: dict[str, NDArray[Any]], kind: str) -> Any:
    if kind == "arrow":
        import pyarrow

        return pyarrow.table(columns)
    if kind == "polars":
        import polars

        return polars.DataFrame(columns)
    import pandas as pd

    return pd.DataFrame(columns)
