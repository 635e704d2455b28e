"""Resources: the configuration in force and the state of Redis and storage, as JSON."""

from __future__ import annotations

import json
from collections.abc import Awaitable
from typing import Any

from fastmcp.exceptions import ResourceError, ToolError
from fastmcp.resources import Resource
from fastmcp.resources.template import ResourceTemplate

from streammachine.errors import StreamMachineError
from streammachine_mcp.live.resources import AGENT_URI, CANDLES_URI, STREAM_URI
from streammachine_mcp.page import candles_resource
from streammachine_mcp.results import fit
from streammachine_mcp.safety import Confirmer
from streammachine_mcp.state import ServerState
from streammachine_mcp.tools.agents import AgentTools
from streammachine_mcp.tools.market import MarketTools
from streammachine_mcp.tools.stream import StreamTools

NEWEST_MESSAGES = 20  # in the resource of a stream
NEWEST_CANDLES = 100  # in the resource of a series of candles


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


def templates(state: ServerState) -> list[ResourceTemplate]:
    """The resources of streams, candles and agents, of the toolsets that are chosen: what the tools show of each."""
    confirmer = Confirmer()
    stream_tools, market_tools, agent_tools = (
        StreamTools(state, confirmer),
        MarketTools(state, confirmer),
        AgentTools(state, confirmer),
    )

    async def stream(name: str) -> str:
        return await _shown(stream_tools.read(stream=name, count=NEWEST_MESSAGES))

    async def candles(exchange: str, symbol: str, timeframe: str) -> str:
        return await _shown(
            market_tools.read(exchange=exchange.lower(), symbol=symbol, timeframe=timeframe, limit=NEWEST_CANDLES)
        )

    async def agent(name: str) -> str:
        return await _shown(agent_tools.stats(name=name))

    made = (
        ("stream", stream, STREAM_URI, "Stream", "The newest messages of a stream."),
        ("market", candles, CANDLES_URI, "Candles", "The newest candles that runners and backfills wrote."),
        ("agent", agent, AGENT_URI, "Agent", "An agent's state, backlog and counters."),
    )
    return [
        ResourceTemplate.from_function(
            function,
            uri_template=uri,
            name=function.__name__,
            title=title,
            description=f"{description} Can be subscribed to.",
            mime_type="application/json",
        )
        for toolset, function, uri, title, description in made
        if toolset in state.settings.toolsets
    ]


async def _shown(result: Awaitable[Any]) -> str:
    try:
        return _json(await result)
    except ToolError as error:
        raise ResourceError(str(error)) from None


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
