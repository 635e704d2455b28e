# What lies under an aggregator and what the batches and the dump work on: the series by symbol, and the way of a
# checked tick into them. Uses: layout, candles, values, candle_data.

@cython.final
@cython.no_gc
cdef class Symbol:
    """Owns the memory of one symbol's series."""

    cdef Series series
    cdef Py_ssize_t count
    cdef str name

    @staticmethod
    cdef Symbol make(Plan* plan, str name):
        cdef Symbol symbol = Symbol.__new__(Symbol)
        cdef Py_ssize_t at
        symbol.name = name
        symbol.series.hots = <Hot*>PyMem_Malloc(plan.root_count * sizeof(Hot))
        symbol.series.slots = <Slot*>PyMem_Malloc(plan.count * sizeof(Slot))
        if symbol.series.hots is NULL or symbol.series.slots is NULL:
            raise MemoryError
        memset(symbol.series.hots, 0, plan.root_count * sizeof(Hot))
        memset(symbol.series.slots, 0, plan.count * sizeof(Slot))
        symbol.count = plan.count
        for at in range(plan.count):
            symbol.series.slots[at].mark = NO_MARK
        return symbol

    def __dealloc__(self):
        cdef Py_ssize_t at
        for at in range(self.count):
            PyMem_RawFree(self.series.slots[at].data)
        PyMem_Free(self.series.slots)
        PyMem_Free(self.series.hots)


cdef struct Alias:
    PyObject* key  # owned
    Series* series


def checked_intervals(intervals):
    cdef list checked = []
    if intervals is None:
        return [60_000, 300_000]
    if isinstance(intervals, (str, bytes)) or not hasattr(intervals, "__iter__"):
        raise IntervalError(f"intervals {show(intervals)} is refused: give a list of milliseconds, such as [60000].")
    for value in intervals:
        interval = whole(value)
        if interval is None or not 0 < interval <= MAX_MS:
            raise IntervalError(
                f"interval {show(value)} is refused: it must be an int, milliseconds from 1 to {MAX_MS}."
            )
        if interval in checked:
            raise IntervalError(f"interval {interval} is refused: it is in the list twice.")
        checked.append(interval)
    if not checked:
        raise IntervalError("intervals is empty: give at least one, such as [60000].")
    return checked


def _shift(interval):
    return MONDAY_SHIFT_MS if interval == WEEK_MS else 0


def _nests(child, parent):
    return parent % child == 0 and (_shift(parent) - _shift(child)) % child == 0


