"""The candle engine in plain Python: the same rooms as the native one, bit for bit."""

from streammachine.ohlc.reference.engine import CandleData, FastOHLC

__all__ = ["CandleData", "FastOHLC"]  # pickles name them here
