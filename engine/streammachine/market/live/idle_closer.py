"""Closing the candles of symbols without trades: those built from trades, whose end no trade of a later interval shows.

That no trade came proves little: the stream may have died without a word, and its trades be healed later. So a candle
that is over is closed when the exchange's own candle of that interval, final by a later one of the same answer, has as
many trades (and as much volume) as ours. Where the exchange has no such candle, it is closed when the feed takes all
trades until then for delivered, and had the time to find out that a stream is dead. Else it is looked at again, and
closed by the next trade at the latest.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import anyio

from streammachine.errors import ExchangeError, ExchangeUnavailableError
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.kline import Kline
from streammachine.market.network import rest_queries

if TYPE_CHECKING:
    from streammachine.market.aggregation.trade_folder import TradeFolder
    from streammachine.market.live.feed import Feed
    from streammachine.market.network.rest_client import RestClient

log = logging.getLogger(__name__)

LOOK: Final = 1.0  # seconds between two looks at candles that could not be closed
PATIENCE: Final = 1.5  # times the feed's ``stale_after``: by then a dead stream was noticed and its trades are healed
ASK: Final = 5.0  # seconds between two questions to REST about one symbol


class IdleCloser:
    """Closes them. ``run`` does so until it is cancelled.

    Args:
        grace: seconds after a candle's end until it is looked at.
        turn: held by whoever changes the folder. close: called, with it held, with a symbol and the moment up to which
            its candles are over.
    """

    def __init__(
        self,
        folder: TradeFolder,
        feed: Feed,
        rest: RestClient,
        *,
        grace: float,
        turn: anyio.Lock,
        close: Callable[[str, int], Awaitable[None]],
    ) -> None:
        self._folder = folder
        self._feed = feed
        self._rest = rest
        self._grace = int(grace * 1000)
        self._turn = turn
        self._close = close
        self._patience = self._grace + int(PATIENCE * feed.options.stale_after * 1000)
        self._asked: dict[str, float] = {}
        self._can_ask = folder.timeframe in rest.adapter.timeframes
        self._limiter = anyio.CapacityLimiter(max(1, rest.adapter.rest.parallel))

    async def run(self) -> None:
        """Close candles when their time has come."""
        folder, clock = self._folder, self._rest.clock
        while True:
            now = clock.time_ms()
            due = folder.due()
            if due is None:
                due = timeframes.end_of(folder.timeframe, timeframes.floor(folder.timeframe, now))
            if now < due + self._grace:
                await clock.sleep_until(due + self._grace)
            else:
                await clock.sleep(LOOK)
            async with anyio.create_task_group() as group:
                for symbol in folder.symbols():
                    if self._is_over(symbol):
                        await self._close_known(symbol)
                        if self._can_ask and self._is_over(symbol) and self._may_ask(symbol):
                            group.start_soon(self._close_confirmed, symbol)

    def _is_over(self, symbol: str) -> bool:
        end = self._folder.end_of(symbol)
        return end is not None and end + self._grace <= self._rest.clock.time_ms()

    def _may_ask(self, symbol: str) -> bool:
        now = self._rest.clock.monotonic()
        if now < self._asked.get(symbol, -math.inf) + ASK:
            return False
        self._asked[symbol] = now
        return True

    async def _close_known(self, symbol: str) -> None:
        """Close what the feed knows to be whole."""
        async with self._turn:
            known = self._feed.complete_until(symbol)
            if known is not None:  # nothing may come between: what is closed is what was delivered until then
                await self._close(symbol, min(known, self._rest.clock.time_ms() - self._patience))

    async def _close_confirmed(self, symbol: str) -> None:
        """Close what the exchange's own candles confirm."""
        folder, rest = self._folder, self._rest
        ours = folder.standing(symbol)
        if ours is None:
            return
        behind = timeframes.shift(folder.timeframe, timeframes.floor(folder.timeframe, rest.clock.time_ms()))
        try:
            async with self._limiter:
                klines = await rest_queries.fetch_klines(
                    rest, symbol, folder.timeframe, ours.open_ts, behind, running=True
                )
        except (ExchangeError, ExchangeUnavailableError) as error:
            log.warning("the candles of %s without trades cannot be confirmed: %s", symbol, error)
            return
        async with self._turn:
            for theirs in klines:
                ours = folder.standing(symbol)
                if ours is None or not theirs.is_closed or theirs.open_ts > ours.open_ts:
                    return
                if theirs.open_ts == ours.open_ts:
                    if ours.is_complete and not _agree(ours, theirs):
                        return
                    await self._close(symbol, ours.end_ts + 1)


def _agree(ours: Kline, theirs: Kline) -> bool:
    if ours.n_trades is not None and theirs.n_trades is not None and ours.n_trades != theirs.n_trades:
        return False
    return math.isclose(ours.volume, theirs.volume, rel_tol=1e-6, abs_tol=1e-12)
