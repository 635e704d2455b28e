"""What was measured when, on which machine, with which versions: one JSON line a run in ``history.jsonl``.

The file is this machine's own and not in git. ``python -m benchmarks.history [SUBJECT]`` shows the last runs. Numbers
of different machines, or of a machine under load, say nothing about each other: compare ratios.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.measuring import Row, table

FILE = Path(__file__).with_name("history.jsonl")
PEERS = ("fastmcp", "mcp", "coredis", "redis", "pandas", "pydantic", "orjson", "psycopg")
SHOWN = 5  # runs


def machine() -> dict[str, Any]:
    """What the numbers are taken on: cores, processor, system, Python, load, and the versions that matter."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": [round(part, 1) for part in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "versions": {name: found for name in PEERS if (found := _version(name))},
    }


def append(results: Mapping[str, Any], on: Mapping[str, Any], file: Path = FILE) -> None:
    """Add a run. ``results``: the rows of each subject; ``on``: ``machine()`` before it."""
    line = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _commit(),
        "machine": dict(on),
        "results": dict(results),
    }
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(line, separators=(",", ":")) + "\n")


def runs(file: Path = FILE) -> list[dict[str, Any]]:
    """All runs, oldest first."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def shown(subject: str, found: Sequence[Mapping[str, Any]]) -> str:
    """The numbers of one subject, a row each, a column a run."""
    columns = [run for run in found if subject in run["results"]][-SHOWN:]
    rows: dict[str, Row] = {}
    for number, run in enumerate(columns, 1):
        head = f"{number}: {run['at'][:16]} {run['commit']}"
        for what, value in numbers(run["results"][subject]):
            rows.setdefault(what, {"what": what})[head] = value
    return table(list(rows.values())) if rows else f"No run of {subject} yet."


def numbers(result: Any, where: str = "") -> Iterator[tuple[str, float]]:
    """Each number of a result, under the texts that it stands beside."""
    if isinstance(result, Mapping):
        where = " ".join([where, *(value for value in result.values() if isinstance(value, str))]).strip()
        for name, value in result.items():
            if isinstance(value, (Mapping, list)):
                yield from numbers(value, where)
            elif isinstance(value, (int, float)):
                yield f"{where}: {name}", value
    elif isinstance(result, list):
        for each in result:
            yield from numbers(each, where)


def _commit() -> str:
    command = ["git", "-C", str(FILE.parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


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
    found = runs()
    for subject in sys.argv[1:] or dict.fromkeys(name for run in found for name in run["results"]):
        print(f"\n== {subject}\n\n{shown(subject, found)}")
