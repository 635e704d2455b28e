"""Replies to frames: columns, values, names, refusals; and both converters agree on any reply."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict
from typing import Any

import numpy as np
import pandas as pd
import pytest
from coredis.response.types import StreamEntry
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from streammachine.frames import streams_to_dataframe, streams_to_dataframe_fast
from support.by_columns import by_columns

TEXT = pd.Series([""]).dtype


def one(fields: Any, entry_id: Any = b"5-1") -> list[Any]:
    return [[b"s", [(entry_id, fields)]]]


@pytest.mark.parametrize("empty", [None, [], (), {}, {"s": []}, {"s": None}, [["s", []]], {"s": [[]]}], ids=repr)
@pytest.mark.parametrize("include_sequence", [False, True])
def test_an_empty_reply_gives_the_columns_with_their_dtypes(to_frame: Any, empty: Any, include_sequence: bool) -> None:
    frame = to_frame(empty, include_sequence=include_sequence)
    dtypes = {"stream": TEXT, "id": TEXT, "timestamp_ms": np.dtype("int64")}
    if include_sequence:
        dtypes["sequence"] = np.dtype("int64")
    assert len(frame) == 0
    assert frame.dtypes.to_dict() == dtypes
    assert isinstance(frame.index, pd.RangeIndex)


def test_columns_have_the_order_of_first_appearance_behind_our_own(to_frame: Any) -> None:
    frame = to_frame([["s", [("1-0", {"b": "1"}), ("2-0", {"a": "2", "b": "3"})]], ["t", [("0-1", {"c": "4"})]]])
    assert list(frame.columns) == ["stream", "id", "timestamp_ms", "b", "a", "c"]
    assert list(frame["id"]) == ["1-0", "2-0", "0-1"]


def test_our_columns_take_the_names_given(to_frame: Any) -> None:
    frame = to_frame(one({"a": "1"}), stream_name_column="topic", id_column="key", timestamp_column="ts")
    assert list(frame.columns) == ["topic", "key", "ts", "a"]


def test_two_columns_of_one_name_are_refused(to_frame: Any) -> None:
    with pytest.raises(ValueError, match="two columns"):
        to_frame(None, id_column="stream")
    with pytest.raises(ValueError, match="two columns"):
        to_frame(None, id_column="sequence", include_sequence=True)
    assert "sequence" in to_frame(None, id_column="sequence").columns


def test_values_stay_text_and_the_timestamp_is_an_integer(to_frame: Any) -> None:
    frame = to_frame(one({b"price": b"1.50", b"count": b"007"}), include_sequence=True)
    assert frame.loc[0].to_dict() == {
        "stream": "s",
        "id": "5-1",
        "timestamp_ms": 5,
        "sequence": 1,
        "price": "1.50",
        "count": "007",
    }
    assert frame["timestamp_ms"].dtype == frame["sequence"].dtype == np.int64
    assert frame["price"].dtype == TEXT
    assert frame["price"].astype(float)[0] == 1.5


def test_a_value_that_is_not_utf8_stays_bytes(to_frame: Any) -> None:
    frame = to_frame([["s", [("1-0", {"blob": b"\xff\x00"}), ("2-0", {b"blob": b"ok"})]]])
    assert list(frame["blob"]) == [b"\xff\x00", "ok"]
    assert frame["blob"].dtype == object


def test_a_field_name_that_is_not_utf8_stays_bytes(to_frame: Any) -> None:
    assert list(to_frame(one({b"\xff": b"1"})).columns[3:]) == [b"\xff"]


def test_an_entry_without_a_field_has_a_missing_value(to_frame: Any) -> None:
    frame = to_frame([["s", [("1-0", {"a": "1", "b": "2"}), ("2-0", {"a": "3"})]]])
    assert list(frame["b"].isna()) == [False, True]
    assert np.isnan(frame["b"].astype(float)[1])


@pytest.mark.parametrize("name", ["stream", "id", "timestamp_ms", "sequence"])
def test_a_field_with_the_name_of_a_column_is_kept_beside_it(to_frame: Any, name: str) -> None:
    frame = to_frame(one({name: "mine", "x": "1"}), include_sequence=True)
    assert list(frame.columns) == ["stream", "id", "timestamp_ms", "sequence", f"{name}_field", "x"]
    assert frame[f"{name}_field"][0] == "mine"
    assert frame.loc[0, ["stream", "id", "timestamp_ms", "sequence"]].to_list() == ["s", "5-1", 5, 1]


def test_a_field_called_sequence_keeps_its_name_where_the_column_is_not_asked_for(to_frame: Any) -> None:
    assert to_frame(one({"sequence": "9"}))["sequence"][0] == "9"


@pytest.mark.parametrize("later", [False, True], ids=["in one entry", "in a later entry"])
def test_the_new_name_of_a_field_never_takes_that_of_another(to_frame: Any, later: bool) -> None:
    entries = [("1-0", {"id": "a", "id_field": "b", "id_field_field": "c"})]
    if later:
        entries = [("1-0", {"id": "a"}), ("2-0", {"id_field": "b"}), ("3-0", {"id_field_field": "c"})]
    frame = to_frame([["s", entries]])
    assert list(frame.columns[3:]) == ["id_field_field_field", "id_field", "id_field_field"]
    assert [frame[label].dropna().iloc[0] for label in frame.columns[3:]] == ["a", "b", "c"]


def test_a_renamed_field_does_not_take_the_name_of_our_own_column(to_frame: Any) -> None:
    frame = to_frame(one({"id": "mine"}), stream_name_column="id_field")
    assert frame.loc[0].to_dict() == {"id_field": "s", "id": "5-1", "timestamp_ms": 5, "id_field_field": "mine"}


def test_a_field_given_twice_keeps_its_last_value(to_frame: Any) -> None:
    assert to_frame([["s", [["1-0", ["a", "1", "b", "2", "a", "3"]]]]]).loc[0, ["a", "b"]].to_list() == ["3", "2"]
    assert to_frame(one({b"a": b"1", "a": "2"}))["a"][0] == "2"


def test_a_resp3_map_that_came_as_a_flat_list_is_understood(to_frame: Any) -> None:
    reply = [b"s", [[b"1-0", [b"a", b"1"]]], b"t", [[b"2-0", [b"a", b"2"]]]]
    assert list(to_frame(reply)["stream"]) == ["s", "t"]


def test_nulls_in_place_of_entries_or_fields_are_left_out(to_frame: Any) -> None:
    frame = to_frame([["s", [None, ("1-0", None), ("2-0", {}), ("3-0", {"a": "1"}), ["4-0", []]]]])
    assert list(frame["id"]) == ["3-0"]


def test_an_id_without_sequence_is_the_first_of_its_millisecond(to_frame: Any) -> None:
    frame = to_frame(one({"a": "1"}, "5"), include_sequence=True)
    assert frame.loc[0, ["timestamp_ms", "sequence"]].to_list() == [5, 0]


def test_the_largest_signed_id_fits(to_frame: Any) -> None:
    largest = 2**63 - 1
    frame = to_frame(one({"a": "1"}, f"{largest}-{largest}"), include_sequence=True)
    assert frame.loc[0, ["timestamp_ms", "sequence"]].to_list() == [largest, largest]


@pytest.mark.parametrize(
    "entry_id", ["", "-", "5-", "-5", "5-1-2", "5 -1", "+5-1", "1_0-0", "٥-1", "x", b"\xff-1", None]
)
def test_what_is_not_an_id_is_refused_by_name(to_frame: Any, entry_id: Any) -> None:
    with pytest.raises(ValueError, match="is not a stream id"):
        to_frame([["s", [("1-0", {"a": "1"}), (entry_id, {"a": "1"})]]])


@pytest.mark.parametrize("entry_id", [f"{2**63}-0", f"1-{2**63}", f"{2**64 - 1}-{2**64 - 1}"])
def test_an_id_beyond_64_signed_bits_is_refused(to_frame: Any, entry_id: str) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        to_frame(one({"a": "1"}, entry_id))


@pytest.mark.parametrize("reply", ["text", b"bytes", 5, {1, 2}])
def test_what_is_no_reply_at_all_is_a_type_error(to_frame: Any, reply: Any) -> None:
    with pytest.raises(TypeError, match="a stream reply is"):
        to_frame(reply)


@pytest.mark.parametrize(
    "reply",
    [
        [5],
        [["s"]],
        ["s"],
        [["s", 5]],
        {"s": {"1-0": {}}},
        {"s": ["1-0"]},
        {"s": [("1-0",)]},
        {"s": [("1-0", "text")]},
        {"s": [("1-0", 5)]},
        {"s": [("1-0", ["a", "1", "b"])]},
        [("1-0", {"a": "1"})],
        [StreamEntry("1-0", OrderedDict(a="1"))],
    ],
    ids=repr,
)
def test_a_reply_of_another_shape_is_refused_with_the_way_out(to_frame: Any, reply: Any) -> None:
    with pytest.raises(ValueError, match=r"give {stream name: entries}"):
        to_frame(reply)


def test_the_reply_is_not_changed(to_frame: Any) -> None:
    reply = {b"s": [(b"1-0", {b"id": b"\xff"}), (b"2-0", None)]}
    to_frame(reply)
    assert reply == {b"s": [(b"1-0", {b"id": b"\xff"}), (b"2-0", None)]}


def test_importing_frames_does_not_import_pandas() -> None:
    code = "import sys, streammachine.frames; print(sorted({'pandas', 'numpy', 'coredis'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- both agree --------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["price", "volume", "id", "id_field", "stream", "timestamp_ms", "sequence", "ü"])
BYTE_NAMES = NAMES.map(str.encode) | st.sampled_from([b"\xff", b"price"])
WORDS = st.text(alphabet="a7.é€😀-\x00 ", max_size=4)
VALUES = WORDS | WORDS.map(str.encode) | st.sampled_from([b"\xff", b"", "", b"\x00"])
FIELDS = st.dictionaries(NAMES | BYTE_NAMES, VALUES, max_size=4)
NUMBERS = st.integers(0, 2**63 - 1) | st.integers(0, 10**18)
PLAIN_IDS = st.builds("{}-{}".format, st.integers(0, 2 * 10**12), st.integers(0, 9))
IDS = PLAIN_IDS | st.builds("{}-{}".format, NUMBERS, NUMBERS) | st.just("7")


def flat(fields: dict[Any, Any]) -> list[Any]:
    return [part for pair in fields.items() for part in pair]


@st.composite
def entries(draw: st.DrawFn) -> list[Any]:
    """Entries with the same fields throughout (the usual case) or any, in one client's form or mixed."""
    ids = draw(st.sampled_from([PLAIN_IDS, IDS]))
    rows = draw(st.lists(st.tuples(ids | ids.map(str.encode), FIELDS), max_size=6))
    same_fields = draw(st.booleans())
    if rows and same_fields:
        names = list(rows[0][1])
        rows = [(entry_id, {name: draw(VALUES) for name in names}) for entry_id, _ in rows]
    forms = [
        lambda entry_id, fields: (entry_id, fields),
        lambda entry_id, fields: [entry_id, flat(fields)],
        lambda entry_id, fields: (entry_id, tuple(flat(fields))),
        lambda entry_id, fields: StreamEntry(entry_id, OrderedDict(fields), 1, 1),
        lambda entry_id, fields: (entry_id, None),
        lambda entry_id, fields: None,
    ]
    form = draw(st.sampled_from(forms[:4]))
    alike = draw(st.booleans())
    if alike:
        return [form(*row) for row in rows]
    return [draw(st.sampled_from(forms))(*row) for row in rows]


