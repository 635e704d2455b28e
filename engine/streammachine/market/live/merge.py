"""Several runners as one stream."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import anyio

from streammachine.errors import DataInputError
from streammachine.market.live.bounded_queue import Queue
from streammachine.market.model.kline import Kline, Trade
from streammachine.market.model.quote import Quote

OnError = Callable[[Any, Exception], object]

log = logging.getLogger(__name__)


async def merge_streams(
    *runners: Any, capacity: int = 10_000, on_error: OnError | None = None
) -> AsyncGenerator[Kline | Trade | Quote]:
    """Yield what any number of runners stream, each one's rows in its order, as they come.

    A runner that fails does not end the others. Its error is logged at once; ``on_error(runner, error)`` (plain or
    async), where given, deals with it, else it is raised when all others have ended. Leaving the loop, or closing the
    generator, closes all.

    Args:
        runners: runners (also of one exchange), or any async iterables.
        capacity: rows that may wait; then the sources are read no further until some were taken.

    Raises:
        DataInputError: no runner, or one twice, or something that cannot be streamed. (Before anything starts.)
        ExceptionGroup: several runners failed; of one it is the error itself.
    """
    sources = [_source(runner) for runner in runners]
    if not sources:
        raise DataInputError("merge_streams needs at least one runner")
    if len({id(runner) for runner in runners}) < len(runners):
        raise DataInputError("a runner is given twice: it can run once at a time")
    queue: Queue[Kline | Trade | Quote] = Queue(capacity)
    failed: list[Exception] = []
    left = len(sources)

    async def drain(runner: Any, source: AsyncIterator[Kline | Trade | Quote]) -> None:
        nonlocal left
        try:
            async for row in source:
                await queue.put((row,))
        except Exception as error:  # noqa: BLE001 - told, or raised when the others have ended
            log.error("%s ended with %s: %s; the others go on", _name(runner), type(error).__name__, error)
            if on_error is None:
                failed.append(error)
            else:
                await _tell(on_error, runner, error)
        finally:
            closing = getattr(source, "aclose", None)
            if closing is not None:
                await closing()
            left -= 1
            if not left:
                queue.end()

    tasks = [asyncio.ensure_future(drain(runner, source)) for runner, source in zip(runners, sources, strict=True)]
    try:
        while rows := await queue.get():
            for row in rows:
                yield row
    finally:
        queue.discard()
        for task in tasks:
            task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait(tasks)
    if failed:
        raise failed[0] if len(failed) == 1 else ExceptionGroup("several runners failed", failed)


def _source(runner: Any) -> AsyncIterator[Kline | Trade | Quote]:
    stream = getattr(runner, "stream", None)
    made = stream() if callable(stream) else runner
    if not hasattr(made, "__aiter__"):
        raise DataInputError(f"{runner!r} cannot be merged: give runners")
    iterator: AsyncIterator[Kline | Trade | Quote] = made.__aiter__()
    return iterator


def _name(runner: Any) -> str:
    return type(runner).__name__


async def _tell(on_error: OnError, runner: Any, error: Exception) -> None:
    try:
        result = on_error(runner, error)
        if inspect.isawaitable(result):
            await result
    except Exception:
        log.exception("on_error of merge_streams failed")
