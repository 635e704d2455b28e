"""Nothing is left out in silence: what is too much for one result is cut with a sign, and the way to go on leads on."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from streammachine import RedisConnection, RedisObjectStorage, Storage
from streammachine.redis.embedded.server import EmbeddedServer
from streammachine.runtime.declared.agents import DeclaredAgent, declare, undeclare
from streammachine.settings import Settings
from support.mcp import RawClient, ToolFailure

BOUND = 100_000  # characters of text that every client takes


@pytest.fixture
def database(shared_server: EmbeddedServer, raw: RawClient) -> redis.Redis:
    """The server's database, emptied by ``raw``."""
    return redis.Redis(unix_socket_path=str(shared_server.socket_path), db=5)


def text_size(raw: RawClient, tool: str, **arguments: Any) -> int:
    return len(raw.request("tools/call", name=tool, arguments=arguments)["content"][0]["text"])


def walk(raw: RawClient, tool: str, part: str, cursor: str, **arguments: Any) -> tuple[list[str], int]:
    """All names of a listing, page after page as its hint says, and how many pages there were."""
    page = raw.call(tool, **arguments)
    seen, pages = list(page[part]), 1
    while page["truncated"]:
        assert f"{cursor}=" in page["hint"]
        page = raw.call(tool, **arguments, **{cursor: seen[-1]})
        seen += page[part]
        pages += 1
    assert "hint" not in page
    return seen, pages


def test_the_cursor_of_an_empty_page_stays_where_it_was_though_time_goes_on(raw: RawClient) -> None:
    raw.call("stream_send", stream="s", message={"n": "0"})
    for start in ("now", "2100-01-01", "-"):
        page = raw.call("stream_read", stream="s", start=start)
        assert not page["next_cursor"].startswith("now")
    cursor = raw.call("stream_read", stream="s", start="now", count=1)["next_cursor"]
    first = raw.call("stream_send", stream="s", message={"n": "1"})["message_id"]
    while raw.call("stream_send", stream="s", message={"n": "2"})["message_id"].split("-")[0] == first.split("-")[0]:
        pass  # the clock has to go on past the first of them
    assert raw.call("stream_read", stream="s", start=cursor)["messages"][0]["data"]["n"] == "1"


def test_a_message_of_very_many_fields_is_bounded_and_says_so(raw: RawClient, database: redis.Redis) -> None:
    database.xadd("many", {f"f{i}": "v" * 900 for i in range(300)})
    data = raw.call("stream_read", stream="many")["messages"][0]
    assert len(data["data"]) == 300  # shorter values, but every field
    assert "fields_left_out" not in data
    database.xadd("more", {f"f{i}": "v" * 900 for i in range(5000)})
    entry = raw.call("stream_read", stream="more")["messages"][0]
    assert len(entry["data"]) + entry["fields_left_out"] == 5000
    info = raw.call("stream_info", stream="more")["first_entry"]
    assert len(info["data"]) + info["fields_left_out"] == 5000
    for tool in ("stream_read", "stream_info"):
        assert text_size(raw, tool, stream="more") < BOUND
    assert text_size(raw, "stream_read", stream="more", max_value_chars=200_000) < 2 * BOUND


def test_a_dead_letter_of_very_many_fields_is_bounded(raw: RawClient, database: redis.Redis) -> None:
    database.xadd("s", {"a": "1"})
    fields = {f"f{i}": "v" * 900 for i in range(5000)}
    database.xadd("{s}:dlq", {**fields, "sm-reason": "x", "sm-traceback": "t" * 500_000})
    letter = raw.call("dead_letter_list", stream="s", traceback=True)["letters"][0]
    assert len(letter["data"]) < 5000
    assert letter["fields_left_out"] > 0
    assert text_size(raw, "dead_letter_list", stream="s", traceback=True) < BOUND


def test_a_long_list_of_streams_is_walked_to_its_end(raw: RawClient, database: redis.Redis) -> None:
    names = sorted([f"s:{i:04}" for i in range(450)])
    for name in names:
        database.xadd(name, {"a": "1"})
    database.xadd("{s:0000}:dlq", {"a": "1"})
    seen, pages = walk(raw, "stream_list", "streams", "after", limit=200)
    assert (seen, pages) == (names, 3)


def test_all_groups_of_a_stream_can_be_seen(raw: RawClient, database: redis.Redis) -> None:
    database.xadd("s", {"a": "1"})
    names = [f"g{i:03}" for i in range(400)]
    for name in reversed(names):
        database.xgroup_create("s", name, "0")
    page = raw.call("stream_info", stream="s")
    assert page["truncated"] is True
    seen = [group["name"] for group in page["groups"]]
    while page["truncated"]:
        assert "groups_after=" in page["hint"]
        page = raw.call("stream_info", stream="s", groups_after=seen[-1])
        seen += [group["name"] for group in page["groups"]]
    assert seen == names


