"""The schemas that clients convert, and the results that they hold to them: a lint over all tools, and odd states."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from streammachine.redis.embedded.server import EmbeddedServer
from support.mcp import RawClient

T0 = 1_723_161_600_000
TYPES = {"string", "integer", "number", "boolean", "array", "object"}
# What Gemini, OpenAI's strict mode, AutoGen and others refuse or drop, and what needs a second lookup.
REFUSED = {
    *("exclusiveMinimum", "exclusiveMaximum", "oneOf", "allOf", "not", "const", "$ref", "$defs", "patternProperties"),
    *("prefixItems", "if", "then", "else", "dependentRequired", "propertyNames", "title"),
}


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    env = {"STREAMMACHINE_EMBEDDED": "never", "STREAMMACHINE_DATA_DIR": str(tmp_path_factory.mktemp("data"))}
    with RawClient(env=env) as client:
        return client.tools()


@pytest.fixture
def database(shared_server: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis(unix_socket_path=str(shared_server.socket_path), db=5) as client:
        yield client


def parts(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema within a schema, with where it stands."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from parts(inner, f"{path}.{name}")
    for index, inner in enumerate(schema.get("anyOf", ())):
        yield from parts(inner, f"{path}|{index}")
    for word in ("items", "additionalProperties"):
        if isinstance(schema.get(word), dict):
            yield from parts(schema[word], f"{path}[{word}]")


def test_every_part_of_every_input_schema_has_one_plain_type(tools: dict[str, dict[str, Any]]) -> None:
    for name, tool in tools.items():
        for path, part in parts(tool["inputSchema"], name):
            assert part.get("type") in TYPES, path
            assert not REFUSED & part.keys(), path
            assert "anyOf" not in part, path
            assert part.get("default", 0) is not None, path


def test_every_part_of_every_output_schema_has_a_type_and_null_stands_beside_another(
    tools: dict[str, dict[str, Any]],
) -> None:
    for name, tool in tools.items():
        for path, part in parts(tool["outputSchema"], name):
            assert not REFUSED & part.keys(), path
            if "anyOf" in part:
                assert "type" not in part, path
                assert all(isinstance(option.get("type"), str) for option in part["anyOf"]), path
                assert len(part["anyOf"]) > 1, path
            else:
                assert part.get("type") in TYPES | {"null"}, path


def test_a_stream_without_entries_or_groups_is_described(raw: RawClient, database: redis.Redis) -> None:
    database.xgroup_create("empty", "g", "0", mkstream=True)
    info = raw.call("stream_info", stream="empty")
    assert (info["length"], info["first_entry"], info["last_entry"]) == (0, None, None)
    assert info["groups"][0]["lag"] == 0
    assert raw.call("stream_read", stream="empty")["messages"] == []
    assert raw.call("dead_letter_list", stream="empty")["letters"] == []
    database.xgroup_destroy("empty", "g")
    assert raw.call("stream_info", stream="empty")["groups"] == []


def test_a_lag_that_the_server_does_not_know_is_counted(raw: RawClient, database: redis.Redis) -> None:
    ids = [database.xadd("s", {"n": str(n)}) for n in range(10)]
    database.xgroup_create("s", "middle", ids[4])
    database.xgroup_create("s", "end", "$")
    database.xgroup_create("s", "start", "0")
    database.xdel("s", ids[6])
    lags = {group["name"].decode(): group["lag"] for group in database.xinfo_groups("s")}
    assert lags["middle"] is None, "this server tells it: the test needs another state"
    shown = raw.call("stream_info", stream="s")["groups"]
    assert {group["name"]: group["lag"] for group in shown} == {"end": 0, "middle": 4, "start": 9}


def test_a_lag_that_is_counted_to_its_bound_says_so(raw: RawClient, database: redis.Redis) -> None:
    ids = [database.xadd("s", {"n": str(n)}) for n in range(1100)]
    database.xgroup_create("s", "early", ids[10])
    database.xgroup_create("s", "late", ids[500])
    database.xdel("s", ids[700])
    early, late = raw.call("stream_info", stream="s")["groups"]
    assert (early["lag"], early["lag_is_at_least"]) == (1000, True)
    assert late["lag"] == 1100 - 501 - 1
    assert "lag_is_at_least" not in late


def test_a_volume_beyond_what_a_float_holds_is_null(raw: RawClient) -> None:
    raw.call("ohlc_create", name="m")
    for _ in range(2):
        raw.call("ohlc_update", name="m", symbol="A", price=1, volume=1e308, timestamp_ms=T0)
    (candle,) = raw.call("ohlc_get_candles", name="m", symbol="A", interval_ms=60000, format="rows")["candles"]
    assert (candle["volume"], candle["close"], candle["trade_count"]) == (None, 1, 2)
    (done,) = raw.call("ohlc_get_completed", name="m", symbol="A", interval_ms=60000, format="rows")["candles"]
    assert done["volume"] is None


def test_empty_states_of_every_reading_tool_fit_their_schemas(raw: RawClient) -> None:
    """An empty database; ``call`` checks each result against the tool's output schema."""
    for tool in ("stream_list", "storage_keys", "obj_list", "ohlc_list", "agent_list", "runner_list"):
        page = raw.call(tool)
        assert next(value for value in page.values() if isinstance(value, list)) == []
    raw.call("backfill_status")
    raw.call("health_check")
    raw.call("redis_ping")
    for section in ("default", "server", "commandstats", "cluster", "keyspace", "replication"):
        raw.call("redis_info", section=section)
    assert raw.call("storage_read", key="absent")["value"] is None
    raw.call("ohlc_create", name="m")
    assert raw.call("ohlc_get_candles", name="m", symbol="A", interval_ms="1m", format="rows")["candles"] == []
    assert raw.call("ohlc_get_completed", name="m", symbol="A", interval_ms="1m", format="rows")["candles"] == []
    assert raw.call("ohlc_flush", name="m", symbol="A", interval_ms="1m")["flushed"] == 0
    assert raw.call("ohlc_stats", name="m")["symbols"] == []
    assert raw.call("ohlc_clear", name="m")["ticks_removed"] == 0
    assert raw.call("storage_clear")["cleared"] is False
    assert raw.call("storage_clear", confirm=True)["cleared"] is True
    assert raw.call("obj_delete", pattern="*")["deleted"] == 0
    raw.call("stream_send", stream="s", message={"a": "1"})
    assert raw.call("dead_letter_purge", stream="s")["purged"] == 0
    assert raw.call("dead_letter_redrive", stream="s", all=True)["redriven"] == 0
