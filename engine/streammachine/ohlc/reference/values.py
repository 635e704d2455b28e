"""Values that ticks may have, and the errors for those they may not."""

from __future__ import annotations

import contextlib
import operator
import time
from collections.abc import Callable
from math import inf
from typing import Any

from streammachine.errors import TickError
from streammachine.ohlc.values import MAX_MS, show, time_error, volume_error


def canonical(symbol: object) -> str | None:
    """The symbol as an exact ``str``, or None where it is refused. No code of a subclass runs."""
    try:
        if isinstance(symbol, str):
            text = str.__str__(symbol)
            text.encode()
        elif isinstance(symbol, bytes):
            text = bytes.decode(symbol)
        else:
            return None
    except UnicodeError:
        return None
    return text or None


def number(value: object, refuse: Callable[[object, str], TickError], where: str = "") -> float:
    """A finite number, or what ``refuse`` makes of it: text is not a number here."""
    found: float | None = None
    if not isinstance(value, (str, bytes, bytearray)):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            found = float(value)  # type: ignore[arg-type]
    if found is None or not -inf < found < inf or (found < 0.0 and refuse is volume_error):
        raise refuse(value, where)
    return found


def whole(value: Any) -> int | None:
    """An integer (NumPy's too) as an int, or None: a bool or a float is none."""
    if isinstance(value, bool):
        return None
    try:
        return int.__pos__(operator.index(value))  # an enum's member as a plain int
    except TypeError:
        return None


def time_of(value: object, where: str = "") -> int:
    ms = whole(value)
    if ms is None or not 0 <= ms <= MAX_MS:
        raise time_error(value, where)
    return ms


def before_of(value: object) -> int:
    """A ``before_timestamp``: 0 is now."""
    plain = whole(value)
    if plain is None:
        raise TickError(f"before_timestamp {show(value)} is refused: it must be an int, epoch milliseconds; 0 is now.")
    return plain or time.time_ns() // 1_000_000
