"""The long form: ``python -m tests.load [--clients 10] [--calls 1000] [--transport stdio]``, over stdio and over HTTP,
beside an empty FastMCP server that the same clients call in turns."""

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
    parser.add_argument("--transport", choices=TRANSPORTS, action="append", help="one of the two only")
    options = parser.parse_args()
    reports: list[Report] = []
    for transport in options.transport or TRANSPORTS:
        with tempfile.TemporaryDirectory(prefix="sm-load-") as folder:
            reports.append(run(transport, options.clients, options.calls, Path(folder), beside=True))
        print(reports[-1], flush=True)
    return 1 if any(report.problems() for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
