"""The prompts tell a model what there is: each of all families, together of every tool of the contract."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from streammachine.settings import Settings
from streammachine_mcp.prompts import read_prompts
from streammachine_mcp.safety import Confirmer
from streammachine_mcp.state import ServerState
from streammachine_mcp.tools.families import families as every_family
from support.contract import CONTRACT
from support.mcp import RawClient

PROMPTS = {prompt.name: prompt.body for prompt in read_prompts()}


@pytest.fixture(scope="module")
def families() -> dict[str, set[str]]:
    """The tools of each toolset, by its name."""
    state, confirmer = ServerState(Settings()), Confirmer()
    found: dict[str, set[str]] = {}
    for family in every_family():
        tools = family(state, confirmer).tools(read_only=False)
        found.setdefault(family.toolset, set()).update(tool.name for tool in tools)
    return found


def named(text: str) -> set[str]:
    """What looks like a tool's name in it."""
    return set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", text)) | set(re.findall(r"`([a-z]+)\(", text))


@pytest.mark.parametrize("prompt", sorted(PROMPTS))
def test_each_prompt_tells_of_every_family(families: dict[str, set[str]], prompt: str) -> None:
    missing = [family for family, tools in families.items() if not tools & named(PROMPTS[prompt])]
    assert missing == []


def test_every_tool_of_the_contract_stands_in_a_prompt() -> None:
    assert set(CONTRACT) - named("\n".join(PROMPTS.values())) == set()


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    env = {"STREAMMACHINE_EMBEDDED": "never", "STREAMMACHINE_DATA_DIR": str(tmp_path_factory.mktemp("data"))}
    with RawClient(env=env) as client:
        yield client.tools()


def test_calls_in_the_prompts_name_arguments_that_the_tools_have(listed: dict[str, Any]) -> None:
    for body in PROMPTS.values():
        for tool, inside in re.findall(r"`([a-z_]+)\(([^`]*)\)`", body):
            if tool not in listed:
                continue
            names = set(re.findall(r"\b([a-z_]+)=", inside))
            assert names <= set(listed[tool]["inputSchema"]["properties"]), (tool, names)
