"""The same App on every kind of server there is here: what it promises does not depend on which one it is."""

from __future__ import annotations

import contextlib
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
import redis as redis_py

from streammachine.redis.connection import RedisConnection
from streammachine.redis.embedded.server import EmbeddedServer
from streammachine.redis.transport.cluster import slot_of
from streammachine.runtime.admin.dead_letters import DeadLetters
from streammachine.runtime.app.app import App
from streammachine.runtime.model.message import Message
from streammachine.runtime.model.retry import Reject, Retry
from streammachine.settings import Settings
from support.cluster import Move, Sentinels, TlsFront, cluster, owner_of
from support.runtime import Probe
from support.valkey import Valkey, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]
DEADLINE = 90.0
COUNT = 200
STREAM, OUT = "{orders}", "{orders}:billed"  # one slot, as a Cluster's transaction needs

SERVERS = ["embedded Valkey", "Valkey over TCP", "Debian's Redis", "Cluster", "Sentinel", "TLS"]


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of one kind of server, of the test's own."""
    with contextlib.ExitStack() as stack:
        yield url_of(request.param, tmp_path, stack)


def url_of(kind: str, folder: Path, stack: contextlib.ExitStack) -> str:
    if kind == "embedded Valkey":
        return stack.enter_context(EmbeddedServer.acquire(folder / "embedded", fsync="everysec")).url
    if kind == "Debian's Redis":
        binary = shutil.which("redis-server")
        if binary is None:
            pytest.skip("redis-server is not installed (Debian: apt install redis-server)")
        return stack.enter_context(Valkey(folder / "redis", binary=binary)).url
    if kind == "Cluster":
        return f"{stack.enter_context(cluster(folder))[0].url}?cluster=true"
    if kind == "Sentinel":
        return stack.enter_context(Sentinels(folder)).url
    plain = stack.enter_context(Valkey(folder / "plain"))
    if kind == "TLS":
        front = stack.enter_context(TlsFront(folder, plain.port))
        return f"rediss://localhost:{front.port}?ssl_ca_certs={front.certificate}"
    return plain.url


def shop(url: str, folder: Path) -> tuple[App, dict[int, list[int]]]:
    """Every seventh order comes again later, every fiftieth is refused; one group commits, another only looks."""
    settings = Settings(redis_url=url, data_dir=folder / "data", count=50)
    app = App("shop", to_scan=False, settings=settings)
    seen: dict[int, list[int]] = defaultdict(list)

    @app.agent(STREAM, group="billing", concurrency=8, transactional=True, lease=1.0)
    async def bill(order: Message) -> None:
        n = int(order.message["n"])
        await app.send(OUT, {"n": n})
        await order.state.incr("billed")
        if n % 50 == 49:
            raise Reject("no such article")
        if n % 7 == 3 and order.attempt == 1:
            raise Retry(after=0.6)  # beyond half the lease: through the group's companion

    @app.agent(STREAM, group="looking", concurrency=4, key="customer", lease=1.0)
    async def look(order: Message) -> None:
        seen[int(order.message["customer"])].append(int(order.message["n"]))

    return app, seen


async def test_an_app_keeps_its_promises(server: str, tmp_path: Path, anyio_backend: str) -> None:
    app, seen = shop(server, tmp_path)
    orders = [{"n": n, "customer": n % 5} for n in range(COUNT)]
    async with app:
        probe = Probe(app.redis)
        identifiers = await app.send_batch(STREAM, orders[:150])
        identifiers += [str(await app.send(STREAM, order)) for order in orders[150:]]
        for group in ("billing", "looking"):
            await until(lambda group=group: finished(probe, group), DEADLINE)  # type: ignore[misc]
        assert (await app.health_check())["status"] == "healthy"
        rejected = [n for n in range(COUNT) if n % 50 == 49]
        billed = [int(fields["n"]) for fields in await probe.fields(OUT)]
        assert sorted(billed) == [n for n in range(COUNT) if n not in rejected]
        assert await probe.ask("HGET", f"{STREAM}:state:billing", "billed") == b"%d" % len(billed)
        assert seen == {customer: list(range(customer, COUNT, 5)) for customer in range(5)}
        assert [row[0].decode() for row in await probe.ask("XRANGE", STREAM, "-", "+")] == identifiers

        # Storage, and a timer that a fleet shares, whatever the slots.
        await app.storage.write("limits", {"a": 1})
        assert await app.storage.read("limits") == {"a": 1}

        box = await DeadLetters.open(app.redis, STREAM)
        letters, _ = await box.newest(app.redis, 100)
        assert sorted(int(letter.data["n"]) for letter in letters) == rejected
        assert {letter.fact("reason") for letter in letters} == {"rejected"}
        redriven = await box.redrive(app.redis, [letter.id for letter in letters])
        assert len(redriven.ids) == len(rejected)
        await until(lambda: letters_again(probe, len(rejected)), DEADLINE)
    async with RedisConnection(url=server, settings=app._settings) as connection:
        for group in ("billing", "looking"):
            assert await Probe(connection).consumers(STREAM, group) == []


