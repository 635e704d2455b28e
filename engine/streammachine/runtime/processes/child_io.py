"""What a child process writes to may go away before it: its parent's log."""

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


UNLOADABLE = 113  # exit status: the App cannot be imported


async def stop_at_signal(stop: Callable[[], None]) -> None:
    """Call ``stop`` when SIGTERM comes."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for received in signals:
            if received == signal.SIGTERM:  # Ctrl-C is the supervisor's to handle
                stop()


def take_streams(orphan_life: float) -> Reporter:
    """Move stdin and stdout to private descriptors; end with the supervisor, ``orphan_life`` seconds after it."""
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
    os._exit(1)  # something blocks the event loop, and nobody is left to kill us


# Exit statuses of child.py. Unusual numbers: a handler may end the process with one of its own.
UNKNOWN, TROUBLE = 113, 114  # the App cannot be loaded, or has no such agent; something outside of the handler failed


async def open_child(arguments: list[str], url: str | None) -> Process:
    """Start ``child.py`` with what it takes over from us: its own session (Ctrl-C is the parent's to handle), its
    prints to our stderr, the Redis at ``url``.

    It ends when its stdin ends, so when we do; on its stdout it reports.
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
