"""Stream operations against the real server: append, read, describe, find, trim, positions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streammachine.errors import FieldError, StreamIdError, StreamNotFoundError, WrongTypeError
from streammachine.redis import streams
from streammachine.redis.connection import RedisConnection
from streammachine.redis.embedded.server import EmbeddedServer
from streammachine.redis.streams import parse_position
from streammachine.settings import Settings

pytestmark = pytest.mark.anyio

NOW = 1_795_167_000_000  # 2026-11-20T09:30:00Z


# --- append and read ------------------------------------------------------------------------------------------------


async def test_append_gives_the_id_as_text_and_leaves_the_record_alone(redis: RedisConnection) -> None:
    record = {"price": 1.5, "ok": True, "n": 3, "raw": b"\xff", "text": "ä"}
    identifier = await streams.append(redis, "s", record)
    assert record == {"price": 1.5, "ok": True, "n": 3, "raw": b"\xff", "text": "ä"}
    assert await streams.read_newest(redis, "s", 1) == [
        streams.Entry(identifier, {"price": "1.5", "ok": "true", "n": "3", "raw": "\\xff", "text": "ä"})
    ]


async def test_10_000_records_go_in_order_through_one_pipeline(redis: RedisConnection) -> None:
    ids = await redis.pipeline_xadd("s", [{"n": number} for number in range(10_000)])
    entries = await streams.read_from(redis, "s")
    assert [entry.id for entry in entries] == ids
    assert [entry.data["n"] for entry in entries] == [str(number) for number in range(10_000)]
    assert all(isinstance(identifier, str) for identifier in ids)
    assert ids == sorted(ids, key=lambda text: tuple(map(int, text.split("-"))))


async def test_no_records_are_no_command(redis: RedisConnection) -> None:
    assert await redis.pipeline_xadd("s", []) == []
    assert await streams.find_streams(redis) == ([], False)


@pytest.mark.parametrize("bad", [{}, {"a": None}, {"": 1}, {1: 1}, {"a": [1]}])
async def test_one_bad_record_and_none_is_written(redis: RedisConnection, bad: dict[object, object]) -> None:
    records: list[dict[object, object]] = [{"n": number} for number in range(2000)]
    with pytest.raises(FieldError):
        await redis.pipeline_xadd("s", [*records, bad])
    assert await streams.length(redis, "s") == 0


async def test_maxlen_bounds_a_stream_by_argument_or_by_setting(
    redis: RedisConnection, shared_server: EmbeddedServer, settings: Settings
) -> None:
    records = [{"n": number} for number in range(1000)]
    await redis.pipeline_xadd("argument", records, maxlen=200)
    assert 200 <= await streams.length(redis, "argument") < 400  # "~": whole nodes of 100 entries go
    async with RedisConnection(settings=settings.model_copy(update={"stream_maxlen": 200})) as bounded:
        await bounded.pipeline_xadd("setting", records)
        for record in records[:300]:
            await streams.append(bounded, "single", record)
        await streams.append(bounded, "explicit", {"a": 1}, maxlen=0)
        await bounded.pipeline_xadd("explicit", records, maxlen=0)
    assert 200 <= await streams.length(redis, "setting") < 400
    assert 200 <= await streams.length(redis, "single") < 400
    assert await streams.length(redis, "explicit") == 1001
    assert (await streams.read_newest(redis, "setting", 1))[0].data == {"n": "999"}


async def test_newest_comes_oldest_first_and_may_ask_for_more_than_there_is(redis: RedisConnection) -> None:
    ids = await redis.pipeline_xadd("s", [{"n": number} for number in range(5)])
    assert [entry.id for entry in await streams.read_newest(redis, "s", 2)] == ids[3:]
    assert [entry.id for entry in await streams.read_newest(redis, "s", 50)] == ids
    assert await streams.read_newest(redis, "none", 5) == []


async def test_reading_from_a_position(redis: RedisConnection) -> None:
    for identifier in ("5-1", "5-2", "6-0", "9-0"):
        await redis.run(lambda client, i=identifier: client.xadd("s", field_values={"a": b"1"}, identifier=i))

    async def ids(*given: str, count: int | None = None) -> list[str]:
        return [entry.id for entry in await streams.read_from(redis, "s", *given, count=count)]

    assert await ids() == ["5-1", "5-2", "6-0", "9-0"]
    assert await ids("5-2") == ["5-2", "6-0", "9-0"]
    assert await ids("(5-2") == ["6-0", "9-0"]
    assert await ids("5", "6") == ["5-1", "5-2", "6-0"]
    assert await ids("-", "(6-0") == ["5-1", "5-2"]
    assert await ids("7") == ["9-0"]
    assert await ids("10") == []
    assert await ids(count=2) == ["5-1", "5-2"]


async def test_trim_keeps_exactly_so_many(redis: RedisConnection) -> None:
    ids = await redis.pipeline_xadd("s", [{"n": number} for number in range(250)])
    assert await streams.trim(redis, "s", maxlen=7) == 243
    assert [entry.id for entry in await streams.read_from(redis, "s")] == ids[243:]
    assert await streams.trim(redis, "s", maxlen=7) == 0
    assert await streams.trim(redis, "s", maxlen=0) == 7
    assert await streams.trim(redis, "none", maxlen=1) == 0


async def test_a_key_of_another_type_is_named_by_every_operation(redis: RedisConnection) -> None:
    await redis.run(lambda client: client.set("orders", "text"))
    operations = [
        streams.append(redis, "orders", {"a": 1}),
        streams.append(redis, b"orders", {"a": 1}),
        streams.append_many(redis, "orders", [{"a": 1}]),
        streams.read_newest(redis, "orders", 1),
        streams.read_from(redis, "orders"),
        streams.length(redis, "orders"),
        streams.describe(redis, "orders"),
        streams.trim(redis, "orders", maxlen=1),
        streams.ensure_group(redis, "orders", "g"),
    ]
    for operation in operations:
        with pytest.raises(WrongTypeError, match="The key 'orders' holds a string, not a stream"):
            await operation
    assert await redis.run(lambda client: client.get("orders")) == b"text"


# --- describe -------------------------------------------------------------------------------------------------------


async def test_describe_an_empty_stream_with_a_group(redis: RedisConnection) -> None:
    assert await streams.ensure_group(redis, "s", "g")
    assert not await streams.ensure_group(redis, "s", "g")
    info = await streams.describe(redis, "s")
    assert (info.length, info.last_generated_id, info.first_entry, info.last_entry) == (0, "0-0", None, None)
    assert info.groups == [streams.Group("g", 0, 0, "0-0", 0)]


async def test_describe_a_stream_with_groups(redis: RedisConnection) -> None:
    ids = await redis.pipeline_xadd("s", [{"n": 1, b"\xff": b"\xfe"}, {"n": 2}, {"n": 3}])
    await streams.ensure_group(redis, "s", "idle")
    async for _ in redis.consumer("s", "c", "busy", auto_acknowledge=False, timeout=10):
        pass
    info = await streams.describe(redis, "s")
    assert (info.length, info.last_generated_id) == (3, ids[-1])
    assert info.first_entry == streams.Entry(ids[0], {"n": "1", "\\xff": "\\xfe"})
    assert info.last_entry == streams.Entry(ids[2], {"n": "3"})
    assert info.groups == [streams.Group("busy", 1, 3, ids[2], 0), streams.Group("idle", 0, 0, "0-0", 3)]


async def test_the_lag_is_unknown_after_a_deletion_in_the_middle(redis: RedisConnection) -> None:
    ids = await redis.pipeline_xadd("s", [{"n": number} for number in range(4)])
    await streams.ensure_group(redis, "s", "g")
    await redis.run(lambda client: client.xreadgroup("g", "c", streams={"s": ">"}, count=1))
    await redis.run(lambda client: client.xdel("s", [ids[2]]))
    (group,) = (await streams.describe(redis, "s")).groups
    assert (group.pending, group.lag) == (1, None)


async def test_a_missing_stream_is_named_with_the_nearest_ones(redis: RedisConnection) -> None:
    with pytest.raises(StreamNotFoundError, match=r"no stream 'orders'\. There are none yet\."):
        await streams.describe(redis, "orders")
    for name in ("Orders", "orders-eu", "quotes", "sm:orders"):
        await streams.append(redis, name, {"a": 1})
    with pytest.raises(StreamNotFoundError, match=r"Did you mean 'Orders' or 'orders-eu'\?"):
        await streams.require_stream(redis, "orders")
    with pytest.raises(StreamNotFoundError, match=r"no stream 'xyz'\.$"):
        await streams.describe(redis, "xyz")


# --- find -----------------------------------------------------------------------------------------------------------

COMPANIONS = ["{orders}:dlq", "{orders}:retry:g", "{t1}orders:dlq", "{t1}orders:retry:g:1", "sm:ohlc:{x}:journal"]
STREAMS = ["kline:binance:BTC:1m", "orders", "orders:dlq", "retry", "smart", "{orders}", "{t1}orders", "{}:dlq"]


async def test_find_hides_what_is_streammachines_own_unless_asked(redis: RedisConnection) -> None:
    for name in [*COMPANIONS, *STREAMS]:
        await streams.append(redis, name, {"a": 1})
    await redis.run(lambda client: client.set("no-stream", "x"))
    assert await streams.find_streams(redis) == (STREAMS, False)
    assert await streams.find_streams(redis, own=True) == (sorted([*STREAMS, *COMPANIONS]), False)
    assert [streams.is_own(name) for name in [*COMPANIONS, *STREAMS]] == [True] * 5 + [False] * 8


async def test_find_takes_a_glob_and_says_whether_there_are_more(redis: RedisConnection) -> None:
    for number in range(30):
        await streams.append(redis, f"orders:{number:02}", {"a": 1})
    await streams.append(redis, "a[b]", {"a": 1})
    assert await streams.find_streams(redis, "orders:1?") == ([f"orders:1{n}" for n in range(10)], False)
    assert await streams.find_streams(redis, "orders:*", limit=3) == (["orders:00", "orders:01", "orders:02"], True)
    assert await streams.find_streams(redis, "orders:*", limit=30) == ([f"orders:{n:02}" for n in range(30)], False)
    assert await streams.find_streams(redis, r"a\[b\]") == (["a[b]"], False)
    assert await streams.find_streams(redis, "none*") == ([], False)


async def test_a_name_that_is_not_text_is_listed_readably(redis: RedisConnection) -> None:
    await streams.append(redis, b"raw\xff", {"a": 1})
    assert await streams.find_streams(redis) == (["raw\\xff"], False)


# --- positions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("-", "-"),
        ("+", "+"),
        ("0", "0"),
        (" 5-1 ", "5-1"),
        ("(5-1", "(5-1"),
        ("(5", "(5"),
        ("1717171717000", "1717171717000"),
        ("18446744073709551615-18446744073709551615", "18446744073709551615-18446744073709551615"),
        ("2026-11-20T09:30:00Z", str(NOW)),
        ("2026-11-20T09:30:00", str(NOW)),
        ("2026-11-20 09:30", str(NOW)),
        ("2026-11-20T11:30:00.5+02:00", str(NOW + 500)),
        ("2026-11-20", "1795132800000"),
        ("1969-12-31", "0"),
        ("now", str(NOW)),
        ("NOW", str(NOW)),
        ("now-15m", str(NOW - 900_000)),
        ("now - 1.5h", str(NOW - 5_400_000)),
        ("now-250ms", str(NOW - 250)),
        ("now-30s", str(NOW - 30_000)),
        ("now-2d", str(NOW - 172_800_000)),
        ("now-1w", str(NOW - 604_800_000)),
        ("now-999999999999999w", "0"),
    ],
)
async def test_a_position_is_understood(text: str, position: str) -> None:
    assert parse_position(text, now_ms=NOW) == position


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "yesterday", "now+5m", "now-", "now-5", "now-5y", "(now", "(-", "5-", "-5", "5-1-1", "٣", "now-٣m"),
        *("18446744073709551616", "5-18446744073709551616", "9" * 400, "now-" + "9" * 400 + "m", "2026-13-01", "\x00"),
        "(18446744073709551615-18446744073709551615",
    ],
)
async def test_what_is_no_position_is_refused_with_examples(text: str) -> None:
    with pytest.raises(StreamIdError, match=r"not a position in a stream.*now-15m") as caught:
        parse_position(text)
    assert repr(text) in str(caught.value)


@given(st.text(max_size=30))
async def test_any_text_is_a_position_that_redis_takes_or_a_named_error(text: str) -> None:
    try:
        position = parse_position(text)
    except StreamIdError:
        return
    assert position in ("-", "+") or all(
        part.isdigit() and int(part) < 2**64 for part in position.removeprefix("(").split("-")
    )


@given(
    moment=st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(9999, 12, 30)),
    offset=st.integers(-14 * 60, 14 * 60),
)
async def test_any_iso_time_is_its_epoch_milliseconds(moment: datetime, offset: int) -> None:
    zoned = moment.replace(tzinfo=timezone(timedelta(minutes=offset)))
    since = zoned - datetime(1970, 1, 1, tzinfo=UTC)
    assert parse_position(zoned.isoformat()) == str(max(0, since // timedelta(milliseconds=1)))


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=14)), timezone(-timedelta(hours=14))])))
async def test_no_time_breaks_the_clock(moment: datetime) -> None:
    assert parse_position(moment.isoformat()).isdigit()


async def test_without_a_clock_now_is_now(redis: RedisConnection) -> None:
    before = parse_position("now")
    identifier = await streams.append(redis, "s", {"a": 1})
    assert [entry.id for entry in await streams.read_from(redis, "s", before)] == [identifier]
