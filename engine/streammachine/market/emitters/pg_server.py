"""A PostgreSQL server as the emitter meets it: its URL, what it says, and what to do about it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from streammachine.errors import EmitterError
from streammachine.market.emitters.base import extra_missing

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy.engine import URL

REFUSED = re.compile(
    r"password authentication failed|authentication failed|no password supplied|does not exist|no pg_hba\.conf entry"
    r"|not permitted to log in|permission denied|invalid (port|connection option|sslmode)",
)
_COLUMN = re.compile(r"(?:column|Spalte|colonne|columna) ([^:,]+)", re.IGNORECASE)
RIGHTS = (
    "The user needs CONNECT and TEMPORARY on the database, USAGE on the schema, SELECT and INSERT on the table, UPDATE "
    "on it where rows are updated, USAGE on the sequence of a running number, CREATE on the schema for "
    "from_model_create_table"
)


def advice(error: BaseException) -> str:
    """What to do next, where one knows."""
    errors = server_errors()
    if isinstance(error, errors.UndefinedTable):
        return ". Create it, or give from_model_create_table=True."
    if isinstance(error, errors.InvalidColumnReference):
        return ". The columns of on_conflict need a unique constraint or index of their own."
    if isinstance(error, errors.InsufficientPrivilege):
        return "" if of_the_row(error) else f". {RIGHTS}."
    if isinstance(error, errors.NumericValueOutOfRange):
        found = _COLUMN.search(error.diag.context or "")
        column = f"the column {found[1]}" if found else "the column"
        place = error.diag.source_function or ""
        if "apply_typmod" in place:  # Numeric(precision, scale)
            return f". Give {column} more precision, Numeric() without any, or Double."
        if re.search(r"int\d|strtoint", place):
            return f". Make {column} BigInteger: times are milliseconds."
        return f". Make {column} Double, or Numeric()."
    return ""


def of_the_row(error: BaseException) -> bool:
    """Whether the server refuses a row, and not us or the table (SQLSTATE classes, appendix A of its manual)."""
    errors = server_errors()
    state = getattr(error, "sqlstate", None)
    if state is None:
        return isinstance(error, errors.DataError)  # psycopg itself
    if isinstance(error, errors.InsufficientPrivilege):  # it is also what a row-level security policy says of a row
        return bool(error.diag.source_function == "ExecWithCheckOptions")
    # the same key twice, data, constraints, WITH CHECK OPTION, a trigger of the user's, too large for an index
    return state[:2] in ("21", "22", "23", "44", "54", "P0")


async def first_row(connection: psycopg.AsyncConnection[Any], query: str) -> tuple[str, ...]:
    """The first row, as text."""
    cursor = await connection.execute(query.encode())
    return tuple(str(value) for value in await cursor.fetchone() or ())


def server_errors() -> Any:
    """psycopg's errors, imported on first use: the extra may not be installed."""
    import psycopg.errors

    return psycopg.errors


def error_text(error: BaseException) -> str:
    """What the server (or libpq) said, in one line."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    diagnosis = getattr(error, "diag", None)
    text = (diagnosis.message_primary if diagnosis is not None else None) or str(error) or type(error).__name__
    detail = diagnosis.message_detail if diagnosis is not None else None
    return " ".join(f"{text} {detail or ''}".split())


def url_of(
    url: str | URL | None, host: str | None, dbname: str | None, user: str | None, password: str | None, port: int
) -> URL:
    """The URL, from one or from its parts."""
    try:
        import psycopg  # noqa: F401 - that it is there is seen at once, not at the first row
        from sqlalchemy.engine import URL, make_url
        from sqlalchemy.exc import ArgumentError
    except ImportError as error:
        raise extra_missing("postgres", error) from error
    if url is None:
        if host and "://" in host:
            raise EmitterError("host is a URL: give it by name, PostgresEmitter(url='postgresql://...')")
        if not host or not dbname:
            raise EmitterError("PostgresEmitter needs url, or host and dbname (and user, password, port)")
        if (
            not str(port).isdecimal() or not 0 < int(port) < 65536
        ):  # what was given is not shown: it may be the password
            raise EmitterError("port must be a number up to 65535: the order is host, dbname, user, password, port")
        socket = host.startswith("/")
        return URL.create(
            *("postgresql", user, password, None if socket else host, int(port), dbname),
            query={"host": host} if socket else {},
        )
    try:
        made = make_url(url)
    except (ArgumentError, ValueError):
        raise EmitterError("the url cannot be read: give postgresql://user:password@host:5432/dbname") from None
    if made.drivername.partition("+")[0] not in ("postgresql", "postgres"):
        raise EmitterError(f"{made.drivername}:// is no PostgreSQL: give postgresql://user:password@host:5432/dbname")
    return made.set(drivername="postgresql")


def parameters(url: URL) -> dict[str, Any]:
    """The URL as libpq's parameters."""
    options = {name: value if isinstance(value, str) else ",".join(value) for name, value in url.query.items()}
    ssl = options.pop("ssl", None)  # as asyncpg calls it
    if ssl is not None:
        options.setdefault("sslmode", {"true": "require", "false": "disable"}.get(ssl.lower(), ssl))
    own = {"host": url.host, "port": url.port, "user": url.username, "password": url.password, "dbname": url.database}
    return {**{name: value for name, value in own.items() if value is not None}, **options}
