"""The reply of INFO as Python values."""

from __future__ import annotations

from typing import Any


def parse_info(text: str) -> dict[str, Any]:
    """The fields of INFO: numbers as numbers, ``a=1,b=2`` as a mapping; the headings of its sections are left out."""
    found: dict[str, Any] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon and not line.startswith("#"):
            found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    if "=" in text and "," in text:
        parts = (part.rpartition("=") for part in text.split(","))
        return {name: _value(value) for name, _, value in parts if name}
    for kind in (int, float):
        if text.replace(".", "", 1).removeprefix("-").isdecimal() and text.isascii():
            try:
                return kind(text)
            except ValueError:
                continue
    return text
