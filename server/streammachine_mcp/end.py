"""The process ends though something hangs: a tool that blocks the event loop, a hook, a thread that nobody can stop.

The ordinary end (``entry.py``, ``stdio.py``) needs the event loop. This module does not: ``Deadline`` ends the process
when the ordinary end takes too long, and ``watch_input`` ends it when the client is gone and the loop does not respond.
"""

from __future__ import annotations

import contextlib
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

log = logging.getLogger(__name__)

LONGEST_END = 30.0  # seconds; the ordinary end takes 5 at most: draining, the last write, snapshots
LAST_RESORT = 2.0  # seconds after that, for code that does not even let another thread run
UNRESPONSIVE = 8.0  # seconds without a response after which the event loop counts as blocked
CHECK_EVERY = 1.0  # seconds between two checks of the loop
_SHOWN = 3000  # characters of where it hangs


Ask = Callable[[Callable[[], None]], object]  # has the loop call something soon: ``loop.call_soon_threadsafe``


class Deadline:
    """Ends the process, once the end has begun, when the event loop is blocked, and in any case ``LONGEST_END``
    seconds later."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._began = threading.Event()

    def begin(self) -> None:
        """The end has begun; later calls change nothing. May be called in a signal handler and in any thread."""
        if self._began.is_set():
            return
        self._began.set()
        nothing = os.open(os.devnull, os.O_WRONLY)  # a descriptor that takes the traceback without blocking
        faulthandler.dump_traceback_later(LONGEST_END + LAST_RESORT, exit=True, file=nothing)
        threading.Thread(target=self._watch, name="end", daemon=True).start()

    def _watch(self) -> None:
        last = time.monotonic() + LONGEST_END
        while time.monotonic() < last:
            if _is_unresponsive(self._ask):
                give_up("The end has come")
            time.sleep(CHECK_EVERY)
        give_up("The end took too long")

    def watch_signals(self) -> None:
        """Begin on the first SIGTERM or SIGINT and end at once on the second, even while the loop is blocked.

        Call it in the loop, when that has its handlers: it goes on getting the signals. Python runs handlers in the
        main thread, which may just have gone to sleep; what the interpreter writes for each signal is read here.
        """
        read_fd, write_fd = os.pipe()
        os.set_blocking(write_fd, False)
        loop_fd = signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        threading.Thread(target=self._take_signals, args=(read_fd, loop_fd), name="signals", daemon=True).start()

    def _take_signals(self, read_fd: int, loop_fd: int) -> None:
        asked = False
        while data := os.read(read_fd, 1):
            number = data[0]
            if number in (signal.SIGTERM, signal.SIGINT):
                if asked:  # not by the end of input, after which many clients send a first SIGTERM
                    os._exit(128 + number)
                asked = True
                self.begin()
            if loop_fd >= 0:
                with contextlib.suppress(OSError):  # the loop has just closed it
                    os.write(loop_fd, data)


def watch_input(read_fd: int, ask: Ask) -> None:
    """End the process when the other end of its input, a pipe or socket, is closed and the loop is blocked."""
    thread = threading.Thread(target=_watch_input, args=(read_fd, ask), name="end-of-input", daemon=True)
    thread.start()


def _watch_input(read_fd: int, ask: Ask) -> None:
    poll = select.poll()
    poll.register(read_fd, getattr(select, "POLLRDHUP", 0))
    poll.poll()
    while not _is_unresponsive(ask):
        time.sleep(CHECK_EVERY)
    give_up("The client is gone")


def _is_unresponsive(ask: Ask) -> bool:
    """Whether the loop does not respond within ``UNRESPONSIVE`` seconds. A closed loop counts as responsive."""
    moved = threading.Event()
    try:
        ask(moved.set)
    except RuntimeError:
        return False
    return not moved.wait(UNRESPONSIVE)


def give_up(why: str) -> None:
    """End the process now, and say what its main thread was doing."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    where = "".join(traceback.format_stack(frame))[-_SHOWN:] if frame is not None else ""
    log.error("%s and something hangs; the process is ended. It was here:\n%s", why, where)
    time.sleep(0.1)  # for that line; nothing that could hang is waited for
    os._exit(1)
