"""ParquetEmitter: rows into a folder of Parquet files, ``source=.../symbol=.../timeframe=.../*.parquet``.

pandas, polars, DuckDB and pyarrow read such a folder as one table. A file is written under another name (``.*.part``,
which no reader's ``*.parquet`` matches) and renamed when it is whole and on the disk, so a reader sees whole files
only, whatever is killed. Rows
wait in memory until a file is full, or ``seconds`` old when the next row comes, or flushed: a killed process loses
those that wait. Reading, the newest of several rows with the same key is the last by the file's name.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

from streammachine.errors import EmitterError
from streammachine.market.emitters.base import (
    DataEmitter,
    Row,
    RowsRefusedError,
    Transformer,
    extra_missing,
    named,
    values_of,
)
from streammachine.market.kline import Gap, Trade

PARTITION = ("source", "symbol", "timeframe")
_KINDS: dict[type, str] = {
    **{kind: kind.__name__ for kind in (int, float, bool, str, bytes, Decimal)},
    datetime: "datetime",
    date: "date",
}
# Of our own fields, also where a file has nothing but None in them.
_KNOWN = {
    **dict.fromkeys(("open_ts", "end_ts", "n_trades", "ts"), "int"),
    **dict.fromkeys(("open", "high", "low", "close", "volume", "quote_volume", "vwap", "price"), "float"),
    **dict.fromkeys(("is_closed", "is_complete", "estimated"), "bool"),
    **dict.fromkeys(("origin", "trade_id", "side"), "str"),
}


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

    async def emit(self, row: Any) -> None:
        """Take one row."""
        await self.emit_batch([row])

    async def emit_batch(self, rows: Sequence[Row]) -> None:
        """Write the files that are full or old enough, then take the rows."""
        now = time.monotonic()
        for key, part in list(self._parts.items()):
            if len(part.rows) >= self.rows or now - part.since >= self.seconds:
                self._write(key)
        refused: dict[int, Exception] = {}
        for at, row in enumerate(rows):
            made = row if isinstance(row, Mapping) else self.transformed(row)
            if made is None:
                continue
            values = values_of(made)
            key = _partition(row, values)
            try:
                self._parts.setdefault(key, _Part(now)).add(
                    {name: value for name, value in values.items() if name not in PARTITION}
                )
            except EmitterError as error:
                refused[at] = EmitterError(f"{named(row)}: {error}")
        if refused:
            raise RowsRefusedError(refused)

    async def flush(self) -> None:
        """Write what waits."""
        for key in list(self._parts):
            self._write(key)

    async def close(self) -> None:
        """Write what waits.

        Raises:
            EmitterError: it could not be written; the text says how many rows are lost.
        """
        try:
            await self.flush()
        except OSError as error:
            lost = sum(len(part.rows) for part in self._parts.values())
            raise EmitterError(f"{lost} rows could not be written below {self.path}: {error}") from error
        finally:
            self._parts.clear()

    def _write(self, key: tuple[str, ...]) -> None:
        """Write a part's file: under another name, to the disk, then by its own."""
        import pyarrow
        import pyarrow.parquet

        part = self._parts[key]
        if part.rows:
            types = {
                "int": pyarrow.int64(),
                "float": pyarrow.float64(),
                "bool": pyarrow.bool_(),
                "str": pyarrow.string(),
            }
            columns = {
                name: pyarrow.array([row.get(name) for row in part.rows], types.get(kind))
                for name, kind in part.kinds.items()
            }
            folder = self.path.joinpath(*(f"{n}={quote(v, safe='')}" for n, v in zip(PARTITION, key, strict=True)))
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet"
            half = folder / f".{name}.part"
            try:
                with half.open("wb") as file:
                    pyarrow.parquet.write_table(pyarrow.table(columns), file, compression=self.compression)
                    file.flush()
                    os.fsync(file.fileno())
                half.rename(folder / name)
            except BaseException:  # a full disk is not to be kept full by it
                with contextlib.suppress(OSError):
                    half.unlink(missing_ok=True)
                raise
        del self._parts[key]


class _Part:
    """Rows that wait to become a file, and what kind of values each column has."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.rows: list[Mapping[str, Any]] = []
        self.kinds: dict[str, str] = {}

    def add(self, values: Mapping[str, Any]) -> None:
        """Take a row.

        Raises:
            EmitterError: a value is of a kind that its column, or a file, does not take.
        """
        kinds = dict(self.kinds)
        for name, value in values.items():
            held = kinds.setdefault(name, _KNOWN.get(name, ""))
            kind = _KINDS.get(type(value))
            if value is None:
                continue
            if kind is None or (kind == "int" and not -(1 << 63) <= value < 1 << 63):
                raise EmitterError(f"{name}={value!r} cannot be written to a Parquet file")
            if kind == held or (kind == "int" and held == "float"):
                continue
            if held and not (held == "int" and kind == "float") and (self.rows or name not in _KNOWN):
                raise EmitterError(f"{name}={value!r} is no {held}, as the column's other values are")
            kinds[name] = kind
        self.kinds = kinds
        self.rows.append(values)


def _partition(row: Any, values: Mapping[str, Any]) -> tuple[str, ...]:
    """Source, symbol and timeframe: of the values, else of the row they were made of."""
    found = []
    for name in PARTITION:
        value = values.get(name) or getattr(row, name, None)
        found.append(str(value or ("trade" if name == "timeframe" and isinstance(row, Trade) else "unknown")))
    return tuple(found)
