"""The RESP codec in plain Python: the twin of ``wire.pyx``, with the same names and the same results.

Three parts, all pure (no socket, no clock):

- **Field rules.** What a record may hold and how it is written: ``encode_fields`` for a client that frames commands
  itself, ``decode_dict_bytes_to_utf8`` for the way back.
- **RESP out.** ``encode_xadd_batch`` writes many XADD commands into one buffer, ready for one ``send``.
- **RESP in.** ``ReplyParser`` takes the server's bytes in any portions and gives whole replies (RESP2 and RESP3);
  ``parse_stream_reply`` and ``parse_entries`` give stream replies their shape.

The rule for values (docs/decisions/07-values-in-bytes-out.md): str is UTF-8, bytes go unchanged, bool is
``true``/``false``, int is decimal, float is its shortest exact text (``repr``: ``1.0``, ``1e-07``, ``nan``, ``inf``).
Everything else is refused by name.

The native room takes its error texts, its value objects and the rare cases from here, so both speak alike.
``codec.py`` chooses between the two.

Source of the wire format: the Redis serialization protocol specification, RESP2 and RESP3.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from streammachine.errors import FieldError, StreamMachineError

MAX_BULK: Final = 512 * 1024 * 1024
"""Longest string in bytes: the server's own default limit (proto-max-bulk-len)."""
MAX_DEPTH: Final = 32
"""Deepest nesting of a reply. Redis' own replies stay below 10; a hostile peer must not exhaust the stack."""
MAX_ITEMS: Final = 2**31 - 1
"""Most elements of one array, map, set or push. Nothing is allocated ahead, so this only catches nonsense."""
MAX_LINE: Final = 64 * 1024
"""Longest header, simple string or error in bytes: a peer that never ends a line must not fill the memory."""
MAX_DIGITS: Final = 4300
"""Most digits of a big number: Python's own limit for text to int, which keeps the conversion from stalling."""
_MAX_INT64: Final = 2**63 - 1
_SHOWN: Final = 60


class ProtocolError(StreamMachineError, ValueError):
    """The bytes received are not RESP, or a reply has not the shape that the call needs."""


class NeedMore(enum.Enum):
    """The type of ``NEED_MORE``."""

    NEED_MORE = "need more"


NEED_MORE: Final = NeedMore.NEED_MORE
"""What ``ReplyParser.get`` returns while the next reply is not complete."""


@dataclass(frozen=True, slots=True)
class RespError:
    """An error reply. It is a value, not an exception: a pipeline has one reply per command, errors among them."""

    message: str
    """The whole text, such as ``"NOGROUP No such key"``."""

    @property
    def code(self) -> str:
        """The first word, such as ``"NOGROUP"``, ``"ERR"`` or ``"OOM"``."""
        return self.message.partition(" ")[0]


@dataclass(frozen=True, slots=True)
class Push:
    """A RESP3 push: something the server says on its own, not the answer to a command."""

    items: tuple[Reply, ...]
    """What it holds; the first item names its kind, such as ``b"invalidate"``."""


Reply: TypeAlias = (
    "bool | int | float | bytes | RespError | Push | list[Reply] | dict[Hashable, Reply] | set[Hashable] | None"
)
"""A reply as Python values. Strings of every kind are bytes. A list as a map's key or a set's member is a tuple."""

Entry: TypeAlias = tuple[bytes, dict[bytes, bytes] | None]
"""One stream entry: its id and its fields; None where the entry is deleted but still pending."""


# --- fields ------------------------------------------------------------------------------------------------------


def decode_dict_bytes_to_utf8(fields: Mapping[Any, Any]) -> dict[str, str]:
    r"""The fields of a stream entry as text: ``{b"price": b"1.5"}`` gives ``{"price": "1.5"}``.

    bytes are read as UTF-8; str stays as it is. A byte that is not UTF-8 is written as ``\xNN`` (Python's
    ``backslashreplace``), so the result can be printed, logged, made JSON and sent again, nothing raises, and every
    byte stays visible. That text is for reading: who needs the exact bytes takes them from the entry itself.

    Raises TypeError for something that is not a mapping, or a name or value that is neither bytes nor str.
    """
    if not isinstance(fields, Mapping):
        raise not_fields(fields)
    return {_decode(name): _decode(value) for name, value in fields.items()}