async def finished(probe: Probe, group: str) -> bool:
    return (
        await probe.done(STREAM, COUNT, group)
        and not await probe.ask("ZCARD", f"{STREAM}:retry:{group}:due")
        and not await probe.ask("XLEN", f"{STREAM}:retry:{group}")
    )


async def letters_again(probe: Probe, count: int) -> bool:
    return await probe.ask("XLEN", f"{STREAM}:dlq") == count and await finished(probe, "billing")


async def test_an_app_goes_on_while_its_slot_moves_to_another_node(tmp_path: Path, anyio_backend: str) -> None:
    """Key by key, and back again. Meanwhile no commit can be done: what it writes is at two nodes."""
    with cluster(tmp_path) as nodes:
        app, seen = shop(f"{nodes[0].url}?cluster=true", tmp_path)
        home = owner_of(nodes, STREAM)
        orders = [{"n": n, "customer": n % 5} for n in range(COUNT)]
        async with app:
            probe = Probe(app.redis)
            for start, to in ((0, (home + 1) % 3), (COUNT // 2, home)):
                await app.send_batch(STREAM, orders[start : start + COUNT // 4])
                move = Move(nodes, slot_of(STREAM), to)
                await anyio.to_thread.run_sync(move.begin)
                for order in orders[start + COUNT // 4 : start + COUNT // 2]:
                    assert await app.send(STREAM, order)  # a command on one key runs at any moment
                    keys = await anyio.to_thread.run_sync(move.keys)
                    if keys and order["n"] % 5 == 0:
                        await anyio.to_thread.run_sync(move.carry, keys[0])
                await anyio.to_thread.run_sync(move.finish)
                await until(lambda to=to: owner_of(nodes, STREAM) == to, DEADLINE)  # type: ignore[misc]
            for group in ("billing", "looking"):
                await until(lambda group=group: finished(probe, group), DEADLINE)  # type: ignore[misc]
            rejected = [n for n in range(COUNT) if n % 50 == 49]
            billed = [int(fields["n"]) for fields in await probe.fields(OUT)]
            assert sorted(billed) == [n for n in range(COUNT) if n not in rejected]
            assert sorted(int(fields["n"]) for fields in await probe.fields(f"{STREAM}:dlq")) == rejected
            assert await probe.ask("HGET", f"{STREAM}:state:billing", "billed") == b"%d" % len(billed)
            assert {n for numbers in seen.values() for n in numbers} == set(range(COUNT))
            await until(lambda: is_healthy(app), DEADLINE)


async def is_healthy(app: App) -> bool:
    return bool((await app.health_check())["status"] == "healthy")


async def sent(app: App, order: dict[str, int]) -> bool:
    """With a key, so that it may be repeated when it is not known whether it arrived."""
    with contextlib.suppress(ConnectionError):
        return bool(await app.send(STREAM, order, dedup_key=str(order["n"])))
    return False


@pytest.fixture
async def sentinels(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Sentinels]:
    with Sentinels(tmp_path) as group:
        yield group


async def test_an_app_goes_on_after_a_failover(sentinels: Sentinels, tmp_path: Path) -> None:
    app, seen = shop(sentinels.url, tmp_path)
    orders = [{"n": n, "customer": 0} for n in (0, 1, 2, 4, 5, 6, 7, 8)]
    async with app:
        probe = Probe(app.redis)
        await app.send_batch(STREAM, orders[:4])
        await until(lambda: probe.done(STREAM, 4, "billing"), DEADLINE)
        await until(lambda: probe.done(STREAM, 4, "looking"), DEADLINE)
        assert await probe.ask("WAIT", 1, int(DEADLINE * 1000)) == 1  # the replica has it all
        sentinels.primary.stop()

        for order in orders[4:]:
            await until(lambda order=order: sent(app, order), DEADLINE)  # type: ignore[misc]
        await until(lambda: probe.done(STREAM, 8, "billing"), DEADLINE)
        assert sorted(int(fields["n"]) for fields in await probe.fields(OUT)) == [order["n"] for order in orders]
        await until(lambda: probe.done(STREAM, 8, "looking"), DEADLINE)
        assert list(dict.fromkeys(seen[0])) == [order["n"] for order in orders]
    with redis_py.Redis(port=sentinels.replica.port) as replica:
        assert replica.xlen(OUT) == 8
