"""What all simulated exchanges share: time, sockets, channels, REST, and the faults on them.

An exchange's own file says how its protocol writes all that. Everything runs in callbacks of the loop and of the
injected clock; an error in one ends the simulator where it is awaited.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import orjson
from websockets.frames import Opcode

from streammachine.market.clock import Clock, Wakeup
from streammachine.market.simulator.board import Board, Log
from streammachine.market.simulator.candles import UTC, Bar, Candles, Grid
from streammachine.market.simulator.channels import (
    CandleChannel,
    Channel,
    Pulse,
    Pump,
    Push,
    Topic,
    TradeChannel,
    TradeFed,
)
from streammachine.market.simulator.faults import Fault
from streammachine.market.simulator.rules import Rules
from streammachine.market.simulator.session import GOING_AWAY, Session, numbers_for_texts
from streammachine.market.simulator.tape import Tape, TapeTrade, trimmed
from streammachine.market.simulator.wire import Answer, Connection, HttpRequest

TIMED = ("reset", "close", "cut", "notice", "stall", "freeze", "mute", "snapshot", "burst", "error", "skew")
SLOW_PIECES = 10


class Timer:
    """A callback at a moment of an exchange's time."""

    def __init__(
        self, due: Callable[[], float], clock: Clock, callback: Callable[[], object], fail: Callable[[Exception], None]
    ) -> None:
        self._due = due
        self._clock = clock
        self._callback = callback
        self._fail = fail
        self._wakeup: Wakeup = clock.call_later(max(due(), 0.0), self._fire)
        self.waits = True

    def cancel(self) -> None:
        """Do not call it."""
        self.waits = False
        self._wakeup.cancel()

    def _fire(self) -> None:
        left = self._due()
        if left > 1e-9:
            self._wakeup = self._clock.call_later(left, self._fire)
            return
        self.waits = False
        try:
            self._callback()
        except Exception as error:  # noqa: BLE001 - raised by the simulator's task
            self._fail(error)


