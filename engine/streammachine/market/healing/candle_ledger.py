"""What is closed, held back and missing: the ledger of one symbol's candles. Pure: frames and moments in, rows out.

The rows that leave are, for ever: closed candles in order, each once, the one behind the last; a Gap in place of what
cannot be had; and between them open states of the candle that is next to close. Whatever arrives beyond that candle is
held until the hole before it is filled, so nothing ever has to be taken back.

There are two ways in which exchanges end a candle:

- "flag": its last push says so. If that push has not come ``grace`` after the candle's end, REST is asked.
- "next" (Kraken): nothing says so, and pushes come with trades only. A candle's last state is final when a later
  candle has been seen for ``settle``, or ``grace`` after its end by the clock; a candle without a trade is flat at the
  close before it. That holds where the connection was not interrupted; else, and where the stream was silent for so
  long that it may have died, REST has the last word. It is asked about the others too as long as it has the time: a
  candle's last frame may be lost, and nothing on the socket shows it.

Every push carries the whole state of its candle, so one push after an interruption makes up for all that were missed.
All times are epoch milliseconds. Who calls asks ``due`` when to call ``tick``, ``healing`` whether to ask REST, and
``missing`` what for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Literal

from streammachine.market.healing.candle_order import CandleOrder, CandleState, flat
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.kline import Gap, Kline, with_fields
from streammachine.market.model.rows import Row

AHEAD: Final = 5000  # a candle may begin so much later than our clock says: exchanges' clocks and ours differ
SILENCE: Final = 10_000  # "next": silence around a candle's end from which on REST is asked whether it was one


class CandleLedger(CandleOrder):
    """The candles of one symbol and timeframe.

    Args:
        closes: how the exchange ends a candle: "flag" or "next", see above.
        grace: after a candle's end, until its close is overdue. settle: how long a late frame of a candle is waited
            for once a later candle was seen.
        open_rows: hand out open states too.
        after: open_ts of the last closed candle that the caller has; None: begin with the candle that is running when
            the stream is first subscribed.
        on_due_changed: called with the ledger whenever ``due`` was set.
        may_verify: "next": whether REST may be asked to confirm a candle without trades now (it has a budget).
            may_check: and one after which the stream is known to live.

    Attributes:
        expected: open_ts of the next candle to close; None before the first subscription.
        due: when to call ``tick``; None: no need.
        healing: REST is to be asked for ``missing``. confirm_only: only to confirm what would be handed out without it.
            checked: confirm_only, and the stream is known to live.
        since: from when on the socket has delivered without interruption; None: it does not.
        seen: when the last frame came. last: the last closed candle handed out.
        stream_may_be_dead: REST knew of trades that the stream did not bring; who resubscribes resets it.
        duplicates, late, conflicts, invalid: frames dropped because they were seen before, were overtaken, close a
            candle with other values than those handed out, or are of a candle that cannot be.
        healed, gaps: candles that REST gave, and that nobody gave.
    """

    __slots__ = (
        "_may_check",
        "_may_verify",
        "_newest",
        "_next",
        "_wanted",
        "checked",
        "confirm_only",
        "conflicts",
        "duplicates",
        "gaps",
        "healed",
        "healing",
        "invalid",
        "late",
        "seen",
        "since",
        "stream_may_be_dead",
    )

    def __init__(
        self,
        source: str,
        symbol: str,
        timeframe: str,
        closes: Literal["flag", "next"] = "flag",
        *,
        grace: int = 5000,
        settle: int = 1000,
        open_rows: bool = True,
        after: int | None = None,
        on_due_changed: Callable[[Any], object] | None = None,
        may_verify: Callable[[], bool] | None = None,
        may_check: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__(source, symbol, timeframe, grace, settle, open_rows, on_due_changed)
        self._next = closes == "next"
        self._may_verify = may_verify
        self._may_check = may_check
        self._newest = 0  # "next": open_ts of ``running``
        self.since: int | None = None
        self.seen = 0
        self.healing = False
        self.confirm_only = self.checked = False
        self._wanted = 0  # the first candle that REST was asked for
        self.stream_may_be_dead = False
        self.duplicates = self.late = self.conflicts = self.invalid = 0
        self.healed = self.gaps = 0
        if after is not None:
            self._first = False
            self._expect(timeframes.shift(timeframe, after))

    # -- the socket --

    def subscribed(self, now: int) -> None:
        """The stream delivers from now on."""
        if self.since is not None:
            return
        self.since = now
        if self.expected is None:
            self._expect(timeframes.floor(self.timeframe, now))
        elif self._end <= now:  # its close may have been missed
            self._expedite(now + self.settle if self._next else now)

    def interrupted(self) -> None:
        """The stream does not deliver any more."""
        self.since = None

    def mark_possible_loss(self, now: int) -> None:
        """A frame of the stream may have been lost. Where candles have a closing frame, that will tell."""
        self._loss_possible = True

    def take(self, kline: Kline, now: int, rows: list[Row]) -> None:
        """One frame's candle. What can be handed out is appended to ``rows``."""
        self.seen = now
        fields = kline.__dict__  # a look at a model's attribute costs three times one into its fields
        open_ts = fields["open_ts"]
        if open_ts != self.expected or self.since is None:
            self._take_other(kline, now, rows)
        elif self._next:
            state = self._states.get(open_ts)
            volume = fields["volume"]
            if state is None or volume < state.volume or open_ts < self._newest:
                self._take_state(kline, now, rows)
                return
            state.kline = self.running = kline
            state.volume = volume
            state.seen = now
            self._newest = open_ts
            self._unshown = False
            fields["is_closed"] = False  # nobody else has it yet, and a copy would cost more than its decode
            if self.open_rows:
                rows.append(kline)
        elif fields["is_closed"]:
            if fields["low"] > 0:
                self._close(kline, rows)
                self._drain(rows)
            else:
                self.invalid += 1
        else:
            running = self.running
            if running is not None:
                shown = running.__dict__
                if shown["volume"] > fields["volume"] and shown["open_ts"] == open_ts:
                    self.late += 1
                    return
            self.running = kline
            if self.open_rows:
                rows.append(kline)

    def _take_other(self, kline: Kline, now: int, rows: list[Row]) -> None:
        """A candle other than the expected one, or data before the acknowledgement."""
        if not self._is_plausible(kline, now):
            self.invalid += 1
            return
        if self.since is None:
            self.subscribed(now)
        if self._first:
            self._begin_earlier(kline, now)
        expected, open_ts = self.expected, kline.open_ts
        if expected is None or open_ts < expected:
            self._take_late(kline)
        elif self._next:
            self._take_state(kline, now, rows)
        elif kline.is_closed:
            self._hold(kline, now, rows)
        else:
            self._take_open(kline, rows)

    def _is_plausible(self, kline: Kline, now: int) -> bool:
        return (
            kline.low > 0
            and kline.timeframe == self.timeframe
            and kline.open_ts <= now + AHEAD
            and timeframes.floor(self.timeframe, kline.open_ts) == kline.open_ts
        )

    def _begin_earlier(self, kline: Kline, now: int) -> None:
        """Where the exchange's clock is behind ours, what it calls running may be the candle before."""
        if self._next or kline.is_closed or self.expected is None or now - self.expected > AHEAD:
            return
        if timeframes.end_of(self.timeframe, kline.open_ts) == self.expected:
            self._expect(kline.open_ts)

    def _take_late(self, kline: Kline) -> None:
        """A candle that was handed out already, or lies before the first."""
        last = self.last
        again = last is not None and kline.open_ts == last.open_ts
        if last is not None and again and (kline.volume > last.volume if self._next else kline.is_closed):
            if _same(kline, last):
                self.duplicates += 1
            else:
                self.conflicts += 1
        elif kline.is_closed:
            self.duplicates += 1
        else:
            self.late += 1
            anchor = self._anchor
            if self._next and last is None and (anchor is None or anchor.open_ts <= kline.open_ts):
                self._anchor = kline  # of the snapshot that a subscription begins with

    def _hold(self, kline: Kline, now: int, rows: list[Row]) -> None:
        """A closed candle, most likely behind a hole."""
        if kline.open_ts in self._held:
            self.duplicates += 1
            return
        self._held[kline.open_ts] = kline
        if kline.open_ts != self.expected:
            self._expedite(now + self.settle)
        self._drain(rows)

    def _take_open(self, kline: Kline, rows: list[Row]) -> None:
        if self._is_overtaken(kline):
            self.late += 1
            return
        self.running = kline
        self._unshown = kline.open_ts != self.expected
        if self.open_rows and not self._unshown:
            rows.append(kline)

    def _is_overtaken(self, kline: Kline) -> bool:
        running = self.running
        if running is None or running.open_ts < kline.open_ts:
            return False
        return running.open_ts > kline.open_ts or running.volume > kline.volume

    # -- "next": states instead of closes --

    def _take_state(self, kline: Kline, now: int, rows: list[Row]) -> None:
        """A state of the expected candle or of one beyond."""
        fields = kline.__dict__
        open_ts, volume = fields["open_ts"], fields["volume"]
        state = self._states.get(open_ts)
        if state is None:
            if not self._is_plausible(kline, now):
                self.invalid += 1
                return
            self._states[open_ts] = CandleState(kline, now, volume)
            if open_ts != self.expected:
                self._expedite(now + self.settle)
        elif volume < state.volume:
            self.late += 1
            return
        else:
            state.kline = kline
            state.volume = volume
            state.seen = now
        fields["is_closed"] = False  # nobody else has it yet, and a copy would cost more than its decode
        is_next = open_ts == self.expected
        if open_ts >= self._newest:
            self._newest = open_ts
            self.running = kline
            self._unshown = not is_next
        if is_next and self.open_rows:
            rows.append(kline)

    def _close_by_time(self, now: int, rows: list[Row]) -> None:
        """Close whatever is final by now; where only REST can tell, have it asked."""
        while self.expected is not None:
            expected = self.expected
            later = [state.began for start, state in self._states.items() if start > expected]
            ahead = min(later, default=None)
            moment = self._end + self.grace
            if ahead is not None:
                moment = min(moment, ahead + self.settle)
            if moment > now:
                self._set_due(moment)
                return
            made = self._final(expected)
            if made is None:
                self._ask(confirm_only=False)
                return
            uncertain = self._may_have_been_dead(expected, ahead)
            may_ask = self._may_verify if uncertain else self._may_check
            if may_ask is not None and may_ask():
                self._ask(confirm_only=True)
                self.checked = not uncertain
                return
            self._close(made, rows)
            self._drain(rows)

    def _final(self, open_ts: int) -> Kline | None:
        """The candle as the socket tells it; None: the socket does not tell all of it."""
        if self.since is None:
            return None
        state = self._states.get(open_ts)
        if state is not None:
            return with_fields(state.kline, is_closed=True) if state.seen >= self.since else None
        anchor = self._anchor
        if self.since > open_ts or anchor is None or timeframes.end_of(self.timeframe, anchor.open_ts) != open_ts:
            return None
        return flat(anchor, open_ts)

    def _may_have_been_dead(self, open_ts: int, ahead: int | None) -> bool:
        """Whether the stream was silent around the candle's end, so that it may have been dead for a while."""
        state = self._states.get(open_ts)
        return self._loss_possible or state is None or ahead is None or ahead - state.seen > SILENCE

    # -- the clock --

    def tick(self, now: int, rows: list[Row]) -> None:
        """``due`` has come."""
        self.due = None
        if self.expected is None or self.healing:
            return
        if self._next:
            self._close_by_time(now, rows)
        elif self._overdue_at <= now:
            self._ask(confirm_only=False)
        else:
            self._set_due(self._overdue_at)

    def _ask(self, *, confirm_only: bool) -> None:
        self.healing = True
        self.confirm_only = confirm_only
        self.checked = False
        self._wanted = self.expected or 0

    def missing(self, now: int) -> tuple[int, int]:
        """[start, end) of the candles to ask REST for."""
        if self.expected is None:
            return 0, 0
        end = max(timeframes.floor(self.timeframe, now - self.grace), self._end, *self._held)
        return self.expected, end

    # -- REST --

    def restore(self, klines: Iterable[Kline], now: int, rows: list[Row]) -> None:
        """Candles from REST that are known to be closed, oldest first. ``healing`` ends if nothing is missing now."""
        if self.expected is None:
            return
        for kline in klines:
            open_ts = kline.open_ts
            if open_ts < self.expected or open_ts in self._held:
                continue
            self._check_stream(kline)
            own = self._final(open_ts) if self._next else None
            if own is not None and own.volume >= kline.volume:
                self._held[open_ts] = own  # the same, and more exact
            else:
                self._held[open_ts] = kline
                self.healed += 1
        self._drain(rows)
        if self.expected > self._wanted:
            self._end_healing(now, rows)

    def trust(self, now: int, rows: list[Row]) -> None:
        """REST cannot confirm it: hand out what the socket says, if it says all of it."""
        own = self._final(self.expected) if self.confirm_only and self.expected is not None else None
        self.confirm_only = self.checked = False
        if own is not None:
            self._close(own, rows)
            self._drain(rows)
            self._end_healing(now, rows)

    def give_up(self, now: int, patience: int, rows: list[Row], reason: str) -> None:
        """Go on without what REST has not given ``patience`` after it was overdue: a Gap takes its place. ``healing``
        ends if nothing is missing then."""
        bound = timeframes.floor(self.timeframe, now - self.grace - patience)
        start: int | None = None
        while self.expected is not None and self.expected < bound:
            own = self._held.pop(self.expected, None)
            if own is None and self._next:
                own = self._final(self.expected)  # REST was only to confirm it
            if own is None:
                start = self.expected if start is None else start
                self.gaps += 1
                self._anchor = None
                self._first = False
                self._expect(self._end)
                continue
            if start is not None:
                rows.append(self._gap(start, self.expected, reason))
                start = None
            self._close(own, rows)
        if self.expected is None:
            return
        if start is not None:
            rows.append(self._gap(start, self.expected, reason))
        self._drain(rows)
        self._end_healing(now, rows)

    def _gap(self, start: int, end: int, reason: str) -> Gap:
        return Gap(self.source, self.symbol, self.timeframe, start, end, reason)

    def _check_stream(self, kline: Kline) -> None:
        """Whether the stream must have died: it brought less than there was, though it was never interrupted. Not
        where a later candle was seen in time: such a stream lives, and has lost or overtaken a frame."""
        if self.since is None or self.since > kline.open_ts or kline.volume == 0 or self.checked:
            return
        if self._next:
            state = self._states.get(kline.open_ts)
            self.stream_may_be_dead |= state is None or state.kline.volume < kline.volume
        else:
            self.stream_may_be_dead |= self.seen < kline.open_ts

    def _end_healing(self, now: int, rows: list[Row]) -> None:
        """Go back to waiting for closes, unless the next one is overdue too."""
        self.healing = self.confirm_only = False
        if self._next:
            self._close_by_time(now, rows)
        elif self._held or self._end + self.grace <= now:
            self._ask(confirm_only=False)
        else:
            self._set_due(self._overdue_at)


def _same(kline: Kline, other: Kline) -> bool:
    return (kline.open, kline.high, kline.low, kline.close, kline.volume) == (
        other.open,
        other.high,
        other.low,
        other.close,
        other.volume,
    )
