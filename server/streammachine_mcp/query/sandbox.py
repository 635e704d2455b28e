"""DuckDB with nothing but the tables that it is given: no files, no network, no extensions, no settings.

Fields of streams are text. A column whose every value is a number (true or false) becomes BIGINT, HUGEINT or DOUBLE
(BOOLEAN), so that a query can calculate; a text with leading zeros, or of more digits than those hold, stays text.
"""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
from typing import TYPE_CHECKING, Any

from streammachine_mcp.query.plan import QueryError

if TYPE_CHECKING:
    import pandas as pd
    from duckdb import DuckDBPyConnection

MEMORY = "400MB"  # DuckDB's own part of what the process may have
THREADS = 2
MOST_BYTES = 55_000  # of the rows of an answer as JSON; the rest of it fits into 60 kB with them
MOST_COLUMNS = 200
VALUE_CHARS = 4000  # of one value
MOST_ERROR = 600  # characters
_SAMPLE = 1000  # rows from which the types of columns are guessed
_CHUNK = 50  # rows fetched at once
_ZONED = "TIMESTAMP WITH TIME ZONE"
_SAFE_INTEGER = 2**53  # beyond it JSON readers round


def opened() -> DuckDBPyConnection:
    """A database in memory that cannot reach anything else."""
    import duckdb

    config: dict[str, Any] = {
        "enable_external_access": "false",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "allow_community_extensions": "false",
        "python_enable_replacements": "false",
        "memory_limit": MEMORY,
        "threads": str(THREADS),
        "temp_directory": "",
    }
    connection = duckdb.connect(":memory:", config=config)
    connection.execute("SET TimeZone = 'UTC'").fetchall()
    connection.execute("SET lock_configuration = true").fetchall()
    return connection


def warm_up() -> None:
    """Load what a query loads: pandas and its text columns, DuckDB's readers of them."""
    import pandas as pd

    connection = opened()
    frame = pd.DataFrame({"a": ["1", "2"], "b": ["x", None]})
    load(connection, "t0", frame)
    run(connection, "SELECT a, count(b) FROM t0 GROUP BY a ORDER BY a", 10)
    connection.close()


def load(connection: DuckDBPyConnection, name: str, frame: pd.DataFrame) -> list[str]:
    """Make a table (a view) of a frame; gives its columns."""
    frame = frame.copy(deep=False)
    for column in frame.columns:
        if frame[column].dtype == object:
            frame[column] = [_text(value) for value in frame[column]]
    frame.columns = _unique([_text(column) or "_" for column in frame.columns])
    source = f"frame_{name}"
    connection.register(source, frame)  # which is read where it is, without a copy
    described = connection.execute(f"DESCRIBE {source}").fetchall()
    texts = [str(row[0]) for row in described if row[1] == "VARCHAR" and row[0] not in ("id", "stream", "symbol")]
    types = _types(connection, source, texts)
    wanted = ", ".join(
        f"TRY_CAST({_quoted(title)} AS {types[title]}) AS {_quoted(title)}" if title in types else _quoted(title)
        for title in (str(row[0]) for row in described)
    )
    connection.execute(f"CREATE VIEW {name} AS SELECT {wanted} FROM {source}").fetchall()
    return list(frame.columns)


def _types(connection: DuckDBPyConnection, source: str, texts: list[str]) -> dict[str, str]:
    """What all values of a column of texts are, where they are no texts: guessed from the first rows, then checked."""
    guessed = _checked_types(connection, f"(SELECT * FROM {source} LIMIT {_SAMPLE})", texts)
    return _checked_types(connection, source, list(guessed))


