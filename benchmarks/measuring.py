"""What the benchmarks share: runs taken in turns, a table of the medians, and the rows kept for the history."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
ROWS = "BENCHMARK_ROWS"  # the variable that names the file for ``keep``


async def in_turns(
    runs: Mapping[str, Callable[[], Awaitable[Any]]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every run in each round. Taking turns, a busy moment of the machine hits all of them; a first round
    warms up and is not counted.

    Args:
        clock: ``time.process_time`` for what only computes: others' work is not in it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = clock()
            await run()
            if number:
                seconds[name].append(clock() - began)
    return seconds


def median_ratio(times: Sequence[float], base: Sequence[float]) -> float:
    """The median of the rounds' ratios: each round against its own neighbour."""
    return statistics.median(mine / other for mine, other in zip(times, base, strict=True))


def keep(found: Any) -> None:
    """Write what was measured (rows, or rows by name) where ``python -m benchmarks`` collects it for the history."""
    if (file := os.environ.get(ROWS)) is not None:
        Path(file).write_text(json.dumps(found), encoding="utf-8")


def table(rows: Sequence[Row]) -> str:
    """The rows as text: the first column to the left, the others to the right."""
    heads = list(dict.fromkeys(head for row in rows for head in row))
    lines = [heads, *([_text(row.get(head)) for head in heads] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(line, widths, strict=True)) for line in lines)
    )


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
