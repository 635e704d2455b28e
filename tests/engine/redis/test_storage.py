"""Storage: the operations, several processes at once, counters and times to live."""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

import streammachine
from streammachine.errors import (
    ConflictError,
    RedisCommandError,
    RedisUnavailableError,
    UnsupportedServerError,
    WrongTypeError,
)
from streammachine.redis import storage as module
from streammachine.redis.connection import RedisConnection
from streammachine.redis.storage import KEY, Storage
from streammachine.settings import Settings
from support.valkey import Valkey, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def storage(redis: RedisConnection) -> Storage:
    return Storage(redis)


@pytest.fixture
def singleton() -> Iterator[None]:
    Storage.reset_instance()
    yield
    Storage.reset_instance()


@pytest.fixture
async def private(tmp_path: Path) -> AsyncIterator[RedisConnection]:
    """A connection to a server of the test's own that has no HPEXPIRE."""
    with Valkey(tmp_path / "old", "--rename-command", "HPEXPIRE", "") as server:
        async with RedisConnection(url=server.url, settings=Settings(data_dir=tmp_path)) as connection:
            yield connection


async def pttl(storage: Storage, key: str) -> int:
    return (await storage._connection.run(lambda client: client.hpttl(KEY, [key])))[0]


# --- the operations -------------------------------------------------------------------------------------------------


async def test_write_read_delete_exists_keys_clear(storage: Storage) -> None:
    assert await storage.read("a") is None
    assert await storage.read("a", default=5) == 5
    assert await storage.keys() == [] and await storage.count() == 0
    await storage.write("b", None)
    await storage.write("a", {"x": 1})
    assert await storage.read("b", default=5) is None
    assert await storage.keys() == ["a", "b"] and await storage.count() == 2
    assert await storage.exists("a") and not await storage.exists("c")
    assert await storage.delete("a") is True
    assert await storage.delete("a") is False
    await storage.write("ä \x00 *", 1)
    assert await storage.keys() == ["b", "ä \x00 *"]
    assert await storage.clear() == 2
    assert await storage.clear() == 0
    assert await storage.keys() == []


@pytest.mark.parametrize("key", ["", None, 5, b"bytes", "half \ud800"])
async def test_a_key_that_is_no_text_is_refused(storage: Storage, key: Any) -> None:
    for operation in (storage.write(key, 1), storage.read(key), storage.delete(key), storage.incr(key)):
        with pytest.raises(ValueError, match="A storage key is a text that is not empty"):
            await operation


