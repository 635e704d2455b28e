"""What a child process writes to may go away before it: its parent's log."""

from __future__ import annotations

import os
import select
import sys
import threading


def outlive_log() -> None:
    """Point stdout and stderr at nothing once nobody can read stderr any more.

    A parent that is killed takes the pipe along that its children log to; a print in a handler that still drains would
    raise BrokenPipeError and fail its message.
    """
    if sys.platform != "win32":
        threading.Thread(target=_outlive_log, name="log-reader", daemon=True).start()


def _outlive_log() -> None:
    poll = select.poll()
    poll.register(2, 0)  # POLLERR and POLLHUP come unasked
    poll.poll()
    nothing = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)
