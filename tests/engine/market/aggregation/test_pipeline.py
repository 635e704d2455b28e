"""The synchronous core of a run: dedupe, fold, aggregate."""

from __future__ import annotations

from typing import Any

from streammachine import DataInput, Gap, Kline, Trade
from streammachine.market.aggregation.pipeline import Pipeline
from streammachine.market.model.rows import Row
from support.rows import MINUTE, START, candle, trade

FIVE = START // (5 * MINUTE) * (5 * MINUTE) + 5 * MINUTE  # the next five minutes


def pipeline(targets: list[str] | None = None, **options: Any) -> Pipeline:
    return Pipeline(DataInput("kline", ["BTCUSDT"], "1m", targets or []), "Binance", **options)


def five_minutes(**changed: Any) -> list[Kline]:
    return [candle(k, open_ts=FIVE + k * MINUTE, end_ts=FIVE + (k + 1) * MINUTE - 1, **changed) for k in range(5)]


def test_closed_candles_go_on_once_and_open_ones_do_not() -> None:
    core = pipeline()
    rows: list[Row] = [candle(0, is_closed=False), candle(0), candle(0), candle(1), candle(0)]
    assert core.process(rows) == [rows[1], rows[3]]
    assert core.duplicates == 2
    assert core.last["BTCUSDT", "1m"] is rows[3]


def test_open_candles_go_on_between_closed_ones_where_they_are_wanted() -> None:
    core = pipeline(only_closed=False)
    rows: list[Row] = [candle(0, is_closed=False), candle(0), candle(0, is_closed=False), candle(1, is_closed=False)]
    assert core.process(rows) == [rows[0], rows[1], rows[3]]
    assert core.duplicates == 1


def test_targets_come_behind_the_candle_that_ends_them() -> None:
    core = pipeline(["5m"])
    out = core.process(five_minutes())
    assert [row.timeframe for row in out if isinstance(row, Kline)] == ["1m"] * 5 + ["5m"]
    assert core.last["BTCUSDT", "5m"] is out[-1]


def test_running_targets_come_with_running_candles() -> None:
    core = pipeline(["5m"], only_closed=False)
    out = core.process([candle(0, open_ts=FIVE, end_ts=FIVE + MINUTE - 1, is_closed=False)])
    assert [(row.timeframe, row.is_closed) for row in out if isinstance(row, Kline)] == [("1m", False), ("5m", False)]


def test_a_gap_stays_in_its_place_and_makes_those_of_the_targets() -> None:
    core = pipeline(["5m"])
    lost = Gap("Binance", "BTCUSDT", "1m", FIVE + 5 * MINUTE, FIVE + 10 * MINUTE, "lost")
    out = core.process([*five_minutes(), lost])
    assert out[-2:] == [lost, Gap("Binance", "BTCUSDT", "5m", FIVE + 5 * MINUTE, FIVE + 10 * MINUTE, "lost")]


def test_trades_without_a_timeframe_are_handed_on() -> None:
    core = Pipeline(DataInput("trade", ["BTCUSDT"]), "Binance")
    rows: list[Row] = [trade(0), trade(1)]
    assert core.process(rows) == rows


def test_trades_are_folded_and_aggregated() -> None:
    core = Pipeline(DataInput("trade", ["BTCUSDT"], "1m", ["5m"]), "Binance")
    rows: list[Row] = [trade(k, ts=FIVE - MINUTE + k * 30_000) for k in range(14)]
    out = core.process(rows)
    assert [(row.timeframe, row.n_trades, row.is_complete) for row in out if isinstance(row, Kline)] == [
        ("1m", 2, False),
        ("5m", 2, False),
        *[("1m", 2, True)] * 5,
        ("5m", 10, True),
    ]
    assert not any(isinstance(row, Trade) for row in out)
    idle = core.close_until("BTCUSDT", FIVE + 7 * MINUTE)
    assert [(row.n_trades, row.volume) for row in idle if isinstance(row, Kline)] == [(2, 1.0), (0, 0.0)]


def test_trades_go_with_their_candles_where_both_are_wanted() -> None:
    core = Pipeline(DataInput("trade", ["BTCUSDT"], "1m"), "Binance", emit_trades=True)
    out = core.process([trade(0), trade(60)])
    assert [type(row) for row in out] == [Trade, Kline, Trade]


def test_running_candles_of_trades_come_once_for_each_batch() -> None:
    core = Pipeline(DataInput("trade", ["BTCUSDT"], "1m", ["5m"]), "Binance", only_closed=False)
    out = core.process([trade(0), trade(1), trade(2)])
    assert [(row.timeframe, row.n_trades, row.is_closed) for row in out if isinstance(row, Kline)] == [
        ("1m", 3, False),
        ("5m", 3, False),
    ]


def test_a_gap_of_trades_is_handed_on_with_that_of_its_candles() -> None:
    core = Pipeline(DataInput("trade", ["BTCUSDT"], "1m"), "Binance")
    lost = Gap("Binance", "BTCUSDT", "trade", START + 30_000, START + 3 * MINUTE, "lost")
    out = core.process([trade(0), lost])
    assert out == [lost, *out[1:]]
    assert [type(row) for row in out[1:]] == [Kline, Gap]
    assert out[2] == Gap("Binance", "BTCUSDT", "1m", START + MINUTE, START + 3 * MINUTE, "lost")


def test_many_symbols_do_not_meet() -> None:
    core = Pipeline(DataInput("kline", ["A", "B"], "1m", ["5m"]), "Binance")
    rows = [row for pair in zip(five_minutes(symbol="A"), five_minutes(symbol="B"), strict=True) for row in pair]
    out = core.process(rows)
    assert [(row.symbol, row.timeframe) for row in out[-4:] if isinstance(row, Kline)] == [
        ("A", "1m"),
        ("A", "5m"),
        ("B", "1m"),
        ("B", "5m"),
    ]
