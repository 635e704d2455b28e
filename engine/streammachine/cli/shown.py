"""What commands print of others' data: nothing that a terminal obeys, and tables that fit its width."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

AROUND = 3  # a column's padding, and the line to the next one
TIGHT = 1  # the line alone
LEAST_WIDTH = 12  # of a column whose text may go on in the next line


def shown(text: str, *, lines: bool = False) -> str:
    r"""The text without what a terminal obeys: control characters stand as ``\x1b``.

    Args:
        lines: keep line ends and tabs.
    """
    if text.isprintable():
        return text
    kept = " \n\t" if lines else " "
    return "".join(
        each if each in kept or each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def fitting(
    console: Console,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    folding: Collection[str] = (),
    right: Collection[str] = (),
    first_to_go: Sequence[str] = (),
    title: str | None = None,
    tight: bool = False,
) -> tuple[Table, list[str]]:
    """A table as wide as the console at most, and the names of the columns that it left out for that.

    Args:
        folding: columns whose text may go on in the next line. right: those of numbers. first_to_go: the columns to
            leave out where the width is too small, one after the other. tight: without padding.
    """
    cells = [[shown(cell) for cell in row] for row in rows]
    widest = [max(map(cell_len, (name, *(row[place] for row in cells)))) for place, name in enumerate(columns)]
    least = [min(LEAST_WIDTH, width) if name in folding else width for name, width in zip(columns, widest, strict=True)]
    around = TIGHT if tight else AROUND
    left_out: list[str] = []
    kept = list(range(len(columns)))
    for name in first_to_go:
        if sum(least[place] + around for place in kept) - 1 <= console.width:
            break
        left_out.append(name)
        kept.remove(columns.index(name))
    padding = (0, 0) if tight else (0, 1)
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=padding)
    for place in kept:
        name = columns[place]
        table.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=name not in folding,
            overflow="fold",
            min_width=least[place],
        )
    for row in cells:
        table.add_row(*(Text(row[place]) for place in kept))
    return table, left_out
