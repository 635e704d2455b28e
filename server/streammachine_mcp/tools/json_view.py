"""Stored Python values as JSON for a model: what can be shown is shown, the rest is described."""

import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from streammachine_mcp.results import cut_text, json_size
from streammachine_mcp.tools.bounded import CIRCLE, MORE, bounded
from streammachine_mcp.tools.readable import as_text, readable_int, readable_keys, readable_text

# Any JSON value. Its schema names every type, for clients that take no schema without one.
AnyJson = Annotated[
    Any,
    Field(
        json_schema_extra={
            "anyOf": [{"type": kind} for kind in ("string", "number", "boolean", "array", "object", "null")]
        }
    ),
]
# Integers beyond 2^53 as text, by where they stand: "$.a[0]".
Exact = dict[str, str]
MAX_OPENED_BYTES = 16_000_000  # of a stored value; more takes seconds to decode, for a beginning of 2,000 characters
_PREVIEW = 2000  # characters shown of a value that is too large
_DEPTH = 50
_DEEPER = "deeper parts are left out"


def showable(value: Any, budget: int) -> tuple[Any, str, bool]:
    """``value`` as JSON, a note where it is not the value itself ("" where it is), and whether part is left out."""
    value, notes = bounded(value, budget)
    shown = _as_json(value, notes, 0)
    size = json_size(shown)
    cut = not notes.isdisjoint((_DEEPER, CIRCLE, MORE)) or size > budget
    if size > budget:
        at_least = "more than " if MORE in notes else ""
        notes.add(
            f"the value has {at_least}{size:,} bytes of JSON; only its beginning is shown, read it whole from Python"
        )
        import json

        shown = cut_text(json.dumps(shown, ensure_ascii=False), _PREVIEW)
    return shown, "; ".join(sorted(notes)), cut


def too_large(size: int) -> str:
    """The note where a stored value is not opened at all."""
    return (
        f"Not shown: the stored value has {size:,} bytes, at most {MAX_OPENED_BYTES:,} are opened. Read it in Python."
    )


def _as_json(value: Any, notes: set[str], depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return readable_text(value, notes)
    if isinstance(value, int):
        return readable_int(value, notes)
    if depth > _DEPTH:
        notes.add(_DEEPER)
        return "…"
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        notes.add("NaN and infinities are shown as text")
        return str(value)
    if isinstance(value, (bytes, bytearray)):
        notes.add("bytes are shown as text with escapes")
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        names = readable_keys(value, notes)
        return {names[key]: _as_json(item, notes, depth + 1) for key, item in value.items()}
    if isinstance(value, (datetime, date, time)):
        notes.add("dates and times are shown in ISO 8601")
        return value.isoformat()
    if isinstance(value, (Decimal, Fraction, UUID, timedelta, complex, range, slice)):
        notes.add(f"{type(value).__name__} is shown as text")
        return as_text(value, notes)
    try:
        items = list(value)
    except TypeError:
        notes.add(f"{type(value).__name__} is shown as text")
        return as_text(value, notes)
    if not isinstance(value, list):
        notes.add(f"{type(value).__name__} is shown as a list")
    return [_as_json(item, notes, depth + 1) for item in items]
