# Times of texts, as milliseconds.


def iso_ms(text):
    """The milliseconds of a time, None where it is not of the usual form. For tests."""
    return _iso(text) if type(text) is str else None


cdef object _iso(str text):
    """Epoch milliseconds of YYYY-MM-DDThh:mm:ss, with digits of a second or without, and a Z; None: it is another form.

    Days by the civil calendar: counted in eras of 400 years that begin in March.
    """
    if not PyUnicode_IS_COMPACT_ASCII(text):
        return None
    cdef const unsigned char* data = <const unsigned char*>PyUnicode_DATA(text)
    cdef Py_ssize_t length = PyUnicode_GET_LENGTH(text)
    if not 20 <= length <= 30 or data[length - 1] != 90 or data[4] != 45 or data[7] != 45 or data[10] != 84:
        return None
    if data[13] != 58 or data[16] != 58:
        return None
    cdef int year = _digits(data, 4)
    cdef int month = _digits(data + 5, 2)
    cdef int day = _digits(data + 8, 2)
    cdef int hour = _digits(data + 11, 2)
    cdef int minute = _digits(data + 14, 2)
    cdef int second = _digits(data + 17, 2)
    if year < 1970 or not 1 <= month <= 12 or not 1 <= day <= _last_day(year, month):
        return None
    if not 0 <= hour <= 23 or not 0 <= minute <= 59 or not 0 <= second <= 59:
        return None
    cdef int part = 0, place
    if length > 20:
        if data[19] != 46 or length == 21:
            return None
        for place in range(20, length - 1):
            if not 48 <= data[place] <= 57:
                return None
            if place < 23:
                part = part * 10 + data[place] - 48
        for place in range(length - 1, 23):
            part *= 10
    cdef long long years = year - (1 if month <= 2 else 0)
    cdef long long of_era = years % 400
    cdef long long of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    cdef long long days = years // 400 * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468
    return ((days * 24 + hour) * 60 + minute) * 60_000 + second * 1000 + part


cdef inline int _digits(const unsigned char* data, int count):
    """The number that so many digits are, else -1."""
    cdef int found = 0, place
    for place in range(count):
        if not 48 <= data[place] <= 57:
            return -1
        found = found * 10 + data[place] - 48
    return found


cdef inline int _last_day(int year, int month):
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


cdef inline object _moment(ts):
    """A time as it is, or the whole number that a text of digits is; None: neither."""
    if type(ts) is not str:
        return ts
    cdef double found = _decimal(ts)
    if not 0 <= found <= <double>LATEST or found != <double><long long>found:
        return None
    return <long long>found
