# cython: language_level=3
# cython: wraparound=False
# cython: initializedcheck=False
# cython: cdivision=True
# cython: embedsignature=True
"""Ticks to candles, in C. ``reference/`` is the same in plain Python, bit for bit.

One extension module, written in rooms by subject: ``native/*.pxi``, included below, so that the compiler inlines
across them. Each says at its head which of the rooms before it are used; what they need of C and Python is named here.

How candles fold
    The intervals form trees: an interval takes its data from the largest smaller one that nests in it (its
    *source*); one without a source is a *root*. A tick touches only the newest candle of each root, and a
    compare with that candle's bounds is all it takes: no division. When a newer candle opens, the finished
    one is merged into its *dependents*, once.

    Every (symbol, interval) has one slot: candles ascending by start, and a watermark. The newest candle of a
    slot is *pending* while its dependents lack it. What a dependent shows for its newest candle is its stored
    part plus the pending candle of its source, added when somebody asks.

    Any other tick (out of order, or below a watermark) walks up the tree: it enters each slot's candle
    directly and stops behind a pending one, which carries it further when it folds.

Invariants
    1. Only a slot's newest candle can be pending; all dependents then have a candle for it, their newest.
    2. No interval above a pending candle has a watermark beyond that candle's start.
    3. A slot without dependents is pending exactly when it holds a candle.
    4. A stored candle without ticks is the newest of its slot, and its source is pending.
"""

cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_SIMPLE, PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport (
    PyBytes_AS_STRING, PyBytes_Check, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
)
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.dict cimport PyDict_GetItemWithError, PyDict_Next
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.mem cimport (
    PyMem_Free, PyMem_Malloc, PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc, PyMem_Realloc
)
from cpython.object cimport PyObject
from cpython.pythread cimport (
    PyThread_acquire_lock, PyThread_get_thread_ident, PyThread_release_lock, PyThread_type_lock, WAIT_LOCK
)
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from cpython.unicode cimport PyUnicode_Compare, PyUnicode_CheckExact, PyUnicode_DecodeUTF8
from libc.float cimport DBL_MAX
from libc.math cimport fabs, signbit
from libc.stdint cimport (
    INT32_MAX, INT64_MAX, INT64_MIN, int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
)
from libc.string cimport memchr, memcmp, memcpy, memmove, memset, strlen

cdef extern from "Python.h":
    # The same for values that nobody holds: no code runs, so none needs to.
    bint is_bytes "PyBytes_CheckExact"(PyObject* value)
    const char* bytes_data "PyBytes_AS_STRING"(PyObject* value)
    Py_ssize_t bytes_size "PyBytes_GET_SIZE"(PyObject* value)
    bint is_text "PyUnicode_CheckExact"(PyObject* value)
    bint is_ascii "PyUnicode_IS_COMPACT_ASCII"(PyObject* value)
    const char* text_data "(const char*)PyUnicode_DATA"(PyObject* value)
    Py_ssize_t text_size "PyUnicode_GET_LENGTH"(PyObject* value)
    double HUGE_VAL "Py_HUGE_VAL"
    char* PyOS_double_to_string(double number, char form, int precision, int flags, int* kind) except NULL
    int Py_DTSF_ADD_DOT_0
    PyThread_type_lock PyThread_allocate_lock() nogil
    void PyThread_free_lock(PyThread_type_lock lock) nogil
    unsigned long PyThread_start_new_thread(void (*work)(void*) noexcept nogil, void* argument) nogil

cdef extern from *:
    # A new thread begins on its maker's processor, where it waits until the system moves it, for longer than a batch
    # lasts. Linux can be told to keep it on the others. The maker holds it at a lock meanwhile, so it is alive.
    """
    #if defined(__linux__)
    #include <pthread.h>
    #include <sched.h>
    static void sm_elsewhere(unsigned long thread) {
        cpu_set_t others;
        int here = sched_getcpu();
        if (here < 0 || pthread_getaffinity_np(pthread_self(), sizeof others, &others) || !CPU_ISSET(here, &others))
            return;
        CPU_CLR(here, &others);
        if (CPU_COUNT(&others))
            (void)!pthread_setaffinity_np((pthread_t)thread, sizeof others, &others);
    }
    #else
    static void sm_elsewhere(unsigned long thread) { (void)thread; }
    #endif
    """
    void sm_elsewhere(unsigned long thread) nogil

