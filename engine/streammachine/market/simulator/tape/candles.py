"""Candles of a tape, exact: the simulator's own fold, apart from the one that clients use.

A ``Bar`` keeps integers; the exchanges write them as their texts. The candle of an interval without a trade is flat at
the last price before it.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from streammachine.market.model.timeframe import DAY, HOUR, MINUTE
from streammachine.market.simulator.tape.tape import Block, Integers, Market, Tape, decimal_text


@dataclass(frozen=True, slots=True)
class Bar:
    """One candle: [start, end) in epoch ms, prices and sums in the units of its market.

    ``first_id`` and ``last_id`` are -1 where there is no trade; ``bought`` and ``bought_quote`` are the takers' buys.
    """

    market: Market
    start: int
    end: int
    open: int
    high: int
    low: int
    close: int
    volume: int = 0
    quote: int = 0
    count: int = 0
    first_id: int = -1
    last_id: int = -1
    bought: int = 0
    bought_quote: int = 0

    def price_text(self, value: int) -> str:
        """A price as decimal text."""
        return decimal_text(value, self.market.price_scale)

    def volume_text(self, value: int | None = None) -> str:
        """The volume (or another sum of quantities) as decimal text."""
        return decimal_text(self.volume if value is None else value, self.market.quantity_scale)

    def quote_text(self, value: int | None = None) -> str:
        """The quote volume (or another sum of price times quantity) as decimal text."""
        scale = self.market.price_scale + self.market.quantity_scale
        return decimal_text(self.quote if value is None else value, scale)


@dataclass(frozen=True, slots=True)
class Grid:
    """Where candles begin: every ``step`` ms from ``offset`` on, or (step 0) with each month, ``offset`` ms moved."""

    step: int
    offset: int = 0

    def floor(self, ts: int) -> int:
        """The start of the candle that holds the moment."""
        if self.step:
            return (ts - self.offset) // self.step * self.step + self.offset
        return self._month(ts, 0)

    def shift(self, start: int, candles: int = 1) -> int:
        """The start of the candle that is so many later (below 0: earlier)."""
        return start + candles * self.step if self.step else self._month(start, candles)

    def ceil(self, ts: int) -> int:
        """The start of the first candle at the moment or after."""
        start = self.floor(ts)
        return start if start == ts else self.shift(start)

    def starts(self, start: int, end: int) -> Sequence[int]:
        """The starts within [start, end)."""
        first = self.ceil(start)
        if self.step:
            return range(first, max(first, end), self.step)
        found = []
        while first < end:
            found.append(first)
            first = self.shift(first)
        return found

    def _month(self, ts: int, months: int) -> int:
        moment = datetime.datetime.fromtimestamp((ts - self.offset) // 1000, datetime.UTC)
        year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
        return int(datetime.datetime(year, month + 1, 1, tzinfo=datetime.UTC).timestamp()) * 1000 + self.offset


UTC: Final[dict[str, Grid]] = {
    **{f"{n}s": Grid(n * 1000) for n in (1,)},
    **{f"{n}m": Grid(n * MINUTE) for n in (1, 3, 5, 15, 30)},
    **{f"{n}h": Grid(n * HOUR) for n in (1, 2, 4, 6, 8, 12)},
    **{f"{n}d": Grid(n * DAY) for n in (1, 3)},
    "1w": Grid(7 * DAY, 4 * DAY),  # Mondays
    "1M": Grid(0),
}


Sums = tuple[int, int, int, int, int, int, int, int, int, int, int]  # open .. bought_quote of a Bar


class Candles:
    """Folds a tape into candles, on demand."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape

    def bar(self, symbol: str, grid: Grid, start: int, until: int) -> Bar | None:
        """The candle that begins at ``start`` from the trades before ``until``; None: there was no trade ever."""
        return self._cut(symbol, start, grid.shift(start), until)

    def range(self, symbol: str, grid: Grid, start: int, end: int, until: int) -> list[Bar]:
        """The candles that begin within [start, end) and before ``until``, from the trades before ``until``."""
        start = max(start, grid.floor(self.tape.listed(symbol)))
        starts = grid.starts(start, min(end, until))
        if grid.step and HOUR % grid.step == 0:
            return list(self._many(symbol, grid.step, starts, until))
        found = (self.bar(symbol, grid, moment, until) for moment in starts)
        return [bar for bar in found if bar is not None]

    def moved(
        self, symbol: str, grid: Grid, bars: list[Bar], stretch: tuple[int, int], wanted: tuple[int, int], until: int
    ) -> list[Bar]:
        """The candles of a history that lost its grid for a while, as Binance's did in February 2018.

        Within the stretch one begins at its start and each other a step later; the candle before it, and the last of
        it, end where the next one begins. Candles longer than the stretch stay as they are.

        Args:
            bars: those on the grid. wanted: [start, end) of those to give, which the ``bars`` are of.
        """
        first, last = stretch
        if not grid.step or grid.step > last - first or grid.floor(first) == first:
            return bars
        behind = grid.ceil(last)
        found: list[Bar | None] = []
        for bar in bars:
            if bar.start < first < bar.end:
                found.append(self._cut(symbol, bar.start, first, until))
            elif not first <= bar.start < behind:
                found.append(bar)
        for start in range(first, last, grid.step):
            if wanted[0] <= start < wanted[1]:
                found.append(self._cut(symbol, start, min(start + grid.step, behind), until))
        return sorted((bar for bar in found if bar is not None), key=lambda bar: bar.start)

    def _cut(self, symbol: str, start: int, end: int, until: int) -> Bar | None:
        sums = self._sums(symbol, start, min(end, until))
        if sums is not None:
            return Bar(self.tape.markets[symbol], start, end, *sums)
        return self._flat(symbol, start, end)

    def _flat(self, symbol: str, start: int, end: int) -> Bar | None:
        last = self.tape.last_before(symbol, start)
        if last is None:
            return None
        market = self.tape.markets[symbol]
        price = int(last.price.replace(".", ""))
        return Bar(market, start, end, price, price, price, price)

    def _many(self, symbol: str, step: int, starts: Sequence[int], until: int) -> Iterator[Bar]:
        """Candles of a length that divides an hour, a block at a time."""
        if not starts:
            return
        market, close = self.tape.markets[symbol], None
        moment, last = starts[0], starts[-1] + step
        for block in self.tape.blocks(symbol, moment, last):
            edges = np.append(np.arange(max(moment, block.start), min(last, block.end), step), min(last, block.end))
            offsets = np.searchsorted(block.ts, np.minimum(edges, until), "left")
            filled = np.flatnonzero(offsets[1:] > offsets[:-1])
            folded = iter(_fold_many(block, offsets, filled))
            has = set(filled.tolist())
            for index, start in enumerate(edges[:-1].tolist()):
                if index in has:
                    sums = next(folded)
                    close = sums[3]
                    yield Bar(market, start, start + step, *sums)
                elif close is not None:
                    yield Bar(market, start, start + step, close, close, close, close)
                else:
                    flat = self._flat(symbol, start, start + step)
                    if flat is not None:
                        close = flat.close
                        yield flat
            moment = int(edges[-1])
        for start in range(moment, last, step):  # behind the tape's end
            flat = self._flat(symbol, start, start + step)
            if flat is not None:
                yield flat

    def _sums(self, symbol: str, start: int, until: int) -> Sums | None:
        """The fold of the trades of [start, until); None: there is none."""
        total: Sums | None = None
        for block in self.tape.blocks(symbol, start, until):
            whole = start <= block.start and block.end <= until
            if whole and block.end - block.start in (HOUR, DAY):
                part = block.cache.get("sums")
                if part is None:
                    part = block.cache["sums"] = _fold(block, 0, len(block)) if len(block) else None
            else:
                low, high = block.position(start), block.position(until)
                part = _fold(block, low, high) if high > low else None
            if part is not None:
                total = part if total is None else _merge(total, part)
        return total


