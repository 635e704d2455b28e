"""CSVEmitter: rows appended to a CSV file, whole lines only, under one header.

What is in a batch goes to the system in one write, so a killed process leaves whole lines or, at worst, a piece of one
at the end, which the next ``connect`` cuts off (and logs). Several emitters, in several processes too, may append to
one file: they take turns by a lock on it.
"""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from streammachine.errors import EmitterError, EmitterUnavailableError
from streammachine.market.emitters.base import (
    DataEmitter,
    Lane,
    Row,
    RowsRefusedError,
    Transformer,
    named,
    values_of,
)
from streammachine.market.kline import Gap, Kline, Trade

try:
    import fcntl
except ImportError:  # Windows: nobody takes turns there
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

BLOCK = 65_536  # bytes read at once when looking for the last line
_KINDS: tuple[tuple[str, ...], ...] = (tuple(Kline.model_fields), tuple(Trade.model_fields))
_CANDLE_KEY = ("source", "symbol", "timeframe", "open_ts")
_TRADE_KEY = ("source", "symbol", "trade_id")


class CSVEmitter(DataEmitter):
    """Appends rows to a CSV file: UTF-8, a comma between values, nothing for None, true and false for bools.

    The header is that of the first row. An existing file is continued if its columns are the same (in any order).
    Gaps are left out, unless a transformer makes rows of them.

    Args:
        source, symbol, timeframe: take only these rows; source without regard to case, timeframe="trade" for trades.
            None: all.
        file_path: the file; its folder must exist.
        dedupe: leave out what the file already holds: closed candles by source, symbol, timeframe and open_ts, trades
            by source, symbol and trade_id. Their keys are read at the start and kept in memory.

    Raises:
        EmitterError: file_path is missing; from ``connect``: the file cannot be written, or holds other columns.
    """

    def __init__(
        self,
        source: str | None = None,
        symbol: str | None = None,
        timeframe: str | None = None,
        file_path: str | os.PathLike[str] | None = None,
        transformer_function: Transformer | None = None,
        name: str = "csv",
        *,
        dedupe: bool = False,
    ) -> None:
        self.source = source
        self.symbol = symbol
        self.timeframe = timeframe
        self.name = name
        self.transformer = transformer_function
        self.dedupe = dedupe
        self._path: Path | None = None
        self._file: io.FileIO | None = None
        self._columns: tuple[str, ...] | None = None
        self._kept: set[tuple[str, ...]] = set()
        self.duplicates = 0  # rows left out by dedupe
        if file_path is not None:
            self.set_file_path(file_path)

    @property
    def file_path(self) -> Path | None:
        """The file; settable while the emitter is not connected."""
        return self._path

    @file_path.setter
    def file_path(self, file_path: str | os.PathLike[str]) -> None:
        self.set_file_path(file_path)

    @property
    def target(self) -> str:
        """Where the rows go."""
        return f"csv:{self._path.absolute() if self._path is not None else ''}"

    def set_file_path(self, file_path: str | os.PathLike[str], inplace: bool = True) -> Self:
        """Write to another file; before ``connect`` only. ``inplace`` changes nothing: the emitter itself is changed.

        Raises:
            EmitterError: the emitter is open, or the name asks for a compressed file.
        """
        path = Path(file_path).expanduser()
        if path.suffix in (".gz", ".zip", ".bz2", ".xz", ".zst"):
            raise EmitterError(f"{path} asks for a compressed file, which cannot be continued: give a plain .csv")
        if self._file is not None:
            raise EmitterError(f"{self._path} is open: set the path before the emitter is connected")
        self._path = path
        return self

    def wants(self, row: Row) -> bool:
        """Whether source, symbol and timeframe select the row."""
        if isinstance(row, Gap) and self.transformer is None:
            return False
        return self._selects(row.source, row.symbol, "trade" if isinstance(row, Trade) else row.timeframe)

    def _selects(self, source: str | None, symbol: str, timeframe: str) -> bool:
        return (
            (self.source is None or (source or "").lower() == self.source.lower())
            and (self.symbol is None or symbol == self.symbol)
            and (self.timeframe is None or self.timeframe == timeframe)
        )

    # -- life cycle ---------------------------------------------------------------------------

    async def connect(self) -> None:
        """Open the file, mend its last line, check its columns."""
        if self._file is not None:
            return
        if self._path is None:
            raise EmitterError("CSVEmitter needs file_path, e.g. CSVEmitter(file_path='candles.csv')")
        try:
            self._file = self._path.open("ab+", buffering=0)
        except OSError as error:
            if not self._path.parent.exists():
                raise EmitterError(
                    f"{self._path} cannot be written: the folder {self._path.parent} does not exist"
                ) from None
            raise EmitterError(f"{self._path} cannot be written: {error.strerror or error}") from error
        try:
            with self._locked() as file:
                self._mend(file)
                self._columns = self._header(file)
                self._check_columns()
            if self.dedupe:
                self._kept = set(self._keys())
        except BaseException:
            await self.close()
            raise

    async def expect(self, lanes: Sequence[Lane]) -> None:
        """Refuse a file of candles for trades, and one of trades for candles."""
        if self.transformer is not None:
            return
        kinds = {
            lane.timeframe is None
            for lane in lanes
            if self._selects(lane.source, lane.symbol, lane.timeframe or "trade")
        }
        if len(kinds) > 1:
            raise EmitterError(
                f"{self._path} cannot hold candles and trades: give each a CSVEmitter, timeframe='trade' selects trades"
            )
        for is_trade in kinds:
            if self._columns is not None and set(self._columns) != set(_KINDS[is_trade]):
                raise EmitterError(self._misfit("a trade" if is_trade else "a candle", _KINDS[is_trade]))

    async def emit(self, row: Any) -> None:
        """Append one row: a Kline, a Trade, or a dict as a transformer makes it."""
        await self.emit_batch([row])

    async def emit_batch(self, rows: Sequence[Row]) -> None:
        """Append the rows: all of those that fit the columns, in one write, or (disk full) none."""
        made = [(at, row, values) for at, row in enumerate(rows) if (values := self._values(row)) is not None]
        if not made:
            return
        with self._locked() as file:
            size = file.seek(0, io.SEEK_END)
            if self._columns is None:
                self._columns = self._header(file) or tuple(made[0][2])
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            if size == 0:
                writer.writerow(self._columns)
            refused: dict[int, Exception] = {}
            added: set[tuple[str, ...]] = set()
            wanted = set(self._columns)
            for at, row, values in made:
                if values.keys() != wanted:
                    refused[at] = EmitterError(self._misfit(named(row), tuple(values)))
                    continue
                key = _key(row) if self.dedupe else None
                if key is not None and (key in self._kept or key in added):
                    self.duplicates += 1
                    continue
                if key is not None:
                    added.add(key)
                writer.writerow([_cell(values[column]) for column in self._columns])
            self._write(file, text.getvalue().encode(), size)
            self._kept |= added
        if refused:
            raise RowsRefusedError(refused)

    async def flush(self) -> None:
        """Have the system write to the disk what it was given."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    async def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    # -- reading back -------------------------------------------------------------------------

    def last_row(self) -> dict[str, str] | None:
        """The file's last whole row as text by column, e.g. to go on behind its open_ts; None when there is none."""
        if self._path is None or not self._path.exists():
            return None
        with self._path.open("rb") as file:
            header = file.readline()
            end = _whole_end(file)
            if not header.endswith(b"\n") or end <= len(header):
                return None
            start = _line_start(file, end - 1)
            file.seek(start)
            line = file.read(end - start)
        columns = next(csv.reader([header.decode("utf-8-sig")]))
        return dict(zip(columns, next(csv.reader([line.decode()])), strict=False))

    def _keys(self) -> Iterator[tuple[str, ...]]:
        """The keys of the closed candles (or the trades) in the file."""
        columns = self._columns
        if columns is None or self._path is None:
            return
        key = next((key for key in (_CANDLE_KEY, _TRADE_KEY) if set(key) <= set(columns)), None)
        if key is None:
            raise EmitterError(
                f"{self._path} has no columns to tell duplicates by: dedupe needs {', '.join(_CANDLE_KEY)} (or, for "
                f"trades, {', '.join(_TRADE_KEY)})"
            )
        with self._path.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                if row.get("is_closed") != "false":
                    yield tuple(row[column] or "" for column in key)

    # -- the file -----------------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[io.FileIO]:
        if self._file is None:
            raise EmitterUnavailableError(f"{self._path} is not open: connect the emitter first")
        if fcntl is not None:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield self._file
        finally:
            if fcntl is not None and not self._file.closed:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _mend(self, file: io.FileIO) -> None:
        """Cut off what stands behind the last line's end: a killed process, or a full disk, left it."""
        size = file.seek(0, io.SEEK_END)
        end = _whole_end(file)
        if end == size:
            return
        file.seek(end)
        rest = file.read(size - end)
        if end == 0 and _header_of(rest) in map(frozenset, _KINDS):
            file.write(b"\n")  # a header, written by hand
            return
        log.warning("%s ended in the middle of a line, which was cut off: %r", self._path, rest[:500])
        file.truncate(end)

    def _header(self, file: io.FileIO) -> tuple[str, ...] | None:
        file.seek(0)
        with open(os.dup(file.fileno()), "rb") as copy:  # noqa: PTH123 - a descriptor
            line = copy.readline()
        return tuple(next(csv.reader([line.decode("utf-8-sig", "replace")]), ())) if line else None

    def _check_columns(self) -> None:
        """Refuse a file with other columns as soon as that is known: with a transformer, at the first row."""
        if self._columns is None or self.transformer is not None:
            return
        if set(self._columns) not in map(set, _KINDS):
            raise EmitterError(self._misfit("a candle", _KINDS[0]))

    def _misfit(self, what: str, columns: tuple[str, ...]) -> str:
        return (
            f"{self._path} has the columns {', '.join(self._columns or ())}; {what} has {', '.join(columns)}. "
            "Give another file_path, or a transformer that makes the file's columns"
        )

    def _write(self, file: io.FileIO, data: bytes, size: int) -> None:
        written = 0
        try:
            while written < len(data):
                written += file.write(data[written:])
        except OSError:
            file.truncate(size)  # all or none: the same rows come again
            raise

    def _values(self, row: Any) -> Mapping[str, Any] | None:
        made = row if isinstance(row, Mapping) else self.transformed(row)
        return None if made is None else values_of(made)


def _key(row: Any) -> tuple[str, ...] | None:
    """What a closed candle or a trade is known by; None for what is not told apart."""
    names: tuple[str, ...] = ()
    if isinstance(row, Kline) and row.is_closed is not False:
        names = _CANDLE_KEY
    elif isinstance(row, Trade):
        names = _TRADE_KEY
    return tuple(_cell(getattr(row, name)) for name in names) or None


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def _header_of(line: bytes) -> frozenset[str]:
    return frozenset(next(csv.reader([line.decode("utf-8-sig", "replace")]), ()))


def _whole_end(file: Any) -> int:
    """Where the last whole line ends."""
    return _line_start(file, file.seek(0, io.SEEK_END))


def _line_start(file: Any, before: int) -> int:
    """Where the line begins that the byte in front of ``before`` belongs to (a line's end belongs to the next)."""
    while before > 0:
        start = max(0, before - BLOCK)
        file.seek(start)
        at = file.read(before - start).rfind(b"\n")
        if at >= 0:
            return int(start + at + 1)
        before = start
    return 0
