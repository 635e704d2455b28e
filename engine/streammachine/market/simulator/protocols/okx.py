"""OKX v5's protocol. Facts: okx.com/docs-v5.

Candles come on /ws/v5/business only, trades on /ws/v5/public (trades-all on business). SPOT is BTC-USDT; perpetual
swaps count contracts, of coins (LINEAR, BTC-USDT-SWAP) or of US dollars (INVERSE, BTC-USD-SWAP). Bars of 6 hours and
more begin by Hong Kong's day unless they end in "utc".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, Final

import orjson

from streammachine.market.model.timeframe import DAY, HOUR
from streammachine.market.simulator.tape.book import book_behind
from streammachine.market.simulator.tape.candles import UTC, Bar, Grid
from streammachine.market.simulator.tape.tape import TapeTrade, trimmed
from streammachine.market.simulator.venue.exchange import Exchange, number
from streammachine.market.simulator.venue.rules import Rules
from streammachine.market.simulator.venue.session import ClientSession
from streammachine.market.simulator.venue.topics import PushFrame, StreamTopic
from streammachine.market.simulator.venue.transport import Answer, HttpRequest

HONG_KONG: Final = -8 * HOUR
BARS: Final[dict[str, tuple[str, Grid]]] = {
    **{name: (name, UTC[name]) for name in ("1s", "1m", "3m", "5m", "15m", "30m")},
    **{f"{n}H": (f"{n}h", UTC[f"{n}h"]) for n in (1, 2, 4)},
    **{f"{n}H": (f"{n}h", Grid(n * HOUR, HONG_KONG)) for n in (6, 12)},
    **{f"{n}D": (f"{n}d", Grid(n * DAY, HONG_KONG)) for n in (1, 2, 3)},
    "1W": ("1w", Grid(7 * DAY, 4 * DAY + HONG_KONG)),
    "1M": ("1M", Grid(0, HONG_KONG)),
    **{f"{n}Hutc": (f"{n}h", UTC[f"{n}h"]) for n in (6, 12)},
    **{f"{n}Dutc": (f"{n}d", Grid(n * DAY)) for n in (1, 2, 3)},
    "1Wutc": ("1w", UTC["1w"]),
    "1Mutc": ("1M", UTC["1M"]),
}
COINS: Final = {"BTC": "0.01", "ETH": "0.1"}  # base currency a LINEAR contract; 1 for all others
DOLLARS: Final = {"BTC": "100"}  # US dollars an INVERSE contract; 10 for all others
XPERP: Final = "USD_UM_XPERP-310404"
MARKETS: Final = ("SPOT", "LINEAR", "INVERSE")
ARGS_BYTES: Final = 64 * 1024


class OkxExchange(Exchange):
    """OKX."""

    name = "okx"
    usual_rules = Rules(
        idle=30.0,
        requests=480,
        connects=3,
        connects_within=1.0,
        weight=40,
        weight_within=2.0,
        refusals=1_000_000,
        page=300,
        history_page=300,
        trades_page=100,
        default_page=100,
        recent=1440,
    )
    paths = ("/ws/v5/public", "/ws/v5/business")
    idle_code = 4004

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._names = {self.native(symbol, market): symbol for market in MARKETS for symbol in self.tape.markets}
        self._names |= {f"{symbol.partition('/')[0]}-{XPERP}": symbol for symbol in self.tape.markets}

    def native(self, symbol: str, market: str = "SPOT") -> str:
        base, _, quote = symbol.partition("/")
        if market == "INVERSE":
            return f"{base}-USD-SWAP"
        return f"{base}-{quote}" if market == "SPOT" else f"{base}-{'USDT' if quote == 'USD' else quote}-SWAP"

    # -- sockets --

    def accepts(self, request: HttpRequest) -> bool:
        return request.path in ("/ws/v5/public", "/ws/v5/business")

    def greet(self, session: ClientSession) -> None:
        session.options["business"] = session.request.path.endswith("/business")
        session.options["id"] = f"{(self.seed * 7919 + session.number * 104729) % 2**32:08x}"

    def message(self, session: ClientSession, text: str) -> None:
        if text == "ping":
            session.note("ping")
            session.write("pong")
            return
        try:
            request = orjson.loads(text)
        except orjson.JSONDecodeError:
            request = None
        wanted = request.get("args") if isinstance(request, dict) else None
        operation = request.get("op") if isinstance(request, dict) else None
        if operation not in ("subscribe", "unsubscribe") or not isinstance(wanted, list) or not wanted:
            self._error(session, "60012", f"Invalid request: {text}")
        elif len(text) > ARGS_BYTES:
            self._error(session, "60012", "Invalid request: the args are longer than 64 KB")
        elif session.overspent():
            self._error(session, "60014", "Requests too frequent.")
        else:
            for arg in wanted:
                self._one(session, operation, arg)

    def _one(self, session: ClientSession, operation: str, arg: object) -> None:
        if not isinstance(arg, dict):
            self._error(session, "60012", f"Invalid request: {arg}")
            return
        told = {"event": operation, "arg": arg, "connId": session.options["id"]}
        if operation == "unsubscribe":
            session.leave(_name(arg))
            session.note("unsubscribe", _name(arg))
            session.write(_json(told))
            return
        topic = self._topic(arg, bool(session.options["business"]))
        listed = f"channel:{arg.get('channel')},instId:{arg.get('instId')}"
        wrong = (
            f"Wrong URL or {listed} doesn't exist. Please use the correct URL, channel and parameters referring to "
            "API document."
        )
        if topic is None:
            self._error(session, "60018", wrong)
        else:
            session.subscribe(topic, lambda: session.write(_json(told)), lambda _: self._error(session, "60018", wrong))

    def _error(self, session: ClientSession, code: str, text: str) -> None:
        session.note("reject", f"{code} {text[:200]}")
        session.write(_json({"event": "error", "code": code, "msg": text, "connId": session.options["id"]}))

    def _topic(self, arg: dict[str, object], business: bool) -> StreamTopic | None:
        channel, native = str(arg.get("channel")), str(arg.get("instId"))
        symbol = self._names.get(native)
        if symbol is None:
            return None
        market = _market(native)
        if channel == ("trades-all" if business else "trades") or (channel == "bbo-tbt" and not business):
            return StreamTopic(_name(arg), symbol, native, market, kind=channel)
        bar = channel.removeprefix("candle")
        if business and channel.startswith("candle") and bar in BARS:
            timeframe, grid = BARS[bar]
            return StreamTopic(_name(arg), symbol, native, market, timeframe, grid, bar)
        return None

    def candle_frame(self, topic: StreamTopic, bar: Bar, *, closing: bool) -> str:
        arg = {"channel": f"candle{topic.interval}", "instId": topic.native}
        return _json({"arg": arg, "data": [_row(topic.native, bar, closing)]})

    def trade_frames(self, topic: StreamTopic, trades: list[TapeTrade]) -> Iterable[tuple[str, str]]:
        arg = {"channel": topic.kind, "instId": topic.native}
        if topic.kind == "bbo-tbt":
            for book in map(book_behind, trades):
                asks, bids = (
                    [[price, _size(topic.native, Decimal(size), price), "0", "3"]]
                    for price, size in ((book.ask, book.ask_size), (book.bid, book.bid_size))
                )
                told_book = {"asks": asks, "bids": bids, "ts": str(book.ts), "seqId": 79_000_000_000 + book.id}
                yield _json({"arg": arg, "data": [told_book]}), book.bid
            return
        groups = [[trade] for trade in trades] if topic.kind == "trades-all" else _orders(trades)
        for group in groups:
            last, price = group[-1], trimmed(group[-1].price)
            told = {
                "instId": topic.native,
                "tradeId": str(last.id),
                "px": price,
                "sz": _size(topic.native, sum((Decimal(trade.quantity) for trade in group), Decimal()), price),
                "side": last.side,
                "ts": str(last.ts),
                "count": str(len(group)),
                "source": "0",
                "seqId": 79_000_000_000 + last.id,
            }
            if topic.kind == "trades-all":
                del told["count"], told["seqId"]
            yield _json({"arg": arg, "data": [told]}), price

    def trade_greeting(self, topic: StreamTopic) -> Iterable[PushFrame]:
        last = self.tape.last_before(topic.symbol, self.now() + 1)
        if topic.kind == "bbo-tbt" and last is not None:
            for text, price in self.trade_frames(topic, [last]):
                yield PushFrame(topic, text, price)

    def announce(self, session: ClientSession) -> None:
        text = "The connection will soon be closed for a service upgrade. Please reconnect."
        session.write(_json({"event": "notice", "code": "64008", "msg": text, "connId": session.options["id"]}))

    def unknown_frame(self, session: ClientSession) -> str:
        return _json({"arg": {"channel": "something-new", "instId": "BTC-USDT"}, "data": [{"x": [1, None]}]})

    def error_frame(self, session: ClientSession) -> str:
        return _json({"event": "error", "code": "60012", "msg": "Invalid request: {}", "connId": session.options["id"]})

    # -- REST --

    def weight_of(self, request: HttpRequest) -> int:
        return 1 if request.path.endswith(("/market/candles", "/market/trades")) else 2

    def rest(self, request: HttpRequest) -> Answer | None:
        calls: dict[str, Callable[[HttpRequest], Answer]] = {
            "/api/v5/market/candles": self._candles,
            "/api/v5/market/history-candles": self._candles,
            "/api/v5/market/trades": self._trades,
            "/api/v5/market/history-trades": self._trades,
            "/api/v5/public/instruments": self._instruments,
            "/api/v5/public/time": lambda _: _rest_reply([{"ts": str(self.now())}]),
        }
        call = calls.get(request.path)
        if call is None:
            return None
        try:
            return call(request)
        except ValueError:
            return _problem("51000", "Parameter error")

    def _candles(self, request: HttpRequest) -> Answer:
        query = request.query
        symbol = self._names.get(query.get("instId", ""))
        if symbol is None:
            return _problem("51001", "Instrument ID, Instrument ID code, or Spread ID doesn't exist.")
        bar = query.get("bar", "1m")
        if bar not in BARS:
            return _problem("51000", "Parameter bar error")
        timeframe, grid = BARS[bar]
        history = request.path.endswith("history-candles")
        most = self.rules.history_page if history else self.rules.page
        limit = min(max(number(query.get("limit"), self.rules.default_page), 1), most)
        now = self.now()
        end = min(number(query.get("after"), now + 1), now + 1)  # older than, not included
        start = grid.shift(grid.floor(end - 1), -limit)
        if "before" in query:
            start = max(start, number(query["before"], 0) + 1)
        if not history and self.rules.recent is not None:
            start = max(start, grid.shift(grid.floor(now), -self.rules.recent + 1))
        bars = self.bars(symbol, timeframe, start, end, grid)
        known = self.known_until(symbol) - 1
        if history:
            bars = [bar for bar in bars if bar.end <= known]
        return _rest_reply([_row(query["instId"], bar, bar.end <= known) for bar in reversed(bars[-limit:])])

    def _trades(self, request: HttpRequest) -> Answer:
        query, native = request.query, request.query.get("instId", "")
        symbol = self._names.get(native)
        if symbol is None:
            return _problem("51001", "Instrument ID, Instrument ID code, or Spread ID doesn't exist.")
        most = self.rules.trades_page if request.path.endswith("history-trades") else 500
        limit = min(max(number(query.get("limit"), 100), 1), most)
        until = self.known_until(symbol)
        if query.get("type", "1") == "2" and "after" in query:
            until = min(until, number(query["after"], 0))
        last = self.tape.last_before(symbol, until)
        newest = -1 if last is None else last.id
        if query.get("type", "1") == "1":
            newest = min(newest, number(query.get("after"), newest + 1) - 1)
        oldest = newest - limit + 1
        if "before" in query:
            oldest = max(oldest, number(query["before"], 0) + 1)
        found = self.tape.rows_from_id(symbol, max(oldest, 1), until) if newest >= oldest else iter(())
        rows = list(itertools.takewhile(lambda trade: trade.id <= newest, found))
        return _rest_reply(
            [
                {
                    "instId": native,
                    "side": trade.side,
                    "sz": _size(native, Decimal(trade.quantity), trade.price),
                    "px": trimmed(trade.price),
                    "source": "0",
                    "tradeId": str(trade.id),
                    "ts": str(trade.ts),
                }
                for trade in reversed(rows)
            ]
        )

    def _instruments(self, request: HttpRequest) -> Answer:
        kind, wanted = request.query.get("instType", ""), request.query.get("instId")
        if kind not in ("SPOT", "SWAP", "FUTURES"):
            return _problem("51000", "Parameter instType error")
        found = []
        for native, symbol in self._names.items():
            if _kind(native) == kind and wanted in (None, native):
                base, _, quote = symbol.partition("/")
                state = self.status(symbol, "live", "suspend")
                row = {"instId": native, "instType": kind, "baseCcy": base, "quoteCcy": quote, "state": state}
                if kind != "SPOT":
                    value, currency = _contract(native)
                    row |= {"baseCcy": "", "quoteCcy": "", "ctVal": str(value), "ctMult": "1", "ctValCcy": currency}
                    inverse = _market(native) == "INVERSE"
                    row |= {"ctType": "inverse" if inverse else "linear", "settleCcy": base if inverse else quote}
                found.append(row)
        if wanted is not None and not found:
            return _problem("51001", "Instrument ID, Instrument ID code, or Spread ID doesn't exist.")
        return _rest_reply(found)

    def refusal(self, status: int, after: float) -> Answer:
        if status >= 1000:
            return _problem(str(status), "simulated")
        if status == 429:
            return Answer(orjson.dumps({"code": "50011", "data": [], "msg": "Too Many Requests"}), 429)
        if status == 503:
            text = "Service temporarily unavailable. Try again later."
            return Answer(orjson.dumps({"code": "50001", "data": [], "msg": text}), 503)
        return Answer(b"<html><body>simulated</body></html>", status, {"Content-Type": "text/html"})


def _kind(native: str) -> str:
    return "SWAP" if native.endswith("-SWAP") else "FUTURES" if XPERP in native else "SPOT"


def _market(native: str) -> str:
    if _kind(native) == "SPOT":
        return "SPOT"
    return "INVERSE" if native.endswith("-USD-SWAP") else "LINEAR"


def _contract(native: str) -> tuple[Decimal, str]:
    """What a contract is worth, and in which currency."""
    base = native.partition("-")[0]
    if _market(native) == "INVERSE":
        return Decimal(DOLLARS.get(base, "10")), "USD"
    return Decimal(COINS.get(base, "1")), base


def _size(native: str, quantity: Decimal, price: str) -> str:
    """A trade's size as the market counts it. (Real contracts are whole; these are not, to be exact.)"""
    if _market(native) == "SPOT":
        return trimmed(f"{quantity:f}")
    value, currency = _contract(native)
    contracts = quantity * Decimal(price) / value if currency == "USD" else quantity / value
    return trimmed(f"{contracts:f}")


