"""How a child process tells its parent how it is: one JSON object a line, on a descriptor that nothing else uses."""

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
    """Says to the parent how things are."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)  # a parent that stands still must not hold us up
        self._descriptor = descriptor

    def say(self, state: str, **facts: Any) -> None:
        """One line; a parent that is gone is noticed by the end of stdin."""
        with contextlib.suppress(OSError):
            os.write(self._descriptor, json.dumps({"state": state, **facts}).encode() + b"\n")

    async def keep(self, facts: Callable[[], Awaitable[dict[str, Any] | None]]) -> None:
        """Report until cancelled; ``facts`` gives None while it is starting."""
        while True:
            found = await facts()
            self.say("starting") if found is None else self.say("running", **found)
            await anyio.sleep(PERIOD)


async def reports(stream: ByteReceiveStream) -> AsyncIterator[dict[str, Any]]:
    """The reports of a child as they come, each with its ``state``; what is no report is dropped."""
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


def told(error: BaseException) -> str:
    """An exception as the text of a problem; the one in a group, where it is one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"[:MOST_TEXT]
