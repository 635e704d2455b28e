"""What can be traded on an exchange, in its spelling and in ours."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from streammachine.market.clock.remote_clock import default_clock
from streammachine.market.exchanges.base import Listing
from streammachine.market.exchanges.lookup import adapter_for
from streammachine.market.network.symbols import table_of


def list_symbols(
    exchange: str, market_type: str = "SPOT", query: str = "", *, rest_url: str | None = None
) -> list[Listing]:
    """The markets that an exchange lists: from a table that is kept for a day, else asked for now.

    Args:
        query: a part of a symbol or pair, in any case; by default all.

    Returns:
        ``Listing(symbol, pair, halted, contract_size)``: as the exchange writes it, as we do, its status where it is
        not traded now, and what one contract is worth. Whole names first.

    Raises:
        UnknownExchangeError, DataInputError: there is no such exchange, or it has no such kind of market here.
        ExchangeError, ExchangeUnavailableError: it refuses, or does not answer, and there is no table.
    """

    def listed() -> list[Listing]:
        return asyncio.run(find_symbols(exchange, market_type, query, rest_url=rest_url))

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return listed()
    with ThreadPoolExecutor(1) as thread:  # in a notebook
        return thread.submit(listed).result()


async def find_symbols(
    exchange: str, market_type: str = "SPOT", query: str = "", *, rest_url: str | None = None
) -> list[Listing]:
    """As ``list_symbols``, in a running loop."""
    adapter = adapter_for(exchange, market_type)
    table = await table_of(adapter, adapter.urls(rest_url=rest_url), default_clock())
    return table.search(query)
