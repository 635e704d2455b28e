"""What is asked of REST, and what its answers and refusals mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from streammachine.market.exchanges import adapter_for
from streammachine.market.exchanges.base import Refusal, Request
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.kline import Kline, Trade

MINUTE = 60_000
START = 1_786_538_760_000
SYMBOLS = {"binance": "BTCUSDT", "okx": "BTC-USDT", "kraken": "BTC/USD", "bybit": "BTCUSDT"}
EXCHANGES = tuple(SYMBOLS)  # those whose messages stand here; what all must do is in test_conformance.py


def body(value: Any) -> bytes:
    return json.dumps(value).encode()


def binance_row(start: int, **changes: Any) -> list[Any]:
    row = {"t": start, "o": "10", "h": "12", "l": "9", "c": "11", "v": "2", "T": start + MINUTE - 1, "q": "21", "n": 5}
    return [*(row | changes).values(), "1", "10", "0"]


def okx_row(start: int, confirm: str = "1") -> list[str]:
    return [str(start), "10", "12", "9", "11", "2", "21", "22", confirm]


def kraken_row(start: int, volume: str = "2", vwap: str = "10.5", count: int = 5) -> list[Any]:
    return [start // 1000, "10", "12", "9", "11", vwap, volume, count]


def bybit_row(start: int) -> list[str]:
    return [str(start), "10", "12", "9", "11", "2", "21"]


# -- candles ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exchange", "market_type", "path", "params", "weight"),
    [
        (
            *("binance", "SPOT", "/api/v3/klines"),
            {"startTime": str(START), "endTime": str(START + 10 * MINUTE - 1), "interval": "1m", "limit": "10"},
            2,
        ),
        ("binance", "USDM", "/fapi/v1/klines", {"interval": "1m", "limit": "10"}, 1),
        ("binance", "COINM", "/dapi/v1/klines", {"interval": "1m", "limit": "10"}, 1),
        (
            *("okx", "SPOT", "/api/v5/market/history-candles"),
            {"before": str(START - 1), "after": str(START + 10 * MINUTE), "bar": "1m", "limit": "300"},
            2,
        ),
        ("kraken", "SPOT", "/0/public/OHLC", {"interval": "1", "since": str(START // 1000 - 1)}, 1),
        (
            *("bybit", "INVERSE", "/v5/market/kline"),
            {"category": "inverse", "start": str(START), "end": str(START + 10 * MINUTE - 1), "interval": "1"},
            1,
        ),
    ],
)
def test_candles_are_asked_for(exchange: str, market_type: str, path: str, params: dict[str, str], weight: int) -> None:
    request = adapter_for(exchange, market_type).klines("X", "1m", START, START + 10 * MINUTE)
    assert (request.path, request.weight) == (path, weight)
    assert params.items() <= request.params.items()


def test_okx_has_its_newest_candles_elsewhere() -> None:
    adapter = adapter_for("okx")
    now = START + 30_000

    def path(start: int) -> str:
        return adapter.klines("BTC-USDT", "1m", start, start + 300 * MINUTE, now=now).path

    assert path(START - 1438 * MINUTE) == "/api/v5/market/candles"
    assert path(START - 1500 * MINUTE) == "/api/v5/market/history-candles"


def test_a_binance_request_never_asks_for_more_than_a_page_nor_coinm_for_more_than_200_days() -> None:
    assert adapter_for("binance").klines("BTCUSDT", "1m", 0, START).params["limit"] == "1000"
    assert adapter_for("binance", "USDM").klines("BTCUSDT", "1m", 0, START).weight == 5
    coin = adapter_for("binance", "COINM")
    request = coin.klines("BTCUSD_PERP", "1d", 0, 1000 * timeframes.DAY)
    assert int(request.params["endTime"]) + 1 == coin.klines_span == 200 * timeframes.DAY
    assert adapter_for("binance").klines_span is None


def test_kraken_spells_bitcoin_and_dogecoin_as_rest_does() -> None:
    adapter = adapter_for("kraken")
    assert adapter.klines("BTC/USD", "1m", START, START + 1).params["pair"] == "XBTUSD"
    assert adapter.trades("DOGE/BTC", since=START).params["pair"] == "XDGXBT"


ANSWERS: dict[str, Callable[[list[Any]], Any]] = {
    "binance": lambda rows: rows,
    "okx": lambda rows: {"code": "0", "msg": "", "data": rows},
    "kraken": lambda rows: {"error": [], "result": {"XXBTZUSD": rows, "last": 1}},
    "bybit": lambda rows: {"retCode": 0, "retMsg": "OK", "result": {"category": "spot", "symbol": "X", "list": rows}},
}
ROWS: dict[str, Callable[[int], list[Any]]] = {
    "binance": binance_row,
    "okx": okx_row,
    "kraken": kraken_row,
    "bybit": bybit_row,
}
NEWEST_FIRST = ("okx", "bybit")


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_candles_are_read_oldest_first(exchange: str) -> None:
    adapter = adapter_for(exchange)
    starts = [START + number * MINUTE for number in range(3)]
    rows = [ROWS[exchange](start) for start in starts]
    answer = body(ANSWERS[exchange](rows[::-1] if exchange in NEWEST_FIRST else rows))
    assert adapter.refusal(200, {}, answer) is None
    klines = adapter.decode_klines(answer, SYMBOLS[exchange], "1m")
    assert [kline.open_ts for kline in klines] == starts
    first = klines[0]
    assert first.key == (adapter.source, SYMBOLS[exchange], "1m", START)
    assert (first.open, first.high, first.low, first.close, first.volume) == (10, 12, 9, 11, 2)
    assert first.quote_volume == {"okx": 22}.get(exchange, 21)
    assert first.n_trades == {"binance": 5, "kraken": 5}.get(exchange)
    assert first.is_closed is (True if exchange == "okx" else None)
    assert (first.end_ts, first.origin, first.estimated) == (START + MINUTE - 1, "rest", exchange == "kraken")


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_bad_row_is_missing_and_a_bad_answer_an_error(exchange: str) -> None:
    adapter = adapter_for(exchange)
    good, bad = ROWS[exchange](START), ROWS[exchange](START + MINUTE)
    bad[2] = "NaN"
    klines = adapter.decode_klines(body(ANSWERS[exchange]([good, bad])), "X", "1m")
    assert [kline.open_ts for kline in klines] == [START]
    assert adapter.decode_klines(body(ANSWERS[exchange]([])), "X", "1m") == []
    for answer in (b"", b"<html>", body(None), body(1), body({}), body([1]), body(ANSWERS[exchange]([bad]))):
        with pytest.raises(ValueError, match="the 1m candles of X not understood"):
            adapter.decode_klines(answer, "X", "1m")
        with pytest.raises(ValueError, match="the trades of X not understood"):
            adapter.decode_trades(answer, "X")
    for answer in (b"", b"<html>", body(None), body([]), body({})):
        with pytest.raises(ValueError, match="not understood"):
            adapter.decode_instruments(answer)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_candles_off_the_grid_are_left_out_and_no_bad_answer(exchange: str) -> None:
    adapter = adapter_for(exchange)
    off = [ROWS[exchange](START + 7000 + number * MINUTE) for number in range(3)]
    assert adapter.decode_klines(body(ANSWERS[exchange](off)), "X", "1m") == []
    klines = adapter.decode_klines(body(ANSWERS[exchange]([ROWS[exchange](START), *off])), "X", "1m")
    assert [kline.open_ts for kline in klines] == [START]


def test_starts_in_seconds_are_a_bad_answer_and_not_off_the_grid() -> None:
    with pytest.raises(ValueError, match="not understood"):
        adapter_for("binance").decode_klines(body([binance_row(START // 1000 + 1)]), "X", "1m")


@pytest.mark.parametrize("timeframe", ["1m", "1h", "1d", "3d", "1w", "1M"])
def test_a_close_time_that_is_cut_short_is_computed(timeframe: str) -> None:
    adapter = adapter_for("binance")
    start = timeframes.floor(timeframe, START)
    (kline,) = adapter.decode_klines(body([binance_row(start, T=start + 28_000)]), "X", timeframe)
    assert kline.end_ts == timeframes.end_of(timeframe, start) - 1
    row = {"t": start, "T": start + 28_000, "s": "X", "i": timeframe, "o": "1", "h": "2", "l": "1", "c": "2", "v": "3"}
    (pushed,) = adapter.decode(body({"e": "kline", "k": row | {"q": "4", "n": 1, "x": True}}))
    assert isinstance(pushed, Kline)
    assert pushed.end_ts == kline.end_ts


def test_okx_says_which_rest_candle_is_running() -> None:
    answer = body(ANSWERS["okx"]([okx_row(START + MINUTE, "0"), okx_row(START)]))
    assert [kline.is_closed for kline in adapter_for("okx").decode_klines(answer, "X", "1m")] == [True, False]


def test_months_end_where_the_next_begins() -> None:
    start = timeframes.floor("1M", START)
    (kline,) = adapter_for("okx").decode_klines(body(ANSWERS["okx"]([okx_row(start)])), "X", "1M")
    assert kline.end_ts + 1 == timeframes.end_of("1M", start)


def test_a_flat_kraken_candle_has_no_vwap() -> None:
    answer = body(ANSWERS["kraken"]([kraken_row(START, "0.00000000", "0.0", 0)]))
    (kline,) = adapter_for("kraken").decode_klines(answer, "BTC/USD", "1m")
    assert (kline.volume, kline.quote_volume, kline.vwap, kline.n_trades) == (0, 0, None, 0)


def test_kraken_alone_has_a_deepest_candle() -> None:
    now = START + 30_000
    assert adapter_for("kraken").deepest_klines("1m", now) == START - 719 * MINUTE
    for exchange in ("binance", "okx", "bybit"):
        assert adapter_for(exchange).deepest_klines("1m", now) is None


def test_volumes_of_contracts_are_in_the_base_currency() -> None:
    (coin,) = adapter_for("binance", "COINM").decode_klines(body([binance_row(START, v="512", q="0.8")]), "X", "1m")
    assert (coin.volume, coin.quote_volume) == (0.8, None)
    (swap,) = adapter_for("okx", "INVERSE").decode_klines(body(ANSWERS["okx"]([okx_row(START)])), "BTC-USD-SWAP", "1m")
    assert (swap.volume, swap.quote_volume) == (21, 22)
    (inverse,) = adapter_for("bybit", "INVERSE").decode_klines(body(ANSWERS["bybit"]([bybit_row(START)])), "X", "1m")
    assert (inverse.volume, inverse.quote_volume) == (21, 2)


# -- instruments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exchange", "market_type", "request_", "answer", "found", "halted"),
    [
        (
            *("binance", "SPOT"),
            Request("/api/v3/exchangeInfo", {"symbolStatus": "TRADING", "showPermissionSets": "false"}, 20),
            {"symbols": [{"symbol": "BTCUSDT", "status": "TRADING"}, {"symbol": "OLD", "status": "BREAK"}]},
            {"BTCUSDT"},
            ["BREAK"],
        ),
        (
            *("binance", "COINM"),
            Request("/dapi/v1/exchangeInfo", {}, 1),
            {"symbols": [{"symbol": "BTCUSD_PERP", "contractStatus": "TRADING", "contractSize": 100}]},
            {"BTCUSD_PERP"},
            [],
        ),
        (
            *("okx", "SPOT"),
            Request("/api/v5/public/instruments", {"instType": "SPOT"}, 2),
            {"data": [{"instId": "BTC-USDT", "state": "live"}, {"instId": "A-B", "state": "suspend"}]},
            {"BTC-USDT"},
            ["suspend"],
        ),
        (
            *("kraken", "SPOT"),
            Request("/0/public/AssetPairs"),
            {
                "error": [],
                "result": {
                    "XXBTZUSD": {"altname": "XBTUSD", "wsname": "XBT/USD", "status": "online"},
                    "XDGEUR": {"altname": "XDGEUR", "wsname": "XDG/EUR", "status": "online"},
                    "GONE": {"altname": "GONE", "wsname": "GO/NE", "status": "delisted"},
                },
            },
            {"BTC/USD", "DOGE/EUR"},
            ["delisted"],
        ),
        (
            *("bybit", "LINEAR"),
            Request("/v5/market/instruments-info", {"category": "linear", "limit": "1000"}),
            {
                "retCode": 0,
                "result": {
                    "list": [
                        {"symbol": "BTCUSDT", "status": "Trading"},
                        {"symbol": "NEWUSDT", "status": "PreLaunch"},
                        {"symbol": "A", "status": "Closed"},
                    ]
                },
            },
            {"BTCUSDT", "NEWUSDT"},
            ["Closed"],
        ),
    ],
)
def test_what_can_be_traded(
    exchange: str, market_type: str, request_: Request, answer: dict[str, Any], found: set[str], halted: list[str]
) -> None:
    adapter = adapter_for(exchange, market_type)
    assert adapter.instruments(sorted(found))[0] == request_
    instruments = adapter.decode_instruments(body(answer))
    assert instruments.trading == found
    assert sorted(instruments.halted.values()) == halted


def test_okx_lists_swaps_and_dated_futures_apart() -> None:
    adapter = adapter_for("okx", "LINEAR")

    def kinds(*symbols: str) -> list[str]:
        return [request.params["instType"] for request in adapter.instruments(symbols)]

    assert kinds("BTC-USDT-SWAP") == ["SWAP"]
    assert kinds("BTC-USDT-260925") == kinds("BTC-USD_UM_XPERP-310404") == ["FUTURES"]
    assert kinds("BTC-USDT-SWAP", "BTC-USDT-260925", "ETH-USDT-SWAP") == ["FUTURES", "SWAP"]


def test_kraken_keeps_its_shares_in_a_class_of_their_own() -> None:
    adapter = adapter_for("kraken")
    classes = [request.params.get("aclass_base") for request in adapter.instruments(["BTC/USD", "AAPLx/USD"])]
    assert classes == [None, "tokenized_asset"]
    assert adapter.instruments(["AAPLx/USD"])[0].params == {"aclass_base": "tokenized_asset"}
    share = {"pair": "AAPLxUSD", "asset_class": "tokenized_asset"}
    assert share.items() <= adapter.klines("AAPLx/USD", "1m", START, START + 1).params.items()
    assert share.items() <= adapter.trades("AAPLx/USD", since=START).params.items()
    assert "asset_class" not in adapter.trades("BTC/USD", since=START).params


def test_bybit_lists_its_contracts_in_pages_and_those_before_their_launch_apart() -> None:
    adapter = adapter_for("bybit", "LINEAR")
    trading, before = adapter.instruments(["BTCUSDT"])
    assert (trading.params.get("status"), before.params.get("status")) == (None, "PreLaunch")
    page = body({"retCode": 0, "result": {"list": [], "nextPageCursor": "first%3DX"}})
    more = adapter.more_instruments(trading, page)
    assert more is not None
    assert more.params == {**trading.params, "cursor": "first%3DX"}
    assert adapter.more_instruments(more, page) is None, "a cursor that does not move is the end"
    for last in ({"list": []}, {"list": [], "nextPageCursor": ""}, {"list": [], "nextPageCursor": None}):
        assert adapter.more_instruments(trading, body({"retCode": 0, "result": last})) is None


def test_trades_of_okx_contracts_need_the_size_of_one() -> None:
    adapter = adapter_for("okx", "LINEAR")
    row = {"instId": "SOL-USDT-SWAP", "tradeId": "7", "px": "150", "sz": "3", "side": "buy", "ts": str(START)}
    frame = body({"arg": {"channel": "trades", "instId": "SOL-USDT-SWAP"}, "data": [row]})
    assert not isinstance(adapter.decode(frame)[0], Trade)
    listed = {"instId": "SOL-USDT-SWAP", "state": "live", "ctVal": "1", "ctMult": "2", "ctValCcy": "SOL"}
    adapter.decode_instruments(body({"code": "0", "data": [listed]}))
    (trade,) = adapter.decode(frame)
    assert isinstance(trade, Trade)
    assert trade.volume == 6
    adapter.decode_instruments(
        body({"code": "0", "data": [listed | {"ctVal": "10", "ctMult": "1", "ctValCcy": "USD"}]})
    )
    (trade,) = adapter.decode(frame)
    assert isinstance(trade, Trade)
    assert trade.volume == 30 / 150


def test_trades_of_coinm_and_inverse_contracts_are_worth_dollars() -> None:
    row = {"e": "aggTrade", "a": 1, "s": "ETHUSD_PERP", "p": "2000", "q": "3", "T": START, "m": True}
    adapter = adapter_for("binance", "COINM")
    (trade,) = adapter.decode(body(row))
    assert isinstance(trade, Trade)
    assert trade.volume == 3 * 10 / 2000
    (trade,) = adapter.decode(body(row | {"s": "BTCUSD_PERP"}))
    assert isinstance(trade, Trade)
    assert trade.volume == 3 * 100 / 2000
    adapter.decode_instruments(
        body({"symbols": [{"symbol": "ETHUSD_PERP", "contractStatus": "TRADING", "contractSize": 50}]})
    )
    (trade,) = adapter.decode(body(row))
    assert isinstance(trade, Trade)
    assert trade.volume == 3 * 50 / 2000
    row = {"T": START, "s": "BTCUSD", "S": "Sell", "v": "500", "p": "50000", "i": "a"}
    (trade,) = adapter_for("bybit", "INVERSE").decode(body({"topic": "publicTrade.BTCUSD", "data": [row]}))
    assert isinstance(trade, Trade)
    assert (trade.volume, trade.side) == (0.01, "sell")


# -- trades -----------------------------------------------------------------------------------


def ids(trades: list[Trade]) -> list[str]:
    return [trade.trade_id for trade in trades]


def binance_trades(first: int, count: int) -> list[dict[str, Any]]:
    return [
        {"id": first + n, "price": "10", "qty": "2", "quoteQty": "20", "time": START + n, "isBuyerMaker": n % 2 == 0}
        for n in range(count)
    ]


def test_binance_pages_on_by_id() -> None:
    adapter = adapter_for("binance")
    request = adapter.trades("BTCUSDT", after_id="99")
    assert request.path == "/api/v3/historicalTrades"
    assert request.params == {"symbol": "BTCUSDT", "limit": "1000", "fromId": "100"}
    full = adapter.decode_trades(body(binance_trades(100, 1000)), "BTCUSDT")
    assert (len(full.trades), full.cursor) == (1000, "1099")
    assert full.trades[0] == Trade(
        source="Binance", symbol="BTCUSDT", price=10, volume=2, ts=START, trade_id="100", side="sell", fills=1
    )
    assert adapter.decode_trades(body(binance_trades(1100, 3)), "BTCUSDT").cursor is None
    assert adapter.decode_trades(b"[]", "BTCUSDT").cursor is None


def test_binance_finds_the_first_trade_of_a_moment_among_the_aggregate_ones() -> None:
    adapter = adapter_for("binance")
    request = adapter.trades("BTCUSDT", since=START)
    assert request.path == "/api/v3/aggTrades"
    assert request.params == {"symbol": "BTCUSDT", "limit": "1", "startTime": str(START)}
    page = adapter.decode_trades(
        body([{"a": 5, "p": "10", "q": "1", "f": 100, "l": 102, "T": START, "m": True}]), "BTCUSDT"
    )
    assert (page.trades, page.cursor) == ([], "99")


def test_binance_futures_page_through_aggregate_trades() -> None:
    adapter = adapter_for("binance", "USDM")
    assert adapter.trades("BTCUSDT", after_id="4").params["fromId"] == "5"
    assert adapter.trades("BTCUSDT", since=START).params["startTime"] == str(START)
    page = adapter.decode_trades(
        body([{"a": 5, "p": "10", "q": "1", "f": 100, "l": 102, "T": START, "m": False}]), "BTCUSDT"
    )
    assert (ids(page.trades), page.trades[0].side, page.cursor) == (["5"], "buy", None)


def test_okx_pages_forward_by_asking_for_what_is_before_an_id() -> None:
    adapter = adapter_for("okx")
    request = adapter.trades("BTC-USDT", after_id="1000")
    assert request.path == "/api/v5/market/history-trades"
    assert request.params == {"instId": "BTC-USDT", "type": "1", "limit": "100", "after": "1101"}
    rows = [
        {"instId": "BTC-USDT", "tradeId": str(number), "px": "10", "sz": "2", "side": "sell", "ts": str(START)}
        for number in (1100, 1099, 1001)
    ]
    page = adapter.decode_trades(body({"code": "0", "data": rows}), "BTC-USDT")
    assert (ids(page.trades), page.cursor) == (["1001", "1099", "1100"], "1100")
    assert [trade.fills for trade in page.trades] == [1, 1, 1]
    assert adapter.decode_trades(body({"code": "0", "data": []}), "BTC-USDT").cursor is None
    by_time = adapter.trades("BTC-USDT", since=START)
    assert by_time.params == {"instId": "BTC-USDT", "type": "2", "limit": "1", "after": str(START)}


def test_kraken_pages_on_by_nanoseconds_and_not_by_id() -> None:
    adapter = adapter_for("kraken")
    assert not adapter.trades_by_id
    assert adapter.contiguous_ids
    assert adapter.trades("BTC/USD", since=START).params["since"] == str(START * 1_000_000 - 1)
    rows = [["10", "2", START / 1000 + n / 1000, "s" if n % 2 else "b", "l", "", 7 + n] for n in range(1000)]
    last = (START + 999) * 1_000_000
    page = adapter.decode_trades(body({"error": [], "result": {"XXBTZUSD": rows, "last": str(last)}}), "BTC/USD")
    assert len(page.trades) == 1000
    assert [trade.ts for trade in page.trades] == [START + n for n in range(1000)]
    assert page.trades[1].side == "sell"
    assert page.cursor is not None
    assert page.beyond is not None
    assert adapter.trades("BTC/USD", after_id=page.cursor).params["since"] == str(last - 1)
    assert adapter.trades("BTC/USD", after_id=page.beyond).params["since"] == str(last)
    short = adapter.decode_trades(body({"error": [], "result": {"XXBTZUSD": rows[:5], "last": str(last)}}), "BTC/USD")
    assert (short.cursor, short.beyond) == (page.cursor, page.beyond), "a page may be shorter than asked"
    empty = adapter.decode_trades(body({"error": [], "result": {"XXBTZUSD": [], "last": str(last)}}), "BTC/USD")
    assert (empty.trades, empty.cursor) == ([], page.beyond)
    with pytest.raises(ValueError, match="by time"):
        adapter.trades("BTC/USD", after_id="10218209")


def test_bybit_has_the_newest_trades_only() -> None:
    adapter = adapter_for("bybit")
    assert not adapter.trades_by_id
    assert not adapter.contiguous_ids
    assert adapter.trades("BTCUSDT", since=START).params["limit"] == "60"
    assert adapter_for("bybit", "LINEAR").trades("BTCUSDT", since=START).params["limit"] == "1000"
    rows = [
        {"execId": name, "symbol": "BTCUSDT", "price": "10", "size": "2", "side": "Buy", "time": str(time)}
        for name, time in (("d", START + 1), ("c", START), ("b", START), ("a", START - 1))
    ]
    page = adapter.decode_trades(body({"retCode": 0, "result": {"list": rows}}), "BTCUSDT")
    assert (ids(page.trades), page.cursor) == (["a", "b", "c", "d"], None)


# -- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize(
    ("status", "retry"), [(429, True), (418, True), (500, True), (503, True), (404, False), (451, False)]
)
def test_a_status_says_whether_to_try_again(exchange: str, status: int, retry: bool) -> None:
    refusal = adapter_for(exchange).refusal(status, {"Retry-After": "7"}, b"<html>sorry</html>")
    assert refusal is not None
    assert (refusal.retry, refusal.retry_after) == (retry, 7.0)
    assert refusal.reason == f"{adapter_for(exchange).source} answered HTTP {status}: <html>sorry</html>"


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "120"}, 120.0),
        ({"RETRY-AFTER": "0.5"}, 0.5),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
    ],
)
def test_retry_after_is_read_in_any_case(exchange: str, headers: dict[str, str], seconds: float | None) -> None:
    refusal = adapter_for(exchange).refusal(429, headers, b"")
    assert refusal == Refusal(f"{adapter_for(exchange).source} answered HTTP 429", True, seconds)


@pytest.mark.parametrize(("exchange", "retry"), [("binance", True), ("okx", False), ("kraken", False), ("bybit", True)])
def test_forbidden_means_too_many_where_the_exchange_says_it_so(exchange: str, retry: bool) -> None:
    refusal = adapter_for(exchange).refusal(403, {}, b"")
    assert refusal is not None
    assert refusal.retry is retry


@pytest.mark.parametrize(
    ("exchange", "status", "answer", "retry", "text"),
    [
        ("binance", 400, {"code": -1121, "msg": "Invalid symbol."}, False, "Invalid symbol. (code -1121)"),
        ("binance", 400, {"code": -1120, "msg": "Invalid interval."}, False, "code -1120"),
        ("binance", 429, {"code": -1003, "msg": "Too many requests."}, True, "code -1003"),
        ("binance", 400, {"code": -1003, "msg": "Too many requests."}, True, "code -1003"),
        ("okx", 200, {"code": "51001", "msg": "Instrument ID does not exist", "data": []}, False, "code 51001"),
        ("okx", 200, {"code": "51000", "msg": "Parameter bar error", "data": []}, False, "Parameter bar error"),
        ("okx", 429, {"code": "50011", "msg": "Too Many Requests", "data": []}, True, "code 50011"),
        ("okx", 200, {"code": "50011", "msg": "Too Many Requests", "data": []}, True, "code 50011"),
        ("okx", 200, {"code": "50013", "msg": "Systems are busy", "data": []}, True, "busy"),
        ("kraken", 200, {"error": ["EQuery:Unknown asset pair"]}, False, "EQuery:Unknown asset pair"),
        ("kraken", 200, {"error": ["EGeneral:Too many requests"]}, True, "Too many requests"),
        ("kraken", 200, {"error": ["EAPI:Rate limit exceeded"]}, True, "Rate limit"),
        ("kraken", 200, {"error": ["EService:Unavailable"]}, True, "EService:Unavailable"),
        ("bybit", 200, {"retCode": 10001, "retMsg": "Not supported symbols"}, False, "Not supported symbols"),
        ("bybit", 200, {"retCode": 10006, "retMsg": "Too many visits!"}, True, "code 10006"),
        ("bybit", 200, {"retCode": 10016, "retMsg": "Server error"}, True, "code 10016"),
    ],
)
def test_the_exchanges_own_errors_are_understood(
    exchange: str, status: int, answer: dict[str, Any], retry: bool, text: str
) -> None:
    refusal = adapter_for(exchange).refusal(status, {}, body(answer))
    assert refusal is not None
    assert refusal.retry is retry
    assert text in refusal.reason


def test_a_kraken_warning_is_no_refusal() -> None:
    assert adapter_for("kraken").refusal(200, {}, body({"error": ["WGeneral:mind"], "result": {}})) is None


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("answer", [b"", b"[]", b"null", b"{}", b"\xff", b'{"code":null,"retCode":null,"error":null}'])
def test_a_success_without_an_error_in_it_is_no_refusal(exchange: str, answer: bytes) -> None:
    assert adapter_for(exchange).refusal(200, {}, answer) is None
