"""The ACL line of each use in docs/rights.md, against the bundled Valkey: nothing that is asked for is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import redis as redis_py

from streammachine.errors import (
    RedisAuthError,
    RedisFullError,
    RedisPermissionError,
    WrongTypeError,
)
from streammachine.market.emitters.redis import RedisEmitter
from streammachine.ohlc.consumer.consumer import FastOHLCConsumer
from streammachine.redis import streams
from streammachine.redis.condition import condition_of
from streammachine.redis.connection import RedisConnection
from streammachine.redis.storage import Storage
from streammachine.runtime.app.app import App
from streammachine.runtime.model.message import Message
from streammachine.runtime.model.retry import Reject, Retry
from streammachine.settings import Settings
from support.mcp import RawClient, ToolFailure, clean_environment
from support.rows import candles, trade
from support.valkey import Valkey, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

TEXT = (Path(__file__).parents[3] / "docs" / "rights.md").read_text("utf-8")
LINES = {line.split()[2]: line for line in re.findall(r"^ACL SETUSER .+$", TEXT, re.MULTILINE)}


@pytest.fixture
async def valkey(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Valkey]:
    with Valkey(tmp_path / "valkey") as server:
        yield server


def url_for(server: Valkey, user: str, line: str) -> str:
    """The server's URL for a user made by this line."""
    with redis_py.Redis(port=server.port, protocol=2) as admin:
        admin.execute_command(*line.split())
    return f"redis://{user}:PASSWORD@127.0.0.1:{server.port}"


def settings_for(server: Valkey, user: str, folder: Path, line: str | None = None) -> Settings:
    return Settings(redis_url=url_for(server, user, line or LINES[user]), data_dir=folder / "data")


def refused(server: Valkey) -> list[str]:
    """What the server refused, by its own log."""
    with redis_py.Redis(port=server.port, protocol=2) as admin:
        return [f"{row['reason']}: {row['object']}" for row in admin.acl_log()]


async def produce(settings: Settings, server: Valkey) -> None:
    app = App("sender", to_scan=False, settings=settings)
    assert await app.send("orders", {"n": 1})
    assert await app.send("orders", {"n": 2}, dedup_key="a") == await app.send("orders", {"n": 2}, dedup_key="a")
    assert len(await app.send_batch("orders", [{"n": 3}, {"n": 4}])) == 2
    await app.redis.close()


async def run_app(settings: Settings, server: Valkey) -> None:
    app = App("shop", to_scan=False, settings=settings)
    seen: list[str] = []
    ticks: list[int] = []

    @app.agent("orders", group="billing", transactional=True, lease=2.0)
    async def bill(order: Message) -> None:
        await app.send("bills", {"n": order.message["n"]})
        await app.storage.incr("billed")
        await app.storage.write("last", order.message["n"], ttl=60)
        await app.storage.update("all", lambda held: [*(held or []), order.message["n"]])
        if order.message["n"] == "1" and order.attempt == 1:
            raise Retry(after=1.5)  # through the companion
        if order.message["n"] == "2":
            raise Reject("not this one")
        seen.append(order.message["n"])

    @app.agent("orders", group="watching", dedup=lambda order: order.message["n"], retain="acked")
    async def watch(order: Message) -> None:
        pass

    @app.timer(0.2, scope="fleet")
    async def tick() -> None:
        ticks.append(1)

    async with app:
        for n in range(5):
            await app.send("orders", {"n": n})
        await until(lambda: len(seen) == 4 and ticks)
        health = await app.health_check()
        assert health["status"] == "healthy", health
    with redis_py.Redis(port=server.port, protocol=2) as admin:
        assert admin.xlen("{orders}:dlq") == 1


async def consume(settings: Settings, server: Valkey) -> None:
    with redis_py.Redis(port=server.port, protocol=2) as admin:
        admin.xadd("orders", {"n": 1})
        admin.xadd("orders", {"n": 2})
    async with RedisConnection(settings=settings) as connection:
        async for _ in connection.consumer("orders", "reader", "billing", timeout=500):
            break  # leaves it pending
        again = [entry async for _, entry in connection.consumer("orders", "reader", "billing", True, timeout=500)]
        assert len(again) == 2


async def fold(settings: Settings, server: Valkey) -> None:
    with redis_py.Redis(port=server.port, protocol=2) as admin:
        for minute in range(3):
            admin.xadd(
                "ticks", {"symbol": "A", "price": "1", "volume": "2"}, id=f"{1_700_000_040_000 + 60_000 * minute}-1"
            )
        async with RedisConnection(settings=settings) as connection:
            consumer = FastOHLCConsumer("ticks", intervals=[60_000, 300_000], connection=connection)
            await consumer.start()
            await until(lambda: admin.xlen("candles_1m") >= 2)
            await consumer.stop()