async def test_storage_without_arguments_is_one_instance_until_it_is_reset(
    singleton: None, settings: Settings, redis: RedisConnection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REDIS_URL", settings.explicit_url())
    monkeypatch.setenv("STREAMMACHINE_DATA_DIR", str(tmp_path))
    first = Storage()
    assert Storage() is first
    assert Storage(redis) is not first and Storage(redis) is not Storage(redis)
    await first.write("k", (1, 2))
    await first.close()
    Storage.reset_instance()
    second = Storage()
    assert second is not first
    assert await second.read("k") == (1, 2)
    await second.close()


async def test_closing_a_storage_leaves_a_shared_connection_open(storage: Storage, redis: RedisConnection) -> None:
    await storage.close()
    assert redis.target is not None


async def test_the_data_survives_a_restart_of_the_embedded_server(tmp_path: Path) -> None:
    settings = Settings(embedded="always", data_dir=tmp_path)
    for turn in range(3):
        async with RedisConnection(settings=settings) as connection:
            assert await Storage(connection).read("turn", (-1,)) == (turn - 1,)
            await Storage(connection).write("turn", (turn,))
        assert connection.target is None


# --- several processes ----------------------------------------------------------------------------------------------

WORKER = """
import asyncio, sys
from streammachine import Storage

async def main():
    storage, how, count = Storage(), sys.argv[1], int(sys.argv[2])
    if how == "read":
        print(repr(await storage.read("shared")))
    else:
        def one():
            return storage.incr("n") if how == "incr" else storage.update("n", lambda n: n + 1, default=0)
        await asyncio.gather(*(one() for _ in range(count)))
    await storage.close()

asyncio.run(main())
"""


def worker(settings: Settings, how: str, count: int = 0) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(streammachine.__file__).parents[1]),
        "REDIS_URL": settings.explicit_url(),
        "STREAMMACHINE_DATA_DIR": str(settings.data_dir),
    }
    command = [sys.executable, "-c", WORKER, how, str(count)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


async def test_another_process_sees_the_same_data(storage: Storage, settings: Settings) -> None:
    await storage.write("shared", {"pair": (1, 2), "raw": b"\xff"})
    out, _ = await asyncio.to_thread(worker(settings, "read").communicate, timeout=100)
    assert out.strip() == repr({"pair": (1, 2), "raw": b"\xff"})


@pytest.mark.parametrize("how", ["incr", "update"])
async def test_1000_concurrent_increments_from_4_processes_give_1000(
    storage: Storage, settings: Settings, how: str
) -> None:
    workers = [worker(settings, how, 250) for _ in range(4)]
    await asyncio.gather(*(asyncio.to_thread(each.communicate, timeout=100) for each in workers))
    assert [each.returncode for each in workers] == [0] * 4
    assert await storage.read("n") == 1000


# --- update ---------------------------------------------------------------------------------------------------------


async def test_update_gives_the_new_value_and_starts_from_the_default(storage: Storage) -> None:
    assert await storage.update("list", lambda old: [*old, 1], default=[]) == [1]

    async def add(old: list[int]) -> list[int]:
        return [*old, 2]

    assert await storage.update("list", add, default=[]) == [1, 2]
    assert await storage.update("other", lambda old: (old,)) == (None,)
    assert await storage.read("other") == (None,)


async def test_update_runs_again_when_somebody_was_quicker(storage: Storage) -> None:
    seen = []

    async def slow(old: int) -> int:
        seen.append(old)
        if len(seen) == 1:
            await storage.write("n", 10)
        if len(seen) == 2:
            await storage.delete("n")
        return old + 1

    await storage.write("n", 1)
    assert await storage.update("n", slow, default=100) == 101
    assert seen == [1, 10, 100]


async def test_updates_of_one_process_take_turns(storage: Storage) -> None:
    """Racing each other all but one would lose each time."""
    calls = 0

    async def add(old: int) -> int:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        return old + 1

    await asyncio.gather(*(storage.update("n", add, default=0) for _ in range(200)))
    assert (await storage.read("n"), calls) == (200, 200)
    assert not next(iter(storage._turns._loops.values()))


async def test_updates_inside_of_updates_do_not_wait_for_each_other(storage: Storage) -> None:
    met = asyncio.Barrier(2)

    async def both(first: str, second: str) -> None:
        seen = 0

        async def outer(old: int) -> int:
            nonlocal seen
            seen += 1
            if seen == 1:
                await met.wait()
                await storage.update(second, lambda value: value + 1, default=0)
            return old + 1

        await storage.update(first, outer, default=0)

    await asyncio.gather(both("a", "b"), both("b", "a"))
    assert (await storage.read("a"), await storage.read("b")) == (2, 2)


async def test_update_gives_up_by_name_and_never_in_the_midst_of_the_function(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UPDATE_DEADLINE", 0.05)
    finished = 0

    async def beaten(old: int) -> int:
        nonlocal finished
        await storage.incr("n")
        await asyncio.sleep(0.03)
        finished += 1
        return old

    with pytest.raises(ConflictError, match=r"'n' kept changing.*use incr\(\) for counters"):
        await storage.update("n", beaten, default=0)
    assert finished == await storage.read("n")


async def test_an_error_in_the_function_changes_nothing(storage: Storage) -> None:
    await storage.write("n", 1)
    with pytest.raises(ZeroDivisionError):
        await storage.update("n", lambda old: old / 0)
    assert await storage.read("n") == 1


# --- incr -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "by", "total"),
    [
        (None, 1, 1),
        (5, 2, 7),
        (5, -7, -2),
        (2**62, 2**61, 2**62 + 2**61),
        (2**53, 1, 2**53 + 1),
        (-(2**63) + 1, -1, -(2**63)),
        (None, 0.5, 0.5),
        (1, 0.25, 1.25),
        (0.1, 0.2, 0.3),
        (2.5, 0.5, 3),
        (5.0, 1, 6),
        (1e22, 1, 10**22),  # as precise as a float
        (1, HTTPStatus.OK, 201),
    ],
)
async def test_incr_adds_exactly(storage: Storage, start: Any, by: float, total: float) -> None:
    if start is not None:
        await storage.write("n", start)
    assert repr(await storage.incr("n", by)) == repr(total)
    assert repr(await storage.read("n")) == repr(total)


@pytest.mark.parametrize("value", ["text", "5", True, None, [1], {"a": 1}, (1,), b"1"], ids=repr)
@pytest.mark.parametrize("by", [1, 0.5])
async def test_incr_on_what_is_no_number_is_refused(storage: Storage, value: Any, by: float) -> None:
    await storage.write("n", value)
    with pytest.raises(WrongTypeError, match="not a number: it cannot be incremented"):
        await storage.incr("n", by)
    assert await storage.read("n") == value


@pytest.mark.parametrize(("start", "by"), [(2**63 - 1, 1), (-(2**63), -1), (1, 2**63), (2**64, 1), (2**70, -1)])
async def test_a_sum_beyond_64_bits_is_refused_and_changes_nothing(storage: Storage, start: int, by: int) -> None:
    await storage.write("n", start)
    with pytest.raises(RedisCommandError, match=r"whole numbers end at 64 bits here\. update\(\) has no such limit"):
        await storage.incr("n", by)
    assert await storage.read("n") == start
    assert await storage.update("n", lambda old: old + by) == start + by


@pytest.mark.parametrize("by", [math.nan, math.inf, True, "1", None])
async def test_incr_by_what_is_no_finite_number_is_refused(storage: Storage, by: Any) -> None:
    with pytest.raises(ValueError, match="give a finite number"):
        await storage.incr("n", by)
    assert not await storage.exists("n")


# --- ttl ------------------------------------------------------------------------------------------------------------


async def test_a_value_with_a_time_to_live_vanishes_alone(storage: Storage) -> None:
    await storage.write("short", {"a": 1}, ttl=0.05)
    await storage.write("long", 1, ttl=600)
    await storage.write("forever", 1)

    async def gone() -> bool:
        return not await storage.exists("short")

    await until(gone)
    assert await storage.read("short", "default") == "default"
    assert await storage.keys() == ["forever", "long"]
    assert 590_000 < await pttl(storage, "long") <= 600_000
    assert await pttl(storage, "forever") == -1


async def test_update_and_incr_keep_the_time_to_live_and_write_ends_it(storage: Storage) -> None:
    await storage.write("n", 1, ttl=600)
    await storage.update("n", lambda old: old + 1)
    assert await pttl(storage, "n") > 590_000
    assert await storage.incr("n") == 3
    assert await storage.incr("n", 0.5) == 3.5
    assert await pttl(storage, "n") > 590_000
    await storage.write("n", 1)
    assert await pttl(storage, "n") == -1


@pytest.mark.parametrize("ttl", [0, -1, math.inf, math.nan])
async def test_a_time_to_live_that_is_no_time_is_refused(storage: Storage, ttl: float) -> None:
    with pytest.raises(ValueError, match="give a number of seconds above 0"):
        await storage.write("k", 1, ttl=ttl)
    assert not await storage.exists("k")


async def test_a_server_without_field_ttl_says_so_and_does_the_rest(private: RedisConnection) -> None:
    storage = Storage(private)
    with pytest.raises(UnsupportedServerError, match=r"ttl= needs HPEXPIRE.*Redis 7\.4 or Valkey 9\.0"):
        await storage.write("k", 1, ttl=5)
    assert not await storage.exists("k")
    assert await storage.update("k", lambda old: (old or 0) + 1) == 1
    assert await storage.incr("k") == 2


# --- what may go wrong -----------------------------------------------------------------------------------------------


async def test_a_hash_that_is_none_is_a_named_error(storage: Storage, redis: RedisConnection) -> None:
    await redis.run(lambda client: client.set(KEY, "text"))
    for operation in (storage.write("k", 1), storage.read("k"), storage.keys(), storage.incr("k"), storage.count()):
        with pytest.raises(WrongTypeError):
            await operation


async def test_a_server_that_is_away_is_a_named_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from streammachine.redis import host

    monkeypatch.setattr(host, "REVIVE_WAIT", 0.01)
    storage = Storage(RedisConnection(url=f"unix://{tmp_path}/none.sock", settings=Settings(data_dir=tmp_path)))
    for operation in (storage.write("k", 1), storage.read("k"), storage.update("k", lambda old: old)):
        with pytest.raises(RedisUnavailableError):
            await operation
    await storage._connection.close()


async def test_a_key_that_is_no_utf8_is_read_and_deleted_by_the_text_that_keys_shows(redis: RedisConnection) -> None:
    storage = Storage(redis)
    foreign = [b"\xff", b"caf\xe9", b"a\\xff\xfe"]
    for name in foreign:
        await redis.command("HSET", storage.key, name, "1")
    await storage.write(r"\xfe", "ours")
    names = await storage.keys()
    assert names == sorted([r"\xff", r"caf\xe9", r"a\xff\xfe", r"\xfe"])
    for name in names:
        assert await storage.exists(name)
        assert await storage.read(name) == ("ours" if name == r"\xfe" else 1)
    assert await storage.update(r"caf\xe9", lambda now: 5) == 5  # a key of its own, of that text
    assert await storage.read(r"caf\xe9") == 5
    assert await storage.delete(r"\xff")
    assert not await storage.exists(r"\xff")
    assert await storage.delete_many(await storage.keys()) == 4
    assert await storage.keys() == []
    assert not await storage.delete(r"\xff")
