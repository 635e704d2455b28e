# /// script
# dependencies = ["mcp==2.3.0", "fastmcp==4.2.3"]
# ///
"""The clients of mcp 2 and of FastMCP, each in both eras; both check every result against its schema."""

import asyncio
import json
import os
import sys
from typing import Any

from fastmcp import Client as FastClient
from fastmcp.client.transports import StdioTransport
from mcp import StdioServerParameters
from mcp.client.client import Client


async def walk(client: Any) -> dict[str, Any]:
    listed = await client.list_tools()

    async def call(tool: str, **arguments: Any) -> Any:
        result = await client.call_tool(tool, arguments)
        assert not result.is_error, result
        return result

    await call("stream_send", stream="peer", message={"price": "1.5"})
    await call("storage_write", key="peer", value='{"a": 1}')
    await call("ohlc_create", name="peer", intervals=[60000])
    accepted = await call("ohlc_update", name="peer", symbol="A", price=1.0, volume=1.0)
    read = await call("stream_read", stream="peer")
    value = await call("storage_read", key="peer")
    chart = await call("candles_chart", name="peer", symbol="A", interval=60000)
    return {
        "tools": sorted(tool.name for tool in getattr(listed, "tools", listed)),
        "read": read.structured_content["messages"][0]["data"],
        "accepted": accepted.structured_content["accepted"],
        "value": value.structured_content["value"],
        "chart": chart.content[1].mime_type,
    }


async def main() -> None:
    command, *arguments = sys.argv[1:]
    found = []
    for mode in ("legacy", "2026-07-28"):
        server = StdioServerParameters(command=command, args=arguments, env=dict(os.environ))
        async with Client(server, mode=mode) as client:  # type: ignore[arg-type]
            found.append(await walk(client))
        transport = StdioTransport(command, arguments, env=dict(os.environ), keep_alive=False)
        async with FastClient(transport, mode=mode) as fast:  # type: ignore[arg-type]
            found.append(await walk(fast))
    assert all(one == found[0] for one in found), found
    print(json.dumps(found[0]))


asyncio.run(main())
