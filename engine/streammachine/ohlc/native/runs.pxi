# Checked columns into the series, without the GIL: what one thread does. Uses: layout, candles.
#
# Rows are checked a block at a time while they lie in the cache, then taken one series after the other, each one's rows
# in their order.

cdef enum:
    BLOCK = 8192  # rows
    SORTED = 512  # series: of more than these a block has too few rows of each to be sorted
    MOST_THREADS = 16
    MOST_STRETCHES = MOST_THREADS  # of rows shared out by time

cdef extern from *:
    """
    #define SM_SIGN 0x8000000000000000ULL
    #define SM_EXPONENT_ONE 0x0010000000000000ULL
    """
    const uint64_t SIGN "SM_SIGN"
    const uint64_t EXPONENT_ONE "SM_EXPONENT_ONE"

ctypedef fused code_t:
    int8_t
    int16_t
    int32_t
    int64_t

cdef struct Rows:
    const double* prices
    const double* volumes
    const int64_t* times
    const void* codes  # of each row, an index into table; NULL: all are the first's
    int code_width  # bytes
    Py_ssize_t count
    Series** table  # NULL: there is no such symbol
    Hot** hots  # of each series, that of the one root; NULL: there are more roots
    Py_ssize_t size  # of the table
    bint sorted  # a block's rows are taken one series after the other: none stands in the table twice
    const uint8_t* owners  # of the table's series, the number of the thread that takes it; NULL: there is one
    int threads
    int stretches  # as many, at most, where they are shared out by time
    int stop  # somebody gave up

cdef struct Share:  # what one thread does
    Rows* rows
    Plan plan  # its own count of what was dropped
    int number
    int64_t ticks
    int64_t late
    int64_t low  # where rows are shared out by time: those of this share are from ``low`` to below ``high``,
    int64_t high
    int64_t safe  # and below ``safe`` none may come out of order
    bint astray  # one was not so
    bint alone  # its series are its own: an astray row ends it
    bint bad  # a row is refused
    bint poor  # no memory
    bint taken  # its rows were, as far as they are good
    int part  # the first share of those that went into one part
    PyThread_type_lock done

cdef struct Saved:  # a slot as it was
    Series* series
    Py_ssize_t at
    Slot slot
    Candle* candles


# ---------------------------------------------------------------- checking

cdef inline bint good_block(const Rows* rows, Py_ssize_t first, Py_ssize_t behind) noexcept nogil:
    """Whether prices and volumes are finite, no volume is below 0, and times lie within their bounds. Whole words, so
    that the compiler can do several at once: the highest bit of ``wrong`` is set where a value is refused."""
    cdef const uint64_t* prices = <const uint64_t*>rows.prices
    cdef const uint64_t* volumes = <const uint64_t*>rows.volumes
    cdef const uint64_t* times = <const uint64_t*>rows.times
    cdef uint64_t wrong = 0, signs = 0
    cdef Py_ssize_t k
    for k in range(first, behind):  # beyond the finite numbers all bits of the exponent are set
        wrong |= (prices[k] & ~SIGN) + EXPONENT_ONE
        wrong |= (volumes[k] & ~SIGN) + EXPONENT_ONE
        wrong |= times[k] | (<uint64_t>MAX_MS - times[k])
        signs |= volumes[k]
    if wrong >> 63:
        return False
    if signs >> 63:  # -0.0 is no volume below 0
        for k in range(first, behind):
            if not rows.volumes[k] >= 0.0:
                return False
    return True


# ---------------------------------------------------------------- taking

cdef inline bint out_of_order(const Plan* plan, const Series* series, int64_t ms) noexcept nogil:
    """Whether a root has a candle that is newer than a time's."""
    cdef Py_ssize_t k
    cdef Slot* slot
    for k in range(plan.root_count):
        slot = &series.slots[plan.roots[k]]
        if slot.length and ms < newest(slot).start:
            return True
    return False


cdef inline int take_one(Share* share, Series* series, double price, double volume, int64_t ms) noexcept nogil:
    cdef Plan* plan = &share.plan
    cdef Py_ssize_t k
    cdef int result = 0, above
    for k in range(plan.root_count):
        if <uint64_t>(ms - series.hots[k].start) >= series.hots[k].width:
            break
    else:
        for k in range(plan.root_count):
            add_tick(series.hots[k].candle, price, volume, ms)
        share.ticks += 1
        return 0
    if ms < share.low or ms >= share.high or (ms < share.safe and out_of_order(plan, series, ms)):
        share.astray = True
        if share.alone:
            return -1
    for k in range(plan.root_count):
        above = walk(plan, series, plan.roots[k], price, volume, ms)
        if above < 0:
            refresh_hots(plan, series)
            share.poor = True
            return -1
        result |= above
    refresh_hots(plan, series)
    share.ticks += (result & ACCEPTED) != 0
    share.late += (result & LATE) != 0
    return 0


