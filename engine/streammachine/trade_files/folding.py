"""Blocks of trades into candles: the candle engine's own, so that they are those of ``FastOHLC``, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from streammachine.errors import DataInputError
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.kline import Kline
from streammachine.ohlc.aggregator import FastOHLC
from streammachine.ohlc.trade_rows import TradeRows

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLUSH_ROWS: Final = 250_000  # trades after which the candles that are over are taken away
LATENESS: Final = timeframes.HOUR  # event time that a candle waits for trades that come out of order


def checked_timeframes(wanted: str | Sequence[str]) -> list[str]:
    """The timeframes, each once, in the order given.

    Raises:
        TimeframeError: one is none. DataInputError: there is none, or candles of it are not built from trades.
    """
    given = wanted.split(",") if isinstance(wanted, str) else list(wanted)
    found = list(dict.fromkeys(timeframes.check(each.strip() if isinstance(each, str) else each) for each in given))
    if not found:
        raise DataInputError("timeframes is empty: give at least one, such as 1m")
    if timeframes.MONTH in found:
        raise DataInputError("1M candles are not built from trades: give 1d, and build months from those")
    return found


@dataclass(slots=True)
class _Seen:
    """What is known of a symbol.

    Attributes:
        newest: time of its newest trade. last: the id of the row before, -1: none. floor: ids up to it were in files
            before this one. highest: id so far.
    """

    newest: int = 0
    last: int = -1
    floor: int = -1
    highest: int = -1


class Folding:
    """Folds the trades of one source.

    Args:
        source: the exchange, for the candles; None where not known.

    Attributes:
        trades: taken. duplicates: rows left out, since their id was there before. late: trades that came when their
            candle had been given away; in no candle of that timeframe.
    """

    def __init__(self, source: str | None, wanted: Sequence[str]) -> None:
        self.source = source
        self.trades = self.duplicates = 0
        self._intervals = {name: timeframes.MILLISECONDS[name] for name in wanted}
        self._base = FastOHLC(self._intervals.values())
        self._quote = FastOHLC(self._intervals.values())  # its volume is price times volume, as TradeFolder adds it
        self._fills: FastOHLC | None = None  # its volume is how many trades the rows stand for
        self._seen: dict[str, _Seen] = {}
        self._rows = 0

    @property
    def late(self) -> int:
        """Trades that were too late for at least one timeframe."""
        return self._base.late_count

    def begin_file(self, *, joins: bool) -> None:
        """Another file begins. ``joins``: its rows stand for several trades each."""
        if joins and self._fills is None:
            self._fills = FastOHLC(self._intervals.values())
        for seen in self._seen.values():
            seen.floor = seen.highest

    def add(self, rows: TradeRows, symbol: str, *, rising: bool) -> None:
        """Take a block. ``symbol``: of all rows, where the block names none. ``rising``: see ``Layout.rising``."""
        names: Any = symbol if rows.codes is None else _Coded(rows.codes, rows.symbols)
        if rising and rows.ids is not None:
            keep = self._fresh(rows, symbol)
            if keep is not None:
                rows = _kept(rows, keep)
                names = symbol if rows.codes is None else _Coded(rows.codes, rows.symbols)
        count = self._base.update_batch(names, rows.prices, rows.volumes, rows.times)
        if not count:
            return
        self._quote.update_batch(names, rows.prices, rows.prices * rows.volumes, rows.times)
        if self._fills is not None:
            fills = rows.volumes * 0.0 + 1.0 if rows.fills is None else rows.fills.astype("f8")
            self._fills.update_batch(names, rows.prices, fills, rows.times)
        for name, times in _by_symbol(rows, symbol, rows.times):
            seen = self._seen.setdefault(name, _Seen())
            seen.newest = max(seen.newest, int(times.max()))
        self.trades += count
        self._rows += count

    def over(self) -> list[Kline]:
        """Candles that no trade is awaited for, where it is time to look, oldest first for each series."""
        if self._rows < FLUSH_ROWS:
            return []
        self._rows = 0
        return [
            candle
            for symbol, seen in self._seen.items()
            for name in self._intervals
            for candle in self._take(symbol, name, seen.newest - LATENESS)
        ]

    def rest(self, symbol: str | None = None) -> list[Kline]:
        """All candles of a symbol, or of all: its last trade was added."""
        found = []
        for each in [symbol] if symbol is not None else list(self._seen):
            seen = self._seen.get(each)
            if seen is not None:
                for name, interval in self._intervals.items():
                    found += self._take(each, name, seen.newest + 2 * interval)
        return found

    def _take(self, symbol: str, name: str, before: int) -> list[Kline]:
        interval = self._intervals[name]
        if before <= 0:
            return []
        candles = self._base.get_completed_candles(symbol, interval, before)
        if not candles:
            return []
        quotes = self._quote.get_completed_candles(symbol, interval, before)
        fills = None if self._fills is None else self._fills.get_completed_candles(symbol, interval, before)
        newest = self._seen[symbol].newest
        made = [
            self._kline(symbol, name, interval, newest, candle, quotes[at].volume, None if fills is None else fills[at])
            for at, candle in enumerate(candles)
        ]
        for aggregator in (self._base, self._quote, self._fills):
            if aggregator is not None:
                aggregator.flush_interval(symbol, interval, before)
        return made

    def _kline(
        self, symbol: str, name: str, interval: int, newest: int, candle: Any, quote: float, joined: Any
    ) -> Kline:
        end = candle.candle_start_ms + interval
        return Kline(
            source=self.source,
            symbol=symbol,
            timeframe=name,
            open_ts=candle.candle_start_ms,
            end_ts=end - 1,
            open=candle.open,
            high=candle.high,
            low=candle.low,
            close=candle.close,
            volume=candle.volume,
            quote_volume=quote,
            vwap=quote / candle.volume if candle.volume else None,
            n_trades=candle.trade_count if joined is None else int(joined.volume),
            is_closed=True if end <= newest else None,
            origin="trades",
        )

    def _fresh(self, rows: TradeRows, symbol: str) -> NDArray[Any] | None:
        """Which rows were not there before, by their ids; None: all."""
        import numpy as np

        assert rows.ids is not None
        if rows.codes is None and len(rows.ids):  # one symbol whose ids only rise: most blocks
            seen, ids = self._seen.setdefault(symbol, _Seen()), rows.ids
            if ids[0] > max(seen.floor, seen.last) and ids[0] >= 0 and (ids[1:] > ids[:-1]).all():
                seen.last = int(ids[-1])
                seen.highest = max(seen.highest, seen.last)
                return None
        keep = np.ones(len(rows.times), bool)
        for name, ids, place in _by_symbol(rows, symbol, rows.ids, np.arange(len(rows.times))):
            seen = self._seen.setdefault(name, _Seen())
            known = ids >= 0
            before = np.concatenate(([seen.last], ids[:-1]))
            keep[place[known & ((ids <= seen.floor) | (ids == before))]] = False
            seen.last = int(ids[-1])
            seen.highest = max(seen.highest, int(ids.max()))
        dropped = len(keep) - int(np.count_nonzero(keep))
        self.duplicates += dropped
        return keep if dropped else None


class _Coded:
    """Codes and their texts, as ``update_batch`` takes a categorical column."""

    def __init__(self, codes: NDArray[Any], categories: list[str]) -> None:
        self.codes = codes
        self.dtype = self
        self.categories = categories


def _kept(rows: TradeRows, keep: NDArray[Any]) -> TradeRows:
    """The rows that are to be kept."""

    def cut(column: NDArray[Any] | None) -> NDArray[Any] | None:
        return None if column is None else column[keep]

    numbers = rows.prices[keep], rows.volumes[keep], rows.times[keep]
    return TradeRows(*numbers, cut(rows.ids), cut(rows.fills), cut(rows.codes), rows.symbols, rows.lines)


def _by_symbol(rows: TradeRows, symbol: str, *columns: NDArray[Any]) -> list[tuple[Any, ...]]:
    """Each symbol that has rows, with its part of each column."""
    import numpy as np

    if rows.codes is None:
        return [(symbol, *columns)] if len(columns[0]) else []
    if len(rows.symbols) == 1:
        return [(rows.symbols[0], *columns)] if len(columns[0]) else []
    order = np.argsort(rows.codes, kind="stable")
    cuts = np.flatnonzero(np.diff(rows.codes[order])) + 1
    parts = [part for part in np.split(order, cuts) if len(part)]
    return [(rows.symbols[rows.codes[part[0]]], *(column[part] for column in columns)) for part in parts]
