"""RedisConnection.consumer: what is given, when it is acknowledged, and what happens to the rest."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from streammachine.errors import RedisUnavailableError, WrongTypeError
from streammachine.redis import streams
from streammachine.redis.connection import RedisConnection
from streammachine.redis.embedded.server import EmbeddedServer
from streammachine.redis.group_reader import GroupReader
from streammachine.settings import Settings
from support.valkey import until

pytestmark = pytest.mark.anyio

SHORT = 30  # milliseconds a reader waits for nothing


async def fill(redis: RedisConnection, count: int, start: int = 0) -> list[str]:
    return await redis.pipeline_xadd("s", [{"n": number} for number in range(start, start + count)])


async def pending(redis: RedisConnection, group: str = "g") -> int:
    return next(found.pending for found in (await streams.describe(redis, "s")).groups if found.name == group)


def reader(redis: RedisConnection, consumer: str = "c", group: str = "g", **options: object) -> GroupReader:
    return redis.consumer("s", consumer, group, **{"timeout": SHORT, **options})  # type: ignore[arg-type]


async def numbers(source: GroupReader) -> list[int]:
    return [int(entry.field_values[b"n"]) async for _, entry in source]


async def test_an_entry_is_acknowledged_after_the_body_and_not_before(redis: RedisConnection) -> None:
    ids = await fill(redis, 3)
    seen = []
    async for stream, entry in reader(redis):
        assert stream == "s"
        seen.append(entry.identifier.decode())
        assert await pending(redis) == 3 - (len(seen) - 1)
    assert seen == ids
    assert await pending(redis) == 0


async def test_it_can_be_awaited_first_as_the_examples_do(redis: RedisConnection) -> None:
    prepared = await reader(redis)
    assert [group.name for group in (await streams.describe(redis, "s")).groups] == ["g"]
    await fill(redis, 2)
    assert await numbers(prepared) == [0, 1]
    assert await numbers(await reader(redis)) == []


async def test_a_body_that_raises_leaves_the_entry_and_the_backlog_gives_it_again(redis: RedisConnection) -> None:
    await fill(redis, 5)
    with pytest.raises(ZeroDivisionError):
        async for _, entry in reader(redis):
            if entry.field_values[b"n"] == b"2":
                raise ZeroDivisionError
    assert await pending(redis) == 3
    assert await numbers(reader(redis)) == []
    assert await numbers(reader(redis, start_from_backlog=True)) == [2, 3, 4]
    assert await pending(redis) == 0


async def test_a_break_leaves_the_entry_pending_and_the_same_reader_goes_on_behind_it(redis: RedisConnection) -> None:
    await fill(redis, 5)
    source = reader(redis)
    async for _, entry in source:
        if entry.field_values[b"n"] == b"1":
            break
    assert await numbers(source) == [2, 3, 4]
    assert await pending(redis) == 1
    assert await numbers(reader(redis, start_from_backlog=True)) == [1]


async def test_without_auto_acknowledge_the_caller_acknowledges(redis: RedisConnection) -> None:
    await fill(redis, 3)
    source = reader(redis, auto_acknowledge=False)
    async for _, entry in source:
        if entry.field_values[b"n"] == b"0":
            assert await source.acknowledge(entry)
            assert not await source.acknowledge(entry)
        if entry.field_values[b"n"] == b"1":
            assert await source.acknowledge(entry.identifier.decode())
    assert await pending(redis) == 1
    assert await numbers(reader(redis, start_from_backlog=True, auto_acknowledge=False)) == [2]


async def test_the_backlog_is_this_consumers_own_and_comes_before_what_is_new(redis: RedisConnection) -> None:
    await fill(redis, 3)
    assert await numbers(reader(redis, "other", auto_acknowledge=False)) == [0, 1, 2]
    await fill(redis, 250, start=3)
    assert len(await numbers(reader(redis, auto_acknowledge=False))) == 250
    await fill(redis, 2, start=253)
    assert await numbers(reader(redis, start_from_backlog=True)) == list(range(3, 255))
    assert await pending(redis) == 3


async def test_a_deleted_entry_in_the_backlog_is_passed_over(redis: RedisConnection) -> None:
    ids = await fill(redis, 3)
    await numbers(reader(redis, auto_acknowledge=False))
    await redis.run(lambda client: client.xdel("s", [ids[1]]))
    assert await numbers(reader(redis, start_from_backlog=True)) == [0, 2]
    assert await pending(redis) == 0


async def test_a_backlog_may_be_empty(redis: RedisConnection) -> None:
    assert await numbers(reader(redis, start_from_backlog=True)) == []


async def test_the_group_starts_at_the_streams_beginning_and_creates_the_stream(redis: RedisConnection) -> None:
    await fill(redis, 2)
    assert await numbers(reader(redis, group="late")) == [0, 1]
    await redis.consumer("new", "c", "g")
    assert await streams.length(redis, "new") == 0
    assert (await streams.describe(redis, "new")).groups[0].last_delivered_id == "0-0"


async def test_it_ends_after_the_timeout_without_an_entry_and_waits_meanwhile(redis: RedisConnection) -> None:
    async def late() -> None:
        await until(lambda: blocked(redis))
        await fill(redis, 1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(late)
        with anyio.fail_after(10):
            assert await numbers(reader(redis, timeout=1500)) == [0]


@pytest.mark.parametrize("endless", [None, 0])
async def test_without_a_timeout_it_waits_until_it_is_cancelled(redis: RedisConnection, endless: int | None) -> None:
    found: list[int] = []

    async def read() -> None:
        async for _, entry in reader(redis, timeout=endless):
            found.append(int(entry.field_values[b"n"]))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        for number in range(3):
            await until(lambda: blocked(redis))
            await fill(redis, 1, start=number)
            await until(lambda number=number: len(found) == number + 1)
        tasks.cancel_scope.cancel()
    assert found == [0, 1, 2]
    await until(lambda: nobody_blocked(redis))


async def test_a_negative_timeout_is_refused(redis: RedisConnection) -> None:
    with pytest.raises(ValueError, match="timeout=-1"):
        reader(redis, timeout=-1)


async def test_one_read_asks_for_as_many_entries_as_the_settings_say(
    shared_server: EmbeddedServer, redis: RedisConnection, settings: Settings
) -> None:
    await fill(redis, 20)
    async with RedisConnection(settings=settings.model_copy(update={"count": 4})) as modest:
        async for _ in reader(modest):
            break
    assert await pending(redis) == 4


async def test_two_consumers_share_a_group_and_two_groups_do_not(redis: RedisConnection) -> None:
    await fill(redis, 200)
    first, second, other = await asyncio.gather(
        numbers(reader(redis, "a")), numbers(reader(redis, "b")), numbers(reader(redis, "a", "other"))
    )
    assert sorted(first + second) == other == list(range(200))


async def test_binary_fields_come_as_they_are(redis: RedisConnection) -> None:
    await streams.append(redis, "s", {b"\xff": b"\x00\xfe", "text": "ä"})
    async for _, entry in reader(redis):
        assert entry.field_values == {b"\xff": b"\x00\xfe", b"text": "ä".encode()}


# --- what may happen to the stream ----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["flushall", "del", "destroy"])
async def test_a_group_that_vanishes_is_created_again_at_the_start(redis: RedisConnection, what: str) -> None:
    found: list[int] = []

    async def read() -> None:
        async for _, entry in reader(redis, timeout=None):
            found.append(int(entry.field_values[b"n"]))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await fill(redis, 1)
        await until(lambda: found == [0])
        await until(lambda: blocked(redis))
        if what == "flushall":
            await redis.run(lambda client: client.flushall())
        elif what == "del":
            await redis.run(lambda client: client.delete(["s"]))
        else:
            await redis.run(lambda client: client.delete(["s"]))
            await fill(redis, 1, start=1)
            await redis.run(lambda client: client.xgroup_destroy("s", "g"))
        await fill(redis, 1, start=2)
        await until(lambda: found[-1] == 2)
        tasks.cancel_scope.cancel()
    assert found in ([0, 2], [0, 1, 2], [0, 1, 1, 2])


async def test_a_stream_deleted_under_the_body_is_no_error(redis: RedisConnection) -> None:
    await fill(redis, 2)
    seen = 0
    async for _ in reader(redis):
        seen += 1
        await redis.run(lambda client: client.flushall())
    assert seen == 2


async def test_a_key_that_is_no_stream_is_named_with_its_type(redis: RedisConnection) -> None:
    await redis.run(lambda client: client.set("s", "text"))
    with pytest.raises(WrongTypeError, match="'s' holds a string, not a stream"):
        await reader(redis)
    with pytest.raises(WrongTypeError, match="'s' holds a string, not a stream"):
        await numbers(reader(redis))


async def test_closing_the_connection_under_a_reader_is_a_named_error(
    settings: Settings, redis: RedisConnection
) -> None:
    connection = await RedisConnection(settings=settings).open()

    async def close() -> None:
        await until(lambda: blocked(redis))
        await connection.close()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(close)
        with pytest.raises(RedisUnavailableError, match="was closed meanwhile"):
            await numbers(reader(connection, timeout=None))
    await connection.close()


async def blocked(redis: RedisConnection) -> bool:
    info = await redis.run(lambda client: client.info("clients"))
    return int(info["blocked_clients"]) > 0


async def nobody_blocked(redis: RedisConnection) -> bool:
    return not await blocked(redis)


async def test_several_streams_are_read_by_one_consumer_each_entry_once_and_acknowledged(
    redis: RedisConnection,
) -> None:
    for name in ("a", "b"):
        await redis.pipeline_xadd(name, [{"n": number} for number in range(25)])
    seen: dict[str, list[int]] = {"a": [], "b": []}
    async for stream, entry in redis.consumer(["a", "b"], timeout=SHORT):
        seen[stream].append(int(entry.field_values[b"n"]))
    assert seen == {"a": list(range(25)), "b": list(range(25))}
    for name in ("a", "b"):
        (group,) = (await streams.describe(redis, name)).groups
        assert (group.name, group.pending) == (redis.settings.default_group, 0)


async def test_the_backlog_of_several_streams_is_given_again(redis: RedisConnection) -> None:
    for name in ("a", "b"):
        await redis.pipeline_xadd(name, [{"n": number} for number in range(3)])
    source = redis.consumer(["a", "b"], "c", "g", auto_acknowledge=False, timeout=SHORT)
    first = [(stream, entry) async for stream, entry in source]
    assert len(first) == 6
    with pytest.raises(ValueError, match="Several streams are read"):
        await source.acknowledge(first[0][1])
    assert await source.acknowledge(first[0][1], first[0][0])
    again = redis.consumer(["a", "b"], "c", "g", start_from_backlog=True, timeout=SHORT)
    found = [(stream, entry.identifier) async for stream, entry in again]
    assert sorted(found) == sorted((stream, entry.identifier) for stream, entry in first[1:])
    with pytest.raises(ValueError, match="at least one stream"):
        redis.consumer([], "c", "g")


async def test_a_group_that_vanishes_from_one_of_several_streams_is_created_again(redis: RedisConnection) -> None:
    source = await redis.consumer(["a", "b"], "c", "g", timeout=2000)
    await redis.command("DEL", "b")
    await redis.pipeline_xadd("b", [{"n": 1}])
    await redis.pipeline_xadd("a", [{"n": 2}])
    found = set()
    async for stream, _ in source:
        found.add(stream)
        if found == {"a", "b"}:
            break
    assert found == {"a", "b"}
