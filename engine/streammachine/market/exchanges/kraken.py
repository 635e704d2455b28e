"""Kraken spot: WebSocket v2 and REST.

Protocol facts: docs.kraken.com/api, "Websocket API v2 / Market Data" and "Spot REST API / Market Data".

Kraken pushes a candle when it trades in it, never says that one is closed, and gives no quote volume: that is
estimated as vwap times volume. REST holds the newest 720 candles; what is older can be folded from trades. Candles of
a week begin on Thursday here and on Monday everywhere else, so they are not offered: build them from days. REST
writes XBT and XDG for BTC and DOGE; here, as in WebSocket v2, they are BTC and DOGE.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

import orjson

from streammachine.errors import TimeframeError
from streammachine.market.exchanges.answers import error_object, listed, refused, retry_after, understood, usable
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
    Placed,
    as_number,
    bad_frame,
    iso_ms,
    kline_maker,
    last_ms,
    parsed,
    placed_kline_maker,
    rows_of,
    trade_validator,
)
from streammachine.market.exchanges.quotes import listed_quotes, row_quotes
from streammachine.market.exchanges.registry import ENTRIES
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.data_input import Kind
from streammachine.market.model.kline import Kline, Trade

_MINUTES: Final = {"1m": "1", "5m": "5", "15m": "15", "30m": "30", "1h": "60", "4h": "240", "1d": "1440"}
_TIMEFRAMES: Final = {int(minutes): name for name, minutes in _MINUTES.items()}
_OURS: Final = {"XBT": "BTC", "XDG": "DOGE"}
_THEIRS: Final = {ours: theirs for theirs, ours in _OURS.items()}


@lru_cache(maxsize=4096)
def _ours(symbol: str) -> str:
    """BTC/USD of XBT/USD."""
    base, slash, quote = symbol.partition("/")
    return f"{_OURS.get(base, base)}{slash}{_OURS.get(quote, quote)}"


_VALUES: Final = {"vwap": "vwap", "quote_volume": "quote_volume"}
_rest_kline = kline_maker("Kraken", {**_VALUES, "n_trades": "n_trades"}, estimated=True, origin="rest")
_trade = trade_validator("Kraken", {"volume": "qty", "side": "side"}).validate_python

# A ticker says when since 2025.
_quote = row_quotes(
    "Kraken",
    symbol="symbol",
    bid="bid",
    bid_size="bid_qty",
    ask="ask",
    ask_size="ask_qty",
    ts="timestamp",
    named=_ours,
)
_read = listed_quotes(_quote, "channel", "ticker", "data")
_SYMBOL: Final = re.compile(r"[A-Z0-9.]{1,20}x?/[A-Z0-9]{2,10}")
_SHARE: Final = re.compile(r"[A-Z0-9.]+x")
_LEGACY: Final = re.compile(r"X([A-Z]{3})Z([A-Z]{3})")  # XXBTZUSD
_QUOTES: Final = ("USDT", "USDC", "USD", "EUR", "GBP", "CAD", "JPY", "CHF", "AUD", "BTC", "ETH")
_UNKNOWN_PAIR: Final = re.compile(r"Currency pair\D*?\b([A-Z0-9.]{1,20}x?/[A-Z0-9]{1,10})")
_EXPECTED_WARNING: Final = "timestamp is deprecated, use interval_begin"  # it is not used here
_CURSOR: Final = "ns:"
_TOKENIZED: Final = "tokenized_asset"  # the class of shares, which REST keeps apart
_LATER: Final = (
    "EAPI:Rate limit",
    "EGeneral:Too many requests",
    "EGeneral:Temporary lockout",
    "EGeneral:Internal error",
    "EService:",
    "Exceeded msg rate",
)
_NOT_TRADED: Final = frozenset(("cancel_only", "delisted", "maintenance", "work_in_progress"))


class Kraken(Adapter):
    """Kraken spot."""

    entry = ENTRIES["kraken"]
    kinds = ("kline", "trade", "quote")
    timeframes = _MINUTES
    default_urls = Urls(ws="wss://ws.kraken.com/v2", rest="https://api.kraken.com")
    # A heartbeat comes about once a second while nothing else does; connections that say nothing are cut after 60 s;
    # about 150 new ones in 10 minutes are let through for one address.
    socket = SocketLimits(
        streams=500,
        args=100,
        messages=10,
        messages_within=1.0,
        connects=140,
        connects_within=600.0,
        ping_every=30.0,
        silent=10.0,
    )
    rest = RestLimits(weight=1, within=1.0, page=720, trades_page=1000, parallel=1)
    contiguous_ids = True
    trades_before = True
    writes_pairs = True

    # -- names --

    def check_symbol(self, symbol: str) -> str:
        base, slash, quote = symbol.strip().partition("/")
        if not _is_share(base):
            base = base.upper()
        made = _ours(f"{base}{slash}{quote.upper()}")
        if _SYMBOL.fullmatch(made):
            return made
        raise self.wrong_symbol(symbol, _slashed(symbol.strip().upper()))

    def check_timeframe(self, timeframe: str) -> str:
        try:
            return super().check_timeframe(timeframe)
        except TimeframeError as error:
            if timeframe != "1w":
                raise
            raise TimeframeError(f"{error}; Kraken's own weeks begin on Thursday, those built here on Monday") from None

    # -- the socket --

    def endpoint(self, kind: Kind, urls: Urls) -> str:
        return urls.ws

    def subscribe(self, subscriptions: Sequence[Subscription], first_id: int) -> list[Command]:
        return self._commands("subscribe", subscriptions, first_id)

    def unsubscribe(self, subscriptions: Sequence[Subscription], first_id: int) -> list[Command]:
        return self._commands("unsubscribe", subscriptions, first_id)

    def _commands(self, method: str, subscriptions: Sequence[Subscription], first_id: int) -> list[Command]:
        """One command is for one channel and interval, and many symbols."""
        groups: dict[tuple[str, str | None], list[Subscription]] = {}
        for one in subscriptions:
            groups.setdefault((one.kind, one.timeframe), []).append(one)
        made: list[Command] = []
        for (kind, timeframe), group in groups.items():
            for some in chunks(group, self.socket.args):
                params: dict[str, Any] = {"channel": "trade", "symbol": [one.symbol for one in some]}
                if kind == "quote":  # else it is pushed with trades only
                    params |= {"channel": "ticker", "event_trigger": "bbo"}
                if timeframe is not None:
                    params |= {"channel": "ohlc", "interval": int(_MINUTES[timeframe])}
                if method == "subscribe":
                    params["snapshot"] = True
                number = first_id + len(made)
                frame = orjson.dumps({"method": method, "params": params, "req_id": number}).decode()
                made.append(Command(frame, number, some, acks=len(some)))
        return made

    def ping(self) -> str:
        return '{"method":"ping"}'

    def decode(self, frame: str | bytes) -> list[Event]:
        try:
            message = _read(frame)
            if type(message) is list:  # quotes, made on the way
                return message
            channel = message.get("channel")
            if channel == "ohlc":
                rows = message["data"]
                if type(rows) is list and len(rows) == 1:
                    return [_candle(rows[0])]
                return rows_of(listed(rows), _candle, frame)
            if channel == "ticker":
                rows = message["data"]
                if type(rows) is list and len(rows) == 1:
                    return [_quote(rows[0])]
                return rows_of(listed(rows), _quote, frame)
            if channel == "trade":
                return rows_of(listed(message["data"]), _pushed_trade, frame)
            if channel == "heartbeat":
                return [Alive()]
            if channel == "status":
                return [_status(listed(message["data"])[0])]
            if channel is not None:
                return [Notice(f"data of the channel {str(channel)[:40]}, which nobody asked for")]
            return _answer(message)
        except MALFORMED as error:
            return [bad_frame(error, frame)]

    # -- REST --

    def instruments(self, symbols: Sequence[str]) -> list[Request]:
        path = "/0/public/AssetPairs"
        both = [Request(path), Request(path, {"aclass_base": _TOKENIZED})]
        return both[::-1] if all(map(_is_share, symbols)) else both

    def decode_instruments(self, body: bytes) -> Instruments:
        with understood("the asset pairs of Kraken"):
            found = Instruments(set(), {})
            for row in parsed(body)["result"].values():
                if "wsname" not in row:
                    continue
                symbol, status = _ours(row["wsname"]), str(row.get("status", "online"))
                found.pairs[symbol] = symbol
                if status in _NOT_TRADED:
                    found.halted[symbol] = status
                else:
                    found.trading.add(symbol)
            return found

    def klines(self, symbol: str, timeframe: str, start: int, end: int, now: int | None = None) -> Request:
        since = max(start // 1000 - 1, 0)
        return Request("/0/public/OHLC", _asked(symbol) | {"interval": _MINUTES[timeframe], "since": str(since)})

    def decode_klines(self, body: bytes, symbol: str, timeframe: str) -> list[Kline]:
        with understood(f"the {timeframe} candles of {symbol}"):
            return usable(_result(body), lambda row: _rest_candle(row, symbol, timeframe))

    def deepest_klines(self, timeframe: str, now: int) -> int | None:
        # The running candle may count as one of the 720.
        return timeframes.shift(timeframe, timeframes.floor(timeframe, now), -719)

    def trades(self, symbol: str, *, after_id: str | None = None, since: int | None = None) -> Request:
        if after_id is not None and not after_id.startswith(_CURSOR):
            raise ValueError(f"Kraken gives trades by time, not behind the id {after_id}: use since")
        moment = (since or 0) * 1_000_000 - 1 if after_id is None else int(after_id.removeprefix(_CURSOR))
        params = {"since": str(max(moment, 0)), "count": str(self.rest.trades_page)}
        return Request("/0/public/Trades", _asked(symbol) | params)

    def decode_trades(self, body: bytes, symbol: str) -> TradePage:
        with understood(f"the trades of {symbol}"):
            found = usable(_result(body), lambda row: _rest_trade(row, symbol))
            last = int(parsed(body)["result"]["last"])
            if not found:
                return TradePage(found, f"{_CURSOR}{last}")
            # One nanosecond less: whether trades of that very moment are left is not known. Only where that brings
            # nothing new is it behind that moment that there may be more: pages are shorter than asked as they like.
            return TradePage(found, f"{_CURSOR}{last - 1}", f"{_CURSOR}{last}")

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Refusal | None:
        said = error_object(body).get("error") or []
        errors = [str(one) for one in (said if isinstance(said, list) else [said]) if not str(one).startswith("W")]
        later = any(one.startswith(_LATER) for one in errors)
        detail = ", ".join(errors)[:300]
        if not 200 <= status < 300:
            made = refused(self.source, status, headers, body, detail)
            return replace(made, retry=made.retry or later)
        if errors:
            return Refusal(f"Kraken refused: {detail}", later, retry_after(headers))
        return None


def _candle(row: dict[str, Any]) -> Kline:
    return _kline(row, _place(row["symbol"], row["interval_begin"], row["interval"]))


@lru_cache(maxsize=4096)
def _place(symbol: str, begin: str, interval: int) -> Placed:
    """What comes again with each state of a candle."""
    start = iso_ms(begin)
    timeframe = _TIMEFRAMES[interval]
    return _ours(symbol), timeframe, start, last_ms(timeframe, start)


def _rest_candle(row: list[Any], symbol: str, timeframe: str) -> Kline:
    """Of (time, open, high, low, close, vwap, volume, count), time in seconds."""
    start = int(row[0]) * 1000
    made = {
        "symbol": symbol,
        "timeframe": timeframe,
        "open_ts": start,
        "end_ts": last_ms(timeframe, start),
        "open": row[1],
        "high": row[2],
        "low": row[3],
        "close": row[4],
        "vwap": row[5],
        "volume": row[6],
        "n_trades": row[7],
    }
    return _rest_kline(_estimated(made))


def _estimated(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its quote volume. Kraken's vwap is cut to the price's tick, and says 0, which is no price, where
    there was no trade."""
    volume, vwap = row["volume"], row["vwap"]
    volume, vwap = as_number(volume), as_number(vwap)
    row["quote_volume"] = volume * vwap
    if not volume:
        row["vwap"] = None
    return row


