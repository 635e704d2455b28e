"""What an earlier build wrote to Redis is read by this one: the file in tests/data names the commit that wrote it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
import redis as redis_py

from streammachine import App, DeadLetters, Message, RedisConnection, RedisObjectStorage, Settings, Storage
from streammachine.ohlc.aggregator import _HAS_FAST_OHLC_CYTHON, create_ohlc_aggregator
from streammachine.ohlc.durable import DurableAggregators
from streammachine.ohlc.reference import FastOHLC as PythonEngine
from streammachine.redis.embedded.server import EmbeddedServer
from streammachine.runtime.admin.remembered import BACKFILLS, RUNNERS, BackfillSpec, RunnerSpec
from streammachine.runtime.declared.agents import DeclaredAgent, declared_agents
from support import earlier_data
from support.valkey import until

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("error::DeprecationWarning:streammachine")]

FILES = sorted((Path(__file__).parent / "data").glob("*.json"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
async def connection(
    request: pytest.FixtureRequest, shared_server: EmbeddedServer, tmp_path: Path, anyio_backend: str
) -> AsyncIterator[RedisConnection]:
    """A connection to a Redis that holds what the earlier build wrote, with the key that it signed with."""
    keys = json.loads(request.param.read_text("utf-8"))["keys"]
    with redis_py.Redis(unix_socket_path=str(shared_server.socket_path)) as client:
        client.flushall()
        earlier_data.load(client, keys)
    settings = Settings(redis_url=shared_server.url, data_dir=tmp_path, signing_key=earlier_data.SIGNING_KEY)
    async with RedisConnection(settings=settings) as opened:
        yield opened
        await opened.run(lambda client: client.flushall())


async def test_values_of_the_storage_come_back_equal(connection: RedisConnection) -> None:
    storage = Storage(connection)
    for key, value in earlier_data.stored_values().items():
        found = await storage.read(key)
        assert earlier_data.content(found) == earlier_data.content(value), key
        assert type(found) is type(value), key
    assert await storage.read("counter") == 42
    assert await storage.incr("counter") == 43
    assert set(await storage.keys()) == {*earlier_data.stored_values(), "counter"}


async def test_objects_come_back_as_the_classes_of_today(connection: RedisConnection) -> None:
    objects = RedisObjectStorage(connection=connection)
    wanted = earlier_data.stored_objects(PythonEngine)
    assert set(await objects.list_keys()) == set(wanted)
    for key, value in wanted.items():
        if key.startswith("native") and not _HAS_FAST_OHLC_CYTHON:
            continue  # as before: what the native engine wrote needs the native engine
        found = await objects.retrieve_with_pickle(key)
        assert type(found) is type(value), key
        assert earlier_data.content(found) == earlier_data.content(value), key


async def test_an_object_of_an_old_path_is_refused_where_only_plain_data_is_shown(connection: RedisConnection) -> None:
    from streammachine.errors import UnsafePickleError

    objects = RedisObjectStorage(connection=connection)
    assert await objects.retrieve_plain("plain") == earlier_data.stored_objects(PythonEngine)["plain"]
    with pytest.raises(UnsafePickleError, match=r"streammachine\.market\.kline\.Kline"):
        await objects.retrieve_plain("kline")


async def test_aggregators_go_on_from_their_snapshot_and_journal(connection: RedisConnection) -> None:
    aggregators = DurableAggregators(connection)
    assert [name for name, _ in await aggregators.list()] == ["btc", "journal-only"]
    for name, more in (("btc", earlier_data.LATER_TICKS), ("journal-only", earlier_data.LATE_TICKS)):
        wanted = create_ohlc_aggregator(earlier_data.INTERVALS)
        earlier_data.update(wanted, earlier_data.TICKS)
        if name == "journal-only":
            wanted.flush_interval("BTCUSDT", 60_000, earlier_data.FLUSHED_BEFORE)
        earlier_data.update(wanted, more)
        stored = await aggregators.get(name)
        for symbol in ("BTCUSDT", "ETHUSDT"):
            for interval in earlier_data.INTERVALS:
                found = await stored.candles(symbol, interval)
                assert found == wanted.get_candles(symbol, interval), (name, symbol, interval)
        facts = await stored.stats()
        assert (facts["tick_count"], facts["late_count"]) == (6, int(more is earlier_data.LATE_TICKS))


async def test_declared_agents_runners_and_backfills_are_known(connection: RedisConnection) -> None:
    assert await declared_agents(connection) == {agent["name"]: DeclaredAgent(**agent) for agent in earlier_data.AGENTS}
    assert await RUNNERS.all(connection) == {earlier_data.RUNNER["name"]: RunnerSpec(**earlier_data.RUNNER)}
    assert await BACKFILLS.all(connection) == {earlier_data.BACKFILL["name"]: BackfillSpec(**earlier_data.BACKFILL)}
    status = (await RUNNERS.statuses(connection))[earlier_data.RUNNER["name"]]
    assert {**status, "silent_s": 0} == {**earlier_data.RUNNER_STATUS, "silent_s": 0}


async def test_a_group_goes_on_with_its_retries_and_dead_letters(connection: RedisConnection) -> None:
    app = App(name="shop", to_scan=False, settings=connection.settings)
    handled: list[tuple[dict[str, str], int]] = []

    @app.agent("orders", group="billing")
    async def bill(order: Message) -> None:
        handled.append((dict(order.message), order.attempt))

    box = await DeadLetters.open(connection, "orders")
    (letter,), more = await box.newest(connection, 10)
    assert (letter.data, letter.fact("reason"), more) == (earlier_data.WRONG_ORDER, "rejected", False)
    await box.redrive(connection, [letter.id])
    with anyio.fail_after(60):
        (waiting,) = await connection.command("ZRANGE", "{orders}:retry:billing:due", "0", "-1")
        await connection.command("ZADD", "{orders}:retry:billing:due", "0", waiting)  # its time has come
        async with app:
            await until(lambda: len(handled) == 2)
    # Nothing that the earlier build had finished comes again.
    assert sorted(handled, key=lambda pair: pair[0]["id"]) == [
        (earlier_data.WRONG_ORDER, 1),
        (earlier_data.LATE_ORDER, 2),
    ]
    assert await box.count(connection) == 0
