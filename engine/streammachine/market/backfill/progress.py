"""A progress bar with an ETA for a terminal, and nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

WIDTH = 80  # columns for all of the bar


class Show(Protocol):
    """Shows how far it is."""

    def __call__(self, done: int, rows: int) -> None: ...


@contextmanager
def bar(title: str, total: int, *, note: Callable[[], str], wanted: bool | None) -> Iterator[Show]:
    """A bar on stderr while the block runs.

    Args:
        total: what ``done`` is out of. note: asked ten times a second, in another thread, for a word behind the bar.
        wanted: None: where stderr is a terminal.
    """
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield silent
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        RenderableColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    class Note(RenderableColumn):
        def render(self, task: object) -> str:
            return note()

    console = Console(stderr=True)
    columns = [
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} candles"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        Note(),
    ]
    if console.width < WIDTH:
        del columns[4]  # half a time is none, and what is still to come matters more
    with Progress(*columns, console=console, transient=False) as progress:
        task = progress.add_task(title, total=total, rows=0)

        def show(done: int, rows: int) -> None:
            progress.update(task, completed=done, rows=rows)

        yield show


def silent(done: int, rows: int) -> None:
    """Nobody looks."""
