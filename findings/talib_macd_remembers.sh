#!/usr/bin/env bash
# TA-Lib: MACD depends on all the history before it, and the flag by which one finds such functions does not say so.
#
# Expected: "Function has an unstable period" at MACD as at EMA and RSI, of whose averages it is made; or values that the
# lookback (33 candles) settles.
# Why it matters: a chart that loads lookback + 100 candles shows another MACD than one that loaded a year, and a program that
# fetches more history for the flagged functions only never finds out.
# Source: TA-Lib's abstract interface (function_flags, lookback); seen when values of a range were held against the whole series.
# Versions: TA-Lib 0.8.2, numpy 2.4.6, Python 3.11. Date: 2026-11-30.
# Output seen:
#   EMA lookback 29 flagged
#   RSI lookback 14 flagged
#   MACD lookback 33 not flagged
#   MACD 34 candles after the start of the shorter history, difference: 0.0526
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check "TA-Lib==0.8.2" "numpy==2.4.6"
cat > "$folder/seen.py" <<'PYTHON'
import numpy
import talib
from talib import abstract

FLAG = "Function has an unstable period"
close = 500 + numpy.cumsum(numpy.random.default_rng(7).normal(size=1_000))
for name in ("EMA", "RSI", "MACD"):
    function = abstract.Function(name)
    print(name, "lookback", function.lookback, "flagged" if FLAG in function.function_flags else "not flagged")
whole, part = talib.MACD(close)[0], talib.MACD(close[-100:])[0]
print("MACD 34 candles after the start of the shorter history, difference:", round(float(abs(whole[-66] - part[-66])), 4))
PYTHON
wanted=$(sed -n '/^# Output seen:/,/^set /s/^#   //p' "$0")
cd "$folder"
got=$("$folder/venv/bin/python" seen.py)
echo "$got"
[ "$got" = "$wanted" ] || { echo "CHANGED: the output is not what this file says." >&2; exit 1; }
