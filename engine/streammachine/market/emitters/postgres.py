"""PostgresEmitter: rows into the table of a SQLAlchemy model, upserted, each batch in one transaction.

A batch is COPYed into a temporary table and goes from there into the model's by INSERT .. ON CONFLICT (see pg_table).
Where the rows bring a key (``on_conflict``, else the primary key, else a unique constraint) the same batch again
changes nothing, so an outage loses and doubles nothing. Where nothing tells rows apart, the emitter notes the number of
the transaction and where its first row stands (ctid) before it commits. If the connection breaks while it does, the
server is asked afterwards what became of the transaction (txid_status), and whether the row stands there: both, because
a server that crashed gives the number of a lost transaction to another one. What was committed is not sent again.

A candle with is_closed true is never overwritten by one that is not closed, if the model has that column.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.to_thread

from streammachine.errors import EmitterError, EmitterUnavailableError
from streammachine.market.emitters.base import DataEmitter, RowsRefusedError, Transformer, extra_missing, values_of
from streammachine.market.emitters.pg_server import (
    REFUSED,
    advice,
    error_text,
    first_row,
    of_the_row,
    parameters,
    server_errors,
    url_of,
)
from streammachine.market.model.kline import Kline, Trade
from streammachine.market.model.quote import Quote
from streammachine.market.model.rows import Lane, Row, named
from streammachine.masking import mask_url

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy.engine import URL

    from streammachine.market.emitters.pg_table import PgTable, WritePlan
    from streammachine.market.model.kline_columns import KlineColumns

COPIED = 1 << 17  # bytes of columns given to COPY at once
PIECE = 500  # rows given to COPY at once: the server works on them while the next are written


RowKind = type[Kline] | type[Trade] | type[Quote]
_CALLED: dict[RowKind, str] = {Kline: "candles", Trade: "trades", Quote: "quotes"}


def _called(kinds: Collection[type]) -> str:
    return " and ".join(text for kind, text in _CALLED.items() if kind in kinds)


class PostgresEmitter(DataEmitter):
    """Writes rows into the table of a SQLAlchemy model.

    A transformer comes first; what it gives is cut to the model's columns. Epoch milliseconds are written into DateTime
    columns as UTC. A connection pool in front (pgbouncer) must pool sessions.

    The user needs CONNECT and TEMPORARY on the database, USAGE on the schema, SELECT and INSERT on the table, UPDATE on
    it where rows are updated (``upsert``), USAGE on the sequence of a running number, and CREATE on the schema for
    ``from_model_create_table``.

    Once it is connected, a login, right or table that the server refuses is an outage: the rows wait. Only what the
    server says of a row (a value or a constraint) refuses the row.

    Args:
        host, dbname, user, password, port: the server (a host that begins with / is a socket's folder).
        url: instead of them ``postgresql://user:password@host:5432/dbname``; ``postgresql+asyncpg://`` and
            ``+psycopg://`` mean the same.
        upsert: whether a row that is there already is updated; False leaves it as it is.
        index_elements: as ``on_conflict(index_elements)``.
        from_model_create_table: create the table if there is none.
        timeout: seconds for connecting, and for one batch, until the server counts as away.

    Raises:
        EmitterError: an argument is not accepted; from ``connect``: the server refuses user, password or database, the
            table or a column is missing, the model needs what rows do not have. EmitterUnavailableError: no server.
    """

    batch_size = 5_000

    def __init__(
        self,
        host: str | None = None,
        dbname: str | None = None,
        user: str | None = None,
        password: str | None = None,
        port: int = 5432,
        url: str | URL | None = None,
        upsert: bool = True,
        index_elements: Sequence[Any] | None = None,
        from_model_create_table: bool = False,
        transformer: Transformer | None = None,
        name: str = "postgresql",
        *,
        model: Any = None,
        batch_size: int | None = None,
        timeout: float = 30.0,
    ) -> None:
        self.name = name
        self.transformer = transformer
        self.timeout = timeout
        self.upsert = upsert
        self.create_table = from_model_create_table
        if batch_size is not None:
            self.batch_size = batch_size
        self.columns_size = self.batch_size
        self._url = url_of(url, host, dbname, user, password, port)
        self._model: Any = None
        self._keys: Sequence[Any] | None = None
        self._update: Sequence[Any] | None = None
        self._renamed: dict[str, str] = {}
        self._table: PgTable | None = None
        self._wanted: tuple[type, ...] = (Kline, Trade, Quote)
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._taken = False  # the server took us once: what it refuses from then on is an outage
        self._unconfirmed: list[_Unconfirmed] = []
        if model is not None:
            self.set_model(model)
        if index_elements is not None:
            self.on_conflict(index_elements)

    def __repr__(self) -> str:
        return f"PostgresEmitter({self._shown})"

    @property
    def target(self) -> str:
        """Where the rows go, without the password."""
        return f"{self._shown}#{self._table.name if self._table is not None else ''}"

    # -- setting up ---------------------------------------------------------------------------

    def set_model(self, model: Any, inplace: bool = False) -> Self:
        """The model (a declarative class, or a Table) whose table rows go to. Gives the emitter, for chaining.

        Raises:
            EmitterError: it is no model.
        """
        self._model = model
        self._table = self._made_table()
        return self

    def on_conflict(
        self, columns: Sequence[Any] | str, update_columns: Sequence[Any] | None = None, inplace: bool = False
    ) -> Self:
        """Rows that agree in these columns (which must be unique in the table) are one; the later updates the earlier.

        Args:
            update_columns: only these are updated; None: all. inplace: changes nothing, the emitter itself is changed.
        """
        self._keys = [columns] if isinstance(columns, str) else list(columns)
        self._update = None if update_columns is None else list(update_columns)
        if self._model is not None:
            self._table = self._made_table()
        return self

    def on_conflict_do_nothing(self, columns: Sequence[Any] | str | None = None) -> Self:
        """A row that is there already stays as it is."""
        self.upsert = False
        if columns is not None:
            return self.on_conflict(columns)
        if self._model is not None:
            self._table = self._made_table()
        return self

    def register_map(self, columns_map: Mapping[str, str]) -> Self:
        """Rename fields: ours to the model's, e.g. {"open_ts": "opened_at"}. Applied after the transformer."""
        self._renamed = dict(columns_map)
        return self

    def wants(self, row: Row) -> bool:
        """All rows that a transformer may make fit; without one candles or trades, whichever the model is for."""
        return self.transformer is not None or isinstance(row, self._wanted)

    # -- life cycle ---------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect; see that the table, its columns and the key are there."""
        if self._connection is not None:
            return
        if self._table is None:
            raise EmitterError("PostgresEmitter has no model: emitter.set_model(YourModel)")
        self._wanted = (self._kind(),)
        lacking = self._lacks(self._kind())
        if self.transformer is None and lacking:
            raise EmitterError(
                f"the table {self._table.name} needs {', '.join(sorted(lacking))}, which candles do not have: set a "
                "transformer that adds it, or give the column a default"
            )
        if self.create_table:
            await anyio.to_thread.run_sync(self._create_table, abandon_on_cancel=True)
        try:
            await self._opened()
            await self._check_statement()
        except BaseException:
            await self.close()
            raise
        self._taken = True

    async def expect(self, lanes: Sequence[Lane]) -> None:
        """Refuse a table of candles where only trades come, and the other way round."""
        coming = {{None: Trade, "quote": Quote}.get(lane.timeframe, Kline) for lane in lanes}
        if self.transformer is None and coming and coming.isdisjoint(self._wanted):
            wanted, come = _called(self._wanted), _called(coming)
            table = self._table.name if self._table is not None else ""
            raise EmitterError(
                f"the table {table} is for {wanted}, and {come} are going to come: give set_model a model of {come}, "
                "or a transformer"
            )

    async def emit(self, row: Any) -> None:
        """Write one row: a Kline, a Trade, or a dict as a transformer makes it."""
        await self.emit_batch([row])

    async def emit_batch(self, rows: Sequence[Row]) -> None:
        """Write the rows in one transaction. The server refuses all or none; rows that do not fit are refused alone."""
        refused: dict[int, Exception] = {}
        runs: list[tuple[WritePlan, list[tuple[Any, ...]]]] = []  # rows with the same fields, in order
        for at, row in enumerate(rows):
            made = row if isinstance(row, Mapping) else self.transformed(row)
            if made is None:
                continue
            values = self._values(made)
            try:
                plan = self._opened_table().plan(tuple(values))
            except EmitterError as error:
                refused[at] = EmitterError(f"{named(row)}: {error}")
                continue
            if not runs or runs[-1][0] is not plan:
                runs.append((plan, []))
            runs[-1][1].append(plan.row(values))
        if runs:
            connection = await self._opened()
            if not await self._was_committed(connection, rows):
                await self._write(connection, runs, rows)
        if refused:
            raise RowsRefusedError(refused)

    @property
    def takes_columns(self) -> bool:
        """Where the table has a key that tells candles apart, and plain columns for their values."""
        return self._columns_plan() is not None

    async def emit_columns(self, columns: KlineColumns) -> None:
        """Write candles in columns in one transaction; the same again changes nothing."""
        from streammachine.market.emitters.pg_columns import copy_text

        plan = self._columns_plan()
        if plan is None:
            raise EmitterError(f"{self._opened_table().name} takes no candles in columns")
        connection = await self._opened()
        text = await anyio.to_thread.run_sync(copy_text, plan, self._fields(Kline), columns)
        try:
            with anyio.fail_after(self.timeout):
                await connection.execute("BEGIN")
                async with connection.cursor().copy(plan.copy.encode()) as copy:
                    for start in range(0, len(text), COPIED):
                        await copy.write(text[start : start + COPIED])
                await connection.execute(plan.insert.encode())
                await connection.execute("COMMIT")
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await self._undo(connection)
            if isinstance(error, (server_errors().Error, TimeoutError)):
                raise self._translated(error) from error
            raise

    def _columns_plan(self) -> WritePlan | None:
        """How candles in columns are written; None: as rows only."""
        from streammachine.market.emitters.pg_columns import fits

        if self._table is None or Kline not in self._wanted:
            return None
        names = self._fields(Kline)
        try:
            plan = self._table.plan(tuple(names))
        except EmitterError:
            return None
        return plan if fits(plan, names) else None

    async def close(self) -> None:
        """Leave the server."""
        self._taken = False
        await self._leave()

    async def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    # -- writing ------------------------------------------------------------------------------

    def _values(self, made: Any) -> Mapping[str, Any]:
        values = values_of(made)
        if self._renamed:
            return {self._renamed.get(name, name): value for name, value in values.items()}
        return values

    async def _write(
        self,
        connection: psycopg.AsyncConnection[Any],
        runs: Sequence[tuple[WritePlan, list[tuple[Any, ...]]]],
        rows: Sequence[Row],
    ) -> None:
        unconfirmed: _Unconfirmed | None = None
        committing = False
        try:
            with anyio.fail_after(self.timeout):
                await connection.execute("BEGIN")
                for at, (plan, values) in enumerate(runs):
                    if at:
                        await connection.execute("TRUNCATE pg_temp.sm_stage")
                    await self._copy(connection, plan, values)
                    if plan.key or unconfirmed is not None:
                        await connection.execute(plan.insert.encode())
                    else:
                        unconfirmed = _Unconfirmed(
                            list(rows), plan, values, await first_row(connection, plan.insert_noting)
                        )
                committing = True
                await connection.execute("COMMIT")
        except BaseException as error:
            if committing and unconfirmed is not None:
                self._unconfirmed.append(unconfirmed)
            with anyio.CancelScope(shield=True):
                await self._undo(connection)
            if isinstance(error, (server_errors().Error, TimeoutError)):
                raise self._translated(error) from error
            raise

    async def _copy(
        self, connection: psycopg.AsyncConnection[Any], plan: WritePlan, rows: list[tuple[Any, ...]]
    ) -> None:
        wanted = plan.without_repeats(rows)
        cursor = connection.cursor()
        async with cursor.copy(plan.copy.encode()) as copy:
            for start in range(0, len(wanted), PIECE):
                await copy.write(plan.encode(wanted[start : start + PIECE]))

    async def _undo(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Roll back; a connection that does not even do that is given up."""
        if not connection.closed:
            with anyio.move_on_after(5):
                try:
                    await connection.execute("ROLLBACK")
                    return
                except server_errors().Error:
                    pass  # it broke, which is what is being dealt with
        await self._leave()

    async def _was_committed(self, connection: psycopg.AsyncConnection[Any], rows: Sequence[Row]) -> bool:
        """Whether these are the rows of a transaction that was committed though its answer never came."""
        for unconfirmed in self._unconfirmed:
            if len(unconfirmed.rows) == len(rows) and all(a is b for a, b in zip(unconfirmed.rows, rows, strict=True)):
                try:
                    with anyio.fail_after(self.timeout):
                        committed = await self._stands(connection, unconfirmed)
                except (server_errors().Error, TimeoutError) as error:
                    with anyio.CancelScope(shield=True):
                        await self._undo(connection)
                    raise self._translated(error) from error
                self._unconfirmed.remove(unconfirmed)
                return committed
        return False

    async def _stands(self, connection: psycopg.AsyncConnection[Any], unconfirmed: _Unconfirmed) -> bool:
        number, table, place = unconfirmed.place
        try:
            status = await first_row(connection, f"SELECT txid_status({int(number)})")
        except server_errors().InvalidParameterValue:  # no such number was given yet: it was lost in a crash
            return False
        if status == ("in progress",):
            raise EmitterUnavailableError(f"the server at {self._shown} is still committing")
        if status == ("aborted",):
            return False
        await connection.execute("BEGIN")
        await self._copy(connection, unconfirmed.plan, unconfirmed.values)
        found = await first_row(connection, unconfirmed.plan.stands(table, place))
        await connection.execute("ROLLBACK")
        return found == ("true",)

    # -- the connection -----------------------------------------------------------------------

    async def _opened(self) -> psycopg.AsyncConnection[Any]:
        if self._connection is not None and not self._connection.closed:
            return self._connection
        await self._leave()
        import psycopg

        try:
            with anyio.fail_after(self.timeout + 1):
                connection = await psycopg.AsyncConnection.connect(
                    **parameters(self._url), connect_timeout=max(2, int(self.timeout)), autocommit=True
                )
        except (psycopg.Error, TimeoutError) as error:
            text = f"PostgreSQL at {self._shown}: {error_text(error)}"
            if not self._taken and REFUSED.search(str(error)):
                raise EmitterError(f"{text}. Correct user, password or database.") from error
            raise EmitterUnavailableError(text) from error
        try:
            await connection.execute(self._opened_table().create_stage().encode())
        except psycopg.Error as error:
            await connection.close()
            raise self._translated(error) from error
        self._connection = connection
        return connection

    async def _check_statement(self) -> None:
        """Have the server plan the statement: rights, columns and the key are checked before anything starts."""
        plan = self._checked_plan()
        connection = await self._opened()
        try:
            if plan is not None:
                await connection.execute(f"EXPLAIN {plan.insert}".encode())
        except server_errors().Error as error:
            raise self._translated(error) from error

    def _checked_plan(self) -> WritePlan | None:
        """The statement that is going to be used; behind a transformer, whose fields are not known, as far as it is."""
        table = self._opened_table()
        if self.transformer is None:
            return table.plan(tuple(self._fields(self._kind())))
        if self._keys is None:
            return None
        return table.plan(tuple(sorted({*map(table.column_name, self._keys), *table.required})))

    def _create_table(self) -> None:
        import sqlalchemy
        from sqlalchemy.pool import NullPool

        table = self._opened_table().table
        engine = sqlalchemy.create_engine(
            "postgresql+psycopg://", connect_args=parameters(self._url), poolclass=NullPool
        )
        try:
            with engine.begin() as connection:
                table.create(connection, checkfirst=True)
        except sqlalchemy.exc.DBAPIError as error:
            raise self._translated(error.orig or error) from error
        finally:
            engine.dispose()

    # -- helpers ------------------------------------------------------------------------------

    def _made_table(self) -> PgTable:
        try:
            from streammachine.market.emitters.pg_table import PgTable
        except ImportError as error:
            raise extra_missing("postgres", error) from error
        return PgTable(self._model, self._keys, self._update if self.upsert else ())

    def _opened_table(self) -> PgTable:
        if self._table is None:
            raise EmitterError("PostgresEmitter has no model: emitter.set_model(YourModel)")
        return self._table

    def _kind(self) -> RowKind:
        """What the model is for, as far as one can tell."""
        return min(_CALLED, key=lambda kind: len(self._lacks(kind)))

    def _fields(self, kind: RowKind) -> list[str]:
        return [self._renamed.get(name, name) for name in kind.model_fields]

    def _lacks(self, kind: RowKind) -> set[str]:
        """The columns that must have a value and that rows of this kind do not bring."""
        table = self._opened_table()
        return set(table.required) - {table.column_name(name) for name in self._fields(kind) if table.has(name)}

    @property
    def _shown(self) -> str:
        return mask_url(self._url.render_as_string(hide_password=True))

    def _translated(self, error: BaseException) -> EmitterError:
        errors = server_errors()
        text = f"PostgreSQL at {self._shown}: {error_text(error)}{advice(error)}"
        if self._taken:
            return EmitterError(text) if of_the_row(error) else EmitterUnavailableError(text)
        passing = (errors.OperationalError, errors.InterfaceError, errors.ReadOnlySqlTransaction, TimeoutError)
        return EmitterUnavailableError(text) if isinstance(error, passing) else EmitterError(text)


@dataclass(eq=False, slots=True)
class _Unconfirmed:
    """A transaction of rows without a key whose end is not known: number, table and place of its first row."""

    rows: list[Row]
    plan: WritePlan
    values: list[tuple[Any, ...]]
    place: tuple[str, ...]