cdef inline int take_run(
    Share* share, Series* series, const uint16_t* places, Py_ssize_t first, Py_ssize_t count, const bint straight
) noexcept nogil:
    """Rows of one series: those at ``places`` from ``first`` on, or with ``straight`` all. What lies within the newest
    candles of all roots needs one compare; it is gathered in registers, and only volumes are added up in each root,
    since the order of additions counts."""
    cdef Plan* plan = &share.plan
    cdef const double* prices = share.rows.prices + first
    cdef const double* volumes = share.rows.volumes + first
    cdef const int64_t* times = share.rows.times + first
    cdef Candle* candle
    cdef Py_ssize_t k = 0, begun, row, opening, closing, root, again
    cdef int64_t start, ms, newest_ms, oldest_ms
    cdef uint64_t width
    cdef double price, high, low, volume
    while k < count:
        row = k if straight else places[k]
        ms = times[row]
        common_window(plan, series, &start, &width)
        if <uint64_t>(ms - start) >= width:
            k += 1
            if take_one(share, series, prices[row], volumes[row], ms) < 0:
                return -1
            continue
        begun, opening, closing = k, row, row
        newest_ms, oldest_ms = ms, ms
        candle = series.hots[0].candle
        volume = candle.volume
        high = low = prices[row]
        while True:
            price = prices[row]
            volume += volumes[row]
            high = price if price > high else high
            low = price if price < low else low
            if ms >= newest_ms:
                newest_ms = ms
                closing = row
            if ms < oldest_ms:
                oldest_ms = ms
                opening = row
            k += 1
            if k == count:
                break
            row = k if straight else places[k]
            ms = times[row]
            if <uint64_t>(ms - start) >= width:
                break
        candle.volume = volume
        for root in range(plan.root_count):
            candle = series.hots[root].candle
            if root:
                volume = candle.volume
                for again in range(begun, k):
                    volume += volumes[again if straight else places[again]]
                candle.volume = volume
            candle.count += k - begun
            if high > candle.high:
                candle.high = high
            if low < candle.low:
                candle.low = low
            if newest_ms >= candle.last:
                candle.last = newest_ms
                candle.close = prices[closing]
            if oldest_ms < candle.first:
                candle.first = oldest_ms
                candle.open = prices[opening]
        share.ticks += k - begun
    return 0


cdef inline void common_window(const Plan* plan, const Series* series, int64_t* start, uint64_t* width) noexcept nogil:
    """What lies within the newest candles of all roots."""
    cdef int64_t begin = series.hots[0].start, end = begin + <int64_t>series.hots[0].width
    cdef Py_ssize_t k
    for k in range(1, plan.root_count):
        begin = max(begin, series.hots[k].start)
        end = min(end, series.hots[k].start + <int64_t>series.hots[k].width)
    start[0], width[0] = begin, <uint64_t>(end - begin) if end > begin else 0


cdef inline Py_ssize_t pick(
    Share* share, const code_t* codes, Py_ssize_t first, Py_ssize_t behind, uint32_t* mine, uint16_t* places
) noexcept nogil:
    """A thread's own rows of a block, found without a branch: their codes and places. -1: a row is refused. Each code
    is read once: the column may be somebody's who changes it meanwhile."""
    cdef const uint8_t* owners = share.rows.owners
    cdef uint8_t number = <uint8_t>share.number
    cdef uint64_t size = <uint64_t>share.rows.size, code
    cdef Py_ssize_t k, found = 0
    if owners is NULL:
        for k in range(first, behind):
            code = <uint64_t>codes[k]
            if code >= size:
                share.bad = True
                return -1
            mine[k - first] = <uint32_t>code
            places[k - first] = <uint16_t>(k - first)
        return behind - first
    for k in range(first, behind):
        code = <uint64_t>codes[k]
        if code >= size:
            share.bad = True
            return -1
        mine[found] = <uint32_t>code
        places[found] = <uint16_t>(k - first)
        found += owners[code] == number
    return found


cdef int take_picked(
    Share* share, Py_ssize_t first, const uint32_t* mine, const uint16_t* places, Py_ssize_t found
) noexcept nogil:
    """In their order: for so many series that a block has few rows of each."""
    cdef const Rows* rows = share.rows
    cdef Series** table = rows.table
    cdef Hot** hots = rows.hots
    cdef Hot* hot
    cdef Py_ssize_t k, row, others = 0
    if hots is NULL:
        for k in range(found):
            row = first + places[k]
            if table[mine[k]] is NULL:
                share.bad = True
                return -1
            if take_one(share, table[mine[k]], rows.prices[row], rows.volumes[row], rows.times[row]) < 0:
                return -1
        return 0
    for k in range(found):
        row = first + places[k]
        hot = hots[mine[k]]
        if hot is NULL:
            share.bad = True
            return -1
        if <uint64_t>(rows.times[row] - hot.start) < hot.width:
            add_tick(hot.candle, rows.prices[row], rows.volumes[row], rows.times[row])
        else:
            others += 1
            if take_one(share, table[mine[k]], rows.prices[row], rows.volumes[row], rows.times[row]) < 0:
                return -1
    share.ticks += found - others
    return 0


