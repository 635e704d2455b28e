"""SIGTERM ends a command as Ctrl-C does: its sinks get what waits for them."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 128 + signal.SIGTERM  # the exit status, as a shell says it of a process that SIGTERM ended


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Have SIGTERM interrupt the block, which must be in the main thread, and then exit with its status."""
    told = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal told
        told = True
        signal.raise_signal(signal.SIGINT)  # the event loop has its own way to end at it

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        if told:
            sys.exit(TERMINATED)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
