"""prune_old_dataframe_rows: what it removes, what it keeps, what it refuses."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from streammachine.frames import prune_old_dataframe_rows, streams_to_dataframe

NOW = 1_700_000_000.0
NOW_MS = 1_700_000_000_000


def frame(*times: Any, **columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"timestamp_ms": list(times), **columns})


def test_rows_older_than_the_cutoff_are_removed_and_the_border_stays() -> None:
    df = frame(NOW_MS - 60_001, NOW_MS - 60_000, NOW_MS - 59_999, NOW_MS)
    assert list(prune_old_dataframe_rows(df, 60, current_time=NOW)["timestamp_ms"]) == list(df["timestamp_ms"])[1:]


@pytest.mark.parametrize("now_ms", range(NOW_MS + 1, NOW_MS + 1000, 37))
def test_the_border_does_not_fall_to_rounding(now_ms: int) -> None:
    df = frame(now_ms - 301, now_ms - 300)
    assert list(prune_old_dataframe_rows(df, 0.3, current_time=now_ms / 1000).index) == [1]


def test_the_current_time_is_the_default() -> None:
    now_ms = int(time.time() * 1000)
    df = frame(now_ms - 3_700_000, now_ms)
    assert list(prune_old_dataframe_rows(df, 3600).index) == [1]


def test_the_frame_given_is_not_changed_and_not_shared() -> None:
    df = frame(NOW_MS, NOW_MS - 1, price=["1", "2"])
    before = df.copy()
    pruned = prune_old_dataframe_rows(df, 60, current_time=NOW)
    pruned.loc[0, "price"] = "changed"
    assert_frame_equal(df, before)


def test_order_index_labels_and_dtypes_stay() -> None:
    df = frame(NOW_MS, NOW_MS - 10**6, NOW_MS - 1, price=["1", "2", "3"]).set_axis(["x", "y", "x"])
    pruned = prune_old_dataframe_rows(df, 60, current_time=NOW)
    assert list(pruned.index) == ["x", "x"]
    assert list(pruned["price"]) == ["1", "3"]
    assert pruned.dtypes.to_dict() == df.dtypes.to_dict()


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf"), float("-inf"), pd.NA])
def test_rows_without_a_timestamp_are_kept_unless_the_caller_says_otherwise(missing: Any) -> None:
    df = frame(NOW_MS, missing, NOW_MS - 10**6)
    assert list(prune_old_dataframe_rows(df, 60, current_time=NOW).index) == [0, 1]
    assert list(prune_old_dataframe_rows(df, 60, current_time=NOW, missing="drop").index) == [0]


@pytest.mark.parametrize(
    "times",
    [
        pd.Series([NOW_MS - 10**6, NOW_MS], dtype="Int64"),
        pd.Series([NOW_MS - 10**6, NOW_MS], dtype="uint64"),
        pd.Series([NOW_MS - 1e6, NOW_MS + 0.5]),
        pd.Series([str(NOW_MS - 10**6), str(NOW_MS)]),
        pd.Series([NOW_MS - 10**6, NOW_MS], dtype=object),
        pd.to_datetime([NOW_MS - 10**6, NOW_MS], unit="ms").to_series().reset_index(drop=True),
        pd.to_datetime([NOW_MS - 10**6, NOW_MS], unit="ms", utc=True)
        .tz_convert("Asia/Tokyo")
        .to_series()
        .reset_index(drop=True),
    ],
    ids=["Int64", "uint64", "float", "text", "object", "datetime", "datetime with a zone"],
)
def test_every_usual_form_of_a_timestamp_is_understood(times: pd.Series) -> None:
    assert list(prune_old_dataframe_rows(times.to_frame("ts"), 60, "ts", NOW).index) == [1]


OLD, NEW = datetime(2023, 11, 14, 22, 0, tzinfo=UTC), datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)  # NEW is NOW
FAR = "2500-01-01T00:00:00"  # datetime64[ns] ends in 2262


@pytest.mark.parametrize(
    "times",
    [
        pd.Series(np.array(["2023-11-14T22:00", FAR], dtype="datetime64[us]")),
        pd.Series(np.array(["2023-11-14T22:00", FAR], dtype="datetime64[ms]")),
        pd.Series(np.array(["2023-11-14T22:00", FAR], dtype="datetime64[s]")),
        pd.Series(np.array(["2023-11-14T22:00", FAR], dtype="datetime64[us]")).dt.tz_localize("Asia/Tokyo"),
        pd.Series([OLD, NEW], dtype=object),
        pd.Series([OLD.replace(tzinfo=None), NEW.astimezone(timezone(timedelta(hours=-5)))], dtype=object),
        pd.Series([pd.Timestamp(OLD), pd.Timestamp(FAR)], dtype=object),
        pd.Series([np.datetime64("2023-11-14T22:00"), np.datetime64(FAR)], dtype=object),
        pd.Series([date(2023, 11, 14), date(2500, 1, 1)], dtype=object),
        pd.Series(["2023-11-14T22:00:00Z", "2023-11-14T22:13:20+00:00"]),
        pd.Series(["2023-11-14", FAR]),
        pd.Series([b"2023-11-14 22:00:00", str(NOW_MS).encode()], dtype=object),
        pd.Series(["2023-11-14T22:00:00Z", str(NOW_MS)]),
        pd.Series([str(NOW_MS - 10**6), str(NOW_MS)]).astype("category"),
        pd.Series([OLD, NOW_MS], dtype=object),
        pd.Series(pd.PeriodIndex(["2023-11-14 22:00", "2023-11-14 22:13:20"], freq="s")),
        pd.Series(pd.PeriodIndex(["2023-11-14", FAR], freq="D")),
        pd.Series(pd.PeriodIndex(["2023-10", FAR], freq="M")),
        pd.Series([pd.Period("2023-10"), pd.Period(FAR, freq="s")], dtype=object),
    ],
    ids=lambda times: f"{times.dtype}, {type(times[0]).__name__}, {times[1]}",
)
def test_datetimes_periods_and_iso_text_of_every_kind_are_understood(times: pd.Series) -> None:
    assert list(prune_old_dataframe_rows(times.to_frame("ts"), 60, "ts", NOW).index) == [1]


@pytest.mark.parametrize("kind", ["datetime64[us]", "datetime64[ns]", "object", "text", "period"])
def test_a_time_is_exact_to_the_last_microsecond(kind: str) -> None:
    stamps = pd.Series(np.array(["2023-11-14T22:13:20.000001", "2023-11-14T22:13:19.999999"], dtype="datetime64[us]"))
    forms = {
        "object": stamps.astype(object),
        "text": stamps.astype(str),
        "period": pd.Series(pd.PeriodIndex(stamps, freq="us")),
    }
    times = forms[kind] if kind in forms else stamps.astype(kind)
    assert list(prune_old_dataframe_rows(times.to_frame("ts"), 0, "ts", NOW).index) == [0]


@pytest.mark.parametrize("missing", [None, pd.NaT, float("nan"), pd.NA, np.datetime64("NaT"), ""])
def test_a_datetime_that_is_missing_is_a_row_without_a_timestamp(missing: Any) -> None:
    df = frame(OLD, missing, NEW).astype({"timestamp_ms": object})
    assert list(prune_old_dataframe_rows(df, 60, current_time=NOW).index) == [1, 2]
    assert list(prune_old_dataframe_rows(df, 60, current_time=NOW, missing="drop").index) == [2]


@pytest.mark.parametrize(
    "value", [True, np.True_, timedelta(1), pd.Timedelta(1), 1j, "1_000", "2023-13-01", b"\xff", [1], {}]
)
def test_what_is_no_time_is_refused_with_its_row(value: Any) -> None:
    for df in (frame(OLD, value), frame(value)):
        with pytest.raises(ValueError, match=rf"'timestamp_ms' holds something.*row {len(df) - 1} has"):
            prune_old_dataframe_rows(df.astype({"timestamp_ms": object}), 60, current_time=NOW)


@pytest.mark.parametrize("values", [[True], [pd.Timedelta(1)], [1j]])
def test_a_column_of_no_times_is_refused(values: list[Any]) -> None:
    with pytest.raises(ValueError, match="'timestamp_ms' holds something"):
        prune_old_dataframe_rows(frame(*values), 60, current_time=NOW)


def test_a_missing_column_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no column 'ts'. It has: 'timestamp_ms', 'price'"):
        prune_old_dataframe_rows(frame(NOW_MS, price=["1"]), 60, "ts")
    with pytest.raises(ValueError, match="It has: none"):
        prune_old_dataframe_rows(pd.DataFrame(index=[1, 2]), 60)


def test_a_column_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="more than one"):
        prune_old_dataframe_rows(pd.DataFrame([[1, 2]], columns=["timestamp_ms"] * 2), 60)


def test_times_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'timestamp_ms' holds something that is not a time.*yesterday"):
        prune_old_dataframe_rows(frame("yesterday"), 60, current_time=NOW)


def test_frames_without_rows_come_back_empty() -> None:
    assert prune_old_dataframe_rows(pd.DataFrame(), 60).shape == (0, 0)
    empty = streams_to_dataframe(None)
    assert_frame_equal(prune_old_dataframe_rows(empty, 60), empty)


@pytest.mark.parametrize("cutoff", [-1, float("nan"), None, "60"])
def test_a_cutoff_that_is_no_age_is_refused(cutoff: Any) -> None:
    with pytest.raises(ValueError, match="cutoff_seconds"):
        prune_old_dataframe_rows(frame(NOW_MS), cutoff)


@pytest.mark.parametrize("now", [NOW_MS, float("nan"), float("inf")])
def test_a_current_time_that_is_not_in_seconds_is_refused(now: float) -> None:
    with pytest.raises(ValueError, match="seconds since the epoch"):
        prune_old_dataframe_rows(frame(NOW_MS), 60, current_time=now)


def test_an_unknown_answer_for_missing_timestamps_is_refused() -> None:
    with pytest.raises(ValueError, match="'keep' or 'drop'"):
        prune_old_dataframe_rows(frame(NOW_MS), 60, missing="never")  # type: ignore[arg-type]


def test_an_infinite_cutoff_keeps_everything() -> None:
    df = frame(0, NOW_MS)
    assert len(prune_old_dataframe_rows(df, np.inf, current_time=NOW)) == 2
