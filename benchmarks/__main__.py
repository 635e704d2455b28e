"""All benchmarks, or those that are named: ``python -m benchmarks [ohlc frames redis app mcp market ...]``.

Each runs in a process of its own, so none warms or clutters another's.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

SUBJECTS = {
    "ohlc": "Ticks to candles",
    "frames": "Streams to DataFrames, and the wire codec",
    "redis": "Redis: append, read, storage",
    "app": "The App beside its peers",
    "ohlc_consumer": "Ticks of a stream to candle streams",
    "mcp": "The MCP server beside an empty one",
    "market": "Frames of exchanges to Klines",
    "market_postgres": "Candles in bulk into PostgreSQL",
}
PEERS = ("fastmcp", "mcp", "coredis", "redis", "pandas", "pydantic", "orjson", "psycopg")


def main(names: Sequence[str]) -> int:
    """Run them one after the other; 1 when one failed."""
    unknown = [name for name in names if name not in SUBJECTS]
    if unknown:
        print(f"There is no benchmark {unknown[0]!r}; there are: {', '.join(SUBJECTS)}.", file=sys.stderr)
        return 2
    failed = []
    for name in names or SUBJECTS:
        print(f"\n== {SUBJECTS[name]} (benchmarks/{name}.py) ==\n", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode:
            failed.append(name)
    print(f"\n{machine()}")
    if failed:
        print(f"Failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def machine() -> str:
    """What the numbers were taken on. Quote ratios: the absolute numbers are this machine's."""
    versions = ", ".join(f"{name} {found}" for name in PEERS if (found := _version(name)))
    load = ", ".join(f"{part:.1f}" for part in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"
    return (
        f"Measured on {os.cpu_count()} cores ({_processor()}), {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, {versions}; load {load}."
    )


def _processor() -> str:
    try:
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or "unknown processor"
    names = (line.partition(":")[2].strip() for line in facts.splitlines() if line.startswith("model name"))
    return next(names, "unknown processor")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
