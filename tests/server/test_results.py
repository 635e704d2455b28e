"""What the tools give back: in order, bounded in count and bytes, honest about what is left out, and how to go on."""

from __future__ import annotations

import json
import time
from typing import Any, cast

import anyio
import pytest
import redis
from fastmcp.exceptions import ToolError

from streammachine.redis.embedded.server import EmbeddedServer
from streammachine_mcp.prompts import read_skills
from streammachine_mcp.tools.family import Family, tool
from support.mcp import RawClient

START = 1_700_000_040_000
MINUTE = 60_000
BOUND = 100_000  # characters of text that every client takes


def database(server: EmbeddedServer) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(server.socket_path), db=5)


def send(raw: RawClient, stream: str, count: int, size: int = 1) -> list[str]:
    ids: list[str] = []
    for start in range(0, count, 500):
        batch = [{"n": str(i), "pad": "x" * size} for i in range(start, min(start + 500, count))]
        ids += raw.call("stream_send_batch", stream=stream, messages=batch)["message_ids"]
    return ids


def numbers(page: dict[str, Any]) -> list[int]:
    return [int(message["data"]["n"]) for message in page["messages"]]


def text_size(raw: RawClient, tool: str, **arguments: Any) -> int:
    result = raw.request("tools/call", name=tool, arguments=arguments)
    return len(result["content"][0]["text"])


def test_the_newest_messages_come_in_time_order(raw: RawClient) -> None:
    ids = send(raw, "s", 30)
    page = raw.call("stream_read", stream="s")
    assert numbers(page) == list(range(20, 30))
    assert [message["id"] for message in page["messages"]] == ids[20:]
    assert page["truncated"] is True
    assert "older" in page["hint"]
    assert raw.call("stream_read", stream="s", count=30)["truncated"] is False


def test_a_cursor_walks_the_whole_stream_without_gap_or_repeat(raw: RawClient) -> None:
    send(raw, "s", 1234, size=300)
    seen: list[int] = []
    cursor, rounds = "-", 0
    while True:
        page = raw.call("stream_read", stream="s", start=cursor, count=1000)
        seen += numbers(page)
        cursor = page["next_cursor"]
        rounds += 1
        if not page["truncated"]:
            break
    assert seen == list(range(1234))
    assert rounds > 2  # bytes, not only the count, bound a page


def test_an_empty_page_keeps_the_cursor_and_later_messages_follow(raw: RawClient) -> None:
    send(raw, "s", 3)
    cursor = raw.call("stream_read", stream="s")["next_cursor"]
    empty = raw.call("stream_read", stream="s", start=cursor)
    assert (empty["messages"], empty["truncated"]) == ([], False)
    raw.call("stream_send", stream="s", message={"n": "99"})
    assert numbers(raw.call("stream_read", stream="s", start=empty["next_cursor"])) == [99]


def test_start_takes_ids_times_and_relative_times(raw: RawClient) -> None:
    ids = send(raw, "s", 5)
    assert numbers(raw.call("stream_read", stream="s", start=ids[3])) == [3, 4]
    assert numbers(raw.call("stream_read", stream="s", start=ids[0].partition("-")[0], count=2)) == [0, 1]
    assert numbers(raw.call("stream_read", stream="s", start="now-15m")) == [0, 1, 2, 3, 4]
    assert numbers(raw.call("stream_read", stream="s", start="2020-01-01T00:00:00Z")) == [0, 1, 2, 3, 4]
    assert numbers(raw.call("stream_read", stream="s", start="2100-01-01")) == []


def test_a_page_is_bounded_in_bytes_and_its_newest_messages_stay(raw: RawClient) -> None:
    send(raw, "s", 300, size=1000)
    page = raw.call("stream_read", stream="s", count=300)
    assert page["truncated"] is True
    assert numbers(page)[-1] == 299
    assert numbers(page) == list(range(300 - page["count"], 300))
    assert text_size(raw, "stream_read", stream="s", count=300) < BOUND


def test_a_huge_value_is_cut_and_says_so(raw: RawClient, shared_server: EmbeddedServer) -> None:
    with database(shared_server) as client:
        client.xadd("big", {"v": "y" * 5_000_000})
    page = raw.call("stream_read", stream="big")
    assert page["messages"][0]["data"]["v"].endswith("[cut: 5,000,000 characters in all]")
    whole = raw.call("stream_read", stream="big", max_value_chars=10_000)["messages"][0]["data"]["v"]
    assert whole.startswith("y" * 10_000)
    assert text_size(raw, "stream_info", stream="big") < BOUND


def test_the_sent_time_is_kept_out_of_the_shown_fields(raw: RawClient, shared_server: EmbeddedServer) -> None:
    raw.call("stream_send", stream="s", message={"price": "1.5", "n": 2, "ok": True})
    assert raw.call("stream_read", stream="s")["messages"][0]["data"] == {"price": "1.5", "n": "2", "ok": "true"}
    with database(shared_server) as client:
        assert b"sm-sent" in client.xrange("s")[0][1]


