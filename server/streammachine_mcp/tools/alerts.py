"""Alert tools: conditions that are watched while nobody asks."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

from pydantic import BeforeValidator, Field
from typing_extensions import TypedDict

from streammachine_mcp.argument_types import Timeframe
from streammachine_mcp.live.names import candles_stream, exchange_symbol, trades_stream
from streammachine_mcp.results import cut_text, fit
from streammachine_mcp.tools.family import Family, tool

if TYPE_CHECKING:  # loaded by the first call that needs it: it would delay the first tools/list
    from streammachine.runtime.alerts.alert import Alert, AlertState

PROBLEM_CHARS = 300

AnyExchange = Annotated[
    str,
    BeforeValidator(lambda value: value.strip().lower() if isinstance(value, str) else value),
    Field(description="Exchange", min_length=1, max_length=64),
]


class AlertCreated(TypedDict):
    name: str
    created: bool
    stream: str
    holds: bool
    hint: NotRequired[str]


class Alerts(TypedDict):
    alerts: list[dict[str, Any]]
    count: int
    evaluated: bool
    truncated: bool
    hint: NotRequired[str]


class AlertDeleted(TypedDict):
    name: str
    deleted: bool


class AlertTools(Family):
    toolset = "live"

    @tool("alert_create", "Create an alert", idempotent=True, open_world=True)
    async def create(
        self,
        symbol: Annotated[str, Field(description="Symbol", min_length=1, max_length=64)],
        condition: Annotated[
            str,
            Field(
                description="close > 50000; cross(close, sma20); rsi14 < 30 && volume > 2 * sma(volume, 20); "
                "prev.close",
                max_length=500,
            ),
        ],
        exchange: AnyExchange = "binance",
        timeframe: Timeframe = "1m",
        on: Annotated[
            Literal["closed", "running", "tick"],
            Field(description="tick: trades"),
        ] = "closed",
        name: Annotated[str | None, Field(description="Of your choice")] = None,
        cooldown_s: Annotated[float, Field(description="Before it fires again", ge=0, le=2_592_000)] = 0,
        stream: Annotated[str | None, Field(description="Also send to this stream")] = None,
        webhook: Annotated[str | None, Field(description="Also post to this https URL")] = None,
    ) -> AlertCreated:
        """Watch a condition over the candles that a runner streams. Fires once each time it becomes true; event_wait
        hears it as alert.fired."""
        from streammachine.runtime.alerts.alert import Alert, create_alert

        native = exchange_symbol(exchange, symbol)
        about = {"exchange": exchange, "symbol": native, **({"timeframe": timeframe} if on != "tick" else {})}
        source = trades_stream(exchange, symbol) if on == "tick" else candles_stream(exchange, symbol, timeframe)
        wanted = Alert(
            name or _name(native, source, condition, on),
            source,
            condition,
            on,
            cooldown_s,
            stream=stream or "",
            webhook=webhook or "",
            about=about,
            reach=_reach(self.state.settings.alert_webhooks) if webhook else "",
        )
        connection = await self.state.redis()
        alert, state, created = await create_alert(connection, wanted)
        self.state.hosting.check_now()
        found: AlertCreated = {"name": alert.name, "created": created, "stream": source, "holds": state.holds}
        if hint := await self._hint(source, state, created=created):
            found["hint"] = hint
        return found

    @tool("alert_list", "List alerts", reads=True)
    async def find(
        self,
        after: Annotated[str | None, Field(description="To go on: the last you got")] = None,
    ) -> Alerts:
        """All alerts: whether each holds now, how often it fired, and when last (epoch ms)."""
        from streammachine.runtime.alerts.alert import AlertState, alert_states, all_alerts, is_evaluated

        connection = await self.state.redis()
        alerts = await all_alerts(connection)
        states = await alert_states(connection)
        rows = [
            _row(alert, states.get(name, AlertState()))
            for name, alert in alerts.items()
            if after is None or name > after
        ]
        kept, cut = fit(rows)
        page: Alerts = {
            "alerts": kept,
            "count": len(alerts),
            "evaluated": await is_evaluated(connection),
            "truncated": cut,
        }
        if cut:
            page["hint"] = "There are more: call again with after=<the last name>."
        elif alerts and not page["evaluated"]:
            page["hint"] = "No server or App evaluates them at the moment; one with the toolset live does."
        return page

    @tool("alert_delete", "Delete an alert", idempotent=True)
    async def delete(
        self, name: Annotated[str, Field(description="As alert_list gives it", min_length=1, max_length=64)]
    ) -> AlertDeleted:
        """Delete an alert. What it told already stays."""
        from streammachine.redis.streams import nearest
        from streammachine.runtime.alerts.alert import AlertNotFoundError, all_alerts, delete_alert

        connection = await self.state.redis()
        if not await delete_alert(connection, name):
            known = await all_alerts(connection)
            raise AlertNotFoundError(f"There is no alert {name!r}.{nearest(name, list(known))}")
        return {"name": name, "deleted": True}

    async def _hint(self, source: str, state: "AlertState", *, created: bool) -> str:
        connection = await self.state.redis()
        if not created:
            return "It was there already."
        if state.holds:
            return "The condition holds already: it fires when it becomes true again."
        if not await connection.command("EXISTS", source, repeatable=True):
            return f"Nothing writes {source!r} yet: runner_start does."
        return ""


def _reach(allowed: Sequence[str] | None) -> str:
    """Where a caller's webhook may go: as the settings say; else, of a caller with a token, to the internet alone."""
    from fastmcp.server.dependencies import get_access_token

    if allowed is not None:
        return ",".join(allowed)
    return "public" if get_access_token() is not None else ""


def _name(symbol: str, source: str, condition: str, on: str) -> str:
    """A name that the same alert gets again."""
    digest = hashlib.blake2b(f"{source} {condition} {on}".encode(), digest_size=4).hexdigest()
    word = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in symbol).strip("-")
    return f"{word[:40] or 'alert'}-{digest}".lower()


def _row(alert: "Alert", state: "AlertState") -> dict[str, Any]:
    from streammachine.runtime.alerts.alert import shown_webhook

    row: dict[str, Any] = {
        "name": alert.name,
        "stream": alert.source,
        "condition": alert.condition,
        "on": alert.on,
        "holds": state.holds,
        "fired": state.fired,
    }
    if state.last_ms:
        row["last_ms"] = state.last_ms
    if alert.cooldown_s:
        row["cooldown_s"] = alert.cooldown_s
    if alert.stream:
        row["output_stream"] = alert.stream
    if alert.webhook:
        row["webhook"] = shown_webhook(alert.webhook)
    if state.problem:
        row["problem"] = cut_text(state.problem, PROBLEM_CHARS)
    return row
