#!/usr/bin/env bash
# MCP Python SDK: a request whose id is 1.0 or true is read as a notification, so nobody ever answers it.
#
# Expected: an answer, or an error of JSON-RPC: a message with an id is a request, and 1.0 is the number 1 for many
# languages' JSON writers.
# Why it matters: a client whose numbers are floats (many have no others) waits for ever, with no line in the server's log.
# Source: JSON-RPC 2.0, section 4 (a notification is a request object without an "id"); seen by sending odd ids to servers.
# Versions: mcp 2.3.0, mcp-types 2.3.0, pydantic 2.14.3, Python 3.11. Date: 2026-11-30.
# Output seen:
#   id 1: JSONRPCRequest
#   id "1": JSONRPCRequest
#   id 1.0: JSONRPCNotification
#   id true: JSONRPCNotification
#   id null: JSONRPCNotification
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check "mcp==2.3.0" "mcp-types==2.3.0" "pydantic==2.14.3"
cat > "$folder/seen.py" <<'PYTHON'
from mcp_types import jsonrpc_message_adapter

for text in ("1", '"1"', "1.0", "true", "null"):
    message = jsonrpc_message_adapter.validate_json('{"jsonrpc": "2.0", "id": %s, "method": "ping"}' % text)
    print(f"id {text}: {type(message).__name__}")
PYTHON
wanted=$(sed -n '/^# Output seen:/,/^set /s/^#   //p' "$0")
cd "$folder"
got=$("$folder/venv/bin/python" seen.py)
echo "$got"
[ "$got" = "$wanted" ] || { echo "CHANGED: the output is not what this file says." >&2; exit 1; }
