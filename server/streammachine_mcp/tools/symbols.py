"""What can be traded on an exchange."""

from typing import Annotated, NotRequired

import anyio
from pydantic import Field
from typing_extensions import TypedDict

from streammachine.errors import ExchangeUnavailableError
from streammachine.market.exchanges import registry as exchanges
from streammachine_mcp.argument_types import Exchange
from streammachine_mcp.results import fit
from streammachine_mcp.tools.family import Family, tool

WAIT = 20.0  # seconds for the exchange to tell its list


class ListedSymbol(TypedDict):
    symbol: str
    pair: str
    halted: NotRequired[str]
    contract_size: NotRequired[float]


class ListedSymbols(TypedDict):
    exchange: str
    market_type: str
    symbols: list[ListedSymbol]
    count: int
    truncated: bool


class SymbolTools(Family):
    toolset = "market"

    @tool("symbols_list", "List symbols", reads=True, open_world=True)
    async def symbols(
        self,
        exchange: Exchange,
        query: Annotated[str, Field(description="Part of a name: btc, BTC/USDT", max_length=60)] = "",
        market_type: Annotated[
            str, Field(description=exchanges.markets_text(between_kinds=", ", between_exchanges="; "))
        ] = "SPOT",
        limit: Annotated[int, Field(description="Most symbols", ge=1, le=500)] = 50,
    ) -> ListedSymbols:
        """What can be traded: the exchange's symbol and the common pair; other tools take both. count: all that match;
        halted names a status."""
        from streammachine.market.network.listing import find_symbols

        with anyio.move_on_after(WAIT) as scope:
            found = await find_symbols(exchange, market_type, query)
        if scope.cancelled_caught:
            raise ExchangeUnavailableError(f"{exchange} did not tell its symbols within {WAIT:g} s: try again later")
        rows: list[ListedSymbol] = []
        for one in found[:limit]:
            row: ListedSymbol = {"symbol": one.symbol, "pair": one.pair}
            if one.halted:
                row["halted"] = one.halted
            if one.contract_size is not None:
                row["contract_size"] = one.contract_size
            rows.append(row)
        kept, cut = fit(rows)
        return {
            "exchange": exchange,
            "market_type": market_type.upper(),
            "symbols": kept,
            "count": len(found),
            "truncated": cut or len(found) > limit,
        }
