"""Prompts and skills: one Markdown file each in the package ``streammachine_prompts``, read once, offered as both.

A skill is the file itself, ``skill://NAME/SKILL.md``, listed by the Skills extension (SEP-2640) and as a resource. The
prompt is its text without the front matter; what the client gave for its arguments stands in the first line.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fastmcp.prompts import Prompt
from fastmcp.resources import TextResource
from fastmcp.server.extensions import MethodBinding, ServerExtension
from fastmcp.skills.models import (
    GetSkillParams,
    GetSkillResult,
    ListSkillsParams,
    ListSkillsResult,
    Skill,
    SkillFrontmatter,
    SkillResource,
)
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

FILE = "SKILL.md"
EXTENSION = "io.modelcontextprotocol/skills"
MOST_ARGUMENT = 200  # characters of an argument that a prompt repeats


@dataclass(frozen=True)
class SkillText:
    """One file: ``text`` whole, and its parts. ``prompt``: the prompt's name, which may differ from the skill's."""

    name: str
    description: str
    title: str
    prompt: str
    arguments: tuple[str, ...]
    body: str
    text: str

    @property
    def uri(self) -> str:
        """Where the file is read."""
        return f"skill://{self.name}/{FILE}"


def read_skills() -> list[SkillText]:
    """All files, sorted by name.

    Raises:
        ValueError: a file lacks its front matter or a part of it.
    """
    folders = [entry for entry in files("streammachine_prompts").iterdir() if (entry / FILE).is_file()]
    return sorted(
        (parse_skill((entry / FILE).read_text(encoding="utf-8"), entry.name) for entry in folders),
        key=lambda skill: skill.name,
    )


def parse_skill(text: str, folder: str) -> SkillText:
    """Split a file into front matter (``key: value`` between two ``---``; indented lines are metadata) and body."""
    opening, _, rest = text.partition("\n")
    head, separator, body = rest.partition("\n---\n")
    if opening.strip() != "---" or not separator:
        raise ValueError(f"{folder}: a skill begins with front matter between two lines of ---.")
    facts = {}
    for line in head.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            facts[key.strip()] = value.strip()
    missing = [key for key in ("name", "title", "description", "prompt") if not facts.get(key)]
    if missing:
        raise ValueError(f"{folder}: the front matter lacks {', '.join(missing)}.")
    if facts["name"] != folder:
        raise ValueError(f"{folder}: a skill is named as its folder, not {facts['name']!r}.")
    arguments = tuple(part.strip() for part in facts.get("arguments", "").split(",") if part.strip())
    return SkillText(
        facts["name"], facts["description"], facts["title"], facts["prompt"], arguments, body.strip() + "\n", text
    )


# -- prompts ----------------------------------------------------------------------------------


def prompts(skills: Sequence[SkillText]) -> list[Prompt]:
    """A prompt for each skill."""
    return [
        Prompt.from_function(_text(skill), name=skill.prompt, title=skill.title, description=skill.description)
        for skill in skills
    ]


def _text(skill: SkillText) -> Callable[..., str]:
    """What gives the prompt's text; its signature has the prompt's arguments, none of which must be given."""

    def prompt(**given: str) -> str:
        chosen = [f"{name}={value[:MOST_ARGUMENT]!r}" for name in skill.arguments if (value := given.get(name, ""))]
        return f"Do this with {', '.join(chosen)}.\n\n{skill.body}" if chosen else skill.body

    prompt.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default="", annotation=str)
            for name in skill.arguments
        ],
        return_annotation=str,
    )
    prompt.__annotations__ = {**dict.fromkeys(skill.arguments, str), "return": str}
    return prompt


# -- skills -----------------------------------------------------------------------------------


def skill_resources(skills: Sequence[SkillText]) -> list[TextResource]:
    """The files as resources."""
    return [
        _SkillFile(
            uri=skill.uri,  # type: ignore[arg-type]
            name=skill.name,
            title=skill.title,
            description=skill.description,
            mime_type="text/markdown",
            text=skill.text,
        )
        for skill in skills
    ]


class _SkillFile(TextResource):
    """A file; what FastMCP says of it beside (its tags, of which there are none) is left out (SEP-2640, _meta)."""

    def get_meta(self) -> dict[str, Any]:
        """What was given."""
        return self.meta  # type: ignore[return-value]  # an empty one would be listed


class SkillsOfFiles(ServerExtension):
    """The methods ``skills/list`` and ``skills/get``.

    FastMCP's own extension needs a provider of skills, and every further provider is asked at each call of a tool.
    """

    identifier = EXTENSION

    def __init__(self, skills: Sequence[SkillText]) -> None:
        self._entries = {skill.uri: _entry(skill) for skill in skills}

    def methods(self) -> Sequence[MethodBinding]:
        """The methods, which only the protocol's new versions have."""
        versions = frozenset(MODERN_PROTOCOL_VERSIONS)
        return (
            MethodBinding("skills/list", ListSkillsParams, self._list, versions),
            MethodBinding("skills/get", GetSkillParams, self._get, versions),
        )

    async def _list(self, context: ServerRequestContext[Any, Any], params: ListSkillsParams) -> ListSkillsResult:
        if params.cursor:
            raise MCPError(code=INVALID_PARAMS, message="There is one page: leave the cursor out.")
        return ListSkillsResult(skills=list(self._entries.values()))

    async def _get(self, context: ServerRequestContext[Any, Any], params: GetSkillParams) -> GetSkillResult:
        if params.uri not in self._entries:
            known = ", ".join(self._entries)
            raise MCPError(code=INVALID_PARAMS, message=f"There is no skill {params.uri[:200]!r}. There are {known}.")
        return GetSkillResult(skill=self._entries[params.uri])


def _entry(skill: SkillText) -> Skill:
    content = skill.text.encode()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    metadata = {"title": skill.title, "prompt": skill.prompt}
    if skill.arguments:
        metadata["arguments"] = ", ".join(skill.arguments)
    front = SkillFrontmatter({"name": skill.name, "description": skill.description, "metadata": dict(metadata)})
    return Skill(
        uri=skill.uri,
        frontmatter=front,
        resources=[SkillResource(uri=skill.uri, digest=digest, size=len(content))],
    )
