"""The times in a column of a frame, whatever form they have, as milliseconds since the epoch."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PLAIN = ("string", "integer", "floating", "mixed-integer-float", "decimal", "empty")  # what an object column may hold
_PER_MS = {"ms": 1, "us": 1000, "ns": 1_000_000}  # how many of a unit are a millisecond


def milliseconds_of(df: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """The column's timestamps in epoch milliseconds; NaN where there is none. Raises ValueError.

    Numbers, and text of numbers, are milliseconds. Datetimes of any unit (beyond 2262 too), dates and ISO 8601 text are
    UTC where they have no zone. A period counts from its start. Milliseconds are exact in a float64 for 285,000 years.
    """
    import numpy as np
    import pandas as pd

    if column not in df.columns:
        raise ValueError(
            f"the frame has no column {column!r}. It has: {', '.join(map(repr, df.columns)) or 'none'}."
            " Name the column with the milliseconds in timestamp_column."
        )
    values = df[column]
    if isinstance(values, pd.DataFrame):
        raise ValueError(f"the frame has more than one column {column!r}. Rename all but one.")
    times: NDArray[np.float64]
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "iuf":
        times = values.to_numpy().astype(np.float64)
    elif pd.api.types.is_datetime64_any_dtype(values):
        times = _of_datetimes(pd.DatetimeIndex(values))
    elif _is_numeric_or_text(values):
        try:
            times = pd.to_numeric(values).to_numpy(dtype=np.float64, na_value=math.nan).astype(np.float64)
        except (TypeError, ValueError):
            times = _one_by_one(values, column)
    else:
        times = _one_by_one(values, column)
    times[~np.isfinite(times)] = math.nan
    return times


def _is_numeric_or_text(values: pd.Series) -> bool:
    """Whether pandas' own conversion may be asked: it gives truth values, periods and time spans as numbers too."""
    import pandas as pd

    dtype = values.dtype
    if getattr(dtype, "kind", "") == "O" and not isinstance(dtype, pd.PeriodDtype):
        return pd.api.types.infer_dtype(values, skipna=True) in _PLAIN
    return not isinstance(dtype, pd.PeriodDtype) and getattr(dtype, "kind", "O") not in "mbc"


def _of_datetimes(stamps: pd.DatetimeIndex) -> NDArray[np.float64]:
    """In whole numbers as far as they go: nanoseconds do not fit into a float64, nor years beyond 2262 into them."""
    import numpy as np

    counted = stamps.asi8
    if stamps.unit == "s":
        times = counted.astype(np.float64) * 1000
    else:
        whole, rest = np.divmod(counted, _PER_MS[stamps.unit])
        times = whole.astype(np.float64) + rest / _PER_MS[stamps.unit]
    times[np.asarray(stamps.isna())] = math.nan
    return times


def _one_by_one(values: pd.Series, column: str) -> NDArray[np.float64]:
    import numpy as np

    times = np.empty(len(values), dtype=np.float64)
    for place, value in enumerate(values):
        try:
            times[place] = _milliseconds(value)
        except (ArithmeticError, TypeError, ValueError) as error:
            shown = repr(value)
            raise ValueError(
                f"the column {column!r} holds something that is not a time in milliseconds, a datetime, a period or ISO"
                f" text: row {place} has {shown if len(shown) <= 100 else shown[:100] + '...'}"
            ) from error
    return times


def _milliseconds(value: Any) -> float:
    """Epoch milliseconds of one value; NaN for None, NaN, NaT and pandas.NA."""
    import numpy as np
    import pandas as pd

    if value is None or value is pd.NaT or value is pd.NA:
        return math.nan
    if isinstance(value, pd.Period):
        try:
            value = value.start_time
        except (OverflowError, ValueError):  # in nanoseconds, which end in 2262
            value = datetime(value.year, value.month, value.day, value.hour, value.minute, value.second)
    if isinstance(value, pd.Timestamp | np.datetime64):
        return float(_of_datetimes(pd.DatetimeIndex([value]))[0])
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return math.nan
        try:
            return _number(text)
        except ValueError:
            value = datetime.fromisoformat(text)
    if isinstance(value, datetime):
        since = (value if value.tzinfo is not None else value.replace(tzinfo=UTC)) - _EPOCH
        whole, rest = divmod(since, timedelta(milliseconds=1))
        return whole + rest / timedelta(milliseconds=1)
    if isinstance(value, date):
        return _milliseconds(datetime(value.year, value.month, value.day))
    if isinstance(value, bool | np.bool_ | complex | np.timedelta64 | timedelta):
        raise TypeError("no time")
    return float(value)


def _number(text: str) -> float:
    if "_" in text:  # which float() takes for a thousands' mark
        raise ValueError("no number")
    return float(text)