def _row(native: str, bar: Bar, closed: bool) -> list[str]:
    prices = [trimmed(bar.price_text(value)) for value in (bar.open, bar.high, bar.low, bar.close)]
    volume, quote = trimmed(bar.volume_text()), trimmed(bar.quote_text())
    amounts = [volume, quote, quote]
    if _market(native) != "SPOT":
        value, currency = _contract(native)
        contracts = Decimal(quote if currency == "USD" else volume) / value
        amounts = [trimmed(f"{contracts:f}"), volume, quote]
    return [str(bar.start), *prices, *amounts, "1" if closed else "0"]


def _orders(trades: list[TapeTrade]) -> list[list[TapeTrade]]:
    """Fills of one order, by its moment, price and side, together."""
    keyed = itertools.groupby(trades, key=lambda trade: (trade.ts, trade.price, trade.side))
    return [list(group) for _, group in keyed]


def _name(arg: dict[str, object]) -> str:
    return f"{arg.get('channel')}:{arg.get('instId')}"


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def _rest_reply(data: list[Any]) -> Answer:
    return Answer(orjson.dumps({"code": "0", "msg": "", "data": data}))


def _problem(code: str, text: str) -> Answer:
    """An error of the request: HTTP 200, and the code inside."""
    return Answer(orjson.dumps({"code": code, "msg": text, "data": []}))
