# The parts of a RESP reply, found in its bytes without copying one. Uses: nothing of the other rooms.

cdef struct Text:
    const char* data
    Py_ssize_t size


cdef inline int header(const char** at, const char* end, char kind, Py_ssize_t* number) noexcept:
    """Reads ``*12\\r\\n`` or ``$12\\r\\n``."""
    cdef const char* p = at[0]
    cdef Py_ssize_t found = 0
    if p >= end:
        return MORE
    if p[0] != kind:
        return OTHER
    p += 1
    while p < end and c"0" <= p[0] <= c"9":
        found = 10 * found + (p[0] - c"0")
        if found > MAX_LENGTH:
            return OTHER
        p += 1
    if end - p < 2:
        return MORE if p == end or p[0] == c"\r" else OTHER
    if p[0] != c"\r" or p[1] != c"\n" or p - at[0] == 1:
        return OTHER
    at[0] = p + 2
    number[0] = found
    return TAKEN


cdef inline int bulk(const char** at, const char* end, Text* text) noexcept:
    """Reads ``$3\\r\\nabc\\r\\n``."""
    cdef const char* p = at[0]
    cdef int state = header(&p, end, c"$", &text.size)
    if state != TAKEN:
        return state
    if end - p < text.size + 2:
        return MORE
    text.data = p
    p += text.size
    if p[0] != c"\r" or p[1] != c"\n":
        return OTHER
    at[0] = p + 2
    return TAKEN


cdef inline int null(const char** at, const char* end) noexcept:
    """Reads a null of either protocol: ``*-1``, ``$-1`` or ``_``."""
    cdef const char* p = at[0]
    cdef Py_ssize_t size = end - p
    if size == 0:
        return MORE
    if p[0] == c"_":
        if size < 3:
            return MORE if size == 1 or p[1] == c"\r" else OTHER
        if p[1] != c"\r" or p[2] != c"\n":
            return OTHER
        at[0] = p + 3
        return TAKEN
    if p[0] != c"*" and p[0] != c"$":
        return OTHER
    if size < 5:
        return MORE if memcmp(p + 1, b"-1\r\n", size - 1) == 0 else OTHER
    if memcmp(p + 1, b"-1\r\n", 4) != 0:
        return OTHER
    at[0] = p + 5
    return TAKEN
