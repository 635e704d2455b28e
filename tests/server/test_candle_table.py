"""Candles as columns or rows, with the fields and indicators that were asked for."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import redis
import talib

from streammachine.redis.embedded.server import EmbeddedServer
from support.klines import random_candles, write_klines
from support.mcp import RawClient, ToolFailure

MINUTE = 60_000
T0 = 1_723_161_600_000
SERIES = {"exchange": "binance", "symbol": "BTCUSDT", "timeframe": "1m"}
CANDLES = random_candles(1200)


@pytest.fixture
def database(shared_server: EmbeddedServer, raw: RawClient) -> redis.Redis:
    """The server's database, emptied by ``raw``."""
    return redis.Redis(unix_socket_path=str(shared_server.socket_path), db=5)


@pytest.fixture
def server(raw: RawClient, database: redis.Redis) -> RawClient:
    write_klines(database, "kline:binance:BTCUSDT:1m", T0, CANDLES)
    return raw


def fed(client: RawClient, count: int, digits: int = 12) -> dict[str, Any]:
    """An aggregator with a tick in each of ``count`` minutes."""
    client.call("ohlc_create", name="m", intervals=["1m"])
    ticks = [
        {"symbol": "A", "price": round(price, digits), "volume": 0.25, "timestamp_ms": T0 + n * MINUTE + 100}
        for n, price in enumerate(CANDLES["close"][:count])
    ]
    for first in range(0, count, 1000):
        client.call("ohlc_update", name="m", ticks=ticks[first : first + 1000])
    return {"name": "m", "symbol": "A", "interval_ms": "1m"}


def test_columns_are_less_than_half_of_rows(raw: RawClient) -> None:
    series = fed(raw, 100, digits=2)
    columns = raw.call("ohlc_get_candles", **series, limit=100)
    rows = raw.call("ohlc_get_candles", **series, limit=100, format="rows")
    assert "candles" not in columns
    assert rows["columns"] == {}
    across = zip(*columns["columns"].values(), strict=True)
    assert [dict(zip(columns["columns"], row, strict=True)) for row in across] == rows["candles"]
    sizes = [len(json.dumps(page, separators=(",", ":"))) for page in (columns, rows)]
    assert sizes[0] <= 7_300
    assert sizes[0] < sizes[1] / 2


@pytest.mark.parametrize("tool", ["candles_read", "ohlc_get_candles", "ohlc_get_completed"])
def test_only_the_fields_asked_for_come_and_the_time(server: RawClient, tool: str) -> None:
    given, time = (SERIES, "open_ts") if tool == "candles_read" else (fed(server, 3), "candle_start_ms")
    page = server.call(tool, **given, fields=["close", "volume", "close"])
    assert list(page["columns"]) == [time, "close", "volume"]
    page = server.call(tool, **given, fields='["high"]', format="rows")
    assert list(page["candles"][0]) == [time, "high"]
    with pytest.raises(ToolFailure, match=r"no field 'closed'\. Did you mean 'close'\?"):
        server.call(tool, **given, fields=["closed"])
    with pytest.raises(ToolFailure, match="rows"):
        server.call(tool, **given, format="csv")


def test_an_empty_answer_has_its_columns(raw: RawClient) -> None:
    raw.call("ohlc_create", name="m")
    page = raw.call("ohlc_get_candles", name="m", symbol="A", interval_ms="1m", indicators=["sma:3"])
    assert page["columns"] == {name: [] for name in page["columns"]}
    assert "sma3" in page["columns"]
    assert raw.call("ohlc_get_candles", name="m", symbol="A", interval_ms="1m", format="rows")["candles"] == []


WANTED = {
    "sma20": lambda: talib.SMA(CANDLES["close"], 20),
    "rsi14": lambda: talib.RSI(CANDLES["close"], 14),
    "macd12_26_9_hist": lambda: talib.MACD(CANDLES["close"], 12, 26, 9)[2],
    "bbands20_2_lower": lambda: talib.BBANDS(CANDLES["close"], 20, 2, 2)[2],
    "atr14": lambda: talib.ATR(CANDLES["high"], CANDLES["low"], CANDLES["close"], 14),
}
TEXTS = ["sma:20", "rsi:14", "macd:12,26,9", "bbands:20,2", "atr:14"]


@pytest.mark.parametrize("window", [(1000, 1050), (1150, 1200), (5, 30)])
def test_indicators_of_a_range_are_talibs_over_the_whole_series(server: RawClient, window: tuple[int, int]) -> None:
    first, last = window
    page = server.call("candles_read", **SERIES, start=T0 + first * MINUTE, end=T0 + last * MINUTE, indicators=TEXTS)
    assert page["count"] == last - first
    for column, wanted in WANTED.items():
        found = [math.nan if value is None else value for value in page["columns"][column]]
        np.testing.assert_allclose(found, wanted()[first:last], rtol=1e-9, atol=1e-9, err_msg=column)


def test_the_newest_candles_have_them_too_and_in_rows(server: RawClient) -> None:
    page = server.call("candles_read", **SERIES, limit=10, indicators=["rsi:14", "obv"], format="rows")
    assert [row["rsi14"] for row in page["candles"]] == pytest.approx(WANTED["rsi14"]()[-10:], rel=1e-9)
    last = {name: column[-10:] for name, column in CANDLES.items()}
    assert [row["obv"] for row in page["candles"]] == pytest.approx(talib.OBV(last["close"], last["volume"]), rel=1e-9)


def test_those_of_an_aggregator_reach_into_its_past(raw: RawClient) -> None:
    series = fed(raw, 700)
    page = raw.call("ohlc_get_candles", **series, limit=20, indicators=["rsi:14"])
    assert page["columns"]["rsi14"] == pytest.approx(talib.RSI(CANDLES["close"][:700], 14)[-20:], rel=1e-9)
    page = raw.call("ohlc_get_completed", **series, limit=20, indicators=["ema:50"])
    assert page["columns"]["ema50"] == pytest.approx(talib.EMA(CANDLES["close"][:700], 50)[-20:], rel=1e-9)


def test_a_page_with_indicators_stays_within_the_bound(server: RawClient) -> None:
    page = server.call("candles_read", **SERIES, limit=1200, indicators=["macd", "bbands:20,2", "stoch", "adx"])
    assert page["truncated"] is True
    assert len(json.dumps(page["columns"])) < 66_000
    assert page["columns"]["open_ts"][-1] == T0 + 1199 * MINUTE
    again = server.call("candles_read", **SERIES, limit=10, end=page["columns"]["open_ts"][0])
    assert again["columns"]["open_ts"][-1] == page["columns"]["open_ts"][0] - MINUTE


def test_a_wrong_indicator_names_the_nearest(server: RawClient) -> None:
    with pytest.raises(ToolFailure, match="Did you mean 'rsi'"):
        server.call("candles_read", **SERIES, indicators=["rsii:14"])
    with pytest.raises(ToolFailure, match="at most 8"):
        server.call("candles_read", **SERIES, indicators=[f"sma:{n}" for n in range(2, 11)])


def test_incomplete_candles_show(raw: RawClient, database: redis.Redis) -> None:
    write_klines(database, "kline:binance:BTCUSDT:1m", T0, random_candles(5), incomplete={2}, open_last=True)
    page = raw.call("candles_read", **SERIES)
    assert page["columns"]["is_closed"] == [True, True, True, True, False]
    assert "is_complete" not in page["columns"]
    page = raw.call("candles_read", **SERIES, fields=["is_complete"])
    assert page["columns"]["is_complete"] == [True, True, False, True, True]
