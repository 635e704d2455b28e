"""Which trades have come and which are missing: the ledger of one symbol's trades. Pure, as ``healing``.

Where ids rise by one, they tell exactly what is missing; what is beyond a hole is held until REST has filled it. Where
a subscription begins with older trades (Kraken), those tell which one is the first; else it is the first that comes.

Where ids do not rise by one, a hole cannot be seen: after every interruption REST is asked for the trades since the
last one, live ones are held meanwhile, and what came before is told by its id. All times are epoch milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from streammachine.market.model.kline import Gap, Trade
from streammachine.market.model.rows import Row

HELD: Final = 20_000  # trades held behind a hole; those beyond are dropped, and asked for again
KNOWN: Final = 5_000  # ids remembered where they are not contiguous
SLACK: Final = 1500  # clocks may differ by so much
LOOK_BACK: Final = 600_000  # how far REST is searched for an id whose time is not known


@dataclass(frozen=True, slots=True)
class TradesHad:
    """All trades from ``since`` (epoch ms) on that the caller has, oldest first."""

    since: int
    trades: Sequence[Trade]


class TradeLedger:
    """The trades of one symbol.

    Args:
        contiguous: ids rise by one, by ``Trade.fills`` where one stands for several.
        settle: how long a trade that was overtaken by others is waited for. grace: how long REST may be behind.
        idle_after: after so long without a trade REST is asked whether there was none.
        by_id: REST gives the trades behind an id. before: a subscription begins with the trades before it, and the
            first trade is the next one.
        after: id of the last trade that the caller has, or all that it has from a moment on (``TradesHad``, where ids
            do not rise by one); None: begin with the first one on the socket.
        on_due_changed: called with the ledger whenever ``due`` was set.

    Attributes:
        due, healing, since, seen, stream_may_be_dead, duplicates, late, healed, gaps: as in ``CandleLedger``; what
            counts candles there counts trades (gaps: holes) here.
        last: the last trade handed out. whole_until: all trades up to then are known to be handed out, by what REST
            said; what a live stream proves is not in it.
    """

    __slots__ = (
        "_before",
        "_begun",
        "_by_id",
        "_contiguous",
        "_goes_on",
        "_held",
        "_known",
        "_last_id",
        "_loss_possible",
        "_on_due_changed",
        "_recent",
        "_refetch",
        "_refetch_since",
        "_since",
        "_waiting",
        "due",
        "duplicates",
        "gaps",
        "grace",
        "healed",
        "healing",
        "idle_after",
        "invalid",
        "last",
        "late",
        "seen",
        "settle",
        "since",
        "source",
        "stream_may_be_dead",
        "symbol",
        "whole_until",
    )
    timeframe = "trade"

    def __init__(
        self,
        source: str,
        symbol: str,
        *,
        contiguous: bool,
        settle: int = 1000,
        grace: int = 5000,
        idle_after: int = 60_000,
        by_id: bool = True,
        before: bool = False,
        after: str | TradesHad | None = None,
        on_due_changed: Callable[[TradeLedger], object] | None = None,
    ) -> None:
        self.source = source
        self.symbol = symbol
        self.settle = settle
        self.grace = grace
        self.idle_after = idle_after
        self._by_id = by_id
        self._contiguous = contiguous
        self._on_due_changed = on_due_changed
        had, after = (after, None) if isinstance(after, TradesHad) else (None, after)
        self._last_id: int | None = int(after) if after is not None and contiguous else None
        self._before = 0 if before else None  # the highest id from before the first subscription; None: never shown
        self._known = self._last_id or 0  # the highest id that the socket has shown
        self._held: dict[int, Trade] = {}  # contiguous: by the first id that they stand for
        self._waiting: list[Trade] = []  # not contiguous: live ones until REST has answered
        self._recent: dict[str, None] = {} if after is None else {after: None}
        self._refetch = self._goes_on = after is not None or had is not None
        self._since = None if had is None else had.since
        self._refetch_since = 0  # since when REST is needed
        self._loss_possible = False
        self._begun = 0  # when first subscribed
        self.last: Trade | None = None
        for trade in had.trades[-KNOWN:] if had is not None else ():
            self._remember(trade)
        self.since: int | None = None
        self.seen = 0
        self.whole_until = 0
        self.due: int | None = None
        self.healing = False
        self.stream_may_be_dead = False
        self.duplicates = self.late = self.invalid = 0
        self.healed = self.gaps = 0

    # -- the socket --

    def subscribed(self, now: int) -> None:
        """The stream delivers from now on."""
        if self.since is not None:
            return
        self.since = self.seen = now
        if not self._begun:
            self._begun = self._refetch_since = now
            self._set_due(now + (self.settle if self._refetch else self.idle_after))
            return
        self._refetch = True
        self._refetch_since = now
        self._expedite(now + (self.grace if self._contiguous else self.settle))

    def mark_possible_loss(self, now: int) -> None:
        """A frame that may have held trades of this symbol was lost. Where ids are contiguous they will tell; else REST
        is asked as soon as the next trade shows that there are any."""
        self._loss_possible = not self._contiguous and self.last is not None

    def interrupted(self) -> None:
        """The stream does not deliver any more."""
        self.since = None

    def take(self, trade: Trade, now: int, rows: list[Row]) -> None:
        """One trade from the socket. What can be handed out is appended to ``rows``."""
        self.seen = now
        if self.since is None:
            self.subscribed(now)
        if not self._contiguous:
            self._take_any(trade, now, rows)
            return
        last_id = int(trade.trade_id)
        if last_id - trade.fills == self._last_id:
            self._last_id = last_id
            self.last = trade
            rows.append(trade)
            if self._held:
                self._drain(rows)
            return
        self._take_other(trade, last_id, now, rows)

    def _take_other(self, trade: Trade, last_id: int, now: int, rows: list[Row]) -> None:
        """A trade that is not simply the next."""
        if self._last_id is None:
            self._take_first(trade, last_id, now, rows)
        elif last_id <= self._last_id:
            self.duplicates += 1
        else:
            self._known = max(self._known, last_id)
            first_id = last_id - trade.fills + 1
            if len(self._held) < HELD and first_id > self._last_id:
                self._held[first_id] = trade
            self._expedite(now + self.settle)

    def _take_first(self, trade: Trade, last_id: int, now: int, rows: list[Row]) -> None:
        """A trade while none was handed out."""
        if self._before is None:
            if trade.ts < self._begun - SLACK:
                self.late += 1
            else:
                self._hand_out(trade, last_id, rows)
            return
        if trade.ts < self._begun:
            self.late += 1
            self._before = max(self._before, last_id)
        elif len(self._held) < HELD:
            self._known = max(self._known, last_id)
            self._held[last_id - trade.fills + 1] = trade
        first = self._held.pop(self._before + 1, None)
        if first is not None:
            self._hand_out(first, int(first.trade_id), rows)
            self._drain(rows)
        elif self._held:  # those between, or the older ones, may have been overtaken
            self._expedite(now + self.settle)

    def _take_any(self, trade: Trade, now: int, rows: list[Row]) -> None:
        if self._loss_possible:
            self._loss_possible = False
            self._refetch = True
            self._refetch_since = now
        if trade.trade_id in self._recent:
            self.duplicates += 1
        elif self.last is None and not self._refetch and trade.ts < self._begun - SLACK:
            self.late += 1
        elif self._refetch:
            if len(self._waiting) < HELD:
                self._waiting.append(trade)
            self._expedite(now + self.settle)
        else:
            self._remember(trade)
            rows.append(trade)

    # -- the clock --

    def tick(self, now: int, rows: list[Row]) -> None:
        """``due`` has come."""
        self.due = None
        if self.healing:
            return
        if self._refetch or self._is_behind():
            self.healing = True
        elif self.since is not None:
            moment = max(self.seen, self.whole_until) + self.idle_after
            if moment <= now:
                self.healing = True
            else:
                self._set_due(moment)

    def asked(self) -> tuple[str | None, int | None]:
        """What to ask REST for: the trades behind an id, or since a moment."""
        if self._by_id and self._last_id is not None:
            return str(self._last_id), None
        if self.last is not None:
            return None, self.last.ts
        if self._since is not None:
            return None, self._since
        return None, self._begun - (LOOK_BACK if self._goes_on else 0)

    @property
    def whole(self) -> bool:
        """Whether the socket delivers, and nothing from before is missing."""
        return self.since is not None and not self._refetch and not self._is_behind()

    @property
    def meets(self) -> bool:
        """Whether what was handed out reaches up to what the socket brought."""
        return self._contiguous and bool(self._known) and not self._is_behind() and not self._refetch

    # -- REST --

    def restore(self, trades: Sequence[Trade], rows: list[Row], *, beginning: bool) -> None:
        """Trades from REST, oldest first; some may be known, live ones go before them. ``beginning``: the first page
        of an answer."""
        last = self.last
        blind = beginning and not self._contiguous and self._refetch
        if blind and last is not None and trades and trades[0].ts > last.ts:
            self._gap(last.ts, trades[0].ts, "REST does not reach back to the last trade", rows)
        for trade in trades:
            if not self._contiguous:
                if trade.trade_id not in self._recent:
                    self._give(trade, rows)
                continue
            self._drain(rows)
            trade_id = int(trade.trade_id)
            if self._last_id is None or trade_id - trade.fills == self._last_id:
                self._give(trade, rows, trade_id)
        self._drain(rows)

    def answered(self, asked_at: int, now: int, rows: list[Row]) -> None:
        """REST has said all it knew. ``healing`` ends if nothing is missing then."""
        if self._contiguous:
            self._refetch = self._refetch and self.since is None
            self._end_healing(asked_at, now)
            return
        if not self._refetch:
            self._end_healing(asked_at, now)
            return
        first = self._waiting[0] if self._waiting else None
        if first is None:
            told = asked_at >= self._refetch_since + 3 * self.grace
        else:
            told = first.trade_id in self._recent or (self.last is not None and self.last.ts > first.ts)
        if told:
            self._release(rows)
            self._end_healing(asked_at, now)
        elif first is None:  # nothing waits, so this can be later
            self.healing = False
            self._set_due(max(self._refetch_since + 3 * self.grace, now + self.settle))

    def give_up(self, now: int, rows: list[Row], reason: str) -> None:
        """Go on without what REST has not given: a Gap takes its place."""
        before = self.last.ts if self.last is not None else self._begun
        if self._contiguous:
            self._drain(rows)
            if self._is_behind():
                first_id = min(self._held, default=self._known + 1)
                after = self._held.get(first_id)
                self._gap(before, now if after is None else after.ts, reason, rows)
                self._last_id = first_id - 1
                self._drain(rows)
            elif self._refetch:
                self._gap(before, self.since or now, reason, rows)
        else:
            self._gap(before, self._waiting[0].ts if self._waiting else self.since or now, reason, rows)
            self._release(rows)
        self._refetch = self._refetch and self.since is None
        self._end_healing(now, now)

    def _end_healing(self, asked_at: int, now: int) -> None:
        if self._is_behind():
            return
        self.healing = False
        if not self._refetch:
            self.whole_until = max(self.whole_until, asked_at - self.grace)
        self._set_due(now + self.idle_after)

    def _gap(self, start: int, end: int, reason: str, rows: list[Row]) -> None:
        self.gaps += 1
        rows.append(Gap(self.source, self.symbol, self.timeframe, start, max(end, start + 1), reason))

    # -- order --

    def _is_behind(self) -> bool:
        if self._last_id is None:
            return bool(self._held)
        return self._contiguous and self._known > self._last_id

    def _give(self, trade: Trade, rows: list[Row], trade_id: int | None = None) -> None:
        """Hand out a trade that REST gave."""
        if self.since is not None and self.since < trade.ts - SLACK and self.seen < trade.ts - SLACK:
            self.stream_may_be_dead = True
        if self.last is None and trade.ts < self._begun and not self._goes_on:
            return  # from before the first subscription
        self.healed += 1
        if trade_id is not None:
            self._hand_out(trade, trade_id, rows)
        else:
            self._remember(trade)
            rows.append(trade)

    def _hand_out(self, trade: Trade, last_id: int, rows: list[Row]) -> None:
        self._last_id = last_id
        self._known = max(self._known, last_id)
        self.last = trade
        rows.append(trade)

    def _drain(self, rows: list[Row]) -> None:
        """Hand out what is held and in order, and forget what was overtaken."""
        held = self._held
        while held and self._last_id is not None:
            trade = held.pop(self._last_id + 1, None)
            if trade is None:
                break
            self._hand_out(trade, int(trade.trade_id), rows)
        if held and self._last_id is not None and min(held) <= self._last_id:
            self._held = {first: trade for first, trade in held.items() if first > self._last_id}

    def _release(self, rows: list[Row]) -> None:
        """Hand out the live trades that waited for REST."""
        self._refetch = False
        waiting, self._waiting = self._waiting, []
        for trade in waiting:
            if trade.trade_id not in self._recent:
                self._remember(trade)
                rows.append(trade)

    def _remember(self, trade: Trade) -> None:
        self.last = trade
        recent = self._recent
        recent[trade.trade_id] = None
        if len(recent) > KNOWN:
            del recent[next(iter(recent))]

    def _expedite(self, moment: int) -> None:
        if self.due is None or moment < self.due:
            self._set_due(moment)

    def _set_due(self, moment: int) -> None:
        self.due = moment
        if self._on_due_changed is not None:
            self._on_due_changed(self)
