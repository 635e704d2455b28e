"""Prompts and skills tell a model what there is, and how to work with it; they are one text each."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streammachine.settings import Settings
from streammachine_mcp.prompts import parse_skill, read_skills
from streammachine_mcp.safety import Confirmer
from streammachine_mcp.state import ServerState
from streammachine_mcp.tools.families import families as every_family
from support.contract import CONTRACT
from support.mcp import MODERN_META, RawClient

SKILLS = {skill.name: skill for skill in read_skills()}
PROMPTS = {name: skill.body for name, skill in SKILLS.items()}


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


@pytest.mark.parametrize("prompt", ["guide", "patterns"])
def test_a_prompt_tells_of_every_family(families: dict[str, set[str]], prompt: str) -> None:
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


def test_the_skills_are_those_that_are_promised() -> None:
    assert set(SKILLS) == {"guide", "patterns", "investigate-lag", "candle-report", "build-a-pipeline"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# no front matter\n", "begins with front matter"),
        ("---\nname: a\n---\nbody", "lacks title, description, prompt"),
        ("---\nname: b\ndescription: d\nmetadata:\n  title: t\n  prompt: p\n---\nbody", "named as its folder"),
    ],
)
def test_a_skill_that_lacks_something_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_skill(text, "a")


def test_a_prompt_is_its_skill_and_begins_with_what_was_given(tmp_path: Path) -> None:
    env = {"STREAMMACHINE_EMBEDDED": "never", "STREAMMACHINE_DATA_DIR": str(tmp_path)}
    with RawClient(env=env) as client:
        listed = {prompt["name"]: prompt for prompt in client.request("prompts/list")["prompts"]}
        assert {skill.prompt for skill in SKILLS.values()} == set(listed)
        assert [part["name"] for part in listed["candle-report"]["arguments"]] == ["exchange", "symbol", "timeframe"]
        asked = {"name": "investigate-lag", "arguments": {"agent": "billing"}}
        (message,) = client.request("prompts/get", **asked)["messages"]
        assert message["content"]["text"] == f"Do this with agent='billing'.\n\n{PROMPTS['investigate-lag']}"
        (plain,) = client.request("prompts/get", name="investigate-lag")["messages"]
        assert plain["content"]["text"] == PROMPTS["investigate-lag"]


def test_skills_are_listed_with_digests_of_what_is_read(tmp_path: Path) -> None:
    env = {"STREAMMACHINE_EMBEDDED": "never", "STREAMMACHINE_DATA_DIR": str(tmp_path)}
    with RawClient(env=env, initialize=False) as client:
        listed = client.request("skills/list", _meta=MODERN_META)["skills"]
        assert {skill["frontmatter"]["name"] for skill in listed} == set(SKILLS)
        for skill in listed:
            (text,) = client.request("resources/read", uri=skill["uri"], _meta=MODERN_META)["contents"]
            assert text["mimeType"] == "text/markdown"
            digest = hashlib.sha256(text["text"].encode()).hexdigest()
            (file,) = skill["resources"]
            assert (file["digest"], file["size"]) == (f"sha256:{digest}", len(text["text"].encode()))
            assert client.request("skills/get", uri=skill["uri"], _meta=MODERN_META)["skill"] == skill
        unknown = client.send("skills/get", uri="skill://nosuch/SKILL.md", _meta=MODERN_META)
        assert "There are skill://build-a-pipeline" in client.answer(unknown)["error"]["message"]
