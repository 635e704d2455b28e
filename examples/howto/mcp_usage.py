"""The MCP server, called by a client: streams and storage."""

import asyncio
import os
import sys

from fastmcp import Client
from fastmcp.client.transports import StdioTransport

server = StdioTransport(sys.executable, ["-m", "streammachine.mcp_server"], env=dict(os.environ))


async def main():
    async with Client(server) as client:
        sent = await client.call_tool("stream_send", {"stream": "desk:notes", "message": {"text": "hello"}})
        read = await client.call_tool("stream_read", {"stream": "desk:notes", "count": 1})
        assert read.structured_content["messages"][0]["id"] == sent.structured_content["message_id"]
        await client.call_tool("storage_write", {"key": "limits", "value": {"BTCUSDT": 5}})
        value = await client.call_tool("storage_read", {"key": "limits"})
        health = await client.call_tool("health_check", {})
        print(read.structured_content["messages"][0]["data"], value.structured_content["value"])
        print(health.structured_content["status"])


asyncio.run(main())
