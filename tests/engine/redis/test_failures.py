"""Broken links, dead, full and loading servers: what a command does then, and that the next one works."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import coredis.exceptions as theirs
import pytest

from streammachine import errors
from streammachine.errors import (
    RedisCommandError,
    RedisFullError,
    RedisReadOnlyError,
    RedisTimeoutError,
    RedisUnavailableError,
    StreamMachineError,
    UnsupportedServerError,
    WrongTypeError,
)
from streammachine.redis import streams
from streammachine.redis.connection import RedisConnection
from streammachine.redis.embedded.server import EmbeddedServer
from streammachine.redis.failures import translate
from streammachine.redis.transport import raw_connection
from streammachine.redis_url import Endpoint
from streammachine.settings import Settings
from support.proxy import Proxy
from support.valkey import Valkey, free_port, until

pytestmark = pytest.mark.anyio
PATIENCE = 1.0  # seconds: little, but enough for a busy machine


@pytest.fixture
async def proxy(shared_server: EmbeddedServer, redis: RedisConnection) -> AsyncIterator[Proxy]:
    """A proxy before the shared server; ``redis`` is the direct connection to look at what really happened."""
    async with Proxy(shared_server.socket_path) as proxy:
        yield proxy


@pytest.fixture
async def far(proxy: Proxy, settings: Settings) -> AsyncIterator[RedisConnection]:
    """A connection through the proxy, with little patience."""
    async with RedisConnection(url=proxy.url, settings=settings, timeout=PATIENCE, max_connections=3) as connection:
        yield connection


async def incr(connection: RedisConnection, key: str = "n") -> int:
    return await connection.run(lambda client: client.incr(key))


async def get(connection: RedisConnection, key: str = "n") -> bytes | None:
    return await connection.run(lambda client: client.get(key), repeatable=True)


async def blocked_clients(connection: RedisConnection) -> int:
    info = await connection.run(lambda client: client.info("clients"))
    return int(info["blocked_clients"])


# --- the link -------------------------------------------------------------------------------------------------------


async def test_a_write_whose_reply_is_lost_is_sent_once_and_the_error_says_it_is_not_known(
    proxy: Proxy, far: RedisConnection, redis: RedisConnection
) -> None:
    proxy.lose_reply_to(b"XADD")
    with pytest.raises(
        RedisUnavailableError, match=r"broke before the reply.*whether the command ran is not known"
    ) as e:
        await streams.append(far, "once", {"a": 1})
    assert not isinstance(e.value, RedisTimeoutError)
    assert proxy.lost_replies == 1
    assert await streams.length(redis, "once") == 1
    await streams.append(far, "once", {"a": 2})
    assert await streams.length(redis, "once") == 2


async def test_a_pipeline_whose_replies_are_lost_is_sent_once(
    proxy: Proxy, far: RedisConnection, redis: RedisConnection
) -> None:
    proxy.lose_reply_to(b"XADD")
    with pytest.raises(RedisUnavailableError, match="is not known"):
        await far.pipeline_xadd("once", [{"a": number} for number in range(20)])
    assert await streams.length(redis, "once") == 20


async def test_a_read_whose_reply_is_lost_is_repeated_once(proxy: Proxy, far: RedisConnection) -> None:
    await incr(far)
    proxy.lose_reply_to(b"GET")
    assert await get(far) == b"1"
    assert proxy.lost_replies == 1


async def test_a_blackholed_link_is_a_timeout_and_the_next_command_works_when_it_heals(
    proxy: Proxy, far: RedisConnection
) -> None:
    assert await incr(far) == 1
    proxy.blackhole = True
    for _ in range(5):  # more than there are connections: a dead one must not keep its place
        with anyio.fail_after(60):
            with pytest.raises(RedisTimeoutError, match=r"did not answer within 1 s.*is not known"):
                await incr(far)
    assert not await far.health_check()
    proxy.blackhole = False
    assert await incr(far) == 2


async def test_who_shares_a_link_that_another_gave_up_learns_why(proxy: Proxy, far: RedisConnection) -> None:
    assert await far.command("INCR", "n") == 1
    proxy.blackhole = True

    async def patient() -> None:
        with pytest.raises(RedisUnavailableError, match=r"did not answer within 1 s; whether .* is not known"):
            await far.command("INCR", "n", timeout=60)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(patient)
            with pytest.raises(RedisTimeoutError):
                await far.command("INCR", "n")


async def test_all_who_wait_on_a_blackholed_link_get_a_named_error(proxy: Proxy, far: RedisConnection) -> None:
    assert await incr(far) == 1
    proxy.blackhole = True
    with anyio.fail_after(60):
        found = await asyncio.gather(*(incr(far) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(error, RedisUnavailableError) for error in found)
    proxy.blackhole = False
    assert sorted(await asyncio.gather(*(incr(far) for _ in range(5)))) == [2, 3, 4, 5, 6]


async def test_who_waits_for_an_opening_that_fails_does_not_wait_again(
    proxy: Proxy, far: RedisConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one, twenty tasks would each wait for an attempt of their own, twice."""
    attempts = 0
    connect = raw_connection._connect

    async def counted(endpoint: Endpoint) -> raw_connection._Link:
        nonlocal attempts
        attempts += 1
        return await connect(endpoint)

    assert await far.command("INCR", "n") == 1
    monkeypatch.setattr(raw_connection, "_connect", counted)
    monkeypatch.setattr(raw_connection, "CONNECT_TIMEOUT", 0.2)
    proxy.blackhole = True
    proxy.reset()
    found = await asyncio.gather(*(far.command("INCR", "n") for _ in range(20)), return_exceptions=True)
    assert {type(error) for error in found} == {RedisUnavailableError}
    assert attempts < 20
    proxy.blackhole = False
    assert await far.command("INCR", "n") == 2