class Exchange:
    """One exchange. Subclasses are its protocol.

    Attributes:
        name: "binance". rules, tape, candles, clock, board, log, seed: what it is made of.
        sessions: the open sockets by number. until: while the simulator runs, its failures go to ``fail``.
    """

    name = ""
    limit_status = 429  # where the REST budget is spent

    def __init__(
        self,
        tape: Tape,
        clock: Clock,
        board: Board,
        log: Log,
        rules: Rules,
        seed: int,
        fail: Callable[[Exception], None],
    ) -> None:
        self.tape = tape
        self.candles = Candles(tape)
        self.clock = clock
        self.board = board
        self.log = log
        self.rules = rules
        self.seed = seed
        self._fail = fail
        self.sessions: dict[int, Session] = {}
        self._by_connection: dict[Connection, Session] = {}
        self.connections: set[Connection] = set()
        self._count = 0
        self._skew = 0
        self._timers: set[Timer] = set()
        self._channels: dict[Topic, Channel] = {}
        self._pumps: dict[str, Pump] = {}
        self._pulses: dict[int, Pulse] = {}
        self._handshakes: deque[float] = deque()
        self._window = -1
        self._used = 0
        self._refused = 0
        self._banned_until = 0.0

    def start(self) -> None:
        """Arm the faults that come at a moment."""
        for fault in self.board.faults:
            if fault.kind in TIMED:
                self.later(fault.at - self.board.elapsed(), lambda fault=fault: self.strike(fault))  # type: ignore[misc]

    def stop(self) -> None:
        """Let no callback come any more, and close every connection."""
        for timer in list(self._timers):
            timer.cancel()
        self._timers.clear()
        for connection in list(self.connections):
            if connection.is_open and not connection.frozen:
                connection.close(GOING_AWAY, "the simulator ends")
            connection.end()

    # -- time --

    def now(self) -> int:
        """The exchange's time, epoch milliseconds."""
        return self.clock.time_ms() + self._skew

    def at(self, moment: int, callback: Callable[[], object]) -> Timer:
        """Call back at a moment of the exchange's time."""
        return self._timer(lambda: (moment - self.now()) / 1000, callback)

    def later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call back in so many seconds."""
        moment = self.clock.monotonic() + seconds
        return self._timer(lambda: moment - self.clock.monotonic(), callback)

    def _timer(self, due: Callable[[], float], callback: Callable[[], object]) -> Timer:
        if len(self._timers) > 256:
            self._timers = {timer for timer in self._timers if timer.waits}
        made = Timer(due, self.clock, callback, self._fail)
        self._timers.add(made)
        return made

    # -- the wire's owner --

    def connected(self, connection: Connection) -> None:
        self.connections.add(connection)

    def lost(self, connection: Connection) -> None:
        self.connections.discard(connection)
        session = self._by_connection.pop(connection, None)
        if session is not None:
            session.end()
            del self.sessions[session.number]
            self.log.add(self.name, "lost", f"{session.sent} frames", session.number)

    def failed(self, error: Exception) -> None:
        self._fail(error)

    def upgrading(self, connection: Connection, request: HttpRequest) -> bool:
        now = self.clock.monotonic()
        while self._handshakes and now - self._handshakes[0] >= self.rules.connects_within:
            self._handshakes.popleft()
        self._handshakes.append(now)
        refusal = self.board.take("refuse", connection=self._count + 1)
        if refusal is not None:
            self.log.add(self.name, "refuse", str(refusal.value or "reset"))
            if isinstance(refusal.value, int):
                self._turn_down(connection, refusal.value)
            else:
                connection.reset()
            return False
        if self.rules.connects is not None and len(self._handshakes) > self.rules.connects:
            self.log.add(self.name, "refuse", "too many connection attempts")
            self._turn_down(connection, 429)
            return False
        if not self.accepts(request):
            self.log.add(self.name, "refuse", f"no socket at {request.path}")
            self._turn_down(connection, 404)
            return False
        return True

    def _turn_down(self, connection: Connection, status: int) -> None:
        connection.send_raw(connection.head(Answer(b"", status, {"Connection": "close"}), 0))
        connection.drop()

    def opened(self, connection: Connection, request: HttpRequest) -> None:
        self._count += 1
        session = Session(self, connection, request, self._count)
        self.sessions[session.number] = session
        self._by_connection[connection] = session
        session.note("connect", request.path)
        session.open()
        self.greet(session)

    def received(self, connection: Connection, opcode: Opcode, data: bytes) -> None:
        session = self._by_connection.get(connection)
        if session is not None:
            session.received(opcode, data)

    # -- channels --

    def join(self, session: Session, topic: Topic) -> Channel:
        """The channel of a topic, with this socket in it."""
        channel = self._channels.get(topic)
        if channel is None:
            channel = self._channels[topic] = self.channel(topic)
            self._feed(channel)
            channel.open()
        channel.sessions[session] = None
        return channel

    def leave(self, session: Session, channel: Channel) -> None:
        """Take a socket out of a channel."""
        channel.sessions.pop(session, None)
        if channel.sessions or self._channels.pop(channel.topic, None) is None:
            return
        channel.close()
        if isinstance(channel, CandleChannel):
            period = self._period(channel)
            pulse = self._pulses[period]
            pulse.channels.pop(channel, None)
            if not pulse.channels:
                self._pulses.pop(period).stop()
        elif isinstance(channel, TradeFed):
            pump = self._pumps[channel.topic.symbol]
            pump.channels.pop(channel, None)
            if not pump.channels:
                self._pumps.pop(channel.topic.symbol).stop()

    def channel(self, topic: Topic) -> Channel:
        """A new channel for a topic."""
        return TradeChannel(self, topic) if topic.timeframe is None else CandleChannel(self, topic)

    def _feed(self, channel: Channel) -> None:
        if isinstance(channel, CandleChannel):
            period = self._period(channel)
            if period not in self._pulses:
                self._pulses[period] = Pulse(self, period)
            self._pulses[period].channels[channel] = None
        elif isinstance(channel, TradeFed):
            symbol = channel.topic.symbol
            if symbol not in self._pumps:
                self._pumps[symbol] = Pump(self, symbol)
            self._pumps[symbol].channels[channel] = None

    def _period(self, channel: CandleChannel) -> int:
        period = int(self.rules.push_every * 1000)
        return min(period, 1000) if channel.timeframe == "1s" else period

    def silent(self, symbol: str) -> bool:
        """Whether a symbol is no longer traded."""
        return bool(self.board.running("delist", symbol=symbol))

    # -- REST --

    def requested(self, connection: Connection, request: HttpRequest) -> None:
        if request.path == "/clock":
            connection.answer(self._clock_answer())
            return
        board, target = self.board, self._target(request)
        if board.take("rest_refuse") is not None:
            connection.reset()
            return
        stuck = board.take("timeout")
        if stuck is not None:
            self.later(60.0 if stuck.seconds is None else stuck.seconds, connection.drop)
            return
        answer = self._answer(request)
        self.log.add(self.name, "rest", f"{answer.status} {target}")
        if self.rules.latency > 0:
            self.later(self.rules.latency, lambda: self._deliver(connection, answer))
        else:
            self._deliver(connection, answer)

    def _target(self, request: HttpRequest) -> str:
        query = "&".join(f"{name}={value}" for name, value in request.query.items())
        return f"{request.path}?{query}" if query else request.path

    def _clock_answer(self) -> Answer:
        speed = getattr(self.clock, "speed", 1.0)
        return Answer(orjson.dumps({"time_ms": self.clock.time_ms(), "speed": speed}))

    def _answer(self, request: HttpRequest) -> Answer:
        status = self.board.take("status")
        if status is not None:
            after = 1.0 if status.seconds is None else status.seconds
            return self.refusal(int(status.value or 429), after)
        if self.board.take("garbage") is not None:
            return Answer(b"<html><body>Bad Gateway</body></html>", 200, {"Content-Type": "text/html"})
        refused = self._weigh(self.weight_of(request))
        if refused is not None:
            return refused
        answer = self.rest(request)
        return answer if answer is not None else self.not_found(request)

    def _weigh(self, weight: int) -> Answer | None:
        """Charge the budget; the refusal, where it is spent."""
        now = self.clock.time_ms() / 1000
        if now < self._banned_until:
            return self.refusal(418, self._banned_until - now)
        window = int(now // self.rules.weight_within)
        if window != self._window:
            self._window, self._used, self._refused = window, 0, 0
        self._used += weight
        if self._used <= self.rules.weight:
            return None
        self._refused += 1
        left = (window + 1) * self.rules.weight_within - now
        if self._refused > self.rules.refusals:
            self._banned_until = now + self.rules.ban
            self.log.add(self.name, "kill", f"the address is banned for {self.rules.ban:g} s")
            return self.refusal(418, self.rules.ban)
        return self.refusal(self.limit_status, left)

    @property
    def used_weight(self) -> int:
        """What was charged in this window."""
        return self._used

    def _deliver(self, connection: Connection, answer: Answer) -> None:
        slow = self.board.take("slow")
        if slow is not None:
            self._dribble(connection, answer, 20.0 if slow.seconds is None else slow.seconds)
        elif self.board.take("half") is not None:
            connection.send_raw(connection.head(answer, len(answer.body)) + answer.body[: len(answer.body) // 2])
            connection.drop()
        else:
            connection.answer(answer)

    def _dribble(self, connection: Connection, answer: Answer, seconds: float) -> None:
        connection.send_raw(connection.head(answer, len(answer.body)))
        size = max(1, -(-len(answer.body) // SLOW_PIECES))
        pieces = [answer.body[start : start + size] for start in range(0, len(answer.body), size)] or [b""]

        def one(index: int) -> None:
            connection.send_raw(pieces[index])
            if index + 1 == len(pieces):
                connection.answered()
            else:
                self.later(seconds / len(pieces), lambda: one(index + 1))

        self.later(seconds / len(pieces), lambda: one(0))

    def known_until(self, symbol: str) -> int:
        """REST knows the trades before this moment: all, but for the faults behind and delist."""
        moments = [self.now() + 1]
        for fault in self.board.running("behind", symbol=symbol):
            moments.append(self.now() + 1 - int((5.0 if fault.seconds is None else fault.seconds) * 1000))
        for fault in self.board.running("delist", symbol=symbol):
            moments.append(self.board.start_ms + int(fault.at * 1000))
        return min(moments)

    def bars(self, symbol: str, timeframe: str, start: int, end: int, grid: Grid | None = None) -> list[Bar]:
        """The candles that REST gives of [start, end), oldest first, the running one included."""
        used = grid or UTC[timeframe]
        found = self.candles.range(symbol, used, start, end, self.known_until(symbol))
        missing = self.board.running("missing", symbol=symbol, timeframe=timeframe)
        lacking = {used.floor(self._moment(fault)) for fault in missing}
        return [bar for bar in found if bar.start not in lacking] if lacking else found

    def _moment(self, fault: Fault) -> int:
        """The moment whose candle a fault takes away."""
        return self.board.start_ms + int(fault.at * 1000) if fault.value is None else int(fault.value)

    # -- faults that come at a moment --

    def strike_if_timed(self, fault: Fault) -> None:
        """Let a fault happen now, if it is one that comes at a moment."""
        if fault.kind in TIMED:
            self.strike(fault)

    def strike(self, fault: Fault) -> None:
        """Let a fault happen to those whom it concerns."""
        self.log.add(self.name, "fault", str(fault))
        if fault.kind == "skew":
            self._skew = int(fault.value or 1300)
            if fault.lasts is not None:
                self.later(fault.lasts, self._true_time)
            return
        for session in list(self.sessions.values()):
            if fault.connection in (None, session.number):
                self._strike(session, fault)

    def _true_time(self) -> None:
        self._skew = 0

    def _strike(self, session: Session, fault: Fault) -> None:
        if fault.kind == "reset":
            session.note("close", "reset")
            session.connection.reset()
        elif fault.kind == "close":
            session.close(int(fault.value or GOING_AWAY), "simulated")
        elif fault.kind == "cut":
            session.close(GOING_AWAY, "24 hours are over")
        elif fault.kind == "notice":
            self.announce(session)
            self.later(10.0 if fault.seconds is None else fault.seconds, lambda: session.close(GOING_AWAY, "upgrade"))
        elif fault.kind == "stall":
            session.stalled = True
            self._after(fault, lambda: setattr(session, "stalled", False))
        elif fault.kind == "freeze":
            session.connection.freeze(hold=fault.lasts is not None)
            self._after(fault, session.connection.thaw)
        elif fault.kind == "mute":
            silenced = {fault.symbol} if fault.symbol else {next(iter(self.tape.markets))}
            session.muted |= {name for name in silenced if name}
            self._after(fault, session.muted.clear)
        elif fault.kind == "snapshot":
            self.repeat_snapshot(session)
        elif fault.kind == "burst":
            session.repeat(int(fault.value or 1000))
        elif fault.kind == "error":
            session.write(self.error_frame(session))

    def _after(self, fault: Fault, callback: Callable[[], object]) -> None:
        if fault.lasts is not None:
            self.later(fault.lasts, callback)

    # -- the protocol: subclasses --

    def native(self, symbol: str, market: str = "SPOT") -> str:
        """A tape symbol as this exchange writes it."""
        raise NotImplementedError

    def accepts(self, request: HttpRequest) -> bool:
        """Whether there is a socket at this path."""
        raise NotImplementedError

    def greet(self, session: Session) -> None:
        """A socket is open."""

    def message(self, session: Session, text: str) -> None:
        """A client's text message."""
        raise NotImplementedError

    def wrap(self, session: Session, push: Push) -> str:
        """A push as this socket gets it."""
        return push.text

    def candle_frame(self, topic: Topic, bar: Bar, *, closing: bool) -> str:
        """The push of a candle."""
        raise NotImplementedError

    def trade_frames(self, topic: Topic, trades: list[TapeTrade]) -> Iterable[tuple[str, str]]:
        """The pushes of trades, each with a price text in it."""
        raise NotImplementedError

    def trade_greeting(self, topic: Topic) -> Iterable[Push]:
        """What a socket gets when it subscribes to trades."""
        return ()

    def price(self, topic: Topic, value: int, bar: Bar) -> str:
        """A price as it stands in a push."""
        return trimmed(bar.price_text(value))

    def heartbeat_frame(self) -> str:
        """The message that shows that the connection works."""
        raise NotImplementedError

    def unknown_frame(self, session: Session) -> str:
        """A message of a channel that nobody knows."""
        raise NotImplementedError

    def error_frame(self, session: Session) -> str:
        """An error that belongs to no request."""
        raise NotImplementedError

    def announce(self, session: Session) -> None:
        """Say that the connection will be closed soon, where the exchange does."""

    def repeat_snapshot(self, session: Session) -> None:
        """Send again what a socket gets when it subscribes."""
        session.repeat()

    def swap_numbers(self, text: str) -> str:
        """A frame whose numbers are texts, or the other way round."""
        return numbers_for_texts(text)

    def weight_of(self, request: HttpRequest) -> int:
        """What a request costs of the budget."""
        return 1

    def rest(self, request: HttpRequest) -> Answer | None:
        """The answer to a request; None: there is nothing at this path."""
        raise NotImplementedError

    def refusal(self, status: int, after: float) -> Answer:
        """The answer that a limit, a ban or a broken server gives. ``after``: seconds until it may work again."""
        raise NotImplementedError

    def not_found(self, request: HttpRequest) -> Answer:
        """The answer where there is nothing."""
        return Answer(b'{"error":"not found"}', 404)


def number(text: str | None, default: int) -> int:
    """An integer of a query; the default where there is none.

    Raises:
        ValueError: it is no number.
    """
    return default if text is None or text == "" else int(text)
