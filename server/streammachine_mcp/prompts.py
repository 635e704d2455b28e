"""Prompts: the Markdown files of the package ``streammachine_prompts``, one prompt per file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

from fastmcp.prompts import Prompt


@dataclass(frozen=True)
class PromptText:
    """One prompt file: its front matter and its body."""

    name: str
    title: str
    description: str
    body: str


def prompts() -> list[Prompt]:
    """All prompts."""
    return [
        Prompt.from_function(_give(text.body), name=text.name, title=text.title, description=text.description)
        for text in read_prompts()
    ]


def read_prompts() -> list[PromptText]:
    """All prompt files, sorted by name.

    Raises:
        ValueError: a file lacks its front matter or one of name, title, description.
    """
    found = [
        parse_prompt(entry.read_text(encoding="utf-8"), entry.name)
        for entry in files("streammachine_prompts").iterdir()
        if entry.name.endswith(".md")
    ]
    return sorted(found, key=lambda text: text.name)


def parse_prompt(text: str, file: str) -> PromptText:
    """Split a file into front matter (``key: value`` lines between two ``---``) and body."""
    opening, _, rest = text.partition("\n")
    head, separator, body = rest.partition("\n---\n")
    if opening.strip() != "---" or not separator:
        raise ValueError(f"{file}: a prompt begins with front matter between two lines of ---.")
    facts = {}
    for line in head.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            facts[key.strip()] = value.strip()
    missing = [key for key in ("name", "title", "description") if not facts.get(key)]
    if missing:
        raise ValueError(f"{file}: the front matter lacks {', '.join(missing)}.")
    return PromptText(facts["name"], facts["title"], facts["description"], body.strip() + "\n")


def _give(body: str) -> Callable[[], str]:
    def prompt() -> str:
        return body

    return prompt
