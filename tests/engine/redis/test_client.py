"""coredis' client as RedisConnection hands it out: opened by its first use, without its traps, on every server."""

from __future__ import annotations

import asyncio
import contextlib
import math
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis as redis_py
from coredis import Redis
from coredis.exceptions import ConnectionError as LostError
from hypothesis import given
from hypothesis import strategies as st

from streammachine.errors import RedisCommandError, RedisUnavailableError
from streammachine.redis.client import _shortest
from streammachine.redis.connection import RedisConnection
from streammachine.redis.embedded.server import EmbeddedServer
from streammachine.settings import Settings
from support.cluster import Sentinels, TlsFront, cluster, serving
from support.proxy import Proxy
from support.valkey import Valkey, until

pytestmark = pytest.mark.anyio


async def names(connection: RedisConnection) -> int:
    """How many connections of ours the server has."""
    text = bytes(await connection.command("CLIENT", "LIST")).decode()
    return sum("name=streammachine " in line for line in text.splitlines())


# --- life -----------------------------------------------------------------------------------------------------------


async def test_no_pool_is_there_before_its_first_command(tmp_path: Path) -> None:
    with Valkey(tmp_path / "valkey") as server:
        async with RedisConnection(settings=Settings(redis_url=server.url, data_dir=tmp_path)) as connection:
            assert await names(connection) == 1
            client = connection.client
            assert connection.client is client
            assert await names(connection) == 1
            assert await client.ping() == b"PONG"
            assert await names(connection) == 2