def test_streams_are_listed_sorted_without_our_own(raw: RawClient, shared_server: EmbeddedServer) -> None:
    with database(shared_server) as client:
        for name in ("b", "a", "sm:ohlc:{x}:journal", "{a}:dlq", "{a}:retry:g"):
            client.xadd(name, {"f": "v"})
        client.set("text", "x")
    assert raw.call("stream_list") == {"streams": ["a", "b"], "count": 2, "truncated": False}
    assert "{a}:dlq" in raw.call("stream_list", include_internal=True)["streams"]
    page = raw.call("stream_list", limit=1)
    assert (page["streams"], page["truncated"]) == (["a"], True)
    assert raw.call("stream_list", pattern="x*")["streams"] == []


def test_stream_info_shows_groups_with_lag_and_pending(raw: RawClient, shared_server: EmbeddedServer) -> None:
    ids = send(raw, "s", 4)
    with database(shared_server) as client:
        client.xgroup_create("s", "g", "0")
        client.xreadgroup("g", "c", {"s": ">"}, count=3)
    info = raw.call("stream_info", stream="s")
    assert (info["length"], info["last_generated_id"]) == (4, ids[-1])
    assert (info["first_entry"]["id"], info["last_entry"]["id"]) == (ids[0], ids[-1])
    assert info["groups"] == [{"name": "g", "consumers": 1, "pending": 3, "last_delivered_id": ids[2], "lag": 1}]


def test_storage_keys_page_by_the_last_key(raw: RawClient, shared_server: EmbeddedServer) -> None:
    names = sorted(f"key-{i:05}-{'z' * 200}" for i in range(1000))
    with database(shared_server) as client:
        client.hset("sm:storage", mapping=dict.fromkeys(names, "1"))
    page = raw.call("storage_keys")
    assert (page["count"], page["truncated"]) == (1000, True)
    seen = page["keys"]
    while page["truncated"]:
        page = raw.call("storage_keys", after=seen[-1])
        seen += page["keys"]
    assert seen == names


def test_storage_gives_back_any_json_value(raw: RawClient) -> None:
    values: list[Any] = [None, True, 0, -1.5, "é\u0000😀", [], {}, [1, [2, {"a": None}]], {"": {"b": [1e300]}}, 2**62]
    for number, value in enumerate(values):
        assert raw.call("storage_write", key=f"k{number}", value=value) == {"key": f"k{number}", "written": True}
        shown = raw.call("storage_read", key=f"k{number}", default="other")
        assert (shown["value"], shown["exists"]) == (value, True)
    assert raw.call("storage_read", key="none", default={"a": 1}) == {"key": "none", "value": {"a": 1}, "exists": False}
    assert raw.call("storage_delete", key="k0") == {"key": "k0", "existed": True}
    assert raw.call("storage_delete", key="k0") == {"key": "k0", "existed": False}


def test_a_large_stored_value_is_cut_with_a_note(raw: RawClient, shared_server: EmbeddedServer) -> None:
    with database(shared_server) as client:
        client.hset("sm:storage", "big", json.dumps(["z" * 1000] * 1000))
    shown = raw.call("storage_read", key="big")
    assert shown["truncated"] is True
    assert "only its beginning" in shown["note"]
    assert text_size(raw, "storage_read", key="big") < BOUND


def test_candles_page_backwards_and_are_bounded(raw: RawClient) -> None:
    raw.call("ohlc_create", name="m", intervals=[MINUTE])
    aligned = START - START % MINUTE
    for start in range(0, 1500, 500):
        batch = [
            {"symbol": "A", "price": 100 + i, "volume": 1, "timestamp_ms": aligned + i * MINUTE}
            for i in range(start, start + 500)
        ]
        raw.call("ohlc_update", name="m", ticks=batch)
    page = raw.call("ohlc_get_candles", name="m", symbol="A", interval_ms=MINUTE, limit=1000, format="rows")
    assert page["truncated"] is True
    assert page["candle_count"] == len(page["candles"])
    assert page["candles"][-1]["open"] == 100 + 1499
    assert text_size(raw, "ohlc_get_candles", name="m", symbol="A", interval_ms=MINUTE, limit=1000) < BOUND
    found = page["candles"]
    while page["truncated"]:
        end = page["candles"][0]["candle_start_ms"]
        page = raw.call(
            "ohlc_get_candles", name="m", symbol="A", interval_ms=MINUTE, limit=1000, end_ms=end, format="rows"
        )
        found = page["candles"] + found
    assert [candle["candle_start_ms"] for candle in found] == [aligned + i * MINUTE for i in range(1500)]