def encode_fields(record: Mapping[Any, Any]) -> dict[bytes, bytes]:
    """One record as the bytes to write: ``{"price": 1.5, "ok": True}`` gives ``{b"price": b"1.5", b"ok": b"true"}``.

    The caller's mapping is not changed. Raises FieldError, naming the field and what to do, for an empty record, an
    empty name, a name that is neither str nor bytes, and a value other than str, bytes, int, float and bool.
    """
    return dict(_encoded(record, None))


# --- RESP out ----------------------------------------------------------------------------------------------------


def encode_xadd_batch(
    key: bytes | str, records: Iterable[Mapping[Any, Any]], maxlen: int = 0, approximate: bool = True
) -> bytes:
    """One buffer with an ``XADD key [MAXLEN [~|=] n] * field value ...`` command for each record, in their order.

    ``maxlen`` is the most entries the stream keeps, 0 for no limit; ``approximate`` lets the server trim in whole
    nodes. The server answers with one id (or one error) per record. No records give ``b""``.

    Raises FieldError, naming the record's place (from 0) and the field, under the rules of ``encode_fields``; nothing
    is half encoded then. Raises TypeError or ValueError for a key or ``maxlen`` that cannot be used.
    """
    tail = b"".join(map(_bulk, xadd_arguments(key, maxlen, approximate)))
    fixed = 3 if not maxlen else 6
    out: list[bytes] = []
    for index, record in enumerate(records):
        pairs = _encoded(record, index)
        out.append(b"*%d\r\n%b" % (fixed + 2 * len(pairs), tail))
        for name, value in pairs:
            out.append(b"$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(name), name, len(value), value))
    return b"".join(out)


def xadd_arguments(key: bytes | str, maxlen: int, approximate: bool) -> list[bytes]:
    """The arguments of XADD that come before the fields. Raises TypeError and ValueError."""
    if isinstance(key, str):
        key = str.encode(key)
    elif isinstance(key, bytes):
        key = _plain_bytes(key)
    else:
        raise TypeError(f"a stream's name is str or bytes, not {type(key).__name__}")
    if len(key) > MAX_BULK:
        raise ValueError(f"the stream's name is {len(key)} bytes long; Redis takes {MAX_BULK} at most")
    if not isinstance(maxlen, int):
        raise TypeError(f"maxlen is a number of entries, not {type(maxlen).__name__}")
    if not 0 <= maxlen <= _MAX_INT64:
        raise ValueError(f"maxlen is {maxlen}; give the number of entries to keep, or 0 for no limit")
    if not maxlen:
        return [b"XADD", key, b"*"]
    return [b"XADD", key, b"MAXLEN", b"~" if approximate else b"=", b"%d" % maxlen, b"*"]


# --- RESP in -----------------------------------------------------------------------------------------------------


class ReplyParser:
    """Turns the bytes of a connection into replies, in whatever portions they come.

    ::

        parser.feed(received)
        while (reply := parser.get()) is not NEED_MORE:
            ...

    Strings (simple, bulk and verbatim) are bytes; errors are ``RespError``; nulls None; integers and big numbers int;
    doubles float; arrays lists; maps dicts; sets sets; pushes ``Push``. Attributes, which only comment on the
    reply behind them, are read and dropped. A reply that comes in many portions costs no more than in one: what is read
    is not read again.

    ``get`` raises ProtocolError when the bytes are not RESP, or break a limit of this module. The connection is useless
    then, since nobody can tell where the next reply begins; so every later ``feed`` and ``get`` raises it again.
    """

    __slots__ = ("_broken", "_buffer", "_busy", "_open", "_position")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._position = 0
        self._open: list[_Aggregate] = []
        self._broken = ""
        self._busy = False

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Adds received bytes. They are copied."""
        if self._busy:
            raise parser_is_busy()
        if self._broken:
            raise ProtocolError(self._broken)
        with memoryview(data) as whole, whole.cast("B") as flat:
            self._buffer += flat

    def get(self) -> Reply | Literal[NeedMore.NEED_MORE]:
        """The next whole reply, or ``NEED_MORE``."""
        if self._busy:
            raise parser_is_busy()
        if self._broken:
            raise ProtocolError(self._broken)
        self._busy = True
        try:
            reply = self._next()
        except ProtocolError as error:
            self._broken = str(error)
            self._buffer = bytearray()
            self._open = []
            raise
        finally:
            self._busy = False
        if self._position:
            del self._buffer[: self._position]
            self._position = 0
        return reply

    def _next(self) -> Reply | Literal[NeedMore.NEED_MORE]:
        while True:
            value = self._element()
            if isinstance(value, NeedMore):
                return NEED_MORE
            if isinstance(value, _Aggregate):
                if value.missing:
                    self._open.append(value)
                    continue
                if value.kind == _ATTRIBUTE:
                    continue
                value = value.finished()
            while self._open:
                parent = self._open[-1]
                parent.items.append(value)
                parent.missing -= 1
                if parent.missing:
                    break
                self._open.pop()
                if parent.kind == _ATTRIBUTE:
                    break
                value = parent.finished()
            else:
                return value

    def _element(self) -> Reply | _Aggregate | Literal[NeedMore.NEED_MORE]:
        """Reads one scalar or one aggregate's header; moves the position only when it is whole."""
        buffer, start = self._buffer, self._position
        if start >= len(buffer):
            return NEED_MORE
        kind = buffer[start]
        if kind not in _KINDS:
            raise unknown_type(kind)
        end = buffer.find(b"\r", start + 1, start + 2 + MAX_LINE)
        if end < 0:
            if len(buffer) - start - 1 > MAX_LINE:
                raise line_too_long()
            return NEED_MORE
        if end + 1 >= len(buffer):
            return NEED_MORE
        if buffer[end + 1] != _NEWLINE:
            raise bad_line_end()
        line = bytes(buffer[start + 1 : end])
        behind = end + 2
        value: Reply | _Aggregate
        if kind in _STRINGS:
            size = length_of(line, kind)
            if size < 0:
                value = None
            else:
                if size > MAX_BULK:
                    raise string_too_long(size)
                if len(buffer) < behind + size + 2:
                    return NEED_MORE
                payload = bytes(buffer[behind : behind + size])
                behind += size + 2
                if buffer[behind - 2 : behind] != b"\r\n":
                    raise bad_line_end()
                value = string_value(kind, payload)
        elif kind in _AGGREGATES:
            count = length_of(line, kind)
            value = None if count < 0 else _opened(kind, count, len(self._open))
        else:
            value = line_value(kind, line)
        self._position = behind
        return value


def parse_stream_reply(reply: Any) -> dict[bytes, list[Entry]]:
    """The reply of XREAD or XREADGROUP as ``{stream: [(id, {field: value}), ...]}``; ``{}`` for a null or empty one.

    Takes what ``ReplyParser`` gives, from RESP2 (a list of pairs) and RESP3 (a dict). Fields are None where the entry
    is deleted but still pending. Raises ProtocolError for another shape, an error reply among them.
    """
    if reply is None:
        return {}
    if isinstance(reply, dict):
        return {name: parse_entries(entries) for name, entries in reply.items()}
    if not isinstance(reply, list):
        raise not_a_stream_reply(reply)
    streams: dict[bytes, list[Entry]] = {}
    for pair in reply:
        if not isinstance(pair, list) or len(pair) != 2:
            raise not_a_stream_reply(pair)
        streams[pair[0]] = parse_entries(pair[1])
    return streams


def parse_entries(reply: Any) -> list[Entry]:
    """The reply of XRANGE, XREVRANGE or XCLAIM, or the entries inside XAUTOCLAIM's, as ``[(id, {field: value}), ...]``.

    A null in place of an entry is left out: it has no id. What a server puts behind the fields (idle time and
    deliveries of XREADGROUP ... CLAIM) is not read. A field given twice keeps its last value.
    Raises ProtocolError for another shape.
    """
    if reply is None:
        return []
    if not isinstance(reply, list):
        raise not_a_stream_reply(reply)
    return [_entry(item) for item in reply if item is not None]


# --- helpers that the native room shares: rare cases and refusals --------------------------------------------------


def length_of(line: bytes, kind: int) -> int:
    """The length in a header; -1 for the null string and the null array of RESP2. Raises ProtocolError."""
    if line.isdigit() and len(line) <= 19:
        return int(line)
    if line == b"-1" and kind in b"$*":
        return -1
    raise ProtocolError(f"{_shown(line)} is not a length; the peer does not speak RESP, or bytes were lost")


def line_value(kind: int, line: bytes) -> Reply:
    """The value of a type that stands in one line. Raises ProtocolError."""
    if kind == _SIMPLE:
        return line
    if kind == _INTEGER:
        if re.fullmatch(rb"[+-]?[0-9]{1,19}", line) and -_MAX_INT64 - 1 <= (number := int(line)) <= _MAX_INT64:
            return number
    elif kind == _ERROR:
        return RespError(line.decode("utf-8", "backslashreplace"))
    elif kind == _NULL:
        if not line:
            return None
    elif kind == _BOOLEAN:
        if line in (b"t", b"f"):
            return line == b"t"
    elif kind == _DOUBLE:
        if _DOUBLE_TEXT.fullmatch(line):
            return float(line)
    elif re.fullmatch(rb"[+-]?[0-9]+", line) and len(line) <= MAX_DIGITS:
        return int(line)
    raise ProtocolError(f"{_shown(line)} is not a value of the RESP type {chr(kind)!r}")


def string_value(kind: int, payload: bytes) -> Reply:
    """The value of a string with a length. Raises ProtocolError for a verbatim string without its format."""
    if kind == _BULK:
        return payload
    if kind == _BULK_ERROR:
        return RespError(payload.decode("utf-8", "backslashreplace"))
    if payload[3:4] != b":":
        raise ProtocolError(f"{_shown(payload)} is not a verbatim string: it must begin with a format such as txt:")
    return payload[4:]


def aggregate_value(kind: int, items: list[Reply]) -> Reply:
    """The value of a complete array, map, set or push."""
    if kind == _ARRAY:
        return items
    if kind == _MAP:
        return {_frozen(items[at]): items[at + 1] for at in range(0, len(items), 2)}
    if kind == _SET:
        return set(map(_frozen, items))
    return Push(tuple(items))


def check_aggregate(kind: int, count: int, depth: int) -> None:
    """Refuses an aggregate that is too long, too deep, or a push inside another reply. Raises ProtocolError."""
    if count > MAX_ITEMS:
        raise length_too_large(kind, count)
    if depth >= MAX_DEPTH:
        raise ProtocolError(f"a reply is nested deeper than {MAX_DEPTH} levels")
    if kind == _PUSH and depth:
        raise ProtocolError("a push stands inside another reply; RESP3 allows it between replies only")


def unknown_type(kind: int) -> ProtocolError:
    return ProtocolError(
        f"{_shown(bytes([kind]))} is not a RESP type; the peer does not speak RESP, or bytes were lost"
    )


def line_too_long() -> ProtocolError:
    return ProtocolError(f"a line of the reply is longer than {MAX_LINE} bytes")


def bad_line_end() -> ProtocolError:
    return ProtocolError("a line or string of the reply does not end with CR LF; bytes were lost")


def length_too_large(kind: int, length: int) -> ProtocolError:
    """The error for a length beyond the limit of its kind."""
    if kind in _STRINGS:
        return string_too_long(length)
    return ProtocolError(f"a reply of {length} elements is announced; the limit is {MAX_ITEMS}")


def parser_is_busy() -> RuntimeError:
    return RuntimeError("a ReplyParser was called while it reads a reply; it serves one caller at a time")


def string_too_long(size: int) -> ProtocolError:
    return ProtocolError(f"a string of {size} bytes is announced; the limit is {MAX_BULK}")


def not_a_stream_reply(reply: object) -> ProtocolError:
    if isinstance(reply, RespError):
        return ProtocolError(f"the server answered with an error in place of stream entries: {reply.message}")
    return ProtocolError(f"a {type(reply).__name__} stands where a stream reply has its streams or entries")


def not_fields(fields: object) -> TypeError:
    return TypeError(f"the fields of a stream entry are a dict of bytes or str, not {type(fields).__name__}")


def not_text(value: object) -> TypeError:
    return TypeError(f"names and values of a stream entry are bytes or str, not {type(value).__name__}")


def checked_fields(record: Any, index: int | None) -> dict[Any, Any]:
    """The fields of any mapping, in its own order. Raises FieldError for what is no mapping, or has none."""
    if not isinstance(record, Mapping):
        raise FieldError(
            f"{_place(index)}a record is a dict of field names and values, not {type(record).__name__}. Give a dict."
        )
    fields = dict(record.items())
    if not fields:
        raise FieldError(
            f"{_place(index)}the record has no fields, and a stream entry needs one. Add a field or leave it out."
        )
    return fields


def check_names_differ(fields: Iterable[str | bytes], index: int | None) -> None:
    """Refuses a field given as text and as bytes: the reader would see one of them. Raises FieldError."""
    seen: set[bytes] = set()
    for name in fields:
        encoded = str.encode(name) if isinstance(name, str) else _plain_bytes(name)
        if encoded in seen:
            raise FieldError(
                f"{_place(index, name)}the field is given twice, as str and as bytes. Leave one of them out."
            )
        seen.add(encoded)


def refuse_name(name: object, index: int | None) -> FieldError:
    """The error for a field name that cannot be written."""
    if isinstance(name, str | bytes):
        if not name:
            return FieldError(f"{_place(index)}a field has an empty name. Give it a name.")
        return FieldError(f"{_place(index, name)}the field's name {_unwritable(name)}")
    return FieldError(
        f"{_place(index)}a field's name is str or bytes, not {type(name).__name__} ({_shown(name)})."
        " Convert it with str()."
    )


def refuse_value(name: object, value: object, index: int | None) -> FieldError:
    """The error for a field value that cannot be written. It names the type, never the value."""
    place = _place(index, name)
    if isinstance(value, str | bytes):
        return FieldError(f"{place}the value {_unwritable(value)}")
    if isinstance(value, int):
        return FieldError(f"{place}the number has more digits than Python converts to text. Send it as bytes.")
    if value is None:
        what, advice = "None", "Leave the field out, or send an empty string"
    else:
        what = f"a value of type {type(value).__name__}"
        if isinstance(value, bytearray | memoryview):
            advice = "Convert it with bytes()"
        elif isinstance(value, Mapping | list | tuple | set | frozenset):
            advice = "Encode it first, for example with json.dumps()"
        elif hasattr(value, "item"):
            advice = "Convert it with its item() method"
        else:
            advice = "Convert it first, for example with str()"
    return FieldError(
        f"{place}{what} cannot be written to a stream. {advice}; str, bytes, int, float, bool are accepted."
    )


# --- helpers of this module --------------------------------------------------------------------------------------

_SIMPLE, _ERROR, _INTEGER, _BULK, _ARRAY = b"+-:$*"
_NULL, _BOOLEAN, _DOUBLE, _BIG, _BULK_ERROR, _VERBATIM, _MAP, _SET, _ATTRIBUTE, _PUSH = b"_#,(!=%~|>"
_NEWLINE = 10
_KINDS = frozenset(b"+-:$*_#,(!=%~|>")
_STRINGS = frozenset(b"$!=")
_AGGREGATES = frozenset(b"*%~|>")
_DOUBLE_TEXT = re.compile(rb"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?inf|[+-]?nan")


class _Aggregate:
    """An array, map, set, push or attribute whose elements are still coming."""

    __slots__ = ("items", "kind", "missing")

    def __init__(self, kind: int, missing: int) -> None:
        self.kind = kind
        self.missing = missing
        self.items: list[Reply] = []

    def finished(self) -> Reply:
        return aggregate_value(self.kind, self.items)


def _opened(kind: int, count: int, depth: int) -> _Aggregate:
    check_aggregate(kind, count, depth)
    return _Aggregate(kind, 2 * count if kind in (_MAP, _ATTRIBUTE) else count)


def _entry(item: Any) -> Entry:
    if not isinstance(item, list) or len(item) < 2:
        raise not_a_stream_reply(item)
    fields = item[1]
    if fields is None or isinstance(fields, dict):
        return item[0], fields
    if not isinstance(fields, list) or len(fields) % 2:
        raise not_a_stream_reply(fields)
    return item[0], dict(zip(fields[::2], fields[1::2], strict=True))


def _frozen(value: Any) -> Hashable:
    """The value in a form that can be a key: lists as tuples, maps as tuples of pairs, sets as frozensets."""
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    if isinstance(value, dict):
        return tuple((key, _frozen(held)) for key, held in value.items())
    if isinstance(value, set):
        return frozenset(value)
    return value  # type: ignore[no-any-return]


def _decode(value: object) -> str:
    if isinstance(value, bytes):
        return bytes.decode(value, "utf-8", "backslashreplace")
    if isinstance(value, str):
        return str.__str__(value)  # a plain str of a subclass's
    raise not_text(value)


def _bulk(argument: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(argument), argument)


def _encoded(record: Any, index: int | None) -> list[tuple[bytes, bytes]]:
    fields = checked_fields(record, index)
    pairs = []
    kinds = set()
    for name, value in fields.items():
        encoded_name = _encoded_text(name)
        if not encoded_name:
            raise refuse_name(name, index)
        encoded_value = _encoded_value(value)
        if encoded_value is None:
            raise refuse_value(name, value, index)
        pairs.append((encoded_name, encoded_value))
        kinds.add(isinstance(name, str))
    if len(kinds) > 1:
        check_names_differ(fields, index)
    return pairs


def _encoded_text(value: object) -> bytes | None:
    """The bytes of a str or bytes; None for anything else, and for what no server takes."""
    if isinstance(value, str):
        try:
            # str.encode, not value.encode: a subclass may bring its own.
            encoded = str.encode(value)
        except UnicodeEncodeError:
            return None
    elif isinstance(value, bytes):
        encoded = _plain_bytes(value)
    else:
        return None
    return encoded if len(encoded) <= MAX_BULK else None


def _encoded_value(value: object) -> bytes | None:
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, int):
        try:
            return int.__repr__(value).encode()
        except ValueError:
            return None
    if isinstance(value, float):
        # float.__repr__, not repr: NumPy's float64 is a float that calls itself np.float64(1.0).
        return float.__repr__(value).encode()
    return _encoded_text(value)


