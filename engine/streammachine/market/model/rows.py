"""Rows of a sink, and the series that a row belongs to."""

from __future__ import annotations

from dataclasses import dataclass

from streammachine.market.model.kline import Gap, Kline, Trade
from streammachine.market.model.quote import Quote

Row = Kline | Trade | Gap | Quote


@dataclass(frozen=True, slots=True)
class Lane:
    """Rows that are going to come.

    Attributes:
        timeframe: of the candles; None: trades; "quote": quotes.
        start: epoch ms before which none of them begins, where they are of the past and new to the emitter.
    """

    source: str
    symbol: str
    timeframe: str | None
    start: int | None = None


def named(row: object) -> str:
    """A row in words, for messages."""
    if isinstance(row, Trade):
        return f"the trade {row.trade_id} of {row.symbol}"
    if isinstance(row, Quote):
        return f"the quote of {row.symbol} at {row.ts}"
    if isinstance(row, Gap):
        return f"the gap of {row.symbol} {row.timeframe} at {row.start}"
    if isinstance(row, Kline):
        return f"the {row.timeframe} candle of {row.symbol} at {row.open_ts}"
    return f"the row {str(row)[:200]}"
