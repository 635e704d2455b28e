# cython: language_level=3
# cython: wraparound=False
# cython: initializedcheck=False
# cython: cdivision=True
# cython: embedsignature=True
"""Ticks to candles, in C. ``reference.py`` is the same in plain Python, bit for bit.

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
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport (
    PyBytes_AS_STRING, PyBytes_Check, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
)
from cpython.dict cimport PyDict_GetItemWithError, PyDict_Next
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from cpython.unicode cimport PyUnicode_Compare, PyUnicode_CheckExact, PyUnicode_DecodeUTF8
from libc.float cimport DBL_MAX
from libc.math cimport fabs
from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset

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

import operator
import struct
import sys
import time
import zlib
from collections.abc import Mapping

from streammachine.errors import IntervalError, SettingsError, SnapshotError, TickError
from streammachine.ohlc import values as _values
from streammachine.ohlc.columns import columns_of
from streammachine.ohlc.values import (
    field_ms, field_number, field_time_error, price_error, show, symbol_error, time_error, volume_error
)

if sys.byteorder != "little":
    raise ImportError("streammachine.ohlc.fast writes its dumps from memory and needs a little-endian machine")

__all__ = ["CandleData", "FastOHLC"]

cdef extern from *:  # as values.py has them; constants for the compiler
    """
    #define SM_MAX_MS 9000000000000000LL
    #define SM_EARLIEST_MS 946684800000LL
    #define SM_LATEST_MS 4133980799999LL
    #define SM_MAX_COUNT (1LL << 53)
    """
    const int64_t MAX_MS "SM_MAX_MS"
    const int64_t EARLIEST_MS "SM_EARLIEST_MS"
    const int64_t LATEST_MS "SM_LATEST_MS"
    const int64_t MAX_COUNT "SM_MAX_COUNT"

assert (MAX_MS, EARLIEST_MS, LATEST_MS, MAX_COUNT) == (
    _values.MAX_MS, _values.EARLIEST_MS, _values.LATEST_MS, _values.MAX_COUNT
)

cdef int MAX_NESTING = _values.MAX_NESTING
cdef int64_t WEEK_MS = 604_800_000
cdef int64_t MONDAY_SHIFT_MS = 259_200_000  # epoch day 0 is a Thursday, three days into a week
cdef int64_t NO_MARK = INT64_MIN

cdef enum:
    ALIASES = 512  # a power of two; bounds the symbol objects remembered by identity

MAGIC = b"SMOHLC"
VERSION = 1
HEAD = struct.Struct("<6sHqqqqI")  # magic, version, max_candles, tick, late and dropped counts, intervals
SLOT = struct.Struct("<qBI")  # watermark, pending, candles
I64 = struct.Struct("<q")
U32 = struct.Struct("<I")

cdef bytes MAGIC_BYTES = MAGIC
cdef enum:
    HEAD_SIZE = 44
    SLOT_SIZE = 13
assert HEAD.size == HEAD_SIZE and SLOT.size == SLOT_SIZE


cdef inline char* put(char* end, const void* data, size_t size) noexcept:
    memcpy(end, data, size)
    return end + size


cdef inline char* put_u16(char* end, uint16_t number) noexcept:
    return put(end, &number, 2)


cdef inline char* put_u32(char* end, uint32_t number) noexcept:
    return put(end, &number, 4)


cdef inline char* put_i64(char* end, int64_t number) noexcept:
    return put(end, &number, 8)


# ---------------------------------------------------------------- candles and slots

cdef struct Candle:  # the dump writes it as it lies in memory: "<5d4q"
    double open
    double high
    double low
    double close
    double volume
    int64_t start
    int64_t first  # event time of the tick that gave open
    int64_t last  # event time of the tick that gave close
    int64_t count

cdef struct Slot:
    Candle* data  # the candles are data[head : head + length]
    Py_ssize_t head
    Py_ssize_t length
    Py_ssize_t capacity
    int64_t mark
    bint pending

cdef struct Hot:  # the bounds within which a tick needs nothing but its root's newest candle
    Candle* candle
    int64_t start
    uint64_t width  # 0: no tick is within

cdef struct Series:
    Hot* hots
    Slot* slots

cdef struct Level:
    int64_t interval
    int64_t shift
    Py_ssize_t source  # -1: a root
    Py_ssize_t first  # the first dependent, -1: none
    Py_ssize_t next  # the next dependent of the same source, -1: none

cdef struct Plan:
    Level* levels
    Py_ssize_t count
    Py_ssize_t* roots
    Py_ssize_t root_count
    int64_t max_candles
    int64_t dropped

cdef struct Tick:
    Series* series
    double price
    double volume
    int64_t ms

cdef struct Alias:
    PyObject* key  # owned
    Series* series

cdef enum:
    ACCEPTED = 1
    LATE = 2


cdef inline void add_tick(Candle* candle, double price, double volume, int64_t ms) noexcept:
    candle.count += 1
    candle.volume += volume
    if price > candle.high:
        candle.high = price
    if price < candle.low:
        candle.low = price
    if ms >= candle.last:
        candle.last = ms
        candle.close = price
    if ms < candle.first:
        candle.first = ms
        candle.open = price


cdef inline void merge(Candle* into, const Candle* child) noexcept:
    into.count += child.count
    into.volume += child.volume
    if child.high > into.high:
        into.high = child.high
    if child.low < into.low:
        into.low = child.low
    if child.last >= into.last:
        into.last = child.last
        into.close = child.close
    if child.first < into.first:
        into.first = child.first
        into.open = child.open


cdef inline void blank(Candle* candle, int64_t start) noexcept:
    candle.open = candle.close = candle.volume = 0.0
    candle.high = -HUGE_VAL
    candle.low = HUGE_VAL
    candle.start = start
    candle.first = INT64_MAX
    candle.last = INT64_MIN
    candle.count = 0


cdef inline int64_t align(const Level* level, int64_t ms) noexcept:
    return ms - (ms + level.shift) % level.interval


cdef inline Candle* newest(Slot* slot) noexcept:
    return slot.data + slot.head + slot.length - 1


cdef Py_ssize_t position(Slot* slot, int64_t start) noexcept:
    """The index of the first candle that starts at ``start`` or later."""
    cdef Candle* candles = slot.data + slot.head
    cdef Py_ssize_t low = 0, high = slot.length, middle
    while low < high:
        middle = (low + high) >> 1
        if candles[middle].start < start:
            low = middle + 1
        else:
            high = middle
    return low


cdef int resize(Slot* slot, Py_ssize_t capacity) except -1:
    cdef void* data
    if capacity > (<Py_ssize_t>1 << 56) // <Py_ssize_t>sizeof(Candle):
        raise MemoryError
    data = PyMem_Realloc(slot.data, capacity * sizeof(Candle))
    if data is NULL:
        raise MemoryError
    slot.data = <Candle*>data
    slot.capacity = capacity
    return 0


cdef inline void compact(Slot* slot) noexcept:
    if slot.head:
        memmove(slot.data, slot.data + slot.head, slot.length * sizeof(Candle))
        slot.head = 0


cdef int make_room(Slot* slot) except -1:
    """One free place behind the newest candle: move down where a quarter is free, else double."""
    if slot.head + slot.length < slot.capacity:
        return 0
    if slot.head and slot.head * 4 >= slot.capacity:
        compact(slot)
        return 0
    resize(slot, slot.capacity * 2 if slot.capacity else 8)
    return 0


cdef int shrink(Slot* slot) except -1:
    if slot.capacity > 64 and slot.length * 4 < slot.capacity:
        compact(slot)
        resize(slot, max(8, slot.length * 2))
    return 0


cdef inline void drop_oldest(Plan* plan, Py_ssize_t at, Slot* slot) noexcept:
    cdef int64_t end = slot.data[slot.head].start + plan.levels[at].interval
    slot.head += 1
    slot.length -= 1
    plan.dropped += 1
    if end > slot.mark:
        slot.mark = end


# ---------------------------------------------------------------- folding

cdef void fold(Plan* plan, Series* series, Py_ssize_t at) noexcept:
    """Merge the newest candle of a slot into its dependents, where it is pending."""
    cdef Slot* slot = &series.slots[at]
    cdef Py_ssize_t up = plan.levels[at].first
    if not slot.pending:
        return
    slot.pending = False
    while up >= 0:
        merge(newest(&series.slots[up]), newest(slot))
        up = plan.levels[up].next


cdef void settle(Plan* plan, Series* series, Py_ssize_t at) noexcept:
    """Fold a slot's newest candle with all that its own sources still hold back."""
    if plan.levels[at].source >= 0:
        settle(plan, series, plan.levels[at].source)
    fold(plan, series, at)


