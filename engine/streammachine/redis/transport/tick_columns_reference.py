"""Stream replies as rows of ticks: the plain-Python twin of ``tick_columns.pyx``, with the same names and results.

A consumer that needs two numbers, a time and a name out of each entry reads the reply of its XREAD or XREADGROUP (of
one stream, RESP2 or RESP3) into rows of one fixed layout, ``ROW``, little-endian and without gaps:

    price, volume  float64   what ``float()`` gives for the fields' texts
    time           int64     of the time field, or of the entry's id: milliseconds
    at             int64     where the entry begins in the reply's bytes
    symbol         int32     an index into ``names``; -1 where the entry has none
    flags          int32     ODD, GONE or 0

A row is ODD where one of its values is missing or is not written plainly, and GONE where the entry has no fields (it
was deleted while it was pending). Its numbers are 0 then, and who reads the rows looks at ``entry(row)``.

Plain is for a number what the Python documentation's grammar of ``float()`` calls a ``floatnumber`` with or without a
sign, of 63 characters at most and not so large that it is infinite; for a time 1 to 18 digits or a plain number that is
whole and from 0 to 2**53; for an id ``digits-digits``, each of 1 to 18.
"""

from __future__ import annotations

import math
import re
import struct
from typing import Any, Final

from streammachine.redis.transport.wire_reference import (
    NEED_MORE,
    Entry,
    ProtocolError,
    ReplyParser,
    RespError,
)

