"""The candle ledger: whatever frames do, candles leave it in order, each once, and right."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streammachine.market.healing.candle_ledger import CandleLedger
from streammachine.market.healing.candle_order import flat
from streammachine.market.model.kline import Gap, Kline
from streammachine.market.model.rows import Row

MINUTE = 60_000
START = 1_700_000_040_000  # on the minute
GRACE = 5000


def candle(
    minute: int, volume: float = 1.0, *, closed: bool | None = False, origin: str = "ws", price: float | None = None
) -> Kline:
    """The candle of a minute after START; its price tells which one, its volume how much of it."""
    at = price if price is not None else 100.0 + minute
    return Kline(
        source="X",
        symbol="A",
        timeframe="1m",
        open_ts=START + minute * MINUTE,
        end_ts=START + (minute + 1) * MINUTE - 1,
        open=at,
        high=at + 1,
        low=at - 1,
        close=at,
        volume=volume,
        is_closed=closed,
        origin=origin,  # type: ignore[arg-type]
    )


@dataclass
class CandleDriver:
    """A ledger, and what it handed out."""

    ledger: CandleLedger
    rows: list[Row] = field(default_factory=list)

    def frame(self, at: float, kline: Kline) -> list[Row]:
        """A frame comes, ``at`` seconds after START; what it brings."""
        before = len(self.rows)
        self.ledger.take(kline, START + round(at * 1000), self.rows)
        return self.rows[before:]

    def tick(self, at: float) -> list[Row]:
        """Time passes until then."""
        before = len(self.rows)
        now = START + round(at * 1000)
        while self.ledger.due is not None and self.ledger.due <= now:
            self.ledger.tick(self.ledger.due, self.rows)
        return self.rows[before:]

    def rest(self, at: float, *klines: Kline) -> list[Row]:
        """REST answers."""
        before = len(self.rows)
        self.ledger.restore(klines, START + round(at * 1000), self.rows)
        return self.rows[before:]

    @property
    def closed(self) -> list[int]:
        return [(row.open_ts - START) // MINUTE for row in self.rows if isinstance(row, Kline) and row.is_closed]


def driven(closes: str = "flag", at: float = 20, **arguments: object) -> CandleDriver:
    ledger = CandleLedger("X", "A", "1m", closes, grace=GRACE, **arguments)  # type: ignore[arg-type]
    ledger.subscribed(START + round(at * 1000))
    return CandleDriver(ledger)


# -- exchanges that say when a candle closes --


def test_open_states_and_closes_pass_in_order() -> None:
    it = driven()
    first, closed, second = candle(0), candle(0, 2, closed=True), candle(1)
    assert it.frame(21, first) == [first]
    assert it.frame(60.2, closed) == [closed]
    assert it.frame(61, second) == [second]


def test_open_states_can_be_left_out() -> None:
    it = driven(open_rows=False)
    assert it.frame(21, candle(0)) == []
    assert it.frame(60.1, candle(0, closed=True)) == [candle(0, closed=True)]


def test_the_first_closed_candle_is_the_one_that_runs_at_the_subscription() -> None:
    it = driven(at=20)
    assert it.frame(20.1, candle(-1, closed=True)) == []
    it.frame(60.1, candle(0, closed=True))
    assert it.closed == [0]


def test_a_first_candle_whose_close_was_the_first_frame_counts() -> None:
    it = driven(at=59.9)
    it.frame(60.1, candle(0, closed=True))
    assert it.closed == [0]


def test_where_the_exchanges_clock_is_behind_its_running_candle_is_the_first() -> None:
    it = driven(at=60.5)  # ours says minute 1
    it.frame(60.6, candle(0))
    it.frame(61.3, candle(0, 2, closed=True))
    it.frame(120, candle(1, closed=True))
    assert it.closed == [0, 1]


def test_with_a_last_candle_given_it_goes_on_behind_that_one() -> None:
    it = driven(at=200, after=START)
    it.tick(200)
    assert it.ledger.healing
    assert it.ledger.missing(START + 200_000) == (START + MINUTE, START + 3 * MINUTE)
    it.rest(200.5, candle(1, closed=True, origin="rest"), candle(2, closed=True, origin="rest"))
    it.frame(240.1, candle(3, closed=True))
    assert it.closed == [1, 2, 3]


def test_duplicates_late_and_overtaken_frames_are_dropped_and_counted() -> None:
    it = driven()
    it.frame(21, candle(0, 5))
    assert it.frame(22, candle(0, 4)) == []  # overtaken
    it.frame(60.1, candle(0, 6, closed=True))
    assert it.frame(60.2, candle(0, 6, closed=True)) == []  # duplicate
    assert it.frame(60.3, candle(0, 5)) == []  # open after the close
    assert (it.ledger.duplicates, it.ledger.late, it.ledger.conflicts) == (1, 2, 0)


def test_a_second_close_with_other_values_is_counted_not_handed_out() -> None:
    it = driven()
    it.frame(60.1, candle(0, 6, closed=True))
    assert it.frame(60.2, candle(0, 7, closed=True)) == []
    assert it.ledger.conflicts == 1
    assert it.closed == [0]


def test_a_close_that_comes_late_still_comes_first() -> None:
    it = driven()
    assert it.frame(60.1, candle(1)) == []  # held back: minute 0 is not closed
    late = candle(0, 3, closed=True)
    assert it.frame(62, late) == [late, candle(1)]


def test_an_overdue_close_is_asked_for_and_later_candles_wait_for_it() -> None:
    it = driven()
    it.frame(61, candle(1))
    it.tick(64.9)
    assert not it.ledger.healing
    it.tick(65)
    assert it.ledger.healing
    assert it.ledger.missing(START + 65_000) == (START, START + MINUTE)
    assert it.frame(120.1, candle(1, 9, closed=True)) == []
    won = candle(0, 8, closed=True, origin="rest")
    assert it.rest(121, won) == [won, candle(1, 9, closed=True)]
    assert not it.ledger.healing
    assert it.ledger.healed == 1


def test_healing_that_the_socket_makes_needless_ends() -> None:
    it = driven()
    it.tick(65)
    it.frame(66, candle(0, closed=True))
    assert it.closed == [0]
    it.rest(67)
    assert not it.ledger.healing


def test_after_a_reconnect_a_missed_close_is_asked_for_at_once() -> None:
    it = driven()
    it.frame(21, candle(0))
    it.ledger.interrupted()
    it.ledger.subscribed(START + 61_000)
    it.tick(61)
    assert it.ledger.healing


def test_after_a_reconnect_within_the_same_candle_nothing_is_asked() -> None:
    it = driven()
    it.frame(21, candle(0))
    it.ledger.interrupted()
    it.ledger.subscribed(START + 40_000)
    it.tick(59)
    it.frame(60.1, candle(0, 5, closed=True))
    assert not it.ledger.healing
    assert it.closed == [0]


def test_data_before_the_acknowledgement_counts() -> None:
    it = CandleDriver(CandleLedger("X", "A", "1m", grace=GRACE))
    first = candle(0)
    assert it.frame(20, first) == [first]
    it.ledger.subscribed(START + 21_000)
    assert it.ledger.since == START + 20_000


def test_what_nobody_has_becomes_one_gap_and_the_rest_goes_on() -> None:
    it = driven()
    it.tick(65)
    it.rest(66, candle(2, closed=True, origin="rest"))
    rows: list[Row] = []
    it.ledger.give_up(START + 150_000, 60_000, rows, "gone")  # minute 0 was overdue for 60 s, minute 1 was not
    assert rows == [Gap("X", "A", "1m", START, START + MINUTE, "gone")]
    assert it.ledger.healing
    it.ledger.give_up(START + 200_000, 60_000, rows, "gone")
    assert rows[1:] == [
        Gap("X", "A", "1m", START + MINUTE, START + 2 * MINUTE, "gone"),
        candle(2, closed=True, origin="rest"),
    ]
    assert it.ledger.gaps == 2


def test_adjacent_missing_candles_are_one_gap() -> None:
    it = driven()
    it.tick(65)
    rows: list[Row] = []
    it.ledger.give_up(START + 600_000, 60_000, rows, "gone")
    assert rows == [Gap("X", "A", "1m", START, START + 8 * MINUTE, "gone")]


@pytest.mark.parametrize(
    "invalid",
    [
        candle(0, price=1.0),  # low is 0
        candle(500),  # far ahead
        candle(1).model_copy(update={"open_ts": START + 1}),  # begins between two
        candle(1).model_copy(update={"timeframe": "5m"}),
    ],
)
def test_candles_that_cannot_be_are_dropped_and_counted(invalid: Kline) -> None:
    it = driven()
    it.frame(21, invalid.model_copy(update={"is_closed": True}))
    assert it.rows == []
    assert it.ledger.invalid == 1


def test_a_stream_is_suspected_when_rest_knows_trades_of_a_whole_candle_that_it_kept_silent_about() -> None:
    it = driven()
    it.frame(30, candle(0))
    it.tick(65)
    it.rest(66, candle(0, closed=True, origin="rest"))
    assert not it.ledger.stream_may_be_dead  # part of that candle did come
    it.tick(125)
    it.rest(126, candle(1, closed=True, origin="rest"))
    assert it.ledger.stream_may_be_dead


# -- Kraken: closed by the next candle, or by the clock --


def test_a_later_candle_closes_the_one_before_after_a_while() -> None:
    it = driven("next")
    it.frame(20.1, candle(0, 3, closed=None))
    it.frame(59, candle(0, 4, closed=None))
    it.frame(60.5, candle(1, 1, closed=None))
    assert it.closed == []
    late = candle(0, 5, closed=None)
    it.frame(60.8, late)  # the last state was overtaken
    it.tick(61.5)
    assert it.closed == [0]
    assert [row.volume for row in it.rows if isinstance(row, Kline) and row.is_closed] == [5]


def test_open_states_say_that_they_are_open() -> None:
    it = driven("next")
    [row] = it.frame(20.1, candle(0, 3, closed=None))
    assert isinstance(row, Kline)
    assert row.is_closed is False


def test_the_clock_closes_a_candle_and_a_idle_one_is_flat() -> None:
    it = driven("next")
    it.frame(20.1, candle(0, 3, closed=None))
    it.tick(65)
    it.tick(125)
    assert it.closed == [0, 1]
    idle = it.rows[-1]
    assert isinstance(idle, Kline)
    assert (idle.open, idle.high, idle.low, idle.close, idle.volume, idle.n_trades) == (100,) * 4 + (0, 0)
    assert idle.end_ts == idle.open_ts + MINUTE - 1


def test_a_snapshot_of_old_candles_hands_none_of_them_out_but_gives_the_price_before() -> None:
    it = driven("next")
    for minute in range(-9, 0):
        it.frame(20.1, candle(minute, closed=None))
    it.tick(65)
    assert it.ledger.healing  # nothing came of minute 0, which had begun before the subscription: REST must say
    won = flat(candle(-1), START).model_copy(update={"origin": "rest"})
    assert it.rest(66, won) == [won]


def test_an_interruption_makes_rest_decide_unless_a_later_push_makes_up_for_it() -> None:
    it = driven("next")
    it.frame(30, candle(0, 3, closed=None))
    it.ledger.interrupted()
    it.ledger.subscribed(START + 40_000)
    it.frame(41, candle(0, 4, closed=None))
    it.frame(60.5, candle(1, 1, closed=None))
    it.tick(61.5)
    assert it.closed == [0]
    it.ledger.interrupted()
    it.ledger.subscribed(START + 90_000)
    it.frame(120.5, candle(2, 1, closed=None))
    it.tick(121.5)
    assert it.ledger.healing  # of minute 1 nothing came after the interruption
    it.rest(122, candle(1, 7, closed=True, origin="rest"))
    assert it.closed == [0, 1]


def test_idle_candles_are_confirmed_by_rest_where_it_may_be_asked() -> None:
    it = driven("next", may_verify=lambda: True)
    it.frame(21, candle(0, 3, closed=None))
    it.tick(65)
    assert it.ledger.healing
    assert it.ledger.confirm_only
    assert it.closed == []
    it.rest(66, candle(0, 3, closed=True, origin="rest"))
    assert it.closed == [0]
    assert [row.origin for row in it.rows if isinstance(row, Kline) and row.is_closed] == ["ws"]  # the same, more exact
    assert not it.ledger.stream_may_be_dead


def test_a_stream_that_brought_less_than_rest_has_is_suspected_and_rest_wins() -> None:
    it = driven("next", may_verify=lambda: True)
    it.frame(21, candle(0, 3, closed=None))
    it.tick(65)
    it.rest(66, candle(0, 3, closed=True, origin="rest"))
    it.frame(66, candle(1, 1, closed=None))
    it.tick(125)
    won = candle(1, 9, closed=True, origin="rest")
    assert it.rest(126, won)[0] == won
    assert it.ledger.stream_may_be_dead


def test_without_an_answer_the_socket_is_trusted() -> None:
    it = driven("next", may_verify=lambda: True)
    it.frame(21, candle(0, 3, closed=None))
    it.tick(65)
    rows: list[Row] = []
    it.ledger.trust(START + 80_000, rows)
    assert [row.volume for row in rows if isinstance(row, Kline)] == [3]


def test_a_lively_stream_is_not_confirmed() -> None:
    it = driven("next", may_verify=lambda: True)
    it.frame(59, candle(0, 3, closed=None))
    it.frame(61, candle(1, 1, closed=None))
    it.tick(62)
    assert it.closed == [0]


def test_a_stream_in_doubt_is_confirmed() -> None:
    it = driven("next", may_verify=lambda: True)
    it.frame(59, candle(0, 3, closed=None))
    it.ledger.mark_possible_loss(START + 59_500)
    it.frame(61, candle(1, 1, closed=None))
    it.tick(62)
    assert it.closed == []
    assert it.ledger.confirm_only


# -- whatever happens --


@dataclass
class World:
    """An exchange of ten minutes: candles of growing volume, a socket that may lose, repeat, delay and interrupt, and
    a REST that is behind and may lack candles."""

    closes: str
    lag: int
    lacking: set[int]
    minutes: int = 10
    idle: frozenset[int] = frozenset()

    def state(self, minute: int, second: int) -> Kline:
        """As of so many seconds after the candle's start."""
        if minute in self.idle:
            before = max(number for number in range(-1, minute) if number not in self.idle)
            return flat(candle(before, 60), START + minute * MINUTE).model_copy(update={"is_closed": None})
        return candle(minute, min(max(second, 0), 59) + 1, closed=None)

    def answer(self, now: int) -> list[Kline]:
        """What REST calls closed."""
        until = (now - START - self.lag) // MINUTE
        found = [self.state(minute, 60) for minute in range(min(until, self.minutes)) if minute not in self.lacking]
        return [kline.model_copy(update={"is_closed": True, "origin": "rest"}) for kline in found]


