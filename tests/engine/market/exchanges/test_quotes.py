"""Quotes by hand-written frames, as the exchanges' documents show them: what is made of them, and what is refused."""

from __future__ import annotations

import datetime
import importlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streammachine.market.exchanges import adapter_for
from streammachine.market.exchanges import quotes as made_of
from streammachine.market.exchanges.base import Adapter, BadFrame, Event, Numbered, Subscription
from streammachine.market.exchanges.decode import iso_ms, parsed
from streammachine.market.model.quote import Quote

BINANCE = {
    "u": 400900217,
    "s": "BNBUSDT",
    "b": "25.35190000",
    "B": "31.21000000",
    "a": "25.36520000",
    "A": "40.66000000",
}
FUTURES = {"e": "bookTicker", "E": 1568014460893, "T": 1568014460891}
OKX = {
    "arg": {"channel": "bbo-tbt", "instId": "BTC-USDT"},
    "data": [{"asks": [["8476.98", "415", "0", "13"]], "bids": [["8476.97", "256", "0", "12"]], "ts": "1597026383085",
              "seqId": 123456}],
}  # fmt: skip
KRAKEN = {
    "channel": "ticker", "type": "update",
    "data": [{"symbol": "XBT/USD", "bid": 0.10025, "bid_qty": 740.0, "ask": 0.10036, "ask_qty": 1361.44813783,
              "last": 0.10035, "volume": 997038.98383185, "vwap": 0.10148, "timestamp": "2023-09-25T09:04:31.742648Z"}],
}  # fmt: skip
BYBIT = {
    "topic": "orderbook.1.BTCUSDT", "type": "snapshot", "ts": 1672304484978,
    "data": {"s": "BTCUSDT", "b": [["16493.50", "0.006"]], "a": [["16611.00", "0.029"]], "u": 18521288,
             "seq": 7961638724},
    "cts": 1672304484976,
}  # fmt: skip
COINBASE = {
    "channel": "ticker", "client_id": "", "timestamp": "2023-02-09T20:30:37.167359596Z", "sequence_num": 0,
    "events": [{"type": "snapshot", "tickers": [
        {"type": "ticker", "product_id": "BTC-USD", "price": "21932.98", "volume_24_h": "16038.28770938",
         "low_24_h": "21835.29", "high_24_h": "23011.18", "low_52_w": "15460", "high_52_w": "48240",
         "price_percent_chg_24_h": "-4.15775596190603", "best_bid": "21931.98", "best_bid_quantity": "8000.21",
         "best_ask": "21933.98", "best_ask_quantity": "8038.07770938"},
    ]}],
}  # fmt: skip

CASES = {
    "binance": ("binance", "SPOT", BINANCE, ("BNBUSDT", 25.3519, 31.21, 25.3652, 40.66, 0)),
    "binance, combined": (
        "binance", "SPOT", {"stream": "bnbusdt@bookTicker", "data": BINANCE},
        ("BNBUSDT", 25.3519, 31.21, 25.3652, 40.66, 0),
    ),
    "binance usd-m": (
        "binance", "USDM", FUTURES | BINANCE, ("BNBUSDT", 25.3519, 31.21, 25.3652, 40.66, 1568014460891),
    ),
    "binance coin-m": (
        "binance", "COINM", FUTURES | BINANCE | {"s": "BNBUSD_PERP", "b": "20", "B": "4", "a": "25", "A": "5"},
        ("BNBUSD_PERP", 20.0, 2.0, 25.0, 2.0, 1568014460891),
    ),
    "okx": ("okx", "SPOT", OKX, ("BTC-USDT", 8476.97, 256.0, 8476.98, 415.0, 1597026383085)),
    "okx swap": (
        "okx", "LINEAR", {**OKX, "arg": {"channel": "bbo-tbt", "instId": "BTC-USDT-SWAP"}},
        ("BTC-USDT-SWAP", 8476.97, 2.56, 8476.98, 4.15, 1597026383085),
    ),
    "kraken": ("kraken", "SPOT", KRAKEN, ("BTC/USD", 0.10025, 740.0, 0.10036, 1361.44813783, 1695632671742)),
    "bybit": ("bybit", "LINEAR", BYBIT, ("BTCUSDT", 16493.5, 0.006, 16611.0, 0.029, 1672304484978)),
    "bybit inverse": (
        "bybit", "INVERSE",
        {**BYBIT, "topic": "orderbook.1.BTCUSD", "data": {"s": "BTCUSD", "b": [["100", "50"]], "a": [["200", "50"]]}},
        ("BTCUSD", 100.0, 0.5, 200.0, 0.25, 1672304484978),
    ),
    "coinbase": (
        "coinbase", "SPOT", COINBASE, ("BTC-USD", 21931.98, 8000.21, 21933.98, 8038.07770938, 1675974637167),
    ),
}  # fmt: skip


