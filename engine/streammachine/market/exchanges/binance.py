"""Binance: spot, USD-M and COIN-M futures.

Protocol facts: developers.binance.com, "WebSocket Streams" and "General endpoints" of each kind of market.

Volumes are in the base currency. COIN-M counts contracts of so many dollars. Its candles bear the base volume too,
where others have the quote volume: that is taken, and there is no quote volume. Its trades do not: theirs is
contracts times size by price, the size as the instruments' answer says; before one came, 100 USD for BTC and 10 for
the others. Trades are single ones on spot, and aggregate ones, which have ids of their own, on the futures.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from streammachine.market.exchanges.answers import error_object, listed, refused, understood, usable
from streammachine.market.exchanges.base import (
    Ack,
    Adapter,
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
    parsed,
    trade_validator,
)
from streammachine.market.exchanges.quotes import flat_quotes, in_base, row_quotes
from streammachine.market.exchanges.registry import ENTRIES
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.data_input import Kind
from streammachine.market.model.kline import Kline, Trade
from streammachine.market.model.pair import Pair, delivery
from streammachine.market.model.quote import Quote

_ROW: Final = {
    "symbol": "s",
    "timeframe": "i",
    "open_ts": "t",
    "end_ts": "T",
    "open": "o",
    "high": "h",
    "low": "l",
    "close": "c",
    "volume": "v",
    "quote_volume": "q",
    "n_trades": "n",
    "is_closed": "x",
}
_COIN_ROW: Final = {**{name: key for name, key in _ROW.items() if name != "quote_volume"}, "volume": "q"}
_OURS: Final = {name: name for name in ("quote_volume", "n_trades")}  # where REST rows get them
_kline = kline_maker("Binance", _ROW)
_coin_kline = kline_maker("Binance", _COIN_ROW)
_trade = trade_validator(
    "Binance", {"symbol": "s", "price": "p", "volume": "q", "ts": "T", "trade_id": "id", "side": "side"}
).validate_python
_row_quote = row_quotes("Binance", symbol="s", bid="b", bid_size="B", ask="a", ask_size="A", ts="T")
_read = flat_quotes(_row_quote, "e", "bookTicker")
_rest_kline = kline_maker("Binance", _OURS, origin="rest")

_FUTURES: Final = tuple(name for name in timeframes.TIMEFRAMES if name != "1s")
# Letters of any script: there are coins with Chinese names.
_SPOT_SYMBOL: Final = re.compile(r"[^\W_]{4,30}")
_DATED_SYMBOL: Final = re.compile(r"[^\W_]{4,30}(_[0-9]{6})?")
_COIN_SYMBOL: Final = re.compile(r"[^\W_]{1,20}USD_(PERP|[0-9]{6})")
_CONTRACT: Final = re.compile(r"(-SWAP|_PERP|_[0-9]{6})$")  # the end of a contract's name, here or elsewhere
_COIN_SPAN: Final = 200 * timeframes.DAY  # COIN-M refuses klines over a longer time


@dataclass(frozen=True, slots=True)
class _Market:
    """What differs between the kinds of market."""

    urls: Urls
    ws_path: str
    api: str
    bulk_folder: str
    timeframes: tuple[str, ...]
    symbol: re.Pattern[str]
    trade_channel: str
    streams: int
    messages: int
    weight: int
    info_weight: int


_BULK: Final = "https://data.binance.vision"
_MARKETS: Final[dict[MarketType, _Market]] = {
    "SPOT": _Market(
        urls=Urls(ws="wss://stream.binance.com:9443", rest="https://api.binance.com", bulk=_BULK),
        ws_path="/ws",
        api="/api/v3",
        bulk_folder="/data/spot",
        timeframes=timeframes.TIMEFRAMES,
        symbol=_SPOT_SYMBOL,
        trade_channel="trade",
        streams=1024,
        messages=5,
        weight=6000,
        info_weight=20,
    ),
    "USDM": _Market(
        urls=Urls(ws="wss://fstream.binance.com", rest="https://fapi.binance.com", bulk=_BULK),
        ws_path="/market/ws",
        api="/fapi/v1",
        bulk_folder="/data/futures/um",
        timeframes=_FUTURES,
        symbol=_DATED_SYMBOL,
        trade_channel="aggTrade",
        streams=1024,
        messages=10,
        weight=2400,
        info_weight=1,
    ),
    "COINM": _Market(
        urls=Urls(ws="wss://dstream.binance.com", rest="https://dapi.binance.com", bulk=_BULK),
        ws_path="/ws",
        api="/dapi/v1",
        bulk_folder="/data/futures/cm",
        timeframes=_FUTURES,
        symbol=_COIN_SYMBOL,
        trade_channel="aggTrade",
        streams=200,
        messages=10,
        weight=2400,
        info_weight=1,
    ),
}


class Binance(Adapter):
    """Binance; ``market_type`` SPOT, USDM or COINM."""

    entry = ENTRIES["binance"]
    kinds = ("kline", "trade", "quote")
    contiguous_ids = True
    trades_by_id = True

    def __init__(self, market_type: MarketType = "SPOT") -> None:
        super().__init__(market_type)
        self._market = market = _MARKETS[market_type]
        self._coin = market_type == "COINM"
        self._read = parsed if self._coin else _read  # sizes of contracts are counted anew
        self._contract_usd: dict[str, float] = {}
        self.timeframes = {name: name for name in market.timeframes}
        self.default_urls = market.urls
        # One message a second is left to the pongs, which count too.
        self.socket = SocketLimits(
            streams=market.streams,
            args=200,
            messages=market.messages - 1,
            messages_within=1.0,
            connects=300,
            connects_within=300.0,
            ping_every=20.0,
            silent=60.0,
            lifetime=24 * 3600.0,
        )
        self.bulk_folder = market.bulk_folder
        self.klines_span = _COIN_SPAN if self._coin else None
        self.bulk_volumes = (7, -1) if self._coin else (5, 7)
        self.rest = RestLimits(weight=market.weight, within=60.0, page=1000, trades_page=1000)

    # -- names --

    def check_symbol(self, symbol: str) -> str:
        made = symbol.strip().upper()
        if self._market.symbol.fullmatch(made):
            return made
        bare = re.sub(r"[-/_: ]", "", _CONTRACT.sub("", made))
        if self._coin:
            hint = f"{re.sub('USD[TC]?(PERP)?$', '', bare) or 'BTC'}USD_PERP"
        else:
            hint = bare if self._market.symbol.fullmatch(bare) else ""
        raise self.wrong_symbol(symbol, hint, what=f"symbol of Binance {self.market_type}")

    def usual_symbol(self, pair: Pair) -> str | None:
        return f"{pair.base}USD_PERP" if self._coin else pair.base + pair.quote

    # -- the socket --

    def endpoint(self, kind: Kind, urls: Urls) -> str:
        if kind == "quote" and self.market_type == "USDM":  # what changes with every order has a path of its own
            return f"{urls.ws}/public/ws"
        return urls.ws + self._market.ws_path

    def subscribe(self, subscriptions: Sequence[Subscription], first_id: int) -> list[Command]:
        return self._commands("SUBSCRIBE", subscriptions, first_id)

    def unsubscribe(self, subscriptions: Sequence[Subscription], first_id: int) -> list[Command]:
        return self._commands("UNSUBSCRIBE", subscriptions, first_id)

    def _commands(self, method: str, subscriptions: Sequence[Subscription], first_id: int) -> list[Command]:
        return [
            Command(
                orjson.dumps({"method": method, "params": [self._stream(one) for one in some], "id": number}).decode(),
                number,
                some,
            )
            for number, some in enumerate(chunks(subscriptions, self.socket.args), first_id)
        ]

    def _stream(self, subscription: Subscription) -> str:
        symbol = subscription.symbol.lower()
        if subscription.kind == "trade":
            return f"{symbol}@{self._market.trade_channel}"
        if subscription.kind == "quote":
            return f"{symbol}@bookTicker"
        return f"{symbol}@kline_{subscription.timeframe}"

    def decode(self, frame: str | bytes) -> list[Event]:
        try:
            message = self._read(frame)
            if type(message) is list:  # quotes, made on the way
                return message
            kind = message.get("e")
            if kind == "kline" and not self._coin:  # most frames
                return [_kline(message["k"])]
            if (kind is None or kind == "bookTicker") and ("B" in message or "A" in message):
                if self._coin:
                    return [self._quote(message)]
                return [_row_quote(message)]
            return self._events(message)
        except MALFORMED as error:
            return [bad_frame(error, frame)]

    def _events(self, message: dict[str, Any]) -> list[Event]:
        if "stream" in message and "data" in message:
            stream, message = message["stream"], message["data"]
            if not isinstance(message, dict):
                raise TypeError("data is no object")
            message.setdefault("e", f"{str(stream)[:60]} (by its stream)")
            if "@bookTicker" in str(stream) and ("B" in message or "A" in message):
                return [self._quote(message)]
        kind = message.get("e")
        if kind == "kline":
            row = message["k"]
            return [_coin_kline(row) if self._coin else _kline(row)]
        if kind in ("trade", "aggTrade"):
            return [self._trade(message, message["t" if kind == "trade" else "a"])]
        if kind == "serverShutdown":
            return [Notice("Binance is about to shut this server down", reconnect=True)]
        if kind is not None:
            return [Notice(f"a {str(kind)[:40]} event, which nobody asked for")]
        return [_answer(message)]

    def _trade(self, row: dict[str, Any], trade_id: object) -> Trade:
        maker = row["m"]
        if not isinstance(maker, bool):
            raise TypeError(f"m: {maker!r} is neither true nor false")
        row["id"] = trade_id
        row["side"] = "sell" if maker else "buy"
        if self._coin:
            row["q"] = self._base_volume(row["s"], row["q"], row["p"])
        made: Trade = _trade(row)
        return made

    def _quote(self, row: dict[str, Any]) -> Quote:
        """A bookTicker; on spot it does not say when."""
        made = _row_quote(row)
        if self._coin:
            made = in_base(made, self._contract_size(made.symbol))
        return made

    def _base_volume(self, symbol: str, contracts: str, price: str) -> float:
        return as_number(contracts) * self._contract_size(symbol) / as_number(price)

    def _contract_size(self, symbol: str) -> float:
        return self._contract_usd.get(symbol) or (100.0 if symbol.startswith("BTCUSD") else 10.0)

    # -- REST --

    def instruments(self, symbols: Sequence[str]) -> list[Request]:
        params = {}
        if self.market_type == "SPOT":  # the futures have no such filters
            params = {"symbolStatus": "TRADING", "showPermissionSets": "false"}
        return [Request(f"{self._market.api}/exchangeInfo", params, self._market.info_weight)]

    def instrument(self, symbol: str) -> Request | None:
        if self.market_type != "SPOT":  # the futures' answer holds all
            return None
        params = {"symbol": symbol, "showPermissionSets": "false"}
        return Request(f"{self._market.api}/exchangeInfo", params, self._market.info_weight)

    def decode_instruments(self, body: bytes) -> Instruments:
        with understood("the exchange information of Binance"):
            found = Instruments(set(), {})
            for row in listed(parsed(body)["symbols"]):
                symbol, status = str(row["symbol"]), str(row.get("status", row.get("contractStatus")))
                if "baseAsset" in row:
                    found.pairs[symbol] = str(self._pair(row))
                if self._coin and "contractSize" in row:
                    found.sizes[symbol] = float(row["contractSize"])
                if status != "TRADING":
                    found.halted[symbol] = status
                    continue
                found.trading.add(symbol)
                if self._coin and "contractSize" in row:
                    self._contract_usd[symbol] = float(row["contractSize"])
            return found

    def _pair(self, row: Mapping[str, Any]) -> Pair:
        base, quote = str(row["baseAsset"]), str(row["quoteAsset"])
        if self.market_type == "SPOT":
            return Pair(base, quote)
        settle = str(row.get("marginAsset") or (base if self._coin else quote))
        return Pair(base, quote, settle, delivery(row.get("deliveryDate", "")))

    def klines(self, symbol: str, timeframe: str, start: int, end: int, now: int | None = None) -> Request:
        last = end - 1
        if self._coin:
            last = min(last, start + _COIN_SPAN - 1)
        step = timeframes.MILLISECONDS.get(timeframe, 28 * timeframes.DAY)
        limit = max(1, min(self.rest.page, math.ceil((last + 1 - start) / step)))
        return Request(
            f"{self._market.api}/klines",
            {
                "symbol": symbol,
                "interval": timeframe,
                "startTime": str(start),
                "endTime": str(last),
                "limit": str(limit),
            },
            self._klines_weight(limit),
        )

    def _klines_weight(self, limit: int) -> int:
        if self.market_type == "SPOT":
            return 2
        return 1 if limit < 100 else 2 if limit < 500 else 5

    def decode_klines(self, body: bytes, symbol: str, timeframe: str) -> list[Kline]:
        volume, quote = (7, None) if self._coin else (5, 7)

        def made(row: list[Any]) -> Kline:
            return _rest_kline(
                {
                    "symbol": symbol,
                    "timeframe": timeframe,
                    "open_ts": row[0],
                    "open": row[1],
                    "high": row[2],
                    "low": row[3],
                    "close": row[4],
                    "volume": row[volume],
                    "end_ts": row[6],
                    "quote_volume": None if quote is None else row[quote],
                    "n_trades": row[8],
                }
            )

        with understood(f"the {timeframe} candles of {symbol}"):
            return usable(listed(orjson.loads(body)), made)

    def trades(self, symbol: str, *, after_id: str | None = None, since: int | None = None) -> Request:
        params = {"symbol": symbol, "limit": str(self.rest.trades_page)}
        weight = 4 if self.market_type == "SPOT" else 20
        if after_id is None:
            params["startTime"] = str(since or 0)
            if self.market_type == "SPOT":  # only to learn the id of the first trade
                params["limit"] = "1"
            return Request(f"{self._market.api}/aggTrades", params, weight)
        params["fromId"] = str(int(after_id) + 1)
        if self.market_type == "SPOT":
            return Request(f"{self._market.api}/historicalTrades", params, 25)
        return Request(f"{self._market.api}/aggTrades", params, weight)

    def decode_trades(self, body: bytes, symbol: str) -> TradePage:
        with understood(f"the trades of {symbol}"):
            rows = listed(orjson.loads(body))
            if self.market_type == "SPOT" and rows and "f" in rows[0]:
                return TradePage([], str(int(rows[0]["f"]) - 1))
            found = usable(rows, lambda row: self._rest_trade(row, symbol))
            return TradePage(found, found[-1].trade_id if len(rows) >= self.rest.trades_page else None)

    def _rest_trade(self, row: dict[str, Any], symbol: str) -> Trade:
        if "a" in row:
            return self._trade(row | {"s": symbol}, row["a"])
        return self._trade(
            {"s": symbol, "p": row["price"], "q": row["qty"], "T": row["time"], "m": row["isBuyerMaker"]}, row["id"]
        )

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Refusal | None:
        if 200 <= status < 300:
            return None
        error = error_object(body)
        detail = f"{error.get('msg', '')} (code {error['code']})" if "code" in error else ""
        made = refused(self.source, status, headers, body, detail[:300])
        # 403: its firewall takes so many requests for an attack. -1003: too many requests; -1001, -1007, -1008: Binance
        # itself is disconnected, late or overloaded.
        return replace(made, retry=made.retry or status == 403 or error.get("code") in (-1001, -1003, -1007, -1008))


def _answer(message: dict[str, Any]) -> Event:
    """What an answer to a request says: ``{"result":null,"id":1}``, ``{"code":2,"msg":"...","id":1}`` or
    ``{"error":{"code":2,"msg":"..."},"id":1}``."""
    number = message.get("id")
    request_id = number if isinstance(number, int) and not isinstance(number, bool) else None
    error = message.get("error", message)
    if isinstance(error, dict) and "code" in error:
        text = f"{error.get('msg', 'refused')} (code {error['code']})"
        return Refused(text[:300], request_id)
    if "result" in message:
        return Ack(request_id)
    raise ValueError(f"neither an event nor an answer: {', '.join(message) or 'nothing'} in it"[:200])
