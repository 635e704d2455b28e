#!/usr/bin/env bash
# AutoGen's MCP extension takes any newer mcp and cannot be imported with it.
#
# Expected: an upper bound in its requirements, or an import that works with what they admit.
# Why it matters: a fresh install gets mcp 2 and ends in an ImportError that names neither package as the one to pin.
# Source: the extension's requirements on the package index; seen while testing agent frameworks as clients of a server.
# Versions: autogen-ext 0.7.5 (extra mcp), mcp 2.3.0, Python 3.11. Date: 2026-11-30.
# Output seen:
#   asks for: ['mcp>=1.11.0']
#   ImportError: cannot import name 'RequestContext' from 'mcp.shared.context'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check "autogen-ext[mcp]==0.7.5" "mcp==2.3.0"
cat > "$folder/seen.py" <<'PYTHON'
from importlib.metadata import requires

print("asks for:", [one.split(";")[0].strip() for one in requires("autogen-ext") if one.startswith("mcp")])
try:
    import autogen_ext.tools.mcp
except ImportError as error:
    print(type(error).__name__ + ":", "streamablehttp_client" if "streamablehttp" in str(error) else str(error).split(" (")[0])
PYTHON
wanted=$(sed -n '/^# Output seen:/,/^set /s/^#   //p' "$0")
cd "$folder"
got=$("$folder/venv/bin/python" seen.py)
echo "$got"
[ "$got" = "$wanted" ] || { echo "CHANGED: the output is not what this file says." >&2; exit 1; }
