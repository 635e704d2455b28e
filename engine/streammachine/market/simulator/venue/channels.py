"""Channels: one stream of candles or trades, for all sockets that subscribed to it.

A candle channel follows its candle: pushes while it runs, the closing frame a little after its end, then the next one.
Sockets share a channel, so two of them see the same frames at the same time.
"""

from __future__ import annotations

import zlib

from streammachine.market.model.timeframe import DAY
from streammachine.market.simulator.tape.candles import Bar
from streammachine.market.simulator.tape.tape import TapeTrade
from streammachine.market.simulator.venue.host import Host, Subscriber
from streammachine.market.simulator.venue.timers import ScheduledCall
from streammachine.market.simulator.venue.topics import PushFrame, StreamTopic


class Channel:
    """One stream and who gets it."""

    def __init__(self, exchange: Host, topic: StreamTopic) -> None:
        self.exchange = exchange
        self.topic = topic
        self.sessions: dict[Subscriber, None] = {}
        self.last: PushFrame | None = None

    def open(self) -> None:
        """The first socket subscribed."""

    def close(self) -> None:
        """The last socket went."""

    def greet(self, session: Subscriber, *, early: bool = False) -> None:
        """A socket subscribed: what it gets at once. ``early``: in any case, for the acknowledgement comes later."""

    def publish(self, push: PushFrame) -> None:
        """Send a frame to every socket of the channel."""
        self.last = push
        for session in list(self.sessions):
            session.deliver(push)


class CandleChannel(Channel):
    """The candles of a symbol, with a closing frame (Binance, OKX, Bybit)."""

    def __init__(self, exchange: Host, topic: StreamTopic) -> None:
        super().__init__(exchange, topic)
        self.timeframe = topic.timeframe or ""
        now = exchange.now()
        self.start = topic.grid.floor(now)
        before = topic.grid.shift(self.start, -1)
        if now < self.start + self._delay(before):
            self.start = before
        self._closing: ScheduledCall | None = None
        self._shown: tuple[int, int] | None = None

    @property
    def end(self) -> int:
        """Where the candle ends that runs, or whose closing frame is due."""
        return self.topic.grid.shift(self.start)

    def open(self) -> None:
        self._await_close()

    def close(self) -> None:
        if self._closing is not None:
            self._closing.cancel()

    def greet(self, session: Subscriber, *, early: bool = False) -> None:
        if early or self.exchange.rules.first_push:
            bar = self._running()
            if bar is not None:
                session.deliver(self._push(bar, closing=False))

    def push(self) -> None:
        """The time of a push: the running candle, if it is one."""
        bar = self._running()
        if bar is None:
            return
        state = (self.start, bar.count)
        if state != self._shown or self.exchange.rules.push_unchanged:
            self._shown = state
            self.publish(self._push(bar, closing=False))

    def _running(self) -> Bar | None:
        """The candle that runs; None while the one before waits for its closing frame, and where nothing is traded."""
        now = self.exchange.now()
        if not self.start <= now < self.end or self.exchange.silent(self.topic.symbol):
            return None
        return self._bar(now + 1)

    def _push(self, bar: Bar, *, closing: bool) -> PushFrame:
        text = self.exchange.candle_frame(self.topic, bar, closing=closing)
        return PushFrame(self.topic, text, self.exchange.price(self.topic, bar.close, bar), closing)

    def _bar(self, until: int) -> Bar | None:
        return self.exchange.candles.bar(self.topic.symbol, self.topic.grid, self.start, until)

    def _await_close(self) -> None:
        self._closing = self.exchange.at(self.end + self._delay(self.start), self._close_candle)

    def _close_candle(self) -> None:
        exchange, end = self.exchange, self.end
        bar = self._bar(end)
        self.start = end
        self._await_close()
        if bar is None or exchange.silent(self.topic.symbol):
            return
        push = self._push(bar, closing=True)
        symbol, timeframe = self.topic.symbol, self.timeframe
        if exchange.board.take("lost_close", symbol=symbol, timeframe=timeframe) is not None:
            exchange.lack("socket", symbol, timeframe, bar.start)
            return
        late = exchange.board.take("late_close", symbol=symbol, timeframe=timeframe)
        if late is None:
            self.publish(push)
        else:
            seconds = 5.0 if late.seconds is None else late.seconds
            exchange.at(exchange.now() + int(seconds * 1000), lambda: self.publish(push))

    def _delay(self, start: int) -> int:
        """Milliseconds between the candle's end and its closing frame, always the same for the same candle."""
        delays = self.exchange.rules.close_delays
        drawn = zlib.crc32(f"{self.exchange.seed}:{self.topic.symbol}:{start}".encode())
        delay = int(delays[drawn % len(delays)] * 1000)
        return min(delay, (self.topic.grid.step or DAY) // 4)


class TradeFedChannel(Channel):
    """A channel that lives on trades: ``feed`` gets what came since the last time."""

    def feed(self, trades: list[TapeTrade]) -> None:
        """New trades of the channel's symbol, oldest first, at least one."""
        raise NotImplementedError


class TradeChannel(TradeFedChannel):
    """The trades of a symbol."""

    def greet(self, session: Subscriber, *, early: bool = False) -> None:
        for push in self.exchange.trade_greeting(self.topic):
            session.deliver(push)

    def feed(self, trades: list[TapeTrade]) -> None:
        for text, price in self.exchange.trade_frames(self.topic, trades):
            self.publish(PushFrame(self.topic, text, price))


class TradeFeeder:
    """Brings the trades of one symbol to the channels that live on them, a moment after they happen."""

    def __init__(self, exchange: Host, symbol: str) -> None:
        self.exchange = exchange
        self.symbol = symbol
        self.channels: dict[TradeFedChannel, None] = {}
        self._seen = exchange.now()
        self._timer: ScheduledCall | None = None
        self._arm()

    def stop(self) -> None:
        """No channel is left."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        moment = self.exchange.tape.next_ts(self.symbol, self._seen)
        delay = int(self.exchange.rules.trade_delay * 1000)
        self._timer = None if moment is None else self.exchange.at(moment + delay, self._run)

    def _run(self) -> None:
        now = self.exchange.now()
        trades = list(self.exchange.tape.rows(self.symbol, self._seen + 1, now + 1))
        self._seen = now
        if trades and not self.exchange.silent(self.symbol):
            for channel in list(self.channels):
                channel.feed(trades)
        self._arm()


class PushTimer:
    """Wakes the candle channels of one push period, on a grid of the exchange's time."""

    PHASE = 350  # milliseconds behind the full second

    def __init__(self, exchange: Host, period: int) -> None:
        self.exchange = exchange
        self.period = period
        self.channels: dict[CandleChannel, None] = {}
        self._timer: ScheduledCall | None = None
        self._arm()

    def stop(self) -> None:
        """No channel is left."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        now = self.exchange.now()
        moment = (now - self.PHASE) // self.period * self.period + self.period + self.PHASE
        self._timer = self.exchange.at(moment, self._run)

    def _run(self) -> None:
        self._arm()
        for channel in list(self.channels):
            channel.push()
