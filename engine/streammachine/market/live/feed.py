"""One DataInput of one exchange, healed: connections, ledgers and REST brought together.

Frames come from the lines' sessions, are decoded and go through the ledger of their symbol, synchronously; the rows
that come out wait in one outbox for one deliverer, so their order is the ledgers' and nothing is lost with a
connection. While the outbox is full no socket is read: back-pressure reaches the exchange. What a ledger misses is
fetched by a task of its own.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

import anyio

from streammachine.errors import ExchangeError, SymbolError
from streammachine.market.exchanges.base import BadFrame, Numbered, Subscription, chunks
from streammachine.market.healing.candle_ledger import CandleLedger
from streammachine.market.healing.healer import Healer
from streammachine.market.healing.quote_ledger import QuoteLedger
from streammachine.market.healing.trade_ledger import TradeLedger, TradesHad
from streammachine.market.live.feed_options import FeedOptions, FeedStats
from streammachine.market.model.kline import Kline, Trade
from streammachine.market.model.quote import Quote
from streammachine.market.model.rows import Row
from streammachine.market.network.reconnector import Line
from streammachine.market.network.websocket_session import State, WebSocketSession

if TYPE_CHECKING:
    from streammachine.market.clock.clock import Clock
    from streammachine.market.exchanges.base import Adapter, Event, Urls
    from streammachine.market.model.data_input import DataInput
    from streammachine.market.network.rest_client import RestClient

log = logging.getLogger(__name__)

Ledger = CandleLedger | TradeLedger | QuoteLedger
Deliver = Callable[[list[Row]], Awaitable[None]]

BAD_FRAMES_LOGGED: Final = 5  # a minute
MINUTE: Final = 60.0
SILENCE: Final = 10.0  # seconds without data after which trades without contiguous ids are looked for by REST
SOUND_AFTER: Final = 900.0  # seconds after which a stream that had died is taken for sound again
OVERSLEPT: Final = 2000  # milliseconds: a timer so late means that this process stood still, and its sockets are unread
DEFAULTS: Final = FeedOptions()


class Feed:
    """The candles (or trades) of a DataInput, from one exchange.

    Args:
        rest: an open client of the same exchange; None: nothing can be healed (``take`` alone).
        after: what the caller has already: (symbol, timeframe) to the open_ts of the last closed candle, (symbol, None)
            to the id of the last trade. The feed goes on behind it; where there is no entry it begins with the candle
            that is running when the stream is first served, or the first trade on the socket (Kraken: the first behind
            the subscription).

    Raises:
        SymbolError, TimeframeError: the exchange does not take it in this form.
    """

    def __init__(
        self,
        adapter: Adapter,
        data_input: DataInput,
        *,
        urls: Urls,
        rest: RestClient | None,
        clock: Clock,
        options: FeedOptions = DEFAULTS,
        after: Mapping[tuple[str, str | None], int | str | TradesHad] | None = None,
    ) -> None:
        self.adapter = adapter
        self.options = options
        self._clock = clock
        self._kind = data_input.kind
        self._every = data_input.every_ms
        symbols = list(dict.fromkeys(adapter.check_symbol(symbol) for symbol in data_input.symbols))
        self._timeframe = None
        if self._kind == "kline" and data_input.timeframe is not None:
            self._timeframe = adapter.check_timeframe(data_input.timeframe)
        self._decode = adapter.decode
        self._rest = rest
        self._urls = urls
        rng = random.Random(options.seed)
        url = adapter.endpoint(self._kind, urls)
        streams = [Subscription(self._kind, symbol, self._timeframe) for symbol in symbols]
        numbers = itertools.count(1)
        self._lines = [
            Line(adapter, url, part, self, clock=clock, options=options, rng=rng, numbers=numbers)
            for part in chunks(streams, adapter.socket.streams)
        ]
        self._healer = None if rest is None else Healer(rest, clock, options.give_up, self._publish, self._resubscribe)
        self._sessions: set[WebSocketSession] = set()
        self._serving: dict[str, set[WebSocketSession]] = {symbol: set() for symbol in symbols}
        self._served_once: set[str] = set()
        self._timers: list[tuple[int, int, Ledger]] = []
        self._order = itertools.count()
        self._sooner = anyio.Event()
        self._ledgers: dict[str, Ledger] = {symbol: self._ledger(symbol, after or {}) for symbol in symbols}
        self._delivering = False
        self._outbox: list[Row] = []
        self._filled = anyio.Event()
        self._emptied = anyio.Event()
        self._was_full = False
        self._closing = anyio.Event()
        self._closed = False
        self._failure: Exception | None = None
        self._counts: Counter[str] = Counter()
        self._resubscribed: dict[str, tuple[int, float]] = {}
        self._last_data: float | None = None
        self._bad_minute = (float("-inf"), 0)

    # -- running it --

    async def run(self, deliver: Deliver) -> None:
        """Deliver rows until cancelled or closed. Call it once.

        Args:
            deliver: awaited with each batch of rows, one at a time. While it waits, so does the exchange.

        Raises:
            SymbolError, ExchangeError: a stream was refused when it was first asked for, or the URL is none.
            Whatever ``deliver`` raises.
        """
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._deliver_all, deliver, tasks.cancel_scope)
                async with anyio.create_task_group() as workers:
                    workers.start_soon(self._watch_timers, workers)
                    for line in self._lines:
                        workers.start_soon(line.run)
                    await self._closing.wait()
                    if self._failure is None:
                        for line in self._lines:
                            await line.close()
                    workers.cancel_scope.cancel()
                self._closed = True
                self._filled.set()
        except BaseExceptionGroup as group:
            raise _first(group) from None
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """End ``run`` in good order: connections are closed, what has come is delivered. Callable from anywhere in the
        loop, more than once."""
        self._closing.set()

    def take(self, frame: str | bytes, now_ms: int | None = None, session: WebSocketSession | None = None) -> list[Row]:
        """The rows that a frame brings: decoded, and through its symbol's ledger. Synchronous; the heart of it all.

        Args:
            now_ms: when it came; by default now. session: whose frame it is.
        """
        now = self._clock.time_ms() if now_ms is None else now_ms
        rows: list[Row] = []
        ledgers = self._ledgers
        data = False
        events = self._decode(frame)
        if self._timeframe is None and session is not None and events and isinstance(events[-1], Trade):
            self._check_silence(session, now)
        for event in events:
            kind = type(event)
            if kind is Numbered:
                if session is not None and session.skipped(event.number):  # type: ignore[union-attr]
                    self._mark_possible_loss(session, now)
            elif kind is Kline or isinstance(event, (Kline, Trade, Quote)):  # the first asks no metaclass
                ledger = ledgers.get(event.__dict__["symbol"])
                if ledger is None:
                    self._counts["unexpected"] += 1
                else:
                    ledger.take(event, now, rows)  # type: ignore[arg-type]
                    data = True
            else:
                self._take_other(event, session)
        if data and session is not None:
            session.note_data(session.last_frame)
            self._last_data = session.last_frame
        return rows

    def complete_until(self, symbol: str) -> int | None:
        """The moment (epoch ms) up to which all trades of the symbol are known to be delivered; None: none is, or rows
        wait to be delivered."""
        ledger = self._ledgers[symbol]
        if (
            self._outbox
            or self._delivering
            or not isinstance(ledger, TradeLedger)
            or not ledger.whole
            or ledger.healing
        ):
            return None
        now, now_ms = self._clock.monotonic(), self._clock.time_ms()
        alive = max((session.last_frame for session in self._serving[symbol]), default=None)
        if alive is None:
            return ledger.whole_until or None
        proven = now_ms - int((now - alive) * 1000) - self._ms(self.options.settle)
        checked_until = max(ledger.seen, ledger.whole_until) + ledger.idle_after
        return min(proven, checked_until)

    @property
    def stats(self) -> FeedStats:
        """What happened so far."""
        ledgers = self._ledgers.values()
        open_now = sum(session.state is State.OPEN for session in self._sessions)
        if self._closed:
            state = "closed"
        elif all(ledger.since is not None for ledger in ledgers):
            state = "live"
        else:
            state = "interrupted" if self._served_once else "starting"
        return FeedStats(
            state=state,
            connections=open_now,
            reconnects=sum(max(line.connects - 1, 0) for line in self._lines),
            frames=self._counts["frames"],
            bad_frames=self._counts["bad_frames"],
            unexpected=self._counts["unexpected"],
            healed=sum(ledger.healed for ledger in ledgers),
            gaps=sum(ledger.gaps for ledger in ledgers),
            duplicates=sum(ledger.duplicates for ledger in ledgers),
            late=sum(ledger.late for ledger in ledgers),
            conflicts=sum(ledger.conflicts for ledger in ledgers if isinstance(ledger, CandleLedger)),
            invalid=sum(ledger.invalid for ledger in ledgers),
            resubscribed=self._counts["resubscribed"],
            healing=sum(ledger.healing for ledger in ledgers),
            last_closed={
                ledger.symbol: ledger.last.open_ts
                for ledger in ledgers
                if isinstance(ledger, CandleLedger) and ledger.last is not None
            },
            data_age=None if self._last_data is None else self._clock.monotonic() - self._last_data,
        )

    # -- what sessions tell (SessionOwner) --

    def received(self, session: WebSocketSession, frame: bytes) -> bool:
        """A frame came. True: there is no room for more."""
        self._counts["frames"] += 1
        rows = self.take(frame, None, session)
        if not rows:
            return False
        self._put(rows)
        return len(self._outbox) >= self.options.queue

    async def room(self) -> None:
        """Return when there is room again."""
        self._was_full = True
        while len(self._outbox) >= self.options.queue:
            await self._emptied.wait()

    def silence(self, session: WebSocketSession) -> None:
        """No frame came for some seconds, on exchanges with a heartbeat too: were any lost?"""
        if self._timeframe is not None:
            self._mark_possible_loss(session, self._clock.time_ms())

    def acknowledged(self, session: WebSocketSession, subscription: Subscription) -> None:
        """A stream is served."""
        symbol = subscription.symbol
        if symbol in self._serving:
            self._sessions.add(session)
            self._serving[symbol].add(session)
            self._served_once.add(symbol)
            ledger, now = self._ledgers[symbol], self._clock.time_ms()
            if ledger.since is not None:  # one connection takes over from another; did that one still deliver?
                ledger.mark_possible_loss(now)
            ledger.subscribed(now)

    def refused(self, session: WebSocketSession, subscription: Subscription, reason: str) -> None:
        """A stream is not served: an error at the start, else its candles come from REST until it is."""
        symbol = subscription.symbol
        stream = f"{subscription.timeframe or subscription.kind} stream of {symbol}"
        what = f"{self.adapter.source} refused the {stream}: {reason}"
        if symbol in self._served_once or self._ledgers[symbol].seen:
            log.error("%s; REST stands in for it until the next connection", what)
            return
        named = symbol in reason or any(word in reason.lower() for word in ("symbol", "pair", "instrument", "instid"))
        self._fail(SymbolError(what) if named else ExchangeError(what))

    def has_data_since(self, subscription: Subscription, since_ms: int) -> bool:
        """Whether data of the stream came since the moment."""
        return self._ledgers[subscription.symbol].seen >= since_ms

    def lost(self, session: WebSocketSession) -> None:
        """A connection is gone, and with it the streams that no other one serves."""
        self._sessions.discard(session)
        self._stop_serving(session, session.subscriptions)

    # -- the outbox --

    def _put(self, rows: list[Row]) -> None:
        self._outbox += rows
        self._filled.set()

    async def _publish(self, rows: list[Row]) -> None:
        """Deliver rows in their turn; waits while there is no room."""
        if rows:
            self._put(rows)
            if len(self._outbox) >= self.options.queue:
                await self.room()

    async def _deliver_all(self, deliver: Deliver, scope: anyio.CancelScope) -> None:
        while True:
            if not self._outbox:
                if self._closed:
                    return
                self._filled = anyio.Event()
                await self._filled.wait()
                continue
            rows, self._outbox = self._outbox, []
            emptied, self._emptied = self._emptied, anyio.Event()
            emptied.set()
            self._delivering = True
            await deliver(rows)
            self._delivering = False

    # -- timers --

    def _on_due_changed(self, ledger: Ledger) -> None:
        """A ledger wants to be looked at at its ``due``."""
        if ledger.due is None:
            return
        sooner = not self._timers or ledger.due < self._timers[0][0]
        heapq.heappush(self._timers, (ledger.due, next(self._order), ledger))
        if sooner:
            self._sooner.set()

    async def _watch_timers(self, workers: anyio.abc.TaskGroup) -> None:
        """Look at each ledger when it is due."""
        frames_first_until = 0  # frames that were not read yet come before timers
        while True:
            now = self._clock.time_ms()
            if self._was_full:
                await self.room()
                self._was_full = False
                frames_first_until = self._clock.time_ms() + self._ms(self.options.grace)
                continue
            if now < frames_first_until:
                await self._clock.sleep_until(frames_first_until)
                continue
            if not self._timers or self._timers[0][0] > now:
                wake = self._timers[0][0] if self._timers else None
                self._sooner = anyio.Event()
                with self._clock.move_on_after(None if wake is None else (wake - now) / 1000):
                    await self._sooner.wait()
                if wake is not None and self._clock.time_ms() - wake > OVERSLEPT:
                    frames_first_until = self._clock.time_ms() + self._ms(self.options.grace)
                continue
            due, _, ledger = heapq.heappop(self._timers)
            if ledger.due != due:
                continue  # set anew since
            rows: list[Row] = []
            ledger.tick(now, rows)
            await self._publish(rows)
            if isinstance(ledger, QuoteLedger):
                continue  # nothing tells quotes of the past
            if ledger.healing and self._healer is not None and self._healer.admit(ledger):
                workers.start_soon(self._healer.heal, ledger)

    # -- what goes wrong --

    def _take_other(self, event: Event, session: WebSocketSession | None) -> None:
        if isinstance(event, BadFrame):
            self._counts["bad_frames"] += 1
            self._log_bad(event)
            if session is not None:
                self._mark_possible_loss(session, self._clock.time_ms(), event.excerpt)
        elif session is not None:
            session.control(event)  # type: ignore[arg-type]

    def _mark_possible_loss(self, session: WebSocketSession, now: int, excerpt: str = "") -> None:
        """Data may have been lost: of the symbol that the frame names, else of all on this connection."""
        symbols = [subscription.symbol for subscription in session.subscriptions]
        named = [symbol for symbol in symbols if symbol in excerpt]
        for symbol in named or symbols:
            self._ledgers[symbol].mark_possible_loss(now)

    def _check_silence(self, session: WebSocketSession, now: int) -> None:
        """Trades come after a silence: some may have been lost in it."""
        if session.last_frame - session.last_data > SILENCE:
            self._mark_possible_loss(session, now)

    def _log_bad(self, event: BadFrame) -> None:
        now = self._clock.monotonic()
        began, logged = self._bad_minute
        if now - began >= MINUTE:
            began, logged = now, 0
        self._bad_minute = (began, logged + 1)
        if logged < BAD_FRAMES_LOGGED:
            log.warning("%s sent a bad frame: %s: %r", self.adapter.source, event.reason, event.excerpt)

    def _resubscribe(self, ledger: Ledger) -> None:
        """A stream has died without a word: subscribe it again; if that does not help, take another connection."""
        symbol = ledger.symbol
        now = self._clock.monotonic()
        times, moment = self._resubscribed.get(symbol, (0, now))
        if now - moment > SOUND_AFTER:
            times = 0
        self._resubscribed[symbol] = (times + 1, now if times == 0 else moment)
        if times > 1:
            return
        self._counts["resubscribed"] += 1
        log.warning("%s: the stream of %s has died; subscribing it again", self.adapter.source, symbol)
        stream = Subscription(self._kind, symbol, self._timeframe)
        for session in tuple(self._serving[symbol]):
            if times:
                self._stop_serving(session, session.subscriptions)
                session.replaceable.set()
            else:
                self._stop_serving(session, [stream])
                session.resubscribe([stream])

    def _stop_serving(self, session: WebSocketSession, streams: Iterable[Subscription]) -> None:
        """A session no longer counts as serving some of its streams."""
        for stream in streams:
            serving = self._serving[stream.symbol]
            serving.discard(session)
            if not serving:
                self._ledgers[stream.symbol].interrupted()

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error
        self._closing.set()

    # -- helpers --

    def _ledger(self, symbol: str, after: Mapping[tuple[str, str | None], int | str | TradesHad]) -> Ledger:
        options, adapter = self.options, self.adapter
        if self._kind == "quote":
            return QuoteLedger(adapter.source, symbol, every=self._every, on_due_changed=self._on_due_changed)
        had = after.get((symbol, self._timeframe))
        if self._timeframe is None:
            return TradeLedger(
                adapter.source,
                symbol,
                contiguous=adapter.contiguous_ids,
                by_id=adapter.trades_by_id,
                before=adapter.trades_before,
                settle=self._ms(options.settle),
                grace=self._ms(options.grace),
                idle_after=self._ms(options.stale_after),
                after=had if had is None or isinstance(had, TradesHad) else str(had),
                on_due_changed=self._on_due_changed,
            )
        return CandleLedger(
            adapter.source,
            symbol,
            self._timeframe,
            adapter.closes,
            grace=self._ms(options.grace),
            settle=self._ms(options.settle),
            open_rows=options.open_candles,
            after=int(had) if isinstance(had, (int, str)) else None,
            on_due_changed=self._on_due_changed,
            may_verify=self._may_verify,
            may_check=self._may_check,
        )

    def _may_verify(self) -> bool:
        return self._healer is not None and self._healer.waiting < self.options.verify

    def _may_check(self) -> bool:
        healer = self._healer
        return healer is not None and healer.waiting < self.options.confirm and healer.has_capacity

    @staticmethod
    def _ms(seconds: float) -> int:
        return round(seconds * 1000)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
