"""Calling what users register, async or sync (in a thread); their failures are kept apart from our own cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import math
import os
import sys
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread

from streammachine.errors import StreamMachineError, text_of
from streammachine.runtime.model.checks import is_async as is_async
from streammachine.runtime.model.retry import HandlerTimeoutError

log = logging.getLogger(__name__)

_in_threads: set[object] = set()  # one mark per sync handler that runs in this process, whichever App's it is

_ENDS = (KeyboardInterrupt, GeneratorExit)  # they end the interpreter, or a coroutine that is thrown away
LOOKS_FOR_CANCELLATION = 5  # turns of the loop within which the cancellation of a whole scope shows in its tasks


class HandlerFailure(StreamMachineError):  # noqa: N818
    """The handler ended by something that is no Exception (``sys.exit``, a cancelled task), or gave a generator."""


async def as_failure(error: BaseException) -> Exception:
    """What a handler ended by, as an Exception, so that it does not end the task that runs the handler.

    Raises:
        The error itself when it is the cancellation of the task that runs the handler, or ends the interpreter.
    """
    if isinstance(error, Exception):
        return error
    if isinstance(error, _ENDS) or (isinstance(error, BaseExceptionGroup) and error.subgroup(_ENDS)):
        raise error
    if being_cancelled() and isinstance(error, (asyncio.CancelledError, BaseExceptionGroup)):
        raise error
    if isinstance(error, asyncio.CancelledError):
        await _uncancel(error)
        failure = HandlerFailure("The handler awaited something that was cancelled.")
    elif isinstance(error, SystemExit):
        failure = HandlerFailure(f"The handler called sys.exit({error.code!r}).")
    else:
        failure = HandlerFailure(f"The handler raised {type(error).__name__}: {text_of(error)}")
    failure.__cause__ = error
    return failure


async def _uncancel(error: asyncio.CancelledError) -> None:
    """Take back a cancellation of this task alone: the handler's own, or that of somebody who wanted to end it.

    Raises:
        The error itself when everything is being cancelled (the loop's end): that reaches our scopes in a few turns.
    """
    task = asyncio.current_task()
    assert task is not None
    if not task.cancelling():
        return
    while task.uncancel():
        pass
    for _ in range(LOOKS_FOR_CANCELLATION):
        await asyncio.sleep(0)
        if being_cancelled():
            raise error


def being_cancelled() -> bool:
    """Whether a scope that the current task runs in is being cancelled."""
    return anyio.current_effective_deadline() == -math.inf


async def call(
    handler: Callable[..., Any],
    *arguments: Any,
    in_loop: bool,
    limiter: anyio.CapacityLimiter | None,
    timeout: float | None = None,
) -> None:
    """Call a handler to its end, in the loop or in a thread.

    An awaitable that it returns is awaited too: it may be a lambda or a decorator around a coroutine function.

    Args:
        handler: what to call. arguments: what it is called with.
        in_loop: whether it is async (``is_async``). limiter: bounds the threads of sync handlers.
        timeout: seconds it may run; waiting for a thread does not count.

    Raises:
        HandlerTimeoutError: it took longer. HandlerFailure: it gave a generator, which runs nothing.
    """
    async with contextlib.nullcontext() if in_loop or limiter is None else limiter:
        with anyio.move_on_after(timeout) as scope:
            if in_loop:
                given = await handler(*arguments)
            else:
                own = anyio.CapacityLimiter(1) if limiter is not None else None
                given = await in_thread(handler, *arguments, limiter=own)
            if given is not None:
                await finish(given)
    if scope.cancelled_caught:
        raise HandlerTimeoutError(f"The handler took longer than {timeout:g} s.")


async def finish(given: Any) -> None:
    """Await what a handler returned, if it is an awaitable.

    Raises:
        HandlerFailure: it gave a generator, which runs nothing.
    """
    if inspect.isawaitable(given):
        await given
    elif inspect.isgenerator(given) or inspect.isasyncgen(given):
        raise HandlerFailure("The handler gave a generator, so none of it has run.")


async def in_thread(handler: Callable[..., Any], *arguments: Any, limiter: anyio.CapacityLimiter | None) -> Any:
    """Run a sync handler in a thread. When cancelled, the thread goes on to its own end: it cannot be stopped."""

    def run() -> Any:
        mark = object()
        _in_threads.add(mark)
        try:
            return handler(*arguments)
        finally:
            _in_threads.discard(mark)

    return await anyio.to_thread.run_sync(run, limiter=limiter, abandon_on_cancel=True)


def end_without_threads() -> None:
    """End the process at once if sync handlers still run after the grace: Python would wait for their threads."""
    if not _in_threads:
        return
    log.warning("The process ends with %d sync handlers still running; their messages come again", len(_in_threads))
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
