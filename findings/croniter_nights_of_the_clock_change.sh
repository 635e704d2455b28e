#!/usr/bin/env bash
# croniter: on the night the clocks go back a daily 02:30 comes twice.
#
# Expected: once a day, as the cron of Debian does for jobs at a fixed time.
# Why it matters: a timer that closes the books or posts a report at 02:30 local time does it twice on one night a year; on the
# spring night it comes at 03:00.
# Source: Debian's cron(8) manual on daylight saving time; croniter's README; seen with App timers in a zone.
# Versions: croniter 7.0.0, tzdata 2026.6, Python 3.11. Date: 2026-11-30.
# Output seen:
#   spring: 2026-03-29T03:00:00+02:00 2026-03-30T02:30:00+02:00 2026-03-31T02:30:00+02:00
#   autumn: 2026-10-25T02:30:00+02:00 2026-10-25T02:30:00+01:00 2026-10-26T02:30:00+01:00
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check "croniter==7.0.0" "tzdata==2026.6"
cat > "$folder/seen.py" <<'PYTHON'
from datetime import datetime
from zoneinfo import ZoneInfo

from croniter import croniter

berlin = ZoneInfo("Europe/Berlin")
for label, start in (("spring", datetime(2026, 3, 28, 12, tzinfo=berlin)), ("autumn", datetime(2026, 10, 24, 12, tzinfo=berlin))):
    times = croniter("30 2 * * *", start)
    print(label + ":", *(times.get_next(datetime).isoformat() for _ in range(3)))
PYTHON
wanted=$(sed -n '/^# Output seen:/,/^set /s/^#   //p' "$0")
cd "$folder"
got=$("$folder/venv/bin/python" seen.py)
echo "$got"
[ "$got" = "$wanted" ] || { echo "CHANGED: the output is not what this file says." >&2; exit 1; }
