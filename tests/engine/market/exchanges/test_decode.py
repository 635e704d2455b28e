"""Klines and Trades made in one pass are the same as those made field by field, and exact."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streammachine.market.exchanges import adapter_for
from streammachine.market.exchanges.decode import iso_ms
from streammachine.market.model.kline import Kline, Trade
from support.frames import SAMPLES, START, Sample, binance_kline, kraken_ohlc

decimals = st.decimals(min_value="0.00000001", max_value="9999999999", places=8, allow_nan=False)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_a_decoded_row_is_an_ordinary_one(sample: Sample) -> None:
    (row,) = sample.decoded(sample.frame())
    assert isinstance(row, Kline | Trade)
    model = type(row)
    assert model in (Kline, Trade)
    again = model(**{name: getattr(row, name) for name in model.model_fields})
    assert again == row
    assert hash(again) == hash(row)
    assert pickle.loads(pickle.dumps(row)) == row
    assert row.model_copy() == row
    assert model(**row.model_dump()).model_dump() == row.model_dump()
    assert row.model_dump_json() == again.model_dump_json()
    assert row.source == sample.adapter.source
    with pytest.raises(ValueError, match="frozen"):
        row.symbol = "other"


@given(price=decimals, volume=decimals)
def test_texts_become_the_nearest_float(price: object, volume: object) -> None:
    text, size = str(price), str(volume)
    frame = json.dumps(binance_kline(o=text, h=text, l=text, c=text, v=size))
    for each in (frame, frame.replace(", ", ","), json.dumps({"stream": "x", "data": json.loads(frame)})):
        (kline,) = adapter_for("binance").decode(each)
        assert isinstance(kline, Kline)
        assert (kline.open, kline.high, kline.low, kline.close) == (float(text),) * 4
        assert kline.volume == float(size)


@given(price=decimals)
def test_json_numbers_become_the_nearest_float(price: object) -> None:
    frame = json.dumps(kraken_ohlc(open="P", high="P", low="P", close="P")).replace('"P"', f"{price:f}")
    (kline,) = adapter_for("kraken").decode(frame)
    assert isinstance(kline, Kline)
    assert (kline.open, kline.high, kline.low, kline.close) == (float(f"{price:f}"),) * 4


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2026-08-12T12:46:00.000000000Z", START),
        ("2026-08-12T12:46:00Z", START),
        ("2026-08-12T12:46:00.000999Z", START),
        ("2026-08-12T12:46:00.999999999Z", START + 999),
        ("2026-08-12T14:46:00+02:00", START),
        ("1970-01-01T00:00:00Z", 0),
    ],
)
def test_iso_times_are_cut_to_the_millisecond(text: str, ms: int) -> None:
    assert iso_ms(text) == ms


@pytest.mark.parametrize("text", ["", "2026-08-12", "2026-08-12T12:46:00", "now", "2026-13-12T12:46:00Z"])
def test_a_time_without_a_zone_or_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        iso_ms(text)
