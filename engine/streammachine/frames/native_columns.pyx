# cython: language_level=3, wraparound=False, boundscheck=False, initializedcheck=False, cdivision=True
"""A page of XRANGE, from its RESP bytes into columns, or a client's reply in one pass: no object is made for a cell.

``read.py`` and ``convert.py`` use it, and have the plain way beside it for what is refused here: an error reply, text that is not UTF-8, an
entry without fields, an id beyond 18 digits. What is refused leaves no trace in the columns.

The columns have Arrow's layout: text as one buffer of bytes with 64-bit offsets, and a bit for each row once a row has no
value. No Python code runs while a page is taken apart, apart from the decoder of what is not ASCII; of a client's
reply every object is held while it is looked at.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.dict cimport PyDict_GetItemWithError, PyDict_Next, PyDict_Size
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from collections import OrderedDict

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef enum:
    MORE = 0  # the bytes end too early
    TAKEN = 1
    ODD = -1  # not what a page of entries looks like
    DIGITS = 18  # of a number that fits 64 signed bits whatever its digits are

cdef uint64_t HIGH_BITS = 0x8080808080808080
cdef Py_ssize_t MAX_LENGTH = 1 << 40


include "native/text.pxi"
include "native/buffers.pxi"
include "native/pages.pxi"


cdef class Columns:
    """The columns of a stream's entries: ids, their two numbers, and each field that is wanted (None: every one)."""

    cdef readonly TextColumn ids
    cdef readonly Buffer milliseconds
    cdef readonly Buffer sequences
    cdef readonly Py_ssize_t rows
    cdef list columns
    cdef dict places
    cdef list keys  # of an OrderedDict, each of which has its column
    cdef object wanted
    cdef bint with_ids
    cdef bint with_sequences

    def __cinit__(self, wanted=None, bint with_ids=True, bint with_sequences=True):
        self.wanted = wanted
        self.with_ids = with_ids
        self.with_sequences = with_sequences
        self.ids = TextColumn(b"")
        self.milliseconds = Buffer()
        self.sequences = Buffer()
        self.columns = []
        self.places = {}
        self.keys = []

    def take(self, Page page):
        """Add the entries of a complete page; False (and nothing is added) where one of them is unusual."""
        cdef const char* p = page.raw.data
        cdef const char* end = p + page.raw.size
        cdef Py_ssize_t rows = self.rows, known = PyList_GET_SIZE(self.columns), count = 0
        cdef bint ascii = is_ascii(p, page.raw.size)
        cdef int state = header(&p, end, c"*", &count)
        while count and state == TAKEN:
            state = self.take_entry(&p, end, ascii)
            count -= 1
        if state == TAKEN:
            return True
        self.cut(rows, known)
        return False

    cdef int take_entry(self, const char** at, const char* end, bint ascii) except? -2:
        cdef const char* name
        cdef const char* text
        cdef Py_ssize_t count = 0, size = 0, length = 0, guess = 0
        cdef TextColumn column
        if header(at, end, c"*", &count) != TAKEN or bulk(at, end, &text, &size) != TAKEN:
            return ODD
        if not self.add_id(text, size):
            return ODD
        if header(at, end, c"*", &count) != TAKEN or not count:
            return ODD
        for guess in range(count >> 1):
            if bulk(at, end, &name, &length) != TAKEN or bulk(at, end, &text, &size) != TAKEN:
                return ODD
            column = self.column(name, length, guess)
            if column is None:
                return ODD
            if not column.wanted:
                continue
            if not ascii and not is_utf8(text, size):
                return ODD
            self.add_value(column, text, size)
        return TAKEN

    cdef inline bint add_id(self, const char* text, Py_ssize_t size) except -1:
        """A new row; False (and there is none) where the text is not plainly "digits-digits"."""
        cdef int64_t milliseconds = 0, sequence = 0
        cdef Py_ssize_t length = digits(text, size, &milliseconds)
        if not length or length > size - 2 or text[length] != c"-":
            return False
        if digits(text + length + 1, size - length - 1, &sequence) != size - length - 1:
            return False
        self.milliseconds.put_int(milliseconds)
        if self.with_sequences:
            self.sequences.put_int(sequence)
        if self.with_ids:
            self.ids.add(text, size)
        self.rows += 1
        return True

    cdef inline int add_value(self, TextColumn column, const char* text, Py_ssize_t size) except -1:
        if column.rows != self.rows - 1:
            column.cut(self.rows - 1)  # a name that comes twice keeps its last value
            column.pad(self.rows - 1)
        column.add(text, size)
        return 0

    def take_entries(self, entries):
        """Add the entries of a client's reply, a list or tuple; False where one is unusual: then all is to be dropped.

        Ids, names and values are plain bytes or str, fields a flat list, a dict or an OrderedDict. An entry without
        fields is left out.
        """
        cdef const char* text
        cdef Py_ssize_t size = 0, at = 0
        cdef object entry, entry_id, fields
        cdef bint good
        while at < len(entries):
            entry = entries[at]
            at += 1
            if not isinstance(entry, (list, tuple)) or len(entry) < 2:
                return False
            entry_id, fields = entry[0], entry[1]
            if fields is None:
                continue
            if type(fields) is not dict and type(fields) is not OrderedDict and type(fields) not in (list, tuple):
                return False
            if not len(fields):
                continue
            text = plain_text(entry_id, &size)
            if text is NULL or not self.add_id(text, size):
                return False
            if type(fields) is dict:
                good = self.take_dict(fields)
            elif type(fields) is OrderedDict:
                good = self.take_ordered(fields)
            else:
                good = self.take_flat(fields)
            if not good:
                return False
        return True

    cdef bint take_dict(self, dict fields) except -1:
        cdef PyObject* name
        cdef PyObject* value
        cdef Py_ssize_t at = 0, guess = 0
        while PyDict_Next(fields, &at, &name, &value):
            if not self.take_pair(<object>name, <object>value, guess):
                return False
            guess += 1
        return True

    cdef bint take_ordered(self, fields) except -1:
        """An OrderedDict may be ordered otherwise than its dict; that matters for names that are new."""
        cdef PyObject* value
        cdef Py_ssize_t at, count = PyList_GET_SIZE(self.keys)
        if count == PyDict_Size(fields):
            for at in range(count):
                value = PyDict_GetItemWithError(fields, self.keys[at])
                if value is NULL:
                    break
                if not self.take_pair(self.keys[at], <object>value, at):
                    return False
            else:
                return True
        elif count:
            return self.take_flat([part for pair in fields.items() for part in pair])
        self.keys = list(fields)
        return self.take_flat([part for pair in fields.items() for part in pair])

    cdef bint take_flat(self, fields) except -1:
        cdef Py_ssize_t at
        cdef Py_ssize_t size = len(fields)
        if size & 1:
            return False
        if type(fields) is list:
            for at in range(0, size, 2):
                if at + 2 > PyList_GET_SIZE(fields):
                    return False
                if not self.take_pair((<list>fields)[at], (<list>fields)[at + 1], at >> 1):
                    return False
            return True
        for at in range(0, size, 2):
            if not self.take_pair(fields[at], fields[at + 1], at >> 1):
                return False
        return True

    cdef inline bint take_pair(self, object name, object value, Py_ssize_t guess) except -1:
        cdef const char* text
        cdef Py_ssize_t size = 0
        cdef TextColumn column
        text = plain_text(name, &size)
        if text is NULL:
            return False
        column = self.column(text, size, guess)
        if column is None:
            return False
        text = plain_text(value, &size)
        if text is NULL or (type(value) is bytes and not is_utf8(text, size)):
            return False
        self.add_value(column, text, size)
        return True

    cdef inline TextColumn column(self, const char* name, Py_ssize_t size, Py_ssize_t guess):
        """The column of a name; entries are like the ones before as a rule. None: no name for a column."""
        cdef TextColumn column
        if guess < PyList_GET_SIZE(self.columns):
            column = <TextColumn>PyList_GET_ITEM(self.columns, guess)
            if PyBytes_GET_SIZE(column.name) == size and not memcmp(PyBytes_AS_STRING(column.name), name, size):
                return column
        return self.looked_up(PyBytes_FromStringAndSize(name, size))

    cdef TextColumn looked_up(self, bytes name):
        cdef TextColumn column = self.places.get(name)
        if column is None:
            if not is_utf8(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)):
                return None
            column = TextColumn(name, self.wanted is None or name in self.wanted)
            self.columns.append(column)
            self.places[name] = column
        return column

    cdef int cut(self, Py_ssize_t rows, Py_ssize_t known) except -1:
        cdef TextColumn column
        for column in self.columns[known:]:
            del self.places[column.name]
        del self.columns[known:]
        for column in self.columns:
            column.cut(rows)
        self.ids.cut(rows)
        self.milliseconds.size = 8 * rows
        self.sequences.size = 8 * rows if self.with_sequences else 0
        self.rows = rows
        return 0

    def finish(self):
        """The wanted columns by name, in order of first appearance, every one with all rows."""
        cdef TextColumn column
        cdef Buffer buffer
        found = {}
        for column in self.columns:
            if column.wanted:
                column.pad(self.rows)
                found[column.name.decode()] = column
        for column in (self.ids, *found.values()):
            column.data.fit()
            column.offsets.fit()
        for buffer in (self.milliseconds, self.sequences):
            buffer.fit()
        return found