@cython.auto_pickle(False)  # an aggregator is pickled as its dump
cdef class Core:
    """The state of an aggregator. ``intervals`` and ``max_candles`` are those of ``FastOHLC``."""

    cdef Plan plan
    cdef list _intervals
    cdef dict _levels  # interval -> index of its level
    cdef dict _texts  # str -> Symbol
    cdef dict _bytes  # bytes -> Symbol: a dict of its own, since b"X" and "X" hash alike and compare slowly
    cdef int64_t _ticks
    cdef int64_t _late
    cdef uint64_t _generation  # changes when a series comes or goes
    cdef unsigned long _changer  # the thread that did that last
    cdef PyThread_type_lock _lock  # held while a batch is taken without the GIL
    cdef bint _busy  # whether it is
    cdef Alias[ALIASES] _aliases
    cdef object __weakref__

    def __cinit__(self, intervals=None, max_candles=0):
        cdef Py_ssize_t at, child
        cdef list ordered
        self._lock = PyThread_allocate_lock()
        if self._lock is NULL:
            raise MemoryError
        self._intervals = checked_intervals(intervals)
        bound = whole(max_candles)
        if bound is None or not 0 <= bound <= MAX_MS:
            raise SettingsError(
                f"max_candles {show(max_candles)} is refused: it must be an int, 0 (no bound) or more."
            )
        ordered = sorted(self._intervals)
        self.plan.max_candles = bound
        self.plan.count = len(ordered)
        self.plan.levels = <Level*>PyMem_Malloc(len(ordered) * sizeof(Level))
        self.plan.roots = <Py_ssize_t*>PyMem_Malloc(len(ordered) * sizeof(Py_ssize_t))
        if self.plan.levels is NULL or self.plan.roots is NULL:
            raise MemoryError
        for at in range(self.plan.count - 1, -1, -1):
            self.plan.levels[at] = Level(ordered[at], _shift(ordered[at]), -1, -1, -1)
        for at in range(self.plan.count - 1, -1, -1):
            for child in range(at - 1, -1, -1):
                if _nests(ordered[child], ordered[at]):
                    self.plan.levels[at].source = child
                    self.plan.levels[at].next = self.plan.levels[child].first
                    self.plan.levels[child].first = at
                    break
        for at in range(self.plan.count):
            if self.plan.levels[at].source < 0:
                self.plan.roots[self.plan.root_count] = at
                self.plan.root_count += 1
        self._levels = {interval: at for at, interval in enumerate(ordered)}
        self._texts = {}
        self._bytes = {}

    def __dealloc__(self):
        self.forget_aliases()
        PyMem_Free(self.plan.levels)
        PyMem_Free(self.plan.roots)
        if self._lock is not NULL:
            PyThread_free_lock(self._lock)

    @cython.final
    cdef void changed(self) noexcept:
        """A series comes or goes."""
        self._generation += 1
        self._changer = PyThread_get_thread_ident()

    @cython.final
    cdef void begin(self) noexcept:
        """From here to ``end`` the series are this thread's, without the GIL. Nobody is within: see ``idle``."""
        self._busy = True
        with nogil:
            PyThread_acquire_lock(self._lock, WAIT_LOCK)

    @cython.final
    cdef void end(self) noexcept:
        self._busy = False
        PyThread_release_lock(self._lock)

    @cython.final
    cdef void idle(self) noexcept:
        """Wait until no other thread takes a batch. True as long as this thread keeps the GIL, so this stands right
        before what looks into the series, with nothing between them that runs Python code."""
        while self._busy:
            with nogil:
                PyThread_acquire_lock(self._lock, WAIT_LOCK)
                PyThread_release_lock(self._lock)

    @cython.final
    cdef inline int take(self, Series* series, double price, double volume, int64_t ms) except -1:
        """One checked tick. Nothing in here runs Python code."""
        cdef Py_ssize_t k
        for k in range(self.plan.root_count):
            if <uint64_t>(ms - series.hots[k].start) >= series.hots[k].width:
                return self.take_slowly(series, price, volume, ms)
        for k in range(self.plan.root_count):
            add_tick(series.hots[k].candle, price, volume, ms)
        self._ticks += 1
        return 0

    @cython.final
    cdef int take_slowly(self, Series* series, double price, double volume, int64_t ms) except -1:
        cdef Py_ssize_t k
        cdef int result = 0, above
        for k in range(self.plan.root_count):
            above = walk(&self.plan, series, self.plan.roots[k], price, volume, ms)
            if above < 0:
                refresh_hots(&self.plan, series)
                raise MemoryError
            result |= above
        refresh_hots(&self.plan, series)
        self._ticks += (result & ACCEPTED) != 0
        self._late += (result & LATE) != 0
        return 0

    @cython.final
    cdef inline Series* known(self, object symbol) except? NULL:
        """The series of a symbol, NULL where there is none yet."""
        cdef PyObject* key = <PyObject*>symbol
        cdef size_t at = ((<size_t>key >> 4) ^ (<size_t>key >> 13)) & (ALIASES - 1)
        if self._aliases[at].key == key:
            return self._aliases[at].series
        if self._aliases[at ^ 1].key == key:
            return self._aliases[at ^ 1].series
        return self.looked_up(symbol, at)

    @cython.final
    cdef Series* looked_up(self, object symbol, size_t at) except? NULL:
        cdef Series* series = self.valued(symbol)
        cdef Alias* alias
        if series is not NULL and (PyUnicode_CheckExact(symbol) or PyBytes_CheckExact(symbol)):
            alias = &self._aliases[at ^ 1]
            Py_XDECREF(alias.key)
            alias[0] = self._aliases[at]
            alias = &self._aliases[at]
            Py_INCREF(symbol)
            alias.key = <PyObject*>symbol
            alias.series = series
        return series

    @cython.final
    cdef Series* valued(self, object symbol) except? NULL:
        """The same by the symbol's value, for objects that are not seen again."""
        cdef PyObject* entry
        if PyBytes_CheckExact(symbol):
            entry = PyDict_GetItemWithError(self._bytes, symbol)
        else:
            if not PyUnicode_CheckExact(symbol):
                symbol = canonical(symbol)
                if symbol is None:
                    return NULL
            entry = PyDict_GetItemWithError(self._texts, symbol)
        return NULL if entry is NULL else &(<Symbol>entry).series

    @cython.final
    cdef Series* create(self, object symbol) except NULL:
        cdef str name = canonical(symbol)
        cdef Symbol made
        if name is None:
            raise symbol_error(symbol)
        made = Symbol.make(&self.plan, name)
        self.adopt(made)
        return &made.series

    @cython.final
    cdef int adopt(self, Symbol symbol) except -1:
        cdef bytes name = symbol.name.encode()
        self.changed()
        if symbol.name in self._texts:  # load() of a subclass can give an aggregator that is not new
            self.forget_aliases()
        self._texts[symbol.name] = symbol
        self._bytes[name] = symbol
        return 0

    @cython.final
    cdef Series* ready(self, object symbol) except NULL:
        """The series of a symbol, a new one where need be, to be used at once: no thread takes a batch."""
        cdef Series* series
        while True:
            self.idle()
            series = self.known(symbol)
            if series is not NULL and not self._busy:
                return series
            if series is NULL:
                self.create(symbol)

    @cython.final
    cdef Series* found(self, object symbol) except? NULL:
        """The same; NULL for a symbol that nobody knows."""
        cdef Series* series
        while True:
            self.idle()
            series = self.known(symbol)
            if series is NULL and canonical(symbol) is None:
                raise symbol_error(symbol)
            if not self._busy:
                return series

    @cython.final
    cdef Py_ssize_t level(self, object interval) except -1:
        plain = whole(interval)
        if plain is None or plain not in self._levels:
            raise IntervalError(f"interval {show(interval)} is not one of this aggregator's: {self._intervals}.")
        return self._levels[plain]

    @cython.final
    cdef list first_candles(self, Series* series, Py_ssize_t at, Py_ssize_t count):
        """Copies, then objects: to make one can run the garbage collector, and with it code that changes the series."""
        cdef Slot* slot = &series.slots[at]
        cdef Candle* copies
        cdef Py_ssize_t k
        if count == 0:
            return []
        copies = <Candle*>PyMem_Malloc(count * sizeof(Candle))
        if copies is NULL:
            raise MemoryError
        try:
            memcpy(copies, slot.data + slot.head, count * sizeof(Candle))
            if count == slot.length:
                newest_view(&self.plan, series, at, &copies[count - 1])
            return [candle_data(&copies[k]) for k in range(count)]
        finally:
            PyMem_Free(copies)

    @cython.final
    cdef bytes records(self, Series* series, Py_ssize_t at):
        """All candles as they lie in memory. The one object that is made here is none that the collector counts."""
        cdef Slot* slot = &series.slots[at]
        cdef bytes copies = PyBytes_FromStringAndSize(NULL, slot.length * <Py_ssize_t>sizeof(Candle))
        cdef Candle* candles = <Candle*>PyBytes_AS_STRING(copies)
        if slot.length:
            memcpy(candles, slot.data + slot.head, slot.length * sizeof(Candle))
            newest_view(&self.plan, series, at, &candles[slot.length - 1])
        return copies

    @cython.final
    cdef void forget_aliases(self) noexcept:
        cdef Py_ssize_t k
        for k in range(ALIASES):
            Py_XDECREF(self._aliases[k].key)
            self._aliases[k].key = NULL
