# /// script
# dependencies = ["mcp-use==1.7.1"]
# ///
"""mcp-use: its LangChain tools send every argument, those left out as null."""

import asyncio
import json
import os
import sys
from typing import Any

os.environ["MCP_USE_ANONYMIZED_TELEMETRY"] = "false"

from mcp_use import MCPClient
from mcp_use.agents.adapters.langchain_adapter import LangChainAdapter


async def main() -> None:
    server = {"command": sys.argv[1], "args": sys.argv[2:], "env": dict(os.environ)}
    client = MCPClient.from_dict({"mcpServers": {"streammachine": server}})
    try:
        tools = {tool.name: tool for tool in await LangChainAdapter().create_tools(client)}

        async def call(tool: str, **arguments: Any) -> dict[str, Any]:
            found: dict[str, Any] = json.loads(await tools[tool].ainvoke(arguments))
            return found

        await call("stream_send", stream="peer", message={"price": "1.5"})
        await call("storage_write", key="peer", value='{"a": 1}')
        await call("ohlc_create", name="peer", intervals=[60000])
        accepted = await call("ohlc_update", name="peer", symbol="A", price=1.0, volume=1.0)
        read = await call("stream_read", stream="peer")
        value = await call("storage_read", key="peer")
        chart = await tools["candles_chart"].ainvoke({"name": "peer", "symbol": "A", "interval": 60000})
    finally:
        await client.close_all_sessions()
    print(
        json.dumps(
            {
                "tools": sorted(tools),
                "read": read["messages"][0]["data"],
                "accepted": accepted["accepted"],
                "value": value["value"],
                "chart": chart[1]["mime_type"],
            }
        )
    )


asyncio.run(main())
