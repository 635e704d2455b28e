# Entries of Redis replies, read and checked before the first is taken. Uses: layout, candles, values, core.

cdef class TickBatch:
    """What both batches share: symbols found or made while reading; taking begins only when all is read."""

    cdef Core into
    cdef dict fresh  # str -> Symbol, new with this batch
    cdef uint64_t generation

    def __cinit__(self, Core into, *_):
        self.into = into
        self.generation = into._generation
        self.fresh = {}

    cdef Series* fresh_series(self, object symbol) except? NULL:
        """The series of a symbol that the aggregator does not know; NULL where the symbol is refused."""
        cdef str name
        cdef Symbol made
        cdef PyObject* entry
        if PyUnicode_CheckExact(symbol):
            entry = PyDict_GetItemWithError(self.fresh, symbol)
            if entry is not NULL:
                return &(<Symbol>entry).series
        name = canonical(symbol)
        if name is None:
            return NULL
        made = self.fresh.get(name)
        if made is None:
            made = Symbol.make(&self.into.plan, name)
            self.fresh[name] = made
        return &made.series

    cdef int sure_unchanged(self) except -1:
        """Series that were found while reading are still there; no thread takes a batch.

        Raises:
            ChangedElsewhere: another thread changed which there are: read again.
        """
        self.into.idle()
        if self.generation != self.into._generation:
            if self.into._changer != PyThread_get_thread_ident():
                raise ChangedElsewhere("Other threads change the aggregator all the time; nothing was taken.")
            raise RuntimeError("The aggregator was changed by the code of a value in the batch; nothing was taken.")
        return 0

    cdef int adopt_all(self) except -1:
        for symbol in self.fresh.values():
            self.into.adopt(symbol)
        return 0

    cdef int adopt_fresh(self) except -1:
        self.sure_unchanged()
        return self.adopt_all()


class ChangedElsewhere(RuntimeError):
    """Another thread made or removed a series while a batch was read."""


@cython.final
cdef class Field:
    """A field name in both of its forms."""

    cdef str text
    cdef bytes data

    def __cinit__(self, str argument, object name):
        self.text = canonical(name)
        if self.text is None:
            raise SettingsError(f"{argument} {show(name)} is refused: it must be a non-empty str, or bytes in UTF-8.")
        self.data = self.text.encode()

    cdef inline PyObject* of(self, dict fields, bint as_bytes) except? NULL:
        """The value, NULL where there is none. To be used at once: the next look-up can run a key's code, which may
        change the dict."""
        cdef PyObject* value
        value = PyDict_GetItemWithError(fields, self.data if as_bytes else self.text)
        if value is NULL:
            value = PyDict_GetItemWithError(fields, self.text if as_bytes else self.data)
        return value

    cdef inline bint is_name(self, object key) except -1:
        if PyBytes_Check(key):
            return (
                PyBytes_GET_SIZE(key) == PyBytes_GET_SIZE(self.data)
                and memcmp(PyBytes_AS_STRING(key), PyBytes_AS_STRING(self.data), PyBytes_GET_SIZE(key)) == 0
            )
        return isinstance(key, str) and PyUnicode_Compare(key, self.text) == 0

    cdef str where(self, object entry_id):
        return f"entry {_id_text(entry_id)}, field {self.text!r}: "


def _id_text(entry_id):
    return show(bytes.decode(entry_id, errors="backslashreplace") if isinstance(entry_id, bytes) else entry_id)


def _missing(entry_id, Field field):
    return TickError(f"{field.where(entry_id)}it is missing. Name the field that holds it, or drop the entry.")


cdef inline bint quick_number(PyObject* value, double* out) noexcept:
    """A plain decimal's double; False: there is no value, or ``field_number`` is to look at it."""
    cdef const char* text = NULL
    cdef Py_ssize_t size = 0
    return value is not NULL and text_of(value, &text, &size) and quick_double(text, size, out)


cdef double slow_number(object value, bint* good) except? -1.0:
    """What ``field_number`` gives, and whether that is a finite number."""
    cdef double out
    cdef object converted = value if PyFloat_CheckExact(value) else field_number(value)
    good[0] = converted is not None
    if not good[0]:
        return 0.0
    out = converted
    good[0] = fabs(out) <= DBL_MAX
    return out


cdef inline int64_t quick_ms(PyObject* value, bint stream_id) noexcept:
    """The milliseconds of digits, or of a stream id; -1: there is no value, or it is something else."""
    cdef const char* text = NULL
    cdef Py_ssize_t size = 0
    if value is not NULL and text_of(value, &text, &size):
        return digits_ms(text, size, stream_id)
    return -1


cdef inline bint is_pair(object item):
    return isinstance(item, (list, tuple)) and len(item) == 2


cdef bint is_stream(object item) except -1:
    """Tells ``[stream, entries]`` from an entry ``[id, fields]``: entries hold lists, fields do not."""
    if not is_pair(item) or not isinstance(item[0], (str, bytes)) or not isinstance(item[1], (list, tuple)):
        return False
    return len(item[1]) > 0 and (item[1][0] is None or isinstance(item[1][0], (list, tuple)))