def told(adapter: Adapter, frame: Any) -> list[Event]:
    """What a frame says, without the number of a message."""
    return [event for event in adapter.decode(json.dumps(frame)) if not isinstance(event, Numbered)]


@pytest.mark.parametrize("case", CASES)
def test_a_frame_is_a_quote_with_sizes_in_the_base_currency(case: str) -> None:
    name, market, frame, (symbol, bid, bid_size, ask, ask_size, ts) = CASES[case]
    adapter = adapter_for(name, market)
    [quote] = told(adapter, frame)
    assert isinstance(quote, Quote)
    assert (quote.source, quote.symbol, quote.pair, quote.ts) == (adapter.source, symbol, None, ts)
    assert (quote.bid, quote.bid_size, quote.ask) == pytest.approx((bid, bid_size, ask))
    assert quote.ask_size == pytest.approx(ask_size)
    assert Quote(**quote.model_dump()) == quote


def without_side(name: str, frame: Any, side: str, how: str) -> Any:
    """The frame with nobody on one side, as an exchange may write that."""
    left = json.loads(json.dumps(frame))
    if name in ("okx", "bybit"):
        book = left["data"][0] if name == "okx" else left["data"]
        key = f"{side}s" if name == "okx" else side[0]
        level = {"zeros": [["0", "0"]], "numbers": [[0, 0.0]], "texts": [["", ""]], "half": [["0.00", ""]]}
        book |= {key: {**level, "null": None}.get(how, [])}
        if how == "absent":
            del book[key]
        return left
    row = left
    if name == "kraken":
        row = left["data"][0]
    elif name == "coinbase":
        row = left["events"][0]["tickers"][0]
    price, size = {
        "binance": (side[0], side[0].upper()),
        "kraken": (side, f"{side}_qty"),
        "coinbase": (f"best_{side}", f"best_{side}_quantity"),
    }[name]
    values = {"zeros": ("0.00000000", "0"), "numbers": (0, 0.0), "texts": ("", ""), "null": (None, None)}
    row[price], row[size] = values.get(how, ("0", ""))
    if how == "absent":
        del row[price], row[size]
    return left


@pytest.mark.parametrize("how", ["zeros", "numbers", "texts", "half", "null", "absent", "empty"])
@pytest.mark.parametrize("case", [case for case in CASES if case != "binance, combined"])
def test_a_side_without_orders_is_none_and_a_quote_without_any_is_a_bad_frame(case: str, how: str) -> None:
    name, market, frame, (symbol, bid, bid_size, ask, ask_size, ts) = CASES[case]
    adapter = adapter_for(name, market)
    [left] = told(adapter, without_side(name, frame, "ask", how))
    assert isinstance(left, Quote)
    assert (left.symbol, left.ts, left.ask, left.ask_size, left.mid) == (symbol, ts, None, None, None)
    assert (left.bid, left.bid_size) == pytest.approx((bid, bid_size))
    [right] = told(adapter, without_side(name, frame, "bid", how))
    assert isinstance(right, Quote)
    assert (right.bid, right.bid_size, right.mid) == (None, None, None)
    assert (right.ask, right.ask_size) == pytest.approx((ask, ask_size))
    assert Quote(**right.model_dump()) == right
    if name != "binance" or how != "absent":  # which then says neither of a quote nor of anything else
        [neither] = told(adapter, without_side(name, without_side(name, frame, "ask", how), "bid", how))
        assert isinstance(neither, BadFrame)


def test_a_delta_of_one_side_is_none() -> None:
    frame = {**BYBIT, "type": "delta", "data": {"s": "BTCUSDT", "b": [["1", "2"]], "a": []}}
    [bad] = adapter_for("bybit").decode(json.dumps(frame))
    assert isinstance(bad, BadFrame)
    assert "one side only" in bad.reason


WRONG: list[Any] = [None, True, "", "x", "NaN", "-1", "0", 0, -1, "1e30", [], {}, "Infinity", "1" * 400]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda each: str(each)[:12] or "empty")
@pytest.mark.parametrize("case", ["binance", "okx", "kraken", "bybit", "coinbase"])
def test_a_price_that_is_none_is_a_bad_frame(case: str, wrong: Any) -> None:
    name, market, frame, _ = CASES[case]
    spoiled = json.loads(json.dumps(frame))
    if name == "binance":
        spoiled["b"] = wrong
    elif name == "okx":
        spoiled["data"][0]["bids"][0][0] = wrong
    elif name == "kraken":
        spoiled["data"][0]["bid"] = wrong
    elif name == "coinbase":
        spoiled["events"][0]["tickers"][0]["best_bid"] = wrong
    else:
        spoiled["data"]["b"][0][0] = wrong
    events = told(adapter_for(name, market), spoiled)
    assert [type(event) for event in events] == [BadFrame]


