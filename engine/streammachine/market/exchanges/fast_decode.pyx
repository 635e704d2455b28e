# cython: language_level=3, wraparound=False, initializedcheck=False
"""Klines of rows that are as they usually are: the same checks and the same Kline as the validator's, without it.

A row that is odd in any way (another type than usual, a value out of its bounds) goes to the validator, which says what
is wrong with it, or takes it all the same. So nothing is accepted here that it would not accept; and without a
compiler it does all the work (``wire.kline_maker``).

To find a value can run code of a row's key, which may change the row: what is found is used, or held, before the next
one is looked up.
"""

from cpython.dict cimport PyDict_Copy, PyDict_GetItem, PyDict_SetItem
from cpython.float cimport PyFloat_AS_DOUBLE
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.object cimport Py_TYPE, PyObject, PyTypeObject
from cpython.unicode cimport PyUnicode_GET_LENGTH

cdef extern from "Python.h":
    int PyUnicode_IS_COMPACT_ASCII(object text)
    void* PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_Tailmatch(
        object text, object part, Py_ssize_t start, Py_ssize_t end, int direction
    ) except -1
    int PyObject_GenericSetDict(object thing, object value, void* context) except -1
    object PyType_GenericAlloc(PyTypeObject* kind, Py_ssize_t items)

cdef extern from *:
    """
    static const double sm_tens[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14,
        1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    """
    const double sm_tens[23]

cdef enum:
    EXACT_DIGITS = 19  # decimal digits that a 64 bit integer always holds
    MOST_NAMES = 4096  # symbols whose name is kept

cdef long long LATEST = 253_402_300_799_999  # wire.LATEST
cdef unsigned long long EXACT = 1 << 53  # integers up to it are doubles
cdef double HUGE_PRICE = 1e18
cdef double HUGE_VOLUME = 1e30
cdef double ODD = -1.0  # not a number of the usual form


cdef class Maker:
    """Makes models of their fields, which were checked: what pydantic does behind its checks.

    What it keeps beside the values stands in slots of BaseModel, which are written by their descriptors. The models are
    frozen, so one set of fields does for all.
    """

    cdef object model, fields_set, set_slot, extra_slot, private_slot

    def __init__(self, model):
        self.model = model
        self.fields_set = set(model.model_fields)
        self.set_slot = _slot(model, "__pydantic_fields_set__")
        self.extra_slot = _slot(model, "__pydantic_extra__")
        self.private_slot = _slot(model, "__pydantic_private__")

    cdef inline object made(self, dict fields):
        thing = PyType_GenericAlloc(<PyTypeObject*>self.model, 0)
        PyObject_GenericSetDict(thing, fields, NULL)
        _put_slot(self.set_slot, thing, self.fields_set)
        _put_slot(self.extra_slot, thing, None)
        _put_slot(self.private_slot, thing, None)
        return thing


cdef object _slot(model, name):
    """The descriptor of a slot."""
    for one in model.__mro__:
        if name in one.__dict__ and hasattr(type(one.__dict__[name]), "__set__"):
            return one.__dict__[name]
    raise TypeError(f"{model.__name__} has no slot {name}")


cdef inline int _put_slot(object slot, object thing, object value) except -1:
    return Py_TYPE(slot).tp_descr_set(slot, thing, value)


