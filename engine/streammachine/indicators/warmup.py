"""How many candles before the first one shown an indicator needs, so that its values are those of the whole series.

Three kinds of functions:

- With a window (sma, bbands, stoch, wma ...): as many as the window is long less one, which TA-Lib calls the lookback.
- With a memory that fades (ema, macd, rsi, atr, adx ...): an exponential average with weight ``a`` for the newest value
  still has the share ``(1 - a) ** n`` of what lay ``n`` candles back. With ``a = 2 / (period + 1)`` it is below 1e-9
  after 10.4 periods, with Wilder's ``a = 1 / period`` after 20.8 (J. W. Wilder, New Concepts in Technical Trading
  Systems, 1978); averages of averages take somewhat longer. Hence 16 and 32 periods. TA-Lib calls some of them
  functions with an unstable period.
- That add up (obv, vwap, ad ...): no history is enough; they begin at the first candle shown.

``tests/engine/indicators`` compares each function of TA-Lib with itself over a long series.
"""

from __future__ import annotations

from collections.abc import Mapping

from streammachine.indicators.library import Function

MOST_HISTORY = 10_000  # candles read before a range, whatever the indicators would need

_EXPONENTIAL, _WILDER = 16, 32  # periods
_FADES_AS = {
    **dict.fromkeys(
        [
            "ADOSC",
            "APO",
            "CVI",
            "DEMA",
            "EFI",
            "EMA",
            "ERI",
            "KC",
            "KDJ",
            "MACD",
            "MACDEXT",
            "MACDFIX",
            "MASSI",
            "PPO",
            "PVO",
            "SMI",
            "T3",
            "TEMA",
            "TRIX",
            "TSI",
            "ZLEMA",
        ],
        _EXPONENTIAL,
    ),
    **dict.fromkeys(
        [
            "ADX",
            "ADXR",
            "ATR",
            "CMO",
            "DX",
            "MINUS_DI",
            "MINUS_DM",
            "NATR",
            "PLUS_DI",
            "PLUS_DM",
            "RMA",
            "RSI",
            "RVI",
            "STOCHRSI",
            "SUPERTREND",
        ],
        _WILDER,
    ),
}
_FIXED = {  # candles, where the memory does not hang on a parameter
    "HA": 64,
    "HT_DCPERIOD": 500,
    "HT_DCPHASE": 500,
    "HT_PHASOR": 500,
    "HT_SINE": 500,
    "HT_TRENDLINE": 500,
    "HT_TRENDMODE": 500,
    "MAMA": 800,
    "SAR": 500,  # forgets when it turns
    "SAREXT": 500,
}
_FADING_AVERAGES = {1: _EXPONENTIAL, 3: _EXPONENTIAL, 4: _EXPONENTIAL, 6: _WILDER, 7: _WILDER, 8: _EXPONENTIAL}
_WINDOW_AVERAGES = (0, 2, 5)  # TA-Lib's MA types: SMA, WMA, TRIMA
_LEAST_PERIOD = {"MACDFIX": 26, "KAMA": 30, "KDJ": 9}


def is_cumulative(function: Function) -> bool:
    """Whether it adds up from the first candle it is given."""
    return (
        "Output is path-dependent" in function.flags and function.name not in _FADES_AS and function.name not in _FIXED
    )


def history(function: Function, parameters: Mapping[str, int | float], lookback: int) -> int:
    """Candles before the first one shown.

    Args:
        parameters: by TA-Lib's names. lookback: TA-Lib's, for these parameters.
    """
    if is_cumulative(function):
        return 0
    if function.name in _FIXED:
        return lookback + _FIXED[function.name]
    return lookback + _periods(function, parameters) * _longest(function.name, parameters)


def _periods(function: Function, parameters: Mapping[str, int | float]) -> int:
    """How many periods its memory takes to fade; 0: it has a window."""
    found = _FADES_AS.get(function.name, 0)
    if not found and "Function has an unstable period" in function.flags:
        found = _WILDER
    for key, value in parameters.items():
        if "matype" in key and value not in _WINDOW_AVERAGES:
            found = max(found, _FADING_AVERAGES.get(int(value), _WILDER))
    return found


def _longest(name: str, parameters: Mapping[str, int | float]) -> int:
    periods = [int(value) for key, value in parameters.items() if isinstance(value, int) and "matype" not in key]
    return max([*periods, _LEAST_PERIOD.get(name, 1)])
