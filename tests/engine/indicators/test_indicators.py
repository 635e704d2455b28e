"""Indicators are TA-Lib's own values, with the history that each needs."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import talib

from streammachine.errors import IndicatorError
from streammachine.indicators import (
    Indicator,
    IndicatorWindow,
    compute,
    compute_indicators,
    library,
    parse,
    parse_all,
    warmup_of,
)
from support.klines import PRICES as NAMES
from support.klines import random_candles

CANDLES = random_candles(6000)


def tail(count: int) -> dict[str, Any]:
    return {name: CANDLES[name][-count:] for name in NAMES}


def assert_same(found: list[float | None], wanted: Any, name: str) -> None:
    values = [math.nan if value is None else value for value in found]
    known = np.asarray(wanted, dtype=float)
    known[~np.isfinite(known)] = math.nan
    scale = np.nanmax(np.abs(known)) if np.isfinite(known).any() else 1.0
    np.testing.assert_allclose(values, known, rtol=1e-8, atol=1e-8 * scale, err_msg=name)


@pytest.mark.parametrize(
    ("text", "columns", "wanted"),
    [
        ("sma:20", ["sma20"], lambda c: [talib.SMA(c["close"], 20)]),
        ("EMA:50", ["ema50"], lambda c: [talib.EMA(c["close"], 50)]),
        ("rsi", ["rsi14"], lambda c: [talib.RSI(c["close"], 14)]),
        (
            "macd:12,26,9",
            ["macd12_26_9", "macd12_26_9_signal", "macd12_26_9_hist"],
            lambda c: talib.MACD(c["close"], 12, 26, 9),
        ),
        (
            "bbands:20,2.5",
            ["bbands20_2p5_upper", "bbands20_2p5_middle", "bbands20_2p5_lower"],
            lambda c: talib.BBANDS(c["close"], 20, 2.5, 2.5),
        ),
        ("ATR(14)", ["atr14"], lambda c: [talib.ATR(c["high"], c["low"], c["close"], 14)]),
        (
            "stoch:14,3,3",
            ["stoch14_3_3_slowk", "stoch14_3_3_slowd"],
            lambda c: talib.STOCH(c["high"], c["low"], c["close"], 14, 3, 0, 3, 0),
        ),
        ("ma:20,1", ["ma20_1"], lambda c: [talib.EMA(c["close"], 20)]),
        ("obv", ["obv"], lambda c: [talib.OBV(c["close"], c["volume"])]),
    ],
)
def test_values_are_talibs_own(text: str, columns: list[str], wanted: Any) -> None:
    indicator = parse(text)
    found = compute([indicator], CANDLES)
    assert list(found) == columns
    for column, values in zip(columns, wanted(CANDLES), strict=True):
        assert_same(found[column], values, column)


@pytest.mark.parametrize("name", library.names())
def test_a_range_with_its_history_has_the_values_of_the_whole_series(name: str) -> None:
    indicator = parse(name)
    found = compute([indicator], tail(50 + indicator.history), shown=50)
    whole = compute([indicator], tail(50) if indicator.cumulative else CANDLES, shown=50)
    for column in indicator.columns:
        assert_same(found[column], [math.nan if value is None else value for value in whole[column]], column)


def test_by_text_it_is_the_same() -> None:
    assert compute_indicators(["macd", "obv"], tail(60), shown=5) == compute(
        parse_all(["macd", "obv"]), tail(60), shown=5
    )


def test_less_history_than_it_needs_gives_other_values() -> None:
    indicator = parse("rsi:14")
    short, whole = compute([indicator], tail(100), shown=50), compute([indicator], CANDLES, shown=50)
    assert short["rsi14"] != pytest.approx(whole["rsi14"], rel=1e-9)
    assert indicator.history == 14 + 32 * 14


def test_what_adds_up_begins_at_the_first_candle_shown() -> None:
    assert parse("vwap").columns == ("ta_vwap",)  # a candle has a vwap of its own
    found = compute([parse("vwap"), parse("rsi:14")], tail(500), shown=30)
    last = tail(30)
    assert_same(found["ta_vwap"], talib.VWAP(*(last[name] for name in ("high", "low", "close", "volume"))), "vwap")
    assert None not in found["rsi14"]


def test_before_the_window_is_full_there_is_no_value() -> None:
    found = compute([parse("sma:5"), parse("cdldoji"), parse("sma:2000")], tail(12))
    assert found["sma5"][:4] == [None] * 4
    assert found["sma5"][4] is not None
    assert found["cdldoji"][:10] == [None] * 10
    assert found["sma2000"] == [None] * 12
    assert compute([parse("sma:5")], {name: [] for name in NAMES}) == {"sma5": []}


def test_a_price_that_is_none_is_no_number() -> None:
    candles: dict[str, Any] = {name: [1.0] * 30 for name in NAMES}
    candles["volume"] = [None] * 30
    found = compute([parse("obv"), parse("sma:3")], candles)
    assert found["obv"] == [None] * 30
    assert found["sma3"][-1] == 1.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("smaa:3", "Did you mean 'sma'"),
        ("bolinger", "Did you mean 'bbands'"),
        ("qqqqq", "Some there are"),
        ("rsi:x", "give name:period"),
        ("rsi:1,2", "takes 1 numbers, not 2: give rsi:14 (timeperiod)"),
        ("obv:3", "takes no numbers, not 1: give obv alone"),
        ("sma:0", "refused by TA-Lib"),
        ("sma:2.5", "whole number"),
        ("sma:-5", "give 1 to 2000"),
        ("sma:99999", "give 1 to 2000"),
        ("", "is no indicator"),
        ("sma:" + "9" * 5000, "is no indicator"),
        ("mavp", "There is no indicator"),
    ],
)
def test_a_wrong_one_says_what_is_right(text: str, words: str) -> None:
    with pytest.raises(IndicatorError) as caught:
        parse(text)
    assert words in str(caught.value)


def test_each_once_and_not_too_many() -> None:
    assert [each.text for each in parse_all(["RSI", "rsi:14", "sma:3"])] == ["rsi:14", "sma:3"]
    assert warmup_of(parse_all(["sma:3", "rsi:14"])) == 462
    assert warmup_of([]) == 0
    with pytest.raises(IndicatorError, match="9 indicators are too many"):
        parse_all(f"sma:{period}" for period in range(2, 11))


def test_candle_by_candle_is_the_same() -> None:
    indicators = parse_all(["rsi:14", "macd", "obv"])
    window = IndicatorWindow(indicators)
    rows = list(zip(*(CANDLES[name][:700] for name in NAMES), strict=True))
    for start, row in enumerate(rows):
        last = window.add(start, row)
        if start == 600:  # an open candle comes again
            last = window.add(start, row)
    whole = compute(indicators, {name: CANDLES[name][:700] for name in NAMES})
    for name, value in last.items():
        assert value == pytest.approx(whole[name][-1], rel=1e-9), name
    assert set(window.add(5, rows[5]).values()) == {None}


def test_talib_is_imported_when_it_is_needed_and_missing_it_is_one_sentence() -> None:
    code = (
        "import sys, streammachine.indicators as i; assert 'talib' not in sys.modules\n"
        "sys.modules['talib'] = None\n"
        "try: i.parse('sma:3')\n"
        "except i.spec.IndicatorError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        "Indicators need TA-Lib, which is not installed: pip install 'streammachine-mcp[indicators]'"
    )


def test_columns_are_names() -> None:
    found: list[Indicator] = [parse(name) for name in library.names()]
    columns = [column for each in found for column in each.columns]
    assert all(column.isidentifier() for column in columns)
    assert len(set(columns)) == len(columns)
