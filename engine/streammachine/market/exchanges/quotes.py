"""What makes Quotes of the values that exchanges push, in one pass: numbers are read and checked, nothing is copied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from streammachine.market.exchanges.decode import LATEST, as_number
from streammachine.market.model.quote import Quote, made_quote

try:
    from streammachine.market.exchanges.fast_decode import UsualQuotes
except ImportError:  # it was not compiled
    UsualQuotes = None  # type: ignore[assignment,misc]

_HUGE_PRICE: Final = 1e18
_HUGE_SIZE: Final = 1e30
NO_TIME: Final = 0  # the exchange does not say when: whoever received it does


def checked_quote(source: str, symbol: Any, bid: Any, bid_size: Any, ask: Any, ask_size: Any, ts: Any) -> Quote:
    """The Quote of two prices and two sizes, as decimal texts or JSON numbers.

    Args:
        ts: epoch milliseconds, or ``NO_TIME``.

    Raises:
        ValueError, TypeError: a value is no number, or none that can be.
    """
    prices, sizes = (as_number(bid), as_number(ask)), (as_number(bid_size), as_number(ask_size))
    # A comparison with NaN is false, so these refuse it too.
    if not all(0.0 < price < _HUGE_PRICE for price in prices):
        raise ValueError(f"bid {prices[0]} and ask {prices[1]} are not both prices")
    if not all(0.0 <= size < _HUGE_SIZE for size in sizes):
        raise ValueError(f"the sizes {sizes[0]} and {sizes[1]} are not both amounts")
    if type(symbol) is not str or not 0 < len(symbol) <= 64:
        raise ValueError(f"symbol {str(symbol)[:80]!r} is none")
    if type(ts) is not int or not 0 <= ts <= LATEST:
        raise ValueError(f"{str(ts)[:80]!r} is no time")
    return made_quote(
        {
            "source": source,
            "symbol": symbol,
            "pair": None,
            "bid": prices[0],
            "bid_size": sizes[0],
            "ask": prices[1],
            "ask_size": sizes[1],
            "ts": ts,
        }
    )


def checked_book(source: str, symbol: Any, bids: Sequence[Any], asks: Sequence[Any], ts: Any) -> Quote:
    """The Quote of the first levels of a book, each a price and a size; a side may have none.

    Args:
        ts: epoch milliseconds, a decimal text too.

    Raises:
        ValueError, TypeError, LookupError: as ``checked_quote``, or a level is none; or both sides are empty.
    """
    ts = int(ts) if isinstance(ts, str) else ts
    if bids and asks:
        bid, ask = bids[0], asks[0]
        return checked_quote(source, symbol, bid[0], bid[1], ask[0], ask[1], ts)
    if not bids and not asks:
        raise ValueError("a book without a side")
    price, size = (bids or asks)[0][:2]
    made = checked_quote(source, symbol, price, size, price, size, ts)
    missing = "ask" if bids else "bid"
    made.__dict__.update({missing: None, f"{missing}_size": None})  # nobody else has it yet
    return made


def row_quotes(bid: str, bid_size: str, ask: str, ask_size: str) -> Callable[[str, Any, dict[str, Any], Any], Quote]:
    """What makes a Quote of (source, symbol, row, ts), where the row has the values by these keys.

    Raises (what it returns):
        ValueError, TypeError, LookupError: as ``checked_quote``, or a key is missing.
    """
    if UsualQuotes is not None:
        return UsualQuotes(Quote, checked_quote, checked_book, bid, bid_size, ask, ask_size).of_row

    def made(source: str, symbol: Any, row: dict[str, Any], ts: Any) -> Quote:
        return checked_quote(source, symbol, row[bid], row[bid_size], row[ask], row[ask_size], ts)

    return made


def message_quotes(
    bid: str, bid_size: str, ask: str, ask_size: str
) -> Callable[[str, dict[str, Any], str, str], Quote]:
    """As ``row_quotes``, of (source, row, the symbol's key, the time's key); a time that is missing is ``NO_TIME``."""
    if UsualQuotes is not None:
        return UsualQuotes(Quote, checked_quote, checked_book, bid, bid_size, ask, ask_size).of_message
    of_row = row_quotes(bid, bid_size, ask, ask_size)

    def made(source: str, row: dict[str, Any], symbol_key: str, ts_key: str) -> Quote:
        ts = row.get(ts_key)
        return of_row(source, row.get(symbol_key), row, NO_TIME if ts is None else ts)

    return made


_usual = UsualQuotes(Quote, checked_quote, checked_book) if UsualQuotes is not None else None
quote: Final[Callable[..., Quote]] = _usual or checked_quote  # of single values, as checked_quote takes them
book_quote: Final[Callable[..., Quote]] = _usual.of_book if _usual is not None else checked_book


def in_base(made: Quote, contract: float = 1.0, *, of_base: bool = False) -> Quote:
    """The Quote with sizes in the base currency, where they count contracts.

    Args:
        contract: what one contract is. of_base: of the base currency; else in the quote currency.
    """
    fields = made.__dict__
    for side in ("bid", "ask"):
        if fields[side] is not None:
            size = fields[f"{side}_size"] * contract
            fields[f"{side}_size"] = size if of_base else size / fields[side]
    return made
