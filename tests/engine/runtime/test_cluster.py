"""Apps on a Redis Cluster: three primaries, with replicas where one of them is to fail."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis as redis_py

from streammachine.redis.connection import RedisConnection
from streammachine.redis.transport.cluster import slot_of
from streammachine.runtime.admin.agents import list_agents
from streammachine.runtime.admin.dead_letters import DeadLetters
from streammachine.runtime.app.app import App
from streammachine.runtime.consumer import reader as reading
from streammachine.runtime.declared.agents import DeclaredAgent, declare, undeclare
from streammachine.runtime.declared.host import DeclaredHost
from streammachine.runtime.delivery.group import Delivery, UncommittedError
from streammachine.runtime.model.message import Message
from streammachine.runtime.model.retry import Reject, Retry, RetryPolicy
from streammachine.settings import Settings
from support.cluster import cluster, serving
from support.runtime import Probe
from support.valkey import Valkey, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]
ONCE = RetryPolicy(max_attempts=1)
DEADLINE = 60.0
STREAMS = ("a", "b", "c")  # on three different nodes


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Valkey]]:
    with cluster(tmp_path_factory.mktemp("cluster")) as started:
        assert len({serving(started, stream).port for stream in STREAMS}) == 3
        yield started


@pytest.fixture
def clustered(nodes: list[Valkey], tmp_path: Path) -> Settings:
    """Settings that name the empty Cluster."""
    for node in nodes:
        with redis_py.Redis(port=node.port) as client:
            client.flushall()
    return Settings(redis_url=f"{nodes[0].url}?cluster=true", data_dir=tmp_path)


@pytest.fixture
async def probe(clustered: Settings, anyio_backend: str) -> AsyncIterator[Probe]:
    async with RedisConnection(settings=clustered) as connection:
        yield Probe(connection)


def app_on(settings: Settings, name: str = "clustered", **options: Any) -> App:
    return App(name, to_scan=False, settings=settings, **options)


async def test_drain_is_quick_and_clean_on_every_node(
    clustered: Settings, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SWEEP_PERIOD", 30.0)  # a read that nobody ends takes so long
    app = app_on(clustered)

    @app.agent(STREAMS, lease=120)
    async def handle(message: Message) -> None: ...

    async with app:
        for stream in STREAMS:
            await app.send(stream, {"n": 1})
            await until(lambda stream=stream: probe.done(stream, 1))  # type: ignore[misc]
        await anyio.sleep(0.2)  # all of them wait in a read now
        with anyio.fail_after(10):
            await app.shutdown()
    for stream in STREAMS:
        assert await probe.consumers(stream) == []


async def test_a_transaction_stays_in_its_slot(clustered: Settings, probe: Probe) -> None:
    app = app_on(clustered)

    @app.agent("a", transactional=True)
    async def handle(message: Message) -> None:
        total = await message.state.incr("total", int(message.message["n"]))
        await app.send("{a}:sums", {"total": total})

    async with app:
        await app.send_batch("a", [{"n": number} for number in range(1, 11)])
        await until(lambda: probe.done("a", 10))
    assert [fields["total"] for fields in await probe.fields("{a}:sums")][-1] == "55"


@pytest.mark.parametrize("stream", ["a", "{a}:in"])
async def test_an_effect_in_another_slot_is_refused_with_the_tag_to_use(
    clustered: Settings, probe: Probe, stream: str
) -> None:
    app = app_on(clustered)

    @app.agent(stream, transactional=True, retry=ONCE)
    async def handle(message: Message) -> None:
        await app.storage.read("x")  # reading is allowed
        if message.message["what"] == "send":
            await app.send("b", {"n": 1}, dedup_key="k")
        elif message.message["what"] == "update":
            await app.storage.incr("x")
        else:
            await app.storage.write("x", 1)

    async with app:
        await app.send_batch(stream, [{"what": "send"}, {"what": "update"}, {"what": "write"}])
        await until(lambda: probe.done(stream, 3))
    letters = await probe.fields("{a}:dlq" if stream == "a" else "{a}:in:dlq")
    assert [letter["sm-error-type"] for letter in letters] == ["CrossSlotError"] * 3
    assert "the stream 'b' stands in another slot" in letters[0]["sm-error"]
    assert "'{a}:b'" in letters[0]["sm-error"] and "best-effort" in letters[0]["sm-error"]
    assert all("record.state, which has the tag {a}" in letter["sm-error"] for letter in letters[1:])
    assert await probe.ask("EXISTS", "b") == await probe.ask("EXISTS", "sm:storage") == 0


async def test_best_effort_writes_in_other_slots_too(clustered: Settings, probe: Probe) -> None:
    apps = [app_on(clustered, name) for name in ("one", "two")]
    for app in apps:

        @app.agent("a", transactional="best-effort", concurrency=4)
        async def handle(message: Message, app: App = app) -> None:
            assert await app.send("b", {"n": message.message["n"]}) is None
            await app.send("{a}:home", {"n": message.message["n"]})
            await app.storage.incr("count")

    async with apps[0], apps[1]:
        await apps[0].send_batch("a", [{"n": number} for number in range(100)])
        await until(lambda: probe.done("a", 100), DEADLINE)
        assert await apps[0].storage.read("count") == 100  # each conflict was seen and rerun
    for stream in ("b", "{a}:home"):
        assert {fields["n"] for fields in await probe.fields(stream)} == {str(number) for number in range(100)}


async def test_best_effort_keeps_the_state_in_the_messages_slot_exact(clustered: Settings, probe: Probe) -> None:
    app = app_on(clustered)

    @app.agent("a", transactional="best-effort", concurrency=8)
    async def handle(message: Message) -> None:
        await app.send("b", {"n": message.message["n"]})
        await message.state.incr("count")

    async with app:
        await app.send_batch("a", [{"n": number} for number in range(100)])
        await until(lambda: probe.done("a", 100), DEADLINE)
    assert {fields["n"] for fields in await probe.fields("b")} == {str(number) for number in range(100)}
    assert await probe.ask("HGET", "{a}:state:eventengine", "count") == b"100"


async def test_best_effort_repeats_what_stands_elsewhere_when_the_commit_fails(
    clustered: Settings, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_on(clustered)
    failed = False
    commit = Delivery.commit

    async def fails_once(self: Delivery, *arguments: Any, **options: Any) -> bool:
        nonlocal failed
        if not failed:
            failed = True
            raise UncommittedError("the node died")
        return await commit(self, *arguments, **options)

    monkeypatch.setattr(Delivery, "commit", fails_once)

    @app.agent("a", transactional="best-effort")
    async def handle(message: Message) -> None:
        await app.send("b", {"n": message.message["n"]})
        await app.send("{a}:home", {"n": message.message["n"]})

    async with app:
        await app.send("a", {"n": 1})
        await until(lambda: probe.done("a", 1))
    assert [fields["n"] for fields in await probe.fields("b")] == ["1", "1"]
    assert [fields["n"] for fields in await probe.fields("{a}:home")] == ["1"]


async def test_retries_letters_dedup_timers_and_presence(clustered: Settings, probe: Probe) -> None:
    app = app_on(clustered)
    mended = False
    done: list[str] = []
    ticks = 0

    @app.agent(STREAMS, group="g", lease=0.4, retry=2, dedup=lambda message: message.message["id"])
    async def handle(message: Message) -> None:
        if message.message["id"] == "late" and message.attempt == 1:
            raise Retry(after=0.3)  # longer than half the lease: through the companion
        if message.message["id"] == "bad" and not mended:
            raise Reject("not yet")
        done.append(f"{message.topic} {message.message['id']}")

    @app.timer(0.1, scope="fleet")
    async def tick() -> None:
        nonlocal ticks
        ticks += 1

    async with app:
        for stream in STREAMS:
            first = await app.send(stream, {"id": "x"}, dedup_key="once")
            assert await app.send(stream, {"id": "x"}, dedup_key="once") == first
            await app.send_batch(stream, [{"id": "late"}, {"id": "bad"}, {"id": "x"}])
            await until(lambda stream=stream: probe.ask("EXISTS", f"{{{stream}}}:dlq"))  # type: ignore[misc]
        mended = True
        for stream in STREAMS:
            box = await DeadLetters.open(app.redis, stream)
            ((letter,), _) = await box.newest(app.redis, 10)
            assert len((await box.redrive(app.redis, [letter.id])).ids) == 1
        await until(lambda: len(done) >= 9, DEADLINE)
        (entry,) = await until(lambda: list_agents(app.redis))
        assert (entry.status, sorted(entry.streams)) == ("running", sorted(STREAMS))
        assert (await app.health_check())["status"] == "healthy"
        await until(lambda: ticks >= 3)
    assert sorted(done) == sorted(f"{stream} {name}" for stream in STREAMS for name in ("x", "late", "bad"))


async def test_declared_agents_run_on_a_cluster(clustered: Settings, probe: Probe) -> None:
    agent = DeclaredAgent("big", "a", "{a}:big", "num.qty > 1.0", "{'qty': num.qty}")
    async with RedisConnection(settings=clustered) as connection:
        host = DeclaredHost(connection)
        await declare(connection, agent)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(host.run)
            await connection.pipeline_xadd("a", [{"qty": 0.5}, {"qty": 2}, {"qty": "many"}])
            await until(lambda: probe.done("a", 3, agent.group), DEADLINE)
            await until(lambda: _status(connection, "running"), DEADLINE)
            assert await undeclare(connection, "big")
            host.stop()
    assert [fields["qty"] for fields in await probe.fields("{a}:big")] == ["2.0"]
    assert (await probe.fields("{a}:dlq"))[0]["qty"] == "many"


async def _status(connection: RedisConnection, status: str) -> bool:
    return [entry.status for entry in await list_agents(connection)] == [status]


# -- nodes that fail -------------------------------------------------------------------------------

COUNT = 3000


def copying(app: App) -> None:
    """Each message of ``orders`` is copied to ``{orders}:out`` once; slowly enough to be disturbed."""

    @app.agent("orders", transactional=True, concurrency=8, lease=2.0, retry=50)
    async def copy(message: Message) -> None:
        await anyio.sleep(0.005)
        await app.send("{orders}:out", {"n": message.message["n"]})


async def everything_once(probe: Probe) -> None:
    """Wait until all is copied; nothing is missing, nothing there twice."""

    async def copied() -> bool:
        try:
            return int(await probe.ask("XLEN", "{orders}:out")) >= COUNT and await probe.pending("orders") == 0
        except Exception:
            return False  # the Cluster is electing

    await until(copied, 120)
    numbers = [int(fields["n"]) for fields in await probe.fields("{orders}:out")]
    assert sorted(numbers) == list(range(COUNT))
    assert await probe.ask("EXISTS", "{orders}:dlq") == 0


async def begun(probe: Probe) -> bool:
    return int(await probe.ask("XLEN", "{orders}:out")) > COUNT // 20


@pytest.mark.parametrize("how", ["killed", "handed over"])
async def test_a_failover_loses_and_repeats_nothing(tmp_path: Path, how: str) -> None:
    with cluster(tmp_path, replicas=True) as nodes:
        settings = Settings(redis_url=f"{serving(nodes, 'x').url}?cluster=true", data_dir=tmp_path)
        app = app_on(settings)
        copying(app)
        primary = serving(nodes, "orders")
        replica = nodes[nodes.index(primary) + 3]
        async with RedisConnection(settings=settings) as connection:
            probe = Probe(connection)
            await connection.pipeline_xadd("orders", [{"n": number} for number in range(COUNT)])
            with redis_py.Redis(port=primary.port) as client:
                assert client.wait(1, 10_000) == 1  # replication is asynchronous; what it loses, nobody gives back
            async with app:
                await until(lambda: begun(probe), DEADLINE)
                if how == "killed":
                    primary.stop()
                else:
                    with redis_py.Redis(port=replica.port) as client:
                        client.execute_command("CLUSTER", "FAILOVER")
                await until(lambda: serving(nodes, "orders") is replica, DEADLINE)
                await everything_once(probe)
                assert (await app.health_check())["status"] == "healthy"
                with anyio.fail_after(10):
                    await app.shutdown()


async def test_a_primary_that_is_killed_and_comes_back_has_lost_nothing(tmp_path: Path) -> None:
    with cluster(tmp_path, durable=True) as nodes:
        settings = Settings(redis_url=f"{nodes[0].url}?cluster=true", data_dir=tmp_path)
        assert slot_of("orders") == slot_of("{orders}:out")
        app = app_on(settings)
        copying(app)
        async with RedisConnection(settings=settings) as connection:
            probe = Probe(connection)
            await connection.pipeline_xadd("orders", [{"n": number} for number in range(COUNT)])
            async with app:
                await until(lambda: begun(probe), DEADLINE)
                primary = serving(nodes, "orders")
                primary.stop()
                await anyio.sleep(1)
                primary.start()
                await everything_once(probe)
