#!/usr/bin/env bash
# pandas: two datetime columns that are both valid cannot be put together when their units differ.
#
# Expected: the coarser unit, which holds both.
# Why it matters: a buffer that appends frames of several sources (one in microseconds, as pandas 3 reads them, one in
# nanoseconds, as older files hold them) raises on a far date, here an option's sentinel expiry in the year 2500.
# Source: pandas' documentation of datetime units ("non-nanosecond resolution"); seen in a buffer of candle frames.
# Versions: pandas 3.1.1, numpy 2.4.6, Python 3.11. Date: 2026-11-30.
# Output seen:
#   datetime64[us] datetime64[ns]
#   OutOfBoundsDatetime
#   by hand: datetime64[us]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check "pandas==3.1.1" "numpy==2.4.6"
cat > "$folder/seen.py" <<'PYTHON'
import pandas as pd

far = pd.Series(pd.to_datetime(["2500-01-01"])).astype("datetime64[us]")
near = pd.Series(pd.to_datetime(["2026-01-01"])).astype("datetime64[ns]")
print(far.dtype, near.dtype)
try:
    print(pd.concat([far, near]).dtype)
except Exception as error:
    print(type(error).__name__)
print("by hand:", pd.concat([far, near.astype("datetime64[us]")]).dtype)
PYTHON
wanted=$(sed -n '/^# Output seen:/,/^set /s/^#   //p' "$0")
cd "$folder"
got=$("$folder/venv/bin/python" seen.py)
echo "$got"
[ "$got" = "$wanted" ] || { echo "CHANGED: the output is not what this file says." >&2; exit 1; }
