# cython: language_level=3, wraparound=False, boundscheck=False, initializedcheck=False, cdivision=True
"""A page of XRANGE, from its RESP bytes into columns: no object an entry, none a cell.

``read.py`` uses it, and has the plain way beside it for what is refused here: an error reply, text that is not UTF-8, an
entry without fields, an id beyond 18 digits. What is refused leaves no trace in the columns.

The columns have Arrow's layout: text as one buffer of bytes with 64-bit offsets, and a bit for each row once a row has no
value. No Python code runs while a page is taken apart, apart from the decoder of what is not ASCII.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

cdef enum:
    MORE = 0  # the bytes end too early
    TAKEN = 1
    ODD = -1  # not what a page of entries looks like
    DIGITS = 18  # of a number that fits 64 signed bits whatever its digits are

cdef uint64_t HIGH_BITS = 0x8080808080808080
cdef Py_ssize_t MAX_LENGTH = 1 << 40


cdef class Buffer:
    """Bytes that grow at the end. What looks at them (a memoryview, an array) keeps them from growing."""

    cdef char* data
    cdef Py_ssize_t size
    cdef Py_ssize_t room
    cdef Py_ssize_t views

    def __cinit__(self):
        self.resize(64)

    def __dealloc__(self):
        PyMem_RawFree(self.data)

    def __len__(self):
        return self.size

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.size, 0, flags)
        self.views += 1

    def __releasebuffer__(self, Py_buffer* view):
        self.views -= 1

    cdef int resize(self, Py_ssize_t room) except -1:
        cdef void* data
        if self.views:
            raise BufferError("a buffer that is looked at cannot grow")
        data = PyMem_RawRealloc(self.data, room)
        if data is NULL:
            raise MemoryError()
        self.data = <char*>data
        self.room = room
        return 0

    cdef inline int reserve(self, Py_ssize_t more) except -1:
        if self.size + more > self.room:
            # A quarter more: what is not yet written costs no memory, and large blocks move without a copy.
            self.resize(self.size + more + ((self.size + more) >> 2))
        return 0

    cdef inline int put(self, const char* data, Py_ssize_t size) except -1:
        self.reserve(size)
        memcpy(self.data + self.size, data, size)
        self.size += size
        return 0

    cdef inline int put_int(self, int64_t number) except -1:
        self.reserve(8)
        (<int64_t*>(self.data + self.size))[0] = number
        self.size += 8
        return 0

    cdef int fit(self) except -1:
        if not self.views and self.room > self.size + 64:
            self.resize(self.size + 1)
        return 0


cdef class TextColumn:
    """Text by row, in Arrow's layout; rows that are not yet there count as without a value."""

    cdef readonly bytes name
    cdef readonly Buffer data
    cdef readonly Buffer offsets
    cdef readonly Buffer bits  # None as long as every row has a value
    cdef readonly Py_ssize_t rows
    cdef bint wanted

    def __cinit__(self, bytes name, bint wanted=True):
        self.name = name
        self.wanted = wanted
        self.data = Buffer()
        self.offsets = Buffer()
        self.offsets.put_int(0)

    cdef inline int add(self, const char* text, Py_ssize_t size) except -1:
        self.data.put(text, size)
        self.offsets.put_int(self.data.size)
        if self.bits is not None:
            self.mark(True)
        self.rows += 1
        return 0

    cdef int add_missing(self) except -1:
        cdef Py_ssize_t row
        if self.bits is None:
            self.bits = Buffer()
            self.bits.reserve((self.rows >> 3) + 2)
            memset(self.bits.data, 0xFF, self.rows >> 3)
            self.bits.size = self.rows >> 3
            if self.rows & 7:
                self.bits.data[self.bits.size] = <char>((1 << (self.rows & 7)) - 1)
                self.bits.size += 1
        self.offsets.put_int(self.data.size)
        self.mark(False)
        self.rows += 1
        return 0

    cdef inline int mark(self, bint valid) except -1:
        if not self.rows & 7:
            self.bits.reserve(1)
            self.bits.data[self.bits.size] = 0
            self.bits.size += 1
        if valid:
            self.bits.data[self.rows >> 3] |= <char>(1 << (self.rows & 7))
        return 0

    cdef int pad(self, Py_ssize_t rows) except -1:
        while self.rows < rows:
            self.add_missing()
        return 0

    cdef void cut(self, Py_ssize_t rows) noexcept:
        """Back to so many rows."""
        if self.rows <= rows:
            return
        self.rows = rows
        self.offsets.size = 8 * (rows + 1)
        self.data.size = (<int64_t*>self.offsets.data)[rows]
        if self.bits is not None:
            self.bits.size = (rows + 7) >> 3
            if rows & 7:
                self.bits.data[rows >> 3] &= <char>((1 << (rows & 7)) - 1)

    def texts(self, missing):
        """The rows as str, and ``missing`` where there is no value."""
        cdef Py_ssize_t row
        cdef int64_t* offsets = <int64_t*>self.offsets.data
        cdef list found = []
        for row in range(self.rows):
            if self.bits is not None and not (self.bits.data[row >> 3] >> (row & 7)) & 1:
                found.append(missing)
            else:
                found.append(
                    PyUnicode_DecodeUTF8(self.data.data + offsets[row], offsets[row + 1] - offsets[row], NULL)
                )
        return found


cdef inline int header(const char** at, const char* end, char kind, Py_ssize_t* number) noexcept:
    """Reads ``*12\\r\\n`` or ``$12\\r\\n``."""
    cdef const char* p = at[0]
    cdef Py_ssize_t found = 0
    if p >= end:
        return MORE
    if p[0] != kind:
        return ODD
    p += 1
    while p < end and c"0" <= p[0] <= c"9":
        found = 10 * found + (p[0] - c"0")
        if found > MAX_LENGTH:
            return ODD
        p += 1
    if end - p < 2:
        return MORE if p == end or p[0] == c"\r" else ODD
    if p[0] != c"\r" or p[1] != c"\n" or p - at[0] == 1:
        return ODD
    at[0] = p + 2
    number[0] = found
    return TAKEN


