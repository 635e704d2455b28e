"""What candles say, and when they are complete, late or dropped."""

from __future__ import annotations

import copy
import pickle
import tracemalloc
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from streammachine.errors import IntervalError, SettingsError, TickError

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WEEK = 7 * DAY
T0 = 1_700_000_100_000 // HOUR * HOUR


def starts(candles: list[Any]) -> list[int]:
    return [candle.candle_start_ms for candle in candles]


def test_one_candle_has_all_its_fields(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE])
    for price, volume, ms in ((10.0, 1.0, 5), (12.0, 2.0, 6), (9.0, 0.5, 7), (11.0, 0.25, 59_999)):
        agg.update_tick("X", price, volume, T0 + ms)
    (candle,) = agg.get_candles("X", MINUTE)
    assert candle.to_dict() == {
        "open": 10.0,
        "high": 12.0,
        "low": 9.0,
        "close": 11.0,
        "volume": 3.75,
        "timestamp_ms": T0 + 59_999,
        "candle_start_ms": T0,
        "trade_count": 4,
    }
    assert agg.get_candles_as_dicts("X", MINUTE) == [candle.to_dict()]


def test_the_default_intervals_are_one_and_five_minutes(engine: ModuleType) -> None:
    assert engine.FastOHLC().intervals == [60_000, 300_000]
    assert engine.FastOHLC(None).intervals == [60_000, 300_000]
    assert engine.FastOHLC(intervals=[5 * MINUTE, MINUTE]).intervals == [5 * MINUTE, MINUTE]


def test_candles_are_half_open(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE])
    agg.update_tick("X", 1.0, 1.0, T0 + MINUTE - 1)
    agg.update_tick("X", 2.0, 1.0, T0 + MINUTE)
    assert starts(agg.get_candles("X", MINUTE)) == [T0, T0 + MINUTE]


def test_weeks_begin_on_monday_and_days_fold_into_them(engine: ModuleType) -> None:
    monday = 1_699_833_600_000  # 2023-11-13 00:00 UTC
    agg = engine.FastOHLC([WEEK, DAY, HOUR])
    agg.update_tick("X", 1.0, 1.0, monday - 1)
    agg.update_tick("X", 2.0, 1.0, monday)
    agg.update_tick("X", 3.0, 1.0, monday + WEEK - 1)
    agg.update_tick("X", 4.0, 1.0, monday + WEEK)
    assert starts(agg.get_candles("X", WEEK)) == [monday - WEEK, monday, monday + WEEK]
    assert [candle.trade_count for candle in agg.get_candles("X", WEEK)] == [1, 2, 1]


def test_the_first_week_begins_before_the_epoch(engine: ModuleType) -> None:
    agg = engine.FastOHLC([WEEK])
    agg.update_tick("X", 1.0, 1.0, 0)
    agg.update_tick("X", 1.0, 1.0, 4 * DAY)
    assert starts(agg.get_candles("X", WEEK)) == [-3 * DAY, 4 * DAY]


def test_bytes_and_str_are_one_series(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE])
    agg.update_tick(b"X", 1.0, 1.0, T0)
    agg.update_tick("X", 2.0, 1.0, T0 + 1)
    agg.update_tick("é", 2.0, 1.0, T0 + 1)
    agg.update_tick("é".encode(), 2.0, 1.0, T0 + 1)
    assert agg.symbols == ["X", "é"]
    assert agg.get_candles("X", MINUTE) == agg.get_candles(b"X", MINUTE)
    assert agg.get_candles("X", MINUTE)[0].trade_count == 2


def test_open_and_close_follow_event_time(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE, 5 * MINUTE])
    for price, ms in ((5.0, 59_000), (4.0, 1_000), (6.0, 30_000)):
        agg.update_tick("X", price, 1.0, T0 + ms)
    for interval in agg.intervals:
        (candle,) = agg.get_candles("X", interval)
        assert (candle.open, candle.close, candle.timestamp_ms) == (4.0, 5.0, T0 + 59_000)


def test_of_ticks_at_the_same_time_the_first_opens_and_the_last_closes(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE])
    for price in (3.0, 1.0, 2.0):
        agg.update_tick("X", price, 1.0, T0)
    (candle,) = agg.get_candles("X", MINUTE)
    assert (candle.open, candle.close) == (3.0, 2.0)


def test_prices_can_be_zero_or_negative(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE])
    for price in (-1.0, 0.0, -3.0):
        agg.update_tick("SPREAD", price, 0.0, T0)
    (candle,) = agg.get_candles("SPREAD", MINUTE)
    assert (candle.high, candle.low, candle.volume) == (0.0, -3.0, 0.0)


