"""A sink that refuses us: at the start an error at once, later an outage: the rows wait, and none is dropped."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import orjson
import pandas as pd
import pytest
import redis
from sqlalchemy import BigInteger, CheckConstraint, Double, String
from sqlalchemy.orm import DeclarativeBase, mapped_column

from streammachine.errors import EmitterError, EmitterUnavailableError
from streammachine.market.emitters.base import DataEmitter
from streammachine.market.emitters.csv import CSVEmitter
from streammachine.market.emitters.kafka import KafkaEmitter
from streammachine.market.emitters.outlet import Outlet
from streammachine.market.emitters.parquet import ParquetEmitter
from streammachine.market.emitters.postgres import PostgresEmitter
from streammachine.market.emitters.redis import RedisEmitter
from streammachine.market.model.rows import Lane
from streammachine.redis.connection import RedisConnection
from streammachine.redis.streams import read_from
from support.kafka import Kafka
from support.postgres import Postgres
from support.rows import candles
from support.valkey import Valkey, until

pytestmark = pytest.mark.anyio
WAIT = 60.0
STREAM = "kline:binance:BTCUSDT:1m"
LANE = Lane("Binance", "BTCUSDT", "1m")


@asynccontextmanager
async def refused_for_a_while(
    outlet: Outlet, cause: Callable[[], object], mended: Callable[[], object], caplog: pytest.LogCaptureFixture
) -> AsyncIterator[None]:
    """Rows before, while it is refused, and after; all of them are taken, and the log says so."""
    await outlet.put(candles(3))
    await outlet.drain(WAIT)
    cause()
    try:
        await outlet.put(candles(3, first=3))
        await until(lambda: outlet.stats.retried >= 2, WAIT)
        assert (outlet.stats.state, outlet.stats.failed, outlet.stats.emitted) == ("away", 0, 3)
        yield
    finally:
        mended()
    await outlet.put(candles(3, first=6))
    assert await outlet.drain(WAIT) == []
    assert (outlet.stats.state, outlet.stats.failed, outlet.stats.emitted) == ("ok", 0, 9)
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("outlet")]
    assert len(lines) == 2
    assert "takes no rows: " in lines[0]
    assert lines[1].endswith("none was lost.")


async def refused_at_start(emitter: Any, words: str) -> None:
    with pytest.raises(EmitterError, match=words) as caught:
        async with Outlet(emitter, expected=[LANE]):
            raise AssertionError("it was entered")
    assert not isinstance(caught.value, EmitterUnavailableError)


# -- PostgreSQL -------------------------------------------------------------------------------

TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'writer'"
CAUSES = {
    "the password is changed": (
        ["ALTER ROLE writer PASSWORD 'new-word'", TERMINATE],
        ["ALTER ROLE writer PASSWORD 'first-word'"],
        "password authentication failed",
    ),
    "the login is forbidden": (
        ["ALTER ROLE writer NOLOGIN", TERMINATE],
        ["ALTER ROLE writer LOGIN"],
        "not permitted to log in",
    ),
    "the table is renamed": (
        ["ALTER TABLE klines RENAME TO moved"],
        ["ALTER TABLE moved RENAME TO klines"],
        "does not exist",
    ),
    "the table is renamed and the connection lost": (
        ["ALTER TABLE klines RENAME TO moved", TERMINATE],
        ["ALTER TABLE moved RENAME TO klines"],
        "does not exist",
    ),
    "a column is renamed": (
        ["ALTER TABLE klines RENAME close TO last"],
        ["ALTER TABLE klines RENAME last TO close"],
        "does not exist",
    ),
    "a right is taken": (
        ["REVOKE INSERT ON klines FROM writer"],
        ["GRANT INSERT ON klines TO writer"],
        "permission denied",
    ),
    "the key is dropped": (
        ["ALTER TABLE klines DROP CONSTRAINT klines_pkey"],
        ["ALTER TABLE klines ADD CONSTRAINT klines_pkey PRIMARY KEY (symbol, open_ts)"],
        "ON CONFLICT",
    ),
}


class Base(DeclarativeBase):
    pass


class Candle(Base):
    __tablename__ = "klines"
    symbol = mapped_column(String, primary_key=True)
    open_ts = mapped_column(BigInteger, primary_key=True)
    close = mapped_column(Double, CheckConstraint("close < 900"), nullable=False)


@pytest.fixture
def writer(postgres: Postgres) -> Iterator[str]:
    """The URL of a user who has what the documentation says and no more."""
    postgres.execute("CREATE TABLE klines (symbol text, open_ts bigint, close float8 CHECK (close < 900) NOT NULL)")
    postgres.execute("ALTER TABLE klines ADD CONSTRAINT klines_pkey PRIMARY KEY (symbol, open_ts)")
    postgres.execute("CREATE ROLE writer LOGIN PASSWORD 'first-word'")
    postgres.execute("GRANT SELECT, INSERT, UPDATE ON klines TO writer")
    yield f"postgresql://writer:first-word@127.0.0.1:{postgres.port}/postgres"
    postgres.execute(TERMINATE)
    postgres.execute("DROP TABLE IF EXISTS klines, moved")
    postgres.execute("DROP OWNED BY writer")
    postgres.execute("DROP ROLE writer")


@pytest.mark.parametrize("cause", CAUSES)
async def test_postgres_that_refuses_us_in_the_middle_is_waited_for(
    postgres: Postgres, writer: str, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    wrong, right, words = CAUSES[cause]

    def run(statements: list[str]) -> None:
        for statement in statements:
            postgres.execute(statement)

    async with (
        Outlet(PostgresEmitter(url=writer).set_model(Candle)) as outlet,
        refused_for_a_while(outlet, lambda: run(wrong), lambda: run(right), caplog),
    ):
        assert words in (outlet.stats.last_error or "")
    assert len(postgres.execute("SELECT FROM klines")) == 9


@pytest.mark.parametrize("cause", CAUSES)
async def test_postgres_that_refuses_us_at_the_start_is_an_error_at_once(
    postgres: Postgres, writer: str, cause: str
) -> None:
    for statement in CAUSES[cause][0]:
        postgres.execute(statement)
    await refused_at_start(PostgresEmitter(url=writer).set_model(Candle), CAUSES[cause][2])


async def test_what_postgres_says_of_a_row_still_refuses_that_row(
    postgres: Postgres, writer: str, caplog: pytest.LogCaptureFixture
) -> None:
    postgres.execute("CREATE POLICY small ON klines USING (true) WITH CHECK (close <> 102)")
    postgres.execute("ALTER TABLE klines ENABLE ROW LEVEL SECURITY")
    rows = [row.model_copy(update={"close": 1000.0}) if row.close == 101 else row for row in candles(4)]
    async with Outlet(PostgresEmitter(url=writer).set_model(Candle)) as outlet:
        await outlet.put(rows)
        await outlet.drain(WAIT)
        assert (outlet.stats.emitted, outlet.stats.failed) == (2, 2)
    assert "violates check constraint" in caplog.text
    assert "violates row-level security policy" in caplog.text


async def test_behind_a_transformer_a_key_that_the_table_does_not_have_is_an_error_at_once(writer: str) -> None:
    emitter = PostgresEmitter(url=writer).set_model(Candle).on_conflict(["close"]).set_transformer(dict)
    await refused_at_start(emitter, "unique constraint or index")


# -- Kafka ------------------------------------------------------------------------------------


async def test_kafka_that_refuses_the_topic_in_the_middle_is_waited_for(
    kafka: Kafka, caplog: pytest.LogCaptureFixture
) -> None:
    topic = "refused"
    async with (
        Outlet(KafkaEmitter(kafka.servers, topic, timeout=2.0)) as outlet,
        refused_for_a_while(outlet, lambda: kafka.refuse(topic), lambda: kafka.refuse(topic, 0), caplog),
    ):
        assert topic in (outlet.stats.last_error or "")
    messages = await anyio.to_thread.run_sync(kafka.consume, topic, 9)
    assert {orjson.loads(message.value())["close"] for message in messages} == {100.0 + n for n in range(9)}


async def test_kafka_that_refuses_the_topic_at_the_start_is_an_error_at_once(kafka: Kafka) -> None:
    kafka.refuse("forbidden")
    try:
        await refused_at_start(KafkaEmitter(kafka.servers, "forbidden", timeout=5.0), "TopicAuthorizationFailed")
    finally:
        kafka.refuse("forbidden", 0)


# -- Redis ------------------------------------------------------------------------------------

REDIS_CAUSES = {
    "a right is taken": (["ACL SETUSER writer -xadd"], ["ACL SETUSER writer +xadd"], "xadd"),
    "the keys are forbidden": (["ACL SETUSER writer resetkeys"], ["ACL SETUSER writer ~kline:*"], "key"),
    "the login is forbidden": (
        ["ACL SETUSER writer off", "CLIENT KILL USER writer"],
        ["ACL SETUSER writer on"],
        "refuses the login",
    ),
    "the key holds something else": (
        [f"RENAME {STREAM} moved", f"SET {STREAM} text"],
        [f"RENAME moved {STREAM}"],
        "another type",
    ),
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path / "server") as made:
        run_commands(made, ["ACL SETUSER writer on >word ~kline:* &* +@all"])
        yield made


def run_commands(server: Valkey, commands: list[str]) -> None:
    with redis.Redis.from_url(server.url) as client:
        for command in commands:
            client.execute_command(*command.split())


def redis_emitter(server: Valkey) -> RedisEmitter:
    return RedisEmitter(server.url.replace("redis://", "redis://writer:word@"))


@pytest.mark.parametrize("cause", REDIS_CAUSES)
async def test_redis_that_refuses_us_in_the_middle_is_waited_for(
    server: Valkey, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    wrong, right, words = REDIS_CAUSES[cause]
    async with (
        Outlet(redis_emitter(server)) as outlet,
        refused_for_a_while(outlet, lambda: run_commands(server, wrong), lambda: run_commands(server, right), caplog),
    ):
        assert words in (outlet.stats.last_error or "")
    async with RedisConnection(url=server.url) as connection:
        entries = await read_from(connection, STREAM)
    assert [float(entry.data["close"]) for entry in entries] == [100 + n for n in range(9)]


@pytest.mark.parametrize(
    ("commands", "words"),
    [
        (["ACL SETUSER writer -eval"], "eval"),
        (["ACL SETUSER writer resetkeys"], "key"),
        (["ACL SETUSER writer off"], "refuses the login"),
        ([f"SET {STREAM} text"], "holds a string"),
    ],
)
async def test_redis_that_refuses_us_at_the_start_is_an_error_at_once(
    server: Valkey, commands: list[str], words: str
) -> None:
    run_commands(server, commands)
    await refused_at_start(redis_emitter(server), words)


# -- files ------------------------------------------------------------------------------------


async def test_a_csv_file_whose_place_is_taken_in_the_middle_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, moved = tmp_path / "candles.csv", tmp_path / "moved.csv"

    def take_the_place() -> None:
        path.rename(moved)
        path.write_text("when,price\n1,2\n")

    async with (
        Outlet(CSVEmitter(file_path=path)) as outlet,
        refused_for_a_while(outlet, take_the_place, path.unlink, caplog),
    ):
        assert "has the columns when, price" in (outlet.stats.last_error or "")
        assert path.read_text() == "when,price\n1,2\n"
    for file, count in ((moved, 3), (path, 6)):
        assert file.read_text().splitlines()[0].startswith("source,symbol")
        assert len(file.read_text().splitlines()) == 1 + count


async def test_a_parquet_folder_that_is_taken_away_in_the_middle_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, moved = tmp_path / "candles", tmp_path / "moved"
    async with Outlet(ParquetEmitter(folder, rows=3)) as outlet:
        await outlet.put(candles(3))
        await outlet.drain(WAIT)
        folder.rename(moved)
        folder.touch()
        await outlet.put(candles(3, first=3))  # they wait for more in memory
        await until(lambda: outlet.stats.emitted == 6, WAIT)
        await outlet.put(candles(3, first=6))
        await until(lambda: outlet.stats.retried >= 2, WAIT)
        assert (outlet.stats.state, outlet.stats.failed, outlet.stats.emitted) == ("away", 0, 6)
        folder.unlink()
        assert await outlet.drain(WAIT) == []
        assert (outlet.stats.state, outlet.stats.failed, outlet.stats.emitted) == ("ok", 0, 9)
    assert caplog.messages[-1].endswith("none was lost.")
    assert sorted([*pd.read_parquet(moved)["close"], *pd.read_parquet(folder)["close"]]) == [100 + n for n in range(9)]


# -- what the log says ------------------------------------------------------------------------


async def test_the_log_says_none_was_lost_only_when_none_was(caplog: pytest.LogCaptureFixture) -> None:
    errors: list[Exception | None] = [EmitterUnavailableError("away"), EmitterError("not accepted"), None]

    class Fickle(DataEmitter):
        name = "fickle"

        async def emit(self, row: Any) -> None:
            if errors and (error := errors.pop(0)) is not None:
                raise error

    async with Outlet(Fickle()) as outlet:
        await outlet.put(candles(2))
        await outlet.drain(WAIT)
        assert (outlet.stats.emitted, outlet.stats.failed) == (1, 1)
    assert caplog.messages[-1].endswith("1 rows were left out meanwhile (see above).")
    assert "none was lost" not in caplog.text
