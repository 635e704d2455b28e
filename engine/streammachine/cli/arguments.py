"""The groups of commands, and the arguments that several take; what they accept comes from the registries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Group, Parameter
from cyclopts.validators import Number

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


@Parameter(name="*")  # its fields are arguments of the command, without a prefix
@dataclass(frozen=True, kw_only=True)
class StreamArguments:
    """What `stream` and `record` both take.

    Parameters
    ----------
    timeframe
        Of the candles (default 1m); with --type trade none means the trades themselves; of quotes there is none.
    aggregate
        Higher timeframes to build too, separated by commas: 5m,15m.
    type
        kline, trade or quote (the best bid and ask).
    every
        Of quotes: at most one of a symbol in so long, e.g. 100ms.
    simulated
        From a simulated exchange in this process, which needs no network.
    speed
        With --simulated: market seconds per second (default 60).
    candles
        End after so many closed candles.
    seconds
        End after so long.
    json
        One JSON object a line for each closed candle, trade or quote as it comes, then one of how it ended.
    """

    timeframe: str | None = None
    aggregate: Commas = None
    to: Sinks = None
    type: str = "kline"
    every: str | None = None
    market: Market = "SPOT"
    simulated: Annotated[bool, Parameter(negative="")] = False
    speed: Annotated[float | None, Parameter(validator=Number(gt=0))] = None
    candles: Annotated[int | None, Parameter(validator=Number(gte=1))] = None
    seconds: Annotated[float | None, Parameter(validator=Number(gt=0))] = None
    json: Annotated[bool, Parameter(negative="")] = False

    @property
    def base(self) -> str | None:
        """The timeframe, where none was given that of the kind of rows."""
        given = self.timeframe is not None or self.type.startswith(("trade", "quote"))
        return self.timeframe if given else "1m"