cdef class UsualKlines:
    """Makes Klines of the rows (dicts) of one exchange and kind.

    Args:
        model: Kline. source, estimated, origin: of every row. keys: Kline's fields to the rows' keys; fields that it
            does not name are read under their own names, and quote_volume, vwap, n_trades and is_closed not at all.
        grid: each timeframe to the step that a start is a multiple of, milliseconds.
        otherwise: makes the Klines of other rows, or says what is wrong with them.
        weighted: the key of a vwap from which the quote volume is estimated.
    """

    cdef object otherwise
    cdef Maker maker
    cdef dict grid, same
    cdef object symbol, timeframe, open_ts, end_ts, open, high, low, close, volume
    cdef object quote_volume, vwap, n_trades, is_closed, weighted  # None: not in these rows

    def __init__(self, model, source, keys, dict grid, otherwise, *, estimated, origin, weighted=None):
        self.otherwise = otherwise
        self.maker = Maker(model)
        self.grid = grid
        # In the order of the fields; what differs from row to row is put in its place.
        self.same = dict.fromkeys(model.model_fields) | {
            "source": source, "is_complete": True, "estimated": estimated, "origin": origin
        }
        self.symbol = keys.get("symbol", "symbol")
        self.timeframe = keys.get("timeframe", "timeframe")
        self.open_ts = keys.get("open_ts", "open_ts")
        self.end_ts = keys.get("end_ts", "end_ts")
        self.open = keys.get("open", "open")
        self.high = keys.get("high", "high")
        self.low = keys.get("low", "low")
        self.close = keys.get("close", "close")
        self.volume = keys.get("volume", "volume")
        self.quote_volume = keys.get("quote_volume")
        self.vwap = keys.get("vwap")
        self.n_trades = keys.get("n_trades")
        self.is_closed = keys.get("is_closed")
        self.weighted = weighted

    def made(self, row):
        """The Kline of a row."""
        cdef object symbol, timeframe, start, end
        kline = None
        if type(row) is dict:
            start = _held(row, self.open_ts)
            end = _held(row, self.end_ts)
            symbol = _held(row, self.symbol)
            timeframe = _held(row, self.timeframe)
            kline = self.usual(row, symbol, timeframe, start, end)
        return self.otherwise(row) if kline is None else kline

    def placed(self, row, tuple place not None):
        """The Kline of a row that does not say these itself: (symbol, timeframe, open_ts, end_ts)."""
        kline = self.usual(row, place[0], place[1], place[2], place[3]) if type(row) is dict else None
        return self.otherwise(row, place) if kline is None else kline

    def listed(self, row, symbol, timeframe):
        """The Kline of [start, open, high, low, close, volume]; what else may follow."""
        kline = self.usual_list(row, symbol, timeframe)
        return self.otherwise(row, symbol, timeframe) if kline is None else kline

    cdef object usual_list(self, row, symbol, timeframe):
        """The Kline; None: the row is not as usual."""
        if type(row) is not list or len(<list>row) < 6 or not _is_name(symbol) or not _is_name(timeframe):
            return None
        cdef list values = row
        cdef PyObject* found = PyDict_GetItem(self.grid, timeframe)
        if found is NULL:
            return None
        cdef long long step = <object>found
        cdef long long start = _whole(values[0], LATEST)
        if start < 0 or step <= 1 or start % step or start + step - 1 > LATEST:
            return None
        cdef double first = _number(<PyObject*>values[1])
        cdef double high = _number(<PyObject*>values[2])
        cdef double low = _number(<PyObject*>values[3])
        cdef double last = _number(<PyObject*>values[4])
        cdef double volume = _number(<PyObject*>values[5])
        if not (0 < low <= high < HUGE_PRICE and 0 < first < HUGE_PRICE and 0 < last < HUGE_PRICE):
            return None
        if not 0 <= volume < HUGE_VOLUME:
            return None
        fields = PyDict_Copy(self.same)
        PyDict_SetItem(fields, "symbol", symbol)
        PyDict_SetItem(fields, "timeframe", timeframe)
        PyDict_SetItem(fields, "open_ts", values[0])
        PyDict_SetItem(fields, "end_ts", start + step - 1)
        PyDict_SetItem(fields, "open", first)
        PyDict_SetItem(fields, "high", high)
        PyDict_SetItem(fields, "low", low)
        PyDict_SetItem(fields, "close", last)
        PyDict_SetItem(fields, "volume", volume)
        return self.maker.made(fields)

    cdef object usual(self, dict row, symbol, timeframe, open_ts, end_ts):
        """The Kline; None: the row is not as usual."""
        if not _is_name(symbol) or not _is_name(timeframe):
            return None
        cdef PyObject* found = PyDict_GetItem(self.grid, timeframe)
        if found is NULL:
            return None
        cdef long long step = <object>found
        cdef long long start = _whole(open_ts, LATEST)
        cdef long long end = _whole(end_ts, LATEST)
        if start < 0 or end <= start or start % step or end != start + step - 1:
            return None
        cdef double first = _number(PyDict_GetItem(row, self.open))
        cdef double high = _number(PyDict_GetItem(row, self.high))
        cdef double low = _number(PyDict_GetItem(row, self.low))
        cdef double last = _number(PyDict_GetItem(row, self.close))
        if not (0 < low <= high < HUGE_PRICE and 0 < first < HUGE_PRICE and 0 < last < HUGE_PRICE):
            return None
        cdef double volume = _number(PyDict_GetItem(row, self.volume))
        if not 0 <= volume < HUGE_VOLUME:
            return None
        fields = PyDict_Copy(self.same)
        cdef double value
        if self.weighted is not None:
            value = _number(PyDict_GetItem(row, self.weighted))
            if not (0 < volume and 0 <= value < HUGE_VOLUME and volume * value < HUGE_VOLUME):
                return None
            PyDict_SetItem(fields, "vwap", value)
            PyDict_SetItem(fields, "quote_volume", volume * value)
        if not _put_amount(fields, "quote_volume", row, self.quote_volume):
            return None
        if not _put_amount(fields, "vwap", row, self.vwap):
            return None
        if self.n_trades is not None:
            found = PyDict_GetItem(row, self.n_trades)
            if found is NULL:
                return None
            if <object>found is not None:
                if _whole(<object>found, EXACT - 1) < 0:
                    return None
                PyDict_SetItem(fields, "n_trades", <object>found)
        if self.is_closed is not None:
            found = PyDict_GetItem(row, self.is_closed)
            if found is NULL:
                return None
            if <object>found is True or <object>found is False:
                PyDict_SetItem(fields, "is_closed", <object>found)
            elif type(<object>found) is str and <object>found == "0":
                PyDict_SetItem(fields, "is_closed", False)
            elif type(<object>found) is str and <object>found == "1":
                PyDict_SetItem(fields, "is_closed", True)
            elif <object>found is not None:
                return None
        PyDict_SetItem(fields, "symbol", symbol)
        PyDict_SetItem(fields, "timeframe", timeframe)
        PyDict_SetItem(fields, "open_ts", open_ts)
        PyDict_SetItem(fields, "end_ts", end_ts)
        PyDict_SetItem(fields, "open", first)
        PyDict_SetItem(fields, "high", high)
        PyDict_SetItem(fields, "low", low)
        PyDict_SetItem(fields, "close", last)
        PyDict_SetItem(fields, "volume", volume)
        return self.maker.made(fields)


