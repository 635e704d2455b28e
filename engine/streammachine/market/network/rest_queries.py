"""What an exchange's REST still holds: candles of a range, trades, and which symbols there are.

An answer's length is the truth: exchanges cap pages lower than asked, cut them at either end and leave candles out, so
whatever is missing from an answer is asked for again, until asking brings nothing new.
"""

from __future__ import annotations

import difflib
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from streammachine.errors import ExchangeError, SymbolError
from streammachine.market.aggregation.range_folder import Fold
from streammachine.market.exchanges.base import Instruments, Request
from streammachine.market.model import timeframe as timeframes
from streammachine.market.network.ordered_calls import in_order

if TYPE_CHECKING:
    from streammachine.market.exchanges.base import Adapter
    from streammachine.market.model.kline import Kline, Trade
    from streammachine.market.network.rest_client import RestClient

LATE: Final = 60_000  # milliseconds by which REST may be behind at most
SLICE: Final = 15 * timeframes.MINUTE  # of trades that are given newest first, and held until the oldest are there
MOST_PAGES: Final = 200  # of one slice


async def fetch_klines(
    rest: RestClient, symbol: str, timeframe: str, start: int, end: int, *, running: bool = False
) -> list[Kline]:
    """The closed candles that begin within [start, end) (epoch ms), oldest first, each once. Those that the exchange
    does not have are absent.

    Args:
        running: also those that are not known to be closed, with is_closed False. Then closed is what the exchange
            calls so or what a later candle of the same answer follows; without it, where the exchange does not say,
            our clock decides, as it was when the exchange was asked.

    Raises:
        ExchangeError, ExchangeUnavailableError: see ``RestClient.ask``.
    """
    found: list[Kline] = []

    async def keep(klines: list[Kline]) -> None:
        found.extend(klines)

    pages = windows(rest, timeframe, start, end, running=running)
    calls = [partial(fetch_window, rest, symbol, timeframe, *page, running=running) for page in pages]
    await in_order(calls, rest.parallel, keep)
    return found