async def test_half_open_links_are_given_up_and_new_ones_work(proxy: Proxy, far: RedisConnection) -> None:
    assert await far.command("INCR", "n") == await incr(far) - 1 == 1
    proxy.half_open()
    for write in (far.command("INCR", "n"), incr(far)):
        with pytest.raises(RedisTimeoutError, match="is not known"):
            await write
    assert proxy.swallowed
    assert await far.command("INCR", "n") == await incr(far) - 1 == 3


async def test_a_reset_link_is_opened_again(proxy: Proxy, far: RedisConnection) -> None:
    for number in range(1, 4):
        assert await incr(far) == number
        proxy.reset()
        assert await get(far) == b"%d" % number


async def test_a_reset_under_a_waiting_write_is_an_error_and_no_second_write(
    proxy: Proxy, far: RedisConnection, redis: RedisConnection
) -> None:
    await far.run(lambda client: client.ping())
    proxy.latency = 0.1
    async with anyio.create_task_group() as tasks:
        found: list[object] = []

        async def write() -> None:
            try:
                found.append(await incr(far))
            except StreamMachineError as error:
                found.append(error)

        tasks.start_soon(write)
        await until(lambda: get(redis))  # the server has it, the reply is on its slow way back
        proxy.reset()
    assert isinstance(found[0], RedisUnavailableError)
    assert await get(redis) == b"1"


async def test_a_slow_link_is_no_broken_link(proxy: Proxy, settings: Settings) -> None:
    proxy.latency = 0.2
    async with RedisConnection(url=proxy.url, settings=settings, timeout=60.0, max_connections=3) as patient:
        assert sorted(await asyncio.gather(*(incr(patient) for _ in range(5)))) == [1, 2, 3, 4, 5]
        assert await patient.command("INCR", "n") == 6


async def go_away(proxy: Proxy, connection: RedisConnection) -> None:
    """Refuse connections, and see to it that the client has noticed that its old ones are gone."""
    await proxy.refuse()
    proxy.reset()
    with pytest.raises(RedisUnavailableError):
        await get(connection)


async def test_a_server_that_refuses_connections_is_named_and_found_again(proxy: Proxy, far: RedisConnection) -> None:
    await go_away(proxy, far)
    with pytest.raises(RedisUnavailableError, match=rf"redis://127\.0\.0\.1:{proxy.port} cannot be reached.*Start it"):
        await incr(far)
    await proxy.listen()
    assert await incr(far) == 1


async def test_a_write_that_could_not_be_sent_is_sent_when_the_server_comes_back_at_once(
    proxy: Proxy, far: RedisConnection
) -> None:
    await go_away(proxy, far)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(proxy.listen)
        assert await incr(far) == 1


async def test_a_cancelled_command_leaves_the_connection_usable(proxy: Proxy, far: RedisConnection) -> None:
    await far.health_check()
    proxy.latency = 0.05
    for _ in range(10):
        with anyio.move_on_after(0.01) as scope:
            await get(far)
        assert scope.cancelled_caught
    proxy.latency = 0
    assert sorted(await asyncio.gather(*(incr(far) for _ in range(5)))) == [1, 2, 3, 4, 5]


