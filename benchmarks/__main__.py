"""All benchmarks, or those that are named: ``python -m benchmarks [ohlc frames redis app mcp market ...]``.

Each runs in a process of its own, so none warms or clutters another's. What they measured is appended to the history
(``history.py``), one line for the run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import history, targets
from benchmarks.measuring import ROWS

SUBJECTS = {
    "ohlc": "Ticks to candles",
    "frames": "Streams to DataFrames, and the wire codec",
    "redis": "Redis: append, read, storage",
    "app": "The App beside its peers",
    "handlers": "Typed handlers beside record.model(M)",
    "ohlc_consumer": "Ticks of a stream to candle streams",
    "latency": "From XADD to the committed candle",
    "scaling": "What a tick and a candle cost",
    "mcp": "The MCP server beside an empty one",
    "mcp_http": "The MCP server over HTTP beside an empty one",
    "market": "Frames of exchanges to Klines",
    "quotes": "Frames of exchanges to Quotes",
    "bridge": "Our ledgers behind ccxt, beside ccxt alone",
    "market_postgres": "Candles in bulk into PostgreSQL",
    "bulk_history": "A year of bulk files into each sink",
    "trade_files": "Trade files to candles",
}


def main(names: Sequence[str]) -> int:
    """Run them one after the other; 1 when one failed."""
    unknown = [name for name in names if name not in SUBJECTS]
    if unknown:
        print(f"There is no benchmark {unknown[0]!r}; there are: {', '.join(SUBJECTS)}.", file=sys.stderr)
        return 2
    failed = []
    results: dict[str, Any] = {}
    machine = history.machine()
    with tempfile.TemporaryDirectory(prefix="sm-bench-") as folder:
        for name in names or SUBJECTS:
            print(f"\n== {SUBJECTS[name]} (benchmarks/{name}.py) ==\n", flush=True)
            rows = Path(folder) / f"{name}.json"
            env = {**os.environ, ROWS: str(rows)}
            if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], env=env, check=False).returncode:
                failed.append(name)
            elif rows.exists():
                results[name] = json.loads(rows.read_text(encoding="utf-8"))
                if found := targets.shown(name, results[name]):
                    print(f"\n{found}", flush=True)
    if results:
        history.append(results, machine)
    print(f"\n{described(machine)}")
    if failed:
        print(f"Failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def described(machine: Mapping[str, Any]) -> str:
    """What the numbers were taken on. Quote ratios: the absolute numbers are this machine's."""
    versions = ", ".join(f"{name} {found}" for name, found in machine["versions"].items())
    load = ", ".join(map(str, machine["load"] or ["unknown"]))
    return (
        f"Measured on {machine['cores']} cores ({machine['processor']}), {machine['system']}, "
        f"Python {machine['python']}, {versions}; load {load}."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
