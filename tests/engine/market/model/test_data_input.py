"""DataInput: what is accepted, and what the refusals say."""

from __future__ import annotations

from typing import Any

import pytest

from streammachine import DataInput
from streammachine.errors import DataInputError


@pytest.mark.parametrize("name", ["kline", "candle", "ohlc", "Kline", "ohlcv"])
def test_any_exchange_name_for_candles_is_accepted(name: str) -> None:
    assert DataInput(type=name, symbols=["BTCUSDT"], timeframe="1m").kind == "kline"


def test_the_documented_example() -> None:
    made = DataInput(type="kline", symbols=["BTCUSDT", "ETHUSDT"], timeframe="1m", aggregate_list=["5m", "15m", "1h"])
    assert (made.type, made.symbols, made.timeframe, made.aggregate_list) == (
        "kline",
        ["BTCUSDT", "ETHUSDT"],
        "1m",
        ["5m", "15m", "1h"],
    )
    assert DataInput("kline", ["BTCUSDT"], "1m").aggregate_list == []


def test_trades_need_no_timeframe() -> None:
    assert DataInput(type="trade", symbols=["BTCUSDT"]).timeframe is None
    assert DataInput(type="trades", symbols=["BTCUSDT"], timeframe="1s", aggregate_list=["1m"]).kind == "trade"


def test_repeated_symbols_and_targets_are_taken_once_in_their_order() -> None:
    made = DataInput("kline", ["B", " A ", "B"], "1m", ["15m", "5m", "15m"])
    assert made.symbols == ["B", "A"]
    assert made.aggregate_list == ["15m", "5m"]


def test_the_lists_of_the_caller_are_not_kept() -> None:
    symbols, targets = ["BTCUSDT"], ["5m"]
    made = DataInput("kline", symbols, "1m", targets)
    symbols.append("ETHUSDT")
    targets.append("15m")
    assert (made.symbols, made.aggregate_list) == (["BTCUSDT"], ["5m"])


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"type": "depth"}, "type='depth' is not accepted: give kline, candle, ohlc, trade or quote"),
        ({"type": None}, "type=None"),
        ({"symbols": "BTCUSDT"}, "give a list"),
        ({"symbols": []}, "symbols is empty"),
        ({"symbols": ["BTCUSDT", ""]}, "the symbol '' is not accepted"),
        ({"symbols": [7]}, "the symbol 7 is not accepted"),
        ({"timeframe": None}, "timeframe is missing"),
        ({"timeframe": "7m"}, "'7m' is no timeframe"),
        ({"timeframe": "15M"}, "did you mean '15m'"),
        ({"aggregate_list": "5m"}, "give a list"),
        ({"aggregate_list": ["7m"]}, "'7m' is no timeframe"),
        ({"timeframe": "3m", "aggregate_list": ["5m"]}, "5m is no multiple of 3m; give some of 15m, 30m"),
        ({"timeframe": "1h", "aggregate_list": ["5m"]}, "5m candles cannot be built from 1h candles"),
        ({"aggregate_list": ["1m"]}, "1m is no multiple of 1m"),
        ({"type": "trade", "timeframe": None, "aggregate_list": ["5m"]}, "aggregate_list needs a timeframe"),
    ],
)
def test_what_is_refused_says_what_is_accepted(wrong: dict[str, Any], text: str) -> None:
    values: dict[str, Any] = {"type": "kline", "symbols": ["BTCUSDT"], "timeframe": "1m"}
    with pytest.raises(DataInputError, match=text):
        DataInput(**values | wrong)
