"""Coinbase: frames and answers as its documents show them, and what it does otherwise than the others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streammachine.errors import SymbolError
from streammachine.market.exchanges import adapter_for
from streammachine.market.exchanges.base import Ack, Alive, BadFrame, Notice, Numbered, Refused, Subscription
from streammachine.market.model.kline import Kline, Trade

HEAD = {"client_id": "", "timestamp": "2023-06-09T20:19:35.39625135Z", "sequence_num": 7}
CANDLE = {
    "start": "1688998200",
    "high": "1867.72",
    "low": "1865.63",
    "open": "1867.38",
    "close": "1866.81",
    "volume": "0.20269406",
    "product_id": "ETH-USD",
}
TRADE = {
    "trade_id": "712345678",
    "product_id": "ETH-USD",
    "price": "1260.01",
    "size": "0.3",
    "side": "BUY",
    "time": "2019-08-14T20:42:27.265481Z",
}


def decoded(channel: str, *events: Any, **head: Any) -> list[Any]:
    frame = json.dumps({"channel": channel, **HEAD, **head, "events": list(events)})
    return adapter_for("coinbase").decode(frame.encode())


def test_a_candle() -> None:
    number, kline = decoded("candles", {"type": "update", "candles": [CANDLE]})
    assert number == Numbered(7)
    assert isinstance(kline, Kline)
    assert (kline.source, kline.symbol, kline.timeframe) == ("Coinbase", "ETH-USD", "5m")
    assert (kline.open_ts, kline.end_ts) == (1_688_998_200_000, 1_688_998_499_999)
    assert (kline.open, kline.high, kline.low, kline.close) == (1867.38, 1867.72, 1865.63, 1866.81)
    assert (kline.volume, kline.quote_volume, kline.n_trades, kline.is_closed) == (0.20269406, None, None, None)


def test_a_snapshot_of_candles_comes_oldest_first_and_a_bad_row_takes_no_good_one_with_it() -> None:
    older = CANDLE | {"start": "1688997900"}
    _, *rows = decoded("candles", {"type": "snapshot", "candles": [CANDLE, CANDLE | {"open": "NaN"}, older]})
    assert [type(row) for row in rows] == [Kline, BadFrame, Kline]
    assert rows[0].open_ts < rows[2].open_ts


def test_a_trade_has_the_takers_side_and_those_of_a_snapshot_are_left_out() -> None:
    newer = TRADE | {"trade_id": "712345679", "side": "SELL"}
    _, first, second = decoded("market_trades", {"type": "update", "trades": [newer, TRADE]})
    assert isinstance(first, Trade)
    assert (first.trade_id, first.side, first.price, first.volume) == ("712345678", "sell", 1260.01, 0.3)
    assert (first.ts, second.side) == (1_565_815_347_265, "buy")
    assert len(decoded("market_trades", {"type": "snapshot", "trades": [newer, TRADE]})) == 1


def test_subscriptions_heartbeats_errors_and_what_nobody_asked_for() -> None:
    beat = {"current_time": "2023-06-23 20:31:56.12 +0000 UTC m=+91717.5", "heartbeat_counter": 3049}
    assert decoded("heartbeats", beat)[1] == Alive(idle=False)
    told = {"candles": ["ETH-USD"], "market_trades": ["BTC-USD"], "heartbeats": ["heartbeats"]}
    acks = decoded("subscriptions", {"subscriptions": told})[1:]
    assert acks == [
        Ack(None, Subscription("kline", "ETH-USD", "5m")),
        Ack(None, Subscription("trade", "BTC-USD")),
    ]
    assert decoded("subscriptions", {"subscriptions": {}})[1:] == [Ack()]
    (refused,) = adapter_for("coinbase").decode('{"type":"error","message":"ZZZ-USD is not a valid product"}')
    assert isinstance(refused, Refused)
    assert refused.symbol == "ZZZ-USD"
    assert isinstance(decoded("status", {"type": "update"})[1], Notice)


def test_a_frame_without_its_number_is_bad() -> None:
    assert isinstance(decoded("heartbeats", {}, sequence_num=None)[0], BadFrame)


@pytest.mark.parametrize(
    ("symbol", "said"),
    [("BTCUSD", "BTC-USD"), ("BTC_USD", "BTC-USD"), ("BTC-USDC", "give BTC-USD$"), ("", "BTC-USD")],
)
def test_symbols_of_another_form_are_refused_with_the_right_one(symbol: str, said: str) -> None:
    with pytest.raises(SymbolError, match=said):
        adapter_for("coinbase").check_symbol(symbol)


def test_usdc_products_that_are_markets_of_their_own_are_taken() -> None:
    assert adapter_for("coinbase").check_symbol("usdt-usdc") == "USDT-USDC"


def test_requests_of_candles_stay_below_350_and_reach_before_the_first() -> None:
    adapter = adapter_for("coinbase")
    request = adapter.klines("BTC-USD", "1m", 1_688_998_200_000, 1_688_998_200_000 + 300 * 60_000)
    first, last = int(request.params["start"]), int(request.params["end"])
    assert first < 1_688_998_200
    assert (last - first) // 60 < 349
    assert request.path.endswith("/products/BTC-USD/candles")


def test_products_that_are_not_traded_now_are_told_apart() -> None:
    rows = [
        {"product_id": "BTC-USD", "status": "online", "trading_disabled": False},
        {"product_id": "OLD-USD", "status": "delisted", "is_disabled": True},
        {"product_id": "CUT-USD", "status": "online", "cancel_only": True},
    ]
    found = adapter_for("coinbase").decode_instruments(json.dumps({"products": rows}).encode())
    assert found.trading == {"BTC-USD"}
    assert found.halted == {"OLD-USD": "delisted", "CUT-USD": "cancel_only"}
