"""The server beside which the load is measured: FastMCP with one tool that does nothing, by FastMCP's own ``run``.

``python empty.py`` serves stdio, ``python empty.py PORT`` HTTP.
"""

from __future__ import annotations

import sys

from fastmcp import FastMCP

mcp = FastMCP("empty")


@mcp.tool
async def nothing(number: int) -> dict[str, str]:
    """Do nothing. FastMCP would run a plain function in a thread, which costs more."""
    return {}


# As for ours: the SDK would list the tools before each call over HTTP.
mcp._mcp_server.get_tool_input_schema = {}.get

if __name__ == "__main__":
    if len(sys.argv) > 1:
        mcp.run(transport="http", port=int(sys.argv[1]), show_banner=False, log_level="WARNING")
    else:
        mcp.run(show_banner=False, log_level="WARNING")
