"""Bad input reaches the model as a clear error; nothing is lost, and the server goes on."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import redis

from support.mcp import RawClient, ToolFailure


@pytest.fixture
def database(server_env: dict[str, str]) -> Any:
    path = server_env["REDIS_URL"].removeprefix("unix://").partition("?")[0]
    with redis.Redis(unix_socket_path=path, db=5) as client:
        yield client


BAD_CALLS: list[tuple[str, dict[str, Any], str]] = [
    ("stream_read", {"stream": "nope"}, "no stream 'nope'"),
    ("stream_info", {"stream": "nope"}, "no stream 'nope'"),
    ("stream_read", {"stream": "s", "start": "yesterday"}, "not a position"),
    ("stream_read", {"stream": "s", "count": 0}, "count: Input should be greater than or equal to 1"),
    ("stream_read", {"stream": "s", "count": "many"}, "count"),
    ("stream_read", {"stream": ""}, "stream"),
    ("stream_send", {"stream": "s"}, "message: Missing required argument"),
    ("stream_send", {"stream": "s", "message": {}}, "at least one field"),
    ("stream_send", {"stream": "s", "message": {"a": None}}, "field 'a'"),
    ("stream_send", {"stream": "s", "message": {"a": [1]}}, "field 'a'"),
    ("stream_send", {"stream": "s", "message": {"a": {"b": 1}}}, "field 'a'"),
    ("stream_send", {"stream": "s", "message": "text"}, "message"),
    ("stream_send", {"stream": "s", "message": {"a": "x" * 5_000_000}}, "5.0 MB"),
    ("stream_send_batch", {"stream": "s", "messages": [{"a": "1"}, {"b": None}]}, "field 'b'"),
    ("stream_send_batch", {"stream": "s", "messages": [{"a": "1"}, {}]}, "messages[1]"),
    ("stream_send", {"strem": "s", "message": {"a": "1"}}, "Its parameters are: stream, message"),
    ("storage_write", {"key": "k", "value": "x" * 5_000_000}, "5.0 MB"),
    ("storage_write", {"key": "", "value": 1}, "key"),
    ("storage_write", {"key": "k", "value": 1, "ttl_s": 0}, "ttl_s"),
    ("redis_info", {"section": "secrets"}, "section"),
    ("obj_get", {"key": "nope"}, "no object 'nope'"),
    ("obj_delete", {"pattern": ""}, "pattern"),
    ("ohlc_create", {"name": "a", "intervals": [0]}, "interval 0"),
    ("ohlc_create", {"name": "a", "intervals": [-5]}, "interval -5"),
    ("ohlc_create", {"name": "a", "intervals": []}, "intervals"),
    ("ohlc_create", {"name": "a b"}, "not usable"),
    ("ohlc_create", {"name": "m", "intervals": [60000]}, "exists with the intervals"),
    ("ohlc_update", {"name": "m", "symbol": "A", "price": "NaN", "volume": 1}, "price"),
    ("ohlc_update", {"name": "m", "symbol": "A", "price": 1e999, "volume": 1}, "price"),
    ("ohlc_update", {"name": "m", "symbol": "A", "price": 1, "volume": -1}, "volume"),
    ("ohlc_update", {"name": "m", "symbol": "A", "price": 1}, "volume missing"),
    ("ohlc_update", {"name": "m"}, "symbol, price, volume missing"),
    ("ohlc_update", {"name": "m", "ticks": []}, "at least one tick"),
    ("ohlc_update", {"name": "m", "symbol": "A", "ticks": [{"symbol": "A", "price": 1, "volume": 1}]}, "not both"),
    ("ohlc_update", {"name": "m", "ticks": [{"symbol": "A", "price": 1}]}, "volume"),
    ("ohlc_update", {"name": "mm", "symbol": "A", "price": 1, "volume": 1}, "Did you mean 'm'"),
    ("ohlc_get_candles", {"name": "m", "symbol": "A", "interval_ms": 7}, "it has [60000, 300000]"),
    ("ohlc_get_completed", {"name": "m", "symbol": "A", "interval_ms": 7}, "it has [60000, 300000]"),
    ("ohlc_flush", {"name": "m", "symbol": "A", "interval_ms": 7}, "it has [60000, 300000]"),
    ("ohlc_stats", {"name": "nope"}, "no aggregator 'nope'"),
    ("strem_send", {}, "Did you mean 'stream_send'"),
]


def test_each_bad_call_says_what_is_wrong_and_changes_nothing(raw: RawClient) -> None:
    raw.call("ohlc_create", name="m")
    raw.call("stream_send", stream="s", message={"a": "1"})
    raw.call("storage_write", key="kept", value=1)
    for tool, arguments, wanted in BAD_CALLS:
        with pytest.raises(ToolFailure) as failure:
            raw.call(tool, **arguments)
        text = str(failure.value)
        assert wanted in text, (tool, arguments, text)
        assert len(text) < 1000, (tool, len(text))
        assert "Traceback" not in text
        assert "pydantic" not in text
    assert raw.call("stream_info", stream="s")["length"] == 1
    assert raw.call("storage_keys")["keys"] == ["kept"]
    assert raw.call("ohlc_stats", name="m")["tick_count"] == 0
    assert raw.call("ohlc_list")["aggregators"] == ["m"]
    assert raw.call("health_check")["status"] == "healthy"


def test_a_near_name_is_offered(raw: RawClient) -> None:
    raw.call("stream_send", stream="ticks:BTC", message={"a": "1"})
    for tool in ("stream_read", "stream_info"):
        with pytest.raises(ToolFailure, match="Did you mean 'ticks:BTC'"):
            raw.call(tool, stream="tick:BTC")


def test_a_key_of_another_type_is_named_with_its_type(raw: RawClient, database: Any) -> None:
    database.set("text", "x")
    calls: list[tuple[str, dict[str, Any]]] = [
        ("stream_read", {}),
        ("stream_read", {"start": "-"}),
        ("stream_info", {}),
        ("stream_send", {"message": {"a": "1"}}),
        ("stream_send_batch", {"messages": [{"a": "1"}]}),
    ]
    for tool, arguments in calls:
        with pytest.raises(ToolFailure, match="'text' holds a string, not a stream"):
            raw.call(tool, stream="text", **arguments)
    assert database.get("text") == b"x"


def test_binary_fields_are_shown_as_text_with_escapes(raw: RawClient, database: Any) -> None:
    database.xadd("bin", {b"\xff\x00": b"\x80\x81ok", "plain": "é"})
    data = raw.call("stream_read", stream="bin")["messages"][0]["data"]
    assert data["plain"] == "é"
    assert any("ok" in value and "\\x80" in value for value in data.values())


class Hostile:
    """Would create a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_hostile_pickles_are_refused_and_not_run(raw: RawClient, database: Any, tmp_path: Path) -> None:
    bait = tmp_path / "bait"
    database.set("sm:obj:evil", pickle.dumps(Hostile(bait)))
    database.set("sm:obj:forged", b"\x01SM1" + b"0" * 32 + pickle.dumps(Hostile(bait)))
    database.hset("sm:storage", "evil", b"\x01SM1" + b"0" * 32 + pickle.dumps(Hostile(bait)))
    for key in ("evil", "forged"):
        with pytest.raises(ToolFailure, match="not loaded"):
            raw.call("obj_get", key=key)
    shown = raw.call("storage_read", key="evil")
    assert shown["value"] is None
    assert "not loaded" in shown["note"]
    assert not bait.exists()


