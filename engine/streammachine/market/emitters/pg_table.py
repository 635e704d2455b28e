"""What a SQLAlchemy model says to the PostgreSQL emitter: columns, keys, statements, and values as COPY text.

Rows go by COPY into a temporary table and from there by one INSERT .. SELECT .. ON CONFLICT into the model's table.
COPY's text format (tab, newline and backslash escaped, \\N for NULL) is described at
https://www.postgresql.org/docs/current/sql-copy.html
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any

import orjson
import sqlalchemy
from psycopg.adapt import PyFormat, Transformer
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.orm import Mapper

from streammachine.errors import EmitterError

Encoder = Callable[[Any], str]

STAGE = "pg_temp.sm_stage"
CLOSED = "is_closed"  # a row where this is true is not overwritten by one where it is not
NULL = "\\N"
_ESCAPES = str.maketrans({"\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"})
_DIALECT: Any = PGDialect_psycopg()  # type: ignore[no-untyped-call]


class PgTable:
    """A model's table.

    Args:
        model: a declarative class, or a Table.
        conflict: columns that make a row one (None: the primary key where rows bring it, else a unique constraint that
            they bring). update: columns that an existing row takes over from a new one; None: all; empty: none.

    Attributes:
        required: the columns that every row must bring.

    Raises:
        EmitterError: the model is none, or has no such column.
    """

    def __init__(self, model: Any, conflict: Sequence[Any] | None = None, update: Sequence[Any] | None = None) -> None:
        self.table, self._names = _table_of(model)  # names: of attributes and columns, to those of columns
        self.name = str(_DIALECT.identifier_preparer.format_table(self.table))
        self.columns = {column.name: column for column in self.table.columns if column.computed is None}
        self._conflict = tuple(self.column_name(item) for item in conflict) if conflict is not None else None
        self._update = tuple(self.column_name(item) for item in update) if update is not None else None
        self._encoders = {name: _encoder(column) for name, column in self.columns.items()}
        self._defaults = {n: made for n, column in self.columns.items() if (made := _default(column)) is not None}
        self._plans: dict[tuple[str, ...], WritePlan] = {}
        self.required = frozenset(
            name
            for name, column in self.columns.items()
            if not column.nullable
            and name not in self._defaults
            and column.server_default is None
            and column.identity is None
            and column is not self.table.autoincrement_column
        )

    def has(self, name: str) -> bool:
        """Whether an attribute or a column has this name."""
        return name in self._names

    def column_name(self, item: Any) -> str:
        """The column that an attribute, a name or a column means."""
        key = item if isinstance(item, str) else getattr(item, "key", None)
        if key in self._names:
            return self._names[key]
        raise EmitterError(f"{self.table.name} has no column {key or item}: it has {', '.join(self._names)}")

    def create_stage(self) -> str:
        """The statement for the temporary table: the columns' types, and none of their constraints."""
        return (
            f"CREATE TEMPORARY TABLE IF NOT EXISTS {STAGE.removeprefix('pg_temp.')} ON COMMIT DELETE ROWS "
            f"AS SELECT {_listed(self.columns)} FROM {self.name} WITH NO DATA"
        )

    def plan(self, fields: tuple[str, ...]) -> WritePlan:
        """How rows with these fields are written.

        Raises:
            EmitterError: a column that must have a value, or is part of the key, is missing; the text names it.
        """
        plan = self._plans.get(fields)
        if plan is None:
            if len(self._plans) > 1000:  # a transformer that makes ever new fields
                self._plans.clear()
            plan = self._plans[fields] = self._made_plan(fields)
        return plan

    def _made_plan(self, fields: tuple[str, ...]) -> WritePlan:
        brought = {self._names[name]: name for name in fields if self._names.get(name) in self.columns}
        defaults = {name: made for name, made in self._defaults.items() if name not in brought}
        missing = self.required - brought.keys()
        if missing:
            raise EmitterError(
                f"{self.table.name} needs {', '.join(sorted(missing))}, which the row does not have (it has "
                f"{', '.join(fields)}): let a transformer add it, or give the column a default"
            )
        if not brought:
            raise EmitterError(f"{self.table.name} has none of the row's fields ({', '.join(fields)})")
        key = self._key(brought.keys())
        columns = (*brought, *defaults)
        changed = brought.keys() - set(key) - self._defaults.keys() if self._update is None else set(self._update)
        return WritePlan(
            table=self.name,
            columns=columns,
            fields=tuple(brought.values()),
            defaults=tuple(defaults.values()),
            encoders=tuple(self._encoders[name] for name in columns),
            key=key,
            update=tuple(name for name in columns if name in changed),
        )

    def _key(self, brought: Set[str]) -> tuple[str, ...]:
        """The columns that make a row one; none: nothing tells rows apart."""
        if self._conflict is not None:
            if missing := set(self._conflict) - brought:
                raise EmitterError(
                    f"{self.table.name} tells rows apart by {', '.join(self._conflict)}: the row has no "
                    f"{', '.join(sorted(missing))}"
                )
            return self._conflict
        keys = [tuple(column.name for column in self.table.primary_key.columns)]
        keys += sorted(
            tuple(column.name for column in constraint.columns)
            for constraint in self.table.constraints
            if isinstance(constraint, sqlalchemy.UniqueConstraint)
        )
        keys += sorted(
            tuple(column.name for column in index.columns)
            for index in self.table.indexes
            if index.unique and not index.dialect_kwargs
        )
        return next((key for key in keys if key and set(key) <= brought), ())


