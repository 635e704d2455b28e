"""Candles of one symbol, folded upward."""

from __future__ import annotations

import operator
from dataclasses import asdict, dataclass
from math import inf
from typing import Any, NamedTuple

from streammachine.ohlc.reference.layout import FIRST, LAST, MONDAY_SHIFT_MS, NO_MARK, WEEK_MS


@dataclass(frozen=True, slots=True)
class CandleData:
    """One candle: what a (symbol, interval) holds for ``[candle_start_ms, candle_start_ms + interval)``.

    A value, not a view: it does not change when further ticks arrive. ``timestamp_ms`` is the event time of the
    last tick (epoch milliseconds), the one that gave ``close``.
    """

    open: float
    high: float
    low: float
    close: float
    volume: float = 0.0
    timestamp_ms: int = 0
    candle_start_ms: int = 0
    trade_count: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The eight values by name."""
        return asdict(self)


class Candle:
    """One candle as it grows. ``first`` and ``last`` are the event times of the ticks that gave open and close."""

    __slots__ = ("close", "count", "first", "high", "last", "low", "open", "start", "volume")

    def __init__(self, start: int) -> None:
        self.assign(0.0, -inf, inf, 0.0, 0.0, start, LAST, FIRST, 0)

    def assign(
        self,
        open_: float,
        high: float,
        low: float,
        close: float,
        volume: float,
        start: int,
        first: int,
        last: int,
        count: int,
    ) -> None:
        self.open = open_
        self.high = high
        self.low = low
        self.close = close
        self.volume = volume
        self.start = start
        self.first = first
        self.last = last
        self.count = count

    def add_tick(self, price: float, volume: float, ms: int) -> None:
        self.count += 1
        self.volume += volume
        if price > self.high:
            self.high = price
        if price < self.low:
            self.low = price
        if ms >= self.last:
            self.last = ms
            self.close = price
        if ms < self.first:
            self.first = ms
            self.open = price

    def merge(self, child: Candle) -> None:
        self.count += child.count
        self.volume += child.volume
        if child.high > self.high:
            self.high = child.high
        if child.low < self.low:
            self.low = child.low
        if child.last >= self.last:
            self.last = child.last
            self.close = child.close
        if child.first < self.first:
            self.first = child.first
            self.open = child.open

    def values(self) -> tuple[float, float, float, float, float, int, int, int, int]:
        """In the order of a dump."""
        return (
            self.open,
            self.high,
            self.low,
            self.close,
            self.volume,
            self.start,
            self.first,
            self.last,
            self.count,
        )

    def data(self) -> CandleData:
        return CandleData(self.open, self.high, self.low, self.close, self.volume, self.last, self.start, self.count)


START_OF = operator.attrgetter("start")


class Hot(NamedTuple):
    """The bounds within which a tick needs nothing but its root's newest candle."""

    candle: Candle
    start: int
    end: int


NOT_HOT = Hot(Candle(0), 0, 0)


class Slot:
    """Candles of one (symbol, interval), ascending by start."""

    __slots__ = ("candles", "mark", "pending")

    def __init__(self) -> None:
        self.candles: list[Candle] = []
        self.mark = NO_MARK
        self.pending = False


class Series:
    """All slots of one symbol."""

    __slots__ = ("hots", "name", "slots")

    def __init__(self, name: str, levels: int, roots: int) -> None:
        self.name = name
        self.slots = [Slot() for _ in range(levels)]
        self.hots = [NOT_HOT] * roots


class Level:
    """One interval, and where its data comes from."""

    __slots__ = ("dependents", "interval", "shift", "source")

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self.shift = MONDAY_SHIFT_MS if interval == WEEK_MS else 0
        self.source = -1
        self.dependents: list[int] = []

    def align(self, ms: int) -> int:
        return ms - (ms + self.shift) % self.interval

    def nests_in(self, parent: Level) -> bool:
        return parent.interval % self.interval == 0 and (parent.shift - self.shift) % self.interval == 0


def levels_of(ordered: list[int]) -> list[Level]:
    """The levels of intervals that ascend: the source of one is the largest smaller one that nests in it."""
    levels = [Level(interval) for interval in ordered]
    for at, level in enumerate(levels):
        for child in range(at - 1, -1, -1):
            if levels[child].nests_in(level):
                level.source = child
                levels[child].dependents.append(at)
                break
    return levels


Tick = tuple[Series, float, float, int]  # its symbol's series, price, volume, event time