async def emit(settings: Settings, server: Valkey) -> None:
    async with RedisConnection(settings=settings) as connection:
        emitter = RedisEmitter(connection=connection)
        await emitter.connect()
        await emitter.emit_batch(candles(3))
        await emitter.emit_batch(candles(3))
        await emitter.emit(trade(1))
        await emitter.close()
        assert emitter.duplicates == 3


async def ask_read_only(settings: Settings, server: Valkey) -> None:
    with redis_py.Redis(port=server.port, protocol=2) as admin:
        admin.xadd("orders", {"n": 1})
        admin.xgroup_create("orders", "g", "0")
        admin.hset("sm:storage", "k", "1")
    await anyio.to_thread.run_sync(_session, settings, ["--read-only"], READS)


async def ask(settings: Settings, server: Valkey) -> None:
    await anyio.to_thread.run_sync(_session, settings, [], [*WRITES, *READS, *LAST])


Call = tuple[str, dict[str, Any]]
READS: list[Call] = [
    ("stream_list", {}),
    ("stream_info", {"stream": "orders"}),
    ("stream_read", {"stream": "orders"}),
    ("storage_read", {"key": "k"}),
    ("storage_keys", {}),
    ("obj_list", {}),
    ("ohlc_list", {}),
    ("agent_list", {}),
    ("dead_letter_list", {"stream": "orders"}),
    ("redis_info", {"section": "server"}),
    ("redis_ping", {}),
    ("health_check", {}),
]
WRITES: list[Call] = [
    ("stream_send", {"stream": "orders", "message": {"n": "1"}}),
    ("stream_send_batch", {"stream": "orders", "messages": [{"n": "2"}, {"n": "3"}]}),
    ("storage_write", {"key": "k", "value": 1}),
    ("ohlc_create", {"name": "o", "intervals": [60_000]}),
    ("ohlc_update", {"name": "o", "symbol": "A", "price": 1.0, "volume": 1.0}),
    ("ohlc_get_candles", {"name": "o", "symbol": "A", "interval_ms": 60_000}),
    ("ohlc_stats", {"name": "o"}),
    ("agent_create", {"name": "big", "stream": "orders", "filter": "int(msg.n) > 1", "output_stream": "big"}),
    ("agent_pause", {"name": "big"}),
    ("agent_resume", {"name": "big"}),
    ("agent_stats", {"name": "big"}),
]
LAST: list[Call] = [
    ("agent_delete", {"name": "big", "confirm": True}),
    ("ohlc_flush", {"name": "o", "symbol": "A", "interval_ms": 60_000}),
    ("ohlc_clear", {"name": "o"}),
    ("storage_delete", {"key": "k"}),
    ("storage_clear", {"confirm": True}),
    ("obj_delete", {"pattern": "*", "confirm": True}),
]


def _session(settings: Settings, arguments: list[str], calls: list[Call]) -> None:
    env = {"REDIS_URL": settings.explicit_url(), "STREAMMACHINE_DATA_DIR": str(settings.data_dir)}
    with RawClient(*arguments, env=env) as client:
        for tool, given in calls:
            client.call(tool, **given)
        assert client.call("health_check")["redis"] == "connected"


USES: dict[str, Callable[[Settings, Valkey], Awaitable[None]]] = {
    "producer": produce,
    "shop": run_app,
    "reader": consume,
    "candles": fold,
    "runner": emit,
    "mcp_reader": ask_read_only,
    "mcp": ask,
}


def test_each_line_of_the_document_is_tried() -> None:
    assert set(LINES) == set(USES)


@pytest.mark.parametrize("user", USES)
async def test_the_rights_of_a_use_are_enough(user: str, valkey: Valkey, tmp_path: Path) -> None:
    settings = settings_for(valkey, user, tmp_path)
    try:
        await USES[user](settings, valkey)
    except BaseException:
        print(refused(valkey))
        raise
    # A name for the connection is asked for by all, and needed by none.
    assert [row for row in refused(valkey) if row != "command: client|setname"] == []


# --- less than enough ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("less", ["-client|setname", "-client"])
async def test_a_user_without_the_right_to_a_name_does_all_the_rest(less: str, valkey: Valkey, tmp_path: Path) -> None:
    settings = settings_for(valkey, "u", tmp_path, f"ACL SETUSER u on >PASSWORD ~* +@all {less}")
    async with RedisConnection(settings=settings) as connection:
        await streams.append(connection, "s", {"a": 1})
        await connection.run(lambda client: client.set("k", "1"))  # coredis' own connections
        assert await connection.run(lambda client: client.get("k")) == b"1"
    await run_app(settings, valkey)


