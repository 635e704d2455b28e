# The candles of a stream's symbols, folded from rows of ticks and encoded when they are finished.
# Uses: layout, candles, values, core, dump, encoded.
#
# consumer/candle_book.py says which candles are finished, and does the same with parsed entries; consumer/tick_book.py
# puts the two together. The layout of a row is redis/transport/tick_columns_reference.py's.

cdef struct TickRow:
    double price
    double volume
    int64_t time
    int64_t at
    int32_t symbol
    int32_t flags

cdef enum:
    ROW_ODD = 1
    ROW_GONE = 2
    NONE = -1

cdef int64_t NEVER = INT64_MAX


@cython.final
cdef class SymbolCandles:
    """One symbol of a ``TickBook``, which makes it.

    ``newest`` is its newest event time; ``seen`` the wall time of the last arrival; ``due`` no later than the end of
    its oldest open candle. All are epoch milliseconds.
    """

    cdef readonly bytes name
    cdef readonly object candles
    cdef public int64_t newest
    cdef public double seen
    cdef public int64_t due
    cdef Core core
    cdef list intervals  # the book's own list
    cdef Series* series
    cdef uint64_t generation
    cdef bint changed

    cdef Series* pinned(self) except NULL:
        """The series; another place only after something changed the aggregator."""
        if self.series is NULL or self.generation != self.core._generation:
            self.series = self.core.valued(self.name)
            if self.series is NULL:
                self.series = self.core.create(self.name)
            self.generation = self.core._generation
        return self.series


