"""Columns of ticks, brought to tuples and arrays: the first step of ``update_batch`` in both engines.

All that can run code of the caller's objects to get at a column (``__array__``, ``dtype``, ``codes``) is here, so that
it is over before a value is checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from streammachine.errors import TickError
from streammachine.ohlc.values import show

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Column = tuple[Any, ...] | NDArray[Any]


class ArrowText:
    """A column of text that lies in Arrow's layout: pyarrow's, polars', pandas'.

    Attributes:
        capsule: the stream of its arrays, to be read once; see Arrow's C stream interface.
    """

    def __init__(self, values: Any) -> None:
        self._values = values
        self.capsule = values.__arrow_c_stream__()

    def __len__(self) -> int:
        return len(self._values)

    def tolist(self) -> list[Any]:
        """Each row's text, None where there is none."""
        return list(self._values.to_pylist() if hasattr(self._values, "to_pylist") else self._values.to_list())


class Columns(NamedTuple):
    """Each a tuple of objects, or a one-dimensional array of numbers, text or objects. ``symbols``: one str or bytes
    for all rows; a column; or, where there are ``categories``, the row's place among them (signed integers)."""

    symbols: str | bytes | Column | ArrowText
    prices: Column
    volumes: Column
    timestamps: Column
    categories: list[Any] | None = None


def columns_of(symbols: Any, prices: Any, volumes: Any, timestamps: Any) -> Columns:
    """The columns as given, or those of one DataFrame.

    Raises:
        TickError: one is no column.
    """
    if prices is None and volumes is None and timestamps is None:
        symbols, prices, volumes, timestamps = _frame_columns(symbols)
    numbers = (
        _column(prices, "prices", "fiub", "a number"),
        _column(volumes, "volumes", "fiub", "a number"),
        _column(timestamps, "timestamps", "iu", "an integer (epoch milliseconds)"),
    )
    if isinstance(symbols, (str, bytes)):
        return Columns(symbols, *numbers)
    categories: Any = getattr(getattr(symbols, "dtype", None), "categories", None)
    if hasattr(symbols, "codes") or hasattr(getattr(symbols, "cat", None), "codes"):
        return Columns(_codes(symbols), *numbers, list(categories if categories is not None else ()))
    if hasattr(categories, "to_series"):  # those of polars' Categorical; of its Enum they are a Series
        categories = categories.to_series()
    polars_codes = _polars_codes(symbols, categories)
    if polars_codes is not None:
        return Columns(polars_codes, *numbers, categories.to_list())
    text = _arrow_text(symbols)
    return Columns(_column(symbols, "symbols", "USO", "text") if text is None else text, *numbers)


def _frame_columns(frame: Any) -> tuple[Any, Any, Any, Any]:
    """The four columns of a pandas or polars DataFrame, an Arrow table or batch; else what was given as it is."""
    names = getattr(frame, "column_names", None)
    if names is None:
        names = getattr(frame, "columns", None)
    if names is None:
        return frame, None, None, None
    columns = list(names)
    for name in ("symbol", "price", "volume", "timestamp_ms"):
        if name not in columns:
            raise TickError(f"The DataFrame has no column {name!r}; it has {show(columns)}.")
    return frame["symbol"], frame["price"], frame["volume"], frame["timestamp_ms"]


def _arrow_text(values: Any) -> ArrowText | None:
    """The column where it is kept in Arrow's layout; else None."""
    if hasattr(values, "dtype") and hasattr(values, "array"):  # a pandas Series
        array = values.array
        if getattr(values.dtype, "storage", None) != "pyarrow" and not hasattr(values.dtype, "pyarrow_dtype"):
            return None
        values = array.__arrow_array__()
    if hasattr(values, "__arrow_c_array__") and not hasattr(values, "__arrow_c_stream__"):
        import pyarrow

        values = pyarrow.chunked_array([values])
    if not hasattr(values, "__arrow_c_stream__"):
        return None
    kind = str(getattr(values, "type", getattr(values, "dtype", ""))).lower()
    return ArrowText(values) if any(word in kind for word in ("string", "binary", "categorical", "enum")) else None


def _plain(values: Any) -> Any:
    """A column of Arrow or polars as something that becomes an array without a copy where it lies in one piece; with
    None in it, a list."""
    if not hasattr(values, "null_count") or (hasattr(values, "dtype") and hasattr(values, "array")):
        return values
    nulls = values.null_count
    if nulls() if callable(nulls) else nulls:
        return values.to_pylist() if hasattr(values, "to_pylist") else values.to_list()
    if hasattr(values, "num_chunks"):
        return values.chunk(0) if values.num_chunks == 1 else values.combine_chunks()
    return values


def _column(values: Any, name: str, kinds: str, wanted: str) -> Column:
    """A tuple of the elements, or a one-dimensional array of one of the kinds."""
    import numpy as np

    values = _plain(values)
    if isinstance(values, (list, tuple)):
        return tuple(values)
    if values is None or isinstance(values, (str, bytes)):
        raise TickError(f"{name} {show(values)} is refused: give a list, an array or a Series.")
    array: NDArray[Any] = np.asarray(values)
    if array.ndim != 1:
        raise TickError(f"{name} is refused: it has {array.ndim} dimensions, and must have 1.")
    if array.dtype.kind not in kinds and array.dtype.kind in "OT":
        return tuple(array.tolist())
    if array.dtype.kind not in kinds:
        raise TickError(f"{name} is refused: its dtype is {array.dtype}, and must be {wanted}.")
    return array


def _polars_codes(symbols: Any, categories: Any) -> NDArray[Any] | None:
    """The codes of a Categorical or Enum of polars, without a copy where they lie in one piece.

    For its Arrow stream polars makes the dictionary anew. None where there are no codes, where a row has no symbol, and
    where there are more categories than rows: those of a Categorical are shared by the whole process.
    """
    if not hasattr(symbols, "to_physical") or not hasattr(categories, "to_list"):
        return None
    if symbols.null_count() or len(categories) > len(symbols):
        return None
    codes: NDArray[Any] = symbols.to_physical().to_numpy()
    if codes.dtype.kind != "u":
        return None
    signed = f"i{codes.dtype.itemsize}"
    return codes.view(signed) if len(categories) <= 1 << (8 * codes.dtype.itemsize - 1) else codes.astype("i8")


def _codes(symbols: Any) -> NDArray[Any]:
    import numpy as np

    codes = np.asarray(symbols.codes if hasattr(symbols, "codes") else symbols.cat.codes)
    if codes.ndim != 1 or codes.dtype.kind not in "iu":
        raise TickError(
            f"symbols is refused: its categories' codes are {codes.ndim}-dimensional {codes.dtype}, and must be a row "
            "of integers."
        )
    return codes if codes.dtype.kind == "i" else codes.astype(np.int64)
