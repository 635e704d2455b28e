"""Durable aggregators: what was acknowledged is there, for every process alike."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from streammachine.errors import (
    AggregatorExistsError,
    AggregatorNotFoundError,
    IntervalError,
    RedisUnavailableError,
    SnapshotError,
    TickError,
    WrongTypeError,
)
from streammachine.ohlc import durable
from streammachine.ohlc.aggregator import create_ohlc_aggregator
from streammachine.ohlc.durable import DurableAggregator, DurableAggregators, Tick
from streammachine.redis.connection import RedisConnection
from streammachine.redis.embedded.server import EmbeddedServer
from streammachine.settings import Settings

pytestmark = pytest.mark.anyio

START = 1_700_000_040_000
MINUTE = 60_000


def ticks(count: int, seed: int = 1, symbols: Sequence[str] = ("BTC", "ETH", "é")) -> list[Tick]:
    source = random.Random(seed)
    return [
        Tick(
            source.choice(symbols),
            source.uniform(1, 1e5),
            source.uniform(0, 10),
            START + i * 700 - source.randrange(5000),
        )
        for i in range(count)
    ]


def shown(candles: Sequence[Any]) -> list[dict[str, Any]]:
    return [candle.to_dict() for candle in candles]


async def everything(aggregator: DurableAggregator) -> dict[str, Any]:
    found: dict[str, Any] = {"stats": await aggregator.stats()}
    for symbol in await aggregator.symbols():
        for interval in aggregator.intervals:
            found[f"{symbol} {interval}"] = shown(await aggregator.candles(symbol, interval))
    return found


async def test_candles_equal_those_of_the_engine_in_memory(redis: RedisConnection) -> None:
    aggregator, new = await DurableAggregators(redis).create("m", [MINUTE, 5 * MINUTE])
    assert new
    memory = create_ohlc_aggregator([MINUTE, 5 * MINUTE])
    batch = ticks(500)
    for start in range(0, 500, 50):
        assert await aggregator.update(batch[start : start + 50]) == start + 50
    for tick in batch:
        memory.update_tick(*tick)
    for symbol in ("BTC", "ETH", "é"):
        for interval in (MINUTE, 5 * MINUTE):
            assert shown(await aggregator.candles(symbol, interval)) == shown(memory.get_candles(symbol, interval))


async def test_two_processes_views_agree_after_every_kind_of_change(redis: RedisConnection) -> None:
    one, two = DurableAggregators(redis), DurableAggregators(redis)
    first, _ = await one.create("m", [MINUTE, 5 * MINUTE])
    second = await two.get("m")
    batch = ticks(300)
    await first.update(batch[:100])
    assert await second.update(batch[100:200]) == 200
    assert await everything(first) == await everything(second)
    removed = await second.flush("BTC", MINUTE, START + 2 * MINUTE)
    assert removed > 0
    assert await everything(first) == await everything(second)
    await first.update(batch[:50])  # late now where they were flushed
    stats = await second.stats()
    assert stats["late_count"] > 0
    assert await everything(first) == await everything(second)
    assert await first.clear() == stats["tick_count"]
    assert (await second.stats())["tick_count"] == 0
    await second.update(batch[200:])
    assert await everything(first) == await everything(second)


async def test_a_fresh_process_folds_the_journal(redis: RedisConnection) -> None:
    aggregator, _ = await DurableAggregators(redis).create("m")
    await aggregator.update(ticks(200))
    expected = await everything(aggregator)
    assert await everything(await DurableAggregators(redis).get("m")) == expected


async def test_the_snapshot_trims_the_journal_and_loses_nothing(
    redis: RedisConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "SNAPSHOT_EVERY", 100)
    aggregator, _ = await DurableAggregators(redis).create("m")
    behind = await DurableAggregators(redis).get("m")
    batch = ticks(450)
    await behind.update(batch[:10])
    for start in range(10, 450, 40):
        await aggregator.update(batch[start : start + 40])
    journal = await redis.run(lambda client: client.xlen("sm:ohlc:{m}:journal"))
    assert journal < 5
    expected = await everything(aggregator)
    assert expected["stats"]["tick_count"] == 450
    assert await everything(behind) == expected  # its place in the journal was trimmed away
    assert await everything(await DurableAggregators(redis).get("m")) == expected


async def test_an_older_snapshot_never_replaces_a_newer_one(redis: RedisConnection) -> None:
    fast, _ = await DurableAggregators(redis).create("m")
    slow = await DurableAggregators(redis).get("m")
    batch = ticks(60)
    await slow.update(batch[:20])
    await fast.update(batch[20:])
    await fast.snapshot()
    stands = await redis.run(lambda client: client.hget("sm:ohlc:{m}", "id"))
    await slow.snapshot()  # it has folded 20 ticks only
    assert await redis.run(lambda client: client.hget("sm:ohlc:{m}", "id")) == stands
    assert (await (await DurableAggregators(redis).get("m")).stats())["tick_count"] == 60


async def test_a_snapshot_at_exit_is_what_the_next_process_starts_from(redis: RedisConnection) -> None:
    aggregators = DurableAggregators(redis)
    aggregator, _ = await aggregators.create("m")
    await aggregator.update(ticks(30))
    expected = await everything(aggregator)
    await aggregators.snapshot_all()
    assert await redis.run(lambda client: client.xlen("sm:ohlc:{m}:journal")) == 0
    assert await everything(await DurableAggregators(redis).get("m")) == expected


async def test_concurrent_updates_from_two_processes_all_count(redis: RedisConnection) -> None:
    first, _ = await DurableAggregators(redis).create("m")
    second = await DurableAggregators(redis).get("m")
    batch = ticks(400)

    async def feed(aggregator: DurableAggregator, part: list[Tick]) -> None:
        for tick in part:
            await aggregator.update([tick])

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(feed, (first, second)[number % 2], batch[number * 100 : (number + 1) * 100])
    assert (await first.stats())["tick_count"] == 400
    assert await everything(first) == await everything(second)


@pytest.mark.parametrize(
    "bad",
    [
        Tick("A", math.nan, 1, START),
        Tick("A", math.inf, 1, START),
        Tick("A", 1, -1, START),
        Tick("A", 1, math.nan, START),
        Tick("A", 1, 1, -5),
    ],
)
async def test_a_refused_tick_refuses_its_batch_and_reaches_no_journal(redis: RedisConnection, bad: Tick) -> None:
    aggregator, _ = await DurableAggregators(redis).create("m")
    with pytest.raises(TickError):
        await aggregator.update([Tick("A", 1, 1, START), bad])
    assert (await aggregator.stats())["tick_count"] == 0
    assert await redis.run(lambda client: client.xlen("sm:ohlc:{m}:journal")) == 0
    assert await aggregator.update([Tick("A", 1, 1, START)]) == 1


async def test_create_again_gives_the_same_and_other_intervals_are_an_error(redis: RedisConnection) -> None:
    aggregators = DurableAggregators(redis)
    first, new = await aggregators.create("m", [5 * MINUTE, MINUTE])
    again, second_new = await aggregators.create("m", [MINUTE, 5 * MINUTE])
    assert (new, second_new) == (True, False)
    assert again is first
    with pytest.raises(AggregatorExistsError, match=r"\[60000, 300000\]"):
        await aggregators.create("m", [MINUTE])
    with pytest.raises(IntervalError):
        await aggregators.create("n", [0])
    assert [name for name, _ in await aggregators.list()] == ["m"]


@pytest.mark.parametrize("name", ["", "a b", "a{b}", "x" * 201, "a\n"])
async def test_names_that_cannot_be_keys_are_refused(redis: RedisConnection, name: str) -> None:
    with pytest.raises(ValueError, match="not usable"):
        await DurableAggregators(redis).create(name)


async def test_an_unknown_name_is_an_error_with_the_nearest(redis: RedisConnection) -> None:
    aggregators = DurableAggregators(redis)
    await aggregators.create("market")
    with pytest.raises(AggregatorNotFoundError, match="Did you mean 'market'"):
        await aggregators.get("markt")
    with pytest.raises(AggregatorNotFoundError):
        await aggregators.get("")


async def test_an_unknown_interval_is_an_error(redis: RedisConnection) -> None:
    aggregator, _ = await DurableAggregators(redis).create("m")
    with pytest.raises(IntervalError):
        await aggregator.candles("A", 1)
    with pytest.raises(IntervalError, match="it has"):
        await aggregator.flush("A", 1)


async def test_after_flushall_the_aggregator_is_gone_and_a_new_one_starts_empty(redis: RedisConnection) -> None:
    aggregators = DurableAggregators(redis)
    aggregator, _ = await aggregators.create("m")
    await aggregator.update(ticks(10))
    await redis.run(lambda client: client.flushall())
    with pytest.raises(AggregatorNotFoundError):
        await aggregator.update(ticks(1))
    again, new = await aggregators.create("m")
    assert new
    assert (await again.stats())["tick_count"] == 0
    assert await again.update(ticks(3)) == 3


async def test_a_foreign_journal_entry_is_skipped_alike_by_all(redis: RedisConnection) -> None:
    one, two = DurableAggregators(redis), DurableAggregators(redis)
    first, _ = await one.create("m")
    await first.update(ticks(5))
    for garbage in (b"{", b"[]", b'{"t":[["A"]]}', b'{"t":[["A",NaN,1,1]]}', b'{"f":[1]}', b"5"):
        await redis.run(lambda client, g=garbage: client.xadd("sm:ohlc:{m}:journal", field_values={"op": g}))
    await first.update(ticks(5, seed=2))
    second = await two.get("m")
    assert await everything(first) == await everything(second)
    assert (await second.stats())["tick_count"] == 10


async def test_without_redis_an_update_fails_and_is_not_kept_in_memory(settings: Settings, tmp_path: Any) -> None:
    private = Settings(embedded="always", data_dir=tmp_path / "private")
    with EmbeddedServer.acquire(tmp_path / "other", fsync="everysec") as server:
        connection = RedisConnection(settings=Settings(redis_url=server.url, data_dir=private.data_dir))
        async with connection:
            aggregator, _ = await DurableAggregators(connection).create("m")
            await aggregator.update(ticks(5))
            server.release()
            with pytest.raises(RedisUnavailableError):
                await aggregator.update(ticks(5))
            with pytest.raises(RedisUnavailableError):
                await aggregator.stats()
            with EmbeddedServer.acquire(tmp_path / "other", fsync="everysec"):
                assert (await aggregator.stats())["tick_count"] == 5
                await connection.close()


@pytest.mark.parametrize(
    "entry",
    ["[" * 100_000, "{", "7", "[]", '{"t": [[1]]}', '{"t": 5}', '{"t": [["BTC", "x", 1, 1]]}', '{"f": [1]}', "\xff",
     '{"t": [["BTC", 1, 1, 1e400]]}', f'{{"t": [["BTC", 1, 1, {10**30}]]}}', '{"t": [["BTC", NaN, 1, 60000]]}'],
)  # fmt: skip
async def test_a_journal_entry_that_is_none_of_ours_is_skipped_with_an_error(
    redis: RedisConnection, caplog: pytest.LogCaptureFixture, entry: str
) -> None:
    aggregator, _ = await DurableAggregators(redis).create("m", [MINUTE])
    await aggregator.update(ticks(10))
    await redis.command("XADD", "sm:ohlc:{m}:journal", "*", "op", entry.encode("latin-1"))
    assert await aggregator.update(ticks(10)) == 20
    assert await everything(aggregator) == await everything(await DurableAggregators(redis).get("m"))
    assert {record.levelname for record in caplog.records} == {"ERROR"}


@pytest.mark.parametrize("broken", ["intervals", "nested", "negative", "type", "utf-8"])
async def test_a_broken_aggregator_is_left_out_with_an_error_and_named_when_asked_for(
    redis: RedisConnection, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    aggregators = DurableAggregators(redis)
    await aggregators.create("good", [MINUTE])
    await redis.command("SADD", "sm:ohlc", "bad" if broken != "utf-8" else b"\xff\xfe")
    if broken == "type":
        await redis.command("SET", "sm:ohlc:{bad}", "text")
    elif broken != "utf-8":
        value = {"intervals": "no json", "nested": "[" * 100_000, "negative": "[-5]"}[broken]
        await redis.command("HSET", "sm:ohlc:{bad}", "generation", "1", "intervals", value)
    for _ in range(2):
        assert await aggregators.list() == [("good", [MINUTE])]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    if broken == "utf-8":
        return
    for ask in (aggregators.get("bad"), aggregators.create("bad", [MINUTE])):
        with pytest.raises(WrongTypeError, match="was not written by StreamMachine"):
            await ask
    await redis.command("DEL", "sm:ohlc:{bad}")
    aggregator, _ = await aggregators.create("bad", [MINUTE])
    assert await aggregator.update(ticks(5)) == 5


async def test_a_snapshot_whose_id_is_none_is_named(redis: RedisConnection) -> None:
    aggregator, _ = await DurableAggregators(redis).create("m", [MINUTE])
    await aggregator.update(ticks(5))
    await redis.command("HSET", "sm:ohlc:{m}", "id", "no id")
    with pytest.raises(SnapshotError, match="its id is 'no id'"):
        await aggregator.update(ticks(5))
    assert await redis.command("XLEN", "sm:ohlc:{m}:journal") == 1


async def evaluations(redis: RedisConnection) -> int:
    facts = next(iter((await redis.info("commandstats")).values()))
    return int(facts["cmdstat_eval"]["calls"])


async def test_those_who_read_at_once_share_folds_and_each_sees_what_was_there_when_it_asked(
    redis: RedisConnection,
) -> None:
    aggregator, _ = await DurableAggregators(redis).create("shared", [MINUTE])
    other, _ = await DurableAggregators(redis).create("shared", [MINUTE])  # as another process sees it
    added, seen = 0, []

    async def add_and_read(number: int) -> None:
        nonlocal added
        await (aggregator, other)[number % 2].update(ticks(10, seed=number))
        added += 10
        asked_at = added
        seen.append((await aggregator.stats())["tick_count"] >= asked_at)

    async with anyio.create_task_group() as tasks:
        for number in range(40):
            tasks.start_soon(add_and_read, number)
    assert seen == [True] * 40
    before = await evaluations(redis)
    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(aggregator.stats)
    assert await evaluations(redis) - before <= 3  # of 100


async def test_who_reads_in_vain_or_goes_takes_nothing_from_those_who_read_with_it(redis: RedisConnection) -> None:
    aggregator, _ = await DurableAggregators(redis).create("shared", [MINUTE])
    await aggregator.update(ticks(100))
    outcomes: list[str] = []

    async def read(interval: int, scope: anyio.CancelScope) -> None:
        with scope:
            try:
                outcomes.append("candles" if await aggregator.candles("BTC", interval) else "none")
            except IntervalError:
                outcomes.append("refused")

    scopes = [anyio.CancelScope() for _ in range(9)]
    async with anyio.create_task_group() as tasks:
        for number, scope in enumerate(scopes):
            tasks.start_soon(read, 1000 if number % 3 == 1 else MINUTE, scope)
        await anyio.lowlevel.checkpoint()
        for scope in scopes[2::3]:
            scope.cancel()
    assert sorted(outcomes) == ["candles"] * 3 + ["refused"] * 3
    assert (await aggregator.stats())["tick_count"] == 100


async def test_all_who_wait_learn_that_the_aggregator_is_gone(redis: RedisConnection) -> None:
    aggregator, _ = await DurableAggregators(redis).create("shared", [MINUTE])
    await redis.command("FLUSHALL")
    refused: list[AggregatorNotFoundError] = []

    async def read() -> None:
        try:
            await aggregator.stats()
        except AggregatorNotFoundError as error:
            refused.append(error)

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(read)
    assert len(refused) == 20
