"""A chart is a PNG of the size that was asked for, whatever its values and names are."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from PIL import Image

from streammachine.charts import Chart, ChartLine, draw_chart
from streammachine.errors import ChartError
from streammachine.indicators import compute, parse_all
from support.klines import MINUTE, random_candles

T0 = 1_723_161_600_000


def chart(count: int = 200, texts: tuple[str, ...] = (), **changes: Any) -> Chart:
    candles = {name: [float(value) for value in column] for name, column in random_candles(count).items()}
    wanted = parse_all(texts)
    values = compute(wanted, candles)
    lines = [
        ChartLine(each.text, {name: values[name] for name in each.columns}, each.styles, each.on_price)
        for each in wanted
    ]
    given = {"title": "BTCUSDT", "times": [T0 + n * MINUTE for n in range(count)], **candles, "lines": lines}
    return Chart(**{**given, **changes})


def flat(value: float, count: int = 20, **changes: Any) -> Chart:
    prices = {name: [value] * count for name in ("open", "high", "low", "close", "volume")}
    return chart(count, **{**prices, **changes})


def picture(given: Chart) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return np.asarray(Image.open(io.BytesIO(draw_chart(given))).convert("RGB"), dtype=int)


def test_two_hundred_candles_with_four_indicators_are_under_120_kb() -> None:
    png = draw_chart(chart(200, ("sma:20", "bbands:20,2", "rsi:14", "macd")))
    assert png.startswith(b"\x89PNG")
    assert len(png) < 120_000
    assert Image.open(io.BytesIO(png)).size == (1000, 600)


@pytest.mark.parametrize(("theme", "dark"), [("light", False), ("dark", True)])
def test_a_theme_is_the_ground(theme: str, dark: bool) -> None:
    assert bool(picture(chart(30, theme=theme))[2, 2].mean() < 80) is dark


def test_what_is_not_finished_looks_different() -> None:
    whole = picture(chart(50))
    for changes in (
        {"closed": [True] * 49 + [False]},
        {"complete": [n != 20 for n in range(50)]},
        {"missing": [400 if n == 25 else 0 for n in range(50)]},
    ):
        assert (picture(chart(50, **changes)) != whole).any(), changes


@pytest.mark.parametrize("value", [1e-12, 61837.63, 0.0, -3.0, 1.7e308, 5e-324])
def test_flat_prices_of_any_size_are_a_line_in_the_middle(value: float) -> None:
    seen = picture(flat(value, volume=[0.0] * 20))
    ground = seen[80, 500]
    painted = [y for y in range(60, 560) if (abs(seen[y, 100:800] - ground).sum(axis=1) > 120).mean() > 0.4]
    assert painted
    assert abs(np.mean(painted) - 312) < 6


@pytest.mark.parametrize("count", [1, 2, 2000])
def test_few_and_many_candles(count: int) -> None:
    assert picture(chart(count, ("obv",) if count > 1 else ())).shape == (600, 1000, 3)


def test_no_volume_and_values_that_are_none() -> None:
    picture(chart(30, ("sma:200", "rsi:14"), volume=[None] * 30))


def test_names_with_markup_are_drawn_as_they_are() -> None:
    """A dollar sign begins a formula in matplotlib, which fails on this one."""
    name = "$\\frac{$ <b>&amp;</b>\n\x00 日本 " + "long" * 60
    line = ChartLine(name, {"x": [1.0] * 20}, ["line"], on_price=False)
    picture(chart(20, title=name, lines=[line]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"times": []}, "0 candles cannot be drawn"),
        ({"close": [1.0]}, "differ in length"),
        ({"missing": [1, 2]}, "differ in length"),
        ({"theme": "blue"}, "no theme 'blue'"),
        ({"width": 100_000}, "pixels are not accepted"),
    ],
)
def test_what_cannot_be_drawn_says_why(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ChartError, match=words):
        chart(30, **changes)


def test_nothing_global_and_one_sentence_without_matplotlib() -> None:
    code = (
        "import sys\n"
        "from streammachine.charts import Chart, draw_chart\n"
        "assert 'matplotlib' not in sys.modules\n"
        "chart = Chart('t', [0], [1.0], [1.0], [1.0], [1.0], [None])\n"
        "draw_chart(chart)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "for name in [each for each in sys.modules if each.startswith('matplotlib')]: sys.modules[name] = None\n"
        "try: draw_chart(chart)\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        "Charts as pictures need matplotlib, which is not installed: pip install 'streammachine-mcp[charts]'"
    )
