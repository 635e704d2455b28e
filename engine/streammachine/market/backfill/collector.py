"""All candles of a range, in order, each once: from bulk files, REST and trades, whichever has them at the least cost.

A candle that a bulk file lacks is asked of REST; one that REST lacks (asked again, see ``rest_queries``) is a gap.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, closing
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, Final

import anyio
from anyio import to_thread

from streammachine.errors import ExchangeError, ExchangeUnavailableError
from streammachine.market.aggregation.range_folder import Fold
from streammachine.market.backfill import bulk_files as bulk
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.kline import Gap, Kline
from streammachine.market.network import rest_queries
from streammachine.market.network.ordered_calls import in_order
from streammachine.market.network.rest_client import MissingFileError

if TYPE_CHECKING:
    from streammachine.market.model.kline_columns import KlineColumns
    from streammachine.market.network.rest_client import RestClient

log = logging.getLogger(__name__)

MARGIN: Final = 10  # candles at the far end of what REST gives that may fall out of it while trades are folded
SETTLED: Final = 10_000  # milliseconds after which a candle is final whatever the exchange's clock says
PAUSE: Final = 1.0  # seconds between two looks until then
LEAST_COLUMNS: Final = 100  # rows of a page that goes in columns
LOOK_BACK: Final = (timeframes.HOUR, timeframes.DAY, 30 * timeframes.DAY)  # for the price before a first, empty candle


class Collector:
    """Collects the candles that begin within [position, end); ``run`` once.

    Args:
        deliver: takes candles, in order. columns: whether those of bulk files, and of REST in long pages, may come in
            columns; ``position`` and ``close`` are then those before them while they are delivered.
        close: the last price before ``position``, where known.

    Attributes:
        position: all before it is delivered, or a gap. close: the last price before it.
        gaps: what could not be had, adjoining ones as one.
    """

    def __init__(
        self,
        rest: RestClient,
        symbol: str,
        timeframe: str,
        position: int,
        end: int,
        deliver: Callable[[list[Kline] | KlineColumns], Awaitable[None]],
        *,
        close: float | None = None,
        columns: bool = False,
    ) -> None:
        self.position = position
        self.close = close
        self.gaps: list[Gap] = []
        self._rest = rest
        self._adapter = rest.adapter
        self._symbol = symbol
        self._timeframe = timeframe
        self._end = end
        self._deliver = deliver
        self._columns = columns
        self._files: set[BinaryIO] = set()
        self._bulk_works = True

    async def run(self) -> None:
        """Collect them all.

        Raises:
            ExchangeError, ExchangeUnavailableError: see ``RestClient.get``; and whatever ``deliver`` raises.
        """
        try:
            if self._adapter.deepest_klines(self._timeframe, self._now()) is not None:
                await self._from_trades_and_rest()
                return
            await self._skip_to_first()
            if bulk.has_bulk(self._adapter, self._timeframe) and self._rest.urls.bulk:
                await self._from_bulk(bulk.pieces(self.position, self._end, self._now()))
            else:
                await self._from_rest(self._end)
        finally:
            self._log_gap()
            for file in self._files:
                file.close()

    def _now(self) -> int:
        return self._rest.clock.time_ms()

    # -- where they come from --

    async def _skip_to_first(self) -> None:
        """Do not ask page by page for years in which the symbol was not there. One long candle may be missing for other
        reasons, so the pages at both ends of what would be skipped must be empty too."""
        if len(rest_queries.windows(self._rest, self._timeframe, self.position, self._end)) < 5:
            return
        first = await rest_queries.first_candle(self._rest, self._symbol, self._timeframe, self.position, self._end)
        first = timeframes.ceil(self._timeframe, first) if first is not None else None
        if first is None or first <= self.position:
            return
        skipped = rest_queries.windows(self._rest, self._timeframe, self.position, min(first, self._end))
        for window in {skipped[0], skipped[-1]}:
            if await rest_queries.fetch_window(self._rest, self._symbol, self._timeframe, *window):
                return
        self._gap_until(min(first, self._end), f"{self._symbol} was not traded yet")

    async def _from_rest(self, end: int) -> None:
        windows = rest_queries.windows(self._rest, self._timeframe, self.position, end)

        async def fetch(start: int, behind: int) -> tuple[int, list[Kline]]:
            asked = self._now()
            klines = await rest_queries.fetch_window(self._rest, self._symbol, self._timeframe, start, behind)
            return behind, await self._settled(klines, behind, asked)

        async def accept(page: tuple[int, list[Kline]]) -> None:
            behind, klines = page
            columns = self._in_columns(klines)
            if columns is None:
                await self._accept(klines)
            else:
                await self._accept_columns(columns, self._end, heal=False)
            self._gap_until(behind)

        await in_order([partial(fetch, *window) for window in windows], self._rest.parallel, accept)
        self._gap_until(end)

    async def _settled(self, klines: list[Kline], end: int, asked: int) -> list[Kline]:
        """The klines, asked for at a moment; where the last of them had only just ended then, in the state that it has
        once a later one is there, or ``SETTLED`` has passed: until then our clock may be ahead of the exchange's, or
        its REST behind."""
        if asked - end >= SETTLED:
            return klines
        last = timeframes.shift(self._timeframe, end, -1)
        beyond = timeframes.end_of(self._timeframe, end)
        while True:
            asked = self._now()
            some = await rest_queries.fetch_klines(
                self._rest, self._symbol, self._timeframe, last, beyond, running=True
            )
            state = next((kline for kline in some if kline.open_ts == last), None)
            if asked - end >= SETTLED or (state is not None and state.is_closed):
                break
            await self._rest.clock.sleep(PAUSE)
        found = [kline for kline in klines if kline.open_ts < last]
        if state is not None:
            found.append(rest_queries.marked(state, is_closed=True))
        return found

    async def _from_bulk(self, pieces: list[bulk.Piece | tuple[int, int]]) -> None:
        calls = [partial(self._fetch, piece) for piece in pieces]
        await in_order(calls, self._rest.parallel, self._accept_piece)

    async def _fetch(self, piece: bulk.Piece | tuple[int, int]) -> tuple[bulk.Piece | tuple[int, int], BinaryIO | None]:
        if not isinstance(piece, bulk.Piece):
            return piece, None
        if not self._bulk_works:
            return (piece.start, piece.end), None
        try:
            file = await bulk.fetch(self._rest, self._symbol, self._timeframe, piece)
        except MissingFileError as error:
            log.info("%s; taking it %s", error, "by days" if piece.is_month else "from REST")
            return piece, None
        except bulk.BadFileError as error:
            log.warning("%s; taking it from REST", error)
            return (piece.start, piece.end), None
        except (ExchangeError, ExchangeUnavailableError) as error:  # some networks let REST through, and files not
            if self._bulk_works:
                log.warning("no bulk files: %s; taking all from REST", error)
            self._bulk_works = False
            return (piece.start, piece.end), None
        self._files.add(file)
        return piece, file

    async def _accept_piece(self, fetched: tuple[bulk.Piece | tuple[int, int], BinaryIO | None]) -> None:
        piece, file = fetched
        if not isinstance(piece, bulk.Piece):
            await self._from_rest(piece[1])
            return
        if file is None:
            if piece.is_month:
                await self._from_bulk([day for day in bulk.days(piece) if day.end > self.position])
            else:
                await self._from_rest(piece.end)
            return
        try:
            await self._read(file, piece.end)
        except bulk.BadFileError as error:
            log.warning("%s %s: %s; taking the rest of it from REST", self._symbol, piece.label, error)
        finally:
            self._files.discard(file)
            file.close()
        if self.position < piece.end:
            await self._from_rest(piece.end)

    async def _read(self, file: BinaryIO, end: int) -> None:
        if not self._columns:
            for klines in bulk.read(file, self._adapter, self._symbol, self._timeframe):
                await self._accept([kline for kline in klines if kline.open_ts < end], heal=True)
                await anyio.lowlevel.checkpoint()
            return
        from streammachine.market.backfill import bulk_columns

        with closing(bulk_columns.read(file, self._adapter, self._symbol, self._timeframe)) as batches:
            # The next batch is read in a thread while the sinks have this one.
            while (batch := await to_thread.run_sync(next, batches, None)) is not None:
                if isinstance(batch, list):
                    await self._accept([kline for kline in batch if kline.open_ts < end], heal=True)
                else:
                    await self._accept_columns(batch, min(end, self._end), heal=True)

    async def _from_trades_and_rest(self) -> None:
        while self.position < self._end:
            deepest = self._adapter.deepest_klines(self._timeframe, self._now())
            if deepest is None or self.position >= deepest:
                await self._from_rest(self._end)
                return
            edge = timeframes.shift(self._timeframe, timeframes.ceil(self._timeframe, deepest), MARGIN)
            await self._fold(min(edge, self._end))

    async def _fold(self, end: int) -> None:
        log.info("%s gives no %s candles this old: folding trades", self._adapter.source, self._timeframe)
        fold: Fold | None = None
        # Up to a trade behind the end, which shows whether one before it is missing.
        async with aclosing(rest_queries.trade_pages(self._rest, self._symbol, since=self.position)) as pages:
            async for trades in pages:
                if fold is None:
                    fold = await self._begin_fold(first_trade=min(trades[0].ts, end))
                await self._accept([kline for kline in fold.add(trades) if kline.open_ts < end])
                if trades[-1].ts >= end:
                    break
        if fold is None:
            fold = await self._begin_fold(first_trade=end)
        await self._accept(fold.until(end))
        self._gap_until(end, f"{self._symbol} was not traded yet")

    async def _begin_fold(self, first_trade: int) -> Fold:
        position = self.position
        last_id = None
        if self.close is None and first_trade >= timeframes.end_of(self._timeframe, position):
            for back in LOOK_BACK:
                before = await rest_queries.fetch_trades(
                    self._rest, self._symbol, since=position - back, until=position
                )
                if before:
                    self.close = before[-1].price
                    last_id = int(before[-1].trade_id) if self._adapter.contiguous_ids else None
                    break
            else:
                self._gap_until(timeframes.floor(self._timeframe, first_trade), f"{self._symbol} was not traded yet")
        return Fold(
            self._adapter.source,
            self._symbol,
            self._timeframe,
            self.position,
            self.close,
            last_id=last_id,
            contiguous=self._adapter.contiguous_ids,
        )

    # -- what goes out --

    async def _accept(self, klines: list[Kline], *, heal: bool = False) -> None:
        """Deliver those that are new and stand where a candle may; what is missing before one is asked of REST
        (``heal``) or a gap."""
        fresh: list[Kline] = []
        for kline in klines:
            start = kline.open_ts
            if not self.position <= start < self._end or timeframes.floor(self._timeframe, start) != start:
                continue
            if start > self.position and heal:
                await self._hand_on(fresh)
                fresh = []
                await self._from_rest(start)
            self._gap_until(start)
            fresh.append(kline)
            self.position = timeframes.end_of(self._timeframe, start)
            self.close = kline.close
        await self._hand_on(fresh)

    def _in_columns(self, klines: list[Kline]) -> KlineColumns | None:
        """A page of REST as columns, if they are wanted, it is long enough, and they can hold it."""
        if not self._columns or len(klines) < LEAST_COLUMNS:
            return None
        from streammachine.market.model.kline_columns import KlineColumns

        if timeframes.floor(self._timeframe, klines[0].open_ts) != klines[0].open_ts:
            return None
        return KlineColumns.of(klines)

    async def _accept_columns(self, columns: KlineColumns, end: int, *, heal: bool) -> None:
        """As ``_accept``, of those that begin before ``end``."""
        from streammachine.market.backfill.column_order import runs

        for run in runs(columns, self.position, end):
            start = int(run.open_ts[0])
            if start > self.position and heal:
                await self._from_rest(start)
            self._gap_until(start)
            await self._deliver(run)
            self.position = run.end
            self.close = float(run.close[-1])

    async def _hand_on(self, klines: list[Kline]) -> None:
        if klines:
            await self._deliver(klines)

    def _gap_until(self, end: int, reason: str = "") -> None:
        if self.position >= end:
            return
        source = self._adapter.source
        gap = Gap(
            source, self._symbol, self._timeframe, self.position, end, reason or f"{source} does not have these candles"
        )
        self.position = end
        if self.gaps and self.gaps[-1].end == gap.start and self.gaps[-1].reason == gap.reason:
            gap = Gap(source, self._symbol, self._timeframe, self.gaps.pop().start, end, gap.reason)
            self.gaps.append(gap)
            return
        self._log_gap()
        self.gaps.append(gap)

    def _log_gap(self) -> None:
        """Log the newest gap: nothing is going to be added to it."""
        if self.gaps:
            gap = self.gaps[-1]
            log.warning("gap: %s %s from %d to %d: %s", gap.symbol, gap.timeframe, gap.start, gap.end, gap.reason)


def by_rows(klines: list[Kline] | KlineColumns, most: int) -> Iterator[list[Kline]]:
    """What was delivered as lists of at most so many rows."""
    for start in range(0, len(klines), most):
        piece = klines[start : start + most]
        yield piece if isinstance(piece, list) else piece.rows()