def _plain_bytes(value: bytes) -> bytes:
    """The bytes themselves, whatever a subclass makes of them."""
    return bytes.__getitem__(value, slice(None))


def _unwritable(value: str | bytes) -> str:
    try:
        if isinstance(value, str):
            str.encode(value)
    except UnicodeEncodeError:
        return "is not valid text (it holds lone surrogates). Send it as bytes."
    return f"is longer than the {MAX_BULK} bytes that Redis takes. Store it elsewhere and send its name."


def _place(index: int | None, name: object = None) -> str:
    """Where in the call: ``"record 3, field 'price': "``."""
    parts = [] if index is None else [f"record {index}"]
    if name is not None:
        parts.append(f"field {_shown(name)}")
    return ", ".join(parts) + ": " if parts else ""


def _shown(value: object) -> str:
    """A short repr: cut before it is made where the value is text, so a large one costs nothing."""
    if isinstance(value, str):
        value = str.__str__(value)
    elif isinstance(value, bytes):
        value = _plain_bytes(value)
    try:
        text = repr(value[:_SHOWN] if isinstance(value, str | bytes) else value)
    except Exception:  # noqa: BLE001 - whatever a value's own repr raises, the error names the value's type
        text = f"a value of type {type(value).__name__}"
    cut = len(text) > 2 * _SHOWN or (isinstance(value, str | bytes) and len(value) > _SHOWN)
    return text[: 2 * _SHOWN] + "..." if cut else text
