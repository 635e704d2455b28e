"""Whatever comes in, decode gives events: what cannot be used is a BadFrame, and takes no good row with it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streammachine.market.exchanges import EXCHANGES, adapter_for
from streammachine.market.exchanges.base import Ack, Alive, BadFrame, Notice, Numbered, Refused
from streammachine.market.model.kline import Kline, Trade
from support.frames import SAMPLES, Sample, put

EVENTS = (Kline, Trade, Ack, Refused, Notice, Alive, BadFrame, Numbered)
each_sample = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
each_exchange = pytest.mark.parametrize("exchange", EXCHANGES)

NO_NUMBERS: list[Any] = [
    "NaN",
    "nan",
    "Infinity",
    "-inf",
    "",
    "abc",
    "1e999",
    None,
    [],
    {},
    True,
    False,
    [1],
    "0x10",
    1e300,
]
BAD_PRICES = [*NO_NUMBERS, "0", "0.00000000", "-1", 0, -64040.2]
BAD_VOLUMES = [*NO_NUMBERS, "-0.5", -3]
BAD_TIMES: list[Any] = ["NaN", "", "yesterday", None, [], {}, -1, 10**18, 10**40, "99999999999999999999"]


@each_sample
def test_the_sample_itself_decodes(sample: Sample) -> None:
    (event,) = sample.decoded(sample.frame())
    assert isinstance(event, Kline if sample.name.endswith("kline") else Trade)
    assert sample.decoded(sample.frame().decode()) == [event]


@each_sample
@pytest.mark.parametrize("price", BAD_PRICES, ids=repr)
def test_a_price_that_is_none_makes_a_bad_frame(sample: Sample, price: object) -> None:
    for path in sample.prices:
        frame = sample.with_value(path, price)
        (event,) = sample.decoded(frame)
        assert isinstance(event, BadFrame), path
        assert event.reason
        assert event.excerpt == frame.decode()[:200]


@each_sample
@pytest.mark.parametrize("volume", BAD_VOLUMES, ids=repr)
def test_a_volume_that_is_none_makes_a_bad_frame(sample: Sample, volume: object) -> None:
    for path in sample.volumes:
        (event,) = sample.decoded(sample.with_value(path, volume))
        assert isinstance(event, BadFrame), path


@each_sample
@pytest.mark.parametrize("time", BAD_TIMES, ids=repr)
def test_a_time_that_is_none_makes_a_bad_frame(sample: Sample, time: object) -> None:
    (event,) = sample.decoded(sample.with_value(sample.time, time))
    assert isinstance(event, BadFrame)


@pytest.mark.parametrize("sample", [one for one in SAMPLES if one.exchange != "kraken"], ids=lambda one: one.name)
def test_numbers_instead_of_texts_are_taken_too(sample: Sample) -> None:
    (usual,) = sample.decoded(sample.frame())

    def with_numbers(message: dict[str, Any]) -> None:
        for path in (*sample.prices, *sample.volumes):
            place: Any = message
            for step in path:
                place = place[step]
            put(message, path, float(place))

    assert sample.decoded(sample.frame(with_numbers)) == [usual]


@pytest.mark.parametrize("sample", [one for one in SAMPLES if one.exchange == "kraken"], ids=lambda one: one.name)
def test_texts_instead_of_numbers_are_taken_too(sample: Sample) -> None:
    (usual,) = sample.decoded(sample.frame())

    def with_texts(message: dict[str, Any]) -> None:
        row = message["data"][0]
        row.update({name: str(value) for name, value in row.items() if isinstance(value, float)})

    assert sample.decoded(sample.frame(with_texts)) == [usual]


@each_sample
def test_unknown_fields_do_no_harm(sample: Sample) -> None:
    (usual,) = sample.decoded(sample.frame())

    def with_more(message: dict[str, Any]) -> None:
        message["new"] = {"nested": [1, None, True]}
        row = message.get("k") or (message["data"][0] if "data" in message else message)
        if isinstance(row, dict):
            row["brandNew"] = True
            row["source"] = "somewhere"
            row["origin"] = "bulk"
            row["is_complete"] = False
        else:
            row.append("more")

    assert sample.decoded(sample.frame(with_more)) == [usual]


@each_sample
def test_every_missing_field_is_noticed_or_not_needed(sample: Sample) -> None:
    (usual,) = sample.decoded(sample.frame())
    for path in (*sample.prices, *sample.volumes, sample.time):

        def without(message: dict[str, Any], path: tuple[str | int, ...] = path) -> None:
            place: Any = message
            for step in path[:-1]:
                place = place[step]
            del place[path[-1]]

        events = sample.decoded(sample.frame(without))
        assert usual not in events
        assert all(isinstance(event, BadFrame) for event in events)


@pytest.mark.parametrize("sample", [one for one in SAMPLES if one.name.endswith("kline")], ids=lambda one: one.name)
def test_a_high_below_the_low_and_a_start_off_the_grid_make_a_bad_frame(sample: Sample) -> None:
    (event,) = sample.decoded(sample.with_value(sample.prices[1], "1.5"))
    assert isinstance(event, BadFrame)
    assert "below low" in event.reason
    starts: dict[str, Any] = {"kraken": "2026-08-12T12:46:01Z", "coinbase": "1786538761"}
    (event,) = sample.decoded(sample.with_value(sample.time, starts.get(sample.exchange, 1_786_538_761_000)))
    assert isinstance(event, BadFrame)
    assert f"no {'5m' if sample.exchange == 'coinbase' else '1m'} candle" in event.reason


@pytest.mark.parametrize("sample", [one for one in SAMPLES if "data" in one.message], ids=lambda one: one.name)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_bad_row_does_not_take_the_good_ones_with_it(sample: Sample, place: int) -> None:
    (good,) = sample.decoded(sample.frame())

    def with_neighbours(message: dict[str, Any]) -> None:
        (row,) = message["data"]
        rows = [copy.deepcopy(row) for _ in range(3)]
        message["data"] = rows
        put(message, ("data", place, sample.prices[0][-1]), "NaN")

    events = sample.decoded(sample.frame(with_neighbours))
    assert [isinstance(event, BadFrame) for event in events] == [number == place for number in range(3)]
    assert events.count(good) == 2


@each_sample
def test_a_row_of_another_type_is_a_bad_frame(sample: Sample) -> None:
    key = "data" if "data" in sample.message else "k"
    values: list[Any] = [None, 1, "text", True, {}, [None], [1], [[]], ["text"], [{}]]
    for value in values:
        if key in sample.message:
            events = sample.decoded(sample.with_value((key,), value))
            assert [type(event) for event in events] == [BadFrame]


@each_exchange
@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"1",
        b'"text"',
        b"{}",
        b'{"data":',
        b"\xff\xfe",
        '{"e":"kl',
        '{"a":"\ud800"}',
        "\ud800",
    ],
    ids=repr,
)
def test_what_is_no_message_at_all_is_a_bad_frame(exchange: str, frame: str | bytes) -> None:
    (event,) = adapter_for(exchange).decode(frame)
    assert isinstance(event, BadFrame)


@each_sample
def test_a_frame_cut_anywhere_is_a_bad_frame(sample: Sample) -> None:
    frame = sample.frame()
    for length in range(len(frame)):
        (event,) = sample.decoded(frame[:length])
        assert isinstance(event, BadFrame), frame[:length]


@each_exchange
def test_a_character_cut_in_two_is_a_bad_frame(exchange: str) -> None:
    for sample in SAMPLES:
        if sample.exchange == exchange:
            frame = sample.frame().replace(b"BTC", "₿TC".encode()[:2])
            (event,) = sample.decoded(frame)
            assert isinstance(event, BadFrame)


@each_exchange
def test_deep_nesting_is_a_bad_frame(exchange: str) -> None:
    for opening in (b"[" * 100_000, b'{"e":' * 100_000, b'{"e":"kline","k":' + b"[" * 100_000):
        (event,) = adapter_for(exchange).decode(opening)
        assert isinstance(event, BadFrame)


@each_exchange
@settings(max_examples=200, deadline=None)
@given(frame=st.one_of(st.binary(max_size=200), st.text(max_size=200)))
def test_arbitrary_bytes_never_raise(exchange: str, frame: str | bytes) -> None:
    for event in adapter_for(exchange).decode(frame):
        assert isinstance(event, EVENTS)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@each_exchange
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_frames_never_raise_and_give_usable_rows_only(exchange: str, data: st.DataObject) -> None:
    sample = data.draw(st.sampled_from([one for one in SAMPLES if one.exchange == exchange]))
    message = copy.deepcopy(sample.message)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(_places(message)) or [()]))
        if path:
            put(message, path, data.draw(json_values))
    check_usable(sample, json.dumps(message).encode("utf-8", "surrogatepass"))


@each_exchange
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_frames_with_flipped_bytes_never_raise_and_give_usable_rows_only(exchange: str, data: st.DataObject) -> None:
    sample = data.draw(st.sampled_from([one for one in SAMPLES if one.exchange == exchange]))
    frame = bytearray(sample.frame())
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    check_usable(sample, bytes(frame))


def check_usable(sample: Sample, frame: bytes) -> None:
    for event in sample.decoded(frame):
        assert isinstance(event, EVENTS)
        if isinstance(event, Kline):
            assert 0 < event.low <= event.high < 1e18
            assert event.open > 0
            assert event.close > 0
            assert event.volume >= 0
            assert event.open_ts % 1000 == 0
        if isinstance(event, Trade):
            assert event.price > 0
            assert event.volume > 0
            assert event.trade_id


def _places(message: Any, path: tuple[str | int, ...] = ()) -> Any:
    """Every path of a message."""
    steps = message.items() if isinstance(message, dict) else enumerate(message) if isinstance(message, list) else ()
    for step, value in steps:
        yield (*path, step)
        yield from _places(value, (*path, step))