@st.composite
def replies(draw: st.DrawFn) -> Any:
    streams = draw(st.dictionaries(st.sampled_from(["a", b"a", "b", b"\xff"]), entries(), max_size=3))
    form = draw(st.sampled_from(["dict", "wrapped", "pairs", "flat"]))
    if form == "dict":
        return streams
    if form == "wrapped":
        return {name: [held] for name, held in streams.items()}
    return [list(pair) for pair in streams.items()] if form == "pairs" else flat(streams)


@settings(deadline=None)
@given(reply=replies(), include_sequence=st.booleans())
def test_both_give_the_same_frame_for_any_reply(reply: Any, include_sequence: bool) -> None:
    plain = streams_to_dataframe(reply, include_sequence=include_sequence)
    for fast in (
        streams_to_dataframe_fast(reply, include_sequence=include_sequence),
        by_columns(reply, include_sequence=include_sequence),
    ):
        assert_frame_equal(plain, fast, check_exact=True, check_column_type=True)
        for label in plain.columns:
            assert list(map(type, plain[label])) == list(map(type, fast[label]))


@settings(deadline=None)
@given(rows=st.lists(st.tuples(IDS, FIELDS), max_size=6))
def test_every_value_is_in_its_row(rows: list[tuple[str, dict[Any, Any]]]) -> None:
    frame = streams_to_dataframe_fast({"s": rows})
    # A name given as bytes and as str is one field; the later value counts.
    kept = [{readable(name): readable(value) for name, value in fields.items()} for _, fields in rows if fields]
    assert [sorted(row.dropna().iloc[3:].map(readable)) for _, row in frame.iterrows()] == [
        sorted(fields.values()) for fields in kept
    ]


def readable(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
