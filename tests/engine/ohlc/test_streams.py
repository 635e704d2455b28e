"""Redis replies of every shape become ticks, all of them or none."""

from __future__ import annotations

import decimal
import re
from collections import OrderedDict, UserDict
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

from streammachine.errors import SettingsError, TickError

MINUTE = 60_000


class StreamEntry(NamedTuple):
    """As coredis has it."""

    identifier: bytes | str
    field_values: Any


FIELDS = [("price", "1.5"), ("volume", "2"), ("side", "buy")]
IDS = ["60000-0", "60001-0", "120000-5"]
# One text, and what each shape of reply makes of it: a stream named X with three entries.
FLAT = [[i, [part for pair in FIELDS for part in pair]] for i in IDS]
DICTS = [(i, dict(FIELDS)) for i in IDS]
REPLIES: dict[str, Any] = {
    "coredis": {"X": tuple(StreamEntry(i, OrderedDict(FIELDS)) for i in IDS)},
    "coredis, two streams": {"X": (StreamEntry(IDS[0], dict(FIELDS)),), "Y": (), "Z": None},
    "redis-py": [["X", DICTS]],
    "redis-py tuples": (("X", tuple(DICTS)),),
    "redis-py RESP3": {"X": [DICTS]},
    "redis-py RESP3, entries as lists": {"X": [[list(entry) for entry in DICTS]]},
    "raw": [["X", FLAT]],
    "raw RESP3": {"X": FLAT},
    "raw tuples": (("X", tuple((i, tuple(flat)) for i, flat in FLAT)),),
    "twice the same stream": [["X", DICTS[:1]], ["X", DICTS[1:]]],
    "a mapping": UserDict({"X": [(i, UserDict(FIELDS)) for i in IDS]}),
    "deleted entries": [["X", [DICTS[0], (None, None), None, ("5-5", None), ("5-6", {}), ("5-7", []), *DICTS[1:]]]],
    "a deleted entry first": [["X", [None, *DICTS]]],
}
BARE: dict[str, Any] = {"bare": DICTS, "bare coredis": tuple(StreamEntry(*e) for e in DICTS), "bare raw": FLAT}


