"""No writing tool writes where StreamMachine keeps its own things."""

from __future__ import annotations

from typing import Any

import pytest
from fastmcp import Client
from fastmcp.exceptions import ToolError

from streammachine.redis.connection import RedisConnection
from streammachine.settings import Settings
from streammachine_mcp.server import create_server

pytestmark = pytest.mark.anyio

OWN = (
    "sm:storage", "sm:agents", "sm:agents:running", "sm:ohlc", "sm:ohlc:{btc}", "sm:ohlc:{btc}:journal", "sm:obj:k",
    "sm:runners", "sm:topics", "{sm:tick:app:tick/1}:running", "sm:anything",
)  # fmt: skip
COMPANIONS = (
    "{s}:retry:g", "{s}:retry:g:due", "{s}:retry:g:mark", "{s}:dedup:key", "{s}:state:g", "a{s}b:retry:g",
    "a{s}b:dlq", "{s}:dlq",
)  # fmt: skip
MESSAGE = {"a": "1"}


def calls(name: str) -> list[tuple[str, dict[str, Any]]]:
    """Every tool that writes to a stream whose name it is given."""
    return [
        ("stream_send", {"stream": name, "message": MESSAGE}),
        ("stream_send_batch", {"stream": name, "messages": [MESSAGE]}),
        ("agent_create", {"name": "a", "stream": "s", "output_stream": name}),
    ]


def calls_that_read(name: str) -> list[tuple[str, dict[str, Any]]]:
    """Those that write beside a stream that they read."""
    return [
        ("agent_create", {"name": "a", "stream": name, "output_stream": "out"}),
        ("dead_letter_redrive", {"stream": name, "all": True}),
        ("dead_letter_purge", {"stream": name, "confirm": True}),
    ]


@pytest.mark.parametrize("name", [*OWN, *COMPANIONS])
async def test_an_own_key_is_refused_by_every_tool_that_writes(
    redis: RedisConnection, settings: Settings, name: str
) -> None:
    await redis.command("XADD", "s", "*", "a", "1")
    async with Client(create_server(settings)) as client:
        wanted = calls(name) + ([] if name.endswith(":dlq") else calls_that_read(name))
        for tool, arguments in wanted:
            with pytest.raises(ToolError, match="StreamMachine's own keys") as refused:
                await client.call_tool(tool, arguments)
            assert repr(name) in str(refused.value)
    assert await redis.command("KEYS", "*") == [b"s"]


@pytest.mark.parametrize("name", ["sms", "SM:x", "my:sm:x", "{a}:dlqs", "a:dlq", "{a}:retry", "kline:x:y:1m", "{a}"])
async def test_a_users_stream_of_a_similar_name_is_taken(redis: RedisConnection, settings: Settings, name: str) -> None:
    async with Client(create_server(settings)) as client:
        for tool, arguments in calls(name):
            await client.call_tool(tool, arguments)
    assert await redis.command("XLEN", name) == 2


async def test_dead_letters_may_be_an_agents_input(redis: RedisConnection, settings: Settings) -> None:
    async with Client(create_server(settings)) as client:
        await client.call_tool("agent_create", {"name": "a", "stream": "{s}:dlq", "output_stream": "out"})
