"""The tape: the trades that a simulated market saw, each symbol's in order, exact and the same for every exchange.

A generated tape has no end and a long past: its trades are made block by block from the seed, only when somebody looks
at them, so years of history cost nothing until they are asked for. Before the day of ``start_ms`` a block is a UTC day,
from there on an hour. Each block of a kind holds the same number of trades, so ids are contiguous without counting. A
recorded tape is one block, with nothing before and behind.

Prices and quantities are integers in units of ``Market.price_scale`` and ``quantity_scale`` decimals; times are UTC
epoch milliseconds.
"""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streammachine.market.model.timeframe import DAY, HOUR, MINUTE

LISTED: Final = 1_546_300_800_000  # 2019-01-01, the first day of a generated tape
KEPT_TRADES: Final = 4_000_000  # trades that stay in memory before blocks are forgotten
LARGEST: Final = 2**62  # sums that may pass it are made with Python's own integers

Integers = NDArray[Any]  # int64, or Python integers where those could overflow


class TapeTrade(NamedTuple):
    """One trade. ``side`` is the taker's, "buy" or "sell"; price and quantity are decimal texts."""

    id: int
    ts: int
    price: str
    quantity: str
    side: str


@dataclass(frozen=True)
class Market:
    """A symbol's unit sizes and where its price stands."""

    symbol: str
    price_scale: int = 2
    quantity_scale: int = 5
    price: float = 100.0

    @property
    def base(self) -> str:
        """The currency that is traded."""
        return self.symbol.partition("/")[0]

    @property
    def quote(self) -> str:
        """The currency that it is paid in."""
        return self.symbol.partition("/")[2]


@dataclass
class Block:
    """The trades of one stretch of time, oldest first; ``first_id`` is that of the first."""

    start: int
    end: int
    first_id: int
    ts: NDArray[np.int64]
    price: Integers
    quantity: Integers
    bought: NDArray[np.bool_]
    cache: dict[Any, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ts)

    def position(self, ts: int) -> int:
        """The index of the first trade at ``ts`` or later."""
        return int(np.searchsorted(self.ts, ts, "left"))


KNOWN: Final = {
    "BTC": Market("BTC/USDT", 2, 5, 64_000.0),
    "ETH": Market("ETH/USDT", 2, 4, 3_400.0),
    "SOL": Market("SOL/USDT", 2, 3, 150.0),
    "DOGE": Market("DOGE/USDT", 5, 0, 0.12),
}


