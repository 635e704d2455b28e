"""Replies of XREAD with something wrong in them, in pieces: rows beside the twin's, the book beside the plain one."""

from __future__ import annotations

import contextlib
from random import Random
from typing import Any

from streammachine.ohlc.consumer.candle_book import CandleBook, TickFields
from streammachine.ohlc.consumer.tick_book import TickBook
from streammachine.redis.transport import tick_columns, tick_columns_reference
from streammachine.redis.transport.tick_columns_reference import NOT_OTHER
from streammachine.redis.transport.wire_reference import ProtocolError
from support.tick_replies import RawEntry, encoded_reply, parsed, same_commits

NAMES = (b"symbol", b"price", b"volume", b"ts", b"", b"\xfe", b"n" * 40)
SYMBOLS = (b"A", b"B", b"ticks", b"", b"\xff", b"\xc3\xa9", b"S" * 300)
START = 1_700_000_100_000
NUMBERS = (
    b"1",
    b"-1",
    b"0.1",
    b".",
    b"1e5",
    b"nan",
    b"",
    b"1" * 70,
    b"0." + b"1" * 40,
    b"1e400",
    b"1_0",
    b"-0",
    b"9" * 19,
)
INTERVALS = [60_000, 90_000, 300_000]
LAYOUTS = (
    TickFields(timestamp="ts"),
    TickFields(),
    TickFields(volume=None, symbol="symbol", timestamp="ts"),
    TickFields(price="ts", volume="ts", timestamp="ts"),
)


def step(rnd: Random) -> None:
    """A few replies into both books, then one that is damaged into both readers."""
    options: Any = {"grace_ms": rnd.choice((0, 5_000)), "max_candles": rnd.choice((2, 1000))}
    layout = rnd.choice(LAYOUTS)
    plain = CandleBook("ticks", INTERVALS, layout, **options)
    rows = TickBook("ticks", INTERVALS, layout, **options)
    reader, now = rows.reader(), START + 3_600_000.0
    most = 2 if options["max_candles"] == 2 else 40  # the consumer's reads never open more candles than are held
    for _ in range(rnd.randrange(1, 5)):
        entries = [entry(rnd) for _ in range(rnd.randrange(1, most + 1))]
        reply = encoded_reply(entries, resp3=rnd.random() < 0.5)
        sink = reader.reply()
        assert fed(rnd, sink, reply) is True
        plain.fold(parsed(reply), now)
        rows.fold_rows(sink, now)
        now += rnd.choice((0, 100_000))
        if rnd.random() < 0.5:
            plain.close_idle(now)
            rows.close_idle(now)
        if rnd.random() < 0.5:
            same_commits(plain, rows, INTERVALS)
    same_commits(plain, rows, INTERVALS)
    damaged(rnd, encoded_reply([entry(rnd) for _ in range(rnd.choice((1, 3, 30)))], resp3=rnd.random() < 0.5))
    strange_rows(rnd)


def damaged(rnd: Random, reply: bytes) -> None:
    broken = bytearray(reply)
    for _ in range(rnd.choice((0, 1, 1, 2, 5))):
        at = rnd.randrange(len(broken))
        broken[at : at + rnd.randrange(3)] = rnd.choice(
            (rnd.randbytes(2), b"$-1\r\n", b"*", b"_\r\n", b"9", b"\r\n", b"*-1\r\n")
        )
    arguments = (b"ticks", b"price", rnd.choice((None, b"volume")), b"symbol", rnd.choice((None, b"ticks")), b"ts")
    seed = rnd.random()
    found = [
        outcome(Random(seed), module.TickReader(*arguments).reply(), bytes(broken))
        for module in (tick_columns, tick_columns_reference)
    ]
    if found[0] is not None and found[1] is not None:
        assert found[0] == found[1]
    else:
        assert found[0] is found[1] is None


def outcome(rnd: Random, sink: Any, reply: bytes) -> Any:
    """What became of the reply; None where it is none, or not whole."""
    try:
        if fed(rnd, sink, reply) is not True:
            return None
    except ProtocolError:
        return None
    if sink.other is not NOT_OTHER:
        return "other", sink.other
    entries = [sink.entry(row) for row in range(sink.count)]
    return bytes(sink), sink.names, sink.last_id, entries


def strange_rows(rnd: Random) -> None:
    """Rows that no reader made: refused or folded, but nothing outside them is touched."""
    book = TickBook("ticks", INTERVALS, LAYOUTS[0], grace_ms=0, max_candles=1000)
    row = tick_columns_reference.ROW
    numbers = (0.0, 1.0, float("nan"), float("inf"), -1.0)
    rows = b"".join(
        row.pack(
            rnd.choice(numbers), rnd.choice(numbers), rnd.choice((START, -1, 2**63 - 1)), 0,
            rnd.choice((0, 0, 1, -1, -2, 2**31 - 1)), rnd.choice((0, 0, 1, 2, -1)),
        )
        for _ in range(rnd.randrange(20))
    )  # fmt: skip
    with contextlib.suppress(ValueError):
        book._native.fold(rows, [b"A", b"\xff"], float(START), lambda name, numbers: None)
    book.take()


def fed(rnd: Random, sink: Any, reply: bytes) -> bool:
    at, complete = 0, False
    while at < len(reply):
        size = rnd.choice((1, 7, 64, 1 << 16))
        complete = sink.feed(reply[at : at + size])
        at += size
        if complete and at < len(reply):
            sink.feed(reply[at:])
    return complete


def entry(rnd: Random) -> RawEntry:
    identifier = b"%d-%d" % (rnd.choice((START, 7, 10**18, 2**64 - 1)), rnd.randrange(3))
    if rnd.random() < 0.05:
        return identifier, rnd.choice((None, []))
    fields = [
        (b"symbol", rnd.choice(SYMBOLS if rnd.random() < 0.2 else SYMBOLS[:2])),
        (b"price", rnd.choice(NUMBERS) if rnd.random() < 0.1 else b"%.4f" % rnd.uniform(-5, 200)),
        (b"volume", rnd.choice(NUMBERS) if rnd.random() < 0.1 else repr(rnd.random()).encode()),
        (b"ts", rnd.choice(NUMBERS) if rnd.random() < 0.1 else b"%d" % (START + rnd.randrange(400_000))),
    ]
    if rnd.random() < 0.1:
        fields[rnd.randrange(4)] = (rnd.choice(NAMES), b"5")
    if rnd.random() < 0.1:
        fields += [(rnd.choice(NAMES), rnd.choice(NUMBERS)) for _ in range(rnd.choice((1, 2, 40)))]
    return identifier, [part for pair in fields for part in pair]