@cython.final
cdef class TickBook:
    """Folds rows of ticks into the candles of their symbols.

    Args:
        intervals: milliseconds, in the order of the outputs.
        grace: milliseconds that a tick may come behind its symbol's newest.
        ahead: milliseconds that a time may be ahead of the clock.
        timed: whether times come from a field; else from ids, which only rise.
        make: gives a new aggregator.
        symbols: the symbols by name. changed: those that changed since the owner emptied it with ``states``.
        per_pack: candles in one argument.
    """

    cdef list intervals
    cdef Py_ssize_t* levels  # of each interval, in the order given
    cdef Py_ssize_t count
    cdef int64_t grace
    cdef int64_t ahead
    cdef bint timed
    cdef object make
    cdef dict symbols
    cdef dict changed
    cdef list names  # of the rows that were folded last
    cdef list by_index  # their SymbolCandles, None where it is not looked up yet
    cdef list packs  # of finished candles, for each interval in the order given: the last one, which is not full,
    cdef list full  # and those before it, as arguments
    cdef Py_ssize_t* written  # how many candles of each interval are to be written
    cdef Py_ssize_t per_pack
    cdef int32_t* chain  # for each row the next one of its symbol
    cdef Py_ssize_t chain_room
    cdef int32_t* first  # for each symbol, behind that of no symbol: its first row
    cdef int32_t* last
    cdef int32_t* order  # the symbols in order of their first row
    cdef Py_ssize_t touched  # how many of them there are
    cdef bint* slow
    cdef Py_ssize_t symbol_room
    cdef Encoded out
    cdef Encoded one  # argument of it
    cdef bint busy

    def __init__(self, intervals, grace, ahead, timed, make, symbols, changed, per_pack):
        cdef Py_ssize_t k
        if self.intervals is not None:
            raise RuntimeError("A TickBook is made once.")
        checked = checked_intervals(intervals)
        self.levels = <Py_ssize_t*>PyMem_Malloc(len(checked) * sizeof(Py_ssize_t))
        self.written = <Py_ssize_t*>PyMem_Malloc(len(checked) * sizeof(Py_ssize_t))
        if self.levels is NULL or self.written is NULL:
            raise MemoryError
        for k in range(len(checked)):
            self.levels[k] = sorted(checked).index(checked[k])
            self.written[k] = 0
        self.intervals = checked
        self.count = len(checked)
        self.grace = grace
        self.ahead = ahead
        self.timed = timed
        self.make = make
        self.symbols = symbols
        self.changed = changed
        self.by_index = []
        self.packs = [Encoded() for _ in checked]
        self.full = [Encoded() for _ in checked]
        self.per_pack = per_pack
        self.out = Encoded()
        self.one = Encoded()

    def __dealloc__(self):
        PyMem_Free(self.levels)
        PyMem_Free(self.written)
        PyMem_Free(self.chain)
        PyMem_Free(self.first)
        PyMem_Free(self.last)
        PyMem_Free(self.order)
        PyMem_Free(self.slow)

    @property
    def finished_count(self):
        """How many candles are to be written."""
        cdef Py_ssize_t total = 0, k
        for k in range(self.count):
            total += self.written[k]
        return total

    def symbol(self, bytes name not None, candles):
        """A symbol with its aggregator, which must have this book's intervals."""
        cdef SymbolCandles made = SymbolCandles.__new__(SymbolCandles)
        if not isinstance(candles, Core) or sorted((<Core>candles)._intervals) != sorted(self.intervals):
            raise SnapshotError(f"The candles of {name!r} are of other intervals than {self.intervals}.")
        made.name = name
        made.candles = made.core = candles
        made.intervals = self.intervals
        made.due = NEVER
        return made

    # ------------------------------------------------------------ in

    def fold(self, rows, list names not None, double now_ms, slow):
        """Take rows that arrived at ``now_ms``, symbol by symbol in the order of their first rows.

        Args:
            rows: a buffer of rows.
            names: what the rows' symbols stand for.
            slow: called with a symbol's name, or None where there is none, and the numbers of its rows, where one of
                them is not to be folded here.
        """
        cdef Py_buffer view
        cdef Py_ssize_t k
        if self.busy:
            raise RuntimeError("This book is folding already.")
        if names is not self.names:
            self.names = names
            self.by_index = []
        if len(names) != len(self.by_index):
            self.by_index += [None] * (len(names) - len(self.by_index))
        PyObject_GetBuffer(rows, &view, PyBUF_SIMPLE)
        self.busy = True
        try:
            if view.len % <Py_ssize_t>sizeof(TickRow) or <uintptr_t>view.buf % 8:
                raise ValueError("These bytes are no rows of ticks.")
            self.make_room(view.len // <Py_ssize_t>sizeof(TickRow), len(names) + 1)
            self.sort(<const TickRow*>view.buf, view.len // <Py_ssize_t>sizeof(TickRow), len(names), now_ms)
            for k in range(self.touched):
                self.fold_symbol(<const TickRow*>view.buf, self.order[k], now_ms, slow)
        finally:
            for k in range(self.touched):
                self.first[self.order[k]] = NONE
            self.touched = 0
            self.busy = False
            PyBuffer_Release(&view)

    cdef int sort(self, const TickRow* rows, Py_ssize_t count, Py_ssize_t names, double now_ms) except -1:
        """Chain the rows of each symbol."""
        cdef Py_ssize_t k
        cdef int32_t place
        cdef const TickRow* row
        cdef double latest = now_ms + self.ahead
        for k in range(count):
            row = &rows[k]
            if row.flags & ROW_GONE:
                continue
            if not NONE <= row.symbol < names:
                raise ValueError("A row of ticks has no such symbol.")
            place = row.symbol + 1
            if self.first[place] == NONE:
                self.first[place] = <int32_t>k
                self.slow[place] = place == 0
                self.order[self.touched] = place
                self.touched += 1
            else:
                self.chain[self.last[place]] = <int32_t>k
            self.last[place] = <int32_t>k
            self.chain[k] = NONE
            if row.flags & ROW_ODD or not row.volume >= 0.0 or not fabs(row.price) <= DBL_MAX:
                self.slow[place] = True
            elif self.timed:
                if not EARLIEST_MS <= row.time <= LATEST_MS or row.time > latest:
                    self.slow[place] = True
            elif not 0 <= row.time <= MAX_MS:
                self.slow[place] = True
        return 0

    cdef int fold_symbol(self, const TickRow* rows, Py_ssize_t place, double now_ms, object slow) except -1:
        cdef SymbolCandles symbol = None
        cdef int32_t at
        if not self.slow[place]:
            symbol = self.symbol_of(place - 1)
        if symbol is not None:
            return self.fold_rows(symbol, rows, self.first[place], now_ms)
        numbers = []
        at = self.first[place]
        while at != NONE:
            numbers.append(at)
            at = self.chain[at]
        slow(self.names[place - 1] if place else None, numbers)
        return 0

    cdef SymbolCandles symbol_of(self, Py_ssize_t index):
        """None where the name is none for a symbol."""
        cdef object found = self.by_index[index]
        if found is not None:
            return <SymbolCandles>found
        name = self.names[index]
        found = self.symbols.get(name)
        if found is None:
            if canonical(name) is None:
                return None
            found = self.symbols[name] = self.symbol(name, self.make())
        self.own(found)
        self.by_index[index] = found
        return <SymbolCandles>found

    cdef int own(self, object symbol) except -1:
        if not isinstance(symbol, SymbolCandles) or (<SymbolCandles>symbol).intervals is not self.intervals:
            raise TypeError("The symbol is another book's.")
        return 0

    cdef int fold_rows(self, SymbolCandles symbol, const TickRow* rows, int32_t at, double now_ms) except -1:
        cdef int64_t low = NEVER, newest = symbol.newest, ms
        cdef const TickRow* row
        cdef Core core = symbol.core
        cdef Series* series = symbol.pinned()
        if not self.timed:
            low = newest = rows[at].time
        while at != NONE:
            row = &rows[at]
            ms = row.time
            if self.timed:
                if ms < newest - self.grace:
                    if low != NEVER:
                        self.note_times(symbol, low, newest, now_ms)
                        low, newest = NEVER, symbol.newest
                    self.close_until(symbol, symbol.newest - self.grace)
                if ms < low:
                    low = ms
                if ms > newest:
                    newest = ms
            else:
                newest = ms
            core.take(series, row.price, row.volume, ms)
            at = self.chain[at]
        self.note_times(symbol, low, newest, now_ms)
        return 0

    cdef int note_times(self, SymbolCandles symbol, int64_t low, int64_t high, double now_ms) except -1:
        cdef Level* levels = symbol.core.plan.levels
        cdef int64_t end
        cdef Py_ssize_t k
        if not symbol.changed:
            self.changed[symbol.name] = symbol
            symbol.changed = True
        if high >= symbol.newest - self.grace:
            symbol.seen = now_ms
        if high > symbol.newest:
            symbol.newest = high
        for k in range(self.count):
            end = align(&levels[k], low) + levels[k].interval
            if end < symbol.due:
                symbol.due = end
        if symbol.due <= symbol.newest - self.grace:
            self.close_until(symbol, symbol.newest - self.grace)
        return 0

    # ------------------------------------------------------------ closing

    def close(self, SymbolCandles symbol not None, int64_t until):
        """Finish the candles that end at or before ``until``."""
        self.own(symbol)
        self.close_until(symbol, until)

    def close_idle(self, double as_of_ms):
        """Close by the clock, as ``CandleBook.close_idle`` does."""
        cdef SymbolCandles symbol
        cdef int64_t until
        for found in self.symbols.values():
            self.own(found)
            symbol = <SymbolCandles>found
            if symbol.due != NEVER and as_of_ms > symbol.seen:
                until = <int64_t>(<double>symbol.newest + as_of_ms - symbol.seen) - self.grace
                if symbol.due <= until:
                    self.close_until(symbol, until)

    def find_due(self, SymbolCandles symbol not None):
        """Set ``due`` to the end of the oldest open candle."""
        self.own(symbol)
        self.set_due(symbol)

    cdef int close_until(self, SymbolCandles symbol, int64_t until) except -1:
        cdef Plan* plan = &symbol.core.plan
        cdef Series* series
        cdef Py_ssize_t k, at, count
        if until <= 0 or symbol.due > until:
            return 0
        series = symbol.pinned()
        for k in range(self.count):
            at = self.levels[k]
            count = complete(plan, series, at, until)
            if count:
                self.keep(symbol.name, k, plan, series, at, count)
                flush_first(plan, series, at, count)
        self.changed[symbol.name] = symbol
        symbol.changed = True
        return self.set_due(symbol)

    cdef int set_due(self, SymbolCandles symbol) except -1:
        cdef Series* series = symbol.pinned()
        cdef Slot* slot
        cdef Py_ssize_t at
        cdef int64_t end
        symbol.due = NEVER
        for at in range(self.count):
            slot = &series.slots[at]
            if slot.length:
                end = slot.data[slot.head].start + symbol.core.plan.levels[at].interval
                if end < symbol.due:
                    symbol.due = end
        return 0

    cdef int keep(
        self, bytes name, Py_ssize_t interval, Plan* plan, Series* series, Py_ssize_t at, Py_ssize_t count
    ) except -1:
        """Encode the slot's first candles: in the time that the server needs for the next read, not in a commit's."""
        cdef Slot* slot = &series.slots[at]
        cdef Encoded pack = <Encoded>self.packs[interval]
        cdef Candle candle
        cdef Py_ssize_t k
        for k in range(count):
            candle = slot.data[slot.head + k]
            if k == slot.length - 1:
                newest_view(plan, series, at, &candle)
            pack.bytes(name)
            pack.integer(candle.start)
            pack.real(candle.open)
            pack.real(candle.high)
            pack.real(candle.low)
            pack.real(candle.close)
            pack.real(candle.volume)
            pack.integer(candle.count)
            self.written[interval] += 1
            if self.written[interval] % self.per_pack == 0:
                (<Encoded>self.full[interval]).argument(pack)
        return 0

    # ------------------------------------------------------------ out

    def candles(self):
        """The finished candles, which are forgotten.

        Returns:
            For each interval in the order given: how many arguments, these in RESP, and how many candles. An argument
            has up to ``per_pack`` candles: the values of ``format_candle_for_redis`` but for the interval, as strings
            of MessagePack.
        """
        cdef Py_ssize_t k, written
        cdef Encoded full
        found = []
        for k in range(self.count):
            written = self.written[k]
            full = <Encoded>self.full[k]
            if written % self.per_pack:
                full.argument(<Encoded>self.packs[k])
            self.written[k] = 0
            found.append(((written + self.per_pack - 1) // self.per_pack, full.taken(), written))
        return found

    def states(self, Py_ssize_t pairs):
        """The states of the symbols that changed; from now on none has.

        Returns:
            How many arguments, these in RESP, and how many states. An argument has up to ``pairs`` pairs of strings of
            MessagePack: ``s:`` and the name; newest and seen as int64, and the dump.
        """
        cdef Encoded out = self.out
        cdef Encoded one = self.one
        cdef SymbolCandles symbol
        cdef int64_t[2] times
        cdef bytes dump
        cdef Py_ssize_t count = 0, held = 0, written = 0
        out.size = one.size = 0
        for found in self.changed.values():
            self.own(found)
            symbol = <SymbolCandles>found
            symbol.changed = False
            if symbol.name not in self.symbols:
                continue
            dump = dumped(symbol.core, sorted(symbol.core._bytes))
            times[0] = symbol.newest
            times[1] = <int64_t>symbol.seen
            one.head(2 + PyBytes_GET_SIZE(symbol.name))
            one.raw(b"s:", 2)
            one.raw(PyBytes_AS_STRING(symbol.name), PyBytes_GET_SIZE(symbol.name))
            one.head(sizeof(times) + PyBytes_GET_SIZE(dump) + 4)
            one.raw(<char*>times, sizeof(times))
            one.raw(PyBytes_AS_STRING(dump), PyBytes_GET_SIZE(dump))
            put_u32(one.room_for(4), <uint32_t>zlib.crc32(dump))
            one.size += 4
            held += 1
            written += 1
            if held == pairs:
                out.argument(one)
                count += 1
                held = 0
        if held:
            out.argument(one)
            count += 1
        self.changed.clear()
        return count, out.taken(), written

    def counts(self):
        """Over all symbols: ticks taken, late ones, candles dropped, as ``CandleBook.counts`` gives them."""
        cdef int64_t ticks = 0, late = 0, dropped = 0
        cdef Core core
        for found in self.symbols.values():
            self.own(found)
            core = (<SymbolCandles>found).core
            ticks += core._ticks
            late += core._late
            dropped += core.plan.dropped
        return {"ticks": ticks, "late": late, "dropped": dropped, "symbols": len(self.symbols)}

    # ------------------------------------------------------------ memory

    cdef int make_room(self, Py_ssize_t rows, Py_ssize_t symbols) except -1:
        cdef Py_ssize_t room, k
        if rows > INT32_MAX or symbols > INT32_MAX:
            raise ValueError("These are too many rows.")
        if rows > self.chain_room:
            self.chain = <int32_t*>larger(self.chain, rows, sizeof(int32_t))
            self.chain_room = rows
        if symbols > self.symbol_room:
            room = symbols + symbols // 2
            self.first = <int32_t*>larger(self.first, room, sizeof(int32_t))
            self.last = <int32_t*>larger(self.last, room, sizeof(int32_t))
            self.order = <int32_t*>larger(self.order, room, sizeof(int32_t))
            self.slow = <bint*>larger(self.slow, room, sizeof(bint))
            for k in range(self.symbol_room, room):
                self.first[k] = NONE
            self.symbol_room = room
        return 0


cdef void* larger(void* data, Py_ssize_t count, size_t size) except NULL:
    """Grown in place or moved; where there is no memory, an error, and the old place still holds."""
    cdef void* grown = PyMem_Realloc(data, count * size)
    if grown is NULL:
        raise MemoryError
    return grown
