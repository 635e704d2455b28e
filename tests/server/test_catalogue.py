"""What a model pays for and relies on: names, descriptions, schemas, hints, and their size."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from support.mcp import RawClient

CONTRACT = {
    "stream_send": {"stream", "message"},
    "stream_send_batch": {"stream", "messages"},
    "stream_read": {"stream", "count", "start"},
    "stream_info": {"stream"},
    "stream_list": {"pattern"},
    "stream_delete": {"stream", "confirm", "confirm_token"},
    "stream_trim": {"stream", "keep", "before", "confirm", "confirm_token"},
    "storage_read": {"key", "default"},
    "storage_write": {"key", "value"},
    "storage_delete": {"key"},
    "storage_keys": set(),
    "storage_clear": {"confirm"},
    "health_check": set(),
    "redis_info": {"section"},
    "redis_ping": set(),
    "obj_get": {"key"},
    "obj_list": {"pattern"},
    "obj_delete": {"pattern"},
    "ohlc_create": {"name", "intervals"},
    "ohlc_update": {"name", "symbol", "price", "volume", "timestamp_ms"},
    "ohlc_get_candles": {"name", "symbol", "interval_ms"},
    "ohlc_get_completed": {"name", "symbol", "interval_ms", "before_timestamp_ms"},
    "ohlc_flush": {"name", "symbol", "interval_ms", "before_timestamp_ms"},
    "ohlc_clear": {"name"},
    "ohlc_stats": {"name"},
    "ohlc_list": set(),
    "agent_list": set(),
    "agent_stats": {"name"},
    "agent_pause": {"name"},
    "agent_resume": {"name"},
    "agent_create": {"name", "stream", "filter", "select", "output_stream"},
    "agent_delete": {"name", "confirm", "confirm_token"},
    "dead_letter_list": {"stream", "count"},
    "dead_letter_redrive": {"stream", "ids", "all"},
    "dead_letter_purge": {"stream", "confirm", "confirm_token"},
    "runner_start": {"exchange", "symbols", "timeframe", "aggregate", "emit", "history"},
    "runner_stop": {"name"},
    "runner_list": set(),
    "backfill_start": {"exchange", "symbol", "timeframe", "start", "end", "emit"},
    "backfill_status": {"name"},
    "candles_read": {"exchange", "symbol", "timeframe", "start", "end", "limit"},
}
# The first 24: all of tools/list for these stays within 32 kB.
FIRST = [name for name in CONTRACT if name not in ("stream_delete", "stream_trim")][:24]
DEFAULTS = {("stream_read", "count"): 10, ("stream_list", "pattern"): "*", ("obj_list", "pattern"): "*"}
HINTS = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")
DESTRUCTIVE = {
    "stream_delete", "stream_trim",
    "storage_delete", "storage_clear", "obj_delete", "ohlc_flush", "ohlc_clear", "agent_delete", "dead_letter_purge",
}  # fmt: skip
WRITING = DESTRUCTIVE | {
    "stream_send", "stream_send_batch", "storage_write", "ohlc_create", "ohlc_update",
    "agent_pause", "agent_resume", "agent_create", "dead_letter_redrive",
    "runner_start", "runner_stop", "backfill_start",
}  # fmt: skip
OUTSIDE = {"runner_start", "backfill_start"}  # they talk to an exchange


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    env = {"STREAMMACHINE_EMBEDDED": "never", "STREAMMACHINE_DATA_DIR": str(tmp_path_factory.mktemp("data"))}
    with RawClient(env=env) as client:
        return client.tools()


def size(value: Any) -> int:
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def test_the_41_tools_of_the_contract_are_there_with_their_arguments(tools: dict[str, dict[str, Any]]) -> None:
    assert set(tools) == set(CONTRACT)
    for name, wanted in CONTRACT.items():
        assert wanted <= set(tools[name]["inputSchema"]["properties"]), name
    for (name, parameter), default in DEFAULTS.items():
        assert tools[name]["inputSchema"]["properties"][parameter]["default"] == default


def test_names_titles_and_descriptions_read_well(tools: dict[str, dict[str, Any]]) -> None:
    for name, tool in tools.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]{2,63}", name)
        assert tool["title"]
        assert 40 <= len(tool["description"]) <= 600, (name, len(tool["description"]))


def test_every_parameter_is_described_and_unknown_ones_are_refused(tools: dict[str, dict[str, Any]]) -> None:
    for name, tool in tools.items():
        schema = tool["inputSchema"]
        assert schema["type"] == "object"
        assert schema["additionalProperties"] is False
        for parameter, facts in schema["properties"].items():
            assert facts.get("description"), (name, parameter)
            assert "anyOf" not in facts, (name, parameter)


def test_all_four_hints_tell_the_truth(tools: dict[str, dict[str, Any]]) -> None:
    for name, tool in tools.items():
        hints = tool["annotations"]
        assert all(isinstance(hints[hint], bool) for hint in HINTS), name
        assert hints["readOnlyHint"] is (name not in WRITING), name
        assert hints["destructiveHint"] is (name in DESTRUCTIVE), name
        assert hints["openWorldHint"] is (name in OUTSIDE), name


def test_schemas_are_valid_json_schema(tools: dict[str, dict[str, Any]]) -> None:
    for tool in tools.values():
        for schema in (tool["inputSchema"], tool["outputSchema"]):
            assert schema["type"] == "object"
            jsonschema.Draft202012Validator.check_schema(schema)


def test_what_a_model_reads_of_all_tools_stays_within_28_kb(tools: dict[str, dict[str, Any]]) -> None:
    read = [{key: tool[key] for key in ("name", "title", "description", "inputSchema")} for tool in tools.values()]
    assert size(read) <= 28_000


def test_the_whole_tool_list_stays_small(tools: dict[str, dict[str, Any]]) -> None:
    assert size([tools[name] for name in FIRST]) <= 32_000
    assert size(list(tools.values())) <= 48_000


def test_the_list_is_the_same_each_time_and_in_the_same_order(server_env: dict[str, str]) -> None:
    with RawClient(env=server_env) as client:
        first = client.request("tools/list")["tools"]
        client.call("storage_write", key="k", value=1)
        assert client.request("tools/list")["tools"] == first


def test_read_only_drops_every_tool_that_changes_something(server_env: dict[str, str]) -> None:
    with RawClient("--read-only", env=server_env) as client:
        tools = client.tools()
        assert set(tools) == set(CONTRACT) - WRITING
        assert all(tool["annotations"]["readOnlyHint"] for tool in tools.values())
        result = client.request("tools/call", name="stream_send", arguments={"stream": "s", "message": {"a": "1"}})
        assert result["isError"]
        assert "--read-only" in result["content"][0]["text"]


def test_toolsets_choose_the_families(server_env: dict[str, str]) -> None:
    with RawClient("--toolsets", "health, ohlc", env=server_env) as client:
        assert {name.split("_")[0] for name in client.tools()} == {"health", "redis", "ohlc"}
    with RawClient(env={**server_env, "STREAMMACHINE_TOOLSETS": "stream"}) as client:
        assert {name.split("_")[0] for name in client.tools()} == {"stream"}


def test_the_server_says_who_it_is_and_how_to_use_it(server_env: dict[str, str]) -> None:
    from importlib.metadata import version

    with RawClient(env=server_env) as client:
        info = client.server_info
    assert info["serverInfo"]["name"] == "streammachine"
    assert info["serverInfo"]["version"] == version("streammachine-mcp")
    assert 200 < len(info["instructions"]) <= 1500
