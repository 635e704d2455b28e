"""What a query may be, and which tables it names: read from DuckDB's own syntax tree of it.

One SELECT, and nothing in it but tables of ours, sub-queries, and functions that compute. Each table gets a name
of its own in the statement that is run (``t0``, ``t1``), so nothing that the text says can mean anything else, and
names of streams that differ in their case do not clash.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streammachine.errors import StreamMachineError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MOST_SQL = 20_000  # characters
MOST_TABLES = 10
OWN_FUNCTIONS = {
    "stream": "stream('name', 'now-1d', 'now')",
    "candles": "candles('binance', 'BTCUSDT', '1m', 'now-7d', 'now')",
    "aggregator": "aggregator('name', 'BTCUSDT', '1m')",
    "dead_letters": "dead_letters('stream')",
}
_OWN_ARGUMENTS = {"stream": (1, 3), "candles": (3, 5), "aggregator": (3, 3), "dead_letters": (1, 3)}
# Table functions that compute. Every other one reads files, settings, the catalogue or memory, or runs SQL of its own.
_TABLE_FUNCTIONS = {"unnest", "range", "generate_series", "repeat", "json_each", "json_tree"}
# Functions that compute nothing: they read settings, write logs, run SQL or wait.
_REFUSED_FUNCTIONS = {
    *("current_setting", "getenv", "getvariable", "write_log", "query", "query_table", "nextval", "currval"),
    *("sleep_ms", "pg_sleep", "json_execute_serialized_sql", "parse_duckdb_log_message", "current_query"),
}
_REFUSED_PARTS = ("read_", "duckdb_", "pragma_", "_scan")
# From clauses in which a column can be used without being named.
_PLAIN_FROM = {"BASE_TABLE", "JOIN", "SUBQUERY", "TABLE_FUNCTION", "EMPTY", "EXPRESSION_LIST"}
_FROM_TYPES = {*_PLAIN_FROM, "PIVOT", "SHOW_REF", "COLUMN_DATA", "DELIM_GET", "CTE", "BOUND_TABLE_REF"}
_ONLY = "stream_query runs one SELECT (or WITH ... SELECT), which reads; nothing in it changes anything."


class QueryError(StreamMachineError, ValueError):
    """A query is refused, or it failed; the text says what to do."""


@dataclass(frozen=True)
class Table:
    """A table that a query names.

    Attributes:
        name: what it is called in the statement that is run. kind: stream, candles, aggregator or dead_letters.
        arguments: the stream's name, or the arguments of the function.
        columns: the only ones that are needed; None: all.
    """

    name: str
    kind: str
    arguments: tuple[str, ...]
    columns: tuple[str, ...] | None


@dataclass(frozen=True)
class QueryPlan:
    """A checked query. ``sql`` is run once every one of ``tables`` is there."""

    sql: str
    tables: tuple[Table, ...]


def plan_of(parser: DuckDBPyConnection, sql: str) -> QueryPlan:
    """Check a query and find its tables.

    Args:
        parser: a connection that only parses.

    Raises:
        QueryError: it is no SELECT, or has something in it that is refused.
    """
    if len(sql) > MOST_SQL:
        raise QueryError(f"The query has {len(sql):,} characters; at most {MOST_SQL:,} are taken.")
    tree = _parsed(parser, sql)
    try:
        nodes = list(_nodes(tree))
        tables = _tables(nodes)
        text = parser.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)]).fetchall()[0][0]
    except RecursionError:
        raise QueryError("The query is nested too deep.") from None
    return QueryPlan(text, tables)


def _parsed(parser: DuckDBPyConnection, sql: str) -> dict[str, Any]:
    text = parser.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchall()[0][0]
    try:
        tree: dict[str, Any] = json.loads(text)
    except RecursionError:
        raise QueryError("The query is nested too deep.") from None
    if tree["error"]:
        if tree.get("error_type") == "not implemented":
            raise QueryError(f"This is no SELECT. {_ONLY}")
        hint = ' A name with a colon stands in double quotes: FROM "trades:BTC".' if ":" in sql else ""
        raise QueryError(f"The SQL has an error: {_short(tree['error_message'])}{_place(sql, tree)}.{hint}")
    if len(tree["statements"]) != 1:
        raise QueryError(f"These are {len(tree['statements'])} statements. {_ONLY}")
    return tree


def _place(sql: str, tree: dict[str, Any]) -> str:
    try:
        position = int(tree["position"])
    except (KeyError, ValueError):
        return ""
    return f", before {sql[position : position + 30]!r}" if position < len(sql) else ", at its end"


def _nodes(part: Any) -> Iterator[dict[str, Any]]:
    """Every object of the tree."""
    if isinstance(part, list):
        for item in part:
            yield from _nodes(item)
    elif isinstance(part, dict):
        yield part
        for item in part.values():
            yield from _nodes(item)


def _tables(nodes: list[dict[str, Any]]) -> tuple[Table, ...]:
    """The tables, which get their names in the tree. Refuses what is not allowed."""
    common = {str(entry["key"]).lower() for node in nodes for entry in _map(node.get("cte_map"))}
    label_of = "t"  # with a number: no name that a WITH gives, which would be read in the table's place
    while any(name.startswith(label_of) and name.removeprefix(label_of).isdigit() for name in common):
        label_of += "_"
    found: dict[tuple[str, tuple[str, ...]], str] = {}
    renamed: list[tuple[dict[str, Any], str]] = []
    for node in nodes:
        kind = node.get("type")
        if node.get("class") == "FUNCTION":
            _check_function(str(node.get("function_name", "")))
        elif kind == "SHOW_REF" and node.get("show_type") not in ("SUMMARY", "DESCRIBE"):
            raise QueryError("SHOW is not taken: stream_list has the streams. DESCRIBE and SUMMARIZE of a stream are.")
        elif kind == "BASE_TABLE":
            name = ".".join(filter(None, (node.get("catalog_name"), node.get("schema_name"), node["table_name"])))
            if name.lower() in common:
                continue  # what a WITH defines is that, also within itself
            label = found.setdefault(("stream", (name,)), f"{label_of}{len(found)}")
            renamed.append((node, label))
        elif kind == "TABLE_FUNCTION":
            function = node["function"]
            name = str(function["function_name"]).lower()
            if name in OWN_FUNCTIONS:
                arguments = _arguments(name, function)
                label = found.setdefault((name, arguments), f"{label_of}{len(found)}")
                renamed.append((node, label))
            elif name not in _TABLE_FUNCTIONS:
                forms = ", ".join(OWN_FUNCTIONS.values())
                raise QueryError(f"{name}() cannot be read from. A query reads streams by their name, or {forms}.")
    if len(found) > MOST_TABLES:
        raise QueryError(f"The query names {len(found)} tables; at most {MOST_TABLES} are read.")
    columns = _columns(nodes)
    for node, label in renamed:
        _rename(node, label)
    return tuple(Table(label, kind, arguments, columns) for (kind, arguments), label in found.items())


def _map(cte_map: Any) -> list[dict[str, Any]]:
    return cte_map.get("map", []) if isinstance(cte_map, dict) else []


def _check_function(name: str) -> None:
    name = name.lower()
    if name in OWN_FUNCTIONS or name in _TABLE_FUNCTIONS:
        return
    if name in _REFUSED_FUNCTIONS or name.startswith("__") or any(part in name for part in _REFUSED_PARTS):
        raise QueryError(
            f"{name}() is not allowed: a query computes from the tables that it names, and reads no other."
        )


def _arguments(name: str, function: dict[str, Any]) -> tuple[str, ...]:
    """The constants that a table function of ours is called with."""
    given = function.get("arguments") or function.get("children") or []
    least, most = _OWN_ARGUMENTS[name]
    found = []
    for argument in given:
        expression = argument.get("expression", argument)
        literal = expression.get("literal", {}).get("text", expression.get("value", {}).get("value"))
        if expression.get("type") != "VALUE_CONSTANT" or literal is None:
            raise QueryError(f"The arguments of {name}() are texts or numbers as they stand: {OWN_FUNCTIONS[name]}.")
        found.append(str(literal))
    if not least <= len(found) <= most:
        raise QueryError(f"{name}() is called as {OWN_FUNCTIONS[name]}, with {least} to {most} arguments.")
    return tuple(found)


def _rename(node: dict[str, Any], label: str) -> None:
    """Make a node the plain table ``label``; without an alias it keeps its name as one."""
    own = node["function"]["function_name"] if node["type"] == "TABLE_FUNCTION" else node["table_name"]
    kept: dict[str, Any] = {
        key: node[key] for key in ("query_location", "query_location_length", "sample") if key in node
    }
    alias, names = node.get("alias") or own, node.get("column_name_alias") or []
    has_path = "qualified_name" in node or "qualified_name" in node.get("function", {})
    node.clear()
    node.update(kept, type="BASE_TABLE", alias=alias, schema_name="", catalog_name="", table_name=label)
    node.update(column_name_alias=names)
    if has_path:  # DuckDB 2
        node["qualified_name"] = {"path": [label]}


def _columns(nodes: list[dict[str, Any]]) -> tuple[str, ...] | None:
    """The columns that the query can mean; None where it may mean all of them."""
    named: set[str] = set()
    tables: set[str] = set()
    for node in nodes:
        kind = node.get("type")
        if node.get("class") == "STAR" or kind == "STAR" or (kind in _FROM_TYPES and kind not in _PLAIN_FROM):
            return None
        if kind == "JOIN" and node.get("ref_type") in ("NATURAL", "POSITIONAL"):
            return None
        if kind == "POSITIONAL_REFERENCE" or node.get("class") == "POSITIONAL_REFERENCE":
            return None
        if kind in ("BASE_TABLE", "TABLE_FUNCTION", "SUBQUERY"):
            if node.get("column_name_alias"):
                return None
            tables |= {str(node.get("alias") or ""), str(node.get("table_name") or "")}
            tables.add(str(node.get("function", {}).get("function_name", "")))
        if node.get("class") == "COLUMN_REF":
            named.update(map(str, node["column_names"]))
        named.update(name for name in node.get("using_columns") or () if isinstance(name, str))
    if {name.lower() for name in tables} & {name.lower() for name in named if name} - {""}:
        whole = {
            name.lower() for node in nodes if node.get("class") == "COLUMN_REF" for name in node["column_names"][-1:]
        }
        if whole & {name.lower() for name in tables}:
            return None  # a whole row: SELECT t FROM trades t
    return tuple(sorted(named))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:300]}…"
