"""The table of examples/README.md: each script with the first sentence of its docstring, by folder."""

from __future__ import annotations

import ast
import json
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "examples"
HEADINGS = {"howto": "How to", "app": "Agents and timers", "market": "Market data", ".": "Pieces"}


def examples_table() -> str:
    """A row a script."""
    rows = ["| script | what it shows |", "|---|---|"]
    for folder, heading in HEADINGS.items():
        rows.append(f"| **{heading}** | |")
        rows += [_row(path) for path in sorted((FOLDER / folder).glob("*.py"))]
    rows.append("| **Notebook** | |")
    rows += [_notebook(path) for path in sorted(FOLDER.glob("*.ipynb"))]
    return "\n".join(rows) + "\n"


def _row(path: Path) -> str:
    told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return _line(path, " ".join(told.partition("\n\n")[0].split()))


def _notebook(path: Path) -> str:
    first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"]
    return _line(path, "".join(first).splitlines()[0].lstrip("# "))


def _line(path: Path, told: str) -> str:
    name = path.relative_to(FOLDER).as_posix()
    return f"| [{name}]({name}) | {told} |"
