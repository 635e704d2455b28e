#!/usr/bin/env bash
# common-expression-language: large integers equal the neighbouring double, and parts of CEL's time functions are missing.
#
# Expected: CEL's own rules: numbers of different types compare as on one number line, getHours takes a time zone, timestamp()
# takes an integer.
# Why it matters: a condition over trade ids or nanosecond times beyond 2**53 is true for a wrong id as soon as the other side is a
# double (what JSON and Redis fields give); a condition "after 9 o'clock in New York" cannot be written.
# Source: the CEL language definition (equality and ordering across numeric types; list of standard functions).
# Versions: common-expression-language 0.10.0, Python 3.11. Date: 2026-11-30.
# Output seen:
#   9007199254740993 == 9007199254740992.0 -> True
#   9007199254740993 > 9007199254740992.0 -> False
#   timestamp('2026-01-15T10:30:00Z').getHours() -> 10
#   timestamp('2026-01-15T10:30:00Z').getHours('America/New_York') -> RuntimeError: Undefined variable or function: 'getHours'
#   timestamp(1767225600) -> RuntimeError: Undefined variable or function: 'timestamp'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check "common-expression-language==0.10.0"
cat > "$folder/seen.py" <<'PYTHON'
import cel

for text in (
    "9007199254740993 == 9007199254740992.0",
    "9007199254740993 > 9007199254740992.0",
    "timestamp('2026-01-15T10:30:00Z').getHours()",
    "timestamp('2026-01-15T10:30:00Z').getHours('America/New_York')",
    "timestamp(1767225600)",
):
    try:
        seen = repr(cel.evaluate(text, {}))
    except Exception as error:
        seen = f"{type(error).__name__}: {str(error).split('.')[0]}"
    print(text, "->", seen)
PYTHON
wanted=$(sed -n '/^# Output seen:/,/^set /s/^#   //p' "$0")
cd "$folder"
got=$("$folder/venv/bin/python" seen.py)
echo "$got"
[ "$got" = "$wanted" ] || { echo "CHANGED: the output is not what this file says." >&2; exit 1; }
