"""Ticks to candles in plain Python: what ``fast.pyx`` does, bit for bit, where no compiler was at hand.

``fast.pyx`` explains how candles fold, and its invariants. The rooms here are those of ``native/``, with the same
names and the same order of additions. Both read and write the same dumps and raise the same errors with the same text.
"""

from __future__ import annotations

import zlib
from math import inf
from typing import Any, Self

from streammachine.errors import SnapshotError
from streammachine.ohlc.candle_frame import candle_frame
from streammachine.ohlc.columns import columns_of
from streammachine.ohlc.reference.batches import ReplyReader, TickBatch
from streammachine.ohlc.reference.candles import CandleData
from streammachine.ohlc.reference.core import Core
from streammachine.ohlc.reference.dump import DumpLoader, dumped
from streammachine.ohlc.reference.layout import CANDLE, U32
from streammachine.ohlc.reference.values import before_of, number, time_of
from streammachine.ohlc.values import MAX_MS, price_error, volume_error

__all__ = ["CandleData", "FastOHLC"]


class FastOHLC(Core):
    """Turn ticks into candles for any number of symbols and intervals.

    Candles are half open, ``[start, start + interval)``, and aligned to the epoch; weeks (604,800,000 ms) begin on
    Monday. Open and close follow event time; of ticks at the same millisecond the first to arrive can be the open,
    the last the close. ``b"X"`` and ``"X"`` are one series.

    A flushed or dropped candle never comes back: later ticks for that time are *late*, counted in ``late_count``,
    and still enter the intervals that are not flushed so far.

    Not thread-safe, other than the native one: use one aggregator per thread, or a lock.

    Args:
        intervals: milliseconds; 60,000 and 300,000 when not given.
        max_candles: the most candles kept per symbol and interval; the oldest is dropped and counted in
            ``dropped_count``. 0 is no bound.

    Raises:
        IntervalError: no interval, one twice, or one that is no int from 1.
        SettingsError: ``max_candles`` is no int from 0.

    Example:
        >>> candles = FastOHLC([60_000])
        >>> candles.update_tick("BTC-USD", 50_000.0, 0.5, 1_700_000_000_000)
        >>> candles.get_candles("BTC-USD", 60_000)[0].close
        50000.0
    """

    # ------------------------------------------------------------ ticks in

    def update_tick(self, symbol: str | bytes, price: Any, volume: Any, timestamp_ms: Any) -> None:
        """Take one tick.

        Args:
            symbol: a non-empty str, or bytes in UTF-8.
            price: a finite number; it can be zero or negative (spreads).
            volume: a finite number, 0 or more.
            timestamp_ms: an int, epoch milliseconds from 0 to 9e15.

        Raises:
            TickError: a value is not usable (text for a number is not); nothing was changed.
        """
        if type(price) is not float or not -inf < price < inf:
            price = number(price, price_error)
        if type(volume) is not float or not 0.0 <= volume < inf:
            volume = number(volume, volume_error)
        if type(timestamp_ms) is not int or not 0 <= timestamp_ms <= MAX_MS:
            timestamp_ms = time_of(timestamp_ms)
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
        """Take the entries of a Redis reply, all of them or none.

        Args:
            entries: what XREAD, XREADGROUP or XRANGE gives: a dict of streams (coredis; redis-py with RESP3), a list
                of ``[stream, entries]``, or bare entries. An entry is ``(id, fields)``, its fields a dict or a flat
                list, bytes or str; None and empty are 0 ticks. Entries without fields (deleted ones) are passed over.
            price_field: the field that holds the price.
            volume_field: the field that holds the volume; None is a volume of 0.
            symbol_field: the field that holds the symbol; None is the stream's name.
            timestamp_field: the field that holds the time, whole epoch milliseconds of the years 2000 to 2100, a
                number or its text; None is the time of the entry's id.

        Returns:
            How many ticks were taken, late ones included.

        Raises:
            TickError: names the entry and the field that is refused; no tick was taken.
            SettingsError: a field's name is refused.
        """
        reader = ReplyReader(self, price_field, volume_field, symbol_field, timestamp_field)
        reader.read(entries)
        return reader.apply()

    def update_batch(self, symbols: Any, prices: Any = None, volumes: Any = None, timestamps: Any = None) -> int:
        """Take columns of ticks, all of them or none.

        Each column is a list, a NumPy array, a pandas or polars Series, or an Arrow array, all of one length. Arrays
        of float64 and int64 and text in Arrow's layout are read where they are.

        Args:
            symbols: a column, which can be categorical; one str or bytes for all rows; or, with no other argument, a
                pandas or polars DataFrame or an Arrow table with the columns symbol, price, volume and timestamp_ms.
            prices: finite numbers.
            volumes: finite numbers, 0 or more.
            timestamps: epoch milliseconds.

        Returns:
            How many ticks were taken, late ones included.

        Raises:
            TickError: names the first row that is refused; no tick was taken.
        """
        batch = TickBatch(self)
        batch.read_columns(columns_of(symbols, prices, volumes, timestamps))
        return batch.apply()

    # ------------------------------------------------------------ candles out

    def get_candles(self, symbol: str | bytes, interval: int) -> list[CandleData]:
        """All candles of a symbol and interval (ms), oldest first, the open one included.

        Returns:
            The candles; [] for a symbol that no tick came for.

        Raises:
            IntervalError: this aggregator does not have the interval.
        """
        at = self._level(interval)
        series = self._found(symbol)
        return [] if series is None else self._first_candles(series, at, len(series.slots[at].candles))

    def get_completed_candles(self, symbol: str | bytes, interval: int, before_timestamp: int = 0) -> list[CandleData]:
        """The candles that end at or before a time, oldest first.

        Args:
            symbol: as the ticks had it.
            interval: milliseconds.
            before_timestamp: epoch milliseconds; 0 is now by the wall clock. A replay passes the replayed time.

        Returns:
            The candles; [] for a symbol that no tick came for.

        Raises:
            IntervalError: this aggregator does not have the interval.
        """
        at = self._level(interval)
        before = before_of(before_timestamp)
        series = self._found(symbol)
        return [] if series is None else self._first_candles(series, at, self._complete(series, at, before))

    def get_candles_as_dicts(self, symbol: str | bytes, interval: int) -> list[dict[str, Any]]:
        """``get_candles`` with a dict for each candle."""
        return [candle.to_dict() for candle in self.get_candles(symbol, interval)]

    def candles_frame(self, symbol: str | bytes, interval: int, kind: str = "pandas") -> Any:
        """``get_candles`` as columns: a row per candle, made without an object for each.

        Args:
            symbol: as the ticks had it.
            interval: milliseconds.
            kind: "pandas" for a DataFrame, "polars" for one of polars, "arrow" for a ``pyarrow.Table``.

        Returns:
            The columns open, high, low, close, volume (float64), timestamp_ms, candle_start_ms, trade_count (int64);
            no rows for a symbol that no tick came for.

        Raises:
            IntervalError: this aggregator does not have the interval.
            SettingsError: there is no such kind, or its library is not installed.
        """
        return candle_frame(
            b"".join(
                CANDLE.pack(
                    c.open, c.high, c.low, c.close, c.volume, c.candle_start_ms, 0, c.timestamp_ms, c.trade_count
                )
                for c in self.get_candles(symbol, interval)
            ),
            kind,
        )

    def flush_interval(self, symbol: str | bytes, interval: int, before_timestamp: int = 0) -> int:
        """Remove the candles that ``get_completed_candles`` gives for the same arguments.

        The end of the last one removed is the watermark of this symbol and interval: older ticks are late from then
        on. Other intervals do not change.

        Returns:
            How many were removed.

        Raises:
            IntervalError: this aggregator does not have the interval.
        """
        at = self._level(interval)
        before = before_of(before_timestamp)
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
        body = dumped(self)
        return body + U32.pack(zlib.crc32(body))

    @classmethod
    def load(cls, data: bytes) -> Self:
        """A new aggregator with the state, intervals and bound that ``dump`` wrote.

        Raises:
            SnapshotError: the bytes are no undamaged dump of this version.
        """
        loader = DumpLoader(data)
        try:
            loaded = cls(loader.intervals, max_candles=loader.max_candles)
        except ValueError as error:
            raise SnapshotError(f"The dump is damaged: {error}") from None
        loader.fill(loaded)
        return loaded

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).load, (self.dump(),))
