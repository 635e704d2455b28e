"""Redis at its memory limit: commits wait as a SET would be refused, and go on when there is room."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest

from streammachine.errors import RedisFullError
from streammachine.redis.connection import RedisConnection
from streammachine.runtime.app.app import App
from streammachine.runtime.model.message import Message, MessageBatch
from streammachine.runtime.model.retry import Reject, Retry
from streammachine.settings import Settings
from support.runtime import Probe
from support.valkey import Valkey, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]
LIMIT = 20_000_000
COUNT = 200


@pytest.fixture
async def limited(tmp_path: Path, anyio_backend: str) -> AsyncIterator[tuple[App, Probe]]:
    """An App on a server that holds COUNT messages for it and is at its limit."""
    with Valkey(tmp_path / "valkey", "--maxmemory", str(LIMIT)) as server:
        settings = Settings(data_dir=tmp_path / "data", redis_url=server.url)
        async with RedisConnection(settings=settings) as connection:
            await connection.pipeline_xadd("s", [{"n": n} for n in range(COUNT)])
            yield App("limited", to_scan=False, settings=settings), Probe(connection)


async def fill(probe: Probe) -> None:
    """Fill the memory to its limit."""
    with pytest.raises(RedisFullError):
        while True:
            await probe.ask("RPUSH", "filler", b"x" * 200_000)


async def used(probe: Probe) -> int:
    found = re.search(rb"used_memory:(\d+)", await probe.ask("INFO", "memory"))
    assert found is not None
    return int(found[1])


def sends(app: App) -> None:
    @app.agent("s", concurrency=8, transactional=True, lease=2.0)
    async def handle(message: Message) -> None:
        await app.send("out", {"n": message.message["n"], "payload": "x" * 2000})


def counts(app: App) -> None:
    @app.agent("s", concurrency=8, transactional=True, lease=2.0)
    async def handle(message: Message) -> None:
        await app.storage.write(f"key {message.message['n']}", "x" * 2000)
        await app.send("out", {"n": message.message["n"]})


def sends_batches(app: App) -> None:
    @app.agent("s", batch=10, transactional=True, lease=2.0)
    async def handle(batch: MessageBatch) -> None:
        for message in batch:
            await app.send("out", {"n": message.message["n"], "payload": "x" * 2000})


def sends_at_once(app: App) -> None:
    @app.agent("s", concurrency=8, lease=2.0)
    async def handle(message: Message) -> None:
        await app.send("out", {"n": message.message["n"], "payload": "x" * 2000})


@pytest.mark.parametrize("agent", [sends, counts, sends_batches, sends_at_once])
async def test_commits_wait_at_the_limit_and_go_on_when_there_is_room(
    limited: tuple[App, Probe], agent: Callable[[App], None], caplog: pytest.LogCaptureFixture
) -> None:
    app, probe = limited
    agent(app)
    await fill(probe)
    async with app:
        consumer = app.consumers[0][1]
        await until(lambda: consumer.delivery.full)
        before = await used(probe)
        assert "memory limit" in str((await app.health_check())["problems"])
        looks = 0

        async def looked() -> bool:
            """Three looks for room by those who wait."""
            nonlocal looks
            text = (await probe.ask("INFO", "commandstats")).decode()
            calls = sum(int(count) for count in re.findall(r"cmdstat_eval:calls=(\d+)", text))
            looks = looks or calls
            return calls >= looks + 3

        await until(looked)
        assert await used(probe) < before + 1_000_000
        await probe.ask("DEL", "filler")
        await until(lambda: probe.done("s", COUNT))
        await until(lambda: not consumer.last_error)
        assert consumer.metrics.failed == 0
    assert sorted(int(fields["n"]) for fields in await probe.fields("out")) == list(range(COUNT))
    assert await probe.ask("EXISTS", "{s}:dlq") == 0
    assert [r.levelno for r in caplog.records if "waits until Redis takes writes" in r.message] == [logging.ERROR]


async def test_what_needs_no_memory_goes_on_at_the_limit(limited: tuple[App, Probe]) -> None:
    app, probe = limited

    @app.agent("s", group="plain")
    async def plain(message: Message) -> None: ...

    @app.agent("s", group="transactional", transactional=True)
    async def transactional(message: Message) -> None:
        await app.storage.delete("k")

    async with app:
        await until(lambda: probe.done("s", COUNT, "plain"))
        await until(lambda: probe.done("s", COUNT, "transactional"))
        await probe.redis.pipeline_xadd("s", [{"n": n} for n in range(COUNT)])
        await app.storage.write("k", 1)
        await fill(probe)
        await until(lambda: probe.done("s", 2 * COUNT, "plain"))
        await until(lambda: probe.done("s", 2 * COUNT, "transactional"))
        await until(lambda: app.consumers[0][1].held == 0)


async def test_retries_and_dead_letters_wait_for_room(limited: tuple[App, Probe]) -> None:
    app, probe = limited
    runs = 0

    @app.agent("s", concurrency=4, lease=2.0)
    async def handle(message: Message) -> None:
        nonlocal runs
        runs += 1
        if message.message["n"] == "7":
            raise Reject("seven")
        if message.message["n"] == "8" and message.attempt == 1:
            raise Retry(after=3.0)

    await fill(probe)
    async with app:
        await until(lambda: app.consumers[0][1].delivery.full)
        await until(lambda: runs >= COUNT)
        assert await probe.pending("s") >= 2
        await probe.ask("DEL", "filler")
        await until(lambda: probe.done("s", COUNT))
        await until(lambda: runs == COUNT + 1)
    (letter,) = await probe.fields("{s}:dlq")
    assert letter["n"] == "7"


async def test_the_end_does_not_wait_for_room(limited: tuple[App, Probe]) -> None:
    app, probe = limited
    sends(app)
    await fill(probe)
    async with app:
        await until(lambda: app.consumers[0][1].delivery.full)
    await probe.ask("DEL", "filler")
    assert await probe.ask("EXISTS", "out") == 0
    assert {deliveries for _, _, deliveries in await probe.rows("s")} <= {0, 1}


async def test_a_server_without_its_replicas_is_waited_for(limited: tuple[App, Probe]) -> None:
    """It refuses writes for a time, as at the memory limit; so does one whose disk is full (MISCONF)."""
    app, probe = limited
    inside, gate = anyio.Event(), anyio.Event()

    @app.agent("s", concurrency=4, transactional=True, lease=2.0)
    async def handle(message: Message) -> None:
        inside.set()
        await gate.wait()
        await app.send("out", {"n": message.message["n"]})

    async with app:
        await inside.wait()
        await probe.ask("CONFIG", "SET", "min-replicas-to-write", 1)
        gate.set()
        consumer = app.consumers[0][1]
        await until(lambda: consumer.delivery.full)
        assert (await app.health_check())["status"] == "degraded"
        await probe.ask("CONFIG", "SET", "min-replicas-to-write", 0)
        await until(lambda: probe.done("s", COUNT))
        assert consumer.metrics.failed == 0
    assert sorted(int(fields["n"]) for fields in await probe.fields("out")) == list(range(COUNT))
