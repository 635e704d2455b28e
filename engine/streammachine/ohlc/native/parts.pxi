# Rows shared out to threads by time. Uses: layout, candles, runs, stretches, taking.
#
# In columns that are in order of time threads take stretches of rows: the first into the series themselves, the
# others into new ones, whose candles are then put behind. A stretch begins where candles of all roots begin, so that no
# candle of a root has rows of two. A larger candle that reaches over the cut gets what the smaller ones bring it, in
# their order, as it would have from one thread. Rows that are not where they should be, or out of order where that
# matters, are found on the way: from the stretch they lie in, all is taken once more by series.

cdef struct Part:  # series of some stretches' own, of the size of the table
    bint ready
    Series* series
    Hot* hots
    Slot* slots
    Series** table


cdef void free_part(Part* part, Py_ssize_t slots) noexcept nogil:
    cdef Py_ssize_t k
    if part.slots is not NULL:
        for k in range(slots):
            PyMem_RawFree(part.slots[k].data)
    PyMem_RawFree(part.slots)
    PyMem_RawFree(part.hots)
    PyMem_RawFree(part.series)
    PyMem_RawFree(part.table)


cdef bint make_part(Part* part, const Rows* rows, const Plan* plan, int64_t begin) noexcept nogil:
    """Slots with room for the candles that are likely to come, so that the thread need not ask for memory: what it
    gets first must be cleared for it page by page."""
    cdef Py_ssize_t k, at, size = rows.size, likely
    cdef int64_t last = rows.times[rows.count - 1]
    memset(part, 0, sizeof(Part))
    part.table = <Series**>PyMem_RawMalloc(size * sizeof(void*))
    part.series = <Series*>PyMem_RawMalloc(size * sizeof(Series))
    part.hots = <Hot*>PyMem_RawMalloc(size * plan.root_count * sizeof(Hot))
    part.slots = <Slot*>PyMem_RawMalloc(size * plan.count * sizeof(Slot))
    if part.slots is NULL:
        return False
    memset(part.slots, 0, size * plan.count * sizeof(Slot))
    if part.table is NULL or part.series is NULL or part.hots is NULL:
        return False
    memset(part.hots, 0, size * plan.root_count * sizeof(Hot))
    for k in range(size * plan.count):
        part.slots[k].mark = NO_MARK
    for k in range(size):
        part.series[k].hots = part.hots + k * plan.root_count
        part.series[k].slots = part.slots + k * plan.count
        part.table[k] = NULL if rows.table[k] is NULL else &part.series[k]
        for at in range(plan.count):
            likely = rows.count // size + 1
            if begin <= last <= MAX_MS:
                likely = min(likely, (last - begin) // plan.levels[at].interval + 2)
            if part.table[k] is not NULL and resize(&part.slots[k * plan.count + at], min(likely, 4096)) < 0:
                return False
    part.ready = True
    return True


# ---------------------------------------------------------------- cutting

cdef Py_ssize_t first_from(const Rows* rows, Py_ssize_t low, Py_ssize_t high, int64_t ms) noexcept nogil:
    """The first row of a time or a later one, where rows are in order of time."""
    cdef Py_ssize_t middle
    while low < high:
        middle = (low + high) >> 1
        if rows.times[middle] < ms:
            low = middle + 1
        else:
            high = middle
    return low


cdef bint begins_all(const Plan* plan, int64_t ms) noexcept nogil:
    """Whether candles of all roots begin at a time."""
    cdef Py_ssize_t k
    for k in range(plan.root_count):
        if align(&plan.levels[plan.roots[k]], ms) != ms:
            return False
    return True


cdef Py_ssize_t find_cut(
    const Rows* rows, const Plan* plan, Py_ssize_t least, Py_ssize_t wanted, Py_ssize_t away, int64_t* begin
) noexcept nogil:
    """The row nearest to the wanted one before which a candle of each root ends, and that time; -1: none is near
    enough."""
    cdef const Level* level = &plan.levels[plan.roots[plan.root_count - 1]]
    cdef Py_ssize_t before, behind
    cdef int64_t ms = rows.times[wanted]
    if not 0 <= ms <= MAX_MS:
        return -1
    ms = align(level, ms)
    before = first_from(rows, least, wanted, ms)
    behind = first_from(rows, wanted, rows.count, ms + level.interval)
    if before > least and wanted - before <= min(away, behind - wanted) and begins_all(plan, ms):
        begin[0] = ms
        return before
    if behind < rows.count and behind - wanted <= away and begins_all(plan, ms + level.interval):
        begin[0] = ms + level.interval
        return behind
    return -1


cdef bint in_order(const Rows* rows) noexcept nogil:
    """By a sample."""
    cdef Py_ssize_t k = 0, step = max(1, rows.count // 256)
    cdef int64_t before = 0
    while k < rows.count:
        if rows.times[k] < before:
            return False
        before = rows.times[k]
        k += step
    return True


cdef int64_t settled_from(const Plan* plan, int64_t ms) noexcept nogil:
    """The end of the longest candle that reaches over a time; where none does, the time."""
    cdef int64_t start, found = ms
    cdef Py_ssize_t k
    for k in range(plan.count):
        start = align(&plan.levels[k], ms)
        if start != ms:
            found = max(found, start + plan.levels[k].interval)
    return found


# ---------------------------------------------------------------- joining

cdef bint can_join(const Plan* plan, const Rows* rows, const Part* part, int64_t cut) noexcept nogil:
    """Whether a part's candles are what the rows would have become behind those that are there. ``part`` NULL: whether
    they can be at all."""
    cdef Py_ssize_t k, at
    cdef Slot* slot
    cdef Slot* more
    for k in range(rows.size):
        if rows.table[k] is NULL:
            continue
        for at in range(plan.count):
            slot = &rows.table[k].slots[at]
            if slot.mark > cut or (slot.length and not slot.pending):
                return False
            if slot.length and newest(slot).start >= cut:
                return False
            if part is not NULL:
                more = &part.series[k].slots[at]
                if more.length and not more.pending:
                    return False
                if more.length and slot.length and newest(slot).start > more.data[more.head].start:
                    return False
    return True


cdef int make_joint_room(const Plan* plan, Series* series, const Part* parts, Py_ssize_t k, int count) noexcept nogil:
    """For all parts' candles at once."""
    cdef Py_ssize_t at, length
    cdef Slot* slot
    cdef int t, result = 0
    for at in range(plan.count):
        slot = &series.slots[at]
        compact(slot)
        length = slot.length
        for t in range(count):
            if parts[t].ready:
                length += parts[t].series[k].slots[at].length
        if length > slot.capacity:
            if resize(slot, length * 5 // 4 + 8) < 0:
                result = -1
                break
    refresh_hots(plan, series)
    return result


cdef void join(const Plan* plan, Series* series, Series* behind) noexcept nogil:
    """Put a part's candles behind those of a series; sources come before their dependents. A slot of the part keeps in
    its mark how many candles the series had."""
    cdef Py_ssize_t at, k, source, over
    cdef Slot* slot
    cdef Slot* more
    cdef Slot* below
    cdef Candle* candles
    cdef int64_t end
    for at in range(plan.count):
        slot, more = &series.slots[at], &behind.slots[at]
        source = plan.levels[at].source
        candles = more.data + more.head
        over = slot.length > 0 and newest(slot).start == candles[0].start
        if source >= 0 and slot.length:  # all that its source has by now but the newest, which is pending
            below = &series.slots[source]
            end = newest(slot).start + plan.levels[at].interval
            k = max(0, behind.slots[source].mark - 1)
            while k < below.length - 1 and below.data[below.head + k].start < end:
                merge(newest(slot), &below.data[below.head + k])
                k += 1
        more.mark = slot.length
        memcpy(slot.data + slot.head + slot.length, candles + over, (more.length - over) * sizeof(Candle))
        slot.length += more.length - over
        slot.pending = True
    refresh_hots(plan, series)


cdef bint join_part(const Plan* plan, const Rows* rows, Part* part, int count, Share* total) noexcept nogil:
    """One part; ``count`` of them, with it, are still to come."""
    cdef Py_ssize_t k
    for k in range(rows.size):
        if rows.table[k] is not NULL and part.series[k].slots[0].length:
            if make_joint_room(plan, rows.table[k], part, k, count) < 0:
                total.poor = True
                return False
    for k in range(rows.size):
        if rows.table[k] is not NULL and part.series[k].slots[0].length:
            join(plan, rows.table[k], &part.series[k])
    return True


# ---------------------------------------------------------------- taking

cdef void skip_rows(Rows* rows, Py_ssize_t first, Py_ssize_t behind) noexcept nogil:
    """Only these."""
    rows.prices += first
    rows.volumes += first
    rows.times += first
    if rows.codes is not NULL:
        rows.codes = <const char*>rows.codes + first * rows.code_width
    rows.count = behind - first


cdef int cut_up(const Rows* rows, const Plan* plan, int threads, Py_ssize_t* cuts, int64_t* begins) noexcept nogil:
    """How many stretches there are; 0: none that threads would be of use for. A cut that finds no place is left out."""
    cdef Py_ssize_t away = rows.count // (4 * threads), cut, most = 0
    cdef int64_t begin = 0
    cdef int k, found = 1
    cuts[0] = 0
    for k in range(1, rows.stretches):
        if rows.count * k // rows.stretches > cuts[found - 1]:
            cut = find_cut(rows, plan, cuts[found - 1], rows.count * k // rows.stretches, away, &begin)
            if cut > cuts[found - 1]:
                cuts[found], begins[found] = cut, begin
                found += 1
    cuts[found] = rows.count
    for k in range(found):
        most = max(most, cuts[k + 1] - cuts[k])
    return found if found > 1 and most <= rows.count // threads + 2 * away else 0


cdef bint take_by_time(Rows* rows, Share* shares, int threads, const Plan* plan, Share* total) noexcept nogil:
    """False: nothing was done, since the rows, or the series, are not for that."""
    cdef Rows[MOST_STRETCHES] stretches
    cdef Part[MOST_STRETCHES] parts
    cdef Py_ssize_t[MOST_STRETCHES + 1] cuts
    cdef int64_t[MOST_STRETCHES] begins
    cdef int t, count
    cdef bint done
    if threads < 2 or plan.max_candles or not (rows.sorted or rows.codes is NULL) or not in_order(rows):
        return False
    count = cut_up(rows, plan, threads, cuts, begins)
    if not count:
        return False
    memset(parts, 0, sizeof(parts))
    for t in range(count):
        stretches[t] = rows[0]
        stretches[t].threads = 1
        skip_rows(&stretches[t], cuts[t], cuts[t + 1])
        new_share(&shares[t], &stretches[t], plan, t)
        shares[t].plan.dropped = 0
        if t:
            shares[t].low = begins[t]
            shares[t].safe = settled_from(plan, shares[t].low)
            shares[t - 1].high = shares[t].low
            shares[t].alone = True
    done = can_join(plan, rows, NULL, shares[1].low) and run_stretches(shares, parts, count, threads)
    if done:
        take_together(rows, shares, parts, cuts, count, threads, plan, total)
    for t in range(1, count):
        free_part(&parts[t], rows.size * plan.count)
    return done


cdef void take_together(
    Rows* rows, Share* shares, Part* parts, const Py_ssize_t* cuts, int count, int threads, const Plan* plan,
    Share* total
) noexcept nogil:
    """What was found, put behind each other; from a part on that cannot be, its rows by series."""
    cdef Rows rest
    cdef int t = 0, k, first
    cdef bint good = True
    for k in range(count):
        total.bad |= shares[k].bad
        total.poor |= shares[k].poor
    if total.bad or total.poor:
        return
    while t < count and good:
        first = t
        while t < count and shares[t].taken and shares[t].part == first and good:
            good = not shares[t].astray
            t += 1
        if t == first:
            break
        if first:
            good = good and can_join(plan, rows, &parts[first], shares[first].low)
            if not good:
                t = first
            elif not join_part(plan, rows, &parts[first], count - first, total):
                return
        for k in range(first, t):
            add_up(total, &shares[k])
    if t < count:
        rest = rows[0]
        skip_rows(&rest, cuts[t], rows.count)
        take_by_series(&rest, shares, threads, plan, total)
