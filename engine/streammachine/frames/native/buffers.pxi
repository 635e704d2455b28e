# Buffers that grow, and columns of text in Arrow's layout.

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

    def repeat(self, text, Py_ssize_t count):
        """Add a text so many times."""
        cdef bytes raw = text.encode()
        for _ in range(count):
            self.add(PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))

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