async def test_a_renamed_client_command_is_no_obstacle(tmp_path: Path) -> None:
    with Valkey(tmp_path / "valkey", "--rename-command", "CLIENT", "") as server:
        settings = Settings(redis_url=server.url, data_dir=tmp_path / "data")
        async with RedisConnection(settings=settings) as connection:
            await connection.run(lambda client: client.set("k", "1"))
            await Storage(connection).write("k", 1)
        await run_app(settings, server)


async def test_the_names_are_told_where_they_may_be(valkey: Valkey, tmp_path: Path) -> None:
    async with RedisConnection(settings=Settings(redis_url=valkey.url, data_dir=tmp_path)) as connection:
        await connection.run(lambda client: client.set("k", "1"))
        await connection.command("PING")
        with redis_py.Redis(port=valkey.port, protocol=2) as admin:
            assert [row["name"] for row in admin.client_list()].count("streammachine") == 2


async def test_a_refused_command_is_named_with_its_key(valkey: Valkey, tmp_path: Path) -> None:
    settings = settings_for(valkey, "u", tmp_path, "ACL SETUSER u on >PASSWORD ~mine* +@all -hset -xlen -get")
    async with RedisConnection(settings=settings) as connection:
        said: dict[str, str] = {}

        async def no(what: str, call: Awaitable[Any]) -> None:
            with pytest.raises(RedisPermissionError, match=r"does not allow this user.*docs/rights\.md") as caught:
                await call
            said[what] = str(caught.value)

        await no("append", streams.append(connection, "other", {"a": 1}))
        await no("append_many", connection.pipeline_xadd("other", [{"a": 1}]))
        await no("length", connection.command("XLEN", "mine"))
        await no("script", connection.command("EVAL", "redis.call('HSET', KEYS[1], 'a', 1)", 1, "mine"))
        await no("storage", Storage(connection).write("k", 1))
        await no("group", streams.ensure_group(connection, "other", "g"))
        await no("client", connection.run(lambda client: client.get("mine")))
        await connection.command("HGETALL", "mine")  # the connection is as good as before
    assert "XADD on the key 'other'" in said["append"]
    assert "XADD on the key 'other'" in said["append_many"]
    assert "XLEN on the key 'mine'" in said["length"]
    assert "a script on the keys 'mine' (" in said["script"] and "'hset' command" in said["script"]
    assert "HSET on the key 'sm:storage'" in said["storage"]
    assert "XGROUP CREATE on the key 'other'" in said["group"]
    assert "'get' command" in said["client"]
    assert not any("Correct REDIS_URL" in text for text in said.values())


async def test_a_consumer_by_hand_names_what_it_may_not_do(valkey: Valkey, tmp_path: Path) -> None:
    settings = settings_for(valkey, "u", tmp_path, "ACL SETUSER u on >PASSWORD ~* +@all -xreadgroup")
    async with RedisConnection(settings=settings) as connection:
        with pytest.raises(RedisPermissionError, match="XREADGROUP on the key 'orders'"):
            async for _ in connection.consumer("orders", "me", "g", timeout=None):
                raise AssertionError("nothing was to come")


# --- starts that cannot succeed --------------------------------------------------------------------------------------


def an_app(settings: Settings, seen: list[str]) -> App:
    app = App("shop", to_scan=False, settings=settings)

    @app.agent("orders", lease=2.0)
    async def bill(order: Message) -> None:
        seen.append(order.message["n"])

    return app


async def test_a_start_with_other_keys_than_the_user_may_use_raises(valkey: Valkey, tmp_path: Path) -> None:
    app = an_app(settings_for(valkey, "u", tmp_path, "ACL SETUSER u on >PASSWORD ~other* +@all"), [])
    with anyio.fail_after(30), pytest.raises(RedisPermissionError, match="XGROUP CREATE on the key 'orders'"):
        async with app:
            raise AssertionError("it cannot start")
    with anyio.fail_after(30), pytest.raises(RedisPermissionError):
        await app.run_async()


async def test_a_start_on_a_key_that_is_no_stream_raises(valkey: Valkey, tmp_path: Path) -> None:
    with redis_py.Redis(port=valkey.port, protocol=2) as admin:
        admin.set("orders", "text")
    with anyio.fail_after(30), pytest.raises(WrongTypeError, match="'orders' holds a string, not a stream"):
        async with an_app(Settings(redis_url=valkey.url, data_dir=tmp_path), []):
            raise AssertionError("it cannot start")