def _checked_types(connection: DuckDBPyConnection, rows: str, texts: list[str]) -> dict[str, str]:
    if not texts:
        return {}
    checks = []
    for title in texts:
        name = _quoted(title)
        number = f"TRY_CAST({name} AS DOUBLE)"
        digits = f"ltrim({name}, '+-')"
        zeros = f"{digits}[1] = '0' AND {digits}[2] BETWEEN '0' AND '9'"
        fraction = f"contains({name}, '.') OR contains({name}, 'e') OR contains({name}, 'E')"
        checks += [
            f"count({name})",
            f"count({number}) FILTER (NOT ({zeros}))",
            f"count({name}) FILTER ({fraction} OR NOT isfinite({number}))",
            f"count({name}) FILTER ({name} IN ('true', 'false'))",
            f"count(TRY_CAST({name} AS BIGINT))",
            f"count(TRY_CAST({name} AS HUGEINT))",
        ]
    row = connection.execute(f"SELECT {', '.join(checks)} FROM {rows}").fetchall()[0]
    found: dict[str, str] = {}
    for place, title in enumerate(texts):
        values, numbers, fractions, truths, small, large = row[6 * place : 6 * place + 6]
        if values and numbers == values:
            if fractions:
                found[title] = "DOUBLE"
            elif large == values:  # whole numbers stay what they are: two long ids are not one; longer ones stay text
                found[title] = "BIGINT" if small == values else "HUGEINT"
        elif values and truths == values:
            found[title] = "BOOLEAN"
    return found


def run(connection: DuckDBPyConnection, sql: str, limit: int) -> dict[str, Any]:
    """Run a checked query; gives columns, types, count and truncated."""
    described = [(str(row[0]), str(row[1])) for row in connection.execute(f"DESCRIBE {sql}").fetchall()]
    if len(described) > MOST_COLUMNS:
        raise QueryError(
            f"The result has {len(described)} columns; at most {MOST_COLUMNS} are given. Name those you need."
        )
    titles = _unique([name for name, _ in described])
    result = connection.execute(_without_zones(sql, [kind for _, kind in described]))
    rows: list[list[Any]] = []
    used, more = sum(len(title) + 10 for title in titles), False
    while not more:
        page = result.fetchmany(_CHUNK)
        if not page:
            break
        for values in page:
            row = [plain(value) for value in values]
            used += sum(len(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")) + 1 for value in row)
            if len(rows) == limit or (rows and used > MOST_BYTES):
                more = True
                break
            rows.append(row)
    if used > MOST_BYTES and len(rows) == 1:  # one row that is too wide by itself
        rows = [[value[:100] if isinstance(value, str) else value for value in rows[0]]]
    return {
        "columns": {title: [row[place] for row in rows] for place, title in enumerate(titles)},
        "types": {title: kind for title, (_, kind) in zip(titles, described, strict=True)},
        "count": len(rows),
        "truncated": more,
    }


def _without_zones(sql: str, kinds: list[str]) -> str:
    """The query with times that have a zone as text in UTC: DuckDB's Python client would need pytz for them."""
    if _ZONED not in kinds:
        return sql
    columns = [
        f"strftime(CAST(#{at} AS TIMESTAMP), '%Y-%m-%dT%H:%M:%S.%gZ')" if kind == _ZONED else f"#{at}"
        for at, kind in enumerate(kinds, 1)
    ]
    return f"SELECT {', '.join(columns)} FROM ({sql})"


def plain(value: Any) -> Any:
    """A value of a result as JSON has it: what is no number, truth value or text is shown as text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < _SAFE_INTEGER else str(value)
    if isinstance(value, decimal.Decimal):
        value = float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        value = bytes(value).hex()
    if isinstance(value, list | tuple | dict):
        value = json.dumps(value, ensure_ascii=False, default=str)
    text = str(value)
    return text if len(text) <= VALUE_CHARS else f"{text[:VALUE_CHARS]}… [cut: {len(text):,} characters in all]"


def sentence(error: Exception, columns: dict[str, list[str]]) -> str:
    """DuckDB's error in one line, without its picture of the query.

    Args:
        columns: of each table that was read, by what the query calls it.
    """
    text = " ".join(str(error).split("\n\nLINE ")[0].split())
    text = text if len(text) <= MOST_ERROR else f"{text[:MOST_ERROR]}…"
    if "column" in text.lower() and columns:
        known = "; ".join(f"{table}: {', '.join(names[:40])}" for table, names in columns.items())
        text = f"{text.rstrip('.')}. The columns are {known[:1500]}."
    return text


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return None if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def _unique(titles: list[str]) -> list[str]:
    """The names, each once for a database that does not tell their cases apart: ``price``, ``Price_1``."""
    found: dict[str, str] = {}
    for title in titles:
        name, number = title, 1
        while name.lower() in found:
            name, number = f"{title}_{number}", number + 1
        found[name.lower()] = name
    return list(found.values())


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
