"""The streams that market data stands in, from what a caller says of it."""

from __future__ import annotations

from streammachine.errors import MarketError, StreamMachineError
from streammachine.market.exchanges.registry import ENTRIES


def candles_stream(exchange: str, symbol: str, timeframe: str) -> str:
    """The stream of an exchange's candles: ``kline:binance:BTCUSDT:1m``."""
    return f"kline:{exchange}:{exchange_symbol(exchange, symbol)}:{timeframe}"


def trades_stream(exchange: str, symbol: str) -> str:
    """The stream of an exchange's trades: ``trades:binance:BTCUSDT``."""
    return f"trades:{exchange}:{exchange_symbol(exchange, symbol)}"


def exchange_symbol(exchange: str, symbol: str) -> str:
    """The symbol as the exchange writes it; of an exchange that is none of ours, as it was given.

    Raises:
        MarketError: no kind of market of the exchange takes it; the text says what it takes.
    """
    entry = ENTRIES.get(exchange)
    if entry is None:
        return symbol
    from streammachine.market.exchanges.lookup import adapter_for

    refused: StreamMachineError | None = None
    for market in entry.market_types:
        try:
            return adapter_for(exchange, market).check_symbol(symbol)
        except MarketError as error:
            refused = refused or error
    assert refused is not None
    raise refused
