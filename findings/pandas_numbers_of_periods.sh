#!/usr/bin/env bash
# pandas: to_numeric gives the ordinals of a Period column and the ticks of a timedelta column, without a word.
#
# Expected: an error, as for other values that are no numbers; or epoch units, as for datetimes.
# Why it matters: a frame whose candle times are monthly or daily Periods becomes numbers like 672 or 20454, which a
# program that wants epoch milliseconds takes for times in January 1970.
# Source: pandas' documentation of to_numeric ("convert argument to a numeric type"); seen with candle frames.
# Versions: pandas 3.1.1, numpy 2.4.6, Python 3.11. Date: 2026-11-30.
# Output seen:
#   months: [672, 673]
#   days: [20454]
#   a second, as a timedelta: [1000000]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check "pandas==3.1.1" "numpy==2.4.6"
cat > "$folder/seen.py" <<'PYTHON'
import pandas as pd

months = pd.Series(pd.period_range("2026-01", periods=2, freq="M"))
print("months:", pd.to_numeric(months).tolist())
print("days:", pd.to_numeric(pd.Series(pd.period_range("2026-01-01", periods=1, freq="D"))).tolist())
print("a second, as a timedelta:", pd.to_numeric(pd.Series([pd.Timedelta(seconds=1)])).tolist())
PYTHON
wanted=$(sed -n '/^# Output seen:/,/^set /s/^#   //p' "$0")
cd "$folder"
got=$("$folder/venv/bin/python" seen.py)
echo "$got"
[ "$got" = "$wanted" ] || { echo "CHANGED: the output is not what this file says." >&2; exit 1; }