def _completed(row: dict[str, Any], place: Placed) -> dict[str, Any]:
    row["symbol"], row["timeframe"], row["open_ts"], row["end_ts"] = place
    return _estimated(row)


_kline = placed_kline_maker("Kraken", {"n_trades": "trades"}, _completed, weighted="vwap", numbers="number")


def _pushed_trade(row: dict[str, Any]) -> Trade:
    row["symbol"] = _ours(row["symbol"])
    row["ts"] = iso_ms(row["timestamp"])
    made: Trade = _trade(row)
    return made


def _rest_trade(row: list[Any], symbol: str) -> Trade:
    """Of (price, volume, time, b or s, market or limit, miscellaneous, id), time in seconds with decimals."""
    made: Trade = _trade(
        {
            "symbol": symbol,
            "price": row[0],
            "qty": row[1],
            "ts": round(float(row[2]) * 1_000_000) // 1000,
            "side": {"b": "buy", "s": "sell"}[row[3]],
            "trade_id": row[6],
        }
    )
    return made


def _status(row: dict[str, Any]) -> Notice:
    return Notice(f"Kraken's system is {str(row['system'])[:40]} (version {str(row.get('version', 'unknown'))[:20]})")


def _answer(message: dict[str, Any]) -> list[Event]:
    """What an answer to a request says: one comes for every symbol of it."""
    method = message.get("method")
    if method == "pong":
        return [Alive()]
    number = message.get("req_id")
    request_id = number if isinstance(number, int) and not isinstance(number, bool) else None
    error = message.get("error")
    if error is not None or message.get("success") is False:
        text = str(error or "refused")[:300]
        if method == "subscribe" and "already subscribed" in text.lower():
            return [Ack(request_id)]
        named = message.get("symbol") or _UNKNOWN_PAIR.search(text)
        symbol = named if isinstance(named, str) else named[1] if named else None
        return [Refused(text, request_id, retry=text.startswith(_LATER), symbol=_ours(symbol) if symbol else None)]
    if method not in ("subscribe", "unsubscribe"):
        raise ValueError(f"neither data nor an answer: {', '.join(message) or 'nothing'} in it"[:200])
    result = message["result"]
    symbol = _ours(result["symbol"])
    subscribed = None
    if result["channel"] == "trade":
        subscribed = Subscription("trade", symbol)
    elif result["channel"] == "ticker":
        subscribed = Subscription("quote", symbol)
    elif result["channel"] == "ohlc":
        subscribed = Subscription("kline", symbol, _TIMEFRAMES[result["interval"]])
    warnings = [str(one)[:300] for one in result.get("warnings") or [] if one != _EXPECTED_WARNING]
    return [Ack(request_id, subscribed), *(Notice(f"Kraken warns of {symbol}: {one}") for one in warnings)]


