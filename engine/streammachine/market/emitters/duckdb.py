"""DuckDBEmitter: candles into a table of a DuckDB file, upserted by source, symbol, timeframe and open_ts.

Each batch is one statement and one transaction, which DuckDB has on the disk before it returns, so a killed process
leaves the batch or nothing of it, and the same batch again changes nothing. One process at a time may have the file
open (https://duckdb.org/docs/stable/connect/concurrency); it is kept open from ``connect`` to ``close``.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio.to_thread

from streammachine.errors import EmitterError, EmitterUnavailableError
from streammachine.market.emitters.base import DataEmitter, RowsRefusedError, Transformer, extra_missing, values_of
from streammachine.market.emitters.sink_text import SinkText
from streammachine.market.model.kline import Kline
from streammachine.market.model.rows import Lane, Row, named

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

    from streammachine.market.model.kline_columns import KlineColumns

T = TypeVar("T")

TABLE: Final = "klines"
KEY: Final = ("source", "symbol", "timeframe", "open_ts")
CLOSED: Final = "is_closed"  # a row where this is true is not overwritten by one where it is not
BATCH: Final = "sm_batch"  # the name under which DuckDB sees a frame
TYPES: Final = {
    **dict.fromkeys(("source", "symbol", "timeframe", "origin"), "VARCHAR"),
    **dict.fromkeys(("open_ts", "end_ts", "n_trades"), "BIGINT"),
    **dict.fromkeys(("open", "high", "low", "close", "volume", "quote_volume", "vwap"), "DOUBLE"),
    **dict.fromkeys(("is_closed", "is_complete", "estimated"), "BOOLEAN"),
}
_TABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_HELD = re.compile(r"Conflicting lock is held in (.*?)(?: \(PID (\d+)\))?\.? See also")


class DuckDBEmitter(DataEmitter):
    """Writes candles into a table of a DuckDB file.

    The table is made if it is not there: a candle's fields, the four of the key as primary key. One that is there must
    have that key; what a row has beside its columns is left out. A transformer comes first. A candle with is_closed
    true is never overwritten by one that is not closed. Trades and gaps are left out, unless a transformer makes
    candles of them.

    Args:
        path: the file; its folder must exist. table: letters, digits and _.

    Raises:
        EmitterError: an argument is not accepted; from ``connect``: the library is missing, the file is open in another
            process, is no DuckDB file or cannot be written, or its table has another key.
    """

    batch_size = 5_000

    def __init__(
        self,
        path: str | os.PathLike[str],
        table: str = TABLE,
        *,
        transformer: Transformer | None = None,
        name: str = "duckdb",
    ) -> None:
        if not _TABLE_NAME.fullmatch(table):
            raise EmitterError(f"the table name {table!r} is not accepted: give letters, digits and _")
        if str(path).startswith(":") or not str(path).strip():
            raise EmitterError(f"path={str(path)!r} is not accepted: give a file, e.g. candles.duckdb")
        self.path = Path(path).expanduser()
        self.table = table
        self.name = name
        self.transformer = transformer
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._taken = False  # it could be used once: what fails from then on may pass
        self._types: dict[str, str] = {}  # of the table's columns
        self._required: set[str] = set()

    @property
    def target(self) -> str:
        """Where the rows go."""
        return f"duckdb:{self.path.absolute()}#{self.table}"

    def wants(self, row: Row) -> bool:
        """Candles; others for a transformer only."""
        return self.transformer is not None or isinstance(row, Kline)

    # -- life cycle ---------------------------------------------------------------------------

    async def connect(self) -> None:
        """Open the file; make the table, or see that it has the key."""
        try:
            import duckdb  # noqa: F401 - that it is there
        except ImportError as error:
            raise extra_missing("sql", error) from error
        if not self.path.absolute().parent.is_dir():
            raise EmitterError(
                f"{self.path} cannot be written: the folder {self.path.absolute().parent} does not exist"
            )
        await anyio.to_thread.run_sync(self._open)
        self._taken = True

    async def expect(self, lanes: Sequence[Lane]) -> None:
        """Refuse what are trades only."""
        if self.transformer is None and lanes and all(lane.timeframe is None for lane in lanes):
            raise EmitterError(
                f"{self.path} gets candles, and only trades are going to come: give DuckDBEmitter a transformer that "
                "makes candles of them, or another sink"
            )

    async def emit(self, row: Any) -> None:
        """Write one row: a Kline, or a dict as a transformer makes it."""
        await self.emit_batch([row])

    async def emit_batch(self, rows: Sequence[Row]) -> None:
        """Write the rows in one transaction: all that fit the table."""
        refused: dict[int, Exception] = {}
        kept: dict[tuple[Any, ...], Mapping[str, Any]] = {}
        for at, row in enumerate(rows):
            made = row if isinstance(row, Mapping) else self.transformed(row)
            if made is None:
                continue
            values = values_of(made)
            if lacking := self._lacking(values):
                refused[at] = EmitterError(f"{named(row)}: the table {self.table} needs {', '.join(lacking)}")
                continue
            key = tuple(values[name] for name in KEY)
            before = kept.get(key)
            if before is None or before.get(CLOSED) is not True or values.get(CLOSED) is True:
                kept[key] = values
        if kept:
            await anyio.to_thread.run_sync(self._tried, self._write, list(kept.values()))
        if refused:
            raise RowsRefusedError(refused)

    async def emit_columns(self, columns: KlineColumns) -> None:
        """Write candles in columns in one transaction."""
        await anyio.to_thread.run_sync(self._tried, self._write_columns, columns)

    async def close(self) -> None:
        """Close the file."""
        self._taken = False
        connection, self._connection = self._connection, None
        if connection is not None:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(connection.close)

    # -- in a thread --------------------------------------------------------------------------

    def _open(self) -> duckdb.DuckDBPyConnection:
        if self._connection is not None:
            return self._connection
        import duckdb

        try:
            connection = duckdb.connect(str(self.path))
        except duckdb.Error as error:
            raise self._translated(error) from error
        try:
            fields = ", ".join(f"{name} {TYPES[name]}" for name in Kline.model_fields)
            connection.execute(f"CREATE TABLE IF NOT EXISTS {self.table} ({fields}, PRIMARY KEY ({', '.join(KEY)}))")
            self._look(connection)
        except BaseException as error:
            connection.close()
            if isinstance(error, duckdb.Error):
                raise self._translated(error) from error
            raise
        self._connection = connection
        return connection

    def _look(self, connection: duckdb.DuckDBPyConnection) -> None:
        """See what columns and keys the table has."""
        found = connection.execute(
            "SELECT column_name, data_type, is_nullable, column_default FROM duckdb_columns() "
            "WHERE table_name = ? AND schema_name = current_schema() AND database_name = current_database()",
            [self.table],
        ).fetchall()
        keys = connection.execute(
            "SELECT constraint_column_names FROM duckdb_constraints() WHERE table_name = ? AND "
            "schema_name = current_schema() AND constraint_type IN ('PRIMARY KEY', 'UNIQUE')",
            [self.table],
        ).fetchall()
        if not any(set(columns) == set(KEY) for (columns,) in keys):
            raise EmitterError(
                f"the table {self.table} of {self.path} has no primary key of {', '.join(KEY)}, by which candles are "
                "told apart: name another table, which is then made"
            )
        self._types = {name: kind for name, kind, _, _ in found}
        self._required = {name for name, _, can_be_null, default in found if not can_be_null and default is None}
        if self.transformer is None and (lacking := self._required - set(Kline.model_fields)):
            raise EmitterError(
                f"the table {self.table} of {self.path} needs {', '.join(sorted(lacking))}, which candles do not have: "
                "set a transformer that adds it, or give the column a default"
            )

    def _lacking(self, values: Mapping[str, Any]) -> list[str]:
        return [name for name in dict.fromkeys((*KEY, *sorted(self._required))) if values.get(name) is None]

    def _tried(self, write: Callable[[duckdb.DuckDBPyConnection, T], None], what: T) -> None:
        import duckdb

        connection = self._open()
        try:
            write(connection, what)
        except duckdb.Error as error:
            translated = self._translated(error)
            if isinstance(translated, EmitterUnavailableError):  # opened anew at the next try
                self._connection = None
                connection.close()
            raise translated from error

    def _write(self, connection: duckdb.DuckDBPyConnection, rows: list[Mapping[str, Any]]) -> None:
        """The rows, which have different keys, by what fields they have."""
        runs: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
        for row in rows:
            runs.setdefault(tuple(name for name in self._types if name in row), []).append(row)
        connection.begin()
        try:
            for names, run in runs.items():
                values = ", ".join(f"unnest(${at}::{self._types[name]}[])" for at, name in enumerate(names, 1))
                connection.execute(self._upsert(names, f"SELECT {values}"), [[row[n] for row in run] for n in names])
            connection.commit()
        except BaseException:
            _rolled_back(connection)
            raise

    def _write_columns(self, connection: duckdb.DuckDBPyConnection, columns: KlineColumns) -> None:
        import numpy as np
        import pandas as pd

        found = {name: value for name, value in columns.columns().items() if name in self._types}
        same = {name: value for name, value in found.items() if not isinstance(value, np.ndarray)}
        frame: pd.DataFrame = pd.DataFrame({name: value for name, value in found.items() if name not in same})
        values = ", ".join(f"${name}" if name in same else f'"{name}"' for name in found)
        connection.register(BATCH, frame)
        try:
            connection.execute(self._upsert(tuple(found), f"SELECT {values} FROM {BATCH}"), same)
        finally:
            connection.unregister(BATCH)

    def _upsert(self, names: Sequence[str], rows: str) -> str:
        listed = ", ".join(map(_quoted, names))
        changed = [name for name in names if name not in KEY]
        text = f"INSERT INTO {self.table} ({listed}) {rows} ON CONFLICT ({', '.join(KEY)}) DO "
        if not changed:
            return f"{text}NOTHING"
        changes = ", ".join(f"{_quoted(name)} = excluded.{_quoted(name)}" for name in changed)
        guard = f" WHERE {self.table}.{CLOSED} IS NOT TRUE OR excluded.{CLOSED} IS TRUE" if CLOSED in names else ""
        return f"{text}UPDATE SET {changes}{guard}"

    def _translated(self, error: duckdb.Error) -> EmitterError:
        """Our error for one of DuckDB's."""
        import duckdb

        said = str(error).split("\n", 1)[0]
        if held := _HELD.search(said):
            text = (
                f"{self.path} is open in another process ({f'PID {held[2]}, ' if held[2] else ''}{held[1]}): DuckDB "
                "lets one at a time have a file open. End that one, or give another file"
            )
        else:
            text = f"DuckDB at {self.path}: {said}"
        passing = (duckdb.IOException, duckdb.FatalException, duckdb.ConnectionException, duckdb.TransactionException)
        if self._taken and isinstance(error, passing):
            return EmitterUnavailableError(text)
        return EmitterError(text)


def _rolled_back(connection: duckdb.DuckDBPyConnection) -> None:
    import duckdb

    with contextlib.suppress(duckdb.Error):  # it broke, which is what is being dealt with
        connection.rollback()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def from_text(text: SinkText) -> DuckDBEmitter:
    """The emitter that ``duckdb:FILE`` or ``duckdb:FILE#TABLE`` means.

    Raises:
        EmitterError: the table's name is not accepted.
    """
    path, hash_, table = text.rest.rpartition("#")
    if not hash_ or "/" in table or os.sep in table:  # a folder's name may hold one
        return DuckDBEmitter(text.rest)
    if not path or not table:
        raise text.refused("duckdb:FILE#TABLE")
    return DuckDBEmitter(path, table)
