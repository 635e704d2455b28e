"""What the values of a tick may be, and the words that refuse others: one rule for both engines and the consumer.

A *field* is a value of a stream entry: somebody else wrote it, as a number or as its text. A price or a volume is read
as ``float()`` reads it, without underscores; a time is a whole number of epoch milliseconds in the years 2000 to 2100,
so that one in seconds or microseconds is seen. True and False are neither.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from streammachine.errors import TickError

MAX_MS: Final = 9_000_000_000_000_000
"""The latest time that a candle can hold; ``update_tick`` takes any from 0 to it."""
EARLIEST_MS: Final = 946_684_800_000  # 2000-01-01T00:00:00Z
LATEST_MS: Final = 4_133_980_799_999  # the last millisecond of the year 2100
MAX_COUNT: Final = 2**53
"""Most ticks that a dump may speak of: what is added to them later stays within 64 bits."""
MAX_NESTING: Final = 8
"""Most lists around an entry; clients make one or two."""
_UNITS: Final = (
    ("seconds", 1000.0, "Multiply it by 1,000"),
    ("microseconds", 1e-3, "Divide it by 1,000"),
    ("nanoseconds", 1e-6, "Divide it by 1,000,000"),
)


def field_number(value: Any) -> float | None:
    """The float that a field stands for; None where it is no number."""
    try:
        if isinstance(value, bool) or _has_underscore(value) or _is_numpy_bool(value):
            return None
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def field_ms(value: Any) -> int | None:
    """The epoch milliseconds that a field stands for; None where it is no time of the years 2000 to 2100."""
    number = field_number(value)
    if number is None or not EARLIEST_MS <= number <= LATEST_MS or not number.is_integer():
        return None
    return int(number)


def field_time_error(value: object, where: str = "") -> TickError:
    """The error for a field that ``field_ms`` refuses: it says what the number would have meant in another unit."""
    number = field_number(value)
    meant = "" if number is None else _meant(number)
    return TickError(
        f"{where}timestamp {show(value)} is refused: {meant}it must be epoch milliseconds of the years 2000 to 2100, "
        "a whole number or its text."
    )


def price_error(value: object, where: str = "") -> TickError:
    return TickError(f"{where}price {show(value)} is refused: it must be a finite number.")


def volume_error(value: object, where: str = "") -> TickError:
    return TickError(f"{where}volume {show(value)} is refused: it must be a finite number, 0 or more.")


def time_error(value: object, where: str = "") -> TickError:
    return TickError(
        f"{where}timestamp {show(value)} is refused: it must be an int, epoch milliseconds from 0 to {MAX_MS}."
    )


def symbol_error(value: object, where: str = "") -> TickError:
    return TickError(f"{where}symbol {show(value)} is refused: it must be a non-empty str, or bytes in UTF-8.")


def show(value: object) -> str:
    """A short repr; the type where there is none (lists nested too deep, numbers of too many digits)."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - whatever a value's own repr raises, the error names the value's type
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def _meant(number: float) -> str:
    for unit, factor, advice in _UNITS:
        if EARLIEST_MS <= number * factor <= LATEST_MS:
            return f"in {unit} it would be {_iso(number * factor)}. {advice}: "
    return ""


def _iso(ms: float) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _has_underscore(value: object) -> bool:
    if isinstance(value, str):
        return str.__contains__(value, "_")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return b"_" in memoryview(value).tobytes()
    return False


def _is_numpy_bool(value: object) -> bool:
    return type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_")
