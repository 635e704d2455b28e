"""A request body that is plain goes to the SDK as it came; the short way to see that agrees with the long one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp_types import JSONRPCRequest

from streammachine_mcp import http
from streammachine_mcp.messages import Refusal, messages_in, plain_request

REQUEST = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "t", "arguments": {"a": 1}}}
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)
)
members = {
    "jsonrpc": st.just("2.0") | values,
    "id": st.integers() | values,
    "method": st.just("tools/call") | values,
    "params": st.dictionaries(st.sampled_from(["name", "arguments", "inputResponses", "_meta"]), values) | values,
    "result": values,
}


def short_way(body: bytes) -> Any:
    return shown(http._one_message(body, plain_request(body)))


def long_way(body: bytes) -> Any:
    """What becomes of the body where none is taken for plain."""
    return shown(http._one_message(body, None))


def shown(found: bytes | Refusal) -> Any:
    return found.encoded() if isinstance(found, Refusal) else found


@settings(deadline=None)  # the first call imports
@given(message=st.fixed_dictionaries({}, optional=members) | values, ascii=st.booleans())
def test_both_ways_agree_on_any_json(message: Any, ascii: bool) -> None:
    body = json.dumps(message, ensure_ascii=ascii).encode("utf-8", "surrogatepass")
    assert short_way(body) == long_way(body)
    if (request := plain_request(body)) is not None:  # the short road for calls takes it as read
        assert request == JSONRPCRequest.model_validate(json.loads(body))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"\xef\xbb\xbf" + json.dumps(REQUEST).encode(),
        json.dumps(REQUEST).encode() * 2,
        json.dumps([REQUEST]).encode(),
        json.dumps(REQUEST).encode()[:-1],
        json.dumps(REQUEST).replace('"a": 1', '"a": NaN').encode(),
        json.dumps(REQUEST).replace('"a": 1', '"a": Infinity').encode(),
        json.dumps(REQUEST).replace('"a": 1', '"a": 1, "a": 2').encode(),
        json.dumps(REQUEST).replace('"id": 1', '"id": 1.0').encode(),
        json.dumps(REQUEST).replace('"id": 1', '"id": 1, "id": null').encode(),
        json.dumps(REQUEST).replace("1}", "9" * 5000 + "}").encode(),
        json.dumps(REQUEST).replace('"a": 1', '"a": ' + "[" * 250 + "]" * 250).encode(),
        json.dumps(REQUEST).replace('"a": 1', '"a": "\\ud800"').encode(),
    ],
)
def test_both_ways_agree_on_odd_bytes(body: bytes) -> None:
    assert short_way(body) == long_way(body)


def test_a_request_is_plain_unless_it_answers_a_question_of_ours() -> None:
    assert plain_request(json.dumps(REQUEST).encode()) is not None
    assert plain_request(json.dumps({**REQUEST, "params": {"inputResponses": {}}}).encode()) is None
    assert plain_request(json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}).encode()) is None


@pytest.mark.parametrize(("method", "refused"), [("tools/call", True), ("tasks/update", False)])
def test_answers_are_checked_where_they_go_with_the_request_that_asked(method: str, refused: bool) -> None:
    """An extension's own method takes what it does not know and leaves it (SEP-2663)."""
    body = json.dumps({**REQUEST, "method": method, "params": {"inputResponses": {"unknown": {"ignored": True}}}})
    (found,) = messages_in(body.encode())
    assert isinstance(found, Refusal) == refused
