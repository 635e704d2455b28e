"""``streammachine symbols``: what can be traded on an exchange, in its spelling and in ours."""

from __future__ import annotations

import sys

import orjson
from rich.console import Console
from rich.table import Table

from streammachine.cli.single_error import single_error
from streammachine.errors import SymbolError
from streammachine.market.network.listing import list_symbols


def run_symbols(exchange: str, query: str, *, market: str, limit: int, json: bool) -> int:
    """Print those that the text is in; 0."""
    with single_error():
        found = list_symbols(exchange, market, query)
        if not found:
            raise SymbolError(f"{exchange} lists no {market} symbol with {query!r} in it: give less of it")
    shown = found[:limit]
    if json:
        sys.stdout.buffer.write(orjson.dumps(shown, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        return 0
    table = Table("pair", "symbol", "contract", "status", box=None, pad_edge=False)
    for one in shown:
        size = "" if one.contract_size is None else f"{one.contract_size:g}"
        table.add_row(one.pair, one.symbol, size, one.halted or "traded")
    console = Console(highlight=False)
    console.print(table)
    if len(found) > limit:
        console.print(f"{len(found) - limit} more: give a part of the name, or --limit")
    return 0
