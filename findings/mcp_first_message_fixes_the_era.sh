#!/usr/bin/env bash
# MCP Python SDK: the first message on stdio decides which protocol the connection speaks, even one that was refused.
#
# Expected: a refused message changes nothing: a client may probe with server/discover, be told that its envelope is missing,
# and go on with the envelope.
# Why it matters: a client that asks a bare server/discover or ping first, to find out who is there, can never use protocol 2026-07-28 on
# that process again; the error of the later call names the era, not the cause.
# Source: the MCP specification 2026-07-28, basic protocol and versioning; seen by sending messages by hand.
# Versions: fastmcp 4.1.2, mcp 2.3.0, Python 3.11. Date: 2026-11-30.
# Output seen:
#   server/discover with the envelope, then tools/list with the envelope: answered answered
#   server/discover, then tools/list with the envelope: -32601 -32600
#   ping, then tools/list with the envelope: answered -32600
#   nosuch, then tools/list with the envelope: -32601 -32600
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check "fastmcp==4.1.2" "mcp==2.3.0"
cat > "$folder/seen.py" <<'PYTHON'
import json
import subprocess
import sys

SERVER = "from fastmcp import FastMCP; FastMCP('empty').run(show_banner=False)"
ENVELOPE = {
    "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "by hand", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
}


def answers(*messages):
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        for number, (method, params) in enumerate(messages):
            message = {"jsonrpc": "2.0", "id": number, "method": method} | ({"params": params} if params else {})
            server.stdin.write(json.dumps(message) + "\n")
            server.stdin.flush()
            answer = json.loads(server.stdout.readline())
            yield str(answer["error"]["code"]) if "error" in answer else "answered"
    finally:
        server.kill()
        server.wait()


for first in (("server/discover", ENVELOPE), ("server/discover", None), ("ping", None), ("nosuch", None)):
    shown = first[0] + (" with the envelope" if first[1] else "")
    print(f"{shown}, then tools/list with the envelope:", *answers(first, ("tools/list", ENVELOPE)))
PYTHON
wanted=$(sed -n '/^# Output seen:/,/^set /s/^#   //p' "$0")
cd "$folder"
got=$("$folder/venv/bin/python" seen.py)
echo "$got"
[ "$got" = "$wanted" ] || { echo "CHANGED: the output is not what this file says." >&2; exit 1; }
