# /// script
# dependencies = ["llama-index-tools-mcp==0.6.0"]
# ///
"""LlamaIndex: it makes a pydantic model of each input schema, and sends what is left out as null."""

import asyncio
import json
import os
import sys
from typing import Any

from llama_index.tools.mcp import BasicMCPClient, McpToolSpec


async def main() -> None:
    client = BasicMCPClient(sys.argv[1], args=sys.argv[2:], env=dict(os.environ))
    tools = {tool.metadata.name: tool for tool in await McpToolSpec(client=client).to_tool_list_async()}
    for tool in tools.values():
        tool.metadata.to_openai_tool(skip_length_check=True)

    async def call(tool: str, **arguments: Any) -> dict[str, Any]:
        answer = await tools[tool].acall(**arguments)
        assert not answer.raw_output.is_error, answer.raw_output
        found: dict[str, Any] = answer.raw_output.structured_content
        return found

    await call("stream_send", stream="peer", message={"price": "1.5"})
    await call("storage_write", key="peer", value='{"a": 1}', ttl_s=None, as_json=None)
    await call("ohlc_create", name="peer", intervals=[60000])
    accepted = await call("ohlc_update", name="peer", symbol="A", price=1.0, volume=1.0, timestamp_ms=None, ticks=None)
    read = await call("stream_read", stream="peer", count=1, start=None)
    value = await call("storage_read", key="peer", default=None)
    chart = await tools["candles_chart"].acall(name="peer", symbol="A", interval=60000)
    print(
        json.dumps(
            {
                "tools": sorted(tools),
                "read": read["messages"][0]["data"],
                "accepted": accepted["accepted"],
                "value": value["value"],
                "chart": chart.raw_output.content[1].mime_type,
            }
        )
    )


asyncio.run(main())
