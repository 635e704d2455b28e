"""Stream replies as rows of ticks: both twins, in any pieces, and what is no such reply."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streammachine.redis.connection import RedisConnection
from streammachine.redis.transport import tick_columns_reference, ticks
from streammachine.redis.transport.codec import ProtocolError, RespError
from streammachine.redis.transport.raw_connection import encode_command
from streammachine.redis.transport.ticks import GONE, NOT_OTHER, ODD, ROW
from support.runtime import Probe
from support.tick_replies import RawEntry, bulk, encoded_reply, fed, parsed

TWINS = [tick_columns_reference] + ([ticks] if ticks.HAS_NATIVE else [])
TICK = [b"symbol", b"A", b"price", b"1.5", b"volume", b"2", b"ts", b"1700000000000"]


@pytest.fixture(params=TWINS, ids=lambda twin: twin.__name__.rpartition(".")[2])
def twin(request: pytest.FixtureRequest) -> Any:
    return request.param


def reader(twin: Any, **options: Any) -> Any:
    defaults = {"volume": b"volume", "fallback": b"ticks", "timestamp": b"ts"}
    return twin.TickReader(b"ticks", b"price", **{**defaults, **options})


def rows_of(sink: Any) -> list[tuple[Any, ...]]:
    """Without the place in the bytes."""
    return [row[:3] + row[4:] for row in ROW.iter_unpack(bytes(sink))]


def read(twin: Any, entries: list[RawEntry], **options: Any) -> Any:
    sink = reader(twin, **options).reply()
    assert fed(sink, encoded_reply(entries), [])
    return sink


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"1", 1.0), (b"-0", -0.0), (b".5", 0.5), (b"5.", 5.0), (b"+1.5", 1.5), (b"1e3", 1000.0), (b"2.5E-3", 0.0025),
        (b"0.1", 0.1), (b"9007199254740993", 9007199254740993.0), (b"123456789012345678901", 123456789012345678901.0),
        (b"0.30000000000000004", 0.30000000000000004), (b"5e-324", 5e-324),
        (b"1.7976931348623157e308", 1.7976931348623157e308),
    ],
)  # fmt: skip
def test_a_plain_number_is_what_float_reads(twin: Any, text: bytes, number: float) -> None:
    (row,) = rows_of(read(twin, [(b"1-0", [b"price", text, b"volume", text, b"ts", b"5"])]))
    assert (repr(row[0]), repr(row[1]), row[4]) == (repr(number), repr(number), 0)


@pytest.mark.parametrize("text", [b"", b".", b"-", b"1_0", b" 1", b"nan", b"inf", b"1e999", b"0x1", b"1e", b"1" * 64])
def test_any_other_number_makes_the_row_odd(twin: Any, text: bytes) -> None:
    sink = read(twin, [(b"1-0", [b"price", text, b"volume", b"1", b"ts", b"5"])])
    assert rows_of(sink) == [(0.0, 0.0, 0, 0, ODD)]
    assert sink.entry(0) == (b"1-0", {b"price": text, b"volume": b"1", b"ts": b"5"})


def test_missing_and_repeated_fields_deleted_entries_and_symbols(twin: Any) -> None:
    sink = read(
        twin,
        [
            (b"1-0", TICK),
            (b"2-0", TICK[2:]),
            (b"3-0", TICK[:6]),
            (b"4-0", None),
            (b"5-0", []),
            (b"6-0", [*TICK, b"price", b"7"]),
            (b"7-0", [*TICK, b"price", b"8"]),
            (b"8-7", [b"ts", b"9.0", b"volume", b"1", b"symbol", b"B", b"price", b"3"]),
        ],
    )
    assert sink.names == [b"ticks", b"A", b"B"]
    assert rows_of(sink) == [
        (1.5, 2.0, 1700000000000, 1, 0), (1.5, 2.0, 1700000000000, 0, 0), (0.0, 0.0, 0, 1, ODD),
        (0.0, 0.0, 0, -1, GONE), (0.0, 0.0, 0, -1, GONE), (7.0, 2.0, 1700000000000, 1, 0),
        (8.0, 2.0, 1700000000000, 1, 0),
        (3.0, 1.0, 9, 2, 0),
    ]  # fmt: skip
    assert (sink.count, sink.last_id, sink.entry(3)) == (8, b"8-7", (b"4-0", None))
    with pytest.raises(IndexError):
        sink.entry(8)
    (row,) = rows_of(read(twin, [(b"1700-3", TICK[2:])], fallback=None, volume=None, timestamp=None))
    assert row == (1.5, 0.0, 1700, -1, 0)


def test_replies_without_entries_and_of_others(twin: Any) -> None:
    for reply in (b"*-1\r\n", b"_\r\n", b"$-1\r\n"):
        sink = reader(twin).reply()
        assert fed(sink, reply, [1])
        assert (sink.count, sink.last_id, sink.other, bytes(sink)) == (0, None, NOT_OTHER, b"")
    sink = reader(twin).reply()
    assert fed(sink, b"-NOGROUP no such group\r\n", [3])
    assert (sink.count, sink.other) == (0, RespError("NOGROUP no such group"))
    sink = reader(twin).reply()
    assert fed(sink, encoded_reply([(b"1-0", TICK)], stream=b"others"), [50])
    assert ticks.read_entries(sink.other)[0][0] == b"1-0"


def test_more_than_the_reply_is_refused(twin: Any) -> None:
    sink = reader(twin).reply()
    with pytest.raises(ProtocolError, match="More came"):
        sink.feed(encoded_reply([(b"1-0", TICK)]) + b"+OK\r\n")
    sink = reader(twin).reply()
    assert sink.feed(encoded_reply([(b"1-0", TICK)]))
    with pytest.raises(ProtocolError, match="More came"):
        sink.feed(b"+OK\r\n")
    with pytest.raises(ProtocolError):
        reader(twin).reply().feed(b"*1\r\n*2\r\n" + bulk(b"ticks") + b"*1\r\n*2\r\nno")


def test_symbols_are_forgotten_where_they_are_too_many(twin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tick_columns_reference, "MOST_SYMBOLS", 2)
    own = reader(twin)
    found = []
    for symbol in (b"A", b"B", b"C"):
        sink = own.reply()
        assert sink.feed(encoded_reply([(b"1-0", [b"symbol", symbol, *TICK[2:]])]))
        found.append((sink.names, rows_of(sink)[0][3]))
    first, last = found[1], found[2]
    assert first == ([b"ticks", b"A", b"B"], 2)  # what was read before keeps its names
    assert last == ([b"ticks", b"C"], 1)


PARTS = st.one_of(
    st.sampled_from([b"symbol", b"price", b"volume", b"ts", b"1.25", b"17", b"1e5", b"x", b"", b"\r\n"]),
    st.binary(max_size=30),
    st.integers(0, 10**20).map(lambda n: b"%d" % n),
)
ENTRIES = st.lists(
    st.tuples(
        st.sampled_from([b"1-0", b"1700000000000-12", b"18446744073709551615-18446744073709551615"]),
        st.one_of(
            st.none(),
            st.lists(st.tuples(PARTS, PARTS), max_size=6).map(lambda pairs: [part for pair in pairs for part in pair]),
            st.lists(st.integers(0, 9), min_size=4, max_size=4).map(
                lambda n: [
                    b"symbol",
                    b"S%d" % n[0],
                    b"price",
                    b"%d.%d" % (n[1], n[2]),
                    b"volume",
                    b"%d" % n[3],
                    b"ts",
                    b"7",
                ]
            ),
        ),
    ),
    max_size=8,
)


@pytest.mark.skipif(not ticks.HAS_NATIVE, reason="the native twin is not built")
@settings(max_examples=200, deadline=None)
@given(
    st.lists(ENTRIES, min_size=1, max_size=3), st.booleans(), st.lists(st.integers(1, 90), min_size=1, max_size=4),
    st.sampled_from([None, b"volume", b"price"]), st.sampled_from([None, b"ticks"]), st.sampled_from([None, b"ts"]),
)  # fmt: skip
def test_both_twins_give_the_same_rows(
    batches: list[list[RawEntry]],
    resp3: bool,
    sizes: list[int],
    volume: bytes | None,
    fallback: bytes | None,
    timestamp: bytes | None,
) -> None:
    options = {"volume": volume, "fallback": fallback, "timestamp": timestamp}
    readers = [reader(twin, **options) for twin in TWINS]
    for entries in batches:
        reply = encoded_reply(entries, resp3=resp3)
        found = []
        for own in readers:
            sink = own.reply()
            assert fed(sink, reply, sizes)
            assert [sink.entry(row) for row in range(sink.count)] == parsed(reply)
            found.append((bytes(sink), sink.names, sink.last_id, sink.count, sink.size, sink.other))
        assert found[0] == found[1]


@pytest.mark.anyio
async def test_a_servers_own_replies(redis: RedisConnection, twin: Any) -> None:
    """XREAD and XREADGROUP with an entry that was deleted while it was pending, over RESP2."""
    for n in range(3):
        await Probe(redis).ask("XADD", "ticks", f"{n + 1}-0", *TICK)
    await Probe(redis).ask("XGROUP", "CREATE", "ticks", "g", "0")
    connection = await redis.open_connection("ticks")
    own = reader(twin)
    try:
        sink = own.reply()
        await connection.receive(encode_command(["XREAD", "COUNT", 9, "STREAMS", "ticks", "0"]), sink, 5)
        assert (sink.count, sink.last_id) == (3, b"3-0")
        await connection.exchange(encode_command(["XREADGROUP", "GROUP", "g", "c", "STREAMS", "ticks", ">"]), 1, 5)
        await Probe(redis).ask("XDEL", "ticks", "2-0")
        sink = own.reply()
        command = ["XREADGROUP", "GROUP", "g", "c", "STREAMS", "ticks", "0"]
        await connection.receive(encode_command(command), sink, 5)
        assert [row[4] for row in rows_of(sink)] == [0, GONE, 0]
        sink = own.reply()
        await connection.receive(encode_command(["XREAD", "STREAMS", "ticks", "3-0"]), sink, 5)
        assert (sink.count, sink.other) == (0, NOT_OTHER)
    finally:
        await connection.aclose()