cdef bint may_wait(Plan* plan, Series* series, Py_ssize_t at, int64_t start) noexcept:
    """Whether a new candle can be pending: everything above will take it as, or into, its newest candle."""
    cdef Py_ssize_t up = plan.levels[at].first
    cdef Slot* slot
    while up >= 0:
        slot = &series.slots[up]
        if slot.mark > start:
            return False
        if slot.length and newest(slot).start > align(&plan.levels[up], start):
            return False
        if not may_wait(plan, series, up, start):
            return False
        up = plan.levels[up].next
    return True


cdef int open_candle(Plan* plan, Series* series, Py_ssize_t at, int64_t start, bint pending) except -1:
    """Append an empty candle, newer than all of the slot; where pending, its dependents get theirs."""
    cdef Slot* slot = &series.slots[at]
    cdef Slot* above
    cdef Py_ssize_t up
    cdef int64_t up_start
    make_room(slot)
    fold(plan, series, at)
    slot.length += 1
    blank(newest(slot), start)
    slot.pending = pending
    if plan.max_candles and slot.length > plan.max_candles:
        drop_oldest(plan, at, slot)
    if pending:
        up = plan.levels[at].first
        while up >= 0:
            above = &series.slots[up]
            up_start = align(&plan.levels[up], start)
            if above.length == 0 or newest(above).start < up_start:
                open_candle(plan, series, up, up_start, True)
            up = plan.levels[up].next
    return 0


cdef int walk(Plan* plan, Series* series, Py_ssize_t at, double price, double volume, int64_t ms) except -1:
    """Bring a tick into a slot and, unless a pending candle carries it there later, into all above."""
    cdef Slot* slot = &series.slots[at]
    cdef Level* level = &plan.levels[at]
    cdef Py_ssize_t up, index
    cdef int64_t start
    cdef Candle* candle
    cdef int result = ACCEPTED
    if ms < slot.mark:
        result = LATE
    else:
        start = align(level, ms)
        if slot.length == 0 or newest(slot).start < start:
            open_candle(plan, series, at, start, may_wait(plan, series, at, start))
            add_tick(newest(slot), price, volume, ms)
            if slot.pending:
                return ACCEPTED
        else:
            index = position(slot, start)
            candle = slot.data + slot.head + index
            if candle.start == start:
                add_tick(candle, price, volume, ms)
                if slot.pending and index == slot.length - 1:
                    return ACCEPTED
            else:
                make_room(slot)
                candle = slot.data + slot.head + index
                memmove(candle + 1, candle, (slot.length - index) * sizeof(Candle))
                slot.length += 1
                blank(candle, start)
                add_tick(candle, price, volume, ms)
                if plan.max_candles and slot.length > plan.max_candles:
                    drop_oldest(plan, at, slot)
    up = level.first
    while up >= 0:
        result |= walk(plan, series, up, price, volume, ms)
        up = plan.levels[up].next
    return result


cdef void refresh_hots(Plan* plan, Series* series) noexcept:
    cdef Py_ssize_t k
    cdef Slot* slot
    for k in range(plan.root_count):
        slot = &series.slots[plan.roots[k]]
        if slot.pending:
            series.hots[k].candle = newest(slot)
            series.hots[k].start = newest(slot).start
            series.hots[k].width = <uint64_t>plan.levels[plan.roots[k]].interval
        else:
            series.hots[k].width = 0


cdef void newest_view(Plan* plan, Series* series, Py_ssize_t at, Candle* out) noexcept:
    """The newest candle of a slot as it stands, with what its sources hold back."""
    cdef Py_ssize_t source = plan.levels[at].source
    cdef Candle child
    out[0] = newest(&series.slots[at])[0]
    if source >= 0 and series.slots[source].pending:
        newest_view(plan, series, source, &child)
        merge(out, &child)


cdef Py_ssize_t complete(Plan* plan, Series* series, Py_ssize_t at, int64_t before) noexcept:
    """How many candles of a slot end at or before a time."""
    cdef Slot* slot = &series.slots[at]
    cdef int64_t interval = plan.levels[at].interval
    if before < INT64_MIN + interval:
        return 0
    if before == INT64_MAX:
        return slot.length
    return position(slot, before - interval + 1)


# ---------------------------------------------------------------- values from outside

cdef str canonical(object symbol):
    """The symbol as an exact ``str``, or None where it is refused. No code of a subclass runs."""
    cdef str text
    try:
        if isinstance(symbol, str):
            text = symbol if PyUnicode_CheckExact(symbol) else str.__str__(symbol)
            text.encode()
        elif isinstance(symbol, bytes):
            text = PyUnicode_DecodeUTF8(PyBytes_AS_STRING(symbol), PyBytes_GET_SIZE(symbol), NULL)
        else:
            return None
    except UnicodeError:
        return None
    return text or None


cdef object number(object value):
    """A number as a float, or None: text is not a number here."""
    if isinstance(value, (str, bytes, bytearray)):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


cdef object whole(object value):
    """An integer (NumPy's too) as an int, or None: a bool or a float is none."""
    if isinstance(value, bool):
        return None
    try:
        value = operator.index(value)
    except TypeError:
        return None
    return value if PyLong_CheckExact(value) else int.__pos__(value)  # an enum's member as a plain int


cdef inline double price_of(object value, bint* good) except? -1.0:
    cdef double price
    cdef object converted
    if PyFloat_CheckExact(value):
        price = PyFloat_AS_DOUBLE(value)
    else:
        converted = number(value)
        if converted is None:
            good[0] = False
            return 0.0
        price = converted
    good[0] = fabs(price) <= DBL_MAX
    return price


cdef inline double volume_of(object value, bint* good) except? -1.0:
    cdef double volume = price_of(value, good)
    good[0] = good[0] and volume >= 0.0
    return volume


cdef inline int64_t time_of(object value, bint* good) except? -1:
    cdef int overflow = 0
    cdef int64_t ms
    if not PyLong_CheckExact(value):
        value = whole(value)
        if value is None:
            good[0] = False
            return 0
    ms = PyLong_AsLongLongAndOverflow(value, &overflow)
    good[0] = overflow == 0 and 0 <= ms <= MAX_MS
    return ms


cdef int64_t before_of(object value) except? -1:
    """A ``before_timestamp``: 0 is now, beyond 64 bits is as far as time goes."""
    cdef int overflow = 0
    cdef int64_t ms
    cdef object plain = whole(value)
    if plain is None:
        raise TickError(f"before_timestamp {show(value)} is refused: it must be an int, epoch milliseconds; 0 is now.")
    ms = PyLong_AsLongLongAndOverflow(plain, &overflow)
    if overflow:
        return INT64_MAX if overflow > 0 else INT64_MIN
    if ms == 0:
        return time.time_ns() // 1_000_000
    return ms


cdef double[20] POWERS
cdef int _power
for _power in range(20):
    POWERS[_power] = float("1e" + str(_power))