cdef inline int bulk(const char** at, const char* end, const char** text, Py_ssize_t* size) noexcept:
    """Reads ``$3\\r\\nabc\\r\\n``."""
    cdef const char* p = at[0]
    cdef int state = header(&p, end, c"$", size)
    if state != TAKEN:
        return state
    if end - p < size[0] + 2:
        return MORE
    text[0] = p
    p += size[0]
    if p[0] != c"\r" or p[1] != c"\n":
        return ODD
    at[0] = p + 2
    return TAKEN


cdef int walk(const char** at, const char* end) noexcept:
    """Goes past one entry, ``[id, [name, value, ...]]``."""
    cdef const char* p = at[0]
    cdef const char* text
    cdef Py_ssize_t count, size
    cdef int state = header(&p, end, c"*", &count)
    if state != TAKEN:
        return state
    if count != 2:
        return ODD
    state = bulk(&p, end, &text, &size)
    if state != TAKEN:
        return state
    state = header(&p, end, c"*", &count)
    if state != TAKEN:
        return state
    if not count or count & 1:
        return ODD
    while count:
        state = bulk(&p, end, &text, &size)
        if state != TAKEN:
            return state
        count -= 1
    at[0] = p
    return TAKEN


cdef class Page:
    """The bytes of one XRANGE reply, collected until its last entry is there."""

    cdef readonly Buffer raw
    cdef Py_ssize_t at  # what stands before it has been walked through
    cdef Py_ssize_t last  # where the last entry begins
    cdef Py_ssize_t left
    cdef bint begun
    cdef readonly Py_ssize_t count

    def __cinit__(self):
        self.raw = Buffer()

    def feed(self, const unsigned char[::1] data):
        """True: the page is complete. False: there is more to come. None: this is no page of entries."""
        cdef const char* p
        cdef const char* end
        cdef int state = TAKEN
        if data.shape[0]:
            self.raw.put(<const char*>&data[0], data.shape[0])
        p = self.raw.data + self.at
        end = self.raw.data + self.raw.size
        if not self.begun:
            state = header(&p, end, c"*", &self.count)
            if state == TAKEN:
                self.begun = True
                self.left = self.count
        if state == TAKEN:
            while self.left:
                self.last = p - self.raw.data
                state = walk(&p, end)
                if state != TAKEN:
                    break
                self.left -= 1
        self.at = p - self.raw.data
        if state == ODD or (state == TAKEN and p != end):
            return None
        return state == TAKEN

    def last_id(self):
        """The id of the last entry of a complete page that is not empty."""
        cdef const char* p = self.raw.data + self.last
        cdef const char* text = NULL
        cdef Py_ssize_t size = 0
        header(&p, self.raw.data + self.raw.size, c"*", &size)
        bulk(&p, self.raw.data + self.raw.size, &text, &size)
        return PyBytes_FromStringAndSize(text, size)


cdef class Columns:
    """The columns of a stream's entries: ids, their two numbers, and each field that is wanted (None: every one)."""

    cdef readonly TextColumn ids
    cdef readonly Buffer milliseconds
    cdef readonly Buffer sequences
    cdef readonly Py_ssize_t rows
    cdef list columns
    cdef dict places
    cdef object wanted
    cdef bint with_ids

    def __cinit__(self, wanted=None, bint with_ids=True):
        self.wanted = wanted
        self.with_ids = with_ids
        self.ids = TextColumn(b"")
        self.milliseconds = Buffer()
        self.sequences = Buffer()
        self.columns = []
        self.places = {}

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
        cdef int64_t number = 0
        cdef TextColumn column
        if header(at, end, c"*", &count) != TAKEN or bulk(at, end, &text, &size) != TAKEN:
            return ODD
        length = digits(text, size, &number)
        if not length or length > size - 2 or text[length] != c"-":
            return ODD
        self.milliseconds.put_int(number)
        if digits(text + length + 1, size - length - 1, &number) != size - length - 1:
            self.milliseconds.size -= 8
            return ODD
        self.sequences.put_int(number)
        if self.with_ids:
            self.ids.add(text, size)
        self.rows += 1
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
            if column.rows != self.rows - 1:
                column.cut(self.rows - 1)  # a name that comes twice keeps its last value
                column.pad(self.rows - 1)
            column.add(text, size)
        return TAKEN

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
        self.milliseconds.size = self.sequences.size = 8 * rows
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


cdef inline Py_ssize_t digits(const char* text, Py_ssize_t size, int64_t* number) noexcept:
    """How many digits the text begins with, and their number; 0 where there are none or too many."""
    cdef Py_ssize_t at = 0
    cdef int64_t found = 0
    while at < size and c"0" <= text[at] <= c"9":
        if at == DIGITS:
            return 0
        found = 10 * found + (text[at] - c"0")
        at += 1
    number[0] = found
    return at


cdef bint is_ascii(const char* text, Py_ssize_t size) noexcept:
    cdef uint64_t word
    while size >= 8:
        memcpy(&word, text, 8)
        if word & HIGH_BITS:
            return False
        text += 8
        size -= 8
    while size:
        if text[0] & 0x80:
            return False
        text += 1
        size -= 1
    return True


cdef bint is_utf8(const char* text, Py_ssize_t size) except -1:
    if is_ascii(text, size):
        return True
    try:
        PyUnicode_DecodeUTF8(text, size, NULL)
    except UnicodeDecodeError:
        return False
    return True
