"""Base candles to higher ones: aligned, complete or marked, in any order of the list. Oracle: DuckDB."""

from __future__ import annotations

import functools
import operator
import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import duckdb
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streammachine.errors import TimeframeError
from streammachine.market.aggregation.candle_aggregator import Aggregator
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.kline import Gap, Kline

MINUTE = 60_000
TEN = 1_704_103_200_000  # 2024-01-01 10:00 UTC, a Monday


def candle(open_ts: int, timeframe: str = "1m", **changed: Any) -> Kline:
    rnd = random.Random(open_ts)
    low, high = sorted((round(100 + rnd.random(), 2), round(100 + rnd.random(), 2)))
    values: dict[str, Any] = {
        "source": "Binance",
        "symbol": "BTCUSDT",
        "timeframe": timeframe,
        "open_ts": open_ts,
        "end_ts": timeframes.end_of(timeframe, open_ts) - 1,
        "open": round(rnd.uniform(low, high), 2),
        "high": high,
        "low": low,
        "close": round(rnd.uniform(low, high), 2),
        "volume": round(rnd.random() * 10, 4),
        "quote_volume": round(rnd.random() * 1000, 4),
        "vwap": round(rnd.uniform(low, high), 4),
        "n_trades": rnd.randrange(1, 50),
        "is_closed": True,
    }
    return Kline(**(values | changed))


def minutes(start: int, count: int, timeframe: str = "1m") -> list[Kline]:
    return [candle(timeframes.shift(timeframe, start, k), timeframe) for k in range(count)]


def gap(start: int, end: int, timeframe: str = "1m") -> Gap:
    return Gap("Binance", "BTCUSDT", timeframe, start, end, "it was lost")


