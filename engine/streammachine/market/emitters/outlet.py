"""Outlet: what stands between a runner (or a backfill) and one emitter: a bounded queue and a task that delivers.

Rows go out in order, whatever has come while the last batch was under way with the next. What fails is told apart:

- It may pass (what ``may_pass`` says): the same rows again, after a wait that grows, for ever; a full queue has ``put``
  wait. Once a sink has taken us, a login or a table that it refuses is of this kind: the sink has changed, not the row.
- It will not (EmitterError, TransformError; any other exception when it came three times): a batch is halved until the
  rows that are refused stand alone. Each is counted and given to ``on_error``; the others go out.
- Nothing is dropped in silence: what is left at the end is logged, given to ``on_error`` and returned by ``close``.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

import anyio

from streammachine.errors import EmitterError, EmitterUnavailableError, TransformError
from streammachine.market.clock.clock import Clock, SystemClock
from streammachine.market.emitters.any_emitter import (
    Sharing,
    awaited,
    check_emitter,
    error_text,
    may_pass,
    sharing_of,
    takes_batches,
    takes_columns,
)
from streammachine.market.emitters.base import DataEmitter, RowsRefusedError
from streammachine.market.emitters.outlet_stats import Outage, OutletStats, log_away, log_refused
from streammachine.market.model.rows import Lane, Row, named

if TYPE_CHECKING:
    from streammachine.market.model.kline_columns import KlineColumns

OnError = Callable[[Any, Exception], object]

log = logging.getLogger(__name__)
TRIES = 3  # of an exception that says nothing of whether trying again may help
FIRST_WAIT = 0.1  # seconds, at most, before the second try; doubles
LONGEST_WAIT = 10.0


class Outlet:
    """Delivers rows to one emitter: ``async with Outlet(emitter) as outlet: await outlet.put(rows)``.

    Entered and left by one task. Entering connects the emitter; leaving delivers what waits, for ``close_timeout``
    seconds at most (not at all after a ``drain`` that was given up), and closes it.

    Args:
        emitter: a DataEmitter, or any object with ``emit(row)`` and, where needed, ``connect()`` and ``close()``; each
            plain or async. A plain one runs in the event loop, so it must not block. One DataEmitter may be in several
            outlets of one loop: the first connects it, the last closes it, and they take turns.
        capacity: rows that may wait or be under way. batch: most rows given to the emitter at once; by
            default the emitter's own ``batch_size``, or 1,000.
        linger: seconds to wait for a batch to fill; 0 sends at once.
        on_error: called (plain or async) with each row that is given up, and why.
        expected: what is going to come, which a DataEmitter is told.

    Raises:
        EmitterError: the object is no emitter; on entering, what ``connect`` and ``expect`` raise.
    """

    def __init__(
        self,
        emitter: Any,
        *,
        clock: Clock | None = None,
        capacity: int = 10_000,
        batch: int | None = None,
        linger: float = 0.0,
        on_error: OnError | None = None,
        close_timeout: float = 5.0,
        expected: Sequence[Lane] = (),
    ) -> None:
        check_emitter(emitter)
        batch = getattr(emitter, "batch_size", DataEmitter.batch_size) if batch is None else batch
        if capacity < 1 or batch < 1 or linger < 0:
            raise EmitterError(f"capacity={capacity}, batch={batch}, linger={linger}: give 1 or more, linger from 0 up")
        self.emitter = emitter
        self.name = str(getattr(emitter, "name", "") or type(emitter).__name__)
        self._clock = clock if clock is not None else SystemClock()
        self._capacity = capacity
        self._batch = batch
        self._linger = linger
        self._on_error = on_error
        self._close_timeout = close_timeout
        self._expected = expected
        self._in_batches = takes_batches(emitter)
        self._queue: deque[Row] = deque()
        self._in_flight: deque[Row] = deque()  # the batch under way, what is done with taken off at the left
        self._columns: KlineColumns | None = None  # under way, or waiting alone: neither of the others holds a row then
        self._changed = anyio.Event()  # set at every change, then a new one
        self._retry_now = anyio.Event()  # set when somebody drains: do not wait with the next try
        self._working: anyio.CancelScope | None = None  # of the task
        self._ended = anyio.Event()  # the task is through
        self._turn = anyio.Lock(fast_acquire=True)
        self._put = self._done = 0  # rows ever
        self._flush_at: int | None = None  # flush as soon as so many are done
        self._flush_error: Exception | None = None
        self._gave_up: int | None = None  # how many had been put when somebody drained in vain
        self._emitted = self._dropped = self._skipped = self._failed = self._retried = 0
        self._outage: Outage | None = None
        self._last_error: str | None = None
        self._closed = False
        self._left: list[Row] = []
        self._stack = AsyncExitStack()
        self._group: anyio.abc.TaskGroup | None = None
        self._sharing = Sharing()
        self._left_emitter = False

    # -- for the runner -----------------------------------------------------------------------

    @property
    def stats(self) -> OutletStats:
        """How it stands now."""
        return OutletStats(
            name=self.name,
            emitted=self._emitted,
            dropped=self._dropped,
            skipped=self._skipped,
            failed=self._failed,
            retried=self._retried,
            queued=len(self._queue) + len(self._in_flight) + len(self._columns or ()),
            state="closed" if self._closed else "away" if self._outage is not None else "ok",
            last_error=self._last_error,
        )

    @property
    def room(self) -> int:
        """How many rows ``put`` takes without waiting."""
        if self._columns is not None:
            return 0
        return max(0, self._capacity - len(self._queue) - len(self._in_flight))

    @property
    def progress(self) -> tuple[int, int]:
        """How many rows were put so far, and how many of them are done with."""
        return self._put, self._done

    async def __aenter__(self) -> Self:
        self._sharing = sharing_of(self.emitter)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._close_emitter)
            await self._sharing.connect(self.emitter, self._expected)
            self._working = anyio.CancelScope(shield=True)
            self._group = await stack.enter_async_context(anyio.create_task_group())
            self._group.start_soon(self._work, self._working)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.close(0 if self._gave_up == self._put else None)
        finally:
            await self._stack.aclose()

    async def put(self, rows: Sequence[Row]) -> None:
        """Hand over rows, in order; waits while the queue is full. Concurrent calls take turns.

        Raises:
            EmitterError: the outlet is closed.
        """
        async with self._turn:
            at = 0
            while at < len(rows):
                if self._closed:
                    raise EmitterError(f"{self.name} is closed: {len(rows) - at} rows were not taken")
                if self.room == 0:
                    await self._changed.wait()
                    continue
                piece = rows[at : at + self.room]
                self._queue.extend(piece)
                self._put += len(piece)
                at += len(piece)
                self._note_change()

    async def put_columns(self, columns: KlineColumns) -> None:
        """As ``put``, of candles in columns; waits until all that was put before is done with. As rows, where the
        emitter does not take columns."""
        if not takes_columns(self.emitter):
            await self.put(columns.rows())
            return
        async with self._turn:
            while self.stats.queued and not self._closed:
                await self._changed.wait()
            if self._closed:
                raise EmitterError(f"{self.name} is closed: {len(columns)} rows were not taken")
            self._columns = columns
            self._put += len(columns)
            self._note_change()

    async def drain(self, timeout: float | None = None) -> list[Row]:
        """Wait until all that was put before is done with and flushed; gives the rows that still wait.

        Args:
            timeout: seconds of the clock; None: no limit.

        Raises:
            EmitterError: ``flush`` failed, or (EmitterUnavailableError) did not end in time.
        """
        wanted = self._put
        self._flush_at = wanted
        self._flush_error = None
        self._retry_now.set()
        self._retry_now = anyio.Event()
        self._note_change()
        self._gave_up = wanted
        with self._clock.move_on_after(timeout):
            while self._flush_at is not None and not self._closed:
                if self._ended.is_set():  # the loop shuts down and has cancelled every task, ours too
                    await self._finish()
                else:
                    await self._changed.wait()
            self._gave_up = None
        if self._flush_error is not None:
            raise EmitterError(f"{self.name} could not flush: {error_text(self._flush_error)}") from self._flush_error
        waiting = self._waiting()
        if self._flush_at is not None and not waiting:
            raise EmitterUnavailableError(f"{self.name} did not flush within {timeout} s: {self._last_error}")
        return waiting

    async def close(self, timeout: float | None = None) -> list[Row]:
        """Deliver what waits, for ``timeout`` seconds at most, and close the emitter; gives the rows that were left.

        They are logged and given to ``on_error``. Twice is allowed, from any task. A cancelled task too waits, so long.
        """
        if self._closed:
            return self._left
        limit = self._close_timeout if timeout is None else timeout
        try:
            # The outer limit is real time: after a cancellation nobody may be left to move the clock.
            with anyio.move_on_after(limit, shield=True):
                await self.drain(limit)
        except EmitterError as error:
            log.error("%s", error)
        finally:
            self._closed = True
            self._note_change()
            with anyio.CancelScope(shield=True):
                if self._working is not None:
                    self._working.cancel()
                    await self._ended.wait()
                await self._close_emitter()
                await self._give_up_rest()
        return self._left

    # -- the task -----------------------------------------------------------------------------

    async def _work(self, working: anyio.CancelScope) -> None:
        """Deliver until ``close`` ends it. A cancelled caller still runs ``close``, so this task must stay alive."""
        try:
            with working:
                while True:
                    while not self._queue and self._columns is None and not self._flush_due():
                        await self._changed.wait()
                    if self._flush_due():
                        await self._flush()
                        continue
                    if self._columns is not None:
                        await self._deliver_columns(self._columns)
                        continue
                    await self._fill()
                    size = min(self._batch, len(self._queue))
                    self._in_flight.extend(self._queue.popleft() for _ in range(size))
                    await self._deliver()
        finally:
            self._ended.set()
            self._note_change()

    async def _finish(self) -> None:
        """The task's work, up to a flush, in whoever waits for it."""
        if self._columns is not None:
            await self._deliver_columns(self._columns)
        while self._in_flight or self._queue:
            size = min(self._batch, len(self._queue)) if not self._in_flight else 0
            self._in_flight.extend(self._queue.popleft() for _ in range(size))
            await self._deliver()
        await self._flush()

    async def _fill(self) -> None:
        """Give a batch its time to fill, unless somebody waits for it to be gone."""
        if self._linger:
            with self._clock.move_on_after(self._linger):
                while len(self._queue) < self._batch and self._flush_at is None:
                    await self._changed.wait()

    async def _deliver(self) -> None:
        """Deliver the batch under way."""
        emitter = self.emitter
        if not isinstance(emitter, DataEmitter):
            await self._emit(list(self._in_flight), lambda row: row)
            return
        emitter._made = None
        try:
            if emitter.transformer is not None or type(emitter).wants is not DataEmitter.wants:
                await self._transform(emitter)
            await self._emit(list(self._in_flight), emitter.transformed)
        finally:
            emitter._made = None

    async def _deliver_columns(self, columns: KlineColumns) -> None:
        """Deliver candles in columns, so many at once as the emitter takes; as rows where it refuses some of them."""
        emitter = self.emitter
        is_wanted = not isinstance(emitter, DataEmitter) or emitter.wants(columns[:1].rows()[0])
        size = getattr(emitter, "columns_size", DataEmitter.columns_size) if is_wanted else len(columns)
        while self._columns is not None:
            piece, rest = self._columns[:size], self._columns[size:]
            if not is_wanted:
                self._skipped += len(piece)
            elif await self._try(emitter.emit_columns, piece, tries=1) is None:
                self._emitted += len(piece)
            else:
                self._queue.extend(self._columns.rows())  # so that the row that it refuses stands alone, and is named
                self._columns = None
                return
            self._done += len(piece)
            self._columns = rest if len(rest) else None
            self._note_change()

    async def _emit(self, rows: list[Row], value_of: Callable[[Row], Any]) -> None:
        if self._in_batches:
            await self._deliver_batch(rows)
            return
        for row in rows:
            await self._deliver_one(row, self.emitter.emit, value_of(row))

    async def _transform(self, emitter: DataEmitter) -> None:
        """Run the transformer once for each row of the batch. Those that are not to be emitted are done with."""
        made: dict[int, Any] = {}
        wanted: deque[Row] = deque()
        refused: list[tuple[Row, Exception]] = []
        for row in self._in_flight:
            if not emitter.wants(row):
                self._skipped += 1
                continue
            try:
                made[id(row)] = value = emitter.transformed(row)
            except TransformError as error:
                refused.append((row, error))
                continue
            if value is None:
                self._dropped += 1
            else:
                wanted.append(row)
        for row, why in refused:
            self._count_refused(row, why)
        self._done += len(self._in_flight) - len(wanted)
        self._in_flight = wanted
        emitter._made = made
        self._note_change()
        for row, why in refused:
            await self._report(row, why)

    async def _deliver_batch(self, rows: list[Row]) -> None:
        """Emit the rows in order, halved where one of them is refused."""
        if not rows:
            return
        if len(rows) == 1:
            await self._deliver_one(rows[0], self.emitter.emit_batch, rows)
            return
        failure = await self._try(self.emitter.emit_batch, rows, tries=1)
        if isinstance(failure, RowsRefusedError):
            self._emitted += len(rows) - len(failure.refused)
            for place, why in failure.refused.items():
                self._count_refused(rows[place], why)
            self._settle(len(rows))
            for place, why in failure.refused.items():
                await self._report(rows[place], why)
        elif failure is not None:
            half = len(rows) // 2
            await self._deliver_batch(rows[:half])
            await self._deliver_batch(rows[half:])
        else:
            self._emitted += len(rows)
            self._settle(len(rows))

    async def _deliver_one(self, row: Row, emit: Callable[[Any], object], value: Any) -> None:
        failure = await self._try(emit, value, tries=TRIES)
        if isinstance(failure, RowsRefusedError):
            (failure,) = failure.refused.values()
        if failure is None:
            self._emitted += 1
            self._settle(1)
            return
        self._count_refused(row, failure)
        self._settle(1)
        await self._report(row, failure)

    async def _try(self, emit: Callable[..., object], *arguments: Any, tries: int) -> Exception | None:
        """Call until it is done (None) or it will never be (the error)."""
        wait = FIRST_WAIT
        failed = 0
        while True:
            try:
                async with self._sharing.lock:
                    await awaited(emit(*arguments))
            except Exception as error:  # noqa: BLE001 - whatever a user's emitter raises; sorted out, counted, logged
                self._retried += 1
                self._last_error = error_text(error)
                if may_pass(error):
                    self._went_away(error)
                elif isinstance(error, EmitterError) or failed + 1 >= tries:
                    return error
                else:
                    failed += 1
            else:
                self._came_back()
                return None
            with self._clock.move_on_after(wait * random.uniform(0.5, 1.0)) as pause:
                await self._retry_now.wait()
            wait = min(2 * wait, LONGEST_WAIT) if pause.cancelled_caught else FIRST_WAIT

    def _flush_due(self) -> bool:
        return self._flush_at is not None and self._done >= self._flush_at

    async def _flush(self) -> None:
        if hasattr(self.emitter, "flush"):
            self._flush_error = await self._try(self.emitter.flush, tries=TRIES)
        self._flush_at = None
        self._note_change()

    def _waiting(self) -> list[Row]:
        """The rows that are not done with."""
        return [*self._in_flight, *(self._columns.rows() if self._columns is not None else ()), *self._queue]

    # -- bookkeeping --------------------------------------------------------------------------

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _settle(self, count: int) -> None:
        """So many of those under way, the first ones, are done with."""
        for _ in range(count):
            self._in_flight.popleft()
        self._done += count
        self._note_change()

    def _went_away(self, error: Exception) -> None:
        if self._outage is None:
            log_away(self.name, error)
            self._outage = Outage(since=self._clock.monotonic(), failed_before=self._failed)
        self._outage.tries += 1

    def _came_back(self) -> None:
        outage, self._outage = self._outage, None
        if outage is not None:
            outage.log_end(self.name, self._clock.monotonic(), self._failed)

    def _count_refused(self, row: Row, error: Exception) -> None:
        self._failed += 1
        self._last_error = error_text(error)
        log_refused(self.name, row, self._last_error, self._failed)

    async def _give_up_rest(self) -> None:
        """Say what was not delivered."""
        self._left = self._waiting()
        self._in_flight.clear()
        self._queue.clear()
        self._columns = None
        if not self._left:
            return
        self._failed += len(self._left)
        first, last = named(self._left[0]), named(self._left[-1])
        log.error(
            "%s was closed with %d rows not delivered, from %s to %s: %s",
            *(self.name, len(self._left), first, last, self._last_error or "no time was left"),
        )
        why = EmitterUnavailableError(f"{self.name} was closed before it took this: {self._last_error or 'no time'}")
        for row in self._left:
            await self._report(row, why)

    async def _report(self, row: Row, error: Exception) -> None:
        if self._on_error is not None:
            try:
                await awaited(self._on_error(row, error))
            except Exception:
                log.exception("on_error of %s failed on %s", self.name, named(row))

    # -- the emitter --------------------------------------------------------------------------

    async def _close_emitter(self) -> None:
        """Close it, unless another outlet of the same emitter is still open."""
        if self._left_emitter:
            return
        self._left_emitter = True
        try:
            with anyio.move_on_after(self._close_timeout, shield=True) as scope:
                await self._sharing.close(self.emitter)
            if scope.cancelled_caught:
                log.error("%s did not close within %s s", self.name, self._close_timeout)
        except Exception as error:  # noqa: BLE001 - it is being left anyway
            log.error("%s failed while it was closed: %s", self.name, error_text(error))
