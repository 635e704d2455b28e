"""Hand-written frames of every exchange, as its documents show them: one of each shape that carries data."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from streammachine.market.exchanges import adapter_for
from streammachine.market.exchanges.base import Adapter, Event, Numbered

START = 1_786_538_760_000  # 2026-08-12T12:46:00Z
ISO = "2026-08-12T12:46:00.000000000Z"


@dataclass(frozen=True)
class Sample:
    """A frame that carries one row, and where in it the row's prices, volumes and time are.

    ``prices``, ``volumes``: paths (keys and indexes) into the message.
    """

    exchange: str
    market_type: str
    message: dict[str, Any]
    prices: tuple[tuple[str | int, ...], ...]
    volumes: tuple[tuple[str | int, ...], ...]
    time: tuple[str | int, ...]

    @property
    def name(self) -> str:
        kind = "kline" if len(self.prices) == 4 else "trade"
        return f"{self.exchange}-{self.market_type}-{kind}"

    @property
    def adapter(self) -> Adapter:
        return adapter_for(self.exchange, self.market_type)

    def frame(self, change: Callable[[dict[str, Any]], None] | None = None) -> bytes:
        """The frame, changed first."""
        message = copy.deepcopy(self.message)
        if change is not None:
            change(message)
        return json.dumps(message, separators=(",", ":")).encode()

    def with_value(self, path: tuple[str | int, ...], value: object) -> bytes:
        """The frame with another value at the place."""
        return self.frame(lambda message: put(message, path, value))

    def decoded(self, frame: str | bytes) -> list[Event]:
        """What the exchange's adapter makes of a frame, but for its number."""
        return [event for event in self.adapter.decode(frame) if not isinstance(event, Numbered)]


def put(message: Any, path: tuple[str | int, ...], value: object) -> None:
    """Set the value at a path."""
    for step in path[:-1]:
        message = message[step]
    message[path[-1]] = value


def binance_kline(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"t": START, "T": START + 59_999, "s": "BTCUSDT", "i": "1m", "f": 100, "L": 200}
    row |= {"o": "64040.20000000", "c": "64033.50000000", "h": "64041.00000000", "l": "64025.70000000"}
    row |= {"v": "2.16787395", "n": 101, "x": False, "q": "138825.26544681", "V": "1.5", "Q": "96050.1", "B": "0"}
    return {"e": "kline", "E": START + 2000, "s": row["s"], "k": row | changes}


def binance_trade(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "e": "trade",
        "E": START + 10,
        "s": "BTCUSDT",
        "t": 12345,
        "p": "64040.20000000",
        "q": "0.50000000",
    }
    return row | {"T": START + 9, "m": True, "M": True} | changes


def binance_agg_trade(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"e": "aggTrade", "E": START + 10, "a": 5933014, "s": "BTCUSDT", "p": "64040.20", "q": "0.5"}
    return row | {"f": 100, "l": 105, "T": START + 9, "m": False} | changes


def okx_candle(symbol: str = "BTC-USDT", channel: str = "candle1m", **changes: str) -> dict[str, Any]:
    names = ("ts", "o", "h", "l", "c", "vol", "volCcy", "volCcyQuote", "confirm")
    values = (str(START), "64040.2", "64041", "64025.7", "64033.5", "2.16787395", "138825.2", "138825.2", "0")
    row = dict(zip(names, values, strict=True)) | changes
    return {"arg": {"channel": channel, "instId": symbol}, "data": [list(row.values())]}


def okx_trade(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "instId": "BTC-USDT",
        "tradeId": "1040968613",
        "px": "64040.2",
        "sz": "0.00240857",
        "side": "buy",
    }
    row |= {"ts": str(START + 9), "count": "2", "source": "0", "seqId": 79706765242} | changes
    return {"arg": {"channel": "trades", "instId": row["instId"]}, "data": [row]}


def kraken_ohlc(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "symbol": "BTC/USD",
        "open": 63301.6,
        "high": 63301.6,
        "low": 63297.7,
        "close": 63297.7,
        "trades": 27,
    }
    row |= {"volume": 0.04121249, "vwap": 63298.2, "interval_begin": ISO, "interval": 1}
    row |= {"timestamp": "2026-08-12T12:47:00.000000Z"} | changes
    return {"channel": "ohlc", "type": "update", "timestamp": "2026-08-12T12:46:44.084233010Z", "data": [row]}


def kraken_trade(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"symbol": "BTC/USD", "side": "sell", "price": 63297.7, "qty": 0.02, "ord_type": "market"}
    row |= {"trade_id": 10218209, "timestamp": "2026-08-12T12:46:37.708706Z"} | changes
    return {"channel": "trade", "type": "update", "data": [row]}


