"""What an exchange adapter is: pure functions over bytes and values. No socket, no clock, no sleep.

The session (sockets), history (REST) and the simulator's tests do the I/O for all of them. A new exchange is one file
here (begin with a copy of ``_template``), its half in the simulator, and an entry in ``registry``:
docs/contributing/exchange.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from streammachine.errors import DataInputError, SymbolError, TimeframeError
from streammachine.market.exchanges.registry import URL_PARTS, ExchangeEntry
from streammachine.market.exchanges.registry import MarketType as MarketType
from streammachine.market.model.data_input import Kind
from streammachine.market.model.kline import Kline, Trade
from streammachine.market.model.pair import Pair
from streammachine.market.model.quote import Quote

# -- what is asked for ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Subscription:
    """One stream: the candles of a symbol and timeframe, or (timeframe None) its trades or quotes, by our names."""

    kind: Kind
    symbol: str
    timeframe: str | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """One text frame to send, the request id that its answer bears, and the streams that it is for.

    ``acks``: how many acknowledgements the exchange sends for it (Binance 1 per request, OKX and Kraken 1 per stream).
    """

    frame: str
    request_id: int
    subscriptions: tuple[Subscription, ...]
    acks: int = 1


@dataclass(frozen=True, slots=True)
class Request:
    """One GET: a path below the REST (or bulk) base URL, its query, and what it costs of the exchange's budget."""

    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    weight: int = 1


# -- what a frame says ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ack:
    """A (un)subscription was accepted. ``request_id`` or ``subscription`` says which; Binance gives only the first,
    OKX only the second."""

    request_id: int | None = None
    subscription: Subscription | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A request was refused; trying the same again would not help unless ``retry``.

    ``subscription``, or ``request_id`` with ``symbol`` (Kraken), or ``request_id`` alone says which streams.
    """

    reason: str
    request_id: int | None = None
    subscription: Subscription | None = None
    retry: bool = False
    symbol: str | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """The exchange says something of the connection. ``reconnect``: it will be closed soon; open another first."""

    text: str
    reconnect: bool = False


@dataclass(frozen=True, slots=True)
class Alive:
    """A pong or a heartbeat: the transport works.

    ``idle``: the exchange says it while it has nothing else to say (Kraken), so no data is missing; not where it comes
    anyway.
    """

    idle: bool = True


@dataclass(frozen=True, slots=True)
class BadFrame:
    """A frame that cannot be understood: counted and logged, never an exception. ``excerpt``: how it begins."""

    reason: str
    excerpt: str


@dataclass(slots=True)
class Numbered:
    """The number of a message on its connection, where each bears the next one (Coinbase): one that is skipped is a
    message that was lost. Stands before what the message says."""

    number: int


Event = Kline | Trade | Quote | Ack | Refused | Notice | Alive | BadFrame | Numbered


# -- what the exchange allows -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SocketLimits:
    """Numbers of one socket endpoint; times in seconds.

    Attributes:
        streams: subscriptions on one connection. args: subscriptions in one request.
        messages: frames we may send within ``messages_within``. connects / connects_within: new ones per address.
        ping_every: send ``ping()`` (or, where that is None, a ping frame) when so long nothing was sent.
        silent: no frame at all for so long means that the connection is dead.
        lifetime: the exchange cuts the connection after so long; None: never.
    """

    streams: int
    args: int
    messages: int
    messages_within: float
    connects: int
    connects_within: float
    ping_every: float
    silent: float
    lifetime: float | None = None


@dataclass(frozen=True, slots=True)
class RestLimits:
    """REST budget: ``weight`` per ``within`` seconds for one address; ``page``: most candles of one answer."""

    weight: int
    within: float
    page: int
    trades_page: int
    parallel: int = 4


@dataclass(frozen=True, slots=True)
class Urls:
    """Base URLs of one exchange, without a trailing slash. ``ws_business``: OKX's second socket, else as ``ws``."""

    ws: str
    rest: str
    ws_business: str = ""
    bulk: str = ""


# -- what REST says ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a REST answer that is no success means. ``retry_after``: seconds to wait, None where it does not say.
    ``retry``: trying the same again later may help (429, 418, 5xx, the exchange's own busy codes)."""

    reason: str
    retry: bool
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class TradePage:
    """Trades, oldest first, and the cursor for the page behind (None: there is none).

    ``beyond``: the cursor to go on with where the page held nothing new, and yet may not be the last.
    """

    trades: list[Trade]
    cursor: str | None
    beyond: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """One market as an exchange lists it.

    Attributes:
        symbol: as the exchange writes it. pair: as we do, see ``model.pair``.
        halted: its status where it is not traded now, else empty.
        contract_size: what one contract is worth, in the base currency, or (inverse) in US dollars; None: no contracts.
    """

    symbol: str
    pair: str
    halted: str = ""
    contract_size: float | None = None


@dataclass(frozen=True, slots=True)
class Instruments:
    """Symbols in the exchange's form: those whose candles and trades go on, and others that are listed, with their
    status; and ``pairs``, by symbol, our spelling of those that we have one for. ``sizes``: of their contracts."""

    trading: set[str]
    halted: dict[str, str]
    pairs: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, float] = field(default_factory=dict)

    def listings(self) -> list[Listing]:
        """Those that we have a spelling for."""
        return [
            Listing(symbol, pair, self.halted.get(symbol, ""), self.sizes.get(symbol))
            for symbol, pair in self.pairs.items()
        ]