def encoded(value: Any) -> Any:
    """The same reply in bytes."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, StreamEntry):
        return StreamEntry(*(encoded(part) for part in value))
    if isinstance(value, (list, tuple)):
        return type(value)(encoded(part) for part in value)
    if isinstance(value, (dict, UserDict)):
        return type(value)((encoded(k), encoded(v)) for k, v in value.items())
    return value


@pytest.mark.parametrize("as_bytes", [False, True], ids=["str", "bytes"])
@pytest.mark.parametrize("shape", REPLIES)
def test_every_reply_shape_is_read(engine: ModuleType, shape: str, as_bytes: bool) -> None:
    agg = engine.FastOHLC([MINUTE])
    reply = encoded(REPLIES[shape]) if as_bytes else REPLIES[shape]
    count = 1 if "two streams" in shape else 3
    assert agg.process_stream_batch(reply) == count
    assert agg.symbols == ["X"]
    assert sum(candle.trade_count for candle in agg.get_candles("X", MINUTE)) == count == agg.tick_count
    first = agg.get_candles("X", MINUTE)[0]
    assert (first.candle_start_ms, first.open, first.volume) == (60_000, 1.5, 2.0 * min(count, 2))


@pytest.mark.parametrize("as_bytes", [False, True], ids=["str", "bytes"])
@pytest.mark.parametrize("shape", BARE)
def test_bare_entries_take_the_symbol_from_a_field(engine: ModuleType, shape: str, as_bytes: bool) -> None:
    agg = engine.FastOHLC([MINUTE])
    reply = encoded(BARE[shape]) if as_bytes else BARE[shape]
    assert agg.process_stream_batch(reply, symbol_field="side") == 3
    assert agg.symbols == ["buy"]
    with pytest.raises(TickError, match="symbol_field"):
        agg.process_stream_batch(reply)


@pytest.mark.parametrize(
    "empty", [None, [], (), {}, [["X", []]], {"X": []}, {"X": [[]]}, {"X": None}, [None]], ids=repr
)
def test_nothing_is_nothing(engine: ModuleType, empty: Any) -> None:
    agg = engine.FastOHLC([MINUTE])
    assert agg.process_stream_batch(empty) == 0
    assert agg.symbols == []


def test_the_fields_can_have_any_name(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE])
    reply = [["trades", [("1-0", {b"p": b"7", b"q": b"3", b"s": b"BTC", b"T": b"1700000000000"})]]]
    assert agg.process_stream_batch(reply, "p", b"q", "s", "T") == 1
    (candle,) = agg.get_candles("BTC", MINUTE)
    assert (candle.open, candle.volume, candle.timestamp_ms) == (7.0, 3.0, 1_700_000_000_000)
    assert agg.process_stream_batch(reply, "p", None, "s", "T") == 1
    assert agg.get_candles("BTC", MINUTE)[0].volume == 3.0


def test_values_can_be_numbers_already(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE])
    fields = {"price": 7, "volume": 0.5, "T": 1_700_000_000_000}
    assert agg.process_stream_batch({"X": [("any id", fields)]}, timestamp_field="T") == 1
    assert agg.get_candles("X", MINUTE)[0].timestamp_ms == 1_700_000_000_000


def test_keys_of_both_kinds_in_one_reply(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE])
    entries = [("1-0", {b"price": "1", "volume": b"1"}), (b"2-0", [b"price", "1", "volume", b"1"])]
    assert agg.process_stream_batch([[b"X", entries]]) == 2
    assert agg.get_candles("X", MINUTE)[0].volume == 2.0


def test_of_two_fields_of_one_name_the_last_counts(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE])
    agg.process_stream_batch([["X", [["1-0", ["price", "1", "volume", "1", "price", "2"]]]]])
    assert agg.get_candles("X", MINUTE)[0].open == 2.0


def test_late_entries_are_counted_in_the_result(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE])
    agg.process_stream_batch(REPLIES["redis-py"])
    agg.flush_interval("X", MINUTE, 120_000)
    assert agg.process_stream_batch(REPLIES["redis-py"]) == 3
    assert (agg.tick_count, agg.late_count) == (4, 2)


GOOD = {"price": "1", "volume": "1", "T": "1700000000005", "s": "BTC"}
BAD_FIELDS: list[tuple[str, Any, str]] = [
    ("price", None, "price"),
    ("volume", None, "volume"),
    ("s", None, "s"),
    ("T", None, "T"),
    ("price", "", "price"),
    ("price", "abc", "price"),
    ("price", "nan", "price"),
    ("price", b"inf", "price"),
    ("price", "1e999", "price"),
    ("price", [], "price"),
    ("volume", "-1", "volume"),
    ("volume", "-inf", "volume"),
    ("volume", "1,5", "volume"),
    ("price", "1_000", "price"),
    ("price", b"1_000.5", "price"),
    ("volume", "1e1_0", "volume"),
    ("price", True, "price"),
    ("volume", False, "volume"),
    ("price", np.True_, "price"),
    ("volume", "true", "volume"),
    ("T", "-5", "T"),
    ("T", "5.5", "T"),
    ("T", 5.5, "T"),
    ("T", "9000000000000001", "T"),
    ("T", "99999999999999999999999", "T"),
    ("T", True, "T"),
    ("T", np.True_, "T"),
    ("T", "0", "T"),
    ("T", 0, "T"),
    ("T", "1_700_000_000_005", "T"),
    ("T", 1_700_000_000_005.5, "T"),
    ("T", "1700000000005.5", "T"),
    ("T", "nan", "T"),
    ("T", "946684799999", "T"),
    ("T", "4133980800000", "T"),
    ("T", [], "T"),
    ("T", 10**400, "T"),
    ("s", "", "s"),
    ("s", b"\xff", "s"),
    ("s", 5, "s"),
]


@pytest.mark.parametrize("flat", [False, True], ids=["dict", "flat"])
@pytest.mark.parametrize(("name", "value", "named"), BAD_FIELDS, ids=repr)
def test_a_bad_field_is_named_and_nothing_of_the_batch_is_taken(
    engine: ModuleType, name: str, value: Any, named: str, flat: bool
) -> None:
    agg = engine.FastOHLC([MINUTE])
    agg.update_tick("BTC", 1.0, 1.0, 1)
    state = agg.dump()
    fields: Any = {**GOOD, name: value}
    if value is None:
        del fields[name]
    if flat:
        fields = [part for pair in fields.items() for part in pair]
    before: Any = {**GOOD, "s": "NEW"}
    with pytest.raises(TickError, match=rf"77-1.*field '{named}'"):
        agg.process_stream_batch([["ticks", [("77-0", before), ("77-1", fields)]]], "price", "volume", "s", "T")
    assert agg.dump() == state


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("1700000000", "in seconds it would be 2023-11-14T22:13:20Z. Multiply it by 1,000"),
        (1_700_000_000.5, "in seconds it would be 2023-11-14T22:13:20Z. Multiply it by 1,000"),
        (b"1700000000000000", "in microseconds it would be 2023-11-14T22:13:20Z. Divide it by 1,000"),
        (1_700_000_000_000_000_000, "in nanoseconds it would be 2023-11-14T22:13:20Z. Divide it by 1,000,000"),
    ],
    ids=repr,
)
def test_a_time_of_another_unit_is_refused_with_what_it_would_have_meant(
    engine: ModuleType, value: Any, meant: str
) -> None:
    agg = engine.FastOHLC([MINUTE])
    with pytest.raises(TickError, match=re.escape(meant)):
        agg.process_stream_batch({"X": [("1-0", {**GOOD, "T": value})]}, timestamp_field="T")
    assert agg.symbols == []


@pytest.mark.parametrize(
    "value",
    ["1700000000005.0", b"1700000000005.", 1_700_000_000_005.0, np.int64(1_700_000_000_005), "1.700000000005e12",
     " +1700000000005 ", decimal.Decimal("1700000000005"), np.float64(1_700_000_000_005)],
    ids=repr,
)  # fmt: skip
def test_a_whole_time_in_any_form_of_a_number_is_taken(engine: ModuleType, value: Any) -> None:
    agg = engine.FastOHLC([MINUTE])
    agg.process_stream_batch({"X": [("1-0", {**GOOD, "T": value})]}, timestamp_field="T")
    (candle,) = agg.get_candles("X", MINUTE)
    assert (candle.timestamp_ms, type(candle.timestamp_ms)) == (1_700_000_000_005, int)


@pytest.mark.parametrize("ms", [946_684_800_000, 4_133_980_799_999])
def test_the_first_and_the_last_time_of_a_field_are_taken(engine: ModuleType, ms: int) -> None:
    agg = engine.FastOHLC([MINUTE])
    for value in (ms, str(ms), float(ms)):
        agg.process_stream_batch({"X": [("1-0", {**GOOD, "T": value})]}, timestamp_field="T")
    assert agg.get_candles("X", MINUTE)[0].trade_count == 3


def test_no_value_leaks_from_one_entry_to_the_next(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE])
    for missing in ("price", "volume", "s"):
        second = {key: value for key, value in GOOD.items() if key != missing}
        with pytest.raises(TickError, match=missing):
            agg.process_stream_batch({"ticks": [("1-0", GOOD), ("2-0", second)]}, symbol_field="s")
    assert agg.process_stream_batch({"A": [("1-0", GOOD)], "B": [("2-0", GOOD)]}) == 2
    assert agg.symbols == ["A", "B"]


@pytest.mark.parametrize(
    "entry_id",
    [
        "",
        "-",
        "1-",
        "-1",
        "1-x",
        "x-1",
        "1 -0",
        "1.5-0",
        "1-0-0",
        "١-0",
        "9000000000000001-0",
        "9" * 30,
        None,
        5,
        b"\xff",
    ],
    ids=repr,
)
def test_a_bad_id_is_refused(engine: ModuleType, entry_id: Any) -> None:
    agg = engine.FastOHLC([MINUTE])
    with pytest.raises(TickError, match=r"entry .*id"):
        agg.process_stream_batch({"X": [(entry_id, GOOD)]})
    assert agg.symbols == []
    assert agg.process_stream_batch({"X": [(entry_id, GOOD)]}, timestamp_field="T") == 1


@pytest.mark.parametrize("stream", ["", b"\xff", 5], ids=repr)
def test_a_stream_name_that_is_no_symbol_is_refused(engine: ModuleType, stream: Any) -> None:
    with pytest.raises(TickError, match="symbol"):
        engine.FastOHLC([MINUTE]).process_stream_batch({stream: [("1-0", GOOD)]})


@pytest.mark.parametrize(
    "reply",
    [
        5,
        "text",
        b"text",
        {"X": "text"},
        {"X": 5},
        [5],
        ["text"],
        [("1-0", 5)],
        [("1-0", GOOD, 5)],
        {"X": [5]},
        [("1-0", ["price"])],
    ],
    ids=repr,
)
def test_what_is_no_reply_is_refused(engine: ModuleType, reply: Any) -> None:
    with pytest.raises(TickError):
        engine.FastOHLC([MINUTE]).process_stream_batch(reply)


@pytest.mark.parametrize("argument", ["price_field", "volume_field", "symbol_field", "timestamp_field"])
def test_a_field_name_must_be_text(engine: ModuleType, argument: str) -> None:
    for name in ("", 5, b"\xff"):
        with pytest.raises(SettingsError, match=argument):
            engine.FastOHLC([MINUTE]).process_stream_batch(None, **{argument: name})


def test_the_twins_refuse_in_the_same_words(both: tuple[ModuleType, ModuleType]) -> None:
    replies: list[Any] = [{"X": [("1-0", {**GOOD, name: value})]} for name, value, _ in BAD_FIELDS]
    replies += [5, {"X": 5}, [5], [("1-0", 5)], [("1-0", GOOD, 5)], {"X": [("x", GOOD)]}, [("1-0", ["price"])], DICTS]
    for reply in replies:
        words = []
        for engine in both:
            try:
                words.append(str(engine.FastOHLC([MINUTE]).process_stream_batch(reply, timestamp_field="T")))
            except TickError as error:
                words.append(str(error))
        assert words[0] == words[1]


def test_a_value_whose_code_changes_the_aggregator_is_caught(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE])
    agg.update_tick("X", 1.0, 1.0, 1)

    class Meddler:
        def __float__(self) -> float:
            agg.clear()
            return 1.0

    with pytest.raises(RuntimeError, match="nothing was taken"):
        agg.process_stream_batch(
            {"X": [("1-0", {"price": "1", "volume": "1"}), ("2-0", {"price": Meddler(), "volume": 1})]}
        )
    agg.update_tick("X", 1.0, 1.0, 1)
    with pytest.raises(RuntimeError, match="nothing was taken"):
        agg.update_batch("X", [1.0, Meddler()], [1.0, 1.0], [1, 1])
    agg.update_tick("X", Meddler(), 1.0, 1)
    assert agg.tick_count == 1
