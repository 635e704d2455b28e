# /// script
# dependencies = ["openai-agents==0.24.0"]
# ///
"""openai-agents: it makes the schemas strict and calls with JSON text."""

import asyncio
import json
import os
import sys
from typing import Any

from agents import Agent, RunContextWrapper
from agents.mcp import MCPServerStdio, MCPUtil


async def main() -> None:
    parameters = {"command": sys.argv[1], "args": sys.argv[2:], "env": dict(os.environ)}
    async with MCPServerStdio(params=parameters, client_session_timeout_seconds=60) as server:  # type: ignore[arg-type]
        agent = Agent(name="peer")
        strict = await MCPUtil.get_function_tools(server, True, RunContextWrapper(None), agent)
        tools = [tool.name for tool in strict]

        async def call(tool: str, **arguments: Any) -> Any:
            result = await server.call_tool(tool, arguments)
            assert not result.is_error, result
            return result

        await call("stream_send", stream="peer", message={"price": "1.5"})
        await call("storage_write", key="peer", value='{"a": 1}', ttl_s=None, as_json=None)
        await call("ohlc_create", name="peer", intervals=None)
        accepted = await call("ohlc_update", name="peer", symbol="A", price=1.0, volume=1.0, ticks=None)
        read = await call("stream_read", stream="peer", count=None, start=None)
        value = await call("storage_read", key="peer", default=None)
        chart = await call("candles_chart", name="peer", symbol="A", interval=60000)
    print(
        json.dumps(
            {
                "tools": sorted(tools),
                "read": read.structured_content["messages"][0]["data"],
                "accepted": accepted.structured_content["accepted"],
                "value": value.structured_content["value"],
                "chart": chart.content[1].mime_type,
            }
        )
    )


asyncio.run(main())
