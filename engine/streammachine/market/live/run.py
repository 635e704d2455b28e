"""One run of a runner: check, connect, warm up, stream, drain. ``runner.py`` is its face.

It lives in one task of its own; whoever starts it awaits ``end()``. Nothing of the run is cancelled with its caller: it
is told to stop, and then drains.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Generator, Sequence
from contextlib import AsyncExitStack, nullcontext
from dataclasses import asdict, replace
from typing import Any

import anyio

from streammachine.errors import EmitterError, MarketError
from streammachine.market.aggregation.pipeline import Pipeline
from streammachine.market.clock.clock import SystemClock, VirtualClock
from streammachine.market.emitters.base import DataEmitter
from streammachine.market.emitters.outlet import Outlet
from streammachine.market.live import warmup
from streammachine.market.live.bounded_queue import Queue, RowRate
from streammachine.market.live.feed import Feed
from streammachine.market.live.idle_closer import IdleCloser
from streammachine.market.live.indicator_rows import IndicatorRows
from streammachine.market.live.memory import Checkpoints, Remembered
from streammachine.market.live.run_plan import RunnerStats, RunPlan, State, lanes, rest_client
from streammachine.market.model.kline import Gap, Kline, Trade, set_pair
from streammachine.market.model.quote import Quote
from streammachine.market.model.rows import Row, named
from streammachine.market.network import rest_queries
from streammachine.market.network.recording import Recorder
from streammachine.market.network.replaying import Player
from streammachine.market.network.rest_client import RestClient
from streammachine.market.network.symbols import settled

log = logging.getLogger(__name__)


class Run:
    """A run, begun by being made (in a running loop).

    Args:
        queue: where the rows for ``stream`` go; None where nobody streams.
    """

    def __init__(self, plan: RunPlan, queue: Queue[Kline | Trade | Quote] | None) -> None:
        self.plan = plan
        self._queue = queue
        self._state: State = "new"
        self._error: str | None = None
        self._pipeline = Pipeline(
            plan.data_input,
            plan.adapter.source,
            only_closed=plan.only_closed,
            emit_trades=plan.emit_trades,
        )
        self._indicators = IndicatorRows(plan.indicators, plan.data_input) if plan.indicators else None
        self._outlets: list[Outlet] = []
        self._feed: Feed | None = None
        self._feed_scope = anyio.CancelScope()
        self._stopping = False
        self._is_ended = False
        self._cut_off: Any = None
        self._folder_lock = anyio.Lock(fast_acquire=True)
        self._began = plan.clock.monotonic()
        self._rate = RowRate(plan.clock)
        self._gap_count = 0
        self._checkpoints: Checkpoints | None = None
        self._resume = dict(plan.resume)
        self._history_until = 0
        self._pairs: dict[str, str] = {}
        self.task = asyncio.get_running_loop().create_task(self._main(), name=f"{plan.adapter.name} runner")

    # -- for the runner -----------------------------------------------------------------------

    def stop(self) -> None:
        """Read no further; drain. Twice is allowed."""
        if self._stopping or self.task.done():
            return
        self._stopping = True
        self._read_no_further()

    def _read_no_further(self) -> None:
        if self._feed is not None and self._state == "running":
            self._feed.close()
            if self._cut_off is None:
                self._cut_off = self.plan.clock.call_later(self.plan.drain_timeout, self._feed_scope.cancel)
            if self._queue is not None:
                self._queue.open_up()
        elif self._state != "draining":
            self.task.cancel()

    async def end(self) -> None:
        """Stop, and wait until it has ended. A second cancellation in the meantime cuts the draining short."""
        self.stop()
        cancelled = False
        with anyio.CancelScope(shield=True):
            while not self.task.done():
                try:
                    await asyncio.wait([self.task])
                except asyncio.CancelledError:
                    cancelled = True
                    self.task.cancel()
        if not self.task.cancelled():
            self.task.exception()  # it is known here; ``result`` raises it, or it was logged
        if cancelled:
            raise asyncio.CancelledError

    def result(self) -> None:
        """Raise what ended it, where that was an error."""
        if not self.task.cancelled() and (error := self.task.exception()) is not None:
            raise error

    def stats(self) -> RunnerStats:
        """How it stands now."""
        plan, pipeline = self.plan, self._pipeline
        return RunnerStats(
            exchange=plan.adapter.name,
            market_type=plan.adapter.market_type,
            state=self._state,
            error=self._error,
            symbols=list(plan.data_input.symbols),
            seconds=plan.clock.monotonic() - self._began,
            rows=self._rate.total,
            rate=self._rate.per_second(),
            duplicates=pipeline.duplicates,
            late=pipeline.folder.late if pipeline.folder is not None else 0,
            gap_count=self._gap_count,
            last=[
                {
                    "symbol": symbol,
                    "timeframe": timeframe,
                    "open_ts": kline.open_ts,
                    "close": kline.close,
                    "is_complete": kline.is_complete,
                }
                for (symbol, timeframe), kline in pipeline.last.items()
            ],
            unrecorded=(plan.recorder.writer.problem or None) if plan.recorder is not None else None,
            feed=_plain(self._feed.stats) if self._feed is not None else {},
            emitters=[asdict(outlet.stats) for outlet in self._outlets],
        )

    # -- the task -----------------------------------------------------------------------------

    async def _main(self) -> None:
        try:
            await self._whole()
            self._state = "closed"
        except asyncio.CancelledError:
            self._state = "closed"
            raise
        except BaseException as error:  # noqa: BLE001 - taken out of its groups and raised
            found = single(error)
            self._state = "failed"
            self._error = f"{type(found).__name__}: {found}"
            if self._stopping:  # the caller may be on its way out with an error of its own
                log.error("the %s runner failed while it ended: %s", self.plan.adapter.source, self._error)
            raise found from None
        finally:
            if self._cut_off is not None:
                self._cut_off.cancel()
            if self._queue is not None:
                self._queue.end()

    async def _whole(self) -> None:
        """The run from its sinks' opening to their end.

        Raises:
            MarketError: the recording ended before it.
        """
        plan = self.plan
        recorder = plan.recorder
        try:
            async with AsyncExitStack() as stack:
                if recorder is not None:
                    stack.callback(self._close_recording, recorder)
                    recorder.writer.on_end = self._recording_ended
                    if recorder.writer.problem:
                        self._recording_ended()
                if plan.player is None:
                    await self._run(stack)
                else:
                    await self._replay(plan.player, stack)
        except asyncio.CancelledError:
            if not self._stopping and (recorder is None or not recorder.writer.problem):
                raise
        if recorder is not None and recorder.writer.problem and not plan.keep_going:
            raise MarketError(f"{recorder.writer.problem}; keep_going=True (--keep-going) goes on unrecorded")

    def _close_recording(self, recorder: Recorder) -> None:
        self._is_ended = True
        recorder.close()

    def _recording_ended(self) -> None:
        """Whoever records wants what comes in the file: what has come is delivered, and the run ends."""
        assert self.plan.recorder is not None
        if self.plan.keep_going:
            log.error("%s; the stream goes on", self.plan.recorder.writer.problem)
        elif not self._is_ended:
            self._read_no_further()

    async def _replay(self, player: Player, stack: AsyncExitStack) -> None:
        """As ``_run``, of a recording: to its end, in its own time."""
        clock = self.plan.clock
        group = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(group.cancel_scope.cancel)  # once the sinks are closed
        if isinstance(clock, VirtualClock):
            group.start_soon(clock.drive)
        group.start_soon(player.run, clock)
        group.start_soon(self._end_with, player)
        await self._run(stack)

    async def _end_with(self, player: Player) -> None:
        await player.ended.wait()
        self.stop()

    async def _run(self, stack: AsyncExitStack) -> None:
        plan = self.plan
        self._state = "checking"
        rest = await stack.enter_async_context(rest_client(plan))
        symbols = await settled(rest, plan.data_input.symbols)
        if symbols != plan.data_input.symbols:
            plan = self.plan = replace(plan, data_input=replace(plan.data_input, symbols=symbols))
        self._pairs = await rest_queries.check_symbols(rest, symbols)
        remembered = self._recall(stack)
        self._state = "connecting"
        for emitter in plan.emitters:
            outlet = Outlet(
                emitter,
                clock=plan.clock if plan.player is None else SystemClock(),
                on_error=plan.on_error,
                close_timeout=plan.drain_timeout,
                expected=lanes(plan),
                **plan.outlet_options,
            )
            self._outlets.append(await stack.enter_async_context(outlet))
        if remembered.gaps:
            await self._hand_on(list(remembered.gaps))
        after: warmup.After = {**remembered.after} if plan.data_input.timeframe is None else {}
        if plan.active_warmup or self._resume or plan.from_trades or self._indicators is not None:
            self._state = "warming up"
            if self._indicators is not None:
                await self._indicators.load(rest, plan.data_input, self._resume)
            after |= await self._warm_up(rest)
        self._feed = (plan.adapter.make_feed or Feed)(
            plan.adapter,
            plan.data_input,
            urls=plan.urls,
            rest=rest,
            clock=plan.clock,
            options=plan.feed_options,
            after=after,
        )
        self._state = "running"
        with self._feed_scope:
            await self._stream(self._feed, rest)
        self._state = "draining"
        drained: list[Outlet] = []
        async with anyio.create_task_group() as group:  # all at once: leaving them one by one would add up
            for outlet in self._outlets:
                group.start_soon(self._drain, outlet, drained)
        if self._checkpoints is not None and len(drained) == len(self._outlets):
            await self._checkpoints.finish()

    def _recall(self, stack: AsyncExitStack) -> Remembered:
        """What is remembered of an earlier run; where nothing is to be, nothing."""
        plan = self.plan
        if plan.memory is None:
            return Remembered()
        stack.enter_context(plan.memory)
        found = plan.memory.recall(plan.clock.time_ms())
        for place, open_ts in found.candles.items():
            self._resume[place] = max(open_ts, self._resume.get(place, 0))
            log.info("%s: goes on behind the %s candle of %s at %d", plan.adapter.source, place[1], place[0], open_ts)
        for emitter in plan.emitters:
            if (found.candles or found.trades) and isinstance(emitter, DataEmitter):
                emitter.resuming()
        self._checkpoints = Checkpoints(plan.memory, self._outlets, self._folder_lock)
        self._checkpoints.candles.update(found.candles)
        self._checkpoints.trades.update(found.trades)
        return found

    async def _drain(self, outlet: Outlet, drained: list[Outlet]) -> None:
        """Wait until a sink has taken what waits for it; leaving the outlet says what it did not take."""
        try:
            with anyio.move_on_after(self.plan.drain_timeout):  # real time too: the clock may have stopped
                if not await outlet.drain(self.plan.drain_timeout):
                    drained.append(outlet)
        except EmitterError as error:
            log.error("%s", error)

    async def _stream(self, feed: Feed, rest: RestClient) -> None:
        folder = self._pipeline.folder
        if folder is None and self._checkpoints is None:
            await feed.run(self._deliver)
            return
        async with anyio.create_task_group() as group:
            if folder is not None:
                idle = IdleCloser(
                    folder, feed, rest, grace=self.plan.close_grace, turn=self._folder_lock, close=self._close_until
                )
                group.start_soon(idle.run)
            if self._checkpoints is not None:
                group.start_soon(self._checkpoints.run)
            await feed.run(self._deliver)
            group.cancel_scope.cancel()

    async def _warm_up(self, rest: RestClient) -> warmup.After:
        """Load history; what is not emitted of it only primes the targets."""
        plan = self.plan
        running = plan.from_trades and not plan.active_warmup and not self._resume
        found = await warmup.load(rest, plan.data_input, self._resume, running=running)
        if plan.from_trades and not plan.emit_warmup and not self._resume:
            self._history_until = found.live_from
        rows = self._pipeline.process(found.rows)
        if self._pipeline.folder is not None:
            for symbol, (since, price, trades) in found.trades.items():
                self._pipeline.folder.begin(symbol, since, price)
                rows += self._pipeline.process(trades)
        rows = self._completed(rows)
        await self._hand_on([row for row in rows if self._is_wanted(row, found.live_from)])
        return found.after

    def _is_wanted(self, row: Row, live_from: int) -> bool:
        """Whether a row of the warm-up is emitted: what the sinks have is not, what they lack is."""
        plan = self.plan
        timeframe = plan.data_input.timeframe if isinstance(row, (Trade, Quote)) else row.timeframe
        for known in (timeframe, plan.data_input.timeframe):
            had = self._resume.get((row.symbol, known or ""))
            if had is not None:
                return _start(row) > had
        return plan.emit_warmup or _start(row) >= live_from

    # -- rows ---------------------------------------------------------------------------------

    async def _deliver(self, rows: Sequence[Row]) -> None:
        async with self._folder_lock:
            out = self._pipeline.process(rows)
            if out:
                await self._hand_on(self._completed(out))

    async def _close_until(self, symbol: str, ts: int) -> None:
        out = self._pipeline.close_until(symbol, ts)
        if out:
            await self._hand_on(self._completed(out))

    def _completed(self, rows: list[Row]) -> list[Row]:
        """The rows with the indicators that were asked for."""
        return rows if self._indicators is None else self._indicators.rows(rows)

    async def _hand_on(self, rows: list[Row]) -> None:
        clock = self.plan.clock
        # A replay waits for its sinks. Elsewhere a sink may itself wait for the clock.
        replayed = self.plan.player is not None
        with clock.held() if replayed and isinstance(clock, VirtualClock) else nullcontext():
            await self._give(rows)

    async def _give(self, rows: list[Row]) -> None:
        """Give rows to the sinks, those with room first: a slow one must not hold up what a fast one can take."""
        if self._history_until:
            rows = [row for row in rows if not self._is_history(row)]
        if any(isinstance(row, Gap) for row in rows):
            rows = await self._note_gaps(rows)
        if not rows:
            return
        pairs = self._pairs
        for row in rows:
            if isinstance(row, Quote):
                row.__dict__["pair"] = pairs.get(row.symbol)
            elif not isinstance(row, Gap):
                set_pair(row, pairs.get(row.symbol))
        self._rate.add(len(rows))
        if self.plan.verbose:
            for row in rows:
                log.info("%s: %s", self.plan.adapter.source, named(row))
        if self._checkpoints is not None:
            self._checkpoints.note(self._pipeline.last, rows)
        full = [outlet for outlet in self._outlets if outlet.room < len(rows)]
        for outlet in self._outlets:
            if outlet not in full:
                await outlet.put(rows)
        if self._queue is not None:
            await self._queue.put(self._streamed(rows))
        if full:
            try:
                async with anyio.create_task_group() as group:
                    for outlet in full:
                        group.start_soon(outlet.put, rows)
            except asyncio.CancelledError:  # it was given its time to drain
                names = ", ".join(outlet.name for outlet in full)
                log.error("stopped while %s had no room: not all of the last %d rows were given", names, len(rows))
                raise

    def _is_history(self, row: Row) -> bool:
        """Whether a candle was over when we came, and its trades were only loaded for those built from it."""
        base = self.plan.data_input.timeframe
        return isinstance(row, Kline) and row.timeframe == base and row.open_ts < self._history_until

    def _streamed(self, rows: list[Row]) -> list[Kline | Trade | Quote]:
        if self._pipeline.folder is None:
            return [row for row in rows if not isinstance(row, Gap)]
        return [row for row in rows if isinstance(row, Kline)]

    async def _note_gaps(self, rows: list[Row]) -> list[Row]:
        """Tell of the gaps; the rows that the sinks get."""
        for row in rows:
            if isinstance(row, Gap):
                self._gap_count += 1
                self.plan.gaps.append(row)
                log.warning("gap: %s", named(row))
                if self.plan.on_gap is not None:
                    try:
                        result = self.plan.on_gap(row)
                        if inspect.isawaitable(result):
                            await result
                    except Exception:
                        log.exception("on_gap failed on %s", named(row))
        return rows if self.plan.emit_gap else [row for row in rows if not isinstance(row, Gap)]


class Ending:
    """Awaitable: the end of a run that was told to stop."""

    def __init__(self, run: Run | None) -> None:
        self._run = run

    def __await__(self) -> Generator[Any, None, None]:
        if self._run is not None and not self._run.task.done():
            yield from asyncio.wait([self._run.task]).__await__()


def single(error: BaseException) -> BaseException:
    """The one exception that a group holds; the group itself where there are several."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _start(row: Row) -> int:
    if isinstance(row, Kline):
        return row.open_ts
    return row.start if isinstance(row, Gap) else row.ts


def _plain(stats: object) -> dict[str, Any]:
    return asdict(stats)  # type: ignore[call-overload,no-any-return]
