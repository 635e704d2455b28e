"""The frames that subscribe: what is in them, how they are cut, and what comes back for them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streammachine.market.exchanges import adapter_for
from streammachine.market.exchanges.base import Ack, Alive, Event, Notice, Refused, Subscription

SYMBOLS = {"binance": "BTCUSDT", "okx": "BTC-USDT", "kraken": "BTC/USD", "bybit": "BTCUSDT"}
EXCHANGES = tuple(SYMBOLS)  # those whose messages stand here; what all must do is in test_conformance.py


def kline(symbol: str, timeframe: str = "1m") -> Subscription:
    return Subscription("kline", symbol, timeframe)


def decoded(exchange: str, message: dict[str, Any], market_type: str = "SPOT") -> list[Event]:
    return adapter_for(exchange, market_type).decode(json.dumps(message))


@pytest.mark.parametrize(
    ("exchange", "market_type", "wanted", "frame"),
    [
        (
            *("binance", "SPOT"),
            [kline("BTCUSDT", "1M"), Subscription("trade", "BTCUSDT")],
            {"method": "SUBSCRIBE", "params": ["btcusdt@kline_1M", "btcusdt@trade"], "id": 7},
        ),
        (
            *("binance", "USDM"),
            [Subscription("trade", "BTCUSDT")],
            {"method": "SUBSCRIBE", "params": ["btcusdt@aggTrade"], "id": 7},
        ),
        (
            *("binance", "COINM"),
            [kline("BTCUSD_PERP")],
            {"method": "SUBSCRIBE", "params": ["btcusd_perp@kline_1m"], "id": 7},
        ),
        (
            *("okx", "SPOT"),
            [kline("BTC-USDT", "1h"), kline("BTC-USDT", "1d")],
            {
                "id": "7",
                "op": "subscribe",
                "args": [
                    {"channel": "candle1H", "instId": "BTC-USDT"},
                    {"channel": "candle1Dutc", "instId": "BTC-USDT"},
                ],
            },
        ),
        (
            *("okx", "SPOT"),
            [Subscription("trade", "BTC-USDT")],
            {"id": "7", "op": "subscribe", "args": [{"channel": "trades", "instId": "BTC-USDT"}]},
        ),
        (
            *("kraken", "SPOT"),
            [kline("BTC/USD", "1h"), kline("ETH/USD", "1h")],
            {
                "method": "subscribe",
                "params": {"channel": "ohlc", "symbol": ["BTC/USD", "ETH/USD"], "interval": 60, "snapshot": True},
                "req_id": 7,
            },
        ),
        (
            *("kraken", "SPOT"),
            [Subscription("trade", "BTC/USD")],
            {
                "method": "subscribe",
                "params": {"channel": "trade", "symbol": ["BTC/USD"], "snapshot": True},
                "req_id": 7,
            },
        ),
        (
            *("bybit", "LINEAR"),
            [kline("BTCUSDT", "1d"), Subscription("trade", "BTCUSDT")],
            {"op": "subscribe", "req_id": "7", "args": ["kline.D.BTCUSDT", "publicTrade.BTCUSDT"]},
        ),
    ],
)
def test_what_is_sent(exchange: str, market_type: str, wanted: list[Subscription], frame: dict[str, Any]) -> None:
    (command,) = adapter_for(exchange, market_type).subscribe(wanted, 7)
    assert json.loads(command.frame) == frame
    assert (command.request_id, command.subscriptions) == (7, tuple(wanted))


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_unsubscribing_says_the_same_with_another_word(exchange: str) -> None:
    adapter = adapter_for(exchange)
    wanted = [kline(SYMBOLS[exchange])]
    (asked,) = adapter.subscribe(wanted, 1)
    (ended,) = adapter.unsubscribe(wanted, 1)
    for word in ("subscribe", "SUBSCRIBE"):
        asked_frame = asked.frame.replace(f'"{word}"', f'"un{word}"' if word.islower() else f'"UN{word}"')
        if asked_frame != asked.frame:
            expected = json.loads(asked_frame)
            expected.get("params", {}).pop("snapshot", None) if exchange == "kraken" else None
            assert json.loads(ended.frame) == expected


@pytest.mark.parametrize(
    ("exchange", "market_type", "per_frame", "acks"),
    [
        ("binance", "SPOT", 200, "one"),
        ("okx", "SPOT", 200, "each"),
        ("kraken", "SPOT", 100, "each"),
        ("bybit", "SPOT", 10, "one"),
        ("bybit", "LINEAR", 100, "one"),
    ],
)
def test_many_are_cut_into_frames_the_exchange_takes(
    exchange: str, market_type: str, per_frame: int, acks: str
) -> None:
    adapter = adapter_for(exchange, market_type)
    wanted = [kline(f"COIN{number:03d}USDT") for number in range(437)]
    commands = adapter.subscribe(wanted, 40)
    assert adapter.socket.args == per_frame
    assert [command.request_id for command in commands] == list(range(40, 40 + len(commands)))
    assert [one for command in commands for one in command.subscriptions] == wanted
    assert [len(command.subscriptions) for command in commands[:-1]] == [per_frame] * (len(commands) - 1)
    assert all(len(command.frame) < 21_000 for command in commands)
    for command in commands:
        assert command.acks == (1 if acks == "one" else len(command.subscriptions))


def test_kraken_asks_for_one_channel_and_interval_in_a_frame() -> None:
    wanted = [kline("BTC/USD"), kline("BTC/USD", "5m"), Subscription("trade", "BTC/USD"), kline("ETH/USD")]
    commands = adapter_for("kraken").subscribe(wanted, 1)
    assert [command.subscriptions for command in commands] == [
        (kline("BTC/USD"), kline("ETH/USD")),
        (kline("BTC/USD", "5m"),),
        (Subscription("trade", "BTC/USD"),),
    ]
    assert [command.request_id for command in commands] == [1, 2, 3]


@pytest.mark.parametrize(
    ("exchange", "message", "event"),
    [
        ("binance", {"result": None, "id": 3}, Ack(3)),
        ("binance", {"result": ["btcusdt@kline_1m"], "id": 4}, Ack(4)),
        ("binance", {"code": 2, "msg": "Invalid request: no", "id": 5}, Refused("Invalid request: no (code 2)", 5)),
        (
            "binance",
            {"error": {"code": 3, "msg": "Invalid JSON"}, "id": None},
            Refused("Invalid JSON (code 3)", None),
        ),
        (
            "okx",
            {"event": "subscribe", "arg": {"channel": "candle1Dutc", "instId": "BTC-USDT"}, "connId": "4280e5d7"},
            Ack(None, kline("BTC-USDT", "1d")),
        ),
        (
            "okx",
            {"id": "9", "event": "unsubscribe", "arg": {"channel": "trades", "instId": "BTC-USDT"}},
            Ack(9, Subscription("trade", "BTC-USDT")),
        ),
        (
            "kraken",
            {
                "method": "subscribe",
                "req_id": 1,
                "success": True,
                "result": {"channel": "ohlc", "interval": 60, "snapshot": True, "symbol": "BTC/USD"},
            },
            Ack(1, kline("BTC/USD", "1h")),
        ),
        (
            "kraken",
            {
                "method": "unsubscribe",
                "req_id": 1,
                "success": True,
                "result": {"channel": "trade", "symbol": "XBT/USD"},
            },
            Ack(1, Subscription("trade", "BTC/USD")),
        ),
        ("bybit", {"success": True, "ret_msg": "subscribe", "conn_id": "x", "req_id": "1", "op": "subscribe"}, Ack(1)),
        ("bybit", {"success": True, "ret_msg": "", "conn_id": "x", "req_id": "1", "op": "subscribe"}, Ack(1)),
    ],
)
def test_an_acknowledgement_says_what_it_is_for(exchange: str, message: dict[str, Any], event: Event) -> None:
    assert decoded(exchange, message) == [event]


def test_okx_binds_a_wrong_channel_to_its_stream() -> None:
    text = "Wrong URL or channel:candle1H,instId:BTC-USDT doesn't exist. Please use the correct URL."
    (event,) = decoded("okx", {"event": "error", "code": "60018", "msg": text, "connId": "a4d3ae55"})
    assert isinstance(event, Refused)
    assert event.subscription == kline("BTC-USDT", "1h")
    assert event.symbol == "BTC-USDT"
    assert "60018" in event.reason
    assert not event.retry


def test_okx_refuses_a_bad_request_without_a_stream_and_says_when_later_helps() -> None:
    (event,) = decoded("okx", {"id": "8", "event": "error", "code": "60012", "msg": "Invalid request: {}"})
    assert event == Refused("Invalid request: {} (code 60012)", 8)
    (event,) = decoded("okx", {"event": "error", "code": "60014", "msg": "Requests too frequent"})
    assert isinstance(event, Refused)
    assert event.retry


def test_okx_announces_that_it_will_close() -> None:
    text = "The connection will soon be closed for a service upgrade. Please reconnect."
    (event,) = decoded("okx", {"event": "notice", "code": "64008", "msg": text, "connId": "a4d3ae55"})
    assert isinstance(event, Notice)
    assert event.reconnect
    (other,) = decoded("okx", {"event": "notice", "code": "64999", "msg": "something else"})
    assert isinstance(other, Notice)
    assert not other.reconnect


@pytest.mark.parametrize("frame", ["pong", b"pong"])
def test_okx_answers_ping_with_a_word(frame: str | bytes) -> None:
    adapter = adapter_for("okx")
    assert adapter.ping() == "ping"
    assert adapter.decode(frame) == [Alive()]


def test_kraken_binds_an_unknown_pair_to_its_symbol() -> None:
    message = {"error": "Currency pair not supported XYZ/USD", "method": "subscribe", "req_id": 6, "success": False}
    (event,) = decoded("kraken", message)
    assert event == Refused("Currency pair not supported XYZ/USD", 6, symbol="XYZ/USD")
    (event,) = decoded("kraken", {**message, "error": "Subscription depth not supported", "symbol": "XBT/USD"})
    assert event == Refused("Subscription depth not supported", 6, symbol="BTC/USD")
    (event,) = decoded("kraken", {**message, "error": "EGeneral:Invalid arguments/interval"})
    assert event == Refused("EGeneral:Invalid arguments/interval", 6)


def test_kraken_warnings_of_an_acknowledgement_are_passed_on_except_the_usual_one() -> None:
    usual = "timestamp is deprecated, use interval_begin"
    message = {
        "method": "subscribe",
        "req_id": 1,
        "success": True,
        "result": {"channel": "ohlc", "interval": 1, "symbol": "BTC/USD", "warnings": [usual, "mind the step"]},
    }
    assert decoded("kraken", message) == [
        Ack(1, kline("BTC/USD")),
        Notice("Kraken warns of BTC/USD: mind the step"),
    ]


def test_kraken_status_and_signs_of_life() -> None:
    (status,) = decoded(
        "kraken",
        {"channel": "status", "type": "update", "data": [{"version": "2.0.10", "system": "maintenance"}]},
    )
    assert status == Notice("Kraken's system is maintenance (version 2.0.10)")
    assert decoded("kraken", {"channel": "heartbeat"}) == [Alive()]
    assert decoded("kraken", {"method": "pong", "req_id": 1, "time_in": "x"}) == [Alive()]
    assert json.loads(adapter_for("kraken").ping() or "") == {"method": "ping"}


@pytest.mark.parametrize(
    "message",
    [
        {"success": True, "ret_msg": "pong", "conn_id": "x", "req_id": "", "op": "ping"},
        {"req_id": "1", "op": "pong", "args": ["1675418560633"], "conn_id": "x"},
    ],
)
def test_bybit_answers_ping_in_two_ways(message: dict[str, Any]) -> None:
    assert json.loads(adapter_for("bybit").ping() or "") == {"op": "ping"}
    assert decoded("bybit", message) == [Alive()]


@pytest.mark.parametrize(
    ("text", "symbol", "subscription"),
    [
        ("Invalid topic: kline.7.BTCUSDT", "BTCUSDT", None),
        ("error:handler not found,topic:kline.1.XYZUSDT", "XYZUSDT", kline("XYZUSDT")),
        ("Invalid symbol :[XYZUSDT]", "XYZUSDT", None),
        ("args size >10", None, None),
    ],
)
def test_bybit_refusals(text: str, symbol: str | None, subscription: Subscription | None) -> None:
    message = {"success": False, "ret_msg": text, "conn_id": "x", "req_id": "2", "op": "subscribe"}
    assert decoded("bybit", message) == [Refused(text, 2, subscription, symbol=symbol)]


@pytest.mark.parametrize(
    ("exchange", "message"),
    [
        ("kraken", {"error": "Already subscribed", "method": "subscribe", "req_id": 6, "success": False}),
        (
            "bybit",
            {"success": False, "ret_msg": "error:already subscribed,topic:kline.1.A", "req_id": "6", "op": "subscribe"},
        ),
    ],
)
def test_to_be_subscribed_already_is_to_be_subscribed(exchange: str, message: dict[str, Any]) -> None:
    assert decoded(exchange, message) == [Ack(6)]


@pytest.mark.parametrize("wrapped", [False, True])
def test_binance_announces_a_shutdown_of_its_server(wrapped: bool) -> None:
    event = {"e": "serverShutdown", "E": 1770123456789}
    (found,) = decoded("binance", {"stream": "!serverShutdown", "data": event} if wrapped else event)
    assert isinstance(found, Notice)
    assert found.reconnect


@pytest.mark.parametrize(
    ("exchange", "message"),
    [
        ("binance", {"e": "depthUpdate", "s": "BTCUSDT", "b": []}),
        ("binance", {"stream": "btcusdt@bookTicker", "data": {"u": 1, "s": "BTCUSDT"}}),
        ("okx", {"arg": {"channel": "books", "instId": "BTC-USDT"}, "data": [{}]}),
        ("okx", {"event": "channel-conn-count", "channel": "trades", "connCount": "1"}),
        ("kraken", {"channel": "book", "type": "snapshot", "data": [{}]}),
        ("bybit", {"topic": "orderbook.50.BTCUSDT", "data": {}}),
    ],
)
def test_data_nobody_asked_for_is_a_notice(exchange: str, message: dict[str, Any]) -> None:
    (event,) = decoded(exchange, message)
    assert isinstance(event, Notice)
    assert not event.reconnect


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_the_limits_make_sense(exchange: str) -> None:
    limits = adapter_for(exchange).socket
    assert limits.args <= limits.streams
    assert limits.ping_every < limits.silent or exchange == "kraken"  # whose heartbeats come by themselves
    assert limits.messages >= 1
    assert (limits.lifetime is not None) == (exchange == "binance")
    assert adapter_for(exchange).ping() is None if exchange == "binance" else adapter_for(exchange).ping()