async def test_a_cancelled_opening_costs_no_place(proxy: Proxy, settings: Settings) -> None:
    async with RedisConnection(url=proxy.url, settings=settings, max_connections=2) as connection:
        for _ in range(6):
            proxy.reset()
            proxy.blackhole = True
            with anyio.move_on_after(0.02), contextlib.suppress(RedisUnavailableError):
                await get(connection)
            proxy.blackhole = False
        proxy.reset()
        await until(connection.health_check)
        assert len(set(await asyncio.gather(*(incr(connection, "after") for _ in range(20))))) == 20


async def test_a_blackholed_reader_gets_a_named_error_and_reads_on_when_the_link_heals(
    proxy: Proxy, far: RedisConnection, redis: RedisConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streammachine.redis import group_reader as module

    monkeypatch.setattr(module, "BLOCK_MS", 50)
    monkeypatch.setattr(module, "BLOCK_MARGIN", 0.1)
    reader = await far.consumer("s", "c", "g", timeout=None)

    async def swallow() -> None:
        await until(lambda: blocked_clients(redis))
        proxy.blackhole = True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(swallow)
        with anyio.fail_after(60), pytest.raises(RedisTimeoutError, match=r"blocking read of 's'.*start_from_backlog"):
            async for _ in reader:
                pass
    proxy.blackhole = False
    await streams.append(redis, "s", {"a": 1})
    with anyio.fail_after(60):
        async for _, entry in reader:
            assert entry.field_values == {b"a": b"1"}
            break


async def test_a_reset_under_a_blocking_read_is_a_named_error(
    proxy: Proxy, far: RedisConnection, redis: RedisConnection
) -> None:
    reader = await far.consumer("s", "c", "g", timeout=None)

    async def cut() -> None:
        await until(lambda: blocked_clients(redis))
        proxy.reset()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cut)
        with anyio.fail_after(60):
            with pytest.raises(RedisUnavailableError, match="broke before the reply"):
                async for _ in reader:
                    pass


# --- the server -----------------------------------------------------------------------------------------------------


async def test_a_server_restarted_between_commands_is_found_again(tmp_path: Path) -> None:
    with Valkey(tmp_path / "data", "--appendonly", "yes", "--appendfsync", "always") as server:
        async with RedisConnection(url=server.url, settings=Settings(data_dir=tmp_path)) as connection:
            assert await incr(connection) == 1
            server.stop()
            await asyncio.to_thread(server.start)
            assert await get(connection) == b"1"
            assert await incr(connection) == 2


async def test_a_loading_server_is_named(tmp_path: Path) -> None:
    port = free_port()

    async def load(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # As a Valkey does while it loads: HELLO and CLIENT are answered, data is not.
        while line := await reader.readline():
            if line.startswith(b"*"):
                words = [(await reader.readline(), (await reader.readline()).strip())[1] for _ in range(int(line[1:]))]
                if words[0] == b"HELLO":
                    writer.write(b"%3\r\n+proto\r\n:3\r\n+version\r\n+7.2.4\r\n+id\r\n:1\r\n")
                elif words[0] == b"CLIENT":
                    writer.write(b"+OK\r\n")
                else:
                    writer.write(b"-LOADING Valkey is loading the dataset in memory\r\n")
        writer.close()

    server = await asyncio.start_server(load, "127.0.0.1", port)
    connection = RedisConnection(port=port, host="127.0.0.1", settings=Settings(data_dir=tmp_path))
    with pytest.raises(RedisUnavailableError, match="is still loading its data; try again"):
        await connection.open()
    server.close()


async def test_a_full_server_refuses_writes_by_name_and_still_reads(tmp_path: Path) -> None:
    with Valkey(tmp_path / "data", "--maxmemory-policy", "noeviction") as server:
        async with RedisConnection(url=server.url, settings=Settings(data_dir=tmp_path)) as connection:
            await streams.append(connection, "s", {"a": 1})
            await connection.run(lambda client: client.config_set({"maxmemory": "1"}))
            writes = [
                streams.append(connection, "s", {"a": 2}),
                connection.pipeline_xadd("s", [{"a": 3}]),
                connection.run(lambda client: client.eval("return redis.call('SET', KEYS[1], 1)", keys=["k"])),
            ]
            for write in writes:
                with pytest.raises(RedisFullError, match=r"at its memory limit.*Trim or delete streams") as caught:
                    await write
                assert isinstance(caught.value, MemoryError)
            assert await streams.length(connection, "s") == 1


@pytest.mark.parametrize("watched", [False, True])
async def test_an_embedded_server_that_is_killed_comes_back_with_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: bool
) -> None:
    """By the next command, or without one by the watcher."""
    from streammachine.redis import host as module

    monkeypatch.setattr(module, "WATCH_PERIOD", 0.05 if watched else 60)
    settings = Settings(embedded="always", data_dir=tmp_path)
    async with RedisConnection(settings=settings) as connection:
        assert connection.target is not None and connection.target.embedded is not None
        server = connection.target.embedded
        for number in range(1, 4):
            assert await incr(connection) == number
            pid = server.pid
            os.kill(pid, signal.SIGKILL)
            if watched:
                await until(lambda pid=pid: server.pid != pid and server.alive())
            with contextlib.suppress(RedisUnavailableError):  # a read that was under way twice
                assert await get(connection) == b"%d" % number
            assert await get(connection) == b"%d" % number


