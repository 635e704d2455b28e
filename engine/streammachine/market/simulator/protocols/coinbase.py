"""Coinbase Advanced Trade's protocol: the public socket and the public REST. Facts: docs.cdp.coinbase.com, "Advanced
Trade APIs", "WebSocket Channels" and "Public market data".

Every message of a connection bears the next ``sequence_num``. Candles are of five minutes, once a second where there
was a trade, and never say that they are closed; trades come four times a second, the newest first, with the maker's
side. Intervals without a trade have no candle, on the socket and in REST.
"""

from __future__ import annotations

import datetime
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

import orjson

from streammachine.market.simulator.tape.book import book_behind
from streammachine.market.simulator.tape.candles import UTC, Bar
from streammachine.market.simulator.tape.tape import TapeTrade, trimmed
from streammachine.market.simulator.venue.channels import Channel, TradeChannel, TradeFedChannel
from streammachine.market.simulator.venue.exchange import Exchange, number
from streammachine.market.simulator.venue.host import Host, Subscriber
from streammachine.market.simulator.venue.rules import Rules
from streammachine.market.simulator.venue.session import POLICY, ClientSession
from streammachine.market.simulator.venue.timers import ScheduledCall
from streammachine.market.simulator.venue.topics import PushFrame, StreamTopic
from streammachine.market.simulator.venue.transport import Answer, HttpRequest

GRANULARITIES: Final = {
    "ONE_MINUTE": "1m",
    "FIVE_MINUTE": "5m",
    "FIFTEEN_MINUTE": "15m",
    "THIRTY_MINUTE": "30m",
    "ONE_HOUR": "1h",
    "TWO_HOUR": "2h",
    "FOUR_HOUR": "4h",
    "SIX_HOUR": "6h",
    "ONE_DAY": "1d",
}
FIRST_SUBSCRIBE: Final = 5.0  # seconds within which a new connection must ask for something
SNAPSHOT_CANDLES: Final = 20
SNAPSHOT_TRADES: Final = 50
TRADES_EVERY: Final = 250  # milliseconds
CANDLES_EVERY: Final = 1000
BASE: Final = "/api/v3/brokerage/market/products"
MAKER: Final = {"buy": "SELL", "sell": "BUY"}  # by what the taker did


