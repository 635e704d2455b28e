# /// script
# dependencies = ["pydantic-ai-slim[mcp]==2.68.0"]
# ///
"""pydantic-ai: its toolset, over the FastMCP client that it brings."""

import asyncio
import json
import os
import sys
from typing import Any

from fastmcp.client.transports import StdioTransport
from pydantic_ai.mcp import MCPToolset


async def main() -> None:
    server: MCPToolset[None] = MCPToolset(StdioTransport(sys.argv[1], sys.argv[2:], env=dict(os.environ)))
    async with server:
        tools = [tool.name for tool in await server.list_tools()]

        async def call(tool: str, **arguments: Any) -> Any:
            return await server.direct_call_tool(tool, arguments)

        await call("stream_send", stream="peer", message={"price": "1.5"})
        await call("storage_write", key="peer", value='{"a": 1}')
        await call("ohlc_create", name="peer", intervals=[60000])
        accepted = await call("ohlc_update", name="peer", symbol="A", price=1.0, volume=1.0)
        read = await call("stream_read", stream="peer")
        value = await call("storage_read", key="peer")
        chart = await call("candles_chart", name="peer", symbol="A", interval=60000)
    print(
        json.dumps(
            {
                "tools": sorted(tools),
                "read": read["messages"][0]["data"],
                "accepted": accepted["accepted"],
                "value": value["value"],
                "chart": chart[1].media_type if isinstance(chart, list) else sorted(chart),
            }
        )
    )


asyncio.run(main())
