"""A feed whose sockets are ccxt's: one loop of its watch method for each symbol, and our ledgers behind it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import anyio

from streammachine.errors import ExchangeError
from streammachine.market.bridge.adapter import ccxt_pro
from streammachine.market.bridge.client import said
from streammachine.market.bridge.guard import UnreadableError, guard, what
from streammachine.market.exchanges.base import Subscription
from streammachine.market.exchanges.decode import bad_frame
from streammachine.market.live.feed import Feed
from streammachine.market.model.kline import Gap, Trade
from streammachine.market.network.websocket_session import State

if TYPE_CHECKING:
    from streammachine.market.clock.clock import Clock
    from streammachine.market.model.rows import Row

log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.25  # seconds after ccxt lost a stream; each next is twice as long
LONGEST_PAUSE: Final = 30.0
REFUSED_AGAIN: Final = 60.0
MOST_UNREAD: Final = 5  # frames that ccxt cannot read before data comes again, after which the connection is given up
MOST_UNREADABLE: Final = 10  # times in a row that a stream may fail on what ccxt cannot read, about 90 s


class CcxtFeed(Feed):
    """As ``Feed``; ``rest`` is the ``CcxtClient`` whose exchange object is watched.

    Attributes:
        unread: frames that ccxt could not read since data came last.
    """

    def __init__(self, adapter: Any, data_input: Any, *, rest: Any, clock: Clock, **options: Any) -> None:
        super().__init__(adapter, data_input, rest=rest, clock=clock, **options)
        streams = [Subscription(self._kind, symbol, self._timeframe) for symbol in self._ledgers]
        self._lines = [CcxtLine(self, rest.exchange, streams, clock)]  # type: ignore[list-item]
        # A trade that came behind one of the next candle would be in none, and nothing else would tell of it.
        folded = data_input.kind == "trade" and data_input.timeframe is not None
        self._wait = self.options.settle if folded else 0.0
        self._held: list[tuple[float, Row]] = []  # when it came
        self.unread = 0
        guard(rest.exchange, self.unreadable)

    def _put(self, rows: list[Row]) -> None:
        if self._wait:
            now = self._clock.monotonic()
            self._held += [(now, row) for row in rows]
        else:
            super()._put(rows)

    async def release(self) -> None:
        """Hand on, in the order of their times, the trades that others had time enough to overtake."""
        while self._wait:
            await self._clock.sleep(self._wait / 2)
            self.release_until(self._clock.monotonic() - self._wait)
            if len(self._outbox) >= self.options.queue:
                await self.room()

    def release_until(self, moment: float) -> None:
        """Hand on what came until the moment (by the monotonic clock), and what is older than that."""
        newest = max((_time(row) for came, row in self._held if came <= moment), default=None)
        if newest is None:
            return
        ready = sorted((row for _, row in self._held if _time(row) <= newest), key=_time)
        self._held = [held for held in self._held if _time(held[1]) > newest]
        super()._put(ready)

    def complete_until(self, symbol: str) -> int | None:
        """As ``Feed``'s; None also while trades are held."""
        return None if any(row.symbol == symbol for _, row in self._held) else super().complete_until(symbol)

    def unreadable(self, error: Exception, frame: str | bytes) -> bool:
        """A frame that ccxt fails on: a bad one, with which data may have been lost. True: too many since data came."""
        event = bad_frame(UnreadableError(what(error)), frame)
        self._take_other(event, None)
        now = self._clock.time_ms()
        named = [symbol for symbol in self._ledgers if symbol in event.excerpt]
        for symbol in named or self._ledgers:
            self._ledgers[symbol].mark_possible_loss(now)
        self.unread += 1
        return self.unread % MOST_UNREAD == 0

    def give_up(self, error: ExchangeError) -> None:
        """End the run with this error."""
        self._fail(error)


class CcxtSession:
    """One symbol's stream, as a feed sees a connection."""

    def __init__(self, line: CcxtLine, subscription: Subscription) -> None:
        self.subscriptions = (subscription,)
        self.state = State.OPENING
        self.last_frame = self.last_data = line.clock.monotonic()
        self.replaceable = anyio.Event()
        self._line = line

    def note_data(self, moment: float) -> None:
        """A frame held data."""
        self.last_data = moment

    def control(self, event: object) -> None:
        """What a frame said of the connection: nothing, here."""

    def resubscribe(self, subscriptions: Sequence[Subscription]) -> None:
        """The stream has died without a word: have ccxt open its connections anew."""
        self._line.reconnect()


