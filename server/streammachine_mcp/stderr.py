"""Writing to stderr never blocks: log lines, prints and children's output go through a buffer with a thread of its own.

A client may pipe the server's stderr and never read it; once 64 kB stand in that pipe, a write blocks for ever, and the
event loop with it. So ``Pump.take()`` keeps the real stderr for one thread of its own and points descriptor 2,
which children inherit, at a pipe that another thread empties: what the real stderr does not take is kept up to
``MOST_BYTES``, then dropped and counted, and the count is written when it takes something again.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

MOST_BYTES = 1 << 20  # kept for a stderr that takes nothing at the moment
CHUNK = 1 << 16
LONGEST_PART = 1 << 16  # of a line without an end
LAST_WRITE = 0.5  # seconds at the exit for what stderr has not taken yet
_PIPE_SIZE = 1 << 20  # asked for where the system lets us: room while our thread does not get to run


class Pump:
    """The way to the real stderr. ``write`` and ``flush`` make it a stream for a logging handler."""

    def __init__(self, real_fd: int) -> None:
        self._real_fd = real_fd
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._changed = threading.Condition()
        self._busy = False
        self.notice: Callable[[int], str] = lambda count: f"{count:,} lines for stderr were dropped: nobody read it"
        self._open = True  # the pipe of descriptor 2 may still bring something

    @classmethod
    def take(cls) -> Pump:
        """Put a pump before descriptor 2. Call it before anything that may write much there, or start a child."""
        real_fd = os.dup(2)
        pump = cls(real_fd)
        read_fd, write_fd = os.pipe()
        _widen(write_fd)
        os.dup2(write_fd, 2)
        os.close(write_fd)
        if faulthandler.is_enabled():
            faulthandler.enable(real_fd)  # after a crash no thread is left to write its report
        threading.Thread(target=pump._collect, args=(read_fd,), name="stderr-collect", daemon=True).start()
        threading.Thread(target=pump._pass_on, name="stderr-pump", daemon=True).start()
        atexit.register(pump._finish)
        return pump

    def write(self, text: str) -> int:
        """Take a text to be written; never waits."""
        self._put(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def flush(self) -> None:
        """Nothing is held back here."""

    # -- its threads --------------------------------------------------------------------------

    def _collect(self, read_fd: int) -> None:
        """Empty the pipe of descriptor 2, in whole lines, so that what is dropped is lines too."""
        rest = b""
        while chunk := os.read(read_fd, CHUNK):
            lines, newline, rest = (rest + chunk).rpartition(b"\n")
            if newline:
                self._put(lines + newline)
            if len(rest) > LONGEST_PART:
                self._put(rest)
                rest = b""
        if rest:
            self._put(rest)
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def _put(self, data: bytes) -> None:
        with self._changed:
            # Once lines are dropped all are, until there is room again: the count then stands where they are missing.
            if self._dropped or self._bytes + len(data) > MOST_BYTES:
                self._dropped += max(1, data.count(b"\n"))
                return
            self._waiting.append(data)
            self._bytes += len(data)
            self._changed.notify_all()

    def _pass_on(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._busy = False
                    self._changed.notify_all()
                    self._changed.wait()
                self._busy = True
                data = self._waiting.popleft()
            view = memoryview(data)
            try:
                while view:
                    view = view[os.write(self._real_fd, view) :]
            except BlockingIOError:  # somebody made it non-blocking
                time.sleep(0.01)
                with self._changed:
                    self._waiting.appendleft(bytes(view))
                    self._bytes -= len(data) - len(view)
                continue
            except OSError:  # its reader is gone: nothing more can be written
                pass
            with self._changed:
                self._bytes -= len(data)
                if self._dropped and self._bytes < MOST_BYTES // 2:
                    notice = f"{self.notice(self._dropped)}\n".encode()
                    self._waiting.append(notice)
                    self._bytes += len(notice)
                    self._dropped = 0

    def _finish(self) -> None:
        """At the exit: give the real stderr back, and what is on its way ``LAST_WRITE`` seconds to get there."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        _point_at_nothing(1)
        _point_at_nothing(2)
        with self._changed:
            self._changed.wait_for(lambda: not (self._open or self._waiting or self._busy), LAST_WRITE)


def _point_at_nothing(descriptor: int) -> None:
    """Point a descriptor at nothing: its pipe ends once nobody holds it, and a late write cannot block."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, descriptor)
    os.close(nothing)


def _widen(descriptor: int) -> None:
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):  # above what this user may have
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
