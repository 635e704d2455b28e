"""What a fuzzer holds against the twins: one result, or one error."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


def agree(call: Callable[[Any], Any], twins: Iterable[Any]) -> str:
    """Calls it with each of the twins; gives what came of it as text. Raises AssertionError where they differ."""
    found = []
    for twin in twins:
        try:
            found.append(f"gave {call(twin)!r}")
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
    assert len(set(found)) == 1, "\n".join(found)
    return found[0]
