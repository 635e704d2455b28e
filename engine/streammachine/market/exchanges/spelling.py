"""From our spelling of a market to the exchange's own symbol: pure, over a table of what an exchange lists."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from streammachine.errors import SymbolError
from streammachine.market.exchanges.base import Adapter, Listing
from streammachine.market.model.pair import Pair, PairKind, parse_pair

# Of these a few coins, which every exchange calls the same, the symbol is known without a table.
COINS: Final = frozenset(
    (
        *("BTC", "ETH", "SOL", "XRP", "DOGE", "ADA", "BNB", "LTC", "AVAX", "LINK", "DOT"),
        *("TRX", "BCH", "ATOM", "ETC", "XLM", "UNI", "AAVE", "FIL", "NEAR", "ALGO"),
    )
)
_KINDS: Final[dict[str, PairKind]] = {
    "SPOT": "SPOT",
    "USDM": "LINEAR",
    "LINEAR": "LINEAR",
    "COINM": "INVERSE",
    "INVERSE": "INVERSE",
}
NEAR: Final = 3


@dataclass
class SymbolTable:
    """What an exchange lists on one kind of market.

    Attributes:
        listings: by the exchange's own symbol. learned_ms: when it was asked (epoch ms).
    """

    listings: dict[str, Listing] = field(default_factory=dict)
    learned_ms: int = 0

    def __post_init__(self) -> None:
        self._symbols: dict[str, list[str]] = {}
        for listing in self.listings.values():
            self._symbols.setdefault(listing.pair.upper(), []).append(listing.symbol)

    def symbols(self, pair: Pair | str) -> list[str]:
        """The exchange's symbols of a pair; those that are traded, where some are and others are not."""
        found = self._symbols.get(str(pair).upper(), [])
        traded = [symbol for symbol in found if not self.listings[symbol].halted]
        return traded or found

    def pair(self, symbol: str) -> str | None:
        """Our spelling of the exchange's symbol; None: it is not in the table."""
        listing = self.listings.get(symbol)
        return listing.pair if listing is not None else None

    def search(self, query: str = "") -> list[Listing]:
        """Those whose symbol or pair holds the text, in any case and without signs; whole names and those that are
        traded first."""
        wanted = _bare(query)
        found = [one for one in self.listings.values() if wanted in _bare(one.symbol) or wanted in _bare(one.pair)]

        def rank(one: Listing) -> tuple[bool, bool, bool, str]:
            names = (_bare(one.symbol), _bare(one.pair))
            base = _bare(one.pair.partition("/")[0])
            return bool(one.halted), wanted not in names, wanted != base, one.pair

        return sorted(found, key=rank)


def is_common(adapter: Adapter, text: str) -> bool:
    """Whether a text is to be read as our spelling; an exchange that writes BTC/USD itself has only its own."""
    return not adapter.writes_pairs and "/" in text


def own_symbol(adapter: Adapter, text: str, table: SymbolTable | None = None) -> str | None:
    """The exchange's own symbol of a text in either spelling; None: a pair that is not in the table.

    Args:
        table: what the exchange lists, where it is known; some coins are known without it.

    Raises:
        SymbolError: it is no symbol, one of another kind of market, or a pair of two markets.
    """
    if not is_common(adapter, text):
        return adapter.check_symbol(text)
    pair = parse_pair(text)
    if pair is None:
        return adapter.check_symbol(text)  # which says how it is written here
    _check_kind(adapter, text, pair)
    found = table.symbols(pair) if table is not None else []
    if len(found) > 1:
        raise SymbolError(f"{pair} is {len(found)} markets of {adapter.source}: give {_either(found)}")
    if found:
        return found[0]
    if table is None and pair.base in COINS and not pair.date:
        return adapter.usual_symbol(pair)
    return None


def unknown_pair(adapter: Adapter, text: str, table: SymbolTable) -> SymbolError:
    """The error for a pair that the exchange does not list."""
    pair = str(parse_pair(text) or text)
    pairs = {listing.pair for listing in table.listings.values() if not listing.halted}
    base = pair.partition("/")[0]
    near = sorted(one for one in pairs if one.partition("/")[0].lstrip("0123456789") == base.lstrip("0123456789"))
    near = (difflib.get_close_matches(pair, near, NEAR, 0.1) if near else []) or difflib.get_close_matches(
        pair, pairs, NEAR
    )
    hint = f": did you mean {_either(near)}?" if near else ""
    return SymbolError(f"{adapter.source} does not trade {pair}{hint}")


def unreachable(adapter: Adapter, pairs: Iterable[str], reason: object) -> str:
    """What to say where the exchange cannot be asked for its names, and no table of them is kept."""
    names = ", ".join(list(pairs)[:NEAR])
    return (
        f"{adapter.source} cannot be asked for its symbol of {names} ({reason}), and no table of them is kept yet: "
        f"give it as {adapter.source} writes it, e.g. {adapter.symbol_example}"
    )


def _check_kind(adapter: Adapter, text: str, pair: Pair) -> None:
    kind = pair.kind
    if kind == _KINDS[adapter.market_type]:
        return
    able = [market for market in adapter.market_types if _KINDS[market] == kind]
    what = {"SPOT": "a spot market", "LINEAR": "a linear contract", "INVERSE": "an inverse contract"}[kind]
    if able:
        raise SymbolError(f"{text!r} is {what}, and market_type is {adapter.market_type}: give market_type={able[0]!r}")
    raise SymbolError(f"{text!r} is {what}, and {adapter.source} has none here: give e.g. {adapter.symbol_example}")


def _either(names: Iterable[str]) -> str:
    return " or ".join(names)


def _bare(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())
