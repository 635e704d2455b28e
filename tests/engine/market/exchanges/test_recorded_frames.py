"""What the exchanges really sent: every recorded kline, candle, ohlc and trade decodes, and nothing is made up."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import pytest

from streammachine.market.exchanges import adapter_for
from streammachine.market.exchanges.base import Ack, Adapter, Alive, BadFrame, Event, Notice, Subscription
from streammachine.market.model.kline import Kline, Trade
from support.market import shared_data


def decoded(adapter: Adapter, frames: Iterable[str]) -> list[Event]:
    return [event for frame in frames for event in adapter.decode(frame)]


def counts(events: Iterable[Event]) -> Counter[str]:
    return Counter(type(event).__name__ for event in events)


def received(recorded: list[dict[str, Any]]) -> list[str]:
    return [json.dumps(each["msg"]) for each in recorded if each["dir"] == "in"]


def timed_lines(name: str, separator: str) -> list[tuple[float, str]]:
    """(the local time, the frame) of the lines of a capture that were received."""
    path = shared_data(name)
    text = gzip.decompress(path.read_bytes()).decode() if name.endswith(".gz") else path.read_text()
    lines = [line.partition(separator) for line in text.splitlines() if line[:1].isdigit()]
    return [(float(time), frame) for time, _, frame in lines]


def test_six_minutes_of_binance_spot() -> None:
    adapter = adapter_for("binance")
    lines = timed_lines("binance_spot_btcusdt_frames_20240808.gz", " ")
    events = decoded(adapter, (frame for _, frame in lines))
    assert counts(events) == {"Trade": 9757, "Notice": 28040 + 3451, "BadFrame": 1}
    (snapshot,) = (event for event in events if isinstance(event, BadFrame))  # an answer of REST, not a frame
    assert snapshot.excerpt.startswith('{"lastUpdateId"')
    trades = [event for event in events if isinstance(event, Trade)]
    raw = [json.loads(frame)["data"] for _, frame in lines if '"e":"trade"' in frame]
    for trade, row in zip(trades, raw, strict=True):
        assert (trade.price, trade.volume) == (float(row["p"]), float(row["q"]))
        assert (trade.trade_id, trade.ts, trade.side) == (str(row["t"]), row["T"], "sell" if row["m"] else "buy")
    ids = [int(trade.trade_id) for trade in trades]
    assert ids == list(range(ids[0], ids[0] + len(ids)))


def test_half_a_minute_of_binance_usdm() -> None:
    lines = timed_lines("binance_usdm_frames_20210722.txt", ": ")
    events = decoded(adapter_for("binance", "USDM"), (frame for _, frame in lines))
    assert counts(events) == {"Kline": 67, "Trade": 91, "Notice": 764 + 613}
    klines = [event for event in events if isinstance(event, Kline)]
    assert Counter(kline.is_closed for kline in klines) == {True: 4, False: 63}
    assert {kline.symbol for kline in klines} == {"SUSHIUSDT", "AKROUSDT", "KEEPUSDT", "CTKUSDT"}
    assert all(kline.end_ts == kline.open_ts + 59_999 for kline in klines)
    late = [
        json.loads(frame)["data"]["E"] - event.end_ts
        for _, frame in lines
        for event in adapter_for("binance", "USDM").decode(frame)
        if isinstance(event, Kline) and event.is_closed
    ]
    assert len(late) == 4
    assert all(204 <= delay <= 2005 for delay in late)


def test_the_okcoin_capture_tells_open_from_closed() -> None:
    lines = timed_lines("okcoin_ws_v5_20230527.txt", ": ")
    events = decoded(adapter_for("okx"), (frame for _, frame in lines))
    klines = [event for event in events if isinstance(event, Kline)]
    assert Counter(kline.is_closed for kline in klines) == {True: 4, False: 8}
    assert counts(events) == {"Kline": 12, "Trade": 4, "Ack": 40, "Notice": 14}
    assert all(kline.volume == 0 for kline in klines)


def test_okx_spot_candles() -> None:
    recorded = json.loads(shared_data("okx_ws_v5_2026-08-12.json").read_text())
    acknowledged, first, second = decoded(
        adapter_for("okx"), received(recorded["spot_candle1m wss://ws.okx.com:8443/ws/v5/business"])
    )
    assert acknowledged == Ack(None, Subscription("kline", "BTC-USDT", "1m"))
    assert isinstance(first, Kline)
    assert isinstance(second, Kline)
    assert (first.volume, first.quote_volume) == (2.16787395, 138825.265446816)
    assert (first.is_closed, second.close) == (False, 64038.2)


def test_okx_swap_candles_come_before_the_acknowledgement_in_base_currency() -> None:
    recorded = json.loads(shared_data("okx_ws_v5_2026-08-12.json").read_text())
    first, acknowledged, second = decoded(
        adapter_for("okx", "LINEAR"), received(recorded["swap_candle1m data BEFORE ack"])
    )
    assert isinstance(first, Kline)
    assert isinstance(acknowledged, Ack)
    assert isinstance(second, Kline)
    assert (first.volume, first.quote_volume) == (18.0361, 1153203.99426)


def test_okx_trades() -> None:
    recorded = json.loads(shared_data("okx_ws_v5_2026-08-12.json").read_text())
    events = decoded(adapter_for("okx"), received(recorded["trades wss://ws.okx.com:8443/ws/v5/public"]))
    assert counts(events) == {"Ack": 1, "Trade": 4}
    one, two, three, four = (event for event in events if isinstance(event, Trade))
    assert int(two.trade_id) - two.fills == int(one.trade_id)
    assert (int(four.trade_id) - four.fills) == int(three.trade_id)
    assert (one.volume, one.fills, one.side) == (0.00240857, 2, "buy")
    assert (three.volume, four.side) == (0.01, "sell")
    assert four.volume == pytest.approx(0.3495, rel=1e-15)


def test_kraken_status_acknowledgement_snapshot_update_and_heartbeat() -> None:
    recorded = json.loads(shared_data("kraken_ws_v2_ohlc_2026-08-12.json").read_text())
    frames = received(recorded)
    events = decoded(adapter_for("kraken"), frames)
    assert [type(event) for event in events] == [Notice, Ack, *[Kline] * 10, Kline, Alive]
    assert events[1] == Ack(1, Subscription("kline", "BTC/USD", "1m"))
    klines = [event for event in events if isinstance(event, Kline)]
    starts = [kline.open_ts for kline in klines]
    assert starts == [*range(starts[0], starts[0] + 10 * 60_000, 60_000), starts[9]]
    assert all(kline.is_closed is None and kline.estimated and kline.n_trades for kline in klines)
    rows = [row for frame in frames for row in json.loads(frame, parse_float=Decimal).get("data", []) if "open" in row]
    for kline, row in zip(klines, rows, strict=True):
        assert (kline.high, kline.low, kline.volume) == (float(row["high"]), float(row["low"]), float(row["volume"]))
        assert kline.quote_volume == pytest.approx(float(row["vwap"] * row["volume"]), rel=1e-12)


@pytest.mark.parametrize(
    ("part", "market_type", "order"),
    [
        ("spot kline wss://stream.bybit.com/v5/public/spot", "SPOT", ["Ack", "Kline", "Kline"]),
        ("linear kline data BEFORE ack", "LINEAR", ["Kline", "Ack", "Kline"]),
        ("linear publicTrade", "LINEAR", ["Trade"]),
        ("spot publicTrade (several trades share one seq)", "SPOT", ["Trade"] * 5),
    ],
)
def test_bybit(part: str, market_type: str, order: list[str]) -> None:
    recorded = json.loads(shared_data("bybit_ws_v5_2026-08-12.json").read_text())
    events = decoded(adapter_for("bybit", market_type), received(recorded[part]))
    assert [type(event).__name__ for event in events] == order
    assert all(not event.is_closed for event in events if isinstance(event, Kline))
    ids = [event.trade_id for event in events if isinstance(event, Trade)]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("exchange", "symbol", "timeframe", "columns"),
    [
        ("binance", "BTCUSDT", "1h", (0, 1, 2, 3, 4, 5, 7)),
        ("okx", "BTC-USDT", "1h", (0, 1, 2, 3, 4, 5, 7)),
        ("bybit", "BTCUSDT", "1h", (0, 1, 2, 3, 4, 5, 6)),
    ],
)
def test_recorded_rest_and_socket_payloads(
    exchange: str, symbol: str, timeframe: str, columns: tuple[int, ...]
) -> None:
    recorded = json.loads(shared_data(f"{exchange}_spot_candles_payloads.json").read_text())
    adapter = adapter_for(exchange)
    answer = recorded["get_candles_rest_data_mock"]
    body = json.dumps(answer).encode()
    assert adapter.refusal(200, {}, body) is None
    klines = adapter.decode_klines(body, symbol, timeframe)
    rows = answer if isinstance(answer, list) else answer.get("data") or answer["result"]["list"]
    rows = sorted(rows, key=lambda row: int(row[0]))
    assert [(k.open_ts, k.open, k.high, k.low, k.close, k.volume, k.quote_volume) for k in klines] == [
        tuple(float(row[column]) for column in columns) for row in rows
    ]
    assert all(kline.end_ts == kline.open_ts + 3_599_999 and kline.origin == "rest" for kline in klines)
    for part in ("get_candles_ws_data_mock_1", "get_candles_ws_data_mock_2"):
        (kline,) = adapter.decode(json.dumps(recorded[part]))
        assert isinstance(kline, Kline)


def test_kraken_v1_payloads_are_bad_frames() -> None:
    recorded = json.loads(shared_data("kraken_spot_candles_payloads.json").read_text())
    for part in ("get_candles_ws_data_mock_1", "get_candles_ws_data_mock_2"):
        (event,) = adapter_for("kraken").decode(json.dumps(recorded[part]))
        assert isinstance(event, BadFrame)
