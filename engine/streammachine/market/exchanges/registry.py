"""The exchanges: one entry each. Adding one is a file beside this, its half in the simulator, and an entry here.

From an entry are made: what ``adapter_for`` loads, the classes of runner and backfill, the tools' enum and texts, the
command line's help, the tables of the documents, the simulator's list, and the variables that override base URLs. An
entry holds values only and imports nothing of the exchange, so that it may be read where nothing of the market is
loaded yet. What an exchange allows (``SocketLimits``, ``RestLimits``) stands in its adapter, for it depends on the kind
of market. The steps: docs/contributing/exchange.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

MarketType = Literal["SPOT", "USDM", "COINM", "LINEAR", "INVERSE"]
_Key = TypeVar("_Key")
URL_PARTS: Final = ("ws", "ws_business", "rest", "bulk")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeEntry:
    """What there is to know of an exchange before anything of it is loaded.

    Attributes:
        name: "binance": in stream names, commands and tools; its adapter is ``exchanges/<name>.py``, its simulator half
            ``simulator/protocols/<name>.py``.
        title: "Binance": in klines, and the beginning of its classes' names.
        adapter: the adapter's class. simulator: the class of the simulator half.
        market_types: the kinds of market it has here, the usual one first.
        symbol: how it writes BTC against a dollar on that market.
        closes: "flag" where a candle's last push says that it is closed; "next" where nothing says so.
        protocol: what tells its protocol from older ones, in the runner's docstring.
        past: where a backfill's candles come from, in its docstring and the documents; empty: REST alone.
        first_day: of the oldest candles of spot, where that is known: a UTC date.
        backfill_aliases: other public names of its backfilling class.
        symbols_tell_market: no two kinds of market share a symbol, so a file's name need not say which kind it is.
    """

    name: str
    title: str
    adapter: str
    simulator: str
    market_types: tuple[MarketType, ...] = ("SPOT",)
    symbol: str = "BTCUSDT"
    closes: Literal["flag", "next"] = "flag"
    protocol: str = ""
    past: str = ""
    first_day: str = ""
    backfill_aliases: tuple[str, ...] = ()
    symbols_tell_market: bool = False

    @property
    def env(self) -> str:
        """What the variables that override its base URLs begin with: "STREAMMACHINE_BINANCE"."""
        return f"STREAMMACHINE_{self.name.upper()}"

    @property
    def url_variables(self) -> dict[str, str]:
        """The variable of each base URL, by its field in ``Urls``."""
        return {part: f"{self.env}_{part.upper()}" for part in URL_PARTS}

    @property
    def runner_class(self) -> str:
        """The public name of its runner's class."""
        return f"{self.title}Runner"

    @property
    def backfill_class(self) -> str:
        """The public name of its backfilling class."""
        return f"{self.title}Backfilling"

    @property
    def runner_doc(self) -> str:
        """The docstring of its runner's class."""
        protocol = f" ({self.protocol})" if self.protocol else ""
        kinds = f" market_type: {_listed(self.market_types, 'or')}." if len(self.market_types) > 1 else ""
        return f"Streams from {self.title}{protocol}; see Runner.{kinds}"

    @property
    def backfill_doc(self) -> str:
        """The docstring of its backfilling class."""
        return f"Backfills from {self.title}{f': {self.past}' if self.past else ', by REST'}."


_ENTRIES: Final = (
    ExchangeEntry(
        name="binance",
        title="Binance",
        adapter="Binance",
        simulator="BinanceExchange",
        market_types=("SPOT", "USDM", "COINM"),
        past="whole months and days of 1m and 1s candles from its bulk files, the rest by REST",
        first_day="2017-08-17",
    ),
    ExchangeEntry(
        name="okx",
        title="OKX",
        adapter="OKX",
        simulator="OkxExchange",
        market_types=("SPOT", "LINEAR", "INVERSE"),
        symbol="BTC-USDT",
        backfill_aliases=("OkxBackfilling",),
        symbols_tell_market=True,
    ),
    ExchangeEntry(
        name="kraken",
        title="Kraken",
        adapter="Kraken",
        simulator="KrakenExchange",
        symbol="BTC/USD",
        closes="next",
        protocol="WebSocket v2, spot",
        past="the newest 720 candles by REST, older ones folded from its trades",
    ),
    ExchangeEntry(
        name="bybit",
        title="Bybit",
        adapter="Bybit",
        simulator="BybitExchange",
        market_types=("SPOT", "LINEAR", "INVERSE"),
        protocol="v5",
    ),
    ExchangeEntry(
        name="coinbase",
        title="Coinbase",
        adapter="Coinbase",
        simulator="CoinbaseExchange",
        symbol="BTC-USD",
        closes="next",
        protocol="Advanced Trade, spot; candles but those of 5m are folded from its trades",
        past="by REST, those that it omits from its trades",
    ),
)
ENTRIES: Final[Mapping[str, ExchangeEntry]] = {entry.name: entry for entry in _ENTRIES}
EXCHANGES: Final = tuple(ENTRIES)


# -- texts for those who ask which there are --------------------------------------------------


def names_text() -> str:
    """The names in a sentence: "binance, okx, kraken or bybit"."""
    return _listed(EXCHANGES, "or")


def symbols_text() -> str:
    """How they write symbols: "BTCUSDT, BTC-USDT (okx), BTC/USD (kraken)"; the first form goes without names."""
    forms = _grouped((entry.symbol, entry.name) for entry in _ENTRIES)
    usual = _ENTRIES[0].symbol
    return ", ".join(form if form == usual else f"{form} ({_listed(names, 'and')})" for form, names in forms.items())


def markets_text(*, between_kinds: str = " and ", between_exchanges: str = ", ") -> str:
    """The kinds of market: "SPOT; binance also USDM and COINM, okx and bybit LINEAR and INVERSE"."""
    kinds = _grouped((entry.market_types[1:], entry.name) for entry in _ENTRIES if len(entry.market_types) > 1)
    also = iter(("also ",))
    parts = [f"{_listed(names, 'and')} {next(also, '')}{between_kinds.join(others)}" for others, names in kinds.items()]
    return f"SPOT; {between_exchanges.join(parts)}"


def _grouped(pairs: Iterable[tuple[_Key, str]]) -> dict[_Key, list[str]]:
    """The names of each key, in order."""
    found: dict[_Key, list[str]] = {}
    for key, name in pairs:
        found.setdefault(key, []).append(name)
    return found


def _listed(names: Iterable[str], word: str) -> str:
    """A, B or C."""
    *first, last = names
    return f"{', '.join(first)} {word} {last}" if first else last