async def test_a_start_with_a_wrong_password_or_database_raises(valkey: Valkey, tmp_path: Path) -> None:
    url_for(valkey, "u", "ACL SETUSER u on >PASSWORD ~* +@all -select")
    for tail in (f"u:wrong@127.0.0.1:{valkey.port}", f"u:PASSWORD@127.0.0.1:{valkey.port}/1"):
        with anyio.fail_after(30), pytest.raises(RedisAuthError):
            async with an_app(Settings(redis_url=f"redis://{tail}", data_dir=tmp_path), []):
                raise AssertionError("it cannot start")


async def test_a_start_at_the_memory_limit_raises_unless_the_group_is_there(valkey: Valkey, tmp_path: Path) -> None:
    settings = Settings(redis_url=valkey.url, data_dir=tmp_path)
    seen: list[str] = []
    with redis_py.Redis(port=valkey.port, protocol=2) as admin:
        admin.config_set("maxmemory", "1kb")
        with anyio.fail_after(30), pytest.raises(RedisFullError, match="memory limit"):
            async with an_app(settings, seen):
                raise AssertionError("it cannot start")
        admin.config_set("maxmemory", "0")
        admin.xgroup_create("orders", "eventengine", "0", mkstream=True)
        admin.xadd("orders", {"n": "1"})
        admin.config_set("maxmemory", "1kb")
        with anyio.fail_after(30):
            async with an_app(settings, seen) as app:
                await until(lambda: seen == ["1"])
                assert "memory limit" in str((await app.health_check())["problems"])


async def test_a_right_that_is_taken_away_later_is_named_by_health(valkey: Valkey, tmp_path: Path) -> None:
    seen: list[str] = []
    settings = settings_for(valkey, "u", tmp_path, "ACL SETUSER u on >PASSWORD ~* +@all")
    async with an_app(settings, seen) as app:
        with redis_py.Redis(port=valkey.port, protocol=2) as admin:
            admin.execute_command("ACL", "SETUSER", "u", "-xreadgroup")

            async def named() -> bool:
                return "XREADGROUP on the key 'orders'" in str((await app.health_check())["problems"])

            await until(named)
            admin.execute_command("ACL", "SETUSER", "u", "+xreadgroup")
            admin.xadd("orders", {"n": "1"})
        await until(lambda: seen == ["1"])


# --- servers that speak RESP2 alone ----------------------------------------------------------------------------------


async def test_a_server_without_hello_serves_every_tool_and_an_app(tmp_path: Path) -> None:
    with Valkey(tmp_path / "valkey", "--rename-command", "HELLO", "") as server:
        settings = Settings(redis_url=server.url, data_dir=tmp_path / "data")
        await run_app(settings, server)
        await ask(settings, server)
        async with RedisConnection(settings=settings) as connection:
            assert (await condition_of(connection)).problem == ""
            await connection.run(lambda client: client.hset("k", {"a": "1"}))  # coredis, in RESP2
            assert await connection.run(lambda client: client.hgetall("k")) == {b"a": b"1"}


def test_doctor_speaks_with_a_server_without_hello(tmp_path: Path) -> None:
    with Valkey(tmp_path / "valkey", "--rename-command", "HELLO", "") as server:
        assert "Valkey 9" in doctor(server.url, tmp_path)


def test_a_tool_that_may_not_says_what_it_may_not(tmp_path: Path) -> None:
    with Valkey(tmp_path / "valkey") as server:
        url = url_for(server, "u", "ACL SETUSER u on >PASSWORD ~* +@all -info -hset")
        env = {"REDIS_URL": url, "STREAMMACHINE_DATA_DIR": str(tmp_path / "data")}
        with RawClient(env=env) as client:
            assert client.call("health_check")["status"] == "healthy"
            with pytest.raises(ToolFailure, match="does not allow this user INFO"):
                client.call("redis_info")
            with pytest.raises(ToolFailure, match="HSET on the key 'sm:storage'"):
                client.call("storage_write", key="k", value=1)
        assert "does not let this user ask for its version" in doctor(url, tmp_path)


def doctor(url: str, folder: Path) -> str:
    """What doctor prints; nothing of it is bad."""
    done = subprocess.run(
        [sys.executable, "-m", "streammachine.cli", "doctor"],
        env=clean_environment({"REDIS_URL": url, "STREAMMACHINE_DATA_DIR": str(folder / "data")}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    (line,) = [line for line in done.stdout.splitlines() if "Redis:" in line]
    assert "bad" not in line.partition("Redis:")[0], done.stdout
    assert "health: healthy" in done.stdout
    return line
