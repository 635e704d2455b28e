"""Partitioned topics: a key has its stream for ever, and its order, also across processes that come, go and die."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streammachine.errors import FieldError, SettingsError
from streammachine.redis.connection import RedisConnection
from streammachine.redis.transport.cluster import SLOTS, slot_of
from streammachine.runtime.app.app import App
from streammachine.runtime.app.topics import Topic
from streammachine.runtime.consumer.partitions import assign
from streammachine.runtime.delivery.keys import Companions
from streammachine.runtime.model.message import Message
from streammachine.runtime.model.retry import Reject, RetryPolicy
from support.cluster import cluster
from support.runtime import MakeApp, Probe, Script
from support.valkey import until

pytestmark = pytest.mark.anyio


def records(keys: Sequence[str], each: int, seed: int = 5) -> list[dict[str, str]]:
    """``each`` records of every key, mixed; ``n`` counts within a key."""
    order = [key for key in keys for _ in range(each)]
    random.Random(seed).shuffle(order)
    counts: dict[str, int] = defaultdict(int)
    found = []
    for key in order:
        found.append({"symbol": key, "n": str(counts[key])})
        counts[key] += 1
    return found


KEYS = [f"SYM{number}" for number in range(30)]


# -- names and keys -------------------------------------------------------------------------------


def test_partitions_spread_over_the_slots_with_their_companions(make_app: MakeApp) -> None:
    topic = make_app().topic("ticks", partitions=8, key="symbol")
    assert topic.streams == tuple(f"{{ticks.{number}}}" for number in range(8))
    assert list(topic) == list(topic.streams) and len(topic) == 8 and topic[3] == "{ticks.3}"
    slots = [slot_of(stream) for stream in topic]
    assert len({slot * 3 // SLOTS for slot in slots}) == 3  # all nodes of a Cluster of three
    for stream in topic:
        keys = Companions(stream, "group")
        assert {slot_of(key) for key in (keys.dead_letters, keys.retry, keys.delayed, keys.mark)} == {slot_of(stream)}


def test_a_key_has_its_partition_for_ever(make_app: MakeApp) -> None:
    topic = make_app().topic("ticks", partitions=8, key="symbol")
    # Written down: another result would move keys that stand in somebody's streams.
    assert [topic.partition_of(key) for key in ("BTCUSDT", "ETHUSDT", "AAPL", "ä", 5, 1.5, True)] == [
        3, 4, 4, 3, 6, 2, 5,
    ]  # fmt: skip
    assert topic.stream_of("5") == topic.stream_of(b"5") == topic.stream_of(5)


@pytest.mark.parametrize(
    "options",
    [{"name": ""}, {"name": "a{b}"}, {"partitions": 0}, {"partitions": True}, {"partitions": 5000}, {"key": ""}],
)
def test_arguments_that_make_no_sense_are_refused(make_app: MakeApp, options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        make_app().topic(**{"name": "ticks", **options})


# -- sending --------------------------------------------------------------------------------------


async def test_records_go_to_the_partition_of_their_key(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    topic = app.topic("ticks", partitions=4, key="symbol")
    sent = records(KEYS, 5)
    async with app:
        identifiers = [await topic.send(record) for record in sent[:75]]
        identifiers += await topic.send_batch(sent[75:])
    found: dict[str, list[int]] = defaultdict(list)
    for stream in topic:
        entries = await probe.ask("XRANGE", stream, "-", "+")
        for identifier, flat in entries:
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            key, n = fields[b"symbol"].decode(), int(fields[b"n"])
            assert topic.stream_of(key) == stream
            assert sent[identifiers.index(identifier.decode())]["symbol"] in KEYS
            found[key].append(n)
    assert found == {key: list(range(5)) for key in KEYS}
    assert len(identifiers) == 150


async def test_a_record_without_its_key_is_refused_before_anything_is_sent(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    topic = app.topic("ticks", partitions=2, key="symbol")
    async with app:
        with pytest.raises(FieldError, match="'symbol'"):
            await topic.send({"n": 1})
        with pytest.raises(FieldError, match="'symbol'"):
            await topic.send_batch([{"symbol": "A"}, {"n": 1}])
        with pytest.raises(FieldError):
            await topic.send_batch([{"symbol": "A"}, {"symbol": "B", "n": None}])
    assert [await probe.ask("XLEN", stream) for stream in topic] == [0, 0]


async def test_the_key_can_be_computed(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    topic = app.topic("ticks", partitions=8, key=lambda record: record["pair"].split("-")[0])
    async with app:
        for pair in ("BTC-USD", "BTC-EUR"):
            await topic.send({"pair": pair})
    assert await probe.ask("XLEN", topic.stream_of("BTC")) == 2


async def test_another_number_of_partitions_is_refused(make_app: MakeApp) -> None:
    first = make_app()
    topic = first.topic("ticks", partitions=8)
    async with first:
        await topic.send({"symbol": "A"})
    second = make_app()
    other = second.topic("ticks", partitions=16)
    with pytest.raises(SettingsError, match="has 8 partitions, not 16"):
        await other.send({"symbol": "A"})
    await second.redis.close()
    with pytest.raises(SettingsError, match="has 8 partitions, not 16"):
        async with second:
            pass


async def test_a_transactional_handler_sends_to_partitions(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    topic = app.topic("ticks", partitions=2)

    @app.agent("orders", transactional=True)
    async def handle(record: Message) -> None:
        assert await topic.send({"symbol": "A"}) is None
        assert await topic.send_batch([{"symbol": "B"}, {"symbol": "C"}]) == []

    async with app:
        await app.send("orders", {"id": 1})
        await until(lambda: probe.done("orders", 1))
    assert sum([await probe.ask("XLEN", stream) for stream in topic]) == 3


# -- who consumes what ----------------------------------------------------------------------------

names = st.lists(st.text("abcdef0123456789", min_size=4, max_size=8), min_size=1, max_size=12, unique=True)


@given(members=names, partitions=st.integers(1, 40))
def test_the_assignment_is_even_and_the_same_for_all(members: list[str], partitions: int) -> None:
    streams = [f"{{t.{number}}}" for number in range(partitions)]
    found = assign(streams, sorted(members))
    assert list(found) == streams
    loads = [list(found.values()).count(member) for member in members]
    assert max(loads) - min(loads) <= 1
    assert assign(streams, sorted(members)) == found


def test_few_partitions_move_when_a_member_comes() -> None:
    streams = [f"{{t.{number}}}" for number in range(64)]
    before = assign(streams, ["a1", "b2", "c3"])
    after = assign(streams, ["a1", "b2", "c3", "d4"])
    assert sum(before[stream] != after[stream] for stream in streams) <= 32


def gathers(app: App, topic: Topic | Sequence[str], seen: list[tuple[str, str, int]], **options: Any) -> None:
    """An agent that notes (app, key, n)."""
    tag = f"{id(app)}"

    @app.agent(topic, group="readers", **options)
    async def read(record: Message) -> None:
        await asyncio.sleep(0)
        seen.append((tag, record.message["symbol"], int(record.message["n"])))


def in_order(seen: Sequence[tuple[str, str, int]], each: int) -> None:
    """Every key's numbers, each once and in order."""
    found: dict[str, list[int]] = defaultdict(list)
    for _, key, n in seen:
        found[key].append(n)
    assert found == {key: list(range(each)) for key in KEYS}


