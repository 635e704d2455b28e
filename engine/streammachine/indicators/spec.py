"""What a text as "rsi:14" asks for: the function, its parameters, the names of its columns, the history it needs."""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from streammachine.errors import IndicatorError
from streammachine.indicators import library, warmup

MOST = 8  # indicators in one request
LONGEST_PERIOD = 2000  # candles
_TEXT = re.compile(r"\s*([A-Za-z][A-Za-z0-9_]{0,40})\s*(?:[:(]\s*([0-9.,\s+-]{1,80}?)\s*\)?)?\s*")
# A column must not be taken for one of the candle's own.
_OF_CANDLES = frozenset(
    [
        "source",
        "symbol",
        "timeframe",
        "open_ts",
        "end_ts",
        "open",
        "high",
        "low",
        "close",
        "volume",
        "quote_volume",
        "vwap",
        "n_trades",
        "is_closed",
        "is_complete",
        "estimated",
        "origin",
        "candle_start_ms",
        "timestamp_ms",
        "trade_count",
    ]
)
# What people call an indicator whose name in TA-Lib is another.
_WORDS = {"bollinger": "bbands", "stochastic": "stoch", "williams": "willr", "parabolic": "sar", "awesome": "ao"}
# TA-Lib's names of outputs, without what the column's beginning says already.
_SUFFIXES = {
    "macd": "",
    "macdsignal": "signal",
    "macdhist": "hist",
    "upperband": "upper",
    "middleband": "middle",
    "lowerband": "lower",
    "supertrend": "",
    "mama": "",
}


@dataclass(frozen=True, slots=True)
class Indicator:
    """One indicator as it was asked for.

    Attributes:
        text: in its full form, "macd:12,26,9". function: TA-Lib's name. parameters: by TA-Lib's names.
        columns: names of its columns, one for each output: "sma20", "macd12_26_9_signal". They are names in
            expressions and in SQL too.
        history: candles before the first one shown that its values depend on (``warmup``).
        cumulative: it adds up from the first candle given, so it has no history, and begins where the range does.
        on_price: its values are prices. styles: how each column is drawn, "line", "dashed", "histogram" or "dots".
    """

    text: str
    function: str
    parameters: tuple[tuple[str, int | float], ...]
    columns: tuple[str, ...]
    history: int
    cumulative: bool
    on_price: bool
    styles: tuple[str, ...]


def parse_all(texts: Iterable[str], *, most: int = MOST) -> list[Indicator]:
    """The indicators that the texts ask for, each once, in their order.

    Raises:
        IndicatorError: as ``parse``, or there are more than ``most``.
    """
    if isinstance(texts, str):
        texts = [texts]
    found = {indicator.text: indicator for indicator in map(parse, texts)}
    if len(found) > most:
        raise IndicatorError(f"{len(found)} indicators are too many: give at most {most}.")
    return list(found.values())


def warmup_of(indicators: Sequence[Indicator]) -> int:
    """How many candles before the first one shown all of them need."""
    return max((indicator.history for indicator in indicators), default=0)


@functools.lru_cache(maxsize=512)
def parse(text: str) -> Indicator:
    """The indicator that a text asks for: "sma:20", "rsi", "macd:12,26,9", "bbands:20,2", "RSI(14)".

    The names are TA-Lib's in any case, the numbers its parameters in its order, without its kinds of averages unless
    all are given ("stoch:14,3,3", "ma:20,1"); what is left out has TA-Lib's default. One width of Bollinger bands
    stands for both sides.

    Raises:
        IndicatorError: no such indicator (the text names the nearest), a parameter is none, or TA-Lib is not installed.
    """
    match = _TEXT.fullmatch(text) if isinstance(text, str) and len(text) <= 200 else None
    if match is None:
        raise IndicatorError(f"{str(text)[:60]!r} is no indicator: give name:period, as sma:20 or macd:12,26,9.")
    name = match[1].lower()
    if name not in library.names():
        raise IndicatorError(f"There is no indicator {name!r}.{_nearest(name)}")
    function = library.function(name)
    given = [part.strip() for part in match[2].split(",")] if match[2] else []
    parameters = _parameters(name, function, given)
    spelled = _spelled(name, function, parameters)
    handle = library.abstract(name)
    try:
        handle.parameters = dict(parameters)
        lookback = int(handle.lookback)
    except Exception as error:  # noqa: BLE001  # TA-Lib raises plain Exceptions
        raise IndicatorError(f"{name}:{spelled} is refused by TA-Lib: {error}") from None
    if lookback < 0:
        raise IndicatorError(f"{name}:{spelled} is refused by TA-Lib: give {_usage(name, function)}.")
    return Indicator(
        text=f"{name}:{spelled}" if spelled else name,
        function=function.name,
        parameters=parameters,
        columns=_columns(name, parameters, function),
        history=warmup.history(function, dict(parameters), lookback),
        cumulative=warmup.is_cumulative(function),
        on_price=function.on_price,
        styles=tuple(
            _style(function.name, output, style)
            for output, style in zip(function.outputs, function.styles, strict=True)
        ),
    )


