# What text is: plain objects, digits, ASCII and UTF-8.

cdef inline const char* plain_text(object value, Py_ssize_t* size) except? NULL:
    """The bytes of a bytes or str, which the caller holds; NULL (and no error) for anything else."""
    if type(value) is bytes:
        size[0] = PyBytes_GET_SIZE(value)
        return PyBytes_AS_STRING(value)
    if type(value) is str:
        try:
            return PyUnicode_AsUTF8AndSize(value, size)
        except UnicodeEncodeError:  # a lone surrogate
            return NULL
    return NULL


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
