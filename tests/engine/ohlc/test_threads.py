"""Batches of columns on several threads: what one thread makes of them, bit for bit; other threads are safe."""

from __future__ import annotations

import threading
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streammachine.errors import TickError
from streammachine.ohlc import threads

T0 = 1_700_000_000_000
MINUTE = 60_000
INTERVALS = [MINUTE, 90_000, 5 * MINUTE]


def columns(rows: int, symbols: int, seed: int, late: float = 0.1) -> tuple[Any, ...]:
    """Codes, prices, volumes, times; some out of order."""
    rng = np.random.default_rng(seed)
    times = T0 + np.sort(rng.integers(0, 60 * MINUTE, rows))
    times -= np.where(rng.random(rows) < late, rng.integers(0, 10 * MINUTE, rows), 0)
    weights = rng.random(symbols) ** 4 + 1e-6
    codes = rng.choice(symbols, rows, p=weights / weights.sum())
    return codes, np.round(100 + rng.standard_normal(rows), 2), rng.random(rows), times


def with_threads(monkeypatch: pytest.MonkeyPatch, count: int, stretches: int = 0) -> None:
    """``stretches``: of any number of rows, in place of those that are long enough."""
    monkeypatch.setattr(threads, "STRETCH_ROWS", 1 if stretches else threads.STRETCH_ROWS)
    monkeypatch.setattr(threads, "MOST_STRETCHES", stretches or threads.MOST_STRETCHES)
    monkeypatch.setattr(threads, "THREADS_FROM", 0)
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(count)), raising=False)
    monkeypatch.setattr(threads, "MOST_THREADS", count)


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("symbols", [1, 2, 60, 6000])
def test_as_one_thread_makes_it(
    both: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch, count: int, symbols: int
) -> None:
    fast, _ = both
    codes, *numbers = columns(50_000, symbols, seed=symbols)
    names = [f"S{k}" for k in range(symbols)]
    alone, shared = fast.FastOHLC(INTERVALS, 20), fast.FastOHLC(INTERVALS, 20)
    for part in np.array_split(np.arange(len(codes)), 3):  # late ticks, candles that are there, a bound that drops
        batch = pd.Categorical.from_codes(codes[part], names), *[column[part] for column in numbers]
        with monkeypatch.context() as one:
            with_threads(one, 1)
            alone.update_batch(*batch)
        with monkeypatch.context() as many:
            with_threads(many, count)
            shared.update_batch(*batch)
        for agg in (alone, shared):
            agg.flush_interval("S0", MINUTE, T0 + 10 * MINUTE)
    assert shared.dump() == alone.dump()
    assert (shared.tick_count, shared.late_count, shared.dropped_count) == (
        alone.tick_count,
        alone.late_count,
        alone.dropped_count,
    )


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_threads_the_sequence_and_the_twin_agree(both: tuple[ModuleType, ModuleType], data: st.DataObject) -> None:
    """A batch that is refused leaves all three as they were; one that is taken makes the same of them."""
    rows = data.draw(st.integers(0, 40))
    names = data.draw(
        st.lists(st.sampled_from(["A", "B", "C", "a long name of more than 16 bytes"]), min_size=rows, max_size=rows)
    )
    price = (
        st.one_of(st.floats(-5, 5), st.sampled_from([float("nan"), float("inf"), -0.0]))
        if data.draw(st.booleans())
        else st.floats(-5, 5)
    )
    prices = np.array(data.draw(st.lists(price, min_size=rows, max_size=rows)), dtype=float)
    volumes = np.array(
        data.draw(
            st.lists(
                st.sampled_from([0.0, -0.0, 0.5, 2.0] + [-1.0] * data.draw(st.integers(0, 1))),
                min_size=rows,
                max_size=rows,
            )
        ),
        dtype=float,
    )
    times = np.array(
        data.draw(st.lists(st.integers(T0 - 200_000, T0 + 200_000), min_size=rows, max_size=rows)), dtype=np.int64
    )
    if rows and data.draw(st.integers(0, 9)) == 0:
        times[rows // 2] = data.draw(st.sampled_from([-1, 2**62, -(2**63)]))
    column = data.draw(
        st.sampled_from([list, pd.Categorical, np.array, pa.array, lambda n: pa.array(n).dictionary_encode()])
    )
    symbols = column(names) if names else "A"
    fast, reference = both
    engines = [fast.FastOHLC(INTERVALS, 2), fast.FastOHLC(INTERVALS, 2), reference.FastOHLC(INTERVALS, 2)]
    found = []
    for engine, count in zip(engines, (1, 3, 1), strict=True):
        engine.update_tick("B", 1.0, 1.0, T0)
        engine.flush_interval("B", MINUTE, T0 + MINUTE)
        with pytest.MonkeyPatch.context() as patch:
            with_threads(patch, count)
            try:
                found.append(engine.update_batch(symbols, prices, volumes, times))
            except TickError as error:
                found.append(str(error))
    assert found[0] == found[1] == found[2]
    assert engines[0].dump() == engines[1].dump() == engines[2].dump()


@pytest.mark.parametrize("intervals", [[MINUTE], INTERVALS, [MINUTE, 5 * MINUTE, 15 * MINUTE, 24 * 60 * MINUTE]])
@pytest.mark.parametrize("symbols", [1, 40])
@pytest.mark.parametrize("astray", [None, "a late row", "an early row", "late rows", "all rows near the end"])
@pytest.mark.parametrize(("count", "stretches"), [(3, 0), (2, 16), (5, 7)])
def test_stretches_of_time_are_put_behind_each_other(
    both: tuple[ModuleType, ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    intervals: list[int],
    symbols: int,
    astray: str | None,
    count: int,
    stretches: int,
) -> None:
    """Rows in order of time, some with gaps, and rows that are not: over candles that are there and reach into it."""
    codes, prices, volumes, times = columns(30_000, symbols, seed=symbols, late=0.0)
    times[20_000:] += 40 * MINUTE
    if astray == "a late row":  # of the first stretch, behind the cut
        times[25_000] = times[9_000]
    elif astray == "an early row":
        times[9_001] = times[-1] + 1
    elif astray == "late rows":
        times -= np.where(np.random.default_rng(3).random(len(times)) < 0.001, 3 * MINUTE, 0)
    elif astray == "all rows near the end":
        times[28_000:] = times[28_000:][::-1]
    names = [f"S{k}" for k in range(symbols)]
    alone, shared = both[0].FastOHLC(intervals), both[0].FastOHLC(intervals)
    for part in np.array_split(np.arange(len(codes)), 2):
        symbol: Any = "S0" if symbols == 1 else pd.Categorical.from_codes(codes[part], names)
        for agg, cores in ((alone, 1), (shared, count)):
            with monkeypatch.context() as patch:
                with_threads(patch, cores, stretches)
                agg.update_batch(symbol, *[column[part] for column in (prices, volumes, times)])
            agg.flush_interval("S0", MINUTE, T0 + 10 * MINUTE)
    assert shared.dump() == alone.dump()
    assert (shared.tick_count, shared.late_count) == (alone.tick_count, alone.late_count)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_cuts_anywhere(both: tuple[ModuleType, ModuleType], data: st.DataObject) -> None:
    """Few rows, mostly in order, over several minutes: all threads have cuts, and some rows lie across them."""
    rows = data.draw(st.integers(8, 60))
    steps = data.draw(st.lists(st.integers(0, 40_000), min_size=rows, max_size=rows))
    times = T0 + np.cumsum(np.array(steps, dtype=np.int64))
    for at in data.draw(st.lists(st.integers(0, rows - 1), max_size=2)):
        times[at] += data.draw(st.integers(-600_000, 600_000))
    codes = np.array(data.draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows)), dtype="i1")
    volumes = np.array(data.draw(st.lists(st.floats(0, 1), min_size=rows, max_size=rows)))
    prices = np.array(data.draw(st.lists(st.sampled_from([1.0, 2.0, 3.5, 0.0, -0.0]), min_size=rows, max_size=rows)))
    symbols: Any = pd.Categorical.from_codes(codes, ["A", "B"]) if data.draw(st.booleans()) else "A"
    fast, reference = both
    intervals = data.draw(st.sampled_from([[MINUTE, 5 * MINUTE, 10 * MINUTE], [MINUTE, 90_000], [MINUTE, 86_400_000]]))
    engines = [fast.FastOHLC(intervals), fast.FastOHLC(intervals), reference.FastOHLC(intervals)]
    stretches = data.draw(st.integers(0, 16))
    for engine, count in zip(engines, (1, data.draw(st.integers(2, 4)), 1), strict=True):
        engine.update_tick("A", 1.0, 0.3, T0 - 1_000)
        with pytest.MonkeyPatch.context() as patch:
            with_threads(patch, count, stretches)
            engine.update_batch(symbols, prices, volumes, times)
    assert engines[0].dump() == engines[1].dump() == engines[2].dump()
    assert len({engine.tick_count for engine in engines}) == 1