cdef inline int count_codes(
    Share* share, const code_t* codes, Py_ssize_t first, Py_ssize_t count, uint16_t* mine, uint32_t* ends
) noexcept nogil:
    """All rows' codes, once each, and how many rows each series has. -1: a row is refused."""
    cdef uint64_t size = <uint64_t>share.rows.size, code
    cdef Py_ssize_t k
    for k in range(count):
        code = <uint64_t>codes[first + k]
        if code >= size:
            share.bad = True
            return -1
        mine[k] = <uint16_t>code
        ends[code] += 1
    return 0


cdef int begin_runs(Share* share, uint32_t* ends) noexcept nogil:
    """Counts to where each series' rows begin. -1: a row has no series."""
    cdef uint32_t begin = 0, count
    cdef Py_ssize_t k
    for k in range(share.rows.size):
        count = ends[k]
        if count and share.rows.table[k] is NULL:
            share.bad = True
            return -1
        ends[k] = begin
        begin += count
    return 0


cdef int take_runs(Share* share, Py_ssize_t first, const uint32_t* ends, const uint16_t* places) noexcept nogil:
    cdef uint32_t begin = 0
    cdef Py_ssize_t k
    for k in range(share.rows.size):
        if ends[k] > begin:
            if take_run(share, share.rows.table[k], places + begin, first, ends[k] - begin, False) < 0:
                return -1
            begin = ends[k]
    return 0


cdef int take_sorted(Share* share, const code_t* codes, Py_ssize_t first, Py_ssize_t behind) noexcept nogil:
    """One series after the other: sorted by counting, which keeps the order of each one's rows."""
    cdef uint32_t[SORTED] ends
    cdef uint16_t[BLOCK] mine
    cdef uint16_t[BLOCK] ordered
    cdef Py_ssize_t k
    memset(ends, 0, share.rows.size * sizeof(uint32_t))
    if count_codes(share, codes, first, behind - first, mine, ends) < 0 or begin_runs(share, ends) < 0:
        return -1
    for k in range(behind - first):
        ordered[ends[mine[k]]] = <uint16_t>k
        ends[mine[k]] += 1
    return take_runs(share, first, ends, ordered)


cdef int take_own(Share* share, const code_t* codes, Py_ssize_t first, Py_ssize_t behind) noexcept nogil:
    """The same of a thread's own rows, or in their order where there are too many series."""
    cdef uint32_t[SORTED] ends
    cdef uint32_t[BLOCK] mine
    cdef uint16_t[BLOCK] places
    cdef uint16_t[BLOCK] ordered
    cdef Py_ssize_t k, found = pick(share, codes, first, behind, mine, places)
    if found < 0:
        return -1
    if not share.rows.sorted:
        return take_picked(share, first, mine, places, found)
    memset(ends, 0, share.rows.size * sizeof(uint32_t))
    for k in range(found):
        ends[mine[k]] += 1
    if begin_runs(share, ends) < 0:
        return -1
    for k in range(found):
        ordered[ends[mine[k]]] = places[k]
        ends[mine[k]] += 1
    return take_runs(share, first, ends, ordered)


cdef inline int take_codes(Share* share, const code_t* codes, Py_ssize_t first, Py_ssize_t behind) noexcept nogil:
    if share.rows.sorted and share.rows.owners is NULL:
        return take_sorted(share, codes, first, behind)
    return take_own(share, codes, first, behind)


cdef int take_block(Share* share, Py_ssize_t first, Py_ssize_t behind) noexcept nogil:
    cdef const void* codes = share.rows.codes
    if codes is NULL:
        return take_run(share, share.rows.table[0], NULL, first, behind - first, True)
    if share.rows.code_width == 1:
        return take_codes(share, <const int8_t*>codes, first, behind)
    if share.rows.code_width == 2:
        return take_codes(share, <const int16_t*>codes, first, behind)
    if share.rows.code_width == 4:
        return take_codes(share, <const int32_t*>codes, first, behind)
    return take_codes(share, <const int64_t*>codes, first, behind)


cdef void take_share(Share* share) noexcept nogil:
    """Check every block, and take this thread's rows of it. Each thread checks all: what was read in a row is near when
    it is taken in another order."""
    cdef Rows* rows = share.rows
    cdef Py_ssize_t first = 0, behind
    while first < rows.count and not rows.stop:
        behind = min(first + BLOCK, rows.count)
        if not good_block(rows, first, behind):
            share.bad = True
        if share.bad or take_block(share, first, behind) < 0:
            rows.stop = True
            return
        first = behind


cdef void on_thread(void* share) noexcept nogil:
    take_share(<Share*>share)
    PyThread_release_lock((<Share*>share).done)
