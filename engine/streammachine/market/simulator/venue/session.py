"""One client's socket at a simulated exchange: its streams, its keep-alive, and the faults on its frames."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from typing import Protocol

from websockets.frames import Opcode

from streammachine.market.simulator.faults.fault import Fault
from streammachine.market.simulator.venue.channels import Channel
from streammachine.market.simulator.venue.host import Host
from streammachine.market.simulator.venue.rules import Rules
from streammachine.market.simulator.venue.timers import ScheduledCall
from streammachine.market.simulator.venue.topics import PushFrame, StreamTopic
from streammachine.market.simulator.venue.transport import Connection, HttpRequest

FRAME_FAULTS = ("nan", "zero", "strings", "malformed", "truncated", "unknown", "duplicate", "reorder")
GOING_AWAY = 1001
POLICY = 1008
CUT_CHARACTER = b"\xe2\x82"  # two of the three bytes of a euro sign


class SessionHost(Host, Protocol):
    """The exchange, and what it does with one client's socket."""

    sessions: dict[int, ClientSession]

    def rules_of(self, request: HttpRequest) -> Rules:
        """The numbers of the socket that is asked for."""

    def join(self, session: ClientSession, topic: StreamTopic) -> Channel:
        """The channel of a topic, with this socket in it."""

    def leave(self, session: ClientSession, channel: Channel) -> None:
        """Take a socket out of a channel."""

    def message(self, session: ClientSession, text: str) -> None:
        """A client's text message."""

    def wrap(self, session: ClientSession, push: PushFrame) -> str:
        """A push as this socket gets it."""

    def heartbeat_frame(self) -> str:
        """The message that shows that the connection works."""

    def unknown_frame(self, session: ClientSession) -> str:
        """A message of a channel that nobody knows."""

    def error_frame(self, session: ClientSession) -> str:
        """An error that belongs to no request."""

    def announce(self, session: ClientSession) -> None:
        """Say that the connection will be closed soon, where the exchange does."""

    def repeat_snapshot(self, session: ClientSession) -> None:
        """Send again what a socket gets when it subscribes."""

    def swap_numbers(self, text: str) -> str:
        """A frame whose numbers are texts, or the other way round."""

    def skewed(self, milliseconds: int) -> None:
        """Set how far off the exchange's clock is."""


