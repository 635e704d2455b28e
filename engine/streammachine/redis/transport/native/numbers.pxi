# Numbers and times from their texts, exactly as Python reads them. Uses: nothing of the other rooms.

cdef double[23] POWERS
cdef int _power
for _power in range(23):
    POWERS[_power] = float("1e" + str(_power))


cdef inline bint plain_digits(const char* text, Py_ssize_t size, int64_t* out) noexcept:
    """1 to 18 digits."""
    cdef int64_t found = 0
    cdef Py_ssize_t at
    if not 0 < size <= 18:
        return False
    for at in range(size):
        if not c"0" <= text[at] <= c"9":
            return False
        found = 10 * found + (text[at] - c"0")
    out[0] = found
    return True


cdef inline int number(const char* text, Py_ssize_t size, double* out) except -1:
    """A plain number, exactly as ``float()`` reads it. Digits up to 2**53 and a power of ten up to 1e22 are doubles
    without error, so one division rounds once (Clinger 1990); others go to the interpreter's own routine.
    """
    cdef uint64_t digits = 0
    cdef Py_ssize_t at = 0, seen = 0, fraction = 0
    cdef bint negative = False, point = False
    cdef unsigned char c
    cdef double value
    if 0 < size <= 19:
        if text[0] == c"-":
            negative = True
            at = 1
        while at < size:
            c = <unsigned char>text[at]
            at += 1
            if c"0" <= c <= c"9":
                digits = digits * 10 + (c - c"0")
                seen += 1
                fraction += point
            elif c == c"." and not point:
                point = True
            else:
                return longer_number(text, size, out)
        if seen and digits <= (<uint64_t>1 << 53):
            value = <double>digits
            if fraction:
                value /= POWERS[fraction]
            out[0] = -value if negative else value
            return True
    return longer_number(text, size, out)


cdef int longer_number(const char* text, Py_ssize_t size, double* out) except -1:
    """Sign, digits with or without a point, exponent: what ``float()`` also takes beyond that is odd."""
    cdef char[MOST_TEXT + 1] copy
    cdef Py_ssize_t at = 0, seen = 0, first
    if not 0 < size <= MOST_TEXT:
        return False
    if text[0] == c"-" or text[0] == c"+":
        at = 1
    first = at
    while at < size and c"0" <= text[at] <= c"9":
        at += 1
    seen = at - first
    if at < size and text[at] == c".":
        at += 1
        first = at
        while at < size and c"0" <= text[at] <= c"9":
            at += 1
        seen += at - first
    if seen == 0:
        return False
    if at < size and (text[at] == c"e" or text[at] == c"E"):
        at += 1
        if at < size and (text[at] == c"-" or text[at] == c"+"):
            at += 1
        first = at
        while at < size and c"0" <= text[at] <= c"9":
            at += 1
        if at == first:
            return False
    if at != size:
        return False
    memcpy(copy, text, size)
    copy[size] = 0
    out[0] = string_to_double(copy, NULL, NULL)
    return fabs(out[0]) <= DBL_MAX


cdef inline int whole(const char* text, Py_ssize_t size, int64_t* out) except -1:
    cdef double value = 0.0
    if plain_digits(text, size, out):
        return True
    if not number(text, size, &value) or not 0.0 <= value <= 9007199254740992.0 or floor(value) != value:
        return False
    out[0] = <int64_t>value
    return True


cdef inline bint id_time(const char* text, Py_ssize_t size, int64_t* out) noexcept:
    """The milliseconds of ``digits-digits``, each of 1 to 18."""
    cdef Py_ssize_t at = 0
    cdef int64_t sequence = 0
    while at < size and text[at] != c"-":
        at += 1
    return plain_digits(text, at, out) and at < size and plain_digits(text + at + 1, size - at - 1, &sequence)