def number(text):
    """The float that a row's value stands for, None where it is not of the usual form. For tests."""
    cdef double found = _number(<PyObject*>text)
    return None if found < 0 else found


cdef inline bint _put_amount(dict fields, name, dict row, key):
    """Put a number that is not below 0, or a null, into its field; False: the row holds neither."""
    if key is None:
        return True
    cdef PyObject* found = PyDict_GetItem(row, key)
    if found is NULL:
        return False
    if <object>found is None:
        return True
    cdef double value = _number(found)
    if not 0 <= value < HUGE_VOLUME:
        return False
    PyDict_SetItem(fields, name, value)
    return True


cdef inline object _held(dict row, key):
    """The value, None where there is none: either is odd."""
    cdef PyObject* found = PyDict_GetItem(row, key)
    return None if found is NULL else <object>found


cdef inline bint _is_name(object text):
    """A text of 1 to 64 characters."""
    return type(text) is str and 0 < PyUnicode_GET_LENGTH(text) <= 64


cdef inline long long _whole(object value, long long most) except -2:
    """An integer of 0 to ``most``, else -1."""
    if type(value) is not int:
        return -1
    cdef int is_over = 0
    cdef long long found = PyLong_AsLongLongAndOverflow(value, &is_over)
    return -1 if is_over or found < 0 or found > most else found


cdef inline double _number(PyObject* found):
    """A decimal text (digits, with a point between them or without), or a float or integer; else, or below 0, ODD."""
    if found is NULL:
        return ODD
    cdef double value
    if type(<object>found) is str:
        return _decimal(<object>found)
    if type(<object>found) is float:
        value = PyFloat_AS_DOUBLE(<object>found)
        return value if value >= 0 else ODD  # nan is not
    if type(<object>found) is int:
        try:
            value = <object>found
        except OverflowError:
            return ODD
        return value if value >= 0 else ODD
    return ODD