def test_the_library_is_loaded_by_the_first_use(settings: Settings) -> None:
    code = (
        "import asyncio, sys\n"
        "from streammachine.redis import streams\n"
        "from streammachine.redis.connection import RedisConnection\n"
        "async def main():\n"
        "    async with RedisConnection() as redis:\n"
        "        await streams.append(redis, 's', {'a': 1})\n"
        "        await redis.info()\n"
        "        print('coredis' in sys.modules)\n"
        "        print(await redis.client.xlen('s') > 0, 'coredis' in sys.modules)\n"
        "asyncio.run(main())"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={"REDIS_URL": settings.explicit_url()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("False\nTrue True\n", "")


async def test_the_transport_and_the_client_share_one_bound(tmp_path: Path) -> None:
    with Valkey(tmp_path / "valkey") as server:
        settings = Settings(redis_url=server.url, data_dir=tmp_path, redis_max_connections=4)
        async with RedisConnection(settings=settings) as connection:

            async def block(key: str) -> None:
                await connection.client.blpop([key], 1)

            async with anyio.create_task_group() as tasks:
                for number in range(3):  # each holds a connection
                    tasks.start_soon(block, f"never{number}")
                await until(lambda: names(connection))
                await anyio.sleep(0.2)
                assert await names(connection) == 4
                with anyio.move_on_after(0.2) as waited:
                    await connection.client.ping()
                assert waited.cancelled_caught  # there is no fifth one


async def test_a_client_may_be_entered_and_serves_every_pattern(redis: RedisConnection) -> None:
    async with redis.client as client:
        await client.set("k", 1)
    assert await redis.client.get("k") == b"1"
    async with redis.client.pipeline(transaction=True) as pipe:
        pipe.incr("k")
        got = pipe.get("k")
    assert await got == b"2"
    assert [key async for key in redis.client.scan_iter()] == [b"k"]
    assert await redis.client.register_script("return ARGV[1]")(args=["x"]) == b"x"
    async with redis.client.lock("lock", timeout=1):
        assert await redis.client.exists(["lock"]) == 1
    async with redis.client.pubsub(channels=["news"], ignore_subscribe_messages=True) as news:
        assert await redis.client.publish("news", "hello") == 1
        assert (await anext(news))["data"] == b"hello"


# --- traps ----------------------------------------------------------------------------------------------------------

FLOATS = [0.1 + 0.2, 1 / 3, 1e-7, 1.7976931348623157e308, 5e-324, 123456789.123456789, 2.0**53 + 2, 1e22, -0.1]


async def test_floats_are_written_with_all_their_digits(redis: RedisConnection) -> None:
    await redis.client.rpush("floats", list(FLOATS))
    assert [float(text) for text in await redis.client.lrange("floats", 0, -1)] == FLOATS
    async with redis.client.pipeline() as pipe:
        for number in FLOATS:
            pipe.zadd("scores", {repr(number): number})
    found = await redis.client.zrange("scores", 0, -1, withscores=True)
    assert all(float(item.member) == item.score for item in found) and len(found) == len(FLOATS)


@given(st.floats(allow_nan=False))
def test_the_text_of_a_float_is_exactly_it(number: float) -> None:
    assert float(_shortest(number)) == number
    assert number == 0 or math.copysign(1, float(_shortest(number))) == math.copysign(1, number)


async def test_a_text_in_the_place_of_a_list_is_one_element(redis: RedisConnection) -> None:
    client = redis.client
    for key in ("a", "b", "ab"):
        await client.set(key, key)
    assert await client.exists("ab") == 1
    assert await client.mget("ab") == (b"ab",)
    assert await client.mget(keys=b"ab") == (b"ab",)
    assert await client.delete("ab") == 1
    assert await client.mget(["a", "b"]) == (b"a", b"b")
    await client.lpush("list", "xyz")
    assert await client.lrange("list", 0, -1) == [b"xyz"]
    async with client.pipeline() as pipe:
        pipe.hset("h", {"name": "1", "n": "2"})
        pipe.hmget("h", "name")
        pipe.unlink("list")
    assert pipe.results == (2, (b"1",), 1)
    assert await client.eval("return KEYS[1] .. ARGV[1]", keys="key", args="arg") == b"keyarg"


async def test_a_write_whose_reply_is_lost_is_sent_once(shared_server: EmbeddedServer, redis: RedisConnection) -> None:
    async with (
        Proxy(shared_server.socket_path) as proxy,
        RedisConnection(url=proxy.url, settings=redis.settings) as far,
    ):
        proxy.lose_reply_to(b"XADD")
        with pytest.raises(LostError):
            await far.client.xadd("once", field_values={"a": "1"})
        assert await redis.client.xlen("once") == 1
        proxy.lose_reply_to(b"XADD")
        with pytest.raises(LostError):
            async with far.client.pipeline(transaction=False) as pipe:
                pipe.xadd("once", field_values={"a": "1"})
        assert await redis.client.xlen("once") == 2


async def test_what_cannot_be_sent_disturbs_nobody(redis: RedisConnection) -> None:
    bad: list[Any] = [None, {"a": 1}, object(), "half \ud800"]
    calls = [redis.client.set("k", value) for value in bad]
    good = [redis.client.incr("n") for _ in range(20)]
    found = await asyncio.gather(*calls, *good, return_exceptions=True)
    assert [type(error) for error in found[: len(bad)]] == [RedisCommandError] * len(bad)
    assert sorted(found[len(bad) :]) == list(range(1, 21))  # type: ignore[type-var]


# --- servers that speak RESP2 alone ---------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def two_protocols(folder: Path) -> AsyncIterator[tuple[Redis[bytes], Redis[bytes], redis_py.Redis]]:
    """The same commands go to two servers: one that knows HELLO, and one that does not."""
    login = ("--requirepass", "pass/word")
    with (
        Valkey(folder / "three", *login) as three,
        Valkey(folder / "two", *login, "--rename-command", "HELLO", "") as two,
        redis_py.Redis(port=two.port, password="pass/word", protocol=2) as admin,
    ):
        settings = [
            Settings(redis_url=f"redis://:pass%2Fword@127.0.0.1:{server.port}/2", data_dir=folder)
            for server in (three, two)
        ]
        async with RedisConnection(settings=settings[0]) as newer, RedisConnection(settings=settings[1]) as older:
            yield newer.client, older.client, admin


COMMANDS: list[Callable[[Redis[bytes]], Any]] = [
    lambda c: c.hset("h", {"a": "1", "b": "2"}),
    lambda c: c.hgetall("h"),
    lambda c: c.hgetall("none"),
    lambda c: c.hrandfield("h", count=2, withvalues=True),
    lambda c: c.hmget("h", ["a", "x"]),
    lambda c: c.hscan("h"),
    lambda c: c.sadd("set", ["x", "y"]),
    lambda c: c.smembers("set"),
    lambda c: c.sinter(["set"]),
    lambda c: c.sismember("set", "x"),
    lambda c: c.smismember("set", ["x", "z"]),
    lambda c: c.spop("set", 5),
    lambda c: c.zadd("z", {"one": 1.5, "two": 2.25}),
    lambda c: c.zadd("z", {"one": 0.5}, increment=True),
    lambda c: c.zscore("z", "two"),
    lambda c: c.zscore("z", "none"),
    lambda c: c.zmscore("z", ["one", "none"]),
    lambda c: c.zincrby("z", "two", 0.1),
    lambda c: c.zrange("z", 0, -1),
    lambda c: c.zrange("z", 0, -1, withscores=True),
    lambda c: c.zrangebyscore("z", 0, 9, withscores=True),
    lambda c: c.zrevrange("z", 0, -1, withscores=True),
    lambda c: c.zrank("z", "two", withscore=True),
    lambda c: c.zrank("z", "two"),
    lambda c: c.zunion(["z", "none"], withscores=True),
    lambda c: c.zdiff(["z", "none"], withscores=True),
    lambda c: c.zrandmember("z", count=2, withscores=True),
    lambda c: c.zscan("z"),
    lambda c: c.zmpop(["z"], "min", count=1),
    lambda c: c.zpopmin("z"),
    lambda c: c.zpopmin("z"),
    lambda c: c.zadd("z", {"one": 1.5, "two": 2.25, "three": 3}),
    lambda c: c.zpopmax("z", 2),
    lambda c: c.bzpopmin(["z"], 1),
    lambda c: c.geoadd("geo", [(13.36, 38.11, "palermo"), (15.08, 37.5, "catania")]),
    lambda c: c.geopos("geo", ["palermo", "none"]),
    lambda c: c.geodist("geo", "palermo", "catania"),
    lambda c: c.georadius("geo", 15, 37, 200, "km", withdist=True, withcoord=True, withhash=True),
    lambda c: c.xadd("s", field_values={"a": "1"}, identifier="1-0"),
    lambda c: c.xadd("s", field_values={"a": "2"}, identifier="2-0"),
    lambda c: c.xread({"s": "0"}, count=5),
    lambda c: c.xread({"none": "0"}),
    lambda c: c.xgroup_create("s", "g", "0"),
    lambda c: c.xreadgroup("g", "me", {"s": ">"}, count=1),
    lambda c: c.xpending("s", "g"),
    lambda c: c.xinfo_groups("s"),
    lambda c: c.xinfo_stream("s"),
    lambda c: c.xrange("s"),
    lambda c: c.set("t1", "ohmytext"),
    lambda c: c.set("t2", "mynewtext"),
    lambda c: c.lcs("t1", "t2", idx=True),
    lambda c: c.lcs("t1", "t2"),
    lambda c: c.incrbyfloat("f", 1.5),
    lambda c: c.get("none"),
    lambda c: c.blpop(["none"], 0.01),
    lambda c: c.config_get(["maxmemory", "appendonly"]),
    lambda c: c.client_trackinginfo(),
    lambda c: c.command_info("get", "xadd", "set"),
    lambda c: c.command_docs("get", "xadd"),
    lambda c: c.acl_getuser("default"),
    lambda c: c.pubsub_numsub("x"),
    lambda c: c.eval("return {1, 'a', {2}}"),
    lambda c: c.function_load("#!lua name=lib\nredis.register_function('f', function() return 7 end)"),
    lambda c: c.function_list(),
    lambda c: c.function_stats(),
    lambda c: c.fcall("f", [], []),
    lambda c: c.time().transform(lambda moment: moment.year),
    lambda c: c.memory_stats().transform(sorted),
    lambda c: c.info("keyspace").transform(sorted),
    lambda c: c.object_encoding("h"),
    lambda c: c.latency_histogram("get").transform(sorted),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_a_server_without_hello_gives_what_another_gives(tmp_path: Path) -> None:
    async with two_protocols(tmp_path) as (newer, older, admin):
        for number, command in enumerate(COMMANDS):
            assert await command(older) == await command(newer), number
        assert {row["resp"] for row in admin.client_list() if row["name"] == "streammachine"} == {"2"}


@pytest.mark.parametrize("transaction", [False, True])
async def test_a_pipeline_to_a_server_without_hello(tmp_path: Path, transaction: bool) -> None:
    async with two_protocols(tmp_path) as (newer, older, _):
        found = []
        for client in (newer, older):
            async with client.pipeline(transaction=transaction, raise_on_error=False) as pipe:
                pipe.hset("h", {"a": "1"})
                pipe.hgetall("h")
                pipe.zadd("z", {"m": 1.5})
                pipe.zrange("z", 0, -1, withscores=True)
                pipe.zscore("z", "m")
                wrong = pipe.lpush("h", ["x"])
            assert pipe.results is not None
            found.append([str(result) for result in pipe.results])
            with contextlib.suppress(Exception):
                await wrong
        assert found[0] == found[1]


async def test_messages_of_a_server_without_hello(tmp_path: Path) -> None:
    async with two_protocols(tmp_path) as (_, older, _admin):
        for _ in range(2):  # the connection goes back to the pool, and is as good as before
            async with older.pubsub(channels=["news"], patterns=["n*"], ignore_subscribe_messages=True) as news:
                assert await older.publish("news", "hello") == 2
                got = [await anext(news), await anext(news)]
                assert {(message["type"], message["data"]) for message in got} == {
                    ("message", b"hello"),
                    ("pmessage", b"hello"),
                }
            assert await asyncio.gather(*(older.echo("message") for _ in range(20))) == [b"message"] * 20


async def test_a_wrong_password_is_an_auth_error_without_hello_too(tmp_path: Path) -> None:
    from streammachine.errors import RedisAuthError

    with Valkey(tmp_path / "valkey", "--requirepass", "right", "--rename-command", "HELLO", "") as server:
        good = server.url.replace("//", "//:right@")
        async with RedisConnection(url=good, settings=Settings(data_dir=tmp_path)) as connection:
            with redis_py.Redis(port=server.port, password="right", protocol=2) as admin:
                admin.config_set("requirepass", "changed")
            with pytest.raises(RedisAuthError, match="refuses the login"):
                await connection.run(lambda client: client.ping())


# --- Sentinel and TLS -----------------------------------------------------------------------------------------------


async def test_sentinel_and_tls_lead_to_the_same_server_as_the_transport(tmp_path: Path) -> None:
    with Sentinels(tmp_path) as group:
        async with RedisConnection(settings=Settings(redis_url=group.url, data_dir=tmp_path)) as connection:
            await connection.command("SET", "k", "1")
            assert await connection.client.get("k") == b"1"
    with Valkey(tmp_path / "plain") as server, TlsFront(tmp_path, server.port) as front:
        url = f"rediss://localhost:{front.port}?ssl_ca_certs={front.certificate}"
        async with RedisConnection(settings=Settings(redis_url=url, data_dir=tmp_path)) as connection:
            await connection.command("SET", "k", "1")
            assert await connection.client.get("k") == b"1"


# --- Cluster --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Valkey]]:
    with cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture
async def wide(nodes: list[Valkey], tmp_path: Path) -> AsyncIterator[RedisConnection]:
    settings = Settings(redis_url=f"{nodes[0].url}?cluster=true", data_dir=tmp_path)
    async with RedisConnection(settings=settings) as connection:
        yield connection
        await connection.client.flushall()


async def test_a_cluster_has_the_whole_client(wide: RedisConnection) -> None:
    keys = [f"key-{number}" for number in range(30)]
    await asyncio.gather(*(wide.client.set(key, key) for key in keys))
    assert await wide.run(lambda client: client.get("key-7")) == b"key-7"
    assert await wide.client.mget(keys) == tuple(key.encode() for key in keys)
    assert sorted([key.decode() async for key in wide.client.scan_iter()]) == sorted(keys)
    assert await wide.client.delete("key-7") == 1
    async with wide.client.pipeline(transaction=False) as pipe:
        for key in keys[:5]:
            pipe.zadd(f"z-{key}", {"m": 0.1 + 0.2})
    assert await wide.client.zscore("z-key-1", "m") == 0.1 + 0.2
    async with wide.client.pubsub(channels=["news"], ignore_subscribe_messages=True) as news:
        await wide.client.publish("news", "hello")
        assert (await anext(news))["data"] == b"hello"


@pytest.mark.parametrize("first", ["pipeline", "sharded", "pubsub", "scan"])
async def test_any_use_of_a_clusters_client_may_be_its_first(wide: RedisConnection, first: str) -> None:
    client: Any = wide.client
    if first == "pipeline":
        async with client.pipeline(transaction=True) as pipe:
            pipe.set("{a}1", "x")
            got = pipe.get("{a}1")
        assert await got == b"x"
    elif first == "scan":
        assert [key async for key in client.scan_iter()] == []
    else:
        options = {"channels": ["news"], "ignore_subscribe_messages": True}
        async with client.sharded_pubsub(**options) if first == "sharded" else client.pubsub(**options) as news:
            await (client.spublish if first == "sharded" else client.publish)("news", "hello")
            assert (await anext(news))["data"] == b"hello"


async def test_a_clusters_pipeline_sends_nothing_twice(tmp_path: Path) -> None:
    """coredis sends what broke on its way once more, one by one: the first may have run."""
    with Valkey(tmp_path / "node", "--cluster-enabled", "yes") as node, redis_py.Redis(port=node.port) as admin:
        admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await until(lambda: b"cluster_state:ok" in bytes(admin.execute_command("CLUSTER", "INFO")))
        async with Proxy(("127.0.0.1", node.port)) as proxy:
            admin.config_set("cluster-announce-port", proxy.port)
            settings = Settings(redis_url=f"{proxy.url}?cluster=true", data_dir=tmp_path)
            async with RedisConnection(settings=settings) as connection:
                await connection.client.ping()
                proxy.lose_reply_to(b"INCR")
                with pytest.raises(LostError):
                    async with connection.client.pipeline(transaction=False) as pipe:
                        pipe.incr("n")
                assert proxy.lost_replies == 1
                assert admin.get("n") == b"1"
                assert await connection.run(lambda client: client.get("n"), repeatable=True) == b"1"


async def test_cancelled_commands_cost_a_cluster_no_connection(nodes: list[Valkey], tmp_path: Path) -> None:
    settings = Settings(redis_url=f"{nodes[0].url}?cluster=true", data_dir=tmp_path, redis_max_connections=4)
    async with RedisConnection(settings=settings) as connection:
        for _ in range(6):
            with anyio.move_on_after(0.02):
                await connection.client.blpop(["never"], timeout=30)
        assert len(set(await asyncio.gather(*(connection.client.incr("never-n") for _ in range(20))))) == 20


async def test_a_failover_of_a_cluster_is_followed(tmp_path: Path) -> None:
    with cluster(tmp_path, replicas=True) as started:
        settings = Settings(redis_url=f"{started[1].url}?cluster=true", data_dir=tmp_path)
        async with RedisConnection(settings=settings) as connection:
            await connection.run(lambda client: client.set("k", "1"))
            await connection.command("WAIT", 1, 2000)
            serving(started[:3], "k").stop()

            async def read() -> bool:
                try:
                    return await connection.run(lambda client: client.get("k"), repeatable=True) == b"1"
                except RedisUnavailableError:
                    await anyio.sleep(0.1)
                    return False

            await until(read)
