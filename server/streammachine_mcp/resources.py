"""Resources: the configuration in force and the state of Redis and storage, as JSON."""

from __future__ import annotations

import json
from typing import Any

from fastmcp.resources import Resource

from streammachine.errors import StreamMachineError
from streammachine_mcp.page import candles_resource
from streammachine_mcp.results import fit
from streammachine_mcp.state import ServerState


def resources(state: ServerState) -> list[Resource]:
    """``streammachine://config``, ``streammachine://status`` and the interactive chart."""

    def config() -> str:
        return _json(state.settings.describe())

    async def status() -> str:
        return _json(await _status(state))

    return [
        Resource.from_function(
            config,
            uri="streammachine://config",
            name="config",
            title="Configuration",
            description="Every setting in force by its environment variable; secrets masked.",
            mime_type="application/json",
        ),
        Resource.from_function(
            status,
            uri="streammachine://status",
            name="status",
            title="Status",
            description="Which Redis is used and why, how it is, and what the shared storage holds.",
            mime_type="application/json",
        ),
        candles_resource(),
    ]


async def _status(state: ServerState) -> dict[str, Any]:
    health = await state.health()
    status: dict[str, Any] = {
        "redis": {"connected": health["redis"] == "connected", "status": health["redis"]},
        "health": health,
        "storage": None,
    }
    if health["redis"] == "connected":
        try:
            keys = await (await state.storage()).keys()
        except StreamMachineError as error:
            status["storage_problem"] = str(error)
        else:
            status["storage"] = {"keys": len(keys), "keys_list": fit(keys[:100], 20_000)[0]}
    return status


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)
