# Checked columns into the series, without the GIL and on some threads. Uses: layout, candles, values, core.
#
# A symbol's rows are taken by one thread, in their order, so every candle is what one thread alone would make of it,
# bit for bit. Rows are checked a block at a time while they lie in the cache; where one is bad, or memory ends, all
# series get back what they were.

cdef enum:
    BLOCK = 2048  # rows
    MOST_THREADS = 16

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
    Py_ssize_t size  # of the table
    const uint8_t* owners  # of the table's series, the number of the thread that takes it; NULL: there is one
    int threads
    int stop  # somebody gave up

cdef struct Share:  # what one thread does
    Rows* rows
    Plan plan  # its own count of what was dropped
    int number
    int64_t ticks
    int64_t late
    bint bad  # a row is refused
    bint poor  # no memory
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
    for k in range(plan.root_count):
        above = walk(plan, series, plan.roots[k], price, volume, ms)
        if above < 0:
            share.poor = True
            return -1
        result |= above
    refresh_hots(plan, series)
    share.ticks += (result & ACCEPTED) != 0
    share.late += (result & LATE) != 0
    return 0


cdef inline int take_hot(Share* share, Series* series, double price, double volume, int64_t ms) noexcept nogil:
    """The same where there is one root, as there mostly is."""
    cdef Hot* hot = series.hots
    if <uint64_t>(ms - hot.start) < hot.width:
        add_tick(hot.candle, price, volume, ms)
        return 0
    share.ticks -= 1  # counted by who calls
    return take_one(share, series, price, volume, ms)


cdef int take_single(Share* share, Py_ssize_t first, Py_ssize_t behind) noexcept nogil:
    cdef const Rows* rows = share.rows
    cdef Series* series = rows.table[0]
    cdef Py_ssize_t k
    for k in range(first, behind):
        if take_one(share, series, rows.prices[k], rows.volumes[k], rows.times[k]) < 0:
            return -1
    return 0


cdef int take_coded(Share* share, const code_t* codes, Py_ssize_t first, Py_ssize_t behind) noexcept nogil:
    """A row's code is read once: the column may be somebody's who changes it meanwhile."""
    cdef const Rows* rows = share.rows
    cdef Series** table = rows.table
    cdef Series* series
    cdef uint64_t size = <uint64_t>rows.size, code
    cdef Py_ssize_t k
    if share.plan.root_count == 1:
        for k in range(first, behind):
            code = <uint64_t>codes[k]
            if code >= size or table[code] is NULL:
                share.bad = True
                return -1
            if take_hot(share, table[code], rows.prices[k], rows.volumes[k], rows.times[k]) < 0:
                return -1
        share.ticks += behind - first
        return 0
    for k in range(first, behind):
        code = <uint64_t>codes[k]
        if code >= size or table[code] is NULL:
            share.bad = True
            return -1
        if take_one(share, table[code], rows.prices[k], rows.volumes[k], rows.times[k]) < 0:
            return -1
    return 0


cdef int take_own(Share* share, const code_t* codes, Py_ssize_t first, Py_ssize_t behind) noexcept nogil:
    """A thread's own rows of a block: first found without a branch, then taken."""
    cdef const Rows* rows = share.rows
    cdef Series** table = rows.table
    cdef const uint8_t* owners = rows.owners
    cdef uint8_t number = <uint8_t>share.number
    cdef uint64_t size = <uint64_t>rows.size, code
    cdef uint32_t[BLOCK] mine
    cdef uint16_t[BLOCK] places
    cdef Py_ssize_t k, found = 0, row
    for k in range(first, behind):
        code = <uint64_t>codes[k]
        if code >= size:
            share.bad = True
            return -1
        mine[found] = <uint32_t>code
        places[found] = <uint16_t>(k - first)
        found += owners[code] == number
    for k in range(found):
        row = first + places[k]
        if table[mine[k]] is NULL:
            share.bad = True
            return -1
        if take_one(share, table[mine[k]], rows.prices[row], rows.volumes[row], rows.times[row]) < 0:
            return -1
    return 0


