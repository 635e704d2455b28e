"""The prompts tell a model of everything there is: each of all families, together of every tool."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from streammachine.settings import Settings
from streammachine_mcp.prompts import read_prompts
from streammachine_mcp.server import create_server
from streammachine_mcp.tools.family import Family
from support.mcp import RawClient

PROMPTS = {prompt.name: prompt.body for prompt in read_prompts()}


@pytest.fixture(scope="module")
def families() -> dict[str, set[str]]:
    """The tools of each family, by its name."""
    import streammachine_mcp.server as assembled
    from streammachine_mcp.safety import Confirmer
    from streammachine_mcp.state import ServerState

    state = ServerState(Settings(), None)
    found = {}
    for kind in vars(assembled).values():
        if isinstance(kind, type) and issubclass(kind, Family) and kind is not Family:
            try:
                family = kind(state)
            except TypeError:  # one that confirms
                family = kind(state, Confirmer())  # type: ignore[call-arg]
            found[family.toolset] = {tool.name for tool in family.tools(read_only=False)}
    return found


def named(text: str) -> set[str]:
    """What looks like a tool's name in it."""
    return set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", text))


@pytest.mark.parametrize("prompt", sorted(PROMPTS))
def test_each_prompt_tells_of_every_family(families: dict[str, set[str]], prompt: str) -> None:
    missing = [family for family, tools in families.items() if not tools & named(PROMPTS[prompt])]
    assert missing == []


@pytest.mark.anyio
async def test_every_tool_stands_in_a_prompt() -> None:
    tools = {tool.name for tool in await create_server(Settings()).list_tools()}
    assert tools - named("\n".join(PROMPTS.values())) == set()


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
