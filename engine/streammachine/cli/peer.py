"""A real MCP client of our own server, started over stdio as any client would start it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streammachine.errors import StreamMachineError

if TYPE_CHECKING:
    from fastmcp import Client


def server_client(env: Mapping[str, str], log_file: Path) -> Client[Any]:
    """A client that starts the server with this environment; the server's log goes to ``log_file``."""
    from fastmcp import Client
    from fastmcp.client.transports import StdioTransport

    return Client(
        StdioTransport(
            command=sys.executable,
            args=["-m", "streammachine.mcp_server"],
            env=dict(env),
            keep_alive=False,
            log_file=log_file,
        )
    )


def private_environment(data_dir: Path) -> dict[str, str]:
    """This environment without any Redis of the user's, and with an embedded server of its own in ``data_dir``."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("REDIS_", "STREAMMACHINE_")) or name == "STREAMMACHINE_LOG_LEVEL"
    }
    env.update(STREAMMACHINE_EMBEDDED="always", STREAMMACHINE_DATA_DIR=str(data_dir))
    return env


async def call(client: Client[Any], tool: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool; its structured result.

    Raises:
        StreamMachineError: with the text of the tool's error.
    """
    result = await client.call_tool(tool, arguments, raise_on_error=False)
    if result.is_error:
        text = " ".join(getattr(part, "text", "") for part in result.content)
        raise StreamMachineError(f"{tool} failed: {text}")
    return dict(result.structured_content or {})