@pytest.mark.parametrize("form", ["topic", "streams"])
async def test_an_agent_takes_all_partitions_each_key_in_order(make_app: MakeApp, form: str) -> None:
    app = make_app()
    topic = app.topic("ticks", partitions=8)
    seen: list[tuple[str, str, int]] = []
    gathers(app, topic if form == "topic" else topic.streams, seen)
    async with app:
        await topic.send_batch(records(KEYS, 20))
        await until(lambda: len(seen) == 600)
        assert (await app.health_check())["status"] == "healthy"
    in_order(seen, 20)


async def test_a_failing_message_makes_those_of_its_key_wait(make_app: MakeApp) -> None:
    app = make_app()
    topic = app.topic("ticks", partitions=2)
    seen: list[tuple[str, str, int]] = []

    @app.agent(topic, concurrency=8, retry=RetryPolicy(initial=0.001))
    async def read(record: Message) -> None:
        await asyncio.sleep(random.uniform(0, 0.002))
        if int(record.message["n"]) % 5 == 3 and record.attempt < 3:
            raise ValueError("not yet")
        seen.append(("", record.message["symbol"], int(record.message["n"])))

    async with app:
        await topic.send_batch(records(KEYS, 10))
        await until(lambda: len(seen) == 300)
    in_order(seen, 10)


async def test_processes_share_the_partitions_and_take_over_in_order(make_app: MakeApp, probe: Probe) -> None:
    apps = [make_app() for _ in range(3)]
    topics = [app.topic("ticks", partitions=8) for app in apps]
    seen: list[tuple[str, str, int]] = []
    for app, topic in zip(apps, topics, strict=True):
        gathers(app, topic, seen, lease=10.0)
    sent = records(KEYS, 40)

    def shares() -> list[int]:
        return sorted(len(app.consumers) for app in apps)

    async with apps[0]:
        await until(lambda: shares() == [0, 0, 8])
        await topics[0].send_batch(sent[:300])
        async with apps[1]:
            await topics[0].send_batch(sent[300:600])
            await until(lambda: shares() == [0, 4, 4])
            async with apps[2]:
                await topics[0].send_batch(sent[600:900])
                await until(lambda: shares() == [2, 3, 3])
                await topics[0].send_batch(sent[900:1000])
            await topics[0].send_batch(sent[1000:1100])
        await topics[0].send_batch(sent[1100:])
        await until(lambda: len(seen) >= 1200)
        await until(lambda: shares() == [0, 0, 8])
    in_order(seen, 40)
    assert len({tag for tag, _, _ in seen}) == 3
    left = [key.decode() for key in await probe.ask("KEYS", "*holder*")]
    assert not left and not await probe.ask("EXISTS", "sm:topic:{ticks}:readers")


