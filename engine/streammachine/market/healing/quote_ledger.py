"""The ledger of one symbol's quotes: in order, none twice, thinned on request. Pure, as its neighbours here.

No exchange tells the quotes of the past, so nothing is healed: what an interruption took is made up for by the next
quote alone, and a Gap says from when to when there were none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from streammachine.market.exchanges.quotes import NO_TIME
from streammachine.market.model.kline import Gap
from streammachine.market.model.quote import Quote
from streammachine.market.model.rows import Row

REASON: Final = "the stream was interrupted, and quotes of the past cannot be had"


class QuoteLedger:
    """The quotes of one symbol.

    Args:
        every: milliseconds in which one quote goes out at most, the newest of them; 0: all go out.
        pair: the symbol in the common spelling, which goes into each quote.
        on_due_changed: called with the ledger whenever ``due`` was set.

    Attributes:
        due, since, seen, stream_may_be_dead, gaps, duplicates, late, invalid: as in ``CandleLedger``; healing is never
            asked for. thinned: quotes that a newer one replaced. last: the last quote handed out.
    """

    timeframe = "quote"
    healing = False
    healed = 0

    def __init__(
        self,
        source: str,
        symbol: str,
        *,
        every: int = 0,
        pair: str | None = None,
        on_due_changed: Callable[[Any], object] | None = None,
    ) -> None:
        self.source = source
        self.symbol = symbol
        self.pair = pair
        self._every = every
        self._on_due_changed = on_due_changed
        self._pending: Quote | None = None
        self._free_at = 0  # when the next one may go out
        self._broken = False  # interrupted since the last quote
        self.last: Quote | None = None
        self._newest: dict[str, Any] = {}  # the fields of the last quote that came
        self.since: int | None = None
        self.seen = 0
        self.due: int | None = None
        self.stream_may_be_dead = False
        self.duplicates = self.late = self.invalid = self.gaps = self.thinned = 0

    # -- the socket --

    def subscribed(self, now: int) -> None:
        """The stream delivers from now on."""
        if self.since is None:
            self.since = now

    def interrupted(self) -> None:
        """The stream does not deliver any more."""
        self.since = None
        self._broken = bool(self._newest)

    def mark_possible_loss(self, now: int) -> None:
        """A frame may have been lost; the next one says how it stands."""

    def take(self, quote: Quote, now: int, rows: list[Row]) -> None:
        """One frame's quote. What goes out is appended to ``rows``."""
        fields = quote.__dict__
        before = self._newest
        if fields["ts"] == NO_TIME:  # ours, which may be set back: that makes no quote late
            fields["ts"] = max(now, before["ts"]) if before else now
        if before:
            if fields["ts"] < before["ts"]:
                self.late += 1
                return
            if _same(fields, before) and (not self._broken or fields["ts"] == before["ts"]):
                self._broken = False  # what a subscription begins with: it has not changed since
                self.seen = now
                self.duplicates += 1
                return
        if self._broken:
            self._broken = False
            self.gaps += 1
            self._release(rows)
            start = before["ts"] + 1
            if start < fields["ts"]:
                rows.append(Gap(self.source, self.symbol, self.timeframe, start, fields["ts"], REASON))
        self.seen = now
        self._newest = fields
        if self.pair is not None:
            fields["pair"] = self.pair
        if not self._every:
            self.last = quote
            rows.append(quote)
        elif now >= self._free_at or now < self._free_at - self._every:  # the clock was set back
            self._hand_out(quote, now, rows)
        else:
            self.thinned += self._pending is not None
            self._pending = quote
            if self.due is None:
                self.due = self._free_at
                if self._on_due_changed is not None:
                    self._on_due_changed(self)

    # -- the clock --

    def tick(self, now: int, rows: list[Row]) -> None:
        """``due`` has come."""
        self.due = None
        pending, self._pending = self._pending, None
        if pending is not None:
            self._hand_out(pending, now, rows)

    def _hand_out(self, quote: Quote, now: int, rows: list[Row]) -> None:
        self._pending = None
        self._free_at = now + self._every
        self.last = quote
        rows.append(quote)

    def _release(self, rows: list[Row]) -> None:
        """What waits is from before the gap."""
        if self._pending is not None:
            self.last = self._pending
            rows.append(self._pending)
            self._pending = None

    # -- REST: there is none for quotes --

    def missing(self, now: int) -> tuple[int, int]:
        """Nothing is to be asked for."""
        return 0, 0


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(
        one["bid"] == other["bid"]
        and one["ask"] == other["ask"]
        and one["bid_size"] == other["bid_size"]
        and one["ask_size"] == other["ask_size"]
    )
