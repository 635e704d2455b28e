"""FastOHLCConsumer: every finished candle once, whatever dies."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from streammachine.ohlc.consumer.consumer import FastOHLCConsumer
from streammachine.redis.connection import RedisConnection
from streammachine.settings import Settings
from support.candles import (
    START,
    MakeConsumer,
    caught_up,
    emitted,
    feed,
    group,
    make_ticks,
    maker,
    oracle,
    same,
)
from support.runtime import Probe, Script
from support.valkey import Valkey, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def make(redis: RedisConnection) -> MakeConsumer:
    return maker(redis)


@pytest.fixture
def script(redis: RedisConnection, settings: Settings, tmp_path: Path) -> Iterator[Callable[..., Script]]:
    """A process whose App runs the consumer."""
    made: list[Script] = []

    def build(name: str = "worker", lease: float = 0.5, url: str | None = None) -> Script:
        assert settings.redis_url is not None
        body = f"""
        from streammachine import FastOHLCConsumer
        from streammachine.ohlc.consumer import active_session as session
        session.READ_COUNT, session.COMMIT_ENTRIES, session.COMMIT_SECONDS = 100, 300, 0.02
        app = App("ohlc", to_scan=False)
        candles = FastOHLCConsumer("ticks", timestamp_field="ts", lease={lease})

        @app.on_startup
        async def begin():
            await candles.start()
            print("active" if candles.active else "standby", flush=True)
        """
        made.append(Script(tmp_path, url or settings.redis_url.get_secret_value(), body, name))
        return made[-1]

    yield build
    for each in made:
        each.end()


# -- crashes --------------------------------------------------------------------------------------


async def test_each_candle_comes_once_however_often_the_process_is_killed(
    redis: RedisConnection, script: Callable[..., Script]
) -> None:
    ticks = make_ticks(20_000, late=0.005)
    wanted, late_count = oracle(ticks)
    rnd = random.Random(3)
    worker = script(lease=0.3)
    kills = at = 0

    async def read() -> int:
        return int((await group(redis)).get("entries-read") or 0) if at else 0

    process = worker.start()
    while kills < 6:
        before = await read()
        await feed(redis, ticks[at : at + 1000])
        at += 1000
        await until(partial(_moved, read, before))
        while rnd.random() < 0.6 and at < len(ticks) - 2_000:
            await feed(redis, ticks[at : at + 500])
            at += 500
            await asyncio.sleep(rnd.uniform(0, 0.03))
        process.kill()
        process.wait()
        kills += 1
        process = worker.start()
    await feed(redis, ticks[at:])
    await caught_up(redis, len(ticks))
    process.send_signal(signal.SIGTERM)
    await asyncio.to_thread(process.wait, 20)
    same(await emitted(redis), wanted)
    last = FastOHLCConsumer("ticks", timestamp_field="ts", connection=redis)
    await last.start()
    assert last.stats()["ticks"] + late_count >= len(ticks)
    assert last.stats()["late"] == late_count
    await last.stop()


async def _moved(read: Callable[[], Any], before: int) -> bool:
    return bool(await read() > before)


async def test_one_is_active_and_another_takes_over_within_the_lease(
    redis: RedisConnection, script: Callable[..., Script]
) -> None:
    ticks = make_ticks(4_000)
    wanted, _ = oracle(ticks)
    first, second = script("first"), script("second")
    process = first.start()
    await until(lambda: "active" in first.log)
    second.start()
    await until(lambda: "standby" in second.log)
    await feed(redis, ticks[:2_000])
    await caught_up(redis, 2_000)
    process.kill()
    process.wait()
    loop = asyncio.get_running_loop()
    died = loop.time()
    await feed(redis, ticks[2_000:])
    await caught_up(redis, len(ticks))
    assert loop.time() - died < 0.5 + 5  # the lease, and a slow machine
    same(await emitted(redis), wanted)


async def test_a_zombie_commits_nothing(redis: RedisConnection, script: Callable[..., Script]) -> None:
    ticks = make_ticks(6_000, late=0.01)
    wanted, _ = oracle(ticks)
    first, second = script("first"), script("second")
    zombie = first.start()
    await until(lambda: "active" in first.log)
    second.start()
    await until(lambda: "standby" in second.log)
    lease = "{ticks}:ohlc:ohlc_workers:lease"
    for at in range(0, 5_000, 1_000):
        holder = await Probe(redis).ask("GET", lease)
        os.kill(zombie.pid, signal.SIGSTOP)
        await feed(redis, ticks[at : at + 1_000])
        await until(partial(_changed, redis, lease, holder))
        os.kill(zombie.pid, signal.SIGCONT)
        zombie = second.processes[0] if zombie is first.processes[0] else first.processes[0]
    await feed(redis, ticks[5_000:])
    await caught_up(redis, len(ticks))
    same(await emitted(redis), wanted)
    assert "Standing by" in first.log and "Standing by" in second.log


async def _changed(redis: RedisConnection, lease: str, holder: bytes) -> bool:
    return await Probe(redis).ask("GET", lease) not in (None, holder)


async def test_a_restart_of_redis_loses_nothing(tmp_path: Path) -> None:
    ticks = make_ticks(6_000)
    wanted, _ = oracle(ticks)
    with Valkey(tmp_path / "own", "--appendonly", "yes", "--appendfsync", "always") as server:
        async with RedisConnection(url=server.url, timeout=1) as redis:
            consumer = FastOHLCConsumer("ticks", timestamp_field="ts", connection=redis, lease=2)
            await consumer.start()
            for at in range(0, 6_000, 2_000):
                await feed(redis, ticks[at : at + 1_000])
                await asyncio.to_thread(server.stop)
                await asyncio.to_thread(server.start)
                await until(redis.health_check)
                await feed(redis, ticks[at + 1_000 : at + 2_000])
            await caught_up(redis, len(ticks))
            await consumer.stop()
            same(await emitted(redis), wanted)


async def test_a_stopped_one_gives_its_lease_up(redis: RedisConnection, make: MakeConsumer) -> None:
    first, second = make(lease=60), make(lease=60)
    await first.start()
    await second.start()
    assert first.active and not second.active
    await first.stop()
    await until(lambda: second.active)
    assert not first.active
    await second.stop()
    assert not await Probe(redis).ask("EXISTS", "{ticks}:ohlc:ohlc_workers:lease")


async def test_a_stream_that_was_deleted_is_read_from_its_new_start(redis: RedisConnection, make: MakeConsumer) -> None:
    consumer = make(lease=0.3)
    await consumer.start()
    await feed(redis, make_ticks(100))
    await caught_up(redis, 100)
    await Probe(redis).ask("DEL", "ticks")
    for k in range(3):
        await Probe(redis).ask("XADD", "ticks", f"{k + 1}-0", "price", "1", "volume", "1", "ts", START + k)
    await caught_up(redis, 3)
    await consumer.stop()


async def test_after_flushall_it_begins_anew(redis: RedisConnection, make: MakeConsumer) -> None:
    consumer = make(lease=0.3)
    await consumer.start()
    await feed(redis, make_ticks(100))
    await caught_up(redis, 100)
    await Probe(redis).ask("FLUSHALL")
    ticks = make_ticks(300)
    await feed(redis, ticks)
    await caught_up(redis, 300)
    await consumer.stop()
    same(await emitted(redis), oracle(ticks)[0])


@pytest.mark.parametrize("refused", ["full stream", "right", "one stream"])
async def test_outputs_that_redis_refuses_lose_and_repeat_nothing(
    tmp_path: Path, anyio_backend: str, refused: str
) -> None:
    """The position moves behind the candles: once Redis takes them, each comes once."""
    ticks = make_ticks(1000)
    wanted, _ = oracle(ticks)
    with Valkey(tmp_path / "valkey") as server:
        async with RedisConnection(url=server.url, settings=Settings(data_dir=tmp_path / "data")) as redis:
            probe = Probe(redis)
            await probe.ask("ACL", "SETUSER", "app", "reset", "on", ">secret", "~*", "&*", "+@all")
            if refused == "full stream":
                await probe.ask("XADD", "candles_5m", "18446744073709551615-18446744073709551615", "n", "0")
            else:
                await probe.ask("ACL", "SETUSER", "app", "-xadd")
                if refused == "one stream":
                    await probe.ask("ACL", "SETUSER", "app", "(+xadd ~candles_1m)")
            await feed(redis, ticks)
            url = server.url.replace("//", "//app:secret@")
            async with RedisConnection(url=url, settings=Settings(data_dir=tmp_path / "data")) as own:
                consumer = maker(own)(lease=0.5)
                await consumer.start()
                await until(lambda: "fails" in str(consumer.facts("ohlc")["problem"]))
                assert await probe.ask("XLEN", "candles_1m") == 0
                if refused == "full stream":
                    await probe.ask("DEL", "candles_5m")
                else:
                    await probe.ask("ACL", "SETUSER", "app", "+xadd")
                await caught_up(redis, 1000, 60)
                await consumer.stop()
            same(await emitted(redis), wanted)
