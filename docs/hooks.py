"""Hooks of the documentation site (``make docs``): links out of docs/, and the reference of the public names.

The pages are read in the repository too, so they link files beside docs/. On the site these have no page: such a link
becomes the file's name.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PUBLIC = ROOT / "engine" / "streammachine" / "__init__.py"
MARK = "<!-- the public names -->"
_LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)#\s]+)(?:#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The page's text as the site shows it."""
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def shown(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return link[0]
        name = target.relative_to(ROOT).as_posix()
        return link[1] if link[1].strip("`") == name else f"{link[1]} (`{name}`)"

    return _LINK.sub(shown, markdown).replace(MARK, reference())


def reference() -> str:
    """A section a package, in it each public name, for mkdocstrings."""
    rooms: dict[str, list[str]] = {}
    for home, name in public_names():
        room = ".".join(home.split(".")[1:3]) if home.startswith("streammachine.market.") else home.split(".")[1]
        rooms.setdefault(room, []).append(f"::: {home}.{name}\n")
    return "\n".join(f"## {room}\n\n" + "\n".join(names) for room, names in rooms.items())


def public_names() -> list[tuple[str, str]]:
    """The module and the name of each name that ``streammachine`` hands on."""
    tree = ast.parse(PUBLIC.read_text(encoding="utf-8"))
    return [
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("streammachine.")
        for alias in node.names
        if not alias.name.startswith("_") and node.module
    ]
