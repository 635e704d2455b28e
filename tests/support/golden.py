"""The tools as clients see them, a file each in ``tests/server/golden``. To write them anew::

python tests/support/golden.py
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest has it

from streammachine.settings import OPTIONAL_TOOLSETS, TOOLSETS
from support.mcp import RawClient

FOLDER = Path(__file__).parents[1] / "server" / "golden"
REFRESH = "If that is meant, run: python tests/support/golden.py"


def golden() -> dict[str, dict[str, Any]]:
    """Every tool as its file has it, by name."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.json"))}


def listed(folder: Path) -> dict[str, dict[str, Any]]:
    """Every tool as a client sees it, by name; those of the toolsets that are off unless they are named too."""
    env = {"STREAMMACHINE_EMBEDDED": "never", "STREAMMACHINE_DATA_DIR": str(folder)}
    with RawClient("--toolsets", ",".join((*TOOLSETS, *OPTIONAL_TOOLSETS)), env=env) as client:
        return client.tools()


def main() -> None:
    """Write the files anew."""
    with tempfile.TemporaryDirectory() as folder:
        found = listed(Path(folder))
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.json"):
        path.unlink()
    for name, tool in found.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(tool, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
