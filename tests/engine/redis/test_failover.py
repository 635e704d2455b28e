"""A failover that keeps connections open: the old primary becomes a replica, and its address leads to the new one."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
import redis as redis_py

from streammachine.errors import RedisReadOnlyError
from streammachine.redis import streams
from streammachine.redis.condition import condition_of
from streammachine.redis.connection import RedisConnection
from streammachine.redis.storage import Storage
from streammachine.redis.transport.codec import RespError
from streammachine.redis.transport.raw_connection import group_is_gone, is_replica
from streammachine.runtime.app.app import App
from streammachine.runtime.model.message import Message
from streammachine.settings import Settings
from support.mcp import RawClient, ToolFailure
from support.proxy import Proxy
from support.valkey import Valkey, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


class Pair:
    """A primary and its replica behind one address."""

    def __init__(self, primary: Valkey, replica: Valkey, proxy: Proxy) -> None:
        self.old, self.new, self.proxy = primary, replica, proxy

    @property
    def url(self) -> str:
        return self.proxy.url

    def settings(self, folder: Path) -> Settings:
        return Settings(redis_url=self.url, data_dir=folder / "data")

    def swap(self) -> None:
        """The roles change; open connections stay with the old primary, and so does the address for now."""
        with redis_py.Redis(port=self.old.port) as old, redis_py.Redis(port=self.new.port) as new:
            assert old.wait(1, 10_000) == 1  # what was written stands on both
            new.replicaof("NO", "ONE")
            old.replicaof("127.0.0.1", self.new.port)

    def follow(self) -> None:
        """The address leads to the new primary, for new connections."""
        self.proxy.target = ("127.0.0.1", self.new.port)

    async def fail_over(self) -> None:
        await anyio.to_thread.run_sync(self.swap)
        self.follow()


@pytest.fixture
async def pair(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Pair]:
    fast = ("--repl-diskless-sync-delay", "0")
    async with AsyncExitStack() as stack:
        old = stack.enter_context(Valkey(tmp_path / "old", *fast))
        new = stack.enter_context(Valkey(tmp_path / "new", *fast, "--replicaof", "127.0.0.1", str(old.port)))
        with redis_py.Redis(port=new.port) as client:
            await until(lambda: client.info("replication")["master_link_status"] == "up")
        yield Pair(old, new, await stack.enter_async_context(Proxy(("127.0.0.1", old.port))))


async def test_every_way_to_write_goes_on_at_the_new_primary(pair: Pair, tmp_path: Path) -> None:
    async with RedisConnection(settings=pair.settings(tmp_path)) as connection:
        storage = Storage(connection)
        await storage.write("k", 1)
        await streams.append(connection, "s", {"a": 1})
        await connection.run(lambda client: client.set("plain", "1"))
        await pair.fail_over()
        await storage.write("k", 2)  # refused by the replica, done by the primary: no error
        assert len(await connection.pipeline_xadd("s", [{"a": 2}, {"a": 3}])) == 2
        assert await storage.incr("n") == 1
        with pytest.raises(RedisReadOnlyError, match=r"is read-only: it is a replica.*Nothing was written"):
            await connection.run(lambda client: client.set("plain", "2"))
        await connection.run(lambda client: client.set("plain", "2"))  # over a new connection
    with redis_py.Redis(port=pair.new.port) as new:
        assert (new.get("plain"), new.xlen("s"), new.hget("sm:storage", "k")) == (b"2", 3, b"2")


async def test_a_server_that_stays_a_replica_is_named_by_errors_and_by_health(pair: Pair, tmp_path: Path) -> None:
    async with RedisConnection(settings=pair.settings(tmp_path)) as connection:
        assert not (await condition_of(connection)).problem
        await anyio.to_thread.run_sync(pair.swap)
        for _ in range(3):
            with pytest.raises(RedisReadOnlyError, match="let REDIS_URL lead to the primary"):
                await streams.append(connection, "s", {"a": 1})
        found = await condition_of(connection)
        assert found.connected
        assert f"is read-only: it is a replica, after a failover as a rule (replica of 127.0.0.1:{pair.new.port}" in (
            found.problem
        )
        pair.follow()
        await streams.append(connection, "s", {"a": 2})
        assert not (await condition_of(connection)).problem


async def test_health_knows_the_role_without_the_right_to_info(pair: Pair, tmp_path: Path) -> None:
    for server in (pair.old, pair.new):
        with redis_py.Redis(port=server.port) as admin:
            admin.execute_command("ACL", "SETUSER", "small", "on", ">p", "~*", "+@all", "-info")
    url = pair.url.replace("redis://", "redis://small:p@")
    async with RedisConnection(settings=Settings(redis_url=url, data_dir=tmp_path)) as connection:
        assert not (await condition_of(connection)).problem
        await anyio.to_thread.run_sync(pair.swap)
        assert "is read-only" in (await condition_of(connection)).problem


@pytest.mark.parametrize("transactional", [False, True])
async def test_an_app_goes_on_and_makes_no_group_anew(
    transactional: bool, pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("shop", to_scan=False, settings=pair.settings(tmp_path))
    seen: list[int] = []

    @app.agent("orders", transactional=transactional, lease=2.0)
    async def handle(order: Message) -> None:
        await app.storage.incr("handled")
        await app.send("done", {"n": order.message["n"]})
        seen.append(int(order.message["n"]))

    caplog.set_level(logging.INFO)
    async with app:
        await app.send("orders", {"n": 1})
        await until(lambda: seen == [1])
        await anyio.to_thread.run_sync(pair.swap)
        await until(lambda: _degraded(app))
        health = await app.health_check()
        assert any("is read-only" in problem for problem in health["problems"]), health
        assert health["redis"] == "connected"
        pair.follow()
        await until(lambda: _sent(app, 2))
        await until(lambda: 2 in seen)
        await until(lambda: _healthy(app))
    with redis_py.Redis(port=pair.new.port) as new:
        assert new.xlen("done") == len(seen) == int(new.hget("sm:storage", "handled") or 0) == 2
        assert new.xpending("orders", "eventengine")["pending"] == 0
    assert not [record for record in caplog.records if "created again" in record.getMessage()]


def _pending(server: Valkey) -> int:
    with redis_py.Redis(port=server.port) as client:
        return int(client.xpending("orders", "eventengine")["pending"])


async def test_a_start_on_a_replica_raises(pair: Pair, tmp_path: Path) -> None:
    app = App("shop", to_scan=False, settings=Settings(redis_url=pair.new.url, data_dir=tmp_path))

    @app.agent("orders")
    async def handle(order: Message) -> None:
        raise AssertionError("nothing was to come")

    with anyio.fail_after(30), pytest.raises(RedisReadOnlyError, match="is read-only"):
        async with app:
            raise AssertionError("it cannot start")


async def test_a_consumer_goes_on_and_makes_no_group_anew(
    pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with RedisConnection(settings=pair.settings(tmp_path)) as connection:
        await streams.append(connection, "s", {"n": 1})
        seen: list[bytes] = []

        async def consume() -> None:
            async for _, entry in connection.consumer("s", "me", "g", timeout=None):
                seen.append(entry.field_values[b"n"])
                if len(seen) == 2:
                    break

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume)
            await until(lambda: _blocked(pair.old) and len(seen) == 1)
            pair.follow()
            await anyio.to_thread.run_sync(pair.swap)  # the blocked read gets UNBLOCKED
            await streams.append(connection, "s", {"n": 2})
            await until(lambda: len(seen) == 2)
        assert seen == [b"1", b"2"]
        with pytest.raises(RedisReadOnlyError):
            pair.proxy.target = ("127.0.0.1", pair.old.port)
            async for _ in connection.consumer("s", "other", "g", timeout=None):
                raise AssertionError("a replica gave an entry")
    assert "creating it again" not in caplog.text


async def test_the_mcp_server_goes_on_and_its_health_names_the_replica(pair: Pair, tmp_path: Path) -> None:
    done = threading.Event()
    swapped = threading.Event()

    def session() -> None:
        with RawClient(env={"REDIS_URL": pair.url, "STREAMMACHINE_DATA_DIR": str(tmp_path / "data")}) as client:
            client.call("storage_write", key="k", value=1)
            pair.swap()
            with pytest.raises(ToolFailure, match="is read-only"):
                client.call("storage_write", key="k", value=2)
            health = client.call("health_check")
            assert (health["status"], health["redis"]) == ("degraded", "connected")
            assert "is read-only" in health["problem"]
            swapped.set()
            assert done.wait(60)
            client.call("storage_write", key="k", value=3)
            assert client.call("storage_read", key="k")["value"] == 3
            assert client.call("health_check")["status"] == "healthy"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, session)
        await until(swapped.is_set)
        pair.follow()
        done.set()


def test_unblocked_alone_says_that_the_server_became_a_replica() -> None:
    changed = RespError("UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)")
    assert is_replica(changed)
    assert not group_is_gone(changed)
    for text in (
        "UNBLOCKED the stream key no longer exists",  # Redis 7.0
        "NOGROUP the consumer group this client was blocked on no longer exists",
        "NOGROUP No such key 'UNBLOCKED' or consumer group 'g'",
        "ERR no such key",
    ):
        assert group_is_gone(RespError(text))
        assert not is_replica(RespError(text))


async def _degraded(app: App) -> bool:
    found = await app.health_check()
    return any("is read-only" in problem for problem in found["problems"])


async def _healthy(app: App) -> bool:
    return bool((await app.health_check())["status"] == "healthy")


async def _sent(app: App, n: int) -> bool:
    try:
        await app.send("orders", {"n": n})
    except RedisReadOnlyError:
        return False
    return True


def _blocked(server: Valkey) -> bool:
    with redis_py.Redis(port=server.port) as client:
        return bool(client.info("clients")["blocked_clients"])
