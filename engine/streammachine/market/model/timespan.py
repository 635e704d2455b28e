"""From and to: dates and date-times as people write them, as a half-open range of UTC milliseconds."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

from streammachine.errors import DataInputError
from streammachine.market.model import timeframe as timeframes

Moment = str | int | datetime.date  # a datetime is a date

NOW = "now"
ACCEPTED = "a date (2024-01-31), a date-time (2024-01-31T12:00), epoch milliseconds, or now"
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_EARLIEST = 946_684_800_000  # 2000-01-01: anything before is seconds given for milliseconds


@dataclass(frozen=True, slots=True)
class Timespan:
    """[start, end) in UTC epoch milliseconds, cut to what is over.

    Attributes:
        whole: whether all that was asked for is over; else a later run may find more.
        label: from and to as they stand in a file's name.
    """

    start: int
    end: int
    whole: bool
    label: str


def clock_says(now: int, whose: str = "the clock that the exchange's candles follow") -> str:
    """What time it is by which clock: a simulator's may be behind the machine's."""
    moment = datetime.datetime.fromtimestamp(now / 1000, datetime.UTC)
    return f"{whose} says {moment:%Y-%m-%d %H:%M} UTC"


def timespan(from_date: Moment, to_date: Moment, timeframe: str, now: int) -> Timespan:
    """The range of whole, closed candles that the two mean. All times are UTC, whatever the machine's time zone is.

    A date as ``to_date`` includes that whole day; a date-time (or a number) is where the range ends, not included.
    Today as ``to_date`` means as far as it has come.

    Args:
        now: epoch milliseconds.

    Raises:
        DataInputError: one is no date, they are reversed, in the future, or no candle of the range is closed yet.
    """
    start, _ = _moment(from_date, "from_date", now)
    end, is_day = _moment(to_date, "to_date", now)
    label = f"{_label(from_date, start)}_{_label(to_date, end)}"
    if is_day:
        end += timeframes.DAY
    if start >= now:
        raise DataInputError(f"from_date={from_date!s} is in the future: {clock_says(now)}")
    if start >= end:
        raise DataInputError(f"from_date={from_date!s} is not before to_date={to_date!s}: give the earlier one first")
    if end > (timeframes.floor("1d", now) + timeframes.DAY if is_day else now):
        raise DataInputError(
            f"to_date={to_date!s} is in the future ({clock_says(now)}): give 'now' for as far as there are candles"
        )
    first = timeframes.ceil(timeframe, start)
    over = min(end, timeframes.floor(timeframe, now))
    if first >= over:
        raise DataInputError(
            f"no {timeframe} candle that is over begins between {from_date!s} and {to_date!s} UTC: give a longer range"
        )
    last = min(timeframes.ceil(timeframe, end), timeframes.floor(timeframe, now))
    return Timespan(first, last, whole=end <= last, label=label)


def is_moment(text: str) -> bool:
    """Whether a text is a date, a date-time, epoch milliseconds or "now"; on command lines it might be a sink."""
    text = text.strip()
    return text.lower() == NOW or _DATE.match(text) is not None or _is_epoch_ms(text)


def _is_epoch_ms(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) in (12, 13)


def _moment(value: Moment, name: str, now: int) -> tuple[int, bool]:
    """Epoch milliseconds, and whether it is a whole day."""
    if isinstance(value, bool):
        raise DataInputError(f"{name}={value!r} is not accepted: give {ACCEPTED}")
    if isinstance(value, str) and _is_epoch_ms(value.strip()):
        value = int(value)
    if isinstance(value, int):
        if value < _EARLIEST:
            raise DataInputError(f"{name}={value} is before the year 2000: give epoch milliseconds, not seconds")
        return value, False
    if isinstance(value, str):
        text = value.strip()
        if text.lower() == NOW:
            return now, False
        is_day = _DATE.fullmatch(text) is not None
        try:
            value = datetime.datetime.fromisoformat(text)
        except ValueError:
            raise DataInputError(f"{name}={text!r} is not accepted: give {ACCEPTED}") from None
    elif isinstance(value, datetime.date):
        is_day = not isinstance(value, datetime.datetime)
    else:
        raise DataInputError(f"{name}={value!r} is not accepted: give {ACCEPTED}")
    if not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    if value.tzinfo is None:
        value = value.replace(tzinfo=datetime.UTC)
    found = (value - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(milliseconds=1)
    if found < _EARLIEST:
        raise DataInputError(f"{name}={value:%Y-%m-%d} is before the year 2000, when no exchange here had begun")
    return found, is_day


def _label(value: Moment, ts: int) -> str:
    """For a file's name: no colon, which Windows refuses."""
    moment = datetime.datetime.fromtimestamp(ts // 1000, datetime.UTC)
    is_now = isinstance(value, str) and value.strip().lower() == NOW
    if is_now or (moment.hour == moment.minute == moment.second == 0 and ts % 1000 == 0):
        return f"{moment:%Y-%m-%d}"
    return f"{moment:%Y-%m-%dT%H%M%S}"
