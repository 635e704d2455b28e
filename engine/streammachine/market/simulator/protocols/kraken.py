"""Kraken's protocol: WebSocket v2 and the public REST. Facts: docs.kraken.com/api.

Candles are pushed on trades only and never say that they are closed. Numbers are JSON numbers. REST answers errors with
HTTP 200, keeps 720 candles, and cuts vwap off at the price's tick.
"""

from __future__ import annotations

import datetime
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

import orjson

from streammachine.market.model.timeframe import DAY, SECOND
from streammachine.market.simulator.tape.book import book_behind
from streammachine.market.simulator.tape.candles import UTC, Bar, Grid
from streammachine.market.simulator.tape.tape import TapeTrade, decimal_text, trimmed
from streammachine.market.simulator.venue.channels import Channel, TradeChannel, TradeFedChannel
from streammachine.market.simulator.venue.exchange import Exchange, number
from streammachine.market.simulator.venue.host import Subscriber
from streammachine.market.simulator.venue.rules import Rules
from streammachine.market.simulator.venue.session import ClientSession, texts_for_numbers
from streammachine.market.simulator.venue.topics import PushFrame, StreamTopic
from streammachine.market.simulator.venue.transport import Answer, HttpRequest

INTERVALS: Final[dict[int, tuple[str, Grid]]] = {
    1: ("1m", UTC["1m"]),
    5: ("5m", UTC["5m"]),
    15: ("15m", UTC["15m"]),
    30: ("30m", UTC["30m"]),
    60: ("1h", UTC["1h"]),
    240: ("4h", UTC["4h"]),
    1440: ("1d", UTC["1d"]),
    10080: ("1w", Grid(7 * DAY)),  # by the epoch: Thursdays
    21600: ("15d", Grid(15 * DAY)),
}
SNAPSHOT_CANDLES: Final = 10
SNAPSHOT_TRADES: Final = 50
NANOSECONDS: Final = 1_000_000  # of a millisecond
CURRENCY, TOKENIZED = "currency", "tokenized_asset"
OLD_NAMES: Final = {"BTC": "XBT", "DOGE": "XDG"}
LEGACY: Final = ("XBT", "ETH", "LTC", "XRP", "XDG")  # with USD and EUR the key is X...Z...


