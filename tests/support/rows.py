"""Candles and trades for the emitters' tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from streammachine.market.model.kline import Kline, Trade
from streammachine.market.model.kline_columns import KlineColumns

START = 1_700_000_040_000  # a whole minute
MINUTE = 60_000


def candle(number: int = 0, **changed: Any) -> Kline:
    """The number-th minute; its close is 100 + number."""
    open_ts = START + number * MINUTE
    values: dict[str, Any] = {
        "source": "Binance",
        "symbol": "BTCUSDT",
        "timeframe": "1m",
        "open_ts": open_ts,
        "end_ts": open_ts + MINUTE - 1,
        "open": 100.5,
        "high": 1_000_000.0,
        "low": 0.1,
        "close": 100.0 + number,
        "volume": 2.5,
        "quote_volume": 250.25,
        "n_trades": 7,
        "is_closed": True,
        "origin": "ws",
    }
    return Kline(**(values | changed))


def candles(count: int, first: int = 0, **changed: Any) -> list[Kline]:
    return [candle(number, **changed) for number in range(first, first + count)]


def trade(number: int = 0, **changed: Any) -> Trade:
    """The number-th trade, one per second."""
    values: dict[str, Any] = {
        "source": "Binance",
        "symbol": "BTCUSDT",
        "price": 100.0 + number,
        "volume": 0.5,
        "ts": START + number * 1000,
        "trade_id": str(1000 + number),
        "side": "buy",
    }
    return Trade(**(values | changed))


def columns_of(rows: Sequence[Kline]) -> KlineColumns:
    """Closed candles of one series as columns."""
    first = rows[0]
    values = {
        name: np.array([getattr(row, name) for row in rows])
        for name in ("open_ts", "open", "high", "low", "close", "volume", "quote_volume", "n_trades")
    }
    return KlineColumns(
        source=str(first.source),
        symbol=first.symbol,
        timeframe=first.timeframe,
        step=MINUTE,
        origin="bulk",
        **values,
    )
