#!/usr/bin/env bash
# pandas: read_json changes prices in the last digits and wraps a long integer around.
#
# Expected: the nearest double, as Python's json and orjson give it; and a long integer kept, or refused.
# Why it matters: prices and amounts of an exchange's JSON answer no longer equal the ones of the same answer read elsewhere,
# so a join or a check of duplicates on price fails; an id of 21 digits becomes another number without a word, while
# a 20 digit one just past 64 bits raises.
# Source: pandas' documentation of read_json (precise_float, off unless asked for); seen on recorded trades.
# Versions: pandas 3.1.1, numpy 2.4.6, Python 3.11. Date: 2026-11-30.
# Output seen:
#   json: {'id': 123456789012345678901, 'price': 0.14523329, 'amount': 0.3}
#   pandas: {'id': 12776324570088369205, 'price': 0.14523329000000001, 'amount': 0.30000000000000004}
#   precise_float: {'id': 12776324570088369205, 'price': 0.14523329, 'amount': 0.3}
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check "pandas==3.1.1" "numpy==2.4.6"
cat > "$folder/seen.py" <<'PYTHON'
import io
import json

import pandas as pd

text = '[{"id": 123456789012345678901, "price": 0.14523329, "amount": 0.3}]'
print("json:", json.loads(text)[0])
print("pandas:", pd.read_json(io.StringIO(text)).to_dict("records")[0])
print("precise_float:", pd.read_json(io.StringIO(text), precise_float=True).to_dict("records")[0])
PYTHON
wanted=$(sed -n '/^# Output seen:/,/^set /s/^#   //p' "$0")
cd "$folder"
got=$("$folder/venv/bin/python" seen.py)
echo "$got"
[ "$got" = "$wanted" ] || { echo "CHANGED: the output is not what this file says." >&2; exit 1; }