def _fold(block: Block, low: int, high: int) -> Sums:
    price, quantity = block.price[low:high], block.quantity[low:high]
    bought = block.bought[low:high]
    quote = price * quantity
    return (
        int(price[0]),
        int(price.max()),
        int(price.min()),
        int(price[-1]),
        int(quantity.sum()),
        int(quote.sum()),
        high - low,
        block.first_id + low,
        block.first_id + high - 1,
        int(quantity[bought].sum()),
        int(quote[bought].sum()),
    )


def _fold_many(block: Block, offsets: Integers, filled: Integers) -> list[Sums]:
    """The folds of [offsets[k], offsets[k + 1]) for every k in ``filled``, none of them empty."""
    if not len(filled):
        return []
    first, last = offsets[filled], offsets[filled + 1]
    price = block.price[: last[-1]]
    quantity = block.quantity[: last[-1]]
    bought = block.bought[: last[-1]]
    quote = price * quantity
    columns = (
        price[first],
        np.maximum.reduceat(price, first),
        np.minimum.reduceat(price, first),
        price[last - 1],
        np.add.reduceat(quantity, first),
        np.add.reduceat(quote, first),
        last - first,
        block.first_id + first,
        block.first_id + last - 1,
        np.add.reduceat(quantity * bought, first),
        np.add.reduceat(quote * bought, first),
    )
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _merge(first: Sums, second: Sums) -> Sums:
    return (
        first[0],
        max(first[1], second[1]),
        min(first[2], second[2]),
        second[3],
        first[4] + second[4],
        first[5] + second[5],
        first[6] + second[6],
        first[7],
        second[8],
        first[9] + second[9],
        first[10] + second[10],
    )