@pytest.mark.parametrize(("late", "stretches"), [(0.1, 0), (0.0, 0), (0.0, 16)])
def test_a_bad_row_far_behind_gives_back_what_was(
    both: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch, late: float, stretches: int
) -> None:
    with_threads(monkeypatch, 2, stretches)
    codes, prices, volumes, times = columns(20_000, 5, seed=1, late=late)
    names = np.array([f"S{code}" for code in codes], dtype=object)
    agg = both[0].FastOHLC(INTERVALS, 3)
    agg.update_batch(names[:5_000], prices[:5_000], volumes[:5_000], times[:5_000])
    state = agg.dump()
    for column, bad, words in (
        (prices, np.nan, "price nan"),
        (volumes, -1.0, "volume -1"),
        (times, -1, "timestamp -1"),
    ):
        good, column[19_000] = column[19_000], bad
        with pytest.raises(TickError, match=f"row 19000: {words}"):
            agg.update_batch(names, prices, volumes, times)
        column[19_000] = good
        assert agg.dump() == state
    assert agg.update_batch(names, prices, volumes, times) == 20_000


def test_calls_of_other_threads_wait_their_turn(
    both: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches, ticks, looks, dumps and flushes of one aggregator at once: nothing is lost and nothing is torn."""
    with_threads(monkeypatch, 2)
    agg = both[0].FastOHLC([MINUTE, 5 * MINUTE])
    rows, rounds = 30_000, 8
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            codes, *numbers = columns(rows, 8, seed=number, late=0.0)
            names = pd.Categorical.from_codes(codes, [f"T{number % 2}S{k}" for k in range(8)])
            for k in range(rounds):
                assert agg.update_batch(names, *numbers) == rows
                agg.update_tick(f"own{number}-{k}", 1.0, 1.0, T0)
                agg.update_tick("T0S0", 1.0, 1.0, T0)
                type(agg).load(agg.dump())
                agg.candles_frame("T0S1", MINUTE)
                agg.get_completed_candles("T1S1", MINUTE, T0)
                agg.flush_interval(f"own{number}-{k}", MINUTE, T0 + MINUTE)
                agg.reset(f"own{number}-{k}")
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert errors == []
    assert agg.tick_count == 4 * rounds * (rows + 2)
    counted = sum(candle.trade_count for symbol in agg.symbols for candle in agg.get_candles(symbol, MINUTE))
    assert counted == 4 * rounds * (rows + 1)


def test_how_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert threads.threads_for(threads.THREADS_FROM - 1) == 1
    assert threads.threads_for(threads.THREADS_FROM) == threads.MOST_THREADS
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: {3})
    assert threads.threads_for(10**9) == 1
    monkeypatch.delattr(threads.os, "sched_getaffinity")
    monkeypatch.setattr(threads.os, "cpu_count", lambda: None)
    assert threads.threads_for(10**9) == 1


def test_how_many_stretches() -> None:
    assert threads.stretches_for(10, 3) == 3
    assert threads.stretches_for(5 * threads.STRETCH_ROWS, 2) == 5
    assert threads.stretches_for(10**9, 2) == threads.MOST_STRETCHES


def test_a_bad_row_in_stretches_that_end_early(
    both: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row out of order ends the sharing out; a bad one far behind is found all the same."""
    with_threads(monkeypatch, 2, 16)
    _, prices, volumes, times = columns(20_000, 1, seed=1, late=0.0)
    times[3_000] = times[0]
    volumes[19_900] = -1.0
    agg = both[0].FastOHLC(INTERVALS)
    with pytest.raises(TickError, match="row 19900: volume -1"):
        agg.update_batch("A", prices, volumes, times)
    assert agg.symbols == [] and agg.tick_count == 0
