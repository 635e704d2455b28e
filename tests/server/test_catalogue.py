"""What a model pays for and relies on: names, descriptions, schemas, hints, and their size."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from streammachine.settings import OPTIONAL_TOOLSETS, TOOLSETS
from streammachine_mcp.tools.families import families
from support.contract import CONTRACT, DELETES, READS
from support.mcp import RawClient

# The first 24: all of tools/list for these stays within 32 kB.
FIRST = [name for name in CONTRACT if name not in ("stream_delete", "stream_trim")][:24]
DEFAULTS = {("stream_read", "count"): 10, ("stream_list", "pattern"): "*", ("obj_list", "pattern"): "*"}
HINTS = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    env = {"STREAMMACHINE_EMBEDDED": "never", "STREAMMACHINE_DATA_DIR": str(tmp_path_factory.mktemp("data"))}
    with RawClient(env=env) as client:
        return client.tools()


def size(value: Any) -> int:
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def test_the_contract_s_tools_are_there_with_their_arguments_and_results(tools: dict[str, dict[str, Any]]) -> None:
    for name, row in CONTRACT.items():
        given, result = tools[name]["inputSchema"], tools[name]["outputSchema"]
        assert {*row.required.split(), *row.optional.split()} <= set(given["properties"]), name
        assert set(given.get("required", ())) == set(row.required.split()), name
        assert set(row.keys.split()) <= set(result.get("required", ())), name
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
        assert not (hints["readOnlyHint"] and hints["destructiveHint"]), name
    for name, row in CONTRACT.items():
        hints = tools[name]["annotations"]
        assert hints["readOnlyHint"] is (row.kind == READS), name
        assert hints["destructiveHint"] is (row.kind == DELETES), name
        assert hints["openWorldHint"] is row.outside, name


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


def test_read_only_drops_every_tool_that_changes_something(
    server_env: dict[str, str], tools: dict[str, dict[str, Any]]
) -> None:
    with RawClient("--read-only", env=server_env) as client:
        assert set(client.tools()) == {name for name, tool in tools.items() if tool["annotations"]["readOnlyHint"]}
        result = client.request("tools/call", name="stream_send", arguments={"stream": "s", "message": {"a": "1"}})
        assert result["isError"]
        assert "--read-only" in result["content"][0]["text"]


def test_toolsets_choose_the_families(server_env: dict[str, str]) -> None:
    with RawClient("--toolsets", "health, ohlc", env=server_env) as client:
        assert {name.split("_")[0] for name in client.tools()} == {"health", "redis", "explain", "ohlc"}
    with RawClient(env={**server_env, "STREAMMACHINE_TOOLSETS": "stream"}) as client:
        assert {name.split("_")[0] for name in client.tools()} == {"stream"}
    with RawClient(env={**server_env, "STREAMMACHINE_TOOLSETS": "agent"}) as client:
        assert {name.rpartition("_")[0] for name in client.tools()} == {"agent", "dead_letter"}


def test_a_toolset_that_is_off_is_there_when_it_is_named(server_env: dict[str, str], tools: dict[str, Any]) -> None:
    assert not [name for name in tools if name.startswith("group_")]
    with RawClient(env={**server_env, "STREAMMACHINE_TOOLSETS": "all,groups"}) as client:
        assert set(client.tools()) - set(tools) == {
            f"group_{verb}" for verb in ("ack", "claim", "list", "pending", "reset")
        }


def test_every_toolset_has_a_family_and_every_family_a_toolset() -> None:
    assert list(dict.fromkeys(family.toolset for family in families())) == [*TOOLSETS, *OPTIONAL_TOOLSETS]


def test_a_family_whose_toolset_nobody_could_choose_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families()[0], "toolset", "moon")
    with pytest.raises(ValueError, match="toolset is 'moon'"):
        families()


def test_the_server_says_who_it_is_and_how_to_use_it(server_env: dict[str, str]) -> None:
    from importlib.metadata import version

    with RawClient(env=server_env) as client:
        info = client.server_info
    assert info["serverInfo"]["name"] == "streammachine"
    assert info["serverInfo"]["version"] == version("streammachine-mcp")
    assert 200 < len(info["instructions"]) <= 1500
