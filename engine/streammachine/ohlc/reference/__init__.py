"""The candle engine in plain Python: the same rooms as the native one, bit for bit."""

from streammachine.ohlc.reference.engine import CandleData, FastOHLC

__all__ = ["CandleData", "FastOHLC"]

for _public in (CandleData, FastOHLC):
    _public.__module__ = __name__  # the place that pickles name, whichever room it is written in
