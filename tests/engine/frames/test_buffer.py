"""TimeSeriesBuffer: age, size, rows without a time, and a model that it must agree with."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from streammachine.frames import TimeSeriesBuffer, streams_to_dataframe

START = 1_700_000_000.0
MS = 1_700_000_000_000


class Clock:
    """Seconds since the epoch, moved by hand."""

    def __init__(self) -> None:
        self.seconds = START

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def rows(*times: Any, name: str = "timestamp_ms") -> pd.DataFrame:
    return pd.DataFrame({name: list(times), "n": range(len(times))})


def test_what_is_appended_comes_back_in_order(clock: Clock) -> None:
    buffer = TimeSeriesBuffer(60, now=clock)
    buffer.append(rows(MS, MS - 5).set_axis([7, 7]))
    buffer.append(rows(MS - 2))
    assert_frame_equal(buffer.get(), pd.DataFrame({"timestamp_ms": [MS, MS - 5, MS - 2], "n": [0, 1, 0]}))
    assert len(buffer) == 3


def test_rows_leave_when_the_clock_says_so_and_nothing_is_appended(clock: Clock) -> None:
    buffer = TimeSeriesBuffer(60, now=clock)
    buffer.append(rows(MS - 30_000, MS))
    clock.seconds += 30
    assert len(buffer) == 2
    clock.seconds += 0.001
    assert len(buffer) == 1
    assert list(buffer.get()["timestamp_ms"]) == [MS]
    clock.seconds += 60
    assert (len(buffer), len(buffer.get()), buffer.last_timestamp) == (0, 0, None)


def test_the_wall_clock_is_the_default() -> None:
    buffer = TimeSeriesBuffer(3600)
    now_ms = int(time.time() * 1000)
    buffer.append(rows(now_ms - 3_700_000, now_ms))
    assert list(buffer.get()["timestamp_ms"]) == [now_ms]


def test_last_timestamp_is_the_maximum_and_not_the_last_row(clock: Clock) -> None:
    buffer = TimeSeriesBuffer(60, now=clock)
    assert buffer.last_timestamp is None
    buffer.append(rows(MS - 1, MS + 7, MS - 3))
    buffer.append(rows(MS))
    assert buffer.last_timestamp == MS + 7
    assert isinstance(buffer.last_timestamp, int)


def test_max_rows_keeps_the_newest_by_timestamp_in_the_order_appended(clock: Clock) -> None:
    buffer = TimeSeriesBuffer(60, max_rows=3, now=clock)
    buffer.append(rows(MS + 5, MS - 9, MS + 1))
    buffer.append(rows(MS - 8, MS + 3))
    assert len(buffer) == 3
    assert list(buffer.get()["timestamp_ms"]) == [MS + 5, MS + 1, MS + 3]


def test_of_rows_with_one_timestamp_the_later_appended_are_kept(clock: Clock) -> None:
    buffer = TimeSeriesBuffer(60, max_rows=2, now=clock)
    buffer.append(rows(MS, MS, MS))
    assert list(buffer.get()["n"]) == [1, 2]


def test_get_gives_a_copy(clock: Clock) -> None:
    buffer = TimeSeriesBuffer(60, now=clock)
    buffer.append(rows(MS))
    given = buffer.get()
    given.loc[0, "n"] = 99
    assert buffer.get()["n"][0] == 0


def test_later_changes_to_an_appended_frame_are_not_seen(clock: Clock) -> None:
    buffer = TimeSeriesBuffer(60, now=clock)
    df = rows(MS)
    buffer.append(df)
    df.loc[0, "n"] = 99
    assert buffer.get()["n"][0] == 0


def test_clear_forgets_everything(clock: Clock) -> None:
    buffer = TimeSeriesBuffer(60, now=clock)
    buffer.append(rows(MS))
    buffer.clear()
    assert (len(buffer), buffer.last_timestamp, list(buffer.get().columns)) == (0, None, ["timestamp_ms"])


def test_an_empty_buffer_still_has_its_columns(clock: Clock) -> None:
    buffer = TimeSeriesBuffer(60, "ts", now=clock)
    assert buffer.get().dtypes.to_dict() == {"ts": np.dtype("int64")}
    buffer.append(rows(name="ts"))
    assert list(buffer.get().columns) == ["ts", "n"]
    buffer.append(rows(MS, name="ts"))
    clock.seconds += 61
    assert list(buffer.get().columns) == ["ts", "n"]


def test_empty_frames_add_nothing_and_leave_the_dtypes_alone(clock: Clock) -> None:
    buffer = TimeSeriesBuffer(60, now=clock)
    for frame in (pd.DataFrame(), streams_to_dataframe(None), streams_to_dataframe({"s": [(f"{MS}-0", {"a": "1"})]})):
        buffer.append(frame)
        buffer.append(pd.DataFrame())
    assert_frame_equal(buffer.get(), streams_to_dataframe({"s": [(f"{MS}-0", {"a": "1"})]}))


def test_frames_with_other_columns_are_put_together(clock: Clock) -> None:
    buffer = TimeSeriesBuffer(60, now=clock)
    buffer.append(streams_to_dataframe({"s": [(f"{MS}-0", {"a": "1"})]}))
    buffer.append(streams_to_dataframe({"s": [(f"{MS}-1", {"b": "2"})]}))
    frame = buffer.get()
    assert list(frame.columns) == ["stream", "id", "timestamp_ms", "a", "b"]
    assert list(frame["a"].isna()) == [False, True]


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_a_row_without_a_timestamp_ages_from_its_arrival(clock: Clock, missing: float | None) -> None:
    buffer = TimeSeriesBuffer(60, now=clock)
    buffer.append(rows(missing, MS - 50_000))
    clock.seconds += 30
    assert list(buffer.get()["n"]) == [0]
    assert (len(buffer), buffer.last_timestamp) == (1, None)
    clock.seconds += 31
    assert len(buffer) == 0


def test_last_timestamp_is_that_of_a_row_still_held(clock: Clock) -> None:
    buffer = TimeSeriesBuffer(60, max_rows=1, now=clock)
    buffer.append(rows(MS - 1))
    clock.seconds += 1
    buffer.append(rows(None))
    assert (len(buffer), buffer.last_timestamp) == (1, None)
    assert buffer.get()["timestamp_ms"].isna().all()


def test_datetimes_are_timestamps_too(clock: Clock) -> None:
    buffer = TimeSeriesBuffer(60, "at", now=clock)
    buffer.append(pd.DataFrame({"at": pd.to_datetime([MS - 61_000, MS + 1], unit="ms", utc=True)}))
    assert (len(buffer), buffer.last_timestamp) == (1, MS + 1)


def test_times_of_every_form_stand_side_by_side(clock: Clock) -> None:
    far = np.array(["2500-01-01T00:00:00.000001"], dtype="datetime64[us]")
    forms: list[Any] = [
        pd.Series(far),
        pd.Series(np.array([MS * 1_000_000], dtype="datetime64[ns]")),
        pd.Series([pd.Timestamp(MS, unit="ms").to_pydatetime()], dtype=object),
        pd.Series(pd.PeriodIndex([pd.Timestamp(MS, unit="ms")], freq="s")),
        pd.Series(["2023-11-14T22:13:20Z"]),
        pd.Series([MS]),
    ]
    buffer = TimeSeriesBuffer(max_age_seconds=60, now=clock)
    for number, form in enumerate(forms):
        buffer.append(pd.DataFrame({"timestamp_ms": form, "n": number}))
    held = buffer.get()
    assert list(held["n"]) == list(range(len(forms)))
    assert pd.Timestamp(held["timestamp_ms"][0]) == pd.Timestamp(far[0])
    assert buffer.last_timestamp == 16725225600000.001
    clock.seconds += 61
    assert list(buffer.get()["n"]) == [0]


def test_datetimes_of_two_units_stay_what_they_are(clock: Clock) -> None:
    buffer = TimeSeriesBuffer(max_age_seconds=60, now=clock)
    for unit, text in (("us", "2500-01-01"), ("ns", "2026-01-01T00:00:00.000000001")):
        buffer.append(pd.DataFrame({"timestamp_ms": np.array([text], dtype=f"datetime64[{unit}]")}))
    assert [str(time) for time in buffer.get()["timestamp_ms"]] == [
        "2500-01-01 00:00:00",
        "2026-01-01 00:00:00.000000001",
    ]
    assert len(buffer) == 2


def test_a_frame_without_the_column_is_refused_and_nothing_is_added(clock: Clock) -> None:
    buffer = TimeSeriesBuffer(60, "ts", now=clock)
    with pytest.raises(ValueError, match=r"no column 'ts'. It has: 'timestamp_ms', 'n'"):
        buffer.append(rows(MS))
    assert len(buffer) == 0


@pytest.mark.parametrize("age", [0, -1, math.nan, None, "60"])
def test_an_age_that_is_none_is_refused(age: Any) -> None:
    with pytest.raises(ValueError, match="max_age_seconds"):
        TimeSeriesBuffer(age)


@pytest.mark.parametrize("max_rows", [0, -1, 1.5, True, "10"])
def test_a_row_limit_that_is_none_is_refused(max_rows: Any) -> None:
    with pytest.raises(ValueError, match="max_rows"):
        TimeSeriesBuffer(60, max_rows=max_rows)


def test_an_infinite_age_keeps_everything(clock: Clock) -> None:
    buffer = TimeSeriesBuffer(math.inf, max_rows=2, now=clock)
    buffer.append(rows(0, 1, 2))
    assert list(buffer.get()["timestamp_ms"]) == [1, 2]


def test_many_small_frames_are_put_together_a_few_times_only(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    concat = pd.concat

    def counting(frames: list[pd.DataFrame], ignore_index: bool) -> pd.DataFrame:
        moved.append(sum(map(len, frames)))
        return concat(frames, ignore_index=ignore_index)

    monkeypatch.setattr(pd, "concat", counting)
    buffer = TimeSeriesBuffer(60, now=clock)
    row = rows(MS)
    for _ in range(10_000):
        buffer.append(row)
        assert buffer.last_timestamp == MS
    assert len(buffer) == len(buffer.get()) == 10_000
    # Each row is copied a small number of times, however many frames brought them.
    assert sum(moved) < 4 * 10_000


def test_rows_that_left_do_not_stay_in_memory(clock: Clock) -> None:
    buffer = TimeSeriesBuffer(1, max_rows=100, now=clock)
    for second in range(200):
        clock.seconds = START + second
        buffer.append(rows(*[MS + 1000 * second] * 50))
    assert sum(map(len, buffer._frames)) == buffer._times.count < 1500


# --- a model -----------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.lists(st.none() | st.integers(-70, 5), min_size=1, max_size=5).map(lambda ages: ("append", ages)),
        st.integers(0, 40).map(lambda seconds: ("wait", seconds)),
        st.sampled_from([("get", 0), ("len", 0), ("last", 0)]),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(steps=STEPS, max_rows=st.none() | st.integers(1, 4))
def test_the_buffer_agrees_with_a_plain_list(steps: list[tuple[str, Any]], max_rows: int | None) -> None:
    clock = Clock()
    buffer = TimeSeriesBuffer(60, max_rows=max_rows, now=clock)
    model: list[tuple[int, int | None, int]] = []  # (age counts from, timestamp, number)

    def held() -> list[tuple[int, int | None, int]]:
        alive = [row for row in model if row[0] >= (clock.seconds - 60) * 1000]
        newest = sorted(alive, key=lambda row: (row[0], row[2]))[-(max_rows or len(alive)) :] if alive else []
        return sorted(newest, key=lambda row: row[2])

    for step, argument in [*steps, ("get", 0), ("len", 0), ("last", 0)]:
        if step == "append":
            now = int(clock.seconds * 1000)
            times = [None if age is None else now + age * 1000 for age in argument]
            numbers = range(len(model), len(model) + len(times))
            buffer.append(pd.DataFrame({"timestamp_ms": pd.array(times, dtype="Int64"), "n": list(numbers)}))
            model += [(now if at is None else at, at, number) for at, number in zip(times, numbers, strict=True)]
        elif step == "wait":
            clock.seconds += argument
        elif step == "get":
            assert list(buffer.get().get("n", [])) == [row[2] for row in held()]
        elif step == "len":
            assert len(buffer) == len(held())
        else:
            assert buffer.last_timestamp == max((row[1] for row in held() if row[1] is not None), default=None)
