"""Ticks of a batch, read and checked before the first is taken: entries of Redis replies, and columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any

from streammachine.errors import SettingsError, TickError
from streammachine.ohlc.columns import Columns
from streammachine.ohlc.reference.candles import Series, Tick
from streammachine.ohlc.reference.core import Core
from streammachine.ohlc.reference.values import canonical, number, time_of
from streammachine.ohlc.values import (
    MAX_MS,
    MAX_NESTING,
    field_ms,
    field_number,
    field_time_error,
    price_error,
    show,
    symbol_error,
    volume_error,
)


class TickBatch:
    """Ticks read and checked; taking begins only when all is read."""

    def __init__(self, into: Core) -> None:
        self.into = into
        self.generation = into._generation
        self.fresh: dict[str, Series] = {}
        self.ticks: list[Tick] = []

    def series_of(self, symbol: object, where: str) -> Series:
        """A symbol's series, a new one where need be."""
        text = canonical(symbol)
        if text is None:
            raise symbol_error(symbol, where)
        series = self.into._texts.get(text) or self.fresh.get(text)
        if series is None:
            series = self.fresh[text] = Series(text, len(self.into._levels), len(self.into._roots))
        return series

    def apply(self) -> int:
        if self.generation != self.into._generation:
            raise RuntimeError("The aggregator was changed by the code of a value in the batch; nothing was taken.")
        for series in self.fresh.values():
            self.into._adopt(series)
        take = self.into._take
        for tick in self.ticks:
            take(*tick)
        return len(self.ticks)

    def read_columns(self, columns: Columns) -> None:
        """Arrays last, as in ``fast.pyx``: once they are checked, no code of a caller's object runs."""
        held = ((columns.prices, _price), (columns.volumes, _volume), (columns.timestamps, time_of))
        read = [_checked(column, check) if isinstance(column, tuple) else column for column, check in held]
        count = len(read[0])
        _same_length("volumes", len(read[1]), count)
        _same_length("timestamps", len(read[2]), count)
        series = self.column_series(columns, count)
        prices, volumes, times = [
            column if isinstance(column, list) else _checked(column.tolist(), check)
            for column, (_, check) in zip(read, held, strict=True)
        ]
        self.ticks = list(zip(series, prices, volumes, times, strict=True))

    def column_series(self, columns: Columns, count: int) -> Sequence[Series]:
        symbols, categories = columns.symbols, columns.categories
        if isinstance(symbols, (str, bytes)):
            one = self.series_of(symbols, "")
            if not count:
                self.fresh.clear()
            return [one] * count
        _same_length("symbols", len(symbols), count)
        names = symbols if isinstance(symbols, tuple) else symbols.tolist()
        if categories is not None:
            names = [categories[code] if 0 <= code < len(categories) else None for code in names]
        return [self.series_of(name, f"row {row}: ") for row, name in enumerate(names)]


def _checked(values: Iterable[Any], check: Callable[[object, str], Any]) -> list[Any]:
    return [check(value, f"row {row}: ") for row, value in enumerate(values)]


def _price(value: object, where: str) -> float:
    return number(value, price_error, where)


def _volume(value: object, where: str) -> float:
    return number(value, volume_error, where)


def _same_length(name: str, count: int, expected: int) -> None:
    if count != expected:
        raise TickError(f"{name} has {count} rows, prices has {expected}: they must be equal.")


_ABSENT = object()


class Field:
    """A field name in both of its forms."""

    def __init__(self, argument: str, name: object) -> None:
        text = canonical(name)
        if text is None:
            raise SettingsError(f"{argument} {show(name)} is refused: it must be a non-empty str, or bytes in UTF-8.")
        self.text = text
        self.data = text.encode()

    def of(self, fields: dict[Any, Any], as_bytes: bool) -> Any:
        value = dict.get(fields, self.data if as_bytes else self.text, _ABSENT)
        if value is _ABSENT:
            value = dict.get(fields, self.text if as_bytes else self.data, _ABSENT)
        return value

    def is_name(self, key: object) -> bool:
        if isinstance(key, bytes):
            return bytes.__eq__(key, self.data)
        return isinstance(key, str) and str.__eq__(key, self.text)

    def where(self, entry_id: object) -> str:
        return f"entry {_id_text(entry_id)}, field {self.text!r}: "


def _id_text(entry_id: object) -> str:
    return show(bytes.decode(entry_id, errors="backslashreplace") if isinstance(entry_id, bytes) else entry_id)


def _id_ms(entry_id: object) -> int:
    text = bytes.decode(entry_id, "latin-1") if isinstance(entry_id, bytes) else entry_id
    if isinstance(text, str) and str.isascii(text):
        head, dash, tail = str.partition(text, "-")
        if head.isdigit() and len(head) <= 18 and (tail.isdigit() if dash else True) and int(head) <= MAX_MS:
            return int(head)
    raise TickError(
        f"entry {_id_text(entry_id)}: its id is not <milliseconds>-<number> up to {MAX_MS}. "
        "Where a field holds the time, name it in timestamp_field."
    )


def _is_stream(item: Any) -> bool:
    """Tells ``[stream, entries]`` from an entry ``[id, fields]``: entries hold lists, fields do not."""
    if not isinstance(item, (list, tuple)) or len(item) != 2:
        return False
    if not isinstance(item[0], (str, bytes)) or not isinstance(item[1], (list, tuple)) or len(item[1]) == 0:
        return False
    return item[1][0] is None or isinstance(item[1][0], (list, tuple))


