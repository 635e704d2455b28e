"""The seven kinds of events: where each is found, what it takes, what it tells."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from streammachine.redis.streams import Entry
from streammachine_mcp.argument_types import Timeframe
from streammachine_mcp.live.names import candles_stream, exchange_symbol, trades_stream
from streammachine_mcp.live.states import LAG_STREAM, RUNNER_STREAM, lag_step
from streammachine_mcp.results import fit_fields

ALERTS_STREAM = "{sm:alerts}:fired"
VALUE_CHARS = 2000  # shown of one field of a message
MESSAGE_BYTES = 16_000  # shown of one message
_NUMBERS = ("open_ts", "end_ts", "open", "high", "low", "close", "volume", "quote_volume", "n_trades", "vwap")

Text = Annotated[str, Field(min_length=1, max_length=512)]
Exchange = Annotated[Text, BeforeValidator(lambda value: value.strip().lower() if isinstance(value, str) else value)]


class Arguments(BaseModel):
    """What a kind of event takes. ``model_fields`` make its schema."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)  # built when used: the start is quicker

    def stream_name(self) -> str:
        """The stream whose entries the events are made of."""
        raise NotImplementedError

    def event(self, before: Entry | None, entry: Entry) -> dict[str, Any] | None:
        """What an entry tells; None: it is no such event.

        Args:
            before: the entry before it, where the kind compares two.
        """
        raise NotImplementedError

    def cel(self) -> str:
        """A CEL filter over the entry; "" where there is none."""
        return ""


class CandleClosed(Arguments):
    exchange: Exchange
    symbol: Text
    timeframe: Timeframe = "1m"

    def model_post_init(self, _: Any) -> None:
        exchange_symbol(self.exchange, self.symbol)

    def stream_name(self) -> str:
        return candles_stream(self.exchange, self.symbol, self.timeframe)

    def event(self, before: Entry | None, entry: Entry) -> dict[str, Any] | None:
        data = entry.data
        if data.get("is_closed") != "true":
            return None
        candle = {name: number for name in _NUMBERS if (number := _number(data.get(name))) is not None}
        return {
            "exchange": self.exchange,
            "symbol": data.get("symbol", self.symbol),
            "timeframe": self.timeframe,
            **candle,
            "is_complete": data.get("is_complete", "true") == "true",
        }


class PriceCrossed(Arguments):
    exchange: Exchange
    symbol: Text
    price: Annotated[float, Field(gt=0, description="The level")]
    direction: Annotated[Literal["up", "down", "both"], Field(description="Which way")] = "both"
    source: Annotated[Literal["candles", "trades"], Field(description="Closes of candles, or every trade")] = "candles"
    timeframe: Timeframe = "1m"

    def model_post_init(self, _: Any) -> None:
        exchange_symbol(self.exchange, self.symbol)

    def stream_name(self) -> str:
        if self.source == "trades":
            return trades_stream(self.exchange, self.symbol)
        return candles_stream(self.exchange, self.symbol, self.timeframe)

    def event(self, before: Entry | None, entry: Entry) -> dict[str, Any] | None:
        now, then = self._price(entry), self._price(before) if before is not None else None
        if now is None or then is None:
            return None
        up, down = then < self.price <= now, then > self.price >= now
        if not ((up and self.direction != "down") or (down and self.direction != "up")):
            return None
        data = {
            "exchange": self.exchange,
            "symbol": self.symbol,
            "level": self.price,
            "direction": "up" if up else "down",
            "price": now,
            "previous": then,
        }
        moment = _number(entry.data.get("ts", entry.data.get("end_ts")))
        return data if moment is None else {**data, "ts": int(moment)}

    def _price(self, entry: Entry) -> float | int | None:
        return _number(entry.data.get("price" if self.source == "trades" else "close"))


class StreamMessage(Arguments):
    stream: Text
    filter: Annotated[str, Field(description="CEL, e.g. num.price > 100.0 && msg.side == 'buy'", max_length=2000)] = ""

    def stream_name(self) -> str:
        return self.stream

    def event(self, before: Entry | None, entry: Entry) -> dict[str, Any] | None:
        fields = {name: value for name, value in entry.data.items() if not name.startswith("sm-")}
        return {"stream": self.stream, "fields": fit_fields(fields, VALUE_CHARS, MESSAGE_BYTES)[0]}

    def cel(self) -> str:
        return self.filter


