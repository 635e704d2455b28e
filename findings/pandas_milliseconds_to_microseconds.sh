#!/usr/bin/env bash
# pandas: to_datetime(..., unit="ms") gives a column in microseconds, and in nanoseconds where one value has a fraction.
#
# Expected: datetime64[ms], the unit that was named, whatever the values are.
# Why it matters: candle times made back into epoch milliseconds with astype("int64") // 10**6, the recipe of the years
# when every column was in nanoseconds, become epoch SECONDS, and the very same line is right again on the day an exchange
# sends one time with half a millisecond.
# Source: pandas' documentation of to_datetime and its notes on datetime resolution; seen on candle frames.
# Versions: pandas 3.1.1, numpy 2.4.6, Python 3.11. Date: 2026-11-30.
# Output seen:
#   whole milliseconds: datetime64[us] [1767225600, 1767225660]
#   one with a fraction: datetime64[ns] [1767225600000, 1767225660000]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check "pandas==3.1.1" "numpy==2.4.6"
cat > "$folder/seen.py" <<'PYTHON'
import pandas as pd

whole = pd.to_datetime(pd.Series([1767225600000, 1767225660000]), unit="ms")
half = pd.to_datetime(pd.Series([1767225600000, 1767225660000.5]), unit="ms")
print("whole milliseconds:", whole.dtype, (whole.astype("int64") // 10**6).tolist())
print("one with a fraction:", half.dtype, (half.astype("int64") // 10**6).tolist())
PYTHON
wanted=$(sed -n '/^# Output seen:/,/^set /s/^#   //p' "$0")
cd "$folder"
got=$("$folder/venv/bin/python" seen.py)
echo "$got"
[ "$got" = "$wanted" ] || { echo "CHANGED: the output is not what this file says." >&2; exit 1; }
