"""What arguments must be, said where they are given. Each check raises SettingsError with the name and what to give."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

from streammachine.errors import SettingsError

LONGEST = 1e9  # seconds; some 30 years


def flag(name: str, value: bool) -> None:
    """Refuse what is neither True nor False.

    Raises:
        SettingsError: it is something else.
    """
    if not isinstance(value, bool):
        raise SettingsError(f"{name}={value!r}: give True or False.")


def above_zero(name: str, value: float, or_else: str = "") -> None:
    """Refuse what is no number of seconds above 0 (and below LONGEST).

    Args:
        or_else: what else may be given, for the text.

    Raises:
        SettingsError: it is something else.
    """
    if not is_number(value) or not 0 < value < LONGEST:
        raise SettingsError(f"{name}={value!r}: give seconds above 0{or_else and f', {or_else}'}.")


def from_zero(name: str, value: float) -> None:
    """Refuse what is no number of seconds from 0 up (and below LONGEST).

    Raises:
        SettingsError: it is something else.
    """
    if not is_number(value) or not 0 <= value < LONGEST:
        raise SettingsError(f"{name}={value!r}: give seconds from 0 up.")


def is_number(value: object) -> bool:
    """An int or a float, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def at_least(name: str, value: int, least: int) -> None:
    """Refuse what is no whole number from ``least`` up.

    Raises:
        SettingsError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SettingsError(f"{name}={value!r}: give a whole number from {least} up.")


def signature_of(function: Callable[..., Any]) -> inspect.Signature | None:
    """What a call of it takes; None where that cannot be told. Names in its annotations need not be known yet."""
    options: dict[str, Any] = {}
    if sys.version_info >= (3, 14):
        import annotationlib

        options["annotation_format"] = annotationlib.Format.FORWARDREF
    try:
        # What is called is the wrapper: the function that it says it wraps may take others.
        return inspect.signature(function, follow_wrapped=False, **options)
    except (TypeError, ValueError):
        return None


def is_async(handler: Callable[..., Any]) -> bool:
    """Whether calling the handler gives a coroutine."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)


def takes(function: Callable[..., Any], count: int) -> bool:
    """Whether it can be called with ``count`` positional arguments; True where its signature cannot be told."""
    signature = signature_of(function)
    if signature is None:
        return True
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def checked_handler(handler: Callable[..., Any], *given: str) -> None:
    """Refuse what cannot be a handler.

    Args:
        given: what it is called with.

    Raises:
        SettingsError: it cannot be called, not with just that, or it yields: calling it would run nothing.
    """
    if not callable(handler):
        raise SettingsError(f"The handler {handler!r} is no function.")
    if any(
        kind(each)
        for kind in (inspect.isgeneratorfunction, inspect.isasyncgenfunction)
        for each in (handler, type(handler).__call__)
    ):
        raise SettingsError(f"The handler {handler!r} has a yield in it, so calling it runs nothing. Take it out.")
    if not takes(handler, len(given)):
        name = getattr(handler, "__qualname__", repr(handler))
        what = f"one argument, the {given[0]}" if given else "no arguments"
        raise SettingsError(
            f"The handler {name} cannot be called as it will be, with {what}. Write it as "
            f"'async def {'handle' if given else 'tick'}({', '.join(given)}):', and give what else it takes a default."
        )
