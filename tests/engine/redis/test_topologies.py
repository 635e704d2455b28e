"""A Cluster, a Sentinel group and TLS: the same calls as on one plain server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis as redis_py

from streammachine.errors import (
    CrossSlotError,
    RedisCommandError,
    RedisUnavailableError,
    SettingsError,
    StreamMachineError,
)
from streammachine.ohlc.durable import DurableAggregators, Tick
from streammachine.redis import streams
from streammachine.redis.connection import RedisConnection
from streammachine.redis.objects import RedisObjectStorage
from streammachine.redis.storage import Storage
from streammachine.redis.transport import cluster as cluster_module
from streammachine.redis.transport.cluster import ASKING, ClusterConnections, key_of, slot_of, split_commands
from streammachine.redis.transport.codec import RespError
from streammachine.redis.transport.raw_connection import encode_command
from streammachine.redis.transport.shared_connection import UnsentError
from streammachine.redis_url import Endpoint, parse_url
from streammachine.settings import Settings
from support.cluster import Move, Sentinels, TlsFront, cluster, owner_of
from support.mcp import RawClient, clean_environment
from support.valkey import Valkey, until

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Valkey]]:
    with cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


def cluster_settings(nodes: list[Valkey], folder: Path, number: int = 0) -> Settings:
    return Settings(redis_url=f"{nodes[number].url}?cluster=true", data_dir=folder)


def test_slots_are_those_of_the_server(nodes: list[Valkey]) -> None:
    with redis_py.Redis(port=nodes[0].port) as client:
        for key in ("orders", "{orders}:dlq", "a{b}c", "{}x", "{", "ä", "a{}{b}", "{a}{b}"):
            assert slot_of(key) == client.execute_command("CLUSTER", "KEYSLOT", key), key


def test_the_key_of_a_command_is_found() -> None:
    assert key_of(["XADD", "s", "*", "a", "b"]) == "s"
    assert key_of(["EVAL", "return 1", 2, "k1", "k2", "x"]) == "k1"
    assert key_of(["EVAL", "return 1", 0]) is None
    assert key_of(["XREADGROUP", "GROUP", "g", "c", "COUNT", 1, "STREAMS", "s", ">"]) == "s"
    assert key_of(["XINFO", "GROUPS", "s"]) == "s"
    assert key_of(["PING"]) is None


async def test_streams_storage_objects_and_aggregators_on_a_cluster(nodes: list[Valkey], tmp_path: Path) -> None:
    async with RedisConnection(settings=cluster_settings(nodes, tmp_path)) as connection:
        assert connection.is_cluster
        assert await connection.health_check()
        names = [f"stream-{number}" for number in range(20)]
        for name in names:
            ids = await connection.pipeline_xadd(name, [{"n": n} for n in range(50)])
            assert len(ids) == 50
            assert [entry.data["n"] for entry in await streams.read_newest(connection, name, 2)] == ["48", "49"]
            assert (await streams.describe(connection, name)).length == 50
        found, _ = await streams.find_streams(connection, "stream-*")
        assert found == sorted(names)
        seen = 0
        async for _ in connection.consumer("stream-3", "c", "g", timeout=500):
            seen += 1
        assert seen == 50

        storage = Storage(connection)
        await storage.write("a", {"x": 1}, ttl=100)
        assert await storage.read("a") == {"x": 1}
        assert [await storage.incr("n") for _ in range(3)] == [1, 2, 3]
        assert await storage.update("n", lambda value: value + 10) == 13
        objects = RedisObjectStorage(connection=connection)
        for number in range(30):
            await objects.store_with_pickle(f"o{number}", number)
        assert len(await objects.list_keys()) == 30
        assert await objects.delete_keys("o*") == 30
        aggregator, _ = await DurableAggregators(connection).create("btc")
        assert await aggregator.update([Tick("BTC", 1.0, 1.0, 1_700_000_000_000)]) == 1
        await aggregator.snapshot()
        assert (await (await DurableAggregators(connection).get("btc")).stats())["tick_count"] == 1


async def test_a_slot_that_moved_is_followed(nodes: list[Valkey], tmp_path: Path) -> None:
    async with RedisConnection(settings=cluster_settings(nodes, tmp_path, 1)) as connection:
        await connection.command("SET", "moving", "1")
        slot = slot_of("moving")
        clients = [redis_py.Redis(port=node.port) for node in nodes]
        ids = [client.execute_command("CLUSTER", "MYID").decode() for client in clients]
        owner = slot // (16384 // len(nodes))
        other = (owner + 1) % len(clients)
        clients[owner].delete("moving")
        for client in (clients[other], clients[owner], clients[3 - owner - other]):
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[other])
        await connection.command("SET", "moving", "2")
        assert await connection.command("GET", "moving") == b"2"
        for client in clients:
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[other])
            client.close()


async def test_a_slot_that_is_being_moved_is_followed_half_way(nodes: list[Valkey], tmp_path: Path) -> None:
    async with RedisConnection(settings=cluster_settings(nodes, tmp_path)) as connection:
        old = await connection.pipeline_xadd("{moving}old", [{"n": n} for n in range(1500)])
        move = Move(nodes, slot_of("{moving}"), (owner_of(nodes, "{moving}") + 1) % 3)
        move.begin()
        # One is at the old node yet, the other nowhere: it begins at the new one.
        old += await connection.pipeline_xadd("{moving}old", [{"n": n} for n in range(1500, 3000)])
        new = await connection.pipeline_xadd("{moving}new", [{"n": n} for n in range(2500)])
        assert await connection.command("SET", "{moving}value", "1") == b"OK"
        both = ["EVAL", "return redis.call('XLEN', KEYS[1]) + redis.call('XLEN', KEYS[2])", 2]
        with pytest.raises(RedisUnavailableError, match=r"is not ready: TRYAGAIN.*Try again"):
            await connection.command(*both, "{moving}old", "{moving}new")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, move.finish)
            old += await connection.pipeline_xadd("{moving}old", [{"n": n} for n in range(3000, 20_000)])
        assert await connection.command(*both, "{moving}old", "{moving}new") == 22_500
        assert await connection.command("GET", "{moving}value") == b"1"
        for stream, ids in (("{moving}old", old), ("{moving}new", new)):
            entries = await streams.read_from(connection, stream)
            assert [entry.id for entry in entries] == ids
            assert [entry.data["n"] for entry in entries] == [str(n) for n in range(len(ids))]


async def test_several_streams_of_one_slot_are_read_by_one_consumer(nodes: list[Valkey], tmp_path: Path) -> None:
    async with RedisConnection(settings=cluster_settings(nodes, tmp_path)) as connection:
        for name in ("{both}a", "{both}b"):
            await connection.pipeline_xadd(name, [{"n": n} for n in range(3)])
        found = [stream async for stream, _ in connection.consumer(["{both}a", "{both}b"], "c", "g", timeout=100)]
        assert sorted(found) == ["{both}a"] * 3 + ["{both}b"] * 3
        with pytest.raises(CrossSlotError, match=r"common \{tag\}"):
            await connection.consumer(["both-a", "both-b"], "c", "g")


class Refusing:
    """Stands for the connections to the nodes: gives prepared answers, and notes what was sent."""

    def __init__(self, *answers: list[Any]) -> None:
        self.answers = list(answers)
        self.sent: list[list[bytes]] = []

    async def exchange(self, payload: bytes, replies: int, timeout: float) -> list[Any]:
        commands = split_commands(payload)
        assert len(commands) == replies
        self.sent.append(commands)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


A, B, C = (encode_command(["SET", key, "x"]) for key in "abc")
MOVED, ASK, DOWN = (
    RespError(text) for text in ("MOVED 5 h:1", "ASK 5 127.0.0.1:7001", "CLUSTERDOWN Hash slot not served")
)
GONE = UnsentError(RedisUnavailableError("away"))


@pytest.mark.parametrize(
    ("answers", "sent", "found"),
    [
        ([[1, 2, 3]], [[A, B, C]], [1, 2, 3]),
        ([[1, MOVED, MOVED], [2, 3]], [[A, B, C], [B, C]], [1, 2, 3]),
        ([[DOWN, DOWN, DOWN], [1, 2, 3]], [[A, B, C], [A, B, C]], [1, 2, 3]),
        ([[1, ASK, ASK], ["OK", 2, "OK", 3]], [[A, B, C], [ASKING, B, ASKING, C]], [1, 2, 3]),
        ([[1, ASK, ASK], ["OK", 2, "OK", MOVED], [3]], [[A, B, C], [ASKING, B, ASKING, C], [C]], [1, 2, 3]),
        ([[MOVED, 2, 3]], [[A, B, C]], [MOVED, 2, 3]),  # not in its order any more: an error
        ([[1, MOVED, MOVED], *[[MOVED, MOVED]] * 9], [[A, B, C], *[[B, C]] * 9], [1, MOVED, MOVED]),
        ([GONE, [1, 2, 3]], [[A, B, C]] * 2, [1, 2, 3]),
        ([GONE, GONE], [[A, B, C]] * 2, UnsentError),  # nothing was sent: it may be sent again
        ([[1, MOVED, MOVED], GONE, GONE], [[A, B, C], [B, C], [B, C]], RedisUnavailableError),  # a part was: it may not
        ([[1, ASK, ASK], GONE], [[A, B, C], [ASKING, B, ASKING, C]], RedisUnavailableError),
    ],
)
async def test_what_was_sent_away_is_sent_again_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, answers: list[Any], sent: list[list[bytes]], found: Any
) -> None:
    node = Refusing(*answers)
    nodes = ClusterConnections(Endpoint("h", 1), "h")
    nodes._ranges = [(0, 16383, ("h", 1))]

    async def unchanged() -> None: ...

    monkeypatch.setattr(cluster_module, "MOVE_PAUSE", 0)
    monkeypatch.setattr(nodes, "_to", lambda place: node)
    monkeypatch.setattr(nodes, "_read_map", unchanged)
    if isinstance(found, list):
        assert await nodes.exchange(A + B + C, 3, 1.0, "a") == found
    else:
        with pytest.raises(found) as caught:
            await nodes.exchange(A + B + C, 3, 1.0, "a")
        assert type(caught.value) is found
    assert node.sent == sent


async def test_a_script_across_slots_is_an_error_by_name(nodes: list[Valkey], tmp_path: Path) -> None:
    async with RedisConnection(settings=cluster_settings(nodes, tmp_path)) as connection:
        with pytest.raises(RedisCommandError, match="CROSSSLOT"):
            await connection.command("EVAL", "return 1", 2, "a", "b")


async def test_a_plain_server_is_no_cluster(tmp_path: Path) -> None:
    with Valkey(tmp_path / "plain") as server, pytest.raises(RedisUnavailableError, match="is no Cluster"):
        async with RedisConnection(settings=Settings(redis_url=f"{server.url}?cluster=true", data_dir=tmp_path)):
            pass


async def test_a_failover_is_followed_through_sentinel(tmp_path: Path) -> None:
    with Sentinels(tmp_path) as group:
        async with RedisConnection(settings=Settings(redis_url=group.url, data_dir=tmp_path)) as connection:
            await connection.pipeline_xadd("s", [{"n": 1}])
            assert await connection.run(lambda client: client.xlen("s")) == 1

            async def copied() -> bool:
                with redis_py.Redis(port=group.replica.port) as replica:
                    return replica.xlen("s") == 1

            await until(copied)
            group.primary.stop()

            async def written() -> bool:
                try:
                    await connection.pipeline_xadd("s", [{"n": 2}])
                except StreamMachineError:
                    await anyio.sleep(0.05)
                    return False
                return True

            await until(written)
            assert next(entry.data["n"] for entry in await streams.read_from(connection, "s")) == "1"
            assert await connection.run(lambda client: client.xlen("s"), repeatable=True) >= 2


async def test_no_sentinel_is_an_error_that_names_them(tmp_path: Path) -> None:
    settings = Settings(redis_url="redis+sentinel://127.0.0.1:1,127.0.0.1:2/mymaster", data_dir=tmp_path)
    with pytest.raises(RedisUnavailableError, match=r"mymaster.*127.0.0.1:1 does not answer.*127.0.0.1:2"):
        async with RedisConnection(settings=settings):
            pass


async def test_tls_is_checked_and_used(tmp_path: Path) -> None:
    with Valkey(tmp_path / "plain") as server, TlsFront(tmp_path, server.port) as front:
        trusted = f"rediss://localhost:{front.port}?ssl_ca_certs={front.certificate}"
        async with RedisConnection(settings=Settings(redis_url=trusted, data_dir=tmp_path)) as connection:
            await connection.pipeline_xadd("s", [{"n": 1}])
            assert await connection.run(lambda client: client.xlen("s")) == 1
        for untrusted in (f"rediss://localhost:{front.port}", trusted.replace("localhost", "127.0.0.2")):
            with pytest.raises(RedisUnavailableError):
                async with RedisConnection(settings=Settings(redis_url=untrusted, data_dir=tmp_path)):
                    pass


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("redis+sentinel://a:1,b/group", (("a", 1), ("b", 26379))),
        ("rediss+sentinel://u:p@a/group/3", (("a", 26379),)),
    ],
)
def test_sentinel_urls(url: str, wanted: object) -> None:
    endpoint = parse_url(url)
    assert endpoint.sentinels == wanted
    assert endpoint.group == "group"
    assert "p@" not in repr(endpoint)


@pytest.mark.parametrize(
    "url", ["redis+sentinel://a", "redis+sentinel:///g", "redis+sentinel://a:0/g", "redis+sentinel://a/g/x",
            "redis://a/1?cluster=true", "unix:///x?cluster=true"],
)  # fmt: skip
def test_wrong_topology_urls_are_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="is not accepted"):
        parse_url(url)


def test_redis_info_and_doctor_speak_with_a_cluster(nodes: list[Valkey], tmp_path: Path) -> None:
    env = {"REDIS_URL": f"{nodes[0].url}?cluster=true", "STREAMMACHINE_DATA_DIR": str(tmp_path / "data")}
    with RawClient(env=env) as client:
        found = client.call("redis_info", section="server")
        assert len(found["nodes"]) == 3
        assert found["valkey_version"] in {facts["valkey_version"] for facts in found["nodes"].values()}
        assert {facts["tcp_port"] for facts in found["nodes"].values()} == {node.port for node in nodes}
        assert client.call("redis_info")["cluster_enabled"] == 1
        health = client.call("health_check")
        assert (health["status"], health["redis"]) == ("healthy", "connected")
    done = subprocess.run(
        [sys.executable, "-m", "streammachine.cli", "doctor"],
        env=clean_environment(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert "Redis: Valkey" in done.stdout and "health: healthy" in done.stdout, done.stdout