class ClientSession:
    """A socket. ``number`` counts the exchange's sockets from 1; ``options`` belongs to the exchange's protocol."""

    def __init__(self, exchange: SessionHost, connection: Connection, request: HttpRequest, number: int) -> None:
        self.exchange = exchange
        self.connection = connection
        self.request = request
        self.number = number
        self.rules = exchange.rules_of(request)
        self.channels: dict[str, Channel] = {}
        self.options: dict[str, object] = {}
        self.stalled = False
        self.muted: list[tuple[str, str | None]] = []  # symbol and timeframe; None: all of the symbol's streams
        self.sent = 0
        self._messages: deque[float] = deque()
        self._requests: deque[float] = deque()
        self._held: list[list[object]] = []  # [frames still to pass, bytes] of reordered frames
        self._last_received = self._last_sent = exchange.clock.monotonic()
        self._timers: list[ScheduledCall] = []
        self._pong_due: ScheduledCall | None = None

    # -- life --

    def open(self) -> None:
        """Begin the keep-alive of this exchange."""
        rules = self.rules
        if rules.ping_every is not None:
            self._later(rules.ping_every, self._ping)
        if rules.idle is not None:
            self._later(rules.idle, self._check_idle)
        if rules.heartbeat is not None:
            self._later(rules.heartbeat, self._heartbeat)
        if rules.lifetime is not None:
            self._later(rules.lifetime, lambda: self.close(GOING_AWAY, "24 hours are over"))

    def end(self) -> None:
        """The connection is gone."""
        for timer in self._timers:
            timer.cancel()
        if self._pong_due is not None:
            self._pong_due.cancel()
        for name in list(self.channels):
            self.leave(name)

    def close(self, code: int, reason: str = "") -> None:
        """Close the socket; whoever does not answer is cut off 10 s later."""
        self.note("close", f"{code} {reason}".strip())
        self.connection.close(code, reason)
        self._later(10.0, self.connection.reset)

    def kill(self, reason: str) -> None:
        """Close the socket of a client that broke a rule."""
        self.note("kill", reason)
        self.connection.close(POLICY, reason)
        self._later(10.0, self.connection.reset)

    def note(self, what: str, detail: str = "") -> None:
        """A line for the event log."""
        self.exchange.log.add(self.exchange.name, what, detail, self.number)

    def _later(self, seconds: float, callback: Callable[[], object]) -> None:
        self._timers = [timer for timer in self._timers if timer.waits]
        self._timers.append(self.exchange.later(seconds, callback))

    # -- keep-alive --

    def _ping(self) -> None:
        if not self.connection.is_open:
            return
        self.connection.send_ping(str(self.exchange.now()).encode())
        self.note("ping")
        if self._pong_due is None:
            rules = self.rules
            self._pong_due = self.exchange.later(rules.pong_within, lambda: self.kill("no pong"))
            self._timers.append(self._pong_due)
        self._later(self.rules.ping_every or 20.0, self._ping)

    def _check_idle(self) -> None:
        idle = self.rules.idle or 0.0
        left = max(self._last_received, self._last_sent) + idle - self.exchange.clock.monotonic()
        if left > 0:
            self._later(left, self._check_idle)
        elif self.connection.is_open:
            self.note("kill", f"idle for {idle:g} s")
            self.close(self.exchange.idle_code, "no data received")

    def _heartbeat(self) -> None:
        beat = self.rules.heartbeat or 1.0
        left = self._last_sent + beat - self.exchange.clock.monotonic()
        if left <= 0 and self.connection.is_open and self.channels:
            self.write(self.exchange.heartbeat_frame())
        self._later(left if left > 0 else beat, self._heartbeat)

    # -- what the client says --

    def received(self, opcode: Opcode, data: bytes) -> None:
        """A message or a control frame came."""
        self._last_received = self.exchange.clock.monotonic()
        rules = self.rules
        if rules.messages is not None and self._too_many(self._messages, rules.messages, rules.messages_within):
            self.kill("Too many requests")
            return
        if opcode is Opcode.PONG:
            if self._pong_due is not None:
                self._pong_due.cancel()
                self._pong_due = None
            self.note("pong")
        elif opcode is Opcode.TEXT and self.connection.is_open:
            self.exchange.message(self, data.decode("utf-8", "replace"))

    def overspent(self) -> bool:
        """Count a subscribe or unsubscribe request; whether it is one too many."""
        rules = self.rules
        return rules.requests is not None and self._too_many(self._requests, rules.requests, rules.requests_within)

    def _too_many(self, times: deque[float], most: int, within: float) -> bool:
        now = self.exchange.clock.monotonic()
        while times and now - times[0] >= within:
            times.popleft()
        times.append(now)
        return len(times) > most

    # -- streams --

    def subscribe(self, topic: StreamTopic, ack: Callable[[], None], refuse: Callable[[str], None]) -> None:
        """Serve a stream, acknowledged by ``ack``; the faults of acknowledgements happen here."""
        self.subscribe_all([topic], ack, refuse)

    def subscribe_all(self, topics: list[StreamTopic], ack: Callable[[], None], refuse: Callable[[str], None]) -> None:
        """Serve streams that are acknowledged together."""
        board = self.exchange.board
        who: dict[str, str | None] = {"symbol": None, "timeframe": None}
        if len(topics) == 1:
            who = {"symbol": topics[0].symbol, "timeframe": topics[0].timeframe}
        if board.take("ack_never", connection=self.number, **who) is not None:
            return
        if board.take("ack_error", connection=self.number, **who) is not None:
            refuse("simulated refusal")
            return
        early = board.take("data_first", connection=self.number, **who) is not None
        fresh = [topic for topic in topics if topic.name not in self.channels]
        if early:
            self._greet(fresh, early=True)
        ack()
        if not early:
            self._greet(fresh, early=False)
        for topic in topics:
            self.note("subscribe", topic.name)

    def _greet(self, topics: list[StreamTopic], *, early: bool) -> None:
        for topic in topics:
            channel = self.exchange.join(self, topic)
            self.channels[topic.name] = channel
            channel.greet(self, early=early)

    def leave(self, name: str) -> bool:
        """End a stream; whether it was one."""
        channel = self.channels.pop(name, None)
        if channel is None:
            return False
        self.exchange.leave(self, channel)
        return True

    # -- what the client gets --

    def write(self, text: str) -> None:
        """Send a message that is no market data."""
        self._last_sent = self.exchange.clock.monotonic()
        self.connection.send_text(text.encode())

    def deliver(self, push: PushFrame) -> None:
        """Send market data, or what a fault makes of it."""
        if self.stalled or not self.connection.is_open or self._is_muted(push.topic):
            return
        text = self.exchange.wrap(self, push)
        if not self.exchange.board.any_of(FRAME_FAULTS):
            self._send(text.encode())
            return
        self._deliver_with_faults(push, text)

    def _is_muted(self, topic: StreamTopic) -> bool:
        return any(symbol == topic.symbol and one in (None, topic.timeframe) for symbol, one in self.muted)

    def _deliver_with_faults(self, push: PushFrame, text: str) -> None:
        def hit(kind: str) -> Fault | None:
            topic = push.topic
            return self.exchange.board.take(
                kind, symbol=topic.symbol, timeframe=topic.timeframe, connection=self.number
            )

        if hit("nan"):
            text = text.replace(push.price, "NaN")
        if hit("zero"):
            text = text.replace(push.price, "0")
        if hit("strings"):
            text = self.exchange.swap_numbers(text)
        data = text.encode()
        if hit("malformed"):
            data = data[: len(data) * 2 // 3]
        if hit("truncated"):
            data = data[: len(data) * 2 // 3] + CUT_CHARACTER
        if hit("unknown"):
            self._send(self.exchange.unknown_frame(self).encode())
        later = hit("reorder")
        if later is not None:
            self._held.append([int(later.value or 2), data])
            return
        self._send(data)
        if hit("duplicate"):
            self._send(data)
        self._release()

    def _release(self) -> None:
        """A frame passed: those that were held back for it may follow."""
        for held in list(self._held):
            left = held[0]
            if isinstance(left, int) and isinstance(held[1], bytes):
                held[0] = left - 1
                if left <= 1:
                    self._held.remove(held)
                    self._send(held[1])

    def repeat(self, times: int = 1) -> None:
        """Send the last frame of each stream again; not of those that the stalled socket, or their silence, kept back:
        a frame that is old news on others would be new here."""
        if self.stalled:
            return
        for channel in list(self.channels.values()):
            if channel.last is not None and not self._is_muted(channel.topic):
                data = self.exchange.wrap(self, channel.last).encode()
                for _ in range(times):
                    self._send(data)

    def _send(self, data: bytes) -> None:
        self._last_sent = self.exchange.clock.monotonic()
        self.sent += 1
        self.connection.send_text(data)


def numbers_for_texts(text: str) -> str:
    """A JSON text whose numeric texts are numbers."""
    return re.sub(r'(?<=[:,\[])"(-?\d+(?:\.\d+)?)"(?=[,}\]])', r"\1", text)


def texts_for_numbers(text: str) -> str:
    """A JSON text whose prices and quantities, numbers, are texts."""
    return re.sub(r'("(?:open|high|low|close|volume|vwap|price|qty)":)(-?[\d.]+)', r'\1"\2"', text)
