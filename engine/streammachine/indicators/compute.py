"""The columns of indicators over candles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from streammachine.indicators import library
from streammachine.indicators.spec import Indicator, parse_all

PRICES = ("open", "high", "low", "close", "volume")


def compute_indicators(
    texts: Iterable[str], candles: Mapping[str, Sequence[float | None]], *, shown: int | None = None
) -> dict[str, list[float | None]]:
    """The columns of indicators over candles, as ``compute``.

    Args:
        texts: "sma:20", "rsi:14", "macd:12,26,9": TA-Lib's names and parameters (docs/charts.md).
        candles, shown: as ``compute``.

    Raises:
        IndicatorError: a text is no indicator, there are more than eight, or TA-Lib is not installed.
    """
    return compute(parse_all(texts), candles, shown=shown)


def compute(
    indicators: Sequence[Indicator], candles: Mapping[str, Sequence[float | None]], *, shown: int | None = None
) -> dict[str, list[float | None]]:
    """Each indicator's columns over candles in the order of time.

    Args:
        candles: open, high, low, close and volume, all of one length; None is no number.
        shown: give the last so many values only. The candles before them are history: all but those indicators that
            add up (``Indicator.cumulative``) are computed with it, and those begin at the first one shown.

    Returns:
        Values by column; None where the indicator has none: before its window is full, or it is no finite number.

    Raises:
        IndicatorError: TA-Lib is not installed.
    """
    import numpy as np

    columns = {name: np.asarray(candles[name], dtype=np.float64) for name in PRICES}
    length = len(columns["close"])
    wanted = length if shown is None else min(shown, length)
    recent = {name: column[length - wanted :] for name, column in columns.items()}
    found: dict[str, list[float | None]] = {}
    for indicator in indicators:
        series = _series(indicator, recent if indicator.cumulative else columns)
        for name, values in zip(indicator.columns, series, strict=True):
            tail = values[len(values) - wanted :]
            found[name] = [
                value if finite else None for value, finite in zip(tail.tolist(), np.isfinite(tail), strict=True)
            ]
    return found


def _series(indicator: Indicator, columns: Mapping[str, Any]) -> list[Any]:
    """An indicator's outputs as float arrays, NaN before the first value."""
    import numpy as np

    count = len(columns["close"])
    if not count:
        return [np.empty(0) for _ in indicator.columns]
    handle = library.abstract(indicator.function)
    handle.parameters = dict(indicator.parameters)
    lookback = handle.lookback
    if count <= lookback:
        return [np.full(count, np.nan) for _ in indicator.columns]
    outputs = handle(dict(columns))
    found = []
    for output in outputs if isinstance(outputs, list) else [outputs]:
        values = np.asarray(output)
        if values.dtype.kind == "i":  # whole numbers have no NaN: TA-Lib writes 0 before the first value
            values = values.astype(np.float64)
            values[:lookback] = np.nan
        found.append(values)
    return found
