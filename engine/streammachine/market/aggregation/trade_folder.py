"""Trades to candles. Pure: the caller tells the time.

A candle is closed by event time, when a trade of a later interval comes, or by the clock: ``close_until(symbol, ts)``
says that every trade before ``ts`` has been delivered. Intervals without a trade are flat candles at the last
price. The first candle of a symbol began before we did and is marked incomplete, unless ``begin`` said from when on the
trades are known. A Gap in the trades marks the candles it touches; those it swallows whole are a Gap of candles.

Oracle: a GROUP BY over the same trades (tests), and the exchange's own candles.
"""

from __future__ import annotations

from streammachine.errors import DataInputError
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.kline import Gap, Kline, Trade

Candle = Kline | Gap

TRADES = "trade"  # a Gap's timeframe where trades are missing


class TradeFolder:
    """Folds the trades of any number of symbols into candles of one timeframe.

    Args:
        source: the exchange, for the candles. timeframe: of the candles; any but 1M, whose length is not fixed.

    Attributes:
        late: trades that came when their candle was closed; in no candle.

    Raises:
        DataInputError: the timeframe cannot be built from trades.
    """

    def __init__(self, source: str, timeframe: str) -> None:
        if timeframe == timeframes.MONTH:
            raise DataInputError("1M candles are not built from trades: give timeframe='1d', aggregate_list=['1M']")
        self.source = source
        self.timeframe = timeframes.check(timeframe)
        self._interval = timeframes.MILLISECONDS[timeframe]
        self._series: dict[str, _Series] = {}
        self._touched: dict[str, None] = {}
        self.late = 0

    def begin(self, symbol: str, ts: int, price: float | None = None) -> None:
        """All trades of the symbol from ``ts`` on will be added. ``price``: the last one before, for flat candles."""
        series = self._of(symbol)
        series.known_from = ts
        if price is not None:
            series.price = price
            series.start = timeframes.floor(self.timeframe, ts)
            series.end = series.start + self._interval
            series.whole = series.start == ts

    def add(self, trade: Trade) -> list[Candle]:
        """Take a trade; the candles that it shows to be over, oldest first."""
        fields = trade.__dict__  # a look at a model's attribute costs three times one into its fields
        symbol, ts = fields["symbol"], fields["ts"]
        series = self._series.get(symbol) or self._of(symbol)
        closed: list[Candle] = []
        if ts >= series.end:
            closed = self._advance(symbol, series, ts)
        elif ts < series.start:
            self.late += 1
            return closed
        price, volume = fields["price"], fields["volume"]
        if not series.trades:
            series.first = ts
            series.open = series.high = series.low = price
            series.volume = 0.0
        else:
            if ts < series.first:
                series.first = ts
                series.open = price
            if price > series.high:
                series.high = price
            elif price < series.low:
                series.low = price
        series.trades += fields["fills"]
        series.volume += volume
        series.quote += price * volume
        if ts >= series.last:
            series.last = ts
            series.price = price
        self._touched[symbol] = None
        return closed

    def add_gap(self, gap: Gap) -> list[Candle]:
        """Take note that the trades of [gap.start, gap.end) will not come; the candles that are over by it."""
        series = self._of(gap.symbol)
        if series.price is None:  # nothing was promised yet
            if series.known_from is not None:
                series.known_from = max(series.known_from, gap.end)
            return []
        closed = self._advance(gap.symbol, series, gap.start) if gap.start >= series.end else []
        begin = max(gap.start, series.start)
        if gap.end <= begin:
            return closed
        series.whole = False
        while series.end <= gap.end:
            closed += self._close(gap.symbol, series, gap.reason)
            series.whole = False
        if series.start >= gap.end:
            series.whole = True
        return _joined(closed)

    def close_until(self, symbol: str, ts: int) -> list[Candle]:
        """The candles that end at or before ``ts``: every trade before it has been added."""
        series = self._series.get(symbol)
        if series is None or series.price is None or ts < series.end:
            return []
        return self._advance(symbol, series, ts)

    def due(self) -> int | None:
        """The earliest end of an open candle; None where there is none."""
        return min((series.end for series in self._series.values() if series.price is not None), default=None)

    def end_of(self, symbol: str) -> int | None:
        """Where the symbol's open candle ends; None: it has none."""
        series = self._series.get(symbol)
        return None if series is None or series.price is None else series.end

    def standing(self, symbol: str) -> Kline | None:
        """The symbol's open candle as it stands, flat where no trade came yet; None: it has none."""
        series = self._series.get(symbol)
        if series is None or series.price is None:
            return None
        if not series.trades:
            return self._flat(symbol, series, series.price, closed=False)
        return self._kline(symbol, series, series.price, closed=False)

    def symbols(self) -> list[str]:
        """Those that have an open candle."""
        return [symbol for symbol, series in self._series.items() if series.price is not None]

    def running(self) -> list[Kline]:
        """The open candles that trades were added to since the last call, as they stand."""
        touched, self._touched = self._touched, {}
        found = []
        for symbol in touched:
            series = self._series[symbol]
            if series.trades and series.price is not None:
                found.append(self._kline(symbol, series, series.price, closed=False))
        return found

    def _of(self, symbol: str) -> _Series:
        return self._series.setdefault(symbol, _Series())

    def _advance(self, symbol: str, series: _Series, ts: int) -> list[Candle]:
        """Close everything up to the candle that holds the moment, and open that one."""
        start = timeframes.floor(self.timeframe, ts)
        closed: list[Candle] = []
        if series.price is None:
            series.whole = series.known_from is not None and series.known_from <= start
        else:
            while series.end <= start:
                closed += self._close(symbol, series, None)
        series.start = start
        series.end = start + self._interval
        return closed

    def _close(self, symbol: str, series: _Series, reason: str | None) -> list[Candle]:
        """Close the open candle and step to the next: as it is, flat where it is known that nothing was traded, a Gap
        where that is not known."""
        made: Candle
        price = series.price
        if series.trades and price is not None:
            made = self._kline(symbol, series, price, closed=True)
        elif series.whole and price is not None:
            made = self._flat(symbol, series, price, closed=True)
        else:
            made = Gap(
                self.source, symbol, self.timeframe, series.start, series.end, reason or "the trades of it are missing"
            )
        series.start, series.end = series.end, series.end + self._interval
        series.trades = 0
        series.quote = 0.0
        series.whole = True
        return [made]

    def _kline(self, symbol: str, series: _Series, close: float, *, closed: bool) -> Kline:
        return Kline(
            source=self.source,
            symbol=symbol,
            timeframe=self.timeframe,
            open_ts=series.start,
            end_ts=series.end - 1,
            open=series.open,
            high=series.high,
            low=series.low,
            close=close,
            volume=series.volume,
            quote_volume=series.quote,
            vwap=series.quote / series.volume if series.volume else None,
            n_trades=series.trades,
            is_closed=closed,
            is_complete=series.whole,
            origin="trades",
        )

    def _flat(self, symbol: str, series: _Series, price: float, *, closed: bool) -> Kline:
        return Kline(
            source=self.source,
            symbol=symbol,
            timeframe=self.timeframe,
            open_ts=series.start,
            end_ts=series.end - 1,
            open=price,
            high=price,
            low=price,
            close=price,
            volume=0.0,
            quote_volume=0.0,
            vwap=None,
            n_trades=0,
            is_closed=closed,
            is_complete=series.whole,
            origin="trades",
        )


class _Series:
    """One symbol: its open candle [start, end), what its trades come to, and whether all of them are known.

    ``open``, ``high``, ``low``, ``volume`` and ``first`` (the time of the trade that ``open`` is of) count only where
    ``trades`` is not 0. ``price`` is the close: the latest trade's, where two are of one moment the one that came last.
    """

    __slots__ = (
        *("end", "first", "high", "known_from", "last", "low", "open"),
        *("price", "quote", "start", "trades", "volume", "whole"),
    )

    def __init__(self) -> None:
        self.start = self.end = self.first = self.last = 0
        self.trades = 0
        self.open = self.high = self.low = self.volume = self.quote = 0.0
        self.whole = False
        self.price: float | None = None  # the last one; None before the first trade
        self.known_from: int | None = None


def _joined(rows: list[Candle]) -> list[Candle]:
    """Neighbouring gaps as one."""
    found: list[Candle] = []
    for row in rows:
        last = found[-1] if found else None
        if isinstance(row, Gap) and isinstance(last, Gap) and last.end == row.start:
            found[-1] = Gap(row.source, row.symbol, row.timeframe, last.start, row.end, last.reason)
        else:
            found.append(row)
    return found
