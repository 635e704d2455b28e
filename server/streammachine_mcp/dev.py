"""The object that ``mcp dev`` and ``mcp run`` accept.

The ``mcp`` command takes only an ``MCPServer`` of the MCP SDK, not a FastMCP server, so this wraps one. Run it in the
checkout, where the ``uv run`` that it starts finds this project: ``mcp dev server/streammachine_mcp/dev.py:server``.
FastMCP's own command takes the server itself: ``fastmcp dev inspector server/streammachine_mcp/dev.py:mcp``.
"""

from __future__ import annotations

from typing import Any

from mcp.server import MCPServer

from streammachine_mcp.entry import serve_stdio
from streammachine_mcp.server import StreamMachineServer, create_server
from streammachine_mcp.stderr import Pump
from streammachine_mcp.stdio import Wire


class McpCliServer(MCPServer[Any]):
    """A FastMCP server in the shape that the ``mcp`` command checks for."""

    def __init__(self, target: StreamMachineServer) -> None:
        super().__init__(target.name)
        self._target = target

    def run(self, transport: Any = "stdio", **options: Any) -> None:
        """Run the wrapped server; over stdio as ``streammachine-mcp`` does."""
        if transport == "stdio":
            Pump.take()
            serve_stdio(self._target, Wire.take())
            return
        chosen: Any = "http" if transport == "streamable-http" else transport
        self._target.run(transport=chosen, show_banner=False, **options)


mcp = create_server()
server = McpCliServer(mcp)
