"""Ticks to candles in plain Python: what ``fast.pyx`` does, bit for bit, where no compiler was at hand.

``fast.pyx`` explains how candles fold, and its invariants; names and the order of additions are the same here. Both
read and write the same dumps and raise the same errors with the same text.
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any, Self

from streammachine.errors import IntervalError, SettingsError, SnapshotError, TickError
from streammachine.ohlc.columns import Columns, columns_of
from streammachine.ohlc.reference.candles import (
    _NOT_HOT,
    _START,
    CandleData,
    _Candle,
    _Hot,
    _Level,
    _levels,
    _Series,
    _Slot,
)
from streammachine.ohlc.reference.layout import (
    ACCEPTED,
    CANDLE,
    HEAD,
    I64,
    LATE,
    MAGIC,
    NO_MARK,
    SLOT,
    U32,
    VERSION,
    _Tick,
)
from streammachine.ohlc.reference.values import _before, _canonical, _number, _time, _whole
from streammachine.ohlc.values import (
    MAX_COUNT,
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

__all__ = ["CandleData", "FastOHLC"]


class FastOHLC:
    """UpdateQueue ticks into candles for any number of symbols and intervals.

    ``intervals`` are milliseconds (default 60,000 and 300,000). Candles are half open,
    ``[start, start + interval)``, and aligned to the epoch; weeks (604,800,000 ms) begin on Monday. Open and close
    follow event time; of ticks at the same millisecond the first to arrive can be the open, the last the close.
    ``b"X"`` and ``"X"`` are one series.

    ``max_candles`` (0: no bound) is the most candles kept per symbol and interval; the oldest is dropped and counted
    in ``dropped_count``. A flushed or dropped candle never comes back: later ticks for that time are *late*, counted
    in ``late_count``, and still enter the intervals that are not flushed so far.

    Raises IntervalError for intervals that cannot be, SettingsError for ``max_candles``. Not thread-safe: use one
    aggregator per thread, or a lock.
    """

    def __init__(self, intervals: Iterable[int] | None = None, max_candles: int = 0) -> None:
        self._intervals = _checked_intervals(intervals)
        bound = _whole(max_candles)
        if bound is None or not 0 <= bound <= MAX_MS:
            raise SettingsError(f"max_candles {show(max_candles)} is refused: it must be an int, 0 (no bound) or more.")
        self._max_candles = bound
        self._levels = _levels(sorted(self._intervals))
        self._roots = [at for at, level in enumerate(self._levels) if level.source < 0]
        self._level_of = {level.interval: at for at, level in enumerate(self._levels)}
        self._texts: dict[str, _Series] = {}
        self._bytes: dict[bytes, _Series] = {}
        self._ticks = self._late = self._dropped = self._generation = 0

    # ------------------------------------------------------------ ticks in

    def update_tick(self, symbol: str | bytes, price: Any, volume: Any, timestamp_ms: Any) -> None:
        """Take one tick: ``price`` and ``volume`` are numbers, ``timestamp_ms`` an int (epoch milliseconds).

        A price can be zero or negative (spreads). Raises TickError, and changes nothing, for a value that is not
        usable: NaN, an infinity, a negative volume, text for a number, a time outside 0 to 9e15.
        """
        if type(price) is not float or not -inf < price < inf:
            price = _number(price, price_error)
        if type(volume) is not float or not 0.0 <= volume < inf:
            volume = _number(volume, volume_error)
        if type(timestamp_ms) is not int or not 0 <= timestamp_ms <= MAX_MS:
            timestamp_ms = _time(timestamp_ms)
        kind = type(symbol)
        if kind is str:
            series = self._texts.get(symbol)  # type: ignore[arg-type]  # exact types: the two keys never meet
        elif kind is bytes:
            series = self._bytes.get(symbol)  # type: ignore[arg-type]
        else:
            series = self._known(symbol)
        self._take(series if series is not None else self._create(symbol), price, volume, timestamp_ms)

    def process_stream_batch(
        self,
        entries: Any,
        price_field: str | bytes = "price",
        volume_field: str | bytes | None = "volume",
        symbol_field: str | bytes | None = None,
        timestamp_field: str | bytes | None = None,
    ) -> int:
        """Take the entries of a Redis reply, all of them or none. Returns how many (late ones are counted too).

        ``entries`` is what XREAD, XREADGROUP or XRANGE gives: a dict of streams (coredis; redis-py with RESP3), a
        list of ``[stream, entries]``, or bare entries; an entry is ``(id, fields)``, its fields a dict or a flat
        list; bytes or str; None and empty are 0. Entries without fields (deleted ones) are passed over.

        The symbol is ``symbol_field``'s value, or the stream's name; the time is ``timestamp_field``'s value (whole
        epoch milliseconds of the years 2000 to 2100, a number or its text), or the id's; ``volume_field=None``
        means a volume of 0. Raises TickError naming entry and field.
        """
        reader = _Reader(self, price_field, volume_field, symbol_field, timestamp_field)
        reader.read(entries)
        return reader.apply()

    def update_batch(self, symbols: Any, prices: Any = None, volumes: Any = None, timestamps: Any = None) -> int:
        """Take columns of ticks, all of them or none. Returns how many (late ones are counted too).

        Each column is a list, a NumPy array or a pandas Series, all of one length; ``symbols`` can be one str or
        bytes for all rows, or categorical. Or pass one DataFrame with the columns symbol, price, volume and
        timestamp_ms. Raises TickError naming the first bad row.
        """
        batch = _Batch(self)
        batch.read_columns(columns_of(symbols, prices, volumes, timestamps))
        return batch.apply()

    # ------------------------------------------------------------ candles out

    def get_candles(self, symbol: str | bytes, interval: int) -> list[CandleData]:
        """All candles of a symbol and interval (ms), oldest first, the running one included; [] for a new symbol.

        Raises IntervalError for an interval that this aggregator does not have.
        """
        at = self._level(interval)
        series = self._found(symbol)
        return [] if series is None else self._first_candles(series, at, len(series.slots[at].candles))

    def get_completed_candles(self, symbol: str | bytes, interval: int, before_timestamp: int = 0) -> list[CandleData]:
        """The candles that end at or before ``before_timestamp`` (epoch ms; 0 is now by the wall clock), oldest first.

        A replay passes the replayed time. Raises IntervalError for an interval that this aggregator does not have.
        """
        at = self._level(interval)
        before = _before(before_timestamp)
        series = self._found(symbol)
        return [] if series is None else self._first_candles(series, at, self._complete(series, at, before))

    def get_candles_as_dicts(self, symbol: str | bytes, interval: int) -> list[dict[str, Any]]:
        """``get_candles`` with a dict for each candle."""
        return [candle.to_dict() for candle in self.get_candles(symbol, interval)]

    def flush_interval(self, symbol: str | bytes, interval: int, before_timestamp: int = 0) -> int:
        """Remove the candles that ``get_completed_candles`` gives for the same arguments. Returns how many.

        The end of the last one removed is the watermark of this symbol and interval: older ticks are late from then
        on. Other intervals do not change.
        """
        at = self._level(interval)
        before = _before(before_timestamp)
        series = self._found(symbol)
        if series is None:
            return 0
        slot = series.slots[at]
        count = self._complete(series, at, before)
        if count == 0:
            return 0
        if count == len(slot.candles):
            self._settle(series, at)
        slot.mark = slot.candles[count - 1].start + self._levels[at].interval
        del slot.candles[:count]
        self._refresh_hots(series)
        return count

    def clear(self) -> None:
        """Forget everything but the configuration: candles, watermarks, counts."""
        self._generation += 1
        self._texts.clear()
        self._bytes.clear()
        self._ticks = self._late = self._dropped = 0

    def reset(self, symbol: str | bytes) -> bool:
        """Forget one symbol's candles and watermarks; the counts stay. Returns whether the symbol was known."""
        series = self._found(symbol)
        if series is None:
            return False
        self._generation += 1
        del self._texts[series.name]
        del self._bytes[series.name.encode()]
        return True

    @property
    def tick_count(self) -> int:
        """How many ticks entered at least one interval."""
        return self._ticks

    @property
    def late_count(self) -> int:
        """How many ticks came too late for at least one interval."""
        return self._late

    @property
    def dropped_count(self) -> int:
        """How many candles ``max_candles`` dropped."""
        return self._dropped

    @property
    def max_candles(self) -> int:
        """The most candles kept per symbol and interval; 0 is no bound."""
        return self._max_candles

    @property
    def intervals(self) -> list[int]:
        """The intervals in milliseconds, in the order given."""
        return list(self._intervals)

    @property
    def symbols(self) -> list[str]:
        """The symbols seen, sorted."""
        return sorted(self._texts)

    def __repr__(self) -> str:
        return f"FastOHLC(intervals={self._intervals!r}, max_candles={self._max_candles})"

    # ------------------------------------------------------------ dump and load

    def dump(self) -> bytes:
        """The whole state as bytes: the same state gives the same bytes, from either implementation.

        Little-endian: HEAD, the intervals (int64 each), the number of symbols, then per symbol, in UTF-8 order, its
        name and per interval SLOT and the candles ("<5d4q" each), and last the CRC-32 of all before.
        """
        count = len(self._intervals)
        parts = [
            HEAD.pack(MAGIC, VERSION, self._max_candles, self._ticks, self._late, self._dropped, count),
            struct.pack(f"<{count}qI", *self._intervals, len(self._texts)),
        ]
        for name in sorted(self._bytes):
            parts += (U32.pack(len(name)), name)
            for interval in self._intervals:
                slot = self._bytes[name].slots[self._level_of[interval]]
                parts.append(SLOT.pack(slot.mark, slot.pending, len(slot.candles)))
                parts += [CANDLE.pack(*candle.values()) for candle in slot.candles]
        body = b"".join(parts)
        return body + U32.pack(zlib.crc32(body))

    @classmethod
    def load(cls, data: bytes) -> Self:
        """A new aggregator with the state, intervals and bound that ``dump`` wrote.

        Raises SnapshotError for anything else than an undamaged dump of this version.
        """
        loader = _Loader(data)
        try:
            loaded = cls(loader.intervals, max_candles=loader.max_candles)
        except ValueError as error:
            raise SnapshotError(f"The dump is damaged: {error}") from None
        loader.fill(loaded)
        return loaded

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).load, (self.dump(),))

    # ------------------------------------------------------------ inside

    def _take(self, series: _Series, price: float, volume: float, ms: int) -> None:
        """One checked tick."""
        for _, start, end in series.hots:
            if not start <= ms < end:
                self._take_slowly(series, price, volume, ms)
                return
        for candle, _, _ in series.hots:
            candle.add_tick(price, volume, ms)
        self._ticks += 1

    def _take_slowly(self, series: _Series, price: float, volume: float, ms: int) -> None:
        result = 0
        for root in self._roots:
            result |= self._walk(series, root, price, volume, ms)
        self._refresh_hots(series)
        self._ticks += result & ACCEPTED
        self._late += result >> 1

    def _walk(self, series: _Series, at: int, price: float, volume: float, ms: int) -> int:
        """Bring a tick into a slot and, unless a pending candle carries it there later, into all above."""
        slot = series.slots[at]
        level = self._levels[at]
        result = ACCEPTED
        if ms < slot.mark:
            result = LATE
        else:
            start = level.align(ms)
            if not slot.candles or slot.candles[-1].start < start:
                self._open_candle(series, at, start, self._may_wait(series, at, start))
                slot.candles[-1].add_tick(price, volume, ms)
                if slot.pending:
                    return ACCEPTED
            else:
                index = bisect_left(slot.candles, start, key=_START)
                if slot.candles[index].start == start:
                    slot.candles[index].add_tick(price, volume, ms)
                    if slot.pending and index == len(slot.candles) - 1:
                        return ACCEPTED
                else:
                    candle = _Candle(start)
                    candle.add_tick(price, volume, ms)
                    slot.candles.insert(index, candle)
                    self._keep_bound(slot, level)
        for up in level.dependents:
            result |= self._walk(series, up, price, volume, ms)
        return result

    def _open_candle(self, series: _Series, at: int, start: int, pending: bool) -> None:
        """Append an empty candle, newer than all of the slot; where pending, its dependents get theirs."""
        slot = series.slots[at]
        self._fold(series, at)
        slot.candles.append(_Candle(start))
        slot.pending = pending
        self._keep_bound(slot, self._levels[at])
        if pending:
            for up in self._levels[at].dependents:
                above = series.slots[up]
                up_start = self._levels[up].align(start)
                if not above.candles or above.candles[-1].start < up_start:
                    self._open_candle(series, up, up_start, True)

    def _may_wait(self, series: _Series, at: int, start: int) -> bool:
        """Whether a new candle can be pending: everything above will take it as, or into, its newest candle."""
        for up in self._levels[at].dependents:
            slot = series.slots[up]
            if slot.mark > start:
                return False
            if slot.candles and slot.candles[-1].start > self._levels[up].align(start):
                return False
            if not self._may_wait(series, up, start):
                return False
        return True

    def _keep_bound(self, slot: _Slot, level: _Level) -> None:
        if self._max_candles and len(slot.candles) > self._max_candles:
            slot.mark = max(slot.mark, slot.candles.pop(0).start + level.interval)
            self._dropped += 1

    def _fold(self, series: _Series, at: int) -> None:
        """Merge the newest candle of a slot into its dependents, where it is pending."""
        slot = series.slots[at]
        if slot.pending:
            slot.pending = False
            for up in self._levels[at].dependents:
                series.slots[up].candles[-1].merge(slot.candles[-1])

    def _settle(self, series: _Series, at: int) -> None:
        """Fold a slot's newest candle with all that its own sources still hold back."""
        if self._levels[at].source >= 0:
            self._settle(series, self._levels[at].source)
        self._fold(series, at)

    def _refresh_hots(self, series: _Series) -> None:
        """The bounds within which a tick needs nothing but its root's newest candle."""
        hots = []
        for root in self._roots:
            slot = series.slots[root]
            if slot.pending:
                start = slot.candles[-1].start
                hots.append(_Hot(slot.candles[-1], start, start + self._levels[root].interval))
            else:
                hots.append(_NOT_HOT)
        series.hots = hots

    def _newest_view(self, series: _Series, at: int) -> _Candle:
        """The newest candle of a slot as it stands, with what its sources hold back."""
        view = _Candle(0)
        view.assign(*series.slots[at].candles[-1].values())
        source = self._levels[at].source
        if source >= 0 and series.slots[source].pending:
            view.merge(self._newest_view(series, source))
        return view

    def _first_candles(self, series: _Series, at: int, count: int) -> list[CandleData]:
        candles = series.slots[at].candles
        found = [candle.data() for candle in candles[: min(count, len(candles) - 1)]]
        if count and count == len(candles):
            found.append(self._newest_view(series, at).data())
        return found

    def _complete(self, series: _Series, at: int, before: int) -> int:
        """How many candles of a slot end at or before a time."""
        return bisect_left(series.slots[at].candles, before - self._levels[at].interval + 1, key=_START)

    def _known(self, symbol: object) -> _Series | None:
        text = _canonical(symbol)
        return None if text is None else self._texts.get(text)

    def _found(self, symbol: object) -> _Series | None:
        text = _canonical(symbol)
        if text is None:
            raise symbol_error(symbol)
        return self._texts.get(text)

    def _create(self, symbol: object) -> _Series:
        text = _canonical(symbol)
        if text is None:
            raise symbol_error(symbol)
        series = _Series(text, len(self._levels), len(self._roots))
        self._adopt(series)
        return series

    def _adopt(self, series: _Series) -> None:
        self._generation += 1
        self._texts[series.name] = series
        self._bytes[series.name.encode()] = series

    def _level(self, interval: object) -> int:
        plain = _whole(interval)
        if plain is None or plain not in self._level_of:
            raise IntervalError(f"interval {show(interval)} is not one of this aggregator's: {self._intervals}.")
        return self._level_of[plain]


