"""RedisConnection: how it opens and closes, on which loops, and that its users do not disturb each other."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import pytest

import streammachine
from streammachine.errors import (
    FieldError,
    RedisAuthError,
    RedisCommandError,
    RedisUnavailableError,
    SettingsError,
    UnsupportedServerError,
)
from streammachine.redis import host as host_module
from streammachine.redis import streams
from streammachine.redis.connection import RedisConnection
from streammachine.redis.embedded.server import EmbeddedServer
from streammachine.settings import Settings
from support.valkey import Valkey, until

pytestmark = pytest.mark.anyio


async def incr(connection: RedisConnection, key: str = "n") -> int:
    return await connection.run(lambda client: client.incr(key))


def host_tasks() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "streammachine-redis-host"]


# --- life cycle -----------------------------------------------------------------------------------------------------


async def test_the_first_command_opens_a_bare_connection(settings: Settings) -> None:
    connection = RedisConnection(settings=settings)
    assert connection.target is None
    with pytest.raises(RedisUnavailableError, match="is not open"):
        _ = connection.client
    assert await connection.health_check()
    assert connection.target is not None and connection.target.origin == "explicit"
    assert await connection.client.ping() == b"PONG"
    await connection.close()
    assert connection.target is None and host_tasks() == []


async def test_it_opens_again_after_close_and_closing_twice_is_harmless(settings: Settings) -> None:
    connection = RedisConnection(settings=settings)
    await connection.close()
    for _ in range(3):
        assert await connection.health_check()
        await connection.close()
        await connection.close()
    assert host_tasks() == []


async def test_a_context_manager_closes_also_after_an_error(settings: Settings) -> None:
    connection = RedisConnection(settings=settings)
    with pytest.raises(ZeroDivisionError):
        async with connection as opened:
            assert opened is connection
            raise ZeroDivisionError
    assert connection.target is None and host_tasks() == []


async def test_a_failed_open_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "REVIVE_WAIT", 0.01)
    connection = RedisConnection(url=f"unix://{tmp_path}/none.sock", settings=Settings(data_dir=tmp_path))
    for _ in range(2):
        with pytest.raises(RedisUnavailableError, match="cannot be reached"):
            await connection.open()
        assert host_tasks() == []
    assert not await connection.health_check()
    await connection.close()


async def test_many_first_commands_open_one_client(settings: Settings) -> None:
    connection = RedisConnection(settings=settings)
    await asyncio.gather(*(connection.health_check() for _ in range(50)))
    assert len(host_tasks()) == 1
    await connection.close()


async def test_a_server_that_cannot_be_chosen_is_told_to_all_who_wait(tmp_path: Path) -> None:
    settings = Settings(redis_url="redis://h", embedded="always", data_dir=tmp_path)
    connection = RedisConnection(settings=settings)
    found = await asyncio.gather(*(incr(connection) for _ in range(5)), return_exceptions=True)
    assert [type(error) for error in found] == [SettingsError] * 5
    with pytest.raises(SettingsError):
        await connection.open()
    assert host_tasks() == []


async def test_serve_holds_the_client_until_it_is_cancelled(settings: Settings) -> None:
    connection = RedisConnection(settings=settings)
    async with anyio.create_task_group() as tasks:
        await tasks.start(connection.serve)
        assert host_tasks() == []
        assert await connection.health_check()
        async with connection:  # neither this nor close() ends what somebody else serves
            pass
        await connection.close()
        assert connection.target is not None
        assert await connection.health_check()
        tasks.cancel_scope.cancel()
    assert connection.target is None


async def test_serve_takes_over_from_a_bare_client(settings: Settings) -> None:
    connection = await RedisConnection(settings=settings).open()
    async with anyio.create_task_group() as tasks:
        await tasks.start(connection.serve)
        assert host_tasks() == []
        assert await connection.health_check()
        tasks.cancel_scope.cancel()


async def test_serve_starts_although_the_server_is_away_and_finds_it_later(tmp_path: Path) -> None:
    server = Valkey(tmp_path / "late")
    connection = RedisConnection(url=server.url, settings=Settings(data_dir=tmp_path))
    async with anyio.create_task_group() as tasks:
        await tasks.start(connection.serve)
        assert not await connection.health_check()
        with server:
            assert await until(connection.health_check)
        tasks.cancel_scope.cancel()


async def test_serve_fails_when_no_server_can_be_chosen(tmp_path: Path) -> None:
    settings = Settings(redis_url="redis://h", embedded="always", data_dir=tmp_path)
    with pytest.raises(SettingsError):
        await RedisConnection(settings=settings).serve()


async def test_a_private_embedded_server_goes_with_its_last_user(tmp_path: Path) -> None:
    settings = Settings(embedded="always", embedded_fsync="everysec", data_dir=tmp_path)
    async with RedisConnection(settings=settings) as first, RedisConnection(settings=settings) as second:
        assert first.target is not None and first.target.embedded is not None
        await incr(first)
        assert await incr(second) == 2
        server = first.target.embedded
        await first.close()
        assert server.alive()
    assert not server.alive()
    async with RedisConnection(settings=settings) as again:
        assert await incr(again) == 3


# --- loops ----------------------------------------------------------------------------------------------------------


def test_one_object_serves_loops_one_after_another(settings: Settings) -> None:
    connection = RedisConnection(settings=settings)

    async def use(close: bool) -> int:
        found = await incr(connection, "loops")
        if close:
            await connection.close()
        return found

    first = asyncio.run(use(close=False))
    assert [asyncio.run(use(close=True)), asyncio.run(use(close=False))] == [first + 1, first + 2]


def test_one_object_serves_two_loops_in_two_threads(settings: Settings) -> None:
    connection = RedisConnection(settings=settings)
    found: list[int] = []
    together = threading.Barrier(2, timeout=10)

    async def use() -> None:
        await connection.open()
        together.wait()
        found.extend(await asyncio.gather(*(incr(connection, "threads") for _ in range(100))))
        together.wait()
        await connection.close()

    threads = [threading.Thread(target=asyncio.run, args=(use(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(found) == list(range(1, 201))


def test_two_loops_may_serve_one_object(settings: Settings) -> None:
    connection = RedisConnection(settings=settings)
    together = threading.Barrier(2, timeout=10)
    healthy: list[bool] = []

    async def use() -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(connection.serve)
            together.wait()
            healthy.append(await connection.health_check())
            together.wait()
            tasks.cancel_scope.cancel()

    threads = [threading.Thread(target=asyncio.run, args=(use(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert healthy == [True, True]


@pytest.mark.parametrize("embedded", [False, True])
def test_a_loop_that_ends_without_close_leaves_no_warning_and_no_server(
    settings: Settings, tmp_path: Path, embedded: bool
) -> None:
    code = (
        "import asyncio\n"
        "from streammachine import RedisConnection\n"
        "async def main():\n"
        "    redis = RedisConnection()\n"
        "    await redis.run(lambda client: client.incr('n'))\n"
        "    print(redis.target.origin)\n"
        "asyncio.run(main())"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(streammachine.__file__).parents[1])}
    if embedded:
        environment |= {"STREAMMACHINE_EMBEDDED": "always", "STREAMMACHINE_DATA_DIR": str(tmp_path / "own")}
    else:
        environment["REDIS_URL"] = settings.explicit_url()
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "embedded\n" if embedded else "explicit\n", "")
    assert EmbeddedServer.running(tmp_path / "own") is None


# --- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{"max_connections": 0}, {"max_connections": -1}, {"timeout": 0}])
async def test_a_connection_without_room_or_time_is_refused(settings: Settings, given: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="give numbers above 0"):
        RedisConnection(settings=settings, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [{"port": 0}, {"port": 70_000}, {"db": -1}, {"url": "http://h"}])
async def test_a_wrong_address_is_refused_before_anything_is_opened(given: dict[str, int]) -> None:
    with pytest.raises(SettingsError):
        RedisConnection(**given)  # type: ignore[arg-type]


async def test_a_database_alone_is_another_one_of_the_named_server(settings: Settings) -> None:
    async with RedisConnection(db=3, settings=settings) as other, RedisConnection(settings=settings) as first:
        await other.run(lambda client: client.set("where", "db 3"))
        assert await first.run(lambda client: client.get("where")) is None
        assert await other.run(lambda client: client.get("where")) == b"db 3"
        await other.run(lambda client: client.delete(["where"]))


# --- many users -----------------------------------------------------------------------------------------------------


async def test_two_connections_carry_200_concurrent_commands(settings: Settings) -> None:
    async with RedisConnection(db=4, settings=settings, max_connections=2) as connection:  # no other test's
        found = await asyncio.gather(*(incr(connection, "many") for _ in range(200)))
        assert len(set(found)) == 200
        clients = await connection.run(lambda client: client.client_list())
        assert 1 <= sum(client["name"] == "streammachine" and client["db"] == 4 for client in clients) <= 2


@pytest.mark.parametrize("value", [None, {"a": 1}, [1], object()])
async def test_a_bad_value_is_refused_by_field_and_disturbs_nobody(redis: RedisConnection, value: object) -> None:
    refused = [streams.append(redis, "s", {"good": 1, "bad": value}) for _ in range(5)]
    counted = [incr(redis) for _ in range(20)]
    found = await asyncio.gather(*refused, *counted, return_exceptions=True)
    assert all(isinstance(error, FieldError) and "bad" in str(error) for error in found[:5])
    assert sorted(found[5:]) == list(range(1, 21))  # type: ignore[type-var]
    assert await streams.length(redis, "s") == 0


async def test_an_argument_the_client_cannot_encode_is_refused_before_it_disturbs_others(
    redis: RedisConnection,
) -> None:
    async def pipeline() -> None:
        async def send(client: object) -> None:
            async with client.pipeline(transaction=False) as pipe:  # type: ignore[attr-defined]
                pipe.set("a", "b")
                pipe.set("half \ud800", "b")

        await redis.run(send)

    bad = [
        redis.run(lambda client: client.set("k", None)),  # type: ignore[arg-type]
        redis.run(lambda client: client.set("half \ud800", "v")),
        streams.append(redis, None, {"a": 1}),  # type: ignore[arg-type]
        pipeline(),
    ]
    found = await asyncio.gather(*bad, *(incr(redis) for _ in range(20)), return_exceptions=True)
    assert [type(error) for error in found[:4]] == [RedisCommandError] * 4
    assert all("Nothing was sent" in str(error) for error in found[:4])
    assert sorted(found[4:]) == list(range(1, 21))  # type: ignore[type-var]
    assert await redis.run(lambda client: client.exists(["a"])) == 0


async def test_cancelled_commands_cost_no_connection(settings: Settings) -> None:
    async with RedisConnection(settings=settings, max_connections=2) as connection:
        for _ in range(6):
            with anyio.move_on_after(0.01):
                await connection.run(lambda client: client.blpop(["never"], timeout=30))
        with anyio.CancelScope() as scope:
            scope.cancel()
            await incr(connection)
        found = await asyncio.gather(*(incr(connection, "after") for _ in range(20)))
        assert len(set(found)) == 20


async def test_commands_work_while_many_readers_block(settings: Settings) -> None:
    async with RedisConnection(settings=settings, max_connections=1) as connection:

        async def read(number: int) -> list[bytes]:
            reader = connection.consumer("wide", f"c{number}", f"g{number}", timeout=20_000)
            async for _, entry in reader:
                return list(entry.field_values.values())
            return []

        async def blocked() -> bool:
            info = await connection.run(lambda client: client.info("clients"))
            return int(info["blocked_clients"]) == 40

        async with anyio.create_task_group() as tasks:
            answers: list[list[bytes]] = []
            for number in range(40):

                async def collect(number: int = number) -> None:
                    answers.append(await read(number))

                tasks.start_soon(collect)
            await until(blocked)
            await streams.append(connection, "wide", {"a": "now"})
        assert answers == [[b"now"]] * 40


# --- what the server says -------------------------------------------------------------------------------------------


async def test_a_wrong_password_is_an_auth_error_without_it(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    with Valkey(tmp_path / "locked", "--requirepass", "right/p@ss") as server:
        for login in ("", ":hunter2@", "nobody:hunter2@"):
            url = server.url.replace("//", f"//{login}")
            with pytest.raises(RedisAuthError, match=r"refuses the login.*Put user and password into REDIS_URL") as e:
                await RedisConnection(url=url, settings=settings).open()
            assert "hunter2" not in str(e.value)
        url = server.url.replace("//", "//:right%2Fp%40ss@")
        async with RedisConnection(url=url, settings=settings) as connection:
            assert await connection.health_check()
            assert connection.target is not None and "right" not in repr(connection.target)


async def test_a_command_that_the_server_lacks_is_named(redis: RedisConnection) -> None:
    with pytest.raises(UnsupportedServerError, match=r"does not know this command.*Redis 7\.0 or Valkey 7\.2"):
        await redis.run(lambda client: client.json.get("x"))


async def test_a_refused_command_says_why_without_the_users_data(redis: RedisConnection) -> None:
    async def send(client: object) -> None:
        async with client.pipeline(transaction=False) as pipe:  # type: ignore[attr-defined]
            pipe.set("text", "hunter2 OOM")
            pipe.incrby("text", 5)

    with pytest.raises(RedisCommandError, match="refused the command: value is not an integer") as caught:
        await redis.run(send)
    assert "hunter2" not in str(caught.value)
