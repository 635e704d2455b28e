"""FastOHLCConsumer among the agents: listed with its state, paused and resumed by name."""

from __future__ import annotations

from typing import Any

import pytest

from streammachine.ohlc.consumer.consumer import FastOHLCConsumer
from streammachine.redis.connection import RedisConnection
from streammachine.runtime.admin.agents import AgentEntry, find_entry, gauges, list_agents, pause_agent
from streammachine.runtime.app.app import App
from streammachine.runtime.presence import PAUSED, RUNNING
from streammachine.settings import Settings
from support.candles import MakeConsumer, caught_up, emitted, feed, make_ticks, maker, oracle, same
from support.runtime import Probe
from support.valkey import until

pytestmark = pytest.mark.anyio
NAME = "FastOHLCConsumer@ticks/ohlc_workers"


@pytest.fixture
def make(redis: RedisConnection) -> MakeConsumer:
    return maker(redis)


async def entry_with(redis: RedisConnection, states: list[str]) -> AgentEntry:
    """The consumer's entry once its processes say these states."""

    async def found() -> Any:
        entries = [entry for entry in await list_agents(redis) if entry.name == NAME]
        return entries and sorted(facts["state"] for _, facts in entries[0].alive) == states and entries[0]

    entry: AgentEntry = await until(found, 30)
    return entry


async def test_it_is_listed_with_stream_group_lag_and_state(redis: RedisConnection, make: MakeConsumer) -> None:
    await feed(redis, make_ticks(1000))
    first, second = make(), make()
    await first.start()
    await caught_up(redis, 1000)
    await second.start()
    entry = await entry_with(redis, ["active", "standby"])
    assert (entry.kind, entry.status, entry.processes) == ("candles", "active", 2)
    assert entry.streams == {"ticks": "ohlc_workers"}
    assert find_entry([entry], "FastOHLCConsumer") is entry
    assert (await gauges(redis, "ticks", "ohlc_workers"))["lag"] == 0
    await until(lambda: _counted(redis, 1000), 30)
    await first.stop()
    entry = await entry_with(redis, ["active"])
    assert entry.processes == 1
    await second.stop()
    assert await list_agents(redis) == []
    assert await Probe(redis).ask("EXISTS", RUNNING) == 0


async def _counted(redis: RedisConnection, ticks: int) -> bool:
    (entry,) = await list_agents(redis)
    return entry.counted()["consumed"] == ticks


async def test_a_pause_holds_for_all_and_loses_no_candle(redis: RedisConnection, make: MakeConsumer) -> None:
    ticks = make_ticks(4000)
    wanted, _ = oracle(ticks)
    first, second = make(), make()
    await first.start()
    await second.start()
    await feed(redis, ticks[:1500])
    await caught_up(redis, 1500)
    await entry_with(redis, ["active", "standby"])
    entry, changed = await pause_agent(redis, NAME, True)
    assert (entry.status, changed) == ("paused", True)
    await entry_with(redis, ["paused", "paused"])
    await feed(redis, ticks[1500:])
    third = make()
    await third.start()  # begins paused
    await entry_with(redis, ["paused", "paused", "paused"])
    assert not (first.active or second.active or third.active)
    assert (await gauges(redis, "ticks", "ohlc_workers"))["lag"] == 2500
    await pause_agent(redis, NAME, False)
    await entry_with(redis, ["active", "standby", "standby"])
    await caught_up(redis, len(ticks))
    for consumer in (first, second, third):
        await consumer.stop()
    same(await emitted(redis), wanted)
    assert await Probe(redis).ask("EXISTS", PAUSED) == 0


async def test_one_that_begins_paused_takes_what_came_meanwhile(redis: RedisConnection, make: MakeConsumer) -> None:
    await Probe(redis).ask("HSET", PAUSED, NAME, "1")
    consumer = make(start="$")
    await feed(redis, make_ticks(10))
    await consumer.start()
    await feed(redis, make_ticks(1000)[10:])
    assert not consumer.active
    await pause_agent(redis, NAME, False)
    await caught_up(redis, 1000)
    assert consumer.stats()["ticks"] == 990
    await consumer.stop()


async def test_in_an_app_it_shows_under_the_apps_name(redis: RedisConnection, settings: Settings) -> None:
    app = App("market", to_scan=False, settings=settings)

    @app.on_startup
    async def begin() -> None:
        await FastOHLCConsumer("ticks", intervals=[60_000]).start()

    async with app:
        entry = await entry_with(redis, ["active"])
        assert entry.app == "market"
    assert await list_agents(redis) == []


async def test_what_keeps_it_from_working_is_told(
    redis: RedisConnection, make: MakeConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = make()
    await consumer.start()
    await Probe(redis).ask("DEL", "candles_1m")
    await Probe(redis).ask("SET", "candles_1m", "a string")
    await feed(redis, make_ticks(1000))

    async def told() -> bool:
        (entry,) = await list_agents(redis) or [None]
        return entry is not None and entry.status == "failing" and "candles_1m" in entry.problem

    await until(told, 30)
    await Probe(redis).ask("DEL", "candles_1m")
    await caught_up(redis, 1000)
    await until(lambda: _status_is(redis, "active"), 30)
    await consumer.stop()


async def _status_is(redis: RedisConnection, status: str) -> bool:
    return [entry.status for entry in await list_agents(redis)] == [status]
