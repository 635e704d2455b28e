"""The axes of a chart are right for values of any size."""

from __future__ import annotations

import math

import pytest

from streammachine.charts.scale import ValueScale, amount, price, span_text, time_ticks

T0 = 1_723_161_600_000  # 2024-08-09 00:00 UTC
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (96.0, 100.0, ["96", "97", "98", "99", "100"]),
        (1.15e-12, 1.2e-12, ["1.16e-12", "1.18e-12", "1.20e-12"]),
        (61837.61, 61837.65, ["61,837.61", "61,837.62", "61,837.63", "61,837.64", "61,837.65"]),
        (-3.0, 4.0, ["-2", "0", "2", "4"]),
        (1e300, 2e300, ["1.00e300", "1.25e300", "1.50e300", "1.75e300", "2.00e300"]),
    ],
)
def test_labels_are_the_values_and_tell_them_apart(low: float, high: float, labels: list[str]) -> None:
    ticks = ValueScale([low, high]).ticks(5)
    assert [text for _, text in ticks] == labels
    assert [place for place, _ in ticks] == sorted(place for place, _ in ticks)


@pytest.mark.parametrize("value", [1e-12, 61837.63, 5e-324, 1.7e308, -4.0, 0.0, 1e-300])
def test_where_all_values_are_the_same_they_stand_in_the_middle(value: float) -> None:
    scale = ValueScale([value, value, None])
    assert scale.is_flat
    assert scale.place(value) == pytest.approx(0.5, abs=1e-6)
    assert all(math.isfinite(place) for place, _ in scale.ticks())


@pytest.mark.parametrize("values", [[-1.7e308, 1.7e308], [1.0, 1.0 + 2**-52], [0.0, 5e-324], [1e-310, 3e-310], []])
def test_extremes_stay_within_the_pane(values: list[float]) -> None:
    scale = ValueScale(values)
    assert all(-1e-9 <= scale.place(value) <= 1 + 1e-9 for value in values)
    assert len(scale.ticks()) <= 25


def test_a_floor_is_the_bottom_and_none_has_no_place() -> None:
    scale = ValueScale([5.0, None, 10.0], floor=0.0)
    assert scale.place(0.0) == 0.0
    assert math.isnan(scale.place(None))
    assert math.isnan(scale.place(math.inf))


def test_numbers_in_words() -> None:
    assert [price(value) for value in (61837.63, 1.2e-12, 0.0, None, 123456789012.0, 0.00012345, -5.5)] == [
        "61,837.63", "1.2e-12", "0", "n/a", "123,456,789,012", "0.00012345", "-5.5",
    ]  # fmt: skip
    assert [amount(value) for value in (0, 950.4, 1234, 3.4e6, 5.61e9, 1e15, 1e-9)] == [
        "0", "950.4", "1.234K", "3.4M", "5.61B", "1.0e15", "1.0e-9",
    ]  # fmt: skip


def test_the_time_axis_is_utc_and_names_days() -> None:
    labels = [text for _, text in time_ticks([T0 - HOUR + n * MINUTE for n in range(200)], 8)]
    assert labels == ["23:00", "23:30", "9 Aug", "00:30", "01:00", "01:30", "02:00"]
    days = [text for _, text in time_ticks([T0 + n * DAY for n in range(60)], 10)]
    assert days == ["12 Aug", "19 Aug", "26 Aug", "2 Sep", "9 Sep", "16 Sep", "23 Sep", "30 Sep", "7 Oct"]
    years = [text for _, text in time_ticks([T0 + n * 30 * DAY for n in range(60)], 6)]
    assert years == ["2025", "2026", "2027", "2028", "2029"]
    assert time_ticks([T0], 5) == [(0, "09 Aug 2024 00:00")]
    assert [text for _, text in time_ticks([T0 + n * 1000 for n in range(20)], 5)][1] == "00:00:05"


def test_a_range_in_words() -> None:
    assert span_text([T0, T0 + HOUR]) == "2024-08-09 00:00 to 01:00 UTC"
    assert span_text([T0, T0 + DAY]) == "2024-08-09 to 2024-08-10 UTC"
    assert span_text([T0, T0 + DAY + MINUTE]) == "2024-08-09 00:00 to 2024-08-10 00:01 UTC"
    assert span_text([T0 + 5000]) == "2024-08-09 00:00:05 UTC"
