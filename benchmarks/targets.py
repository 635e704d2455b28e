"""What the benchmarks' ratios are to reach, beside what was found. Nothing fails where one is not reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.history import numbers
from benchmarks.measuring import Row, table


class Target(NamedTuple):
    """A ratio to be reached: texts of its row, and the column; ``most``: it is to be no larger."""

    what: str
    texts: Sequence[str]
    column: str
    wanted: float
    most: bool = False


ONE_CORE, TWO_CORES = ("columns", "categorical symbols"), ("columns", "on two cores")
TARGETS: Mapping[str, Sequence[Target]] = {
    "ohlc": (
        Target("categories : DuckDB, one core", ONE_CORE, "ratio", 7),
        Target("categories, two cores : DuckDB (1.7 x 7)", TWO_CORES, "ratio", 11.9),
        Target("object array : DuckDB", ("columns", "object array"), "ratio", 4),
        Target("fixed-width text : DuckDB", ("columns", "fixed-width"), "ratio", 4),
        Target("pandas text : DuckDB", ("columns", "pandas text"), "ratio", 4),
        Target("Arrow string : DuckDB", ("columns", "Arrow string"), "ratio", 4),
        Target("polars String : DuckDB", ("columns", "polars String"), "ratio", 4),
        Target("polars Categorical : DuckDB", ("columns", "polars Categorical"), "ratio", 4),
    ),
    "frames": (
        Target("streams_to_dataframe_fast : 0.1.0", ("streams_to_dataframe_fast", "streammachine=="), "ratio", 7),
        Target("read_frame : raw XRANGE", ("read_frame", "raw XRANGE"), "ratio", 0.5),
    ),
    "ohlc_consumer": (
        Target("1 ms apart : raw XREAD", ("1 ms", "candles"), "of raw XREAD", 0.45),
        Target("5 ms apart : raw XREAD and XADD", ("5 ms", "candles"), "of raw XREAD and XADD", 0.7),
        Target("50 symbols : raw XREAD", ("50 symbols", "candles"), "of raw XREAD", 0.6),
    ),
    "app": (Target("incr on one key : without", ("incr on one key",), "x without", 0.5),),
    "latency": tuple(
        Target(f"p99.9 at {rate} a second : plain road", (f"{rate}, native",), "p99.9 x plain", 1, most=True)
        for rate in ("1,000", "10,000", "50,000")
    ),
    "bulk_history": (
        Target("Parquet : row by row", ("Parquet", "ours, columns"), "x ours, row by row", 8),
        Target("Parquet : polars", ("Parquet", "ours, columns"), "x polars", 0.5),
        Target("CSV : row by row", ("CSV", "ours, columns"), "x ours, row by row", 5),
        Target("no sink : row by row", ("no sink", "ours, columns"), "x ours, row by row", 6),
        Target("PostgreSQL : bare COPY", ("PostgreSQL", "ours, columns"), "x bare COPY and upsert", 0.85),
    ),
    "handlers": (Target("a pydantic model : record.model", ("a pydantic model",), "x by hand", 1.5, most=True),),
    "mcp": (
        Target("start to tools/list : an empty server's", ("ours",), "ratio", 1.1, most=True),
        *(
            Target(f"{tool} : an empty tool, everysec", (tool,), "everysec : empty", 1.1, most=True)
            for tool in (
                "redis_ping",
                "health_check",
                "stream_read, 1 message",
                "storage_read",
                "ohlc_get_candles, 10 candles",
                "stream_send",
                "storage_write",
                "ohlc_update",
            )
        ),
    ),
    "mcp_http": (
        Target("calls : an empty server's", ("ours",), ": empty", 0.85),
        Target("p99 : an empty server's", ("ours",), "p99 : empty", 1, most=True),
    ),
    "market": (Target("Coinbase, frame to Kline : floor", ("Coinbase",), "emitted x floor", 1.5, most=True),),
    "quotes": tuple(
        Target(f"{name} : orjson and a dict", (name,), "decode x floor", 1.2, most=True)
        for name in ("binance", "okx", "kraken", "bybit", "coinbase")
    ),
    "bridge": (Target("bridged : bare ccxt", ("Binance",), "bridged x ccxt", 1.3, most=True),),
    "trade_files": (
        Target("build_candles : DuckDB", ("DuckDB",), "build_candles is times as fast", 1.5),
        Target("build_candles : polars", ("polars",), "build_candles is times as fast", 1.5),
    ),
    "dashboard": (
        *(
            Target(f"CPU, {how}{view} : without", (f"{how}{view}",), "CPU x without", 1.03, most=True)
            for how in ("with it, watched: ", "steady, watched: ")
            for view in ("streams", "agents", "groups")
        ),
        Target("first row, ms", ("first row",), "msg/s", 2000, most=True),
    ),
}


def shown(subject: str, result: Any) -> str:
    """A table of the subject's targets; empty where it has none."""
    rows: list[Row] = []
    for target in TARGETS.get(subject, ()):
        found = _value(result, target.texts, target.column)
        row: Row = {
            "target": target.what,
            "wanted": ("at most " if target.most else "at least ") + f"{target.wanted:g}",
        }
        if found is not None:
            row |= {
                "here": found,
                "reached": "yes" if (found <= target.wanted if target.most else found >= target.wanted) else "no",
            }
        rows.append(row)
    return table(rows) if rows else ""


def _value(result: Any, texts: Sequence[str], column: str) -> float | None:
    """The number of that column in the row that is these texts, or in the first that has them all."""
    found: dict[str, float] = {}
    for label, value in numbers(result):
        row, _, name = label.rpartition(f": {column}")
        if not name and all(text in row for text in texts):
            found.setdefault(row, value)
    return found.get(" ".join(texts), next(iter(found.values()), None))
