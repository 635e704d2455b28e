"""OKX v5: spot, and swaps and futures margined in a stable coin (LINEAR) or in the coin (INVERSE).

Protocol facts: www.okx.com/docs-v5, "WebSocket", "Order Book Trading / Market Data", "Public Data". Candles come from
the "business" socket alone, trades from the "public" one. From 6 hours up candles begin as in Hong Kong, except those
whose names end in "utc", which are the ones taken here.

Volumes are in the base currency. Candles say it. Trades of contracts count contracts: how much one is, is learnt from
the instruments' answer; before one came only ``_CONTRACTS`` are known, and a trade of another is a BadFrame. One
pushed trade may stand for several with consecutive ids, of which it bears the last (``Trade.fills``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

import orjson

from streammachine.errors import SymbolError
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
from streammachine.market.exchanges.quotes import book_quote, channel_books, in_base
from streammachine.market.exchanges.registry import ENTRIES
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.data_input import Kind
from streammachine.market.model.kline import Kline, Trade
from streammachine.market.model.pair import Pair, delivery
from streammachine.market.model.quote import Quote

_BARS: Final = {
    "1s": "1s",
    "1m": "1m",
    "3m": "3m",
    "5m": "5m",
    "15m": "15m",
    "30m": "30m",
    "1h": "1H",
    "2h": "2H",
    "4h": "4H",
    "6h": "6Hutc",
    "12h": "12Hutc",
    "1d": "1Dutc",
    "3d": "3Dutc",
    "1w": "1Wutc",
    "1M": "1Mutc",
}
_BOOK: Final = "bbo-tbt"  # the best bid and ask, at each change, at most every 10 ms
_read = channel_books("OKX", _BOOK)
_CHANNELS: Final = {f"candle{bar}": name for name, bar in _BARS.items()}
_NAMED: Final = {name: name for name in ("quote_volume", "is_closed")}  # see ``_named``
_kline = kline_maker("OKX", _NAMED)
_rest_kline = kline_maker("OKX", _NAMED, origin="rest")
_trade = trade_validator(
    "OKX",
    {"symbol": "instId", "price": "px", "volume": "sz", "trade_id": "tradeId", "side": "side", "fills": "count"},
).validate_python

_SPOT_SYMBOL: Final = re.compile(r"[A-Z0-9]{1,20}-[A-Z0-9]{2,20}")
_LINEAR_SYMBOL: Final = re.compile(r"[A-Z0-9]{1,20}-USD([A-Z0-9]{1,4}|(_[A-Z0-9]{1,10}){1,3})-(SWAP|[0-9]{6})")
_INVERSE_SYMBOL: Final = re.compile(r"[A-Z0-9]{1,20}-USD-(SWAP|[0-9]{6})")
_QUOTES: Final = ("USDT", "USDC", "USD", "EUR", "BTC", "ETH")
_MISSING: Final = re.compile(r"channel:(?P<channel>[\w-]+),\s*instId:(?P<symbol>[\w-]+)")

# Codes of "later": 50001 service unavailable, 50004 timed out, 50011 too many requests, 50013 and 50026 busy, 50061
# too many for the user, 60014 too many subscriptions, 63999 and 64003 internal or upgrading.
_LATER: Final = frozenset(("50001", "50004", "50011", "50013", "50026", "50061", "60014", "63999", "64003"))
_CLOSING: Final = "64008"  # "The connection will soon be closed for a service upgrade. Please reconnect."
_RECENT_BARS: Final = 1440  # as far back as /market/candles goes
_TRADES_PAGE: Final = 100

# What one contract is, and whether of the base currency (True) or in the quote currency, of the largest ones.
_CONTRACTS: Final = {
    "BTC-USDT-SWAP": (0.01, True),
    "ETH-USDT-SWAP": (0.1, True),
    "BTC-USD-SWAP": (100.0, False),
    "ETH-USD-SWAP": (10.0, False),
}


class OKX(Adapter):
    """OKX; ``market_type`` SPOT, LINEAR or INVERSE."""

    entry = ENTRIES["okx"]
    kinds = ("kline", "trade", "quote")
    timeframes = _BARS
    default_urls = Urls(
        ws="wss://ws.okx.com:8443/ws/v5/public",
        ws_business="wss://ws.okx.com:8443/ws/v5/business",
        rest="https://www.okx.com",
    )
    # 480 requests an hour and connection, of up to 64 kB; idle connections are cut after 30 s.
    socket = SocketLimits(
        streams=480,
        args=200,
        messages=480,
        messages_within=3600.0,
        connects=3,
        connects_within=1.0,
        ping_every=15.0,
        silent=30.0,
    )
    # candles 40, history-candles and history-trades 20 requests in 2 s: the latter count twice. A page of
    # history-candles is 100 or 300, by the source one reads: what comes back counts.
    rest = RestLimits(weight=40, within=2.0, page=300, trades_page=_TRADES_PAGE)
    contiguous_ids = True
    trades_by_id = True

    def __init__(self, market_type: MarketType = "SPOT") -> None:
        super().__init__(market_type)
        self._contracts = dict(_CONTRACTS)
        self._read = _read if market_type == "SPOT" else parsed  # sizes of contracts are counted anew

    # -- names --

    def check_symbol(self, symbol: str) -> str:
        made = symbol.strip().upper()
        for market_type, pattern in (("SPOT", _SPOT_SYMBOL), ("LINEAR", _LINEAR_SYMBOL), ("INVERSE", _INVERSE_SYMBOL)):
            if pattern.fullmatch(made):
                if market_type == self.market_type:
                    return made
                raise SymbolError(f"{symbol!r} is a symbol of OKX {market_type}: give market_type={market_type!r}")
        dashed, suffix = _dashed(made), _SUFFIX[self.market_type]
        raise self.wrong_symbol(symbol, dashed and dashed + suffix, self.symbol_example + suffix)

    def usual_symbol(self, pair: Pair) -> str | None:
        return f"{pair.base}-{pair.quote}{_SUFFIX[self.market_type]}"

    # -- the socket --

    def endpoint(self, kind: Kind, urls: Urls) -> str:
        return urls.ws_business if kind == "kline" else urls.ws

    def subscribe(self, subscriptions: Sequence[Subscription], first_id: int) -> list[Command]:
        return self._commands("subscribe", subscriptions, first_id)

    def unsubscribe(self, subscriptions: Sequence[Subscription], first_id: int) -> list[Command]:
        return self._commands("unsubscribe", subscriptions, first_id)

    def _commands(self, op: str, subscriptions: Sequence[Subscription], first_id: int) -> list[Command]:
        return [
            Command(
                orjson.dumps({"id": str(number), "op": op, "args": [_arg(one) for one in some]}).decode(),
                number,
                some,
                acks=len(some),
            )
            for number, some in enumerate(chunks(subscriptions, self.socket.args), first_id)
        ]

    def ping(self) -> str:
        return "ping"

    def decode(self, frame: str | bytes) -> list[Event]:
        if frame in ("pong", b"pong"):
            return [Alive()]
        try:
            message = self._read(frame)
            if type(message) is list:  # quotes, made on the way
                return message
            if "event" in message:
                return [self._said(message)]
            arg = message["arg"]
            if arg["channel"] == _BOOK:
                symbol, rows = arg["instId"], message["data"]
                if type(rows) is list and len(rows) == 1:
                    return [self._quote(symbol, rows[0])]
                return rows_of(listed(rows), lambda row: self._quote(symbol, row), frame)
            timeframe = _CHANNELS.get(arg["channel"])
            if timeframe is not None:
                return _candles(listed(message["data"]), arg["instId"], timeframe, frame)
            if arg["channel"] in ("trades", "trades-all"):
                return rows_of(listed(message["data"]), self._trade, frame)
            return [Notice(f"data of the channel {str(arg['channel'])[:40]}, which nobody asked for")]
        except MALFORMED as error:
            return [bad_frame(error, frame)]

    def _trade(self, row: dict[str, Any]) -> Trade:
        symbol = row["instId"]
        row.setdefault("count", 1)
        if _is_contract(symbol):
            size, of_base = self._contracts[symbol]
            volume = as_number(row["sz"]) * size
            row["sz"] = volume if of_base else volume / as_number(row["px"])
        made: Trade = _trade(row)
        return made

    def _quote(self, symbol: str, row: dict[str, Any]) -> Quote:
        made = book_quote("OKX", symbol, row.get("bids"), row.get("asks"), row["ts"])
        if self.market_type != "SPOT":
            size, of_base = self._contracts[symbol]
            made = in_base(made, size, of_base=of_base)
        return made

    def _said(self, message: dict[str, Any]) -> Event:
        """What a frame with an event says: an acknowledgement, an error or a notice."""
        event = message["event"]
        number = message.get("id")
        request_id = int(number) if isinstance(number, str) and number.isdecimal() and len(number) < 19 else None
        if event in ("subscribe", "unsubscribe"):
            return Ack(request_id, _subscription(message["arg"]["channel"], message["arg"]["instId"]))
        code = str(message.get("code", ""))
        text = f"{str(message.get('msg', ''))[:300]} (code {code})"
        if event == "error":
            found = _MISSING.search(text)
            named = _subscription(found["channel"], found["symbol"]) if found else None
            return Refused(text, request_id, named, code in _LATER, found["symbol"] if found else None)
        if event == "notice":
            return Notice(text, reconnect=code == _CLOSING)
        return Notice(f"the event {str(event)[:40]}: {text}")

    # -- REST --

    def instruments(self, symbols: Sequence[str]) -> list[Request]:
        kinds = {"SPOT" if self.market_type == "SPOT" else _contract_kind(symbol) for symbol in symbols}
        return [Request("/api/v5/public/instruments", {"instType": kind}, 2) for kind in sorted(kinds)]

    def all_instruments(self) -> list[Request]:
        kinds = ("SPOT",) if self.market_type == "SPOT" else ("FUTURES", "SWAP")
        return [Request("/api/v5/public/instruments", {"instType": kind}, 2) for kind in kinds]

    def decode_instruments(self, body: bytes) -> Instruments:
        with understood("the instruments of OKX"):
            found = Instruments(set(), {})
            for row in listed(parsed(body)["data"]):
                symbol, state = str(row["instId"]), str(row.get("state", "live"))
                pair = _pair(symbol, row)
                if pair is not None and pair.kind == self.market_type:  # FUTURES and SWAP hold both kinds of contracts
                    found.pairs[symbol] = str(pair)
                if state != "live":
                    found.halted[symbol] = state
                    continue
                found.trading.add(symbol)
                if _is_contract(symbol) and row.get("ctVal"):
                    size = float(row["ctVal"]) * float(row.get("ctMult") or 1)
                    found.sizes[symbol] = size
                    self._contracts[symbol] = (size, row.get("ctValCcy") == symbol.split("-")[0])
            return found

    def klines(self, symbol: str, timeframe: str, start: int, end: int, now: int | None = None) -> Request:
        params = {
            "instId": symbol,
            "bar": _BARS[timeframe],
            "before": str(start - 1),  # both excluded
            "after": str(end),
            "limit": str(self.rest.page),
        }
        if now is not None and start >= timeframes.shift(timeframe, timeframes.floor(timeframe, now), 2 - _RECENT_BARS):
            return Request("/api/v5/market/candles", params, 1)
        return Request("/api/v5/market/history-candles", params, 2)

    def decode_klines(self, body: bytes, symbol: str, timeframe: str) -> list[Kline]:
        with understood(f"the {timeframe} candles of {symbol}"):
            rows = listed(parsed(body)["data"])
            found = usable(rows, lambda row: _rest_kline(_named(row, symbol, timeframe)))
            return sorted(found, key=lambda kline: kline.open_ts)

    def trades(self, symbol: str, *, after_id: str | None = None, since: int | None = None) -> Request:
        # Pages go back in time alone. Ids being consecutive, the page behind one is what is before that many more;
        # and the id to begin with is that of the last trade before the moment.
        params = {"instId": symbol, "type": "1", "limit": str(_TRADES_PAGE)}
        if after_id is not None:
            params["after"] = str(int(after_id) + _TRADES_PAGE + 1)
        else:
            params |= {"type": "2", "after": str(since or 0), "limit": "1"}
        return Request("/api/v5/market/history-trades", params, 2)

    def decode_trades(self, body: bytes, symbol: str) -> TradePage:
        with understood(f"the trades of {symbol}"):
            found = usable(listed(parsed(body)["data"]), lambda row: self._trade(row | {"instId": symbol}))
            found.sort(key=lambda trade: int(trade.trade_id))
            return TradePage(found, found[-1].trade_id if found else None)

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Refusal | None:
        error = error_object(body)
        code = str(error.get("code") or "0")
        detail = f"{str(error.get('msg', ''))[:300]} (code {code})" if code != "0" else ""
        if not 200 <= status < 300:
            made = refused(self.source, status, headers, body, detail)
            return replace(made, retry=made.retry or code in _LATER)
        if detail:
            return Refusal(f"OKX refused: {detail}", code in _LATER, retry_after(headers))
        return None


_CHANNEL_OF: Final = {"trade": "trades", "quote": _BOOK}
_SUFFIX: Final[dict[str, str]] = {"SPOT": "", "LINEAR": "-SWAP", "INVERSE": "-SWAP"}


def _arg(subscription: Subscription) -> dict[str, str]:
    channel = _CHANNEL_OF.get(subscription.kind) or f"candle{_BARS[str(subscription.timeframe)]}"
    return {"channel": channel, "instId": subscription.symbol}


def _subscription(channel: str, symbol: str) -> Subscription | None:
    if channel in ("trades", "trades-all"):
        return Subscription("trade", symbol)
    if channel == _BOOK:
        return Subscription("quote", symbol)
    timeframe = _CHANNELS.get(channel)
    return None if timeframe is None else Subscription("kline", symbol, timeframe)


def _candles(rows: list[Any], symbol: str, timeframe: str, frame: str | bytes) -> list[Event]:
    found: list[Event] = []
    for row in rows:
        try:
            found.append(_kline(_named(row, symbol, timeframe)))
        except MALFORMED as error:
            found.append(bad_frame(error, frame))
    return found


def _named(row: list[Any], symbol: str, timeframe: str) -> dict[str, Any]:
    """A candle's row (ts, o, h, l, c, vol, volCcy, volCcyQuote, confirm) by our names. On spot vol is the base and
    volCcy the quote currency; of contracts vol is their number, and volCcy the base currency."""
    start = int(row[0])
    return {
        "symbol": symbol,
        "timeframe": timeframe,
        "open_ts": start,
        "end_ts": last_ms(timeframe, start),
        "open": row[1],
        "high": row[2],
        "low": row[3],
        "close": row[4],
        "volume": row[6] if _is_contract(symbol) else row[5],
        "quote_volume": row[7],
        "is_closed": row[8],
    }


@lru_cache(maxsize=4096)
def _is_contract(symbol: str) -> bool:
    return symbol.count("-") > 1


def _contract_kind(symbol: str) -> str:
    return "SWAP" if symbol.endswith("-SWAP") else "FUTURES"


def _dashed(symbol: str) -> str:
    """BTC-USDT of BTCUSDT, BTC/USDT, BTC_USDT or BTCUSDT_PERP; empty where that cannot be told."""
    parts = [part for part in re.split(r"[-/_: ]", symbol) if part not in ("", "PERP", "SWAP")]
    if len(parts) == 2:
        return "-".join(parts)
    if len(parts) == 1:
        for quote in _QUOTES:
            if parts[0].endswith(quote) and len(parts[0]) > len(quote):
                return f"{parts[0].removesuffix(quote)}-{quote}"
    return ""


def _pair(symbol: str, row: Mapping[str, Any]) -> Pair | None:
    """Our spelling; None: there is none. Contracts bear base and quote in their name only, X-Perps with more behind it
    (BTC-USD_UM_XPERP-310404)."""
    base, _, quote = symbol.partition("-")
    quote, *rest = quote.split("-")
    if not base or not quote:
        return None
    if not rest:
        return Pair(base, quote)
    quote = quote.partition("_")[0]
    inverse = quote == "USD" and "_" not in symbol
    settle = str(row.get("settleCcy") or (base if inverse else quote))
    dated = rest[-1] if rest[-1].isdecimal() and len(rest[-1]) == 6 else delivery(row.get("expTime", ""))
    return Pair(base, quote, settle, dated)