class Tape:
    """Trades of some symbols. Make one with ``Tape.generate`` or ``Tape.from_trades``.

    Attributes:
        start_ms, end_ms: the stretch that ``trades`` gives by default, [start_ms, end_ms).
        markets: unit sizes by symbol ("BTC/USDT").
    """

    def __init__(self, markets: Sequence[Market], start_ms: int, end_ms: int) -> None:
        self.markets = {market.symbol: market for market in markets}
        self.start_ms = start_ms
        self.end_ms = end_ms

    @staticmethod
    def generate(
        seed: int = 0,
        symbols: Sequence[str] = ("BTC/USDT", "ETH/USDT"),
        start_ms: int = 1_700_000_000_000,
        minutes: int = 60,
        trades_per_minute: int = 60,
        *,
        history_per_minute: int = 1,
        quiet: float = 0.08,
    ) -> Tape:
        """A seeded market: the same arguments give the same trades, on any machine.

        Args:
            symbols: as BASE/QUOTE.
            start_ms: where the dense part begins; before it (down to 2019) there are ``history_per_minute`` trades
                a minute, from its hour on ``trades_per_minute``, both on average.
            minutes: how long ``trades`` reaches by default. The market itself goes on for ever.
            quiet: the share of minutes without any trade.
        """
        for symbol in symbols:
            if len(symbol.split("/")) != 2 or not all(symbol.split("/")):
                raise ValueError(f"the symbol {symbol!r} is not accepted: write it as BASE/QUOTE, e.g. BTC/USDT")
        if trades_per_minute < 1 or history_per_minute < 1 or minutes < 1 or not 0 <= quiet < 1:
            raise ValueError("trades_per_minute, history_per_minute and minutes begin at 1, quiet lies in [0, 1)")
        made = [_market(symbol) for symbol in symbols]
        return _Generated(
            made, start_ms, start_ms + minutes * MINUTE, seed, trades_per_minute, history_per_minute, quiet
        )

    @staticmethod
    def from_trades(path: str | Path, symbol: str = "BTC/USDT") -> Tape:
        """Recorded trades of one symbol from a CSV file (.gz too) with the columns trade_ms, trade_id, price, qty and
        buyer_is_maker; others are ignored. Ids must rise by one.

        Raises:
            ValueError: a column is missing, a row cannot be read, or ids or times do not rise.
            OSError: the file cannot be read.
        """
        return _Recorded(*_read(Path(path), symbol))

    # -- what a block is; given by the two kinds of tape --

    def _block(self, symbol: str, ts: int) -> Block | None:
        """The block that holds the moment; None: there is no trade then."""
        raise NotImplementedError

    def _bounds(self, ts: int) -> tuple[int, int]:
        """Where the block that holds the moment begins and ends."""
        raise NotImplementedError

    def listed(self, symbol: str) -> int:
        """The moment before which there is nothing."""
        raise NotImplementedError

    def ends(self, symbol: str) -> int | None:
        """The moment from which on there is nothing; None: it goes on for ever."""
        raise NotImplementedError

    def _block_of_id(self, symbol: str, trade_id: int) -> Block | None:
        raise NotImplementedError

    # -- looking at it --

    def blocks(self, symbol: str, start: int, end: int) -> Iterator[Block]:
        """The blocks that touch [start, end), oldest first."""
        moment = max(start, self.listed(symbol))
        last = self.ends(symbol)
        stop = end if last is None else min(end, last)
        while moment < stop:
            block = self._block(symbol, moment)
            if block is not None:
                yield block
            moment = self._bounds(moment)[1]

    def rows(self, symbol: str, start: int, end: int) -> Iterator[TapeTrade]:
        """The trades of [start, end), oldest first."""
        market = self.markets[symbol]
        for block in self.blocks(symbol, start, end):
            yield from _rows(block, block.position(start), block.position(end), market)

    def trades(self, symbol: str, start: int | None = None, end: int | None = None) -> list[TapeTrade]:
        """The trades of [start, end), by default of [start_ms, end_ms): the truth that candles are checked against."""
        first = self.start_ms if start is None else start
        return list(self.rows(symbol, first, self.end_ms if end is None else end))

    def rows_from_id(self, symbol: str, trade_id: int, until: int) -> Iterator[TapeTrade]:
        """The trades from an id on (from the first one there is, where the id is lower) that came before ``until``."""
        block = self._block_of_id(symbol, trade_id)
        if block is None or block.start >= until:
            return
        first = max(trade_id - block.first_id, 0)
        yield from _rows(block, first, block.position(until), self.markets[symbol])
        yield from self.rows(symbol, block.end, until)

    def next_ts(self, symbol: str, after: int, within: int = 14 * DAY) -> int | None:
        """When the first trade later than ``after`` came; None: none within so many milliseconds."""
        for block in self.blocks(symbol, after + 1, after + 1 + within):
            index = block.position(after + 1)
            if index < len(block):
                return int(block.ts[index])
        return None

    def last_before(self, symbol: str, ts: int) -> TapeTrade | None:
        """The newest trade before the moment."""
        listed, moment = self.listed(symbol), ts
        last = self.ends(symbol)
        if last is not None:
            moment = min(moment, last)
        while moment > listed:
            block = self._block(symbol, moment - 1)
            if block is None:
                moment = self._bounds(moment - 1)[0]
                continue
            index = block.position(moment)
            if index:
                return next(_rows(block, index - 1, index, self.markets[symbol]))
            moment = block.start
        return None


def decimal_text(value: int, scale: int) -> str:
    """An integer in units of 10**-scale as plain decimal text, with all its decimals."""
    if scale == 0:
        return str(value)
    sign, digits = ("-", -value) if value < 0 else ("", value)
    text = str(digits).rjust(scale + 1, "0")
    return f"{sign}{text[:-scale]}.{text[-scale:]}"


def trimmed(text: str) -> str:
    """Decimal text without the zeros at its end."""
    return text.rstrip("0").rstrip(".") if "." in text else text


