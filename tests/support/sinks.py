"""A place for the rows of each sink of the registry, and what stands in it then. A new sink adds one function here."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pandas as pd
import redis


@dataclass
class Place:
    """Where a test's rows go.

    Attributes:
        text: the sink's text form that means it. server: what the server's variable holds, where the sink has one.
        read: the open_ts of the candles that stand there, in their order; None where nothing can be read.
        library: what the sink's extra brings, without which it says what to install.
    """

    text: str
    read: Callable[[], list[int]] | None = None
    server: str = ""
    library: str = ""


def log(folder: Path, fixture: Callable[[str], Any]) -> Place:
    return Place("log")


def csv(folder: Path, fixture: Callable[[str], Any]) -> Place:
    path = folder / "out.csv"
    return Place(f"csv:{path}", lambda: list(pd.read_csv(path)["open_ts"]))


def parquet(folder: Path, fixture: Callable[[str], Any]) -> Place:
    path = folder / "rows"
    return Place(f"parquet:{path}", lambda: sorted(pd.read_parquet(path)["open_ts"]), library="pyarrow.parquet")


def duckdb_file(folder: Path, fixture: Callable[[str], Any]) -> Place:
    path = folder / "out.duckdb"

    def read() -> list[int]:
        with duckdb.connect(str(path)) as database:
            return [row[0] for row in database.execute("SELECT open_ts FROM klines ORDER BY open_ts").fetchall()]

    return Place(f"duckdb:{path}", read, library="duckdb")


def redis_streams(folder: Path, fixture: Callable[[str], Any]) -> Place:
    url = fixture("shared_server").url

    def read() -> list[int]:
        client = redis.Redis.from_url(url)
        with client:
            found: Any = client.xrange("kline:binance:BTCUSDT:1m")
        return [int(fields[b"open_ts"]) for _, fields in found]

    with redis.Redis.from_url(url) as client:
        client.flushall()
    return Place(f"redis:{url}", read)


def postgres(folder: Path, fixture: Callable[[str], Any]) -> Place:
    server = fixture("postgres")
    table = f"t{uuid.uuid4().hex[:12]}"

    def read() -> list[int]:
        return [row[0] for row in server.execute(f"SELECT open_ts FROM {table} ORDER BY open_ts")]

    return Place(f"{server.url}#{table}", read, server.url, "sqlalchemy")


def kafka(folder: Path, fixture: Callable[[str], Any]) -> Place:
    servers = fixture("kafka").servers
    topic = f"t{uuid.uuid4().hex[:12]}"

    def read() -> list[int]:
        return [int(orjson.loads(message.value())["open_ts"]) for message in fixture("kafka").consume(topic, 1)]

    return Place(f"kafka:{servers}/{topic}", read, servers, "aiokafka")


def webhook(folder: Path, fixture: Callable[[str], Any]) -> Place:
    receiver = fixture("webhook")
    return Place(
        f"webhook:{receiver.url}/in",
        lambda: [row["open_ts"] for row in receiver.taken],
        receiver.url,
    )


# By the sink's name. Each takes a folder of the test's own and a way to ask for a fixture (a server) by its name.
PLACES: dict[str, Callable[[Path, Callable[[str], Any]], Place]] = {
    "log": log,
    "csv": csv,
    "parquet": parquet,
    "duckdb": duckdb_file,
    "redis": redis_streams,
    "postgres": postgres,
    "kafka": kafka,
    "webhook": webhook,
}
