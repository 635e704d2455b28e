"""The end comes, whatever hangs: a tool that blocks the event loop, a hook, a thread that nobody can stop.

The ordinary end (``entry.py``, ``stdio.py``) needs the loop. This is what stands behind it: ``Deadline`` ends the
process when the ordinary end takes too long, and ``watch_input`` notices that the client is gone though the loop does
not move.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType

log = logging.getLogger(__name__)

LONGEST_END = 8.0  # seconds; the ordinary end takes 5 at most: draining, the last write, snapshots
LAST_RESORT = 2.0  # seconds after that, for code that does not even let another thread run
DEAF = 8.0  # seconds that the event loop may stand still once the client is gone
LOOK = 1.0  # seconds between two looks at the loop then
_SHOWN = 3000  # characters of where it hangs


class Deadline:
    """Ends the process ``LONGEST_END`` seconds after ``begin``, unless it has ended by itself."""

    def __init__(self) -> None:
        self._began = threading.Event()

    def begin(self) -> None:
        """The end has begun; later calls change nothing. May be called in a signal handler and in any thread."""
        if self._began.is_set():
            return
        self._began.set()
        nothing = os.open(os.devnull, os.O_WRONLY)  # a descriptor that takes the traceback without blocking
        faulthandler.dump_traceback_later(LONGEST_END + LAST_RESORT, exit=True, file=nothing)
        timer = threading.Timer(LONGEST_END, give_up, ("The end took too long",))
        timer.daemon = True
        timer.start()

    def watch_signals(self) -> None:
        """Begin on the first SIGTERM or SIGINT and end at once on the second, even while the loop stands still.

        Call it when the loop has its handlers: it goes on getting the signals besides.
        """

        def received(number: int, _: FrameType | None) -> None:
            if self._began.is_set():
                os._exit(128 + number)
            self.begin()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, received)


def watch_input(read_fd: int, ask: Callable[[Callable[[], None]], object]) -> None:
    """End the process when the other end of its input is closed and the loop stands still.

    Args:
        read_fd: a pipe or socket. ask: has the loop call something soon (``loop.call_soon_threadsafe``).
    """
    thread = threading.Thread(target=_watch_input, args=(read_fd, ask), name="end-of-input", daemon=True)
    thread.start()


def _watch_input(read_fd: int, ask: Callable[[Callable[[], None]], object]) -> None:
    poll = select.poll()
    poll.register(read_fd, getattr(select, "POLLRDHUP", 0))
    poll.poll()
    while True:
        moved = threading.Event()
        try:
            ask(moved.set)
        except RuntimeError:  # the loop is closed: the ordinary end is nearly through
            return
        if not moved.wait(DEAF):
            give_up("The client is gone")
        time.sleep(LOOK)


def give_up(why: str) -> None:
    """End the process now, and say what its main thread was doing."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    where = "".join(traceback.format_stack(frame))[-_SHOWN:] if frame is not None else ""
    log.error("%s and something hangs; the process is ended. It was here:\n%s", why, where)
    time.sleep(0.1)  # for that line; nothing that could hang is waited for
    os._exit(1)