cdef inline bint quick_double(const char* text, Py_ssize_t size, double* out) noexcept:
    """Plain decimals, exactly as ``float()``: both the digits (up to 2**53) and the power of ten (up to 1e22) are
    doubles without error, so one division rounds once (Clinger 1990). Anything else is left to ``float()``.
    """
    cdef uint64_t digits = 0
    cdef Py_ssize_t at = 0, seen = 0, fraction = 0
    cdef bint negative = False, point = False
    cdef unsigned char c
    cdef double value
    if size <= 0 or size > 20:
        return False
    if text[0] == c'-':
        negative = True
        at = 1
    if size - at > 19:
        return False
    while at < size:
        c = <unsigned char>text[at]
        at += 1
        if c'0' <= c <= c'9':
            digits = digits * 10 + (c - c'0')
            seen += 1
            fraction += point
        elif c == c'.' and not point:
            point = True
        else:
            return False
    if seen == 0 or digits > (<uint64_t>1 << 53):
        return False
    value = <double>digits
    if fraction:
        value /= POWERS[fraction]
    out[0] = -value if negative else value
    return True


cdef inline bint text_of(PyObject* value, const char** text, Py_ssize_t* size) noexcept:
    if is_bytes(value):
        text[0] = bytes_data(value)
        size[0] = bytes_size(value)
        return True
    if is_text(value) and is_ascii(value):
        text[0] = text_data(value)
        size[0] = text_size(value)
        return True
    return False


cdef object plain_text(object value):
    """A str or bytes of a subclass as a plain one; anything else as it is."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes):
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    return value


cdef inline int64_t digits_ms(const char* text, Py_ssize_t size, bint stream_id) noexcept:
    """Milliseconds from digits, in a stream id with ``-seq`` behind them; -1 where the text is something else."""
    cdef int64_t ms = 0
    cdef Py_ssize_t at = 0
    while at < size and c'0' <= text[at] <= c'9':
        if at == 18:
            return -1
        ms = ms * 10 + (text[at] - c'0')
        at += 1
    if at == 0:
        return -1
    if at == size:
        return ms
    if not stream_id or text[at] != c'-' or at + 1 == size:
        return -1
    at += 1
    while at < size:
        if not c'0' <= text[at] <= c'9':
            return -1
        at += 1
    return ms


# ---------------------------------------------------------------- what Python sees

@cython.freelist(512)
cdef class CandleData:
    """One candle: what a (symbol, interval) holds for ``[candle_start_ms, candle_start_ms + interval)``.

    A value, not a view: it does not change when further ticks arrive. ``timestamp_ms`` is the event time of the
    last tick (epoch milliseconds), the one that gave ``close``.
    """

    cdef readonly double open
    cdef readonly double high
    cdef readonly double low
    cdef readonly double close
    cdef readonly double volume
    cdef readonly int64_t timestamp_ms
    cdef readonly int64_t candle_start_ms
    cdef readonly int64_t trade_count

    def __init__(
        self,
        double open,
        double high,
        double low,
        double close,
        double volume=0.0,
        int64_t timestamp_ms=0,
        int64_t candle_start_ms=0,
        int64_t trade_count=0,
    ):
        self.open = open
        self.high = high
        self.low = low
        self.close = close
        self.volume = volume
        self.timestamp_ms = timestamp_ms
        self.candle_start_ms = candle_start_ms
        self.trade_count = trade_count

    cdef tuple values(self):
        return (
            self.open,
            self.high,
            self.low,
            self.close,
            self.volume,
            self.timestamp_ms,
            self.candle_start_ms,
            self.trade_count,
        )

    def to_dict(self):
        """The eight values by name."""
        return {
            "open": self.open,
            "high": self.high,
            "low": self.low,
            "close": self.close,
            "volume": self.volume,
            "timestamp_ms": self.timestamp_ms,
            "candle_start_ms": self.candle_start_ms,
            "trade_count": self.trade_count,
        }

    def __eq__(self, other):
        if not isinstance(other, CandleData):
            return NotImplemented
        return self.values() == (<CandleData>other).values()

    def __hash__(self):
        return hash(self.values())

    def __repr__(self):
        return (
            f"CandleData(open={self.open!r}, high={self.high!r}, low={self.low!r}, close={self.close!r}, "
            f"volume={self.volume!r}, timestamp_ms={self.timestamp_ms!r}, "
            f"candle_start_ms={self.candle_start_ms!r}, trade_count={self.trade_count!r})"
        )

    def __reduce__(self):
        return (CandleData, self.values())


cdef CandleData candle_data(const Candle* candle):
    cdef CandleData data = CandleData.__new__(CandleData)
    data.open = candle.open
    data.high = candle.high
    data.low = candle.low
    data.close = candle.close
    data.volume = candle.volume
    data.timestamp_ms = candle.last
    data.candle_start_ms = candle.start
    data.trade_count = candle.count
    return data


@cython.final
@cython.no_gc
cdef class Symbol:
    """Owns the memory of one symbol's series."""

    cdef Series series
    cdef Py_ssize_t count
    cdef str name

    @staticmethod
    cdef Symbol make(Plan* plan, str name):
        cdef Symbol symbol = Symbol.__new__(Symbol)
        cdef Py_ssize_t at
        symbol.name = name
        symbol.series.hots = <Hot*>PyMem_Malloc(plan.root_count * sizeof(Hot))
        symbol.series.slots = <Slot*>PyMem_Malloc(plan.count * sizeof(Slot))
        if symbol.series.hots is NULL or symbol.series.slots is NULL:
            raise MemoryError
        memset(symbol.series.hots, 0, plan.root_count * sizeof(Hot))
        memset(symbol.series.slots, 0, plan.count * sizeof(Slot))
        symbol.count = plan.count
        for at in range(plan.count):
            symbol.series.slots[at].mark = NO_MARK
        return symbol

    def __dealloc__(self):
        cdef Py_ssize_t at
        for at in range(self.count):
            PyMem_Free(self.series.slots[at].data)
        PyMem_Free(self.series.slots)
        PyMem_Free(self.series.hots)


def _checked_intervals(intervals):
    cdef list checked = []
    if intervals is None:
        return [60_000, 300_000]
    if isinstance(intervals, (str, bytes)) or not hasattr(intervals, "__iter__"):
        raise IntervalError(f"intervals {show(intervals)} is refused: give a list of milliseconds, such as [60000].")
    for value in intervals:
        interval = whole(value)
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


def _shift(interval):
    return MONDAY_SHIFT_MS if interval == WEEK_MS else 0


def _nests(child, parent):
    return parent % child == 0 and (_shift(parent) - _shift(child)) % child == 0


