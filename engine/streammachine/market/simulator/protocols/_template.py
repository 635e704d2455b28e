"""The other side of ``exchanges/_template.py``, to copy: what the exchange that does not exist says and takes.

Written from the exchange's documents and recordings, never from the adapter: the conformance suite lets the two talk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import orjson

from streammachine.market.simulator.tape.candles import UTC, Bar
from streammachine.market.simulator.tape.tape import TapeTrade, trimmed
from streammachine.market.simulator.venue.exchange import Exchange, number
from streammachine.market.simulator.venue.rules import Rules
from streammachine.market.simulator.venue.session import ClientSession
from streammachine.market.simulator.venue.topics import StreamTopic
from streammachine.market.simulator.venue.transport import Answer, HttpRequest

INTERVALS: Final = {"1m": "1m", "5m": "5m", "15m": "15m", "60m": "1h", "240m": "4h", "day": "1d"}


class TemplateExchange(Exchange):
    """The exchange that does not exist."""

    name = "template"
    usual_rules = Rules(
        idle=60.0, messages=10, connects=100, connects_within=60.0, weight=600, page=500, trades_page=500
    )
    paths = ("/v1", "/v1")  # of the socket, and of the second one where there is one

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._names = {self.native(symbol): symbol for symbol in self.tape.markets}

    def native(self, symbol: str, market: str = "SPOT") -> str:
        return symbol.replace("/", "-")

    # -- sockets --

    def accepts(self, request: HttpRequest) -> bool:
        return request.path == "/v1"

    def message(self, session: ClientSession, text: str) -> None:
        try:
            request = orjson.loads(text)
            operation, names = request["op"], [str(name) for name in request.get("streams", ())]
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            session.write(_json({"id": None, "ok": False, "error": "not understood"}))
            return
        if operation == "ping":
            session.note("ping")
            session.write(_json({"pong": self.now()}))
        elif operation == "unsubscribe":
            for name in names:
                session.leave(name)
                session.note("unsubscribe", name)
            session.write(_json({"id": request.get("id"), "ok": True}))
        else:
            self._subscribe(session, request.get("id"), names)

    def _subscribe(self, session: ClientSession, request_id: object, names: list[str]) -> None:
        def refuse(reason: str) -> None:
            session.note("reject", reason)
            session.write(_json({"id": request_id, "ok": False, "error": reason}))

        topics = {name: self._topic(name) for name in names}
        for name, topic in topics.items():
            if topic is None:
                refuse(f"no stream {name}")
                return
        session.subscribe_all(
            [topic for topic in topics.values() if topic is not None],
            lambda: session.write(_json({"id": request_id, "ok": True})),
            refuse,
        )

    def _topic(self, name: str) -> StreamTopic | None:
        kind, *rest = name.split(":")
        symbol = self._names.get(rest[-1]) if rest else None
        if symbol is None:
            return None
        if kind == "trade" and len(rest) == 1:
            return StreamTopic(name, symbol, rest[0], "SPOT", kind="trade")
        if kind == "candle" and len(rest) == 2 and rest[0] in INTERVALS:
            timeframe = INTERVALS[rest[0]]
            return StreamTopic(name, symbol, rest[1], "SPOT", timeframe, UTC[timeframe], rest[0])
        return None

    def candle_frame(self, topic: StreamTopic, bar: Bar, *, closing: bool) -> str:
        return _json({"stream": topic.name, "rows": [_row(bar, closed=closing)]})

    def trade_frames(self, topic: StreamTopic, trades: list[TapeTrade]) -> Iterable[tuple[str, str]]:
        yield _json({"stream": topic.name, "rows": [_trade(trade) for trade in trades]}), trimmed(trades[-1].price)

    def unknown_frame(self, session: ClientSession) -> str:
        return _json({"stream": "something:new", "rows": [{"x": [1, None]}]})

    def error_frame(self, session: ClientSession) -> str:
        return _json({"id": None, "ok": False, "error": "simulated"})

    def announce(self, session: ClientSession) -> None:
        session.write(_json({"notice": "closing"}))

    # -- REST --

    def rest(self, request: HttpRequest) -> Answer | None:
        calls: dict[str, Callable[[HttpRequest], object]] = {
            "/v1/symbols": self._symbols,
            "/v1/candles": self._candles,
            "/v1/trades": self._trades,
        }
        call = calls.get(request.path)
        if call is None:
            return None
        try:
            return Answer(orjson.dumps(call(request)))
        except (KeyError, ValueError) as error:
            return Answer(orjson.dumps({"error": f"bad request: {error}"}), 400)

    def _symbols(self, request: HttpRequest) -> object:
        found = [
            {"name": name, "status": self.status(symbol, "trading", "closed")} for name, symbol in self._names.items()
        ]
        return {"symbols": found}

    def _candles(self, request: HttpRequest) -> object:
        query = request.query
        symbol, timeframe = self._names[query["symbol"]], INTERVALS[query["interval"]]
        limit = min(max(number(query.get("limit"), self.rules.page), 1), self.rules.page)
        grid, now = UTC[timeframe], self.now()
        start = grid.ceil(max(number(query.get("from"), 0), grid.floor(self.tape.listed(symbol))))
        end = min(number(query.get("to"), now + 1), now + 1)
        bars = self.bars(symbol, timeframe, start, end, grid)[:limit]
        known = self.known_until(symbol)  # REST may be behind: it closes what it knows all of
        return {"rows": [_row(bar, closed=bar.end < known) for bar in bars]}

    def _trades(self, request: HttpRequest) -> object:
        query = request.query
        symbol, until = self._names[query["symbol"]], self.known_until(self._names[query["symbol"]])
        limit = min(max(number(query.get("limit"), self.rules.trades_page), 1), self.rules.trades_page)
        if "after" in query:
            rows = self.tape.rows_from_id(symbol, number(query["after"], 0) + 1, until)
        else:
            rows = self.tape.rows(symbol, number(query.get("since"), 0), until)
        return {"rows": [_trade(trade) for _, trade in zip(range(limit), rows, strict=False)]}

    def refusal(self, status: int, after: float) -> Answer:
        return Answer(orjson.dumps({"error": "simulated"}), status, {"Retry-After": str(max(1, round(after)))})


def _row(bar: Bar, *, closed: bool) -> dict[str, object]:
    opened, high, low, close = (trimmed(bar.price_text(value)) for value in (bar.open, bar.high, bar.low, bar.close))
    volume, quote = trimmed(bar.volume_text()), trimmed(bar.quote_text())
    prices = {"o": opened, "h": high, "l": low, "c": close}
    return {"t": bar.start, **prices, "v": volume, "q": quote, "n": bar.count, "closed": closed}


def _trade(trade: TapeTrade) -> dict[str, object]:
    price, size = trimmed(trade.price), trimmed(trade.quantity)
    return {"id": trade.id, "t": trade.ts, "p": price, "v": size, "s": trade.side}


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
