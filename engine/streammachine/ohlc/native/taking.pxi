# Checked columns into the series, without the GIL and on some threads. Uses: layout, candles, values, core, runs, parts.
#
# Every candle gets its rows in their order, so it is what one thread alone would make of it, bit for bit. Where a row is
# bad, or memory ends, all series get back what they were.

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


cdef void new_share(Share* share, Rows* rows, const Plan* plan, int number) noexcept nogil:
    cdef PyThread_type_lock done = share.done
    memset(share, 0, sizeof(Share))
    share.rows, share.plan, share.number, share.done = rows, plan[0], number, done
    share.low, share.high, share.safe = INT64_MIN, INT64_MAX, INT64_MIN


cdef void run_shares(Share* shares, int threads) noexcept nogil:
    """The first on this thread, the others on threads of their own."""
    cdef int t
    for t in range(1, threads):
        PyThread_acquire_lock(shares[t].done, WAIT_LOCK)
        if PyThread_start_new_thread(&on_thread, &shares[t]) == <unsigned long>-1:
            on_thread(&shares[t])  # the machine gives no thread: this one does its share before its own
    take_share(&shares[0])
    for t in range(1, threads):
        PyThread_acquire_lock(shares[t].done, WAIT_LOCK)
        PyThread_release_lock(shares[t].done)


cdef void add_up(Share* total, const Share* share) noexcept nogil:
    total.ticks += share.ticks
    total.late += share.late
    total.plan.dropped += share.plan.dropped
    total.bad |= share.bad
    total.poor |= share.poor


cdef void take_by_series(Rows* rows, Share* shares, int threads, const Plan* plan, Share* total) noexcept nogil:
    """Each thread the rows of its series."""
    cdef uint8_t* owners = NULL
    cdef int t
    if threads > 1 and rows.codes is not NULL and rows.size > 1:
        owners = <uint8_t*>PyMem_RawMalloc(rows.size)
    rows.threads = threads if owners is not NULL else 1
    if owners is not NULL:
        share_out(rows, owners)
    rows.owners = owners
    for t in range(rows.threads):
        new_share(&shares[t], rows, plan, t)
        shares[t].plan.dropped = 0
    run_shares(shares, rows.threads)
    for t in range(rows.threads):
        add_up(total, &shares[t])
    PyMem_RawFree(owners)
    rows.owners = NULL


cdef int take_rows(Core core, Rows* rows, int threads) except -2:
    """All rows or, after -1, perhaps some of them. Others who want the aggregator wait meanwhile; see ``Core.wait``.

    Raises:
        MemoryError: some rows may have been taken.
    """
    cdef Share[MOST_THREADS] shares
    cdef Share total
    cdef int t
    cdef Py_ssize_t at
    memset(shares, 0, sizeof(shares))
    memset(&total, 0, sizeof(total))
    threads = max(1, min(threads, MOST_THREADS))
    for t in range(1, threads):
        shares[t].done = PyThread_allocate_lock()
        if shares[t].done is NULL:
            threads = t
            break
    if core.plan.root_count == 1 and rows.codes is not NULL and not rows.sorted:
        rows.hots = <Hot**>PyMem_RawMalloc(max(1, rows.size) * sizeof(void*))
        if rows.hots is not NULL:  # else the longer way
            for at in range(rows.size):
                rows.hots[at] = NULL if rows.table[at] is NULL else rows.table[at].hots
    core.begin()
    with nogil:
        if not take_by_time(rows, shares, threads, &core.plan, &total):
            take_by_series(rows, shares, threads, &core.plan, &total)
    core.end()
    PyMem_RawFree(rows.hots)
    rows.hots = NULL
    core._ticks += total.ticks
    core._late += total.late
    core.plan.dropped += total.plan.dropped
    for t in range(1, threads):
        PyThread_free_lock(shares[t].done)
    if total.poor:
        raise MemoryError
    return -1 if total.bad else 0


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