async def test_unordered_topics_are_shared_by_all(make_app: MakeApp) -> None:
    apps = [make_app() for _ in range(2)]
    topics = [app.topic("ticks", partitions=2, ordered=False) for app in apps]
    seen: list[tuple[str, str, int]] = []
    for app, topic in zip(apps, topics, strict=True):
        gathers(app, topic, seen)
    async with apps[0], apps[1]:
        assert [len(app.consumers) for app in apps] == [2, 2]
        await topics[0].send_batch(records(KEYS, 4))
        await until(lambda: len(seen) == 120)


async def test_a_dead_letter_stands_beside_its_partition(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    topic = app.topic("ticks", partitions=4)

    @app.agent(topic)
    async def refuse(record: Message) -> None:
        raise Reject("no")

    async with app:
        await topic.send({"symbol": "A"})
        await until(lambda: probe.ask("EXISTS", f"{topic.stream_of('A')}:dlq"))


async def test_on_a_cluster_the_partitions_stand_on_all_nodes(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes:
        app = App("cluster", to_scan=False, redis_url=f"{nodes[0].url}?cluster=true")
        topic = app.topic("ticks", partitions=8)
        seen: list[tuple[str, str, int]] = []
        gathers(app, topic, seen)
        async with app:
            await topic.send_batch(records(KEYS, 20))
            await until(lambda: len(seen) == 600)
        in_order(seen, 20)
        for node in nodes:
            async with RedisConnection(url=node.url) as one:
                held = [key for key in await one.command("KEYS", "*") if key.decode() in topic.streams]
            assert held


async def test_a_paused_agent_takes_no_partition_up(make_app: MakeApp, redis: RedisConnection) -> None:
    from streammachine.runtime.presence import set_paused

    app = make_app()
    topic = app.topic("ticks", partitions=2)
    seen: list[tuple[str, str, int]] = []
    gathers(app, topic, seen)
    name = app.agents[0].name
    await set_paused(redis, name, True)
    async with app:
        await until(lambda: len(app.consumers) == 2)
        await topic.send_batch(records(KEYS, 1))
        await asyncio.sleep(0.3)
        assert not seen
        await set_paused(redis, name, False)
        await until(lambda: len(seen) == 30)


async def test_the_order_holds_when_processes_are_killed(
    script: Callable[..., Script], redis: RedisConnection, make_app: MakeApp, probe: Probe
) -> None:
    """Starts are noted by the handlers themselves. What a killed process held starts again, before anything newer."""
    body = """
    app = App("killed", to_scan=False)
    ticks = app.topic("ticks", partitions=4)

    @app.agent(ticks, group="readers", lease=1.0)
    async def read(record):
        note = f"{record.message['symbol']} {record.message['n']} {os.getpid()}"
        await app.redis.command("RPUSH", "starts", note)
        await anyio.sleep(0.002)
    """
    worker = script(body)
    running = [worker.start(), worker.start()]
    sender = make_app()
    topic = sender.topic("ticks", partitions=4)
    sent = records(KEYS, 60)
    rnd = random.Random(11)
    async with sender:
        for place in range(0, 1800, 300):
            await topic.send_batch(sent[place : place + 300])
            reached = await probe.ask("LLEN", "starts")
            await until(partial(_above, probe, reached + 100))
            victim = running.pop(rnd.randrange(2))
            victim.kill()
            victim.wait()
            running.append(worker.start())
    await until(lambda: _drained(probe, topic), 60)
    last: dict[str, tuple[int, str]] = {}
    newest: dict[str, int] = defaultdict(lambda: -1)
    for row in await probe.ask("LRANGE", "starts", 0, -1):
        key, text, process = row.decode().split()
        number = int(text)
        assert number <= newest[key] + 1, "a newer message of the key had started before"
        assert key not in last or number > last[key][0] or process != last[key][1], "one process repeats nothing"
        newest[key] = max(newest[key], number)
        last[key] = (number, process)
    assert newest == dict.fromkeys(KEYS, 59)


async def _above(probe: Probe, count: int) -> bool:
    return bool(await probe.ask("LLEN", "starts") >= count)


async def _drained(probe: Probe, topic: Topic) -> bool:
    for stream in topic:
        for facts in await probe.ask("XINFO", "GROUPS", stream):
            found = dict(zip(facts[::2], facts[1::2], strict=True))
            if found[b"pending"] or found[b"lag"]:
                return False
    return True
