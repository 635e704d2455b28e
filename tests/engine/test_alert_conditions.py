"""Conditions of alerts: what they mean, what they refuse, and that they see what TA-Lib computes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import talib

from streammachine.runtime.alerts.condition import AlertCondition, ConditionError
from streammachine.runtime.alerts.rows import Window, row_of

CLOSES = [100 + 10 * math.sin(n / 5) + n % 3 for n in range(600)]
VOLUMES = [10 + n % 17 for n in range(600)]


def window(condition: AlertCondition, closes: list[float], volumes: list[float] | None = None) -> Window:
    found = Window(condition, "closed")
    for number, close in enumerate(closes):
        volume = volumes[number] if volumes is not None else 1.0
        values = {"open": close, "high": close, "low": close, "close": close, "price": close, "volume": volume}
        found.add((number, number, values))
    return found


def holds(text: str, closes: list[float], volumes: list[float] | None = None) -> bool:
    condition = AlertCondition(text)
    values = window(condition, closes, volumes).values()
    assert values is not None
    return condition.holds(values)


@pytest.mark.parametrize(
    ("text", "closes", "expected"),
    [
        ("close > 50000", [50_001.0], True),
        ("close > 50000", [50_000.0], False),
        ("close > 5e4 and not (close > 60000)", [55_000.0], True),
        ("prev.close < close", [1.0, 2.0], True),
        ("prev(prev(close)) == 1", [1.0, 2.0, 3.0], True),
        ("cross(close, 10)", [9.0, 11.0], True),
        ("cross(close, 10)", [11.0, 9.0], True),
        ("cross(close, 10)", [11.0, 12.0], False),
        ("cross_up(close, 10)", [11.0, 9.0], False),
        ("cross_up(close, 10)", [10.0, 10.5], True),
        ("cross_down(close, 10)", [10.0, 9.5], True),
        ("abs(close - prev.close) / prev.close > 0.02", [100.0, 97.0], True),
        ("max(open, close) > 2 ? low > 1 : false", [3.0], True),
        ("close < 2e-12", [1e-12], True),
    ],
)
def test_a_condition_means_what_it_says(text: str, closes: list[float], expected: bool) -> None:
    assert holds(text, closes) is expected


def test_indicators_are_those_of_talib() -> None:
    condition = AlertCondition("rsi14 < 30 && volume > 2 * sma(volume, 20) && prev.ema26 > macd12_26_9_signal")
    values = window(condition, CLOSES, [float(each) for each in VOLUMES]).values()
    assert values is not None
    closes, volumes = np.array(CLOSES), np.array(VOLUMES, dtype=float)
    expected = {
        "rsi14": talib.RSI(closes, 14)[-1],
        "sma20_of_volume": talib.SMA(volumes, 20)[-1],
        "volume": volumes[-1],
        "prev1_ema26": talib.EMA(closes, 26)[-2],
        "macd12_26_9_signal": talib.MACD(closes)[1][-1],
    }
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, rel=1e-6), name


def test_a_crossing_of_an_average_is_found_at_every_candle_where_it_is() -> None:
    condition = AlertCondition("cross(close, sma20)")
    average = talib.SMA(np.array(CLOSES), 20)
    above = np.array(CLOSES) > average
    expected = [n for n in range(20, len(CLOSES)) if above[n] != above[n - 1]]
    rows = Window(condition, "closed")
    found = []
    for number, close in enumerate(CLOSES):
        rows.add((number, number, dict.fromkeys(("open", "high", "low", "close", "price"), close) | {"volume": 1.0}))
        values = rows.values()
        if values is not None and condition.holds(values):
            found.append(number)
    assert found == expected
    assert rows.size < 30


def test_what_has_too_few_candles_before_it_has_no_values() -> None:
    condition = AlertCondition("close > sma20")
    assert window(condition, CLOSES[:19]).values() is None
    assert window(condition, CLOSES[:20]).values() is not None


def test_the_states_of_a_running_candle_are_one_row() -> None:
    condition = AlertCondition("close > prev.close")
    rows = Window(condition, "running")
    for begin, close in ((0, 5.0), (60, 6.0), (60, 4.0), (0, 9.0)):
        data = {"open_ts": str(begin), "open": "5", "high": "9", "low": "1", "close": str(close), "is_closed": "false"}
        row = row_of(data, "running")
        assert row is not None
        rows.add(row)
    assert rows.values() == {"close": 4.0, "prev1_close": 5.0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clse > 1", "Did you mean 'close'"),
        ("close > 50k", "no number"),
        ("close", "not true or false"),
        ("close >", "cannot be read"),
        ("close > 'a'", "means nothing"),
        ("[1, 2].map(x, x)", "means nothing"),
        ("1 > 0", "asks for nothing"),
        ("foo(close) > 1", "no indicator"),
        ("sma20000 > 1", "1 to 2000"),
        ("cross(close)", "two"),
        ("cross(close, 1", "bracket"),
        ("prev(prev(prev(prev(close)))) > 1", "rows back"),
        ("close.x > 1", "none belongs"),
        ("x" * 501, "1 to 500"),
        ("+".join(["low"] * 110) + " > 1", "words and signs"),
        (" > 1 && ".join(f"sma{n}" for n in range(2, 14)) + " > 1", "more than 10"),
        ("cross(" * 30 + "close" + ", 1)" * 30, "rows back"),
        ("", "1 to 500"),
    ],
)
def test_what_is_refused_says_why(text: str, said: str) -> None:
    with pytest.raises(ConditionError, match=said):
        AlertCondition(text)
