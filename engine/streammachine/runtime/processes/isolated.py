"""Runs messages that may have killed their process isolated, in a process beside this one."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import Process

from streammachine.errors import StreamMachineError
from streammachine.runtime.processes.child_io import OUTSIDE_HANDLER, open_child
from streammachine.runtime.processes.reports import reports

if TYPE_CHECKING:
    from streammachine.runtime.model.agent import Agent
    from streammachine.runtime.processes.origin import Origin

log = logging.getLogger(__name__)

START = 120.0  # seconds in which the process must have loaded the App and run its start-up hooks


class ProcessDied(StreamMachineError):  # noqa: N818
    """The process in which a message ran alone ended without finishing it."""


class Unrunnable(StreamMachineError):  # noqa: N818
    """The message could not be run alone, through no fault of its own."""


class IsolatedRunner:
    """Runs single messages of one agent, one at a time, in a process beside this one.

    The process stays for the next message (starting one takes a second); only a message that runs in it can end it.

    Args:
        origin: where the process finds the App. agent: whose messages it runs.
    """

    def __init__(self, origin: Origin, agent: Agent) -> None:
        self._origin = origin
        self._agent = agent
        self._process: Process | None = None
        self._answers: AsyncIterator[dict[str, Any]] | None = None
        self._said = ""  # the problem that the process named before it ended

    async def open(self, topic: str, consumer: str, url: str | None) -> None:
        """Have a process ready, with the App loaded and its start-up hooks run.

        Args:
            topic: the stream whose entries it runs. consumer: the name in the group that holds them. url: the server's.

        Raises:
            Unrunnable: it cannot be started, ended before that, or took longer than START seconds.
        """
        if self._process is not None and self._process.returncode is not None:
            await self.aclose()  # somebody ended it while it had nothing to do
        if self._process is not None:
            return
        async with self._ends_with_us():
            with anyio.move_on_after(START) as waiting:
                try:
                    await self._start(topic, consumer, url)
                except OSError as error:
                    raise Unrunnable(f"The process for messages that run alone cannot be started: {error}") from error
                if await self._hear() == "ready":
                    return
            if waiting.cancelled_caught:
                self._kill()
            status = await self._ended()
        how = f"was not ready within {START:g} s" if waiting.cancelled_caught else how_ended(status)
        raise Unrunnable(f"The process for messages that run alone {self._said or how}")

    async def run(self, topic: str, key: str, identifier: bytes, deliveries: int) -> ProcessDied | None:
        """Run one entry in the process that ``open`` has made ready.

        Args:
            topic: the stream. key: where the entry stands: there, or in its retry companion. identifier: its id.
            deliveries: how often it was started, this time included.

        Returns:
            None when it was dealt with there (finished, retried, given up), else how its process died.

        Raises:
            Unrunnable: the process failed outside of the handler.
        """
        process = self._process
        assert process is not None and process.stdin is not None
        log.warning(
            "Message %s of %r was started %d times without an end; it runs alone now",
            identifier.decode(), topic, deliveries - 1,
        )  # fmt: skip
        async with self._ends_with_us():
            with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                await process.stdin.send(f"{deliveries} {identifier.decode()} {key}\n".encode())
                if await self._hear() == "done":
                    return None
            status = await self._ended()
        if status == OUTSIDE_HANDLER:
            raise Unrunnable(f"The process for messages that run alone {self._said or how_ended(status)}")
        return ProcessDied(f"The process that ran the message alone {how_ended(status)}.")

    async def aclose(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            await process.aclose()  # the end of its stdin is its end

    async def _start(self, topic: str, consumer: str, url: str | None) -> None:
        self._said = ""
        self._process = await open_child([str(self._origin), self._agent.name, "--alone", topic, consumer], url)
        assert self._process.stdout is not None
        self._answers = reports(self._process.stdout)

    async def _hear(self) -> str:
        """The next state that the process reports; "" when it ends, or says that it fails."""
        assert self._answers is not None
        report = await anext(self._answers, None)
        if report is None:
            return ""
        if report["state"] == "failed":
            self._said = str(report.get("problem", ""))
            return ""
        return str(report["state"])

    async def _ended(self) -> int:
        assert self._process is not None
        status = await self._process.wait()
        await self.aclose()
        return status

    @contextlib.asynccontextmanager
    async def _ends_with_us(self) -> AsyncIterator[None]:
        """What fails or is cancelled in here takes the process with it."""
        try:
            yield
        except BaseException:
            self._kill()
            with anyio.CancelScope(shield=True):
                await self.aclose()
            raise

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()


def how_ended(status: int) -> str:
    """How a process ended, as the end of a sentence."""
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
