"""The lines of a CSV file: cells to text and back, and where the last line of a file begins."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from streammachine.market.model.kline import Kline, Trade
from streammachine.market.model.quote import Quote

if TYPE_CHECKING:
    from streammachine.market.model.kline_columns import KlineColumns

LONGEST: Final = 1 << 20  # bytes of one line
BLOCK: Final = 65_536  # bytes read at once when looking for the last line


def cell(value: Any) -> str:
    """A value's text: nothing for None, true and false for bools, the shortest text of a float."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def line(values: Sequence[str], end: str) -> bytes:
    """The values as a line that ends with ``end``."""
    text = io.StringIO()
    csv.writer(text, lineterminator=end).writerow(values)
    return text.getvalue().encode()


def lines(columns: KlineColumns, header: Sequence[str], end: str) -> bytes:
    """The lines of candles in columns."""
    from streammachine.market.model import kline_columns as made

    texts: list[made.Text] = []
    for name in header:
        value = columns.column(name)
        is_same = value is None or isinstance(value, (str, bool))
        texts.append((line([cell(value), ""], "")[:-1],) if is_same else made.number_texts(value, shortest=True))
    return made.lines(texts, len(columns), b",", end.encode())


def cells(line: bytes) -> tuple[str, ...]:
    """The texts of a line; what is no UTF-8 becomes U+FFFD."""
    return tuple(next(csv.reader([line.decode("utf-8-sig", "replace")]), ()))


def is_whole(line: bytes, columns: tuple[str, ...]) -> bool:
    """Whether a line without its end has all the values of a row, those of ours being such that we would write them."""
    try:
        values = tuple(next(csv.reader([line.decode()], strict=True), ()))
    except (csv.Error, UnicodeDecodeError):
        return False
    if len(values) != len(columns):
        return False
    named = {name: value for name, value in zip(columns, values, strict=True) if value}
    for model in (Kline, Trade, Quote):
        if set(columns) == set(model.model_fields):
            with contextlib.suppress(ValidationError):
                model.model_validate(named)
                return True
            return False
    return True


def first_line(file: io.FileIO) -> bytes:
    """The file's first line with its end, at most ``LONGEST`` bytes of it."""
    with open(os.dup(file.fileno()), "rb") as copy:  # noqa: PTH123 - a descriptor
        copy.seek(0)
        return copy.readline(LONGEST)


def last_line(file: io.FileIO) -> tuple[int, bytes]:
    """Where the last line begins that has no end yet, and what of it is there."""
    size = file.seek(0, io.SEEK_END)
    start = line_start(file, size)
    return start, read(file, start, min(size, start + LONGEST))


def read(file: Any, start: int, end: int) -> bytes:
    """The bytes of [start, end)."""
    file.seek(start)
    found: bytes = file.read(end - start)
    return found


def is_piece(line: bytes, columns: Sequence[str]) -> bool:
    """Whether a process that wrote the header may have been killed at that."""
    return ",".join(columns).encode().startswith(line)


def line_start(file: Any, before: int) -> int:
    """Where the line begins that the byte in front of ``before`` belongs to (a line's end belongs to the next)."""
    while before > 0:
        start = max(0, before - BLOCK)
        file.seek(start)
        at = file.read(before - start).rfind(b"\n")
        if at >= 0:
            return int(start + at + 1)
        before = start
    return 0
