"""What candles are built from: files by path or pattern, and frames, each looked into before anything begins."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from streammachine.errors import DataInputError, TickError
from streammachine.ohlc.trade_csv import trade_lines
from streammachine.ohlc.trade_rows import TradeRows
from streammachine.trade_files import columns
from streammachine.trade_files.blocks import BAD_FILE, ahead, blocks, members
from streammachine.trade_files.layouts import Layout, layout_of, layout_of_names, symbol_of

PARQUET: Final = (".parquet", ".pq")
LOOK: Final = 1 << 16  # bytes that are looked at to know a file
MOST_FILES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Part:
    """A file, a member of a zip, or a frame.

    Attributes:
        name: for messages. layout: its columns. symbol: of its trades, where no column says it. first: time of its
            first trade, the earlier of the first two blocks' ends where it runs backwards. backwards: the newest trade
            comes first. size: bytes on the disk. read: its trades, a block at a time, and how many bytes are read.
    """

    name: str
    layout: Layout
    symbol: str
    first: int
    backwards: bool
    size: int
    read: Callable[[], Iterator[tuple[TradeRows, int]]]

    @property
    def lane(self) -> tuple[str, str]:
        """Whose trades: parts of one lane follow each other by time."""
        return self.layout.source or "", "" if "symbol" in self.layout.places else self.symbol


def parts_of(source: Any, symbol: str | None) -> list[Part]:
    """All parts, those of one symbol in order of time.

    Args:
        source: a path or pattern, several of them, or a frame. symbol: of files that do not say it themselves.

    Raises:
        DataInputError: there is no file, or one is no file of trades.
    """
    if hasattr(source, "column_names") or (hasattr(source, "columns") and not isinstance(source, (str, os.PathLike))):
        return [_frame_part(source, symbol)]
    parts = [part for path in paths_of(source) for part in _parts_of_file(path, symbol)]
    return sorted(parts, key=lambda part: (part.lane, part.first, part.name))


def paths_of(source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files that paths and patterns mean, each once.

    Raises:
        DataInputError: one does not exist, a pattern matches none, or there are too many.
    """
    given = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    found: dict[Path, Path] = {}  # by what they are, whatever they are called
    for each in given:
        path = Path(each).expanduser()
        if path.is_dir():
            raise DataInputError(f"{path} is a folder: give its files, such as {path}/*.csv.gz")
        if path.exists():
            found.setdefault(path.resolve(), path)
            continue
        matches = sorted(_matches(path)) if glob.has_magic(str(path)) else []
        if not matches:
            raise DataInputError(f"there is no file {path}")
        for match in matches:
            if match.is_file():
                found.setdefault(match.resolve(), match)
        if len(found) > MOST_FILES:
            raise DataInputError(f"{each} means more than {MOST_FILES:,} files: give fewer at once")
    if not found:
        raise DataInputError("there is no file to read: give at least one")
    return list(found.values())


def _matches(pattern: Path) -> Iterator[Path]:
    root = Path(pattern.anchor) if pattern.is_absolute() else Path()
    return root.glob(str(pattern.relative_to(root)))


def _parts_of_file(path: Path, symbol: str | None) -> list[Part]:
    try:
        if path.suffix.lower() in PARQUET:
            return [_parquet_part(path, symbol)]
        with members(path) as texts:
            return [_text_part(path, at, name, opened, symbol) for at, (name, opened) in enumerate(texts)]
    except TickError as error:
        raise DataInputError(f"{path}: {error}") from error
    except (*BAD_FILE, ValueError) as error:
        raise DataInputError(f"{path} cannot be read: {error}") from error
    except ImportError as error:
        raise DataInputError(f"{path}: {columns.arrow_missing(error)}") from error


def _text_part(path: Path, at: int, name: str, opened: Any, symbol: str | None) -> Part:
    shown = str(path) if name == path.name else f"{path}, {name}"
    head = b""
    with opened() as (read, _):
        while len(head) < LOOK and (more := read(LOOK - len(head))):
            head += more
    cut = head.rfind(b"\n") + 1 if len(head) == LOOK else len(head)
    lines = head[:cut].removeprefix(b"\xef\xbb\xbf")
    first_line, _, rest = lines.partition(b"\n")
    if not first_line.strip():
        raise TickError(f"{name} is empty")
    separator = _separator(first_line)
    layout = layout_of(first_line.strip().decode(errors="replace").split(separator), name)
    times = trade_lines(rest if layout.header else lines, layout.places, 1 + layout.header, separator.encode()).times
    ends = (int(times[0]), int(times[-1])) if len(times) else (0, 0)
    return Part(
        shown,
        layout,
        symbol or symbol_of(name),
        min(ends),
        ends[1] < ends[0],
        path.stat().st_size,
        lambda: _text_rows(path, at, layout, separator.encode()),
    )


def _separator(line: bytes) -> str:
    return max((",", ";", "\t"), key=lambda each: line.count(each.encode()))


def _text_rows(path: Path, at: int, layout: Layout, separator: bytes) -> Iterator[tuple[TradeRows, int]]:
    """The trades of a text, inflated in another thread meanwhile."""
    line = 1
    with members(path) as texts, texts[at][1]() as (read, tell), ahead(blocks(read)) as made:
        for text in made:
            block, before = text, 0
            if line == 1:
                block = bytes(text).removeprefix(b"\xef\xbb\xbf")
                if layout.header:
                    block, before = block[block.find(b"\n") + 1 or len(block) :], 1
            rows = trade_lines(block, layout.places, line + before, separator)
            line += before + rows.lines
            yield rows, tell()


def _parquet_part(path: Path, symbol: str | None) -> Part:
    names = columns.parquet_names(path)
    layout = layout_of_names(names)
    first = next((rows for rows, _ in columns.parquet_batches(path, layout, names) if len(rows.times)), None)
    ends = (0, 0) if first is None else (int(first.times[0]), int(first.times[-1]))
    return Part(
        str(path),
        layout,
        symbol or symbol_of(path.name),
        min(ends),
        ends[1] < ends[0],
        path.stat().st_size,
        lambda: columns.parquet_batches(path, layout, names),
    )


def _frame_part(frame: Any, symbol: str | None) -> Part:
    given = getattr(frame, "column_names", None)
    names = [str(name) for name in (frame.columns if given is None else given)]
    try:
        layout = layout_of_names(names)
    except TickError as error:
        raise DataInputError(f"the frame: {error}") from error
    if "symbol" not in layout.places and symbol is None:
        raise DataInputError("the frame has no column of symbols: give symbol=")
    return Part("the frame", layout, symbol or "", 0, False, 0, lambda: columns.frame_batches(frame, layout, names))
