"""Binance's protocol: spot, USD-M and COIN-M sockets and REST on one port, told apart by path and symbol.

Facts: github.com/binance/binance-spot-api-docs (web-socket-streams.md, rest-api.md), developers.binance.com for the
futures. Spot: /ws, /stream, /api/v3. USD-M: /market/ws, /market/stream (/public likewise), /fapi/v1. COIN-M: the paths
of spot with symbols such as btcusd_perp, /dapi/v1. Bulk files: see ``bulk``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import orjson

from streammachine.market.model.timeframe import HOUR
from streammachine.market.simulator.protocols.binance_bulk import BulkFiles
from streammachine.market.simulator.protocols.binance_rows import CONTRACT, amounts, kline_row, padded
from streammachine.market.simulator.tape.book import book_behind
from streammachine.market.simulator.tape.candles import UTC, Bar
from streammachine.market.simulator.tape.tape import TapeTrade, trimmed
from streammachine.market.simulator.venue.exchange import Exchange, number
from streammachine.market.simulator.venue.rules import Rules
from streammachine.market.simulator.venue.session import ClientSession
from streammachine.market.simulator.venue.topics import PushFrame, StreamTopic
from streammachine.market.simulator.venue.transport import Answer, HttpRequest

FUTURES = {"/fapi/v1": "USDM", "/dapi/v1": "COINM"}
JSON_ERROR = 3
REQUEST_ERROR = 2


class RefusedRequest(Exception):  # noqa: N818 - becomes the answer
    """A REST request that the exchange does not take."""

    def __init__(self, code: int, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.answer = Answer(orjson.dumps({"code": code, "msg": text}), status)


class BinanceExchange(Exchange):
    """Binance."""

    name = "binance"
    usual_rules = Rules(
        push_every=2.0,
        first_push=False,
        close_delays=(0.005, 0.006, 0.204, 0.792, 1.756),
        ping_every=20.0,
        pong_within=60.0,
        lifetime=24 * 3600.0,
        messages=5,
        streams=1024,
        connects=300,
        weight=6000,
        page=1000,
        default_page=500,
    )
    has_bulk_files = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._bulk = BulkFiles(self)
        self._names = {
            (market, self.native(symbol, market)): symbol
            for market in ("SPOT", "USDM", "COINM")
            for symbol in self.tape.markets
        }

    def native(self, symbol: str, market: str = "SPOT") -> str:
        base, _, quote = symbol.partition("/")
        return f"{base}USD_PERP" if market == "COINM" else base + quote

    def ours(self, native: str, market: str) -> str | None:
        """The tape symbol of a Binance symbol."""
        return self._names.get((market, native))

    # -- sockets --

    def accepts(self, request: HttpRequest) -> bool:
        return _path(request)[1] in ("ws", "stream")

    def rules_of(self, request: HttpRequest) -> Rules:
        if _path(request)[0] == "SPOT":
            return self.rules
        every, messages = self.rules.ping_every, self.rules.messages  # USD-M: 3 minutes, 10 minutes, 10 messages
        return replace(
            self.rules,
            ping_every=None if every is None else every * 9,
            pong_within=self.rules.pong_within * 10,
            messages=None if messages is None else messages * 2,
        )

    def greet(self, session: ClientSession) -> None:
        market, kind, rest = _path(session.request)
        session.options.update(market=market, combined=kind == "stream")
        names = session.request.query.get("streams", "") if kind == "stream" else rest
        wanted = [name for name in names.split("/") if name]
        if wanted:
            self._subscribe(session, wanted, lambda: None, session.kill)

    def message(self, session: ClientSession, text: str) -> None:
        try:
            request = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            session.note("reject", text[:100])
            session.write(_json({"code": JSON_ERROR, "msg": f"Invalid JSON: {error}"}))
            return
        identity = request.get("id") if isinstance(request, dict) else None
        method = request.get("method") if isinstance(request, dict) else None
        params = request.get("params", []) if isinstance(request, dict) else []

        def ack(result: object = None) -> None:
            session.write(_json({"result": result, "id": identity}))

        def refuse(reason: str) -> None:
            session.note("reject", reason)
            session.write(_json({"code": REQUEST_ERROR, "msg": f"Invalid request: {reason}", "id": identity}))

        if not isinstance(identity, int | str) and identity is not None:
            refuse("request ID must be an unsigned integer or a string")
        elif method in ("SUBSCRIBE", "UNSUBSCRIBE") and not _texts(params):
            refuse("params must be an array of stream names")
        elif method == "SUBSCRIBE":
            self._subscribe(session, params, ack, refuse)
        elif method == "UNSUBSCRIBE":
            for name in params:
                session.leave(name)
                _listed(session).pop(name, None)
                session.note("unsubscribe", name)
            ack()
        elif method == "LIST_SUBSCRIPTIONS":
            ack(list(_listed(session)))
        elif method == "SET_PROPERTY" and isinstance(params, list) and params[:1] == ["combined"] and len(params) == 2:
            session.options["combined"] = bool(params[1])
            ack()
        elif method == "GET_PROPERTY" and params == ["combined"]:
            ack(session.options["combined"])
        else:
            refuse(f"unknown variant `{method}`, expected one of SUBSCRIBE, UNSUBSCRIBE, LIST_SUBSCRIPTIONS, ...")

    def _subscribe(
        self, session: ClientSession, names: list[str], ack: Callable[[], None], refuse: Callable[[str], None]
    ) -> None:
        """Take streams on; those that mean nothing are acknowledged all the same, and stay silent."""
        most = self.rules.streams
        if most is not None and len({*_listed(session), *names}) > most:
            refuse(f"a connection can listen to {most} streams")
            return
        found = [(name, self._topic(name, str(session.options["market"]))) for name in names]

        def accepted() -> None:
            _listed(session).update(dict.fromkeys(names))
            ack()

        session.subscribe_all([topic for _, topic in found if topic is not None], accepted, refuse)

    def _topic(self, name: str, market: str) -> StreamTopic | None:
        native, _, stream = name.partition("@")
        if native != native.lower():
            return None
        native = native.upper()
        if market == "SPOT" and native.endswith("_PERP"):
            market = "COINM"
        symbol = self.ours(native, market)
        if symbol is None:
            return None
        if stream in ("trade", "aggTrade", "bookTicker"):
            return StreamTopic(name, symbol, native, market, kind=stream)
        kind, _, interval = stream.partition("_")
        if kind == "kline" and interval in UTC:
            return StreamTopic(name, symbol, native, market, interval, UTC[interval], interval)
        return None

    def wrap(self, session: ClientSession, push: PushFrame) -> str:
        if session.options["combined"]:
            return f'{{"stream":"{push.topic.name}","data":{push.text}}}'
        return push.text

    def candle_frame(self, topic: StreamTopic, bar: Bar, *, closing: bool) -> str:
        row = amounts(topic.market, bar)
        candle = {
            "t": bar.start,
            "T": bar.end - 1,
            "s": topic.native,
            "i": topic.interval,
            "f": bar.first_id,
            "L": bar.last_id,
            **dict(zip("ochlv", (row[0], row[3], row[1], row[2], row[4]), strict=True)),
            "n": bar.count,
            "x": closing,
            "q": row[5],
            "V": row[6],
            "Q": row[7],
            "B": "0",
        }
        return _json({"e": "kline", "E": self.now(), "s": topic.native, "k": candle})

    def price(self, topic: StreamTopic, value: int, bar: Bar) -> str:
        return padded(topic.market, bar.price_text(value))

    def trade_frames(self, topic: StreamTopic, trades: list[TapeTrade]) -> Iterable[tuple[str, str]]:
        if topic.kind == "bookTicker":
            yield from self._book_frames(topic, trades)
            return
        for trade in trades:
            price, quantity = padded(topic.market, trade.price), self._size(topic.symbol, topic.market, trade)
            told: dict[str, object] = {"e": topic.kind, "E": self.now(), "s": topic.native}
            if topic.kind == "aggTrade":
                told |= {"a": trade.id, "p": price, "q": quantity, "f": trade.id, "l": trade.id}
            else:
                told |= {"t": trade.id, "p": price, "q": quantity}
            told |= {"T": trade.ts, "m": trade.side == "sell", "M": True}
            yield _json(told), price

    def _book_frames(self, topic: StreamTopic, trades: list[TapeTrade]) -> Iterable[tuple[str, str]]:
        """Spot's do not say when."""
        for book in map(book_behind, trades):
            sides = [
                (padded(topic.market, price), self._amount(topic.symbol, topic.market, price, size))
                for price, size in ((book.bid, book.bid_size), (book.ask, book.ask_size))
            ]
            told: dict[str, object] = {"u": 400_000_000 + book.id, "s": topic.native}
            told |= dict(zip("bBaA", (*sides[0], *sides[1]), strict=True))
            if topic.market != "SPOT":
                told = {"e": "bookTicker", **told, "T": book.ts, "E": self.now()}
            yield _json(told), sides[0][0]

    def _size(self, symbol: str, market: str, trade: TapeTrade) -> str:
        return self._amount(symbol, market, trade.price, trade.quantity)

    def _amount(self, symbol: str, market: str, price: str, quantity: str) -> str:
        if market != "COINM":
            return padded(market, quantity)
        dollars = Decimal(price) * Decimal(quantity)
        return trimmed(f"{dollars / CONTRACT.get(symbol.partition('/')[0], 10):f}")

    def announce(self, session: ClientSession) -> None:
        told = {"e": "serverShutdown", "E": self.now()}
        session.write(_json({"stream": "!serverShutdown", "data": told} if session.options["combined"] else told))

    def unknown_frame(self, session: ClientSession) -> str:
        told = {"e": "somethingNew", "E": self.now(), "s": "BTCUSDT", "x": [1, {"y": None}]}
        return _json({"stream": "btcusdt@somethingNew", "data": told} if session.options["combined"] else told)

    def error_frame(self, session: ClientSession) -> str:
        return _json({"code": REQUEST_ERROR, "msg": "Invalid request: simulated", "id": None})

    # -- REST --

    def weight_of(self, request: HttpRequest) -> int:
        if request.path.startswith("/data/"):
            return 0
        limit = int(request.query["limit"]) if request.query.get("limit", "").isdigit() else self.rules.default_page
        call = request.path.rpartition("/")[2]
        if call == "klines" and not request.path.startswith("/api/"):
            return 1 if limit < 100 else 2 if limit < 500 else 5 if limit <= 1000 else 10
        weights = {"klines": 2, "historicalTrades": 25, "trades": 25, "aggTrades": 4, "exchangeInfo": 20}
        return weights.get(call, 1)

    def rest(self, request: HttpRequest) -> Answer | None:
        if request.path.startswith("/data/"):
            return self._bulk.answer(request.path)
        version, _, call = request.path.rpartition("/")
        market = "SPOT" if version == "/api/v3" else FUTURES.get(version)
        calls = {
            "klines": self._klines,
            "historicalTrades": self._historical_trades,
            "trades": self._historical_trades,
            "aggTrades": self._agg_trades,
            "exchangeInfo": self._exchange_info,
            "time": self._time,
            "ping": self._ping,
        }
        if market is None or call not in calls:
            return None
        headers = {"X-MBX-USED-WEIGHT": str(self.used_weight), "X-MBX-USED-WEIGHT-1M": str(self.used_weight)}
        try:
            return Answer(orjson.dumps(calls[call](request, market)), 200, headers)
        except RefusedRequest as refused:
            return Answer(refused.answer.body, refused.answer.status, headers)
        except ValueError:
            return Answer(
                orjson.dumps({"code": -1100, "msg": "Illegal characters found in a parameter."}), 400, headers
            )

    def _symbol(self, request: HttpRequest, market: str) -> str:
        native = request.query.get("symbol", "")
        if not native:
            text = "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed."
            raise RefusedRequest(-1102, text)
        symbol = self.ours(native, market)
        if symbol is None:
            raise RefusedRequest(-1121, "Invalid symbol.")
        return symbol

    def _klines(self, request: HttpRequest, market: str) -> object:
        symbol, query = self._symbol(request, market), request.query
        interval = query.get("interval", "")
        if interval not in UTC or (interval == "1s" and market != "SPOT"):
            raise RefusedRequest(-1120, "Invalid interval.")
        most = self.rules.page if market == "SPOT" else max(self.rules.page, 1500)
        limit = number(query.get("limit"), self.rules.default_page)
        if limit < 1:
            raise RefusedRequest(-1130, "Data sent for parameter 'limit' is not valid.")
        limit = min(limit, most)
        grid, end = UTC[interval], _ms(number(query.get("endTime"), self.now())) + 1
        if "startTime" in query:
            start = max(_ms(number(query["startTime"], 0)), grid.floor(self.tape.listed(symbol)))
            end = min(end, grid.shift(grid.ceil(start), limit))
        else:
            start = grid.shift(grid.floor(min(end - 1, self.now())), 1 - limit)
        bars = self.bars(symbol, interval, start, end)
        return [kline_row(market, bar) for bar in bars[:limit]]

    def _historical_trades(self, request: HttpRequest, market: str) -> object:
        symbol, query = self._symbol(request, market), request.query
        if market != "SPOT" and request.path.endswith("historicalTrades") and "x-mbx-apikey" not in request.headers:
            raise RefusedRequest(-2014, "API-key format invalid.", 401)
        limit = min(number(query.get("limit"), 500), self.rules.trades_page)
        until = self.known_until(symbol)
        first = number(query.get("fromId"), -1)
        if first < 0 or request.path.endswith("/trades"):
            last = self.tape.last_before(symbol, until)
            first = 0 if last is None else last.id - limit + 1
        rows = itertools.islice(self.tape.rows_from_id(symbol, first, until), limit)
        return [
            {
                "id": trade.id,
                "price": padded(market, trade.price),
                "qty": self._size(symbol, market, trade),
                "quoteQty": padded(market, trimmed(str(Decimal(trade.price) * Decimal(trade.quantity)))),
                "time": trade.ts,
                "isBuyerMaker": trade.side == "sell",
                "isBestMatch": True,
            }
            for trade in rows
        ]

    def _agg_trades(self, request: HttpRequest, market: str) -> object:
        symbol, query = self._symbol(request, market), request.query
        limit = min(number(query.get("limit"), 500), self.rules.trades_page)
        until = self.known_until(symbol)
        if "fromId" in query:
            found = self.tape.rows_from_id(symbol, number(query["fromId"], 0), until)
        elif "startTime" in query or "endTime" in query:
            end = min(_ms(number(query.get("endTime"), until)) + 1, until)
            found = self.tape.rows(symbol, _ms(number(query.get("startTime"), end - HOUR)), end)
        else:
            last = self.tape.last_before(symbol, until)
            found = self.tape.rows_from_id(symbol, 0 if last is None else last.id - limit + 1, until)
        return [
            {
                "a": trade.id,
                "p": padded(market, trade.price),
                "q": self._size(symbol, market, trade),
                "f": trade.id,
                "l": trade.id,
                "T": trade.ts,
                "m": trade.side == "sell",
                "M": True,
            }
            for trade in itertools.islice(found, limit)
        ]

    def _exchange_info(self, request: HttpRequest, market: str) -> object:
        wanted = [name for (kind, name) in self._names if kind == market]
        if market == "SPOT" and ("symbol" in request.query or "symbols" in request.query):
            asked = orjson.loads(request.query["symbols"]) if "symbols" in request.query else [request.query["symbol"]]
            if not _texts(asked) or not set(asked) <= set(wanted):
                raise RefusedRequest(-1121, "Invalid symbol.")
            wanted = asked
        told = []
        for native in wanted:
            symbol = self.ours(native, market) or ""
            base, _, quote = symbol.partition("/")
            status = self.status(symbol, "TRADING", "BREAK")
            if market == "SPOT" and request.query.get("symbolStatus", status) != status:
                continue
            row: dict[str, object] = {"symbol": native, "baseAsset": base, "quoteAsset": quote}
            if market != "SPOT":
                margin = base if market == "COINM" else quote
                row |= {"marginAsset": margin, "contractType": "PERPETUAL", "deliveryDate": 4_133_404_800_000}
            if market == "COINM":
                contract = {"contractType": "PERPETUAL", "contractSize": CONTRACT.get(base, 10)}
                row |= {"pair": f"{base}USD", "contractStatus": status, "quoteAsset": "USD", **contract}
            else:
                row["status"] = status
            told.append(row)
        return {"timezone": "UTC", "serverTime": self.now(), "rateLimits": [], "exchangeFilters": [], "symbols": told}

    def _time(self, request: HttpRequest, market: str) -> object:
        return {"serverTime": self.now()}

    def _ping(self, request: HttpRequest, market: str) -> object:
        return {}

    def refusal(self, status: int, after: float) -> Answer:
        if status == 418:
            until = int((self.clock.time_ms() / 1000 + after) * 1000)
            text = f"Way too much request weight used; IP banned until {until}. Please use WebSocket Streams."
        elif status == 429:
            text = f"Too much request weight used; current limit is {self.rules.weight} request weight per 1 MINUTE."
        else:
            return Answer(b"<html><body>simulated</body></html>", status, {"Content-Type": "text/html"})
        headers = {"Retry-After": str(max(1, int(-(-after // 1)))), "X-MBX-USED-WEIGHT-1M": str(self.used_weight)}
        return Answer(orjson.dumps({"code": -1003, "msg": text}), status, headers)


def _ms(moment: int) -> int:
    return moment // 1000 if moment > 100_000_000_000_000 else moment


def _path(request: HttpRequest) -> tuple[str, str, str]:
    """Kind of market, "ws" or "stream", and what follows."""
    path, market = request.path, "SPOT"
    for prefix in ("/market", "/public"):
        if path.startswith(prefix + "/"):
            path, market = path[len(prefix) :], "USDM"
    kind, _, rest = path.strip("/").partition("/")
    return market, kind, rest


def _listed(session: ClientSession) -> dict[str, None]:
    """The streams that a socket asked for, those that mean nothing included."""
    found = session.options.setdefault("listed", {})
    return found if isinstance(found, dict) else {}


def _texts(values: object) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(value, str) for value in values)


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
