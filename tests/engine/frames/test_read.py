"""``read_frame``: the frame of ``streams_to_dataframe``, from the server's bytes, whatever stands in them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from streammachine.errors import RedisUnavailableError, StreamIdError, StreamNotFoundError, WrongTypeError
from streammachine.frames import read, read_frame, streams_to_dataframe
from streammachine.redis.connection import RedisConnection
from streammachine.redis.transport.raw_connection import RawConnection

TEXT = pd.Series([""]).dtype


@pytest.fixture(params=[True, False], ids=["native", "plain"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param and not read.HAS_NATIVE:
        pytest.skip("native_columns is not built")
    monkeypatch.setattr(read, "HAS_NATIVE", request.param)
    return bool(request.param)


def on_server(path: Path, run: Callable[[RedisConnection], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with RedisConnection(url=f"unix://{path}") as redis:
            await redis.command("FLUSHALL")
            try:
                return await run(redis)
            finally:
                await redis.command("FLUSHALL")

    return asyncio.run(main())


async def fill(redis: RedisConnection, entries: list[tuple[str, list[Any]]], stream: str = "trades") -> None:
    for entry_id, fields in entries:
        await redis.command("XADD", stream, entry_id, *fields)


async def plain(redis: RedisConnection, stream: str = "trades", **options: Any) -> pd.DataFrame:
    return streams_to_dataframe({stream: await redis.command("XRANGE", stream, "-", "+")}, **options)


ODD = [
    ("1700000000000-0", ["symbol", "BTC", "price", "1.5"]),
    ("1700000000000-1", ["price", "2", "side", "buy", "id", "t-1"]),
    ("1700000000001-0", ["symbol", "ΒTC", "symbol", "twice", "price", ""]),
    ("1700000000002-0", ["note", "a\r\n$5\r\nb"]),
    ("1700000000003-9", ["symbol", "x", "price", "3", "id_field", "own"]),
]


@pytest.mark.parametrize("page", [1, 2, 100])
@pytest.mark.parametrize("bad", [None, 0, 2, 5])
def test_the_frame_is_that_of_streams_to_dataframe(
    valkey_socket: Path, native: bool, page: int, bad: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever page what is unusual stands in: here a value that is not UTF-8, so a page of objects among others."""
    monkeypatch.setattr(read, "FIRST_PAGE", page)
    monkeypatch.setattr(read, "PAGE_ENTRIES", page)
    entries = [(f"{1700000000010 + at}-0" if bad is not None else entry_id, f) for at, (entry_id, f) in enumerate(ODD)]
    if bad is not None:
        entries = [(f"{at + 1}-0", f) for at, (_, f) in enumerate([*ODD[:bad], ("", ["raw", b"\xff\x00"]), *ODD[bad:]])]

    async def run(redis: RedisConnection) -> None:
        await fill(redis, entries)
        assert_frame_equal(await read_frame("trades", redis=redis), await plain(redis))
        with_sequence = await read_frame("trades", redis=redis, include_sequence=True)
        assert_frame_equal(with_sequence, await plain(redis, include_sequence=True))

    on_server(valkey_socket, run)


def test_columns_are_those_named_in_their_order(valkey_socket: Path, native: bool) -> None:
    async def run(redis: RedisConnection) -> None:
        await fill(redis, ODD)
        everything = await plain(redis, include_sequence=True)
        for columns in (
            ["price", "timestamp_ms"],
            ["sequence"],
            ["stream", "id", "symbol"],
            ["id_field", "id_field_field"],
            ["id"],
        ):
            assert_frame_equal(await read_frame("trades", columns=columns, redis=redis), everything[columns])
        none = await read_frame("trades", columns=["price", "nobody"], redis=redis)
        assert list(none.columns) == ["price", "nobody"]
        assert none["nobody"].isna().all()
        assert none["nobody"].dtype == TEXT
        assert len(await read_frame("trades", columns=[], redis=redis)) == len(ODD)
        with pytest.raises(ValueError, match="named twice"):
            await read_frame("trades", columns=["price", "price"], redis=redis)

    on_server(valkey_socket, run)


def test_the_range_takes_every_form_of_a_position(valkey_socket: Path, native: bool) -> None:
    moment = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
    ms = int(moment.timestamp() * 1000)

    async def run(redis: RedisConnection) -> None:
        await fill(redis, [(f"{ms + at}-{at}", ["n", str(at)]) for at in range(4)])

        async def numbers(*range_: Any) -> list[int]:
            return [int(n) for n in (await read_frame("trades", *range_, redis=redis))["n"]]

        assert await numbers() == await numbers("-", "+") == await numbers("0", "9999999999999") == [0, 1, 2, 3]
        assert await numbers(f"{ms + 1}-1", f"{ms + 2}-2") == await numbers(ms + 1, ms + 2) == [1, 2]
        assert await numbers(f"({ms + 1}-1", f"({ms + 3}-3") == [2]
        assert await numbers("2026-11-20T09:30:00Z", "2026-11-20T09:30:00.001") == [0, 1]
        assert await numbers(moment, moment) == [0]
        empty = await read_frame("trades", "+", "-", redis=redis)
        assert_frame_equal(empty, streams_to_dataframe({"trades": []}))
        narrow = await read_frame("trades", ms + 9, columns=["n", "timestamp_ms"], redis=redis)
        assert (len(narrow), list(narrow.columns)) == (0, ["n", "timestamp_ms"])
        with pytest.raises(StreamIdError):
            await read_frame("trades", "yesterday-ish", redis=redis)

    on_server(valkey_socket, run)


