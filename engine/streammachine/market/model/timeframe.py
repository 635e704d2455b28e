"""Timeframes: their names, where their candles begin and end, and which nest in which.

All times are UTC epoch milliseconds. A candle is half open, [start, end). Fixed lengths are aligned to the epoch,
weeks to Monday, months to the calendar (docs/decisions/05-time.md).
"""

from __future__ import annotations

import datetime
from typing import Final

from streammachine.errors import TimeframeError

SECOND: Final = 1000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
WEEK: Final = 7 * DAY
MONDAY: Final = 4 * DAY  # 1970-01-05, the first Monday

MILLISECONDS: Final[dict[str, int]] = {
    "1s": SECOND,
    "1m": MINUTE,
    "3m": 3 * MINUTE,
    "5m": 5 * MINUTE,
    "15m": 15 * MINUTE,
    "30m": 30 * MINUTE,
    "1h": HOUR,
    "2h": 2 * HOUR,
    "4h": 4 * HOUR,
    "6h": 6 * HOUR,
    "8h": 8 * HOUR,
    "12h": 12 * HOUR,
    "1d": DAY,
    "3d": 3 * DAY,
    "1w": WEEK,
}
MONTH: Final = "1M"
TIMEFRAMES: Final = (*MILLISECONDS, MONTH)


def check(timeframe: object) -> str:
    """The timeframe, if it is one.

    Raises:
        TimeframeError: it is not; the text names those there are.
    """
    if isinstance(timeframe, str) and timeframe in TIMEFRAMES:
        return timeframe
    hint = ""
    if isinstance(timeframe, str) and timeframe.lower() in MILLISECONDS:
        hint = f" (did you mean {timeframe.lower()!r}? m is a minute, M a month)"
    raise TimeframeError(f"{timeframe!r} is no timeframe{hint}: give one of {', '.join(TIMEFRAMES)}")


def floor(timeframe: str, ts: int) -> int:
    """The start of the candle that holds the moment."""
    step = MILLISECONDS.get(timeframe)
    if step is None:
        moment = _utc(ts)
        return _ms(moment.year, moment.month)
    offset = MONDAY if timeframe == "1w" else 0
    return (ts - offset) // step * step + offset


def shift(timeframe: str, start: int, candles: int = 1) -> int:
    """The start of the candle that is so many candles after (or, below 0, before) the one that begins at ``start``."""
    step = MILLISECONDS.get(timeframe)
    if step is not None:
        return start + candles * step
    moment = _utc(start)
    month = moment.year * 12 + moment.month - 1 + candles
    return _ms(month // 12, month % 12 + 1)


def end_of(timeframe: str, start: int) -> int:
    """The end, not included, of the candle that begins at ``start``."""
    return shift(timeframe, start, 1)


def ceil(timeframe: str, ts: int) -> int:
    """The start of the first candle that begins at the moment or after."""
    start = floor(timeframe, ts)
    return start if start == ts else shift(timeframe, start)


def starts(timeframe: str, start: int, end: int) -> range | list[int]:
    """The starts of all candles that begin within [start, end)."""
    first = ceil(timeframe, start)
    step = MILLISECONDS.get(timeframe)
    if step is not None:
        return range(first, max(end, first), step)
    found = []
    while first < end:
        found.append(first)
        first = shift(timeframe, first)
    return found


def nests(base: str, target: str) -> bool:
    """Whether every ``target`` candle is made of whole ``base`` candles, of more than one."""
    if base in (target, MONTH):
        return False
    step = MILLISECONDS[base]
    if target == MONTH:
        return DAY % step == 0
    length = MILLISECONDS[target]
    return length > step and length % step == 0 and (target != "1w" or DAY % step == 0)


def _utc(ts: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(ts // 1000, datetime.UTC)


def _ms(year: int, month: int) -> int:
    return int(datetime.datetime(year, month, 1, tzinfo=datetime.UTC).timestamp()) * 1000
