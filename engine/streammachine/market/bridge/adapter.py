"""An exchange of ccxt's as an adapter: names, timeframes, and its rows as Klines and Trades.

ccxt (4.5, docs.ccxt.com) does the input and output; what comes here is what its ``watch_ohlcv``, ``watch_trades``,
``fetch_ohlcv`` and ``fetch_trades`` return. Symbols are its unified ones, which are our spelling. It does not say when
a candle is closed, in which unit the volume of a contract is (the exchange's own), nor how many trades a candle has.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from streammachine.errors import MarketError, UnknownExchangeError
from streammachine.market.exchanges.answers import understood, usable
from streammachine.market.exchanges.base import (
    Adapter,
    Command,
    Event,
    Instruments,
    Refusal,
    Request,
    RestLimits,
    SocketLimits,
    Subscription,
    TradePage,
    Urls,
)
from streammachine.market.exchanges.decode import (
    MALFORMED,
    bad_frame,
    listed_kline_maker,
    trade_validator,
)
from streammachine.market.exchanges.registry import ExchangeEntry, MarketType
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.data_input import Kind
from streammachine.market.model.kline import Kline, Trade
from streammachine.market.model.pair import Pair, parse_pair

PREFIX: Final = "ccxt:"
OHLCV, TRADES = "fetch_ohlcv", "fetch_trades"
MARKETS: Final = "load_markets"
_CURSOR: Final = "ts:"


def ccxt_pro() -> Any:
    """The module ``ccxt.pro``.

    Raises:
        MarketError: it is not installed.
    """
    try:
        import ccxt.pro as pro
    except ImportError as error:
        raise MarketError("exchanges of ccxt need the extra: pip install 'streammachine-mcp[ccxt]'") from error
    return pro


class CcxtAdapter(Adapter):
    """One exchange of ccxt's: ``CcxtAdapter("gate")``. The kind of market stands in each symbol.

    Raises:
        MarketError: ccxt is not installed. UnknownExchangeError: ccxt has no such exchange; the text names near ones.
    """

    writes_pairs = True
    default_urls = Urls(ws="", rest="")
    socket = SocketLimits(
        streams=100_000,
        args=1,
        messages=1000,
        messages_within=1.0,
        connects=1000,
        connects_within=1.0,
        ping_every=3600.0,
        silent=3600.0,
    )
    rest = RestLimits(weight=1000, within=1.0, page=200, trades_page=500, parallel=2)

    def __init__(self, name: str, market_type: str = "SPOT") -> None:
        pro = ccxt_pro()
        self.ccxt_id = name.strip().lower().removeprefix(PREFIX)
        if self.ccxt_id not in pro.exchanges:
            raise _unknown(self.ccxt_id, pro.exchanges)
        super().__init__("SPOT")
        full = PREFIX + self.ccxt_id
        self.entry = ExchangeEntry(  # type: ignore[misc]
            name=full,
            title=full,
            adapter="CcxtAdapter",
            simulator="",
            symbol="BTC/USDT",
            closes="next",
            symbols_tell_market=True,
        )
        self.name = self.source = full  # type: ignore[misc]
        self.env = f"STREAMMACHINE_{self.ccxt_id.upper()}"  # type: ignore[misc]
        self.market_types: tuple[MarketType, ...] = ("SPOT",)  # type: ignore[misc]
        self.closes = "next"  # type: ignore[misc]
        self.symbol_example = "BTC/USDT"  # type: ignore[misc]
        kind = getattr(pro, self.ccxt_id)
        told = kind.describe(kind.__new__(kind))  # a whole one would want to be closed
        self.has: Mapping[str, Any] = told["has"]
        known = told.get("timeframes") or {}
        self.timeframes = {name: name for name in timeframes.TIMEFRAMES if name in known}
        if self.has.get("watchOHLCV") is not True:
            self.pushed = ()  # folded from trades by us: what is emulated puts late trades into the next candle
        self._pairs: set[Pair] = set()  # those that were asked for
        self._kline = listed_kline_maker(full)
        self._rest_kline = listed_kline_maker(full, origin="rest")
        self._trade = trade_validator(full, {"side": "side"}).validate_python

    @staticmethod
    def make_client(adapter: CcxtAdapter, urls: Urls, **options: Any) -> Any:
        """What takes a REST client's place."""
        from streammachine.market.bridge.client import CcxtClient

        return CcxtClient(adapter, urls, **options)

    @staticmethod
    def make_feed(*arguments: Any, **options: Any) -> Any:
        """What takes a feed's place."""
        from streammachine.market.bridge.feed import CcxtFeed

        return CcxtFeed(*arguments, **options)

    def connect(self, urls: Urls) -> Any:
        """A new exchange object of ccxt's, for one event loop; its hosts are those of the URLs, where there are any."""
        made = getattr(ccxt_pro(), self.ccxt_id)({"enableRateLimit": True})
        made.has["fetchCurrencies"] = False  # candles do not need them, and some exchanges give them to members only
        if urls.ws or urls.rest:
            made.urls["api"] = _moved(made.urls["api"], urls)
        _narrow(made.options, self._pairs)
        return made

    # -- names --

    def check_symbol(self, symbol: str) -> str:
        pair = parse_pair(symbol)
        if pair is None:
            raise self.wrong_symbol(symbol, "")
        self._pairs.add(pair)
        return symbol.strip() if symbol.strip().upper() != str(pair) else str(pair)

    def urls(self, **given: str | None) -> Urls:
        import os

        def found(part: str) -> str:
            return (given.get(f"{part}_url") or os.environ.get(f"{self.env}_{part.upper()}") or "").rstrip("/")

        return Urls(ws=found("ws"), rest=found("rest"))

    # -- the socket --

    def endpoint(self, kind: Kind, urls: Urls) -> str:
        return urls.ws

    def subscribe(self, subscriptions: Sequence[Subscription], first_id: int) -> list[Command]:
        return []  # ccxt does

    def unsubscribe(self, subscriptions: Sequence[Subscription], first_id: int) -> list[Command]:
        return []

    def decode(self, frame: Any) -> list[Event]:
        """What ccxt's watch method returned: (symbol, timeframe or None, its rows)."""
        try:
            symbol, timeframe, rows = frame
            found: list[Event] = []
            alike: Counter[str] = Counter()
            for row in rows:
                try:
                    if timeframe is None:
                        found.append(self.trade(row, symbol, alike))
                    else:
                        found.append(self._kline(row, symbol, timeframe))
                except MALFORMED as error:
                    found.append(bad_frame(error, str(row)[:400]))
            return found
        except MALFORMED as error:
            return [bad_frame(error, str(frame)[:400])]

    # -- REST --

    def instruments(self, symbols: Sequence[str]) -> list[Request]:
        return [Request(MARKETS)]

    def decode_instruments(self, body: Any) -> Instruments:
        found = Instruments(set(), {})
        with understood(f"the markets of {self.source}"):
            for symbol, market in body.items():
                found.pairs[symbol] = symbol
                if market.get("active") is False:
                    found.halted[symbol] = "inactive"
                else:
                    found.trading.add(symbol)
                if market.get("contractSize"):
                    found.sizes[symbol] = float(market["contractSize"])
        return found

    def klines(self, symbol: str, timeframe: str, start: int, end: int, now: int | None = None) -> Request:
        step = timeframes.MILLISECONDS.get(timeframe, 28 * timeframes.DAY)
        limit = max(1, min(self.rest.page, -(-(end - start) // step)))
        asked = {"symbol": symbol, "timeframe": timeframe, "since": str(start), "limit": str(limit)}
        return Request(OHLCV, asked)

    def decode_klines(self, body: Any, symbol: str, timeframe: str) -> list[Kline]:
        with understood(f"the {timeframe} candles of {symbol}"):
            found = usable(list(body), lambda row: self._rest_kline(row, symbol, timeframe))
            return sorted(found, key=lambda kline: kline.open_ts)

    def trades(self, symbol: str, *, after_id: str | None = None, since: int | None = None) -> Request:
        moment = since or 0 if after_id is None else int(after_id.removeprefix(_CURSOR))
        return Request(TRADES, {"symbol": symbol, "since": str(moment), "limit": str(self.rest.trades_page)})

    def decode_trades(self, body: Any, symbol: str) -> TradePage:
        with understood(f"the trades of {symbol}"):
            alike: Counter[str] = Counter()
            found = usable(list(body), lambda row: self.trade(row, symbol, alike))
            found.sort(key=lambda trade: trade.ts)
            return TradePage(found, f"{_CURSOR}{found[-1].ts}" if found else None)

    def trade(self, row: Mapping[str, Any], symbol: str, alike: Counter[str] | None = None) -> Trade:
        """A trade of ccxt's unified form.

        Args:
            alike: counts the trades of one reply that have no id and say the same. One without an id is told by what
                it says, and from the second on by its place among those: ccxt cannot tell more, so the same trade in
                two replies is one, and two that are alike and come in a reply each are one too.
        """
        ts, price, amount = row["timestamp"], row["price"], row["amount"]
        trade_id = str(row.get("id") or "")
        if not trade_id:
            trade_id = f"{ts}-{price}-{amount}"
            if alike is not None:
                alike[trade_id] += 1
                if alike[trade_id] > 1:
                    trade_id += f"-{alike[trade_id]}"
        made: Trade = self._trade(
            {
                "symbol": symbol,
                "ts": ts,
                "price": price,
                "volume": amount,
                "side": row.get("side"),
                "trade_id": trade_id,
            }
        )
        return made

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Refusal | None:
        return None  # ccxt raises


def _unknown(name: str, known: Sequence[str]) -> UnknownExchangeError:
    near = difflib.get_close_matches(name, known, 3)
    hint = f": did you mean {' or '.join(near)}?" if near else f": it has {len(known)}, such as gate, kucoin and bitget"
    return UnknownExchangeError(f"ccxt streams no exchange {name!r}{hint}")


def _moved(value: Any, urls: Urls) -> Any:
    """ccxt's own URLs with the hosts of others; the paths stay."""
    if isinstance(value, dict):
        return {name: _moved(one, urls) for name, one in value.items()}
    if not isinstance(value, str) or "://" not in value:
        return value
    base = urlsplit(urls.ws if value.startswith("ws") else urls.rest)
    if not base.netloc:
        return value
    old = urlsplit(value.replace("{hostname}", "host"))
    return urlunsplit((base.scheme, base.netloc, old.path, old.query, ""))


def _narrow(options: dict[str, Any], pairs: Iterable[Pair]) -> None:
    """Have ccxt load the markets of the kinds that are asked for, and no others: that is quicker, and where a socket's
    URL does not tell the kind, as a simulator's, a symbol is taken for what it is."""
    wanted: set[str] = set()
    for pair in pairs:
        kind = pair.kind.lower()
        wanted |= {"spot"} if kind == "spot" else {kind, "future" if pair.date else "swap"}
    types = options.get("fetchMarkets")
    if isinstance(types, dict) and isinstance(types.get("types"), list) and wanted:
        types["types"] = [kind for kind in types["types"] if kind in wanted] or types["types"]
