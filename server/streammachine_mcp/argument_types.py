"""What a tool's argument means as a time, an interval, a timeframe or an exchange: the types of the parameters.

A time is taken in every form that a model writes: epoch milliseconds as a number or as text, ISO 8601 (UTC where it
names no zone), a stream id, "now-15m". Times are UTC epoch milliseconds (docs/decisions/05-time.md). The schema of each
type is one plain type, because clients and model providers refuse more; the other forms are taken all the same.
"""

import math
import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from streammachine.errors import DataInputError, StreamMachineError
from streammachine.market.exchanges.registry import EXCHANGES
from streammachine.market.model import timeframe as timeframes
from streammachine.redis import streams

FIRST_MS = 946_684_800_000  # 2000-01-01: a smaller number is a time in seconds, or none
LAST_MS = 4_133_980_800_000  # 2101-01-01: a greater one is a time in microseconds or nanoseconds
_OTHER_UNITS = (("seconds", 1000.0), ("microseconds", 1e-3), ("nanoseconds", 1e-6))  # milliseconds in each

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_NUMBER_CHARS = 40  # no time is longer
_INTERVAL = re.compile(r"(\d{1,15})\s*((?i:ms)|[smhdwSHDW])", re.ASCII)
_MONTHS = re.compile(r"(now\s*-\s*)?\d[\d.]{0,30}\s*M", re.ASCII | re.IGNORECASE)
_BRIDGED = re.compile(r"ccxt:[a-z0-9]{2,40}", re.ASCII)
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_FORMS = "epoch milliseconds, an ISO time ('2026-11-20T09:30:00Z'), a stream id, or a relative time ('now-15m')"


class TimeError(StreamMachineError, ValueError):
    """A value is no time, or one in another unit than milliseconds."""


def time_ms(value: Any) -> int:
    """A time in any form as epoch milliseconds.

    Raises:
        TimeError: it is none, or a number that is no time in milliseconds from 2000 to 2100; the text says what it
            would be in seconds or microseconds.
    """
    return _checked(value) if _is_number(value) else _text_ms(moment(value))


def time_ms_or_now(value: Any) -> int:
    """As ``time_ms``, and 0 is 0: these parameters take it for now."""
    return 0 if value in (0, "0") and not isinstance(value, bool) else time_ms(value)


def moment(value: Any) -> str:
    """A time in any form as text: a number as whole epoch milliseconds, every other form as it was given.

    Raises:
        TimeError: as ``time_ms``.
    """
    if _is_number(value):
        return str(_checked(value))
    if not isinstance(value, str):
        raise TimeError(f"{_shown(value)} is no time: give {_FORMS}.")
    text = value.strip()
    if text in ("-", "+", "0") or text.startswith("("):
        raise TimeError(f"{text!r} is a position in a stream, not a time: give {_FORMS}.")
    _text_ms(text)
    return text


def history(value: Any) -> str:
    """How far back something begins, as text: a length of time ("7d", "12h"), or a time in any form.

    Raises:
        TimeError: as ``time_ms``.
    """
    if isinstance(value, str) and _INTERVAL.fullmatch(value.strip()):
        return value.strip()
    if isinstance(value, str) and _is_months(value.strip()):
        raise TimeError(_no_months(value))
    return moment(value)


def position(value: Any) -> str:
    """A place in a stream as text: a time in any form, an entry id, a cursor, "-" or 0 for the beginning.

    Raises:
        TimeError: a number is no time (see ``time_ms``). StreamIdError: a text is nothing of these.
    """
    if isinstance(value, str) and not _is_number(value):
        text = value.strip()
        streams.parse_position(text)
        return text
    return "0" if value in (0, "0") and not isinstance(value, bool) else moment(value)


def interval_ms(value: Any) -> int:
    """A candle's length in milliseconds: 60000, "60000", "1m", "90s".

    Raises:
        TimeError: it is none of these.
    """
    if _is_number(value):
        number = _number(value)
        if isinstance(number, int) and abs(number) < 2**53:
            return number
    elif isinstance(value, str):
        text = value.strip()
        if _is_months(text):
            raise TimeError(
                f"{text!r}: M is a month, which has no fixed length; aggregators take '1m' (a minute) to weeks."
            )
        if match := _INTERVAL.fullmatch(text):
            return int(match[1]) * _UNIT_MS[match[2].lower()]
    raise TimeError(f"{_shown(value)} is no interval: give milliseconds (60000) or a text as '1m', '90s', '1h', '1d'.")