# ---------------------------------------------------------------- candles and slots


# ---------------------------------------------------------------- values from outside


def _checked_intervals(intervals: Any) -> list[int]:
    checked: list[int] = []
    if intervals is None:
        return [60_000, 300_000]
    if isinstance(intervals, (str, bytes)) or not hasattr(intervals, "__iter__"):
        raise IntervalError(f"intervals {show(intervals)} is refused: give a list of milliseconds, such as [60000].")
    for value in intervals:
        interval = _whole(value)
        if interval is None or not 0 < interval <= MAX_MS:
            raise IntervalError(
                f"interval {show(value)} is refused: it must be an int, milliseconds from 1 to {MAX_MS}."
            )
        if interval in checked:
            raise IntervalError(f"interval {interval} is refused: it is in the list twice.")
        checked.append(interval)
    if not checked:
        raise IntervalError("intervals is empty: give at least one, such as [60000].")
    return checked


# ---------------------------------------------------------------- batches


class _Batch:
    """Ticks read and checked; taking begins only when all is read."""

    def __init__(self, into: FastOHLC) -> None:
        self.into = into
        self.generation = into._generation
        self.fresh: dict[str, _Series] = {}
        self.ticks: list[_Tick] = []

    def series_of(self, symbol: object, where: str) -> _Series:
        """A symbol's series, a new one where need be."""
        text = _canonical(symbol)
        if text is None:
            raise symbol_error(symbol, where)
        series = self.into._texts.get(text) or self.fresh.get(text)
        if series is None:
            series = self.fresh[text] = _Series(text, len(self.into._levels), len(self.into._roots))
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
        held = ((columns.prices, _price), (columns.volumes, _volume), (columns.timestamps, _time))
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

    def column_series(self, columns: Columns, count: int) -> Sequence[_Series]:
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
    return _number(value, price_error, where)


