"""JSON-RPC messages as clients really send them: each gets its answer, and none is dropped in silence.

The SDK takes a request with an invalid id for a notification, which nobody answers, and refuses what JSON allows and
its parser does not (deep nesting, very long numbers). Here every message becomes one for the server, or a ``Refusal``
with the id that it came with (JSON-RPC 2.0, section 5.1).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp_types import JSONRPCMessage, JSONRPCRequest

PARSE_ERROR, INVALID_REQUEST, INVALID_PARAMS = -32700, -32600, -32602
BOM = b"\xef\xbb\xbf"
DEEPEST = 190  # levels of a message; the SDK's parser takes 200 with those around it
MOST_DIGITS = 4300  # of one number, as in Python
MOST_READ_CLOSELY = 8 << 20  # bytes; as Python values they would be far more
MOST_AT_ONCE = 1000  # messages of one line or batch
# Where answers go with the request that asked; in an extension's method (tasks/update) its handler checks them.
ANSWERED = ("tools/call", "prompts/get", "resources/read")
_SCANNED = 1 << 20  # characters looked through for the id of what cannot be parsed

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+', re.DOTALL)
_SPACE = re.compile(r"[ \t\n\r]*")
_TOO_LONG = "sm-number-too-long"
# What ends a line for some readers of lines, and stands in JSON as it is.
_LINE_ENDS = tuple((end.encode(), f"\\u{ord(end):04x}".encode()) for end in "\u2028\u2029\x85")


@dataclass(frozen=True, eq=False)
class Refusal:
    """The answer to what is no valid message. ``identifier`` is the one it came with, None where there is none."""

    code: int
    text: str
    identifier: Any = None

    def encoded(self) -> bytes:
        """The answer as JSON."""
        error = {"code": self.code, "message": self.text}
        return json.dumps({"jsonrpc": "2.0", "id": self.identifier, "error": error}).encode()


def messages_in(data: bytes) -> list[JSONRPCMessage | Refusal]:
    """The messages of one line or one request body: one, or what stands there."""
    from mcp_types import JSONRPCNotification, jsonrpc_message_adapter

    data = data.removeprefix(BOM)
    try:
        message = jsonrpc_message_adapter.validate_json(data, by_name=False)
    except ValueError:
        return _read_closely(data) if len(data) <= MOST_READ_CLOSELY else _too_much(data)
    if isinstance(message, JSONRPCNotification) and b'"id"' in data and len(data) <= MOST_READ_CLOSELY:
        return _read_closely(data)
    return [_with_answers(message)]


def plain_request(data: bytes) -> JSONRPCRequest | None:
    """The request, where this is one that ``messages_in`` would give as the SDK's parser reads it: most are.

    None for what has to be looked at: everything else, answers to our questions, and NaN, which JSON has not.
    """
    from mcp_types import JSONRPCRequest, jsonrpc_message_adapter

    if b"NaN" in data:
        return None
    try:
        message = jsonrpc_message_adapter.validate_json(data, by_name=False)
    except ValueError:
        return None
    if isinstance(message, JSONRPCRequest) and "inputResponses" not in (message.params or {}):
        return message
    return None


def one_line(data: bytes) -> bytes:
    """JSON in which nothing ends a line, for readers of lines: U+2028, U+2029 and U+0085 become escapes."""
    for end, escape in _LINE_ENDS:
        if end in data:
            data = data.replace(end, escape)
    return data


def _read_closely(data: bytes) -> list[JSONRPCMessage | Refusal]:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        found = _scanned_id(data.decode(errors="replace"))
        return [Refusal(PARSE_ERROR if found is None else INVALID_REQUEST, "The message is not UTF-8.", found)]
    try:
        values = _values(text)
    except RecursionError:
        return [_nested_too_deeply(_scanned_id(text))]
    except ValueError as error:
        reason = str(error).partition(": line")[0]
        return [Refusal(PARSE_ERROR, f"The line is no JSON: {reason}. Send one message a line.", _scanned_id(text))]
    return [part for value in values for part in _parts(value)]


def _too_much(data: bytes) -> list[JSONRPCMessage | Refusal]:
    text = f"The message of {len(data):,} bytes cannot be read as JSON-RPC 2.0."
    return [Refusal(PARSE_ERROR, text, _scanned_id(data[:_SCANNED].decode(errors="replace")))]


def _values(text: str) -> list[Any]:
    """The JSON values that stand behind one another; a number of too many digits is left out and marked."""
    decoder = json.JSONDecoder(parse_int=lambda digits: int(digits) if len(digits) <= MOST_DIGITS else _TOO_LONG)
    values: list[Any] = []
    position = _end_of_space(text, 0)
    while position < len(text):
        if len(values) == MOST_AT_ONCE:
            raise ValueError(f"more than {MOST_AT_ONCE:,} messages")
        value, position = decoder.raw_decode(text, position)
        values.append(value)
        position = _end_of_space(text, position)
    return values


def _end_of_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found is not None else position


def _parts(value: Any) -> list[JSONRPCMessage | Refusal]:
    """A message, or refusals. An array is a batch, which MCP dropped with protocol 2025-06-18."""
    if isinstance(value, list):
        identifiers = [part["id"] for part in value if isinstance(part, dict) and "id" in part]
        # All the rest together, where there are very many.
        identifiers = [*identifiers[:MOST_AT_ONCE], None] if len(identifiers) > MOST_AT_ONCE else identifiers or [None]
        text = "MCP has no batches: send one message a line."
        return [Refusal(INVALID_REQUEST, text, _echo(identifier)) for identifier in identifiers]
    if not isinstance(value, dict):
        return [Refusal(INVALID_REQUEST, "A message is a JSON object.")]
    identifier = value.get("id")
    if isinstance(identifier, float) and identifier.is_integer():
        identifier = value["id"] = int(identifier)  # 1.0 is 1 wherever numbers are floating ones
    wanted = isinstance(identifier, (str, int)) and not isinstance(identifier, bool)
    # A response may have the id null: it answers what could not be read.
    if "id" in value and not wanted and ("method" in value or identifier is not None):
        return [Refusal(INVALID_REQUEST, "The id of a request is a text or a whole number.", _echo(identifier))]
    if wanted and "method" not in value and _is_broken_response(value):
        return _broken_response(value)
    return [_message(value, _echo(identifier))]


def _is_broken_response(value: dict[str, Any]) -> bool:
    return any(name in value and not isinstance(value[name], dict) for name in ("result", "error"))


def _broken_response(value: dict[str, Any]) -> list[JSONRPCMessage | Refusal]:
    """What asked is told, so that it does not wait for an answer that has come; and the client."""
    from mcp_types import ErrorData, JSONRPCError

    text = "The client's answer is no JSON-RPC response: its result or error is no object."
    # The id of a result is one of ours, and might be that of a request of the client's that is under way.
    identifier = None if "result" in value else value["id"]
    told = JSONRPCError(jsonrpc="2.0", id=value["id"], error=ErrorData(code=INVALID_REQUEST, message=text))
    return [told, Refusal(INVALID_REQUEST, text, identifier)]


def _with_answers(message: JSONRPCMessage) -> JSONRPCMessage | Refusal:
    """The message, unless it is a request that brings answers to our questions (protocol 2026-07-28) which are none."""
    from mcp_types import InputResponse, JSONRPCRequest
    from pydantic import TypeAdapter, ValidationError

    if not isinstance(message, JSONRPCRequest) or message.method not in ANSWERED:
        return message
    if "inputResponses" not in (message.params or {}):
        return message
    answers = (message.params or {})["inputResponses"]
    asked = "inputResponses"
    try:
        for name, answer in (answers or {}).items():
            asked = name
            TypeAdapter(InputResponse).validate_python(answer, by_name=False)
    except (ValidationError, AttributeError):
        text = (
            f"The answer to {asked!r} is none, so nothing was done: give an action (accept, decline, cancel), and with "
            'accept the content, e.g. {"action": "accept", "content": {"confirm": true}}.'
        )
        return Refusal(INVALID_PARAMS, text, message.id)
    return message


def _message(value: dict[str, Any], identifier: Any) -> JSONRPCMessage | Refusal:
    from mcp_types import jsonrpc_message_adapter
    from pydantic import ValidationError

    try:
        data = json.dumps(value)
        if f'"{_TOO_LONG}"' in data:
            return Refusal(INVALID_REQUEST, f"A number has more than {MOST_DIGITS} digits.", identifier)
        return _with_answers(jsonrpc_message_adapter.validate_json(data, by_name=False))
    except RecursionError:
        return _nested_too_deeply(identifier)
    except ValidationError as error:
        if "recursion limit" in str(error):
            return _nested_too_deeply(identifier)
        if "Invalid JSON" in str(error):
            return Refusal(INVALID_REQUEST, "A text is no Unicode: it holds half a surrogate pair.", identifier)
    return Refusal(INVALID_REQUEST, "No valid JSON-RPC 2.0 message.", identifier)


def _nested_too_deeply(identifier: Any) -> Refusal:
    return Refusal(INVALID_REQUEST, f"It is nested too deeply: at most {DEEPEST} levels are taken.", identifier)


def _echo(identifier: Any) -> Any:
    """The id to answer with: the one that came, where it is one at all."""
    if isinstance(identifier, bool) or not isinstance(identifier, (str, int, float)) or identifier == _TOO_LONG:
        return None
    return None if isinstance(identifier, float) and not math.isfinite(identifier) else identifier


def _scanned_id(text: str) -> Any:
    """The id of a message that cannot be parsed, from its outermost level."""
    depth = 0
    last: list[str] = []
    for match in _TOKEN.finditer(text[:_SCANNED]):
        token = match[0]
        if token in "{[":
            depth += 1
        elif token in "}]":
            depth -= 1
        if depth == 1 and last[-2:] == ['"id"', ":"] and token not in "{[":
            try:
                return _echo(json.loads(token))
            except ValueError:
                return None
        last = [*last[-1:], token]
    return None
