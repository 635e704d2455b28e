# Values that ticks may have, read from whatever object or text holds them. Uses: layout.

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


cdef inline bint quick_double(const char* text, Py_ssize_t size, double* out) noexcept nogil:
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


cdef inline int64_t digits_ms(const char* text, Py_ssize_t size, bint stream_id) noexcept nogil:
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