@cython.final
cdef class ReplyReader(TickBatch):
    """Reads the reply shapes of Redis clients."""

    cdef Field price
    cdef Field volume
    cdef Field symbol
    cdef Field timestamp
    cdef object stream  # the name of the stream being read
    cdef Series* stream_series
    cdef Tick* ticks
    cdef Py_ssize_t count
    cdef Py_ssize_t capacity

    def __init__(self, into, price_field, volume_field, symbol_field, timestamp_field):
        self.price = Field("price_field", price_field)
        self.volume = None if volume_field is None else Field("volume_field", volume_field)
        self.symbol = None if symbol_field is None else Field("symbol_field", symbol_field)
        self.timestamp = None if timestamp_field is None else Field("timestamp_field", timestamp_field)

    def __dealloc__(self):
        PyMem_Free(self.ticks)

    cdef int read(self, object reply) except -1:
        if isinstance(reply, Mapping):
            for stream, entries in reply.items():
                self.read_stream(stream, entries)
        elif isinstance(reply, (list, tuple)):
            for item in reply:
                if is_stream(item):
                    self.read_stream(item[0], item[1])
                else:
                    self.read_stream(None, (item,))
        elif reply is not None:
            raise TickError(
                f"The reply {show(reply)} is refused: give what XREAD, XREADGROUP or XRANGE returned (dict or list)."
            )
        return 0

    cdef int read_stream(self, object stream, object entries) except -1:
        self.stream = stream
        self.stream_series = NULL
        if entries is None:
            return 0
        if not isinstance(entries, (list, tuple)):
            raise TickError(f"The entries {show(entries)} of stream {show(stream)} are refused: give a list.")
        return self.read_entries(entries, 0)

    cdef int read_entries(self, object entries, int depth) except -1:
        cdef object entry, first, fields
        if depth > MAX_NESTING:
            raise TickError(f"The reply is refused: its entries stand in more than {MAX_NESTING} lists.")
        for entry in entries:
            if entry is None:
                continue
            if PyTuple_CheckExact(entry) and PyTuple_GET_SIZE(entry) == 2:
                first = <object>PyTuple_GET_ITEM(entry, 0)
                fields = <object>PyTuple_GET_ITEM(entry, 1)
            else:
                if not isinstance(entry, (list, tuple)):
                    raise TickError(f"The entry {show(entry)} is refused: give (id, fields).")
                if len(entry) == 0:
                    continue
                first = entry[0]
                if not isinstance(first, (list, tuple)) and len(entry) != 2:
                    raise TickError(f"The entry {show(entry)} is refused: give (id, fields).")
                fields = None if isinstance(first, (list, tuple)) else entry[1]
            if isinstance(first, (list, tuple)):  # redis-py with RESP3 wraps the entries once more
                self.read_entries(entry, depth + 1)
            elif isinstance(fields, dict):
                self.read_dict(first, <dict>fields)
            elif isinstance(fields, (list, tuple)):
                self.read_flat(first, fields if PyTuple_CheckExact(fields) else tuple(fields))
            elif isinstance(fields, Mapping):
                self.read_dict(first, dict(fields))
            elif fields is not None:
                raise TickError(
                    f"entry {_id_text(first)}: the fields {show(fields)} are refused: give a dict or a list."
                )
        return 0

    cdef int read_dict(self, object entry_id, dict fields) except -1:
        cdef Py_ssize_t at = 0
        cdef PyObject* key = NULL
        cdef bint as_bytes
        cdef Tick tick
        if not PyDict_Next(fields, &at, &key, NULL):
            return 0
        as_bytes = PyBytes_Check(<object>key)
        self.take_price(&tick, entry_id, self.price.of(fields, as_bytes))
        self.take_volume(&tick, entry_id, NULL if self.volume is None else self.volume.of(fields, as_bytes))
        self.take_time(&tick, entry_id, NULL if self.timestamp is None else self.timestamp.of(fields, as_bytes))
        self.take_symbol(&tick, entry_id, NULL if self.symbol is None else self.symbol.of(fields, as_bytes))
        return self.keep(&tick)

    cdef int read_flat(self, object entry_id, tuple row) except -1:
        """``(field, value, field, value)``; of two equal names the last counts, as in a dict."""
        cdef PyObject* price = NULL
        cdef PyObject* volume = NULL
        cdef PyObject* symbol = NULL
        cdef PyObject* timestamp = NULL
        cdef Py_ssize_t at
        cdef object key
        cdef PyObject* value
        cdef Tick tick
        if PyTuple_GET_SIZE(row) == 0:
            return 0
        if PyTuple_GET_SIZE(row) % 2:
            raise TickError(f"entry {_id_text(entry_id)}: the fields {show(row)} are refused: a name has no value.")
        for at in range(0, PyTuple_GET_SIZE(row), 2):
            key = <object>PyTuple_GET_ITEM(row, at)
            value = PyTuple_GET_ITEM(row, at + 1)
            if self.price.is_name(key):
                price = value
            if self.volume is not None and self.volume.is_name(key):
                volume = value
            if self.timestamp is not None and self.timestamp.is_name(key):
                timestamp = value
            if self.symbol is not None and self.symbol.is_name(key):
                symbol = value
        self.take_price(&tick, entry_id, price)
        self.take_volume(&tick, entry_id, volume)
        self.take_time(&tick, entry_id, timestamp)
        self.take_symbol(&tick, entry_id, symbol)
        return self.keep(&tick)

    # A value in its plain form is read on the spot; any other, and an absent one, is held and looked at slowly.

    cdef inline int take_price(self, Tick* tick, object entry_id, PyObject* value) except -1:
        if not quick_number(value, &tick.price):
            tick.price = self.slow_price(entry_id, value)
        return 0

    cdef double slow_price(self, object entry_id, PyObject* value) except? -1.0:
        cdef bint good = True
        if value is NULL:
            raise _missing(entry_id, self.price)
        held = <object>value
        cdef double price = slow_number(held, &good)
        if not good:
            raise price_error(held, self.price.where(entry_id))
        return price

    cdef inline int take_volume(self, Tick* tick, object entry_id, PyObject* value) except -1:
        if not quick_number(value, &tick.volume) or not tick.volume >= 0.0:
            tick.volume = self.slow_volume(entry_id, value)
        return 0

    cdef double slow_volume(self, object entry_id, PyObject* value) except? -1.0:
        cdef bint good = True
        if self.volume is None:
            return 0.0
        if value is NULL:
            raise _missing(entry_id, self.volume)
        held = <object>value
        cdef double volume = slow_number(held, &good)
        if not good or not volume >= 0.0:
            raise volume_error(held, self.volume.where(entry_id))
        return volume

    cdef inline int take_time(self, Tick* tick, object entry_id, PyObject* value) except -1:
        if self.timestamp is None:
            tick.ms = quick_ms(<PyObject*>entry_id, True)
            if not 0 <= tick.ms <= MAX_MS:
                tick.ms = self.slow_id(entry_id)
        else:
            tick.ms = quick_ms(value, False)
            if not EARLIEST_MS <= tick.ms <= LATEST_MS:
                tick.ms = self.slow_time(entry_id, value)
        return 0

    cdef int64_t slow_time(self, object entry_id, PyObject* value) except -1:
        if value is NULL:
            raise _missing(entry_id, self.timestamp)
        held = <object>value
        ms = field_ms(held)
        if ms is None:
            raise field_time_error(held, self.timestamp.where(entry_id))
        return ms

    cdef inline int take_symbol(self, Tick* tick, object entry_id, PyObject* value) except -1:
        cdef object held
        if self.symbol is None:
            if self.stream_series is NULL:
                self.name_stream(entry_id)
            tick.series = self.stream_series
        else:
            if value is NULL:
                raise _missing(entry_id, self.symbol)
            held = <object>value
            tick.series = self.into.valued(held)
            if tick.series is NULL:
                tick.series = self.new_series(entry_id, held)
        return 0

    cdef Series* new_series(self, object entry_id, object symbol) except NULL:
        cdef Series* series = self.fresh_series(symbol)
        if series is NULL:
            raise symbol_error(symbol, self.symbol.where(entry_id))
        return series

    cdef inline int keep(self, Tick* tick) except -1:
        if self.count == self.capacity:
            self.grow()
        self.ticks[self.count] = tick[0]
        self.count += 1
        return 0

    cdef int64_t slow_id(self, object entry_id) except -1:
        exact = plain_text(entry_id)
        cdef int64_t ms = quick_ms(<PyObject*>exact, True)
        if not 0 <= ms <= MAX_MS:
            raise TickError(
                f"entry {_id_text(entry_id)}: its id is not <milliseconds>-<number> up to {MAX_MS}. "
                "Where a field holds the time, name it in timestamp_field."
            )
        return ms

    cdef int name_stream(self, object entry_id) except -1:
        if self.stream is None:
            raise TickError(
                f"entry {_id_text(entry_id)} has no symbol: the reply names no stream. "
                "Pass symbol_field, or the reply with its stream names."
            )
        self.stream_series = self.into.valued(self.stream)
        if self.stream_series is NULL:
            self.stream_series = self.fresh_series(self.stream)
            if self.stream_series is NULL:
                raise symbol_error(self.stream, f"entry {_id_text(entry_id)}, stream name: ")
        return 0

    cdef int grow(self) except -1:
        cdef Py_ssize_t capacity = self.capacity * 2 if self.capacity else 256
        cdef void* ticks = PyMem_Realloc(self.ticks, capacity * sizeof(Tick))
        if ticks is NULL:
            raise MemoryError
        self.ticks = <Tick*>ticks
        self.capacity = capacity
        return 0

    cdef Py_ssize_t apply(self) except -1:
        cdef Py_ssize_t k
        cdef Tick* tick
        cdef Core into = self.into
        self.adopt_fresh()
        for k in range(self.count):
            tick = &self.ticks[k]
            into.take(tick.series, tick.price, tick.volume, tick.ms)
        return self.count
