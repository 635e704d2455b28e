# Columns of ticks, read and checked before the first row is taken. Uses: layout, candles, values, core, and the
# TickBatch of stream_batch.

@cython.final
cdef class Column:
    """One column of numbers as a C array: a NumPy array's own memory, or a copy made from a tuple."""

    cdef Py_buffer buffer
    cdef bint viewed
    cdef void* data
    cdef Py_ssize_t count
    cdef object array  # to be viewed; None: the memory is ours

    def __dealloc__(self):
        if self.viewed:
            PyBuffer_Release(&self.buffer)
        else:
            PyMem_Free(self.data)

    cdef int view(self, object dtype, Py_ssize_t width) except -1:
        import numpy

        if self.array is None:
            return 0
        ready = numpy.require(self.array, dtype, ["C", "A"])
        PyObject_GetBuffer(ready, &self.buffer, PyBUF_SIMPLE)
        self.viewed = True
        self.data = self.buffer.buf
        if self.buffer.len != self.count * width:
            raise RuntimeError("An array was changed by the code of a value in the batch; nothing was taken.")
        return 0

    cdef int allocate(self, Py_ssize_t count) except -1:
        self.data = PyMem_Malloc(max(count, 1) * 8)
        if self.data is NULL:
            raise MemoryError
        self.count = count
        return 0


cdef Column array_column(object array):
    """A column whose memory is viewed later."""
    cdef Column column = Column()
    column.array = array
    column.count = len(array)
    return column


cdef Column float_column(object values, bint signed):
    cdef Column column = Column()
    cdef double* data
    cdef bint good = True
    cdef Py_ssize_t k
    cdef tuple items
    if not PyTuple_CheckExact(values):
        return array_column(values)
    items = values
    column.allocate(PyTuple_GET_SIZE(items))
    data = <double*>column.data
    for k in range(column.count):
        data[k] = price_of(<object>PyTuple_GET_ITEM(items, k), &good)
        if not good or not (signed or data[k] >= 0.0):
            raise (price_error if signed else volume_error)(items[k], f"row {k}: ")
    return column


cdef Column time_column(object values):
    cdef Column column = Column()
    cdef int64_t* data
    cdef bint good = True
    cdef Py_ssize_t k
    cdef tuple items
    if not PyTuple_CheckExact(values):
        return array_column(values)
    items = values
    column.allocate(PyTuple_GET_SIZE(items))
    data = <int64_t*>column.data
    for k in range(column.count):
        data[k] = time_of(<object>PyTuple_GET_ITEM(items, k), &good)
        if not good:
            raise time_error(items[k], f"row {k}: ")
    return column


cdef int check_floats(Column column, bint signed) except -1:
    cdef double* data = <double*>column.data
    cdef double value
    cdef bint good = True
    cdef Py_ssize_t k
    if not column.viewed:
        return 0
    for k in range(column.count):  # no early end, so that the compiler can vectorise
        value = data[k]
        good &= (fabs(value) <= DBL_MAX) & (signed | (value >= 0.0))
    if not good:
        for k in range(column.count):
            if not fabs(data[k]) <= DBL_MAX or not (signed or data[k] >= 0.0):
                raise (price_error if signed else volume_error)(column.array[k].item(), f"row {k}: ")
    return 0


cdef int check_times(Column column) except -1:
    cdef int64_t* data = <int64_t*>column.data
    cdef bint good = True
    cdef Py_ssize_t k
    if not column.viewed:
        return 0
    for k in range(column.count):
        good &= (data[k] >= 0) & (data[k] <= MAX_MS)
    if not good:
        for k in range(column.count):
            if not 0 <= data[k] <= MAX_MS:
                raise time_error(column.array[k].item(), f"row {k}: ")
    return 0