def _result(body: bytes) -> list[Any]:
    """The rows of an answer, which are under the pair's name, whichever of its names that is."""
    result = parsed(body)["result"]
    for name, value in result.items():
        if name != "last":
            return listed(value)
    raise ValueError("no pair in the answer")


def _is_share(symbol: str) -> bool:
    """Whether it is a share (AAPLx/USD) and no coin."""
    return _SHARE.fullmatch(symbol.partition("/")[0]) is not None


def _asked(symbol: str) -> dict[str, str]:
    """The parameters that name a pair."""
    pair = {"pair": _rest_pair(symbol)}
    return pair | {"asset_class": _TOKENIZED} if _is_share(symbol) else pair


def _rest_pair(symbol: str) -> str:
    """XBTUSD of BTC/USD."""
    base, _, quote = symbol.partition("/")
    return _THEIRS.get(base, base) + _THEIRS.get(quote, quote)


def _slashed(symbol: str) -> str:
    """BTC/USD of BTC-USD, XBTUSD or XXBTZUSD; empty where that cannot be told."""
    legacy = _LEGACY.fullmatch(symbol)
    if legacy:
        return _ours(f"{legacy[1]}/{legacy[2]}")
    parts = [part for part in re.split(r"[-/_: ]", symbol) if part]
    if len(parts) == 2:
        return _ours("/".join(parts))
    if len(parts) == 1:
        for quote in _QUOTES:
            if parts[0].endswith(quote) and len(parts[0]) > len(quote):
                return _ours(f"{parts[0].removesuffix(quote)}/{quote}")
    return ""