class CoinbaseExchange(Exchange):
    """Coinbase Advanced Trade."""

    name = "coinbase"
    usual_rules = Rules(
        idle=75.0,
        messages=8,
        connects=8,
        connects_within=1.0,
        weight=10,
        weight_within=1.0,
        refusals=1_000_000,
        page=350,
        default_page=350,
        trades_page=1000,
    )

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._names = {self.native(symbol): symbol for symbol in self.tape.markets}

    def native(self, symbol: str, market: str = "SPOT") -> str:
        return symbol.replace("/", "-")

    # -- sockets --

    def accepts(self, request: HttpRequest) -> bool:
        return request.path in ("", "/")

    def greet(self, session: ClientSession) -> None:
        session.options |= {"sequence": 0, "asked": False, "heartbeats": False, "beats": 0}

        def check() -> None:
            if not session.options["asked"] and session.connection.is_open:
                session.note("kill", "no subscription within 5 s")
                session.close(POLICY, "no subscribe message received")

        self.later(FIRST_SUBSCRIBE, check)

    def message(self, session: ClientSession, text: str) -> None:
        try:
            request = orjson.loads(text)
            operation, channel = request["type"], request["channel"]
            products = [str(name) for name in request.get("product_ids") or ()]
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            self._refuse(session, "failed to parse the message")
            return
        if operation not in ("subscribe", "unsubscribe"):
            self._refuse(session, f"invalid type {operation}")
        elif channel == "heartbeats":
            session.options["asked"] = True
            self._set_heartbeats(session, wanted=operation == "subscribe")
        elif channel not in ("candles", "market_trades", "ticker"):
            self._refuse(session, f"invalid channel {channel}")
        elif not products:
            self._refuse(session, "no product ids provided")
        elif operation == "unsubscribe":
            for product in products:
                session.leave(f"{channel}:{product}")
                session.note("unsubscribe", f"{channel}:{product}")
            self._tell_subscriptions(session, [])
        else:
            session.options["asked"] = True
            self._subscribe(session, channel, products)

    def _subscribe(self, session: ClientSession, channel: str, products: list[str]) -> None:
        for product in products:
            if product not in self._names:
                self._refuse(session, f"{product} is not a valid product")
                return
        topics = [self._topic(channel, product) for product in products]
        session.subscribe_all(
            topics,
            lambda: self._tell_subscriptions(session, [topic.name for topic in topics]),
            lambda reason: self._refuse(session, f"{reason}: {products[0]}"),
        )

    def _topic(self, channel: str, product: str) -> StreamTopic:
        name, symbol = f"{channel}:{product}", self._names[product]
        if channel == "market_trades":
            return StreamTopic(name, symbol, product, "SPOT", kind="trade")
        if channel == "ticker":
            return StreamTopic(name, symbol, product, "SPOT", kind="quote")
        return StreamTopic(name, symbol, product, "SPOT", "5m", UTC["5m"], "FIVE_MINUTE")

    def _tell_subscriptions(self, session: ClientSession, more: list[str]) -> None:
        """All that this connection gets now."""
        found: dict[str, list[str]] = {}
        for name in dict.fromkeys((*session.channels, *more)):
            channel, _, product = name.partition(":")
            found.setdefault(channel, []).append(product)
        if session.options["heartbeats"]:
            found["heartbeats"] = ["heartbeats"]
        self._write(session, self._envelope("subscriptions", [{"subscriptions": found}]))

    def _refuse(self, session: ClientSession, reason: str) -> None:
        session.note("reject", reason)
        session.write(_json({"type": "error", "message": reason}))

    def _set_heartbeats(self, session: ClientSession, *, wanted: bool) -> None:
        begun = session.options["heartbeats"]
        session.options["heartbeats"] = wanted
        self._tell_subscriptions(session, [])
        if wanted and not begun:
            self.later(1.0, lambda: self._beat(session))

    def _beat(self, session: ClientSession) -> None:
        if not session.options["heartbeats"] or not session.connection.is_open:
            return
        session.options["beats"] = int(str(session.options["beats"])) + 1
        self._write(session, self.heartbeat_frame(session))
        self.later(1.0, lambda: self._beat(session))

    def heartbeat_frame(self, session: ClientSession | None = None) -> str:
        moment = _time(self.now(), 6).replace("T", " ").replace("Z", " +0000 UTC m=+91717.5")
        beats = 1 if session is None else session.options["beats"]
        return self._envelope("heartbeats", [{"current_time": moment, "heartbeat_counter": str(beats)}])

    def _write(self, session: ClientSession, text: str) -> None:
        session.write(self._numbered(session, text))

    def wrap(self, session: ClientSession, push: PushFrame) -> str:
        return self._numbered(session, push.text)

    def _numbered(self, session: ClientSession, text: str) -> str:
        """The message with the connection's next number."""
        sequence = int(str(session.options["sequence"]))
        session.options["sequence"] = sequence + 1
        return text.replace('"sequence_num":0', f'"sequence_num":{sequence}', 1)

    def _envelope(self, channel: str, events: list[dict[str, object]]) -> str:
        head = {"channel": channel, "client_id": "", "timestamp": _time(self.now(), 9), "sequence_num": 0}
        return _json({**head, "events": events})

    def channel(self, topic: StreamTopic) -> Channel:
        if topic.kind == "quote":
            return TradeChannel(self, topic)
        return CoinbaseTrades(self, topic) if topic.timeframe is None else CoinbaseCandles(self, topic)

    def candles_push(self, kind: str, topic: StreamTopic, bars: list[Bar]) -> PushFrame:
        """A push of candles, the newest first: kind "snapshot" or "update"."""
        rows = [_candle(bar) | {"product_id": topic.native} for bar in reversed(bars)]
        text = self._envelope("candles", [{"type": kind, "candles": rows}])
        return PushFrame(topic, text, trimmed(bars[-1].price_text(bars[-1].close)))

    def trades_push(self, kind: str, topic: StreamTopic, trades: list[TapeTrade]) -> PushFrame:
        """A push of trades, the newest first: kind "snapshot" or "update"."""
        rows = [_trade(trade) | {"product_id": topic.native} for trade in reversed(trades)]
        text = self._envelope("market_trades", [{"type": kind, "trades": rows}])
        return PushFrame(topic, text, trimmed(trades[-1].price))

    def trade_frames(self, topic: StreamTopic, trades: list[TapeTrade]) -> Iterable[tuple[str, str]]:
        """The ticker (of quotes: trades have pushes of their own)."""
        for trade in trades:
            yield self._ticker_push("update", topic, trade), trimmed(book_behind(trade).bid)

    def trade_greeting(self, topic: StreamTopic) -> Iterable[PushFrame]:
        last = self.tape.last_before(topic.symbol, self.now() + 1)
        if last is not None:
            yield PushFrame(topic, self._ticker_push("snapshot", topic, last), trimmed(book_behind(last).bid))

    def _ticker_push(self, kind: str, topic: StreamTopic, trade: TapeTrade) -> str:
        book, price = book_behind(trade), trimmed(trade.price)
        best = {
            "best_bid": book.bid,
            "best_bid_quantity": book.bid_size,
            "best_ask": book.ask,
            "best_ask_quantity": book.ask_size,
        }
        day = {"volume_24_h": "1", "low_24_h": price, "high_24_h": price, "price_percent_chg_24_h": "0"}
        row = {"type": "ticker", "product_id": topic.native, "price": price, **day, **best}
        head = {"channel": "ticker", "client_id": "", "timestamp": _time(trade.ts, 9), "sequence_num": 0}
        return _json({**head, "events": [{"type": kind, "tickers": [row]}]})

    def unknown_frame(self, session: ClientSession) -> str:
        return self._numbered(session, self._envelope("something_new", [{"type": "update", "x": [1, None]}]))

    def error_frame(self, session: ClientSession) -> str:
        return _json({"type": "error", "message": "simulated"})

    # -- REST --

    def rest(self, request: HttpRequest) -> Answer | None:
        if request.path == "/api/v3/brokerage/time":
            now = self.now()
            return Answer(
                orjson.dumps({"iso": _time(now, 0), "epochSeconds": str(now // 1000), "epochMillis": str(now)})
            )
        if request.path == BASE:
            return Answer(orjson.dumps(self._products()))
        product, _, what = request.path.removeprefix(f"{BASE}/").partition("/")
        calls: dict[str, Callable[[HttpRequest, str, str], object]] = {
            "": lambda _, product, symbol: self._product(product, symbol),
            "candles": self._candles,
            "ticker": self._ticker,
        }
        if not request.path.startswith(f"{BASE}/") or what not in calls:
            return None
        if product not in self._names:
            return _problem(404, "NOT_FOUND", "valid product_id is required")
        try:
            return Answer(orjson.dumps(calls[what](request, product, self._names[product])))
        except (KeyError, ValueError) as error:
            return _problem(400, "INVALID_ARGUMENT", str(error))

    def _products(self) -> object:
        found = [self._product(name, symbol) for name, symbol in self._names.items()]
        return {"products": found, "num_products": len(found)}

    def _product(self, product: str, symbol: str) -> dict[str, object]:
        status = self.status(symbol, "online", "delisted")
        base, _, quote = symbol.partition("/")
        return {
            "product_id": product,
            "base_increment": "0.00000001",
            "quote_increment": "0.01",
            "is_disabled": status == "delisted",
            "status": status,
            "cancel_only": status == "cancel_only",
            "trading_disabled": status in ("delisted", "offline"),
            "view_only": False,
            "product_type": "SPOT",
            "quote_currency_id": quote,
            "base_currency_id": base,
            "alias": "",
            "alias_to": [],
        }

    def _candles(self, request: HttpRequest, product: str, symbol: str) -> object:
        query, timeframe = request.query, GRANULARITIES.get(request.query.get("granularity", ""))
        if timeframe is None:
            raise ValueError("granularity is invalid")
        grid = UTC[timeframe]
        start, end = int(query["start"]) * 1000, int(query["end"]) * 1000
        if (end - start) // grid.step >= self.rules.page:
            raise ValueError("number of candles requested should be less than 350")
        limit = min(max(number(query.get("limit"), self.rules.page), 1), self.rules.page)
        start = grid.ceil(max(start, grid.floor(self.tape.listed(symbol))))
        bars = [bar for bar in self.bars(symbol, timeframe, start, min(end, self.now()) + 1, grid) if bar.count]
        return {"candles": [_candle(bar) for bar in reversed(bars[-limit:])]}

    def _ticker(self, request: HttpRequest, product: str, symbol: str) -> object:
        query, until = request.query, self.known_until(symbol)
        limit = min(max(number(query.get("limit"), 100), 1), self.rules.trades_page)
        if "end" in query:
            until = min(until, int(query["end"]) * 1000 + 1)
        if "start" in query:
            rows = list(deque(self.tape.rows(symbol, int(query["start"]) * 1000, until), limit))
        else:
            last = self.tape.last_before(symbol, until)
            first = 1 if last is None else max(last.id - limit + 1, 1)
            rows = list(itertools.islice(self.tape.rows_from_id(symbol, first, until), limit))
        told = [_trade(trade) | {"product_id": product, "bid": "", "ask": ""} for trade in reversed(rows)]
        return {"trades": told, "best_bid": "", "best_ask": ""}

    def refusal(self, status: int, after: float) -> Answer:
        if status in (418, 429):
            return _problem(status, "RATE_LIMIT_EXCEEDED", "too many requests")
        return Answer(b"<html><body>simulated</body></html>", status, {"Content-Type": "text/html"})

    def not_found(self, request: HttpRequest) -> Answer:
        return _problem(404, "NOT_FOUND", "not found")


class Batched(TradeFedChannel):
    """What comes of trades is pushed together, on a grid of the exchange's time."""

    every = CANDLES_EVERY

    def __init__(self, exchange: Host, topic: StreamTopic) -> None:
        super().__init__(exchange, topic)
        self._collected: list[TapeTrade] = []
        self._timer: ScheduledCall | None = None

    def feed(self, trades: list[TapeTrade]) -> None:
        self._collected += trades
        if self._timer is None:
            moment = self.exchange.now() // self.every * self.every + self.every
            self._timer = self.exchange.at(moment, self._flush)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _flush(self) -> None:
        trades, self._collected, self._timer = self._collected, [], None
        self.push(trades)

    def push(self, trades: list[TapeTrade]) -> None:
        """Push what these trades make."""
        raise NotImplementedError


class CoinbaseCandles(Batched):
    """The candles of a product: a snapshot of the last ones, then those that trades changed."""

    def greet(self, session: Subscriber, *, early: bool = False) -> None:
        exchange, topic = self.exchange, self.topic
        if not isinstance(exchange, CoinbaseExchange):
            return
        now = exchange.now()
        start = topic.grid.shift(topic.grid.floor(now), 1 - SNAPSHOT_CANDLES)
        found = exchange.candles.range(topic.symbol, topic.grid, start, now + 1, now + 1)
        bars = [bar for bar in found if bar.count]
        if bars:
            session.deliver(exchange.candles_push("snapshot", topic, bars))

    def push(self, trades: list[TapeTrade]) -> None:
        exchange, topic = self.exchange, self.topic
        if not isinstance(exchange, CoinbaseExchange):
            return
        starts = dict.fromkeys(topic.grid.floor(trade.ts) for trade in trades)
        until = trades[-1].ts + 1
        found = (exchange.candles.bar(topic.symbol, topic.grid, start, until) for start in starts)
        bars = [bar for bar in found if bar is not None]
        if bars:
            self.publish(exchange.candles_push("update", topic, bars))


class CoinbaseTrades(Batched):
    """The trades of a product: a snapshot of the last ones, then updates."""

    every = TRADES_EVERY

    def greet(self, session: Subscriber, *, early: bool = False) -> None:
        exchange, topic = self.exchange, self.topic
        if not isinstance(exchange, CoinbaseExchange):
            return
        until = exchange.now() + 1
        last = exchange.tape.last_before(topic.symbol, until)
        if last is not None:
            first = max(last.id - SNAPSHOT_TRADES + 1, 1)
            trades = list(exchange.tape.rows_from_id(topic.symbol, first, until))
            session.deliver(exchange.trades_push("snapshot", topic, trades))

    def push(self, trades: list[TapeTrade]) -> None:
        if isinstance(self.exchange, CoinbaseExchange):
            self.publish(self.exchange.trades_push("update", self.topic, trades))


def _candle(bar: Bar) -> dict[str, object]:
    opened, high, low, close = (trimmed(bar.price_text(value)) for value in (bar.open, bar.high, bar.low, bar.close))
    prices = {"low": low, "high": high, "open": opened, "close": close}
    return {"start": str(bar.start // 1000), **prices, "volume": trimmed(bar.volume_text())}


def _trade(trade: TapeTrade) -> dict[str, object]:
    price, size = trimmed(trade.price), trimmed(trade.quantity)
    named = {"trade_id": str(trade.id), "price": price, "size": size}
    return {**named, "time": _time(trade.ts, 6), "side": MAKER[trade.side]}


def _time(ms: int, digits: int) -> str:
    """RFC 3339 with so many digits of a second."""
    moment = datetime.datetime.fromtimestamp(ms // 1000, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    part = f".{ms % 1000:03d}{'0' * max(digits - 3, 0)}" if digits else ""
    return f"{moment}{part}Z"


def _problem(status: int, kind: str, text: str) -> Answer:
    return Answer(orjson.dumps({"error": kind, "error_details": text, "message": text}), status)


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
