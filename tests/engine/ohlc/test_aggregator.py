"""The public door: which engine, and the two helpers around stream ids and fields."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streammachine.errors import IntervalError, SettingsError, StreamIdError, TickError
from streammachine.ohlc import aggregator
from streammachine.ohlc.aggregator import (
    CandleData,
    create_ohlc_aggregator,
    format_candle_for_redis,
    parse_stream_id_timestamp,
)


def test_the_factory_makes_the_best_engine_there_is() -> None:
    native = importlib.util.find_spec("streammachine.ohlc.fast") is not None
    assert native is aggregator._HAS_FAST_OHLC_CYTHON
    name = aggregator.IMPLEMENTATION
    assert name == ("Cython" if native else "Python")
    agg = create_ohlc_aggregator()
    assert isinstance(agg, aggregator.FastOHLC)
    assert (agg.intervals, agg.max_candles) == ([60_000, 300_000], 0)
    assert create_ohlc_aggregator([1_000], max_candles=3).max_candles == 3
    with pytest.raises(IntervalError):
        create_ohlc_aggregator([])
    with pytest.raises(SettingsError):
        create_ohlc_aggregator(max_candles=-1)


def test_without_the_native_engine_the_twin_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "streammachine.ohlc.fast", None)
    spec = importlib.util.spec_from_file_location("aggregator_without_native", aggregator.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.IMPLEMENTATION == "Python"
    assert module._HAS_FAST_OHLC_CYTHON is False
    assert module.create_ohlc_aggregator([1_000]).__class__.__module__ == "streammachine.ohlc.reference"


@pytest.mark.parametrize("stream_id", [b"1638360000000-0", "1638360000000-0", "1638360000000", b"1638360000000-17"])
def test_a_stream_id_has_its_milliseconds(stream_id: bytes | str) -> None:
    assert parse_stream_id_timestamp(stream_id) == 1_638_360_000_000


@pytest.mark.parametrize(
    "wrong", ["", b"", "-", "1-", "-1", "x", "1-x", "1.5-0", " 1-0", "+1-0", "1-0-0", "²-0", "9" * 20, None, 5, b"\xff"]
)
def test_what_is_no_stream_id_is_refused(wrong: Any) -> None:
    with pytest.raises(StreamIdError):
        parse_stream_id_timestamp(wrong)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_every_stream_id_is_read(milliseconds: int, sequence: int) -> None:
    assert parse_stream_id_timestamp(f"{milliseconds}-{sequence}") == milliseconds


def test_a_candle_becomes_fields_of_text() -> None:
    candle = CandleData(1e-07, 1e22, -1.5, 61837.63, 0.1 + 0.2, 60_005, 60_000, 3)
    assert format_candle_for_redis(candle, b"BTC", 60_000) == {
        "symbol": "BTC",
        "interval_ms": "60000",
        "candle_start_ms": "60000",
        "open": "0.0000001",
        "high": "10000000000000000000000",
        "low": "-1.5",
        "close": "61837.63",
        "volume": "0.30000000000000004",
        "trade_count": "3",
    }


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_plain_decimals_that_float_reads_back(value: float) -> None:
    text = format_candle_for_redis(CandleData(value, value, value, value), "X", 1)["open"]
    assert float(text).hex() == value.hex()
    assert "e" not in text.lower()


@pytest.mark.parametrize("symbol", ["", b"", b"\xff", "\ud800", None, 5], ids=repr)
def test_a_bad_symbol_is_not_formatted(symbol: Any) -> None:
    with pytest.raises(TickError):
        format_candle_for_redis(CandleData(1.0, 1.0, 1.0, 1.0), symbol, 1)


@pytest.mark.parametrize("interval", [0, -1, 1.5, "1", None, True], ids=repr)
def test_a_bad_interval_is_not_formatted(interval: Any) -> None:
    with pytest.raises(IntervalError):
        format_candle_for_redis(CandleData(1.0, 1.0, 1.0, 1.0), "X", interval)
