"""The long form: ``python -m tests.load [--clients 10] [--calls 1000]``, over stdio and over HTTP."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
for place in ("tests", "engine", "server"):
    sys.path.insert(0, str(ROOT / place))

from load.driver import TRANSPORTS, Report, run  # noqa: E402


def main() -> int:
    """Run it over both transports; 1 when a call failed or the memory grew."""
    parser = argparse.ArgumentParser(description="Many clients, many calls.")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--calls", type=int, default=1000, help="of each client")
    options = parser.parse_args()
    reports: list[Report] = []
    for transport in TRANSPORTS:
        with tempfile.TemporaryDirectory(prefix="sm-load-") as folder:
            reports.append(run(transport, options.clients, options.calls, Path(folder)))
        print(reports[-1], flush=True)
    return 1 if any(report.problems() for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
