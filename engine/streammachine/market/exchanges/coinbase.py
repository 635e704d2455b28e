"""Coinbase spot: Advanced Trade's public WebSocket and REST. No key is needed.

Protocol facts: docs.cdp.coinbase.com, "Advanced Trade APIs", "WebSocket Channels" and "Public market data"; volumes
are in the base currency, and nothing gives quote volumes or counts of trades.

The socket pushes candles of five minutes only, and never says that one is closed: those of other timeframes are folded
from trades (``pushed``). Neither socket nor REST has a candle of an interval without a trade, and REST may lack others:
trades tell which of the two it is (``omits_empty``). Every message of a connection bears the next ``sequence_num``, the
heartbeats too, so a hole in them is a lost message. The side of a trade is the maker's. The best bid and ask
come with the ticker, at each trade and when they change, and the time is the message's. REST gives the newest trades of
a range first. Of USDC's products the sockets send what belongs to the USD product, under its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from streammachine.errors import SymbolError
from streammachine.market.exchanges.answers import error_object, listed, refused, understood, usable
from streammachine.market.exchanges.base import (
    Ack,
    Adapter,
    Alive,
    Command,
    Event,
    Instruments,
    Notice,
    Numbered,
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
    iso_ms,
    kline_maker,
    last_ms,
    parsed,
    rows_of,
    trade_validator,
)
from streammachine.market.exchanges.quotes import row_quotes
from streammachine.market.exchanges.registry import ENTRIES
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.data_input import Kind
from streammachine.market.model.kline import Kline, Trade
from streammachine.market.model.pair import Pair

_GRANULARITIES: Final = {
    "1m": "ONE_MINUTE",
    "5m": "FIVE_MINUTE",
    "15m": "FIFTEEN_MINUTE",
    "30m": "THIRTY_MINUTE",
    "1h": "ONE_HOUR",
    "2h": "TWO_HOUR",
    "4h": "FOUR_HOUR",
    "6h": "SIX_HOUR",
    "1d": "ONE_DAY",
}
_PUSHED: Final = "5m"
_LENGTH: Final = timeframes.MILLISECONDS[_PUSHED]
_BEFORE: Final = 40  # candles in front of those asked for: with 300 of them fewer than the 350 that it takes at most
_PLACES: Final = {"symbol": "product_id"}
_kline = kline_maker("Coinbase", _PLACES)
_rest_kline = kline_maker("Coinbase", _PLACES, origin="rest")
_trade = trade_validator("Coinbase", {**_PLACES, "volume": "size", "side": "side"}).validate_python
_TAKER: Final = {"BUY": "sell", "SELL": "buy"}  # by what the maker did

_SYMBOL: Final = re.compile(r"[A-Z0-9]{1,20}-[A-Z0-9]{2,10}")
_NAMED: Final = re.compile(r"\b[A-Z0-9]{1,20}-[A-Z0-9]{2,10}\b")
_QUOTES: Final = ("USDT", "USDC", "USD", "EUR", "GBP", "BTC", "ETH")
_OWN_USDC: Final = ("USDT-USDC", "EURC-USDC")  # the others are the USD products under another name
_PRODUCTS: Final = "/api/v3/brokerage/market/products"
_CHANNELS: Final[dict[str, tuple[Kind, str | None]]] = {
    "candles": ("kline", _PUSHED),
    "market_trades": ("trade", None),
    "ticker": ("quote", None),
}
_quote = row_quotes(
    "Coinbase",
    symbol="product_id",
    bid="best_bid",
    bid_size="best_bid_quantity",
    ask="best_ask",
    ask_size="best_ask_quantity",
    ts="timestamp",
)


class Coinbase(Adapter):
    """Coinbase spot."""

    entry = ENTRIES["coinbase"]
    kinds = ("kline", "trade", "quote")
    timeframes = _GRANULARITIES
    default_urls = Urls(ws="wss://advanced-trade-ws.coinbase.com", rest="https://api.coinbase.com")
    # 8 connections and 8 messages a second for one address; a heartbeat every second, so silence is a dead connection.
    socket = SocketLimits(
        streams=500,
        args=100,
        messages=8,
        messages_within=1.0,
        connects=8,
        connects_within=1.0,
        ping_every=30.0,
        silent=10.0,
    )
    rest = RestLimits(weight=10, within=1.0, page=300, trades_page=1000)
    pushed = (_PUSHED,)
    omits_empty = True
    # It must come within 5 s, and keeps connections whose products are not traded from being closed.
    opening = ('{"type":"subscribe","channel":"heartbeats"}',)

    # -- names --

    def check_symbol(self, symbol: str) -> str:
        made = symbol.strip().upper()
        if not _SYMBOL.fullmatch(made):
            raise self.wrong_symbol(symbol, _dashed(made))
        if made.endswith("-USDC") and made not in _OWN_USDC:
            usd = made.removesuffix("C")
            raise SymbolError(f"Coinbase has one market for {made} and {usd}, and sends its data as {usd}: give {usd}")
        return made

    def usual_symbol(self, pair: Pair) -> str | None:
        return self.check_symbol(f"{pair.base}-{pair.quote}")

    # -- the socket --

    def endpoint(self, kind: Kind, urls: Urls) -> str:
        return urls.ws

    def subscribe(self, subscriptions: Sequence[Subscription], first_id: int) -> list[Command]:
        return self._commands("subscribe", subscriptions, first_id)

    def unsubscribe(self, subscriptions: Sequence[Subscription], first_id: int) -> list[Command]:
        return self._commands("unsubscribe", subscriptions, first_id)

    def _commands(self, kind: str, subscriptions: Sequence[Subscription], first_id: int) -> list[Command]:
        """One command is for one channel. No answer bears the number of its request."""
        made: list[Command] = []
        for channel, (of, _) in _CHANNELS.items():
            for some in chunks([one for one in subscriptions if one.kind == of], self.socket.args):
                asked = {"type": kind, "product_ids": [one.symbol for one in some], "channel": channel}
                made.append(Command(orjson.dumps(asked).decode(), first_id + len(made), some))
        return made

    def decode(self, frame: str | bytes) -> list[Event]:
        try:
            message = parsed(frame)
            channel = message.get("channel")
            if channel is None:
                return [_answer(message)]
            found: list[Event] = [Numbered(int(message["sequence_num"]))]
            events = listed(message["events"])
            if channel == "candles":
                for event in events:
                    rows = event["candles"]
                    if type(rows) is list and len(rows) == 1:
                        found.append(_candle(rows[0]))
                    else:
                        found += rows_of(reversed(listed(rows)), _candle, frame)
            elif channel == "market_trades":
                for event in events:
                    if event.get("type") != "snapshot":  # which is of the time before the subscription
                        found += rows_of(reversed(listed(event["trades"])), _made_trade, frame)
            elif channel == "ticker":
                for event in events:
                    rows = event["tickers"]
                    if type(rows) is list and len(rows) == 1:
                        rows[0]["timestamp"] = message["timestamp"]
                        found.append(_quote(rows[0]))
                    else:
                        found += rows_of(_timed(rows, message["timestamp"]), _quote, frame)
            elif channel == "heartbeats":
                found.append(Alive(idle=False))
            elif channel == "subscriptions":
                for event in events:
                    found += _subscribed(event["subscriptions"])
            else:
                found.append(Notice(f"data of the channel {str(channel)[:40]}, which nobody asked for"))
            return found
        except MALFORMED as error:
            return [bad_frame(error, frame)]

    # -- REST --

    def instruments(self, symbols: Sequence[str]) -> list[Request]:
        return [Request(_PRODUCTS, {"product_type": "SPOT"})]

    def decode_instruments(self, body: bytes) -> Instruments:
        with understood("the products of Coinbase"):
            found = Instruments(set(), {})
            for row in listed(parsed(body)["products"]):
                symbol, status = str(row["product_id"]), str(row.get("status", "online"))
                base, _, quote = symbol.rpartition("-")
                alias = str(row.get("alias") or "")
                if base and not alias.endswith("-USD"):  # a product of USDC's that is the USD product
                    found.pairs[symbol] = f"{base}/{quote}"
                flags = [name for name in ("is_disabled", "trading_disabled", "cancel_only") if row.get(name)]
                if status == "online" and not flags:
                    found.trading.add(symbol)
                else:
                    found.halted[symbol] = status if status != "online" else flags[0]
            return found

    def klines(self, symbol: str, timeframe: str, start: int, end: int, now: int | None = None) -> Request:
        # The candle before the first one tells the price at which an empty one stands.
        first = timeframes.shift(timeframe, timeframes.floor(timeframe, start), -_BEFORE)
        return Request(
            f"{_PRODUCTS}/{symbol}/candles",
            {
                "start": str(max(first, 0) // 1000),
                "end": str((end - 1) // 1000),  # included
                "granularity": _GRANULARITIES[timeframe],
                "limit": "350",
            },
        )

    def decode_klines(self, body: bytes, symbol: str, timeframe: str) -> list[Kline]:
        def made(row: dict[str, Any]) -> Kline:
            start = int(row["start"]) * 1000
            placed = {"product_id": symbol, "timeframe": timeframe, "open_ts": start}
            return _rest_kline({**row, **placed, "end_ts": last_ms(timeframe, start)})

        with understood(f"the {timeframe} candles of {symbol}"):
            return sorted(usable(listed(parsed(body)["candles"]), made), key=lambda kline: kline.open_ts)

    def trades(self, symbol: str, *, after_id: str | None = None, since: int | None = None) -> Request:
        return self.trades_between(symbol, since or 0, None)

    def trades_between(self, symbol: str, start: int, end: int | None) -> Request:
        params = {"limit": str(self.rest.trades_page), "start": str(start // 1000)}
        if end is not None:
            params["end"] = str(-(-end // 1000))
        return Request(f"{_PRODUCTS}/{symbol}/ticker", params)

    def decode_trades(self, body: bytes, symbol: str) -> TradePage:
        def made(row: dict[str, Any]) -> Trade:
            return _made_trade({**row, "product_id": symbol})

        with understood(f"the trades of {symbol}"):
            return TradePage(usable(listed(parsed(body)["trades"]), made)[::-1], None)

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Refusal | None:
        if 200 <= status < 300:
            return None
        said = error_object(body)
        detail = str(said.get("message") or said.get("error_details") or said.get("error") or "")[:300]
        return refused(self.source, status, headers, body, detail)


def _timed(rows: Any, moment: str) -> list[dict[str, Any]]:
    """Tickers with the time of their message."""
    for row in listed(rows):
        row["timestamp"] = moment
    return list(rows)


def _candle(row: dict[str, Any]) -> Kline:
    start = int(row["start"]) * 1000
    row["timeframe"] = _PUSHED
    row["open_ts"] = start
    row["end_ts"] = start + _LENGTH - 1
    return _kline(row)


def _made_trade(row: dict[str, Any]) -> Trade:
    row["ts"] = iso_ms(row["time"])
    row["side"] = _TAKER[row["side"]]
    made: Trade = _trade(row)
    return made


def _subscribed(channels: dict[str, Any]) -> list[Event]:
    """What a connection gets now, all of it; the answer to a change of that."""
    found: list[Event] = [
        Ack(None, Subscription(kind, str(product), timeframe))
        for channel, (kind, timeframe) in _CHANNELS.items()
        for product in listed(channels.get(channel, []))
    ]
    return found or [Ack()]


def _answer(message: dict[str, Any]) -> Event:
    """An error: what it is about stands in its text only."""
    if message.get("type") != "error":
        raise ValueError(f"neither data nor an answer: {', '.join(message) or 'nothing'} in it"[:200])
    text = " ".join(str(message[name]) for name in ("message", "reason") if message.get(name))[:300] or "refused"
    named = _NAMED.search(text)
    return Refused(text, symbol=named[0] if named else None, retry="rate limit" in text.lower())


def _dashed(symbol: str) -> str:
    """BTC-USD of BTCUSD, BTC/USD or BTC_USD; empty where that cannot be told."""
    parts = [part for part in re.split(r"[-/_: ]", symbol) if part]
    if len(parts) == 2:
        return "-".join(parts)
    for quote in _QUOTES if len(parts) == 1 else ():
        if parts[0].endswith(quote) and len(parts[0]) > len(quote):
            return f"{parts[0].removesuffix(quote)}-{quote}"
    return ""