class KrakenExchange(Exchange):
    """Kraken."""

    name = "kraken"
    usual_rules = Rules(
        heartbeat=1.0,
        idle=60.0,
        connects=150,
        connects_within=600.0,
        weight=20,
        weight_within=20.0,
        refusals=1_000_000,
        recent=720,
        page=720,
    )
    paths = ("/v2", "/v2")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._pairs = {name: symbol for symbol in self.tape.markets for name in _names(symbol)}

    def native(self, symbol: str, market: str = "SPOT") -> str:
        return symbol

    # -- sockets --

    def accepts(self, request: HttpRequest) -> bool:
        return request.path in ("/v2", "/v2/public")

    def greet(self, session: ClientSession) -> None:
        session.write(_json(self._status(session, "online")))

    def _status(self, session: ClientSession, system: str) -> dict[str, object]:
        identity = 9_028_458_593_339_000_000 + self.seed * 1000 + session.number
        data = {"version": "2.0.10", "system": system, "api_version": "v2", "connection_id": identity}
        return {"channel": "status", "type": "update", "data": [data]}

    def message(self, session: ClientSession, text: str) -> None:
        try:
            request = orjson.loads(text)
        except orjson.JSONDecodeError:
            request = None
        if not isinstance(request, dict):
            self._refuse(session, {}, "Malformed request: invalid JSON")
            return
        method, params = request.get("method"), request.get("params") or {}
        if method == "ping":
            session.note("ping")
            self._reply(session, request, {"method": "pong", **self._times()})
        elif method not in ("subscribe", "unsubscribe") or not isinstance(params, dict):
            self._refuse(session, request, "Method(s) not found")
        elif params.get("channel") not in ("ohlc", "trade", "ticker"):
            self._refuse(session, request, "Channel name invalid")
        elif not isinstance(params.get("symbol"), list):
            self._refuse(session, request, "Symbol(s) not found")
        else:
            for symbol in params["symbol"]:
                self._one(session, request, method, params, str(symbol))

    def _one(
        self, session: ClientSession, request: dict[str, Any], method: str, params: dict[str, Any], native: str
    ) -> None:
        candles = params["channel"] == "ohlc"
        interval = params.get("interval", 1) if candles else 0
        if native not in self.tape.markets:
            self._refuse(session, request, f"Currency pair not supported {native}", native)
            return
        if candles and interval not in INTERVALS:
            self._refuse(session, request, "Interval not supported", native)
            return
        name = f"{params['channel']}-{interval}:{native}"
        result: dict[str, object] = {"channel": params["channel"], "symbol": native}
        if candles:
            result["interval"] = interval
        if method == "unsubscribe":
            if session.leave(name):
                session.note("unsubscribe", name)
                self._reply(session, request, {"method": method, "result": result, "success": True, **self._times()})
            else:
                self._refuse(session, request, "Subscription Not Found", native)
            return
        if name in session.channels:
            self._refuse(session, request, "Already subscribed", native)
            return
        timeframe, grid = INTERVALS[interval] if candles else (None, UTC["1m"])
        kind = "quote" if params["channel"] == "ticker" else "kline"
        topic = StreamTopic(name, native, native, "SPOT", timeframe, grid, str(interval), kind)
        session.options[name] = params.get("snapshot", True)
        result["snapshot"] = params.get("snapshot", True)
        if candles:
            result["warnings"] = ["timestamp is deprecated, use interval_begin"]
        told = {"method": method, "result": result, "success": True}
        session.subscribe(
            topic,
            lambda: self._reply(session, request, {**told, **self._times()}),
            lambda _: self._refuse(session, request, f"Currency pair not supported {native}", native),
        )

    def _reply(self, session: ClientSession, request: dict[str, Any], told: dict[str, object]) -> None:
        if "req_id" in request:
            told["req_id"] = request["req_id"]
        session.write(_json(told))

    def _refuse(self, session: ClientSession, request: dict[str, Any], reason: str, symbol: str | None = None) -> None:
        session.note("reject", reason)
        told: dict[str, object] = {
            "error": reason,
            "method": request.get("method", ""),
            "success": False,
            **self._times(),
        }
        if symbol is not None:
            told["symbol"] = symbol
        self._reply(session, request, told)

    def _times(self) -> dict[str, object]:
        moment = _time(self.now(), 6)
        return {"time_in": moment, "time_out": moment}

    def channel(self, topic: StreamTopic) -> Channel:
        if topic.kind == "quote":
            return TradeChannel(self, topic)
        return KrakenTrades(self, topic) if topic.timeframe is None else KrakenCandles(self, topic)

    def candle_update(self, kind: str, topic: StreamTopic, bars: list[Bar]) -> str:
        """A push of candles: kind "snapshot" or "update"."""
        rows = [
            {
                "symbol": topic.native,
                "open": _number(bar.price_text(bar.open)),
                "high": _number(bar.price_text(bar.high)),
                "low": _number(bar.price_text(bar.low)),
                "close": _number(bar.price_text(bar.close)),
                "trades": bar.count,
                "volume": _number(bar.volume_text()),
                "vwap": _number(vwap(bar)),
                "interval_begin": _time(bar.start, 9),
                "interval": int(topic.interval),
                "timestamp": _time(bar.end, 6),
            }
            for bar in bars
        ]
        return _json({"channel": "ohlc", "type": kind, "timestamp": _time(self.now(), 9), "data": rows})

    def trade_update(self, kind: str, topic: StreamTopic, trades: list[TapeTrade]) -> str:
        """A push of trades: kind "snapshot" or "update"."""
        rows = [
            {
                "symbol": topic.native,
                "side": trade.side,
                "price": _number(trade.price),
                "qty": _number(trade.quantity),
                "ord_type": "market",
                "trade_id": trade.id,
                "timestamp": _time(trade.ts, 6),
            }
            for trade in trades
        ]
        return _json({"channel": "trade", "type": kind, "data": rows})

    def trade_frames(self, topic: StreamTopic, trades: list[TapeTrade]) -> Iterable[tuple[str, str]]:
        """The ticker (of quotes: the other channels have pushes of their own)."""
        for trade in trades:
            yield self._ticker("update", topic, trade), trimmed(book_behind(trade).bid)

    def trade_greeting(self, topic: StreamTopic) -> Iterable[PushFrame]:
        last = self.tape.last_before(topic.symbol, self.now() + 1)
        if last is not None:
            yield PushFrame(topic, self._ticker("snapshot", topic, last), trimmed(book_behind(last).bid))

    def _ticker(self, kind: str, topic: StreamTopic, trade: TapeTrade) -> str:
        book = book_behind(trade)
        row = {
            "symbol": topic.native,
            "bid": _number(book.bid),
            "bid_qty": _number(book.bid_size),
            "ask": _number(book.ask),
            "ask_qty": _number(book.ask_size),
            "last": _number(trade.price),
            "timestamp": _time(trade.ts, 6),
        }
        return _json({"channel": "ticker", "type": kind, "data": [row]})

    def heartbeat_frame(self) -> str:
        return '{"channel":"heartbeat"}'

    def announce(self, session: ClientSession) -> None:
        session.write(_json(self._status(session, "maintenance")))

    def unknown_frame(self, session: ClientSession) -> str:
        return _json({"channel": "something_new", "type": "update", "data": [{"x": [1, None]}]})

    def error_frame(self, session: ClientSession) -> str:
        return _json({"error": "EGeneral:Internal error", "method": "subscribe", "success": False, **self._times()})

    def repeat_snapshot(self, session: ClientSession) -> None:
        for channel in list(session.channels.values()):
            channel.greet(session, early=True)

    def swap_numbers(self, text: str) -> str:
        return texts_for_numbers(text)

    # -- REST --

    def rest(self, request: HttpRequest) -> Answer | None:
        calls: dict[str, Callable[[HttpRequest], Answer]] = {
            "/0/public/OHLC": self._ohlc,
            "/0/public/Trades": self._trades,
            "/0/public/AssetPairs": self._asset_pairs,
            "/0/public/Time": lambda _: _rest_reply({"unixtime": self.now() // 1000, "rfc1123": ""}),
            "/0/public/SystemStatus": lambda _: _rest_reply({"status": "online", "timestamp": _time(self.now(), 0)}),
        }
        call = calls.get(request.path)
        if call is None:
            return None
        try:
            return call(request)
        except ValueError:
            return _problem("EGeneral:Invalid arguments")

    def not_found(self, request: HttpRequest) -> Answer:
        return _problem("EGeneral:Unknown method")

    def _pair(self, request: HttpRequest) -> str | None:
        """The pair that is asked for; None: there is none in this asset class."""
        symbol = self._pairs.get(request.query.get("pair", ""))
        is_of_it = symbol is not None and _asset_class(symbol) == request.query.get("asset_class", CURRENCY)
        return symbol if is_of_it else None

    def _ohlc(self, request: HttpRequest) -> Answer:
        query = request.query
        symbol = self._pair(request)
        if symbol is None:
            return _problem("EQuery:Unknown asset pair")
        interval = number(query.get("interval"), 1)
        if interval not in INTERVALS:
            return _problem("EGeneral:Invalid arguments:interval")
        timeframe, grid = INTERVALS[interval]
        running = grid.floor(self.now())
        start = grid.shift(running, -(self.rules.recent or 720))
        if "since" in query:
            start = max(start, number(query["since"], 0) * SECOND + 1)
        bars = self.bars(symbol, timeframe, start, self.now() + 1, grid)
        rows = [
            [
                bar.start // 1000,
                *(bar.price_text(value) for value in (bar.open, bar.high, bar.low, bar.close)),
                vwap(bar),
                _eight(bar.volume_text()),
                bar.count,
            ]
            for bar in bars
        ]
        closed = [bar.start for bar in bars if bar.start < running]
        last = closed[-1] if closed else grid.shift(running, -1)
        return _rest_reply({_names(symbol)[0]: rows, "last": last // 1000})

    def _trades(self, request: HttpRequest) -> Answer:
        query = request.query
        symbol = self._pair(request)
        if symbol is None:
            return _problem("EQuery:Unknown asset pair")
        limit = min(max(number(query.get("count"), self.rules.trades_page), 1), self.rules.trades_page)
        until = self.known_until(symbol)
        if "since" in query:
            since = _nanoseconds(query["since"])
            found = self._timed(self.tape.rows(symbol, since // NANOSECONDS, until))
            rows = list(itertools.islice((row for row in found if row[0] > since), limit))
        else:
            since = 0
            last = self.tape.last_before(symbol, until)
            first = 1 if last is None else max(last.id - limit - 100, 1)
            rows = list(deque(self._timed(self.tape.rows_from_id(symbol, first, until)), limit))
        told = [
            [
                trade.price,
                _eight(trade.quantity),
                _number(decimal_text(moment, 9)),
                trade.side[0],
                "m",
                "",
                trade.id,
            ]
            for moment, trade in rows
        ]
        return _rest_reply({_names(symbol)[0]: told, "last": str(rows[-1][0] if rows else since)})

    def _timed(self, trades: Iterable[TapeTrade]) -> Iterable[tuple[int, TapeTrade]]:
        """Each trade with its time in nanoseconds; those of one millisecond follow each other by a microsecond."""
        step = 0 if self.rules.coarse_times else 1000
        for ts, group in itertools.groupby(trades, key=lambda trade: trade.ts):
            for index, trade in enumerate(group):
                yield ts * NANOSECONDS + index * step, trade

    def _asset_pairs(self, request: HttpRequest) -> Answer:
        wanted = [name for name in request.query.get("pair", "").split(",") if name]
        if any(name not in self._pairs for name in wanted):
            return _problem("EQuery:Unknown asset pair")
        symbols = list(dict.fromkeys(self._pairs[name] for name in wanted)) or list(self.tape.markets)
        found = {}
        for symbol in symbols:
            key, altname, wsname = _names(symbol)[:3]
            base, _, quote = symbol.partition("/")
            if _asset_class(symbol) != request.query.get("aclass_base", CURRENCY):
                if wanted:
                    return _problem("EQuery:Unknown asset pair")
                continue
            status = self.status(symbol, "online", "cancel_only")
            parts = {"aclass_base": _asset_class(symbol), "base": OLD_NAMES.get(base, base), "quote": quote}
            found[key] = {"altname": altname, "wsname": wsname, **parts, "status": status}
        return _rest_reply(found)

    def refusal(self, status: int, after: float) -> Answer:
        if status in (418, 429):
            return _problem("EGeneral:Too many requests")
        if status >= 1000:
            return _problem("EService:Unavailable")
        return Answer(b"<html><body>simulated</body></html>", status, {"Content-Type": "text/html"})


class KrakenCandles(TradeFedChannel):
    """Candles of a pair: a snapshot of the last ten, then an update with every trade."""

    def greet(self, session: Subscriber, *, early: bool = False) -> None:
        exchange, topic = self.exchange, self.topic
        if not isinstance(exchange, KrakenExchange) or not (early or session.options.get(topic.name)):
            return
        now = exchange.now()
        start = topic.grid.shift(topic.grid.floor(now), 1 - SNAPSHOT_CANDLES)
        bars = exchange.candles.range(topic.symbol, topic.grid, start, now + 1, now + 1)
        if bars:
            text = exchange.candle_update("snapshot", topic, bars)
            session.deliver(PushFrame(topic, text, trimmed(bars[-1].price_text(bars[-1].close))))

    def feed(self, trades: list[TapeTrade]) -> None:
        exchange, topic = self.exchange, self.topic
        if not isinstance(exchange, KrakenExchange):
            return
        for start in dict.fromkeys(topic.grid.floor(trade.ts) for trade in trades):
            bar = exchange.candles.bar(topic.symbol, topic.grid, start, exchange.now() + 1)
            if bar is not None:
                text = exchange.candle_update("update", topic, [bar])
                self.publish(PushFrame(topic, text, trimmed(bar.price_text(bar.close))))


class KrakenTrades(TradeFedChannel):
    """Trades of a pair: a snapshot of the last fifty, then updates."""

    def greet(self, session: Subscriber, *, early: bool = False) -> None:
        exchange, topic = self.exchange, self.topic
        if not isinstance(exchange, KrakenExchange) or not (early or session.options.get(topic.name)):
            return
        until = exchange.now() + 1
        last = exchange.tape.last_before(topic.symbol, until)
        if last is not None:
            first = max(last.id - SNAPSHOT_TRADES + 1, 1)
            trades = list(exchange.tape.rows_from_id(topic.symbol, first, until))
            session.deliver(PushFrame(topic, exchange.trade_update("snapshot", topic, trades), trimmed(last.price)))

    def feed(self, trades: list[TapeTrade]) -> None:
        if isinstance(self.exchange, KrakenExchange):
            text = self.exchange.trade_update("update", self.topic, trades)
            self.publish(PushFrame(self.topic, text, trimmed(trades[-1].price)))


def vwap(bar: Bar) -> str:
    """The volume-weighted average price, cut off (not rounded) at the price's tick; "0.0" without a trade."""
    return bar.price_text(bar.quote // bar.volume) if bar.volume else "0.0"


def _asset_class(symbol: str) -> str:
    """Of a pair: shares (AAPLx) are apart from the currencies."""
    base = symbol.partition("/")[0]
    return TOKENIZED if base[:-1].isupper() and base.endswith("x") else CURRENCY


def _names(symbol: str) -> list[str]:
    """What REST calls a pair: the result's key, the altname, the wsname, and what else it takes."""
    base, _, quote = symbol.partition("/")
    old = OLD_NAMES.get(base, base)
    altname = old + quote
    key = f"X{old}Z{quote}" if old in LEGACY and quote in ("USD", "EUR") else altname
    return [key, altname, f"{old}/{quote}", base + quote, symbol]


def _nanoseconds(text: str) -> int:
    """``since`` of Trades: nanoseconds, or (small numbers) seconds."""
    value = int(text)
    return value if value > 10**14 else value * 10**9


def _time(ms: int, digits: int) -> str:
    """RFC 3339 with so many digits of a second."""
    moment = datetime.datetime.fromtimestamp(ms // 1000, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    part = f".{ms % 1000:03d}{'0' * max(digits - 3, 0)}" if digits else ""
    return f"{moment}{part}Z"


def _number(text: str) -> orjson.Fragment:
    return orjson.Fragment(trimmed(text).encode())


def _eight(text: str) -> str:
    whole, _, part = text.partition(".")
    return f"{whole}.{part.ljust(8, '0')}"


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def _rest_reply(result: object) -> Answer:
    return Answer(orjson.dumps({"error": [], "result": result}))


def _problem(text: str) -> Answer:
    """An error: HTTP 200, and the text inside."""
    return Answer(orjson.dumps({"error": [text]}))
