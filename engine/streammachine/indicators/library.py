"""TA-Lib, imported when it is first used, and what it says of its functions."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import Any

from streammachine.errors import IndicatorError

# Of a series that no candle has; places in the arrays, which mean nothing outside them.
_LEFT_OUT = frozenset({"MAVP", "MAXINDEX", "MININDEX", "MINMAXINDEX"})


@dataclass(frozen=True, slots=True)
class Function:
    """A function of TA-Lib, as its own description has it.

    Attributes:
        name: TA-Lib's, "MACD". parameters: name and default, in order. outputs: names of its series, in order.
        styles: how each output is drawn, TA-Lib's words ("Line", "Histogram" ...). flags: what it says of the function.
        group: TA-Lib's group, "Momentum Indicators".
    """

    name: str
    parameters: tuple[tuple[str, int | float], ...]
    outputs: tuple[str, ...]
    styles: tuple[tuple[str, ...], ...]
    flags: frozenset[str]
    group: str

    @property
    def on_price(self) -> bool:
        """Whether its values are prices, so that it is drawn over the candles."""
        return "Output scale same as input" in self.flags


def names() -> list[str]:
    """The indicators there are, in lower case, sorted.

    Raises:
        IndicatorError: TA-Lib is not installed.
    """
    return list(_names())


@functools.cache
def _names() -> tuple[str, ...]:
    return tuple(sorted(name.lower() for name in _talib().get_functions() if name not in _LEFT_OUT))


@functools.cache
def function(name: str) -> Function:
    """What TA-Lib says of a function that ``names`` has.

    Raises:
        IndicatorError: TA-Lib is not installed.
    """
    info = abstract(name).info
    return Function(
        name=name.upper(),
        parameters=tuple(info["parameters"].items()),
        outputs=tuple(info["output_names"]),
        styles=tuple(tuple(info["output_flags"][output]) for output in info["output_names"]),
        flags=frozenset(info["function_flags"] or ()),
        group=info["group"],
    )


def abstract(name: str) -> Any:
    """TA-Lib's own object of a function: called with the candles' columns by name, it takes those that it needs."""
    _talib()
    return importlib.import_module("talib.abstract").Function(name.upper())


def _talib() -> Any:
    try:
        return importlib.import_module("talib")
    except ImportError as error:
        raise IndicatorError(
            "Indicators need TA-Lib, which is not installed: pip install 'streammachine-mcp[indicators]'"
        ) from error