cdef double _decimal(object text):
    """The double nearest to a decimal text.

    Up to 2**53 the digits are a double, and so is the power of ten up to 10**22: their quotient, rounded once, is the
    nearest one (W. D. Clinger, How to Read Floating Point Numbers Accurately, 1990). Longer ones go to ``float``.
    """
    if not PyUnicode_IS_COMPACT_ASCII(text):
        return ODD
    cdef const unsigned char* data = <const unsigned char*>PyUnicode_DATA(text)
    cdef Py_ssize_t length = PyUnicode_GET_LENGTH(text)
    cdef Py_ssize_t place, point = -1, digits = 0
    cdef unsigned long long mantissa = 0
    cdef unsigned char one
    if length == 0 or length > 64:
        return ODD
    for place in range(length):
        one = data[place] - 48
        if one <= 9:
            digits += 1
            if digits <= EXACT_DIGITS:
                mantissa = mantissa * 10 + one
        elif data[place] == 46 and point < 0 and 0 < place < length - 1:
            point = place
        else:
            return ODD
    cdef Py_ssize_t behind = length - 1 - point if point >= 0 else 0
    if digits <= EXACT_DIGITS and mantissa <= EXACT and behind <= 22:
        return <double>mantissa / sm_tens[behind]
    return float(text)


cdef class UsualQuotes:
    """Makes Quotes of prices and sizes that are as they usually are; ``otherwise`` and ``otherwise_book`` the others.

    Args:
        model: Quote. otherwise: makes a Quote of all values, or says what is wrong with them. otherwise_book: of the
            sides of a book.
    """

    cdef object otherwise, otherwise_book
    cdef QuoteMaker maker

    def __init__(self, model, otherwise, otherwise_book):
        self.otherwise = otherwise
        self.otherwise_book = otherwise_book
        self.maker = QuoteMaker(model)

    def __call__(self, source, symbol, bid, bid_size, ask, ask_size, ts):
        """The Quote; a value may be a decimal text or a JSON number."""
        made = self.maker.usual(
            source, symbol, <PyObject*>bid, <PyObject*>bid_size, <PyObject*>ask, <PyObject*>ask_size, ts
        )
        return self.otherwise(source, symbol, bid, bid_size, ask, ask_size, ts) if made is None else made

    def of_book(self, source, symbol, bids, asks, ts):
        """The Quote of the first levels of two sides, each a list of a price, a size and what else; ``ts`` may be a
        decimal text."""
        made = self.maker.of_levels(source, symbol, bids, asks, _moment(ts))
        return self.otherwise_book(source, symbol, bids, asks, ts) if made is None else made


cdef class QuoteRows:
    """Makes Quotes of rows (dicts) that hold symbol, prices, sizes and time by their keys.

    Args:
        model: Quote. source: of every row. otherwise: makes the Quotes of other rows, or says what is wrong with them.
        ts: the time's key, epoch milliseconds or a text in ISO 8601; 0 where it is missing. named: gives the symbol
            of what stands in the row; None: it is that.
    """

    cdef object source, otherwise, symbol, bid, bid_size, ask, ask_size, ts, named
    cdef dict known
    cdef QuoteMaker maker

    def __init__(self, model, source, otherwise, symbol, bid, bid_size, ask, ask_size, ts, named=None):
        self.maker = QuoteMaker(model)
        self.source, self.otherwise, self.named = source, otherwise, named
        self.symbol, self.ts, self.known = symbol, ts, {}
        self.bid, self.bid_size, self.ask, self.ask_size = bid, bid_size, ask, ask_size

    def of_row(self, row):
        """The Quote of a row."""
        made = self.usual(<dict>row) if type(row) is dict else None
        return self.otherwise(row) if made is None else made

    cdef object our_symbol(self, str symbol):
        cdef PyObject* found = PyDict_GetItem(self.known, symbol)
        if found is not NULL:
            return <object>found
        made = self.named(symbol)
        if len(self.known) < MOST_NAMES:
            self.known[symbol] = made
        return made

    cdef object usual(self, dict row):
        """The Quote; None: the row is not as usual."""
        # Held while the others are looked up: see above.
        symbol, ts = _held(row, self.symbol), _held(row, self.ts)
        bid, bid_size = _held(row, self.bid), _held(row, self.bid_size)
        ask, ask_size = _held(row, self.ask), _held(row, self.ask_size)
        if self.named is not None and type(symbol) is str:
            symbol = self.our_symbol(symbol)
        ts = 0 if ts is None else _iso(ts) if type(ts) is str else ts
        return self.maker.usual(
            self.source, symbol, <PyObject*>bid, <PyObject*>bid_size, <PyObject*>ask, <PyObject*>ask_size, ts
        )


