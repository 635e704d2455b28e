"""What the fields of a stream are, as far as a sample of its messages tells."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

MOST_VALUES = 8  # different texts that are all named
MOST_CHARS = 60  # of a value that is named
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})", re.ASCII)
_NUMBER = re.compile(r"[+-]?((0|[1-9][0-9]{0,40})(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?", re.ASCII)
_FIRST_MS, _LAST_MS = 946_684_800_000, 4_133_980_800_000  # the years 2000 to 2100


def shapes(messages: Sequence[Mapping[str, str]], hidden: str = "") -> Iterator[dict[str, Any]]:
    """Each field: name, type (integer, number, boolean, time_ms, json or text), the share of the messages that have it,
    and its range, or the values where there are few.

    Args:
        hidden: a field that is left out.
    """
    values: dict[str, list[str]] = {}
    for message in messages:
        for name, value in message.items():
            values.setdefault(name, []).append(value)
    values.pop(hidden, None)
    for name, found in values.items():
        kind = _kind(found)
        shape: dict[str, Any] = {"name": name[:200], "type": kind, "share": round(len(found) / len(messages), 3)}
        if kind in ("integer", "number"):
            smallest, largest = min(found, key=float), max(found, key=float)
            shape["range"] = f"{smallest[:MOST_CHARS]} to {largest[:MOST_CHARS]}"
        elif kind == "time_ms":
            shape["range"] = f"{_iso(int(min(found, key=int)))} to {_iso(int(max(found, key=int)))}"
        elif kind in ("text", "boolean"):
            counted = Counter(found)
            if len(counted) <= MOST_VALUES:
                shape["values"] = [value[:MOST_CHARS] for value, _ in counted.most_common()]
        yield shape


def rate(ids: Sequence[str]) -> float | None:
    """Entries in a second between the first and the last of these ids; None where no time lies between."""
    if len(ids) < 2:
        return None
    first, last = (int(each.partition("-")[0]) for each in (ids[0], ids[-1]))
    return round((len(ids) - 1) * 1000 / (last - first), 3) if last > first else None


def iso_of_id(identifier: str) -> str:
    """The time in an entry's id, ISO 8601 in UTC; the id itself where that is no time."""
    milliseconds = int(identifier.partition("-")[0])
    return _iso(milliseconds) if 0 <= milliseconds < _LAST_MS else identifier


def _kind(values: Sequence[str]) -> str:
    if all(value in ("true", "false") for value in values):
        return "boolean"
    if all(_INTEGER.fullmatch(value) for value in values):
        return "time_ms" if all(_FIRST_MS <= int(value) < _LAST_MS for value in values) else "integer"
    if all(_NUMBER.fullmatch(value) for value in values):
        return "number"
    if all(value[:1] in "{[" and value[-1:] in "}]" and len(value) > 1 for value in values):
        return "json"
    return "text"


def _iso(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
