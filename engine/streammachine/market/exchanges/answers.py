"""What the REST answers of all exchanges have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import orjson

from streammachine.market.exchanges.base import Refusal, excerpt
from streammachine.market.exchanges.decode import MALFORMED, OffGridError, reason

Row = TypeVar("Row")


@contextmanager
def understood(what: str) -> Iterator[None]:
    """Turn whatever a malformed body raises inside into a ValueError that says what was read."""
    try:
        yield
    except MALFORMED as error:
        raise ValueError(f"{what} not understood: {reason(error)}") from error


def listed(value: object) -> list[Any]:
    """The value, if it is a list.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, list):
        raise ValueError(f"a JSON {type(value).__name__} instead of an array")
    return value


def usable(rows: Iterable[Any], made: Callable[[Any], Row]) -> list[Row]:
    """What ``made`` makes of the rows. One that it cannot make anything of is left out, so that it is missing, and
    becomes a gap, instead of costing its neighbours.

    Raises:
        ValueError: there are rows, but none is usable. Candles off the grid are good rows that cannot be placed: an
            answer of nothing else is an answer, and holds no candle.
    """
    found: list[Row] = []
    first: Exception | None = None
    placeless = 0
    for row in rows:
        try:
            found.append(made(row))
        except OffGridError:
            placeless += 1
        except MALFORMED as error:
            first = first or error
    if first is not None and not found and not placeless:
        raise ValueError(f"no row of the answer is usable: {reason(first)}") from first
    return found


def refused(source: str, status: int, headers: Mapping[str, str], body: bytes, detail: str = "") -> Refusal:
    """What an HTTP status means that is no success, the same on every exchange: 429 and 418 (too many requests; with
    Retry-After), 408 and 5xx pass by themselves, the others do not."""
    passing = status in (408, 418, 425, 429) or status >= 500
    text = detail or " ".join(excerpt(body).split())
    return Refusal(f"{source} answered HTTP {status}{': ' + text if text else ''}", passing, retry_after(headers))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of a Retry-After header; None where there is none, or none in seconds."""
    for name, value in headers.items():
        if name.lower() == "retry-after":
            try:
                seconds = float(value)
            except ValueError:
                return None
            return seconds if 0 <= seconds < 10_000_000 else None
    return None


def error_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a body that may be anything; an empty one where it is none."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