def test_an_open_parent_includes_its_open_children(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE, 5 * MINUTE, 15 * MINUTE])
    for minute in range(7):
        agg.update_tick("X", 100.0 + minute, 1.0, T0 + minute * MINUTE)
        assert sum(candle.trade_count for candle in agg.get_candles("X", 5 * MINUTE)) == minute + 1
        (quarter,) = agg.get_candles("X", 15 * MINUTE)
        assert (quarter.open, quarter.close, quarter.trade_count) == (100.0, 100.0 + minute, minute + 1)


def test_a_gap_makes_no_candle(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE, 5 * MINUTE])
    agg.update_tick("X", 1.0, 1.0, T0)
    agg.update_tick("X", 2.0, 1.0, T0 + HOUR)
    assert starts(agg.get_candles("X", 5 * MINUTE)) == [T0, T0 + HOUR]


def test_a_tick_from_the_past_makes_its_own_candle_in_order(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE, 5 * MINUTE])
    agg.update_tick("X", 1.0, 1.0, T0 + HOUR)
    agg.update_tick("X", 2.0, 1.0, T0)
    agg.update_tick("X", 3.0, 1.0, T0 + MINUTE)
    agg.update_tick("X", 4.0, 1.0, T0 + HOUR + 1)
    assert starts(agg.get_candles("X", MINUTE)) == [T0, T0 + MINUTE, T0 + HOUR]
    assert [c.trade_count for c in agg.get_candles("X", 5 * MINUTE)] == [2, 2]
    assert agg.late_count == 0


def test_completed_means_that_the_end_has_passed(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE])
    agg.update_tick("X", 1.0, 1.0, T0)
    agg.update_tick("X", 1.0, 1.0, T0 + MINUTE)
    assert starts(agg.get_completed_candles("X", MINUTE, T0 + MINUTE - 1)) == []
    assert starts(agg.get_completed_candles("X", MINUTE, T0 + MINUTE)) == [T0]
    assert starts(agg.get_completed_candles("X", MINUTE, -(10**30))) == []
    assert starts(agg.get_completed_candles("X", MINUTE, 10**30)) == [T0, T0 + MINUTE]
    assert starts(agg.get_completed_candles("X", MINUTE)) == [T0, T0 + MINUTE]  # 0 is now, and T0 is 2023


def test_zero_means_now(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE])
    agg.update_tick("X", 1.0, 1.0, 9_000_000_000_000_000)
    assert agg.get_completed_candles("X", MINUTE) == []
    assert agg.flush_interval("X", MINUTE) == 0


def test_flushing_returns_how_many_and_leaves_the_others(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE, 5 * MINUTE])
    for minute in range(7):
        agg.update_tick("X", 1.0, 1.0, T0 + minute * MINUTE)
    before = agg.get_candles("X", 5 * MINUTE)
    assert agg.flush_interval("X", MINUTE, T0 + 5 * MINUTE) == 5
    assert agg.flush_interval("X", MINUTE, T0 + 5 * MINUTE) == 0
    assert starts(agg.get_candles("X", MINUTE)) == [T0 + 5 * MINUTE, T0 + 6 * MINUTE]
    assert agg.flush_interval("X", MINUTE, T0 + HOUR) == 2  # the open one too: a child's flush never changes a parent
    assert agg.get_candles("X", 5 * MINUTE) == before
    assert agg.flush_interval("NEW", MINUTE, T0 + HOUR) == 0
    assert agg.symbols == ["X"]


def test_a_late_tick_is_counted_once_and_enters_what_is_not_flushed(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE, 2 * MINUTE, 5 * MINUTE])
    for minute in range(4):
        agg.update_tick("X", 1.0, 1.0, T0 + minute * MINUTE)
    agg.flush_interval("X", MINUTE, T0 + 2 * MINUTE)
    agg.flush_interval("X", 2 * MINUTE, T0 + 2 * MINUTE)
    agg.update_tick("X", 7.0, 1.0, T0 + MINUTE)
    assert (agg.tick_count, agg.late_count) == (5, 1)
    assert starts(agg.get_candles("X", MINUTE)) == [T0 + 2 * MINUTE, T0 + 3 * MINUTE]
    assert starts(agg.get_candles("X", 2 * MINUTE)) == [T0 + 2 * MINUTE]
    assert agg.get_candles("X", 5 * MINUTE)[0].high == 7.0
    agg.flush_interval("X", 5 * MINUTE, T0 + 5 * MINUTE)
    agg.update_tick("X", 7.0, 1.0, T0 + MINUTE)
    assert (agg.tick_count, agg.late_count) == (5, 2)  # late everywhere: not a tick of any candle
    assert agg.get_candles("X", 5 * MINUTE) == []


