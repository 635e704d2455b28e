# Text in Arrow's layout, as any library hands it over: https://arrow.apache.org/docs/format/CDataInterface.html and
# CStreamInterface.html. Uses: layout, texts.

cdef struct ArrowSchema:
    const char* format
    const char* name
    const char* metadata
    int64_t flags
    int64_t n_children
    ArrowSchema** children
    ArrowSchema* dictionary
    void (*release)(ArrowSchema*) noexcept
    void* private_data

cdef struct ArrowArray:
    int64_t length
    int64_t null_count
    int64_t offset
    int64_t n_buffers
    int64_t n_children
    const void** buffers
    ArrowArray** children
    ArrowArray* dictionary
    void (*release)(ArrowArray*) noexcept
    void* private_data

cdef struct ArrowArrayStream:
    int (*get_schema)(ArrowArrayStream*, ArrowSchema*) noexcept
    int (*get_next)(ArrowArrayStream*, ArrowArray*) noexcept
    const char* (*get_last_error)(ArrowArrayStream*) noexcept
    void (*release)(ArrowArrayStream*) noexcept
    void* private_data


cdef inline bint is_null(const ArrowArray* array, Py_ssize_t k) noexcept nogil:
    cdef const uint8_t* bits = <const uint8_t*>array.buffers[0]
    return array.null_count != 0 and bits is not NULL and not (bits[k >> 3] >> (k & 7)) & 1


cdef inline bint text_at(const ArrowArray* array, char kind, Py_ssize_t k, const char** data, Py_ssize_t* size) noexcept nogil:
    """A text's place; ``kind``: "u" has offsets of 32 bits, "U" of 64, "v" is views. False: it cannot be."""
    cdef const int32_t* narrow
    cdef const int64_t* wide
    cdef const char* view
    cdef int32_t place[4]
    if kind == c'v':
        view = <const char*>array.buffers[1] + 16 * k
        memcpy(place, view, 16)
        size[0] = place[0]
        if place[0] <= 12:
            data[0] = view + 4
        elif 0 <= place[2] < array.n_buffers - 3 and place[3] >= 0:
            data[0] = <const char*>array.buffers[2 + place[2]] + place[3]
        else:
            return False
    elif kind == c'U':
        wide = <const int64_t*>array.buffers[1]
        data[0] = <const char*>array.buffers[2] + wide[k]
        size[0] = wide[k + 1] - wide[k]
    else:
        narrow = <const int32_t*>array.buffers[1]
        data[0] = <const char*>array.buffers[2] + narrow[k]
        size[0] = narrow[k + 1] - narrow[k]
    return size[0] >= 0


cdef inline int64_t index_at(const void* indices, char kind, Py_ssize_t k) noexcept nogil:
    if kind == c'c':
        return (<const int8_t*>indices)[k]
    if kind == c'C':
        return (<const uint8_t*>indices)[k]
    if kind == c's':
        return (<const int16_t*>indices)[k]
    if kind == c'S':
        return (<const uint16_t*>indices)[k]
    if kind == c'i':
        return (<const int32_t*>indices)[k]
    if kind == c'I':
        return (<const uint32_t*>indices)[k]
    return (<const int64_t*>indices)[k]


cdef char text_kind(const ArrowSchema* schema) noexcept:
    """"u", "U" or "v"; 0: it is no text."""
    cdef bytes name = schema.format
    if name in (b"u", b"z"):
        return c'u'
    if name in (b"U", b"Z"):
        return c'U'
    if name in (b"vu", b"vz"):
        return c'v'
    return 0


cdef enum:
    OUT_OF_MEMORY = -1
    A_NULL = -2
    BROKEN = -3


cdef int number_texts(
    const ArrowArray* array, char kind, TextTable table, int32_t* codes, Py_ssize_t before, Py_ssize_t* done
) noexcept nogil:
    """The number of each text; ``done``: how many there are when it ends."""
    cdef Py_ssize_t k
    cdef const char* data = NULL
    cdef Py_ssize_t size = 0
    for k in range(array.length):
        done[0] = k
        if is_null(array, array.offset + k):
            return A_NULL
        if not text_at(array, kind, array.offset + k, &data, &size):
            return BROKEN
        codes[k] = table.place(data, size, before + k)
        if codes[k] < 0:
            return OUT_OF_MEMORY
    done[0] = array.length
    return 0


