"""Trades to candles: closed by event time or by the clock, flat where nothing was traded. Oracle: DuckDB."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streammachine.errors import DataInputError
from streammachine.market.aggregation.trade_folder import TradeFolder
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.kline import Gap, Kline, Trade
from support.market import shared_data

SECOND = 1_000
MINUTE = 60_000
TEN = 1_704_103_200_000  # 2024-01-01 10:00 UTC


def trade(ts: int, price: float = 100.0, volume: float = 1.0, symbol: str = "BTCUSDT", number: int = 0) -> Trade:
    return Trade(source="Binance", symbol=symbol, price=price, volume=volume, ts=ts, trade_id=str(number))


def folded(folder: TradeFolder, trades: Sequence[Trade]) -> list[Kline]:
    made = [row for one in trades for row in folder.add(one)]
    assert all(isinstance(row, Kline) for row in made)
    return [row for row in made if isinstance(row, Kline)]


def spans(rows: Sequence[Kline | Gap]) -> list[tuple[int, float | str, bool]]:
    """Minute after ten, trades (or "gap", with its length), and whether it is complete."""
    return [
        ((row.start - TEN) // MINUTE, f"gap {(row.end - row.start) // MINUTE}", False)
        if isinstance(row, Gap)
        else ((row.open_ts - TEN) // MINUTE, row.n_trades, row.is_complete)
        for row in rows
    ]


def known(symbol: str = "BTCUSDT", ts: int = TEN) -> TradeFolder:
    folder = TradeFolder("Binance", "1m")
    folder.begin(symbol, ts)
    return folder


def test_a_trade_of_the_next_interval_closes_the_candle() -> None:
    folder = known()
    trades = [trade(TEN, 100.0, 1.0), trade(TEN + 10, 103.0, 2.0), trade(TEN + 20, 99.0, 0.5)]
    assert folded(folder, trades) == []
    [made] = folded(folder, [trade(TEN + MINUTE, 101.0)])
    assert made == Kline(
        source="Binance",
        symbol="BTCUSDT",
        timeframe="1m",
        open_ts=TEN,
        end_ts=TEN + MINUTE - 1,
        open=100.0,
        high=103.0,
        low=99.0,
        close=99.0,
        volume=3.5,
        quote_volume=100.0 + 206.0 + 49.5,
        vwap=(100.0 + 206.0 + 49.5) / 3.5,
        n_trades=3,
        is_closed=True,
        origin="trades",
    )


def test_the_first_candle_began_before_we_did() -> None:
    folder = TradeFolder("Binance", "1m")
    made = folded(folder, [trade(TEN + 30 * SECOND), trade(TEN + MINUTE), trade(TEN + 2 * MINUTE)])
    assert spans(made) == [(0, 1, False), (1, 1, True)]


def test_the_first_candle_is_complete_where_its_trades_are_known_from_its_start() -> None:
    assert spans(folded(known(ts=TEN), [trade(TEN + 30 * SECOND), trade(TEN + MINUTE)])) == [(0, 1, True)]
    assert spans(folded(known(ts=TEN + 1), [trade(TEN + 30 * SECOND), trade(TEN + MINUTE)])) == [(0, 1, False)]


def test_idle_intervals_are_flat_at_the_last_price() -> None:
    made = folded(known(), [trade(TEN, 100.0), trade(TEN + 1, 105.0), trade(TEN + 3 * MINUTE, 99.0)])
    assert spans(made) == [(0, 2, True), (1, 0, True), (2, 0, True)]
    flat = made[1]
    assert (flat.open, flat.high, flat.low, flat.close) == (105.0,) * 4
    assert (flat.volume, flat.quote_volume, flat.vwap, flat.is_closed) == (0.0, 0.0, None, True)


def test_the_clock_closes_what_no_trade_closes() -> None:
    folder = known()
    folder.add(trade(TEN))
    assert folder.due() == TEN + MINUTE
    assert folder.close_until("BTCUSDT", TEN + MINUTE - 1) == []
    assert spans(folder.close_until("BTCUSDT", TEN + MINUTE)) == [(0, 1, True)]
    assert folder.close_until("BTCUSDT", TEN + MINUTE) == []
    assert spans(folder.close_until("BTCUSDT", TEN + 3 * MINUTE + 5)) == [(1, 0, True), (2, 0, True)]
    assert spans(folded(folder, [trade(TEN + 3 * MINUTE + 10), trade(TEN + 4 * MINUTE)])) == [(3, 1, True)]


def test_the_clock_closes_nothing_before_the_first_trade() -> None:
    folder = known()
    assert folder.close_until("BTCUSDT", TEN + MINUTE) == []
    assert folder.due() is None
    assert folder.symbols() == []


def test_with_a_price_from_before_a_idle_beginning_is_flat() -> None:
    folder = TradeFolder("Binance", "1m")
    folder.begin("BTCUSDT", TEN, price=42.0)
    made = folder.close_until("BTCUSDT", TEN + MINUTE)
    assert spans(made) == [(0, 0, True)]
    assert [row.close for row in made if isinstance(row, Kline)] == [42.0]


def test_a_trade_behind_its_candle_is_late() -> None:
    folder = known()
    made = folded(folder, [trade(TEN), trade(TEN + MINUTE), trade(TEN + 5, 1.0), trade(TEN + 2 * MINUTE)])
    assert spans(made) == [(0, 1, True), (1, 1, True)]
    assert folder.late == 1
    assert made[1].low == 100.0


def test_a_trade_before_the_first_candle_is_late_too() -> None:
    folder = TradeFolder("Binance", "1m")
    made = folded(folder, [trade(TEN), trade(TEN - 1, 7.0), trade(TEN + MINUTE)])
    assert [(row.open_ts, row.low) for row in made] == [(TEN, 100.0)]
    assert folder.late == 1


def test_within_a_candle_event_time_decides() -> None:
    trades = [trade(TEN + 20, 102.0), trade(TEN + 10, 101.0), trade(TEN + 30, 103.0), trade(TEN + 25, 99.0)]
    made = folded(known(), [*trades, trade(TEN + MINUTE)])
    assert (made[0].open, made[0].close) == (101.0, 103.0)


def test_a_gap_marks_what_it_touches_and_swallows_what_it_covers() -> None:
    folder = known()
    before = folded(folder, [trade(TEN), trade(TEN + MINUTE)])
    during = folder.add_gap(Gap("Binance", "BTCUSDT", "trade", TEN + MINUTE + 1, TEN + 4 * MINUTE + 30, "lost"))
    behind = folded(folder, [trade(TEN + 4 * MINUTE + 30), trade(TEN + 5 * MINUTE), trade(TEN + 6 * MINUTE)])
    assert spans(before) == [(0, 1, True)]
    assert spans(during) == [(1, 1, False), (2, "gap 2", False)]
    assert isinstance(during[1], Gap)
    assert (during[1].timeframe, during[1].reason) == ("1m", "lost")
    assert spans(behind) == [(4, 1, False), (5, 1, True)]


def test_a_gap_that_ends_on_a_boundary_leaves_the_next_candle_complete() -> None:
    folder = known()
    folder.add(trade(TEN))
    assert spans(folder.add_gap(Gap("Binance", "BTCUSDT", "trade", TEN + 5, TEN + MINUTE, "lost"))) == [(0, 1, False)]
    assert spans(folded(folder, [trade(TEN + MINUTE), trade(TEN + 2 * MINUTE)])) == [(1, 1, True)]


def test_a_candle_that_a_gap_touches_and_no_trade_is_a_gap() -> None:
    folder = known()
    folder.add(trade(TEN))
    folder.add_gap(Gap("Binance", "BTCUSDT", "trade", TEN + 5, TEN + MINUTE + 5, "lost"))
    made = folder.add(trade(TEN + 3 * MINUTE))
    assert spans(made) == [(1, "gap 1", False), (2, 0, True)]


def test_a_gap_inside_one_candle_marks_only_that() -> None:
    folder = known()
    folder.add(trade(TEN))
    assert folder.add_gap(Gap("Binance", "BTCUSDT", "trade", TEN + 5, TEN + 50, "lost")) == []
    assert spans(folded(folder, [trade(TEN + MINUTE), trade(TEN + 2 * MINUTE)])) == [(0, 1, False), (1, 1, True)]


def test_a_gap_before_the_first_trade_promises_nothing() -> None:
    folder = known()
    assert folder.add_gap(Gap("Binance", "BTCUSDT", "trade", TEN, TEN + 5 * MINUTE + 1, "lost")) == []
    made = folded(folder, [trade(TEN + 5 * MINUTE + 2), trade(TEN + 6 * MINUTE), trade(TEN + 7 * MINUTE)])
    assert spans(made) == [(5, 1, False), (6, 1, True)]


def test_symbols_are_kept_apart() -> None:
    folder = TradeFolder("Binance", "1m")
    trades = [trade(TEN, 1.0), trade(TEN, 2.0, symbol="ETHUSDT"), trade(TEN + MINUTE, 3.0)]
    assert [(row.symbol, row.close) for row in folded(folder, trades)] == [("BTCUSDT", 1.0)]
    assert sorted(folder.symbols()) == ["BTCUSDT", "ETHUSDT"]
    assert folder.due() == TEN + MINUTE


def test_a_row_for_several_fills_counts_them_all() -> None:
    several = trade(TEN).model_copy(update={"fills": 3})
    assert spans(folded(known(), [several, trade(TEN + MINUTE)])) == [(0, 3, True)]


def test_running_candles_are_given_once_for_each_change() -> None:
    folder = known()
    folded(folder, [trade(TEN, 100.0), trade(TEN + 1, 101.0)])
    [running] = folder.running()
    assert (running.close, running.n_trades, running.is_closed, running.is_complete) == (101.0, 2, False, True)
    assert folder.running() == []


def test_months_are_not_built_from_trades() -> None:
    with pytest.raises(DataInputError, match="aggregate_list"):
        TradeFolder("Binance", "1M")


def from_duckdb(trades: pd.DataFrame, step: int) -> pd.DataFrame:
    """Ties at one moment are settled by arrival, which is the id."""
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("trades", trades)
        return connection.sql(
            f"""SELECT ts - ts % {step} AS start, arg_min(price, (ts, id)) AS open, max(price) AS high,
            min(price) AS low, arg_max(price, (ts, id)) AS close, fsum(volume) AS volume,
            fsum(price * volume) AS quote_volume, count(*) AS n_trades FROM trades GROUP BY ALL ORDER BY start"""
        ).df()


def assert_agree(made: Sequence[Kline | Gap], theirs: pd.DataFrame) -> None:
    ours = [row for row in made if isinstance(row, Kline) and row.n_trades]
    assert [row.open_ts for row in ours] == theirs["start"].tolist()
    for name in ("open", "high", "low", "close", "n_trades"):
        assert [getattr(row, name) for row in ours] == theirs[name].tolist(), name
    for name in ("volume", "quote_volume"):
        np.testing.assert_allclose([getattr(row, name) for row in ours], theirs[name], rtol=1e-9, atol=0)


@pytest.mark.parametrize("timeframe", ["1s", "1m", "5m"])
def test_recorded_trades_agree_with_duckdb(timeframe: str) -> None:
    path = shared_data("binance_spot_btcusdt_trades_20240808-09.csv.gz")
    recorded = pd.read_csv(path, dtype={"price": str, "qty": str})
    assert len(recorded) == 19_904
    frame = pd.DataFrame(
        {
            "id": recorded["trade_id"],
            "ts": recorded["trade_ms"],
            "price": recorded["price"].astype(float),
            "volume": recorded["qty"].astype(float),
        }
    )
    folder = TradeFolder("Binance", timeframe)
    made: list[Kline | Gap] = []
    for number, ts, price, volume in zip(frame["id"], frame["ts"], frame["price"], frame["volume"], strict=True):
        made += folder.add(trade(int(ts), price, volume, number=number))
    made += folder.close_until("BTCUSDT", int(frame["ts"].iloc[-1]) + timeframes.MILLISECONDS[timeframe])
    assert folder.late == 0
    assert_agree(made, from_duckdb(frame, timeframes.MILLISECONDS[timeframe]))
    starts = [row.open_ts for row in made if isinstance(row, Kline)]
    assert starts == list(
        timeframes.starts(timeframe, starts[0], starts[-1] + 1)
    )  # the seconds without trades are flat


@settings(max_examples=40, deadline=None)
@given(
    waits=st.lists(st.integers(0, 90_000), min_size=1, max_size=120),
    data=st.data(),
)
def test_random_trades_agree_with_duckdb(waits: list[int], data: st.DataObject) -> None:
    prices = data.draw(st.lists(st.integers(90, 110), min_size=len(waits), max_size=len(waits)))
    frame = pd.DataFrame(
        {
            "id": range(len(waits)),
            "ts": TEN + np.cumsum(waits),
            "price": [float(price) for price in prices],
            "volume": [0.25 * (1 + price % 7) for price in prices],
        }
    )
    folder = known()
    made: list[Kline | Gap] = []
    for row in frame.itertuples():
        made += folder.add(trade(int(row.ts), row.price, row.volume))
    end = timeframes.ceil("1m", int(frame["ts"].iloc[-1]) + 1)
    made += folder.close_until("BTCUSDT", end)
    assert_agree(made, from_duckdb(frame, MINUTE))
    starts = [row.open_ts for row in made if isinstance(row, Kline)]
    assert starts == list(timeframes.starts("1m", starts[0], end))
