#!/usr/bin/env bash
# DuckDB for Python: reading a TIMESTAMPTZ needs pytz, which the package does not depend on.
#
# Expected: datetimes with datetime.timezone or zoneinfo, which Python brings; or an error at import or install.
# Why it matters: a query of candle times works in tests that fetch frames and fails where rows are fetched, in an
# environment where nothing else happens to bring pytz.
# Source: DuckDB's Python documentation (conversion of results); seen while querying candles.
# Versions: duckdb 2.0.0, Python 3.11. Date: 2026-11-30.
# Output seen:
#   [(datetime.datetime(2026, 1, 1, 0, 0),)]
#   InvalidInputException: ModuleNotFoundError: No module named 'pytz'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check "duckdb==2.0.0"
cat > "$folder/seen.py" <<'PYTHON'
import duckdb

connection = duckdb.connect()
print(connection.execute("SELECT TIMESTAMP '2026-01-01'").fetchall())
try:
    print(connection.execute("SELECT TIMESTAMPTZ '2026-01-01 00:00:00+00'").fetchall())
except Exception as error:
    print(type(error).__name__ + ":", str(error).splitlines()[-1].strip())
PYTHON
wanted=$(sed -n '/^# Output seen:/,/^set /s/^#   //p' "$0")
cd "$folder"
got=$("$folder/venv/bin/python" seen.py)
echo "$got"
[ "$got" = "$wanted" ] || { echo "CHANGED: the output is not what this file says." >&2; exit 1; }
