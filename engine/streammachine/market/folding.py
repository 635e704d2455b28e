"""Trades of a range into its candles, exactly, the empty ones included."""

from __future__ import annotations

import math
from collections.abc import Iterable

from streammachine.market import timeframe as timeframes
from streammachine.market.kline import Kline, Trade


class Fold:
    """Folds trades, oldest first, into the candles of one symbol and timeframe from ``start`` on.

    A candle with no trade is flat at the close before it; until there is a close, there are no candles.

    Args:
        close: the price of the last trade before ``start``, where known.
    """

    def __init__(self, source: str, symbol: str, timeframe: str, start: int, close: float | None = None) -> None:
        self.position = start  # the start of the candle that is being folded
        self.close = close
        self._source = source
        self._symbol = symbol
        self._timeframe = timeframe
        self._end = timeframes.end_of(timeframe, start)
        self._prices: list[float] = []
        self._volumes: list[float] = []

    def add(self, trades: Iterable[Trade]) -> list[Kline]:
        """The candles that are over now that these have come."""
        closed: list[Kline] = []
        for trade in trades:
            if trade.ts >= self._end:
                closed += self.until(trade.ts)
            if trade.ts >= self.position:
                self._prices.append(trade.price)
                self._volumes.append(trade.volume)
            else:
                self.close = trade.price
        return closed

    def until(self, moment: int) -> list[Kline]:
        """The candles that end at the moment or before: no trade before it is to come."""
        closed = []
        while self._end <= moment:
            candle = self._candle()
            if candle is not None:
                closed.append(candle)
            self._prices.clear()
            self._volumes.clear()
            self.position, self._end = self._end, timeframes.end_of(self._timeframe, self._end)
        return closed

    def _candle(self) -> Kline | None:
        prices, volumes = self._prices, self._volumes
        if not prices:
            if self.close is None:
                return None
            prices, n_trades, volume, quote_volume = [self.close], 0, 0.0, 0.0
        else:
            n_trades, volume = len(prices), math.fsum(volumes)
            quote_volume = math.fsum(price * size for price, size in zip(prices, volumes, strict=True))
            self.close = prices[-1]
        return Kline(
            source=self._source,
            symbol=self._symbol,
            timeframe=self._timeframe,
            open_ts=self.position,
            end_ts=self._end - 1,
            open=prices[0],
            high=max(prices),
            low=min(prices),
            close=prices[-1],
            volume=volume,
            quote_volume=quote_volume,
            vwap=quote_volume / volume if volume else None,
            n_trades=n_trades,
            is_closed=True,
            origin="trades",
        )
