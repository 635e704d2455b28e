# Columns of ticks, brought to arrays of C: each row's symbol as a number into a table of series. Uses: layout, candles,
# values, core, texts, arrow, taking, and the TickBatch of stream_batch.

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


cdef enum:
    FEW = 4096  # categories whose series are made before it is known whether they have rows


@cython.final
cdef class ColumnReader(TickBatch):
    """Reads columns of ticks."""

    cdef Column prices
    cdef Column volumes
    cdef Column times
    cdef Column codes  # per row an index into table; None: all rows have its first
    cdef int width  # bytes of a code
    cdef Column table  # Series*
    cdef list names  # categories
    cdef bint doubtful  # two of the table may be one series

    cdef int read(self, object symbols, object prices, object volumes, object times) except -1:
        """The arrays last: once they are checked, no code of a caller's object runs that could change them."""
        names, prices, volumes, times, categories = columns_of(symbols, prices, volumes, times)
        self.prices = float_column(prices, True)
        self.volumes = float_column(volumes, False)
        self.times = time_column(times)
        self.same_length("volumes", self.volumes.count)
        self.same_length("timestamps", self.times.count)
        if isinstance(names, (str, bytes)):
            self.allocate_table(1)
            (<Series**>self.table.data)[0] = self.series_of(names, -1)
        elif categories is not None:
            self.read_codes(names, categories)
        else:
            self.read_symbols(names)
        self.prices.view("f8", 8)
        self.volumes.view("f8", 8)
        self.times.view("i8", 8)
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

    cdef int allocate_table(self, Py_ssize_t size) except -1:
        self.table = Column()
        self.table.allocate(size)
        memset(self.table.data, 0, size * sizeof(void*))
        return 0

    cdef int32_t* allocate_codes(self, Py_ssize_t count) except NULL:
        self.same_length("symbols", count)
        self.codes = Column()
        self.codes.allocate((count + 1) // 2)
        self.codes.count = count
        self.width = 4
        return <int32_t*>self.codes.data

    # -------------------------------------------------------- categories

    cdef int read_codes(self, object array, list categories) except -1:
        """The codes where they are. Of few categories each gets its series now, and those without a row lose it
        later; of many, those that have a row."""
        cdef Series** table
        cdef Py_ssize_t k
        self.codes = array_column(array)
        self.same_length("symbols", self.codes.count)
        self.width = array.dtype.itemsize
        self.codes.view(array.dtype.newbyteorder("="), self.width)
        self.names = categories
        self.doubtful = True
        self.allocate_table(len(categories))
        if self.table.count > FEW or self.table.count * 8 > self.codes.count:
            return self.check_codes()
        table = <Series**>self.table.data
        for k in range(self.table.count):
            table[k] = self.into.valued(categories[k])
            if table[k] is NULL:
                table[k] = self.fresh_series(categories[k])  # NULL where it is refused, should a row have it
        return 0

    cdef int check_codes(self) except -1:
        """Raises for the first row without a symbol."""
        cdef Series** table = <Series**>self.table.data
        cdef Rows rows
        cdef int64_t code
        cdef Py_ssize_t k
        rows.codes, rows.code_width = self.codes.data, self.width
        for k in range(self.codes.count):
            code = code_at(&rows, k)
            if code < 0 or code >= self.table.count:
                raise symbol_error(None, f"row {k}: ")
            if table[code] is NULL:
                table[code] = self.series_of(self.names[code], k)
        return 0

    # -------------------------------------------------------- objects and texts

    cdef int read_symbols(self, object symbols) except -1:
        if isinstance(symbols, tuple):
            return self.read_tuple(symbols)
        if hasattr(symbols, "capsule"):
            return self.read_arrow(symbols.capsule)
        if symbols.dtype.kind == "O":
            return self.read_objects(symbols)
        return self.read_texts(symbols)

    cdef int fill_table(self, TextTable numbers) except -1:
        """The table where the numbers are those of series, as ``ObjectNumbers`` gives them."""
        cdef Py_ssize_t k
        self.allocate_table(numbers.count)
        for k in range(numbers.count):
            (<Series**>self.table.data)[k] = <Series*>numbers.texts[k].head
        return 0

    cdef int read_tuple(self, tuple symbols) except -1:
        cdef ObjectNumbers numbers = ObjectNumbers(self)
        cdef int32_t* codes = self.allocate_codes(PyTuple_GET_SIZE(symbols))
        cdef Py_ssize_t k
        for k in range(self.codes.count):
            codes[k] = numbers.of(PyTuple_GET_ITEM(symbols, k), k)
        return self.fill_table(numbers.series)

    cdef int read_objects(self, object array) except -1:
        """A NumPy array of objects, looked at where they are. A new object's code may run and change the array:
        every element is looked at when its turn comes, and held while it is."""
        cdef ObjectNumbers numbers = ObjectNumbers(self)
        cdef int32_t* codes = self.allocate_codes(len(array))
        cdef const char* data
        cdef Py_buffer buffer
        cdef PyObject* item
        cdef Py_ssize_t k, stride
        PyObject_GetBuffer(array, &buffer, PyBUF_STRIDES | PyBUF_FORMAT)
        try:
            data = <const char*>buffer.buf
            stride = buffer.strides[0]
            for k in range(self.codes.count):
                item = (<PyObject**>(data + k * stride))[0]
                codes[k] = numbers.of(item if item is not NULL else <PyObject*>None, k)
        finally:
            PyBuffer_Release(&buffer)
        return self.fill_table(numbers.series)

    cdef int read_texts(self, object array) except -1:
        """Fixed-width text: equal bytes are equal symbols, so a row is decoded only where its bytes are new."""
        cdef TextTable texts = TextTable()
        cdef int32_t* codes = self.allocate_codes(len(array))
        cdef Column raw = array_column(array)
        cdef Py_ssize_t width = array.dtype.itemsize
        cdef Py_ssize_t k, count = raw.count
        cdef const char* data
        cdef bint poor = False
        if width == 0 and count:
            raise symbol_error("", "row 0: ")
        raw.view(array.dtype, width)
        data = <const char*>raw.data
        with nogil:
            for k in range(count):
                codes[k] = texts.place(data + k * width, width, k)
                if codes[k] < 0:
                    poor = True
                    break
        if poor:
            raise MemoryError
        self.allocate_table(texts.count)
        for k in range(texts.count):
            (<Series**>self.table.data)[k] = self.series_of(array[texts.texts[k].row].item(), texts.texts[k].row)
        self.doubtful = True  # of bytes that somebody changes meanwhile
        return 0

    cdef int read_arrow(self, object capsule) except -1:
        cdef ArrowTexts column = ArrowTexts(capsule)
        cdef TextTable texts = TextTable()
        cdef int32_t* codes = self.allocate_codes(column.rows)
        cdef Py_ssize_t k, numbered = column.number(texts, codes)
        self.allocate_table(texts.count)
        for k in range(texts.count):
            name = PyBytes_FromStringAndSize(texts.texts[k].data, texts.texts[k].size)
            (<Series**>self.table.data)[k] = self.series_of(column.symbol(name), texts.texts[k].row)
        if numbered < column.rows:
            raise symbol_error(None, f"row {numbered}: ")
        return 0

    # -------------------------------------------------------- taking

    cdef Py_ssize_t apply(self) except -1:
        """All rows or none. Where the series that are there are small beside the batch, they are saved and the rows
        checked as they are taken; else the rows are checked first."""
        cdef Rows rows
        cdef Undo undo = None
        cdef int threads
        cdef Series** table = <Series**>self.table.data
        memset(&rows, 0, sizeof(rows))
        rows.count = self.prices.count
        rows.prices, rows.volumes = <double*>self.prices.data, <double*>self.volumes.data
        rows.times = <int64_t*>self.times.data
        rows.table, rows.size = table, self.table.count
        if self.codes is not None:
            rows.codes, rows.code_width = self.codes.data, self.width
        if rows.count == 0:
            return 0
        threads = threads_for(rows.count)
        rows.stretches = max(1, min(stretches_for(rows.count, threads), MOST_STRETCHES))
        rows.sorted = rows.size <= SORTED and rows.size * 4 <= rows.count
        if (threads > 1 or rows.sorted) and self.doubtful and self.has_twice():
            threads, rows.sorted = 1, False
        self.sure_unchanged()
        if self.held() * <Py_ssize_t>sizeof(Candle) > rows.count * 8 + (1 << 20):
            self.check()
        else:
            undo = Undo(self.into)
            undo.save(table, self.table.count)
        try:
            bad = take_rows(self.into, &rows, threads) < 0
        except MemoryError:
            if undo is not None:
                undo.restore()
            raise
        if bad:
            if undo is not None:
                undo.restore()
            self.check()
            raise RuntimeError("An array was changed while the batch was taken; nothing of it was taken.")
        self.drop_unused()
        self.adopt_all()
        return rows.count

    cdef int check(self) except -1:
        """Raises for the first bad row."""
        if self.names is not None:
            self.check_codes()
        check_floats(self.prices, True)
        check_floats(self.volumes, False)
        return check_times(self.times)

    cdef Py_ssize_t held(self) noexcept:
        """How many candles the series have that are there already."""
        cdef Series* series
        cdef Py_ssize_t k, at, found = 0
        for k in range(self.table.count):
            series = (<Series**>self.table.data)[k]
            if series is not NULL:
                for at in range(self.into.plan.count):
                    found += series.slots[at].length
        return found

    cdef bint has_twice(self) except -1:
        cdef TextTable seen = TextTable()
        cdef Series** table = <Series**>self.table.data
        cdef Py_ssize_t k, before
        for k in range(self.table.count):
            if table[k] is not NULL:
                before = seen.count
                if seen.place(<const char*>&table[k], sizeof(void*), k) != before:
                    return True
        return False

    cdef int drop_unused(self) except -1:
        """A series that no row came for is none."""
        cdef Py_ssize_t at
        cdef Symbol symbol
        if self.names is None:
            return 0
        for name in list(self.fresh):
            symbol = self.fresh[name]
            for at in range(symbol.count):
                if symbol.series.slots[at].length:
                    break
            else:
                del self.fresh[name]
        return 0


@cython.final
cdef class ObjectNumbers:
    """A number for each distinct series of objects that hold symbols. The same object is often met again."""

    cdef ColumnReader reader
    cdef TextTable series  # by their address
    cdef PyObject* keys[ALIASES]  # owned; plain str and bytes only, whose end runs no code
    cdef int32_t numbers[ALIASES]

    def __cinit__(self, ColumnReader reader):
        self.reader = reader
        self.series = TextTable()

    def __dealloc__(self):
        cdef Py_ssize_t k
        for k in range(ALIASES):
            Py_XDECREF(self.keys[k])

    cdef inline int32_t of(self, PyObject* item, Py_ssize_t row) except -1:
        cdef size_t at = ((<size_t>item >> 4) ^ (<size_t>item >> 13)) & (ALIASES - 1)
        if self.keys[at] == item:
            return self.numbers[at]
        return self.look_up(<object>item, row, at)

    cdef int32_t look_up(self, object item, Py_ssize_t row, size_t at) except -1:
        held = item
        cdef Series* series = self.reader.series_of(held, row)
        cdef int32_t number = self.series.place(<const char*>&series, sizeof(void*), row)
        if number < 0:
            raise MemoryError
        if PyUnicode_CheckExact(item) or PyBytes_CheckExact(item):
            Py_XDECREF(self.keys[at])
            Py_INCREF(item)
            self.keys[at] = <PyObject*>item
            self.numbers[at] = number
        return number
