"""DataInput: what to stream, checked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from streammachine.errors import DataInputError, TimeframeError
from streammachine.market.model import timeframe as timeframes

Kind = Literal["kline", "trade", "quote"]
_EVERY = re.compile(r"(\d{1,9})(ms|s|m|h)")
_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_LONGEST = 3_600_000  # milliseconds
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("kline", "klines", "candle", "candles", "ohlc", "ohlcv"), "kline"),
    **dict.fromkeys(("trade", "trades"), "trade"),
    **dict.fromkeys(("quote", "quotes"), "quote"),
}


@dataclass(frozen=True)
class DataInput:
    """What a runner streams. Symbols and timeframe are checked again by the exchange that the runner is for.

    Args:
        type: "kline", "candle" or "ohlc" (the same on every exchange), "trade", or "quote" (the best bid and ask).
        symbols: as the exchange writes them, e.g. ["BTCUSDT"] (Binance, Bybit),
            ["BTC-USDT"] (OKX), ["BTC/USD"] (Kraken).
        timeframe: of the candles, e.g. "1m". With type="trade" optional: candles of it are built from the trades.
        aggregate_list: higher timeframes to build from those, in any order, e.g. ["5m", "15m", "1h"].
        every: of quotes: at most one of a symbol in so long, the newest, e.g. "100ms" or "1s"; None: every change.

    Attributes:
        kind: "kline", "trade" or "quote".

    Raises:
        DataInputError: a value or a combination is not accepted; the text says what is.
    """

    type: str
    symbols: Sequence[str]
    timeframe: str | None = None
    aggregate_list: Sequence[str] = field(default_factory=list)
    every: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.type, str) or self.type.lower() not in _KINDS:
            raise DataInputError(f"type={self.type!r} is not accepted: give kline, candle, ohlc, trade or quote")
        if isinstance(self.symbols, str) or not isinstance(self.symbols, Sequence):
            raise DataInputError(f"symbols={self.symbols!r} is not accepted: give a list, e.g. ['BTCUSDT']")
        if not self.symbols:
            raise DataInputError("symbols is empty: name at least one, e.g. ['BTCUSDT']")
        for symbol in self.symbols:
            if not isinstance(symbol, str) or not symbol.strip():
                raise DataInputError(f"the symbol {symbol!r} is not accepted: give a text, e.g. 'BTCUSDT'")
        if isinstance(self.aggregate_list, str):
            raise DataInputError(f"aggregate_list={self.aggregate_list!r} is not accepted: give a list, e.g. ['5m']")
        if self.every is not None and self.kind != "quote":
            raise DataInputError("every thins out quotes: leave it away, or give type='quote'")
        self.every_ms  # noqa: B018 - refused here
        try:
            self._check_timeframes()
        except TimeframeError as error:
            raise DataInputError(str(error)) from None
        object.__setattr__(self, "symbols", list(dict.fromkeys(symbol.strip() for symbol in self.symbols)))
        object.__setattr__(self, "aggregate_list", list(dict.fromkeys(self.aggregate_list)))

    @property
    def kind(self) -> Kind:
        """What is streamed, whatever the exchange calls it."""
        return _KINDS[self.type.lower()]

    @property
    def every_ms(self) -> int:
        """``every`` in milliseconds; 0: every change."""
        if self.every is None:
            return 0
        found = _EVERY.fullmatch(self.every) if isinstance(self.every, str) else None
        length = int(found[1]) * _UNITS[found[2]] if found is not None else 0
        if not 0 < length <= _LONGEST:
            raise DataInputError(f"every={self.every!r} is not accepted: give 1ms to 1h, e.g. '100ms' or '1s'")
        return length

    def _check_timeframes(self) -> None:
        if self.kind == "quote":
            if self.timeframe is not None or self.aggregate_list:
                raise DataInputError(
                    "quotes have no timeframe: candles of the mid-price are built with FastOHLC, see docs/market.md"
                )
            return
        if self.timeframe is None:
            if self.kind == "kline":
                raise DataInputError(f"timeframe is missing: give one of {', '.join(timeframes.TIMEFRAMES)}")
            if self.aggregate_list:
                raise DataInputError("aggregate_list needs a timeframe to build from, e.g. timeframe='1m'")
            return
        base = timeframes.check(self.timeframe)
        for target in self.aggregate_list:
            if not timeframes.nests(base, timeframes.check(target)):
                able = [name for name in timeframes.TIMEFRAMES if timeframes.nests(base, name)]
                raise DataInputError(
                    f"{target} candles cannot be built from {base} candles: {target} is no multiple of {base}; "
                    f"give some of {', '.join(able) or 'none'}"
                )