class Adapter:
    """One exchange (and kind of market). Pure: everything that is passed in or handed out is values.

    Attributes:
        entry: the exchange's entry in the registry, which gives name, source (its title), env, market_types, closes and
            symbol_example (its symbol): see ``ExchangeEntry``.
        market_type: the kind of market.
        timeframes: ours to the exchange's name, for those it has.
        default_urls, socket, rest: see their classes.
        kinds: what it streams; quotes where that has been built.
        contiguous_ids: whether the trade ids of one symbol (``trade_id`` as int) rise by one (by ``Trade.fills``).
        trades_by_id: whether REST gives the trades behind a trade's id; else they are asked for by time.
        trades_before: whether a subscription to trades begins with those before it.
        klines_span: milliseconds that one ``klines`` request may cover at most; None: as many as a page of candles.
        pushed: the timeframes of the candles that the socket pushes; None: all. Others are folded from trades.
        omits_empty: REST has no candle of an interval without a trade (and may lack others): trades tell.
        writes_pairs: its own symbols are written as we write pairs (Kraken).
        make_client, make_feed: make what takes the place of ``RestClient`` and ``Feed``, where a library speaks to the
            exchange (ccxt); None: ours do.
        opening: text frames that are sent on each new connection, before its subscriptions.
        bulk_folder: the folder of bulk files of this kind of market, below the bulk base URL; None: there are none.
            Their form is that of ``backfill.bulk_files``.
        bulk_volumes: which cells of their lines are the volume and the quote volume; -1: the latter is not there.
    """

    entry: ClassVar[ExchangeEntry]
    name: ClassVar[str]
    source: ClassVar[str]
    env: ClassVar[str]
    market_types: ClassVar[tuple[MarketType, ...]]
    closes: ClassVar[Literal["flag", "next"]]
    symbol_example: ClassVar[str]
    timeframes: Mapping[str, str]
    default_urls: Urls
    socket: SocketLimits
    rest: RestLimits
    kinds: tuple[Kind, ...] = ("kline", "trade")
    contiguous_ids: bool = False
    klines_span: int | None = None
    trades_by_id: bool = False
    trades_before: bool = False
    pushed: tuple[str, ...] | None = None
    omits_empty: bool = False
    opening: tuple[str, ...] = ()
    writes_pairs: bool = False
    make_client: ClassVar[Callable[..., Any] | None] = None
    make_feed: ClassVar[Callable[..., Any] | None] = None
    bulk_folder: str | None = None
    bulk_volumes: tuple[int, int] = (5, 7)

    def __init_subclass__(cls) -> None:
        """What the entry says stands in the class too: it is read for every row."""
        super().__init_subclass__()
        if "entry" in cls.__dict__:
            entry = cls.entry
            cls.name, cls.source, cls.env = entry.name, entry.title, entry.env
            cls.market_types, cls.closes, cls.symbol_example = entry.market_types, entry.closes, entry.symbol

    def __init__(self, market_type: MarketType = "SPOT") -> None:
        self.market_type = market_type

    # -- names --

    def check_symbol(self, symbol: str) -> str:
        """The symbol as this exchange writes it (case mended, XBT to BTC).

        Raises:
            SymbolError: the form is another exchange's; the text shows the right one.
        """
        raise NotImplementedError

    def usual_symbol(self, pair: Pair) -> str | None:
        """The symbol of a well-known coin's pair, by the exchange's usual form; None: it has none. Used until its own
        list was read."""
        return None

    def check_timeframe(self, timeframe: str) -> str:
        """The timeframe, if this exchange has it.

        Raises:
            TimeframeError: it has not; the text says which there are, and that others can be aggregated.
        """
        if timeframe not in self.timeframes:
            raise TimeframeError(
                f"{self.source} has no {timeframe} candles: give one of {', '.join(self.timeframes)} "
                f"(others can be built from those with aggregate_list)"
            )
        return timeframe

    def check_kind(self, kind: Kind) -> None:
        """Refuse what the exchange does not stream here.

        Raises:
            DataInputError: it does not; the text says what it does.
        """
        if kind not in self.kinds:
            raise DataInputError(f"{self.source} streams no {kind}s here: give type {' or '.join(self.kinds)}")

    def urls(self, **given: str | None) -> Urls:
        """The base URLs: an argument (ws_url, ws_business_url, rest_url, bulk_url) wins over the environment
        (``{env}_WS``, ``_WS_BUSINESS``, ``_REST``, ``_BULK``), that over the exchange's own."""
        found = {}
        for part in URL_PARTS:
            own = given.get(f"{part}_url") or os.environ.get(self.entry.url_variables[part])
            found[part] = (own or getattr(self.default_urls, part)).rstrip("/")
        if not found["ws_business"]:
            found["ws_business"] = found["ws"]
        return Urls(**found)

    # -- the socket --

    def endpoint(self, kind: Kind, urls: Urls) -> str:
        """The URL of the socket that carries this kind of stream."""
        raise NotImplementedError

    def subscribe(self, subscriptions: Sequence[Subscription], first_id: int) -> list[Command]:
        """The frames that subscribe, in chunks the exchange takes; request ids from ``first_id`` on, one a command."""
        raise NotImplementedError

    def unsubscribe(self, subscriptions: Sequence[Subscription], first_id: int) -> list[Command]:
        """As ``subscribe``, to end them."""
        raise NotImplementedError

    def ping(self) -> str | None:
        """The text frame that keeps the connection alive; None where a WebSocket ping frame does."""
        return None

    def decode(self, frame: str | bytes) -> list[Event]:
        """What a frame says, in its order. Never raises: what is not understood is a BadFrame.

        Klines have origin "ws"; is_closed is True or False where ``closes`` is "flag", else None.
        """
        raise NotImplementedError

    # -- REST --

    def instruments(self, symbols: Sequence[str]) -> list[Request]:
        """Asks which of the symbols there are: one request after the other, until all are found."""
        raise NotImplementedError

    def all_instruments(self) -> list[Request]:
        """Asks for all symbols of this kind of market."""
        return self.instruments(())

    def decode_instruments(self, body: bytes) -> Instruments:
        """The symbols that the answer holds.

        Raises:
            ValueError: the body is not what the exchange sends.
        """
        raise NotImplementedError

    def more_instruments(self, request: Request, body: bytes) -> Request | None:
        """Asks for the page behind an answer to a request of ``instruments``; None: there is none."""
        return None

    def instrument(self, symbol: str) -> Request | None:
        """Asks for one symbol whatever its status, where ``instruments`` does not tell of those that are halted."""
        return None

    def klines(self, symbol: str, timeframe: str, start: int, end: int, now: int | None = None) -> Request:
        """Asks for the candles that begin within [start, end) (epoch ms): at most ``rest.page`` of them, which the
        caller sees to. ``now`` (epoch ms) helps where the newest candles and old ones have different homes (OKX)."""
        raise NotImplementedError

    def decode_klines(self, body: bytes, symbol: str, timeframe: str) -> list[Kline]:
        """The candles, oldest first, origin "rest", is_closed as the exchange says, None where it does not: the caller
        knows the time. May hold more than was asked for.

        Raises:
            ValueError: the body is not what the exchange sends.
        """
        raise NotImplementedError

    def deepest_klines(self, timeframe: str, now: int) -> int | None:
        """The earliest moment whose candles REST still gives; None: all (Kraken: 720 candles back)."""
        return None

    def trades(self, symbol: str, *, after_id: str | None = None, since: int | None = None) -> Request:
        """Asks for trades behind an id, or from a moment (epoch ms) on; one of the two. For the next page the id is the
        last page's ``cursor``."""
        raise NotImplementedError

    def trades_between(self, symbol: str, start: int, end: int | None) -> Request | None:
        """Asks for the newest page of the trades of [start, end) (epoch ms; None: up to now), where REST gives the
        newest of a range first (Coinbase); may hold some from around it. None: it gives them oldest first."""
        return None

    def decode_trades(self, body: bytes, symbol: str) -> TradePage:
        """The trades of an answer.

        Raises:
            ValueError: the body is not what the exchange sends.
        """
        raise NotImplementedError

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Refusal | None:
        """What an answer means that is no success, HTTP 200 with an error inside included; None: it is a success."""
        raise NotImplementedError

    # -- helpers for adapters --

    def wrong_symbol(self, symbol: str, hint: str, example: str = "", *, what: str = "") -> SymbolError:
        """The error for a symbol in another form.

        Args:
            hint: what may have been meant; an ``example`` takes its place where that is empty, or the refused name.
            what: "symbol of Binance USDM", by default "Binance symbol".
        """
        is_repeated = hint.strip().casefold() == symbol.strip().casefold()
        shown = hint if hint and not is_repeated else example or self.symbol_example
        return SymbolError(f"{symbol!r} is no {what or f'{self.source} symbol'}: {self.source} writes {shown}")


def excerpt(frame: str | bytes) -> str:
    """The first 200 characters of a frame, for a log line."""
    head = frame[:400]
    return (head.decode("utf-8", "replace") if isinstance(head, bytes) else head)[:200]


def chunks(items: Sequence[Subscription], size: int) -> Iterable[tuple[Subscription, ...]]:
    """The items in tuples of at most ``size``."""
    for start in range(0, len(items), size):
        yield tuple(items[start : start + size])
