"""Columns of Arrow's layout as columns of pandas, without a copy; ``HAS_NATIVE``: whether what makes them is built."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from streammachine.frames.native_columns import Buffer, Columns, Page, TextColumn

    HAS_NATIVE: bool
else:
    try:
        from streammachine.frames.native_columns import Columns, Page, TextColumn

        HAS_NATIVE = True
    except ImportError:
        Columns = Page = TextColumn = None
        HAS_NATIVE = False

__all__ = ["HAS_NATIVE", "Columns", "Page", "TextColumn", "arrow_dtype", "arrow_text", "integers", "repeated"]


def integers(buffer: Buffer) -> NDArray[np.int64]:
    """The buffer as an array; it can be written to."""
    import numpy as np

    return np.frombuffer(memoryview(buffer), dtype=np.int64)


def arrow_dtype() -> Any:
    """The installed pandas' dtype for text where it keeps it in Arrow's layout; None where it does not."""
    import pandas as pd

    dtype = pd.Series([""]).dtype
    return dtype if isinstance(dtype, pd.StringDtype) and dtype.storage == "pyarrow" else None


def arrow_text(dtype: Any, column: TextColumn) -> Any:
    """The column in pandas' text dtype, on the same memory."""
    import pyarrow as pa

    bits = None if column.bits is None else pa.py_buffer(column.bits)
    buffers = pa.py_buffer(column.offsets), pa.py_buffer(column.data), bits
    return dtype.__from_arrow__(pa.LargeStringArray.from_buffers(column.rows, *buffers))


def repeated(dtype: Any, counted: Iterable[tuple[str, int]]) -> Any:
    """Each text so many times, in pandas' text dtype."""
    column = TextColumn(b"")
    for text, count in counted:
        column.repeat(text, count)
    return arrow_text(dtype, column)