class ReplyReader(TickBatch):
    """Reads the reply shapes of Redis clients."""

    def __init__(
        self, into: Core, price_field: object, volume_field: object, symbol_field: object, timestamp_field: object
    ) -> None:
        super().__init__(into)
        self.price = Field("price_field", price_field)
        self.volume = None if volume_field is None else Field("volume_field", volume_field)
        self.symbol = None if symbol_field is None else Field("symbol_field", symbol_field)
        self.timestamp = None if timestamp_field is None else Field("timestamp_field", timestamp_field)
        self.stream: object = None
        self.stream_series: Series | None = None

    def read(self, reply: Any) -> None:
        if isinstance(reply, Mapping):
            for stream, entries in reply.items():
                self.read_stream(stream, entries)
        elif isinstance(reply, (list, tuple)):
            for item in reply:
                if _is_stream(item):
                    self.read_stream(item[0], item[1])
                else:
                    self.read_stream(None, (item,))
        elif reply is not None:
            raise TickError(
                f"The reply {show(reply)} is refused: give what XREAD, XREADGROUP or XRANGE returned (dict or list)."
            )

    def read_stream(self, stream: object, entries: Any) -> None:
        self.stream = stream
        self.stream_series = None
        if entries is None:
            return
        if not isinstance(entries, (list, tuple)):
            raise TickError(f"The entries {show(entries)} of stream {show(stream)} are refused: give a list.")
        self.read_entries(entries, 0)

    def read_entries(self, entries: Sequence[Any], depth: int) -> None:
        if depth > MAX_NESTING:
            raise TickError(f"The reply is refused: its entries stand in more than {MAX_NESTING} lists.")
        for entry in entries:
            if entry is None:
                continue
            if not isinstance(entry, (list, tuple)):
                raise TickError(f"The entry {show(entry)} is refused: give (id, fields).")
            if len(entry) == 0:
                continue
            first = entry[0]
            if isinstance(first, (list, tuple)):  # redis-py with RESP3 wraps the entries once more
                self.read_entries(entry, depth + 1)
            elif len(entry) != 2:
                raise TickError(f"The entry {show(entry)} is refused: give (id, fields).")
            else:
                self.read_fields(first, entry[1])

    def read_fields(self, entry_id: object, fields: Any) -> None:
        if isinstance(fields, dict):
            self.read_dict(entry_id, fields)
        elif isinstance(fields, (list, tuple)):
            self.read_flat(entry_id, tuple(fields))
        elif isinstance(fields, Mapping):
            self.read_dict(entry_id, dict(fields))
        elif fields is not None:
            raise TickError(
                f"entry {_id_text(entry_id)}: the fields {show(fields)} are refused: give a dict or a list."
            )

    def read_dict(self, entry_id: object, fields: dict[Any, Any]) -> None:
        for first in dict.__iter__(fields):
            as_bytes = isinstance(first, bytes)
            self.read_values(entry_id, partial(Field.of, fields=fields, as_bytes=as_bytes))
            return

    def read_flat(self, entry_id: object, row: tuple[Any, ...]) -> None:
        """``(field, value, field, value)``; of two equal names the last counts, as in a dict."""
        if not row:
            return
        if len(row) % 2:
            raise TickError(f"entry {_id_text(entry_id)}: the fields {show(row)} are refused: a name has no value.")
        pairs = list(zip(row[-2::-2], row[::-2], strict=True))
        self.read_values(entry_id, lambda field: next((value for key, value in pairs if field.is_name(key)), _ABSENT))

    def read_values(self, entry_id: object, value_of: Callable[[Field], Any]) -> None:
        """Each value is read before the next is looked up, as in ``fast.pyx``: both can run code of the caller's."""
        value = self.given(self.price, value_of, entry_id)
        price = field_number(value)
        if price is None or not -inf < price < inf:
            raise price_error(value, self.price.where(entry_id))
        volume: float | None = 0.0
        if self.volume is not None:
            value = self.given(self.volume, value_of, entry_id)
            volume = field_number(value)
            if volume is None or not 0.0 <= volume < inf:
                raise volume_error(value, self.volume.where(entry_id))
        ms: int | None
        if self.timestamp is not None:
            value = self.given(self.timestamp, value_of, entry_id)
            ms = field_ms(value)
            if ms is None:
                raise field_time_error(value, self.timestamp.where(entry_id))
        else:
            ms = _id_ms(entry_id)
        if self.symbol is not None:
            series = self.series_of(self.given(self.symbol, value_of, entry_id), self.symbol.where(entry_id))
        else:
            if self.stream_series is None:
                self.name_stream(entry_id)
            assert self.stream_series is not None
            series = self.stream_series
        assert volume is not None
        self.ticks.append((series, price, volume, ms))

    def given(self, field: Field, value_of: Callable[[Field], Any], entry_id: object) -> Any:
        value = value_of(field)
        if value is _ABSENT:
            raise TickError(f"{field.where(entry_id)}it is missing. Name the field that holds it, or drop the entry.")
        return value

    def name_stream(self, entry_id: object) -> None:
        if self.stream is None:
            raise TickError(
                f"entry {_id_text(entry_id)} has no symbol: the reply names no stream. "
                "Pass symbol_field, or the reply with its stream names."
            )
        self.stream_series = self.series_of(self.stream, f"entry {_id_text(entry_id)}, stream name: ")