class DeadLetterAdded(Arguments):
    stream: Annotated[Text, Field(description="The stream whose messages fail")]
    group: Annotated[str, Field(description="Of this group only")] = ""

    def stream_name(self) -> str:
        from streammachine.runtime.delivery.keys import dead_letters

        return dead_letters(self.stream)

    def event(self, before: Entry | None, entry: Entry) -> dict[str, Any] | None:
        data = entry.data
        if self.group and data.get("sm-group") != self.group:
            return None
        fields = {name: value for name, value in data.items() if not name.startswith("sm-")}
        told = {
            name: data[f"sm-{name}"][:1000] for name in ("group", "reason", "attempts", "error") if f"sm-{name}" in data
        }
        return {"stream": self.stream, **told, "fields": fit_fields(fields, VALUE_CHARS, MESSAGE_BYTES)[0]}


class AgentLag(Arguments):
    agent: Annotated[str, Field(description="Of this agent only")] = ""
    above: Annotated[
        int,
        Field(description="Messages behind; taken as the next of 1, 2, 5, 10, 20, 50 ...", ge=1),
        AfterValidator(lag_step),
    ] = 1000

    def stream_name(self) -> str:
        return LAG_STREAM

    def event(self, before: Entry | None, entry: Entry) -> dict[str, Any] | None:
        data = entry.data
        lag, then = _number(data.get("lag")), _number(data.get("previous"))
        if lag is None or then is None or not then < self.above <= lag or self.agent not in ("", data.get("name")):
            return None
        named = {name: data.get(name, "") for name in ("name", "stream", "group")}
        return {**named, "lag": lag, "above": self.above}


class RunnerState(Arguments):
    runner: Annotated[str, Field(description="Of this runner only")] = ""
    state: Annotated[str, Field(description="Only into this state: running, failed, lost, ended ...")] = ""

    def stream_name(self) -> str:
        return RUNNER_STREAM

    def event(self, before: Entry | None, entry: Entry) -> dict[str, Any] | None:
        data = entry.data
        if self.runner not in ("", data.get("name")) or self.state not in ("", data.get("state")):
            return None
        return {name: data.get(name, "") for name in ("name", "state", "previous", "problem")}


class AlertFired(Arguments):
    alert: Annotated[str, Field(description="Of this alert only")] = ""

    def stream_name(self) -> str:
        return ALERTS_STREAM

    def event(self, before: Entry | None, entry: Entry) -> dict[str, Any] | None:
        data = entry.data
        if self.alert not in ("", data.get("alert")):
            return None
        return {
            name: number if name != "alert" and (number := _number(value)) is not None else value
            for name, value in data.items()
            if not name.startswith("sm-")
        }


@dataclass(frozen=True)
class Kind:
    """A kind of event.

    Attributes:
        compares: it is made of two entries, one after the other. sampled: its stream is written by looking once a
            second at what Redis holds, and only while somebody asks for it.
    """

    name: str
    description: str
    arguments: type[Arguments]
    compares: bool = False
    sampled: ClassVar[tuple[str, ...]] = (LAG_STREAM, RUNNER_STREAM)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("candle.closed", "A candle of a running runner closed.", CandleClosed),
        Kind("price.crossed", "The price crossed a level, up or down.", PriceCrossed, compares=True),
        Kind("stream.message", "A message was added to a stream, and passes the filter.", StreamMessage),
        Kind("dead_letter.added", "A message was given up and became a dead letter.", DeadLetterAdded),
        Kind("agent.lag", "An agent fell behind by more than a number of messages.", AgentLag),
        Kind("runner.state", "A runner changed its state.", RunnerState),
        Kind("alert.fired", "An alert that alert_create made fired.", AlertFired),
    )
}


def _number(text: str | None) -> int | float | None:
    """The number that a field is; None where it is none."""
    if not text or len(text) > 40 or (not text[-1].isdigit() and text[-1] != "."):
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    return int(text) if text.lstrip("+-").isdigit() else number
