"""Trades of a range into its candles, exactly, the empty ones included; none without evidence."""

from __future__ import annotations

import math
from collections.abc import Iterable

from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.kline import Kline, Trade


class Fold:
    """Folds trades, oldest first, into the candles of one symbol and timeframe from ``start`` on.

    A candle with no trade is flat at the close before it; until there is a close, there are no candles. Where ids are
    contiguous and one is skipped, trades are missing: no candle that one of them may belong to is made.

    Args:
        close: the price of the last trade before ``start``, where known. last_id: its id, where that is known too.
        contiguous: whether the trades' ids rise by one (by ``Trade.fills``).
    """

    def __init__(
        self,
        source: str,
        symbol: str,
        timeframe: str,
        start: int,
        close: float | None = None,
        *,
        last_id: int | None = None,
        contiguous: bool = False,
    ) -> None:
        self.position = start  # the start of the candle that is being folded
        self.close = close
        self._source = source
        self._symbol = symbol
        self._timeframe = timeframe
        self._end = timeframes.end_of(timeframe, start)
        self._prices: list[float] = []
        self._volumes: list[float] = []
        self._contiguous = contiguous
        self._last_id = last_id
        self._incomplete = False  # a trade of the candle that is being folded may be missing

    def add(self, trades: Iterable[Trade]) -> list[Kline]:
        """The candles that are over now that these have come."""
        closed: list[Kline] = []
        for trade in trades:
            lacks = self._contiguous and self._lacks_before(trade)
            self._incomplete |= lacks
            if trade.ts >= self._end:
                closed += self._until(trade.ts, lacks=lacks)
            if trade.ts >= self.position:
                self._prices.append(trade.price)
                self._volumes.append(trade.volume)
            else:
                self.close = trade.price
        return closed

    def until(self, moment: int) -> list[Kline]:
        """The candles that end at the moment or before: no trade before it is to come."""
        return self._until(moment, lacks=False)

    def _until(self, moment: int, *, lacks: bool) -> list[Kline]:
        """``lacks``: trades up to the moment may be missing."""
        closed = []
        while self._end <= moment:
            candle = self._candle()
            if candle is not None and not self._incomplete:
                closed.append(candle)
            self._incomplete = lacks
            self._prices.clear()
            self._volumes.clear()
            self.position, self._end = self._end, timeframes.end_of(self._timeframe, self._end)
        return closed

    def _lacks_before(self, trade: Trade) -> bool:
        """Whether trades are missing between the last one and this."""
        last, self._last_id = self._last_id, int(trade.trade_id)
        return last is not None and self._last_id - trade.fills > last

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