def timeframe(value: Any) -> Any:
    """A timeframe in the spelling of ``timeframes``: any case, but 1M is a month and 1m a minute.

    Raises:
        TimeframeError: there is none of this name; the text names those there are.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    return timeframes.check(text if text in timeframes.TIMEFRAMES else _lower(text))


def _lower(text: str) -> str:
    """``text`` in the case of a timeframe, where it is one then."""
    return text.lower() if text.lower() in timeframes.TIMEFRAMES else text


def exchange_name(value: Any) -> Any:
    """The name of an exchange in any case: one of the registry's, or "ccxt:" and one of ccxt's.

    Raises:
        DataInputError: it is none; the text names those there are.
    """
    if not isinstance(value, str):
        return value
    name = value.strip().lower()
    if name not in EXCHANGES and not _BRIDGED.fullmatch(name):
        known = " or ".join((", ".join(f"'{each}'" for each in EXCHANGES[:-1]), f"'{EXCHANGES[-1]}'"))
        raise DataInputError(
            f"there is no exchange {value[:60]!r}: give {known}, or one of ccxt's, such as 'ccxt:gate'"
        )
    return name


TimeMs = Annotated[int, BeforeValidator(time_ms)]
TimeMsOrNow = Annotated[int, BeforeValidator(time_ms_or_now)]
Moment = Annotated[str, BeforeValidator(moment)]
Position = Annotated[str, BeforeValidator(position)]
History = Annotated[str, BeforeValidator(history)]
StreamName = Annotated[str, Field(description="Stream name", min_length=1, max_length=512)]
Interval = Annotated[int, BeforeValidator(interval_ms)]
OneTimeframe = Annotated[str, BeforeValidator(timeframe)]
Timeframe = Annotated[OneTimeframe, Field(description="1s, 1m, 15m, 1h, 1d ... 1M (month)")]
Exchange = Annotated[
    str, BeforeValidator(exchange_name), Field(description=f"{', '.join(EXCHANGES)}, or of ccxt: ccxt:gate")
]


def _is_number(value: Any) -> bool:
    """Whether it is a number, or a text that ``float`` reads as a finite one, without underscores."""
    if isinstance(value, str):
        return len(value) <= _NUMBER_CHARS and _NUMBER.fullmatch(value.strip()) is not None
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value: Any) -> int | float:
    """The number itself; a whole one exactly, also where it is written as 1723198020000.0 or 1.7e12."""
    if isinstance(value, str):
        text = value.strip()
        value = int(text) if text.lstrip("+-").isdecimal() else float(text)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _checked(value: Any) -> int:
    """A number as a time in whole milliseconds."""
    number = _number(value)
    if not FIRST_MS <= number < LAST_MS:
        raise TimeError(_other_unit(value, number))
    if not isinstance(number, int):
        raise TimeError(f"{value} is no whole number of milliseconds: give {math.floor(number)}.")
    return number


def _other_unit(value: Any, number: float) -> str:
    """What a number that is no time in milliseconds would be in another unit."""
    for unit, factor in _OTHER_UNITS:
        if abs(number) < 1e20 and FIRST_MS <= number * factor < LAST_MS:
            ms = round(number * factor)
            return (
                f"{value} is no time in epoch milliseconds (from 2000 to 2100); in {unit} it would be "
                f"{_iso(ms)}: give {ms}."
            )
    return (
        f"{_shown(value)} is no time in epoch milliseconds (from 2000 to 2100), nor in seconds or microseconds: "
        f"give {_FORMS}."
    )


def _text_ms(text: str) -> int:
    """A text that is no plain number as epoch milliseconds."""
    try:
        return int(streams.parse_position(text).partition("-")[0])
    except ValueError:
        if _is_months(text):
            raise TimeError(_no_months(text)) from None
        raise TimeError(f"{_shown(text)} is no time: give {_FORMS}.") from None


def _is_months(text: str) -> bool:
    """Whether it is a number of months: a capital M, as in timeframes."""
    return text.endswith("M") and _MONTHS.fullmatch(text) is not None


def _no_months(text: str) -> str:
    return f"{_shown(text)}: M is a month, which has no fixed length; give days (30d), or m for minutes."


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**40 else "this number"
    return text if len(text) <= 60 else f"{text[:60]}…"
