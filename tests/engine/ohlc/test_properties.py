"""The twins agree bit for bit, and both agree with candles made the simplest way there is."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from streammachine.ohlc import reference

WEEK = 604_800_000
DAY = 86_400_000
MONDAY = 345_600_000

SETS = [
    [1],
    [2, 3, 6],
    [4, 6, 12, 24],
    [60_000, 300_000, 900_000],
    [60_000, 90_000, 180_000, 360_000],
    [1_000, 3_000, 5_000, 15_000, 30_000],
    [WEEK, DAY],
    [WEEK, DAY // 2, 2 * DAY, WEEK // 2],
    [WEEK, 2 * WEEK, DAY, 3 * DAY],
]


class Naive:
    """Keeps every tick of every candle, and works it all out when asked."""

    def __init__(self, intervals: list[int], max_candles: int) -> None:
        self.intervals = intervals
        self.max_candles = max_candles
        self.ticks: dict[tuple[str, int], dict[int, list[tuple[int, float, float]]]] = {}
        self.marks: dict[tuple[str, int], int] = {}
        self.tick_count = self.late_count = self.dropped_count = 0

    @staticmethod
    def start(interval: int, ms: int) -> int:
        origin = MONDAY if interval == WEEK else 0
        return origin + math.floor((ms - origin) / interval) * interval

    def update(self, symbol: str, price: float, volume: float, ms: int) -> None:
        taken = late = False
        for interval in self.intervals:
            key = (symbol, interval)
            start = self.start(interval, ms)
            if start < self.marks.get(key, -math.inf):
                late = True
                continue
            taken = True
            candles = self.ticks.setdefault(key, {})
            candles.setdefault(start, []).append((ms, price, volume))
            if self.max_candles and len(candles) > self.max_candles:
                oldest = min(candles)
                del candles[oldest]
                self.dropped_count += 1
                self.marks[key] = max(self.marks.get(key, -math.inf), oldest + interval)
        self.tick_count += taken
        self.late_count += late

    def flush(self, symbol: str, interval: int, before: int) -> int:
        candles = self.ticks.get((symbol, interval), {})
        gone = [start for start in candles if start + interval <= before]
        for start in gone:
            del candles[start]
            self.marks[symbol, interval] = max(self.marks.get((symbol, interval), -math.inf), start + interval)
        return len(gone)

    def candles(self, symbol: str, interval: int) -> list[dict[str, Any]]:
        found = []
        for start, ticks in sorted(self.ticks.get((symbol, interval), {}).items()):
            first, last = min(ms for ms, _, _ in ticks), max(ms for ms, _, _ in ticks)
            found.append(
                {
                    "open": next(price for ms, price, _ in ticks if ms == first),
                    "high": max(price for _, price, _ in ticks),
                    "low": min(price for _, price, _ in ticks),
                    "close": next(price for ms, price, _ in reversed(ticks) if ms == last),
                    "volume": math.fsum(volume for _, _, volume in ticks),
                    "timestamp_ms": last,
                    "candle_start_ms": start,
                    "trade_count": len(ticks),
                }
            )
        return found


def same(ours: list[Any], theirs: list[dict[str, Any]]) -> None:
    assert len(ours) == len(theirs)
    for candle, other in zip(ours, theirs, strict=True):
        mine = candle.to_dict()
        volume, expected = mine.pop("volume"), other.pop("volume")
        assert mine == other
        assert math.isclose(volume, expected, rel_tol=1e-9, abs_tol=1e-12)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[int], int, list[tuple[Any, ...]]]:
    """Intervals, a bound, and what happens: ticks around a moving time, flushes, resets, dumps."""
    intervals = draw(st.permutations(draw(st.sampled_from(SETS))))
    bound = draw(st.sampled_from([0, 0, 1, 2, 3]))
    span = draw(st.sampled_from(sorted(intervals))) * draw(st.integers(1, 4))
    prices = st.sampled_from([1.0, 2.0, -1.5, 0.0]) | st.floats(-1e9, 1e9)
    volumes = st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0]) | st.floats(0, 1e9)
    base = draw(st.sampled_from([0, MONDAY - 5, 1_700_000_000_000]))
    symbols = st.sampled_from(["A", "A", "B"])
    steps = []
    for _ in range(draw(st.integers(0, 60))):
        base += draw(st.sampled_from([0, 0, 1, span // 3, span]))
        kind = draw(st.sampled_from(["tick"] * 12 + ["flush", "flush", "reset", "dump"]))
        ms = max(0, base - draw(st.sampled_from([0, 0, 0, 1]) | st.integers(0, 2 * span)))
        if kind == "tick":
            steps.append((kind, draw(symbols), draw(prices), draw(volumes), ms))
        elif kind == "flush":
            steps.append((kind, draw(symbols), draw(st.sampled_from(intervals)), ms + draw(st.integers(1, 2 * span))))
        else:
            steps.append((kind, draw(symbols)))
    return list(intervals), bound, steps


def play(agg: Any, steps: list[tuple[Any, ...]]) -> Any:
    """Yields the aggregator after each step; a dump goes through bytes and back."""
    for kind, symbol, *rest in steps:
        if kind == "tick":
            agg.update_tick(symbol, *rest)
        elif kind == "flush":
            agg.flush_interval(symbol, *rest)
        elif kind == "reset":
            agg.reset(symbol)
        else:
            agg = type(agg).load(agg.dump())
        yield agg


@settings(max_examples=250, deadline=None)
@given(histories())
def test_the_twin_agrees_with_the_naive_oracle(history: tuple[list[int], int, list[tuple[Any, ...]]]) -> None:
    agree_with_naive(reference, *history)


@settings(max_examples=400, deadline=None)
@given(history=histories())
def test_the_twins_are_equal_bit_for_bit_at_every_moment(
    both: tuple[ModuleType, ModuleType], history: tuple[list[int], int, list[tuple[Any, ...]]]
) -> None:
    native, twin = both
    intervals, bound, steps = history
    agree_with_naive(native, intervals, bound, steps)
    pairs = zip(
        play(native.FastOHLC(intervals, bound), steps), play(twin.FastOHLC(intervals, bound), steps), strict=True
    )
    for ours, theirs in pairs:
        assert ours.dump() == theirs.dump()
        for symbol in ("A", "B"):
            for interval in intervals:
                assert bits(ours.get_candles(symbol, interval)) == bits(theirs.get_candles(symbol, interval))
        assert twin.FastOHLC.load(ours.dump()).dump() == native.FastOHLC.load(theirs.dump()).dump() == ours.dump()


def bits(candles: list[Any]) -> list[list[str]]:
    return [
        [value.hex() if isinstance(value, float) else str(value) for value in candle.to_dict().values()]
        for candle in candles
    ]


def agree_with_naive(engine: ModuleType, intervals: list[int], bound: int, steps: list[tuple[Any, ...]]) -> None:
    naive = Naive(intervals, bound)
    for step, agg in zip(steps, play(engine.FastOHLC(intervals, bound), steps), strict=True):
        kind, symbol, *rest = step
        if kind == "tick":
            naive.update(symbol, *rest)
        elif kind == "flush":
            naive.flush(symbol, *rest)
        elif kind == "reset":
            naive.ticks = {key: value for key, value in naive.ticks.items() if key[0] != symbol}
            naive.marks = {key: value for key, value in naive.marks.items() if key[0] != symbol}
        assert (agg.tick_count, agg.late_count, agg.dropped_count) == (
            naive.tick_count,
            naive.late_count,
            naive.dropped_count,
        )
        for name in ("A", "B"):
            for interval in intervals:
                same(agg.get_candles(name, interval), naive.candles(name, interval))


@settings(max_examples=100, deadline=None)
@given(history=histories())
def test_every_road_in_gives_the_same_state(
    both: tuple[ModuleType, ModuleType], history: tuple[list[int], int, list[tuple[Any, ...]]]
) -> None:
    intervals, bound, steps = history
    ticks = [tuple(rest) for kind, *rest in steps if kind == "tick"]
    dumps = set()
    for engine in both:
        one, columns, stream = (engine.FastOHLC(intervals, bound) for _ in range(3))
        for tick in ticks:
            one.update_tick(*tick)
        columns.update_batch(*([list(column) for column in zip(*ticks, strict=True)] or [[], [], [], []]))
        entries = [(f"{ms}-{k}", {"s": s, "p": repr(p), "v": repr(v)}) for k, (s, p, v, ms) in enumerate(ticks)]
        stream.process_stream_batch(entries, "p", "v", "s")
        dumps |= {one.dump(), columns.dump(), stream.dump()}
    assert len(dumps) == 1


TEXTS = (
    st.floats().map(repr)
    | st.decimals(allow_nan=False, allow_infinity=False, places=8, min_value=-(10**9), max_value=10**9).map(str)
    | st.from_regex(r"[-+]?[0-9]{0,25}\.?[0-9]{0,25}", fullmatch=True)
    | st.from_regex(r"\s?[-+]?[0-9_]{1,6}(\.[0-9_]{0,6})?([eE][-+]?[0-9]{1,3})?\s?", fullmatch=True)
    | st.sampled_from(
        ["", " ", ".", "-", "+1", "-.5", "5.", "1_000", "0x1", "1e5", " 1.5 ", "nan", "-inf", "١٢", "1\0"]
    )
    | st.text(max_size=6)
)


@settings(max_examples=1500, deadline=None)
@given(text=TEXTS)
def test_numbers_parse_exactly_as_float_does_without_underscores(
    both: tuple[ModuleType, ModuleType], text: str
) -> None:
    for raw in (text, text.encode("utf-8", "surrogatepass")):
        try:
            expected = float(raw)
            good = math.isfinite(expected) and "_" not in text
        except ValueError:
            good = False
        for engine in both:
            agg = engine.FastOHLC([1])
            try:
                agg.process_stream_batch([("X", [("1-0", {"price": raw})])], volume_field=None)
            except ValueError:
                assert not good
            else:
                assert good
                assert agg.get_candles("X", 1)[0].open.hex() == expected.hex()
