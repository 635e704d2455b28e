"""REST of a simulated exchange: the budget, the faults on answers, and how they are sent."""

from __future__ import annotations

from typing import Final

import orjson

from streammachine.market.simulator.venue.host import Host
from streammachine.market.simulator.venue.transport import Answer, Connection, HttpRequest

SLOW_PIECES: Final = 10  # of a body that takes its time
NO_ANSWER: Final = 60.0  # seconds without an answer, where the fault does not say
SLOW: Final = 20.0  # seconds that a slow body takes, likewise
PAGE: Final = Answer(b"<html><body>Bad Gateway</body></html>", 200, {"Content-Type": "text/html"})


class RestServer:
    """Answers the requests of one exchange; the exchange says what. ``used``: what was charged in this window."""

    def __init__(self, exchange: Host) -> None:
        self._exchange = exchange
        self.used = 0
        self._window = -1
        self._refused = 0
        self._banned_until = 0.0

    def requested(self, connection: Connection, request: HttpRequest) -> None:
        """Answer a request, or do what a fault wants instead."""
        exchange = self._exchange
        if request.path == "/clock":
            connection.answer(self._time())
            return
        if exchange.board.take("rest_refuse") is not None:
            connection.reset()
            return
        timeout = exchange.board.take("timeout")
        if timeout is not None:
            exchange.later(NO_ANSWER if timeout.seconds is None else timeout.seconds, connection.drop)
            return
        answer = self._answer(request)
        exchange.log.add(exchange.name, "rest", f"{answer.status} {_target(request)}")
        if exchange.rules.latency > 0:
            exchange.later(exchange.rules.latency, lambda: self._deliver(connection, answer))
        else:
            self._deliver(connection, answer)

    def _time(self) -> Answer:
        """What a client needs that follows the simulator's time."""
        clock = self._exchange.clock
        return Answer(orjson.dumps({"time_ms": clock.time_ms(), "speed": getattr(clock, "speed", None) or 1.0}))

    def _answer(self, request: HttpRequest) -> Answer:
        exchange = self._exchange
        status = exchange.board.take("status")
        if status is not None:
            return exchange.refusal(int(status.value or 429), 1.0 if status.seconds is None else status.seconds)
        if exchange.board.take("garbage") is not None:
            return PAGE
        weight = exchange.weight_of(request)
        refused = self._charge(weight) if weight else None
        return refused or exchange.rest(request) or exchange.not_found(request)

    def _charge(self, weight: int) -> Answer | None:
        """Charge the budget; the refusal, where it is spent."""
        exchange, rules = self._exchange, self._exchange.rules
        now = exchange.clock.time_ms() / 1000
        if now < self._banned_until:
            return exchange.refusal(418, self._banned_until - now)
        window = int(now // rules.weight_within)
        if window != self._window:
            self._window, self.used, self._refused = window, 0, 0
        self.used += weight
        if self.used <= rules.weight:
            return None
        self._refused += 1
        if self._refused > rules.refusals:
            self._banned_until = now + rules.ban
            exchange.log.add(exchange.name, "kill", f"the address is banned for {rules.ban:g} s")
            return exchange.refusal(418, rules.ban)
        return exchange.refusal(exchange.limit_status, (window + 1) * rules.weight_within - now)

    def _deliver(self, connection: Connection, answer: Answer) -> None:
        board = self._exchange.board
        slow = board.take("slow")
        if slow is not None:
            self._send_slowly(connection, answer, SLOW if slow.seconds is None else slow.seconds)
        elif board.take("half") is not None:
            connection.send_raw(connection.head(answer, len(answer.body)) + answer.body[: len(answer.body) // 2])
            connection.drop()
        else:
            connection.answer(answer)

    def _send_slowly(self, connection: Connection, answer: Answer, seconds: float) -> None:
        connection.send_raw(connection.head(answer, len(answer.body)))
        size = max(1, -(-len(answer.body) // SLOW_PIECES))
        pieces = [answer.body[start : start + size] for start in range(0, len(answer.body), size)] or [b""]

        def one(index: int) -> None:
            connection.send_raw(pieces[index])
            if index + 1 == len(pieces):
                connection.answered()
            else:
                self._exchange.later(seconds / len(pieces), lambda: one(index + 1))

        self._exchange.later(seconds / len(pieces), lambda: one(0))


def _target(request: HttpRequest) -> str:
    query = "&".join(f"{name}={value}" for name, value in request.query.items())
    return f"{request.path}?{query}" if query else request.path
