"""Values that JSON or UTF-8 cannot hold, as a model can read them: shown in another way, with a note that says so."""

import re
from collections.abc import Mapping
from typing import Any

from streammachine_mcp.results import cut_text

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_MOST_BITS = 14_000  # of an integer that Python still writes in decimal digits (its limit is 4,300 of them)
_SHOWN = 200  # characters of one that it does not


def readable_text(text: str, notes: set[str]) -> str:
    """A text that UTF-8 can hold: half of a surrogate pair is shown as its escape."""
    if text.isascii() or not _LONE_SURROGATE.search(text):
        return text
    notes.add("halves of surrogate pairs are shown as \\ud800 and the like")
    return text.encode("utf-8", "backslashreplace").decode()


def readable_int(number: int, notes: set[str]) -> int | str:
    """The number, or its beginning in hexadecimal where it is too long to be written in decimal digits."""
    if number.bit_length() <= _MOST_BITS:
        return number
    notes.add("integers of more than 4,200 digits are shown in hexadecimal")
    return cut_text(hex(number), _SHOWN)


def as_text(value: object, notes: set[str]) -> str:
    """``str(value)``; of a value whose text Python refuses to make, its kind."""
    try:
        return readable_text(str(value), notes)
    except ValueError:  # it holds an integer of more than 4,300 digits
        notes.add("a value too long to be written as text is shown as its type")
        return f"<{type(value).__name__}>"


def readable_keys(value: Mapping[Any, Any], notes: set[str]) -> dict[Any, str]:
    """The text of each key, no two alike: where 1 and "1" are both keys, the first is shown as "1 (int)"."""
    texts = {key: key for key in value if isinstance(key, str) and readable_text(key, notes) == key}
    used = set(texts.values())
    for key in value:
        if key in texts:
            continue
        if not isinstance(key, str):
            notes.add("keys that are no text are shown as text")
        plain = as_text(key, notes)
        text, number = plain, 1
        while text in used:
            text = f"{plain} ({type(key).__name__})" + (f" {number}" if number > 1 else "")
            number += 1
            notes.add("keys that would be the same text carry their type")
        used.add(text)
        texts[key] = text
    return texts
