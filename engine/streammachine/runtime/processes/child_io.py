"""Starting a child process, and the child's side of its standard streams.

A child's stdin is a pipe that only its parent's end closes; on its stdout it reports (``reports.py``); its stderr is
its parent's log, which may go away before the child does.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import anyio
from anyio.abc import Process

from streammachine.runtime.processes.origin import CHILD_URL
from streammachine.runtime.processes.preparation import child_command, preparation, take_stdin
from streammachine.runtime.processes.reports import Reporter

UNLOADABLE = 113  # exit status: the App cannot be imported, or has no such agent
# Exit status of children/worker.py: something outside of the handler failed. An unusual number, since a handler may end
# the process with one of its own.
OUTSIDE_HANDLER = 114


def outlive_log() -> None:
    """Point stdout and stderr at the null device once nobody can read stderr any more.

    When a parent is killed, the pipe that its children log to breaks: a print in a handler that still drains would
    raise BrokenPipeError and fail its message.
    """
    if sys.platform != "win32":
        threading.Thread(target=_wait_for_broken_log, name="log-reader", daemon=True).start()


def _wait_for_broken_log() -> None:
    poll = select.poll()
    poll.register(2, 0)  # POLLERR and POLLHUP are always reported
    poll.poll()
    nothing = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)


async def stop_at_signal(stop: Callable[[], None]) -> None:
    """Call ``stop`` when SIGTERM comes; runs until cancelled."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for received in signals:
            if received == signal.SIGTERM:  # Ctrl-C is the supervisor's to handle
                stop()


def take_streams(orphan_life: float) -> Reporter:
    """Take stdin and stdout for ourselves, and end when the supervisor has ended.

    Args:
        orphan_life: seconds after the supervisor's end in which the process may drain; then it is ended.

    Returns:
        What reports to the supervisor; a print goes to stderr from here on.
    """
    stdin, stdout = take_stdin(), os.dup(1)
    os.dup2(2, 1)
    outlive_log()
    threading.Thread(target=_end_with_supervisor, args=(stdin, orphan_life), daemon=True).start()
    return Reporter(stdout)


def _end_with_supervisor(stdin: int, orphan_life: float) -> None:
    while os.read(stdin, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(orphan_life)
    os._exit(1)  # something blocks the event loop, and there is no supervisor any more to kill this process


async def open_child(arguments: list[str], url: str | None) -> Process:
    """Start ``children/worker.py``.

    It has a session of its own (Ctrl-C is the parent's to handle), prints to our stderr and reports on its stdout. It
    ends when its stdin ends, so with this process.

    Args:
        arguments: its command line. url: the Redis that it uses; None: what its App says.

    Raises:
        OSError: the process cannot be started.
    """
    process = await anyio.open_process(
        child_command("streammachine.runtime.children.worker", arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=2,
        env=os.environ if url is None else {**os.environ, CHILD_URL: url},
        start_new_session=True,
    )
    assert process.stdin is not None
    try:
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # its status says why
            await process.stdin.send(preparation())
    except BaseException:
        process.kill()
        with anyio.CancelScope(shield=True):
            await process.aclose()
        raise
    return process