cdef class FastOHLC:
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

    cdef Plan plan
    cdef list _intervals
    cdef dict _levels  # interval -> index of its level
    cdef dict _texts  # str -> Symbol
    cdef dict _bytes  # bytes -> Symbol: a dict of its own, since b"X" and "X" hash alike and compare slowly
    cdef int64_t _ticks
    cdef int64_t _late
    cdef uint64_t _generation  # changes when a series comes or goes
    cdef Alias[ALIASES] _aliases
    cdef object __weakref__

    def __cinit__(self, intervals=None, max_candles=0):
        cdef Py_ssize_t at, child
        cdef list ordered
        self._intervals = _checked_intervals(intervals)
        bound = whole(max_candles)
        if bound is None or not 0 <= bound <= MAX_MS:
            raise SettingsError(
                f"max_candles {show(max_candles)} is refused: it must be an int, 0 (no bound) or more."
            )
        ordered = sorted(self._intervals)
        self.plan.max_candles = bound
        self.plan.count = len(ordered)
        self.plan.levels = <Level*>PyMem_Malloc(len(ordered) * sizeof(Level))
        self.plan.roots = <Py_ssize_t*>PyMem_Malloc(len(ordered) * sizeof(Py_ssize_t))
        if self.plan.levels is NULL or self.plan.roots is NULL:
            raise MemoryError
        for at in range(self.plan.count - 1, -1, -1):
            self.plan.levels[at] = Level(ordered[at], _shift(ordered[at]), -1, -1, -1)
        for at in range(self.plan.count - 1, -1, -1):
            for child in range(at - 1, -1, -1):
                if _nests(ordered[child], ordered[at]):
                    self.plan.levels[at].source = child
                    self.plan.levels[at].next = self.plan.levels[child].first
                    self.plan.levels[child].first = at
                    break
        for at in range(self.plan.count):
            if self.plan.levels[at].source < 0:
                self.plan.roots[self.plan.root_count] = at
                self.plan.root_count += 1
        self._levels = {interval: at for at, interval in enumerate(ordered)}
        self._texts = {}
        self._bytes = {}

    def __dealloc__(self):
        self.forget_aliases()
        PyMem_Free(self.plan.levels)
        PyMem_Free(self.plan.roots)

    # ------------------------------------------------------------ ticks in

    def update_tick(self, symbol, price, volume, timestamp_ms):
        """Take one tick: ``price`` and ``volume`` are numbers, ``timestamp_ms`` an int (epoch milliseconds).

        A price can be zero or negative (spreads). Raises TickError, and changes nothing, for a value that is not
        usable: NaN, an infinity, a negative volume, text for a number, a time outside 0 to 9e15.
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
        if series is NULL:
            series = self.create(symbol)
        self.take(series, p, v, ms)

    def process_stream_batch(
        self, entries, price_field="price", volume_field="volume", symbol_field=None, timestamp_field=None
    ):
        """Take the entries of a Redis reply, all of them or none. Returns how many (late ones are counted too).

        ``entries`` is what XREAD, XREADGROUP or XRANGE gives: a dict of streams (coredis; redis-py with RESP3), a
        list of ``[stream, entries]``, or bare entries; an entry is ``(id, fields)``, its fields a dict or a flat
        list; bytes or str; None and empty are 0. Entries without fields (deleted ones) are passed over.

        The symbol is ``symbol_field``'s value, or the stream's name; the time is ``timestamp_field``'s value (whole
        epoch milliseconds of the years 2000 to 2100, a number or its text), or the id's; ``volume_field=None``
        means a volume of 0. Raises TickError naming entry and field.
        """
        cdef Reader reader
        reader = Reader(self, price_field, volume_field, symbol_field, timestamp_field)
        reader.read(entries)
        return reader.apply()

    def update_batch(self, symbols, prices=None, volumes=None, timestamps=None):
        """Take columns of ticks, all of them or none. Returns how many (late ones are counted too).

        Each column is a list, a NumPy array or a pandas Series, all of one length; ``symbols`` can be one str or
        bytes for all rows, or categorical. Or pass one DataFrame with the columns symbol, price, volume and
        timestamp_ms. Raises TickError naming the first bad row.
        """
        cdef Columns columns = Columns(self)
        columns.read(symbols, prices, volumes, timestamps)
        return columns.apply()

    # ------------------------------------------------------------ candles out

    def get_candles(self, symbol, interval):
        """All candles of a symbol and interval (ms), oldest first, the running one included; [] for a new symbol.

        Raises IntervalError for an interval that this aggregator does not have.
        """
        cdef Py_ssize_t at = self.level(interval)
        cdef Series* series = self.found(symbol)
        if series is NULL:
            return []
        return self.first_candles(series, at, series.slots[at].length)

    def get_completed_candles(self, symbol, interval, before_timestamp=0):
        """The candles that end at or before ``before_timestamp`` (epoch ms; 0 is now by the wall clock), oldest first.

        A replay passes the replayed time. Raises IntervalError for an interval that this aggregator does not have.
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

    def flush_interval(self, symbol, interval, before_timestamp=0):
        """Remove the candles that ``get_completed_candles`` gives for the same arguments. Returns how many.

        The end of the last one removed is the watermark of this symbol and interval: older ticks are late from then
        on. Other intervals do not change.
        """
        cdef Py_ssize_t at = self.level(interval)
        cdef int64_t before = before_of(before_timestamp)
        cdef Series* series = self.found(symbol)
        cdef Slot* slot
        cdef Py_ssize_t count
        if series is NULL:
            return 0
        slot = &series.slots[at]
        count = complete(&self.plan, series, at, before)
        if count == 0:
            return 0
        if count == slot.length:
            settle(&self.plan, series, at)
        slot.mark = slot.data[slot.head + count - 1].start + self.plan.levels[at].interval
        slot.head += count
        slot.length -= count
        try:
            shrink(slot)
        finally:
            refresh_hots(&self.plan, series)
        return count

    def clear(self):
        """Forget everything but the configuration: candles, watermarks, counts."""
        self._generation += 1
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
        self._generation += 1
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
            if generation == self._generation:
                break
        body = self.dumped(names)
        return body + U32.pack(zlib.crc32(body))

    @classmethod
    def load(cls, data):
        """A new aggregator with the state, intervals and bound that ``dump`` wrote.

        Raises SnapshotError for anything else than an undamaged dump of this version.
        """
        cdef FastOHLC loaded
        cdef Loader loader = Loader(data)
        try:
            loaded = cls(loader.intervals, max_candles=loader.max_candles)
        except ValueError as error:
            raise SnapshotError(f"The dump is damaged: {error}") from None
        loader.fill(loaded)
        return loaded

    def __reduce__(self):
        return (type(self).load, (self.dump(),))

    # ------------------------------------------------------------ inside

    @cython.final
    cdef inline int take(self, Series* series, double price, double volume, int64_t ms) except -1:
        """One checked tick. Nothing in here runs Python code."""
        cdef Py_ssize_t k
        for k in range(self.plan.root_count):
            if <uint64_t>(ms - series.hots[k].start) >= series.hots[k].width:
                return self.take_slowly(series, price, volume, ms)
        for k in range(self.plan.root_count):
            add_tick(series.hots[k].candle, price, volume, ms)
        self._ticks += 1
        return 0

    @cython.final
    cdef int take_slowly(self, Series* series, double price, double volume, int64_t ms) except -1:
        cdef Py_ssize_t k
        cdef int result = 0
        try:
            for k in range(self.plan.root_count):
                result |= walk(&self.plan, series, self.plan.roots[k], price, volume, ms)
        finally:
            refresh_hots(&self.plan, series)
        self._ticks += (result & ACCEPTED) != 0
        self._late += (result & LATE) != 0
        return 0

    @cython.final
    cdef inline Series* known(self, object symbol) except? NULL:
        """The series of a symbol, NULL where there is none yet."""
        cdef PyObject* key = <PyObject*>symbol
        cdef size_t at = ((<size_t>key >> 4) ^ (<size_t>key >> 13)) & (ALIASES - 1)
        if self._aliases[at].key == key:
            return self._aliases[at].series
        if self._aliases[at ^ 1].key == key:
            return self._aliases[at ^ 1].series
        return self.looked_up(symbol, at)

    @cython.final
    cdef Series* looked_up(self, object symbol, size_t at) except? NULL:
        cdef Series* series = self.valued(symbol)
        cdef Alias* alias
        if series is not NULL and (PyUnicode_CheckExact(symbol) or PyBytes_CheckExact(symbol)):
            alias = &self._aliases[at ^ 1]
            Py_XDECREF(alias.key)
            alias[0] = self._aliases[at]
            alias = &self._aliases[at]
            Py_INCREF(symbol)
            alias.key = <PyObject*>symbol
            alias.series = series
        return series

    @cython.final
    cdef Series* valued(self, object symbol) except? NULL:
        """The same by the symbol's value, for objects that are not seen again."""
        cdef PyObject* entry
        if PyBytes_CheckExact(symbol):
            entry = PyDict_GetItemWithError(self._bytes, symbol)
        else:
            if not PyUnicode_CheckExact(symbol):
                symbol = canonical(symbol)
                if symbol is None:
                    return NULL
            entry = PyDict_GetItemWithError(self._texts, symbol)
        return NULL if entry is NULL else &(<Symbol>entry).series

    @cython.final
    cdef Series* create(self, object symbol) except NULL:
        cdef str name = canonical(symbol)
        cdef Symbol made
        if name is None:
            raise symbol_error(symbol)
        made = Symbol.make(&self.plan, name)
        self.adopt(made)
        return &made.series

    @cython.final
    cdef int adopt(self, Symbol symbol) except -1:
        cdef bytes name = symbol.name.encode()
        self._generation += 1
        if symbol.name in self._texts:  # load() of a subclass can give an aggregator that is not new
            self.forget_aliases()
        self._texts[symbol.name] = symbol
        self._bytes[name] = symbol
        return 0

    @cython.final
    cdef Series* found(self, object symbol) except? NULL:
        cdef Series* series = self.known(symbol)
        if series is NULL and canonical(symbol) is None:
            raise symbol_error(symbol)
        return series

    @cython.final
    cdef Py_ssize_t level(self, object interval) except -1:
        plain = whole(interval)
        if plain is None or plain not in self._levels:
            raise IntervalError(f"interval {show(interval)} is not one of this aggregator's: {self._intervals}.")
        return self._levels[plain]

    @cython.final
    cdef list first_candles(self, Series* series, Py_ssize_t at, Py_ssize_t count):
        """Copies, then objects: to make one can run the garbage collector, and with it code that changes the series."""
        cdef Slot* slot = &series.slots[at]
        cdef Candle* copies
        cdef Py_ssize_t k
        if count == 0:
            return []
        copies = <Candle*>PyMem_Malloc(count * sizeof(Candle))
        if copies is NULL:
            raise MemoryError
        try:
            memcpy(copies, slot.data + slot.head, count * sizeof(Candle))
            if count == slot.length:
                newest_view(&self.plan, series, at, &copies[count - 1])
            return [candle_data(&copies[k]) for k in range(count)]
        finally:
            PyMem_Free(copies)

    @cython.final
    cdef bytes dumped(self, list names):
        """A dump without its checksum. Nothing in here runs Python code, or makes what the garbage collector counts."""
        cdef Py_ssize_t size = HEAD_SIZE + 8 * self.plan.count + 4
        cdef Py_ssize_t at
        cdef Series* series
        cdef Slot* slot
        cdef bytes name, body
        cdef char* end
        for name in names:
            series = &(<Symbol>PyDict_GetItemWithError(self._bytes, name)).series
            size += 4 + PyBytes_GET_SIZE(name)
            for at in range(self.plan.count):
                size += SLOT_SIZE + series.slots[at].length * <Py_ssize_t>sizeof(Candle)
        body = PyBytes_FromStringAndSize(NULL, size)
        end = put(PyBytes_AS_STRING(body), PyBytes_AS_STRING(MAGIC_BYTES), 6)
        end = put_u16(end, VERSION)
        end = put_i64(put_i64(end, self.plan.max_candles), self._ticks)
        end = put_i64(put_i64(end, self._late), self.plan.dropped)
        end = put_u32(end, <uint32_t>self.plan.count)
        for interval in self._intervals:
            end = put_i64(end, interval)
        end = put_u32(end, <uint32_t>len(names))
        for name in names:
            series = &(<Symbol>PyDict_GetItemWithError(self._bytes, name)).series
            end = put_u32(end, <uint32_t>PyBytes_GET_SIZE(name))
            end = put(end, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
            for interval in self._intervals:
                slot = &series.slots[<Py_ssize_t>self._levels[interval]]
                end = put_i64(end, slot.mark)
                end[0] = slot.pending
                end = put_u32(end + 1, <uint32_t>slot.length)
                if slot.length:
                    end = put(end, slot.data + slot.head, slot.length * sizeof(Candle))
        return body

    @cython.final
    cdef void forget_aliases(self) noexcept:
        cdef Py_ssize_t k
        for k in range(ALIASES):
            Py_XDECREF(self._aliases[k].key)
            self._aliases[k].key = NULL


# ---------------------------------------------------------------- batches

cdef class Batch:
    """What both batches share: symbols found or made while reading; taking begins only when all is read."""

    cdef FastOHLC into
    cdef dict fresh  # str -> Symbol, new with this batch
    cdef uint64_t generation

    def __cinit__(self, FastOHLC into, *_):
        self.into = into
        self.generation = into._generation
        self.fresh = {}

    cdef Series* fresh_series(self, object symbol) except? NULL:
        """The series of a symbol that the aggregator does not know; NULL where the symbol is refused."""
        cdef str name
        cdef Symbol made
        cdef PyObject* entry
        if PyUnicode_CheckExact(symbol):
            entry = PyDict_GetItemWithError(self.fresh, symbol)
            if entry is not NULL:
                return &(<Symbol>entry).series
        name = canonical(symbol)
        if name is None:
            return NULL
        made = self.fresh.get(name)
        if made is None:
            made = Symbol.make(&self.into.plan, name)
            self.fresh[name] = made
        return &made.series

    cdef int adopt_fresh(self) except -1:
        if self.generation != self.into._generation:
            raise RuntimeError("The aggregator was changed by the code of a value in the batch; nothing was taken.")
        for symbol in self.fresh.values():
            self.into.adopt(symbol)
        return 0


@cython.final
cdef class Field:
    """A field name in both of its forms."""

    cdef str text
    cdef bytes data

    def __cinit__(self, str argument, object name):
        self.text = canonical(name)
        if self.text is None:
            raise SettingsError(f"{argument} {show(name)} is refused: it must be a non-empty str, or bytes in UTF-8.")
        self.data = self.text.encode()

    cdef inline PyObject* of(self, dict fields, bint as_bytes) except? NULL:
        """The value, NULL where there is none. To be used at once: the next look-up can run a key's code, which may
        change the dict."""
        cdef PyObject* value
        value = PyDict_GetItemWithError(fields, self.data if as_bytes else self.text)
        if value is NULL:
            value = PyDict_GetItemWithError(fields, self.text if as_bytes else self.data)
        return value

    cdef inline bint is_name(self, object key) except -1:
        if PyBytes_Check(key):
            return (
                PyBytes_GET_SIZE(key) == PyBytes_GET_SIZE(self.data)
                and memcmp(PyBytes_AS_STRING(key), PyBytes_AS_STRING(self.data), PyBytes_GET_SIZE(key)) == 0
            )
        return isinstance(key, str) and PyUnicode_Compare(key, self.text) == 0

    cdef str where(self, object entry_id):
        return f"entry {_id_text(entry_id)}, field {self.text!r}: "


def _id_text(entry_id):
    return show(bytes.decode(entry_id, errors="backslashreplace") if isinstance(entry_id, bytes) else entry_id)


def _missing(entry_id, Field field):
    return TickError(f"{field.where(entry_id)}it is missing. Name the field that holds it, or drop the entry.")


cdef inline bint quick_number(PyObject* value, double* out) noexcept:
    """A plain decimal's double; False: there is no value, or ``field_number`` is to look at it."""
    cdef const char* text = NULL
    cdef Py_ssize_t size = 0
    return value is not NULL and text_of(value, &text, &size) and quick_double(text, size, out)


cdef double slow_number(object value, bint* good) except? -1.0:
    """What ``field_number`` gives, and whether that is a finite number."""
    cdef double out
    cdef object converted = value if PyFloat_CheckExact(value) else field_number(value)
    good[0] = converted is not None
    if not good[0]:
        return 0.0
    out = converted
    good[0] = fabs(out) <= DBL_MAX
    return out


cdef inline int64_t quick_ms(PyObject* value, bint stream_id) noexcept:
    """The milliseconds of digits, or of a stream id; -1: there is no value, or it is something else."""
    cdef const char* text = NULL
    cdef Py_ssize_t size = 0
    if value is not NULL and text_of(value, &text, &size):
        return digits_ms(text, size, stream_id)
    return -1


cdef inline bint is_pair(object item):
    return isinstance(item, (list, tuple)) and len(item) == 2


cdef bint is_stream(object item) except -1:
    """Tells ``[stream, entries]`` from an entry ``[id, fields]``: entries hold lists, fields do not."""
    if not is_pair(item) or not isinstance(item[0], (str, bytes)) or not isinstance(item[1], (list, tuple)):
        return False
    return len(item[1]) > 0 and (item[1][0] is None or isinstance(item[1][0], (list, tuple)))


@cython.final
cdef class Reader(Batch):
    """Reads the reply shapes of Redis clients."""

    cdef Field price
    cdef Field volume
    cdef Field symbol
    cdef Field timestamp
    cdef object stream  # the name of the stream being read
    cdef Series* stream_series
    cdef Tick* ticks
    cdef Py_ssize_t count
    cdef Py_ssize_t capacity

    def __init__(self, into, price_field, volume_field, symbol_field, timestamp_field):
        self.price = Field("price_field", price_field)
        self.volume = None if volume_field is None else Field("volume_field", volume_field)
        self.symbol = None if symbol_field is None else Field("symbol_field", symbol_field)
        self.timestamp = None if timestamp_field is None else Field("timestamp_field", timestamp_field)

    def __dealloc__(self):
        PyMem_Free(self.ticks)

    cdef int read(self, object reply) except -1:
        if isinstance(reply, Mapping):
            for stream, entries in reply.items():
                self.read_stream(stream, entries)
        elif isinstance(reply, (list, tuple)):
            for item in reply:
                if is_stream(item):
                    self.read_stream(item[0], item[1])
                else:
                    self.read_stream(None, (item,))
        elif reply is not None:
            raise TickError(
                f"The reply {show(reply)} is refused: give what XREAD, XREADGROUP or XRANGE returned (dict or list)."
            )
        return 0

    cdef int read_stream(self, object stream, object entries) except -1:
        self.stream = stream
        self.stream_series = NULL
        if entries is None:
            return 0
        if not isinstance(entries, (list, tuple)):
            raise TickError(f"The entries {show(entries)} of stream {show(stream)} are refused: give a list.")
        return self.read_entries(entries, 0)

    cdef int read_entries(self, object entries, int depth) except -1:
        cdef object entry, first, fields
        if depth > MAX_NESTING:
            raise TickError(f"The reply is refused: its entries stand in more than {MAX_NESTING} lists.")
        for entry in entries:
            if entry is None:
                continue
            if PyTuple_CheckExact(entry) and PyTuple_GET_SIZE(entry) == 2:
                first = <object>PyTuple_GET_ITEM(entry, 0)
                fields = <object>PyTuple_GET_ITEM(entry, 1)
            else:
                if not isinstance(entry, (list, tuple)):
                    raise TickError(f"The entry {show(entry)} is refused: give (id, fields).")
                if len(entry) == 0:
                    continue
                first = entry[0]
                if not isinstance(first, (list, tuple)) and len(entry) != 2:
                    raise TickError(f"The entry {show(entry)} is refused: give (id, fields).")
                fields = None if isinstance(first, (list, tuple)) else entry[1]
            if isinstance(first, (list, tuple)):  # redis-py with RESP3 wraps the entries once more
                self.read_entries(entry, depth + 1)
            elif isinstance(fields, dict):
                self.read_dict(first, <dict>fields)
            elif isinstance(fields, (list, tuple)):
                self.read_flat(first, fields if PyTuple_CheckExact(fields) else tuple(fields))
            elif isinstance(fields, Mapping):
                self.read_dict(first, dict(fields))
            elif fields is not None:
                raise TickError(
                    f"entry {_id_text(first)}: the fields {show(fields)} are refused: give a dict or a list."
                )
        return 0

    cdef int read_dict(self, object entry_id, dict fields) except -1:
        cdef Py_ssize_t at = 0
        cdef PyObject* key = NULL
        cdef bint as_bytes
        cdef Tick tick
        if not PyDict_Next(fields, &at, &key, NULL):
            return 0
        as_bytes = PyBytes_Check(<object>key)
        self.take_price(&tick, entry_id, self.price.of(fields, as_bytes))
        self.take_volume(&tick, entry_id, NULL if self.volume is None else self.volume.of(fields, as_bytes))
        self.take_time(&tick, entry_id, NULL if self.timestamp is None else self.timestamp.of(fields, as_bytes))
        self.take_symbol(&tick, entry_id, NULL if self.symbol is None else self.symbol.of(fields, as_bytes))
        return self.keep(&tick)

    cdef int read_flat(self, object entry_id, tuple row) except -1:
        """``(field, value, field, value)``; of two equal names the last counts, as in a dict."""
        cdef PyObject* price = NULL
        cdef PyObject* volume = NULL
        cdef PyObject* symbol = NULL
        cdef PyObject* timestamp = NULL
        cdef Py_ssize_t at
        cdef object key
        cdef PyObject* value
        cdef Tick tick
        if PyTuple_GET_SIZE(row) == 0:
            return 0
        if PyTuple_GET_SIZE(row) % 2:
            raise TickError(f"entry {_id_text(entry_id)}: the fields {show(row)} are refused: a name has no value.")
        for at in range(0, PyTuple_GET_SIZE(row), 2):
            key = <object>PyTuple_GET_ITEM(row, at)
            value = PyTuple_GET_ITEM(row, at + 1)
            if self.price.is_name(key):
                price = value
            if self.volume is not None and self.volume.is_name(key):
                volume = value
            if self.timestamp is not None and self.timestamp.is_name(key):
                timestamp = value
            if self.symbol is not None and self.symbol.is_name(key):
                symbol = value
        self.take_price(&tick, entry_id, price)
        self.take_volume(&tick, entry_id, volume)
        self.take_time(&tick, entry_id, timestamp)
        self.take_symbol(&tick, entry_id, symbol)
        return self.keep(&tick)

    # A value in its plain form is read on the spot; any other, and an absent one, is held and looked at slowly.

    cdef inline int take_price(self, Tick* tick, object entry_id, PyObject* value) except -1:
        if not quick_number(value, &tick.price):
            tick.price = self.slow_price(entry_id, value)
        return 0

    cdef double slow_price(self, object entry_id, PyObject* value) except? -1.0:
        cdef bint good = True
        if value is NULL:
            raise _missing(entry_id, self.price)
        held = <object>value
        cdef double price = slow_number(held, &good)
        if not good:
            raise price_error(held, self.price.where(entry_id))
        return price

    cdef inline int take_volume(self, Tick* tick, object entry_id, PyObject* value) except -1:
        if not quick_number(value, &tick.volume) or not tick.volume >= 0.0:
            tick.volume = self.slow_volume(entry_id, value)
        return 0

    cdef double slow_volume(self, object entry_id, PyObject* value) except? -1.0:
        cdef bint good = True
        if self.volume is None:
            return 0.0
        if value is NULL:
            raise _missing(entry_id, self.volume)
        held = <object>value
        cdef double volume = slow_number(held, &good)
        if not good or not volume >= 0.0:
            raise volume_error(held, self.volume.where(entry_id))
        return volume

    cdef inline int take_time(self, Tick* tick, object entry_id, PyObject* value) except -1:
        if self.timestamp is None:
            tick.ms = quick_ms(<PyObject*>entry_id, True)
            if not 0 <= tick.ms <= MAX_MS:
                tick.ms = self.slow_id(entry_id)
        else:
            tick.ms = quick_ms(value, False)
            if not EARLIEST_MS <= tick.ms <= LATEST_MS:
                tick.ms = self.slow_time(entry_id, value)
        return 0

    cdef int64_t slow_time(self, object entry_id, PyObject* value) except -1:
        if value is NULL:
            raise _missing(entry_id, self.timestamp)
        held = <object>value
        ms = field_ms(held)
        if ms is None:
            raise field_time_error(held, self.timestamp.where(entry_id))
        return ms

    cdef inline int take_symbol(self, Tick* tick, object entry_id, PyObject* value) except -1:
        cdef object held
        if self.symbol is None:
            if self.stream_series is NULL:
                self.name_stream(entry_id)
            tick.series = self.stream_series
        else:
            if value is NULL:
                raise _missing(entry_id, self.symbol)
            held = <object>value
            tick.series = self.into.valued(held)
            if tick.series is NULL:
                tick.series = self.new_series(entry_id, held)
        return 0

    cdef Series* new_series(self, object entry_id, object symbol) except NULL:
        cdef Series* series = self.fresh_series(symbol)
        if series is NULL:
            raise symbol_error(symbol, self.symbol.where(entry_id))
        return series

    cdef inline int keep(self, Tick* tick) except -1:
        if self.count == self.capacity:
            self.grow()
        self.ticks[self.count] = tick[0]
        self.count += 1
        return 0

    cdef int64_t slow_id(self, object entry_id) except -1:
        exact = plain_text(entry_id)
        cdef int64_t ms = quick_ms(<PyObject*>exact, True)
        if not 0 <= ms <= MAX_MS:
            raise TickError(
                f"entry {_id_text(entry_id)}: its id is not <milliseconds>-<number> up to {MAX_MS}. "
                "Where a field holds the time, name it in timestamp_field."
            )
        return ms

    cdef int name_stream(self, object entry_id) except -1:
        if self.stream is None:
            raise TickError(
                f"entry {_id_text(entry_id)} has no symbol: the reply names no stream. "
                "Pass symbol_field, or the reply with its stream names."
            )
        self.stream_series = self.into.valued(self.stream)
        if self.stream_series is NULL:
            self.stream_series = self.fresh_series(self.stream)
            if self.stream_series is NULL:
                raise symbol_error(self.stream, f"entry {_id_text(entry_id)}, stream name: ")
        return 0

    cdef int grow(self) except -1:
        cdef Py_ssize_t capacity = self.capacity * 2 if self.capacity else 256
        cdef void* ticks = PyMem_Realloc(self.ticks, capacity * sizeof(Tick))
        if ticks is NULL:
            raise MemoryError
        self.ticks = <Tick*>ticks
        self.capacity = capacity
        return 0

    cdef Py_ssize_t apply(self) except -1:
        cdef Py_ssize_t k
        cdef Tick* tick
        cdef FastOHLC into = self.into
        self.adopt_fresh()
        for k in range(self.count):
            tick = &self.ticks[k]
            into.take(tick.series, tick.price, tick.volume, tick.ms)
        return self.count


@cython.final
cdef class Column:
    """One column of numbers as a C array: a NumPy array's own memory, or a copy made from a tuple."""

    cdef Py_buffer buffer
    cdef bint viewed
    cdef void* data
    cdef Py_ssize_t count
    cdef object array  # to be viewed; None: the memory is ours

    def __dealloc__(self):
        if self.viewed:
            PyBuffer_Release(&self.buffer)
        else:
            PyMem_Free(self.data)

    cdef int view(self, object dtype, Py_ssize_t width) except -1:
        import numpy

        if self.array is None:
            return 0
        ready = numpy.require(self.array, dtype, ["C", "A"])
        PyObject_GetBuffer(ready, &self.buffer, PyBUF_SIMPLE)
        self.viewed = True
        self.data = self.buffer.buf
        if self.buffer.len != self.count * width:
            raise RuntimeError("An array was changed by the code of a value in the batch; nothing was taken.")
        return 0

    cdef int allocate(self, Py_ssize_t count) except -1:
        self.data = PyMem_Malloc(max(count, 1) * 8)
        if self.data is NULL:
            raise MemoryError
        self.count = count
        return 0


cdef Column array_column(object array):
    """A column whose memory is viewed later."""
    cdef Column column = Column()
    column.array = array
    column.count = len(array)
    return column


cdef Column float_column(object values, bint signed):
    cdef Column column = Column()
    cdef double* data
    cdef bint good = True
    cdef Py_ssize_t k
    cdef tuple items
    if not PyTuple_CheckExact(values):
        return array_column(values)
    items = values
    column.allocate(PyTuple_GET_SIZE(items))
    data = <double*>column.data
    for k in range(column.count):
        data[k] = price_of(<object>PyTuple_GET_ITEM(items, k), &good)
        if not good or not (signed or data[k] >= 0.0):
            raise (price_error if signed else volume_error)(items[k], f"row {k}: ")
    return column


cdef Column time_column(object values):
    cdef Column column = Column()
    cdef int64_t* data
    cdef bint good = True
    cdef Py_ssize_t k
    cdef tuple items
    if not PyTuple_CheckExact(values):
        return array_column(values)
    items = values
    column.allocate(PyTuple_GET_SIZE(items))
    data = <int64_t*>column.data
    for k in range(column.count):
        data[k] = time_of(<object>PyTuple_GET_ITEM(items, k), &good)
        if not good:
            raise time_error(items[k], f"row {k}: ")
    return column


cdef int check_floats(Column column, bint signed) except -1:
    cdef double* data = <double*>column.data
    cdef double value
    cdef bint good = True
    cdef Py_ssize_t k
    if not column.viewed:
        return 0
    for k in range(column.count):  # no early end, so that the compiler can vectorise
        value = data[k]
        good &= (fabs(value) <= DBL_MAX) & (signed | (value >= 0.0))
    if not good:
        for k in range(column.count):
            if not fabs(data[k]) <= DBL_MAX or not (signed or data[k] >= 0.0):
                raise (price_error if signed else volume_error)(column.array[k].item(), f"row {k}: ")
    return 0


cdef int check_times(Column column) except -1:
    cdef int64_t* data = <int64_t*>column.data
    cdef bint good = True
    cdef Py_ssize_t k
    if not column.viewed:
        return 0
    for k in range(column.count):
        good &= (data[k] >= 0) & (data[k] <= MAX_MS)
    if not good:
        for k in range(column.count):
            if not 0 <= data[k] <= MAX_MS:
                raise time_error(column.array[k].item(), f"row {k}: ")
    return 0


@cython.final
cdef class Columns(Batch):
    """Reads columns of ticks."""

    cdef Column prices
    cdef Column volumes
    cdef Column times
    cdef Series* single  # the series of all rows, or NULL
    cdef Column codes  # else per row an index into table, or NULL
    cdef Column table  # else per row a Series*

    cdef int read(self, object symbols, object prices, object volumes, object times) except -1:
        """The arrays last: once they are checked, no code of a caller's object runs that could change them."""
        names, prices, volumes, times, categories = columns_of(symbols, prices, volumes, times)
        self.prices = float_column(prices, True)
        self.volumes = float_column(volumes, False)
        self.times = time_column(times)
        self.same_length("volumes", self.volumes.count)
        self.same_length("timestamps", self.times.count)
        if isinstance(names, (str, bytes)):
            self.single = self.series_of(names, -1)
        elif categories is not None:
            self.read_codes(names, categories)
        else:
            self.read_symbols(names)
        self.prices.view("f8", 8)
        self.volumes.view("f8", 8)
        self.times.view("i8", 8)
        check_floats(self.prices, True)
        check_floats(self.volumes, False)
        check_times(self.times)
        return 0

    cdef int same_length(self, str name, Py_ssize_t count) except -1:
        if count != self.prices.count:
            raise TickError(f"{name} has {count} rows, prices has {self.prices.count}: they must be equal.")
        return 0

    cdef Series* series_of(self, object symbol, Py_ssize_t row) except NULL:
        cdef Series* series = self.into.valued(symbol)
        if series is NULL:
            series = self.fresh_series(symbol)
            if series is NULL:
                raise symbol_error(symbol, "" if row < 0 else f"row {row}: ")
        return series

    cdef int read_codes(self, object array, list categories) except -1:
        cdef Series** table
        cdef int64_t* codes
        cdef int64_t code
        cdef Py_ssize_t k
        cdef Py_ssize_t size = len(categories)
        self.codes = array_column(array)
        self.same_length("symbols", self.codes.count)
        self.codes.view("i8", 8)
        self.table = Column()
        self.table.allocate(size)
        table = <Series**>self.table.data
        memset(table, 0, size * sizeof(void*))
        codes = <int64_t*>self.codes.data
        for k in range(self.codes.count):
            code = codes[k]
            if code < 0 or code >= size:
                raise symbol_error(None, f"row {k}: ")
            if table[code] is NULL:
                table[code] = self.series_of(categories[code], k)
        return 0

    cdef int read_symbols(self, object symbols) except -1:
        cdef Py_ssize_t count = len(symbols)
        self.same_length("symbols", count)
        self.table = Column()
        self.table.allocate(count)
        if isinstance(symbols, tuple):
            self.read_objects(symbols)
        else:
            self.read_texts(symbols)
        return 0

    cdef int read_objects(self, tuple symbols) except -1:
        """The same object is often met again; the tuple keeps all of them alive meanwhile."""
        cdef Series** table = <Series**>self.table.data
        cdef Series* seen[ALIASES]
        cdef PyObject* keys[ALIASES]
        cdef PyObject* key
        cdef size_t at
        cdef Py_ssize_t k
        memset(keys, 0, sizeof(keys))
        for k in range(self.table.count):
            key = PyTuple_GET_ITEM(symbols, k)
            at = ((<size_t>key >> 4) ^ (<size_t>key >> 13)) & (ALIASES - 1)
            if keys[at] != key:
                seen[at] = self.series_of(<object>key, k)
                keys[at] = key
            table[k] = seen[at]
        return 0

    cdef int read_texts(self, object array) except -1:
        """Fixed-width text: equal bytes are equal symbols, so a row is decoded only where its bytes are new."""
        cdef Series** table = <Series**>self.table.data
        cdef Series* seen[ALIASES]
        cdef const char* keys[ALIASES]
        cdef const char* key
        cdef Column raw = array_column(array)
        cdef Py_ssize_t width = array.dtype.itemsize
        cdef Py_ssize_t k, byte
        cdef uint64_t at
        if width == 0:
            raise symbol_error("", "row 0: ")
        raw.view(array.dtype, width)
        memset(keys, 0, sizeof(keys))
        for k in range(self.table.count):
            key = <const char*>raw.data + k * width
            at = 14695981039346656037ULL  # FNV-1a
            for byte in range(width):
                if key[byte]:
                    at = (at ^ <unsigned char>key[byte]) * 1099511628211ULL
            at = (at ^ (at >> 32)) & (ALIASES - 1)
            if keys[at] is NULL or memcmp(keys[at], key, width) != 0:
                seen[at] = self.series_of(array[k].item(), k)
                keys[at] = key
            table[k] = seen[at]
        return 0

    cdef Py_ssize_t apply(self) except -1:
        cdef Py_ssize_t k, count = self.prices.count
        cdef double* prices = <double*>self.prices.data
        cdef double* volumes = <double*>self.volumes.data
        cdef int64_t* times = <int64_t*>self.times.data
        cdef FastOHLC into = self.into
        cdef Series** table
        cdef int64_t* codes
        if count == 0:
            return 0
        self.adopt_fresh()
        if self.single is not NULL:
            for k in range(count):
                into.take(self.single, prices[k], volumes[k], times[k])
            return count
        table = <Series**>self.table.data
        if self.codes is None:
            for k in range(count):
                into.take(table[k], prices[k], volumes[k], times[k])
        else:
            codes = <int64_t*>self.codes.data
            for k in range(count):
                into.take(table[codes[k]], prices[k], volumes[k], times[k])
        return count


# ---------------------------------------------------------------- reading a dump

@cython.final
cdef class Loader:
    """Reads a dump, and believes nothing of it."""

    cdef bytes data
    cdef Py_ssize_t at
    cdef Py_ssize_t end
    cdef readonly list intervals
    cdef readonly int64_t max_candles
    cdef int64_t ticks
    cdef int64_t late
    cdef int64_t dropped

    def __init__(self, data):
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise SnapshotError(f"{show(data)} is not a dump: give the bytes that dump() returned.")
        self.data = bytes(data)
        self.end = len(self.data) - 4
        if self.end < 0 or self.data[:6] != MAGIC:
            raise SnapshotError("These bytes are not a dump of an aggregator.")
        if U32.unpack_from(self.data, self.end)[0] != zlib.crc32(self.data[: self.end]):
            raise SnapshotError("The dump is damaged: its checksum does not fit.")
        _, version, self.max_candles, self.ticks, self.late, self.dropped, count = self.take(HEAD)
        if version != VERSION:
            raise SnapshotError(f"The dump has version {version}; this version reads {VERSION}.")
        self.intervals = [self.take(I64)[0] for _ in range(count)]
        for number in (self.ticks, self.late, self.dropped):
            self.sure(0 <= number <= MAX_COUNT, "a count is out of range")

    cdef int sure(self, bint holds, str why) except -1:
        if not holds:
            raise SnapshotError(f"The dump is damaged: {why}.")
        return 0

    cdef bytes raw(self, int64_t size):
        self.sure(size <= self.end - self.at, "it ends too early")
        self.at += size
        return self.data[self.at - size : self.at]

    cdef tuple take(self, layout):
        return layout.unpack(self.raw(layout.size))

    cdef int fill(self, FastOHLC into) except -1:
        cdef Symbol symbol
        cdef bytes name, previous = b""
        cdef Py_ssize_t at
        for _ in range(self.take(U32)[0]):
            name = self.raw(self.take(U32)[0])
            text = canonical(name)
            self.sure(text is not None and name > previous, "its symbols are not in order")
            previous = name
            symbol = Symbol.make(&into.plan, text)
            for interval in self.intervals:
                self.read_slot(&into.plan, into._levels[interval], symbol)
            for at in range(into.plan.count):
                self.check_folding(&into.plan, &symbol.series, at)
            refresh_hots(&into.plan, &symbol.series)
            into.adopt(symbol)
        self.sure(self.at == self.end, "it goes on behind its end")
        into._ticks = self.ticks
        into._late = self.late
        into.plan.dropped = self.dropped
        return 0

    cdef int read_slot(self, Plan* plan, Py_ssize_t at, Symbol symbol) except -1:
        cdef Slot* slot = &symbol.series.slots[at]
        cdef Level* level = &plan.levels[at]
        cdef Py_ssize_t k
        cdef bytes candles
        mark, pending, count = self.take(SLOT)
        candles = self.raw(<int64_t>count * <int64_t>sizeof(Candle))
        self.sure(pending <= (count > 0), "a flag is wrong")
        self.sure(plan.max_candles == 0 or count <= plan.max_candles, "it holds more candles than its bound")
        self.sure(
            mark == NO_MARK or (-level.shift <= mark <= 2 * MAX_MS and (mark + level.shift) % level.interval == 0),
            "a watermark is wrong",
        )
        slot.mark = mark
        slot.pending = pending
        if count == 0:
            return 0
        resize(slot, count)
        slot.length = count
        memcpy(slot.data, PyBytes_AS_STRING(candles), count * sizeof(Candle))
        for k in range(slot.length):
            self.check_candle(level, slot, k)
        return 0

    cdef int check_candle(self, Level* level, Slot* slot, Py_ssize_t k) except -1:
        cdef Candle* candle = &slot.data[k]
        cdef Candle empty
        self.sure(
            -level.shift <= candle.start <= MAX_MS
            and candle.start == align(level, candle.start)
            and candle.start >= slot.mark
            and (k == 0 or candle.start > slot.data[k - 1].start),
            "a candle is out of place",
        )
        if candle.count == 0:
            blank(&empty, candle.start)
            self.sure(memcmp(candle, &empty, sizeof(Candle)) == 0, "a candle is wrong")
            self.sure(k == slot.length - 1 and level.source >= 0, "a candle is empty")
            return 0
        return self.sure(
            0 < candle.count <= MAX_COUNT
            and max(candle.start, 0) <= candle.first <= candle.last <= MAX_MS
            and candle.last - candle.start < level.interval
            and -DBL_MAX <= candle.low <= candle.open <= candle.high <= DBL_MAX
            and candle.low <= candle.close <= candle.high
            and candle.volume >= 0.0,
            "a candle is wrong",
        )

    cdef int check_folding(self, Plan* plan, Series* series, Py_ssize_t at) except -1:
        """The invariants of the module's head."""
        cdef Slot* slot = &series.slots[at]
        cdef Slot* above
        cdef Level* level = &plan.levels[at]
        cdef Py_ssize_t up = level.first
        if up < 0:
            self.sure(slot.pending == (slot.length > 0), "a flag is wrong")
        if slot.length and newest(slot).count == 0:
            self.sure(series.slots[level.source].pending, "a candle is empty")
        while up >= 0 and slot.pending:
            above = &series.slots[up]
            self.sure(
                above.length > 0
                and newest(above).start == align(&plan.levels[up], newest(slot).start)
                and above.pending,
                "its folding is wrong",
            )
            up = plan.levels[up].next
        return 0