def _volume(value: object, where: str) -> float:
    return _number(value, volume_error, where)


def _same_length(name: str, count: int, expected: int) -> None:
    if count != expected:
        raise TickError(f"{name} has {count} rows, prices has {expected}: they must be equal.")


_ABSENT = object()


class _Field:
    """A field name in both of its forms."""

    def __init__(self, argument: str, name: object) -> None:
        text = _canonical(name)
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


class _Reader(_Batch):
    """Reads the reply shapes of Redis clients."""

    def __init__(
        self, into: FastOHLC, price_field: object, volume_field: object, symbol_field: object, timestamp_field: object
    ) -> None:
        super().__init__(into)
        self.price = _Field("price_field", price_field)
        self.volume = None if volume_field is None else _Field("volume_field", volume_field)
        self.symbol = None if symbol_field is None else _Field("symbol_field", symbol_field)
        self.timestamp = None if timestamp_field is None else _Field("timestamp_field", timestamp_field)
        self.stream: object = None
        self.stream_series: _Series | None = None

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
            self.read_values(entry_id, partial(_Field.of, fields=fields, as_bytes=as_bytes))
            return

    def read_flat(self, entry_id: object, row: tuple[Any, ...]) -> None:
        """``(field, value, field, value)``; of two equal names the last counts, as in a dict."""
        if not row:
            return
        if len(row) % 2:
            raise TickError(f"entry {_id_text(entry_id)}: the fields {show(row)} are refused: a name has no value.")
        pairs = list(zip(row[-2::-2], row[::-2], strict=True))
        self.read_values(entry_id, lambda field: next((value for key, value in pairs if field.is_name(key)), _ABSENT))

    def read_values(self, entry_id: object, value_of: Callable[[_Field], Any]) -> None:
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

    def given(self, field: _Field, value_of: Callable[[_Field], Any], entry_id: object) -> Any:
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


