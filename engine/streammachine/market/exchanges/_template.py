"""An adapter to copy: a whole one, for an exchange that does not exist. docs/contributing/exchange.md has the steps.

Copy it as ``<name>.py``, rename the class, and change what your exchange does otherwise; its simulator half is beside
the others, ``simulator/protocols/_template.py``. In yours this docstring says which documents the protocol facts are
from, in which currency volumes are, and what surprises.

The protocol here, all JSON. Socket: ``{"op": "subscribe", "id": 1, "streams": ["candle:1m:BTC-USDT"]}`` (trades are
``trade:BTC-USDT``) is answered with ``{"id": 1, "ok": true}`` or ``{"id": 1, "ok": false, "error": "..."}``; data are
``{"stream": "candle:1m:BTC-USDT", "rows": [...]}``; ``{"op": "ping"}`` is answered with ``{"pong": 1700000000000}``.
REST: /v1/symbols, /v1/candles, /v1/trades; errors are ``{"error": "..."}`` with an HTTP status of 400 and more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import orjson

from streammachine.market.exchanges.answers import error_object, listed, refused, understood, usable
from streammachine.market.exchanges.base import (
    Ack,
    Adapter,
    Alive,
    Command,
    Event,
    Instruments,
    Notice,
    Refusal,
    Refused,
    Request,
    RestLimits,
    SocketLimits,
    Subscription,
    TradePage,
    Urls,
    chunks,
)
from streammachine.market.exchanges.decode import (
    MALFORMED,
    bad_frame,
    kline_maker,
    last_ms,
    parsed,
    rows_of,
    trade_validator,
)
from streammachine.market.exchanges.registry import ENTRIES
from streammachine.market.model.data_input import Kind
from streammachine.market.model.kline import Kline, Trade

ENTRY: Final = ENTRIES["binance"]  # of yours: ENTRIES["<name>"]
TITLE: Final = ENTRY.title

# Our names of the timeframes to the exchange's, in our order. Leave out one that begins on another grid than ours
# (UTC; weeks on Monday): it can be aggregated.
_INTERVALS: Final = {"1m": "1m", "5m": "5m", "15m": "15m", "1h": "60m", "4h": "240m", "1d": "day"}
_TIMEFRAMES: Final = {interval: name for name, interval in _INTERVALS.items()}

# Our fields to the keys of a row. Makers are made once: one call for each row, no dict of ours in between.
_ROW: Final = {
    "open_ts": "t",
    "end_ts": "end",
    "open": "o",
    "high": "h",
    "low": "l",
    "close": "c",
    "volume": "v",
    "quote_volume": "q",
    "n_trades": "n",
    "is_closed": "closed",  # leave it out where nothing says so, and give the entry closes="next"
}
_kline = kline_maker(TITLE, _ROW)
_rest_kline = kline_maker(TITLE, _ROW, origin="rest")
_trade = trade_validator(
    TITLE, {"symbol": "symbol", "price": "p", "volume": "v", "ts": "t", "trade_id": "id", "side": "s"}
).validate_python

_SYMBOL: Final = re.compile(r"[A-Z0-9]{1,20}-[A-Z0-9]{2,20}")
_QUOTES: Final = ("USDT", "USDC", "USD", "EUR", "BTC", "ETH")
_UNKNOWN: Final = re.compile(r"no stream (?P<stream>\S+)")
_CLOSING: Final = "closing"


class Template(Adapter):
    """The exchange that does not exist; spot."""

    entry = ENTRY  # gives name, source, env, market_types, closes and symbol_example
    timeframes = _INTERVALS
    default_urls = Urls(ws="wss://stream.example.com/v1", rest="https://api.example.com")
    # Each number from the exchange's documents; say which sentence, where it is not plain. Seconds.
    socket = SocketLimits(
        streams=200,
        args=50,
        messages=10,
        messages_within=1.0,
        connects=100,
        connects_within=60.0,
        ping_every=20.0,
        silent=60.0,
    )
    rest = RestLimits(weight=600, within=60.0, page=500, trades_page=500)
    contiguous_ids = True  # the ids of a symbol's trades rise by one: a hole is found by them
    trades_by_id = True  # REST gives the trades behind an id

    # -- names --

    def check_symbol(self, symbol: str) -> str:
        made = symbol.strip().upper()
        if _SYMBOL.fullmatch(made):
            return made
        raise self.wrong_symbol(symbol, _dashed(made))  # which shows what may have been meant

    # -- the socket --

    def endpoint(self, kind: Kind, urls: Urls) -> str:
        return urls.ws

    def subscribe(self, subscriptions: Sequence[Subscription], first_id: int) -> list[Command]:
        return self._commands("subscribe", subscriptions, first_id)

    def unsubscribe(self, subscriptions: Sequence[Subscription], first_id: int) -> list[Command]:
        return self._commands("unsubscribe", subscriptions, first_id)

    def _commands(self, op: str, subscriptions: Sequence[Subscription], first_id: int) -> list[Command]:
        return [
            Command(
                orjson.dumps({"op": op, "id": number, "streams": [_stream(one) for one in some]}).decode(), number, some
            )
            for number, some in enumerate(chunks(subscriptions, self.socket.args), first_id)
        ]

    def ping(self) -> str:
        return '{"op":"ping"}'  # None where a WebSocket ping frame keeps the connection alive

    def decode(self, frame: str | bytes) -> list[Event]:
        # The hottest function of an adapter. Never raises; a bad row does not cost its neighbours.
        try:
            message = parsed(frame)
            stream = message.get("stream")
            if stream is None:
                return [_answer(message)]
            subscription = _subscription(stream)
            if subscription is None:
                return [Notice(f"data of the stream {stream[:40]}, which nobody asked for")]
            rows = listed(message["rows"])
            if subscription.kind == "trade":
                return rows_of(rows, lambda row: _trade(row | {"symbol": subscription.symbol}), frame)
            return rows_of(
                rows, lambda row: _kline(_placed(row, subscription.symbol, str(subscription.timeframe))), frame
            )
        except MALFORMED as error:
            return [bad_frame(error, frame)]

    # -- REST --

    def instruments(self, symbols: Sequence[str]) -> list[Request]:
        return [Request("/v1/symbols")]

    def decode_instruments(self, body: bytes) -> Instruments:
        with understood(f"the symbols of {TITLE}"):
            found = Instruments(set(), {})
            for row in listed(parsed(body)["symbols"]):
                symbol, status = str(row["name"]), str(row["status"])
                if status == "trading":
                    found.trading.add(symbol)
                else:
                    found.halted[symbol] = status
            return found

    def klines(self, symbol: str, timeframe: str, start: int, end: int, now: int | None = None) -> Request:
        return Request(
            "/v1/candles",
            {
                "symbol": symbol,
                "interval": _INTERVALS[timeframe],
                "from": str(start),  # included
                "to": str(end),  # excluded
                "limit": str(self.rest.page),
            },
        )

    def decode_klines(self, body: bytes, symbol: str, timeframe: str) -> list[Kline]:
        with understood(f"the {timeframe} candles of {symbol}"):
            rows = listed(parsed(body)["rows"])
            found = usable(rows, lambda row: _rest_kline(_placed(row, symbol, timeframe)))
            return sorted(found, key=lambda kline: kline.open_ts)

    def trades(self, symbol: str, *, after_id: str | None = None, since: int | None = None) -> Request:
        params = {"symbol": symbol, "limit": str(self.rest.trades_page)}
        params |= {"after": after_id} if after_id is not None else {"since": str(since or 0)}
        return Request("/v1/trades", params)

    def decode_trades(self, body: bytes, symbol: str) -> TradePage:
        def made(row: dict[str, Any]) -> Trade:
            trade: Trade = _trade(row | {"symbol": symbol})
            return trade

        with understood(f"the trades of {symbol}"):
            rows = listed(parsed(body)["rows"])
            found = usable(rows, made)
            return TradePage(found, found[-1].trade_id if len(rows) >= self.rest.trades_page else None)

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Refusal | None:
        if 200 <= status < 300:
            return None  # an exchange that answers errors with 200 is asked for its code here
        return refused(self.source, status, headers, body, str(error_object(body).get("error", ""))[:300])


def _stream(subscription: Subscription) -> str:
    if subscription.kind == "trade":
        return f"trade:{subscription.symbol}"
    return f"candle:{_INTERVALS[str(subscription.timeframe)]}:{subscription.symbol}"


@lru_cache(maxsize=4096)
def _subscription(stream: str) -> Subscription | None:
    kind, *rest = stream.split(":")
    if kind == "trade" and len(rest) == 1:
        return Subscription("trade", rest[0])
    if kind == "candle" and len(rest) == 2 and rest[0] in _TIMEFRAMES:
        return Subscription("kline", rest[1], _TIMEFRAMES[rest[0]])
    return None


def _placed(row: dict[str, Any], symbol: str, timeframe: str) -> dict[str, Any]:
    """The row with what it does not say itself."""
    return row | {"symbol": symbol, "timeframe": timeframe, "end": last_ms(timeframe, int(row["t"]))}


def _answer(message: dict[str, Any]) -> Event:
    """What an answer, a pong or a notice says."""
    if "pong" in message:
        return Alive()
    if "notice" in message:
        return Notice(str(message["notice"])[:300], reconnect=message["notice"] == _CLOSING)
    number = message.get("id")
    request_id = number if type(number) is int else None
    if message.get("ok") is True:
        return Ack(request_id)
    if message.get("ok") is False:
        text = str(message.get("error", "refused"))[:300]
        named = _UNKNOWN.search(text)
        return Refused(text, request_id, _subscription(named["stream"]) if named else None)
    raise ValueError(f"neither data nor an answer: {', '.join(message) or 'nothing'} in it"[:200])


def _dashed(symbol: str) -> str:
    """BTC-USDT of BTCUSDT, BTC/USDT or BTC_USDT; empty where that cannot be told."""
    parts = [part for part in re.split(r"[-/_: ]", symbol) if part]
    if len(parts) == 2:
        return "-".join(parts)
    for quote in _QUOTES if len(parts) == 1 else ():
        if parts[0].endswith(quote) and len(parts[0]) > len(quote):
            return f"{parts[0].removesuffix(quote)}-{quote}"
    return ""
