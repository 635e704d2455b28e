"""A value cut down before anybody looks at it closely: no larger than what can be shown, and without circles.

A list of two times the same list, 23 deep, is small in memory and has eight million leaves; one that contains itself
has no end. What is walked here ends at a budget, whatever the value is made of.
"""

from collections import deque
from collections.abc import Iterable
from typing import Any

CIRCLE = "parts that contain themselves are left out"
MORE = "only a part of the value was looked at"
LARGEST_EXACT = (1 << 53) - 1  # JavaScript's Number.MAX_SAFE_INTEGER
_MOST_EXACT = 200  # integers whose text is given beside them
_MOST_BITS = 14_000  # Python gives the text of no longer one
_DEPTH = 60  # deeper parts are left out when shown, so they need no copy
_LEFT_OUT = "…"


def bounded(value: Any, budget: int) -> tuple[Any, set[str]]:
    """``value``, or a copy cut down to about ``budget`` bytes of JSON, and what was left out."""
    walk = _Walk(budget)
    return walk.copied(value, 0), walk.notes


class _Walk:
    """One walk through a value."""

    def __init__(self, budget: int) -> None:
        self.notes: set[str] = set()
        self._left = budget
        self._inside: set[int] = set()

    def copied(self, value: Any, depth: int) -> Any:
        if isinstance(value, (str, bytes, bytearray)):
            self._left -= len(value)
            return value
        self._left -= 2
        if not isinstance(value, (dict, list, tuple, set, frozenset, deque)) or depth > _DEPTH:
            return value
        if id(value) in self._inside:
            self.notes.add(CIRCLE)
            return _LEFT_OUT
        self._inside.add(id(value))
        copy: Any
        if isinstance(value, dict):
            copy = self._dict(value, depth)
        else:
            items = self._items(value, depth)
            copy = items if isinstance(value, list) else type(value)(items)
        self._inside.discard(id(value))
        return copy

    def _dict(self, value: dict[Any, Any], depth: int) -> dict[Any, Any]:
        copy = {}
        for key, item in value.items():
            if self._left < 0:
                self.notes.add(MORE)
                break
            copy[self.copied(key, depth + 1)] = self.copied(item, depth + 1)
        return copy

    def _items(self, value: Iterable[Any], depth: int) -> list[Any]:
        items = []
        for item in value:
            if self._left < 0:
                self.notes.add(MORE)
                break
            items.append(self.copied(item, depth + 1))
        return items


def exact_integers(shown: Any) -> dict[str, str]:
    """The integers that a client with floating numbers only would round, as text, by where they stand ("$.a[0]")."""
    found: dict[str, str] = {}
    waiting: list[tuple[str, Any]] = [("$", shown)]
    while waiting and len(found) < _MOST_EXACT:
        place, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(_member(place, str(key)), item) for key, item in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [(f"{place}[{index}]", item) for index, item in reversed([*enumerate(value)])]
        elif isinstance(value, int) and abs(value) > LARGEST_EXACT and value.bit_length() <= _MOST_BITS:
            found[place] = str(value)
    return found


def _member(place: str, name: str) -> str:
    return f"{place}.{name}" if name.isidentifier() else f"{place}[{name!r}]"
