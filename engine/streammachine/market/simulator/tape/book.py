"""The best bid and ask that a simulated market shows: the tape has trades only, so each trade makes them.

A buyer's trade was at the ask, a seller's at the bid; the other side stands a ten-thousandth away. Sizes are made of
the trade's id, so the same tape has the same book on every exchange and in every run.
"""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from streammachine.market.simulator.tape.tape import TapeTrade, trimmed

SPREAD = Decimal("0.0001")


class Book(NamedTuple):
    """The best bid and ask behind a trade, as decimal texts; sizes in the base currency."""

    bid: str
    bid_size: str
    ask: str
    ask_size: str
    ts: int
    id: int


def book_behind(trade: TapeTrade) -> Book:
    """The book that a trade leaves."""
    price = Decimal(trade.price)
    step = Decimal(1).scaleb(-len(trade.price.partition(".")[2]))
    away = max(step, (price * SPREAD).quantize(step))
    bid, ask = (price - away, price) if trade.side == "buy" else (price, price + away)
    sizes = (Decimal(trade.id % 97 + 1) / 8, Decimal(trade.id % 89 + 1) / 8)
    first, second, third, fourth = (trimmed(f"{value:f}") for value in (bid, sizes[0], ask, sizes[1]))
    return Book(first, second, third, fourth, trade.ts, trade.id)