class CcxtLine:
    """The loops of a feed's symbols. ``connects``: how often all were lost together, and the first time."""

    def __init__(self, feed: CcxtFeed, exchange: Any, streams: Sequence[Subscription], clock: Clock) -> None:
        self.clock = clock
        self.connects = 1
        self._feed = feed
        self._exchange = exchange
        self._streams = streams
        self._errors = ccxt_pro()
        self._tasks: anyio.abc.TaskGroup | None = None

    async def run(self) -> None:
        """Watch until cancelled or closed."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._feed.release)
            for stream in self._streams:
                tasks.start_soon(self._watch, stream)

    async def close(self) -> None:
        """End it; what is held is handed on."""
        self._feed.release_until(self.clock.monotonic())
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    def reconnect(self) -> None:
        """Give ccxt's connections up: its watch methods fail, and the loops open others.

        Not by their ``close``: that cancels what the watch methods wait for, and who awaits those takes the
        cancellation for its own.
        """
        self.connects += 1
        for client in list(self._exchange.clients.values()):
            client.on_error(self._errors.NetworkError("the stream has died"))

    async def _watch(self, stream: Subscription) -> None:
        feed, errors, source = self._feed, self._errors, self._feed.adapter.source
        session: Any = CcxtSession(self, stream)
        pause = FIRST_PAUSE
        unreadable = 0  # in a row
        while True:
            try:
                rows = await self._next(stream)
            except (errors.BadSymbol, errors.NotSupported, errors.AuthenticationError) as error:
                feed.refused(session, stream, f"{said(error)} (symbol {stream.symbol})")
                await self.clock.sleep(REFUSED_AGAIN)
                continue
            except asyncio.CancelledError:  # of what ccxt was waiting for, unless it is ours
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                session.state = State.ENDED
                feed.lost(session)
                await self.clock.sleep(pause)
                continue
            except Exception as error:  # noqa: BLE001 - ccxt's own, and whatever its parsers raise; see below
                session.state = State.ENDED
                feed.lost(session)
                if isinstance(error, (errors.BaseError, OSError, TimeoutError)):
                    log.info("%s: the stream of %s was lost: %s", source, stream.symbol, said(error))
                else:
                    unreadable += 1
                    if not isinstance(error, UnreadableError):  # else its frames were told one by one
                        feed.unreadable(error, f"the {stream.timeframe or 'trade'} stream of {stream.symbol}")
                    if unreadable == MOST_UNREADABLE:
                        feed.give_up(_unreadable(source, stream, error))
                        return
                await self.clock.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            pause, unreadable, feed.unread = FIRST_PAUSE, 0, 0
            session.last_frame = self.clock.monotonic()
            if session.state is not State.OPEN:
                session.state = State.OPEN
                feed.acknowledged(session, stream)
            if feed.received(session, (stream.symbol, stream.timeframe, rows)):  # type: ignore[arg-type]
                await feed.room()

    async def _next(self, stream: Subscription) -> list[Any]:
        """What came since the last call."""
        found: list[Any]
        if stream.timeframe is None:
            found = await self._exchange.watch_trades(stream.symbol)
        else:
            found = await self._exchange.watch_ohlcv(stream.symbol, stream.timeframe)
        return found


def _time(row: Row) -> int:
    return row.ts if isinstance(row, Trade) else row.end if isinstance(row, Gap) else 0


def _unreadable(source: str, stream: Subscription, error: Exception) -> ExchangeError:
    """What ends a run whose exchange speaks otherwise than ccxt knows."""
    name = f"{stream.timeframe or 'trade'} stream of {stream.symbol}"
    said_of_it = str(error) if isinstance(error, UnreadableError) else what(error)
    return ExchangeError(
        f"{source}: ccxt {ccxt_pro().__version__} could not read the {name} {MOST_UNREADABLE} times in a row"
        f" ({said_of_it}); a newer ccxt may"
    )
