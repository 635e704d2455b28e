"""Candles as a tool gives them: columns (the smaller form) or rows, the fields that were asked for, indicators."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import anyio.to_thread
from pydantic import Field

from streammachine.errors import FieldError
from streammachine_mcp.results import fit

if TYPE_CHECKING:
    from streammachine.indicators import Indicator

DIGITS = 12  # of an indicator's value: TA-Lib's own are no better for having more
_VALUE = 0.1234567890123  # as long in JSON as an indicator's value is

# The descriptions are short: four tools have these, and every client pays for each.
Indicators = Annotated[list[str] | None, Field(description="'sma:20', 'rsi:14', 'macd:12,26,9'...")]
Fields = Annotated[list[str] | None, Field(description="Only these columns")]
Form = Annotated[Literal["columns", "rows"], Field(description="rows: twice as long")]
CandleValue = float | int | bool | None


class CandleTable:
    """What a call wants of candles.

    Args:
        names: the columns of the rows that will come; the first is the time.
        fields: those wanted, None for all but ``rare``; the time is always given.
        indicators: texts of indicators.
        rare: columns that are given only where they are asked for.

    Raises:
        FieldError: a field is none.
    """

    def __init__(
        self,
        names: Sequence[str],
        fields: Sequence[str] | None,
        form: str,
        indicators: Sequence[Indicator] = (),
        *,
        rare: Sequence[str] = (),
    ) -> None:
        self.names = tuple(names)
        self.form = form
        self.indicators = list(indicators)
        chosen = [name for name in names if name not in rare] if not fields else [names[0], *fields]
        unknown = [name for name in chosen if name not in names]
        if unknown:
            close = difflib.get_close_matches(unknown[0].lower(), names, n=1, cutoff=0.5)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise FieldError(f"Candles have no field {unknown[0][:60]!r}.{hint} They have {', '.join(names)}.")
        self.fields = list(dict.fromkeys(chosen))
        self._places = [self.names.index(name) for name in self.fields]

    @property
    def history(self) -> int:
        """How many candles before the first one given the indicators need."""
        return history_of(self.indicators)

    def fit(self, rows: Sequence[Sequence[Any]], *, newest: bool) -> tuple[list[Sequence[Any]], bool]:
        """The rows that fit into a result, oldest first as they come, and whether any was left out.

        Args:
            newest: what does not fit is the oldest.
        """
        more = dict.fromkeys((column for each in self.indicators for column in each.columns), _VALUE)
        ordered = list(reversed(rows)) if newest else list(rows)
        if self.form == "rows":
            shown: list[Any] = [{**self._named(row), **more} for row in ordered]
        else:
            shown = [[*(row[place] for place in self._places), *more.values()] for row in ordered]
        kept = len(fit(shown)[0])
        chosen = ordered[:kept]
        if newest:
            chosen.reverse()
        return chosen, kept < len(ordered)

    async def body(self, rows: Sequence[Sequence[Any]], history: Sequence[Sequence[Any]] = ()) -> dict[str, Any]:
        """``columns``, and in the form of rows ``candles`` instead of what is in them, as they go into the result.

        Args:
            rows: what is shown, oldest first. history: the candles before them.
        """
        columns: dict[str, list[CandleValue]] = {
            name: [row[place] for row in rows] for name, place in zip(self.fields, self._places, strict=True)
        }
        columns |= await indicator_columns(self.indicators, self.names, rows, history)
        if self.form != "rows":
            return {"columns": columns}
        across = zip(*columns.values(), strict=True)
        return {"columns": {}, "candles": [dict(zip(columns, values, strict=True)) for values in across]}

    def _named(self, row: Sequence[Any]) -> dict[str, Any]:
        return {name: row[place] for name, place in zip(self.fields, self._places, strict=True)}


async def indicators_of(texts: Sequence[str] | None, *, most: int | None = None) -> list[Indicator]:
    """The indicators that texts ask for; TA-Lib is imported in a thread, by the first call.

    Raises:
        IndicatorError: a text is none, there are too many, or TA-Lib is not installed.
    """
    if not texts:
        return []

    def parsed() -> list[Indicator]:
        from streammachine.indicators.spec import MOST, parse_all

        return parse_all(texts, most=MOST if most is None else most)

    return parsed() if "talib" in sys.modules else await anyio.to_thread.run_sync(parsed)


def history_of(indicators: Sequence[Indicator]) -> int:
    """How many candles before the first one shown are read for the indicators."""
    if not indicators:
        return 0
    from streammachine.indicators.spec import warmup_of
    from streammachine.indicators.warmup import MOST_HISTORY

    return min(warmup_of(indicators), MOST_HISTORY)


async def indicator_columns(
    indicators: Sequence[Indicator],
    names: Sequence[str],
    rows: Sequence[Sequence[Any]],
    history: Sequence[Sequence[Any]],
) -> Mapping[str, list[CandleValue]]:
    """The indicators' values at ``rows``, by column, each of at most ``DIGITS`` digits."""
    if not indicators:
        return {}

    def computed() -> dict[str, list[CandleValue]]:
        from streammachine.indicators.compute import PRICES, compute

        places = {name: names.index(name) for name in PRICES}
        series = [*history, *rows]
        prices = {name: [row[place] for row in series] for name, place in places.items()}
        found = compute(indicators, prices, shown=len(rows))
        return {
            name: [None if value is None else float(f"{value:.{DIGITS}g}") for value in values]
            for name, values in found.items()
        }

    return await anyio.to_thread.run_sync(computed)
