"""Makes the bundle for Claude Desktop: ``python packaging/bundle.py streammachine.mcpb``.

The bundle holds the sources, ``pyproject.toml`` and a manifest with its version. ``mcpb`` (npm: @anthropic-ai/mcpb)
checks and packs it; ``--mcpb`` says where it is.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ("engine", "server", "prompts")
FILES = ("pyproject.toml", "README.md", "LICENSE")
KEPT = {".py", ".pyi", ".pyx", ".pxi", ".lua", ".html", ".js", ".css", ".md", ".typed"}  # no built module, no cache


def main() -> int:
    """Make the bundle; gives the exit status."""
    parser = argparse.ArgumentParser(description="Makes the bundle for Claude Desktop.")
    parser.add_argument("bundle", type=Path, help="the file to write")
    parser.add_argument("--mcpb", nargs="+", default=["npx", "--yes", "@anthropic-ai/mcpb"], help="the packing tool")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder))
        pack(Path(folder), options.bundle, options.mcpb)
    return 0


def fill(folder: Path) -> None:
    """Write what the bundle holds into an empty folder."""
    for name in FILES:
        shutil.copy2(ROOT / name, folder / name)
    for source in SOURCES:
        for path in sorted((ROOT / source).rglob("*")):
            if path.is_file() and (path.suffix in KEPT or path.name == "py.typed") and ".egg-info" not in str(path):
                target = folder / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)
    manifest = json.loads((ROOT / "packaging" / "mcpb" / "manifest.json").read_text("utf-8"))
    (folder / "manifest.json").write_text(json.dumps({**manifest, "version": version()}, indent=2) + "\n", "utf-8")


def pack(folder: Path, bundle: Path, mcpb: Sequence[str]) -> None:
    """Check the manifest and pack the folder.

    Raises:
        CalledProcessError: the tool refuses.
    """
    subprocess.run([*mcpb, "validate", str(folder / "manifest.json")], check=True)
    subprocess.run([*mcpb, "pack", str(folder), str(bundle)], check=True)


def version() -> str:
    """The version of the project."""
    found: str = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    return found


if __name__ == "__main__":
    raise SystemExit(main())
