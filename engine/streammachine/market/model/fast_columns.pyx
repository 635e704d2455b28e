# cython: language_level=3, wraparound=False, boundscheck=False, initializedcheck=False
"""Candles as columns: the lines of Binance's bulk files read into arrays, and arrays' texts put together as lines.

Only lines that are exactly as they usually are become part of a column; at the first that is not, reading stops, and
the caller has the plain way (``backfill.bulk_files.read``) say what it is. So nothing is accepted here that the plain
way would not accept, and it makes the same values of it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcpy

cdef extern from *:
    """
    static const double sm_tens[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14,
        1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    """
    const double sm_tens[23]

cdef enum:
    CELLS = 12
    EXACT_DIGITS = 19  # decimal digits that a 64 bit integer always holds
    LONGEST_LINE = 900  # bytes; the plain way takes a few more
    LONGEST_NUMBER = 64  # as exchanges.fast_decode
    NUMBERS = 6  # open, high, low, close, volume, quote volume

cdef enum Stop:
    AT_THE_END = 0
    WHEN_FULL = 1
    AT_AN_ODD_LINE = 2

ENDED = AT_THE_END  # every whole line was taken
FULL = WHEN_FULL  # the arrays are full
ODD = AT_AN_ODD_LINE  # the line at which it stopped is not as usual

cdef long long LATEST = 253_402_300_799_999  # decode.LATEST
cdef long long MICROSECONDS = 100_000_000_000_000  # bulk_files.MICROSECONDS
cdef unsigned long long EXACT = 1 << 53  # integers up to it are doubles
cdef double HUGE_PRICE = 1e18
cdef double HUGE_VOLUME = 1e30


def read_lines(
    const unsigned char[::1] data not None,
    Py_ssize_t at,
    long long step,
    int volume,
    int quote,
    long long[::1] starts not None,
    double[:, ::1] numbers not None,
    long long[::1] trades not None,
    long long[::1] places not None,
):
    """Read lines, each twelve cells and a newline, into the arrays.

    Args:
        data: bytes of the file. at: where the first line begins. step: of the timeframe, milliseconds.
        volume: which cell is the volume in the base currency. quote: that in the quote currency; -1: none.
        starts: for the candles' starts. numbers: six rows: open, high, low, close, volume, quote volume.
        trades: for the numbers of trades. places: for where each line begins.

    Returns:
        The number of candles, where the first line begins that was not taken, and why it stopped: ENDED, FULL or ODD.
    """
    cdef Py_ssize_t room = min(starts.shape[0], trades.shape[0], places.shape[0], numbers.shape[1])
    cdef Py_ssize_t length = data.shape[0]
    cdef Py_ssize_t count = 0
    cdef const unsigned char* line
    cdef const unsigned char* end
    cdef double values[6]
    cdef long long times[2]
    cdef int stopped = AT_THE_END, column
    if numbers.shape[0] < NUMBERS or not 0 <= at <= length or step <= 0:
        raise ValueError("six rows of numbers, a place within the data and a step above 0 are needed")
    if volume not in (5, 7) or quote not in (-1, 5, 7):
        raise ValueError("the volumes are the cells 5 and 7")
    with nogil:
        while at < length:
            line = &data[at]
            end = <const unsigned char*>memchr(line, 10, length - at)
            if end is NULL:
                break
            if count == room:
                stopped = WHEN_FULL
                break
            if end - line > LONGEST_LINE or not _candle(line, end, step, volume, quote, times, values):
                stopped = AT_AN_ODD_LINE
                break
            starts[count] = times[0]
            trades[count] = times[1]
            places[count] = at
            for column in range(NUMBERS):
                numbers[column, count] = values[column]
            count += 1
            at += end - line + 1
    return count, at, stopped


def joined(list columns not None, Py_ssize_t count, bytes separator not None, bytes end not None):
    """The lines that columns make.

    Args:
        columns: each the texts of its cells with a comma between two, or (a tuple of one) the text of every cell.
        count: of lines. separator: between two cells of a line, one byte. end: of each line.

    Raises:
        ValueError: a column has not so many cells.
    """
    cdef Py_ssize_t width = len(columns), column, row, size = 0, taken
    cdef const char* places[64]
    cdef const char* ends[64]
    cdef bint same[64]
    cdef const char* found
    cdef bytes text
    if not 0 < width <= 64 or count < 0 or len(separator) != 1:
        raise ValueError("1 to 64 columns and a separator of one byte are needed")
    for column in range(width):
        same[column] = type(columns[column]) is tuple
        text = columns[column][0] if same[column] else columns[column]
        places[column] = PyBytes_AS_STRING(text)
        ends[column] = places[column] + PyBytes_GET_SIZE(text)
        size += PyBytes_GET_SIZE(text) * (count if same[column] else 1)
        if not same[column] and text.count(b",") != max(count, 1) - 1:
            raise ValueError(f"column {column} has not {count} cells")
    size += count * (width - 1 + len(end))  # at least what is needed: the commas of the columns go
    cdef bytes made = PyBytes_FromStringAndSize(NULL, size)
    cdef char* out = PyBytes_AS_STRING(made)
    cdef char* begin = out
    cdef char between = separator[0]
    cdef const char* closing = PyBytes_AS_STRING(end)
    cdef Py_ssize_t closing_size = PyBytes_GET_SIZE(end)
    with nogil:
        for row in range(count):
            for column in range(width):
                if column:
                    out[0] = between
                    out += 1
                if same[column]:
                    taken = ends[column] - places[column]
                    memcpy(out, places[column], taken)
                else:
                    found = <const char*>memchr(places[column], 44, ends[column] - places[column])
                    taken = (ends[column] if found is NULL else found) - places[column]
                    memcpy(out, places[column], taken)
                    places[column] += taken + (found is not NULL)
                out += taken
            memcpy(out, closing, closing_size)
            out += closing_size
    return made[:out - begin]


cdef bint _candle(
    const unsigned char* line,
    const unsigned char* end,
    long long step,
    int volume,
    int quote,
    long long* times,
    double* values,
) noexcept nogil:
    """Read one line; False: it is not as usual. ``times``: the start and the number of trades."""
    cdef const unsigned char* cell = line
    cdef const unsigned char* behind
    cdef int number
    cdef long long start = 0, last = 0, trades = 0
    cdef double found[CELLS]
    for number in range(CELLS):
        if number < CELLS - 1:
            behind = <const unsigned char*>memchr(cell, 44, end - cell)
            if behind is NULL:
                return False
        else:
            behind = end
        if number == 0:
            start = _whole(cell, behind)
        elif number == 6:
            last = _whole(cell, behind)
        elif number == 8:
            trades = _whole(cell, behind)
        elif number < 8:
            found[number] = _decimal(cell, behind)
            if not found[number] >= 0:
                return False
        elif not _is_plain(cell, behind):
            return False
        cell = behind + 1
    if start >= MICROSECONDS and last >= 1000:
        start //= 1000
        last //= 1000
    if start < 0 or trades < 0 or start > LATEST or last > LATEST or trades > <long long>(EXACT - 1):
        return False
    if start % step or last != start + step - 1:
        return False
    if not (0 < found[3] <= found[2] < HUGE_PRICE and 0 < found[1] < HUGE_PRICE and 0 < found[4] < HUGE_PRICE):
        return False
    if not found[volume] < HUGE_VOLUME or (quote >= 0 and not found[quote] < HUGE_VOLUME):
        return False
    times[0] = start
    times[1] = trades
    for number in range(4):
        values[number] = found[number + 1]
    values[4] = found[volume]
    values[5] = found[quote] if quote >= 0 else 0.0
    return True


cdef inline long long _whole(const unsigned char* cell, const unsigned char* end) noexcept nogil:
    """An integer of up to 18 digits, without a zero before others; else -1."""
    cdef long long value = 0
    if cell == end or end - cell > 18 or (cell[0] == 48 and end - cell > 1):
        return -1
    while cell < end:
        if not 48 <= cell[0] <= 57:
            return -1
        value = value * 10 + (cell[0] - 48)
        cell += 1
    return value


cdef inline bint _is_plain(const unsigned char* cell, const unsigned char* end) noexcept nogil:
    """Whether there are only digits and points in a cell that nobody reads."""
    while cell < end:
        if not (48 <= cell[0] <= 57 or cell[0] == 46):
            return False
        cell += 1
    return True


cdef double _decimal(const unsigned char* cell, const unsigned char* end) noexcept nogil:
    """The double nearest to a decimal text (digits, with a point between them or without); else -1.

    Up to 2**53 the digits are a double, and so is the power of ten up to 10**22: their quotient, rounded once, is the
    nearest one (W. D. Clinger, How to Read Floating Point Numbers Accurately, 1990). Longer ones go to ``float``.
    """
    cdef Py_ssize_t length = end - cell, place, point = -1, digits = 0, behind
    cdef unsigned long long mantissa = 0
    cdef unsigned char one
    if length <= 0 or length > LONGEST_NUMBER:
        return -1.0
    for place in range(length):
        one = cell[place] - 48
        if one <= 9:
            digits += 1
            if digits <= EXACT_DIGITS:
                mantissa = mantissa * 10 + one
        elif cell[place] == 46 and point < 0 and 0 < place < length - 1:
            point = place
        else:
            return -1.0
    behind = length - 1 - point if point >= 0 else 0
    if digits <= EXACT_DIGITS and mantissa <= EXACT and behind <= 22:
        return <double>mantissa / sm_tens[behind]
    with gil:
        return float(PyBytes_FromStringAndSize(<const char*>cell, length))