async def test_an_embedded_server_killed_under_writes_loses_none_that_was_acknowledged(tmp_path: Path) -> None:
    settings = Settings(embedded="always", data_dir=tmp_path)
    acknowledged: list[str] = []
    failed: list[StreamMachineError] = []
    async with RedisConnection(settings=settings) as connection:
        assert connection.target is not None and connection.target.embedded is not None
        server, first = connection.target.embedded, connection.target.embedded.pid

        async def write() -> None:
            while len(acknowledged) < 300:
                try:
                    acknowledged.append(await streams.append(connection, "s", {"a": 1}))
                except RedisUnavailableError as error:
                    failed.append(error)

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(write)
            await until(lambda: len(acknowledged) > 50)
            os.kill(first, signal.SIGKILL)
        assert server.pid != first
        stored = {entry.id for entry in await streams.read_from(connection, "s")}
        assert set(acknowledged) <= stored
        assert len(stored) <= len(acknowledged) + len(failed)


async def test_a_consumer_survives_a_server_restart_with_a_named_error(tmp_path: Path) -> None:
    with Valkey(tmp_path / "data", "--appendonly", "yes", "--appendfsync", "always") as server:
        async with RedisConnection(url=server.url, settings=Settings(data_dir=tmp_path)) as connection:
            reader = await connection.consumer("s", "c", "g", timeout=None)

            async def restart() -> None:
                await until(lambda: blocked_clients(connection))
                server.stop()
                await asyncio.to_thread(server.start)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(restart)
                with pytest.raises(RedisUnavailableError):
                    async for _ in reader:
                        pass
            await streams.append(connection, "s", {"a": 1})
            async for _, entry in reader:
                assert entry.field_values == {b"a": b"1"}
                break


# --- translation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind", "text", "unsent", "lost"),
    [
        (theirs.AuthenticationFailureError("WRONGPASS invalid"), errors.RedisAuthError, "refuses the login", 0, 0),
        (theirs.BusyLoadingError("LOADING"), RedisUnavailableError, "still loading", 1, 0),
        (TimeoutError(), RedisTimeoutError, "within 5 s", 0, 0),
        (theirs.ConnectionError("Connection lost!"), RedisUnavailableError, "is not known", 0, 1),
        (theirs.ConnectionError("Connection not usable"), RedisUnavailableError, "try again", 1, 0),
        (theirs.ConnectionError("Unable to establish a connection to x"), RedisUnavailableError, "Start it", 1, 0),
        (ConnectionResetError(104, "reset"), RedisUnavailableError, "is not known", 0, 1),
        (theirs.WrongTypeError("WRONGTYPE"), WrongTypeError, "another type", 0, 0),
        (theirs.UnknownCommandError("unknown command 'X'"), UnsupportedServerError, "does not know", 0, 0),
        (theirs.CommandNotSupportedError("X", "6.0"), UnsupportedServerError, "does not know", 0, 0),
        (theirs.ResponseError("OOM command not allowed when used memory"), RedisFullError, "memory limit", 0, 0),
        (theirs.ResponseError("no such index ROOM"), RedisCommandError, "refused the command: no such", 0, 0),
        (theirs.ReadOnlyError("READONLY You can't write"), RedisReadOnlyError, "READONLY", 0, 0),
        (theirs.ResponseError(""), RedisCommandError, "ResponseError", 0, 0),
        (theirs.ClusterDownError("CLUSTERDOWN"), RedisUnavailableError, "is not ready", 1, 0),
        (KeyError("x"), RedisCommandError, "failed in the client: KeyError", 0, 0),
    ],
)
async def test_every_failure_has_a_name(
    error: Exception, kind: type[StreamMachineError], text: str, unsent: int, lost: int
) -> None:
    failure = translate(error, "redis://h", 5)
    assert type(failure.error) is kind
    assert text in str(failure.error)
    assert (failure.unsent, failure.lost) == (bool(unsent), bool(lost))
    assert failure.timed_out == (kind is RedisTimeoutError)
