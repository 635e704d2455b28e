# cython: language_level=3, wraparound=False, boundscheck=False, initializedcheck=False, cdivision=True
"""Stream replies straight into rows of ticks, in C: the fast twin of ``tick_columns_reference.py``.

That module documents each name, the layout of a row and what is *odd*; this one says only how it is made fast.

- The bytes of a reply are kept whole in one buffer, and entries are taken apart as they come: what the socket still
  brings is on its way meanwhile. An entry that is cut by the end of the bytes is looked at again with the next ones.
- Where a field stands is learned from an entry: its names, each with its header (``$5\\r\\nprice\\r\\n``), are compared
  as a whole with the next entry's. An entry that is otherwise is read by its names, and learned instead.
- No Python code runs and no object is made for an entry, but for a symbol that is new.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.float cimport DBL_MAX
from libc.math cimport fabs, floor
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memcmp, memcpy

import os

from streammachine.redis.transport import tick_columns_reference as _twin
from streammachine.redis.transport.codec import NEED_MORE, ReplyParser, parse_entries

cdef extern from "Python.h":
    double string_to_double "PyOS_string_to_double"(const char* text, char** end, void* overflow) except? -1.0

cdef enum:
    MORE = 0  # the bytes end too early
    TAKEN = 1
    OTHER = -1  # not what a reply of entries looks like: the codec is to read it

cdef enum:  # what a field is wanted for
    PRICE = 1
    VOLUME = 2
    SYMBOL = 4
    TIME = 8

cdef enum:
    MOST_FIELDS = 32  # of an entry that is learned
    MOST_TEXT = 63  # bytes of a number that is read here
    MAX_LENGTH = 1 << 29  # what the codec takes
    FLAG_ODD = 1
    FLAG_GONE = 2

ODD = FLAG_ODD
GONE = FLAG_GONE
assert (ODD, GONE, MOST_TEXT) == (_twin.ODD, _twin.GONE, _twin.MOST_TEXT)

cdef struct Row:
    double price
    double volume
    int64_t time
    int64_t at  # where the entry begins in the reply's bytes
    int32_t symbol
    int32_t flags

assert sizeof(Row) == _twin.ROW.size

cdef struct Known:  # a field of the entry that was learned
    Py_ssize_t at  # of its name with its header in ``heads``
    Py_ssize_t size
    int role

include "native/scan.pxi"
include "native/numbers.pxi"
include "native/names.pxi"


cdef class TickReader:
    """See the twin."""

    cdef bytes stream
    cdef bytes price
    cdef bytes volume
    cdef bytes symbol
    cdef bytes fallback
    cdef bytes timestamp
    cdef _Names symbols
    cdef int32_t fallback_index
    cdef Known[MOST_FIELDS] known
    cdef Py_ssize_t count  # of the fields of the entry that was learned
    cdef _Bytes heads

    def __init__(self, stream, price, volume=None, symbol=b"symbol", fallback=None, timestamp=None):
        self.stream = stream
        self.price = price
        self.volume = volume
        self.symbol = symbol
        self.fallback = fallback
        self.timestamp = timestamp
        self.heads = _Bytes()
        self.forget_symbols()

    def reply(self):
        """See the twin."""
        if self.symbols.texts.size > _twin.MOST_SYMBOL_BYTES or len(self.symbols.names) > _twin.MOST_SYMBOLS:
            self.forget_symbols()
        return TickReply(self)

    cdef int forget_symbols(self) except -1:
        self.symbols = _Names()
        self.fallback_index = -1
        if self.fallback is not None:
            self.fallback_index = self.symbols.index(PyBytes_AS_STRING(self.fallback), PyBytes_GET_SIZE(self.fallback))
        return 0

    cdef inline int role(self, Text* name) noexcept:
        cdef int found = 0
        if same(self.price, name):
            found |= PRICE
        if self.volume is not None and same(self.volume, name):
            found |= VOLUME
        if same(self.symbol, name):
            found |= SYMBOL
        if self.timestamp is not None and same(self.timestamp, name):
            found |= TIME
        return found

    cdef int learn(self, const char* at, const char* end, Py_ssize_t count) except -1:
        """The fields of a whole entry, from the first name on. Of two equal names the last counts, as in a dict."""
        cdef Text name, value
        cdef Py_ssize_t k, earlier
        cdef const char* begin
        self.count = 0
        self.heads.size = 0
        if count > MOST_FIELDS:
            return 0
        for k in range(count):
            begin = at
            bulk(&at, end, &name)
            self.known[k] = Known(self.heads.size, at - begin, self.role(&name))
            self.heads.put(begin, at - begin)
            bulk(&at, end, &value)
            for earlier in range(k):
                self.known[earlier].role &= ~self.known[k].role
        self.count = count
        return 0


cdef inline bint same(bytes wanted, Text* name) noexcept:
    return PyBytes_GET_SIZE(wanted) == name.size and memcmp(PyBytes_AS_STRING(wanted), name.data, name.size) == 0


cdef class TickReply:
    """See the twin."""

    cdef TickReader reader
    cdef _Names symbols
    cdef _Bytes raw
    cdef Row* rows
    cdef Py_ssize_t room
    cdef Py_ssize_t at  # what stands before it has been taken
    cdef Py_ssize_t left  # entries that are still to come
    cdef bint begun
    cdef Text[4] found  # price, volume, symbol, time of the entry at hand
    cdef readonly Py_ssize_t count
    cdef readonly object other
    cdef object parser

    def __cinit__(self, TickReader reader):
        self.reader = reader
        self.symbols = reader.symbols
        self.raw = _Bytes()
        self.other = _twin.NOT_OTHER

    def __dealloc__(self):
        PyMem_Free(self.rows)

    @property
    def size(self):
        """See the twin."""
        return self.raw.size

    @property
    def names(self):
        """The symbols that the rows' indexes stand for."""
        return self.symbols.names

    def feed(self, data):
        """See the twin."""
        cdef const unsigned char[::1] view
        cdef int state
        if self.parser is not None:
            self.parser.feed(data)
            return self.parsed()
        if self.begun and not self.left:
            raise _twin.too_much()
        if type(data) is bytes:
            self.raw.put(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        else:
            view = data
            if view.shape[0]:
                self.raw.put(<const char*>&view[0], view.shape[0])
        state = self.take()
        if state == OTHER:
            self.count = 0
            self.parser = ReplyParser()
            self.parser.feed(PyBytes_FromStringAndSize(self.raw.data, self.raw.size))
            return self.parsed()
        return state == TAKEN

    def parsed(self):
        reply = self.parser.get()
        if reply is NEED_MORE:
            return False
        if self.parser.get() is not NEED_MORE:
            raise _twin.too_much()
        self.other = reply
        return True

    cdef int take(self) except? -2:
        """Takes the entries that are there."""
        cdef const char* p = self.raw.data + self.at
        cdef const char* end = self.raw.data + self.raw.size
        cdef int state = TAKEN
        if not self.begun:
            state = self.begin(&p, end)
            if state != TAKEN:
                return state
            self.begun = True
            self.at = p - self.raw.data
        while self.left:
            if self.count == self.room:
                self.widen()
            state = self.take_entry(&p, end)
            if state != TAKEN:
                break
            self.left -= 1
            self.count += 1
            self.at = p - self.raw.data
        if state == TAKEN and p != end:
            raise _twin.too_much()
        return state

    cdef int begin(self, const char** at, const char* end) noexcept:
        """The reply's head: ``*1 *2`` or ``%1``, the stream's name, the number of entries; or null: no entries."""
        cdef const char* p = at[0]
        cdef Py_ssize_t count = 0
        cdef Text name
        cdef int state = null(&p, end)
        if state != OTHER:
            at[0] = p
            return state
        if p < end and p[0] == c"%":
            state = header(&p, end, c"%", &count)
            if state != TAKEN:
                return state
        else:
            state = header(&p, end, c"*", &count)
            if state != TAKEN:
                return state
            if count == 1:
                state = header(&p, end, c"*", &count)
                if state != TAKEN:
                    return state
                count = 1 if count == 2 else 0
        if count != 1:
            return OTHER
        state = bulk(&p, end, &name)
        if state != TAKEN:
            return state
        if not same(self.reader.stream, &name):
            return OTHER
        state = header(&p, end, c"*", &count)
        if state != TAKEN:
            return state
        at[0] = p
        self.left = count
        return TAKEN

    cdef int take_entry(self, const char** at, const char* end) except? -2:
        cdef const char* p = at[0]
        cdef const char* begin
        cdef Py_ssize_t count = 0
        cdef Text entry_id
        cdef Row* row = &self.rows[self.count]
        cdef int state
        # Almost every entry begins so; anything else is found out below.
        state = header(&p, end, c"*", &count)
        if state != TAKEN:
            return state
        if count != 2:
            return OTHER
        state = bulk(&p, end, &entry_id)
        if state != TAKEN:
            return state
        row.price = row.volume = 0.0
        row.time = 0
        row.at = at[0] - self.raw.data
        row.symbol = -1
        row.flags = 0
        state = header(&p, end, c"*", &count)
        if state == OTHER:
            state = null(&p, end)
            count = 0
        if state != TAKEN:
            return state
        if count & 1:
            return OTHER
        if not count:
            row.flags = FLAG_GONE
            at[0] = p
            return TAKEN
        begin = p
        if not self.known_fields(&p, end, count >> 1):
            p = begin
            state = self.named_fields(&p, end, count >> 1)
            if state != TAKEN:
                return state
            self.reader.learn(begin, end, count >> 1)
        self.read_values(row, &entry_id)
        at[0] = p
        return TAKEN

    cdef inline bint known_fields(self, const char** at, const char* end, Py_ssize_t count) noexcept:
        """The values of an entry whose names are those of the one that was learned."""
        cdef TickReader reader = self.reader
        cdef const char* p = at[0]
        cdef const char* heads = reader.heads.data
        cdef Known* known
        cdef Text value
        cdef Py_ssize_t k
        cdef int role
        if count != reader.count:
            return False
        self.forget()
        for k in range(count):
            known = &reader.known[k]
            if end - p < known.size or memcmp(p, heads + known.at, known.size) != 0:
                return False
            p += known.size
            if bulk(&p, end, &value) != TAKEN:
                return False
            role = known.role
            if role:
                self.note(role, value)
        at[0] = p
        return True

    cdef inline void forget(self) noexcept:
        cdef int k
        for k in range(4):
            self.found[k].data = NULL

    cdef inline void note(self, int role, Text value) noexcept:
        if role & PRICE:
            self.found[0] = value
        if role & VOLUME:
            self.found[1] = value
        if role & SYMBOL:
            self.found[2] = value
        if role & TIME:
            self.found[3] = value

    cdef int named_fields(self, const char** at, const char* end, Py_ssize_t count) noexcept:
        cdef Text name, value
        cdef int state
        self.forget()
        while count:
            state = bulk(at, end, &name)
            if state != TAKEN:
                return state
            state = bulk(at, end, &value)
            if state != TAKEN:
                return state
            self.note(self.reader.role(&name), value)
            count -= 1
        return TAKEN

    cdef inline int read_values(self, Row* row, Text* entry_id) except -1:
        cdef TickReader reader = self.reader
        cdef Text* price = &self.found[0]
        cdef Text* volume = &self.found[1]
        cdef Text* symbol = &self.found[2]
        cdef Text* time = &self.found[3]
        cdef bint good = price.data is not NULL and number(price.data, price.size, &row.price)
        if reader.volume is not None:
            good = good and volume.data is not NULL and number(volume.data, volume.size, &row.volume)
        if reader.timestamp is None:
            good = good and id_time(entry_id.data, entry_id.size, &row.time)
        else:
            good = good and time.data is not NULL and whole(time.data, time.size, &row.time)
        if not good:
            row.flags = FLAG_ODD
            row.price = row.volume = 0.0
            row.time = 0
        if symbol.data is not NULL:
            row.symbol = self.symbols.index(symbol.data, symbol.size)
        else:
            row.symbol = reader.fallback_index
        return 0

    cdef int widen(self) except -1:
        cdef Py_ssize_t room = self.room * 2 if self.room else 256
        cdef void* grown = PyMem_Realloc(self.rows, room * sizeof(Row))
        if grown is NULL:
            raise MemoryError
        self.rows = <Row*>grown
        self.room = room
        return 0

    def entry(self, Py_ssize_t row):
        """See the twin."""
        if not 0 <= row < self.count:
            raise IndexError(row)
        parser = ReplyParser()
        cdef Py_ssize_t begin = self.rows[row].at
        cdef Py_ssize_t end = self.rows[row + 1].at if row + 1 < self.count else self.at
        parser.feed(PyBytes_FromStringAndSize(self.raw.data + begin, end - begin))
        return parse_entries([parser.get()])[0]

    @property
    def last_id(self):
        """See the twin."""
        cdef const char* p
        cdef Py_ssize_t size = 0
        cdef Text text
        if not self.count:
            return None
        p = self.raw.data + self.rows[self.count - 1].at
        header(&p, self.raw.data + self.raw.size, c"*", &size)
        bulk(&p, self.raw.data + self.raw.size, &text)
        return PyBytes_FromStringAndSize(text.data, text.size)

    def __getbuffer__(self, Py_buffer* view, int flags):
        """The rows, as the twin's ``ROW`` has them; they are not to be changed."""
        PyBuffer_FillInfo(view, self, <void*>self.rows, self.count * <Py_ssize_t>sizeof(Row), True, flags)
