"""CSVEmitter: rows appended to a CSV file, whole lines only, under one header.

What is in a batch goes to the system in one write, so a killed process leaves whole lines or, at worst, a piece of one
at the end. The next emitter cuts that off (and logs it) with its first row, once it is known that the file is one of
ours; a whole row that merely lacks its line's end is kept. Nothing else of a file is ever changed. Several emitters, in
several processes too, may append to one file: they take turns by a lock on it. A file that is moved away while it is
written to is begun anew.
"""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import anyio.to_thread

from streammachine.errors import EmitterError, EmitterUnavailableError
from streammachine.market.emitters import csv_lines
from streammachine.market.emitters.base import DataEmitter, RowsRefusedError, Transformer, values_of
from streammachine.market.emitters.sink_text import SinkText
from streammachine.market.model.kline import Gap, Kline, Trade
from streammachine.market.model.quote import Quote
from streammachine.market.model.rows import Lane, Row, named

if TYPE_CHECKING:
    from streammachine.market.model.kline_columns import KlineColumns

try:
    import fcntl
except ImportError:  # Windows: no lock between processes there
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

TAIL = 1 << 20  # bytes of a file's end that are looked at for rows that come again
_KINDS: dict[str, tuple[str, ...]] = {
    "candle": tuple(Kline.model_fields),
    "trade": tuple(Trade.model_fields),
    "quote": tuple(Quote.model_fields),
}
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
        self._line_end = "\n"
        self._ends_with_line = False  # the file ends with a whole line
        self._kept: set[tuple[str, ...]] = set()
        self._may_repeat = False  # the first rows may stand at the file's end already
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
        return self._selects(row.source, row.symbol, _kind_of(row))

    def _selects(self, source: str | None, symbol: str, timeframe: str) -> bool:
        return (
            (self.source is None or (source or "").lower() == self.source.lower())
            and (self.symbol is None or symbol == self.symbol)
            and (self.timeframe is None or self.timeframe == timeframe)
        )

    # -- life cycle ---------------------------------------------------------------------------

    async def connect(self) -> None:
        """Open the file, check its columns. Changes nothing in it."""
        if self._file is not None:
            return
        if self._path is None:
            raise EmitterError("CSVEmitter needs file_path, e.g. CSVEmitter(file_path='candles.csv')")
        try:
            self._open(self._path)
        except OSError as error:
            if not self._path.parent.exists():
                raise EmitterError(
                    f"{self._path} cannot be written: the folder {self._path.parent} does not exist"
                ) from None
            raise EmitterError(f"{self._path} cannot be written: {error.strerror or error}") from error
        except BaseException:
            await self.close()
            raise

    def _open(self, path: Path) -> None:
        self._file = path.open("ab+", buffering=0)
        with self._locked() as file:
            self._look(file)
        if self.dedupe:
            self._kept = set(self._keys())
        elif self._may_repeat:
            self._kept = self._last_keys()

    async def expect(self, lanes: Sequence[Lane]) -> None:
        """Refuse a file of candles for trades, and one of trades for candles."""
        if self.transformer is not None:
            return
        kinds = {
            {None: "trade", "quote": "quote"}.get(lane.timeframe, "candle")
            for lane in lanes
            if self._selects(lane.source, lane.symbol, lane.timeframe or "trade")
        }
        if len(kinds) > 1:
            raise EmitterError(
                f"{self._path} cannot hold candles and trades: give each a CSVEmitter, timeframe='trade' selects trades"
            )
        for kind in kinds:
            if self._columns is not None and set(self._columns) != set(_KINDS[kind]):
                raise EmitterError(self._mismatch(f"a {kind}", _KINDS[kind]))

    async def emit(self, row: Any) -> None:
        """Append one row: a Kline, a Trade, or a dict as a transformer makes it."""
        await self.emit_batch([row])

    async def emit_batch(self, rows: Sequence[Row]) -> None:
        """Append the rows: all of those that fit the columns, in one write, or (disk full) none."""
        made = [(at, row, values) for at, row in enumerate(rows) if (values := self._values(row)) is not None]
        if not made:
            return
        self._follow()
        with self._locked() as file:
            columns = self._begin(file, [tuple(values) for _, _, values in made])
            size = file.seek(0, io.SEEK_END)
            text = io.StringIO()
            writer = csv.writer(text, lineterminator=self._line_end)
            if size == 0:
                writer.writerow(columns)
            refused: dict[int, Exception] = {}
            added: set[tuple[str, ...]] = set()
            wanted = set(columns)
            for at, row, values in made:
                if values.keys() != wanted:
                    refused[at] = EmitterError(self._mismatch(named(row), tuple(values)))
                    continue
                key = _key(row) if self.dedupe or self._kept else None
                if key is not None and (key in self._kept or key in added):
                    self.duplicates += 1
                    continue
                if key is not None:
                    added.add(key)
                writer.writerow([csv_lines.cell(values[column]) for column in columns])
            self._write(file, text.getvalue().encode(), size)
            if self.dedupe:
                self._kept |= added
        if refused:
            raise RowsRefusedError(refused)

    @property
    def takes_columns(self) -> bool:
        """Where nothing is left out."""
        return not self.dedupe

    async def emit_columns(self, columns: KlineColumns) -> None:
        """Append candles in columns, in one write: the same lines as ``emit_batch`` makes of their rows."""
        self._follow()
        while True:
            with self._locked() as file:
                header, end = self._begin(file, [_KINDS["candle"]]), self._line_end
                was_empty = file.seek(0, io.SEEK_END) == 0
            if set(header) != set(_KINDS["candle"]):
                raise EmitterError(self._mismatch("a candle", _KINDS["candle"]))
            text = await anyio.to_thread.run_sync(csv_lines.lines, columns, header, end)  # the file is free meanwhile
            with self._locked() as file:
                size = file.seek(0, io.SEEK_END)
                if was_empty and size:  # another emitter began it, perhaps with its columns in another order
                    self._columns = None
                    continue
                self._write(file, text if size else csv_lines.line(header, end) + text, size)
                return

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
            header = file.readline(csv_lines.LONGEST)
            columns = csv_lines.cells(header)
            end = file.seek(0, io.SEEK_END)
            start = csv_lines.line_start(file, end)
            if start == end or not csv_lines.is_whole(
                csv_lines.read(file, start, end), columns
            ):  # behind the last line's end
                end, start = start, csv_lines.line_start(file, start - 1)
            if not header.endswith(b"\n") or start < len(header):
                return None
            return dict(zip(columns, csv_lines.cells(csv_lines.read(file, start, end)), strict=False))

    def resuming(self) -> None:
        """Leave out those of the coming rows that stand at the file's end."""
        self._may_repeat = True

    def _last_keys(self) -> set[tuple[str, ...]]:
        """The keys of the rows in the last ``TAIL`` bytes; none where the columns are other than ours."""
        columns = self._columns or ()
        key = next((key for key in (_CANDLE_KEY, _TRADE_KEY) if set(key) <= set(columns)), None)
        if key is None or self._path is None:
            return set()
        with self._path.open("rb") as file:
            end = file.seek(0, io.SEEK_END)
            text = csv_lines.read(file, max(0, end - TAIL), end).decode("utf-8", "replace")
        rows = csv.DictReader(io.StringIO(text.partition("\n")[2], newline=""), fieldnames=columns)
        found = (row for row in rows if row.get("is_closed") != "false")
        return {tuple(row[column] or "" for column in key) for row in found}

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

    def _follow(self) -> None:
        """Open the file anew where another one, or none, stands in its place by now.

        Raises:
            EmitterUnavailableError: what stands there is none of ours.
        """
        if self._file is None or self._path is None:
            return  # not connected, which ``_locked`` says
        held = os.fstat(self._file.fileno())
        with contextlib.suppress(FileNotFoundError):
            there = self._path.stat()
            if (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino):
                return
        old = self._file
        try:
            self._open(self._path)
        except BaseException as error:
            if self._file is not old:
                self._file.close()
                self._file = old
            if isinstance(error, EmitterError):
                raise EmitterUnavailableError(f"{self._path} was moved away, and now: {error}") from error
            raise
        old.close()
        log.warning("%s was moved away or deleted; going on in the file that is there now", self._path)

    def _look(self, file: io.FileIO) -> None:
        """See what the file holds, and refuse one with other columns: with a transformer, at the first row."""
        header, (_, rest) = csv_lines.first_line(file), csv_lines.last_line(file)
        if any(b"\r" in line.rstrip(b"\r\n") for line in (header, rest)):
            raise EmitterError(
                f"{self._path} has lines that end with a carriage return only (CR), and cannot be continued: save it "
                "with LF or CRLF line ends, or give another file_path"
            )
        if len(header) >= csv_lines.LONGEST or len(rest) >= csv_lines.LONGEST:
            raise EmitterError(
                f"{self._path} has a line of more than {csv_lines.LONGEST} bytes: give another file_path"
            )
        self._columns = csv_lines.cells(header) or None
        self._ends_with_line = not rest
        self._line_end = "\r\n" if header.endswith(b"\r\n") else "\n"
        if self._columns is None or self.transformer is not None or set(self._columns) in map(set, _KINDS.values()):
            return
        if header != rest or not any(csv_lines.is_piece(header, kind) for kind in _KINDS.values()):
            raise EmitterError(self._mismatch("a candle", _KINDS["candle"]))
        self._columns = None

    def _begin(self, file: io.FileIO, made: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        """The columns. Before the first row that fits them: see to it that the file ends with a whole line.

        Args:
            made: the columns of each row that is going to be written.
        """
        if self._columns is not None and self._ends_with_line:
            return self._columns
        header, (start, rest) = csv_lines.first_line(file), csv_lines.last_line(file)
        is_piece = header == rest and csv_lines.is_piece(header, made[0])
        columns = self._columns = made[0] if is_piece else csv_lines.cells(header) or made[0]
        if rest and not any(set(one) == set(columns) for one in made):
            return columns  # every row is going to be refused: the file is another's
        if rest and (csv_lines.cells(rest) == columns if start == 0 else csv_lines.is_whole(rest, columns)):
            file.write(b"\n" if rest.endswith(b"\r") else self._line_end.encode())
        elif rest:
            log.warning("%s ended in the middle of a line, which was cut off: %r", self._path, rest[:500])
            file.truncate(start)
        self._ends_with_line = True
        return columns

    def _mismatch(self, what: str, columns: tuple[str, ...]) -> str:
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


def _kind_of(row: Kline | Trade | Quote | Gap) -> str:
    return "trade" if isinstance(row, Trade) else "quote" if isinstance(row, Quote) else row.timeframe


def _key(row: Any) -> tuple[str, ...] | None:
    """What a closed candle or a trade is known by; None for what is not told apart."""
    names: tuple[str, ...] = ()
    if isinstance(row, Kline) and row.is_closed is not False:
        names = _CANDLE_KEY
    elif isinstance(row, Trade):
        names = _TRADE_KEY
    return tuple(csv_lines.cell(getattr(row, name)) for name in names) or None


def from_text(text: SinkText) -> CSVEmitter:
    """The emitter that ``csv:FILE`` means."""
    return CSVEmitter(file_path=text.rest)
