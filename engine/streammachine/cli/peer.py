"""A real MCP client of our own server, started over stdio as any client would start it."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from streammachine.errors import StreamMachineError

if TYPE_CHECKING:
    from fastmcp import Client


START_DEADLINE = 30.0  # seconds; loading the server's modules takes one on an idle machine
LAST_LINES = 3


@asynccontextmanager
async def open_server(
    env: Mapping[str, str],
    log_file: Path,
    *,
    command: Sequence[str] | None = None,
    mode: Literal["auto", "legacy"] = "auto",
) -> AsyncIterator[Client[Any]]:
    """Start the server with this environment and shake hands; its log goes to ``log_file``.

    Args:
        command: the server's command line; without it, this Python and the server's module.
        mode: "legacy" shakes hands with ``initialize``, as Claude Desktop does.

    Raises:
        StreamMachineError: it did not start or did not answer; with the last lines of its log.
    """
    from fastmcp import Client
    from fastmcp.client.transports import StdioTransport

    program, *arguments = command or (sys.executable, "-m", "streammachine.mcp_server")
    transport = StdioTransport(
        command=program, args=list(arguments), env=dict(env), keep_alive=False, log_file=log_file
    )
    client = Client(transport, mode=mode, init_timeout=START_DEADLINE)
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(client)
        except Exception as error:
            raise StreamMachineError(f"The MCP server did not start: {error}.{_last_lines(log_file)}") from error
        yield client


def _last_lines(log_file: Path) -> str:
    lines = log_file.read_text(errors="replace").strip().splitlines() if log_file.exists() else []
    return f" Its last lines: {' | '.join(line.strip() for line in lines[-LAST_LINES:])}" if lines else ""


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
        StreamMachineError: with the text of the tool's error, or because the server is gone.
    """
    return dict((await _result(client, tool, arguments)).structured_content or {})


async def call_for_picture(client: Client[Any], tool: str, **arguments: Any) -> tuple[dict[str, Any], bytes | None]:
    """Call a tool; its structured result, and the first picture in its content.

    Raises:
        StreamMachineError: as ``call``.
    """
    result = await _result(client, tool, arguments)
    pictures = [part.data for part in result.content if part.type == "image"]
    return dict(result.structured_content or {}), base64.b64decode(pictures[0]) if pictures else None


async def _result(client: Client[Any], tool: str, arguments: dict[str, Any]) -> Any:
    from mcp import MCPError

    try:
        result = await client.call_tool(tool, arguments, raise_on_error=False)
    except (MCPError, RuntimeError) as error:
        raise StreamMachineError(f"{tool} failed: the MCP server gave no answer ({error}).") from error
    if result.is_error:
        text = " ".join(getattr(part, "text", "") for part in result.content)
        raise StreamMachineError(f"{tool} failed: {text}")
    return result
