"""PostgresEmitter while the server is killed, restarted, frozen, or dies over a commit: no row lost, none doubled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest
from sqlalchemy import BigInteger, Double, Integer, String
from sqlalchemy.orm import DeclarativeBase, mapped_column

from streammachine.market.emitters.outlet import Outlet
from streammachine.market.emitters.postgres import PostgresEmitter
from streammachine.market.model.kline import Kline
from support.postgres import Postgres
from support.rows import candles
from support.valkey import until

pytestmark = pytest.mark.anyio
WAIT = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """One that these tests may kill."""
    with Postgres() as made:
        yield made


@pytest.fixture(autouse=True)
def clean(server: Postgres) -> Iterator[None]:
    yield
    server.execute("DROP TABLE IF EXISTS klines")


def emitter_for(server: Postgres, *, keyed: bool, **options: Any) -> PostgresEmitter:
    """With a key of the candle's own, or with none but a running number."""

    class Base(DeclarativeBase):
        pass

    class Candle(Base):
        __tablename__ = "klines"
        symbol = mapped_column(String, primary_key=keyed)
        open_ts = mapped_column(BigInteger, primary_key=keyed)
        close = mapped_column(Double, nullable=False)
        if not keyed:
            number = mapped_column(Integer, primary_key=True)

    return PostgresEmitter(url=server.url, from_model_create_table=True, **options).set_model(Candle)


def stands(server: Postgres) -> list[float]:
    return [row[0] for row in server.execute("SELECT close FROM klines ORDER BY open_ts, close")]


@asynccontextmanager
async def feeding(outlet: Outlet, rows: list[Kline]) -> AsyncIterator[None]:
    """Put the rows a few at a time while the body does its harm; all are put at the end."""

    async def feed() -> None:
        for start in range(0, len(rows), 10):
            await outlet.put(rows[start : start + 10])
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(feed)
        yield


@pytest.mark.parametrize("keyed", [True, False], ids=["with a key", "without a key"])
async def test_a_server_killed_and_restarted_in_mid_stream_has_every_row_once_and_in_order(
    server: Postgres, keyed: bool
) -> None:
    rows = candles(2500)
    emitter = emitter_for(server, keyed=keyed)
    async with Outlet(emitter, batch=20, capacity=500) as outlet:
        async with feeding(outlet, rows):
            for taken in (200, 900):
                await until(lambda taken=taken: outlet.stats.emitted >= taken, WAIT)
                server.kill()
                await until(lambda: outlet.stats.state == "away", WAIT)
                await anyio.to_thread.run_sync(server.start)
        assert await outlet.drain(WAIT) == []
        assert (outlet.stats.emitted, outlet.stats.failed) == (2500, 0)
        assert outlet.stats.retried >= 2
    assert stands(server) == [row.close for row in rows]
    if not keyed:
        order = server.execute("SELECT open_ts FROM klines ORDER BY number")
        assert order == sorted(order)


@pytest.mark.parametrize("keyed", [True, False], ids=["with a key", "without a key"])
@pytest.mark.parametrize("committed", [True, False])
async def test_a_commit_whose_outcome_is_not_known_is_neither_lost_nor_doubled(
    server: Postgres, keyed: bool, committed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks over the COMMIT: before the server saw it, or before its answer came."""
    emitter = emitter_for(server, keyed=keyed)
    async with Outlet(emitter) as outlet:
        await outlet.put(candles(3))
        await outlet.drain(WAIT)
        connection: Any = emitter._connection
        execute = connection.execute
        backend = connection.info.backend_pid

        async def breaking(query: Any, *arguments: Any, **options: Any) -> Any:
            if query != "COMMIT":
                return await execute(query, *arguments, **options)
            if committed:
                await execute(query, *arguments, **options)
            server.execute("SELECT pg_terminate_backend(%s)", backend)
            return await execute("SELECT 1")

        monkeypatch.setattr(connection, "execute", breaking)
        await outlet.put(candles(3, first=3))
        assert await outlet.drain(WAIT) == []
        assert outlet.stats.retried == 1
        assert outlet.stats.failed == 0
    assert stands(server) == [100.0 + number for number in range(6)]


async def test_a_server_that_does_not_answer_counts_as_away(server: Postgres) -> None:
    emitter = emitter_for(server, keyed=True, timeout=1.0)
    async with Outlet(emitter) as outlet:
        await outlet.put(candles(3))
        await outlet.drain(WAIT)
        connection: Any = emitter._connection
        server.freeze(connection.info.backend_pid)
        await outlet.put(candles(3, first=3))
        assert await outlet.drain(WAIT) == []
        assert outlet.stats.retried >= 1
    assert stands(server) == [100.0 + number for number in range(6)]


async def test_a_table_that_is_locked_for_a_while_is_waited_for(server: Postgres) -> None:
    emitter = emitter_for(server, keyed=True, timeout=1.0)
    async with Outlet(emitter) as outlet:
        await outlet.put(candles(3))
        await outlet.drain(WAIT)
        import psycopg

        with psycopg.connect(server.socket_url) as other:
            other.execute("LOCK TABLE klines IN EXCLUSIVE MODE")
            await outlet.put(candles(3, first=3))
            await until(lambda: outlet.stats.retried >= 1, WAIT)
        assert await outlet.drain(WAIT) == []
    assert stands(server) == [100.0 + number for number in range(6)]


async def test_the_queue_is_bounded_while_the_database_is_away(server: Postgres) -> None:
    emitter = emitter_for(server, keyed=True)
    async with Outlet(emitter, capacity=50, batch=10) as outlet:
        server.kill()
        try:
            with anyio.move_on_after(WAIT) as waiting:
                async with anyio.create_task_group() as group:
                    group.start_soon(outlet.put, candles(500))
                    await until(lambda: outlet.stats.state == "away" and outlet.stats.queued == 50, WAIT)
                    assert outlet.room == 0
                    await anyio.to_thread.run_sync(server.start)
            assert not waiting.cancelled_caught
        finally:
            if not server.running:
                server.start()
        assert await outlet.drain(WAIT) == []
    assert len(stands(server)) == 500


async def test_a_cancelled_runner_leaves_whole_batches(server: Postgres) -> None:
    emitter = emitter_for(server, keyed=True)
    with anyio.move_on_after(WAIT) as scope:
        async with Outlet(emitter, batch=50) as outlet:
            await outlet.put(candles(5000))
            await until(lambda: outlet.stats.emitted > 100, WAIT)
            scope.cancel()
            await anyio.sleep_forever()
    assert len(stands(server)) == outlet.stats.emitted
    assert outlet.stats.emitted + outlet.stats.failed == 5000
