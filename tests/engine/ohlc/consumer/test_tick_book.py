"""The native road of the consumer beside the plain one: the same commits, byte for byte, on whatever comes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streammachine.ohlc.consumer.candle_book import CandleBook, TickFields
from streammachine.ohlc.consumer.tick_book import NATIVE, TickBook
from support.candles import START
from support.tick_replies import RawEntry, encoded_reply, fed, parsed, same_commits

pytestmark = pytest.mark.skipif(not NATIVE, reason="the native parts are not built: there is one road only")

INTERVALS = [300_000, 60_000, 90_000, 604_800_000]
NOW = START + 3_600_000.0
NUMBERS = st.one_of(
    st.integers(-5, 200).map(lambda n: b"%d" % n),
    st.decimals(-10, 1000, places=4).map(lambda n: str(n).encode()),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda x: repr(x).encode()),
    st.sampled_from([b"100", b"100.5", b"0.1", b"-0.0", b".5", b"5.", b"1e3", b"1E-5", b"12345678901234567.25"]),
)
ODD_NUMBERS = st.sampled_from(
    [
        b"",
        b"nan",
        b"inf",
        b"-inf",
        b"1e999",
        b"1_0",
        b" 1 ",
        b"+1",
        b"0x1",
        b"1,5",
        b"\xd9\xa1",
        b"true",
        b"1" * 80,
        b".",
    ]
)
PRICES = st.one_of(NUMBERS, NUMBERS, NUMBERS, ODD_NUMBERS)
TIMES = st.one_of(
    st.integers(-30_000, 400_000).map(lambda ms: b"%d" % (START + ms)),
    st.integers(0, 3_000_000).map(lambda ms: b"%d" % (START + ms)),
    st.integers(0, 300_000).map(lambda ms: b"%d.0" % (START + ms)),
    st.sampled_from([b"", b"soon", b"0", b"1700000000", b"99999999999999", b"1.7e12", b"%d.5" % START, b"9" * 19]),
)
SYMBOLS = st.sampled_from([b"A", b"A", b"B", b"ticks", b"SYMBOL-WITH-A-LONG-NAME", b"\xc3\xa9", b"", b"\xff"])
NAMES = st.sampled_from([b"symbol", b"price", b"volume", b"ts", b"extra", b"pair", b""])


@st.composite
def fields(draw: st.DrawFn) -> list[bytes] | None:
    """A tick as it should be, as a rule; else with fields missing, twice, in another order, or none at all."""
    pairs = [
        (b"symbol", draw(SYMBOLS)),
        (b"price", draw(PRICES)),
        (b"volume", draw(PRICES)),
        (b"ts", draw(TIMES)),
    ]
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.sampled_from([None, []]))
    if kind == 1:
        pairs.pop(draw(st.integers(0, 3)))
    elif kind == 2:
        pairs.insert(draw(st.integers(0, 4)), (draw(NAMES), draw(st.one_of(PRICES, TIMES))))
    elif kind == 3:
        pairs = draw(st.permutations(pairs))
    return [part for pair in pairs for part in pair]


@st.composite
def reads(draw: st.DrawFn) -> list[list[RawEntry]]:
    found: list[list[RawEntry]] = []
    at = START
    for _ in range(draw(st.integers(1, 4))):
        entries: list[RawEntry] = []
        for one in draw(st.lists(fields(), min_size=1, max_size=12)):
            at += draw(
                st.one_of(st.integers(0, 50_000), st.sampled_from([0, 0, 0, 10**16]))
            )  # beyond any candle's time
            entries.append((b"%d-%d" % (at, len(entries)), one))
        found.append(entries)
    return found


LAYOUTS = st.sampled_from(
    [
        TickFields(timestamp="ts"),
        TickFields(),
        TickFields(volume=None, timestamp="ts"),
        TickFields(symbol="symbol", timestamp="ts"),
        TickFields(symbol="pair"),
        TickFields(price="price", volume="price", timestamp="ts"),
        TickFields(price="ts", volume="volume", timestamp="ts"),
    ]
)


@settings(max_examples=150, deadline=None)
@given(
    reads(), LAYOUTS, st.booleans(), st.lists(st.integers(1, 400), min_size=1, max_size=5),
    st.sampled_from([0, 5_000, 100_000]), st.data(),
)  # fmt: skip
def test_both_roads_commit_the_same(
    batches: list[list[RawEntry]], layout: TickFields, resp3: bool, sizes: list[int], grace: int, data: st.DataObject
) -> None:
    def books() -> tuple[CandleBook, TickBook]:
        options: Any = {"grace_ms": grace, "max_candles": 1000}
        return CandleBook("ticks", INTERVALS, layout, **options), TickBook("ticks", INTERVALS, layout, **options)

    plain, rows = books()
    reader = rows.reader()
    now = NOW
    states: dict[bytes, bytes] = {}
    for batch in batches:
        reply = encoded_reply(batch, resp3=resp3)
        sink = reader.reply()
        assert fed(sink, reply, sizes)
        assert sink.last_id == batch[-1][0]
        plain.fold(parsed(reply), now)
        rows.fold_rows(sink, now)
        for step in data.draw(st.lists(st.sampled_from(["idle", "commit", "restart"]), max_size=2)):
            now += data.draw(st.integers(0, 200_000))
            if step == "idle":
                plain.close_idle(now)
                rows.close_idle(now)
                continue
            states |= same_commits(plain, rows, INTERVALS)
            if step == "restart":
                plain, rows = books()
                for name, state in states.items():
                    plain.load(name, state)
                    rows.load(name, state)
                reader = rows.reader()
    same_commits(plain, rows, INTERVALS)
