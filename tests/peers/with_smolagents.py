# /// script
# dependencies = ["smolagents[mcp]==1.26.0", "mcp<2", "websockets"]
# ///
"""smolagents: it calls tools with every argument, those left out as None, and hands on data but no picture."""

import json
import os
import sys

from mcp import StdioServerParameters
from smolagents import ToolCollection

server = StdioServerParameters(command=sys.argv[1], args=sys.argv[2:], env=dict(os.environ))
with ToolCollection.from_mcp(server, trust_remote_code=True, structured_output=True) as collection:
    tools = {tool.name: tool for tool in collection.tools}
    tools["stream_send"](stream="peer", message={"price": "1.5"})
    tools["storage_write"](key="peer", value='{"a": 1}', ttl_s=None, as_json=None)
    tools["ohlc_create"](name="peer", intervals=None)
    accepted = tools["ohlc_update"](name="peer", symbol="A", price=1.0, volume=1.0, timestamp_ms=None, ticks=None)
    read = tools["stream_read"](stream="peer", count=1, start=None, max_value_chars=None)
    value = tools["storage_read"](key="peer", default=None)
    chart = tools["candles_chart"](name="peer", symbol="A", interval=60000)
    print(
        json.dumps(
            {
                "tools": sorted(tools),
                "read": read["messages"][0]["data"],
                "accepted": accepted["accepted"],
                "value": value["value"],
                "chart": chart["title"],
            }
        )
    )
