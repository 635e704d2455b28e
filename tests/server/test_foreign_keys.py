"""What others wrote into our keys does not stop the tools."""

from __future__ import annotations

from typing import Any

import pytest
from fastmcp import Client

from streammachine.redis.connection import RedisConnection
from streammachine.settings import Settings
from streammachine_mcp.server import create_server

pytestmark = pytest.mark.anyio


async def test_a_storage_key_that_is_no_utf8_is_listed_read_and_cleared(
    redis: RedisConnection, settings: Settings
) -> None:
    await redis.command("HSET", "sm:storage", b"caf\xe9", "1", "ours", '"x"')
    async with Client[Any](create_server(settings)) as client:
        assert (await client.call_tool("storage_keys", {})).structured_content["keys"] == [r"caf\xe9", "ours"]
        read = (await client.call_tool("storage_read", {"key": r"caf\xe9"})).structured_content
        assert (read["value"], read["exists"]) == (1, True)
        cleared = (await client.call_tool("storage_clear", {"confirm": True})).structured_content
        assert (cleared["cleared"], cleared["count"]) == (True, 2)
    assert await redis.command("EXISTS", "sm:storage") == 0


async def test_broken_aggregators_and_journal_entries_do_not_stop_the_others(
    redis: RedisConnection, settings: Settings
) -> None:
    async with Client[Any](create_server(settings)) as client:
        await client.call_tool("ohlc_create", {"name": "good", "intervals": [60_000]})
        await redis.command("SADD", "sm:ohlc", b"\xff", "text", "broken")
        await redis.command("SET", "sm:ohlc:{text}", "no hash")
        await redis.command("HSET", "sm:ohlc:{broken}", "generation", "1", "intervals", "[" * 100_000)
        await redis.command("XADD", "sm:ohlc:{good}:journal", "*", "op", "[" * 100_000)
        listed = (await client.call_tool("ohlc_list", {})).structured_content
        assert listed["aggregators"] == ["good"]
        stats = (await client.call_tool("ohlc_stats", {"name": "good"})).structured_content
        assert stats["tick_count"] == 0
