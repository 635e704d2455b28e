"""Indicators on candles, by name: TA-Lib's functions, with as much history as each needs.

``parse`` makes ``Indicator`` objects of texts ("sma:20", "macd:12,26,9"), ``compute`` their columns. TA-Lib (the extra
``indicators``) is imported by the first of them, and not before.
"""

from streammachine.indicators.compute import compute, compute_indicators
from streammachine.indicators.spec import Indicator, parse, parse_all, warmup_of
from streammachine.indicators.window import IndicatorWindow

__all__ = ["Indicator", "IndicatorWindow", "compute", "compute_indicators", "parse", "parse_all", "warmup_of"]
