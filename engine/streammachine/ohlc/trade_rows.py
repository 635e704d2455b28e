"""What a block of a trade file's lines comes to, and how its values are read: the same for both readers of CSV."""

from __future__ import annotations

import datetime
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from streammachine.errors import TickError
from streammachine.ohlc.values import EARLIEST_MS, LATEST_MS, show

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What a column of a trade file can be. "first" and "last": the ids of the trades that a row joins.
ROLES = ("price", "volume", "time", "id", "first", "last", "symbol")
NEEDED = ("price", "volume", "time")
MOST_COLUMNS = 64
SECONDS, MILLISECONDS, MICROSECONDS = 10**11, 10**14, 10**17  # a time below is of that unit; above, nanoseconds


class TradeRows(NamedTuple):
    """Columns of trades, a row each.

    Attributes:
        prices, volumes: float64. times: int64, epoch milliseconds. ids: int64, -1 where an id is no whole number; None
            without such a column. fills: int64, how many trades a row stands for; None: one. codes: int32, the row's
            place in ``symbols``; None without such a column. lines: how many there were, empty ones among them.
    """

    prices: NDArray[Any]
    volumes: NDArray[Any]
    times: NDArray[Any]
    ids: NDArray[Any] | None
    fills: NDArray[Any] | None
    codes: NDArray[Any] | None
    symbols: list[str]
    lines: int = 0


def roles_of(places: dict[str, int]) -> list[int]:
    """The role of each column up to the last that has one, as its index in ``ROLES``; -1: none.

    Raises:
        TickError: a needed one is missing, or a place cannot be.
    """
    for role in NEEDED:
        if role not in places:
            raise TickError(f"the column of the {role} is not named")
    roles = [-1] * (max(places.values()) + 1)
    if len(roles) > MOST_COLUMNS:
        raise TickError(f"a trade file with more than {MOST_COLUMNS} columns is not read")
    for role, place in places.items():
        if role not in ROLES or place < 0 or roles[place] >= 0:
            raise TickError(f"the column {place} as {role} is not accepted")
        roles[place] = ROLES.index(role)
    return roles


def number_of(text: bytes) -> float | None:
    """What ``float()`` reads from a field; None: no finite number."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) and b"_" not in text else None


def time_of(text: bytes) -> int | None:
    """Epoch milliseconds of a field, by what it can only be: seconds, milliseconds, microseconds or nanoseconds, with
    a fraction or without, or a date and time of ISO 8601 (UTC where it says nothing). Cut, never rounded. None: it is
    no time from 2000 to 2100."""
    whole, _, fraction = text.partition(b".")
    if whole.isdigit() and len(whole) <= 19 and (fraction.isdigit() or not fraction):
        return time_in_range(int(whole), int((fraction + b"000")[:3]))
    try:
        moment = datetime.datetime.fromisoformat(text.decode().strip())
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    found = (moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(milliseconds=1)
    return found if EARLIEST_MS <= found <= LATEST_MS else None


def time_in_range(whole: int, thousandths: int = 0) -> int | None:
    """Epoch milliseconds of a number of seconds, milliseconds, microseconds or nanoseconds; None: out of range."""
    if whole < SECONDS:
        found = whole * 1000 + thousandths
    elif whole < MILLISECONDS:
        found = whole
    elif whole < MICROSECONDS:
        found = whole // 1000
    else:
        found = whole // 1_000_000
    return found if EARLIEST_MS <= found <= LATEST_MS else None


def field_error(line: int, role: str, text: bytes | None, columns: int) -> TickError:
    """The error for a field that cannot be used; ``text`` None: it is not there."""
    if text is None:
        return TickError(f"line {line}: it has {columns} columns, and none for the {role}")
    wanted = {
        "time": "an epoch time from 2000 to 2100, or a date and time of ISO 8601",
        "symbol": "text in UTF-8",
    }.get(role, "a finite number, 0 or more")
    return TickError(f"line {line}: the {role} {show(text.decode(errors='backslashreplace'))} is refused: not {wanted}")
