# Lines of a trade file into columns. Uses: layout, values, texts.

cdef extern from *:
    """
    #define SM_ONES 0x0101010101010101ULL
    #define SM_HIGHS 0x8080808080808080ULL
    #if defined(__GNUC__) || defined(__clang__)
    #define SM_LOWEST(word) (__builtin_ctzll(word) >> 3)
    #else
    static inline int SM_LOWEST(unsigned long long word) {
        int at = 0;
        while (!(word & 0xFF)) { word >>= 8; at++; }
        return at;
    }
    #endif
    """
    const uint64_t ONES "SM_ONES"
    const uint64_t HIGHS "SM_HIGHS"
    int lowest "SM_LOWEST"(uint64_t word) nogil  # the place of the first byte that is not 0


cdef inline const char* to_separator(
    const char* at, const char* behind, const char* end, char separator
) noexcept nogil:
    """Where the next separator stands before ``behind``, else that. Eight bytes at a time, as long as the block (to
    ``end``) has so many: a byte of ``same`` is 0 where the text's is the separator, and the lowest such byte is found
    by its borrow (Mycroft 1987)."""
    cdef uint64_t pattern = ONES * <uint8_t>separator, same, found
    while at < behind and end - at >= 8:
        same = word(at, 8) ^ pattern
        found = (same - ONES) & ~same & HIGHS
        if found:
            at += lowest(found)
            return at if at < behind else behind
        at += 8
    while at < behind and at[0] != separator:
        at += 1
    return at if at < behind else behind


cdef enum:  # the roles of trade_rows.ROLES
    PRICE = 0
    VOLUME = 1
    TIME = 2
    ID = 3
    FIRST = 4
    LAST = 5
    SYMBOL = 6
    ROLE_COUNT = 7
    MOST_PLACES = 64
    SHORTEST_LINE = 13  # bytes: a time since 2000 has nine digits

assert _trade_rows.ROLES == ("price", "volume", "time", "id", "first", "last", "symbol")
assert _trade_rows.MOST_COLUMNS == MOST_PLACES

cdef struct Piece:  # of a line: where it stands
    const char* text
    Py_ssize_t size

cdef struct Lines:
    const char* at
    const char* end
    char separator
    int[MOST_PLACES] roles
    int places
    bint[ROLE_COUNT] used
    Piece[ROLE_COUNT] fields
    double* prices
    double* volumes
    int64_t* times
    int64_t* ids
    int64_t* fills
    int32_t* codes
    Py_ssize_t rows
    Py_ssize_t line  # within the block
    int wrong  # the role of the field that is refused
    int columns  # of the line that lacks one


cdef enum:  # how a block ends
    ALL_READ = 0
    REFUSED = 1
    NO_FIELD = 2
    POOR = 3
    UNUSUAL = 4  # a field that Python is to read


cdef inline int split(Lines* lines) noexcept nogil:
    """The fields of the next line, and the place behind it. 0: the line is empty."""
    cdef const char* at = lines.at
    cdef const char* behind = <const char*>memchr(at, c'\n', lines.end - at)
    cdef const char* stop
    cdef const char* end
    cdef int place = 0, role
    if behind is NULL:
        behind = lines.end
        lines.at = behind
    else:
        lines.at = behind + 1
    lines.line += 1
    if behind > at and (behind - 1)[0] == c'\r':
        behind -= 1
    if behind == at:
        return 0
    while place < lines.places:
        if at < behind and at[0] == c'"':
            stop = <const char*>memchr(at + 1, c'"', behind - at - 1)
            end = stop if stop is not NULL else behind
            role = lines.roles[place]
            if role >= 0:
                lines.fields[role].text, lines.fields[role].size = at + 1, end - at - 1
            at = end
            at = to_separator(at, behind, lines.end, lines.separator)
        else:
            stop = to_separator(at, behind, lines.end, lines.separator)
            role = lines.roles[place]
            if role >= 0:
                lines.fields[role].text, lines.fields[role].size = at, stop - at
            at = stop
        place += 1
        if at == behind:
            break
        at += 1  # the separator; a line may end with one
    return place


