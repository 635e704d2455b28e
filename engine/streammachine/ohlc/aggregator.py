"""The public door to the candle engine: the Cython one where it was built, else its plain-Python twin."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING

from streammachine.errors import IntervalError, StreamIdError, TickError

if TYPE_CHECKING:
    from streammachine.ohlc.fast import CandleData, FastOHLC

    _HAS_FAST_OHLC_CYTHON: bool
    IMPLEMENTATION: str
else:
    try:
        from streammachine.ohlc.fast import CandleData, FastOHLC

        _HAS_FAST_OHLC_CYTHON = True
    except ImportError:
        from streammachine.ohlc.reference import CandleData, FastOHLC

        _HAS_FAST_OHLC_CYTHON = False
    IMPLEMENTATION = "Cython" if _HAS_FAST_OHLC_CYTHON else "Python"

__all__ = [
    "IMPLEMENTATION",
    "_HAS_FAST_OHLC_CYTHON",
    "CandleData",
    "FastOHLC",
    "create_ohlc_aggregator",
    "format_candle_for_redis",
    "parse_stream_id_timestamp",
]


def create_ohlc_aggregator(intervals: Iterable[int] | None = None, *, max_candles: int = 0) -> FastOHLC:
    """A new aggregator for candles of these intervals (milliseconds; default 60,000 and 300,000).

    Args:
        intervals: milliseconds, each once.
        max_candles: the most candles kept per symbol and interval; 0 is no bound.

    Raises:
        IntervalError: no interval, one twice, or one that is no int from 1.
        SettingsError: ``max_candles`` is no int from 0.
    """
    return FastOHLC(intervals, max_candles=max_candles)


def parse_stream_id_timestamp(stream_id: bytes | str) -> int:
    """The milliseconds of a stream id: 1638360000000 for ``b"1638360000000-0"`` or ``"1638360000000"``.

    Raises:
        StreamIdError: it is neither ``<digits>`` nor ``<digits>-<digits>``, each within 64 bits.
    """
    text = stream_id.decode("latin-1") if isinstance(stream_id, bytes) else stream_id
    if isinstance(text, str) and text.isascii():
        milliseconds, dash, sequence = text.partition("-")
        parts = (milliseconds, sequence) if dash else (milliseconds,)
        if all(part.isdigit() and len(part) <= 20 and int(part) < 2**64 for part in parts):
            return int(milliseconds)
    raise StreamIdError(f"{stream_id!r} is not a stream id: expected <milliseconds>-<number>, such as 1638360000000-0.")


def format_candle_for_redis(candle: CandleData, symbol: bytes | str, interval: int) -> dict[str, str]:
    """A candle as fields for XADD: symbol, interval_ms, candle_start_ms, open, high, low, close, volume, trade_count.

    Prices and volume are plain decimals (never ``1e-07``) that ``float()`` reads back exactly.

    Raises:
        TickError: the symbol is empty or not UTF-8.
        IntervalError: the interval is no int from 1.
    """
    return {
        "symbol": _symbol_text(symbol),
        "interval_ms": str(_interval(interval)),
        "candle_start_ms": str(candle.candle_start_ms),
        "open": _decimal(candle.open),
        "high": _decimal(candle.high),
        "low": _decimal(candle.low),
        "close": _decimal(candle.close),
        "volume": _decimal(candle.volume),
        "trade_count": str(candle.trade_count),
    }


def _symbol_text(symbol: bytes | str) -> str:
    try:
        text = symbol.decode() if isinstance(symbol, bytes) else symbol
        if isinstance(text, str) and text:
            text.encode()
            return text
    except UnicodeError:
        pass
    raise TickError(f"symbol {symbol!r} is refused: it must be a non-empty str, or bytes in UTF-8.")


def _interval(interval: int) -> int:
    try:
        if not isinstance(interval, bool) and operator.index(interval) > 0:
            return operator.index(interval)
    except TypeError:
        pass
    raise IntervalError(f"interval {interval!r} is refused: it must be an int, milliseconds from 1.")


def _decimal(value: float) -> str:
    text = repr(float(value))
    return format(Decimal(text), "f") if "e" in text else text