cdef int take_block(Share* share, Py_ssize_t first, Py_ssize_t behind) noexcept nogil:
    cdef const Rows* rows = share.rows
    cdef const void* codes = rows.codes
    if codes is NULL:
        return take_single(share, first, behind)
    if rows.owners is NULL:
        if rows.code_width == 1:
            return take_coded[int8_t](share, <const int8_t*>codes, first, behind)
        if rows.code_width == 2:
            return take_coded[int16_t](share, <const int16_t*>codes, first, behind)
        if rows.code_width == 4:
            return take_coded[int32_t](share, <const int32_t*>codes, first, behind)
        return take_coded[int64_t](share, <const int64_t*>codes, first, behind)
    if rows.code_width == 1:
        return take_own[int8_t](share, <const int8_t*>codes, first, behind)
    if rows.code_width == 2:
        return take_own[int16_t](share, <const int16_t*>codes, first, behind)
    if rows.code_width == 4:
        return take_own[int32_t](share, <const int32_t*>codes, first, behind)
    return take_own[int64_t](share, <const int64_t*>codes, first, behind)


cdef void take_share(Share* share) noexcept nogil:
    """Check the blocks whose turn is this thread's, and take its rows of every block."""
    cdef Rows* rows = share.rows
    cdef Py_ssize_t first = 0, behind, block = 0
    while first < rows.count and not rows.stop:
        behind = min(first + BLOCK, rows.count)
        if block % rows.threads == share.number and not good_block(rows, first, behind):
            share.bad = True
        if share.bad or take_block(share, first, behind) < 0:
            rows.stop = True
            return
        first = behind
        block += 1


cdef void on_thread(void* share) noexcept nogil:
    take_share(<Share*>share)
    PyThread_release_lock((<Share*>share).done)


# ---------------------------------------------------------------- sharing out