cdef inline int64_t quick_time(const char* text, Py_ssize_t size) noexcept nogil:
    """What ``trade_rows.time_of`` makes of digits, with a fraction or without; -1: Python is to look at it."""
    cdef int64_t whole = 0, thousandths = 0, weight = 100
    cdef Py_ssize_t at = 0
    while at < size and c'0' <= text[at] <= c'9':
        if at == 18:
            return -1
        whole = whole * 10 + (text[at] - c'0')
        at += 1
    if at == 0:
        return -1
    if at < size:
        if text[at] != c'.':
            return -1
        at += 1
        while at < size:
            if not c'0' <= text[at] <= c'9':
                return -1
            thousandths += (text[at] - c'0') * weight
            weight //= 10
            at += 1
    if whole < <int64_t>100_000_000_000:
        whole = whole * 1000 + thousandths
    elif whole < <int64_t>100_000_000_000_000:
        pass
    elif whole < <int64_t>100_000_000_000_000_000:
        whole //= 1000
    else:
        whole //= 1_000_000
    return whole if EARLIEST_MS <= whole <= LATEST_MS else -1


cdef inline int64_t quick_id(const Piece* field) noexcept nogil:
    cdef int64_t number = digits_ms(field.text, field.size, False)
    return number if field.size <= 18 else -1


cdef int read_lines(Lines* lines, TextTable symbols) noexcept nogil:
    """Read to the end, or to what cannot be read here; then the line's fields stand in ``fields``."""
    cdef int found, role
    cdef Py_ssize_t row
    cdef int64_t first, last
    while lines.at < lines.end:
        found = split(lines)
        if found == 0:
            continue
        if found < lines.places:
            lines.columns = found
            for role in range(ROLE_COUNT):
                if lines.used[role] and place_of(lines, role) >= found:
                    lines.wrong = role
                    return NO_FIELD
        row = lines.rows
        if not quick_double(lines.fields[PRICE].text, lines.fields[PRICE].size, &lines.prices[row]):
            return UNUSUAL
        if not quick_double(lines.fields[VOLUME].text, lines.fields[VOLUME].size, &lines.volumes[row]):
            return UNUSUAL
        if not (lines.prices[row] >= 0.0 and lines.volumes[row] >= 0.0):
            return UNUSUAL
        lines.times[row] = quick_time(lines.fields[TIME].text, lines.fields[TIME].size)
        if lines.times[row] < 0:
            return UNUSUAL
        if not_numbers(lines, symbols) < 0:
            return POOR
        lines.rows += 1
    return ALL_READ


cdef inline int not_numbers(Lines* lines, TextTable symbols) noexcept nogil:
    """What a line has beside its price, volume and time."""
    cdef Py_ssize_t row = lines.rows
    cdef int64_t first, last
    if lines.used[ID]:
        lines.ids[row] = quick_id(&lines.fields[ID])
    if lines.fills is not NULL:
        first, last = quick_id(&lines.fields[FIRST]), quick_id(&lines.fields[LAST])
        lines.fills[row] = last - first + 1 if 0 <= first <= last else 1
    if lines.used[SYMBOL]:
        lines.codes[row] = symbols.place(lines.fields[SYMBOL].text, lines.fields[SYMBOL].size, row)
        return lines.codes[row]
    return 0


cdef inline int place_of(const Lines* lines, int role) noexcept nogil:
    cdef int place
    for place in range(lines.places):
        if lines.roles[place] == role:
            return place
    return -1


