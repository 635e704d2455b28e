"""Pages of XRANGE with something wrong in them, in any pieces, beside the plain way over parsed replies."""

from __future__ import annotations

from collections import OrderedDict
from random import Random
from typing import Any

from pandas.testing import assert_frame_equal

from streammachine.frames import read, streams_to_dataframe, streams_to_dataframe_fast

NAMES = (b"price", b"symbol", b"id", b"id_field", b"", b"\xfe", b"\xc2\xb5")
VALUES = (b"", b"1.5", b"BTC", b"\xff", b"\r\n", b"\xc3\xa9", b"a" * 300)


def step(rnd: Random) -> None:
    """A few pages into one frame, then one page that is damaged."""
    names = rnd.choices(NAMES[: rnd.choice((2, 4, 7))], k=3)
    collected, entries = read._Collected(read._Wanted.of(None, True)), []
    for _ in range(rnd.randrange(1, 4)):
        page = [entry(rnd, names) for _ in range(rnd.choice((1, 2, 9, 70)))]
        answer = read._Answer()
        assert fed(rnd, answer, encoded(page))
        collected.add(answer)
        entries += page
    expected = streams_to_dataframe({"s": entries}, include_sequence=True)
    assert_frame_equal(collected.frame("s"), expected)
    assert_frame_equal(streams_to_dataframe_fast({"s": as_a_client(rnd, entries)}, include_sequence=True), expected)
    damaged(rnd, encoded(entries))


def damaged(rnd: Random, reply: bytes) -> None:
    from streammachine.frames.native_columns import Columns, Page

    broken = bytearray(reply)
    for _ in range(rnd.choice((1, 1, 2, 5))):
        at = rnd.randrange(len(broken))
        broken[at : at + rnd.randrange(3)] = rnd.choice((rnd.randbytes(2), b"$-1\r\n", b"*", b"9", b"\r\n"))
    page, columns = Page(), Columns({b"price"} if rnd.random() < 0.5 else None, rnd.random() < 0.5, rnd.random() < 0.5)
    if fed(rnd, page, bytes(broken)) and columns.take(page):
        assert columns.rows == page.count
    for column in columns.finish().values():
        assert len(column.texts(None)) == columns.rows


def as_a_client(rnd: Random, entries: list[Any]) -> list[Any]:
    """The same entries in the shape that one of the clients gives them, or in all shapes mixed."""
    shapes: list[Any] = [list, tuple, by_name(dict), by_name(OrderedDict)]
    if rnd.random() < 0.7:
        shapes = [rnd.choice(shapes)]
    return [(entry_id, rnd.choice(shapes)(fields)) for entry_id, fields in entries]


def by_name(kind: Any) -> Any:
    return lambda fields: kind(zip(fields[::2], fields[1::2], strict=True))


def fed(rnd: Random, sink: Any, reply: bytes) -> bool | None:
    at, complete = 0, False
    while at < len(reply) and complete is False:
        size = rnd.choice((1, 7, 64, 1 << 16))
        complete = sink.feed(reply[at : at + size])
        at += size
    return complete


def entry(rnd: Random, names: list[bytes]) -> list[Any]:
    if rnd.random() < 0.2:
        names = rnd.choices(NAMES, k=rnd.randrange(1, 5))
    numbers = [rnd.choice((0, 7, 10**17, 10**18, 2**63 - 1)) for _ in range(2)]
    values = VALUES if rnd.random() < 0.2 else VALUES[:3]
    return [b"%d-%d" % tuple(numbers), [part for name in names for part in (name, rnd.choice(values))]]


def encoded(entries: list[Any]) -> bytes:
    def bulk(value: bytes) -> bytes:
        return b"$%d\r\n%b\r\n" % (len(value), value)

    return b"*%d\r\n" % len(entries) + b"".join(
        b"*2\r\n%b*%d\r\n%b" % (bulk(entry_id), len(fields), b"".join(map(bulk, fields)))
        for entry_id, fields in entries
    )
