"""What makes Quotes of the values that exchanges push, in one pass: numbers are read and checked, nothing is copied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson

from streammachine.market.exchanges.decode import LATEST, as_number, iso_ms, parsed
from streammachine.market.model.quote import Quote, made_quote

try:
    from streammachine.market.exchanges.fast_decode import (
        ChannelBooks,
        FlatQuotes,
        ListedQuotes,
        QuoteRows,
        TopicBooks,
        UsualQuotes,
    )
except ImportError:  # it was not compiled
    HAS_NATIVE = False
else:
    HAS_NATIVE = True

_HUGE_PRICE: Final = 1e18
_HUGE_SIZE: Final = 1e30
Reader = Callable[[str | bytes], Any]
NO_TIME: Final = 0  # the exchange does not say when: whoever received it does


def checked_quote(source: str, symbol: Any, bid: Any, bid_size: Any, ask: Any, ask_size: Any, ts: Any) -> Quote:
    """The Quote of two prices and two sizes, as decimal texts or JSON numbers. One side may have nobody, which
    exchanges write in many ways: its price and its size are each missing (None), an empty text or 0.

    Args:
        ts: epoch milliseconds, or ``NO_TIME``.

    Raises:
        ValueError, TypeError: a value is no number, or none that can be; or nobody is on both sides.
    """
    bids, asks = _side("bid", bid, bid_size), _side("ask", ask, ask_size)
    if bids == asks == _NOBODY:
        raise ValueError("a quote without a side")
    if type(symbol) is not str or not 0 < len(symbol) <= 64:
        raise ValueError(f"symbol {str(symbol)[:80]!r} is none")
    if type(ts) is not int or not 0 <= ts <= LATEST:
        raise ValueError(f"{str(ts)[:80]!r} is no time")
    return made_quote(
        {
            "source": source,
            "symbol": symbol,
            "pair": None,
            "bid": bids[0],
            "bid_size": bids[1],
            "ask": asks[0],
            "ask_size": asks[1],
            "ts": ts,
        }
    )


_NOBODY: Final = (None, None)


def _side(name: str, price: Any, size: Any) -> tuple[float, float] | tuple[None, None]:
    """A side's price and size."""
    if _is_nothing(price) and _is_nothing(size):
        return _NOBODY
    found, amount = as_number(price), as_number(size)
    # A comparison with NaN is false, so these refuse it too.
    if not 0.0 < found < _HUGE_PRICE:
        raise ValueError(f"{name} {found} is no price")
    if not 0.0 <= amount < _HUGE_SIZE:
        raise ValueError(f"the {name}'s size {amount} is no amount")
    return found, amount


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value) or as_number(value) == 0.0


def checked_book(source: str, symbol: Any, bids: Any, asks: Any, ts: Any) -> Quote:
    """The Quote of the first levels of a book, each a price and a size; one side may be missing, have no level, or one
    of nobody (``checked_quote``).

    Args:
        ts: epoch milliseconds, a decimal text too.

    Raises:
        ValueError, TypeError, LookupError: as ``checked_quote``, or a level is none.
    """
    bid, ask = (levels[0] if levels else _NOBODY for levels in (bids, asks))
    return checked_quote(source, symbol, bid[0], bid[1], ask[0], ask[1], int(ts) if isinstance(ts, str) else ts)


def row_quotes(
    source: str,
    *,
    symbol: str,
    bid: str,
    bid_size: str,
    ask: str,
    ask_size: str,
    ts: str,
    named: Callable[[str], str] | None = None,
) -> Callable[[dict[str, Any]], Quote]:
    """What makes a Quote of a row that has the values by these keys.

    Args:
        ts: of the time, in epoch milliseconds or ISO 8601; ``NO_TIME`` where the row has none. named: gives our symbol.

    Raises (what it returns):
        ValueError, TypeError, LookupError: as ``checked_quote``, or the symbol is missing.
    """

    sides = bid, bid_size, ask, ask_size

    def checked(row: dict[str, Any]) -> Quote:
        moment, called = row.get(ts), row[symbol]
        when = NO_TIME if moment is None else iso_ms(moment) if isinstance(moment, str) else moment
        ours = named(called) if named is not None and isinstance(called, str) else called
        return checked_quote(source, ours, row.get(bid), row.get(bid_size), row.get(ask), row.get(ask_size), when)

    if not HAS_NATIVE:
        return checked
    return QuoteRows(orjson.loads, Quote, source, checked, symbol, *sides, ts, named).of_row


def flat_quotes(rows: Any, kind: str, name: str) -> Reader:
    """What reads frames of which some are the row of a quote itself: where the kind is missing, or this name.

    Args:
        rows: of ``row_quotes``.

    Returns:
        A function of a frame: a list of one Quote, or the JSON object; raises as ``parsed``. Without a compiler it is
        ``parsed``: the decoder, which has to know the quotes that are not as usual, does it all.
    """
    return FlatQuotes(orjson.loads, rows.__self__, kind, name).read if HAS_NATIVE else parsed


def listed_quotes(rows: Any, kind: str, name: str, key: str) -> Reader:
    """As ``flat_quotes``, where the row stands alone in a list below ``key``."""
    return ListedQuotes(orjson.loads, rows.__self__, kind, name, key).read if HAS_NATIVE else parsed


def topic_books(source: str, prefix: str) -> Reader:
    """As ``flat_quotes``, of {topic, ts, data: {s, b, a}} where the topic begins like this."""
    return TopicBooks(orjson.loads, Quote, source, prefix).read if HAS_NATIVE else parsed


def channel_books(source: str, channel: str) -> Reader:
    """As ``flat_quotes``, of {arg: {channel, instId}, data: [{bids, asks, ts}]}."""
    return ChannelBooks(orjson.loads, Quote, source, channel).read if HAS_NATIVE else parsed


_usual = UsualQuotes(Quote, checked_quote, checked_book) if HAS_NATIVE else None
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
