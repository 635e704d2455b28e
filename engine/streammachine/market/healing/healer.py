"""Fetches what ledgers miss: asks REST until it covers the hole, or patience ends.

REST may be behind the socket by seconds, and its newest candle may be half built: a candle counts as closed only when
the exchange says so, or a later one stands in the same answer.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import anyio

from streammachine.errors import MarketError
from streammachine.market.healing.candle_ledger import CandleLedger
from streammachine.market.healing.trade_ledger import TradeLedger
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.kline import Kline
from streammachine.market.model.rows import Row
from streammachine.market.network.rest_queries import fetch_klines, marked, trade_pages

if TYPE_CHECKING:
    from streammachine.market.clock.clock import Clock
    from streammachine.market.network.rest_client import RestClient

log = logging.getLogger(__name__)

AT_ONCE: Final = 8  # ledgers that are healed at a time, at least
FIRST_PAUSE: Final = 1.0  # seconds between the first two questions; each next pause is longer by half
LONGEST_PAUSE: Final = 10.0
CONFIRM: Final = 15.0  # seconds after which a candle that REST should only confirm is handed out
REST_UNRESPONSIVE: Final = 300.0  # seconds after a vain wait: those are not asked for, others not for longer


class Healer:
    """Heals the ledgers of one feed, each in a task of its own.

    Args:
        give_up: seconds of asking after which a Gap takes the place of what is missing.
        publish: takes the rows that were won. resubscribe: told of a ledger whose stream must have died.
    """

    def __init__(
        self,
        rest: RestClient,
        clock: Clock,
        give_up: float,
        publish: Callable[[list[Row]], Awaitable[None]],
        resubscribe: Callable[[CandleLedger | TradeLedger], None],
    ) -> None:
        self._rest = rest
        self._clock = clock
        self._give_up = give_up
        self._publish = publish
        self._resubscribe = resubscribe
        self._places = anyio.Semaphore(max(AT_ONCE, 2 * rest.adapter.rest.parallel))
        self._pending: set[CandleLedger | TradeLedger] = set()
        self._rest_unresponsive_until = float("-inf")

    @property
    def waiting(self) -> int:
        """Ledgers being healed now, or about to be."""
        return len(self._pending)

    @property
    def has_capacity(self) -> bool:
        """Whether REST can be asked what need not be asked: it has answered lately, and does not make us wait."""
        return not self._rest_is_unresponsive and not self._rest.is_held()

    @property
    def _rest_is_unresponsive(self) -> bool:
        return self._clock.monotonic() < self._rest_unresponsive_until

    def admit(self, ledger: CandleLedger | TradeLedger) -> bool:
        """Count a ledger among those that wait: ``heal`` is to be called. False: it is there already."""
        if ledger in self._pending:
            return False
        self._pending.add(ledger)
        return True

    async def heal(self, ledger: CandleLedger | TradeLedger) -> None:
        """Ask REST until the ledger, which was admitted, misses nothing any more."""
        try:
            if isinstance(ledger, CandleLedger):
                await self._heal_candles(ledger)
            else:
                await self._heal_trades(ledger)
        finally:
            self._pending.discard(ledger)

    # -- candles --

    async def _heal_candles(self, ledger: CandleLedger) -> None:
        began: float | None = None
        pause = FIRST_PAUSE
        first = ledger.expected
        while ledger.healing:
            klines: list[Kline] = []
            reason = "REST does not have it"
            async with self._places:
                if began is None or ledger.expected != first:  # patience counts from the first question
                    began, first, pause = self._clock.monotonic(), ledger.expected, FIRST_PAUSE
                patience = self._patience(ledger)
                try:
                    with self._clock.move_on_after(max(began + patience - self._clock.monotonic(), FIRST_PAUSE)):
                        klines = await self._closed(ledger)
                        self._rest_unresponsive_until = float("-inf")
                except MarketError as error:
                    reason = str(error)
            now = self._clock.time_ms()
            rows: list[Row] = []
            ledger.restore(klines, now, rows)
            tried = self._clock.monotonic() - began
            if ledger.healing and ledger.expected == first:
                if ledger.confirm_only and tried >= patience:
                    ledger.trust(now, rows)
                    self._rest_unresponsive_until = self._clock.monotonic() + REST_UNRESPONSIVE
                elif not ledger.confirm_only and tried >= self._give_up:
                    ledger.give_up(now, round(self._give_up * 1000), rows, reason)
            await self._publish(rows)
            if ledger.stream_may_be_dead:
                ledger.stream_may_be_dead = False
                self._resubscribe(ledger)
            if ledger.healing:
                await self._clock.sleep(pause)
                pause = min(pause * 1.5, LONGEST_PAUSE)
                rows = []
                ledger.restore((), self._clock.time_ms(), rows)  # the socket may have brought it meanwhile
                await self._publish(rows)

    def _patience(self, ledger: CandleLedger) -> float:
        """Seconds of asking until it goes on without. A socket that was silent proves little: it may be dead."""
        if ledger.confirm_only and (ledger.checked or self._rest_is_unresponsive):
            return min(CONFIRM, self._give_up)
        return self._give_up

    async def _closed(self, ledger: CandleLedger) -> list[Kline]:
        """The missing candles that REST has and that are closed for sure."""
        now = self._clock.time_ms()
        timeframe = ledger.timeframe
        start, end = ledger.missing(now)
        end = timeframes.end_of(timeframe, max(timeframes.floor(timeframe, now), end))
        found = await fetch_klines(self._rest, ledger.symbol, timeframe, start, end, running=True)
        sure = now - round(self._give_up * 500)  # by the question's time: the answer may have taken long
        closed = []
        for kline in found:
            if kline.is_closed:
                closed.append(kline)
            elif timeframes.end_of(timeframe, kline.open_ts) <= sure:  # the last one of a page of old candles
                closed.append(marked(kline, is_closed=True))
        return closed

    # -- trades --

    async def _heal_trades(self, ledger: TradeLedger) -> None:
        began: float | None = None
        pause = FIRST_PAUSE
        while ledger.healing:
            reason = "REST does not have it"
            async with self._places:
                began = self._clock.monotonic() if began is None else began
                asked_at = self._clock.time_ms()
                answered = False
                try:
                    with self._clock.move_on_after(max(began + self._give_up - self._clock.monotonic(), FIRST_PAUSE)):
                        await self._trades(ledger)
                        answered = True
                except MarketError as error:
                    reason = str(error)
            now = self._clock.time_ms()
            rows: list[Row] = []
            if answered:
                ledger.answered(asked_at, now, rows)
            if ledger.healing and self._clock.monotonic() - began >= self._give_up:
                ledger.give_up(now, rows, reason)
                began = None
            await self._publish(rows)
            if ledger.stream_may_be_dead:
                ledger.stream_may_be_dead = False
                self._resubscribe(ledger)
            if ledger.healing:
                await self._clock.sleep(pause)
                pause = min(pause * 1.5, LONGEST_PAUSE)

    async def _trades(self, ledger: TradeLedger) -> None:
        after_id, since = ledger.asked()
        beginning = True
        async with aclosing(trade_pages(self._rest, ledger.symbol, after_id=after_id, since=since)) as pages:
            async for page in pages:
                rows: list[Row] = []
                ledger.restore(page, rows, beginning=beginning)
                await self._publish(rows)
                beginning = False
                if ledger.meets:
                    return