ROW: Final = struct.Struct("<ddqqii")
ODD: Final = 1
GONE: Final = 2
NOT_OTHER: Final = object()
"""What ``TickReply.other`` is while the reply is one of entries."""
MOST_TEXT: Final = 63  # characters of a plain number
MOST_SYMBOL_BYTES: Final = 1 << 24  # of all symbols held; then they are forgotten
MOST_SYMBOLS: Final = 1 << 20
_NUMBER = re.compile(rb"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_DIGITS = re.compile(rb"[0-9]{1,18}")
_ID = re.compile(rb"([0-9]{1,18})-[0-9]{1,18}")


def too_much() -> ProtocolError:
    return ProtocolError("More came than the reply that was asked for.")


class TickReader:
    """Makes the replies of one stream, and holds what they share: the symbols by their bytes.

    Args:
        stream: its name.
        price, volume, symbol, timestamp: the fields' names. Without ``volume`` it is 0; without ``timestamp`` the time
            is that of the entry's id.
        fallback: the symbol of an entry that has no such field; without it, its index is -1.
    """

    def __init__(
        self,
        stream: bytes,
        price: bytes,
        volume: bytes | None = None,
        symbol: bytes = b"symbol",
        fallback: bytes | None = None,
        timestamp: bytes | None = None,
    ) -> None:
        self.stream = stream
        self.price = price
        self.volume = volume
        self.symbol = symbol
        self.fallback = fallback
        self.timestamp = timestamp
        self._forget_symbols()

    def reply(self) -> TickReply:
        """A sink for the bytes of the next reply (``ReplySink``). Replies come one after the other."""
        if self._size > MOST_SYMBOL_BYTES or len(self.names) > MOST_SYMBOLS:
            self._forget_symbols()
        return TickReply(self)

    def index(self, symbol: bytes) -> int:
        found = self._places.get(symbol)
        if found is None:
            found = self._places[symbol] = len(self.names)
            self.names.append(symbol)
            self._size += len(symbol)
        return found

    def _forget_symbols(self) -> None:
        self.names: list[bytes] = []
        self._places: dict[bytes, int] = {}
        self._size = 0
        if self.fallback is not None:
            self.index(self.fallback)


class TickReply:
    """The rows of one reply, once ``feed`` has said that it is complete."""

    def __init__(self, reader: TickReader) -> None:
        self._reader = reader
        self._parser = ReplyParser()
        self._raw = b""
        self._entries: list[Entry] = []
        self._rows = b""
        self._complete = False
        self.names = reader.names
        """The symbols that the rows' indexes stand for: the reader's list, another after it forgot them."""
        self.other: Any = NOT_OTHER
        """Where the reply is none of this stream's entries (an error, another stream's), the reply as the codec has it;
        there are no rows then."""

    @property
    def count(self) -> int:
        """The number of rows: one for each entry."""
        return len(self._entries)

    @property
    def size(self) -> int:
        """The reply's bytes."""
        return len(self._raw)

    @property
    def last_id(self) -> bytes | None:
        """The id of the last entry; None where there is none."""
        last = self._entries[-1][0] if self._entries else None
        assert last is None or isinstance(last, bytes)
        return last

    def feed(self, data: bytes | memoryview) -> bool:
        """Add bytes of the reply; True when it is complete.

        Raises:
            ProtocolError: this is no reply, or more than one.
        """
        if self._complete:
            raise too_much()
        data = bytes(data)
        self._raw += data
        self._parser.feed(data)
        reply = self._parser.get()
        if reply is NEED_MORE:
            return False
        if self._parser.get() is not NEED_MORE:
            raise too_much()
        self._complete = True
        self._take(reply)
        return True

    def entry(self, row: int) -> Entry:
        """The entry of a row as the codec gives it: its id and its fields."""
        if not 0 <= row < len(self._entries):
            raise IndexError(row)
        return self._entries[row]

    def __bytes__(self) -> bytes:
        """The rows. The native twin is also a buffer of them."""
        return self._rows

    def _take(self, reply: Any) -> None:
        if reply is None:
            return
        entries = self._own_entries(reply)
        if entries is None:
            self.other = reply
            return
        self._entries = [(item[0], _named(item[1])) for item in entries]
        at = self._first_entry()
        rows = []
        for item, (identifier, fields) in zip(entries, self._entries, strict=True):
            rows.append(self._row(identifier, fields, at))
            at = self._behind(item, at)
        self._rows = b"".join(rows)

    def _own_entries(self, reply: Any) -> list[Any] | None:
        """The entries where the reply has the one shape that the native twin reads."""
        if isinstance(reply, dict):
            pairs: Any = list(reply.items())
        else:
            pairs = reply
        if not isinstance(pairs, list) or len(pairs) != 1 or isinstance(reply, RespError):
            return None
        pair = pairs[0]
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or pair[0] != self._reader.stream:
            return None
        if not isinstance(pair[1], list):
            return None
        for item in pair[1]:
            if not isinstance(item, list) or len(item) != 2 or type(item[0]) is not bytes:
                return None
            fields = item[1]
            if fields is not None and (
                not isinstance(fields, list) or len(fields) % 2 or any(type(part) is not bytes for part in fields)
            ):
                return None
        return pair[1]

    def _row(self, identifier: Any, fields: dict[bytes, bytes] | None, at: int) -> bytes:
        reader = self._reader
        if not fields:
            return ROW.pack(0.0, 0.0, 0, at, -1, GONE)
        symbol = fields.get(reader.symbol, reader.fallback)
        index = -1 if symbol is None else reader.index(symbol)
        price = _number(fields.get(reader.price))
        volume = 0.0 if reader.volume is None else _number(fields.get(reader.volume))
        time = _id_time(identifier) if reader.timestamp is None else _whole(fields.get(reader.timestamp))
        if price is None or volume is None or time is None:
            return ROW.pack(0.0, 0.0, 0, at, index, ODD)
        return ROW.pack(price, volume, time, at, index, 0)

    def _first_entry(self) -> int:
        at = self._line(0)
        if self._raw[:1] == b"*":
            at = self._line(at)
        at = self._line(at) + len(self._reader.stream) + 2
        return self._line(at)

    def _behind(self, item: list[Any], at: int) -> int:
        at = self._line(self._line(at)) + len(item[0]) + 2
        at = self._line(at)
        for part in item[1] or ():
            at = self._line(at) + len(part) + 2
        return at

    def _line(self, at: int) -> int:
        return self._raw.index(b"\r\n", at) + 2


def _named(fields: list[bytes] | None) -> dict[bytes, bytes] | None:
    return None if fields is None else dict(zip(fields[::2], fields[1::2], strict=True))


def _number(text: bytes | None) -> float | None:
    if text is None or len(text) > MOST_TEXT or _NUMBER.fullmatch(text) is None:
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _whole(text: bytes | None) -> int | None:
    if text is not None and _DIGITS.fullmatch(text):
        return int(text)
    value = _number(text)
    return int(value) if value is not None and 0 <= value <= 2**53 and value.is_integer() else None


def _id_time(text: Any) -> int | None:
    found = _ID.fullmatch(text)
    return None if found is None else int(found[1])
