"""Which values JSON gives back as they were, and what stored JSON means."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

from streammachine.errors import WrongTypeError
from streammachine.redis.provisional import ProvisionalSum, plain
from streammachine.redis.signing import is_unicode

_MAX_DEPTH = 100  # deeper values go to pickle, which has the same limit as Python itself
_MUCH_JSON = 1_000_000  # leaves and characters of long texts that JSON may always have
_MOST_TIMES = 4  # as many as the value really has, where parts stand in several places; more go to pickle
_LONG_TEXT = 1000  # characters; shorter ones are not told apart
_MAX_BITS = 2048  # longer integers go to pickle: Python may be set to refuse their decimals (from 640 digits on)


def to_json(value: Any) -> bytes | None:
    """The value in JSON; None where it would not come back equal and of exactly the same types, or grow too large."""
    if not survives_json(value):
        return None
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=plain).encode()


def from_json(key: str, stored: bytes, where: str) -> Any:
    """The value behind stored JSON. ``key`` in the hash ``where``, for the error.

    Raises:
        WrongTypeError: it is no JSON.
    """
    try:
        return json.loads(stored)
    except (ValueError, RecursionError) as error:
        raise WrongTypeError(
            f"The value of {key!r} in {where} was not written by StreamMachine: it is neither JSON nor a signed pickle."
        ) from error


def survives_json(value: Any) -> bool:
    """Whether JSON gives the value back equal and of exactly the same types, and is not far larger than the value.

    A part that stands in many places is written out in each of them: a list of two times the same list, 23 deep, has
    eight million leaves. Pickle keeps such a value as small as it is, and takes one that contains itself.
    """
    kind = type(value)
    if kind is not list and kind is not dict:
        return _leaf_survives(value, kind)
    seen: dict[int, _Part | None] = {}
    part = _part(value, 0, seen)
    if part is None:
        return False
    own = sum(each.own for each in seen.values() if each is not None)
    return part.written <= max(_MUCH_JSON, _MOST_TIMES * own)


class _Part(NamedTuple):
    """A list, dict or long text inside a value: what of it is its own, all that is written for it, how deep it goes."""

    own: int
    written: int
    height: int


def _part(value: Any, depth: int, seen: dict[int, _Part | None]) -> _Part | None:
    """What JSON makes of a list or dict; None where it cannot hold it. ``seen``: by id, None while it is under way."""
    if depth >= _MAX_DEPTH:
        return None
    seen[id(value)] = None
    is_dict = type(value) is dict
    own, written, height = 1, 1, 1
    for item in value.values() if is_dict else value:
        kind = type(item)
        if kind is list or kind is dict:
            known = seen[id(item)] if id(item) in seen else _part(item, depth + 1, seen)
            if known is None or depth + known.height >= _MAX_DEPTH:
                return None  # too deep, or inside itself
            written += known.written
            height = max(height, known.height + 1)
        elif not _leaf_survives(item, kind):
            return None
        elif kind is str and len(item) > _LONG_TEXT:
            if id(item) not in seen:
                seen[id(item)] = _Part(len(item), len(item), 0)
            written += len(item)
        else:
            own += 1
    if is_dict:
        for key in value:
            if type(key) is not str or not is_unicode(key):
                return None
            own += 1
    seen[id(value)] = found = _Part(own, written + own, height)
    return found


def _leaf_survives(value: Any, kind: type) -> bool:
    if kind is ProvisionalSum:  # written as the number that it is
        value = plain(value)
        kind = type(value)
    if value is None or kind is bool:
        return True
    if kind is int:
        return bool(value.bit_length() <= _MAX_BITS)
    if kind is float:
        return math.isfinite(value)
    return kind is str and is_unicode(value)