def windows(rest: RestClient, timeframe: str, start: int, end: int, *, running: bool = False) -> list[tuple[int, int]]:
    """[start, end) in pieces of one page of candles, without what is no longer given, or cannot be closed yet
    (``running``: or cannot have begun yet, by a clock that may be a candle behind)."""
    now = rest.clock.time_ms()
    deepest = rest.adapter.deepest_klines(timeframe, now)
    start = timeframes.ceil(timeframe, start if deepest is None else max(start, deepest))
    last = timeframes.floor(timeframe, now)
    end = min(end, timeframes.shift(timeframe, last, 2) if running else last)
    page = rest.adapter.rest.page
    if (span := rest.adapter.klines_span) is not None:
        page = max(1, min(page, span // (timeframes.MILLISECONDS.get(timeframe) or 31 * timeframes.DAY)))
    pieces = []
    while start < end:
        behind = timeframes.shift(timeframe, start, page)
        pieces.append((start, min(behind, end)))
        start = behind
    return pieces


async def fetch_window(
    rest: RestClient, symbol: str, timeframe: str, start: int, end: int, *, running: bool = False
) -> list[Kline]:
    """As ``fetch_klines``, of at most one page of candles."""
    found: dict[int, Kline] = {}
    wanted = list(timeframes.starts(timeframe, start, end))
    known_candles: dict[int, Kline] = {}
    asked = 0
    while wanted:
        asked = rest.clock.time_ms()  # the answer may be slow, and is not younger than the question for sure
        page = await _page(rest, symbol, timeframe, wanted[0], timeframes.end_of(timeframe, wanted[-1]))
        due = set(wanted)
        known = len(found)
        newest = max((kline.open_ts for kline in page), default=0)
        for kline in page:
            known_candles[kline.open_ts] = kline
            if kline.open_ts not in due:
                continue
            closed = kline.is_closed
            if closed is None:
                closed = kline.open_ts < newest if running else timeframes.end_of(timeframe, kline.open_ts) <= asked
            if closed or running:
                found[kline.open_ts] = marked(kline, is_closed=closed)
        if len(found) == known:
            break
        wanted = [ts for ts in wanted if ts not in found]
    if wanted and rest.adapter.omits_empty:
        absent = [ts for ts in wanted if ts not in known_candles]
        found |= await _from_trades(rest, symbol, timeframe, absent, known_candles, asked)
    return [found[ts] for ts in sorted(found)]


async def _from_trades(
    rest: RestClient, symbol: str, timeframe: str, absent: list[int], known: Mapping[int, Kline], asked: int
) -> dict[int, Kline]:
    """Candles that an exchange leaves out which has none where nothing was traded, made from the trades of their time:
    flat ones, or those that it should have had. Not those that it may only be late with."""
    newest = max(known, default=0)
    due = {ts for ts in absent if ts < newest or timeframes.end_of(timeframe, ts) + LATE <= asked}
    if not due:
        return {}
    first, end = min(due), timeframes.end_of(timeframe, max(due))
    before = max((ts for ts in known if ts < first), default=None)
    since = first if before is None else timeframes.end_of(timeframe, before)
    fold = Fold(rest.adapter.source, symbol, timeframe, since, None if before is None else known[before].close)
    klines: list[Kline] = []
    async for trades in trade_pages(rest, symbol, since=since, until=end):
        klines += fold.add(trades)
    klines += fold.until(end)
    return {kline.open_ts: kline for kline in klines if kline.open_ts in due}


async def first_candle(rest: RestClient, symbol: str, timeframe: str, start: int, end: int) -> int | None:
    """The earliest moment within [start, end) that the symbol's candles begin at; None: it has none there.

    Looks at the longest candles there are, so one page covers years, and is exact to one of those.

    Raises:
        ExchangeError, ExchangeUnavailableError: see ``RestClient.ask``.
    """
    able = [name for name in timeframes.TIMEFRAMES if name in rest.adapter.timeframes]
    coarse = able[-1] if timeframes.nests(timeframe, able[-1]) else timeframe
    pages = windows(rest, coarse, timeframes.floor(coarse, start), end, running=True)
    for first, last in pages:
        page = await _page(rest, symbol, coarse, first, last)
        begun = [kline.open_ts for kline in page if first <= kline.open_ts < end]
        if begun:
            return max(start, min(begun))
    return None


async def _page(rest: RestClient, symbol: str, timeframe: str, start: int, end: int) -> list[Kline]:
    request = rest.adapter.klines(symbol, timeframe, start, end, now=rest.clock.time_ms())
    return await rest.ask(request, lambda body: rest.adapter.decode_klines(body, symbol, timeframe))


def marked(kline: Kline, **fields: Any) -> Kline:
    """The same Kline with other values in some fields, none of them checked. For one that was decoded a moment ago and
    is nobody else's yet: a copy would cost more than decoding it did."""
    kline.__dict__.update(fields)
    return kline


async def check_symbols(rest: RestClient, symbols: Sequence[str]) -> dict[str, str]:
    """Our spelling of each of the exchange's own symbols that it tells one of, if it trades them all.

    Raises:
        SymbolError: a symbol's form is wrong, or there is none of the name; the text names near ones.
        ExchangeError, ExchangeUnavailableError: see ``RestClient.ask``.
    """
    adapter = rest.adapter
    names = [adapter.check_symbol(symbol) for symbol in symbols]
    try:
        known = await instruments_of(rest, adapter.instruments(names), names)
    except ExchangeError:
        if len(names) == 1:
            raise
        told: dict[str, str] = {}
        for name in names:  # some exchanges refuse the whole question for one unknown name
            told |= await check_symbols(rest, [name])
        return told
    for name in names:
        if name not in known.trading:
            raise unknown_symbol(rest, name, known.trading, known.halted.get(name) or await _status(rest, name))
    return {name: known.pairs[name] for name in names if name in known.pairs}


async def instruments_of(
    rest: RestClient, requests: Sequence[Request], names: Sequence[str] | None = None
) -> Instruments:
    """What the exchange lists, as far as it must be read until the names are found; None: all.

    Raises:
        ExchangeError, ExchangeUnavailableError: see ``RestClient.ask``.
    """
    adapter = rest.adapter
    found = Instruments(set(), {})
    for first in requests:
        request: Request | None = first
        while request is not None:
            page, request = await rest.ask(request, partial(_instruments_page, adapter, request))
            found.trading.update(page.trading)
            found.halted.update(page.halted)
            found.pairs.update(page.pairs)
            found.sizes.update(page.sizes)
            if names is not None and found.trading.issuperset(names):
                return found
    return found


def _instruments_page(adapter: Adapter, request: Request, body: bytes) -> tuple[Instruments, Request | None]:
    return adapter.decode_instruments(body), adapter.more_instruments(request, body)


async def _status(rest: RestClient, name: str) -> str | None:
    """The status of a symbol that is not among those traded; None: there is none, or it is not told."""
    request = rest.adapter.instrument(name)
    if request is None:
        return None
    try:
        return (await rest.ask(request, rest.adapter.decode_instruments)).halted.get(name)
    except ExchangeError:
        return None


def unknown_symbol(rest: RestClient, symbol: str, known: set[str], status: str | None = None) -> SymbolError:
    """The error for a symbol that the exchange does not have, or (``status``) has and does not trade."""
    source, example = rest.adapter.source, rest.adapter.symbol_example
    if status is not None:
        return SymbolError(
            f"{source} lists {symbol} with the status {status} and does not trade it now: try again later. Its past "
            "candles can be backfilled"
        )
    near = [name for name in difflib.get_close_matches(symbol, known, 4) if name != symbol][:3]
    hint = f": did you mean {' or '.join(near)}?" if near else f": {source} writes e.g. {example}"
    return SymbolError(f"{source} does not trade {symbol}{hint if near or example != symbol else ''}")


async def fetch_trades(
    rest: RestClient, symbol: str, *, after_id: str | None = None, since: int | None = None, until: int | None = None
) -> list[Trade]:
    """Trades, oldest first, each once: behind an id, or from ``since`` on; up to ``until`` (epoch ms, not included).

    Raises:
        ExchangeError, ExchangeUnavailableError: see ``RestClient.ask``.
    """
    return [
        trade async for page in trade_pages(rest, symbol, after_id=after_id, since=since, until=until) for trade in page
    ]


async def trade_pages(
    rest: RestClient, symbol: str, *, after_id: str | None = None, since: int | None = None, until: int | None = None
) -> AsyncGenerator[list[Trade]]:
    """As ``fetch_trades``, page by page, so that memory does not grow with the range."""
    if rest.adapter.trades_between(symbol, 0, None) is not None:
        async for found in _walked_back(rest, symbol, since or 0, until):
            yield found
        return
    had: set[str] = set()  # of the page before: pages overlap
    last = int(after_id) if after_id is not None and after_id.isdigit() else None  # ids that are numbers rise
    first = since
    while True:
        request = rest.adapter.trades(symbol, after_id=after_id, since=since)
        page = await rest.ask(request, lambda body: rest.adapter.decode_trades(body, symbol))
        fresh = [
            trade
            for trade in page.trades
            if trade.trade_id not in had
            and (last is None or not trade.trade_id.isdigit() or int(trade.trade_id) > last)
        ]
        wanted = [
            trade for trade in fresh if (first is None or trade.ts >= first) and (until is None or trade.ts < until)
        ]
        if wanted:
            yield wanted
        ended = until is not None and bool(page.trades) and page.trades[-1].ts >= until
        stands = page.cursor == after_id or (page.trades and not fresh)
        cursor = page.beyond if stands else page.cursor
        if ended or cursor is None or cursor == after_id:
            return
        if page.trades:
            had = {trade.trade_id for trade in page.trades}
            last = max((int(name) for name in had if name.isdigit()), default=None)
        after_id, since = cursor, None


async def _walked_back(rest: RestClient, symbol: str, since: int, until: int | None) -> AsyncGenerator[list[Trade]]:
    """``trade_pages`` where the newest trades of a range come first: slice by slice, each walked back."""
    adapter, start = rest.adapter, since
    while until is None or start < until:
        now = rest.clock.time_ms()
        end = start + SLICE if until is None else min(start + SLICE, until)
        is_last = end > now
        pages: list[list[Trade]] = []
        had: set[str] = set()
        bound = None if is_last and until is None else end
        while len(pages) < MOST_PAGES:
            request = adapter.trades_between(symbol, start, bound)
            if request is None:
                return
            page = (await rest.ask(request, lambda body: adapter.decode_trades(body, symbol))).trades
            fresh = [trade for trade in page if trade.trade_id not in had]
            had.update(trade.trade_id for trade in fresh)
            pages.append([trade for trade in fresh if start <= trade.ts and (is_last or trade.ts < end)])
            if len(page) < adapter.rest.trades_page or not fresh or page[0].ts <= start:
                break
            bound = page[0].ts
        for found in reversed(pages):
            wanted = found if until is None else [trade for trade in found if trade.ts < until]
            if wanted:
                yield wanted
        if is_last:
            return
        start = end
