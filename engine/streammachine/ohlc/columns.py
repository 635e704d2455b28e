"""Columns of ticks, brought to tuples and arrays: the first step of ``update_batch`` in both engines.

All that can run code of the caller's objects to get at a column (``__array__``, ``dtype``, ``codes``) is here, so that
it is over before a value is checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from streammachine.errors import TickError
from streammachine.ohlc.values import show

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Column = tuple[Any, ...] | NDArray[Any]


class Columns(NamedTuple):
    """Each a tuple of objects, or a one-dimensional array of numbers or text. ``symbols``: one str or bytes for all
    rows; a column; or, where there are ``categories``, the row's place among them (int64, nobody else's)."""

    symbols: str | bytes | Column
    prices: Column
    volumes: Column
    timestamps: Column
    categories: list[Any] | None = None


def columns_of(symbols: Any, prices: Any, volumes: Any, timestamps: Any) -> Columns:
    """The columns as given, or those of one DataFrame.

    Raises:
        TickError: one is no column.
    """
    if prices is None and volumes is None and timestamps is None and hasattr(symbols, "columns"):
        symbols, prices, volumes, timestamps = _frame_columns(symbols)
    numbers = (
        _column(prices, "prices", "fiub", "a number"),
        _column(volumes, "volumes", "fiub", "a number"),
        _column(timestamps, "timestamps", "iu", "an integer (epoch milliseconds)"),
    )
    if isinstance(symbols, (str, bytes)):
        return Columns(symbols, *numbers)
    categories = getattr(getattr(symbols, "dtype", None), "categories", None)
    if categories is None:
        return Columns(_column(symbols, "symbols", "US", "text"), *numbers)
    return Columns(_codes(symbols), *numbers, list(categories))


def _frame_columns(frame: Any) -> tuple[Any, Any, Any, Any]:
    columns = list(frame.columns)
    for name in ("symbol", "price", "volume", "timestamp_ms"):
        if name not in columns:
            raise TickError(f"The DataFrame has no column {name!r}; it has {show(columns)}.")
    return frame["symbol"], frame["price"], frame["volume"], frame["timestamp_ms"]


def _column(values: Any, name: str, kinds: str, wanted: str) -> Column:
    """A tuple of the elements, or a one-dimensional array of one of the kinds."""
    import numpy as np

    if isinstance(values, (list, tuple)):
        return tuple(values)
    if values is None or isinstance(values, (str, bytes)):
        raise TickError(f"{name} {show(values)} is refused: give a list, an array or a Series.")
    array: NDArray[Any] = np.asarray(values)
    if array.ndim != 1:
        raise TickError(f"{name} is refused: it has {array.ndim} dimensions, and must have 1.")
    if array.dtype.kind in "OT":
        return tuple(array.tolist())
    if array.dtype.kind not in kinds:
        raise TickError(f"{name} is refused: its dtype is {array.dtype}, and must be {wanted}.")
    return array


def _codes(symbols: Any) -> NDArray[np.int64]:
    import numpy as np

    codes = np.asarray(symbols.codes if hasattr(symbols, "codes") else symbols.cat.codes)
    if codes.ndim != 1 or codes.dtype.kind not in "iu":
        raise TickError(
            f"symbols is refused: its categories' codes are {codes.ndim}-dimensional {codes.dtype}, and must be a row "
            "of integers."
        )
    return np.array(codes, dtype=np.int64)
