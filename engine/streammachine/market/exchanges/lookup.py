"""``adapter_for``: the adapter of the exchange that a name means, loaded when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from streammachine.errors import DataInputError, UnknownExchangeError
from streammachine.market.exchanges.registry import ENTRIES, EXCHANGES, ExchangeEntry

if TYPE_CHECKING:
    from streammachine.market.exchanges.base import Adapter


def adapter_for(name: str, market_type: str = "SPOT") -> Adapter:
    """The adapter of an exchange by its name (any case): one of ``EXCHANGES``, or one of ccxt's, e.g. "ccxt:gate".

    Args:
        market_type: SPOT, or another kind that the exchange has (``ExchangeEntry.market_types``). DEFAULT means SPOT.

    Raises:
        UnknownExchangeError: there is none of this name; the text names the nearest.
        DataInputError: the exchange has no such kind of market here.
    """
    if is_bridged(name):
        module = importlib.import_module("streammachine.market.bridge.adapter")  # it stands above, and loads ccxt
        made: Adapter = module.CcxtAdapter(name, market_type)
        return made
    entry = entry_for(name)
    market = str(market_type).upper().replace("DEFAULT", "SPOT").replace("-", "")
    for known in entry.market_types:
        if market == known:
            return adapter_class(entry)(known)
    raise DataInputError(f"{entry.title} has no market type {market_type!r} here: give {', '.join(entry.market_types)}")


def is_bridged(name: str) -> bool:
    """Whether a name means an exchange of ccxt's: "ccxt:gate"."""
    return str(name).strip().lower().startswith("ccxt:")


def bridged(name: str) -> str:
    """The full name of an exchange of ccxt's: "ccxt:gate" of "gate"."""
    return f"ccxt:{name.strip().lower().removeprefix('ccxt:')}"


def entry_for(name: str) -> ExchangeEntry:
    """The entry of an exchange by its name (any case).

    Raises:
        UnknownExchangeError: there is none of this name; the text names the nearest.
    """
    key = str(name).strip().lower()
    if key in ENTRIES:
        return ENTRIES[key]
    import difflib

    near = difflib.get_close_matches(key, EXCHANGES, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UnknownExchangeError(f"there is no exchange {name!r}: give one of {', '.join(EXCHANGES)}{hint}")


def adapter_class(entry: ExchangeEntry) -> type[Adapter]:
    """The class of an entry's adapter; its module is loaded now."""
    module = importlib.import_module(f"{__package__}.{entry.name}")
    made: type[Adapter] = getattr(module, entry.adapter)
    return made
