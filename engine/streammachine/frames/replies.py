"""What the clients make of one and the same stream reply, brought to one shape.

======================  ==============================================================
client                  reply of XREAD and XREADGROUP
======================  ==============================================================
coredis                 ``{stream: (StreamEntry(id, {field: value}, idle, n), ...)}``
redis-py, RESP2         ``[[stream, [(id, {field: value}), ...]], ...]``
redis-py, RESP3         ``{stream: [[(id, {field: value}), ...]]}``
raw, RESP2              ``[[stream, [[id, [field, value, ...]], ...]], ...]``
raw, RESP3              ``{stream: [[id, [field, value, ...]], ...]}``, or the pairs flat: ``[stream, entries, ...]``
======================  ==============================================================

Each as bytes or str, and None or empty for "nothing". A deleted entry that is still pending has None (redis-py: no)
fields.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

MAX_INT64: Final = 2**63 - 1
_ID: Final = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?")
_HINT: Final = "For the entries of one stream (XRANGE, XREVRANGE, XCLAIM) give {stream name: entries}."


def streams_of(reply: Any) -> list[tuple[Any, Sequence[Any]]]:
    """The streams in a reply with their entries, in the reply's order; names and entries are as the client gave them.

    Raises TypeError or ValueError for what is not a reply of XREAD or XREADGROUP.
    """
    if reply is None:
        return []
    if isinstance(reply, Mapping):
        return [(name, _entries_of(entries)) for name, entries in reply.items()]
    if not isinstance(reply, list | tuple):
        raise TypeError(
            f"a stream reply is a dict, a list or None, not {type(reply).__name__}."
            " Give the reply of XREAD or XREADGROUP."
        )
    if reply and isinstance(reply[0], str | bytes):
        if len(reply) % 2:
            raise ValueError(f"the reply names a stream without its entries. {_HINT}")
        return [(reply[at], _entries_of(reply[at + 1])) for at in range(0, len(reply), 2)]
    streams = []
    for pair in reply:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(f"the reply holds {_kind(pair)} where a pair of stream name and entries is due. {_HINT}")
        streams.append((pair[0], _entries_of(pair[1])))
    return streams


def parts_of(entry: Any) -> tuple[Any, Any]:
    """An entry's id and fields; the fields are None for a deleted entry. Raises ValueError for another shape."""
    if entry is None:
        return None, None
    if not isinstance(entry, list | tuple) or len(entry) < 2:
        raise ValueError(f"the reply holds {_kind(entry)} where an entry (id, fields) is due. {_HINT}")
    return entry[0], entry[1] if entry[1] else None


def named(fields: Any) -> dict[Any, Any]:
    """An entry's fields by name, names and values as text. A name given twice keeps its last value.

    Raises ValueError for what is neither a mapping nor a flat list of names and values.
    """
    if isinstance(fields, Mapping):
        return {text(name): text(value) for name, value in fields.items()}
    if not isinstance(fields, list | tuple) or len(fields) % 2:
        raise ValueError(f"the reply holds {_kind(fields)} where an entry's fields are due. {_HINT}")
    return {text(fields[at]): text(fields[at + 1]) for at in range(0, len(fields), 2)}


def text(value: Any) -> Any:
    """bytes as str; as bytes where they are not UTF-8. Anything else (a client that converts) as it is."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, bytearray | memoryview):
        return text(bytes(value))
    return value


def position_of(entry_id: Any) -> tuple[int, int]:
    """Epoch milliseconds and sequence number in a stream id as text, such as ``"1700000000000-3"``.

    Raises ValueError for what is not an id, or does not fit 64 signed bits.
    """
    match = _ID.fullmatch(entry_id) if isinstance(entry_id, str) else None
    if match is None:
        raise ValueError(f"{entry_id!r} is not a stream id (milliseconds-sequence, such as 1700000000000-0). {_HINT}")
    milliseconds, sequence = int(match[1]), int(match[2] or 0)
    if milliseconds > MAX_INT64 or sequence > MAX_INT64:
        raise ValueError(f"the stream id {entry_id!r} does not fit a column of 64-bit integers")
    return milliseconds, sequence


def _entries_of(entries: Any) -> Sequence[Any]:
    if entries is None:
        return ()
    if not isinstance(entries, list | tuple):
        raise ValueError(f"the reply holds {_kind(entries)} where a stream's entries are due. {_HINT}")
    # redis-py wraps the entries in one more list with RESP3. An entry begins with its id, so a list there tells.
    if len(entries) == 1 and isinstance(entries[0], list | tuple):
        inner = entries[0]
        if not inner or inner[0] is None or isinstance(inner[0], list | tuple):
            return inner
    return entries


def _kind(value: object) -> str:
    return f"a {type(value).__name__}" if value is not None else "nothing"
