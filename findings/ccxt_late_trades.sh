#!/usr/bin/env bash
# ccxt: build_ohlcvc puts a trade that comes late into the candle that is open, not into its own.
#
# Expected: the candle of the trade's own time, which is still in the list; or the trade left out.
# Why it matters: trades of one batch are not always in order; the low and the close of the next candle become a price of
# the one before, and that one lacks it: a low of 5 in the second minute below, though it traded at 20 and 21.
# Source: ccxt's manual (build_ohlcvc, "Emulated OHLCV"); seen when candles built by it were held against the exchange's own.
# Versions: ccxt 4.5.90, Python 3.11. Date: 2026-11-30.
# Output seen:
#   0 [10.0, 10.0, 10.0, 10.0, 1.0]
#   1 [20.0, 21.0, 5.0, 21.0, 3.0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check "ccxt==4.5.90"
cat > "$folder/seen.py" <<'PYTHON'
import ccxt

MINUTE = 60_000
trades = [
    {"timestamp": time, "price": price, "amount": 1.0}
    for time, price in ((1_000, 10.0), (MINUTE + 1_000, 20.0), (59_000, 5.0), (MINUTE + 2_000, 21.0))
]
for time, *candle in ccxt.Exchange().build_ohlcvc(trades, "1m"):
    print(time // MINUTE, candle[:5])
PYTHON
wanted=$(sed -n '/^# Output seen:/,/^set /s/^#   //p' "$0")
cd "$folder"
got=$("$folder/venv/bin/python" seen.py)
echo "$got"
[ "$got" = "$wanted" ] || { echo "CHANGED: the output is not what this file says." >&2; exit 1; }