def spans(rows: Sequence[Kline | Gap]) -> list[tuple[str, int, bool | str]]:
    """Timeframe, minute after ten, and whether it is complete (or "gap", with its length)."""
    return [
        (row.timeframe, (row.start - TEN) // MINUTE, f"gap {(row.end - row.start) // MINUTE}")
        if isinstance(row, Gap)
        else (row.timeframe, (row.open_ts - TEN) // MINUTE, row.is_complete)
        for row in rows
    ]


def aggregated(rows: Sequence[Kline | Gap], targets: Sequence[str], base: str = "1m") -> list[Kline | Gap]:
    aggregator = Aggregator(base, targets)
    return [made for row in rows for made in aggregator.add(row)]


def oracle(rows: Sequence[Kline], target: str) -> pd.DataFrame:
    """One row for each target candle that the rows touch."""
    columns = ["open_ts", "open", "high", "low", "close", "volume", "quote_volume", "vwap", "n_trades"]
    frame = pd.DataFrame([{name: getattr(row, name) for name in columns} for row in rows])
    step = timeframes.MILLISECONDS.get(target)
    start = (
        "epoch_ms(date_trunc('month', make_timestamp(open_ts * 1000)))"
        if step is None
        else f"open_ts - (open_ts - {timeframes.MONDAY if target == '1w' else 0}) % {step}"
    )
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("base", frame)
        return connection.sql(
            f"""SELECT {start} AS start, arg_min(open, open_ts) AS open, max(high) AS high, min(low) AS low,
            arg_max(close, open_ts) AS close, fsum(volume) AS volume, fsum(quote_volume) AS quote_volume,
            fsum(vwap * volume) / fsum(volume) AS vwap, sum(n_trades)::BIGINT AS n_trades, count(*) AS parts
            FROM base GROUP BY ALL ORDER BY start"""
        ).df()


def assert_equal_to_oracle(made: Sequence[Kline | Gap], rows: Sequence[Kline], targets: Sequence[str]) -> None:
    for target in targets:
        ours = [row for row in made if isinstance(row, Kline) and row.timeframe == target]
        theirs = oracle(rows, target)
        theirs = theirs[[timeframes.end_of(target, start) <= rows[-1].end_ts + 1 for start in theirs["start"]]]
        assert [row.open_ts for row in ours] == theirs["start"].tolist()
        for name in ("open", "high", "low", "close", "n_trades"):
            assert [getattr(row, name) for row in ours] == theirs[name].tolist(), (target, name)
        for name in ("volume", "quote_volume", "vwap"):
            assert [getattr(row, name) for row in ours] == pytest.approx(theirs[name].tolist(), rel=1e-9), name
        parts = [len(timeframes.starts(rows[0].timeframe, row.open_ts, row.end_ts + 1)) for row in ours]
        assert [row.is_complete for row in ours] == [
            whole == there for whole, there in zip(parts, theirs["parts"].tolist(), strict=True)
        ]


def added(values: Iterable[float]) -> float:
    """One after another, as the product does; since Python 3.12 ``sum`` corrects what is lost on the way."""
    return functools.reduce(operator.add, values)


def test_five_minutes_make_one_candle() -> None:
    parts = minutes(TEN, 5)
    volume = added(part.volume for part in parts)
    [made] = aggregated(parts, ["5m"])
    assert isinstance(made, Kline)
    assert made == Kline(
        source="Binance",
        symbol="BTCUSDT",
        timeframe="5m",
        open_ts=TEN,
        end_ts=TEN + 5 * MINUTE - 1,
        open=parts[0].open,
        high=max(part.high for part in parts),
        low=min(part.low for part in parts),
        close=parts[-1].close,
        volume=volume,
        quote_volume=added(part.quote_volume or 0 for part in parts),
        vwap=added((part.vwap or 0) * part.volume for part in parts) / volume,
        n_trades=sum(part.n_trades or 0 for part in parts),
        is_closed=True,
        origin="aggregate",
    )


@pytest.mark.parametrize("targets", [["5m", "15m", "1h"], ["1h", "15m", "5m"], ["15m", "5m", "1h", "15m"]])
def test_the_order_of_the_list_does_not_matter(targets: list[str]) -> None:
    rows = minutes(TEN, 60)
    made = aggregated(rows, targets)
    assert [row.timeframe for row in made].count("5m") == 12
    assert spans(made)[-3:] == [("5m", 55, True), ("15m", 45, True), ("1h", 0, True)]
    assert_equal_to_oracle(made, rows, ["5m", "15m", "1h"])


def test_nothing_is_made_that_was_not_asked_for() -> None:
    assert {row.timeframe for row in aggregated(minutes(TEN, 60), ["15m"])} == {"15m"}


def test_begun_in_the_middle_the_first_candle_is_incomplete() -> None:
    assert spans(aggregated(minutes(TEN + 3 * MINUTE, 7), ["5m"])) == [("5m", 0, False), ("5m", 5, True)]


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_a_missing_inner_candle_marks_its_target(lost: int) -> None:
    rows = minutes(TEN, 10)
    del rows[lost]
    assert spans(aggregated(rows, ["5m"])) == [("5m", 0, False), ("5m", 5, True)]


def test_a_missing_last_candle_marks_its_target_when_the_next_one_shows_that_it_is_over() -> None:
    rows = minutes(TEN, 10)
    del rows[4]
    aggregator = Aggregator("1m", ["5m"])
    made = [spans(aggregator.extend([row])) for row in rows]
    assert made[4] == [("5m", 0, False), ("1m", 5, True)]  # before the candle that shows it
    assert made[-1] == [("1m", 9, True), ("5m", 5, True)]


def test_an_incomplete_part_marks_its_target() -> None:
    rows = minutes(TEN, 5)
    rows[2] = rows[2].model_copy(update={"is_complete": False})
    assert spans(aggregated(rows, ["5m"])) == [("5m", 0, False)]


def test_a_gap_inside_marks_its_target() -> None:
    rows = [*minutes(TEN, 2), gap(TEN + 2 * MINUTE, TEN + 4 * MINUTE), *minutes(TEN + 4 * MINUTE, 6)]
    assert spans(aggregated(rows, ["5m"])) == [("5m", 0, False), ("5m", 5, True)]


def test_a_gap_shows_that_a_target_is_over_and_swallows_others() -> None:
    aggregator = Aggregator("1m", ["15m", "5m"])
    before = [made for row in minutes(TEN, 3) for made in aggregator.add(row)]
    during = aggregator.add(gap(TEN + 3 * MINUTE, TEN + 22 * MINUTE))
    behind = [made for row in minutes(TEN + 22 * MINUTE, 8) for made in aggregator.add(row)]
    assert before == []
    assert spans(during) == [("5m", 0, False), ("15m", 0, False), ("5m", 5, "gap 15")]
    assert isinstance(during[-1], Gap)
    assert during[-1].reason == "it was lost"
    assert spans(behind) == [("5m", 20, False), ("5m", 25, True), ("15m", 15, False)]


def test_targets_without_a_base_candle_are_a_gap_also_where_nobody_said_so() -> None:
    rows = [*minutes(TEN, 5), *minutes(TEN + 20 * MINUTE, 5)]
    assert spans(aggregated(rows, ["5m"])) == [("5m", 0, True), ("5m", 5, "gap 15"), ("5m", 20, True)]


def test_a_gap_that_ends_on_a_boundary_leaves_the_next_target_complete() -> None:
    rows = [gap(TEN - 2 * MINUTE, TEN), *minutes(TEN, 5)]
    assert spans(aggregated(rows, ["5m"])) == [("5m", -5, "gap 5"), ("5m", 0, True)]


def test_repeated_and_late_candles_are_left_out_and_counted() -> None:
    aggregator = Aggregator("1m", ["5m"])
    rows = minutes(TEN, 5)
    made = [spans(aggregator.add(row)) for row in (*rows[:3], rows[1], rows[2], *rows[3:], rows[4])]
    assert [row for rows in made for row in rows] == [("5m", 0, True)]
    assert aggregator.late == 3


def test_a_sum_is_none_where_a_part_has_no_value() -> None:
    rows = minutes(TEN, 5)
    rows[3] = rows[3].model_copy(update={"quote_volume": None, "vwap": None, "n_trades": None})
    [made] = aggregated(rows, ["5m"])
    assert isinstance(made, Kline)
    assert (made.quote_volume, made.vwap, made.n_trades) == (None, None, None)
    assert made.volume == pytest.approx(sum(row.volume for row in rows))


def test_where_the_parts_have_no_vwap_it_is_quote_volume_over_volume() -> None:
    rows = [row.model_copy(update={"vwap": None}) for row in minutes(TEN, 5)]
    [made] = aggregated(rows, ["5m"])
    assert isinstance(made, Kline)
    assert made.vwap == pytest.approx(sum(row.quote_volume or 0 for row in rows) / sum(row.volume for row in rows))


def test_flat_parts_do_not_disturb_the_vwap() -> None:
    flat = {"volume": 0.0, "quote_volume": 0.0, "n_trades": 0}
    rows = [candle(TEN), *(candle(TEN + k * MINUTE, vwap=None, **flat) for k in range(1, 5))]
    [made] = aggregated(rows, ["5m"])
    assert isinstance(made, Kline)
    assert made.vwap == pytest.approx(rows[0].vwap)
    [idle] = aggregated([candle(TEN + k * MINUTE, vwap=0.0, **flat) for k in range(5)], ["5m"])
    assert isinstance(idle, Kline)
    assert (idle.vwap, idle.volume, idle.is_complete) == (None, 0.0, True)


def test_a_flat_part_gives_no_price_to_a_candle_that_has_trades() -> None:
    flat = {
        "volume": 0.0,
        "quote_volume": 0.0,
        "n_trades": 0,
        "open": 500.0,
        "high": 500.0,
        "low": 500.0,
        "close": 500.0,
    }
    parts = minutes(TEN, 5)
    parts[0] = candle(TEN, **flat)
    parts[4] = candle(TEN + 4 * MINUTE, **flat | {"n_trades": None})
    [made] = aggregated(parts, ["5m"])
    assert isinstance(made, Kline)
    assert (made.open, made.close) == (parts[1].open, parts[3].close)
    assert (made.high, made.low) == (max(p.high for p in parts[1:4]), min(p.low for p in parts[1:4]))
    [idle] = aggregated([candle(TEN + k * MINUTE, **flat) for k in range(5)], ["5m"])
    assert isinstance(idle, Kline)
    assert (idle.open, idle.high, idle.low, idle.close, idle.is_complete) == (500.0, 500.0, 500.0, 500.0, True)


def test_one_estimated_part_makes_it_estimated() -> None:
    rows = minutes(TEN, 5)
    rows[1] = rows[1].model_copy(update={"estimated": True})
    [made] = aggregated(rows, ["5m"])
    assert isinstance(made, Kline)
    assert made.estimated


def test_symbols_and_sources_are_kept_apart() -> None:
    aggregator = Aggregator("1m", ["5m"])
    names = [("Binance", "BTCUSDT"), ("Binance", "ETHUSDT"), ("OKX", "BTCUSDT")]
    rows = [row.model_copy(update={"source": s, "symbol": n}) for row in minutes(TEN, 5) for s, n in names]
    made = [done for row in rows for done in aggregator.add(row)]
    assert [(row.source, row.symbol) for row in made] == names
    assert all(isinstance(row, Kline) and row.is_complete for row in made)


def test_running_targets_stand_as_the_open_candle_leaves_them() -> None:
    aggregator = Aggregator("1m", ["5m"], running=True)
    rows = minutes(TEN, 2)
    assert [made for row in rows for made in aggregator.add(row)] == []
    half = candle(TEN + 2 * MINUTE, is_closed=False)
    [made] = aggregator.add(half)
    assert isinstance(made, Kline)
    assert (made.open_ts, made.open, made.close, made.is_closed) == (TEN, rows[0].open, half.close, False)
    assert made.volume == pytest.approx(rows[0].volume + rows[1].volume + half.volume)
    assert made.is_complete
    [again] = aggregator.add(half)
    assert again == made  # nothing was added to the target by looking at it
    assert Aggregator("1m", ["5m"]).add(half) == []


def test_an_open_candle_shows_that_the_target_before_it_is_over() -> None:
    aggregator = Aggregator("1m", ["5m"], running=True)
    for row in minutes(TEN, 4):
        aggregator.add(row)
    made = aggregator.add(candle(TEN + 5 * MINUTE, is_closed=False))
    assert [(row.open_ts, row.is_closed, row.is_complete) for row in made if isinstance(row, Kline)] == [
        (TEN, True, False),
        (TEN + 5 * MINUTE, False, True),
    ]


def test_an_open_candle_that_is_behind_is_left_out() -> None:
    aggregator = Aggregator("1m", ["5m"], running=True)
    for row in minutes(TEN, 2):
        aggregator.add(row)
    assert aggregator.add(candle(TEN + MINUTE, is_closed=False)) == []


def test_rows_of_other_timeframes_are_left_alone() -> None:
    aggregator = Aggregator("1m", ["5m"])
    other = candle(TEN, "5m")
    assert aggregator.add(other) == []
    assert aggregator.extend([other]) == [other]


def test_weeks_begin_on_monday_and_months_follow_the_calendar() -> None:
    begin = int(datetime(2024, 1, 29, tzinfo=UTC).timestamp()) * 1000  # a Monday
    rows = minutes(begin, 80, "1d")
    made = aggregated(rows, ["1M", "1w"], base="1d")
    months = [row for row in made if row.timeframe == "1M" and isinstance(row, Kline)]
    assert [datetime.fromtimestamp(row.open_ts / 1000, UTC).date().isoformat() for row in months] == [
        "2024-01-01",
        "2024-02-01",
        "2024-03-01",
    ]
    assert [row.is_complete for row in months] == [False, True, True]
    weeks = [row for row in made if row.timeframe == "1w" and isinstance(row, Kline)]
    assert {datetime.fromtimestamp(row.open_ts / 1000, UTC).isoweekday() for row in weeks} == {1}
    assert len(weeks) == 11
    assert all(row.is_complete for row in weeks)
    assert_equal_to_oracle(made, rows, ["1w", "1M"])


def test_a_target_that_is_no_multiple_is_refused() -> None:
    with pytest.raises(TimeframeError, match="5m candles cannot be built from 3m candles"):
        Aggregator("3m", ["5m"])
    with pytest.raises(TimeframeError, match="no timeframe"):
        Aggregator("1m", ["7m"])


@settings(max_examples=30, deadline=None)
@given(
    start=st.integers(0, 200),
    count=st.integers(1, 400),
    lost=st.sets(st.integers(0, 400), max_size=60),
    targets=st.lists(st.sampled_from(["3m", "5m", "15m", "30m", "1h", "2h"]), min_size=1, max_size=4, unique=True),
)
def test_whatever_is_lost_agrees_with_duckdb(start: int, count: int, lost: set[int], targets: list[str]) -> None:
    rows = [row for k, row in enumerate(minutes(TEN + start * MINUTE, count)) if k not in lost]
    if rows:
        made = aggregated(rows, targets)
        ended = [row for row in made if isinstance(row, Kline)]
        assert all(row.end_ts <= rows[-1].end_ts for row in ended)
        for target in targets:
            ours = [row for row in ended if row.timeframe == target]
            theirs = oracle(rows, target)
            # the last one may be over without a candle behind it that shows it
            assert [row.open_ts for row in ours] == theirs["start"].tolist()[: len(ours)]
            assert len(theirs) - len(ours) <= 1
            assert [row.close for row in ours] == theirs["close"].tolist()[: len(ours)]
            assert [row.volume for row in ours] == pytest.approx(theirs["volume"].tolist()[: len(ours)], rel=1e-9)


@settings(max_examples=100, deadline=None)
@given(
    pieces=st.lists(st.tuples(st.booleans(), st.integers(1, 40)), min_size=1, max_size=12),
    start=st.integers(0, 70),
    targets=st.lists(st.sampled_from(["3m", "5m", "15m", "1h"]), min_size=1, max_size=4, unique=True),
)
def test_candles_and_gaps_of_a_target_cover_the_time_without_hole_or_overlap(
    pieces: list[tuple[bool, int]], start: int, targets: list[str]
) -> None:
    rows: list[Kline | Gap] = []
    at = TEN + start * MINUTE
    lost: set[int] = set()
    for there, length in pieces:
        end = at + length * MINUTE
        if there:
            rows += minutes(at, length)
        else:
            rows.append(gap(at, end))
            lost |= set(range(at, end, MINUTE))
        at = end
    made = aggregated(rows, targets)
    for target in targets:
        due = timeframes.floor(target, TEN + start * MINUTE)
        for row in (row for row in made if row.timeframe == target):
            begin, end = (row.start, row.end) if isinstance(row, Gap) else (row.open_ts, row.end_ts + 1)
            assert begin == due
            due = end
            there = [ts for ts in range(begin, end, MINUTE) if ts >= TEN + start * MINUTE and ts not in lost]
            if isinstance(row, Gap):
                assert not there
            else:
                assert there
                assert row.is_complete == (len(there) * MINUTE == end - begin)
        assert due == timeframes.floor(target, at)
