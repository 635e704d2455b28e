"""Runs suspects in a process beside this one."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import anyio
from anyio.abc import Process

from streammachine.errors import StreamMachineError

if TYPE_CHECKING:
    from streammachine.runtime.agent import Agent
    from streammachine.runtime.consumer import StreamConsumer
    from streammachine.runtime.delivery import Item
    from streammachine.runtime.origin import Origin

log = logging.getLogger(__name__)

# Exit statuses of child.py. Unusual numbers: a handler may end the process with one of its own.
UNKNOWN, TROUBLE = 113, 114  # the App or the agent cannot be found; something outside of the handler failed


class ProcessDied(StreamMachineError):  # noqa: N818
    """The process in which a message ran alone ended without finishing it."""


class Unrunnable(StreamMachineError):  # noqa: N818
    """The message could not be run alone, through no fault of its own."""


class AloneRunner:
    """Runs single messages of one agent, one at a time, in a process beside this one.

    The process stays for the next message (starting one takes a second); only a message that runs in it can end it.
    """

    def __init__(self, origin: Origin, agent: Agent) -> None:
        self._origin = origin
        self._agent = agent
        self._process: Process | None = None

    async def run(self, consumer: StreamConsumer, item: Item) -> ProcessDied | None:
        """Run the item; None when it was dealt with there (finished, retried, given up), else how its process died.

        Raises:
            Unrunnable: the process could not load the App, or failed outside of the handler.
        """
        log.warning(
            "Message %s of %r was started %d times without an end; it runs alone now",
            item.id.decode(), consumer.topic, item.deliveries - 1,
        )  # fmt: skip
        try:
            status = await self._ask(consumer, f"{item.deliveries} {item.id.decode()} {item.lane.key}\n")
        except BaseException:
            self._kill()
            with anyio.CancelScope(shield=True):
                await self.aclose()
            raise
        if status is None:
            return None
        await self.aclose()
        if status in (UNKNOWN, TROUBLE):
            raise Unrunnable("It could not be run alone (see the log of its process); it is tried again.")
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return ProcessDied(f"The process that ran the message alone {how}.")

    async def aclose(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            await process.aclose()  # the end of its stdin is its end

    async def _ask(self, consumer: StreamConsumer, line: str) -> int | None:
        """Have the process run an entry; None when it has, else the process' exit status."""
        if self._process is not None and self._process.returncode is not None:
            await self.aclose()  # somebody ended it while it had nothing to do
        if self._process is None:
            command = [
                sys.executable, "-m", "streammachine.runtime.child", str(self._origin), self._agent.name,
                "--alone", consumer.topic, consumer.delivery.consumer,
            ]  # fmt: skip
            self._process = await open_child(command, self._origin, consumer.connection.url, answers=True)
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            await process.stdin.send(line.encode())
            while b"\n" not in await process.stdout.receive():
                pass
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return await process.wait()
        return None

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()


async def open_child(command: list[str], origin: Origin, url: str | None, *, answers: bool = False) -> Process:
    """Start a child: its own session (Ctrl-C is the parent's to handle), its prints to our stderr.

    It ends when its stdin ends, so when we do. ``answers``: its stdout is ours to read.
    """
    return await anyio.open_process(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if answers else 2,
        stderr=2,
        env=origin.environment(url),
        start_new_session=True,
    )
