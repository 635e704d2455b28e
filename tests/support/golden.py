"""The tools as clients see them, a file each in ``tests/server/golden``. To write them anew::

python tests/support/golden.py
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest has it

from streammachine.settings import OPTIONAL_TOOLSETS, TOOLSETS
from support.mcp import RawClient

FOLDER = Path(__file__).parents[1] / "server" / "golden"
REFRESH = "If that is meant, run: python tests/support/golden.py"


OFF = FOLDER / "off"  # tools of the toolsets that are off unless they are named


def golden(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """Every tool of the default set as its file has it, by name; with ``OFF`` those that are not in it."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}


def listed(folder: Path, toolsets: Sequence[str] = (*TOOLSETS, *OPTIONAL_TOOLSETS)) -> dict[str, dict[str, Any]]:
    """Every tool of these toolsets as a client sees it, by name."""
    env = {"STREAMMACHINE_EMBEDDED": "never", "STREAMMACHINE_DATA_DIR": str(folder)}
    with RawClient("--toolsets", ",".join(toolsets), env=env) as client:
        return client.tools()


def main() -> None:
    """Write the files anew."""
    with tempfile.TemporaryDirectory() as folder:
        default, off = listed(Path(folder), TOOLSETS), listed(Path(folder), OPTIONAL_TOOLSETS)
    OFF.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.rglob("*.json"):
        path.unlink()
    for place, tools in ((FOLDER, default), (OFF, off)):
        for name, tool in tools.items():
            (place / f"{name}.json").write_text(json.dumps(tool, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
