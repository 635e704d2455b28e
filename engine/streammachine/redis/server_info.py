"""The reply of INFO as Python values."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def parse_info(text: str, names: Collection[str] | None = None) -> dict[str, Any]:
    """The fields of INFO: numbers as numbers, ``a=1,b=2`` as a mapping; the headings of its sections are left out.

    Args:
        names: the fields wanted, where it is not all of them.
    """
    found: dict[str, Any] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon and not line.startswith("#") and (names is None or name in names):
            found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    if "=" in text and "," in text:
        parts = (part.rpartition("=") for part in text.split(","))
        return {name: _value(value) for name, _, value in parts if name}
    if text.isascii() and text.replace(".", "", 1).removeprefix("-").isdecimal():
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
    return text