def subscriptions(name: str) -> Iterator[str]:
    adapter = adapter_for(name)
    one = Subscription("quote", adapter.symbol_example)
    for command in (*adapter.subscribe([one], 1), *adapter.unsubscribe([one], 2)):
        yield command.frame


@pytest.mark.parametrize(
    ("name", "stream"),
    [
        ("binance", "btcusdt@bookTicker"),
        ("okx", "bbo-tbt"),
        ("kraken", "ticker"),
        ("bybit", "orderbook.1.BTCUSDT"),
        ("coinbase", "ticker"),
    ],
)
def test_they_are_asked_for_by_the_exchanges_own_name(name: str, stream: str) -> None:
    assert all(stream in frame for frame in subscriptions(name))


numbers = st.one_of(
    st.decimals(allow_nan=True, allow_infinity=True).map(str),
    st.floats(),
    st.integers(-10, 10**25),
    st.sampled_from(WRONG),
    st.text(max_size=6),
)


@given(st.lists(numbers, min_size=4, max_size=4), st.one_of(st.integers(-5, 10**16), st.booleans(), st.none()))
def test_both_twins_make_the_same_or_refuse(values: list[Any], ts: Any) -> None:
    results = []
    for make in (made_of.quote, made_of.checked_quote):
        try:
            results.append(repr(make("X", "S", *values, ts)))
        except (ValueError, TypeError, OverflowError):
            results.append("refused")
    assert results[0] == results[1]


@given(
    st.lists(st.one_of(st.lists(numbers, max_size=4), numbers), max_size=2),
    st.lists(st.one_of(st.lists(numbers, max_size=4), numbers), max_size=2),
    st.one_of(st.integers(-5, 10**16), st.integers(0, 10**13).map(str), st.text(max_size=4)),
)
def test_both_twins_read_a_book_alike(bids: list[Any], asks: list[Any], ts: Any) -> None:
    results = []
    for make in (made_of.book_quote, made_of.checked_book):
        try:
            results.append(repr(make("X", "S", bids, asks, ts)))
        except (ValueError, TypeError, LookupError, OverflowError):
            results.append("refused")
    assert results[0] == results[1]


@pytest.mark.parametrize("name", ["binance", "okx", "kraken", "bybit"])
@settings(deadline=None)  # the first call imports
@given(data=st.data())
def test_both_readers_of_a_frame_say_the_same(name: str, data: st.DataObject) -> None:
    """Quotes that are made while a frame is read, and those that the decoder makes of the JSON object."""
    frame = json.loads(json.dumps(CASES[name][2]))
    places = [place for place in paths(frame) if place]
    for place in data.draw(st.lists(st.sampled_from(places), max_size=2)):
        holder = frame
        try:
            for key in place[:-1]:
                holder = holder[key]
            if data.draw(st.booleans()):
                del holder[place[-1]]
            else:
                holder[place[-1]] = data.draw(st.one_of(numbers, st.just("2023-02-29T00:00:00Z")))
        except (LookupError, TypeError):
            continue  # the first change took it away
    module = importlib.import_module(f"streammachine.market.exchanges.{name}")
    text = json.dumps(frame)
    found = adapter_for(name).decode(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_read", parsed)
        assert repr(adapter_for(name).decode(text)) == repr(found)


def paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all that is in a JSON value."""
    yield before
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(inner, (*before, key))


times = st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(9999, 12, 31)).map(
    lambda moment: moment.isoformat() + "Z"
)


@given(st.one_of(times, times.map(lambda text: text[:-1] + "123Z"), st.text(alphabet="0123456789-:.TZ", max_size=32)))
def test_the_compiled_reader_of_times_takes_what_the_other_takes(text: str) -> None:
    if not made_of.HAS_NATIVE:
        pytest.skip("the frame decoder was not compiled here")
    from streammachine.market.exchanges import fast_decode

    found = fast_decode.iso_ms(text)
    assert found is None or found == iso_ms(text)


@pytest.mark.parametrize(
    "text",
    ["2024-02-29T23:59:59.999999999Z", "2100-03-01T00:00:00Z", "1970-01-01T00:00:00.1Z", "2000-12-31T01:02:03.45Z"],
)
def test_usual_times_are_read_by_the_compiled_reader(text: str) -> None:
    if not made_of.HAS_NATIVE:
        pytest.skip("the frame decoder was not compiled here")
    from streammachine.market.exchanges import fast_decode

    assert fast_decode.iso_ms(text) == iso_ms(text)
