"""The tape and its candles: the same by seed, exact, contiguous, deep, and equal to DuckDB's fold."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import pytest

from streammachine.market.model.timeframe import DAY, HOUR, MINUTE
from streammachine.market.simulator import Tape
from streammachine.market.simulator.tape.candles import UTC, Bar, Candles, Grid
from support.exchange import START, Candle, exact, folded
from support.market import shared_data


def texts(bar: Bar) -> Candle:
    prices = (exact(bar.price_text(value)) for value in (bar.open, bar.high, bar.low, bar.close))
    return (bar.start, *prices, exact(bar.volume_text()), exact(bar.quote_text()), bar.count)  # type: ignore[return-value]


def test_a_seed_gives_the_same_trades_in_whatever_order_one_looks() -> None:
    first, second = (Tape.generate(4, start_ms=START) for _ in range(2))
    second.trades("ETH/USDT", START + HOUR, START + 3 * HOUR)
    assert first.trades("BTC/USDT") == second.trades("BTC/USDT")
    assert first.trades("ETH/USDT", START, START + 3 * HOUR) == second.trades("ETH/USDT", START, START + 3 * HOUR)
    assert first.trades("BTC/USDT") != Tape.generate(5, start_ms=START).trades("BTC/USDT")
    assert first.trades("BTC/USDT") != first.trades("ETH/USDT")


def test_ids_are_contiguous_from_deep_history_over_the_lively_part() -> None:
    tape = Tape.generate(4, start_ms=START, trades_per_minute=5)
    rows = tape.trades("BTC/USDT", START - 3 * DAY, START + 5 * HOUR)
    assert [row.id for row in rows] == list(range(rows[0].id, rows[0].id + len(rows)))
    assert [row.ts for row in rows] == sorted(row.ts for row in rows)
    assert tape.trades("BTC/USDT", tape.listed("BTC/USDT"), tape.listed("BTC/USDT") + DAY)[0].id == 1
    assert tape.trades("BTC/USDT", 0, tape.listed("BTC/USDT")) == []


def test_the_market_has_idle_minutes_bursts_and_orders_of_several_fills() -> None:
    tape = Tape.generate(4, start_ms=START, minutes=120)
    rows = tape.trades("BTC/USDT")
    counts = dict.fromkeys(range(120), 0)
    for row in rows:
        counts[(row.ts - START) // MINUTE] += 1
    assert 0 in counts.values()
    assert max(counts.values()) > 100
    fills = [list(group) for _, group in itertools.groupby(rows, key=lambda row: row.ts)]
    orders = [group for group in fills if len(group) > 1]
    assert orders
    assert sum(len({(row.price, row.side) for row in group}) == 1 for group in orders) > len(orders) * 0.8
    assert all(float(row.price) > 0 and float(row.quantity) > 0 for row in rows)


def test_trades_are_found_by_id_and_by_time() -> None:
    tape = Tape.generate(4, start_ms=START)
    rows = tape.trades("BTC/USDT", START - 2 * DAY, START + HOUR)
    for index in (0, 1, len(rows) // 2, len(rows) - 3):
        found = list(itertools.islice(tape.rows_from_id("BTC/USDT", rows[index].id, START + HOUR), 5))
        assert found == rows[index : index + 5]
        later = next(row.ts for row in rows if row.ts > rows[index].ts)
        assert tape.next_ts("BTC/USDT", rows[index].ts) == later
        assert tape.last_before("BTC/USDT", rows[index].ts + 1) == [row for row in rows if row.ts == rows[index].ts][-1]
    assert list(tape.rows_from_id("BTC/USDT", rows[-1].id + 1, START + HOUR)) == []
    assert next(iter(tape.rows_from_id("BTC/USDT", -5, START))).id == 1


@pytest.mark.parametrize("timeframe", ["1s", "1m", "5m", "1h", "4h", "1d", "1w"])
def test_candles_equal_the_fold_of_the_trades_by_duckdb(timeframe: str) -> None:
    tape = Tape.generate(4, start_ms=START, trades_per_minute=2 if timeframe == "1w" else 20)
    grid = UTC[timeframe]
    length = {"1s": HOUR, "1m": 2 * DAY, "5m": 2 * DAY}.get(timeframe, 3 * grid.step)
    start = grid.floor(START - length // 2)
    end = grid.floor(start + length)
    candles = Candles(tape)
    bars = candles.range("BTC/USDT", grid, start, end, end)
    assert [bar.start for bar in bars] == list(range(start, end, grid.step))
    assert [texts(bar) for bar in bars if bar.count] == folded(tape, grid.step, start, end, offset=grid.offset)
    for before, bar in itertools.pairwise(bars):
        if not bar.count:
            assert {bar.open, bar.high, bar.low, bar.close} == {before.close}
            assert (bar.volume, bar.quote, bar.first_id, bar.last_id) == (0, 0, -1, -1)
    for bar in bars[:: max(1, len(bars) // 20)]:
        assert candles.bar("BTC/USDT", grid, bar.start, end) == bar


def test_a_candle_knows_only_the_trades_before_the_moment() -> None:
    tape = Tape.generate(4, start_ms=START)
    rows = [row for row in tape.trades("BTC/USDT") if row.ts < START + 10 * MINUTE]
    candles = Candles(tape)
    for row in rows[::25]:
        start = row.ts // MINUTE * MINUTE
        known = [one for one in rows if start <= one.ts <= row.ts]
        bar = candles.bar("BTC/USDT", UTC["1m"], start, row.ts + 1)
        assert bar is not None
        assert (bar.count, bar.first_id, bar.last_id) == (len(known), known[0].id, known[-1].id)
        assert candles.range("BTC/USDT", UTC["1m"], start, start + DAY, row.ts + 1)[-1] == bar


def test_months_and_shifted_days_begin_where_the_calendar_says() -> None:
    assert UTC["1M"].floor(START) == 1_722_470_400_000  # 2024-08-01
    assert UTC["1M"].shift(1_722_470_400_000, -8) == 1_701_388_800_000  # 2023-12-01
    assert UTC["1w"].floor(START) == 1_722_816_000_000  # Monday 2024-08-05
    assert Grid(DAY, -8 * HOUR).floor(START) == 1_723_132_800_000  # 16:00 UTC
    assert list(UTC["1M"].starts(1_704_067_200_001, 1_711_929_600_000)) == [1_706_745_600_000, 1_709_251_200_000]


def test_there_is_no_candle_before_the_first_trade() -> None:
    tape = Tape.generate(4, start_ms=START)
    listed = tape.listed("BTC/USDT")
    bars = Candles(tape).range("BTC/USDT", UTC["1h"], listed - 10 * DAY, listed + DAY, START)
    assert bars[0].start >= listed
    assert bars[0].count > 0


@pytest.mark.parametrize(
    "arguments",
    [{"symbols": ("BTCUSDT",)}, {"symbols": ("BTC/",)}, {"minutes": 0}, {"trades_per_minute": 0}, {"quiet": 1.0}],
)
def test_arguments_that_make_no_market_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"BASE/QUOTE|begin at 1"):
        Tape.generate(0, **arguments)  # type: ignore[arg-type]


def test_five_hundred_symbols_are_cheap_to_make() -> None:
    tape = Tape.generate(0, symbols=[f"C{number}/USDT" for number in range(500)], start_ms=START, trades_per_minute=5)
    prices = {tape.trades(symbol, START, START + MINUTE * 5)[0].price for symbol in tape.markets}
    assert len(prices) > 300


# -- recorded ---------------------------------------------------------------------------------


def write(path: Path, rows: list[tuple[object, ...]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("trade_ms", "trade_id", "price", "qty", "buyer_is_maker", "more"), *rows])
    return path


def test_recorded_trades_keep_their_exact_values(tmp_path: Path) -> None:
    rows = [(START + 5, 7, "61837.63000000", "0.02000000", 1, ""), (START + 70_000, 8, "61840.1", "1", 0, "")]
    tape = Tape.from_trades(write(tmp_path / "trades.csv", rows), "BTC/USDT")
    assert [tuple(row) for row in tape.trades("BTC/USDT")] == [
        (7, START + 5, "61837.63", "0.02", "sell"),
        (8, START + 70_000, "61840.10", "1.00", "buy"),
    ]
    assert (tape.start_ms, tape.end_ms) == (START, START + 2 * MINUTE)
    assert tape.next_ts("BTC/USDT", START + 70_000) is None
    bars = Candles(tape).range("BTC/USDT", UTC["1m"], START - DAY, START + HOUR, START + 4 * MINUTE)
    assert [(bar.start - START, bar.count) for bar in bars] == [(0, 1), (MINUTE, 1), (2 * MINUTE, 0), (3 * MINUTE, 0)]


def test_numbers_too_large_for_64_bits_stay_exact(tmp_path: Path) -> None:
    rows = [(START + n, n, "9999999.12345678", "99999999.87654321", 0, "") for n in range(10)]
    tape = Tape.from_trades(write(tmp_path / "trades.csv", rows))
    (bar,) = Candles(tape).range("BTC/USDT", UTC["1m"], START, START + MINUTE, START + MINUTE)
    assert bar.volume_text() == "999999998.76543210"
    assert bar.quote == 10 * 999999912345678 * 9999999987654321
    assert Candles(tape).bar("BTC/USDT", UTC["5m"], UTC["5m"].floor(START), START + HOUR).quote == bar.quote  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([], "holds no trade"),
        ([(START, 1, "x", "1", 0, "")], "line 2"),
        ([(START, 1, "1", "1", 0, ""), (START, 3, "1", "1", 0, "")], "ids do not rise by one"),
        ([(START, 1, "1", "1", 0, ""), (START - 1, 2, "1", "1", 0, "")], "times go back"),
    ],
)
def test_a_recording_that_is_no_tape_is_refused(rows: list[tuple[object, ...]], match: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=match):
        Tape.from_trades(write(tmp_path / "trades.csv", rows))


def test_the_recorded_binance_trades_fold_like_duckdb() -> None:
    tape = Tape.from_trades(shared_data("binance_spot_btcusdt_trades_20240808-09.csv.gz"))
    assert len(tape.trades("BTC/USDT")) == 19_904
    for timeframe in ("1s", "1m", "5m"):
        grid = UTC[timeframe]
        bars = Candles(tape).range("BTC/USDT", grid, tape.start_ms - DAY, tape.end_ms, tape.end_ms)
        want = folded(tape, grid.step, tape.start_ms, tape.end_ms)
        assert [texts(bar) for bar in bars if bar.count] == want