import operator
import struct
import sys
import time
import zlib
from collections.abc import Mapping
from decimal import Decimal

from streammachine.errors import IntervalError, SettingsError, SnapshotError, TickError
from streammachine.ohlc import trade_rows as _trade_rows
from streammachine.ohlc import values as _values
from streammachine.ohlc.candle_frame import candle_frame
from streammachine.ohlc.columns import columns_of
from streammachine.ohlc.threads import stretches_for, threads_for
from streammachine.ohlc.values import (
    field_ms, field_number, field_time_error, price_error, show, symbol_error, time_error, volume_error
)

if sys.byteorder != "little":
    raise ImportError("streammachine.ohlc.fast writes its dumps from memory and needs a little-endian machine")

__all__ = ["CandleData", "FastOHLC", "SymbolCandles", "TickBook"]

include "native/layout.pxi"
include "native/candles.pxi"
include "native/values.pxi"
include "native/candle_data.pxi"
include "native/core.pxi"
include "native/runs.pxi"
include "native/parts.pxi"
include "native/stretches.pxi"
include "native/taking.pxi"
include "native/texts.pxi"
include "native/arrow.pxi"
include "native/stream_batch.pxi"
include "native/columns.pxi"
include "native/dump.pxi"
include "native/encoded.pxi"
include "native/tick_book.pxi"
include "native/trade_csv.pxi"


cdef int TRIES = 100  # of a batch, where other threads make symbols while it is read