def test_the_life_of_an_aggregator(raw: RawClient) -> None:
    created = raw.call("ohlc_create", name="m")
    assert (created["intervals"], created["created"]) == ([60_000, 300_000], True)
    assert raw.call("ohlc_create", name="m", intervals=[60_000, 300_000])["created"] is False
    aligned = START - START % (5 * MINUTE)
    for offset, price in ((0, 10), (59_999, 12), (30_000, 9), (60_000, 11)):
        raw.call("ohlc_update", name="m", symbol="A", price=price, volume=2, timestamp_ms=aligned + offset)
    done = raw.call(
        "ohlc_get_completed",
        name="m",
        symbol="A",
        interval_ms=MINUTE,
        before_timestamp_ms=aligned + MINUTE,
        format="rows",
    )
    assert done["completed_count"] == 1
    candle = done["candles"][0]
    assert [candle[key] for key in ("open", "high", "low", "close", "volume", "trade_count")] == [10, 12, 9, 12, 6, 3]
    flushed = raw.call("ohlc_flush", name="m", symbol="A", interval_ms=MINUTE, before_timestamp_ms=aligned + MINUTE)
    assert flushed == {"name": "m", "flushed": 1}
    raw.call("ohlc_update", name="m", symbol="A", price=99, volume=1, timestamp_ms=aligned + 1)
    stats = raw.call("ohlc_stats", name="m")
    assert (stats["tick_count"], stats["late_count"], stats["symbols"]) == (5, 1, ["A"])
    open_candle = raw.call("ohlc_get_candles", name="m", symbol="A", interval_ms=MINUTE, format="rows")["candles"]
    assert [c["open"] for c in open_candle] == [11]
    parent = raw.call("ohlc_get_candles", name="m", symbol="A", interval_ms=5 * MINUTE, format="rows")["candles"]
    assert [c["trade_count"] for c in parent] == [5]  # the late tick still entered the open five minutes
    assert "Did you mean 'A'" in raw.call("ohlc_get_completed", name="m", symbol="a", interval_ms=MINUTE)["hint"]
    assert raw.call("ohlc_clear", name="m") == {"name": "m", "cleared": True, "ticks_removed": 5}
    assert raw.call("ohlc_list")["aggregators"] == ["m"]


def test_numbers_given_as_text_are_taken(raw: RawClient) -> None:
    raw.call("ohlc_create", name="m", intervals=["60000"])
    updated = raw.call("ohlc_update", name="m", symbol="A", price="61837.63", volume="0.02", timestamp_ms=str(START))
    assert updated == {"name": "m", "symbol": "A", "tick_count": 1, "accepted": 1}
    send(raw, "s", 3)
    assert numbers(raw.call("stream_read", stream="s", count="2")) == [1, 2]


def test_an_update_without_time_counts_as_now(raw: RawClient) -> None:
    raw.call("ohlc_create", name="m")
    before = time.time_ns() // 1_000_000
    raw.call("ohlc_update", name="m", symbol="A", price=1, volume=1)
    candle = raw.call("ohlc_get_candles", name="m", symbol="A", interval_ms=60_000, format="rows")["candles"][0]
    assert before <= candle["timestamp_ms"] <= time.time_ns() // 1_000_000


def test_health_and_redis_facts(raw: RawClient) -> None:
    health = raw.call("health_check")
    assert (health["status"], health["redis"], health["origin"]) == ("healthy", "connected", "explicit")
    assert raw.call("redis_ping") == {"ping": "pong"}
    assert raw.call("redis_info", section="memory")["used_memory"] > 0
    assert "redis_version" in raw.call("redis_info")


def test_resources_and_prompts(raw: RawClient) -> None:
    resources = {item["uri"]: item for item in raw.request("resources/list")["resources"]}
    skills = {skill.uri for skill in read_skills()}
    ours = {"streammachine://config", "streammachine://status", "ui://streammachine/candles"}
    assert set(resources) == ours | skills
    config = json.loads(raw.request("resources/read", uri="streammachine://config")["contents"][0]["text"])
    assert config["STREAMMACHINE_COUNT"] == 10
    status = json.loads(raw.request("resources/read", uri="streammachine://status")["contents"][0]["text"])
    assert status["redis"] == {"connected": True, "status": "connected"}
    prompts = {item["name"]: item for item in raw.request("prompts/list")["prompts"]}
    assert set(prompts) == {skill.prompt for skill in read_skills()}
    for name in prompts:
        messages = raw.request("prompts/get", name=name)["messages"]
        assert (len(messages), messages[0]["role"]) == (1, "user")
        assert len(messages[0]["content"]["text"]) > 1000


class _Slow(Family):
    toolset = "slow"

    @tool("slow", "Slow", reads=True)
    async def slow(self, number: int) -> dict[str, Any]:
        await anyio.sleep_forever()
        return {}


@pytest.mark.anyio
async def test_a_tool_that_takes_too_long_is_ended_and_says_so() -> None:
    (slow,) = _Slow(cast(Any, None), cast(Any, None)).tools(read_only=False)
    slow.timeout = 0.01
    with pytest.raises(ToolError, match=r"slow was ended after 0.01 s"):
        await slow.run({"number": 1})
