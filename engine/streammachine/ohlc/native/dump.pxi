# A dump, written from memory and read with suspicion. Uses: layout, candles, values, core.

cdef inline char* put(char* end, const void* data, size_t size) noexcept:
    memcpy(end, data, size)
    return end + size


cdef inline char* put_u16(char* end, uint16_t number) noexcept:
    return put(end, &number, 2)


cdef inline char* put_u32(char* end, uint32_t number) noexcept:
    return put(end, &number, 4)


cdef inline char* put_i64(char* end, int64_t number) noexcept:
    return put(end, &number, 8)


cdef bytes dumped(Core core, list names):
    """A dump without its checksum. Nothing in here runs Python code, or makes what the garbage collector counts."""
    cdef Py_ssize_t size = HEAD_SIZE + 8 * core.plan.count + 4
    cdef Py_ssize_t at
    cdef Series* series
    cdef Slot* slot
    cdef bytes name, body
    cdef char* end
    for name in names:
        series = &(<Symbol>PyDict_GetItemWithError(core._bytes, name)).series
        size += 4 + PyBytes_GET_SIZE(name)
        for at in range(core.plan.count):
            size += SLOT_SIZE + series.slots[at].length * <Py_ssize_t>sizeof(Candle)
    body = PyBytes_FromStringAndSize(NULL, size)
    end = put(PyBytes_AS_STRING(body), PyBytes_AS_STRING(MAGIC_BYTES), 6)
    end = put_u16(end, VERSION)
    end = put_i64(put_i64(end, core.plan.max_candles), core._ticks)
    end = put_i64(put_i64(end, core._late), core.plan.dropped)
    end = put_u32(end, <uint32_t>core.plan.count)
    for interval in core._intervals:
        end = put_i64(end, interval)
    end = put_u32(end, <uint32_t>len(names))
    for name in names:
        series = &(<Symbol>PyDict_GetItemWithError(core._bytes, name)).series
        end = put_u32(end, <uint32_t>PyBytes_GET_SIZE(name))
        end = put(end, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        for interval in core._intervals:
            slot = &series.slots[<Py_ssize_t>core._levels[interval]]
            end = put_i64(end, slot.mark)
            end[0] = slot.pending
            end = put_u32(end + 1, <uint32_t>slot.length)
            if slot.length:
                end = put(end, slot.data + slot.head, slot.length * sizeof(Candle))
    return body


@cython.final
cdef class DumpLoader:
    """Reads a dump, and believes nothing of it."""

    cdef bytes data
    cdef Py_ssize_t at
    cdef Py_ssize_t end
    cdef readonly list intervals
    cdef readonly int64_t max_candles
    cdef int64_t ticks
    cdef int64_t late
    cdef int64_t dropped

    def __init__(self, data):
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise SnapshotError(f"{show(data)} is not a dump: give the bytes that dump() returned.")
        self.data = bytes(data)
        self.end = len(self.data) - 4
        if self.end < 0 or self.data[:6] != MAGIC:
            raise SnapshotError("These bytes are not a dump of an aggregator.")
        if U32.unpack_from(self.data, self.end)[0] != zlib.crc32(self.data[: self.end]):
            raise SnapshotError("The dump is damaged: its checksum does not fit.")
        _, version, self.max_candles, self.ticks, self.late, self.dropped, count = self.take(HEAD)
        if version != VERSION:
            raise SnapshotError(f"The dump has version {version}; this version reads {VERSION}.")
        self.intervals = [self.take(I64)[0] for _ in range(count)]
        for number in (self.ticks, self.late, self.dropped):
            self.sure(0 <= number <= MAX_COUNT, "a count is out of range")

    cdef int sure(self, bint holds, str why) except -1:
        if not holds:
            raise SnapshotError(f"The dump is damaged: {why}.")
        return 0

    cdef bytes raw(self, int64_t size):
        self.sure(size <= self.end - self.at, "it ends too early")
        self.at += size
        return self.data[self.at - size : self.at]

    cdef tuple take(self, layout):
        return layout.unpack(self.raw(layout.size))

    cdef int fill(self, Core into) except -1:
        cdef Symbol symbol
        cdef bytes name, previous = b""
        cdef Py_ssize_t at
        for _ in range(self.take(U32)[0]):
            name = self.raw(self.take(U32)[0])
            text = canonical(name)
            self.sure(text is not None and name > previous, "its symbols are not in order")
            previous = name
            symbol = Symbol.make(&into.plan, text)
            for interval in self.intervals:
                self.read_slot(&into.plan, into._levels[interval], symbol)
            for at in range(into.plan.count):
                self.check_folding(&into.plan, &symbol.series, at)
            refresh_hots(&into.plan, &symbol.series)
            into.adopt(symbol)
        self.sure(self.at == self.end, "it goes on behind its end")
        into._ticks = self.ticks
        into._late = self.late
        into.plan.dropped = self.dropped
        return 0

    cdef int read_slot(self, Plan* plan, Py_ssize_t at, Symbol symbol) except -1:
        cdef Slot* slot = &symbol.series.slots[at]
        cdef Level* level = &plan.levels[at]
        cdef Py_ssize_t k
        cdef bytes candles
        mark, pending, count = self.take(SLOT)
        candles = self.raw(<int64_t>count * <int64_t>sizeof(Candle))
        self.sure(pending <= (count > 0), "a flag is wrong")
        self.sure(plan.max_candles == 0 or count <= plan.max_candles, "it holds more candles than its bound")
        self.sure(
            mark == NO_MARK or (-level.shift <= mark <= 2 * MAX_MS and (mark + level.shift) % level.interval == 0),
            "a watermark is wrong",
        )
        slot.mark = mark
        slot.pending = pending
        if count == 0:
            return 0
        if resize(slot, count) < 0:
            raise MemoryError
        slot.length = count
        memcpy(slot.data, PyBytes_AS_STRING(candles), count * sizeof(Candle))
        for k in range(slot.length):
            self.check_candle(level, slot, k)
        return 0

    cdef int check_candle(self, Level* level, Slot* slot, Py_ssize_t k) except -1:
        cdef Candle* candle = &slot.data[k]
        cdef Candle empty
        self.sure(
            -level.shift <= candle.start <= MAX_MS
            and candle.start == align(level, candle.start)
            and candle.start >= slot.mark
            and (k == 0 or candle.start > slot.data[k - 1].start),
            "a candle is out of place",
        )
        if candle.count == 0:
            blank(&empty, candle.start)
            self.sure(memcmp(candle, &empty, sizeof(Candle)) == 0, "a candle is wrong")
            self.sure(k == slot.length - 1 and level.source >= 0, "a candle is empty")
            return 0
        return self.sure(
            0 < candle.count <= MAX_COUNT
            and max(candle.start, 0) <= candle.first <= candle.last <= MAX_MS
            and candle.last - candle.start < level.interval
            and -DBL_MAX <= candle.low <= candle.open <= candle.high <= DBL_MAX
            and candle.low <= candle.close <= candle.high
            and candle.volume >= 0.0,
            "a candle is wrong",
        )

    cdef int check_folding(self, Plan* plan, Series* series, Py_ssize_t at) except -1:
        """The invariants of the module's head."""
        cdef Slot* slot = &series.slots[at]
        cdef Slot* above
        cdef Level* level = &plan.levels[at]
        cdef Py_ssize_t up = level.first
        if up < 0:
            self.sure(slot.pending == (slot.length > 0), "a flag is wrong")
        if slot.length and newest(slot).count == 0:
            self.sure(series.slots[level.source].pending, "a candle is empty")
        while up >= 0 and slot.pending:
            above = &series.slots[up]
            self.sure(
                above.length > 0
                and newest(above).start == align(&plan.levels[up], newest(slot).start)
                and above.pending,
                "its folding is wrong",
            )
            up = plan.levels[up].next
        return 0
