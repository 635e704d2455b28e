"""Trades for the demo: recorded ones from a CSV file, or generated ones from a seed."""

from __future__ import annotations

import csv
import gzip
import random
import zlib
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import NamedTuple

from streammachine.errors import TickError

COLUMNS = ("trade_ms", "trade_id", "price", "qty", "buyer_is_maker")


class DemoTrade(NamedTuple):
    """One trade; price and volume as their source wrote them."""

    symbol: str
    ts: int  # epoch milliseconds
    trade_id: str
    price: str
    volume: str
    side: str  # the taker's: "buy" or "sell"


def generated(count: int, *, seed: int = 20240808, start_ms: int = 1_723_161_000_000) -> Iterator[DemoTrade]:
    """``count`` trades of a random walk at about 60,000, ten a second; the same seed gives the same trades."""
    source = random.Random(seed)
    price, moment = 60_000.0, float(start_ms)
    for number in range(count):
        moment += source.expovariate(10) * 1000
        price = max(1.0, price * (1 + source.gauss(0, 0.00003)))
        volume = max(0.00001, source.lognormvariate(-4.5, 1.5))
        side = "buy" if source.random() < 0.5 else "sell"
        yield DemoTrade("BTCUSDT", int(moment), str(number + 1), f"{price:.2f}", f"{volume:.5f}", side)


def recorded(path: Path, symbol: str = "BTCUSDT") -> Iterator[DemoTrade]:
    """The trades of a CSV file (gzip too) whose header names the columns ``COLUMNS``; others are ignored.

    Raises:
        TickError: the file is missing, lacks a column, or a row cannot be read.
    """
    try:
        with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
            rows = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
            if missing:
                raise TickError(f"{path}: the column {missing[0]!r} is missing. Needed are {', '.join(COLUMNS)}.")
            for row in rows:
                try:
                    yield _trade(symbol, row)
                except (TypeError, ValueError) as error:
                    raise TickError(f"{path}, line {rows.line_num}: {error}.") from error
    except OSError as error:
        raise TickError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        raise TickError(f"{path} cannot be read: {error}.") from error


def _trade(symbol: str, row: dict[str, str | None]) -> DemoTrade:
    """One row's trade; raises ValueError for what no exchange would send."""
    moment, identifier, price, volume, maker = (row[column] for column in COLUMNS)
    if not identifier or moment is None or price is None or volume is None:
        raise ValueError("a column has no value")
    if not (isfinite(float(price)) and float(price) > 0):
        raise ValueError(f"the price {price!r} is not above 0")
    if not (isfinite(float(volume)) and float(volume) >= 0):
        raise ValueError(f"the quantity {volume!r} is below 0 or not finite")
    side = "sell" if maker in ("1", "true", "True") else "buy"
    return DemoTrade(symbol, int(moment), identifier, price, volume, side)