# ---------------------------------------------------------------- reading a dump


class _Loader:
    """Reads a dump, and believes nothing of it."""

    def __init__(self, data: object) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise SnapshotError(f"{show(data)} is not a dump: give the bytes that dump() returned.")
        self.data = bytes(data)
        self.at = 0
        self.end = len(self.data) - 4
        if self.end < 0 or self.data[:6] != MAGIC:
            raise SnapshotError("These bytes are not a dump of an aggregator.")
        if U32.unpack_from(self.data, self.end)[0] != zlib.crc32(self.data[: self.end]):
            raise SnapshotError("The dump is damaged: its checksum does not fit.")
        _, version, self.max_candles, self.ticks, self.late, self.dropped, count = self.take(HEAD)
        if version != VERSION:
            raise SnapshotError(f"The dump has version {version}; this version reads {VERSION}.")
        self.intervals: list[int] = [self.take(I64)[0] for _ in range(count)]
        for number in (self.ticks, self.late, self.dropped):
            self.sure(0 <= number <= MAX_COUNT, "a count is out of range")

    def sure(self, holds: bool, why: str) -> None:
        if not holds:
            raise SnapshotError(f"The dump is damaged: {why}.")

    def raw(self, size: int) -> bytes:
        self.sure(size <= self.end - self.at, "it ends too early")
        self.at += size
        return self.data[self.at - size : self.at]

    def take(self, layout: struct.Struct) -> tuple[Any, ...]:
        return layout.unpack(self.raw(layout.size))

    def fill(self, into: FastOHLC) -> None:
        previous = b""
        for _ in range(self.take(U32)[0]):
            name = self.raw(self.take(U32)[0])
            text = _canonical(name)
            self.sure(text is not None and name > previous, "its symbols are not in order")
            assert text is not None
            previous = name
            series = _Series(text, len(into._levels), len(into._roots))
            for interval in self.intervals:
                at = into._level_of[interval]
                self.read_slot(into, into._levels[at], series.slots[at])
            for at in range(len(into._levels)):
                self.check_folding(into._levels, series, at)
            into._refresh_hots(series)
            into._adopt(series)
        self.sure(self.at == self.end, "it goes on behind its end")
        into._ticks, into._late, into._dropped = self.ticks, self.late, self.dropped

    def read_slot(self, into: FastOHLC, level: _Level, slot: _Slot) -> None:
        mark, pending, count = self.take(SLOT)
        candles = self.raw(count * CANDLE.size)
        self.sure(pending <= (count > 0), "a flag is wrong")
        self.sure(into._max_candles == 0 or count <= into._max_candles, "it holds more candles than its bound")
        self.sure(
            mark == NO_MARK or (-level.shift <= mark <= 2 * MAX_MS and (mark + level.shift) % level.interval == 0),
            "a watermark is wrong",
        )
        slot.mark = mark
        slot.pending = bool(pending)
        for values in CANDLE.iter_unpack(candles):
            candle = _Candle(0)
            candle.assign(*values)
            previous = slot.candles[-1].start if slot.candles else NO_MARK
            slot.candles.append(candle)
            self.check_candle(level, slot, candle, previous, len(slot.candles) == count)

    def check_candle(self, level: _Level, slot: _Slot, candle: _Candle, previous: int, newest: bool) -> None:
        self.sure(
            -level.shift <= candle.start <= MAX_MS
            and candle.start == level.align(candle.start)
            and candle.start >= slot.mark
            and candle.start > previous,
            "a candle is out of place",
        )
        if candle.count == 0:
            empty = CANDLE.pack(*_Candle(candle.start).values())
            self.sure(CANDLE.pack(*candle.values()) == empty, "a candle is wrong")
            self.sure(newest and level.source >= 0, "a candle is empty")
            return
        self.sure(
            0 < candle.count <= MAX_COUNT
            and max(candle.start, 0) <= candle.first <= candle.last <= MAX_MS
            and candle.last - candle.start < level.interval
            and -inf < candle.low <= candle.open <= candle.high < inf
            and candle.low <= candle.close <= candle.high
            and candle.volume >= 0.0,
            "a candle is wrong",
        )

    def check_folding(self, levels: list[_Level], series: _Series, at: int) -> None:
        """The invariants of ``fast.pyx``."""
        slot = series.slots[at]
        if not levels[at].dependents:
            self.sure(slot.pending == bool(slot.candles), "a flag is wrong")
        if slot.candles and slot.candles[-1].count == 0:
            self.sure(series.slots[levels[at].source].pending, "a candle is empty")
        for up in levels[at].dependents if slot.pending else ():
            above = series.slots[up]
            self.sure(
                bool(above.candles)
                and above.candles[-1].start == levels[up].align(slot.candles[-1].start)
                and above.pending,
                "its folding is wrong",
            )
