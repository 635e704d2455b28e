"""Timeframes: bounds, neighbours, nesting."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streammachine.errors import TimeframeError
from streammachine.market.model import timeframe as timeframes

MOMENTS = st.integers(0, 4_102_444_800_000)  # to 2100
NAMES = st.sampled_from(timeframes.TIMEFRAMES)


def utc(ts: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ts)


def test_an_unknown_timeframe_is_refused_with_those_there_are() -> None:
    with pytest.raises(TimeframeError, match=r"'7m' is no timeframe: give one of 1s, 1m, 3m, .* 1w, 1M"):
        timeframes.check("7m")
    with pytest.raises(TimeframeError, match="did you mean '15m'"):
        timeframes.check("15M")
    with pytest.raises(TimeframeError):
        timeframes.check(60)
    assert timeframes.check("1M") == "1M"


@given(NAMES, MOMENTS)
def test_a_moment_lies_in_its_candle(name: str, ts: int) -> None:
    start = timeframes.floor(name, ts)
    assert start <= ts < timeframes.end_of(name, start)
    assert timeframes.floor(name, start) == start
    assert timeframes.ceil(name, start) == start
    assert timeframes.ceil(name, start + 1) == timeframes.end_of(name, start)


@given(NAMES, MOMENTS, st.integers(-500, 500))
def test_shifting_back_leads_to_where_it_began(name: str, ts: int, candles: int) -> None:
    start = timeframes.floor(name, ts)
    there = timeframes.shift(name, start, candles)
    assert timeframes.floor(name, there) == there
    assert timeframes.shift(name, there, -candles) == start


@given(NAMES, MOMENTS, st.integers(0, 50))
def test_starts_are_the_candles_that_begin_within(name: str, ts: int, candles: int) -> None:
    end = timeframes.shift(name, timeframes.floor(name, ts), candles)
    found = list(timeframes.starts(name, ts, end))
    assert all(ts <= start < end for start in found)
    assert [timeframes.end_of(name, start) for start in found[:-1]] == found[1:]
    assert len(found) in (candles, candles - 1, 0)


@given(MOMENTS)
def test_weeks_begin_on_monday_and_months_on_the_first(ts: int) -> None:
    week, month = utc(timeframes.floor("1w", ts)), utc(timeframes.floor("1M", ts))
    assert (week.isoweekday(), week.hour, week.minute) == (1, 0, 0)
    assert (month.day, month.hour, month.minute) == (1, 0, 0)
    assert (month.year, month.month) == (utc(ts).year, utc(ts).month)


@given(NAMES, NAMES, MOMENTS)
def test_where_one_nests_in_another_every_bound_of_the_other_is_one_of_its_own(base: str, target: str, ts: int) -> None:
    if timeframes.nests(base, target):
        start = timeframes.floor(target, ts)
        end = timeframes.end_of(target, start)
        assert timeframes.floor(base, start) == start
        assert timeframes.floor(base, end) == end
        assert len(timeframes.starts(base, start, end)) > 1


@pytest.mark.parametrize(
    ("base", "target", "nested"),
    [
        ("1m", "5m", True),
        ("3m", "5m", False),
        ("5m", "1m", False),
        ("1m", "1m", False),
        ("1d", "1w", True),
        ("3d", "1w", False),
        ("1w", "1M", False),
        ("3d", "1M", False),
        ("1d", "1M", True),
        ("8h", "1d", True),
        ("12h", "1w", True),
        ("1M", "1M", False),
    ],
)
def test_what_nests_in_what(base: str, target: str, nested: bool) -> None:
    assert timeframes.nests(base, target) is nested