def _rows(block: Block, first: int, last: int, market: Market) -> Iterator[TapeTrade]:
    for index in range(first, last):
        yield TapeTrade(
            block.first_id + index,
            int(block.ts[index]),
            decimal_text(int(block.price[index]), market.price_scale),
            decimal_text(int(block.quantity[index]), market.quantity_scale),
            "buy" if block.bought[index] else "sell",
        )


def _market(symbol: str) -> Market:
    known = KNOWN.get(symbol.partition("/")[0])
    if known is not None:
        return Market(symbol, known.price_scale, known.quantity_scale, known.price)
    spread = zlib.crc32(symbol.encode()) % 1000
    return Market(symbol, 4, 2, round(0.5 * math.exp(spread / 150), 4))


# -- generated ------------------------------------------------------------------------------------


class _Generated(Tape):
    def __init__(
        self,
        markets: Sequence[Market],
        start_ms: int,
        end_ms: int,
        seed: int,
        dense: int,
        history: int,
        quiet: float,
    ) -> None:
        super().__init__(markets, start_ms, end_ms)
        self._seed = seed
        self._trades_hourly = dense * 60  # trades an hour
        self._trades_before = history * 60
        self._quiet = quiet
        self._first_day = min(LISTED, start_ms // DAY * DAY - 400 * DAY)
        self._hours_from = start_ms // DAY * DAY
        self._dense_from = start_ms // HOUR * HOUR
        self._kept: OrderedDict[tuple[str, int], Block] = OrderedDict()
        self._size = 0

    def listed(self, symbol: str) -> int:
        return self._first_day

    def ends(self, symbol: str) -> int | None:
        return None

    def _bounds(self, ts: int) -> tuple[int, int]:
        step = DAY if ts < self._hours_from else HOUR
        start = ts // step * step
        return start, start + step

    def _first_id(self, ts: int) -> int:
        """The id of the first trade of the block that begins at the moment."""
        history = max(0, min(ts, self._dense_from) - self._first_day) // HOUR * self._trades_before
        return 1 + history + max(0, ts - self._dense_from) // HOUR * self._trades_hourly

    def _block_of_id(self, symbol: str, trade_id: int) -> Block | None:
        number = max(trade_id, 1) - 1
        history = self._first_id(self._dense_from) - 1
        if number < history:
            return self._block(symbol, self._first_day + number // self._trades_before * HOUR)
        return self._block(symbol, self._dense_from + (number - history) // self._trades_hourly * HOUR)

    def _block(self, symbol: str, ts: int) -> Block | None:
        start, end = self._bounds(ts)
        key = (symbol, start)
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            return found
        made = self._make(self.markets[symbol], start, end)
        self._kept[key] = made
        self._size += len(made)
        while self._size > KEPT_TRADES and len(self._kept) > 1:
            self._size -= len(self._kept.popitem(last=False)[1])
        return made

    def _make(self, market: Market, start: int, end: int) -> Block:
        number = zlib.crc32(market.symbol.encode())
        source = np.random.Generator(np.random.PCG64([self._seed, number, start // HOUR, end - start]))
        hourly = self._trades_before if start < self._dense_from else self._trades_hourly
        count = hourly * ((end - start) // HOUR)
        ts, leader = self._times(source, start, end, count)
        # a random walk, bent so that it ends where the next block begins
        steps = source.standard_normal(count) * 0.0004 / math.sqrt(max(hourly / 60, 1))
        walk = np.cumsum(steps)
        share = (ts - start) / (end - start)
        here, there = self._anchor(market, start), self._anchor(market, end)
        level = np.exp(math.log(here) + walk - share * walk[-1] + share * math.log(there / here))
        price = np.maximum(np.rint(level * 10**market.price_scale), 1).astype(np.int64)[leader]
        unit = 10**market.quantity_scale
        typical = 2_000 / market.price  # in base currency
        drawn = np.exp(source.standard_normal(count) * 1.5) * typical * unit
        quantity = np.maximum(np.rint(np.minimum(drawn, 1e9)), 1).astype(np.int64)
        bought = (source.random(count) < 0.5)[leader]
        return Block(start, end, self._first_id(start), ts, price, quantity, bought)

    def _times(
        self, source: np.random.Generator, start: int, end: int, count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Moments of trades: some minutes have none, some have a burst, and some trades share a millisecond, as the
        fills of one order do; for each the index of the first of its order."""
        minutes = (end - start) // MINUTE
        weight = np.exp(source.standard_normal(minutes) * 0.7)
        weight[source.random(minutes) < self._quiet] = 0.0
        if not weight.any():
            weight[0] = 1.0
        minute = source.choice(minutes, count, p=weight / weight.sum())
        inside = source.integers(0, MINUTE, count)
        burst = source.random(count) < 0.05  # 5 of 100 come in the same half second of their minute
        inside[burst] = 30_000 + inside[burst] % 500
        ts = np.sort(start + minute.astype(np.int64) * MINUTE + inside)
        joined = source.random(count) < 0.1
        joined[0] = False
        joined[1:] &= (ts[1:] - ts[:-1]) < 1_000
        leader = np.maximum.accumulate(np.where(joined, 0, np.arange(count)))
        return ts[leader], leader

    def _anchor(self, market: Market, ts: int) -> float:
        """The price at a block's edge: a few slow waves, so that blocks need not know each other."""
        days = (ts - self._first_day) / DAY
        phase = (zlib.crc32(f"{self._seed}:{market.symbol}".encode()) % 10_000) / 1_000
        waves = (0.25, 190.0), (0.08, 23.0), (0.02, 3.1), (0.006, 0.37)
        moved = sum(
            size * math.sin(2 * math.pi * days / length + phase * (k + 1)) for k, (size, length) in enumerate(waves)
        )
        return market.price * math.exp(moved)


# -- recorded -------------------------------------------------------------------------------------


class _Recorded(Tape):
    def __init__(self, market: Market, block: Block) -> None:
        super().__init__([market], int(block.ts[0]) // MINUTE * MINUTE, (int(block.ts[-1]) // MINUTE + 1) * MINUTE)
        self._only = block

    def listed(self, symbol: str) -> int:
        return self._only.start

    def ends(self, symbol: str) -> int | None:
        return self._only.end

    def _bounds(self, ts: int) -> tuple[int, int]:
        return self._only.start, self._only.end

    def _block(self, symbol: str, ts: int) -> Block | None:
        return self._only if self._only.start <= ts < self._only.end else None

    def _block_of_id(self, symbol: str, trade_id: int) -> Block | None:
        return self._only


def _read(path: Path, symbol: str) -> tuple[Market, Block]:
    ids, times, prices, quantities, makers = [], [], [], [], []
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
        rows = csv.DictReader(file)
        for column in ("trade_ms", "trade_id", "price", "qty", "buyer_is_maker"):
            if column not in (rows.fieldnames or ()):
                raise ValueError(f"{path}: the column {column!r} is missing")
        for row in rows:
            try:
                ids.append(int(row["trade_id"]))
                times.append(int(row["trade_ms"]))
                prices.append(Decimal(trimmed(row["price"])))
                quantities.append(Decimal(trimmed(row["qty"])))
                makers.append(row["buyer_is_maker"] in ("1", "true", "True"))
            except (TypeError, ValueError, ArithmeticError) as error:
                raise ValueError(f"{path}, line {rows.line_num}: {error}") from error
    if not ids:
        raise ValueError(f"{path} holds no trade")
    if ids != list(range(ids[0], ids[0] + len(ids))):
        raise ValueError(f"{path}: trade ids do not rise by one")
    if times != sorted(times):
        raise ValueError(f"{path}: times go back")
    price_scale, quantity_scale = _scale(prices), _scale(quantities)
    price = [int(value.scaleb(price_scale)) for value in prices]
    quantity = [int(value.scaleb(quantity_scale)) for value in quantities]
    fits = max(price) * sum(quantity) < LARGEST
    kind: Any = np.int64 if fits else object
    start = times[0] // HOUR * HOUR  # whole hours, so that candles up to an hour do not cross a block's edge
    end = (times[-1] // HOUR + 1) * HOUR
    market = Market(symbol, price_scale, quantity_scale, float(prices[0]))
    return market, Block(
        start,
        end,
        ids[0],
        np.array(times, np.int64),
        np.array(price, kind),
        np.array(quantity, kind),
        ~np.array(makers, np.bool_),
    )


def _scale(values: list[Decimal]) -> int:
    return max(0, *(-int(value.as_tuple().exponent) for value in values))
