"""The view of alerts: what they wait for, what they told, and creating and deleting one."""

from __future__ import annotations

from typing import Any

from streammachine.dashboard.board import PAGE, Dashboard, cut, matching
from streammachine.errors import SettingsError
from streammachine.masking import mask_url
from streammachine.redis import streams
from streammachine.runtime.alerts.alert import (
    FIRED,
    Alert,
    AlertState,
    alert_states,
    all_alerts,
    create_alert,
    delete_alert,
    is_evaluated,
)

TEXTS = ("name", "source", "condition", "on", "stream", "webhook")


async def alerts_view(board: Dashboard, query: dict[str, str]) -> dict[str, Any]:
    """All alerts with their states, and what they told last, the newest first."""
    connection = await board.connection()
    alerts, states = await all_alerts(connection), await alert_states(connection)
    rows = []
    for name in matching(list(alerts), query)[: 2 * PAGE]:
        alert, state = alerts[name], states.get(name, AlertState())
        rows.append(
            {
                "name": name,
                "source": cut(alert.source),
                "condition": cut(alert.condition),
                "on": alert.on,
                "holds": state.holds,
                "fired": state.fired,
                "last": state.last_ms or None,
                "webhook": cut(mask_url(alert.webhook)) if alert.webhook else "",
                "stream": cut(alert.stream),
                "problem": cut(state.problem),
            }
        )
    told = await streams.read_newest(connection, FIRED, PAGE // 2)
    fired = [
        {
            "id": entry.id,
            "name": cut(entry.data.get("alert", ""), 80),
            "condition": cut(entry.data.get("condition", "")),
            "source": cut(entry.data.get("source", "")),
            "price": cut(entry.data.get("price", ""), 40),
            "ts": int(when) if (when := entry.data.get("ts", "")).isdigit() and len(when) < 16 else None,
        }
        for entry in reversed(told)
    ]
    evaluated = await is_evaluated(connection)
    names = [name for name in await board.names.get() if "kline:" in name or "trades:" in name]
    sources = [name for name in names if ":archive:" not in name][:100]
    return {
        "total": len(alerts), "first": 0, "rows": rows, "fired": fired, "evaluated": evaluated, "sources": sources,
    }  # fmt: skip


async def create(board: Dashboard, given: dict[str, Any]) -> str:
    """Create an alert of what the form says."""
    texts = {name: str(given.get(name) or "").strip()[:2000] for name in TEXTS}
    try:
        cooldown = float(given.get("cooldown_s") or 0)
    except (TypeError, ValueError):
        raise SettingsError("The pause between two firings is a number of seconds.") from None
    alert = Alert(
        name=texts["name"], source=texts["source"], condition=texts["condition"], cooldown_s=cooldown,
        on=texts["on"] or "closed", stream=texts["stream"], webhook=texts["webhook"],  # type: ignore[arg-type]
    )  # fmt: skip
    _, state, created = await create_alert(await board.connection(), alert)
    if not created:
        return f"{alert.name} was there already."
    return f"{alert.name} waits." + (
        " Its condition holds already: it fires when that becomes true again." if state.holds else ""
    )


async def delete(board: Dashboard, given: dict[str, Any]) -> str:
    """Delete an alert; what it told stays."""
    name = str(given.get("name", ""))
    if not await delete_alert(await board.connection(), name):
        raise SettingsError(f"There is no alert {cut(name, 80)!r}.")
    return f"{name} is deleted."
