"""The reports of a child process to its parent: one JSON object a line, on a descriptor that nothing else uses."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
from anyio.abc import ByteReceiveStream

PERIOD = 1.0  # seconds between two reports
LONGEST_LINE = 1 << 20  # bytes of one report
MOST_TEXT = 2000  # characters of a problem


class Reporter:
    """The child's side: writes reports.

    Args:
        descriptor: what the parent reads from.
    """

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)  # a parent that does not read must not block the child
        self._descriptor = descriptor

    def send(self, state: str, **facts: Any) -> None:
        """Write one report. One that cannot be written is dropped: that the parent is gone shows at stdin's end."""
        with contextlib.suppress(OSError):
            os.write(self._descriptor, json.dumps({"state": state, **facts}).encode() + b"\n")

    async def keep(self, facts: Callable[[], Awaitable[dict[str, Any] | None]]) -> None:
        """Report once a second until cancelled.

        Args:
            facts: gives what to report; None while the process is starting.
        """
        while True:
            found = await facts()
            self.send("starting") if found is None else self.send("running", **found)
            await anyio.sleep(PERIOD)


async def reports(stream: ByteReceiveStream) -> AsyncIterator[dict[str, Any]]:
    """The parent's side: the reports of a child as they come, each with its ``state``. Other lines are dropped."""
    buffer = b""
    async for chunk in stream:
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            try:
                report = json.loads(line)
            except ValueError:
                continue
            if isinstance(report, dict) and "state" in report:
                yield report
        if len(buffer) > LONGEST_LINE:
            buffer = b""


def problem_text(error: BaseException) -> str:
    """An exception as the text of a problem, MOST_TEXT characters at most; of a group with one member, that one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"[:MOST_TEXT]
