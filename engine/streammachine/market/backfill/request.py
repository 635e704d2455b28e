"""What is asked of a backfill: whether it is accepted, its pair, and the name of its file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streammachine.errors import DataInputError, ExchangeError, SymbolError
from streammachine.market.network import rest_queries

if TYPE_CHECKING:
    from streammachine.market.exchanges.base import Adapter
    from streammachine.market.model.timespan import Timespan
    from streammachine.market.network.rest_client import RestClient


def check(adapter: Adapter, symbol: object, data_type: object, parallel: int | None) -> None:
    """Refuse what no backfill can be made of.

    Raises:
        DataInputError: something of it is not accepted.
    """
    if str(data_type).lower() not in ("kline", "klines", "candle", "candles", "ohlc", "ohlcv"):
        raise DataInputError(f"data_type={data_type!r} is not accepted: backfills are of klines")
    if not isinstance(symbol, str) or not symbol.strip():
        raise DataInputError(f"symbol={symbol!r} is not accepted: give one, e.g. {adapter.symbol_example!r}")
    if parallel is not None and parallel < 1:
        raise DataInputError(f"parallel={parallel} is not accepted: give 1 or more")


def file_name(adapter: Adapter, symbol: str, timeframe: str, span: Timespan) -> str:
    """The name of the CSV of a backfill that has no other sink."""
    written = symbol.replace("/", "").replace(":", "")
    is_told = len(adapter.entry.market_types) == 1 or adapter.entry.symbols_tell_market
    kind = "" if is_told else f"-{adapter.market_type}"
    return f"{adapter.source.title()}-{written}{kind}-{timeframe}-{span.label}.csv"


async def find_pair(rest: RestClient, symbol: str, timeframe: str, span: Timespan) -> str | None:
    """The symbol's pair in our spelling; None: it has none, or is no longer traded.

    Raises:
        SymbolError: the exchange has no such symbol, and no candle of it in the range.
    """
    try:
        return (await rest_queries.check_symbols(rest, [symbol])).get(symbol)
    except SymbolError as error:  # one that is no longer traded may have a past
        try:
            first = await rest_queries.first_candle(rest, symbol, timeframe, span.start, span.end)
        except ExchangeError:
            first = None
        if first is None:
            raise error from None
        return None