cdef void share_out(Rows* rows, uint8_t* owners) noexcept nogil:
    """Each series to the thread that has the fewest rows so far, by a sample; the busiest first."""
    cdef int64_t[MOST_THREADS] loads
    cdef int64_t[4096] counts
    cdef Py_ssize_t k, step, best, given
    cdef int64_t code
    cdef int t, least
    memset(owners, 0, rows.size)
    if rows.size > 4096:
        for k in range(rows.size):
            owners[k] = <uint8_t>(k % rows.threads)
        return
    memset(counts, 0, sizeof(counts))
    memset(loads, 0, sizeof(loads))
    step = max(1, rows.count // 8192)
    k = 0
    while k < rows.count:
        code = code_at(rows, k)
        if 0 <= code < rows.size:
            counts[code] += 1
        k += step
    for given in range(rows.size):
        best = 0
        for k in range(rows.size):
            if counts[k] > counts[best]:
                best = k
        if counts[best] <= 0 or given == 256:  # the rest are rare: whoever has them
            for k in range(rows.size):
                if counts[k] >= 0:
                    owners[k] = <uint8_t>(k % rows.threads)
            return
        least = 0
        for t in range(rows.threads):
            if loads[t] < loads[least]:
                least = t
        owners[best] = <uint8_t>least
        loads[least] += counts[best]
        counts[best] = -1


cdef inline int64_t code_at(const Rows* rows, Py_ssize_t k) noexcept nogil:
    if rows.code_width == 1:
        return (<const int8_t*>rows.codes)[k]
    if rows.code_width == 2:
        return (<const int16_t*>rows.codes)[k]
    if rows.code_width == 4:
        return (<const int32_t*>rows.codes)[k]
    return (<const int64_t*>rows.codes)[k]


cdef int take_rows(Core core, Rows* rows, int threads) except -2:
    """All rows or, after -1, perhaps some of them. Others who want the aggregator wait meanwhile; see ``Core.wait``.

    Raises:
        MemoryError: some rows may have been taken.
    """
    cdef Share[MOST_THREADS] shares
    cdef uint8_t* owners = NULL
    cdef int t, running = 1
    cdef int64_t dropped = core.plan.dropped
    cdef bint bad = False, poor = False
    memset(shares, 0, sizeof(shares))
    rows.threads = threads = max(1, min(threads, MOST_THREADS)) if rows.codes is not NULL and rows.size > 1 else 1
    if threads > 1:
        owners = <uint8_t*>PyMem_RawMalloc(rows.size)
        if owners is NULL:
            raise MemoryError
    for t in range(threads):
        shares[t].rows = rows
        shares[t].plan = core.plan
        shares[t].number = t
        if t:
            shares[t].done = PyThread_allocate_lock()
            if shares[t].done is NULL:
                rows.threads = threads = t
                break
    core.begin()
    with nogil:
        if threads > 1:
            share_out(rows, owners)
            rows.owners = owners
        for t in range(1, threads):
            PyThread_acquire_lock(shares[t].done, WAIT_LOCK)
            if PyThread_start_new_thread(&on_thread, &shares[t]) == <unsigned long>-1:
                on_thread(&shares[t])  # the machine gives no thread: this one does its share before its own
        take_share(&shares[0])
        for t in range(1, threads):
            PyThread_acquire_lock(shares[t].done, WAIT_LOCK)
            PyThread_release_lock(shares[t].done)
    core.end()
    PyMem_RawFree(owners)
    for t in range(threads):
        core._ticks += shares[t].ticks
        core._late += shares[t].late
        core.plan.dropped += shares[t].plan.dropped - dropped
        bad |= shares[t].bad
        poor |= shares[t].poor
        if shares[t].done is not NULL:
            PyThread_free_lock(shares[t].done)
    if poor:
        raise MemoryError
    return -1 if bad else 0


# ---------------------------------------------------------------- taking back

@cython.final
cdef class Undo:
    """What some series were, to be given back."""

    cdef Core core
    cdef Saved* saved
    cdef Py_ssize_t count
    cdef int64_t ticks
    cdef int64_t late
    cdef int64_t dropped

    def __cinit__(self, Core core):
        self.core = core
        self.ticks, self.late, self.dropped = core._ticks, core._late, core.plan.dropped

    def __dealloc__(self):
        cdef Py_ssize_t k
        for k in range(self.count):
            PyMem_RawFree(self.saved[k].candles)
        PyMem_RawFree(self.saved)

    cdef int save(self, Series** table, Py_ssize_t size) except -1:
        cdef Py_ssize_t levels = self.core.plan.count
        cdef Py_ssize_t k, at
        cdef Saved* saved
        self.saved = <Saved*>PyMem_RawMalloc(max(1, size * levels) * sizeof(Saved))
        if self.saved is NULL:
            raise MemoryError
        for k in range(size):
            if table[k] is NULL:
                continue
            for at in range(levels):
                saved = &self.saved[self.count]
                saved.series, saved.at, saved.slot = table[k], at, table[k].slots[at]
                saved.candles = <Candle*>PyMem_RawMalloc(max(1, saved.slot.length) * sizeof(Candle))
                if saved.candles is NULL:
                    raise MemoryError
                self.count += 1
                if saved.slot.length:
                    memcpy(saved.candles, saved.slot.data + saved.slot.head, saved.slot.length * sizeof(Candle))
        return 0

    cdef void restore(self) noexcept:
        """Slots have grown since, if anything: there is room for what they were."""
        cdef Py_ssize_t k
        cdef Slot* slot
        cdef Saved* saved
        for k in range(self.count):
            saved = &self.saved[k]
            slot = &saved.series.slots[saved.at]
            slot.head, slot.length = 0, saved.slot.length
            slot.mark, slot.pending = saved.slot.mark, saved.slot.pending
            if slot.length:
                memcpy(slot.data, saved.candles, slot.length * sizeof(Candle))
        for k in range(self.count):
            if self.saved[k].at == 0:
                refresh_hots(&self.core.plan, self.saved[k].series)
        self.core._ticks, self.core._late, self.core.plan.dropped = self.ticks, self.late, self.dropped
