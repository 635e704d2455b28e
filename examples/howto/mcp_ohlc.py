"""The MCP server, called by a client: an aggregator, ticks into it, candles out of it."""

import asyncio
import os
import sys

from fastmcp import Client
from fastmcp.client.transports import StdioTransport

server = StdioTransport(sys.executable, ["-m", "streammachine.mcp_server"], env=dict(os.environ))
START = 1_753_000_020_000


async def main():
    async with Client(server) as client:

        async def call(tool, **arguments):
            return (await client.call_tool(tool, arguments)).structured_content

        await call("ohlc_create", name="gold", intervals=["1m", "5m"])
        ticks = [
            {"symbol": "XAU", "price": 2000 + n, "volume": 1, "timestamp_ms": START + n * 15_000} for n in range(9)
        ]
        await call("ohlc_update", name="gold", ticks=ticks)
        series = {"name": "gold", "symbol": "XAU", "interval_ms": "1m"}
        print("closes:", (await call("ohlc_get_candles", **series))["columns"]["close"])
        print("flushed:", (await call("ohlc_flush", **series))["flushed"])
        print("ticks:", (await call("ohlc_stats", name="gold"))["tick_count"])


asyncio.run(main())
