#!/usr/bin/env bash
# MCP Python SDK: a server's extensions are left out of the initialize answer of protocol 2025-11-25.
#
# Expected: capabilities.extensions in both eras: clients of 2025-11-25 send theirs in initialize (Claude Desktop its UI extension),
# and read the server's there.
# Why it matters: a client of today that supports events or skills does not look for them, although the server answers their methods.
# Source: the MCP Apps extension (negotiation through capabilities.extensions in initialize); seen by sending messages by hand.
# Versions: fastmcp 4.1.2, mcp 2.3.0, Python 3.11. Date: 2026-11-30.
# Output seen:
#   2026-07-28: ['com.example/candles', 'io.modelcontextprotocol/ui']
#   2025-11-25: None
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check "fastmcp==4.1.2" "mcp==2.3.0"
cat > "$folder/seen.py" <<'PYTHON'
import json
import subprocess
import sys

SERVER = """
from fastmcp import FastMCP
from fastmcp.server.extensions import ServerExtension


class Candles(ServerExtension):
    identifier = "com.example/candles"


server = FastMCP("one extension")
server.add_extension(Candles())
server.run(show_banner=False)
"""
CLIENT = {"name": "by hand", "version": "1"}


def extensions(method, params):
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        server.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}) + "\n")
        server.stdin.flush()
        found = json.loads(server.stdout.readline())["result"]["capabilities"].get("extensions")
        return found and sorted(found)
    finally:
        server.kill()
        server.wait()


prefix = "io.modelcontextprotocol/"
meta = {prefix + "protocolVersion": "2026-07-28", prefix + "clientInfo": CLIENT, prefix + "clientCapabilities": {}}
print("2026-07-28:", extensions("server/discover", {"_meta": meta}))
print("2025-11-25:", extensions("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": CLIENT}))
PYTHON
wanted=$(sed -n '/^# Output seen:/,/^set /s/^#   //p' "$0")
cd "$folder"
got=$("$folder/venv/bin/python" seen.py)
echo "$got"
[ "$got" = "$wanted" ] || { echo "CHANGED: the output is not what this file says." >&2; exit 1; }
