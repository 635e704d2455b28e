"""Symbols in either spelling: looked up in a table of what an exchange lists, learnt from it and kept for a day.

The table is a file in the data directory, one for each exchange, kind of market and base URL. It only saves questions:
one that is missing, old, broken or of no use is learnt anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from streammachine.errors import ExchangeUnavailableError
from streammachine.market.exchanges.base import Listing
from streammachine.market.exchanges.spelling import SymbolTable, is_common, own_symbol, unknown_pair, unreachable
from streammachine.market.network import rest_queries
from streammachine.market.network.rest_client import RestClient, client_for

if TYPE_CHECKING:
    from streammachine.market.clock.clock import Clock
    from streammachine.market.exchanges.base import Adapter, Urls

log = logging.getLogger(__name__)

DAY: Final = 86_400_000  # milliseconds that a table is taken for new
AGAIN: Final = 60_000  # and a pair that is not in it is not asked for again
MOST_BYTES: Final = 8_000_000
MOST_ROWS: Final = 20_000
MOST_FILES: Final = 64
VERSION: Final = 1


def spelled(adapter: Adapter, urls: Urls, symbols: Sequence[str]) -> list[str]:
    """The exchange's own symbols of texts in either spelling, without asking anybody; a pair that the table at hand
    does not have is left as it is, for ``settled``.

    Raises:
        SymbolError: a text is no symbol, or one of another kind of market.
    """
    table: SymbolTable | None = None
    if any(is_common(adapter, symbol) for symbol in symbols):
        table = stored(adapter, urls)
    found = []
    for symbol in symbols:
        own = own_symbol(adapter, symbol, table)
        if own is None and table is not None:
            own = own_symbol(adapter, symbol)
        found.append(symbol.strip() if own is None else own)
    return list(dict.fromkeys(found))


async def settled(rest: RestClient, symbols: Sequence[str]) -> list[str]:
    """As ``spelled``, and the exchange is asked about what is not in the table, or whose table is old.

    Raises:
        SymbolError: the exchange has no such pair; the text names near ones.
        ExchangeUnavailableError: it does not answer, and there is no table.
    """
    adapter = rest.adapter
    common = [symbol for symbol in symbols if is_common(adapter, symbol)]
    if not common:
        return list(symbols)
    table = stored(adapter, rest.urls)
    now = rest.clock.time_ms()
    lacks = table is None or any(own_symbol(adapter, symbol, table) is None for symbol in common)
    age = abs(now - table.learned_ms) if table is not None else DAY
    if age >= DAY or (lacks and age >= AGAIN):
        try:
            table = await learn(rest)
        except ExchangeUnavailableError as error:
            unknown = [symbol for symbol in common if own_symbol(adapter, symbol) is None]
            if table is None and unknown:
                raise ExchangeUnavailableError(unreachable(adapter, unknown, error)) from None
    found = []
    for symbol in symbols:
        own = own_symbol(adapter, symbol, table) or own_symbol(adapter, symbol)
        if own is None:
            raise unknown_pair(adapter, symbol, table or SymbolTable())
        found.append(own)
    return list(dict.fromkeys(found))


async def table_of(adapter: Adapter, urls: Urls, clock: Clock) -> SymbolTable:
    """What the exchange lists: a table that is not older than a day, else asked for now.

    Raises:
        ExchangeError, ExchangeUnavailableError: it refuses, or does not answer, and there is no table.
    """
    table = stored(adapter, urls)
    if table is not None and abs(clock.time_ms() - table.learned_ms) < DAY:
        return table
    try:
        async with client_for(adapter, urls, clock=clock, attempts=2) as rest:
            return await learn(rest)
    except ExchangeUnavailableError:
        if table is None:
            raise
        return table


async def learn(rest: RestClient) -> SymbolTable:
    """Ask the exchange for all that it lists, and keep it.

    Raises:
        ExchangeError, ExchangeUnavailableError: see ``RestClient.ask``.
    """
    found = await rest_queries.instruments_of(rest, rest.adapter.all_instruments())
    rows = {listing.symbol: listing for listing in found.listings()[:MOST_ROWS]}
    table = SymbolTable(rows, rest.clock.time_ms())
    store(rest.adapter, rest.urls, table)  # some hundred kilobytes: a thread would take longer
    return table


# -- the files --------------------------------------------------------------------------------


def stored(adapter: Adapter, urls: Urls) -> SymbolTable | None:
    """The table that is kept; None: there is none. One that cannot be read is set aside."""
    path = _path(adapter, urls)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        told = orjson.loads(path.read_bytes())
        if told["version"] != VERSION:
            raise ValueError(f"it is of version {told['version']!r}")
        rows = [_listing(row) for row in told["rows"][:MOST_ROWS]]
        return SymbolTable({row.symbol: row for row in rows}, int(told["learned_ms"]))
    except FileNotFoundError:
        return None
    except OSError as error:
        log.info("the table of symbols %s cannot be read: %s", path, error)
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("the table of symbols %s is of no use, and is set aside: %s", path, error)
        with contextlib.suppress(OSError):
            path.replace(path.with_suffix(".broken"))
        return None


def store(adapter: Adapter, urls: Urls, table: SymbolTable) -> None:
    """Keep a table; a disk that does not take it is no error."""
    path = _path(adapter, urls)
    rows = [astuple(listing) for listing in table.listings.values()]
    told = orjson.dumps({"version": VERSION, "learned_ms": table.learned_ms, "rows": rows})
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".new")  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(told)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _prune(path.parent)
    except OSError as error:
        log.info("the table of symbols of %s is not kept: %s", adapter.source, error)


def _prune(folder: Path) -> None:
    """Keep the newest files only: simulators have another port each time."""
    files = sorted(folder.glob("*.*"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files[MOST_FILES:]:
        file.unlink(missing_ok=True)


def _listing(row: list[Any]) -> Listing:
    symbol, pair, halted, size = row
    if not all(isinstance(text, str) for text in (symbol, pair, halted)):
        raise TypeError("a name is no text")
    return Listing(symbol, pair, halted, None if size is None else float(size))


def _path(adapter: Adapter, urls: Urls) -> Path:
    place = hashlib.sha256(urls.rest.encode()).hexdigest()[:10]
    return _data_dir() / "symbols" / f"{adapter.name}-{adapter.market_type.lower()}-{place}.json"


def _data_dir() -> Path:
    import platformdirs

    given = os.environ.get("STREAMMACHINE_DATA_DIR", "").strip()  # as Settings reads it, which is not imported here
    return Path(given).expanduser().absolute() if given else Path(platformdirs.user_data_dir("streammachine", False))
