"""What Redis refuses of a commit is done as a whole or not at all, and is never an acknowledged message."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streammachine.errors import RedisCommandError
from streammachine.redis.connection import RedisConnection
from streammachine.redis.storage import Storage
from streammachine.runtime.app.app import App
from streammachine.runtime.delivery.dead_letter import redrive
from streammachine.runtime.delivery.group import Delivery, Effect, Guard, RefusedError
from streammachine.runtime.model.message import Message
from streammachine.runtime.model.retry import RetryPolicy
from streammachine.settings import Settings
from support.runtime import MakeApp, Probe
from support.valkey import Valkey, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]
QUICK = RetryPolicy(max_attempts=2, initial=0.001, maximum=0.002)
LAST = "18446744073709551615-18446744073709551615"


@pytest.fixture
async def server(tmp_path: Path, anyio_backend: str) -> AsyncIterator[tuple[Valkey, Probe]]:
    """A server whose users are the test's own, and questions to it."""
    with Valkey(tmp_path / "valkey") as valkey:
        async with RedisConnection(url=valkey.url, settings=Settings(data_dir=tmp_path / "data")) as connection:
            yield valkey, Probe(connection)


async def user(server: tuple[Valkey, Probe], folder: Path, *rules: str) -> App:
    """An App whose Redis user has all rights but these."""
    valkey, probe = server
    await probe.ask("ACL", "SETUSER", "app", "reset", "on", ">secret", "~*", "&*", "+@all", *rules)
    url = valkey.url.replace("//", "//app:secret@")
    return App("refused", to_scan=False, redis_url=url, settings=Settings(data_dir=folder / "data"))


def writes(app: App) -> None:
    @app.agent("s", transactional=True, retry=QUICK, lease=1.0)
    async def handle(message: Message) -> None:
        await app.send("out", {"n": message.message["n"]})
        await app.storage.write("last", message.message["n"])
        await app.send("out", {"n": message.message["n"]})


@pytest.mark.parametrize("right", ["hset", "xadd|out"])
async def test_a_right_that_is_missing_makes_dead_letters_and_no_effects(
    server: tuple[Valkey, Probe], tmp_path: Path, caplog: pytest.LogCaptureFixture, right: str
) -> None:
    _, probe = server
    rules = ["-hset"] if right == "hset" else ["-xadd", "(+xadd ~s ~{s}*)"]
    app = await user(server, tmp_path, *rules)
    writes(app)
    async with app:
        await app.send_batch("s", [{"n": n} for n in range(5)])
        await until(lambda: probe.done("s", 5))
        await until(lambda: probe.ask("XLEN", "{s}:dlq"))
    letters = await probe.fields("{s}:dlq")
    assert sorted(letter["n"] for letter in letters) == ["0", "1", "2", "3", "4"]
    assert all("ACL failure" in letter["sm-error"] for letter in letters)
    assert {letter["sm-error-type"] for letter in letters} == {"RefusedError"}
    assert await probe.ask("EXISTS", "out", "sm:storage") == 0
    assert len([r for r in caplog.records if r.levelno == logging.ERROR and "ACL failure" in r.message]) == 5


async def test_where_not_even_a_dead_letter_may_be_written_the_message_stays(
    server: tuple[Valkey, Probe], tmp_path: Path
) -> None:
    _, probe = server
    app = await user(server, tmp_path, "-hset", "-xadd", "(+xadd ~s)")
    writes(app)
    async with app:
        await app.send("s", {"n": 1})
        await until(lambda: app.consumers[0][1].settler.last_error)
        health = await app.health_check()
        assert health["status"] == "degraded"
        assert "ACL failure" in str(health["problems"])
        assert await probe.pending("s") == 1
        await probe.ask("ACL", "SETUSER", "app", "+hset", "+xadd")
        await until(lambda: probe.done("s", 1))
        assert len(await probe.fields("out")) == 2
        await until(lambda: not app.consumers[0][1].last_error)