async def _store(server_env: dict[str, str], key: str, value: Any) -> None:
    from streammachine.redis.connection import RedisConnection
    from streammachine.redis.objects import RedisObjectStorage
    from streammachine.redis.storage import Storage
    from streammachine.settings import Settings

    settings = Settings(redis_url=server_env["REDIS_URL"], data_dir=server_env["STREAMMACHINE_DATA_DIR"])
    async with RedisConnection(settings=settings) as connection:
        await RedisObjectStorage(connection=connection).store_with_pickle(key, value)
        await Storage(connection).write(key, value)


@pytest.mark.anyio
async def test_signed_objects_of_plain_data_are_shown_and_others_named(
    server_env: dict[str, str], raw_with_own_key: RawClient
) -> None:
    from datetime import UTC, datetime
    from decimal import Decimal

    await _store(
        server_env, "plain", {"t": (1, 2), 3: {4.5}, "when": datetime(2026, 1, 1, tzinfo=UTC), "d": Decimal("1.5")}
    )
    shown = raw_with_own_key.call("obj_get", key="plain")
    assert shown["value"] == {"t": [1, 2], "3": [4.5], "when": "2026-01-01T00:00:00+00:00", "d": "1.5"}
    assert "tuple is shown as a list" in shown["note"]
    await _store(server_env, "path", Path("x"))
    with pytest.raises(ToolFailure, match=r"pathlib.*only plain data"):
        raw_with_own_key.call("obj_get", key="path")