cdef int number_indices(
    const ArrowArray* array, char index_kind, char kind, TextTable table, int32_t* codes, Py_ssize_t before,
    int32_t* known, Py_ssize_t* done
) noexcept nogil:
    """The same for a dictionary's indices. ``known``: room for the number of each of its texts, looked up when met."""
    cdef const ArrowArray* texts = array.dictionary
    cdef const char* data = NULL
    cdef Py_ssize_t size = 0, k
    cdef int64_t index
    memset(known, 0xFF, texts.length * sizeof(int32_t))
    for k in range(array.length):
        done[0] = k
        if is_null(array, array.offset + k):
            return A_NULL
        index = index_at(array.buffers[1], index_kind, array.offset + k)
        if not 0 <= index < texts.length:
            return BROKEN
        if known[index] < 0:
            if is_null(texts, texts.offset + index):
                return A_NULL
            if not text_at(texts, kind, texts.offset + index, &data, &size):
                return BROKEN
            known[index] = table.place(data, size, before + k)
            if known[index] < 0:
                return OUT_OF_MEMORY
        codes[k] = known[index]
    done[0] = array.length
    return 0


@cython.final
cdef class ArrowTexts:
    """A column of text from a stream of arrays: kept until the numbers of its texts are known."""

    cdef object capsule
    cdef ArrowSchema schema
    cdef ArrowArray* arrays
    cdef Py_ssize_t count
    cdef Py_ssize_t rows
    cdef char kind  # of the texts
    cdef char index_kind  # of the indices; 0: there is no dictionary

    def __init__(self, capsule):
        """``capsule``: what ``__arrow_c_stream__`` gave."""
        cdef ArrowArrayStream* stream = <ArrowArrayStream*>PyCapsule_GetPointer(capsule, b"arrow_array_stream")
        cdef ArrowArray next
        cdef void* grown
        cdef bytes name
        self.capsule = capsule
        if stream.release is NULL:
            raise TickError("symbols is refused: its Arrow stream has been read before.")
        if stream.get_schema(stream, &self.schema) != 0:
            raise TickError(f"symbols is refused: {self.said(stream)}")
        if self.schema.dictionary is not NULL:
            name = self.schema.format
            self.index_kind = name[0] if name in (b"c", b"C", b"s", b"S", b"i", b"I", b"l", b"L") else 0
            self.kind = text_kind(self.schema.dictionary) if self.index_kind else 0
        else:
            self.kind = text_kind(&self.schema)
        if not self.kind:
            raise TickError(f"symbols is refused: its Arrow type is {self.format()!r}, and must be text.")
        while True:
            memset(&next, 0, sizeof(next))
            if stream.get_next(stream, &next) != 0:
                raise TickError(f"symbols is refused: {self.said(stream)}")
            if next.release is NULL:
                return
            grown = PyMem_RawRealloc(self.arrays, (self.count + 1) * sizeof(ArrowArray))
            if grown is NULL:
                next.release(&next)
                raise MemoryError
            self.arrays = <ArrowArray*>grown
            self.arrays[self.count] = next
            self.count += 1
            self.rows += next.length

    def __dealloc__(self):
        cdef Py_ssize_t k
        for k in range(self.count):
            if self.arrays[k].release is not NULL:
                self.arrays[k].release(&self.arrays[k])
        PyMem_RawFree(self.arrays)
        if self.schema.release is not NULL:
            self.schema.release(&self.schema)

    cdef object symbol(self, bytes name):
        """A text as the library itself would give it: str, or bytes where the column holds those."""
        cdef ArrowSchema* texts = self.schema.dictionary if self.index_kind else &self.schema
        if b"z" in (<bytes>texts.format).lower():
            return name
        try:
            return name.decode()
        except UnicodeDecodeError:
            return name

    cdef str format(self):
        return (<bytes>self.schema.format).decode(errors="replace")

    cdef str said(self, ArrowArrayStream* stream):
        cdef const char* text = stream.get_last_error(stream)
        return "its Arrow stream failed" if text is NULL else (<bytes>text).decode(errors="replace")

    cdef Py_ssize_t number(self, TextTable table, int32_t* codes) except -1:
        """The number of each row's text, up to the first row without one: how many rows those are."""
        cdef Py_ssize_t before = 0, done = 0, k
        cdef ArrowArray* array
        cdef int32_t* known
        cdef int result
        for k in range(self.count):
            array = &self.arrays[k]
            if array.length == 0:
                continue
            if self.index_kind:
                known = <int32_t*>PyMem_RawMalloc(max(1, array.dictionary.length) * sizeof(int32_t))
                if known is NULL:
                    raise MemoryError
                with nogil:
                    result = number_indices(
                        array, self.index_kind, self.kind, table, codes + before, before, known, &done
                    )
                PyMem_RawFree(known)
            else:
                with nogil:
                    result = number_texts(array, self.kind, table, codes + before, before, &done)
            if result == OUT_OF_MEMORY:
                raise MemoryError
            if result == BROKEN:
                raise TickError(f"row {before + done}: symbols is refused: its Arrow array is damaged.")
            before += done
            if result == A_NULL:
                return before
        return before
