#!/usr/bin/env bash
# DuckDB: a time with an offset that is cast to TIMESTAMP loses the offset; the same text in a sniffed CSV file does not.
#
# Expected: one meaning of the text: the moment in UTC, both times; or an error where the offset cannot be kept.
# Why it matters: candle times written by a server in another zone are eight hours wrong in one query and right in the next,
# and which one it is depends on how the file was read (all_varchar, columns= or sniffed).
# Source: DuckDB's documentation of the timestamp types and of read_csv; seen on files of candles.
# Versions: duckdb 2.0.0, Python 3.11. Date: 2026-11-30.
# Output seen:
#   cast of a text: 2026-01-01 08:00:00
#   read_csv, all_varchar: 2026-01-01 08:00:00
#   read_csv, sniffed: 2026-01-01 00:00:00
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check "duckdb==2.0.0"
cat > "$folder/seen.py" <<'PYTHON'
from pathlib import Path

import duckdb

Path("t.csv").write_text("ts,close\n2026-01-01T08:00:00+08:00,1\n")
connection = duckdb.connect()
connection.execute("SET TimeZone = 'UTC'")


def seen(what, source):
    print(what + ":", connection.execute(f"SELECT ts::TIMESTAMP::VARCHAR FROM {source}").fetchone()[0])


seen("cast of a text", "(SELECT '2026-01-01T08:00:00+08:00' AS ts)")
seen("read_csv, all_varchar", "read_csv('t.csv', all_varchar = true)")
seen("read_csv, sniffed", "read_csv('t.csv')")
PYTHON
wanted=$(sed -n '/^# Output seen:/,/^set /s/^#   //p' "$0")
cd "$folder"
got=$("$folder/venv/bin/python" seen.py)
echo "$got"
[ "$got" = "$wanted" ] || { echo "CHANGED: the output is not what this file says." >&2; exit 1; }
