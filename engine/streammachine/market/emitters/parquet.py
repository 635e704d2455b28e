"""ParquetEmitter: rows into a folder of Parquet files, ``source=.../symbol=.../timeframe=.../*.parquet``.

pandas, polars, DuckDB and pyarrow read such a folder as one table. A file is written under another name (``.*.part``,
which no reader's ``*.parquet`` matches) and renamed when it is whole and on the disk, so a reader sees whole files
only, whatever is killed. Rows
wait in memory until a file is full, or ``seconds`` old when the next row comes, or flushed: a killed process loses
those that wait. Reading, the newest of several rows with the same key is the last by the file's name.

A column has one type in all files of the folder: that of the files that are there, else of its first values. A whole
number and one with a fraction are one column of doubles as long as no file has it as whole numbers.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import anyio
import anyio.to_thread

from streammachine.errors import EmitterError
from streammachine.market.emitters.base import DataEmitter, RowsRefusedError, Transformer, extra_missing, values_of
from streammachine.market.emitters.sink_text import SinkText
from streammachine.market.model.kline import Gap, Kline, Trade
from streammachine.market.model.quote import Quote
from streammachine.market.model.rows import Row, named

if TYPE_CHECKING:
    from streammachine.market.model.kline_columns import KlineColumns

PARTITION = ("source", "symbol", "timeframe")
MOST_FILES = 2_000  # of a folder, the newest, whose types are looked at
LONG = 5_000  # candles that come at once in columns, as those of a bulk file do: written in a thread
_KINDS: dict[type, str] = {
    **{kind: kind.__name__ for kind in (bool, int, float, str, bytes, Decimal)},
    datetime: "datetime",
    date: "date",
}
# Of our own fields, also where a file has nothing but None in them.
_KNOWN = {
    **dict.fromkeys(("open_ts", "end_ts", "n_trades", "ts"), "int"),
    **dict.fromkeys(("open", "high", "low", "close", "volume", "quote_volume", "vwap", "price"), "float"),
    **dict.fromkeys(("bid", "bid_size", "ask", "ask_size"), "float"),
    **dict.fromkeys(("is_closed", "is_complete", "estimated"), "bool"),
    **dict.fromkeys(("origin", "trade_id", "side"), "str"),
}
# A candle's columns, in the order of its fields.
_CANDLE = {name: _KNOWN[name] for name in Kline.model_fields if name not in PARTITION}

log = logging.getLogger(__name__)


class ParquetEmitter(DataEmitter):
    """Writes rows to Parquet files below a folder, by source, symbol and timeframe (a trade's is ``trade``).

    Candles and trades have typed columns; what a transformer makes is typed by its values. Gaps are left out, unless a
    transformer makes rows of them.

    Args:
        path: the folder; made if its own folder exists. rows: of one file. seconds: most that rows wait for a full one.
        compression: "zstd", "snappy", "gzip", "lz4" or "none".

    Raises:
        EmitterError: an argument is not accepted; from ``connect``: the library is missing, the folder not writable.
    """

    batch_size = 5_000

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        rows: int = 100_000,
        seconds: float = 300.0,
        compression: str = "zstd",
        transformer: Transformer | None = None,
        name: str = "parquet",
    ) -> None:
        if rows < 1 or not seconds > 0:
            raise EmitterError(f"rows={rows!r}, seconds={seconds!r}: give 1 or more, and seconds above 0")
        if compression not in ("zstd", "snappy", "gzip", "lz4", "none"):
            raise EmitterError(f"compression={compression!r} is not accepted: give zstd, snappy, gzip, lz4 or none")
        self.path = Path(path).expanduser()
        self.name = name
        self.transformer = transformer
        self.rows = rows
        self.seconds = seconds
        self.compression = compression
        self._parts: dict[tuple[str, ...], _Part] = {}
        self._columns = _Columns()

    @property
    def target(self) -> str:
        """Where the rows go."""
        return f"parquet:{self.path.absolute()}"

    def wants(self, row: Row) -> bool:
        """Candles and trades; gaps for a transformer only."""
        return self.transformer is not None or not isinstance(row, Gap)

    async def connect(self) -> None:
        """Make the folder, and see that it can be written."""
        try:
            import pyarrow.parquet  # noqa: F401 - that it is there
        except ImportError as error:
            raise extra_missing("parquet", error) from error
        probe = self.path / f".{uuid.uuid4().hex}"
        try:
            self.path.mkdir(exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise EmitterError(f"{self.path} cannot be written: {error.strerror or error}") from error
        self._columns = await anyio.to_thread.run_sync(_columns_below, self.path)

    async def emit(self, row: Any) -> None:
        """Take one row."""
        await self.emit_batch([row])

    async def emit_batch(self, rows: Sequence[Row]) -> None:
        """Write the files that are full or old enough, then take the rows."""
        now = time.monotonic()
        for key, part in list(self._parts.items()):
            if part.count >= self.rows or now - part.since >= self.seconds:
                self._write(key)
        refused: dict[int, Exception] = {}
        for at, row in enumerate(rows):
            made = row if isinstance(row, Mapping) else self.transformed(row)
            if made is None:
                continue
            values = values_of(made)
            key = _partition(row, values)
            try:
                taken = {name: value for name, value in values.items() if name not in PARTITION}
                self._columns.admit(taken)
            except EmitterError as error:
                refused[at] = EmitterError(f"{named(row)}: {error}")
                continue
            self._parts.setdefault(key, _Part(now, self.taken)).add(taken)
            self.taken += 1
        if refused:
            raise RowsRefusedError(refused)

    def settled(self, taken: int) -> bool:
        """Whether the first ``taken`` rows stand in files."""
        return all(part.first >= taken for part in self._parts.values())

    @property
    def takes_columns(self) -> bool:
        """Where the folder's columns have the types of a candle's."""
        return all(self._columns.kinds.get(name, kind) == kind for name, kind in _CANDLE.items())

    async def emit_columns(self, columns: KlineColumns) -> None:
        """As ``emit_batch``, of candles in columns."""
        await self.emit_batch(())
        self._columns.kinds |= {name: kind for name, kind in _CANDLE.items() if columns.column(name) is not None}
        key = (columns.source, columns.symbol, columns.timeframe)
        part = self._parts.setdefault(key, _Part(time.monotonic(), self.taken))
        part.add_columns(columns)
        self.taken += len(columns)
        if part.count >= self.rows:
            await self._write_where(key, part)

    async def flush(self) -> None:
        """Write what waits."""
        for key, part in list(self._parts.items()):
            await self._write_where(key, part)

    async def _write_where(self, key: tuple[str, ...], part: _Part) -> None:
        """Write here, or what a bulk file brought in a thread; whoever is cancelled then has written it all."""
        if all(isinstance(piece, list) or len(piece) < LONG for piece in part.pieces):
            self._write(key)
            return
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._write, key)

    async def close(self) -> None:
        """Write what waits.

        Raises:
            EmitterError: it could not be written; the text says how many rows are lost.
        """
        try:
            await self.flush()
        except OSError as error:
            lost = sum(part.count for part in self._parts.values())
            raise EmitterError(f"{lost} rows could not be written below {self.path}: {error}") from error
        finally:
            self._parts.clear()

    def _write(self, key: tuple[str, ...]) -> None:
        """Write a part's file: under another name, to the disk, then by its own."""
        import pyarrow
        import pyarrow.parquet

        part = self._parts[key]
        if part.count:
            pieces = [self._columns.arrays(piece) for piece in part.pieces]
            tables = [pyarrow.table(piece) for piece in pieces]
            table = pyarrow.concat_tables(tables, promote_options="default") if tables[1:] else tables[0]
            folder = self.path.joinpath(*(f"{n}={quote(v, safe='')}" for n, v in zip(PARTITION, key, strict=True)))
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet"
            half = folder / f".{name}.part"
            try:
                with half.open("wb") as file:
                    pyarrow.parquet.write_table(
                        table, file, compression=self.compression, use_dictionary=_repetitive(table.schema)
                    )
                    file.flush()
                    os.fsync(file.fileno())
                half.rename(folder / name)
                self._columns.fixed.update(table.column_names)
            except BaseException:  # a full disk is not to be kept full by it
                with contextlib.suppress(OSError):
                    half.unlink(missing_ok=True)
                raise
        del self._parts[key]


@dataclass(slots=True)
class _Part:
    """Rows that wait to become a file."""

    since: float
    first: int  # of all rows ever taken
    pieces: list[list[Mapping[str, Any]] | KlineColumns] = field(default_factory=list)
    count: int = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """One row more."""
        last = self.pieces[-1] if self.pieces else None
        if isinstance(last, list):
            last.append(row)
        else:
            self.pieces.append([row])
        self.count += 1

    def add_columns(self, columns: KlineColumns) -> None:
        """Candles more."""
        self.pieces.append(columns)
        self.count += len(columns)


class _Columns:
    """What kind of values the columns of a folder hold.

    Attributes:
        kinds: by the column's name. fixed: the columns that are in a file already. others: types that are none of ours.
    """

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}
        self.fixed: set[str] = set()
        self.others: dict[str, Any] = {}

    def admit(self, values: Mapping[str, Any]) -> None:
        """Take note of a row.

        Raises:
            EmitterError: a value is of a kind that its column, or a file, does not take. Nothing is noted then.
        """
        new: dict[str, str] = {}
        for name, value in values.items():
            if value is None:
                continue
            kind, held = _kind(value), self.kinds.get(name)
            if kind == held:
                continue
            if kind is None:
                raise EmitterError(f"{name}={_shown(value)} cannot be written to a Parquet file")
            if held is None:
                new[name] = "float" if kind == "int" and _KNOWN.get(name) == "float" else kind
            elif held == "int" and kind == "float" and name not in self.fixed:
                new[name] = kind
            elif not self._fits(value, kind, held):
                raise EmitterError(
                    f"{name}={_shown(value)} is no {held}, as the column's other values in the folder are: let the "
                    "transformer give one type, or give another folder"
                )
        self.kinds.update(new)

    def _fits(self, value: Any, kind: str, held: str) -> bool:
        if held == "float" or (held == "int" and kind == "float"):
            return kind == "int" or (kind == "float" and float(value).is_integer() and _kind(int(value)) == "int")
        if held not in self.others:
            return False
        import pyarrow

        try:
            pyarrow.scalar(value, self.others[held])
        except (pyarrow.ArrowException, ValueError, TypeError, OverflowError):
            return False
        return True

    def arrays(self, rows: list[Mapping[str, Any]] | KlineColumns) -> dict[str, Any]:
        """The columns of a file. One that has no type yet, since all its values are None, is left out."""
        import pyarrow

        if not isinstance(rows, list):
            self.kinds |= _CANDLE
            return rows.arrow(tuple(_CANDLE))
        types = {**_arrow_types(), **self.others}
        names = dict.fromkeys(name for row in rows for name in row)
        made = {}
        for name in names:
            kind = self.kinds.get(name) or _KNOWN.get(name)
            if kind is None:
                continue
            self.kinds[name] = kind
            values = [row.get(name) for row in rows]
            if kind == "float" or kind == "int":
                number = float if kind == "float" else int
                values = [None if value is None else number(value) for value in values]
            made[name] = pyarrow.array(values, types[kind])
        return made