cdef class FrameReader:
    """Reads frames: those of quotes that are as usual become a list of one Quote at once, others the JSON object.

    Args:
        loads: orjson's. Subclasses know where an exchange has the quote.
    """

    cdef object loads

    def __init__(self, loads):
        self.loads = loads

    def read(self, frame):
        """[Quote], or the object in the frame.

        Raises:
            ValueError: it is no JSON, or no object.
        """
        message = self.loads(frame)
        if type(message) is not dict:
            raise ValueError(f"a JSON {type(message).__name__} instead of an object")
        made = self.quote(<dict>message)
        return message if made is None else [made]

    cdef object quote(self, dict message):
        return None


cdef class FlatQuotes(FrameReader):
    """The message is the row; its kind is missing or ``name``, and it has a bid size.

    Args:
        rows: makes the Quotes. kind: the key of the kind.
    """

    cdef QuoteRows rows
    cdef object kind, name

    def __init__(self, loads, QuoteRows rows not None, kind, name):
        super().__init__(loads)
        self.rows, self.kind, self.name = rows, kind, name

    cdef object quote(self, dict message):
        kind = _held(message, self.kind)
        if kind is not None and kind != self.name:
            return None
        return self.rows.usual(message)


cdef class ListedQuotes(FrameReader):
    """Rows in a list: {kind: name, key: [row]}."""

    cdef QuoteRows rows
    cdef object kind, name, key

    def __init__(self, loads, QuoteRows rows not None, kind, name, key):
        super().__init__(loads)
        self.rows, self.kind, self.name, self.key = rows, kind, name, key

    cdef object quote(self, dict message):
        kind = _held(message, self.kind)
        if type(kind) is not str or kind != self.name:
            return None
        rows = _held(message, self.key)
        if type(rows) is not list or len(<list>rows) != 1:
            return None
        row = (<list>rows)[0]
        return self.rows.usual(<dict>row) if type(row) is dict else None


cdef class TopicBooks(FrameReader):
    """A topic that begins with ``prefix``, and a book: {topic, ts, data: {s, b, a}}, b and a the levels of the sides."""

    cdef object source
    cdef str prefix
    cdef QuoteMaker maker

    def __init__(self, loads, model, source, str prefix not None):
        super().__init__(loads)
        self.maker = QuoteMaker(model)
        self.source, self.prefix = source, prefix

    cdef object quote(self, dict message):
        topic = _held(message, "topic")
        if type(topic) is not str or not PyUnicode_Tailmatch(topic, self.prefix, 0, len(self.prefix), -1):
            return None
        book = _held(message, "data")
        if type(book) is not dict:
            return None
        symbol = _held(<dict>book, "s")
        bids, asks = _held(<dict>book, "b"), _held(<dict>book, "a")
        return self.maker.of_levels(self.source, symbol, bids, asks, _held(message, "ts"))


cdef class ChannelBooks(FrameReader):
    """A channel, and a list of one book: {arg: {channel, instId}, data: [{bids, asks, ts}]}."""

    cdef object source, channel
    cdef QuoteMaker maker

    def __init__(self, loads, model, source, channel):
        super().__init__(loads)
        self.maker = QuoteMaker(model)
        self.source, self.channel = source, channel

    cdef object quote(self, dict message):
        arg = _held(message, "arg")
        if type(arg) is not dict or "event" in message:
            return None
        channel, symbol = _held(<dict>arg, "channel"), _held(<dict>arg, "instId")
        if type(channel) is not str or channel != self.channel:
            return None
        rows = _held(message, "data")
        if type(rows) is not list or len(<list>rows) != 1:
            return None
        book = (<list>rows)[0]
        if type(book) is not dict:
            return None
        bids, asks, ts = _held(<dict>book, "bids"), _held(<dict>book, "asks"), _held(<dict>book, "ts")
        return self.maker.of_levels(self.source, symbol, bids, asks, _moment(ts))


