"""The trade ledger: every trade once and in order, by its id where ids are contiguous."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from streammachine.market.healing.trade_ledger import TradeLedger
from streammachine.market.model.kline import Gap, Trade
from streammachine.market.model.rows import Row

START = 1_700_000_000_000
GRACE = 5000


def trade(number: int, fills: int = 1, ts: int | None = None) -> Trade:
    """A second apart from its neighbours."""
    return Trade(
        source="X",
        symbol="A",
        price=100.0,
        volume=1.0 * fills,
        ts=START + number * 1000 if ts is None else ts,
        trade_id=str(number),
        fills=fills,
    )


@dataclass
class TradeDriver:
    ledger: TradeLedger
    rows: list[Row] = field(default_factory=list)

    def frame(self, at: float, *trades: Trade) -> None:
        for one in trades:
            self.ledger.take(one, START + round(at * 1000), self.rows)

    def tick(self, at: float) -> None:
        now = START + round(at * 1000)
        while self.ledger.due is not None and self.ledger.due <= now:
            self.ledger.tick(self.ledger.due, self.rows)

    def rest(self, at: float, *trades: Trade) -> None:
        self.ledger.restore(trades, self.rows, beginning=True)
        self.ledger.answered(START + round(at * 1000), START + round(at * 1000), self.rows)

    @property
    def ids(self) -> list[int]:
        return [int(row.trade_id) for row in self.rows if isinstance(row, Trade)]


def driven(*, contiguous: bool = True, at: float = 10, **arguments: object) -> TradeDriver:
    ledger = TradeLedger("X", "A", contiguous=contiguous, grace=GRACE, **arguments)  # type: ignore[arg-type]
    ledger.subscribed(START + round(at * 1000))
    return TradeDriver(ledger)


def test_trades_pass_and_duplicates_do_not() -> None:
    it = driven()
    it.frame(10, trade(10), trade(11), trade(11), trade(12), trade(10))
    assert it.ids == [10, 11, 12]
    assert it.ledger.duplicates == 2


def test_the_snapshot_of_a_first_subscription_is_left_out() -> None:
    it = driven(at=60)
    it.frame(60, *(trade(number) for number in range(10, 61)))
    assert it.ids[-1] == 60
    assert it.ids[0] >= 58


def test_where_older_trades_come_first_they_tell_which_one_is_the_first() -> None:
    it = driven(at=60, before=True, by_id=False)
    it.frame(60, *(trade(number) for number in range(10, 60)))
    assert it.ids == []
    it.frame(63, trade(62), trade(61))
    assert it.ids == []
    it.frame(63.5, trade(60), trade(63))
    assert it.ids == [60, 61, 62, 63]
    assert not it.ledger.healing


def test_the_older_trades_may_come_after_the_first_ones_and_in_any_order() -> None:
    it = driven(at=60, before=True, by_id=False)
    it.frame(62.3, trade(61), trade(62))
    it.frame(62.5, *(trade(number) for number in range(60, 10, -1)))
    it.frame(63, trade(63))
    assert it.ids == [60, 61, 62, 63]


def test_without_the_older_trades_rest_tells_which_one_is_the_first() -> None:
    it = driven(at=60, before=True, by_id=False)
    it.frame(63, trade(63), trade(64))
    it.tick(63.9)
    assert (it.ids, it.ledger.healing) == ([], False)
    it.tick(64)
    assert it.ledger.healing
    assert it.ledger.asked() == (None, START + 60_000)
    assert not it.ledger.whole
    it.rest(64.2, trade(61), trade(62))
    assert it.ids == [61, 62, 63, 64]
    assert (it.ledger.healing, it.ledger.whole) == (False, True)


def test_where_rest_does_not_say_it_either_the_beginning_is_a_gap() -> None:
    it = driven(at=60, before=True, by_id=False)
    it.frame(63, trade(63), trade(64))
    it.tick(64)
    it.rest(64.2)
    assert it.ledger.healing
    it.ledger.give_up(START + 184_000, it.rows, "REST does not have it")
    assert isinstance(it.rows[0], Gap)
    assert (it.rows[0].start, it.rows[0].end) == (START + 60_000, START + 63_000)
    assert it.ids == [63, 64]


def test_overtaken_trades_are_waited_for() -> None:
    it = driven()
    it.frame(10, trade(10), trade(12), trade(13))
    assert it.ids == [10]
    it.frame(10.5, trade(11))
    assert it.ids == [10, 11, 12, 13]
    it.tick(12)
    assert not it.ledger.healing


def test_a_hole_is_filled_from_rest_before_what_is_behind_it() -> None:
    it = driven()
    it.frame(10, trade(10), trade(15))
    it.tick(11)
    assert it.ledger.healing
    assert it.ledger.asked() == ("10", None)
    it.frame(16, trade(16))
    it.rest(16.5, *(trade(number) for number in range(11, 16)))
    assert it.ids == [10, 11, 12, 13, 14, 15, 16]
    assert not it.ledger.healing
    assert it.ledger.whole


def test_a_rest_that_is_behind_leaves_the_hole_open() -> None:
    it = driven()
    it.frame(10, trade(10), trade(15))
    it.tick(11)
    it.rest(12, trade(11), trade(12))
    assert it.ids == [10, 11, 12]
    assert it.ledger.healing
    assert not it.ledger.whole
    assert it.ledger.asked() == ("12", None)


def test_a_push_that_stands_for_several_fills_counts_once() -> None:
    it = driven()
    it.frame(10, trade(10), trade(13, fills=3), trade(19, fills=2))
    assert it.ids == [10, 13]
    it.tick(12)
    it.rest(12, *(trade(number) for number in range(14, 20)))  # REST gives each of them
    assert it.ids == [10, 13, 14, 15, 16, 17, 19]  # 18 and 19 came as one
    assert sum(row.volume for row in it.rows if isinstance(row, Trade)) == 10


def test_fills_that_rest_gave_in_part_are_completed_by_rest() -> None:
    it = driven()
    it.frame(10, trade(10))
    it.ledger.interrupted()
    it.ledger.subscribed(START + 20_000)
    it.tick(25)
    it.rest(25, trade(11), trade(12))
    it.frame(26, trade(14, fills=3))  # 12 was in it already
    assert it.ids == [10, 11, 12]
    it.tick(28)
    it.rest(28, trade(13), trade(14))
    assert it.ids == [10, 11, 12, 13, 14]


def test_what_nobody_has_is_a_gap_between_its_neighbours() -> None:
    it = driven()
    it.frame(10, trade(10), trade(15))
    it.tick(11)
    rows: list[Row] = []
    it.ledger.give_up(START + 80_000, rows, "gone")
    assert rows == [Gap("X", "A", "trade", START + 10_000, START + 15_000, "gone"), trade(15)]
    assert not it.ledger.healing


def test_after_a_reconnect_a_idle_stream_is_asked_for_as_well() -> None:
    it = driven()
    it.frame(10, trade(10))
    it.ledger.interrupted()
    assert not it.ledger.whole
    it.ledger.subscribed(START + 20_000)
    it.tick(25)
    assert it.ledger.healing
    it.rest(25, trade(11))
    assert it.ids == [10, 11]
    assert it.ledger.whole


def test_a_silent_stream_is_probed_and_suspected_if_it_hid_something() -> None:
    it = driven(idle_after=30_000)
    it.frame(10, trade(10))
    it.tick(39)
    assert not it.ledger.healing
    it.tick(40)
    assert it.ledger.healing
    it.rest(40)
    assert not it.ledger.stream_may_be_dead
    it.tick(75)
    it.rest(75, trade(11, ts=START + 60_000))
    assert it.ids == [10, 11]
    assert it.ledger.stream_may_be_dead


def test_with_a_last_id_given_it_goes_on_behind_that() -> None:
    it = driven(after="7")
    it.frame(10, trade(10))
    it.tick(11)
    assert it.ledger.asked() == ("7", None)
    it.rest(11, trade(8), trade(9), trade(10))
    assert it.ids == [8, 9, 10]


def test_without_contiguous_ids_live_trades_wait_for_rest_after_an_interruption() -> None:
    it = driven(contiguous=False, by_id=False)
    it.frame(10, trade(10), trade(11), trade(11))
    assert it.ids == [10, 11]
    it.ledger.interrupted()
    it.ledger.subscribed(START + 20_000)
    it.frame(20.5, trade(30))
    assert it.ids == [10, 11]
    it.tick(21.5)
    assert it.ledger.asked() == (None, START + 11_000)
    it.rest(22, trade(11), trade(14), trade(17))
    assert it.ids == [10, 11, 14, 17]
    assert it.ledger.healing  # it does not reach to what is live yet
    it.rest(24, trade(14), trade(17), trade(25), trade(30))
    assert it.ids == [10, 11, 14, 17, 25, 30]
    assert not it.ledger.healing


def test_without_contiguous_ids_a_rest_that_does_not_reach_back_is_a_gap() -> None:
    it = driven(contiguous=False, by_id=False)
    it.frame(10, trade(10))
    it.ledger.interrupted()
    it.ledger.subscribed(START + 100_000)
    it.frame(101, trade(101))
    it.tick(102)
    it.rest(102, trade(90), trade(101))
    assert it.rows[1] == Gap(
        "X", "A", "trade", START + 10_000, START + 90_000, "REST does not reach back to the last trade"
    )
    assert it.ids == [10, 90, 101]


def test_without_contiguous_ids_a_lost_frame_makes_the_next_trade_wait_for_rest() -> None:
    it = driven(contiguous=False, by_id=False)
    it.frame(10, trade(10))
    it.ledger.mark_possible_loss(START + 11_000)
    it.frame(13, trade(13))
    assert it.ids == [10]
    it.tick(14)
    it.rest(14, trade(10), trade(12), trade(13))
    assert it.ids == [10, 12, 13]


@given(
    lost=st.sets(st.integers(11, 60), max_size=30),
    delays=st.dictionaries(st.integers(11, 60), st.integers(1, 8), max_size=15),
    repeats=st.sets(st.integers(10, 60), max_size=15),
    breaks=st.lists(st.tuples(st.integers(11, 55), st.integers(1, 20)), max_size=3),
    lag=st.integers(0, 6),
)
def test_contiguous_trades_come_each_once_and_in_order_whatever_is_lost_late_or_doubled(
    lost: set[int], delays: dict[int, int], repeats: set[int], breaks: list[tuple[int, int]], lag: int
) -> None:
    it = driven()
    frames: dict[int, list[Trade]] = {}
    for number in range(10, 61):
        if number not in lost:
            frames.setdefault(number + delays.get(number, 0), []).append(trade(number))
            if number in repeats:
                frames.setdefault(number + delays.get(number, 0) + 2, []).append(trade(number))
    for second in range(10, 160):
        down = any(begin <= second < begin + length for begin, length in breaks)
        for begin, length in breaks:
            if second == begin:
                it.ledger.interrupted()
            if second == begin + length and not down:
                it.ledger.subscribed(START + second * 1000)
        if not down:
            it.frame(second, *frames.get(second, ()))
        it.tick(second)
        if it.ledger.healing:
            after, _ = it.ledger.asked()
            known = [trade(number) for number in range(int(after or 0) + 1, min(second - lag, 60) + 1)]
            it.rest(second, *known)
    assert it.ids == list(range(10, 61))
    assert it.ledger.gaps == 0