def test_all_aggregators_and_all_symbols_of_one_can_be_seen(raw: RawClient) -> None:
    names = [f"a{i:03}{'n' * 190}" for i in range(160)]
    for name in names:
        raw.call("ohlc_create", name=name)
    seen, pages = walk(raw, "ohlc_list", "aggregators", "after")
    assert seen == names
    assert pages > 1
    assert text_size(raw, "ohlc_list") < BOUND
    symbols = [f"S{i:03}{'x' * 90}" for i in range(500)]
    ticks = [
        {"symbol": symbol, "price": 1, "volume": 1, "timestamp_ms": 1_723_161_600_000} for symbol in reversed(symbols)
    ]
    raw.call("ohlc_update", name=names[0], ticks=ticks)
    stats = raw.call("ohlc_stats", name=names[0])
    assert stats["symbol_count"] == 500
    seen, pages = walk(raw, "ohlc_stats", "symbols", "symbols_after", name=names[0])
    assert seen == symbols
    assert pages > 1


def test_a_symbol_in_a_batch_has_the_bounds_of_a_single_one(raw: RawClient) -> None:
    raw.call("ohlc_create", name="m")
    for symbol in ("", "X" * 201):
        with pytest.raises(ToolFailure, match=r"ticks\.0\.symbol"):
            raw.call("ohlc_update", name="m", ticks=[{"symbol": symbol, "price": 1, "volume": 1}])
    assert raw.call("ohlc_stats", name="m")["tick_count"] == 0


@pytest.mark.anyio
async def test_truncated_says_of_a_value_whether_something_is_left_out(server_env: dict[str, str]) -> None:
    short = datetime.date(2026, 1, 1)  # its JSON is shorter than its pickle
    long = ("a" * 300,) * 700  # and this one's, even cut, is longer
    settings = Settings(redis_url=server_env["REDIS_URL"], data_dir=Path(server_env["STREAMMACHINE_DATA_DIR"]))
    async with RedisConnection(settings=settings) as connection:
        storage, objects = Storage(connection), RedisObjectStorage(connection=connection)
        for name, value in (("short", short), ("long", long)):
            await storage.write(name, value)
            await objects.store_with_pickle(name, value)
    with RawClient(env=server_env) as client:
        for tool in ("storage_read", "obj_get"):
            assert client.call(tool, key="short")["truncated"] is False
            assert client.call(tool, key="long")["truncated"] is True


def test_dead_letters_are_listed_before_any_position_and_redriven_by_their_own_id_alone(
    raw: RawClient, database: redis.Redis
) -> None:
    database.xadd("s", {"a": "1"})
    database.xgroup_create("s", "g", "$")
    for sequence in range(3):
        database.xadd("{s}:dlq", {"n": sequence, "sm-group": "g", "sm-origin-id": "1-1"}, id=f"5-{sequence}")
    first = raw.call("dead_letter_list", stream="s", count=1)
    assert (first["letters"][0]["id"], first["truncated"]) == ("5-2", True)
    for before in ("5-2", "(5-2"):
        page = raw.call("dead_letter_list", stream="s", before=before)
        assert [letter["id"] for letter in page["letters"]] == ["5-1", "5-0"]
    assert raw.call("dead_letter_list", stream="s", before="now")["count"] == 3
    assert raw.call("dead_letter_list", stream="s", before="+")["count"] == 3
    assert raw.call("dead_letter_list", stream="s", before="-")["count"] == 0
    for wrong in ("5", "-", "+", "now", "(5-0"):
        with pytest.raises(ToolFailure, match="id of a dead letter"):
            raw.call("dead_letter_redrive", stream="s", ids=[wrong])
    assert raw.call("dead_letter_list", stream="s")["total"] == 3


@pytest.mark.anyio
async def test_all_agents_can_be_seen(hosting_env: dict[str, str]) -> None:
    names = [f"agent-{i:03}-{'n' * 50}" for i in range(100)]
    settings = Settings(redis_url=hosting_env["REDIS_URL"])
    async with RedisConnection(settings=settings) as connection:
        for name in names:
            await declare(connection, DeclaredAgent(name, "s" * 500, "o"))
        with RawClient("--read-only", env=hosting_env) as client:  # which hosts none of them
            page = client.call("agent_list")
            assert (page["count"], page["truncated"]) == (100, True)
            seen = [row["name"] for row in page["agents"]]
            while page["truncated"]:
                assert "after=" in page["hint"]
                page = client.call("agent_list", after=seen[-1])
                seen += [row["name"] for row in page["agents"]]
        for name in names:
            await undeclare(connection, name)
    assert seen == names
