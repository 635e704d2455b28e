"""A table that is shown again and again until Ctrl-C, as high as the window; its last picture stays on the terminal."""

from __future__ import annotations

import bisect
from collections.abc import Awaitable, Callable

import anyio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from streammachine.errors import StreamMachineError

Picture = Callable[[int | None], RenderableType]  # the first so many rows, or all, and what is said of the others


def console_for_tables() -> Console:
    """A console of this terminal; where stdout is none it has any width, as what is cut off cannot be found again."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=10_000)


async def show_live(console: Console, look: Callable[[], Awaitable[tuple[int, Picture]]], every: float) -> None:
    """Show what ``look`` sees, until cancelled; an error of ours stands in its place until it is over.

    Args:
        look: how many rows there are, and the table of so many of them. every: seconds between two looks.
    """
    last: RenderableType | None = None
    try:
        with Live(console=console, auto_refresh=False, screen=True) as live:
            while True:
                try:
                    count, picture = await look()
                except StreamMachineError as error:
                    live.update(Text(str(error), style="red"), refresh=True)
                else:
                    last = fitted(console, count, picture)
                    live.update(last, refresh=True)
                await anyio.sleep(every)
    finally:
        if last is not None:
            console.print(last)


def fitted(console: Console, count: int, picture: Picture) -> RenderableType:
    """The picture with as many rows as the window has room for; a row may take several lines."""

    def is_too_high(rows: int) -> bool:
        return len(console.render_lines(picture(rows))) > console.height

    if not is_too_high(count):
        return picture(count)
    if is_too_high(0):
        return Group(hidden(count))
    return picture(max(0, bisect.bisect_left(range(count), True, key=is_too_high) - 1))


def hidden(count: int, hint: str = "") -> Text:
    """What is said of rows that the window has no room for."""
    rows = "rows" if count > 1 else "row"
    return Text(f"... {count} more {rows}: make the window higher{hint}", style="yellow")
