# Quotes of rows, books and whole frames that are as they usually are.


cdef object _parsed_key(loads, key):
    """The very text that the parser gives for a key. It keeps the keys it has met, and a lookup by the same object need
    not compare the characters; with another one of the same text it is only slower."""
    return next(iter(loads('{"' + key + '":0}')))


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
        loads: orjson's. model: Quote. source: of every row. otherwise: makes the Quotes of other rows, or says what is
            wrong with them.
        ts: the time's key, epoch milliseconds or a text in ISO 8601; 0 where it is missing. named: gives the symbol
            of what stands in the row; None: it is that.
    """

    cdef object source, otherwise, symbol, bid, bid_size, ask, ask_size, ts, named
    cdef dict known
    cdef QuoteMaker maker

    def __init__(self, loads, model, source, otherwise, symbol, bid, bid_size, ask, ask_size, ts, named=None):
        self.maker = QuoteMaker(model)
        self.source, self.otherwise, self.named = source, otherwise, named
        self.known = {}
        self.symbol, self.ts = _parsed_key(loads, symbol), _parsed_key(loads, ts)
        self.bid, self.bid_size = _parsed_key(loads, bid), _parsed_key(loads, bid_size)
        self.ask, self.ask_size = _parsed_key(loads, ask), _parsed_key(loads, ask_size)

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
    cdef object kind
    cdef str name

    def __init__(self, loads, QuoteRows rows not None, kind, str name not None):
        super().__init__(loads)
        self.rows, self.kind, self.name = rows, _parsed_key(loads, kind), name

    cdef object quote(self, dict message):
        kind = _held(message, self.kind)
        if kind is not None and (type(kind) is not str or <str>kind != self.name):
            return None
        return self.rows.usual(message)


cdef class ListedQuotes(FrameReader):
    """Rows in a list: {kind: name, key: [row]}."""

    cdef QuoteRows rows
    cdef object kind, key
    cdef str name

    def __init__(self, loads, QuoteRows rows not None, kind, str name not None, key):
        super().__init__(loads)
        self.rows, self.kind, self.name, self.key = rows, _parsed_key(loads, kind), name, _parsed_key(loads, key)

    cdef object quote(self, dict message):
        kind = _held(message, self.kind)
        if type(kind) is not str or <str>kind != self.name:
            return None
        rows = _held(message, self.key)
        if type(rows) is not list or len(<list>rows) != 1:
            return None
        row = (<list>rows)[0]
        return self.rows.usual(<dict>row) if type(row) is dict else None


cdef class TopicBooks(FrameReader):
    """A topic that begins with ``prefix``, and a book: {topic, ts, data: {s, b, a}}, b and a the levels of the sides."""

    cdef object source, topic, data, ts, symbol, bids, asks
    cdef str prefix
    cdef QuoteMaker maker

    def __init__(self, loads, model, source, str prefix not None):
        super().__init__(loads)
        self.maker = QuoteMaker(model)
        self.source, self.prefix = source, prefix
        self.topic, self.data, self.ts, self.symbol, self.bids, self.asks = [
            _parsed_key(loads, key) for key in ("topic", "data", "ts", "s", "b", "a")
        ]

    cdef object quote(self, dict message):
        topic = _held(message, self.topic)
        if type(topic) is not str or not PyUnicode_Tailmatch(topic, self.prefix, 0, len(self.prefix), -1):
            return None
        book = _held(message, self.data)
        if type(book) is not dict:
            return None
        symbol = _held(<dict>book, self.symbol)
        bids, asks = _held(<dict>book, self.bids), _held(<dict>book, self.asks)
        return self.maker.of_levels(self.source, symbol, bids, asks, _held(message, self.ts))


cdef class ChannelBooks(FrameReader):
    """A channel, and a list of one book: {arg: {channel, instId}, data: [{bids, asks, ts}]}."""

    cdef object source, arg, of_arg, symbol, data, bids, asks, ts
    cdef str channel
    cdef QuoteMaker maker

    def __init__(self, loads, model, source, str channel not None):
        super().__init__(loads)
        self.maker = QuoteMaker(model)
        self.source, self.channel = source, channel
        self.arg, self.of_arg, self.symbol, self.data, self.bids, self.asks, self.ts = [
            _parsed_key(loads, key) for key in ("arg", "channel", "instId", "data", "bids", "asks", "ts")
        ]

    cdef object quote(self, dict message):
        arg = _held(message, self.arg)
        if type(arg) is not dict or "event" in message:
            return None
        channel, symbol = _held(<dict>arg, self.of_arg), _held(<dict>arg, self.symbol)
        if type(channel) is not str or <str>channel != self.channel:
            return None
        rows = _held(message, self.data)
        if type(rows) is not list or len(<list>rows) != 1:
            return None
        book = (<list>rows)[0]
        if type(book) is not dict:
            return None
        bids, asks, ts = _held(<dict>book, self.bids), _held(<dict>book, self.asks), _held(<dict>book, self.ts)
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