def test_a_flush_that_removes_nothing_moves_no_watermark(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE])
    agg.update_tick("X", 1.0, 1.0, T0 + MINUTE)
    assert agg.flush_interval("X", MINUTE, T0 + MINUTE) == 0
    agg.update_tick("X", 1.0, 1.0, T0)
    assert agg.late_count == 0
    assert agg.flush_interval("X", MINUTE, T0 + HOUR) == 2
    agg.update_tick("X", 1.0, 1.0, T0 + 2 * MINUTE)  # behind the last one really flushed, though before the hour
    assert agg.late_count == 0


def test_a_flushed_parent_counts_late_what_its_open_child_still_takes(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE, 5 * MINUTE, 15 * MINUTE])
    agg.update_tick("X", 1.0, 1.0, T0 + 4 * MINUTE)
    assert agg.flush_interval("X", 5 * MINUTE, T0 + 5 * MINUTE) == 1
    agg.update_tick("X", 2.0, 1.0, T0 + 4 * MINUTE + 1)
    assert (agg.tick_count, agg.late_count) == (2, 1)
    assert agg.get_candles("X", MINUTE)[0].trade_count == 2
    assert agg.get_candles("X", 5 * MINUTE) == []
    assert agg.get_candles("X", 15 * MINUTE)[0].trade_count == 2
    agg.update_tick("X", 3.0, 1.0, T0 + 5 * MINUTE)
    assert starts(agg.get_candles("X", 5 * MINUTE)) == [T0 + 5 * MINUTE]
    assert agg.get_candles("X", 15 * MINUTE)[0].trade_count == 3


def test_clear_drops_watermarks_and_counts(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE], max_candles=1)
    agg.update_tick("X", 1.0, 1.0, T0)
    agg.update_tick("X", 1.0, 1.0, T0 + HOUR)
    agg.flush_interval("X", MINUTE, T0 + DAY)
    agg.update_tick("X", 1.0, 1.0, T0)
    assert (agg.tick_count, agg.late_count, agg.dropped_count) == (2, 1, 1)
    agg.clear()
    assert (agg.tick_count, agg.late_count, agg.dropped_count, agg.symbols) == (0, 0, 0, [])
    agg.update_tick("X", 1.0, 1.0, T0)
    assert (agg.tick_count, agg.late_count) == (1, 0)


def test_reset_forgets_one_symbol_and_keeps_the_counts(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE])
    for symbol in ("A", "B"):
        agg.update_tick(symbol, 1.0, 1.0, T0)
        agg.flush_interval(symbol, MINUTE, T0 + HOUR)
    assert agg.reset(b"A") is True
    assert agg.reset("A") is False
    assert agg.symbols == ["B"]
    for symbol in ("A", "B"):
        agg.update_tick(symbol, 1.0, 1.0, T0)
    assert (agg.tick_count, agg.late_count) == (3, 1)


def test_the_oldest_candle_is_dropped_beyond_the_bound_and_never_comes_back(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE, 5 * MINUTE], max_candles=2)
    for minute in range(4):
        agg.update_tick("X", 1.0, 1.0, T0 + minute * MINUTE)
    assert starts(agg.get_candles("X", MINUTE)) == [T0 + 2 * MINUTE, T0 + 3 * MINUTE]
    assert agg.dropped_count == 2
    agg.update_tick("X", 1.0, 1.0, T0 + MINUTE)
    assert agg.late_count == 1
    assert starts(agg.get_candles("X", MINUTE)) == [T0 + 2 * MINUTE, T0 + 3 * MINUTE]
    assert agg.get_candles("X", 5 * MINUTE)[0].trade_count == 5


def test_an_older_tick_does_not_push_out_a_newer_candle(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE], max_candles=1)
    agg.update_tick("X", 1.0, 1.0, T0 + HOUR)
    agg.update_tick("X", 2.0, 1.0, T0)
    assert starts(agg.get_candles("X", MINUTE)) == [T0 + HOUR]
    assert agg.dropped_count == 1
    agg.update_tick("X", 2.0, 1.0, T0)
    assert (agg.dropped_count, agg.late_count) == (1, 1)


