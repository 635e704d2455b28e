"""What happened at a simulated exchange, and which fault hits what."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from streammachine.market.clock.clock import Clock
from streammachine.market.simulator.faults.fault import UNLIMITED, Fault


class LogEntry(NamedTuple):
    """One line of the event log. ``time_ms`` is the injected clock's; ``connection`` a socket's number, 0 for REST and
    for what concerns no socket; ``what`` one of listen, connect, refuse, subscribe, unsubscribe, reject, ping, pong,
    rest, fault, lack (a candle or its closing frame is withheld), kill, close, lost."""

    time_ms: int
    exchange: str
    what: str
    connection: int
    detail: str


class Log(list[LogEntry]):
    """The event log: a list, oldest first, that also tells a listener."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.listener: Callable[[LogEntry], None] | None = None

    def add(self, exchange: str, what: str, detail: str = "", connection: int = 0) -> None:
        """Note what happened, now."""
        entry = LogEntry(self._clock.time_ms(), exchange, what, connection, detail)
        self.append(entry)
        if self.listener is not None:
            self.listener(entry)

    def of(self, what: str, exchange: str | None = None) -> list[LogEntry]:
        """The entries of one sort."""
        return [entry for entry in self if entry.what == what and exchange in (None, entry.exchange)]


class Board:
    """The faults of one exchange, and how often each has hit.

    ``start_ms`` is the moment that ``Fault.at`` counts from, by the injected clock.
    """

    def __init__(self, faults: Iterable[Fault], exchange: str, clock: Clock, log: Log) -> None:
        self.exchange = exchange
        self.faults = [fault for fault in faults if fault.exchange in (None, exchange)]
        self.start_ms = clock.time_ms()
        self._clock = clock
        self._log = log
        self._kinds = {fault.kind for fault in self.faults}
        self._seen: dict[int, int] = {}

    def add(self, fault: Fault) -> None:
        """A fault more."""
        self.faults.append(fault)
        self._kinds.add(fault.kind)

    def any_of(self, kinds: Iterable[str]) -> bool:
        """Whether there is a fault of one of these kinds at all."""
        return not self._kinds.isdisjoint(kinds)

    def elapsed(self) -> float:
        """Seconds since the start."""
        return (self._clock.time_ms() - self.start_ms) / 1000

    def take(
        self,
        kind: str,
        *,
        symbol: str | None = None,
        timeframe: str | None = None,
        connection: int | None = None,
    ) -> Fault | None:
        """The fault that hits this occasion, if one does; it is counted and logged."""
        if kind not in self._kinds:
            return None
        for fault in self.faults:
            if fault.kind != kind or not self._concerns(fault, symbol, timeframe, connection) or not self._runs(fault):
                continue
            seen = self._seen.get(id(fault), 0)
            if fault.times != UNLIMITED and seen >= fault.after + fault.times:
                continue
            self._seen[id(fault)] = seen + 1
            if seen < fault.after:
                continue
            detail = f"{fault} hits {' '.join(filter(None, (symbol, timeframe)))}".removesuffix(" hits ")
            self._log.add(self.exchange, "fault", detail, connection or 0)
            return fault
        return None

    def running(self, kind: str, *, symbol: str | None = None, timeframe: str | None = None) -> list[Fault]:
        """The faults of a kind that last now and concern this."""
        if kind not in self._kinds:
            return []
        return [
            fault
            for fault in self.faults
            if fault.kind == kind and self._concerns(fault, symbol, timeframe, None) and self._runs(fault)
        ]

    def _runs(self, fault: Fault) -> bool:
        elapsed = self.elapsed()
        return elapsed >= fault.at and (fault.lasts is None or elapsed < fault.at + fault.lasts)

    def _concerns(self, fault: Fault, symbol: str | None, timeframe: str | None, connection: int | None) -> bool:
        return (
            (fault.symbol is None or symbol is None or fault.symbol == symbol)
            and (fault.timeframe is None or timeframe is None or fault.timeframe == timeframe)
            and (fault.connection is None or connection is None or fault.connection == connection)
        )