@dataclass(frozen=True)
class WritePlan:
    """How rows with the same fields become rows of the table.

    Attributes:
        columns: those written. fields: where their values stand in a row, ``defaults`` for the rest of them.
        key: what makes a row one; none: nothing. update: what an existing row takes over.
    """

    table: str
    columns: tuple[str, ...]
    fields: tuple[str, ...]
    defaults: tuple[Callable[[], Any], ...]
    encoders: tuple[Encoder, ...]
    key: tuple[str, ...]
    update: tuple[str, ...]

    @cached_property
    def _take(self) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
        return _getter(self.fields)

    @cached_property
    def copy(self) -> str:
        """COPY into the temporary table."""
        return f"COPY {STAGE} ({_listed(self.columns)}) FROM STDIN"

    @cached_property
    def insert(self) -> str:
        """From the temporary table into the model's."""
        listed = _listed(self.columns)
        text = f"INSERT INTO {self.table} AS kept ({listed}) SELECT {listed} FROM {STAGE}"
        if not self.key:
            return text
        text += f" ON CONFLICT ({_listed(self.key)}) DO "
        if not self.update:
            return text + "NOTHING"
        changes = ", ".join(f"{_quoted(name)} = EXCLUDED.{_quoted(name)}" for name in self.update)
        guard = f" WHERE kept.{CLOSED} IS NOT TRUE OR EXCLUDED.{CLOSED} IS TRUE" if CLOSED in self.columns else ""
        return f"{text}UPDATE SET {changes}{guard}"

    @cached_property
    def insert_noting(self) -> str:
        """As ``insert``, and gives the transaction's number, and the table and place of the first row."""
        return (
            f"WITH new AS ({self.insert} RETURNING tableoid, ctid) "
            "SELECT txid_current()::text, tableoid::text, ctid::text FROM new LIMIT 1"
        )

    def stands(self, table: str, place: str) -> str:
        """Whether what stands at the place is one of the rows in the temporary table."""
        here, there = (", ".join(f"{name}.{_quoted(column)}" for column in self.columns) for name in ("kept", "new"))
        return (
            f"SELECT EXISTS (SELECT FROM {self.table} AS kept, {STAGE} AS new WHERE kept.tableoid = {int(table)} "
            f"AND kept.ctid = '{place}' AND ROW({here})::text = ROW({there})::text)::text"
        )

    def row(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """The values of the columns."""
        taken = self._take(values)
        return (*taken, *(default() for default in self.defaults)) if self.defaults else taken

    def without_repeats(self, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """One row for each key: the last, but a closed one before any that is not. (ON CONFLICT meets no row twice.)"""
        if not self.key or not self.update:
            return rows
        key_of = _getter(tuple(self.columns.index(name) for name in self.key))
        kept = {key_of(row): row for row in rows}
        if len(kept) == len(rows) or CLOSED not in self.columns:
            return list(kept.values())
        closed = self.columns.index(CLOSED)
        for row in rows:  # of several closed ones the last
            if row[closed] is True:
                kept[key_of(row)] = row
        return list(kept.values())

    def encode(self, rows: Sequence[tuple[Any, ...]]) -> str:
        """The rows as COPY text.

        Raises:
            EmitterError: a value cannot be written into its column.
        """
        columns = zip(*rows, strict=True)
        texts = [_column(encode, column) for encode, column in zip(self.encoders, columns, strict=True)]
        return "\n".join(map("\t".join, zip(*texts, strict=True))) + "\n"


def _getter(keys: tuple[Any, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """As itemgetter, but a tuple for one key too."""
    if len(keys) == 1:
        (key,) = keys
        return lambda values: (values[key],)
    return itemgetter(*keys)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(_quoted(name) for name in names)


def _quoted(name: str) -> str:
    return str(_DIALECT.identifier_preparer.quote(name))


def _table_of(model: Any) -> tuple[sqlalchemy.Table, dict[str, str]]:
    if isinstance(model, sqlalchemy.Table):
        return model, {column.name: column.name for column in model.columns}
    mapper = sqlalchemy.inspect(model, raiseerr=False)
    if not isinstance(mapper, Mapper) or not isinstance(mapper.local_table, sqlalchemy.Table):
        raise EmitterError(f"{model!r} is no SQLAlchemy model: give a declarative class, or a Table")
    table = mapper.local_table
    names = {column.name: column.name for column in table.columns}
    names |= {
        attribute.key: attribute.columns[0].name
        for attribute in mapper.column_attrs
        if attribute.columns[0].table is table
    }
    return table, names


def _default(column: sqlalchemy.Column[Any]) -> Callable[[], Any] | None:
    """What the model itself puts into a column that a row does not bring; None where that is the server's business."""
    default: Any = column.default
    if default is None:
        return None
    if default.is_scalar:
        value = default.arg
        return lambda: value
    if default.is_callable:
        return lambda: default.arg(None)
    return None


# -- values as text ---------------------------------------------------------------------------


def _escaped(value: str) -> str:
    if "\x00" in value:
        raise EmitterError(f"PostgreSQL text holds no NUL character: {value[:100]!r}")
    return value.translate(_ESCAPES)


_PLAIN: dict[type, Encoder] = {
    float: repr,
    int: str,
    str: _escaped,
    bool: lambda value: "t" if value else "f",
    type(None): lambda value: NULL,
    decimal.Decimal: str,
    datetime.datetime: str,
    datetime.date: str,
    uuid.UUID: str,
}


def _text(value: Any) -> str:
    encode = _PLAIN.get(type(value))
    return encode(value) if encode is not None else _other(value)


def _other(value: Any) -> str:
    """Anything else, as psycopg writes it."""
    transformer = Transformer()
    try:
        dumped = transformer.get_dumper(value, PyFormat.TEXT).dump(value)
    except Exception as error:
        raise EmitterError(f"{type(value).__name__} cannot be written into a column: {error}") from error
    return NULL if dumped is None else _escaped(bytes(dumped).decode())


def _column(encode: Encoder, values: tuple[Any, ...]) -> Iterable[str]:
    """The texts of one column, fast where its values are of one type: a batch has tens of thousands of them."""
    kinds = set(map(type, values))
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is type(None):
        return [NULL] * len(values)
    if (kind is float and encode is _text) or (kind is int and encode in (_text, _whole)):
        try:
            texts = orjson.dumps(values)[1:-1].decode().split(",")
        except TypeError:  # a number of more than 64 bits
            return map(encode, values)
        return texts if "null" not in texts else map(encode, values)  # not a number
    if kind in (str, bool) and encode in (_text, _whole):
        known = {value: encode(value) for value in set(values)}
        return [known[value] for value in values]
    return map(encode, values)


def _encoder(column: sqlalchemy.Column[Any]) -> Encoder:
    kind = column.type
    if isinstance(kind, sqlalchemy.Integer):
        return _whole
    if isinstance(kind, sqlalchemy.DateTime):
        return _moment_aware if kind.timezone else _moment_naive
    if isinstance(kind, sqlalchemy.Float | sqlalchemy.Numeric | sqlalchemy.String | sqlalchemy.Boolean) and not (
        isinstance(kind, sqlalchemy.Enum)
    ):
        return _text
    process = kind.dialect_impl(_DIALECT).bind_processor(_DIALECT)
    if process is None:
        return _text
    return lambda value: _text(process(value))


def _whole(value: Any) -> str:
    if type(value) is float and value.is_integer():
        return str(int(value))  # 5.0, as a transformer may compute it
    return _text(value)


def is_plain_number(encode: Encoder, *, is_whole: bool = True) -> bool:
    """Whether it writes numbers (``is_whole``: integers) as they are."""
    return encode is _text or (encode is _whole and is_whole)


def is_time(encode: Encoder) -> bool:
    """Whether it writes epoch milliseconds as a time, and floats as they are."""
    return encode in (_moment_aware, _moment_naive, _whole)


def _moment_aware(value: Any) -> str:
    """Epoch milliseconds are what our rows have; the column wants a time."""
    if type(value) is int:
        return _moment_naive(value) + "+00"
    return _text(value)


def _moment_naive(value: Any) -> str:
    """As UTC."""
    if type(value) is int:
        return str(datetime.datetime(1970, 1, 1) + datetime.timedelta(milliseconds=value))
    return _text(value)
