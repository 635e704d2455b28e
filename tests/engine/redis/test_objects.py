"""RedisObjectStorage: objects under a prefix of their own, found with SCAN, loaded only with our signature."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from streammachine.errors import SerializationError, SettingsError, SignatureError, UnsafePickleError
from streammachine.redis.connection import RedisConnection
from streammachine.redis.objects import PREFIX, RedisObjectStorage
from streammachine.redis.signing import MAGIC
from streammachine.settings import Settings
from support.valkey import Valkey

pytestmark = pytest.mark.anyio


@pytest.fixture
def objects(redis: RedisConnection) -> RedisObjectStorage:
    return RedisObjectStorage(connection=redis)


class Model:
    def __init__(self, weights: list[float]) -> None:
        self.weights = weights


class Marker:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


async def all_keys(redis: RedisConnection) -> set[bytes]:
    async def scan(client: Any) -> set[bytes]:
        return {name async for name in client.scan_iter(count=1000)}

    return await redis.run(scan)


async def test_an_object_comes_back(objects: RedisObjectStorage, redis: RedisConnection) -> None:
    took = await objects.store_with_pickle("model", Model([1.5, 2.5]))
    assert isinstance(took, float) and took > 0
    found = await objects.retrieve_with_pickle("model")
    assert isinstance(found, Model) and found.weights == [1.5, 2.5]
    assert await all_keys(redis) == {b"sm:obj:model"}
    await objects.store_with_pickle("model", None)
    assert await objects.retrieve_with_pickle("model") is None
    assert await objects.list_keys() == ["model"]


async def test_what_is_not_there_is_none(objects: RedisObjectStorage) -> None:
    assert await objects.retrieve_with_pickle("none") is None
    assert await objects.retrieve_plain("none") is None
    assert await objects.list_keys() == []
    assert await objects.delete_keys("*") == 0
    assert await objects.delete(["none"]) == 0
    assert await objects.delete([]) == 0


async def test_what_cannot_be_pickled_is_refused_and_changes_nothing(objects: RedisObjectStorage) -> None:
    await objects.store_with_pickle("k", 1)
    with pytest.raises(SerializationError):
        await objects.store_with_pickle("k", lambda: 1)
    assert await objects.retrieve_with_pickle("k") == 1


@pytest.mark.parametrize("key", ["", None, 5, b"x", "half \ud800"])
async def test_a_key_that_is_no_text_is_refused(objects: RedisObjectStorage, key: Any) -> None:
    for operation in (objects.store_with_pickle(key, 1), objects.retrieve_with_pickle(key), objects.delete([key])):
        with pytest.raises(ValueError, match="An object's key is a text that is not empty"):
            await operation


async def test_a_pattern_finds_and_deletes_what_it_matches(objects: RedisObjectStorage) -> None:
    for key in ("user:1", "user:2", "user:10", "model", "ä", "*", "user:*", "[ab]", "a"):
        await objects.store_with_pickle(key, key)
    assert await objects.list_keys("user:?") == ["user:*", "user:1", "user:2"]
    assert await objects.list_keys("[ab]") == ["a"]
    assert await objects.list_keys(r"\[ab\]") == ["[ab]"]
    assert await objects.list_keys("[^u]*") == ["*", "[ab]", "a", "model", "ä"]
    assert await objects.list_keys("nothing") == []
    assert await objects.delete_keys(r"user:\*") == 1
    assert await objects.delete_keys("user:[0-9]") == 2
    assert await objects.list_keys() == ["*", "[ab]", "a", "model", "user:10", "ä"]
    assert await objects.delete(["*", "model", "none"]) == 2
    assert await objects.list_keys() == ["[ab]", "a", "user:10", "ä"]


async def test_no_pattern_touches_what_is_not_an_object(objects: RedisObjectStorage, redis: RedisConnection) -> None:
    foreign = {b"user:1", b"*", b"sm:storage", b"sm:obj", b"sm:ob?:x", b"xsm:obj:y", b"SM:OBJ:z", b"s*", b"[s]m:obj:a"}
    for name in foreign:
        await redis.run(lambda client, name=name: client.set(name, "x"))
    await objects.store_with_pickle("mine", 1)
    for pattern in ("*", "", "**", "../*", "*:*", "?*", "[^x]*", "\\*"):
        assert set(await objects.list_keys(pattern)) <= {"mine"}
        await objects.delete_keys(pattern)
    assert await all_keys(redis) == foreign


async def test_5000_keys_are_walked_with_scan_and_never_with_keys(tmp_path: Path) -> None:
    with Valkey(tmp_path / "own") as server:
        async with RedisConnection(url=server.url, settings=Settings(data_dir=tmp_path)) as redis:
            objects = RedisObjectStorage(connection=redis)
            stored = objects.signer.dump(1, "x")

            async def fill(client: Any) -> None:
                async with client.pipeline(transaction=False) as pipe:
                    for number in range(5000):
                        pipe.set(f"{PREFIX}k:{number:04}", stored)
                        pipe.set(f"other:{number:04}", "x")

            await redis.run(fill)
            assert await objects.list_keys("k:*") == [f"k:{number:04}" for number in range(5000)]
            assert await objects.delete_keys("k:0*") == 1000
            assert await objects.delete_keys("*") == 4000
            assert await redis.run(lambda client: client.dbsize()) == 5000
            used = await redis.run(lambda client: client.info("commandstats"))
            assert "cmdstat_scan" in used and "cmdstat_keys" not in used


async def test_a_key_that_is_not_text_is_listed_readably_and_deleted(
    objects: RedisObjectStorage, redis: RedisConnection
) -> None:
    await redis.run(lambda client: client.set(PREFIX.encode() + b"raw\xff", "x"))
    assert await objects.list_keys() == ["raw\\xff"]
    assert await objects.delete_keys("raw*") == 1


# --- nobody else's bytes --------------------------------------------------------------------------------------------


async def test_a_pickle_without_our_signature_is_refused_and_not_loaded(
    objects: RedisObjectStorage, redis: RedisConnection, tmp_path: Path
) -> None:
    mark = tmp_path / "loaded"
    hostile = pickle.dumps(Marker(mark))
    honest = objects.signer.dump(1, PREFIX + "k")
    for stored in (hostile, MAGIC + hostile, MAGIC + bytes(32) + hostile, honest[:36] + hostile, b"", b"text"):
        await redis.run(lambda client, stored=stored: client.set(PREFIX + "k", stored))
        for read in (objects.retrieve_with_pickle, objects.retrieve_plain):
            with pytest.raises(SignatureError, match=r"'sm:obj:k'.*was not loaded"):
                await read("k")
    assert not mark.exists()


async def test_an_object_moved_to_another_key_is_refused(objects: RedisObjectStorage, redis: RedisConnection) -> None:
    await objects.store_with_pickle("admin", {"may": "all"})
    await redis.run(lambda client: client.rename(PREFIX + "admin", PREFIX + "guest"))
    with pytest.raises(SignatureError, match="changed, moved"):
        await objects.retrieve_with_pickle("guest")


async def test_plain_retrieval_shows_data_and_refuses_objects(objects: RedisObjectStorage, tmp_path: Path) -> None:
    await objects.store_with_pickle("data", {"a": [1, (2, b"\xff")]})
    await objects.store_with_pickle("model", Model([1.0]))
    await objects.store_with_pickle("hostile", Marker(tmp_path / "loaded"))
    assert await objects.retrieve_plain("data") == {"a": [1, (2, b"\xff")]}
    for key in ("model", "hostile"):
        with pytest.raises(UnsafePickleError, match="only plain data is shown here, so it was not loaded"):
            await objects.retrieve_plain(key)
    assert not (tmp_path / "loaded").exists()


# --- whose connection -----------------------------------------------------------------------------------------------


async def test_without_arguments_it_follows_the_settings(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, redis: RedisConnection
) -> None:
    monkeypatch.setenv("REDIS_URL", settings.explicit_url())
    monkeypatch.setenv("STREAMMACHINE_DATA_DIR", str(settings.data_dir))
    own = RedisObjectStorage()
    await own.store_with_pickle("k", (1, 2))
    await own.close()
    assert await RedisObjectStorage(connection=redis).retrieve_with_pickle("k") == (1, 2)


async def test_arguments_name_another_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STREAMMACHINE_DATA_DIR", str(tmp_path))
    with Valkey(tmp_path / "other") as server:
        other = RedisObjectStorage("127.0.0.1", server.port, 2)
        await other.store_with_pickle("k", 1)
        assert await other.list_keys() == ["k"]
        await other.close()
        async with RedisConnection("127.0.0.1", server.port, 2) as redis:
            assert await all_keys(redis) == {b"sm:obj:k"}


async def test_closing_leaves_a_shared_connection_open(objects: RedisObjectStorage, redis: RedisConnection) -> None:
    await objects.close()
    assert redis.target is not None


async def test_a_connection_in_the_place_of_a_host_is_refused_with_the_right_name(redis: RedisConnection) -> None:
    with pytest.raises(SettingsError, match="is given as connection="):
        RedisObjectStorage(redis)  # type: ignore[arg-type]
