"""Signals and the loop of a process that an App owns."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable

import anyio.abc

log = logging.getLogger(__name__)


async def watch_signals(
    end: Callable[[], None], grace: float, in_child: bool, *, task_status: anyio.abc.TaskStatus[None]
) -> None:
    """Watch for SIGTERM and SIGINT until cancelled: the first calls ``end``, the second ends the process at once.

    Args:
        end: begins the drain. grace: seconds that it has, for the log.
        in_child: SIGINT is the parent's to handle, and a second SIGTERM does not end the process.
    """
    if sys.platform == "win32":
        task_status.started()
        await anyio.sleep_forever()
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        seen = 0
        async for received in signals:
            # A worker gets SIGTERM from its parent, and perhaps one more from a service manager: that is one.
            if in_child and (received == signal.SIGINT or seen):
                continue
            seen += 1
            if seen > 1:
                os._exit(1)
            log.info("%s: ending, %g s for what runs", signal.Signals(received).name, grace)
            end()


def has_uvloop() -> bool:
    """Whether the faster event loop is installed."""
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return False
    return True
