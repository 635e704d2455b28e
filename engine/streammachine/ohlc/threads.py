"""How many threads a batch of columns is shared out to."""

from __future__ import annotations

import os

THREADS_FROM = 200_000  # rows; to start a thread costs what some thousand rows do
MOST_THREADS = 4  # memory, not the cores, is the limit from there on
STRETCH_ROWS = 50_000  # at least; candles of each stretch are put together
MOST_STRETCHES = 8


def threads_for(rows: int) -> int:
    """1 below ``THREADS_FROM`` rows, else as many as this process may use cores, ``MOST_THREADS`` at most."""
    if rows < THREADS_FROM:
        return 1
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # no such thing on macOS and Windows
        cores = os.cpu_count() or 1
    return min(cores, MOST_THREADS)


def stretches_for(rows: int, cores: int) -> int:
    """In how many stretches rows in order of time are cut: more than threads, since one of them can start late."""
    return max(cores, min(rows // STRETCH_ROWS, MOST_STRETCHES))
