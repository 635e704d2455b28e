# Candles of one symbol, folded upward, in plain C: nothing in here runs Python code or needs
# the GIL. A function that gives -1 had no memory; who holds the GIL says so. Uses: layout.
#
# The head of fast.pyx explains how candles fold, and the invariants.

cdef struct Candle:  # the dump writes it as it lies in memory: "<5d4q"
    double open
    double high
    double low
    double close
    double volume
    int64_t start
    int64_t first  # event time of the tick that gave open
    int64_t last  # event time of the tick that gave close
    int64_t count

cdef struct Slot:
    Candle* data  # the candles are data[head : head + length]
    Py_ssize_t head
    Py_ssize_t length
    Py_ssize_t capacity
    int64_t mark
    bint pending

cdef struct Hot:  # the bounds within which a tick needs nothing but its root's newest candle
    Candle* candle
    int64_t start
    uint64_t width  # 0: no tick is within

cdef struct Series:
    Hot* hots
    Slot* slots

cdef struct Level:
    int64_t interval
    int64_t shift
    Py_ssize_t source  # -1: a root
    Py_ssize_t first  # the first dependent, -1: none
    Py_ssize_t next  # the next dependent of the same source, -1: none

cdef struct Plan:
    Level* levels
    Py_ssize_t count
    Py_ssize_t* roots
    Py_ssize_t root_count
    int64_t max_candles
    int64_t dropped

cdef struct Tick:
    Series* series
    double price
    double volume
    int64_t ms


cdef inline void add_tick(Candle* candle, double price, double volume, int64_t ms) noexcept nogil:
    candle.count += 1
    candle.volume += volume
    if price > candle.high:
        candle.high = price
    if price < candle.low:
        candle.low = price
    if ms >= candle.last:
        candle.last = ms
        candle.close = price
    if ms < candle.first:
        candle.first = ms
        candle.open = price


cdef inline void merge(Candle* into, const Candle* child) noexcept nogil:
    into.count += child.count
    into.volume += child.volume
    if child.high > into.high:
        into.high = child.high
    if child.low < into.low:
        into.low = child.low
    if child.last >= into.last:
        into.last = child.last
        into.close = child.close
    if child.first < into.first:
        into.first = child.first
        into.open = child.open


cdef inline void blank(Candle* candle, int64_t start) noexcept nogil:
    candle.open = candle.close = candle.volume = 0.0
    candle.high = -HUGE_VAL
    candle.low = HUGE_VAL
    candle.start = start
    candle.first = INT64_MAX
    candle.last = INT64_MIN
    candle.count = 0


cdef inline int64_t align(const Level* level, int64_t ms) noexcept nogil:
    return ms - (ms + level.shift) % level.interval


cdef inline Candle* newest(Slot* slot) noexcept nogil:
    return slot.data + slot.head + slot.length - 1


cdef Py_ssize_t position(Slot* slot, int64_t start) noexcept nogil:
    """The index of the first candle that starts at ``start`` or later."""
    cdef Candle* candles = slot.data + slot.head
    cdef Py_ssize_t low = 0, high = slot.length, middle
    while low < high:
        middle = (low + high) >> 1
        if candles[middle].start < start:
            low = middle + 1
        else:
            high = middle
    return low


cdef int resize(Slot* slot, Py_ssize_t capacity) noexcept nogil:
    cdef void* data
    if capacity > (<Py_ssize_t>1 << 56) // <Py_ssize_t>sizeof(Candle):
        return -1
    data = PyMem_RawRealloc(slot.data, capacity * sizeof(Candle))
    if data is NULL:
        return -1
    slot.data = <Candle*>data
    slot.capacity = capacity
    return 0


cdef inline void compact(Slot* slot) noexcept nogil:
    if slot.head:
        memmove(slot.data, slot.data + slot.head, slot.length * sizeof(Candle))
        slot.head = 0


cdef int make_room(Slot* slot) noexcept nogil:
    """One free place behind the newest candle: move down where a quarter is free, else double."""
    if slot.head + slot.length < slot.capacity:
        return 0
    if slot.head and slot.head * 4 >= slot.capacity:
        compact(slot)
        return 0
    return resize(slot, slot.capacity * 2 if slot.capacity else 8)


cdef int shrink(Slot* slot) noexcept nogil:
    if slot.capacity > 64 and slot.length * 4 < slot.capacity:
        compact(slot)
        return resize(slot, max(8, slot.length * 2))
    return 0


cdef inline void drop_oldest(Plan* plan, Py_ssize_t at, Slot* slot) noexcept nogil:
    cdef int64_t end = slot.data[slot.head].start + plan.levels[at].interval
    slot.head += 1
    slot.length -= 1
    plan.dropped += 1
    if end > slot.mark:
        slot.mark = end


# ---------------------------------------------------------------- folding

cdef void fold(Plan* plan, Series* series, Py_ssize_t at) noexcept nogil:
    """Merge the newest candle of a slot into its dependents, where it is pending."""
    cdef Slot* slot = &series.slots[at]
    cdef Py_ssize_t up = plan.levels[at].first
    if not slot.pending:
        return
    slot.pending = False
    while up >= 0:
        merge(newest(&series.slots[up]), newest(slot))
        up = plan.levels[up].next


