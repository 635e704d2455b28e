"""A progress bar with an ETA for a terminal, and nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Show(Protocol):
    """Shows how far it is."""

    def __call__(self, done: int, rows: int, note: str) -> None: ...


@contextmanager
def bar(title: str, total: int, *, wanted: bool | None) -> Iterator[Show]:
    """A bar on stderr while the block runs.

    Args:
        total: what ``done`` is out of.
        wanted: None: where stderr is a terminal.
    """
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield silent
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} candles"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("[yellow]{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=False) as progress:
        task = progress.add_task(title, total=total, rows=0, note="")

        def show(done: int, rows: int, note: str) -> None:
            progress.update(task, completed=done, rows=rows, note=note)

        yield show


def silent(done: int, rows: int, note: str) -> None:
    """Nobody looks."""
