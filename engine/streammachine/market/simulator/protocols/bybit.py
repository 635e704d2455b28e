"""Bybit v5's protocol: spot, linear and inverse. Facts: bybit-exchange.github.io/docs/v5.

One socket path for each kind of market, /v5/public/{spot,linear,inverse}. Candles are pushed about once a second, with
``confirm`` at the end; REST gives the newest first, start and end included.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, Final

import orjson

from streammachine.market.simulator.tape.book import book_behind
from streammachine.market.simulator.tape.candles import UTC, Bar, Grid
from streammachine.market.simulator.tape.tape import TapeTrade, trimmed
from streammachine.market.simulator.venue.exchange import Exchange, number
from streammachine.market.simulator.venue.rules import Rules
from streammachine.market.simulator.venue.session import ClientSession
from streammachine.market.simulator.venue.topics import PushFrame, StreamTopic
from streammachine.market.simulator.venue.transport import Answer, HttpRequest

INTERVALS: Final[dict[str, tuple[str, Grid]]] = {
    **{str(n): (name, UTC[name]) for n, name in ((1, "1m"), (3, "3m"), (5, "5m"), (15, "15m"), (30, "30m"))},
    **{str(n * 60): (f"{n}h", UTC[f"{n}h"]) for n in (1, 2, 4, 6, 12)},
    "D": ("1d", UTC["1d"]),
    "W": ("1w", UTC["1w"]),
    "M": ("1M", UTC["1M"]),
}
CATEGORIES: Final = {"spot": "SPOT", "linear": "LINEAR", "inverse": "INVERSE"}
FIRST_ID: Final = 2_290_000_000_000_000_000
ARGS_LENGTH: Final = 21_000


class BybitExchange(Exchange):
    """Bybit."""

    name = "bybit"
    usual_rules = Rules(
        idle=600.0,
        args=10,
        connects=500,
        weight=600,
        weight_within=5.0,
        refusals=1_000_000,
        page=1000,
        default_page=200,
        trades_page=60,
    )
    paths = ("/v5/public", "/v5/public")
    limit_status = 403

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._names = {
            (market, self.native(symbol, market)): symbol
            for market in CATEGORIES.values()
            for symbol in self.tape.markets
        }

    def native(self, symbol: str, market: str = "SPOT") -> str:
        base, _, quote = symbol.partition("/")
        return f"{base}USD" if market == "INVERSE" else base + quote

    # -- sockets --

    def accepts(self, request: HttpRequest) -> bool:
        return request.path.startswith("/v5/public/") and request.path.rpartition("/")[2] in CATEGORIES

    def greet(self, session: ClientSession) -> None:
        session.options["market"] = CATEGORIES[session.request.path.rpartition("/")[2]]
        session.options["id"] = f"d9av{self.seed:x}oaae41ai44n-{session.number}"

    def message(self, session: ClientSession, text: str) -> None:
        try:
            request = orjson.loads(text)
        except orjson.JSONDecodeError:
            request = None
        if not isinstance(request, dict):
            self._reply(session, {}, success=False, text="error:json decode error")
            return
        operation, names = request.get("op"), request.get("args")
        spot = session.options["market"] == "SPOT"
        if operation == "ping":
            session.note("ping")
            self._reply(session, request, success=True, text="pong")
        elif operation not in ("subscribe", "unsubscribe") or not isinstance(names, list) or not names:
            self._reply(session, request, success=False, text=f"error:request,op:{operation}")
        elif (spot and self.rules.args is not None and len(names) > self.rules.args) or len(text) > ARGS_LENGTH:
            self._reply(session, request, success=False, text=f"args size >{self.rules.args}")
        elif operation == "unsubscribe":
            for name in names:
                session.leave(str(name))
                session.note("unsubscribe", str(name))
            self._reply(session, request, success=True, text="unsubscribe" if spot else "")
        else:
            self._subscribe(session, request, [str(name) for name in names])

    def _subscribe(self, session: ClientSession, request: dict[str, Any], names: list[str]) -> None:
        market = str(session.options["market"])
        topics = [self._topic(name, market) for name in names]
        wrong = [name for name, topic in zip(names, topics, strict=True) if topic is None]
        if wrong:
            self._reply(session, request, success=False, text=f"Invalid topic: {','.join(wrong)}")
            return
        session.subscribe_all(
            [topic for topic in topics if topic is not None],
            lambda: self._reply(session, request, success=True, text="subscribe" if market == "SPOT" else ""),
            lambda reason: self._reply(session, request, success=False, text=reason),
        )

    def _reply(self, session: ClientSession, request: dict[str, Any], *, success: bool, text: str) -> None:
        if not success:
            session.note("reject", text)
        told = {"success": success, "ret_msg": text, "conn_id": session.options["id"]}
        session.write(_json({**told, "req_id": request.get("req_id", ""), "op": request.get("op", "")}))

    def _topic(self, name: str, market: str) -> StreamTopic | None:
        parts = name.split(".")
        symbol = self._names.get((market, parts[-1]))
        if symbol is None:
            return None
        if parts[0] == "publicTrade" and len(parts) == 2:
            return StreamTopic(name, symbol, parts[1], market, kind="trade")
        if parts[:2] == ["orderbook", "1"] and len(parts) == 3:
            return StreamTopic(name, symbol, parts[2], market, kind="quote")
        if parts[0] == "kline" and len(parts) == 3 and parts[1] in INTERVALS:
            timeframe, grid = INTERVALS[parts[1]]
            return StreamTopic(name, symbol, parts[2], market, timeframe, grid, parts[1])
        return None

    def candle_frame(self, topic: StreamTopic, bar: Bar, *, closing: bool) -> str:
        now = self.now()
        opened, high, low, close, volume, turnover = _amounts(topic.market, bar)
        row = {
            "start": bar.start,
            "end": bar.end - 1,
            "interval": topic.interval,
            "open": opened,
            "close": close,
            "high": high,
            "low": low,
            "volume": volume,
            "turnover": turnover,
            "confirm": closing,
            "timestamp": now,
        }
        return _json({"topic": topic.name, "data": [row], "ts": now, "type": "snapshot"})

    def trade_frames(self, topic: StreamTopic, trades: list[TapeTrade]) -> Iterable[tuple[str, str]]:
        if topic.kind == "quote":
            for book in map(book_behind, trades):
                bid, ask = (
                    [price, _counted(topic.market, price, size)]
                    for price, size in ((book.bid, book.bid_size), (book.ask, book.ask_size))
                )
                told_book = {"s": topic.native, "b": [bid], "a": [ask], "u": book.id, "seq": 7_000_000_000 + book.id}
                times = {"ts": book.ts, "cts": book.ts}
                yield _json({"topic": topic.name, "type": "snapshot", **times, "data": told_book}), book.bid
            return
        rows = [
            {
                "i": self._trade_id(topic.market, topic.symbol, trade),
                "T": trade.ts,
                "p": trimmed(trade.price),
                "v": _size(topic.market, trade),
                "S": trade.side.capitalize(),
                "seq": trade.ts,
                "s": topic.native,
                "BT": False,
                "RPI": False,
            }
            for trade in trades
        ]
        if topic.market != "SPOT":
            for row in rows:
                row["L"] = "ZeroPlusTick"
        told = {"topic": topic.name, "ts": self.now(), "type": "snapshot", "data": rows}
        yield _json(told), trimmed(trades[-1].price)

    def trade_greeting(self, topic: StreamTopic) -> Iterable[PushFrame]:
        last = self.tape.last_before(topic.symbol, self.now() + 1)
        if topic.kind == "quote" and last is not None:
            for text, price in self.trade_frames(topic, [last]):
                yield PushFrame(topic, text, price)

    def _trade_id(self, market: str, symbol: str, trade: TapeTrade) -> str:
        if market == "SPOT":
            return str(FIRST_ID + trade.id)
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{market}:{symbol}:{trade.id}"))

    def unknown_frame(self, session: ClientSession) -> str:
        return _json(
            {"topic": "somethingNew.BTCUSDT", "type": "snapshot", "ts": self.now(), "data": [{"x": [1, None]}]}
        )

    def error_frame(self, session: ClientSession) -> str:
        told = {"success": False, "ret_msg": "error:simulated", "conn_id": session.options["id"]}
        return _json({**told, "req_id": "", "op": ""})

    # -- REST --

    def rest(self, request: HttpRequest) -> Answer | None:
        calls: dict[str, Callable[[HttpRequest], object]] = {
            "/v5/market/kline": self._kline,
            "/v5/market/recent-trade": self._recent_trades,
            "/v5/market/instruments-info": self._instruments,
            "/v5/market/time": lambda _: {"timeSecond": str(self.now() // 1000), "timeNano": str(self.now() * 10**6)},
        }
        call = calls.get(request.path)
        if call is None:
            return None
        try:
            return self._rest_reply(call(request))
        except ParameterError as wrong:
            return self._rest_reply({}, 10001, str(wrong))
        except ValueError:
            return self._rest_reply({}, 10001, "params error")

    def _rest_reply(self, result: object, code: int = 0, text: str = "OK", status: int = 200) -> Answer:
        told = {"retCode": code, "retMsg": text, "result": result, "retExtInfo": {}, "time": self.now()}
        return Answer(orjson.dumps(told), status)

    def _market(self, request: HttpRequest) -> str:
        market = CATEGORIES.get(request.query.get("category", "linear"))
        if market is None:
            raise ParameterError("Illegal category")
        return market

    def _symbol(self, request: HttpRequest, market: str) -> str:
        symbol = self._names.get((market, request.query.get("symbol", "")))
        if symbol is None:
            raise ParameterError("Not supported symbols")
        return symbol

    def _kline(self, request: HttpRequest) -> object:
        query, market = request.query, self._market(request)
        symbol = self._symbol(request, market)
        interval = query.get("interval", "")
        if interval not in INTERVALS:
            raise ParameterError("Invalid period!")
        timeframe, grid = INTERVALS[interval]
        limit = min(max(number(query.get("limit"), self.rules.default_page), 1), self.rules.page)
        now = self.now()
        end = min(number(query.get("end"), now), now)
        if "start" in query:
            start = grid.ceil(max(number(query["start"], 0), grid.floor(self.tape.listed(symbol))))
            if "end" not in query:
                end = min(end, grid.shift(start, limit - 1))
            start = max(start, grid.shift(grid.floor(end), 1 - limit))
        else:
            start = grid.shift(grid.floor(end), 1 - limit)
        bars = self.bars(symbol, timeframe, start, end + 1, grid)
        rows = [[str(bar.start), *_amounts(market, bar)] for bar in reversed(bars[-limit:])]
        return {"category": query.get("category", "linear"), "symbol": query["symbol"], "list": rows}

    def _recent_trades(self, request: HttpRequest) -> object:
        query, market = request.query, self._market(request)
        symbol = self._symbol(request, market)
        most = self.rules.trades_page if market == "SPOT" else 1000
        limit = min(max(number(query.get("limit"), most), 1), most)
        until = self.known_until(symbol)
        last = self.tape.last_before(symbol, until)
        trades = [] if last is None else list(self.tape.rows_from_id(symbol, max(last.id - limit + 1, 1), until))
        rows = [
            {
                "execId": self._trade_id(market, symbol, trade),
                "symbol": query["symbol"],
                "price": trimmed(trade.price),
                "size": _size(market, trade),
                "side": trade.side.capitalize(),
                "time": str(trade.ts),
                "isBlockTrade": False,
                "isRPITrade": False,
                "seq": str(trade.ts),
            }
            for trade in reversed(trades)
        ]
        return {"category": query.get("category", "linear"), "list": rows}

    def _instruments(self, request: HttpRequest) -> object:
        query, market = request.query, self._market(request)
        wanted = query.get("symbol")
        found = []
        for (kind, native), symbol in self._names.items():
            if kind == market and wanted in (None, native):
                base, _, quote = symbol.partition("/")
                status = self.status(symbol, "Trading", "Closed")
                if (status == "PreLaunch") != (query.get("status") == "PreLaunch"):  # listed when asked for alone
                    continue
                coins = {"baseCoin": base, "quoteCoin": "USD" if market == "INVERSE" else quote}
                row = {"symbol": native, **coins, "status": status}
                if market != "SPOT":
                    inverse = market == "INVERSE"
                    row |= {"contractType": "InversePerpetual" if inverse else "LinearPerpetual", "deliveryTime": "0"}
                    row["settleCoin"] = base if inverse else quote
                found.append(row)
        if wanted is not None and not found and market != "SPOT":
            raise ParameterError("params error: symbol invalid")
        told = {"category": query.get("category", "linear")}
        if market == "SPOT":
            return {**told, "list": found}
        first = number(query.get("cursor"), 0)
        limit = min(number(query.get("limit"), 500), self.rules.instruments_page)
        more = str(first + limit) if first + limit < len(found) else ""
        return {**told, "list": found[first : first + limit], "nextPageCursor": more}

    def refusal(self, status: int, after: float) -> Answer:
        if status >= 1000:
            return self._rest_reply({}, status, "simulated")
        if status == 403:
            return Answer(b"access too frequent\n", 403, {"Content-Type": "text/plain"})
        if status == 429:
            return self._rest_reply({}, 10006, "Too many visits. Exceeded the API Rate Limit.")
        return Answer(b"<html><body>simulated</body></html>", status, {"Content-Type": "text/html"})


class ParameterError(ValueError):
    """A request that the exchange does not take; its text."""


def _amounts(market: str, bar: Bar) -> tuple[str, ...]:
    """open, high, low, close, volume, turnover. Inverse counts US dollars in volume, the base currency in turnover."""
    prices = tuple(trimmed(bar.price_text(value)) for value in (bar.open, bar.high, bar.low, bar.close))
    volume, quote = trimmed(bar.volume_text()), trimmed(bar.quote_text())
    return (*prices, quote, volume) if market == "INVERSE" else (*prices, volume, quote)


def _size(market: str, trade: TapeTrade) -> str:
    return _counted(market, trade.price, trade.quantity)


def _counted(market: str, price: str, quantity: str) -> str:
    if market != "INVERSE":
        return trimmed(quantity)
    return trimmed(f"{Decimal(quantity) * Decimal(price):f}")


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
