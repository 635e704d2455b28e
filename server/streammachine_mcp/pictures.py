"""Pictures of candles, drawn in a process of their own: a chart takes a tenth of a second that the loop does not have.

One process draws; it is started by the first call, while that reads its candles. ``TURNS`` calls at once read and draw,
``MOST_WAITING`` more wait for theirs, and the rest are told to come again.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import anyio
import anyio.to_process

from streammachine.errors import ChartError

if TYPE_CHECKING:
    from streammachine.charts import Chart

TURNS = 2  # one reads its candles while the other is drawn
MOST_WAITING = 250
NICE = 10  # of the process that draws: the server goes first
LONGEST_WAIT = 40.0  # seconds for a turn; a call has 45


class Pictures:
    """The process that draws, and who waits for it."""

    def __init__(self) -> None:
        self._turns: anyio.Semaphore | None = None
        self._drawing: anyio.CapacityLimiter | None = None
        self._waiting = 0
        self._starting: asyncio.Task[None] | None = None

    def warm_up(self) -> None:
        """Start the process that draws, once; ``draw`` waits for it."""
        if self._starting is None:
            self._starting = asyncio.create_task(self._start(), name="streammachine-pictures")

    async def _start(self) -> None:
        with contextlib.suppress(anyio.BrokenWorkerProcess):
            await anyio.to_process.run_sync(_loaded, limiter=self._one())

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until few others read and draw.

        Raises:
            ChartError: too many wait, or the wait was too long.
        """
        if self._turns is None:
            self._turns = anyio.Semaphore(TURNS)
        if self._waiting >= MOST_WAITING:
            raise ChartError(f"{self._waiting} charts are waiting to be drawn: call again in a few seconds.")
        self._waiting += 1
        try:
            with anyio.fail_after(LONGEST_WAIT):
                await self._turns.acquire()
        except TimeoutError:
            raise ChartError("Too many charts are being drawn: call again in a few seconds.") from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turns.release()

    async def draw(self, chart: Chart) -> bytes:
        """The chart as a PNG.

        Raises:
            ChartError: matplotlib is not installed, or the process that draws was ended.
        """
        if self._starting is not None:
            await asyncio.wait([self._starting])
        try:
            return await anyio.to_process.run_sync(_drawn, chart, limiter=self._one())
        except anyio.BrokenWorkerProcess as error:
            raise ChartError("The process that draws was ended before the chart was done: call again.") from error

    def _one(self) -> anyio.CapacityLimiter:
        if self._drawing is None:  # in the loop that calls
            self._drawing = anyio.CapacityLimiter(1)
        return self._drawing


def _drawn(chart: Chart) -> bytes:
    from streammachine.charts import draw_chart

    return draw_chart(chart)


def _loaded() -> None:
    """Import what drawing needs; what is missing is said by the first chart."""
    with contextlib.suppress(AttributeError, OSError):  # Windows has no nice
        os.nice(NICE)
    with contextlib.suppress(ImportError):
        importlib.import_module("matplotlib.backends.backend_agg")
        importlib.import_module("matplotlib.figure")
