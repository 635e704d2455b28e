"""Axes that are right for values of any size: 1e-12, 1e300, all the same. Places are from 0 to 1, labels are exact.

A drawing library adds margins and rounds in floats of the values' own size, and puts one offset for all labels in a
corner; here every label is the value itself, and the library never sees it.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Sequence

_MARGIN = 0.06  # of the height, above and below
_GREATEST = 1.7e308
_LARGE = 1e290  # above it a difference may overflow
_SMALL_EXPONENT, _LARGE_EXPONENT = -6, 9  # beyond these, powers of ten
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)

Tick = tuple[float, str]


class ValueScale:
    """The vertical axis of a pane.

    Args:
        values: all that is drawn in it; None and what is not finite is left out. flat: where all are the same, the axis
            reaches this share of the value to both sides. floor: a value that the axis begins at, without a margin.
    """

    def __init__(self, values: Iterable[float | None], *, flat: float = 0.01, floor: float | None = None) -> None:
        finite = [value for value in values if value is not None and math.isfinite(value)]
        if floor is not None:
            finite.append(floor)
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        self.factor = 1e-20 if max(abs(low), abs(high)) > _LARGE else 1.0
        low, high = low * self.factor, high * self.factor
        self.is_flat = high - low <= max(abs(low), abs(high)) * 1e-12
        if self.is_flat:
            pad = max(abs(low), abs(high)) * flat or 1.0
            self.low, self.high = low - pad, high + pad
        else:
            margin = (high - low) * _MARGIN
            self.low = low if floor is not None and low == floor * self.factor else low - margin
            self.high = high + margin
        if self.high <= self.low:  # so small that a margin is nothing
            self.low, self.high = low - 5e-324, high + 5e-324

    def place(self, value: float | None) -> float:
        """Where a value stands, 0 at the bottom and 1 at the top; NaN for None."""
        if value is None or not math.isfinite(value):
            return math.nan
        return (value * self.factor - self.low) / (self.high - self.low)

    def ticks(self, most: int = 6) -> list[Tick]:
        """Places and labels of round values, from the bottom up."""
        step = nice_step((self.high - self.low) / max(1, most))
        if not step or not math.isfinite(step):
            middle = (self.low + self.high) / 2
            return [(0.5, f"{middle / self.factor:g}")]
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        if not 0 <= last - first <= 4 * most:
            return []
        largest = min(max(abs(self.low), abs(self.high)), _GREATEST * self.factor)
        found = []
        for count in range(first, last + 1):
            value = count * step / self.factor
            if not math.isfinite(value):  # beyond what a float holds
                continue
            found.append((self.place(value), label(value, step / self.factor, largest / self.factor)))
        return found


def nice_step(size: float) -> float:
    """The first of 1, 2, 2.5, 5 times a power of ten that is not below ``size``; 0 where there is none."""
    if size <= 0 or not math.isfinite(size):
        return 0.0
    power = 10.0 ** math.floor(math.log10(size))
    return next((step * power for step in _STEPS if step * power >= size * (1 - 1e-9)), 0.0) if power else 0.0


def label(value: float, step: float, largest: float) -> str:
    """A value with as many digits as tell it from the next tick."""
    exponent = _exponent(largest)
    digits = -_exponent(step) + (0 if _mantissa_is_whole(step) else 1)
    if exponent < _SMALL_EXPONENT or exponent >= _LARGE_EXPONENT:
        if value == 0:
            return "0"
        return _tidy(f"{value:.{min(max(0, _exponent(value) + digits), 16)}e}")
    text = f"{value:,.{min(max(0, digits), 16)}f}"
    return text[1:] if text.startswith("-") and not text.strip("-0.,") else text


def price(value: float | None, digits: int = 10) -> str:
    """A value on its own: as many digits as it has, at most so many (but all of a whole part below 1e15)."""
    if value is None or not math.isfinite(value):
        return "n/a"
    if value == 0:
        return "0"
    exponent = _exponent(value)
    if exponent < _SMALL_EXPONENT or exponent >= 15:
        mantissa, _, power = f"{value:.{min(digits - 2, 7) - 1}e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    text = f"{value:,.{max(0, digits - 1 - exponent)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def span_text(times: Sequence[int]) -> str:
    """``2024-08-09 00:00 to 03:20 UTC``: when the first and the last candle begin."""
    first, last = _utc(times[0]), _utc(times[-1])
    clock = "%H:%M:%S" if any(ms % 60_000 for ms in (times[0], times[-1])) else "%H:%M"
    if len(times) == 1:
        return f"{first:%Y-%m-%d} {first:{clock}} UTC"
    if first.hour == first.minute == last.hour == last.minute == 0 and first.date() != last.date():
        return f"{first:%Y-%m-%d} to {last:%Y-%m-%d} UTC"
    day = "" if first.date() == last.date() else f"{last:%Y-%m-%d} "
    return f"{first:%Y-%m-%d} {first:{clock}} to {day}{last:{clock}} UTC"


def amount(value: float) -> str:
    """A volume, short: 950, 1.2K, 3.4M, 5.6B, 1.2e+15."""
    size = abs(value)
    if size >= 1e15 or 0 < size < 1e-3:
        return _tidy(f"{value:.1e}")
    for limit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if size >= limit:
            return f"{value / limit:.4g}{letter}"
    return f"{value:.4g}"


def time_ticks(times: Sequence[int], most: int) -> list[tuple[int, str]]:
    """Candles that get a label, and the label: the UTC time, or the date where a day, month or year begins.

    Args:
        times: epoch ms of the candles, rising. most: about how many labels there is room for.
    """
    if len(times) == 1:
        return [(0, f"{_utc(times[0]):%d %b %Y %H:%M}")]
    for unit, count in _UNITS:
        marks = [n for n in range(1, len(times)) if _part(times[n], unit, count) != _part(times[n - 1], unit, count)]
        if _part(times[0] - 1, unit, count) != _part(times[0], unit, count):
            marks.insert(0, 0)
        if len(marks) <= most:
            break
    if not marks:
        marks = [0]
    return [(n, _time_label(times, n, marks)) for n in marks]


_UNITS = (
    *(("s", count) for count in (1, 5, 10, 15, 30)),
    *(("s", 60 * count) for count in (1, 2, 5, 10, 15, 30)),
    *(("s", 3600 * count) for count in (1, 2, 3, 4, 6, 12)),
    *(("s", 86_400 * count) for count in (1, 2, 4)),
    ("s", 7 * 86_400),
    *(("m", count) for count in (1, 2, 3, 6)),
    *(("m", 12 * count) for count in (1, 2, 5, 10, 50, 200)),
)


def _part(ms: int, unit: str, count: int) -> int:
    if unit == "s":
        offset = 4 * 86_400_000 if count == 7 * 86_400 else 0  # 1970-01-05 was a Monday
        return (ms - offset) // (count * 1000)
    moment = _utc(ms)
    return (moment.year * 12 + moment.month - 1) // count


def _time_label(times: Sequence[int], n: int, marks: Sequence[int]) -> str:
    moment = _utc(times[n])
    before = _utc(times[n - 1]) if n else None
    if before is not None and before.year != moment.year and len(marks) > 1:
        return f"{moment:%Y}"
    midnight = moment.hour == moment.minute == moment.second == 0
    if midnight or (before is not None and before.date() != moment.date()):
        return f"{moment.day} {moment:%b}"
    seconds = any(times[mark] % 60_000 for mark in marks)
    return f"{moment:%H:%M:%S}" if seconds else f"{moment:%H:%M}"


def _utc(ms: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC)


def _exponent(value: float) -> int:
    """Of ten, as in 1.2e5: that of the value as it is written, not of its logarithm."""
    return int(f"{abs(value):.15e}".partition("e")[2]) if value else 0


def _mantissa_is_whole(step: float) -> bool:
    mantissa = float(f"{step:.15e}".partition("e")[0])
    return abs(mantissa - round(mantissa)) < 1e-9


def _tidy(text: str) -> str:
    """``1.50e-12`` of ``1.50e-12``; an exponent without its zeros."""
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}"