@pytest.fixture
def raw_with_own_key(server_env: dict[str, str]) -> Any:
    """A server that shares its signing key (the data directory) with the test."""
    with RawClient(env=server_env) as client:
        yield client


@pytest.mark.anyio
async def test_objects_that_contain_themselves_or_the_same_many_times_are_shown_at_once(
    raw: RawClient, raw_with_own_key: RawClient, server_env: dict[str, str]
) -> None:
    circle: dict[str, Any] = {"name": "c", "list": [1]}
    circle["list"].append(circle)
    shared: Any = [1]
    for _ in range(40):
        shared = [shared, shared]
    wide: Any = ({"same": "x" * 1000},) * 100_000
    for name, value in (("circle", circle), ("shared", shared), ("wide", wide), ("twice", [[1], [1]])):
        await _store(server_env, name, value)
    client = raw_with_own_key
    for tool in ("obj_get", "storage_read"):
        found = client.call(tool, key="circle")
        assert found["value"] == {"name": "c", "list": [1, "…"]}
        assert (found["truncated"], "contain themselves" in found["note"]) == (True, True)
        for name in ("shared", "wide"):
            found = client.call(tool, key=name)
            assert found["truncated"] is True
            assert "only a part of the value was looked at" in found["note"]
            assert len(json.dumps(found)) < 10_000
        assert client.call(tool, key="twice")["value"] == [[1], [1]]


@pytest.mark.anyio
async def test_a_value_too_large_to_be_opened_is_named_with_its_size(
    raw: RawClient, raw_with_own_key: RawClient, server_env: dict[str, str], database: Any
) -> None:
    database.hset("sm:storage", "large", b'"' + b"x" * 20_000_000 + b'"')
    database.set("sm:obj:large", b"x" * 20_000_000)
    for tool in ("obj_get", "storage_read"):
        found = raw_with_own_key.call(tool, key="large")
        assert found["value"] is None
        assert found["truncated"] is True
        assert "20,000,0" in found["note"]


@pytest.mark.anyio
async def test_integers_that_javascript_would_round_carry_their_text(
    raw: RawClient, raw_with_own_key: RawClient, server_env: dict[str, str]
) -> None:
    client = raw_with_own_key
    value = {"id": 2**53 + 1, "list": [1, -(2**63)], "an odd name": 2**64, "safe": 2**53 - 1}
    await _store(server_env, "big", value)
    exact = {
        "$.id": "9007199254740993",
        "$.list[1]": "-9223372036854775808",
        "$['an odd name']": "18446744073709551616",
    }
    for tool in ("obj_get", "storage_read"):
        assert client.call(tool, key="big")["exact"] == exact
    client.call("storage_write", key="one", value=2**60)
    assert client.call("storage_read", key="one")["exact"] == {"$": str(2**60)}
    client.call("storage_write", key="one", value=5)
    assert "exact" not in client.call("storage_read", key="one")