cdef class FastOHLC(Core):
    """Turn ticks into candles for any number of symbols and intervals.

    Candles are half open, ``[start, start + interval)``, and aligned to the epoch; weeks (604,800,000 ms) begin on
    Monday. Open and close follow event time; of ticks at the same millisecond the first to arrive can be the open,
    the last the close. ``b"X"`` and ``"X"`` are one series.

    A flushed or dropped candle never comes back: later ticks for that time are *late*, counted in ``late_count``,
    and still enter the intervals that are not flushed so far.

    Calls from several threads come one after the other. A large ``update_batch`` lets other Python code run meanwhile
    and uses some threads of its own; who calls the same aggregator then waits until it is through.

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

    def update_tick(self, symbol, price, volume, timestamp_ms):
        """Take one tick.

        Args:
            symbol: a non-empty str, or bytes in UTF-8.
            price: a finite number; it can be zero or negative (spreads).
            volume: a finite number, 0 or more.
            timestamp_ms: an int, epoch milliseconds from 0 to 9e15.

        Raises:
            TickError: a value is not usable (text for a number is not); nothing was changed.
        """
        cdef bint good = True
        cdef double p, v
        cdef int64_t ms
        cdef Series* series
        p = price_of(price, &good)
        if not good:
            raise price_error(price)
        v = volume_of(volume, &good)
        if not good:
            raise volume_error(volume)
        ms = time_of(timestamp_ms, &good)
        if not good:
            raise time_error(timestamp_ms)
        series = self.known(symbol)
        if series is NULL or self._busy:
            series = self.ready(symbol)
        self.take(series, p, v, ms)

    def process_stream_batch(
        self, entries, price_field="price", volume_field="volume", symbol_field=None, timestamp_field=None
    ):
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
        cdef ReplyReader reader
        for left in range(TRIES - 1, -1, -1):
            reader = ReplyReader(self, price_field, volume_field, symbol_field, timestamp_field)
            reader.read(entries)
            try:
                return reader.apply()
            except ChangedElsewhere:
                if not left:
                    raise

    def update_batch(self, symbols, prices=None, volumes=None, timestamps=None):
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
        cdef ColumnReader columns
        for left in range(TRIES - 1, -1, -1):
            columns = ColumnReader(self)
            columns.read(symbols, prices, volumes, timestamps)
            try:
                return columns.apply()
            except ChangedElsewhere:
                if not left:
                    raise

    # ------------------------------------------------------------ candles out

    def get_candles(self, symbol, interval):
        """All candles of a symbol and interval (ms), oldest first, the open one included.

        Returns:
            The candles; [] for a symbol that no tick came for.

        Raises:
            IntervalError: this aggregator does not have the interval.
        """
        cdef Py_ssize_t at = self.level(interval)
        cdef Series* series = self.found(symbol)
        if series is NULL:
            return []
        return self.first_candles(series, at, series.slots[at].length)

    def get_completed_candles(self, symbol, interval, before_timestamp=0):
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
        cdef Py_ssize_t at = self.level(interval)
        cdef int64_t before = before_of(before_timestamp)
        cdef Series* series = self.found(symbol)
        if series is NULL:
            return []
        return self.first_candles(series, at, complete(&self.plan, series, at, before))

    def get_candles_as_dicts(self, symbol, interval):
        """``get_candles`` with a dict for each candle."""
        return [candle.to_dict() for candle in self.get_candles(symbol, interval)]

    def candles_frame(self, symbol, interval, kind="pandas"):
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
        cdef Py_ssize_t at = self.level(interval)
        cdef Series* series = self.found(symbol)
        return candle_frame(b"" if series is NULL else self.records(series, at), kind)

    def flush_interval(self, symbol, interval, before_timestamp=0):
        """Remove the candles that ``get_completed_candles`` gives for the same arguments.

        The end of the last one removed is the watermark of this symbol and interval: older ticks are late from then
        on. Other intervals do not change.

        Returns:
            How many were removed.

        Raises:
            IntervalError: this aggregator does not have the interval.
        """
        cdef Py_ssize_t at = self.level(interval)
        cdef int64_t before = before_of(before_timestamp)
        cdef Series* series = self.found(symbol)
        cdef Py_ssize_t count
        if series is NULL:
            return 0
        count = complete(&self.plan, series, at, before)
        flush_first(&self.plan, series, at, count)
        return count

    def clear(self):
        """Forget everything but the configuration: candles, watermarks, counts."""
        self.idle()
        self.changed()
        self.forget_aliases()
        self._texts.clear()
        self._bytes.clear()
        self._ticks = self._late = self.plan.dropped = 0

    def reset(self, symbol):
        """Forget one symbol's candles and watermarks; the counts stay. Returns whether the symbol was known."""
        cdef Series* series = self.found(symbol)
        cdef str text
        if series is NULL:
            return False
        self.changed()
        self.forget_aliases()
        text = canonical(symbol)
        del self._texts[text]
        del self._bytes[text.encode()]
        return True

    @property
    def tick_count(self):
        """How many ticks entered at least one interval."""
        return self._ticks

    @property
    def late_count(self):
        """How many ticks came too late for at least one interval."""
        return self._late

    @property
    def dropped_count(self):
        """How many candles ``max_candles`` dropped."""
        return self.plan.dropped

    @property
    def max_candles(self):
        """The most candles kept per symbol and interval; 0 is no bound."""
        return self.plan.max_candles

    @property
    def intervals(self):
        """The intervals in milliseconds, in the order given."""
        return list(self._intervals)

    @property
    def symbols(self):
        """The symbols seen, sorted."""
        return sorted(self._texts)

    def __repr__(self):
        return f"FastOHLC(intervals={self._intervals!r}, max_candles={self.plan.max_candles})"

    # ------------------------------------------------------------ dump and load

    def dump(self):
        """The whole state as bytes: the same state gives the same bytes, from either implementation.

        Little-endian: HEAD, the intervals (int64 each), the number of symbols, then per symbol, in UTF-8 order, its
        name and per interval SLOT and the candles ("<5d4q" each), and last the CRC-32 of all before.
        """
        cdef uint64_t generation
        cdef list names
        cdef bytes body
        while True:  # to sort them can run the garbage collector, and with it code that changes the series
            generation = self._generation
            names = sorted(self._bytes)
            self.idle()
            if generation == self._generation:
                break
        body = dumped(self, names)
        return body + U32.pack(zlib.crc32(body))

    @classmethod
    def load(cls, data):
        """A new aggregator with the state, intervals and bound that ``dump`` wrote.

        Raises:
            SnapshotError: the bytes are no undamaged dump of this version.
        """
        cdef FastOHLC loaded
        cdef DumpLoader loader = DumpLoader(data)
        try:
            loaded = cls(loader.intervals, max_candles=loader.max_candles)
        except ValueError as error:
            raise SnapshotError(f"The dump is damaged: {error}") from None
        loader.fill(loaded)
        return loaded

    def __reduce__(self):
        return (type(self).load, (self.dump(),))
