"""Candles in their order: which one is next, what is held for later, and when to look again.

What a ``CandleLedger`` decides to hand out goes through here, so that closed candles leave in order, each once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.kline import Kline
from streammachine.market.model.rows import Row


class CandleOrder:
    """The candles of one symbol and timeframe that are handed out, and those that wait for their turn.

    The arguments and the public attributes are ``CandleLedger``'s, which says what they mean.
    """

    __slots__ = (
        "_anchor",
        "_end",
        "_first",
        "_held",
        "_loss_possible",
        "_on_due_changed",
        "_overdue_at",
        "_states",
        "_unshown",
        "due",
        "expected",
        "grace",
        "last",
        "open_rows",
        "running",
        "settle",
        "source",
        "symbol",
        "timeframe",
    )

    def __init__(
        self,
        source: str,
        symbol: str,
        timeframe: str,
        grace: int,
        settle: int,
        open_rows: bool,
        on_due_changed: Callable[[Any], object] | None,
    ) -> None:
        self.source = source
        self.symbol = symbol
        self.timeframe = timeframe
        self.grace = grace
        self.settle = settle
        self.open_rows = open_rows
        self._on_due_changed = on_due_changed
        self.expected: int | None = None
        self._end = 0  # of the expected candle
        self._overdue_at = 0
        self._first = True  # nothing handed out yet, and the first candle is a guess by our clock
        self.running: Kline | None = None  # the newest open state of the newest candle
        self._unshown = False  # it was not handed out, because an earlier candle was not closed yet
        self._held: dict[int, Kline] = {}  # closed, at ``expected`` or beyond
        self._states: dict[int, CandleState] = {}  # "next": of candles not yet closed
        self._loss_possible = False  # "next": a frame of the expected candle may have been lost
        self._anchor: Kline | None = None  # "next": the candle before ``expected``, whose close a flat one takes over
        self.last: Kline | None = None
        self.due: int | None = None

    def _close(self, kline: Kline, rows: list[Row]) -> None:
        """Hand out the expected candle, and expect the next."""
        rows.append(kline)
        self.last = self._anchor = kline
        self._first = self._loss_possible = False
        self._expect(self._end)
        if self._unshown and self.running is not None and self.running.open_ts == self.expected:
            self._unshown = False
            if self.open_rows and self.expected not in self._held:
                rows.append(self.running)

    def _drain(self, rows: list[Row]) -> None:
        """Hand out what is held and in order."""
        held = self._held
        while held and self.expected is not None and self.expected in held:
            self._close(held.pop(self.expected), rows)

    def _expect(self, open_ts: int) -> None:
        self.expected = open_ts
        self._end = timeframes.end_of(self.timeframe, open_ts)
        if self._states:
            self._states = {start: state for start, state in self._states.items() if start >= open_ts}
        self._overdue_at = self._end + self.grace
        if not self._states:
            self._set_due(self._overdue_at)
        else:
            later = min((state.began for start, state in self._states.items() if start > open_ts), default=None)
            self._set_due(self._overdue_at if later is None else min(self._overdue_at, later + self.settle))

    def _expedite(self, moment: int) -> None:
        """Look at the expected candle sooner than when it would be overdue."""
        self._overdue_at = min(self._overdue_at, moment)
        if self.due is None or moment < self.due:
            self._set_due(moment)

    def _set_due(self, moment: int) -> None:
        self.due = moment
        if self._on_due_changed is not None:
            self._on_due_changed(self)


class CandleState:
    """The last state of a candle, its volume, and when its first and its last came."""

    __slots__ = ("began", "kline", "seen", "volume")

    def __init__(self, kline: Kline, now: int, volume: float) -> None:
        self.kline = kline
        self.volume = volume
        self.began = self.seen = now


def flat(before: Kline, open_ts: int) -> Kline:
    """The candle of an interval without a trade: at the close of the one before it."""
    price = before.close
    return Kline(
        source=before.source,
        symbol=before.symbol,
        timeframe=before.timeframe,
        open_ts=open_ts,
        end_ts=timeframes.end_of(before.timeframe, open_ts) - 1,
        open=price,
        high=price,
        low=price,
        close=price,
        volume=0.0,
        quote_volume=0.0,
        vwap=None,
        n_trades=0,
        is_closed=True,
        origin="ws",
    )
