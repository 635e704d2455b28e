"""Indicators as further columns of a runner's candles.

Each series (symbol and timeframe) has its window of candles. It is filled before the run with the candles before the
first one that the warm-up gives, from REST; what comes then, emitted or not, goes through it in order. So a value is
that of the whole series. A series whose timeframe the exchange's REST does not have begins empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anyio
from pydantic import create_model

from streammachine.errors import DataInputError
from streammachine.indicators import Indicator, IndicatorWindow, warmup_of
from streammachine.indicators.warmup import MOST_HISTORY
from streammachine.market.live import warmup
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.kline import Kline
from streammachine.market.network import rest_queries

if TYPE_CHECKING:
    from streammachine.market.model.data_input import DataInput
    from streammachine.market.model.rows import Row
    from streammachine.market.network.rest_client import RestClient


class IndicatorRows:
    """The windows of one run.

    Args:
        indicators: what ``parse_all`` gives.

    Attributes:
        model: ``Kline`` with the indicators' columns, floats or None.

    Raises:
        DataInputError: there are no candles to compute them on.
    """

    def __init__(self, indicators: Sequence[Indicator], data_input: DataInput) -> None:
        if data_input.timeframe is None:
            raise DataInputError("indicators need candles: give a timeframe, e.g. timeframe='1m'")
        self.indicators = list(indicators)
        columns: dict[str, Any] = {name: (float | None, None) for each in indicators for name in each.columns}
        self.model: type[Kline] = create_model("IndicatorKline", __base__=Kline, **columns)
        self._windows: dict[tuple[str, str], IndicatorWindow] = {}

    async def load(self, rest: RestClient, data_input: DataInput, resume: warmup.Resume) -> None:
        """Fill the windows with the candles before those that the warm-up is going to give.

        Raises:
            ExchangeError, ExchangeUnavailableError: REST refuses, or does not answer.
        """
        base = data_input.timeframe or ""
        count = min(warmup_of(self.indicators), MOST_HISTORY)
        now = rest.clock.time_ms()
        limiter = anyio.CapacityLimiter(max(1, rest.adapter.rest.parallel))

        async def one(symbol: str, timeframe: str) -> None:
            first, _ = warmup.begin(data_input, symbol, now, resume)
            end = timeframes.ceil(timeframe, first)
            async with limiter:
                start = timeframes.shift(timeframe, end, -count)
                for kline in await rest_queries.fetch_klines(rest, symbol, timeframe, start, end):
                    self._value(kline)

        async with anyio.create_task_group() as group:
            for symbol in data_input.symbols:
                for timeframe in dict.fromkeys((base, *data_input.aggregate_list)):
                    if count and timeframe in rest.adapter.timeframes:
                        group.start_soon(one, symbol, timeframe)

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """The rows, candles with their indicators."""
        return [self._with_columns(row) if isinstance(row, Kline) else row for row in rows]

    def _with_columns(self, kline: Kline) -> Kline:
        made = object.__new__(self.model)
        put = object.__setattr__
        put(made, "__dict__", kline.__dict__ | self._value(kline))
        put(made, "__pydantic_fields_set__", kline.__pydantic_fields_set__)
        put(made, "__pydantic_extra__", None)
        put(made, "__pydantic_private__", None)
        return made

    def _value(self, kline: Kline) -> dict[str, float | None]:
        key = kline.symbol, kline.timeframe
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = IndicatorWindow(self.indicators)
        return window.add(kline.open_ts, (kline.open, kline.high, kline.low, kline.close, kline.volume))
