"""Redis goes away, forgets everything, or the network breaks: nothing is lost, and nobody spins."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from streammachine.errors import RedisUnavailableError
from streammachine.redis.connection import RedisConnection
from streammachine.runtime.app.app import App
from streammachine.runtime.model.message import Message
from streammachine.runtime.model.retry import RetryPolicy
from streammachine.settings import Settings
from support.proxy import Proxy
from support.runtime import MakeApp, Probe
from support.valkey import Valkey, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]
DEADLINE = 60.0


async def calls(probe: Probe, command: str) -> int:
    """How often the server has run a command."""
    text = (await probe.ask("INFO", "commandstats")).decode()
    return sum(int(count) for count in re.findall(rf"cmdstat_{command}[^:]*:calls=(\d+)", text))


@pytest.mark.parametrize("accident", ["FLUSHALL", "DEL", "XGROUP"])
async def test_a_lost_group_begins_where_nothing_is_skipped_and_nobody_spins(
    make_app: MakeApp, probe: Probe, accident: str
) -> None:
    app = make_app(count=100)
    got: list[int] = []

    @app.agent("s", concurrency=4, lease=2.0)
    async def handle(message: Message) -> None:
        got.append(int(message.message["n"]))

    async with app:
        await app.send_batch("s", [{"n": number} for number in range(100)])
        await until(lambda: probe.done("s", 100))
        last = (await probe.ask("XREVRANGE", "s", "+", "-", "COUNT", 1))[0][0].decode()

        async def marked() -> bool:
            mark = await probe.ask("GET", "{s}:retry:eventengine:mark")
            return mark is not None and mark.decode().startswith(last)

        await until(marked)
        before = await calls(probe, "xgroup")
        if accident == "XGROUP":
            await probe.ask("XGROUP", "DESTROY", "s", "eventengine")
        else:
            await probe.ask(accident, *(["s"] if accident == "DEL" else []))
        # What is sent before the group stands again is delivered, too.
        await probe.redis.pipeline_xadd("s", [{"n": number} for number in range(100, 150)])
        await until(lambda: set(range(100, 150)) <= set(got), DEADLINE)
        consumer = app.consumers[0][1]
        await until(lambda: consumer.held == 0)
        assert consumer.metrics.groups_recreated >= 1
        polled = consumer.metrics.last_poll
        await until(lambda: consumer.metrics.last_poll > polled + 1)
        assert await calls(probe, "xgroup") - before < 40
    assert sorted(got) == list(range(150))  # the mark: what was done is not done again


async def test_a_stream_filled_anew_with_older_ids_is_read_from_its_start(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    got: list[str] = []

    @app.agent("s", lease=1.0)
    async def handle(message: Message) -> None:
        got.append(message.message["n"])

    async with app:
        for number in range(5):
            await probe.ask("XADD", "s", f"{1000 + number}-0", "n", number)

        async def marked() -> bool:
            return bool(await probe.ask("GET", "{s}:retry:eventengine:mark") == b"1004-0 5")

        await until(marked)
        # In one step, so that the reader cannot see the stream missing.
        await probe.ask("EVAL", "redis.call('DEL', KEYS[1]) redis.call('XADD', KEYS[1], '7-0', 'n', 'old')", 1, "s")
        await until(lambda: got[-1:] == ["old"], DEADLINE)
    assert got == ["0", "1", "2", "3", "4", "old"]


async def test_messages_that_run_while_the_group_is_lost_are_finished_once(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    gate = anyio.Event()
    runs: list[str] = []

    @app.agent("s", concurrency=2, prefetch=6, transactional=True)
    async def handle(message: Message) -> None:
        runs.append(message.message["n"])
        await app.send("out", {"n": message.message["n"]})
        await gate.wait()

    async with app:
        await app.send_batch("s", [{"n": number} for number in range(6)])
        consumer = app.consumers[0][1]
        await until(lambda: consumer.active == 2 and consumer.held == 6)
        await probe.ask("XGROUP", "DESTROY", "s", "eventengine")
        await until(lambda: consumer.metrics.groups_recreated >= 1, DEADLINE)
        await until(lambda: consumer.held >= 4, DEADLINE)
        gate.set()
        await until(lambda: probe_pending(probe, 0), DEADLINE)
    assert sorted(fields["n"] for fields in await probe.fields("out")) == [str(number) for number in range(6)]
    assert sorted(runs) == [str(number) for number in range(6)]


async def probe_pending(probe: Probe, count: int) -> bool:
    return await probe.pending("s") == count


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path / "valkey", "--appendonly", "yes", "--appendfsync", "always") as found:
        yield found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_server_that_comes_back_with_its_data_goes_on(
    server: Valkey, settings: Settings, number: int, anyio_backend: str
) -> None:
    app = App("restart", to_scan=False, settings=settings, redis_url=server.url)

    @app.agent("s", concurrency=8, transactional=True, lease=2.0, retry=RetryPolicy(max_attempts=2, initial=0.01))
    async def handle(message: Message) -> None:
        await app.storage.incr("count")
        await app.send("out", {"n": message.message["n"]})
        await anyio.sleep(0.005)

    @app.agent("s", group="sends")
    async def forward(message: Message) -> None:
        await app.send("direct", {"n": message.message["n"]})

    async with app:
        await app.send_batch("s", [{"n": number} for number in range(500)])
        await until(lambda: app.consumers[0][1].metrics.consumed > 50)
        assert server.process is not None
        server.process.send_signal(number)
        server.process.wait()
        await until(lambda: is_away(app), DEADLINE)
        server.start()
        await until(lambda: is_back(app), DEADLINE)  # it loads its data first
        probe = Probe(app.redis)
        await until(lambda: probe.done("s", 500), DEADLINE)
        await until(lambda: probe.done("s", 500, "sends"), DEADLINE)
        out = [int(fields["n"]) for fields in await probe.fields("out")]
        assert sorted(out) == list(range(500))
        assert await app.storage.read("count") == 500
        assert {int(fields["n"]) for fields in await probe.fields("direct")} == set(range(500))
        # Redis' own absence is no failed attempt of a message.
        assert await probe.ask("EXISTS", "{s}:dlq") == 0
        assert (await app.health_check())["status"] == "healthy"


async def is_away(app: App) -> bool:
    return bool((await app.health_check())["redis"] == "disconnected")


async def is_back(app: App) -> bool:
    return not await is_away(app)


async def test_a_server_that_comes_back_empty_goes_on_too(
    tmp_path: Path, settings: Settings, anyio_backend: str
) -> None:
    got: list[str] = []
    with Valkey(tmp_path / "valkey") as server:
        app = App("empty", to_scan=False, settings=settings, redis_url=server.url)

        @app.agent("s")
        async def handle(message: Message) -> None:
            got.append(message.message["n"])

        async with app:
            await app.send("s", {"n": 1})
            await until(lambda: got == ["1"])
            server.stop()
            server.start()
            async with RedisConnection(url=server.url, settings=settings) as other:
                await other.pipeline_xadd("s", [{"n": 2}])
            await until(lambda: got == ["1", "2"], DEADLINE)
            probe = Probe(app.redis)
            assert await calls(probe, "xgroup") < 40


async def test_the_end_does_not_wait_for_a_redis_that_is_away(
    tmp_path: Path, settings: Settings, anyio_backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Valkey(tmp_path / "valkey") as server:
        app = App("gone", to_scan=False, settings=settings, redis_url=server.url, grace=1.0)
        got: list[str] = []

        @app.agent("s")
        async def handle(message: Message) -> None:
            got.append(message.message["n"])
            server.stop()

        with anyio.fail_after(DEADLINE):
            async with app:
                with contextlib.suppress(ConnectionError):  # the handler may be quicker than the reply
                    await app.send("s", {"n": 1})
                await until(lambda: got)
    assert len(caplog.records) < 100  # it tries again now and then, not all the time


@pytest.fixture
async def proxied(redis: RedisConnection, settings: Settings) -> Iterator[tuple[App, Proxy]]:  # type: ignore[misc]
    assert redis.target is not None
    async with Proxy(Path(str(redis.target.endpoint.path))) as proxy:
        yield App("proxied", to_scan=False, settings=settings, redis_url=proxy.url), proxy  # type: ignore[misc]


def outputs(app: App) -> None:
    @app.agent("s", concurrency=4, transactional=True, lease=3.0)
    async def handle(message: Message) -> None:
        await app.send("out", {"n": message.message["n"]})
        await anyio.sleep(0.002)


async def everything_once(probe: Probe, count: int) -> None:
    await until(lambda: probe.done("s", count), DEADLINE)
    assert sorted(int(fields["n"]) for fields in await probe.fields("out")) == list(range(count))


async def test_links_that_are_reset(proxied: tuple[App, Proxy], probe: Probe) -> None:
    app, proxy = proxied
    outputs(app)
    async with app:
        await probe.redis.pipeline_xadd("s", [{"n": number} for number in range(600)])
        for step in range(1, 4):
            await until(lambda step=step: app.consumers[0][1].metrics.consumed > 100 * step, DEADLINE)  # type: ignore[misc]
            proxy.reset()
        await everything_once(probe, 600)


@pytest.mark.parametrize("heals", ["by itself", "by a reset"])
async def test_a_link_that_swallows_everything(proxied: tuple[App, Proxy], probe: Probe, heals: str) -> None:
    app, proxy = proxied
    outputs(app)
    async with app:
        await probe.redis.pipeline_xadd("s", [{"n": number} for number in range(300)])
        await until(lambda: app.consumers[0][1].metrics.consumed > 50, DEADLINE)
        proxy.blackhole = True
        await until(lambda: app.consumers[0][1].metrics.reconnects >= 1, DEADLINE)
        assert (await app.health_check())["redis"] == "disconnected"
        proxy.blackhole = False
        if heals == "by a reset":
            proxy.reset()
        await everything_once(probe, 300)
        await until(lambda: is_back(app), DEADLINE)


async def test_half_open_links_are_noticed_and_replaced(proxied: tuple[App, Proxy], probe: Probe) -> None:
    """The links that stood are dead and say nothing; nobody repairs them, and new ones work."""
    app, proxy = proxied
    outputs(app)
    async with app:
        await probe.redis.pipeline_xadd("s", [{"n": number} for number in range(300)])
        await until(lambda: app.consumers[0][1].metrics.consumed > 50, DEADLINE)
        proxy.half_open()
        links = proxy.connections
        await everything_once(probe, 300)
        assert proxy.connections > links

        async def sent() -> bool:
            with contextlib.suppress(ConnectionError):  # the sender's own link is dead, too
                return bool(await app.send("s", {"n": 300}))
            return False

        await until(sent, DEADLINE)
        await until(lambda: probe.done("s", 301), DEADLINE)
        assert {fields["n"] for fields in (await probe.fields("s"))[300:]} == {"300"}
        await until(lambda: is_healthy(app), DEADLINE)


async def is_healthy(app: App) -> bool:
    return bool((await app.health_check())["status"] == "healthy")


async def test_a_slow_link(proxied: tuple[App, Proxy], probe: Probe) -> None:
    app, proxy = proxied
    outputs(app)
    async with app:
        proxy.latency = 0.2  # each way
        await probe.redis.pipeline_xadd("s", [{"n": number} for number in range(20)])
        await everything_once(probe, 20)
        assert app.consumers[0][1].metrics.reconnects == 0


@pytest.mark.parametrize("command", [b"XREADGROUP", b"EVAL", b"XAUTOCLAIM"])
async def test_a_reply_that_is_lost_after_the_command_ran(
    proxied: tuple[App, Proxy], probe: Probe, command: bytes
) -> None:
    """Entries that a lost read brought are found under our own name; a commit that ran is not run again."""
    app, proxy = proxied
    outputs(app)
    async with app:
        for round_ in range(3):
            if command == b"XREADGROUP":
                proxy.lose_reply_to(b"XREADGROUP")
                await until(lambda: proxy._doomed is None, DEADLINE)
            await probe.redis.pipeline_xadd("s", [{"n": 50 * round_ + number} for number in range(50)])
            if command != b"XREADGROUP":
                proxy.lose_reply_to(b"XACK" if command == b"EVAL" else command)
            await until(lambda round_=round_: probe.done("s", 50 * (round_ + 1)), DEADLINE)  # type: ignore[misc]
            await until(lambda round_=round_: proxy.lost_replies > round_, DEADLINE)  # type: ignore[misc]
        await everything_once(probe, 150)


async def test_a_redis_that_takes_no_commit_is_not_the_messages_fault(make_app: MakeApp, probe: Probe) -> None:
    """More commits fail than a message may be started without an end: its process has lived to the end each time."""
    await probe.redis.pipeline_xadd("s", [{"n": 1}])
    await probe.ask("XGROUP", "CREATE", "s", "eventengine", "0")
    await probe.ask("XREADGROUP", "GROUP", "eventengine", "dead", "STREAMS", "s", ">")
    app = make_app()
    attempts: list[int] = []

    @app.agent("s", transactional=True, lease=0.5)
    async def handle(message: Message) -> None:
        attempts.append(message.attempt)
        await app.send("out", {"n": message.message["n"]})

    async with app:
        delivery = app.consumers[0][1].delivery
        run = delivery._script

        async def refused(name: str, *arguments: Any) -> Any:
            if name == "commit" and len(attempts) <= 8:
                raise RedisUnavailableError("away")
            return await run(name, *arguments)

        delivery._script = refused  # type: ignore[method-assign]
        await until(lambda: probe.done("s", 1), DEADLINE)
    assert attempts == [2] * 9
    assert [fields["n"] for fields in await probe.fields("out")] == ["1"]
    assert await probe.ask("EXISTS", "{s}:dlq") == 0


async def test_a_connection_that_breaks_under_a_handler_is_not_the_messages_fault(
    make_app: MakeApp, probe: Probe
) -> None:
    """Redis answers again by the time it is asked. A message that breaks it each time is given up all the same."""
    app = make_app()
    runs = {"cut": 0, "breaker": 0}

    @app.agent("s", concurrency=2, retry=RetryPolicy(max_attempts=2, initial=0.001, maximum=0.002))
    async def handle(message: Message) -> None:
        kind = message.message["kind"]
        runs[kind] += 1
        if kind == "breaker" or runs[kind] <= 5:
            raise RedisUnavailableError("The connection to Redis broke before the reply came")

    async with app:
        await app.send_batch("s", [{"kind": "cut"}, {"kind": "breaker"}])
        await until(lambda: probe.ask("XLEN", "{s}:dlq"), DEADLINE)
        await until(lambda: probe.done("s", 2), DEADLINE)
    assert [fields["kind"] for fields in await probe.fields("{s}:dlq")] == ["breaker"]
    assert runs["cut"] == 6
    assert 2 < runs["breaker"] < 50


async def test_an_acknowledgement_that_is_lost_is_sent_again(proxied: tuple[App, Proxy], probe: Probe) -> None:
    app, proxy = proxied
    got: list[str] = []

    @app.agent("s")
    async def handle(message: Message) -> None:
        got.append(message.message["n"])

    async with app:
        proxy.lose_reply_to(b"XACK")
        await probe.redis.pipeline_xadd("s", [{"n": number} for number in range(5)])
        await until(lambda: probe.done("s", 5), DEADLINE)
        await until(lambda: app.consumers[0][1].held == 0, DEADLINE)
    assert got == [str(number) for number in range(5)]


async def test_a_send_whose_reply_is_lost_is_not_repeated(proxied: tuple[App, Proxy], probe: Probe) -> None:
    app, proxy = proxied
    async with app:
        await app.send("s", {"n": 0})
        proxy.lose_reply_to(b"XADD")
        with pytest.raises(ConnectionError):
            await app.send("s", {"n": 1})
        proxy.lose_reply_to(b"EVAL")
        await app.send("s", {"n": 2}, dedup_key="two")  # this one may be, and is
    assert [fields["n"] for fields in await probe.fields("s")] == ["0", "1", "2"]
