"""What all simulated exchanges share: time, sockets, channels, REST, and the faults on them.

An exchange's own file says how its protocol writes all that. Everything runs in callbacks of the loop and of the
injected clock; an error in one ends the simulator where it is awaited.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from websockets.frames import Opcode

from streammachine.market.clock.clock import Clock
from streammachine.market.simulator.faults.board import Board, Log
from streammachine.market.simulator.faults.fault import Fault
from streammachine.market.simulator.tape.candles import UTC, Bar, Candles, Grid
from streammachine.market.simulator.tape.tape import Tape, TapeTrade, trimmed
from streammachine.market.simulator.venue.channels import (
    CandleChannel,
    Channel,
    PushTimer,
    TradeChannel,
    TradeFedChannel,
    TradeFeeder,
)
from streammachine.market.simulator.venue.rest import RestServer
from streammachine.market.simulator.venue.rules import Rules
from streammachine.market.simulator.venue.session import GOING_AWAY, ClientSession, numbers_for_texts
from streammachine.market.simulator.venue.timed_faults import TimedFaults
from streammachine.market.simulator.venue.timers import ScheduledCall, Timers
from streammachine.market.simulator.venue.topics import PushFrame, StreamTopic
from streammachine.market.simulator.venue.transport import Answer, Connection, HttpRequest


class Exchange:
    """One exchange. Subclasses are its protocol.

    Attributes:
        name: "binance". usual_rules: its numbers, as its documents give them. has_bulk_files: whether it serves them.
        paths: of the socket and of the second one, behind the base URL. idle_code: what an idle socket is closed with.
        rules, tape, candles, clock, board, log, seed: what it is made of.
        sessions: the open sockets by number. connections: all open ones, those for REST included.
    """

    name = ""
    usual_rules = Rules()
    paths = ("", "")
    has_bulk_files = False
    idle_code = 1000
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
        self.sessions: dict[int, ClientSession] = {}
        self._by_connection: dict[Connection, ClientSession] = {}
        self.connections: set[Connection] = set()
        self._count = 0
        self._skew = 0
        self._timers = Timers(clock, fail)
        self._channels: dict[StreamTopic, Channel] = {}
        self._feeders: dict[str, TradeFeeder] = {}
        self._push_timers: dict[int, PushTimer] = {}
        self._handshakes: deque[float] = deque()
        self._rest_server = RestServer(self)
        self._timed_faults = TimedFaults(self)
        self._lacks: set[str] = set()

    def start(self) -> None:
        """Arm the faults that come at a moment."""
        for fault in self.board.faults:
            self._timed_faults.arm(fault)

    def stop(self) -> None:
        """Let no callback come any more, and close every connection."""
        self._timers.stop()
        for connection in list(self.connections):
            if connection.is_open and not connection.frozen:
                connection.close(GOING_AWAY, "the simulator ends")
            connection.end()

    # -- time --

    def now(self) -> int:
        """The exchange's time, epoch milliseconds."""
        return self.clock.time_ms() + self._skew

    def at(self, moment: int, callback: Callable[[], object]) -> ScheduledCall:
        """Call back at a moment of the exchange's time."""
        return self._timers.add(lambda: (moment - self.now()) / 1000, callback)

    def later(self, seconds: float, callback: Callable[[], object]) -> ScheduledCall:
        """Call back in so many seconds."""
        moment = self.clock.monotonic() + seconds
        return self._timers.add(lambda: moment - self.clock.monotonic(), callback)

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
                self._reject(connection, refusal.value)
            else:
                connection.reset()
            return False
        if self.rules.connects is not None and len(self._handshakes) > self.rules.connects:
            self.log.add(self.name, "refuse", "too many connection attempts")
            self._reject(connection, 429)
            return False
        if not self.accepts(request):
            self.log.add(self.name, "refuse", f"no socket at {request.path}")
            self._reject(connection, 404)
            return False
        return True

    def _reject(self, connection: Connection, status: int) -> None:
        connection.send_raw(connection.head(Answer(b"", status, {"Connection": "close"}), 0))
        connection.drop()

    def opened(self, connection: Connection, request: HttpRequest) -> None:
        self._count += 1
        session = ClientSession(self, connection, request, self._count)
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

    def join(self, session: ClientSession, topic: StreamTopic) -> Channel:
        """The channel of a topic, with this socket in it."""
        channel = self._channels.get(topic)
        if channel is None:
            channel = self._channels[topic] = self.channel(topic)
            self._feed(channel)
            channel.open()
        channel.sessions[session] = None
        return channel

    def leave(self, session: ClientSession, channel: Channel) -> None:
        """Take a socket out of a channel."""
        channel.sessions.pop(session, None)
        if channel.sessions or self._channels.pop(channel.topic, None) is None:
            return
        channel.close()
        if isinstance(channel, CandleChannel):
            period = self._period(channel)
            push_timer = self._push_timers[period]
            push_timer.channels.pop(channel, None)
            if not push_timer.channels:
                self._push_timers.pop(period).stop()
        elif isinstance(channel, TradeFedChannel):
            feeder = self._feeders[channel.topic.symbol]
            feeder.channels.pop(channel, None)
            if not feeder.channels:
                self._feeders.pop(channel.topic.symbol).stop()

    def channel(self, topic: StreamTopic) -> Channel:
        """A new channel for a topic."""
        return TradeChannel(self, topic) if topic.timeframe is None else CandleChannel(self, topic)

    def _feed(self, channel: Channel) -> None:
        if isinstance(channel, CandleChannel):
            period = self._period(channel)
            if period not in self._push_timers:
                self._push_timers[period] = PushTimer(self, period)
            self._push_timers[period].channels[channel] = None
        elif isinstance(channel, TradeFedChannel):
            symbol = channel.topic.symbol
            if symbol not in self._feeders:
                self._feeders[symbol] = TradeFeeder(self, symbol)
            self._feeders[symbol].channels[channel] = None

    def _period(self, channel: CandleChannel) -> int:
        period = int(self.rules.push_every * 1000)
        return min(period, 1000) if channel.timeframe == "1s" else period

    def silent(self, symbol: str) -> bool:
        """Whether a symbol is no longer traded."""
        return bool(self.board.running("delist", symbol=symbol))

    def status(self, symbol: str, usual: str, gone: str) -> str:
        """The status that a symbol is listed with."""
        for fault in self.board.running("listing", symbol=symbol):
            return str(fault.value)
        return gone if self.silent(symbol) else usual

    # -- REST --

    def requested(self, connection: Connection, request: HttpRequest) -> None:
        self._rest_server.requested(connection, request)

    @property
    def used_weight(self) -> int:
        """What was charged in this window of the REST budget."""
        return self._rest_server.used

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
        until = self.known_until(symbol)
        found = self.candles.range(symbol, used, start, end, until)
        for fault in self.board.running("off_grid", symbol=symbol, timeframe=timeframe):
            first = self._moment(fault)
            last = first + int((86_400.0 if fault.seconds is None else fault.seconds) * 1000)
            found = self.candles.moved(symbol, used, found, (first, last), (start, min(end, until)), until)
        missing = self.board.running("missing", symbol=symbol, timeframe=timeframe)
        if not missing:
            return found
        lacking = {used.floor(self._moment(fault)) for fault in missing}
        for bar in found:
            if bar.start in lacking:
                self.lack("REST", symbol, timeframe, bar.start)
        return [bar for bar in found if bar.start not in lacking]

    def lack(self, where: str, symbol: str, timeframe: str, start: int) -> None:
        """Note in the log, once, that a candle (or its closing frame) is withheld: "REST BTC/USDT 1m 1700000040000"."""
        told = f"{where} {symbol} {timeframe} {start}"
        if told not in self._lacks:
            self._lacks.add(told)
            self.log.add(self.name, "lack", told)

    def _moment(self, fault: Fault) -> int:
        """The moment whose candle a fault takes away."""
        return self.board.start_ms + int(fault.at * 1000) if fault.value is None else int(fault.value)

    # -- faults that come at a moment --

    def trigger(self, fault: Fault) -> None:
        """Let a fault happen now, if it is one that comes at a moment."""
        self._timed_faults.trigger(fault)

    def skewed(self, milliseconds: int) -> None:
        """Set how far off the exchange's clock is."""
        self._skew = milliseconds

    # -- the protocol: subclasses --

    def native(self, symbol: str, market: str = "SPOT") -> str:
        """A tape symbol as this exchange writes it."""
        raise NotImplementedError

    def accepts(self, request: HttpRequest) -> bool:
        """Whether there is a socket at this path."""
        raise NotImplementedError

    def rules_of(self, request: HttpRequest) -> Rules:
        """The numbers of the socket that is asked for."""
        return self.rules

    def greet(self, session: ClientSession) -> None:
        """A socket is open."""

    def message(self, session: ClientSession, text: str) -> None:
        """A client's text message."""
        raise NotImplementedError

    def wrap(self, session: ClientSession, push: PushFrame) -> str:
        """A push as this socket gets it."""
        return push.text

    def candle_frame(self, topic: StreamTopic, bar: Bar, *, closing: bool) -> str:
        """The push of a candle."""
        raise NotImplementedError

    def trade_frames(self, topic: StreamTopic, trades: list[TapeTrade]) -> Iterable[tuple[str, str]]:
        """The pushes of trades, each with a price text in it."""
        raise NotImplementedError

    def trade_greeting(self, topic: StreamTopic) -> Iterable[PushFrame]:
        """What a socket gets when it subscribes to trades."""
        return ()

    def price(self, topic: StreamTopic, value: int, bar: Bar) -> str:
        """A price as it stands in a push."""
        return trimmed(bar.price_text(value))

    def heartbeat_frame(self) -> str:
        """The message that shows that the connection works."""
        raise NotImplementedError

    def unknown_frame(self, session: ClientSession) -> str:
        """A message of a channel that nobody knows."""
        raise NotImplementedError

    def error_frame(self, session: ClientSession) -> str:
        """An error that belongs to no request."""
        raise NotImplementedError

    def announce(self, session: ClientSession) -> None:
        """Say that the connection will be closed soon, where the exchange does."""

    def repeat_snapshot(self, session: ClientSession) -> None:
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
