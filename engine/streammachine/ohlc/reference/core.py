"""What lies under an aggregator, and what the batches and the dump work on: the series by symbol, and the way of a
checked tick into them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

from streammachine.errors import IntervalError, SettingsError
from streammachine.ohlc.reference.candles import (
    NOT_HOT,
    START_OF,
    Candle,
    CandleData,
    Hot,
    Level,
    Series,
    Slot,
    levels_of,
)
from streammachine.ohlc.reference.layout import ACCEPTED, LATE
from streammachine.ohlc.reference.values import canonical, whole
from streammachine.ohlc.values import MAX_MS, show, symbol_error


class Core:
    """The state of an aggregator. The other rooms of this package use its ``_`` names; a user sees ``FastOHLC``'s.

    Args:
        intervals, max_candles: those of ``FastOHLC``.
    """

    def __init__(self, intervals: Iterable[int] | None = None, max_candles: int = 0) -> None:
        self._intervals = checked_intervals(intervals)
        bound = whole(max_candles)
        if bound is None or not 0 <= bound <= MAX_MS:
            raise SettingsError(f"max_candles {show(max_candles)} is refused: it must be an int, 0 (no bound) or more.")
        self._max_candles = bound
        self._levels = levels_of(sorted(self._intervals))
        self._roots = [at for at, level in enumerate(self._levels) if level.source < 0]
        self._level_of = {level.interval: at for at, level in enumerate(self._levels)}
        self._texts: dict[str, Series] = {}
        self._bytes: dict[bytes, Series] = {}
        self._ticks = self._late = self._dropped = self._generation = 0

    def _take(self, series: Series, price: float, volume: float, ms: int) -> None:
        """One checked tick."""
        for _, start, end in series.hots:
            if not start <= ms < end:
                self._take_slowly(series, price, volume, ms)
                return
        for candle, _, _ in series.hots:
            candle.add_tick(price, volume, ms)
        self._ticks += 1

    def _take_slowly(self, series: Series, price: float, volume: float, ms: int) -> None:
        result = 0
        for root in self._roots:
            result |= self._walk(series, root, price, volume, ms)
        self._refresh_hots(series)
        self._ticks += result & ACCEPTED
        self._late += result >> 1

    def _walk(self, series: Series, at: int, price: float, volume: float, ms: int) -> int:
        """Bring a tick into a slot and, unless a pending candle carries it there later, into all above."""
        slot = series.slots[at]
        level = self._levels[at]
        result = ACCEPTED
        if ms < slot.mark:
            result = LATE
        else:
            start = level.align(ms)
            if not slot.candles or slot.candles[-1].start < start:
                self._open_candle(series, at, start, self._may_wait(series, at, start))
                slot.candles[-1].add_tick(price, volume, ms)
                if slot.pending:
                    return ACCEPTED
            else:
                index = bisect_left(slot.candles, start, key=START_OF)
                if slot.candles[index].start == start:
                    slot.candles[index].add_tick(price, volume, ms)
                    if slot.pending and index == len(slot.candles) - 1:
                        return ACCEPTED
                else:
                    candle = Candle(start)
                    candle.add_tick(price, volume, ms)
                    slot.candles.insert(index, candle)
                    self._keep_bound(slot, level)
        for up in level.dependents:
            result |= self._walk(series, up, price, volume, ms)
        return result

    def _open_candle(self, series: Series, at: int, start: int, pending: bool) -> None:
        """Append an empty candle, newer than all of the slot; where pending, its dependents get theirs."""
        slot = series.slots[at]
        self._fold(series, at)
        slot.candles.append(Candle(start))
        slot.pending = pending
        self._keep_bound(slot, self._levels[at])
        if pending:
            for up in self._levels[at].dependents:
                above = series.slots[up]
                up_start = self._levels[up].align(start)
                if not above.candles or above.candles[-1].start < up_start:
                    self._open_candle(series, up, up_start, True)

    def _may_wait(self, series: Series, at: int, start: int) -> bool:
        """Whether a new candle can be pending: everything above will take it as, or into, its newest candle."""
        for up in self._levels[at].dependents:
            slot = series.slots[up]
            if slot.mark > start:
                return False
            if slot.candles and slot.candles[-1].start > self._levels[up].align(start):
                return False
            if not self._may_wait(series, up, start):
                return False
        return True

    def _keep_bound(self, slot: Slot, level: Level) -> None:
        if self._max_candles and len(slot.candles) > self._max_candles:
            slot.mark = max(slot.mark, slot.candles.pop(0).start + level.interval)
            self._dropped += 1

    def _fold(self, series: Series, at: int) -> None:
        """Merge the newest candle of a slot into its dependents, where it is pending."""
        slot = series.slots[at]
        if slot.pending:
            slot.pending = False
            for up in self._levels[at].dependents:
                series.slots[up].candles[-1].merge(slot.candles[-1])

    def _settle(self, series: Series, at: int) -> None:
        """Fold a slot's newest candle with all that its own sources still hold back."""
        if self._levels[at].source >= 0:
            self._settle(series, self._levels[at].source)
        self._fold(series, at)

    def _refresh_hots(self, series: Series) -> None:
        """The bounds within which a tick needs nothing but its root's newest candle."""
        hots = []
        for root in self._roots:
            slot = series.slots[root]
            if slot.pending:
                start = slot.candles[-1].start
                hots.append(Hot(slot.candles[-1], start, start + self._levels[root].interval))
            else:
                hots.append(NOT_HOT)
        series.hots = hots

    def _newest_view(self, series: Series, at: int) -> Candle:
        """The newest candle of a slot as it stands, with what its sources hold back."""
        view = Candle(0)
        view.assign(*series.slots[at].candles[-1].values())
        source = self._levels[at].source
        if source >= 0 and series.slots[source].pending:
            view.merge(self._newest_view(series, source))
        return view

    def _first_candles(self, series: Series, at: int, count: int) -> list[CandleData]:
        candles = series.slots[at].candles
        found = [candle.data() for candle in candles[: min(count, len(candles) - 1)]]
        if count and count == len(candles):
            found.append(self._newest_view(series, at).data())
        return found

    def _complete(self, series: Series, at: int, before: int) -> int:
        """How many candles of a slot end at or before a time."""
        return bisect_left(series.slots[at].candles, before - self._levels[at].interval + 1, key=START_OF)

    def _known(self, symbol: object) -> Series | None:
        text = canonical(symbol)
        return None if text is None else self._texts.get(text)

    def _found(self, symbol: object) -> Series | None:
        text = canonical(symbol)
        if text is None:
            raise symbol_error(symbol)
        return self._texts.get(text)

    def _create(self, symbol: object) -> Series:
        text = canonical(symbol)
        if text is None:
            raise symbol_error(symbol)
        series = Series(text, len(self._levels), len(self._roots))
        self._adopt(series)
        return series

    def _adopt(self, series: Series) -> None:
        self._generation += 1
        self._texts[series.name] = series
        self._bytes[series.name.encode()] = series

    def _level(self, interval: object) -> int:
        plain = whole(interval)
        if plain is None or plain not in self._level_of:
            raise IntervalError(f"interval {show(interval)} is not one of this aggregator's: {self._intervals}.")
        return self._level_of[plain]


def checked_intervals(intervals: Any) -> list[int]:
    checked: list[int] = []
    if intervals is None:
        return [60_000, 300_000]
    if isinstance(intervals, (str, bytes)) or not hasattr(intervals, "__iter__"):
        raise IntervalError(f"intervals {show(intervals)} is refused: give a list of milliseconds, such as [60000].")
    for value in intervals:
        interval = whole(value)
        if interval is None or not 0 < interval <= MAX_MS:
            raise IntervalError(
                f"interval {show(value)} is refused: it must be an int, milliseconds from 1 to {MAX_MS}."
            )
        if interval in checked:
            raise IntervalError(f"interval {interval} is refused: it is in the list twice.")
        checked.append(interval)
    if not checked:
        raise IntervalError("intervals is empty: give at least one, such as [60000].")
    return checked
