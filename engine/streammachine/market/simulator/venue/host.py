"""What channels, sessions, REST and timed faults may ask of the exchange that they belong to.

``venue.exchange.Exchange`` is such a host. What it says of one client's socket is in ``session.SessionHost``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from streammachine.market.clock.clock import Clock
from streammachine.market.simulator.faults.board import Board, Log
from streammachine.market.simulator.tape.candles import Bar, Candles
from streammachine.market.simulator.tape.tape import Tape, TapeTrade
from streammachine.market.simulator.venue.rules import Rules
from streammachine.market.simulator.venue.timers import ScheduledCall
from streammachine.market.simulator.venue.topics import PushFrame, StreamTopic
from streammachine.market.simulator.venue.transport import Answer, HttpRequest


class Subscriber(Protocol):
    """A client's socket, as a channel sees it. ``options`` belongs to the exchange's protocol."""

    options: dict[str, object]

    def deliver(self, push: PushFrame) -> None:
        """Send market data."""


class Host(Protocol):
    """A simulated exchange: what it is made of, its time, its frames, its answers."""

    name: str
    limit_status: int
    idle_code: int
    tape: Tape
    candles: Candles
    clock: Clock
    board: Board
    log: Log
    rules: Rules
    seed: int

    def now(self) -> int:
        """The exchange's time, epoch milliseconds."""

    def at(self, moment: int, callback: Callable[[], object]) -> ScheduledCall:
        """Call back at a moment of the exchange's time."""

    def later(self, seconds: float, callback: Callable[[], object]) -> ScheduledCall:
        """Call back in so many seconds."""

    def silent(self, symbol: str) -> bool:
        """Whether a symbol is no longer traded."""

    def lack(self, where: str, symbol: str, timeframe: str, start: int) -> None:
        """Note in the log, once, that a candle (or its closing frame) is withheld."""

    def candle_frame(self, topic: StreamTopic, bar: Bar, *, closing: bool) -> str:
        """The push of a candle."""

    def trade_frames(self, topic: StreamTopic, trades: list[TapeTrade]) -> Iterable[tuple[str, str]]:
        """The pushes of trades, each with a price text in it."""

    def trade_greeting(self, topic: StreamTopic) -> Iterable[PushFrame]:
        """What a socket gets when it subscribes to trades."""

    def price(self, topic: StreamTopic, value: int, bar: Bar) -> str:
        """A price as it stands in a push."""

    def weight_of(self, request: HttpRequest) -> int:
        """What a request costs of the REST budget."""

    def rest(self, request: HttpRequest) -> Answer | None:
        """The answer to a request; None: there is nothing at this path."""

    def refusal(self, status: int, after: float) -> Answer:
        """The answer that a limit, a ban or a broken server gives."""

    def not_found(self, request: HttpRequest) -> Answer:
        """The answer where there is nothing."""
