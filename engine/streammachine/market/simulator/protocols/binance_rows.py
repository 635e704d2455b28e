"""Binance's rows: candles as arrays, contract names."""

from __future__ import annotations

from decimal import Decimal

from streammachine.market.simulator.tape.candles import Bar
from streammachine.market.simulator.tape.tape import Market, decimal_text, trimmed

CONTRACT = {"BTC": 100}  # US dollars a COIN-M contract; 10 for all others


def kline_row(market: str, bar: Bar) -> list[object]:
    """A candle as a row of REST and of the bulk files; times in milliseconds."""
    row = amounts(market, bar)
    return [bar.start, *row[:5], bar.end - 1, row[5], bar.count, row[6], row[7], "0"]


def amounts(market: str, bar: Bar) -> tuple[str, ...]:
    """o, h, l, c, v, q, V, Q. COIN-M counts contracts in v and V, the base currency in q and Q."""
    prices = tuple(padded(market, bar.price_text(value)) for value in (bar.open, bar.high, bar.low, bar.close))
    if market != "COINM":
        sizes = bar.volume_text(), bar.quote_text(), bar.volume_text(bar.bought), bar.quote_text(bar.bought_quote)
        return (*prices, *(padded(market, text) for text in sizes))
    size = CONTRACT.get(bar.market.base, 10)
    return (
        *prices,
        _contracts(bar.market, bar.quote, size),
        bar.volume_text(),
        _contracts(bar.market, bar.bought_quote, size),
        bar.volume_text(bar.bought),
    )


def _contracts(market: Market, quote: int, size: int) -> str:
    """What COIN-M counts. (Real contracts are whole; these are not, so that trades and candles agree exactly.)"""
    value = Decimal(decimal_text(quote, market.price_scale + market.quantity_scale)) / size
    return trimmed(f"{value:f}")


def padded(market: str, text: str) -> str:
    """Spot writes eight decimals (more where there are more), futures as many as there are."""
    if market != "SPOT":
        return text
    whole, _, part = text.partition(".")
    return f"{whole}.{part.ljust(8, '0')}"