def _parameters(name: str, function: library.Function, given: list[str]) -> tuple[tuple[str, int | float], ...]:
    """What is given and TA-Lib's defaults. The kinds of averages are given only where all parameters are."""
    plain = [key for key, _ in function.parameters if "matype" not in key]
    every = [key for key, _ in function.parameters]
    if name == "bbands" and len(given) == 2:
        given = [*given, given[1]]
    if len(given) > len(plain) and len(given) != len(every):
        raise IndicatorError(
            f"{name} takes {len(plain) or 'no'} numbers, not {len(given)}: give {_usage(name, function)}."
        )
    texts = dict(zip(plain if len(given) <= len(plain) else every, given, strict=False))
    return tuple(
        (key, _number(name, function, key, texts[key], default) if key in texts else default)
        for key, default in function.parameters
    )


def _number(name: str, function: library.Function, key: str, text: str, default: int | float) -> int | float:
    try:
        value = float(text)
    except ValueError:
        raise IndicatorError(f"{text!r} in {name} is no number: give {_usage(name, function)}.") from None
    if not isinstance(default, int):
        return value
    if not value.is_integer():
        raise IndicatorError(f"{key} of {name} is a whole number, not {text}: give {_usage(name, function)}.")
    if not 0 <= value <= LONGEST_PERIOD:
        raise IndicatorError(f"{key} of {name} is {text}: give 1 to {LONGEST_PERIOD}.")
    return int(value)


def _usage(name: str, function: library.Function) -> str:
    """``macd:12,26,9 (fastperiod, slowperiod, signalperiod)``."""
    if not function.parameters:
        return f"{name} alone"
    plain = [(key, value) for key, value in function.parameters if "matype" not in key]
    return f"{name}:{','.join(_shown(value) for _, value in plain)} ({', '.join(key for key, _ in plain)})"


def _nearest(name: str) -> str:
    wanted = {**{each: each for each in library.names()}, **_WORDS}
    close = dict.fromkeys(wanted[each] for each in difflib.get_close_matches(name, wanted, n=3, cutoff=0.6))
    if close:
        return f" Did you mean {' or '.join(repr(each) for each in close)}?"
    return " Some there are: sma, ema, rsi, macd, bbands, atr, vwap, obv, adx, stoch, cci, mfi."


def _shown(value: int | float) -> str:
    return f"{value:g}" if isinstance(value, float) and math.isfinite(value) else str(value)


def _spelled(name: str, function: library.Function, parameters: Sequence[tuple[str, int | float]]) -> str:
    """The numbers of an indicator's full form."""
    kinds = any(pair not in function.parameters for pair in parameters if "matype" in pair[0])
    values = [value for key, value in parameters if kinds or "matype" not in key]
    if name == "bbands" and not kinds and values[1] == values[2]:
        del values[2]
    return ",".join(_shown(value) for value in values)


def _columns(name: str, parameters: Sequence[tuple[str, int | float]], function: library.Function) -> tuple[str, ...]:
    """``sma20``; ``macd12_26_9``, ``macd12_26_9_signal``, ``macd12_26_9_hist``; ``bbands20_2_upper``."""
    defaults, outputs = function.parameters, function.outputs
    values = [value for key, value in parameters if "matype" not in key or (key, value) not in defaults]
    if name == "bbands" and len(values) >= 3 and values[1] == values[2]:
        del values[2]
    stem = name + "_".join(_shown(value).replace(".", "p").replace("-", "m").replace("+", "") for value in values)
    if len(outputs) == 1:
        return (f"ta_{stem}" if stem in _OF_CANDLES else stem,)
    suffixes = [_SUFFIXES.get(output, output) for output in outputs]
    return tuple(f"{stem}_{suffix}" if suffix else stem for suffix in suffixes)


def _style(function: str, output: str, words: Sequence[str]) -> str:
    if function in ("SAR", "SAREXT", "FRACTAL") or (function, output) == ("SUPERTREND", "trend"):
        return "dots"
    if function.startswith("CDL") or "Histogram" in words:
        return "histogram"
    return "dashed" if "Dashed Line" in words else "line"
