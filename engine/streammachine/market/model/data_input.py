"""DataInput: what to stream, checked before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from streammachine.errors import DataInputError, TimeframeError
from streammachine.market.model import timeframe as timeframes

Kind = Literal["kline", "trade"]
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("kline", "klines", "candle", "candles", "ohlc", "ohlcv"), "kline"),
    **dict.fromkeys(("trade", "trades"), "trade"),
}


@dataclass(frozen=True)
class DataInput:
    """What a runner streams. Symbols and timeframe are checked again by the exchange that the runner is for.

    Args:
        type: "kline", "candle" or "ohlc" (the same on every exchange), or "trade".
        symbols: as the exchange writes them, e.g. ["BTCUSDT"] (Binance, Bybit),
            ["BTC-USDT"] (OKX), ["BTC/USD"] (Kraken).
        timeframe: of the candles, e.g. "1m". With type="trade" optional: candles of it are built from the trades.
        aggregate_list: higher timeframes to build from those, in any order, e.g. ["5m", "15m", "1h"].

    Attributes:
        kind: "kline" or "trade".

    Raises:
        DataInputError: a value or a combination is not accepted; the text says what is.
    """

    type: str
    symbols: Sequence[str]
    timeframe: str | None = None
    aggregate_list: Sequence[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not isinstance(self.type, str) or self.type.lower() not in _KINDS:
            raise DataInputError(f"type={self.type!r} is not accepted: give kline, candle, ohlc or trade")
        if isinstance(self.symbols, str) or not isinstance(self.symbols, Sequence):
            raise DataInputError(f"symbols={self.symbols!r} is not accepted: give a list, e.g. ['BTCUSDT']")
        if not self.symbols:
            raise DataInputError("symbols is empty: name at least one, e.g. ['BTCUSDT']")
        for symbol in self.symbols:
            if not isinstance(symbol, str) or not symbol.strip():
                raise DataInputError(f"the symbol {symbol!r} is not accepted: give a text, e.g. 'BTCUSDT'")
        if isinstance(self.aggregate_list, str):
            raise DataInputError(f"aggregate_list={self.aggregate_list!r} is not accepted: give a list, e.g. ['5m']")
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

    def _check_timeframes(self) -> None:
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