cdef class QuoteMaker:
    """Checks the values of a Quote and makes it."""

    cdef Maker maker
    cdef dict same

    def __init__(self, model):
        self.maker = Maker(model)
        self.same = dict.fromkeys(model.model_fields)

    cdef object of_levels(self, source, symbol, bids, asks, ts):
        """Of the first levels; None: something is not as usual."""
        cdef list bid, ask
        if type(bids) is not list or type(asks) is not list or not len(<list>bids) or not len(<list>asks):
            return None
        first, second = (<list>bids)[0], (<list>asks)[0]
        if type(first) is not list or type(second) is not list:
            return None
        bid, ask = first, second
        if len(bid) < 2 or len(ask) < 2:
            return None
        return self.usual(
            source, symbol, <PyObject*>bid[0], <PyObject*>bid[1], <PyObject*>ask[0], <PyObject*>ask[1], ts
        )

    cdef object usual(
        self, source, symbol, PyObject* bid, PyObject* bid_size, PyObject* ask, PyObject* ask_size, ts
    ):
        """The Quote; None: a value is not as usual."""
        cdef double bid_price = _number(bid)
        cdef double ask_price = _number(ask)
        cdef double bid_amount = _number(bid_size)
        cdef double ask_amount = _number(ask_size)
        if not (
            0 < bid_price < HUGE_PRICE and 0 < ask_price < HUGE_PRICE and 0 <= bid_amount < HUGE_VOLUME
            and 0 <= ask_amount < HUGE_VOLUME and _is_name(symbol) and _whole(ts, LATEST) >= 0
        ):
            return None
        fields = PyDict_Copy(self.same)
        PyDict_SetItem(fields, "source", source)
        PyDict_SetItem(fields, "symbol", symbol)
        PyDict_SetItem(fields, "bid", _as_float(bid, bid_price))
        PyDict_SetItem(fields, "bid_size", _as_float(bid_size, bid_amount))
        PyDict_SetItem(fields, "ask", _as_float(ask, ask_price))
        PyDict_SetItem(fields, "ask_size", _as_float(ask_size, ask_amount))
        PyDict_SetItem(fields, "ts", ts)
        return self.maker.made(fields)


cdef inline object _as_float(PyObject* found, double value):
    """The float: the value itself where it is one, which spares another."""
    return <object>found if type(<object>found) is float else value


def iso_ms(text):
    """The milliseconds of a time, None where it is not of the usual form. For tests."""
    return _iso(text) if type(text) is str else None


cdef object _iso(str text):
    """Epoch milliseconds of YYYY-MM-DDThh:mm:ss, with digits of a second or without, and a Z; None: it is another form.

    Days by the civil calendar: counted in eras of 400 years that begin in March.
    """
    if not PyUnicode_IS_COMPACT_ASCII(text):
        return None
    cdef const unsigned char* data = <const unsigned char*>PyUnicode_DATA(text)
    cdef Py_ssize_t length = PyUnicode_GET_LENGTH(text)
    if not 20 <= length <= 30 or data[length - 1] != 90 or data[4] != 45 or data[7] != 45 or data[10] != 84:
        return None
    if data[13] != 58 or data[16] != 58:
        return None
    cdef int year = _digits(data, 4)
    cdef int month = _digits(data + 5, 2)
    cdef int day = _digits(data + 8, 2)
    cdef int hour = _digits(data + 11, 2)
    cdef int minute = _digits(data + 14, 2)
    cdef int second = _digits(data + 17, 2)
    if year < 1970 or not 1 <= month <= 12 or not 1 <= day <= _last_day(year, month):
        return None
    if not 0 <= hour <= 23 or not 0 <= minute <= 59 or not 0 <= second <= 59:
        return None
    cdef int part = 0, place
    if length > 20:
        if data[19] != 46 or length == 21:
            return None
        for place in range(20, length - 1):
            if not 48 <= data[place] <= 57:
                return None
            if place < 23:
                part = part * 10 + data[place] - 48
        for place in range(length - 1, 23):
            part *= 10
    cdef long long years = year - (1 if month <= 2 else 0)
    cdef long long of_era = years % 400
    cdef long long of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    cdef long long days = years // 400 * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468
    return ((days * 24 + hour) * 60 + minute) * 60_000 + second * 1000 + part


cdef inline int _digits(const unsigned char* data, int count):
    """The number that so many digits are, else -1."""
    cdef int found = 0, place
    for place in range(count):
        if not 48 <= data[place] <= 57:
            return -1
        found = found * 10 + data[place] - 48
    return found


cdef inline int _last_day(int year, int month):
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


cdef inline object _moment(ts):
    """A time as it is, or the whole number that a text of digits is; None: neither."""
    if type(ts) is not str:
        return ts
    cdef double found = _decimal(ts)
    if not 0 <= found <= <double>LATEST or found != <double><long long>found:
        return None
    return <long long>found
