# A candle as Python sees it. Uses: candles.

@cython.freelist(512)
cdef class CandleData:
    """One candle: what a (symbol, interval) holds for ``[candle_start_ms, candle_start_ms + interval)``.

    A value, not a view: it does not change when further ticks arrive. ``timestamp_ms`` is the event time of the
    last tick (epoch milliseconds), the one that gave ``close``.
    """

    cdef readonly double open
    cdef readonly double high
    cdef readonly double low
    cdef readonly double close
    cdef readonly double volume
    cdef readonly int64_t timestamp_ms
    cdef readonly int64_t candle_start_ms
    cdef readonly int64_t trade_count

    def __init__(
        self,
        double open,
        double high,
        double low,
        double close,
        double volume=0.0,
        int64_t timestamp_ms=0,
        int64_t candle_start_ms=0,
        int64_t trade_count=0,
    ):
        self.open = open
        self.high = high
        self.low = low
        self.close = close
        self.volume = volume
        self.timestamp_ms = timestamp_ms
        self.candle_start_ms = candle_start_ms
        self.trade_count = trade_count

    cdef tuple values(self):
        return (
            self.open,
            self.high,
            self.low,
            self.close,
            self.volume,
            self.timestamp_ms,
            self.candle_start_ms,
            self.trade_count,
        )

    def to_dict(self):
        """The eight values by name."""
        return {
            "open": self.open,
            "high": self.high,
            "low": self.low,
            "close": self.close,
            "volume": self.volume,
            "timestamp_ms": self.timestamp_ms,
            "candle_start_ms": self.candle_start_ms,
            "trade_count": self.trade_count,
        }

    def __eq__(self, other):
        if not isinstance(other, CandleData):
            return NotImplemented
        return self.values() == (<CandleData>other).values()

    def __hash__(self):
        return hash(self.values())

    def __repr__(self):
        return (
            f"CandleData(open={self.open!r}, high={self.high!r}, low={self.low!r}, close={self.close!r}, "
            f"volume={self.volume!r}, timestamp_ms={self.timestamp_ms!r}, "
            f"candle_start_ms={self.candle_start_ms!r}, trade_count={self.trade_count!r})"
        )

    def __reduce__(self):
        return (CandleData, self.values())


cdef CandleData candle_data(const Candle* candle):
    cdef CandleData data = CandleData.__new__(CandleData)
    data.open = candle.open
    data.high = candle.high
    data.low = candle.low
    data.close = candle.close
    data.volume = candle.volume
    data.timestamp_ms = candle.last
    data.candle_start_ms = candle.start
    data.trade_count = candle.count
    return data
