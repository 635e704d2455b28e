"""What a client may subscribe to, and what is pushed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from streammachine.market.model.timeframe import MINUTE
from streammachine.market.simulator.tape.candles import Grid

MINUTES: Final = Grid(MINUTE)


@dataclass(frozen=True)
class StreamTopic:
    """What a stream is of: candles (``timeframe``) or trades of a tape symbol, as a kind of market has them.

    ``name`` is the exchange's own name of the stream, ``native`` its symbol, ``interval`` its timeframe; ``timeframe``
    is ours, and ``grid`` says where those candles begin.
    """

    name: str
    symbol: str
    native: str
    market: str
    timeframe: str | None = None
    grid: Grid = MINUTES
    interval: str = ""
    kind: str = "kline"


@dataclass(frozen=True)
class PushFrame:
    """A frame with data, before it goes to a socket. ``price`` is a price text in it, for the faults that spoil it."""

    topic: StreamTopic
    text: str
    price: str
    closing: bool = False