def test_bounded_candles_bound_the_memory(engine: ModuleType) -> None:
    agg = engine.FastOHLC([1_000, 5_000], max_candles=100)
    agg.update_tick("X", 1.0, 1.0, 0)
    tracemalloc.start()
    try:
        for k in range(1, 100_000):
            agg.update_tick("X", 1.0, 1.0, k * 1_000)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(agg.get_candles("X", 1_000)) == 100
    assert len(agg.get_candles("X", 5_000)) == 100
    assert agg.dropped_count == 100_000 - 100 + 20_000 - 100
    assert kept < 400_000


def test_intervals_that_do_not_nest_are_kept_apart(engine: ModuleType) -> None:
    agg = engine.FastOHLC([60_000, 90_000, 180_000, 7])
    for k in range(400):
        agg.update_tick("X", float(k), 1.0, T0 + k * 1_000)
    for interval in agg.intervals:
        candles = agg.get_candles("X", interval)
        assert sum(candle.trade_count for candle in candles) == 400
        assert all(candle.candle_start_ms % interval == 0 for candle in candles)


def test_candles_are_values(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE])
    agg.update_tick("X", 1.0, 1.0, T0)
    (before,) = agg.get_candles("X", MINUTE)
    agg.update_tick("X", 2.0, 1.0, T0)
    (after,) = agg.get_candles("X", MINUTE)
    assert before.close == 1.0
    assert before != after
    assert after == agg.get_candles("X", MINUTE)[0]
    assert hash(after) == hash(agg.get_candles("X", MINUTE)[0])
    assert after != "a candle"
    with pytest.raises(AttributeError):
        after.close = 3.0
    assert pickle.loads(pickle.dumps(after)) == after
    assert eval(repr(after), {"CandleData": engine.CandleData}) == after
    assert "candle_start_ms=" in repr(after)


def test_a_candle_can_be_made_by_hand(engine: ModuleType) -> None:
    candle = engine.CandleData(open=1.0, high=2.0, low=0.5, close=1.5)
    assert (candle.volume, candle.timestamp_ms, candle.candle_start_ms, candle.trade_count) == (0.0, 0, 0, 0)
    assert engine.CandleData(1.0, 2.0, 0.5, 1.5, 0.0, 0, 0, 0) == candle


def test_an_aggregator_copies_by_its_dump(engine: ModuleType) -> None:
    agg = engine.FastOHLC([MINUTE])
    agg.update_tick("X", 1.0, 1.0, T0)
    other = copy.deepcopy(agg)
    other.update_tick("X", 1.0, 1.0, T0)
    assert (agg.tick_count, other.tick_count) == (1, 2)
    assert "60000" in repr(agg)


def test_numbers_of_every_kind_are_taken(engine: ModuleType) -> None:
    import decimal
    import fractions

    import numpy as np

    agg = engine.FastOHLC([MINUTE])
    for price in (1, True, np.float32(1), np.float64(1), np.int64(1), decimal.Decimal(1), fractions.Fraction(1)):
        agg.update_tick(np.str_("X"), price, price, np.int64(T0))
    (candle,) = agg.get_candles("X", MINUTE)
    assert (candle.open, candle.volume, candle.trade_count) == (1.0, 7.0, 7)


BAD_TICKS = [
    ("", 1.0, 1.0, T0),
    (b"", 1.0, 1.0, T0),
    (b"\xff", 1.0, 1.0, T0),
    ("\ud800", 1.0, 1.0, T0),
    (None, 1.0, 1.0, T0),
    (5, 1.0, 1.0, T0),
    ([], 1.0, 1.0, T0),
    ("X", float("nan"), 1.0, T0),
    ("X", float("inf"), 1.0, T0),
    ("X", float("-inf"), 1.0, T0),
    ("X", 10**400, 1.0, T0),
    ("X", None, 1.0, T0),
    ("X", "1.0", 1.0, T0),
    ("X", b"1.0", 1.0, T0),
    ("X", 1j, 1.0, T0),
    ("X", 1.0, float("nan"), T0),
    ("X", 1.0, float("inf"), T0),
    ("X", 1.0, -0.001, T0),
    ("X", 1.0, -1, T0),
    ("X", 1.0, "1", T0),
    ("X", 1.0, None, T0),
    ("X", 1.0, 1.0, -1),
    ("X", 1.0, 1.0, 9_000_000_000_000_001),
    ("X", 1.0, 1.0, 2**70),
    ("X", 1.0, 1.0, -(2**70)),
    ("X", 1.0, 1.0, 1.5),
    ("X", 1.0, 1.0, float(T0)),
    ("X", 1.0, 1.0, "1"),
    ("X", 1.0, 1.0, None),
    ("X", 1.0, 1.0, True),
]


