"""Faults that come at a moment, to the sockets that are open then or to the exchange as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from streammachine.market.simulator.faults.fault import Fault
from streammachine.market.simulator.venue.session import GOING_AWAY, ClientSession, SessionHost

SKEW: Final = 1300  # ms that the clock is off, where the fault does not say
WARNING: Final = 10.0  # seconds between a notice and the cut, likewise
BURST: Final = 1000  # frames, likewise


class TimedFaults:
    """Lets them happen at one exchange."""

    def __init__(self, exchange: SessionHost) -> None:
        self._exchange = exchange
        self._actions: dict[str, Callable[[ClientSession, Fault], None]] = {
            "reset": self._reset,
            "close": self._close,
            "cut": self._cut,
            "notice": self._notice,
            "stall": self._stall,
            "freeze": self._freeze,
            "mute": self._mute,
            "snapshot": lambda session, _: self._exchange.repeat_snapshot(session),
            "burst": lambda session, fault: session.repeat(int(fault.value or BURST)),
            "error": lambda session, _: session.write(self._exchange.error_frame(session)),
        }

    def arm(self, fault: Fault) -> None:
        """Let a fault happen at its moment, if it is one of these."""
        if fault.kind == "skew" or fault.kind in self._actions:
            self._exchange.later(fault.at - self._exchange.board.elapsed(), lambda: self.trigger(fault))

    def trigger(self, fault: Fault) -> None:
        """Let a fault happen now, if it is one of these."""
        exchange, action = self._exchange, self._actions.get(fault.kind)
        if action is None and fault.kind != "skew":
            return
        exchange.log.add(exchange.name, "fault", str(fault))
        if action is None:
            exchange.skewed(int(fault.value or SKEW))
            self._after(fault, lambda: exchange.skewed(0))
            return
        for session in list(exchange.sessions.values()):
            if fault.connection in (None, session.number):
                action(session, fault)

    def _after(self, fault: Fault, callback: Callable[[], object]) -> None:
        """End a fault that does not last for ever."""
        if fault.lasts is not None:
            self._exchange.later(fault.lasts, callback)

    def _reset(self, session: ClientSession, fault: Fault) -> None:
        session.note("close", "reset")
        session.connection.reset()

    def _close(self, session: ClientSession, fault: Fault) -> None:
        session.close(int(fault.value or GOING_AWAY), "simulated")

    def _cut(self, session: ClientSession, fault: Fault) -> None:
        session.close(GOING_AWAY, "24 hours are over")

    def _notice(self, session: ClientSession, fault: Fault) -> None:
        self._exchange.announce(session)
        seconds = WARNING if fault.seconds is None else fault.seconds
        self._exchange.later(seconds, lambda: session.close(GOING_AWAY, "upgrade"))

    def _stall(self, session: ClientSession, fault: Fault) -> None:
        session.stalled = True

        def over() -> None:
            session.stalled = False

        self._after(fault, over)

    def _freeze(self, session: ClientSession, fault: Fault) -> None:
        session.connection.freeze(hold=fault.lasts is not None)
        self._after(fault, session.connection.thaw)

    def _mute(self, session: ClientSession, fault: Fault) -> None:
        session.muted.append((fault.symbol or next(iter(self._exchange.tape.markets)), fault.timeframe))
        self._after(fault, session.muted.clear)
