"""The rows of a series as alerts see them: read from stream entries, kept as far back as conditions look."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from streammachine.indicators.compute import compute
from streammachine.runtime.alerts.condition import MOST_BACK, PRICES, SERIES, AlertCondition, Variable

On = Literal["closed", "running", "tick"]
ONS: tuple[On, ...] = ("closed", "running", "tick")
MOST_ROWS = 5000  # that are kept of a series

Row = tuple[int, int, dict[str, float]]  # when it begins, when it ends, its numbers


def row_of(data: Mapping[str, str], on: On) -> Row | None:
    """An entry's row; None where it is none of the kind that is asked for.

    Args:
        on: closed candles; candles, closed or not; or ticks, of which each is a row with one price.
    """
    if on == "closed" and data.get("is_closed") != "true":
        return None
    if on == "tick":
        price = _number(data.get("price", ""))
        volume = _number(data.get("volume", data.get("qty", "")))
        if price is None:
            return None
        moment = _number(data.get("ts", data.get("timestamp", ""))) or 0.0
        values = dict.fromkeys(("price", "open", "high", "low", "close"), price)
        return int(moment), int(moment), {**values, "volume": volume or 0.0}
    values = {name: number for name in SERIES if (number := _number(data.get(name, ""))) is not None}
    begin = _number(data.get("open_ts", ""))
    if begin is None or not {"open", "high", "low", "close"} <= values.keys():
        return None
    values.setdefault("price", values["close"])
    return int(begin), int(_number(data.get("end_ts", "")) or begin), values


class Window:
    """The newest rows of a series, as many as a condition needs.

    Args:
        condition: what will be asked. on: what the rows are.
    """

    def __init__(self, condition: AlertCondition, on: On) -> None:
        self._condition = condition
        self._on = on
        cumulative = any(each.indicator is not None and each.indicator.cumulative for each in _variables(condition))
        self.size = MOST_ROWS if cumulative else min(condition.rows, MOST_ROWS)
        self._rows: deque[Row] = deque(maxlen=self.size)

    @property
    def newest(self) -> int:
        """When the newest row begins; -1: there is none."""
        return self._rows[-1][0] if self._rows else -1

    def add(self, row: Row) -> bool:
        """Take a row; False where it is older than the newest, which is kept."""
        if self._on != "tick" and self._rows:
            last = self._rows[-1][0]
            if row[0] < last:
                return False
            if row[0] == last:
                self._rows[-1] = row
                return True
        self._rows.append(row)
        return True

    def values(self) -> dict[str, float] | None:
        """The condition's variables at the newest row; None while there are too few rows for one of them."""
        found: dict[str, float] = {}
        computed: dict[tuple[str, str], list[float | None]] = {}
        for name, variable in self._condition.variables.items():
            value = self._value(variable, computed)
            if value is None:
                return None
            found[name] = value
        return found

    def _value(self, variable: Variable, computed: dict[tuple[str, str], list[float | None]]) -> float | None:
        if len(self._rows) <= variable.back:
            return None
        if variable.indicator is None:
            return self._rows[-1 - variable.back][2].get(variable.name)
        if (variable.column, variable.on) not in computed:
            shown = None if variable.indicator.cumulative else MOST_BACK + 1
            columns = compute([variable.indicator], self._columns(variable.on), shown=shown)
            computed |= {(name, variable.on): column for name, column in columns.items()}
        return computed[variable.column, variable.on][-1 - variable.back]

    def _columns(self, on: str) -> dict[str, list[float | None]]:
        columns: dict[str, list[float | None]] = {name: [row[2].get(name) for row in self._rows] for name in PRICES}
        return {**columns, "close": columns[on]} if on else columns


def _variables(condition: AlertCondition) -> Iterable[Variable]:
    return condition.variables.values()


def _number(text: Any) -> float | None:
    try:
        number = float(text)
    except (ValueError, TypeError):
        return None
    return number if math.isfinite(number) else None