@pytest.mark.parametrize("tick", BAD_TICKS, ids=repr)
def test_a_bad_tick_is_refused_before_anything_changes(engine: ModuleType, tick: tuple[Any, ...]) -> None:
    agg = engine.FastOHLC([MINUTE])
    with pytest.raises(TickError):
        agg.update_tick(*tick)
    assert agg.symbols == []
    agg.update_tick("X", 1.0, 1.0, T0)
    state = agg.dump()
    with pytest.raises(TickError):
        agg.update_tick(*tick)
    with pytest.raises(TickError):
        agg.update_batch(["X", tick[0]], [1.0, tick[1]], [1.0, tick[2]], [T0, tick[3]])
    assert agg.dump() == state


@pytest.mark.parametrize("tick", BAD_TICKS, ids=repr)
def test_the_twins_refuse_in_the_same_words(both: tuple[ModuleType, ModuleType], tick: tuple[Any, ...]) -> None:
    words = []
    for engine in both:
        with pytest.raises(TickError) as error:
            engine.FastOHLC([MINUTE]).update_tick(*tick)
        words.append(str(error.value))
    assert words[0] == words[1]


@pytest.mark.parametrize(
    "intervals",
    [[], (), [0], [-1], [1.5], [60_000.0], ["60000"], "60000", b"1", [True], [None], 60_000, [MINUTE, MINUTE], [2**63]],
    ids=repr,
)
def test_bad_intervals_are_refused(engine: ModuleType, intervals: Any) -> None:
    with pytest.raises(IntervalError):
        engine.FastOHLC(intervals)


@pytest.mark.parametrize("bound", [-1, 1.5, "1", None, True, 2**63], ids=repr)
def test_a_bad_bound_is_refused(engine: ModuleType, bound: Any) -> None:
    with pytest.raises(SettingsError, match="max_candles"):
        engine.FastOHLC([MINUTE], max_candles=bound)


@pytest.mark.parametrize(
    "method", ["get_candles", "get_completed_candles", "get_candles_as_dicts", "candles_frame", "flush_interval"]
)
def test_an_interval_that_the_aggregator_lacks_is_named(engine: ModuleType, method: str) -> None:
    agg = engine.FastOHLC([MINUTE])
    for interval in (5 * MINUTE, 0, -1, 2**70, 60_000.0, "60000", None):
        with pytest.raises(IntervalError, match=r"60000"):
            getattr(agg, method)("X", interval)
    nothing = getattr(agg, method)("X", MINUTE)
    assert nothing == 0 if method == "flush_interval" else len(nothing) == 0
    with pytest.raises(TickError, match="symbol"):
        getattr(agg, method)(None, MINUTE)


@pytest.mark.parametrize("before", [1.5, "1", None, True], ids=repr)
def test_a_bad_before_timestamp_is_refused(engine: ModuleType, before: Any) -> None:
    agg = engine.FastOHLC([MINUTE])
    for method in (agg.get_completed_candles, agg.flush_interval):
        with pytest.raises(TickError, match="before_timestamp"):
            method("X", MINUTE, before)


def test_the_largest_times_and_intervals_do_not_overflow(engine: ModuleType) -> None:
    most = 9_000_000_000_000_000
    agg = engine.FastOHLC([1, most, most - 1])
    for ms in (0, most, most - 1, 1):
        agg.update_tick("X", 1.0, 1.0, ms)
    for interval in agg.intervals:
        assert sum(candle.trade_count for candle in agg.get_candles("X", interval)) == 4
        assert agg.flush_interval("X", interval, 2**63 - 1) > 0
    assert engine.FastOHLC.load(agg.dump()).dump() == agg.dump()


@pytest.mark.parametrize("max_candles", [0, 3])
def test_a_frame_of_candles_has_the_values_of_the_candles(engine: ModuleType, max_candles: int) -> None:
    agg = engine.FastOHLC([MINUTE, 5 * MINUTE], max_candles=max_candles)
    for at in range(40):
        agg.update_tick("X", 100 + (at * 7) % 11, 0.25 * at, 1_700_000_000_000 + at * 17_000)
    for interval in (MINUTE, 5 * MINUTE):  # the open candle of 5 minutes is folded from its children
        frame = agg.candles_frame(b"X", interval)
        expected = pd.DataFrame(agg.get_candles_as_dicts("X", interval))
        pd.testing.assert_frame_equal(frame, expected)
        frame.loc[0, "open"] = 0.0  # the caller's own
        assert agg.get_candles("X", interval)[0].open > 0
    nobody = agg.candles_frame("Y", MINUTE)
    assert (len(nobody), list(nobody.columns)) == (0, list(expected.columns))
    assert list(nobody.dtypes) == list(expected.dtypes)