def test_what_is_no_stream_is_refused(valkey_socket: Path, native: bool) -> None:
    async def run(redis: RedisConnection) -> None:
        await fill(redis, ODD)
        await redis.command("SET", "text", "x")
        with pytest.raises(StreamNotFoundError, match="'trades'"):
            await read_frame("trade", redis=redis)
        with pytest.raises(WrongTypeError, match="text"):
            await read_frame("text", redis=redis)

    on_server(valkey_socket, run)


def test_an_id_beyond_64_signed_bits_is_refused(valkey_socket: Path, native: bool) -> None:
    async def run(redis: RedisConnection) -> None:
        await fill(redis, [("1-0", ["a", "1"]), (f"{2**63 - 1}-{2**63 - 1}", ["a", "2"])])
        assert_frame_equal(await read_frame("trades", redis=redis), await plain(redis))
        await fill(redis, [(f"{2**63}-0", ["a", "3"])])
        with pytest.raises(ValueError, match="64-bit"):
            await read_frame("trades", redis=redis)

    on_server(valkey_socket, run)


def test_many_pages_while_others_write(valkey_socket: Path, native: bool) -> None:
    async def run(redis: RedisConnection) -> None:
        await redis.pipeline_xadd("trades", [{"n": at} for at in range(20_000)], maxlen=0)
        more = asyncio.create_task(redis.pipeline_xadd("trades", [{"n": at} for at in range(5_000)], maxlen=0))
        frame = await read_frame("trades", redis=redis)
        await more
        assert list(frame["n"][:20_000].astype(int)) == list(range(20_000))
        frame.loc[0, "timestamp_ms"] = 1  # it can be written to

    on_server(valkey_socket, run)


def test_a_connection_that_breaks_is_opened_once_more(
    valkey_socket: Path, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "FIRST_PAGE", 7)
    monkeypatch.setattr(read, "PAGE_ENTRIES", 7)
    receive, calls = RawConnection.receive, 0

    async def breaking(self: RawConnection, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            self.close()
        await receive(self, *arguments)

    async def run(redis: RedisConnection) -> None:
        nonlocal calls
        await redis.pipeline_xadd("trades", [{"n": at} for at in range(50)], maxlen=0)
        monkeypatch.setattr(RawConnection, "receive", breaking)
        assert_frame_equal(await read_frame("trades", redis=redis), await plain(redis))
        monkeypatch.setattr(
            RawConnection, "receive", lambda self, *arguments: self.close() or receive(self, *arguments)
        )
        with pytest.raises(RedisUnavailableError):
            await read_frame("trades", redis=redis)

    on_server(valkey_socket, run)


# --- any reply, in any pieces --------------------------------------------------------------------------------------

VALUE = st.one_of(
    st.sampled_from([b"", b"1.5", b"BTC", "ΒTC".encode(), b"\xff", b"\r\n", b"a" * 70]), st.binary(max_size=9)
)
NAME = st.sampled_from([b"price", b"symbol", b"id", b"id_field", b"stream", b"\xfe", "µ".encode(), b""])
FIELDS = st.lists(st.tuples(NAME, VALUE), min_size=1, max_size=4)
NUMBER = st.one_of(st.integers(0, 3), st.sampled_from([10**17, 10**18, 2**63 - 1]))
ENTRY = st.tuples(st.builds(lambda a, b: b"%d-%d" % (a, b), NUMBER, NUMBER), FIELDS)


def encoded(entries: list[Any]) -> bytes:
    def bulk(value: bytes) -> bytes:
        return b"$%d\r\n%b\r\n" % (len(value), value)

    return b"*%d\r\n" % len(entries) + b"".join(
        b"*2\r\n%b*%d\r\n%b" % (bulk(entry_id), 2 * len(fields), b"".join(bulk(n) + bulk(v) for n, v in fields))
        for entry_id, fields in entries
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(ENTRY, min_size=1, max_size=5), min_size=1, max_size=4), st.integers(1, 200))
@example([[(b"1-0", [(b"a", b"1")] * 2)], [(b"2-0", [(b"b", b"\xff"), (b"a", b"2")])], [(b"3-0", [(b"a", b"3")])]], 3)
@example([[(b"%d-0" % at, [(b"a" if at % 3 else b"b", b"x")]) for at in range(40)]], 1000)
def test_any_pages_in_any_pieces(pages: list[list[Any]], piece: int) -> None:
    collected = read._Collected(read._Wanted.of(None, True))
    for page in pages:
        answer, reply = read._Answer(), encoded(page)
        pieces = [answer.feed(reply[at : at + piece]) for at in range(0, len(reply), piece)]
        assert pieces == [False] * (len(pieces) - 1) + [True]
        assert answer.count_and_last("", ()) == (len(page), page[-1][0].decode())
        collected.add(answer)
    entries = [[entry_id, [part for pair in fields for part in pair]] for page in pages for entry_id, fields in page]
    expected = streams_to_dataframe({"s": entries}, include_sequence=True)
    assert_frame_equal(collected.frame("s"), expected)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.integers(1, 9))
@example(b"*1\r\n*2\r\n$-1\r\n*2\r\n", 2)
@example(b"*1\r\n*2\r\n$3\r\n1-0\r\n*-1\r\n", 2)
@example(b"*99999999999999999999\r\n", 5)
@example(b"-ERR no\r\n", 1)
def test_bytes_that_are_no_page_harm_nothing(data: bytes, piece: int) -> None:
    if not read.HAS_NATIVE:
        pytest.skip("native_columns is not built")
    from streammachine.frames.native_columns import Columns, Page

    page, columns, complete = Page(), Columns(), None
    for at in range(0, len(data), piece):
        complete = page.feed(data[at : at + piece])
        if complete is not False:
            break
    if complete:
        columns.take(page)
    assert columns.rows == (page.count if complete and columns.rows else 0)
    assert math.isfinite(len(columns.finish()))