async def test_acknowledgements_that_are_refused_are_an_error_and_no_health(
    server: tuple[Valkey, Probe], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, probe = server
    app = await user(server, tmp_path, "-xack")

    @app.agent("s")
    async def handle(message: Message) -> None: ...

    async with app:
        await app.send("s", {"n": 1})
        await until(lambda: app.consumers[0][1].settler.last_error)
        assert (await app.health_check())["status"] == "degraded"
        await probe.ask("ACL", "SETUSER", "app", "+xack")
        await until(lambda: probe.done("s", 1))
        await until(lambda: not app.consumers[0][1].last_error)
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1


async def test_a_send_to_a_full_stream_takes_the_other_effects_back(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    await probe.ask("XADD", "full", LAST, "n", "0")
    await app.storage.write("changed", "before", ttl=500)
    await app.storage.write("deleted", "before")
    await app.storage.write("count", 5)

    @app.agent("s", transactional=True, retry=QUICK)
    async def handle(message: Message) -> None:
        await app.storage.write("new", 1, ttl=500)
        await app.storage.write("changed", "after")
        await app.storage.delete("deleted")
        await app.storage.incr("count")
        await message.state.update("seen", lambda seen: seen + 1, default=0)
        await app.send("out", {"n": 1}, dedup_key="once")
        await app.send("s2", {"n": 1})
        await app.send("full", {"n": 1})

    await probe.ask("XADD", "s2", "*", "n", "0")
    async with app:
        await app.send("s", {"n": 1})
        await until(lambda: probe.ask("XLEN", "{s}:dlq"))
        assert await app.storage.read("changed") == await app.storage.read("deleted") == "before"
        assert await app.storage.read("count") == 5
        assert await app.storage.keys() == ["changed", "count", "deleted"]
    (letter,) = await probe.fields("{s}:dlq")
    assert "exhausted the last possible ID" in letter["sm-error"]
    assert await probe.ask("EXISTS", "out", "{out}:dedup:once", "{s}:state:eventengine") == 0
    assert len(await probe.fields("s2")) == 1
    (ttl,) = await probe.ask("HPTTL", "sm:storage", "FIELDS", 1, "changed")
    assert 0 < ttl <= 500_000


async def test_whatever_effect_is_refused_those_before_it_are_taken_back(probe: Probe) -> None:
    """A commit of every kind of effect; each place in it once the one that Redis refuses."""
    await probe.ask("XADD", "full", LAST, "n", "0")
    await probe.ask("HSET", "hash", "kept", "1", "text", "no number", "number", "7")
    await probe.ask("HPEXPIRE", "hash", "100000", "FIELDS", 1, "kept")
    guard = Guard("{s}:guard", 60_000)
    good = [
        Effect("XADD", "new", ["*", "a", "b"], Guard("{new}:guard", 60_000)),
        Effect("HSET", "hash", ["fresh", "1"]),
        Effect("HPEXPIRE", "hash", [60_000, "FIELDS", 1, "fresh"]),
        Effect("HSETKEEP", "hash", ["kept", "2"]),
        Effect("INCR", "hash", ["number", "1", "1"]),
        Effect("INCR", "hash", ["other", "0.5", "0"]),
        Effect("HDEL", "hash", ["text"]),
    ]
    bad = [
        Effect("XADD", "full", ["*", "a", "b"]),
        Effect("INCR", "hash", ["text", "1", "1"]),
        Effect("HPEXPIRE", "hash", [10**20, "FIELDS", 1, "kept"]),
    ]
    await probe.ask("XGROUP", "CREATE", "s", "g", "0", "MKSTREAM")
    delivery = Delivery(probe.redis, "s", "g", "me", lease=60)
    for wrong in bad:
        for place in range(len(good) + 1):
            effects = [*good[:place], wrong, *good[place:]]
            if place == len(good) and wrong is bad[1]:
                continue  # the text is deleted by then, so it counts from 0
            await probe.ask("XADD", "s", "*", "n", "1")
            await probe.ask("XREADGROUP", "GROUP", "g", "me", "STREAMS", "s", ">")
            (item,) = await delivery.recover_own()
            before = sorted(await probe.ask("KEYS", "*")), await probe.ask("HGETALL", "hash")
            with pytest.raises(RefusedError):
                await delivery.commit([item], effects, guard=guard)
            after = sorted(await probe.ask("KEYS", "*")), await probe.ask("HGETALL", "hash")
            assert sorted(after[1]) == sorted(before[1])
            assert after[0] == before[0]
            (ttl,) = await probe.ask("HPTTL", "hash", "FIELDS", 1, "kept")
            assert 0 < ttl <= 100_000
            assert await probe.pending("s", "g") == 1
            await delivery.commit([item])
    assert await probe.pending("s", "g") == 0


async def test_a_time_to_live_beyond_what_servers_take_is_refused_before(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    for ttl in (1e17, 1e300, float("inf"), float("nan"), 0, -1):
        with pytest.raises(ValueError, match="ttl="):
            await app.storage.write("k", 1, ttl=ttl)
    await app.storage.write("k", 1, ttl=1e11)
    assert await app.storage.read("k") == 1
    await app.redis.close()


async def test_a_write_whose_time_to_live_is_refused_writes_nothing(
    server: tuple[Valkey, Probe], tmp_path: Path
) -> None:
    app = await user(server, tmp_path, "-hpexpire")
    storage = Storage(app.redis)
    with pytest.raises((RedisCommandError, ConnectionError), match="hpexpire"):
        await storage.write("k", 1, ttl=60)
    assert await storage.keys() == []
    await app.redis.close()


async def test_a_redrive_or_a_send_that_may_be_done_in_part_only_is_not_begun(
    server: tuple[Valkey, Probe], tmp_path: Path
) -> None:
    """What is appended and then not taken out elsewhere, or not noted, would be appended again by a repeat."""
    _, probe = server
    app = await user(server, tmp_path, "-xdel", "-set")
    letter = {b"n": b"1", b"sm-group": b"g", b"sm-origin-id": b"1-1", b"sm-origin-stream": b"s"}
    flat = [part for pair in letter.items() for part in pair]
    identifier = await probe.ask("XADD", "{s}:dlq", "*", *flat)
    async with app:
        for _ in range(2):
            with pytest.raises((RedisCommandError, ConnectionError), match="xdel"):
                await redrive(app.redis, "s", identifier.decode(), letter)
            with pytest.raises((RedisCommandError, ConnectionError), match="set"):
                await app.send("out", {"n": 1}, dedup_key="once")
        assert await probe.ask("EXISTS", "{s}:retry:g", "out") == 0
        await probe.ask("ACL", "SETUSER", "app", "+xdel", "+set")
        assert await redrive(app.redis, "s", identifier.decode(), letter)
        await app.send("out", {"n": 1}, dedup_key="once")
    assert await probe.ask("XLEN", "{s}:retry:g") == await probe.ask("XLEN", "out") == 1
    assert await probe.ask("XLEN", "{s}:dlq") == 0