def live(
    world: World, lost: set[int], delays: dict[int, int], repeats: set[int], breaks: list[tuple[int, int]]
) -> CandleDriver:
    """Run the world second by second past a ledger, as a feed would."""
    ledger = CandleLedger("X", "A", "1m", world.closes, grace=GRACE, may_verify=lambda: True)  # type: ignore[arg-type]
    it = CandleDriver(ledger)
    frames: dict[int, list[Kline]] = {}

    def send(second: int, number: int, kline: Kline) -> None:
        if number in lost:
            return
        frames.setdefault(second + delays.get(number, 0), []).append(kline)
        if number in repeats:
            frames.setdefault(second + delays.get(number, 0) + 1, []).append(kline)

    for second in range(20, world.minutes * 60 + 30, 2):
        minute, within = divmod(second, 60)
        if minute < world.minutes and not (world.closes == "next" and minute in world.idle):
            state = world.state(minute, within)
            send(second, second, state if world.closes == "next" else state.model_copy(update={"is_closed": False}))
        if world.closes == "flag" and within == 0 and minute:
            send(second, 100_000 + second, world.state(minute - 1, 60).model_copy(update={"is_closed": True}))
        if world.closes == "next" and within == 58 and minute < world.minutes and minute not in world.idle:
            send(second + 1, 100_000 + second, world.state(minute, 60))
    healing_since = None
    ledger.subscribed(START + 20_000)
    for second in range(20, world.minutes * 60 + 180):
        now = START + second * 1000
        down = any(begin <= second < end for begin, end in breaks)
        for begin, end in breaks:
            if second == begin:
                ledger.interrupted()
            if second == end and not down:
                ledger.subscribed(now)
                if world.closes == "next":  # the snapshot
                    for minute in range(max(second // 60 - 9, 0), min(second // 60 + 1, world.minutes)):
                        if minute not in world.idle:
                            it.frame(
                                second, world.state(minute, second - 1 - minute * 60 if minute == second // 60 else 60)
                            )
        if not down:
            for kline in frames.get(second, ()):
                it.frame(second, kline.model_copy())
        it.tick(second)
        if not ledger.healing:
            healing_since = None
            continue
        healing_since = second if healing_since is None else healing_since
        if (second - healing_since) % 2 == 0:
            it.rest(second, *(kline for kline in world.answer(now) if kline.open_ts >= ledger.missing(now)[0]))
            if ledger.healing and second - healing_since >= 60:
                ledger.give_up(now, 60_000, it.rows, "gone")
    return it


def told(it: CandleDriver) -> list[tuple[int, Kline | None]]:
    """Minute by minute: the closed candle, or None for a gap."""
    found: list[tuple[int, Kline | None]] = []
    for row in it.rows:
        if isinstance(row, Gap):
            found += [(start, None) for start in range((row.start - START) // MINUTE, (row.end - START) // MINUTE)]
        elif isinstance(row, Kline) and row.is_closed:
            found.append(((row.open_ts - START) // MINUTE, row))
        elif isinstance(row, Kline):
            assert (row.open_ts - START) // MINUTE == len(found), "an open state of another candle than the next"
    return found


seconds = st.integers(20, 629)
breaks_of = st.lists(st.tuples(seconds, st.integers(1, 150)).map(lambda pair: (pair[0], sum(pair))), max_size=3)


@given(
    lost=st.sets(st.one_of(seconds, seconds.map(lambda second: 100_000 + second // 60 * 60)), max_size=60),
    delays=st.dictionaries(
        st.one_of(seconds, seconds.map(lambda second: 100_000 + second // 60 * 60)), st.integers(1, 20), max_size=30
    ),
    repeats=st.sets(seconds, max_size=30),
    breaks=breaks_of,
    lag=st.integers(0, 8000),
    lacking=st.sets(st.integers(0, 9), max_size=2),
)
def test_closing_frames_lost_late_doubled_or_cut_off_change_nothing_but_where_rest_lacks_the_candle(
    lost: set[int],
    delays: dict[int, int],
    repeats: set[int],
    breaks: list[tuple[int, int]],
    lag: int,
    lacking: set[int],
) -> None:
    world = World("flag", lag, lacking)
    found = told(live(world, lost, delays, repeats, breaks))
    assert [minute for minute, _ in found[:10]] == list(range(10))
    for minute, kline in found[:10]:
        if kline is None:
            assert minute in lacking
        else:
            assert (kline.volume, kline.close) == (60, 100 + minute)


@given(
    repeats=st.sets(seconds, max_size=30),
    breaks=breaks_of,
    lag=st.integers(0, 8000),
    lacking=st.sets(st.integers(0, 9), max_size=2),
    idle=st.frozensets(st.integers(1, 9), max_size=4),
)
def test_candles_without_closing_frames_are_right_whatever_is_cut_off(
    repeats: set[int], breaks: list[tuple[int, int]], lag: int, lacking: set[int], idle: frozenset[int]
) -> None:
    world = World("next", lag, lacking, idle=idle)
    found = told(live(world, set(), {}, repeats, breaks))
    assert [minute for minute, _ in found[:10]] == list(range(10))
    for minute, kline in found[:10]:
        true = world.state(minute, 60)
        if kline is None:
            assert minute in lacking
        else:
            assert (kline.volume, kline.close) == (true.volume, true.close)
