"""A stream of the server, read into a DataFrame: pages of XRANGE, from the socket's bytes into columns.

Native where it is built (``native_columns``); what is unusual in a page, and every page where nothing is built, goes
the way of ``convert``: parsed into objects, then taken apart. Both give the frame of ``streams_to_dataframe``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from streammachine.frames.arrow import HAS_NATIVE, Columns, Page, arrow_dtype, arrow_text, integers, repeated
from streammachine.frames.convert import cells_of, fields_of, frame_of, own_columns, texts_of
from streammachine.frames.replies import parts_of, position_of, text

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from streammachine.frames.convert import Cells
    from streammachine.redis.commands import RedisCommands
    from streammachine.redis.transport.raw_connection import RawConnection

FIRST_PAGE: Final = 500  # entries; it tells how large they are
PAGE_BYTES: Final = 1 << 20  # of a reply: the server serves others between two of them
PAGE_ENTRIES: Final = 10_000
_STREAM, _ID, _TIME, _SEQUENCE = "stream", "id", "timestamp_ms", "sequence"
_CLASH = "_field"


async def read_frame(
    stream: str | bytes,
    start: str | int | date = "-",
    end: str | int | date = "+",
    columns: Sequence[str] | None = None,
    redis: RedisCommands | None = None,
    *,
    include_sequence: bool = False,
    most: int | None = None,
) -> pd.DataFrame:
    """The entries of a stream from ``start`` to ``end``, both included, as a frame with one row per entry.

    ::

        trades = await read_frame("trades", "now-15m", columns=["timestamp_ms", "price"])

    It is the frame that ``streams_to_dataframe`` makes of the same entries: ``stream``, ``id``, ``timestamp_ms`` (and
    ``sequence`` where asked), then a column per field, as text, NaN where an entry has no such field. It is read in
    pages, the next one while the last is taken apart, without an object per entry; with pyarrow installed text
    goes as it comes into pandas' Arrow-backed columns. The frame ends with the entry that was the newest when
    reading began, however fast others are added.

    Args:
        stream: its name.
        start, end: an id "ms-seq" ("(ms-seq" leaves that one out), epoch milliseconds, ISO 8601 or a datetime (UTC
            where there is no zone), "now", "now-15m"; "-" is the beginning and "+" the end.
        columns: these columns in this order, and no others: fields, ``stream``, ``id``, ``timestamp_ms`` or
            ``sequence``. A field that no entry has gives a column of NaN. None: all.
        redis: the connection to use; None opens one (as ``RedisConnection()``) and closes it again.
        include_sequence: without ``columns``, the column ``sequence`` too.
        most: refuse a range with more entries than this, before all of them are read.

    Raises:
        StreamNotFoundError: there is no such stream; names the nearest. WrongTypeError: the key is no stream.
        StreamIdError: ``start`` or ``end`` is no position. ValueError: a column is named twice, an id has a number
        that does not fit 64 signed bits, or there are more entries than ``most``. RedisUnavailableError,
        RedisTimeoutError and the others of a command.
    """
    from streammachine.redis.streams import parse_position

    wanted = _Wanted.of(columns, include_sequence)
    first, last = parse_position(_position(start)), parse_position(_position(end))
    if redis is not None:
        return await _read(redis, stream, first, last, wanted, most)
    from streammachine.redis.connection import RedisConnection

    async with RedisConnection() as connection:
        return await _read(connection, stream, first, last, wanted, most)


def _position(moment: str | int | date) -> str:
    return moment.isoformat() if isinstance(moment, date) else str(moment)


@dataclass(frozen=True)
class _Wanted:
    """The columns that were asked for."""

    own: list[str]
    columns: list[str] | None
    fields: frozenset[str] | None  # None: all

    @classmethod
    def of(cls, columns: Sequence[str] | None, include_sequence: bool) -> _Wanted:
        if columns is None:
            return cls(own_columns(_STREAM, _ID, _TIME, include_sequence), None, None)
        named = [columns] if isinstance(columns, str) else list(columns)
        if len(set(named)) < len(named):
            raise ValueError(f"a column is named twice: {', '.join(map(repr, named))}. Name each once.")
        own = own_columns(_STREAM, _ID, _TIME, _SEQUENCE in named)
        fields = set()
        for name in named:
            fields.add(name)
            if isinstance(name, str):  # "id_field" may be the field "id", beside our own column of that name
                while name.endswith(_CLASH):
                    name = name.removesuffix(_CLASH)  # noqa: PLW2901
                    fields.add(name)
        return cls(own, named, frozenset(fields))

    @property
    def raw_fields(self) -> frozenset[bytes] | None:
        return None if self.fields is None else frozenset(_raw(name) for name in self.fields)

    @property
    def has_sequence(self) -> bool:
        return _SEQUENCE in self.own

    def has(self, column: str) -> bool:
        return self.columns is None or column in self.columns


def _raw(name: object) -> bytes:
    return name if isinstance(name, bytes) else str(name).encode("utf-8", "surrogatepass")


# --- reading -----------------------------------------------------------------------------------------------------


async def _read(
    redis: RedisCommands, stream: str | bytes, start: str, end: str, wanted: _Wanted, most: int | None
) -> pd.DataFrame:
    from streammachine.errors import RedisTimeoutError, RedisUnavailableError

    collected = _Collected(wanted)
    newest = await _newest(redis, stream, start, end)
    if newest is not None:
        pages = _Pages(redis, stream, start, newest, most)
        try:
            await pages.read_into(collected)
        except RedisTimeoutError:
            raise
        except RedisUnavailableError:  # what is read can be read once more: on from the last whole page
            await pages.close()
            await pages.read_into(collected)
        finally:
            await pages.close()
    return collected.frame(stream)


async def _newest(redis: RedisCommands, stream: str | bytes, start: str, end: str) -> str | None:
    """The id of the last entry in the range; None where there is none in it."""
    from streammachine.errors import WrongTypeError
    from streammachine.redis.streams import require_stream

    try:
        reply = await redis.command("XREVRANGE", stream, end, start, "COUNT", 1, repeatable=True)
    except WrongTypeError:
        await require_stream(redis, stream)
        raise
    if not reply:
        await require_stream(redis, stream)
        return None
    return str(text(parts_of(reply[0])[0]))


class _Pages:
    """The pages of one range, each asked for before the one before it is taken apart."""

    def __init__(self, redis: RedisCommands, stream: str | bytes, start: str, end: str, most: int | None) -> None:
        self._left = most
        self._redis = redis
        self._stream = stream
        self._next: str | None = start
        self._end = end
        self._count = FIRST_PAGE
        self._page_before: _Answer | None = None
        self._link: RawConnection | None = None

    async def read_into(self, collected: _Collected) -> None:
        self._link = await self._redis.open_connection(self._stream)
        while self._next is not None:
            answer = await self._page(collected)
            self._page_before = answer
        self._add_to(collected)

    def _add_to(self, collected: _Collected) -> None:
        answer, self._page_before = self._page_before, None
        if answer is not None:
            collected.add(answer)

    async def close(self) -> None:
        if self._link is not None:
            await self._link.aclose()
            self._link = None

    async def _page(self, collected: _Collected) -> _Answer:
        """The next page; the one before it is taken apart meanwhile. Raises the server's error."""
        from streammachine.redis.transport.raw_connection import encode_command

        assert self._link is not None and self._next is not None
        command = ("XRANGE", self._stream, self._next, self._end, "COUNT", self._count)
        answer = _Answer()
        meanwhile = partial(self._add_to, collected)
        await self._link.receive(encode_command(command), answer, self._redis.timeout, meanwhile)
        count, last = answer.count_and_last(self._redis.name, command)
        self._next = f"({last}" if count == self._count and last != self._end else None
        if self._left is not None:
            self._left -= count
            if self._left < 0:
                raise ValueError(f"the range of the stream {text(self._stream)!r} has more entries than may be read")
        if count:
            self._count = max(1, min(PAGE_ENTRIES, PAGE_BYTES // (answer.size // count), 16 * self._count))
        return answer


class _Answer:
    """The reply to one XRANGE: its bytes, or parsed where they are not those of plain entries."""

    def __init__(self) -> None:
        self.page = Page() if HAS_NATIVE else None
        self.size = 0
        self._parser: Any = None
        self._reply: Any = None

    def feed(self, data: bytes | memoryview) -> bool:
        """More of the reply; True when it is complete."""
        self.size += len(data)
        if self.page is not None:
            complete = self.page.feed(data)
            if complete is not None:
                return complete
            data = bytes(self.page.raw)
            self.page = None
        return self._parse(data)

    def _parse(self, data: bytes | memoryview) -> bool:
        from streammachine.redis.transport.codec import NEED_MORE, ReplyParser

        if self._parser is None:
            self._parser = ReplyParser()
        self._parser.feed(data)
        self._reply = self._parser.get()
        return self._reply is not NEED_MORE

    def count_and_last(self, server: str, command: Sequence[object]) -> tuple[int, str]:
        """How many entries there are, and the id of the last. Raises the error that the server replied."""
        if self.page is not None:
            return self.page.count, self.page.last_id().decode("ascii", "replace") if self.page.count else ""
        from streammachine.redis.transport.codec import RespError
        from streammachine.redis.transport.raw_connection import refused

        if isinstance(self._reply, RespError):
            raise refused(self._reply, server, command)
        return len(self._reply), str(text(parts_of(self._reply[-1])[0])) if self._reply else ""

    def entries(self) -> list[Any]:
        if self.page is not None:
            self._parse(bytes(self.page.raw))
        found: list[Any] = self._reply
        return found


# --- putting the frame together ----------------------------------------------------------------------------------


@dataclass
class _Part:
    """The entries of some pages, as objects."""

    ids: Cells
    milliseconds: NDArray[np.int64]
    sequences: NDArray[np.int64]
    fields: Mapping[Any, Cells] = field(default_factory=dict)


class _Collected:
    """What was read: native columns as long as no page is unusual, then parts that are put together at the end."""

    def __init__(self, wanted: _Wanted) -> None:
        self._wanted = wanted
        self._parts: list[_Part] = []
        self._columns: Columns | None = None

    def add(self, answer: _Answer) -> None:
        if answer.page is not None:
            if self._columns is None:
                self._columns = Columns(self._wanted.raw_fields, self._wanted.has(_ID), self._wanted.has_sequence)
            if self._columns.take(answer.page):
                return
        self._part_from_columns()
        self._parts.append(_part_of(answer.entries(), self._wanted))

    def frame(self, stream: str | bytes) -> pd.DataFrame:
        if self._columns is not None and not self._parts and self._columns.rows:
            return self._native_frame(text(stream), self._columns)
        self._part_from_columns()
        return self._plain_frame(text(stream))

    def _native_frame(self, stream: str, columns: Columns) -> pd.DataFrame:

        made = columns.finish()
        rows = columns.rows
        arrow = arrow_dtype()
        if arrow is None:
            fields = {name: cells_of(made.pop(name).texts(math.nan)) for name in list(made)}
        else:
            fields = {name: arrow_text(arrow, made.pop(name)) for name in list(made)}
        own: dict[str, Any] = {}
        if self._wanted.has(_STREAM):
            own[_STREAM] = cells_of([stream]).repeat(rows) if arrow is None else repeated(arrow, [(stream, rows)])
        if self._wanted.has(_ID):
            own[_ID] = cells_of(columns.ids.texts("")) if arrow is None else arrow_text(arrow, columns.ids)
        own[_TIME] = integers(columns.milliseconds)
        if self._wanted.has_sequence:
            own[_SEQUENCE] = integers(columns.sequences)
        self._columns = None
        return self._selected(own, fields, rows)

    def _plain_frame(self, stream: str) -> pd.DataFrame:
        import numpy as np

        parts = self._parts
        labels = dict.fromkeys(label for part in parts for label in part.fields)
        rows = sum(len(part.milliseconds) for part in parts)
        fields = {}
        for label in labels:
            pieces = [
                part.fields[label] if label in part.fields else np.full(len(part.milliseconds), math.nan, dtype=object)
                for part in parts
            ]
            fields[label] = np.concatenate(pieces)
        no_number = np.empty(0, dtype=np.int64)
        own: dict[str, Any] = {
            _STREAM: cells_of([stream]).repeat(rows),
            _ID: np.concatenate([cells_of([]), *(part.ids for part in parts)]),
            _TIME: np.concatenate([no_number, *(part.milliseconds for part in parts)]),
            _SEQUENCE: np.concatenate([no_number, *(part.sequences for part in parts)]),
        }
        return self._selected(own, fields, rows)

    def _selected(self, own: dict[str, Any], fields: Mapping[Any, Any], rows: int) -> pd.DataFrame:
        import pandas as pd

        # A column of ours that nobody asked for takes its name all the same: a field of that name stands beside it.
        values = [own.get(name, own[_TIME]) for name in self._wanted.own]
        frame = frame_of(self._wanted.own, values, fields, copy=False)
        if self._wanted.columns is None:
            return frame
        for name in self._wanted.columns:
            if name not in frame.columns:
                frame[name] = pd.Series([math.nan] * rows, dtype=pd.Series([""]).dtype)
        return frame[self._wanted.columns]

    def _part_from_columns(self) -> None:

        columns, self._columns = self._columns, None
        if columns is None or not columns.rows:
            return
        fields = {name: cells_of(column.texts(math.nan)) for name, column in columns.finish().items()}
        ids = cells_of(columns.ids.texts("") if self._wanted.has(_ID) else [""] * columns.rows)
        times = integers(columns.milliseconds)
        sequences = integers(columns.sequences) if self._wanted.has_sequence else times  # not looked at
        self._parts.append(_Part(ids, times, sequences, fields))


def _part_of(entries: Iterable[Any], wanted: _Wanted) -> _Part:
    import numpy as np

    found = [(entry_id, fields) for entry_id, fields in map(parts_of, entries) if fields is not None]
    ids = texts_of([entry_id for entry_id, _ in found])
    positions = np.array([position_of(entry_id) for entry_id in ids], dtype=np.int64).reshape(-1, 2)
    fields = fields_of([fields for _, fields in found]) if found else {}
    if wanted.fields is not None:
        fields = {label: cells for label, cells in fields.items() if label in wanted.fields}
    return _Part(cells_of(ids), positions[:, 0], positions[:, 1], fields)
