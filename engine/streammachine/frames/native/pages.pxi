# The bytes of one XRANGE reply: collected, and walked through to see where they end. Uses: buffers.

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