@cython.final
cdef class ColumnReader(TickBatch):
    """Reads columns of ticks."""

    cdef Column prices
    cdef Column volumes
    cdef Column times
    cdef Series* single  # the series of all rows, or NULL
    cdef Column codes  # else per row an index into table, or NULL
    cdef Column table  # else per row a Series*

    cdef int read(self, object symbols, object prices, object volumes, object times) except -1:
        """The arrays last: once they are checked, no code of a caller's object runs that could change them."""
        names, prices, volumes, times, categories = columns_of(symbols, prices, volumes, times)
        self.prices = float_column(prices, True)
        self.volumes = float_column(volumes, False)
        self.times = time_column(times)
        self.same_length("volumes", self.volumes.count)
        self.same_length("timestamps", self.times.count)
        if isinstance(names, (str, bytes)):
            self.single = self.series_of(names, -1)
        elif categories is not None:
            self.read_codes(names, categories)
        else:
            self.read_symbols(names)
        self.prices.view("f8", 8)
        self.volumes.view("f8", 8)
        self.times.view("i8", 8)
        check_floats(self.prices, True)
        check_floats(self.volumes, False)
        check_times(self.times)
        return 0

    cdef int same_length(self, str name, Py_ssize_t count) except -1:
        if count != self.prices.count:
            raise TickError(f"{name} has {count} rows, prices has {self.prices.count}: they must be equal.")
        return 0

    cdef Series* series_of(self, object symbol, Py_ssize_t row) except NULL:
        cdef Series* series = self.into.valued(symbol)
        if series is NULL:
            series = self.fresh_series(symbol)
            if series is NULL:
                raise symbol_error(symbol, "" if row < 0 else f"row {row}: ")
        return series

    cdef int read_codes(self, object array, list categories) except -1:
        cdef Series** table
        cdef int64_t* codes
        cdef int64_t code
        cdef Py_ssize_t k
        cdef Py_ssize_t size = len(categories)
        self.codes = array_column(array)
        self.same_length("symbols", self.codes.count)
        self.codes.view("i8", 8)
        self.table = Column()
        self.table.allocate(size)
        table = <Series**>self.table.data
        memset(table, 0, size * sizeof(void*))
        codes = <int64_t*>self.codes.data
        for k in range(self.codes.count):
            code = codes[k]
            if code < 0 or code >= size:
                raise symbol_error(None, f"row {k}: ")
            if table[code] is NULL:
                table[code] = self.series_of(categories[code], k)
        return 0

    cdef int read_symbols(self, object symbols) except -1:
        cdef Py_ssize_t count = len(symbols)
        self.same_length("symbols", count)
        self.table = Column()
        self.table.allocate(count)
        if isinstance(symbols, tuple):
            self.read_objects(symbols)
        else:
            self.read_texts(symbols)
        return 0

    cdef int read_objects(self, tuple symbols) except -1:
        """The same object is often met again; the tuple keeps all of them alive meanwhile."""
        cdef Series** table = <Series**>self.table.data
        cdef Series* seen[ALIASES]
        cdef PyObject* keys[ALIASES]
        cdef PyObject* key
        cdef size_t at
        cdef Py_ssize_t k
        memset(keys, 0, sizeof(keys))
        for k in range(self.table.count):
            key = PyTuple_GET_ITEM(symbols, k)
            at = ((<size_t>key >> 4) ^ (<size_t>key >> 13)) & (ALIASES - 1)
            if keys[at] != key:
                seen[at] = self.series_of(<object>key, k)
                keys[at] = key
            table[k] = seen[at]
        return 0

    cdef int read_texts(self, object array) except -1:
        """Fixed-width text: equal bytes are equal symbols, so a row is decoded only where its bytes are new."""
        cdef Series** table = <Series**>self.table.data
        cdef Series* seen[ALIASES]
        cdef const char* keys[ALIASES]
        cdef const char* key
        cdef Column raw = array_column(array)
        cdef Py_ssize_t width = array.dtype.itemsize
        cdef Py_ssize_t k, byte
        cdef uint64_t at
        if width == 0:
            raise symbol_error("", "row 0: ")
        raw.view(array.dtype, width)
        memset(keys, 0, sizeof(keys))
        for k in range(self.table.count):
            key = <const char*>raw.data + k * width
            at = 14695981039346656037ULL  # FNV-1a
            for byte in range(width):
                if key[byte]:
                    at = (at ^ <unsigned char>key[byte]) * 1099511628211ULL
            at = (at ^ (at >> 32)) & (ALIASES - 1)
            if keys[at] is NULL or memcmp(keys[at], key, width) != 0:
                seen[at] = self.series_of(array[k].item(), k)
                keys[at] = key
            table[k] = seen[at]
        return 0

    cdef Py_ssize_t apply(self) except -1:
        cdef Py_ssize_t k, count = self.prices.count
        cdef double* prices = <double*>self.prices.data
        cdef double* volumes = <double*>self.volumes.data
        cdef int64_t* times = <int64_t*>self.times.data
        cdef Core into = self.into
        cdef Series** table
        cdef int64_t* codes
        if count == 0:
            return 0
        self.adopt_fresh()
        if self.single is not NULL:
            for k in range(count):
                into.take(self.single, prices[k], volumes[k], times[k])
            return count
        table = <Series**>self.table.data
        if self.codes is None:
            for k in range(count):
                into.take(table[k], prices[k], volumes[k], times[k])
        else:
            codes = <int64_t*>self.codes.data
            for k in range(count):
                into.take(table[codes[k]], prices[k], volumes[k], times[k])
        return count
