"""Candles of a base timeframe to candles of higher ones. Pure: no clock, no I/O.

Every target candle is built from the base candles themselves, never from another target, so the order of the list does
not matter. A target is made when its last base candle comes, or when a later candle or a Gap shows that it is over. It
is complete when every one of its base candles was there and complete; else it says so (``is_complete`` False: a base
candle is missing, or we began in the middle of it). A target of which there is no base candle at all is a Gap.

A base candle without a trade is flat at the price before it; it gives no price to a target that has trades, so targets
equal what the exchange itself makes of those trades.

Bounds are ``timeframe``'s: aligned to the epoch, weeks to Monday, months to the calendar.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from streammachine.errors import TimeframeError
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.kline import Gap, Kline

Candle = Kline | Gap

NO_BASE = "there are no {base} candles to build it from"


class Aggregator:
    """Builds the candles of ``targets`` from those of ``base``, for any number of symbols.

    The candles of one symbol come in order; one that is not behind the last is left out (counted in ``late``).

    Args:
        base: the timeframe that comes in. targets: higher ones, in any order; each a multiple of ``base``.
        running: also give the target candles as they stand (is_closed False) whenever an open base candle comes.

    Raises:
        TimeframeError: a timeframe is unknown, or a target is no multiple of the base.
    """

    def __init__(self, base: str, targets: Sequence[str], *, running: bool = False) -> None:
        self.base = timeframes.check(base)
        for target in targets:
            if not timeframes.nests(base, timeframes.check(target)):
                raise TimeframeError(f"{target} candles cannot be built from {base} candles: it is no multiple")
        self.targets = tuple(sorted(dict.fromkeys(targets), key=timeframes.TIMEFRAMES.index))
        self.running = running
        self.late = 0
        self._series: dict[tuple[str | None, str], _Series] = {}

    def add(self, row: Kline | Gap) -> list[Candle]:
        """Take a base candle, or a Gap of base candles, and return the target candles that are made by it, oldest
        first: those that it shows to be over, and those that it ends. Rows of other timeframes are left alone."""
        before, behind = self._take(row)
        return [*before, *behind]

    def extend(self, rows: Iterable[Kline | Gap]) -> list[Candle]:
        """The rows with the target candles made by them in their places: what a row shows to be over goes before it,
        what it ends behind it."""
        found: list[Candle] = []
        for row in rows:
            before, behind = self._take(row)
            found += before
            found.append(row)
            found += behind
        return found

    def _take(self, row: Kline | Gap) -> tuple[list[Candle], list[Candle]]:
        if row.timeframe != self.base or not self.targets:
            return [], []
        series = self._series.get((row.source, row.symbol))
        if series is None:
            series = self._series[row.source, row.symbol] = _Series(row.source, row.symbol, self.base, self.targets)
        if isinstance(row, Gap):
            return [], series.skip(row)
        if row.is_closed is False:
            if not self.running or row.open_ts < series.next_open:
                return [], []
            return series.over(row.open_ts), series.so_far(row)
        if row.open_ts < series.next_open:
            self.late += 1
            return [], []
        before = series.over(row.open_ts)
        return before, series.fold(row)


def _end(row: Candle) -> int:
    return row.end if isinstance(row, Gap) else row.end_ts + 1


class _Series:
    """One symbol: the target candles under construction."""

    __slots__ = ("base", "next_open", "source", "symbol", "targets")

    def __init__(self, source: str | None, symbol: str, base: str, targets: Sequence[str]) -> None:
        self.source = source
        self.symbol = symbol
        self.base = base
        self.next_open = -(2**62)  # where the next base candle begins at the earliest
        self.targets = [_Target(target) for target in targets]

    def fold(self, kline: Kline) -> list[Candle]:
        """Add a closed base candle to its targets; those that it ends."""
        end = self.next_open = timeframes.end_of(self.base, kline.open_ts)
        ended: list[Candle] = []
        for target in self.targets:
            target.add(kline, end)
            if target.end == end:
                ended.append(self._closed(target))
        return ended

    def over(self, ts: int) -> list[Candle]:
        """The targets that ended at the moment or before, and have not been made."""
        found: list[Candle] = []
        for target in self.targets:
            if target.end is not None and target.end <= ts and target.parts:
                found.append(self._closed(target))
            if target.due is not None and (start := timeframes.floor(target.timeframe, ts)) > target.due:
                found.append(self._missing(target, start, NO_BASE.format(base=self.base)))
        return sorted(found, key=_end)

    def skip(self, gap: Gap) -> list[Candle]:
        """Take note that the base candles of a gap will not come; the targets that end in it."""
        if gap.end <= self.next_open:
            return []
        begin = max(gap.start, self.next_open)
        found = self.over(begin)
        self.next_open = gap.end
        for target in self.targets:
            if target.due is None:
                target.due = timeframes.floor(target.timeframe, begin)
            if target.parts:
                target.whole = False
                if target.end is not None and target.end <= gap.end:
                    found.append(self._closed(target))
            start = timeframes.floor(target.timeframe, gap.end)
            if start > target.due:
                found.append(self._missing(target, start, gap.reason))
            if not target.parts and start < gap.end:
                target.begin(start)
                target.whole = False
        return sorted(found, key=_end)

    def so_far(self, kline: Kline) -> list[Candle]:
        """The targets as they stand with a base candle that is still open."""
        end = timeframes.end_of(self.base, kline.open_ts)
        found: list[Candle] = []
        for target in self.targets:
            view = target.copy()
            view.add(kline, end)
            found.append(view.kline(self.source, self.symbol, closed=False))
        return found

    def _closed(self, target: _Target) -> Kline:
        made = target.kline(self.source, self.symbol, closed=True)
        target.due = target.end
        target.clear()
        return made

    def _missing(self, target: _Target, end: int, reason: str) -> Gap:
        start = target.due
        target.due = end
        target.clear()
        return Gap(self.source or "", self.symbol, target.timeframe, start or 0, end, reason)


class _Target:
    """One target candle under construction.

    ``due``: where the next one that is to be made begins; None before the first. ``whole``: whether every base candle
    from ``start`` to ``seen`` was there. Sums are None once a part has no value.
    """

    __slots__ = (
        "close",
        "due",
        "end",
        "estimated",
        "high",
        "low",
        "n_trades",
        "open",
        "parts",
        "quote_volume",
        "seen",
        "start",
        "timeframe",
        "traded",
        "turnover",
        "volume",
        "whole",
    )

    def __init__(self, timeframe: str) -> None:
        self.timeframe = timeframe
        self.due: int | None = None
        self.clear()

    def clear(self) -> None:
        self.start = self.seen = 0
        self.end: int | None = None
        self.parts = 0
        self.whole = True
        self.traded = False
        self.estimated = False
        self.open = self.high = self.low = self.close = self.volume = 0.0
        self.quote_volume: float | None = 0.0
        self.turnover: float | None = 0.0  # sum of vwap times volume
        self.n_trades: int | None = 0

    def copy(self) -> _Target:
        twin = object.__new__(_Target)
        for name in self.__slots__:
            setattr(twin, name, getattr(self, name))
        return twin

    def begin(self, start: int) -> None:
        self.start = self.seen = start
        self.end = timeframes.end_of(self.timeframe, start)

    def add(self, kline: Kline, end: int) -> None:
        """Add a base candle, which ends at ``end``."""
        if self.end is None:
            self.begin(timeframes.floor(self.timeframe, kline.open_ts))
            if self.due is None:
                self.due = self.start
        traded = kline.volume > 0 if kline.n_trades is None else kline.n_trades > 0
        if not self.parts or (traded and not self.traded):
            self.open, self.high, self.low, self.close = kline.open, kline.high, kline.low, kline.close
        elif traded:
            self.high = max(self.high, kline.high)
            self.low = min(self.low, kline.low)
            self.close = kline.close
        self.traded = self.traded or traded
        self.whole = self.whole and kline.open_ts == self.seen and kline.is_complete
        self.seen = end
        self.parts += 1
        self.estimated = self.estimated or kline.estimated
        self.volume += kline.volume
        if self.quote_volume is not None:
            self.quote_volume = None if kline.quote_volume is None else self.quote_volume + kline.quote_volume
        if self.n_trades is not None:
            self.n_trades = None if kline.n_trades is None else self.n_trades + kline.n_trades
        if self.turnover is not None and kline.volume:
            self.turnover = None if kline.vwap is None else self.turnover + kline.vwap * kline.volume

    def vwap(self) -> float | None:
        """From the parts' own, or where the exchange gives none, as quote volume over volume."""
        turnover = self.quote_volume if self.turnover is None else self.turnover
        return turnover / self.volume if turnover is not None and self.volume else None

    def kline(self, source: str | None, symbol: str, *, closed: bool) -> Kline:
        """The candle as it stands."""
        end = self.end or 0
        return Kline(
            source=source,
            symbol=symbol,
            timeframe=self.timeframe,
            open_ts=self.start,
            end_ts=end - 1,
            open=self.open,
            high=self.high,
            low=self.low,
            close=self.close,
            volume=self.volume,
            quote_volume=self.quote_volume,
            vwap=self.vwap(),
            n_trades=self.n_trades,
            is_closed=closed,
            is_complete=self.whole and (not closed or self.seen == end),
            estimated=self.estimated,
            origin="aggregate",
        )
