"""Calling what users register: async or sync (then in a thread), and telling its failures from our own cancellation."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import os
import sys
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread

from streammachine.errors import StreamMachineError

log = logging.getLogger(__name__)

_in_threads: set[object] = set()  # the sync handlers that run now, in all Apps: what they run in is the process

# A handler's failure is anything that must not end what runs it; sys.exit() in a handler is one too.
FAILURES = (Exception, SystemExit, asyncio.CancelledError)


class HandlerFailure(StreamMachineError):  # noqa: N818
    """The handler ended without an exception of its own: it called ``sys.exit`` or awaited a cancelled task."""


def is_async(handler: Callable[..., Any]) -> bool:
    """Whether calling the handler gives a coroutine."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)


def as_failure(error: BaseException) -> Exception:
    """The failure as an Exception.

    Raises:
        The error itself when it is the cancellation of the task that runs the handler.
    """
    if isinstance(error, asyncio.CancelledError):
        if being_cancelled():
            raise error
        return HandlerFailure("The handler awaited something that was cancelled.")
    if isinstance(error, SystemExit):
        return HandlerFailure(f"The handler called sys.exit({error.code!r}).")
    assert isinstance(error, Exception)
    return error


def being_cancelled() -> bool:
    """Whether the current task is being cancelled from outside."""
    task = asyncio.current_task()
    return anyio.current_effective_deadline() == -math.inf or (task is not None and task.cancelling() > 0)


async def in_thread(handler: Callable[..., Any], *arguments: Any, limiter: anyio.CapacityLimiter | None) -> Any:
    """Run a sync handler in a thread. When cancelled, the thread is left to end by itself: it cannot be stopped."""

    def run() -> Any:
        mark = object()
        _in_threads.add(mark)
        try:
            return handler(*arguments)
        finally:
            _in_threads.discard(mark)

    return await anyio.to_thread.run_sync(run, limiter=limiter, abandon_on_cancel=True)


def end_without_threads() -> None:
    """End the process here if sync handlers still run that outlived the grace: Python would wait for them."""
    if not _in_threads:
        return
    log.warning("The process ends with %d sync handlers still running; their messages come again", len(_in_threads))
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