cdef void settle(Plan* plan, Series* series, Py_ssize_t at) noexcept nogil:
    """Fold a slot's newest candle with all that its own sources still hold back."""
    if plan.levels[at].source >= 0:
        settle(plan, series, plan.levels[at].source)
    fold(plan, series, at)


cdef bint may_wait(Plan* plan, Series* series, Py_ssize_t at, int64_t start) noexcept nogil:
    """Whether a new candle can be pending: everything above will take it as, or into, its newest candle."""
    cdef Py_ssize_t up = plan.levels[at].first
    cdef Slot* slot
    while up >= 0:
        slot = &series.slots[up]
        if slot.mark > start:
            return False
        if slot.length and newest(slot).start > align(&plan.levels[up], start):
            return False
        if not may_wait(plan, series, up, start):
            return False
        up = plan.levels[up].next
    return True


cdef int open_candle(Plan* plan, Series* series, Py_ssize_t at, int64_t start, bint pending) noexcept nogil:
    """Append an empty candle, newer than all of the slot; where pending, its dependents get theirs."""
    cdef Slot* slot = &series.slots[at]
    cdef Slot* above
    cdef Py_ssize_t up
    cdef int64_t up_start
    if make_room(slot) < 0:
        return -1
    fold(plan, series, at)
    slot.length += 1
    blank(newest(slot), start)
    slot.pending = pending
    if plan.max_candles and slot.length > plan.max_candles:
        drop_oldest(plan, at, slot)
    if pending:
        up = plan.levels[at].first
        while up >= 0:
            above = &series.slots[up]
            up_start = align(&plan.levels[up], start)
            if above.length == 0 or newest(above).start < up_start:
                if open_candle(plan, series, up, up_start, True) < 0:
                    return -1
            up = plan.levels[up].next
    return 0


cdef int walk(Plan* plan, Series* series, Py_ssize_t at, double price, double volume, int64_t ms) noexcept nogil:
    """Bring a tick into a slot and, unless a pending candle carries it there later, into all above. What became of
    it; -1: no memory."""
    cdef Slot* slot = &series.slots[at]
    cdef Level* level = &plan.levels[at]
    cdef Py_ssize_t up, index
    cdef int64_t start
    cdef Candle* candle
    cdef int result = ACCEPTED, above
    if ms < slot.mark:
        result = LATE
    else:
        start = align(level, ms)
        if slot.length == 0 or newest(slot).start < start:
            if open_candle(plan, series, at, start, may_wait(plan, series, at, start)) < 0:
                return -1
            add_tick(newest(slot), price, volume, ms)
            if slot.pending:
                return ACCEPTED
        else:
            index = position(slot, start)
            candle = slot.data + slot.head + index
            if candle.start == start:
                add_tick(candle, price, volume, ms)
                if slot.pending and index == slot.length - 1:
                    return ACCEPTED
            else:
                if make_room(slot) < 0:
                    return -1
                candle = slot.data + slot.head + index
                memmove(candle + 1, candle, (slot.length - index) * sizeof(Candle))
                slot.length += 1
                blank(candle, start)
                add_tick(candle, price, volume, ms)
                if plan.max_candles and slot.length > plan.max_candles:
                    drop_oldest(plan, at, slot)
    up = level.first
    while up >= 0:
        above = walk(plan, series, up, price, volume, ms)
        if above < 0:
            return -1
        result |= above
        up = plan.levels[up].next
    return result


cdef void refresh_hots(Plan* plan, Series* series) noexcept nogil:
    cdef Py_ssize_t k
    cdef Slot* slot
    for k in range(plan.root_count):
        slot = &series.slots[plan.roots[k]]
        if slot.pending:
            series.hots[k].candle = newest(slot)
            series.hots[k].start = newest(slot).start
            series.hots[k].width = <uint64_t>plan.levels[plan.roots[k]].interval
        else:
            series.hots[k].width = 0


cdef void newest_view(Plan* plan, Series* series, Py_ssize_t at, Candle* out) noexcept nogil:
    """The newest candle of a slot as it stands, with what its sources hold back."""
    cdef Py_ssize_t source = plan.levels[at].source
    cdef Candle child
    out[0] = newest(&series.slots[at])[0]
    if source >= 0 and series.slots[source].pending:
        newest_view(plan, series, source, &child)
        merge(out, &child)


cdef Py_ssize_t complete(Plan* plan, Series* series, Py_ssize_t at, int64_t before) noexcept nogil:
    """How many candles of a slot end at or before a time."""
    cdef Slot* slot = &series.slots[at]
    cdef int64_t interval = plan.levels[at].interval
    if before < INT64_MIN + interval:
        return 0
    if before == INT64_MAX:
        return slot.length
    return position(slot, before - interval + 1)


cdef int flush_first(Plan* plan, Series* series, Py_ssize_t at, Py_ssize_t count) except -1:
    """Remove a slot's first candles; the end of the last of them is its watermark."""
    cdef Slot* slot = &series.slots[at]
    if count == 0:
        return 0
    if count == slot.length:
        settle(plan, series, at)
    slot.mark = slot.data[slot.head + count - 1].start + plan.levels[at].interval
    slot.head += count
    slot.length -= count
    cdef int shrunk = shrink(slot)
    refresh_hots(plan, series)
    if shrunk < 0:
        raise MemoryError
    return 0