def _columns_below(path: Path) -> _Columns:
    """The columns of the files that are there."""
    import pyarrow
    import pyarrow.parquet

    columns = _Columns()
    kinds = {kept: kind for kind, kept in _arrow_types().items()}
    first: dict[str, Path] = {}
    files = sorted(path.rglob("*.parquet"), key=lambda file: file.name, reverse=True)
    for file in files[:MOST_FILES]:
        try:
            schema = pyarrow.parquet.read_schema(file)
        except (pyarrow.ArrowException, OSError) as error:
            log.warning("%s is no Parquet file that can be read: %s", file, error)
            continue
        for column in schema:
            kind = kinds.get(column.type, f"Arrow {column.type}")
            if kind == "Arrow null":
                continue
            if kind not in kinds.values():
                columns.others[kind] = column.type
            if columns.kinds.setdefault(column.name, kind) != kind:
                log.warning(
                    "%s has the column %s as %s, and %s as %s, which is kept: readers of the folder may refuse that",
                    *(file, column.name, kind, first[column.name], columns.kinds[column.name]),
                )
            first.setdefault(column.name, file)
    columns.fixed.update(columns.kinds)
    return columns


def _arrow_types() -> dict[str, Any]:
    """What a kind is in a file; the same in every file, whatever its values are."""
    import pyarrow

    return {
        "int": pyarrow.int64(),
        "float": pyarrow.float64(),
        "bool": pyarrow.bool_(),
        "str": pyarrow.string(),
        "bytes": pyarrow.binary(),
        "Decimal": pyarrow.decimal128(38, 18),
        "datetime": pyarrow.timestamp("us"),
        "datetime with a zone": pyarrow.timestamp("us", tz="UTC"),
        "date": pyarrow.date32(),
    }


