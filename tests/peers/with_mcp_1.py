# /// script
# dependencies = ["mcp==1.30.0"]
# ///
"""The Python SDK before version 2: protocol 2025-11-25, and every result is checked against its schema."""

import asyncio
import json
import os
import sys
from typing import Any

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client


async def main() -> None:
    server = StdioServerParameters(command=sys.argv[1], args=sys.argv[2:], env=dict(os.environ))
    async with stdio_client(server) as (reads, writes), ClientSession(reads, writes) as session:
        await session.initialize()
        tools = [tool.name for tool in (await session.list_tools()).tools]

        async def call(tool: str, **arguments: Any) -> Any:
            result = await session.call_tool(tool, arguments)
            assert not result.isError, result
            return result

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
                "read": read.structuredContent["messages"][0]["data"],
                "accepted": accepted.structuredContent["accepted"],
                "value": value.structuredContent["value"],
                "chart": chart.content[1].mimeType,
            }
        )
    )


asyncio.run(main())
