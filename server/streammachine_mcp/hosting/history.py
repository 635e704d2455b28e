"""The history of a runner's candles, written before it goes live: ``runner_start(history="7d")``.

Each symbol and timeframe is a backfill into the runner's own sinks, in order. One of the exchange's own timeframes goes
on where it was when its host was killed, by its journal or by what the Redis stream holds; an aggregate that the
exchange does not have is folded from the base candles, and is begun anew. What is older than a Redis stream that is
there already goes to the archive of its series.
"""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from streammachine.errors import DataInputError
from streammachine_mcp.hosting.sinks import emitter_for, jobs

if TYPE_CHECKING:
    from streammachine.market.backfill.backfill import Backfilling
    from streammachine.redis.connection import RedisConnection
    from streammachine.runtime.admin.remembered import BackfillSpec, RunnerSpec

log = logging.getLogger(__name__)

LastCandles = dict[tuple[str, str], int]  # (symbol, timeframe) to the open_ts of its last candle


class HistoryWriter:
    """Writes the history of one runner; call ``write`` once."""

    def __init__(self, connection: RedisConnection, spec: RunnerSpec) -> None:
        self._connection = connection
        self._spec = spec
        self._backfill: Backfilling | None = None
        self._series = ("", "")
        self._written = 0

    async def write(self) -> LastCandles:
        """Write it all; gives the last candle of each symbol and timeframe.

        Raises: as ``Backfilling.arun``.
        """
        from streammachine.market.exchanges import adapter_for
        from streammachine.market.model import timeframe as timeframes

        spec, last = self._spec, LastCandles()
        base = spec.timeframe or ""
        own = adapter_for(spec.exchange, spec.market_type).timeframes
        for symbol in spec.symbols:
            for timeframe in (base, *spec.aggregate):
                self._series = (symbol, timeframe)
                try:
                    if timeframe in own:
                        made = self._make(symbol, timeframe, spec.history_from_ms)
                        await made.arun()
                    else:
                        made = self._make(symbol, base, timeframes.ceil(timeframe, spec.history_from_ms))
                        await self._fold(made, base, timeframe)
                except DataInputError as error:  # none of its candles is over since then
                    log.info("No history of %s %s: %s", symbol, timeframe, error)
                else:
                    end = timeframes.floor(timeframe, made.stats()["end"])
                    last[symbol, timeframe] = timeframes.shift(timeframe, end, -1)
                self._written += 1
        return last

    def facts(self) -> dict[str, Any]:
        """How far it is, for runner_list."""
        spec, (symbol, timeframe) = self._spec, self._series
        found: dict[str, Any] = {"symbol": symbol, "timeframe": timeframe, "done": self._written}
        found["of"] = len(spec.symbols) * (1 + len(spec.aggregate))
        if self._backfill is not None:
            stats = self._backfill.stats()
            found |= {name: stats[name] for name in ("fraction", "rows", "gaps", "eta_s")}
        return {"history": found}

    def _make(self, symbol: str, timeframe: str, start: int) -> Backfilling:
        self._backfill = made = backfilling(self._connection, self._spec, symbol, timeframe, start, "now")
        for emitter in self._emitters():
            made.register_emitter(emitter)
        return made

    def _emitters(self) -> list[Any]:
        return [emitter_for(text, self._connection.settings, self._connection, past=True) for text in self._spec.emit]

    async def _fold(self, base_candles: Backfilling, base: str, timeframe: str) -> None:
        from streammachine.market.aggregation.candle_aggregator import Aggregator
        from streammachine.market.emitters.outlet import Outlet
        from streammachine.market.model.kline import Kline

        aggregator = Aggregator(base, [timeframe])
        async with AsyncExitStack() as stack:
            outlets = [await stack.enter_async_context(Outlet(emitter)) for emitter in self._emitters()]
            async for batch in base_candles.stream():
                made = [candle for row in batch for candle in aggregator.add(Kline(**row)) if isinstance(candle, Kline)]
                for outlet in outlets:
                    await outlet.put(made)
            for outlet in outlets:
                await outlet.drain()


def backfilling(
    connection: RedisConnection,
    spec: RunnerSpec | BackfillSpec,
    symbol: str,
    timeframe: str,
    start: int,
    end: int | str,
) -> Backfilling:
    """A backfill for what is remembered, without emitters; its journals are its own, from its creation on."""
    from streammachine.market.backfill.backfill import backfill_for

    return backfill_for(
        *(spec.exchange, symbol, timeframe, start, end),
        market_type=spec.market_type,
        data_dir=jobs(connection.settings) / f"{spec.name}-{spec.created_ms}",
        progress=False,
    )
