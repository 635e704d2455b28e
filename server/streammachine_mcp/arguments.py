"""Arguments as clients really send them, put in order before a tool checks them.

One step for every tool, led by its input schema: what a client adds of its own is dropped, ``null`` and ``""`` for an
argument that may be left out count as left out, JSON text where an array or object belongs is parsed once, and what no
tool takes is refused in words that say what to write instead. What a text means as a time or an interval is in
``argument_types``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from streammachine.errors import StreamMachineError
from streammachine.redis.streams import nearest
from streammachine_mcp.results import cut_text

# What clients add to the arguments without being asked: n8n the first five, Gemini CLI the last.
CLIENTS_OWN = frozenset({"sessionId", "action", "chatInput", "toolCallId", "tool", "wait_for_previous"})

_EXAMPLES = {"array": '["a", "b"]', "object": '{"a": "1"}'}
_SHOWN = 60  # characters of a wrong text that an error repeats
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class ArgumentError(StreamMachineError, ValueError):
    """A tool's argument is not what it takes; the text says which and what to write."""


def prepare(tool: str, schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call of ``tool``, as its own checks expect them.

    Args:
        schema: the tool's input schema.

    Raises:
        ArgumentError: an argument is unknown (the text names the nearest), is no JSON where it should be, or holds
            what no JSON text can: a lone surrogate, NaN, an infinity.
    """
    known = schema.get("properties", {})
    given = {name: value for name, value in arguments.items() if name in known or name not in CLIENTS_OWN}
    prepared = _members(given, schema, tool, "")
    for name, value in prepared.items():
        check_values(value, name)
    return prepared


def parse_json(text: str, where: str, kind: str) -> Any:
    """What JSON text means.

    Args:
        kind: the word for what it should be, for the error.

    Raises:
        ArgumentError: it is no JSON, or a number in it is none that can be kept.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise ArgumentError(f"{where} should be {kind}; its text is nested too deep.") from None
    except ValueError as error:
        shown = cut_text(text, _SHOWN)
        raise ArgumentError(f"{where} should be {kind}; the text {shown!r} is no valid JSON ({error}).") from None


def _members(given: Mapping[str, Any], schema: Mapping[str, Any], owner: str, path: str) -> dict[str, Any]:
    """An object's members, each settled; those left out are gone."""
    known = schema.get("properties", {})
    required = schema.get("required", ())
    settled = {}
    for name, value in given.items():
        if name not in known:
            raise ArgumentError(
                f"{path.rstrip('.') or owner} has no {'field' if path else 'argument'} {cut_text(str(name), _SHOWN)!r}."
                f"{nearest(str(name), list(known)) if known else ''} "
                f"Its {'fields' if path else 'parameters'} are: {', '.join(known) or 'none'}."
            )
        if name not in required and (value is None or value == ""):
            continue
        settled[name] = _settled(value, known[name], f"{path}{name}")
    return settled


def _settled(value: Any, schema: Mapping[str, Any], where: str) -> Any:
    kind = schema.get("type")
    if kind in _EXAMPLES and isinstance(value, str):
        value = _from_text(value, str(kind), where)
    if kind == "array" and isinstance(value, list):
        items = schema.get("items", {})
        return [_settled(item, items, f"{where}[{index}]") for index, item in enumerate(value)]
    if kind == "object" and isinstance(value, dict) and "properties" in schema:
        return _members(value, schema, where, f"{where}.")
    if kind in ("integer", "number") and (isinstance(value, bool) or (isinstance(value, str) and "_" in value)):
        raise ArgumentError(f"{where} should be a number, not {value!r}.")
    return value


def _from_text(text: str, kind: str, where: str) -> Any:
    """JSON text of an array or object, parsed once."""
    wanted = f"a JSON {kind}, e.g. {_EXAMPLES[kind]}"
    value = parse_json(text, where, wanted)
    if not isinstance(value, list if kind == "array" else dict):
        raise ArgumentError(
            f"{where} should be {wanted}; the text {cut_text(text, _SHOWN)!r} is JSON of something else."
        )
    return value


def check_values(value: Any, where: str) -> None:
    """Refuse what cannot be written as UTF-8 or as JSON, wherever in ``value`` it stands.

    Without recursion: a client's nesting is no deeper than its line, and that may be deep.
    """
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            if not part.isascii() and (found := _LONE_SURROGATE.search(part)):
                raise ArgumentError(
                    f"{where} holds U+{ord(found[0]):04X}, half of a surrogate pair, which is no character: "
                    "send the whole pair, or leave it out."
                )
        elif isinstance(part, float):
            if not math.isfinite(part):
                raise ArgumentError(f"{where} holds {part}: NaN and infinities are no JSON numbers.")
        elif isinstance(part, dict):
            waiting.extend(part)
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
