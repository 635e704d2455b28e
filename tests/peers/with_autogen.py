# /// script
# dependencies = ["autogen-ext[mcp]==0.7.5", "autogen-agentchat==0.7.5", "mcp<2"]
# ///
"""AutoGen: one tool that it cannot convert and it lists none."""

import asyncio
import json
import os
import sys
from typing import Any

from autogen_core import CancellationToken
from autogen_ext.tools.mcp import StdioServerParams, mcp_server_tools


async def main() -> None:
    server = StdioServerParams(command=sys.argv[1], args=sys.argv[2:], env=dict(os.environ), read_timeout_seconds=60)
    tools = {tool.name: tool for tool in await mcp_server_tools(server)}
    for tool in tools.values():
        assert tool.schema["name"] == tool.name

    async def call(tool: str, **arguments: Any) -> dict[str, Any]:
        answer = await tools[tool].run_json(arguments, CancellationToken())
        found: dict[str, Any] = json.loads(json.loads(tools[tool].return_value_as_string(answer))[0]["text"])
        return found

    await call("stream_send", stream="peer", message={"price": "1.5"})
    await call("storage_write", key="peer", value='{"a": 1}')
    await call("ohlc_create", name="peer", intervals=[60000])
    ticks = [{"symbol": "A", "price": 1.0, "volume": 1.0}]
    accepted = await call("ohlc_update", name="peer", ticks=ticks)
    read = await call("stream_read", stream="peer")
    value = await call("storage_read", key="peer")
    wanted = {"name": "peer", "symbol": "A", "interval": 60000}
    chart = await tools["candles_chart"].run_json(wanted, CancellationToken())
    print(
        json.dumps(
            {
                "tools": sorted(tools),
                "read": read["messages"][0]["data"],
                "accepted": accepted["accepted"],
                "value": value["value"],
                "chart": chart[1].mimeType,
            }
        )
    )


asyncio.run(main())
