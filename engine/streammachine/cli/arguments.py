"""The groups of commands, and the arguments that several take; what they accept comes from the registries."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Group, Parameter

from streammachine.market.emitters import registry as sinks
from streammachine.market.exchanges import registry as exchanges

# The map that `streammachine` alone shows: the groups in this order.
BEGIN = Group.create_ordered("Begin")
MARKET = Group.create_ordered("Market data")
APPS = Group.create_ordered("Apps and streams")

# A list in one argument, "5m,15m", or in several.
Commas = Annotated[
    list[str] | None,
    Parameter(
        converter=lambda _, tokens: [part for token in tokens for part in token.value.split(",") if part], negative=""
    ),
]
# Arguments that several commands take; what they accept comes from the registries.
Json = Annotated[bool, Parameter(help="One JSON object a line, once, instead of a table.", negative="")]
Exchange = Annotated[str, Parameter(help=f"{exchanges.names_text()}.")]
Exchanges = Annotated[Commas, Parameter(help=f"Which, separated by commas (default: {','.join(exchanges.EXCHANGES)}).")]
Symbols = Annotated[list[str], Parameter(help=f"As the exchange writes them: {exchanges.symbols_text()}.", negative="")]
Market = Annotated[str, Parameter(help=f"{exchanges.markets_text()}.")]
Sinks = Annotated[list[str] | None, Parameter(help=f"A sink, once for each: {sinks.forms_text()}.", negative="")]
EndAndSinks = Annotated[
    list[str] | None,
    Parameter(
        help=f"The last day, a moment, or now (the default), and once for each sink: {sinks.forms_text()}. "
        "Without a sink: a CSV named after the request.",
        negative="",
    ),
]