def _kind(value: Any) -> str | None:
    """What kind a value is of; None: of none that a file takes."""
    kind = _KINDS.get(type(value)) or next((kind for base, kind in _KINDS.items() if isinstance(value, base)), None)
    if kind == "int" and not -(1 << 63) <= value < 1 << 63:
        return None
    if kind == "datetime" and value.tzinfo is not None:
        return "datetime with a zone"
    if kind == "Decimal" and not (value.is_finite() and value.as_tuple().exponent >= -18 and value.adjusted() < 20):
        return None
    if kind == "str" and not value.isascii():
        with contextlib.suppress(UnicodeEncodeError):
            value.encode()
            return kind
        return None
    return kind


def _repetitive(schema: Any) -> list[str]:
    """The columns whose values a dictionary makes shorter: of numbers it makes a larger file, in twice the time."""
    import pyarrow

    return [column.name for column in schema if column.type not in (pyarrow.int64(), pyarrow.float64())]


def _called(row: Any) -> str:
    return "trade" if isinstance(row, Trade) else "quote" if isinstance(row, Quote) else "unknown"


def _shown(value: Any) -> str:
    return repr(value)[:200]


def _partition(row: Any, values: Mapping[str, Any]) -> tuple[str, ...]:
    """Source, symbol and timeframe: of the values, else of the row they were made of."""
    found = []
    for name in PARTITION:
        value = values.get(name) or getattr(row, name, None)
        found.append(str(value or (_called(row) if name == "timeframe" else "unknown")))
    return tuple(found)


def from_text(text: SinkText) -> ParquetEmitter:
    """The emitter that ``parquet:FOLDER`` means."""
    return ParquetEmitter(text.rest)
