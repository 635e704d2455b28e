"""The layouts of trade files: which column is the price, the volume and the time, and whose trades they are.

A layout is known by the names in the file's first line, else by the number of its columns and the file's name. Where
the layouts are published:

- Binance: https://github.com/binance/binance-public-data (trades and aggTrades; spot files have no first line of names,
  files of futures have one since 2023; spot times are microseconds since 2025-01-01).
- OKX: https://www.okx.com/historical-data (a day ends at 16:00 UTC; sizes of derivatives are contracts).
- Bybit: https://public.bybit.com (``trading``: seconds with a fraction, the oldest files newest first; ``spot``).
- Kraken: "Downloadable historical market data (time and sales)" on support.kraken.com (seconds, no names).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Final

from streammachine.errors import TickError
from streammachine.ohlc.trade_rows import number_of, time_of


@dataclass(frozen=True, slots=True)
class Layout:
    """What a trade file's columns are.

    Attributes:
        name: for people. source: the exchange, as ``Kline.source`` writes it; None where not known.
        places: the column, from 0, by role (``ohlc.trade_rows.ROLES``). header: whether the first line is of names.
        rising: whether ids rise within a symbol, over all of its files, so that a row met twice is seen.
    """

    name: str
    source: str | None
    places: dict[str, int] = field(hash=False)
    header: bool = False
    rising: bool = False


@dataclass(frozen=True, slots=True)
class KnownLayout:
    """A published layout with a line of names. ``columns``: the names that tell it; more may follow.

    Attributes:
        roles: the name of the column by role.
    """

    name: str
    source: str
    columns: tuple[str, ...]
    roles: dict[str, str] = field(hash=False)
    rising: bool = False


_AGGREGATED: Final = {"first": "first_trade_id", "last": "last_trade_id"}
KNOWN: Final = (
    KnownLayout(
        "Binance trades",
        "Binance",
        ("id", "price", "qty", "*", "time", "is_buyer_maker"),
        {"id": "id", "price": "price", "volume": "qty", "time": "time"},
        rising=True,
    ),
    KnownLayout(
        "Binance aggTrades",
        "Binance",
        ("agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id", "transact_time"),
        {"id": "agg_trade_id", "price": "price", "volume": "quantity", "time": "transact_time", **_AGGREGATED},
        rising=True,
    ),
    KnownLayout(
        "OKX trades",
        "OKX",
        ("instrument_name", "trade_id", "side", "price", "size", "created_time"),
        {"symbol": "instrument_name", "id": "trade_id", "price": "price", "volume": "size", "time": "created_time"},
        rising=True,
    ),
    KnownLayout(
        "OKX trades, before 2024",
        "OKX",
        ("trade_id", "side", "size", "price", "created_time"),
        {"id": "trade_id", "price": "price", "volume": "size", "time": "created_time"},
        rising=True,
    ),
    KnownLayout(
        "Bybit trading",
        "Bybit",
        ("timestamp", "symbol", "side", "size", "price", "tickdirection", "trdmatchid"),
        {"symbol": "symbol", "price": "price", "volume": "size", "time": "timestamp"},
    ),
    KnownLayout(
        "Bybit spot",
        "Bybit",
        ("id", "timestamp", "price", "volume", "side"),  # the ids only count the rows of a file
        {"price": "price", "volume": "volume", "time": "timestamp"},
    ),
)

# Binance's files without names, by the number of columns; Kraken's have three.
_TRADES: Final = {"id": 0, "price": 1, "volume": 2, "time": 4}
_AGG_TRADES: Final = {"id": 0, "price": 1, "volume": 2, "first": 3, "last": 4, "time": 5}
_KRAKEN: Final = {"time": 0, "price": 1, "volume": 2}

# Of files that are nobody's known layout: names by role, the likeliest first.
ALIASES: Final = {
    "price": ("price", "px", "p"),
    "volume": ("volume", "qty", "quantity", "size", "amount", "vol", "sz", "q", "v"),
    "time": ("timestamp_ms", "timestamp", "time", "ts", "trade_ms", "created_time", "transact_time", "datetime"),
    "symbol": ("symbol", "instrument_name", "instrument", "pair", "ticker", "market"),
}

_NAMED = re.compile(r"^(?P<symbol>.+?)-(?:trades|aggTrades)-\d{4}-\d{2}(?:-\d{2})?$", re.IGNORECASE)
_DATED = re.compile(r"^(?P<symbol>.+?)[-_]?\d{4}-\d{2}(?:-\d{2})?$")
_ENDINGS = (".gz", ".zip", ".csv", ".txt", ".parquet", ".pq")


def layout_of(fields: Sequence[str], name: str) -> Layout:
    """The layout of a file whose first line has these fields.

    Args:
        name: of the file, or of the member of a zip.

    Raises:
        TickError: it cannot be told; the text says what is needed.
    """
    if _is_header(fields):
        return layout_of_names(fields)
    if len(fields) == 3 and _is_time(fields[0]):
        return Layout("Kraken time and sales", "Kraken", _KRAKEN)
    aggregated = "aggtrades" in name.lower()
    if len(fields) >= 6 and _is_time(fields[5]) and (aggregated or not _is_time(fields[4])):
        return Layout("Binance aggTrades", "Binance", _AGG_TRADES, rising=True)
    if len(fields) >= 6 and _is_time(fields[4]):
        return Layout("Binance trades", "Binance", _TRADES, rising=True)
    raise TickError(
        f"its first line has {len(fields)} columns without names, and that is no layout of Binance or Kraken: put a "
        "line of names first, with price, volume and timestamp (and symbol)"
    )


def layout_of_names(names: Sequence[str]) -> Layout:
    """The layout of columns with names.

    Raises:
        TickError: no column can be the price, the volume or the time.
    """
    plain = [name.strip().strip('"').partition("/")[0].strip().lower() for name in names]  # OKX: "price/<Chinese>"
    for known in KNOWN:
        if len(plain) >= len(known.columns) and all(
            wanted in ("*", found) for wanted, found in zip(known.columns, plain, strict=False)
        ):
            places = {role: plain.index(name) for role, name in known.roles.items()}
            return Layout(known.name, known.source, places, header=True, rising=known.rising)
    places = {}
    for role, aliases in ALIASES.items():
        found = next((alias for alias in aliases if alias in plain), None)
        if found is not None:
            places[role] = plain.index(found)
        elif role != "symbol":
            raise TickError(
                f"none of its columns is the {role}: it has {', '.join(plain)[:200]}; name one of {', '.join(aliases)}"
            )
    return Layout("columns by name", None, places, header=True)


def symbol_of(name: str) -> str:
    """The symbol that a file's name speaks of: before ``-trades-`` or a date, else the whole name."""
    stem = PurePath(name).name
    while stem.lower().endswith(_ENDINGS):
        stem = stem.rpartition(".")[0]
    found = _NAMED.match(stem) or _DATED.match(stem)
    return found["symbol"] if found else stem


def _is_header(fields: Sequence[str]) -> bool:
    """Whether fields are names: the first of a row of trades is an id or a time, and its second a number."""
    return bool(fields) and all(number_of(each.strip('"').encode()) is None for each in fields[:2])


def _is_time(text: str) -> bool:
    return time_of(text.encode()) is not None
