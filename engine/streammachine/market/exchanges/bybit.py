"""Bybit v5: spot, linear (USDT, USDC) and inverse contracts.

Protocol facts: bybit-exchange.github.io/docs/v5, "WebSocket Stream / Public", "Market".

Volumes are in the base currency. Inverse contracts are of 1 USD each; "volume" and a trade's size count them, and
"turnover" is the base currency then. So candles of INVERSE have volume and turnover exchanged, and a trade's volume
is size by price. Trade ids are unique, not consecutive; REST holds the newest trades only, whichever are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

import orjson

from streammachine.market.exchanges.answers import error_object, listed, refused, retry_after, understood, usable
from streammachine.market.exchanges.base import (
    Ack,
    Adapter,
    Alive,
    Command,
    Event,
    Instruments,
    MarketType,
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
    as_number,
    bad_frame,
    kline_maker,
    last_ms,
    parsed,
    rows_of,
    trade_validator,
)
from streammachine.market.exchanges.quotes import book_quote, in_base, topic_books
from streammachine.market.exchanges.registry import ENTRIES
from streammachine.market.model.data_input import Kind
from streammachine.market.model.kline import Kline, Trade
from streammachine.market.model.pair import Pair, delivery
from streammachine.market.model.quote import Quote

_INTERVALS: Final = {
    "1m": "1",
    "3m": "3",
    "5m": "5",
    "15m": "15",
    "30m": "30",
    "1h": "60",
    "2h": "120",
    "4h": "240",
    "6h": "360",
    "12h": "720",
    "1d": "D",
    "1w": "W",
    "1M": "M",
}
_TIMEFRAMES: Final = {interval: name for name, interval in _INTERVALS.items()}
_ROW: Final = {
    "open_ts": "start",
    "end_ts": "end",
    "volume": "volume",
    "quote_volume": "turnover",
    "is_closed": "confirm",
}
_INVERSE_ROW: Final = {**_ROW, "volume": "turnover", "quote_volume": "volume"}
_kline = kline_maker("Bybit", _ROW)
_inverse_kline = kline_maker("Bybit", _INVERSE_ROW)
_rest_kline = kline_maker("Bybit", {"quote_volume": "quote_volume"}, origin="rest")
_trade = trade_validator(
    "Bybit", {"symbol": "s", "price": "p", "volume": "v", "ts": "T", "trade_id": "i", "side": "side"}
).validate_python

_BOOK: Final = "orderbook.1."
_read = topic_books("Bybit", _BOOK)

_SIDES: Final = {"Buy": "buy", "Sell": "sell"}
_CATEGORIES: Final[dict[MarketType, str]] = {"SPOT": "spot", "LINEAR": "linear", "INVERSE": "inverse"}
_EXAMPLES: Final[dict[MarketType, str]] = {"SPOT": "BTCUSDT", "LINEAR": "BTCUSDT", "INVERSE": "BTCUSD"}
_SYMBOLS: Final[dict[MarketType, re.Pattern[str]]] = {
    "SPOT": re.compile(r"[A-Z0-9]{4,30}"),
    "LINEAR": re.compile(r"[A-Z0-9]{2,30}-[0-9]{1,2}[A-Z]{3}[0-9]{2}|[A-Z0-9]{4,30}"),
    "INVERSE": re.compile(r"[A-Z0-9]{1,20}USD([FHJKMNQUVXZ][0-9]{2})?"),
}
_INSTRUMENTS: Final = "/v5/market/instruments-info"
_TRADED: Final = ("Trading", "PreLaunch")
_TOPIC: Final = re.compile(
    r"kline\.(?P<interval>\w+)\.(?P<symbol>[\w-]+)|publicTrade\.(?P<traded>[\w-]+)|orderbook\.1\.(?P<quoted>[\w-]+)"
)
_BRACKETED: Final = re.compile(r"\[([A-Z0-9-]+)\]")

# 10000 timed out, 10006 too many requests, 10016 a fault or a restart of theirs, 10018 too many of this address,
# 10429 the same, system-wide.
_LATER: Final = frozenset((10000, 10006, 10016, 10018, 10429))


class Bybit(Adapter):
    """Bybit; ``market_type`` SPOT, LINEAR or INVERSE."""

    entry = ENTRIES["bybit"]
    kinds = ("kline", "trade", "quote")
    timeframes = _INTERVALS
    default_urls = Urls(ws="wss://stream.bybit.com/v5/public", rest="https://api.bybit.com")

    def __init__(self, market_type: MarketType = "SPOT") -> None:
        super().__init__(market_type)
        self._category = _CATEGORIES[market_type]
        self._inverse = market_type == "INVERSE"
        self._kline = _inverse_kline if self._inverse else _kline
        self._read = parsed if self._inverse else _read
        # 10 topics a request on spot; topics of one connection together up to 21,000 characters.
        self.socket = SocketLimits(
            streams=500,
            args=10 if market_type == "SPOT" else 100,
            messages=10,
            messages_within=1.0,
            connects=500,
            connects_within=300.0,
            ping_every=20.0,
            silent=45.0,
        )
        self.rest = RestLimits(weight=600, within=5.0, page=1000, trades_page=60 if market_type == "SPOT" else 1000)

    # -- names --

    def check_symbol(self, symbol: str) -> str:
        made = symbol.strip().upper()
        if _SYMBOLS[self.market_type].fullmatch(made):
            return made
        bare = re.sub(r"[-/_: ]", "", made.removesuffix("-SWAP").removesuffix("_PERP"))
        hint = bare if _SYMBOLS[self.market_type].fullmatch(bare) else ""
        what = f"symbol of Bybit {self.market_type}"
        raise self.wrong_symbol(symbol, hint, _EXAMPLES[self.market_type], what=what)

    def usual_symbol(self, pair: Pair) -> str | None:
        if pair.kind == "LINEAR" and pair.quote == "USDC":
            return f"{pair.base}PERP"
        return pair.base + pair.quote

    # -- the socket --

    def endpoint(self, kind: Kind, urls: Urls) -> str:
        return f"{urls.ws}/{self._category}"

    def subscribe(self, subscriptions: Sequence[Subscription], first_id: int) -> list[Command]:
        return self._commands("subscribe", subscriptions, first_id)

    def unsubscribe(self, subscriptions: Sequence[Subscription], first_id: int) -> list[Command]:
        return self._commands("unsubscribe", subscriptions, first_id)

    def _commands(self, op: str, subscriptions: Sequence[Subscription], first_id: int) -> list[Command]:
        return [
            Command(
                orjson.dumps({"op": op, "req_id": str(number), "args": [_topic(one) for one in some]}).decode(),
                number,
                some,
            )
            for number, some in enumerate(chunks(subscriptions, self.socket.args), first_id)
        ]

    def ping(self) -> str:
        return '{"op":"ping"}'

    def decode(self, frame: str | bytes) -> list[Event]:
        try:
            message = self._read(frame)
            if type(message) is list:  # quotes, made on the way
                return message
            topic = message.get("topic")
            if topic is None:
                return [_answer(message)]
            if topic[:12] == _BOOK:
                return [self._quote(message)]
            subscription = _subscription(topic)
            if subscription is None:
                return [Notice(f"data of the topic {topic[:40]}, which nobody asked for")]
            rows = listed(message["data"])
            if subscription.kind == "trade":
                return rows_of(rows, self._trade, frame)
            found: list[Event] = []
            for row in rows:
                try:
                    row["symbol"] = subscription.symbol
                    row["timeframe"] = subscription.timeframe
                    found.append(self._kline(row))
                except MALFORMED as error:
                    found.append(bad_frame(error, frame))
            return found
        except MALFORMED as error:
            return [bad_frame(error, frame)]

    def _trade(self, row: dict[str, Any]) -> Trade:
        row["side"] = _SIDES[row["S"]]
        if self._inverse:
            row["v"] = as_number(row["v"]) / as_number(row["p"])
        made: Trade = _trade(row)
        return made

    def _quote(self, message: dict[str, Any]) -> Quote:
        """The first level of the book. It is a snapshot each time; a delta with one side says nothing of the other."""
        book = message["data"]
        bids, asks = book.get("b"), book.get("a")
        if not (bids and asks) and message.get("type") != "snapshot":
            raise ValueError(f"the {str(message.get('type'))[:20]} of a book with one side only")
        made = book_quote("Bybit", book["s"], bids, asks, message["ts"])
        return in_base(made) if self._inverse else made

    # -- REST --

    def instruments(self, symbols: Sequence[str]) -> list[Request]:
        params = {"category": self._category}
        if self.market_type == "SPOT":  # it gives all at once, and knows no limit
            return [Request(_INSTRUMENTS, params)]
        params["limit"] = "1000"
        # Those that are traded before their launch are listed when they are asked for, and not among the others.
        return [Request(_INSTRUMENTS, params), Request(_INSTRUMENTS, params | {"status": "PreLaunch"})]

    def decode_instruments(self, body: bytes) -> Instruments:
        with understood("the instruments of Bybit"):
            found = Instruments(set(), {})
            for row in listed(parsed(body)["result"]["list"]):
                symbol, status = str(row["symbol"]), str(row.get("status", "Trading"))
                if "baseCoin" in row:
                    found.pairs[symbol] = str(self._pair(row))
                if status in _TRADED:
                    found.trading.add(symbol)
                else:
                    found.halted[symbol] = status
            return found

    def _pair(self, row: Mapping[str, Any]) -> Pair:
        base, quote = str(row["baseCoin"]), str(row["quoteCoin"])
        if self.market_type == "SPOT":
            return Pair(base, quote)
        settle = str(row.get("settleCoin") or (base if self._inverse else quote))
        return Pair(base, quote, settle, delivery(row.get("deliveryTime", "")))

    def more_instruments(self, request: Request, body: bytes) -> Request | None:
        with understood("the instruments of Bybit"):
            cursor = parsed(body)["result"].get("nextPageCursor")
        if not cursor or cursor == request.params.get("cursor"):
            return None
        return replace(request, params={**request.params, "cursor": str(cursor)})

    def klines(self, symbol: str, timeframe: str, start: int, end: int, now: int | None = None) -> Request:
        return Request(
            "/v5/market/kline",
            {
                "category": self._category,
                "symbol": symbol,
                "interval": _INTERVALS[timeframe],
                "start": str(start),
                "end": str(end - 1),  # included
                "limit": str(self.rest.page),
            },
        )

    def decode_klines(self, body: bytes, symbol: str, timeframe: str) -> list[Kline]:
        volume, quote_volume = (6, 5) if self._inverse else (5, 6)

        def made(row: list[Any]) -> Kline:
            start = int(row[0])
            return _rest_kline(
                {
                    "symbol": symbol,
                    "timeframe": timeframe,
                    "open_ts": start,
                    "end_ts": last_ms(timeframe, start),
                    "open": row[1],
                    "high": row[2],
                    "low": row[3],
                    "close": row[4],
                    "volume": row[volume],
                    "quote_volume": row[quote_volume],
                }
            )

        with understood(f"the {timeframe} candles of {symbol}"):
            return sorted(usable(listed(parsed(body)["result"]["list"]), made), key=lambda one: one.open_ts)

    def trades(self, symbol: str, *, after_id: str | None = None, since: int | None = None) -> Request:
        return Request(
            "/v5/market/recent-trade",
            {"category": self._category, "symbol": symbol, "limit": str(self.rest.trades_page)},
        )

    def decode_trades(self, body: bytes, symbol: str) -> TradePage:
        def made(row: dict[str, Any]) -> Trade:
            return self._trade(
                {
                    "s": symbol,
                    "p": row["price"],
                    "v": row["size"],
                    "T": row["time"],
                    "i": row["execId"],
                    "S": row["side"],
                }
            )

        with understood(f"the trades of {symbol}"):
            found = usable(listed(parsed(body)["result"]["list"]), made)
            found.reverse()  # newest first; those of one moment stay in their order
            found.sort(key=lambda trade: trade.ts)
            return TradePage(found, None)

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Refusal | None:
        error = error_object(body)
        code = error.get("retCode", 0)
        detail = f"{str(error.get('retMsg', ''))[:300]} (code {code})" if code else ""
        if not 200 <= status < 300:
            made = refused(self.source, status, headers, body, detail)
            # 403 is this exchange's way to say that an address asked too often; it lasts 10 minutes.
            return replace(made, retry=made.retry or status == 403 or code in _LATER)
        if detail:
            return Refusal(f"Bybit refused: {detail}", code in _LATER, retry_after(headers))
        return None


def _topic(subscription: Subscription) -> str:
    if subscription.kind == "trade":
        return f"publicTrade.{subscription.symbol}"
    if subscription.kind == "quote":
        return f"orderbook.1.{subscription.symbol}"
    return f"kline.{_INTERVALS[str(subscription.timeframe)]}.{subscription.symbol}"


@lru_cache(maxsize=4096)
def _subscription(topic: str) -> Subscription | None:
    found = _TOPIC.fullmatch(topic)
    if found is None:
        return None
    if found["traded"]:
        return Subscription("trade", found["traded"])
    if found["quoted"]:
        return Subscription("quote", found["quoted"])
    timeframe = _TIMEFRAMES.get(found["interval"])
    return None if timeframe is None else Subscription("kline", found["symbol"], timeframe)


def _answer(message: dict[str, Any]) -> Event:
    """What an answer says: to a ping ({"op":"pong"} or ret_msg "pong"), or to a request."""
    if message.get("op") == "pong" or message.get("ret_msg") == "pong":
        return Alive()
    number = message.get("req_id")
    request_id = int(number) if isinstance(number, str) and number.isdecimal() and len(number) < 19 else None
    text = str(message.get("ret_msg", ""))[:300]
    if message.get("op") == "subscribe" and "already subscribed" in text:
        return Ack(request_id)
    if message.get("success") is False:
        topic = _TOPIC.search(text)
        named = _subscription(topic[0]) if topic else None
        bracketed = _BRACKETED.search(text)
        symbol = (
            (topic["symbol"] or topic["traded"] or topic["quoted"]) if topic else bracketed[1] if bracketed else None
        )
        return Refused(text or "refused", request_id, named, symbol=symbol)
    if message.get("op") in ("subscribe", "unsubscribe") and message.get("success") is True:
        return Ack(request_id)
    raise ValueError(f"neither data nor an answer: {', '.join(message) or 'nothing'} in it"[:200])
