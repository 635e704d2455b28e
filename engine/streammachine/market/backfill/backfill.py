"""Backfill: the closed candles of a range of the past, from an exchange into emitters, a CSV or a loop.

    backfill = BinanceBackfilling("BTCUSDT", "1m", "2024-01-01", "2024-12-31")
    backfill.register_emitter(emitter)
    backfill.run()

Sorted, each once, exactly the range. A run that was killed goes on where it was, and one that is through adds nothing:
what is done is kept in a journal for each sink (``journal``). A CSV then holds each candle exactly once; the other
sinks get it at least once, and those of ours that have keys (PostgreSQL with on_conflict, Redis) keep it once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self, overload

import anyio

from streammachine.errors import DataInputError, EmitterError
from streammachine.market.backfill import request
from streammachine.market.backfill.collector import Collector, by_rows
from streammachine.market.backfill.progress import Show, bar, silent
from streammachine.market.backfill.sink import CHECKPOINT_ROWS, Sink, request_key
from streammachine.market.clock.clock import Clock
from streammachine.market.clock.remote_clock import VARIABLE, default_clock
from streammachine.market.emitters.any_emitter import check_emitter
from streammachine.market.emitters.base import Transformer
from streammachine.market.exchanges.lookup import adapter_for, bridged, entry_for, is_bridged
from streammachine.market.exchanges.registry import ENTRIES, ExchangeEntry
from streammachine.market.exchanges.spelling import is_common
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.kline import Gap, Kline, set_pair
from streammachine.market.model.rows import Lane
from streammachine.market.model.timespan import Moment, Timespan, timespan
from streammachine.market.network.rest_client import RestClient, client_for
from streammachine.market.network.symbols import settled, spelled

if TYPE_CHECKING:
    from streammachine.market.model.kline_columns import KlineColumns

log = logging.getLogger(__name__)

LAST: Final = 253_402_214_400_000  # 9999-12-31
ATTEMPTS: Final = 8  # of one request, half a minute in all: nobody waits for a backfill as for a live candle

State = Literal["waiting", "running", "done", "failed", "stopped"]


class Backfilling:
    """The candles of one symbol and timeframe that begin within a range, all closed.

    Args:
        symbol: as the exchange writes it. timeframe: one that the exchange has.
        from_date, to_date: a date (UTC; that whole day is included), a date-time ("2024-01-31T12:00", UTC without an
            offset; as ``to_date`` where the range ends, not included), epoch milliseconds, or (``to_date``) "now".
        file_path: the CSV to write where no emitter is registered; by default one named after the request.
        data_type: "klines".
        market_type: SPOT (DEFAULT), or another kind that the exchange has: its runner's docstring names them.
        transformer: changes each row: a dict in, a dict out, None drops it.
        rest_url, bulk_url: base URLs other than the exchange's.
        clock: time, for tests and simulations. parallel: requests at once, where less or more than usual.
        resume: go on where an earlier run of the same request ended. False: do it all again.
        progress: show a progress bar on stderr; None: where that is a terminal.
        columns: take candles in columns, a bulk file's month or a page of REST at once, where they are as usual
            and nothing needs rows. False: row by row, which gives the same.
        data_dir: where journals are kept (those of CSV files are beside them); by default STREAMMACHINE_DATA_DIR.

    Attributes:
        gaps: the candles that could not be had.

    Raises:
        DataInputError, SymbolError, TimeframeError, UnknownExchangeError: something of it is not accepted.
    """

    exchange: ClassVar[str] = ""

    def __init__(
        self,
        symbol: str,
        timeframe: str,
        from_date: Moment,
        to_date: Moment = "now",
        file_path: str | os.PathLike[str] | None = None,
        data_type: str = "klines",
        market_type: str = "DEFAULT",
        transformer: Transformer | None = None,
        *,
        rest_url: str | None = None,
        bulk_url: str | None = None,
        clock: Clock | None = None,
        parallel: int | None = None,
        resume: bool = True,
        progress: bool | None = None,
        columns: bool = True,
        data_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self._adapter = adapter_for(self.exchange, market_type)
        request.check(self._adapter, symbol, data_type, parallel)
        self.timeframe = self._adapter.check_timeframe(timeframes.check(timeframe))
        self._urls = self._adapter.urls(rest_url=rest_url, bulk_url=bulk_url)
        (self.symbol,) = spelled(self._adapter, self._urls, [symbol])
        self._pair: str | None = None
        self._clock = clock
        self._asked = (from_date, to_date)
        # Where the clock of a simulator is to be followed, which is only asked when it runs, no date is in the future.
        now = LAST if clock is None and VARIABLE in os.environ else self._time().time_ms()
        self._span = timespan(*self._asked, self.timeframe, now)
        self._file_path = Path(file_path) if file_path is not None else None
        self._transformer = transformer
        self._parallel = parallel
        self._resume = resume
        self._progress = progress
        self._columns = columns
        self._data_dir = Path(data_dir) if data_dir is not None else None
        self._emitters: list[Any] = []
        self._sinks: list[Sink] = []
        self._rest: RestClient | None = None
        self._collector: Collector | None = None
        self._old_gaps: list[Gap] = []
        self._rows = self._rows_before = 0
        self._show: Show = silent
        self._state: State = "waiting"
        self._scope: anyio.CancelScope | None = None
        self._ended: anyio.Event | None = None
        self._began: tuple[float, int] | None = None  # when, and at which position, this run began to collect

    # -- before it runs --

    def register_emitter(self, emitter: Any, model: Any = None, map_object: Mapping[str, str] | None = None) -> Self:
        """Emit into it too: a DataEmitter, or any object with ``emit(row)``. Rows are Klines.

        Args:
            model: for an emitter with ``set_model`` (PostgreSQL). map_object: for one with ``register_map``.

        Raises:
            EmitterError: it is no emitter, or takes no model or map.
        """
        for value, method in ((model, "set_model"), (map_object, "register_map")):
            if value is None:
                continue
            if not callable(getattr(emitter, method, None)):
                raise EmitterError(f"{type(emitter).__name__} has no {method}: leave that argument out")
            getattr(emitter, method)(value)
        check_emitter(emitter)
        self._emitters.append(emitter)
        return self

    @overload
    def set_transformer(self, transformer_func: Transformer | None, inplace: Literal[True]) -> None: ...
    @overload
    def set_transformer(self, transformer_func: Transformer | None, inplace: bool = False) -> Self | None: ...
    def set_transformer(self, transformer_func: Transformer | None, inplace: bool = False) -> Self | None:
        """Change each row before it is emitted: a dict in, a dict out, None drops it. An emitter's own transformer gets
        what this one made. Returns the backfill, or with ``inplace`` None."""
        self._transformer = transformer_func
        return None if inplace else self

    def transform(self, row: Kline | dict[str, Any]) -> Mapping[str, Any] | None:
        """What the transformer makes of a row."""
        values = dict(row) if isinstance(row, dict) else row.model_dump()
        return values if self._transformer is None else self._transformer(values)

    @property
    def file_path(self) -> Path:
        """The CSV that is written where no emitter is registered."""
        if self._file_path is not None:
            return self._file_path
        return Path(request.file_name(self._adapter, self.symbol, self.timeframe, self._timespan()))

    # -- running --

    def run(self) -> None:
        """Do it, and return when all is emitted and flushed.

        Raises:
            DataInputError: called where an event loop runs: use ``await backfill.arun()`` there.
            As ``arun``.
        """
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            raise DataInputError("run() was called in a running event loop: use `await backfill.arun()` there")
        anyio.run(self.arun)

    async def arun(self) -> None:
        """As ``run``, in a running event loop.

        Raises:
            SymbolError: the exchange has no such symbol.
            ExchangeError, ExchangeUnavailableError: the exchange refuses, or cannot be reached; the same call goes on
                where it was.
            EmitterError: a sink cannot be used as it is set up.
        """
        self._begin()
        self._ended = anyio.Event()
        try:
            with anyio.CancelScope() as self._scope, ExitStack() as journals:
                await self._settle_symbol()
                self._sinks = self._open_sinks(journals)
                if any(sink.position < self._span.end for sink in self._sinks):
                    await self._fill()
                else:
                    self._old_gaps, self._rows = self._sinks[0].gaps, self._sinks[0].rows
                    self._rows_before = self._rows
                    log.info("%s is there already, up to all that was asked for", self._title())
        except BaseException:
            self._state = "failed"
            raise
        finally:
            self._ended.set()
        self._state = "stopped" if self._scope.cancelled_caught else "done"

    async def acheck(self) -> None:
        """Raise what ``arun`` would raise at its beginning; nothing is loaded, and no row goes out.

        Raises: as ``arun``.
        """
        self._begin()
        try:
            with ExitStack() as journals:
                await self._settle_symbol()
                sinks = self._open_sinks(journals)
                if any(sink.position < self._span.end for sink in sinks):
                    async with self._open_rest():
                        for sink in sinks:
                            await sink.try_out(self._time(), self._lane())
        finally:
            self._state = "waiting"

    async def aclose(self) -> None:
        """End ``arun``, which then returns; the next run goes on where it was."""
        if self._state == "running" and self._scope is not None and self._ended is not None:
            self._scope.cancel()
            await self._ended.wait()

    async def stream(self, batch_size: int = 1000) -> AsyncGenerator[list[dict[str, Any]]]:
        """The candles as dicts, transformed, in lists of ``batch_size`` (the last may be shorter). Emitters and the
        journal have no part in it.

        Raises: as ``arun``.
        """
        if batch_size < 1:
            raise DataInputError(f"batch_size={batch_size} is not accepted: give 1 or more")
        self._begin()
        send, receive = anyio.create_memory_object_stream["list[Kline] | KlineColumns"](2)

        async def collect() -> None:
            await self._settle_symbol()
            async with send, self._open_rest() as rest:
                with self._bar() as self._show:
                    self._collector = self._collect(rest, self._span.start, send.send)
                    await self._collector.run()

        # A task group may not be left in another task than it was entered in, as happens to a generator that is given
        # up; a plain task may.
        task = asyncio.create_task(collect())
        try:
            with receive:
                batch: list[dict[str, Any]] = []
                async for klines in receive:
                    for kline in chain.from_iterable(by_rows(klines, CHECKPOINT_ROWS)):
                        row = self._dict(kline)
                        if row is not None:
                            batch.append(row)
                        if len(batch) >= batch_size:
                            yield batch
                            batch = []
                    self._count(len(klines), timeframes.end_of(self.timeframe, kline.open_ts))
                await task
                if batch:
                    yield batch
            self._state = "done"
        finally:
            if self._state != "done":
                self._state = "failed"
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # raised above, or of no interest to who has left

    # -- how it stands --

    @property
    def gaps(self) -> list[Gap]:
        """The candles that could not be had, of earlier runs of this request too."""
        return [*self._old_gaps, *(self._collector.gaps if self._collector is not None else ())]

    def stats(self) -> dict[str, Any]:
        """How it stands: state (waiting, running, done, failed, stopped), where it is (epoch ms), counts of candles,
        and for each sink its own. ``eta_s``: seconds that it may still take, None where that is not known."""
        position = self._span.start
        if self._collector is not None:
            position = self._collector.position
        elif self._state == "done":
            position = self._span.end
        length = self._span.end - self._span.start
        return {
            "state": self._state,
            "exchange": self._adapter.name,
            "symbol": self.symbol,
            "timeframe": self.timeframe,
            "start": self._span.start,
            "end": self._span.end,
            "position": position,
            "fraction": round((position - self._span.start) / length, 4),
            "eta_s": self._eta(position),
            "total": len(timeframes.starts(self.timeframe, self._span.start, self._span.end)),
            "rows": self._rows,
            "rows_before": self._rows_before,
            "gaps": len(self.gaps),
            "requests": self._rest.requests if self._rest is not None else 0,
            "told_to_wait_s": round(self._rest.told_to_wait, 1) if self._rest is not None else 0.0,
            "sinks": [sink.describe() for sink in self._sinks],
        }

    def _eta(self, position: int) -> float | None:
        if self._state == "done":
            return 0.0
        if self._state != "running" or self._began is None or position <= self._began[1]:
            return None
        since, first = self._began
        taken = self._time().monotonic() - since
        return round(taken * (self._span.end - position) / (position - first), 1)

    # -- inside --

    def _time(self) -> Clock:
        if self._clock is None:
            self._clock = default_clock()
        return self._clock

    def _timespan(self) -> Timespan:
        return timespan(*self._asked, self.timeframe, self._time().time_ms())

    def _begin(self) -> None:
        if self._state == "running":
            raise DataInputError("this backfill is running already: wait for it, or make another")
        self._span = self._timespan()
        self._rest, self._collector, self._sinks, self._old_gaps = None, None, [], []
        self._rows = self._rows_before = 0
        self._scope = self._ended = self._began = None
        self._state = "running"

    def _title(self) -> str:
        return f"{self._adapter.source} {self.symbol} {self.timeframe}"

    def _lane(self) -> Lane:
        return Lane(self._adapter.source, self.symbol, self.timeframe)

    async def _settle_symbol(self) -> None:  # of a pair that is not known yet: sinks and journals go by it
        if is_common(self._adapter, self.symbol):
            async with client_for(self._adapter, self._urls, clock=self._time(), attempts=ATTEMPTS) as rest:
                (self.symbol,) = await settled(rest, [self.symbol])

    @contextlib.asynccontextmanager
    async def _open_rest(self) -> AsyncGenerator[RestClient]:
        async with client_for(
            self._adapter, self._urls, clock=self._time(), parallel=self._parallel, attempts=ATTEMPTS
        ) as rest:
            self._rest = rest
            self._pair = await request.find_pair(rest, self.symbol, self.timeframe, self._span)
            yield rest

    def _collect(self, rest: RestClient, position: int, deliver: Any, close: float | None = None) -> Collector:
        self._began = (self._time().monotonic(), position)
        return Collector(
            rest, self.symbol, self.timeframe, position, self._span.end, deliver, close=close, columns=self._columns
        )

    def _open_sinks(self, journals: ExitStack) -> list[Sink]:
        from streammachine.market.emitters.csv import CSVEmitter

        key = request_key(self._adapter, self._urls, self.symbol, self.timeframe, self._span.start)
        sinks = []
        for emitter in self._emitters or [CSVEmitter()]:
            is_default = isinstance(emitter, CSVEmitter) and emitter.file_path is None
            if is_default:
                emitter.set_file_path(self.file_path)
            sink = Sink(emitter, key, self._span.start, resume=self._resume, is_default=is_default)
            sink.look(journals, self._data_dir)
            sinks.append(sink)
        return sinks

    async def _fill(self) -> None:
        async with self._open_rest() as rest, AsyncExitStack() as stack:
            for sink in self._sinks:
                await stack.enter_async_context(sink.open(self._transformer, self._time(), self._lane()))
            first = min(self._sinks, key=lambda sink: sink.position)
            self._old_gaps, self._rows = first.gaps, first.rows
            self._rows_before = first.rows
            self._show = stack.enter_context(self._bar())
            self._collector = self._collect(rest, first.position, self._emit, first.close)
            try:
                await self._collector.run()
                await self._save(clean=True)
            except BaseException:  # stopped, or the exchange is away: what the sinks have is not done again
                with anyio.CancelScope(shield=True):
                    for sink in self._sinks:
                        await sink.save_given(self.gaps, self._rows)
                raise

    async def _emit(self, klines: list[Kline] | KlineColumns) -> None:
        if not isinstance(klines, list) and all(sink.takes_columns for sink in self._sinks):
            await self._save()  # what came before: the sinks had the time to take it in which this was read
            for sink in self._sinks:
                await sink.put_columns(klines)
            self._count(len(klines), klines.end)
            return
        for piece in by_rows(klines, CHECKPOINT_ROWS):
            for kline in piece:
                set_pair(kline, self._pair)
            for sink in self._sinks:
                await sink.put(piece)
            position = timeframes.end_of(self.timeframe, piece[-1].open_ts)
            self._count(len(piece), position)
            await self._save(behind=(position, piece[-1].close))

    async def _save(self, *, clean: bool = False, behind: tuple[int, float | None] | None = None) -> None:
        """Flush the sinks whose turn it is (``clean``: all), and then note that they have it.

        Args:
            behind: the position and the close before it, where they are not the collector's.
        """
        collector, now = self._collector, self._time().monotonic()
        if collector is None:
            return
        position, close = (collector.position, collector.close) if behind is None else behind
        for sink in self._sinks:
            if clean or sink.is_due(now):
                await sink.save(position, close, self.gaps, self._rows, now, clean=clean)

    def _bar(self) -> AbstractContextManager[Show]:
        return bar(self._title(), self._span.end - self._span.start, note=self._note, wanted=self._progress)

    def _note(self) -> str:
        if self._rest is not None and self._rest.is_held():
            return f"{self._adapter.source} told us to wait"
        away = [sink.name for sink in self._sinks if sink.is_away]
        if away:
            return f"waiting for {', '.join(away)}"
        return f"{len(self.gaps)} gaps" if self.gaps else ""

    def _count(self, rows: int, position: int) -> None:
        self._rows += rows
        self._show(position - self._span.start, self._rows)

    def _dict(self, kline: Kline) -> dict[str, Any] | None:
        try:
            made = self.transform(kline)
        except Exception:
            log.exception(
                "the transformer failed on the %s candle of %s at %d", self.timeframe, self.symbol, kline.open_ts
            )
            return None
        return None if made is None else dict(made)


class CcxtBackfilling(Backfilling):
    """Backfills from an exchange of ccxt's (``fetch_ohlcv``; the extra ``[ccxt]``) by its id, "gate"; see Backfilling.

    Raises: MarketError: ccxt is not installed. UnknownExchangeError: it has no such exchange. As Backfilling.
    """

    def __init__(self, exchange: str, *arguments: Any, **options: Any) -> None:
        self.exchange = bridged(exchange)  # type: ignore[misc]
        super().__init__(*arguments, **options)


def backfill_for(
    exchange: str, symbol: str, timeframe: str, from_date: Moment, to_date: Moment = "now", **options: Any
) -> Backfilling:
    """The backfill of an exchange by its name; the options are those of ``Backfilling``.

    Raises:
        UnknownExchangeError: there is no such exchange. As ``Backfilling``.
    """
    if is_bridged(exchange):
        return CcxtBackfilling(exchange, symbol, timeframe, from_date, to_date, **options)
    return _CLASSES[entry_for(exchange).name](symbol, timeframe, from_date, to_date, **options)


def _backfilling_class(entry: ExchangeEntry) -> type[Backfilling]:
    """The backfilling class of an exchange, as if it stood here: BinanceBackfilling, OKXBackfilling, ..."""
    return type(
        entry.backfill_class,
        (Backfilling,),
        {"__module__": __name__, "__doc__": entry.backfill_doc, "exchange": entry.name},
    )


_CLASSES: Final[Mapping[str, type[Backfilling]]] = {entry.name: _backfilling_class(entry) for entry in ENTRIES.values()}
for _entry in ENTRIES.values():
    globals().update(dict.fromkeys((_entry.backfill_class, *_entry.backfill_aliases), _CLASSES[_entry.name]))