def bybit_kline(topic: str = "kline.1.BTCUSDT", **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "start": START,
        "end": START + 59_999,
        "interval": "1",
        "open": "64104.5",
        "close": "64096.4",
    }
    row |= {"high": "64104.5", "low": "64096.4", "volume": "1.01673", "turnover": "65173.1079222"}
    row |= {"confirm": False, "timestamp": START + 14_563} | changes
    return {"type": "snapshot", "topic": topic, "data": [row], "ts": START + 14_563}


def bybit_trade(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "T": START + 9,
        "s": "BTCUSDT",
        "S": "Buy",
        "v": "0.015",
        "p": "63976.10",
        "L": "ZeroPlusTick",
    }
    row |= {"i": "e799c7b7-1ccc-53d9-b84a-fb7a460397bc", "BT": False, "RPI": False, "seq": 760579112851} | changes
    return {"topic": f"publicTrade.{row['s']}", "type": "snapshot", "ts": START + 10, "data": [row]}


def coinbase_candle(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"start": str(START // 300_000 * 300), "high": "64041.00", "low": "64025.70"}
    row |= {"open": "64040.20", "close": "64033.50", "volume": "2.16787395", "product_id": "BTC-USD"} | changes
    head = {"channel": "candles", "client_id": "", "timestamp": "2026-08-12T12:46:02.396253500Z", "sequence_num": 5}
    return {**head, "events": [{"type": "update", "candles": [row]}]}


def coinbase_trade(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"trade_id": "712345678", "product_id": "BTC-USD", "price": "64033.50", "size": "0.00240857"}
    row |= {"side": "BUY", "time": "2026-08-12T12:46:01.265123Z"} | changes
    head = {"channel": "market_trades", "client_id": "", "timestamp": "2026-08-12T12:46:01.39625Z", "sequence_num": 6}
    return {**head, "events": [{"type": "update", "trades": [row]}]}


def _paths(start: tuple[str | int, ...], names: str) -> tuple[tuple[str | int, ...], ...]:
    return tuple((*start, int(name) if name.isdecimal() else name) for name in names.split())


def samples() -> Iterator[Sample]:
    """A candle and a trade of every exchange and kind of market."""
    coin = binance_kline(s="BTCUSD_PERP", v="512", q="0.8")
    for market_type, candle, trade in (
        ("SPOT", binance_kline(), binance_trade()),
        ("USDM", binance_kline(), binance_agg_trade()),
        ("COINM", coin, binance_agg_trade(s="BTCUSD_PERP", q="3")),
    ):
        prices = _paths(("k",), "o h l c")
        volume = "q" if market_type == "COINM" else "v"
        yield Sample("binance", market_type, candle, prices, _paths(("k",), volume), ("k", "t"))
        yield Sample("binance", market_type, trade, (("p",),), (("q",),), ("T",))
    for market_type, symbol, volume in (
        ("SPOT", "BTC-USDT", "5"),
        ("LINEAR", "BTC-USDT-SWAP", "6"),
        ("INVERSE", "BTC-USD-SWAP", "6"),
    ):
        candle = okx_candle(symbol)
        yield Sample(
            "okx", market_type, candle, _paths(("data", 0), "1 2 3 4"), _paths(("data", 0), volume), ("data", 0, 0)
        )
        trade = okx_trade(instId=symbol, sz="3")
        yield Sample("okx", market_type, trade, (("data", 0, "px"),), (("data", 0, "sz"),), ("data", 0, "ts"))
    ohlc, trade = _paths(("data", 0), "open high low close"), kraken_trade()
    yield Sample("kraken", "SPOT", kraken_ohlc(), ohlc, (("data", 0, "volume"),), ("data", 0, "interval_begin"))
    yield Sample("kraken", "SPOT", trade, (("data", 0, "price"),), (("data", 0, "qty"),), ("data", 0, "timestamp"))
    for market_type in ("SPOT", "LINEAR", "INVERSE"):
        volume = "turnover" if market_type == "INVERSE" else "volume"
        yield Sample("bybit", market_type, bybit_kline(), ohlc, (("data", 0, volume),), ("data", 0, "start"))
        yield Sample("bybit", market_type, bybit_trade(), (("data", 0, "p"),), (("data", 0, "v"),), ("data", 0, "T"))
    candle, trade = ("events", 0, "candles", 0), ("events", 0, "trades", 0)
    prices = _paths(candle, "open high low close")
    yield Sample("coinbase", "SPOT", coinbase_candle(), prices, ((*candle, "volume"),), (*candle, "start"))
    prices, volumes = ((*trade, "price"),), ((*trade, "size"),)
    yield Sample("coinbase", "SPOT", coinbase_trade(), prices, volumes, (*trade, "time"))


SAMPLES = tuple(samples())
