"""Tools that a program takes out of its server are out for calls, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastmcp import Client, FastMCP

from streammachine.settings import Settings
from streammachine_mcp.server import create_server

pytestmark = pytest.mark.anyio

WAYS: dict[str, Callable[[FastMCP[Any]], None]] = {
    "removed": lambda server: server.local_provider.remove_tool("explain"),
    "disabled": lambda server: server.disable(names={"explain"}) and None,
    "disabled at its provider": lambda server: server.local_provider.disable(names={"explain"}) and None,
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_tool_that_is_taken_out_is_not_called(way: str) -> None:
    server = create_server(Settings(embedded="never"))
    WAYS[way](server)
    async with Client[Any](server) as client:
        found = await client.call_tool("explain", {}, raise_on_error=False)
    assert found.is_error
    assert "There is no tool 'explain'" in found.content[0].text
