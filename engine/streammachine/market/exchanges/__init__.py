"""One file per exchange; ``adapter_for`` gives the one that a name means."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING

from streammachine.errors import DataInputError, UnknownExchangeError

if TYPE_CHECKING:
    from streammachine.market.exchanges.base import Adapter

_HOMES = {"binance": "Binance", "okx": "OKX", "kraken": "Kraken", "bybit": "Bybit"}
EXCHANGES = tuple(_HOMES)


def adapter_for(name: str, market_type: str = "SPOT") -> Adapter:
    """The adapter of an exchange: binance, okx, kraken or bybit (any case).

    Args:
        market_type: SPOT; Binance also USDM and COINM, Bybit also LINEAR and INVERSE. DEFAULT means SPOT.

    Raises:
        UnknownExchangeError: there is none of this name; the text names the nearest.
        DataInputError: the exchange has no such kind of market here.
    """
    key = str(name).strip().lower()
    home = _HOMES.get(key)
    if home is None:
        near = difflib.get_close_matches(key, EXCHANGES, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UnknownExchangeError(f"there is no exchange {name!r}: give one of {', '.join(EXCHANGES)}{hint}")
    made: type[Adapter] = getattr(importlib.import_module(f"{__name__}.{key}"), home)
    market = str(market_type).upper().replace("DEFAULT", "SPOT").replace("-", "")
    for known in made.market_types:
        if market == known:
            return made(known)
    raise DataInputError(f"{made.source} has no market type {market_type!r} here: give {', '.join(made.market_types)}")