def trade_lines(block, places, Py_ssize_t line=1, separator=b","):
    """Whole lines of a trade file as columns.

    Args:
        block: bytes, or what has a buffer of them; lines end with LF or CR LF, empty ones are passed over.
        places: the column, from 0, of each role (``trade_rows.ROLES``); price, volume and time at least.
        line: the number of the first, for messages. separator: one byte.

    Returns:
        TradeRows.

    Raises:
        TickError: names the first line and field that cannot be used.
    """
    import numpy

    cdef Lines lines
    cdef TextTable symbols = TextTable()
    cdef Py_buffer buffer
    cdef list roles = _trade_rows.roles_of(places)
    cdef Py_ssize_t count, k
    cdef int result
    memset(&lines, 0, sizeof(lines))
    lines.separator = (<bytes>separator)[0]
    lines.places = <int>len(roles)
    for k in range(lines.places):
        lines.roles[k] = roles[k]
        if roles[k] >= 0:
            lines.used[<int>roles[k]] = True
    PyObject_GetBuffer(block, &buffer, PyBUF_SIMPLE)
    try:
        lines.at = <const char*>buffer.buf
        lines.end = lines.at + buffer.len
        count = buffer.len // SHORTEST_LINE + 2  # what is not written to costs nothing
        prices, volumes = numpy.empty(count), numpy.empty(count)
        times = numpy.empty(count, numpy.int64)
        ids = numpy.empty(count, numpy.int64) if lines.used[ID] else None
        fills = numpy.empty(count, numpy.int64) if lines.used[FIRST] and lines.used[LAST] else None
        codes = numpy.empty(count, numpy.int32) if lines.used[SYMBOL] else None
        lines.prices, lines.volumes = <double*>address(prices), <double*>address(volumes)
        lines.times = <int64_t*>address(times)
        lines.ids = <int64_t*>address(ids)
        lines.fills = <int64_t*>address(fills)
        lines.codes = <int32_t*>address(codes)
        while True:
            with nogil:
                result = read_lines(&lines, symbols)
            if result != UNUSUAL:
                break
            read_slowly(&lines, line)
            if not_numbers(&lines, symbols) < 0:
                raise MemoryError
            lines.rows += 1
        if result == NO_FIELD:
            raise _trade_rows.field_error(
                line + lines.line - 1, _trade_rows.ROLES[lines.wrong], None, lines.columns
            )
        if result == POOR:
            raise MemoryError
        names = []
        for k in range(symbols.count):
            name = PyBytes_FromStringAndSize(symbols.texts[k].data, symbols.texts[k].size)
            try:
                names.append(name.decode())
            except UnicodeDecodeError:
                raise _trade_rows.field_error(line + symbols.texts[k].row, "symbol", name, 0) from None
    finally:
        PyBuffer_Release(&buffer)
    cut = slice(lines.rows)
    return _trade_rows.TradeRows(
        prices[cut], volumes[cut], times[cut],
        None if ids is None else ids[cut], None if fills is None else fills[cut], None if codes is None else codes[cut],
        names, lines.line,
    )


cdef void* address(object array) except? NULL:
    """Where a new array's numbers lie; it is held by who asks."""
    if array is None:
        return NULL
    return <void*><size_t>array.ctypes.data


cdef int read_slowly(Lines* lines, Py_ssize_t line) except -1:
    """A line with a field that is no plain decimal, as ``float()`` and ``trade_rows`` read it."""
    cdef Py_ssize_t row = lines.rows
    for role in (PRICE, VOLUME, TIME):
        text = PyBytes_FromStringAndSize(lines.fields[role].text, lines.fields[role].size)
        value = _trade_rows.time_of(text) if role == TIME else _trade_rows.number_of(text)
        if value is None or (role != TIME and value < 0):
            raise _trade_rows.field_error(line + lines.line - 1, _trade_rows.ROLES[role], text, 0)
        if role == PRICE:
            lines.prices[row] = value
        elif role == VOLUME:
            lines.volumes[row] = value
        else:
            lines.times[row] = value
    return 0
