"""A supervised process that hosts an App or the declared agents (``children/host.py``), or anything that reports so.

It is started again with backoff when it fails, reports its state, drains when asked, and is killed when it does not
end. An exit, crash or hang stays in it: a message that kills its process leaves an MCP server answering.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

import anyio
import anyio.abc

from streammachine.backoff import Backoff
from streammachine.errors import StreamMachineError
from streammachine.runtime.processes.child_io import UNLOADABLE
from streammachine.runtime.processes.isolated import how_ended
from streammachine.runtime.processes.origin import CHILD_URL
from streammachine.runtime.processes.reports import reports

log = logging.getLogger(__name__)

State = Literal["waiting", "starting", "running", "failed", "ended", "stopped"]

BACKOFF_FIRST, BACKOFF_LAST = 0.5, 30.0  # seconds before it is started again
HEALTHY_AFTER = 10.0  # seconds of running after which the backoff begins anew
SLOW_START = 30.0  # seconds after which a start counts as a problem
SILENT = 10.0  # seconds without a report after which it counts as hanging


class Supervised:
    """One process and its restarts.

    Args:
        name: for the log and ``describe``.
        arguments: the process's command line.
        environment: asked before each start; may wait (for Redis), and raise StreamMachineError to be asked again.
        kill_silent: kill it when it has not reported for SILENT seconds; else that is only shown.
        module: the module to run; it reports as ``children/host.py`` does.

    Attributes:
        state: "ended" is an end by itself with status 0; it is not started again then.
        unloadable: the last start failed because the App cannot be imported.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Callable[[], Awaitable[Mapping[str, str]]],
        *,
        kill_silent: bool = False,
        module: str = "streammachine.runtime.children.host",
    ) -> None:
        self.name = name
        self.state: State = "waiting"
        self.problem = ""
        self.unloadable = False
        self.restarts = 0
        self.pid: int | None = None
        self._arguments = list(arguments)
        self._environment = environment
        self._kill_silent = kill_silent
        self._module = module
        self._process: anyio.abc.Process | None = None
        self._facts: dict[str, Any] = {}
        self._since = self._last_report = 0.0
        self._stop = anyio.Event()
        self._done = anyio.Event()
        self._wake = anyio.Event()
        self._restart_asked = self._started = False
        self._last_problem = ""  # the problem that the process named before it ended

    def describe(self) -> dict[str, Any]:
        """Its state for people and models.

        Returns:
            ``app``, ``state`` and ``restarts``; ``pid`` while it runs, ``problem`` where there is one, and the numbers
            of ``agents`` and ``timers`` that it reported last.
        """
        problem = self.problem
        now = anyio.current_time()
        if self.state == "starting" and now - self._since > SLOW_START:
            problem = f"It has been starting for {now - self._since:.0f} s. Does it block when it is imported?"
        elif self.state == "running" and now - self._last_report > SILENT:
            problem = f"It has not reported for {now - self._last_report:.0f} s: something blocks its event loop."
        elif self.state == "running" and self._facts.get("problems"):
            problem = "; ".join(self._facts["problems"])
        found: dict[str, Any] = {"app": self.name, "state": self.state, "restarts": self.restarts}
        if self.pid is not None:
            found["pid"] = self.pid
        if problem:
            found["problem"] = problem
        found.update({key: self._facts[key] for key in ("agents", "timers") if key in self._facts})
        return found

    async def run(self) -> None:
        """Keep it running until ``stop``, or until it ends by itself with status 0."""
        backoff = Backoff(BACKOFF_FIRST, BACKOFF_LAST)
        try:
            while not self._stop.is_set():
                began = anyio.current_time()
                try:
                    if await self._run_once():
                        return
                except (StreamMachineError, OSError) as error:
                    self._failed(str(error))
                if self._stop.is_set():
                    return
                if self.state != "failed":
                    continue  # restart() was called
                if anyio.current_time() - began > HEALTHY_AFTER:
                    backoff.reset()
                log.error("%s: %s Starting it again in %.1f s", self.name, self.problem, backoff.seconds)
                self._wake = anyio.Event()
                with anyio.move_on_after(backoff.pause()):
                    await self._wake.wait()
        finally:
            self.pid = None
            if self.state != "ended":
                self.state = "stopped"
            self._done.set()

    async def restart(self, within: float) -> None:
        """Have it drain and start it again, with a new environment.

        Args:
            within: seconds that the drain may take; then it is killed.
        """
        self._wake.set()
        process = self._process
        if process is None:
            return
        self._restart_asked = True
        self._signal(signal.SIGTERM)
        with anyio.move_on_after(within):
            await process.wait()
        if process.returncode is None:
            self._signal(signal.SIGKILL)

    def kill(self) -> None:
        """Kill it now. ``run`` goes on, and starts it again unless ``stop`` was called."""
        self._signal(signal.SIGKILL)

    async def stop(self, within: float) -> None:
        """Have it drain and end; returns when ``run`` has ended.

        Args:
            within: seconds that the drain may take; then it is killed.
        """
        self._stop.set()
        self._wake.set()
        self._signal(signal.SIGTERM)
        with anyio.move_on_after(within):
            await self._done.wait()
        if not self._done.is_set():
            log.warning("%s did not end within %g s; it is killed, and its messages come again", self.name, within)
            self._signal(signal.SIGKILL)
            await self._done.wait()

    async def _run_once(self) -> bool:
        """Run the process to its end; whether it ended by itself with status 0."""
        environment = dict(await self._environment())
        if self._stop.is_set():
            return False
        self.restarts += self._started
        self._started = True
        self._facts, self._last_problem, self.state, self.unloadable = {}, "", "starting", False
        self._since = self._last_report = anyio.current_time()
        process = await anyio.open_process(
            [sys.executable, "-m", self._module, *self._arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=2, env=environment, start_new_session=True,
        )  # fmt: skip
        async with process:
            self._process, self.pid = process, process.pid
            log.info("%s runs as process %d", self.name, process.pid)
            try:
                if self._stop.is_set():
                    self._signal(signal.SIGTERM)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._watch)
                    await self._listen(process)
                    tasks.cancel_scope.cancel()
                status = await process.wait()
            finally:
                self._process = self.pid = None
        if self._stop.is_set():
            return False
        if self._restart_asked:
            self._restart_asked = False
            return False
        if status == 0:
            self.state, self.problem = "ended", ""
            log.info("%s has ended by itself", self.name)
            return True
        self.unloadable = status == UNLOADABLE
        self._failed(self._last_problem or f"The process {how_ended(status)}.")
        return False

    async def _listen(self, process: anyio.abc.Process) -> None:
        assert process.stdout is not None
        async for report in reports(process.stdout):
            self._on_report(report)

    def _on_report(self, report: dict[str, Any]) -> None:
        state = report.pop("state")
        self._last_report = anyio.current_time()
        if state == "failed":
            self._last_problem = str(report.get("problem", ""))
        elif state in ("starting", "running"):
            if state == "running" and self.state != "running":
                self.problem = ""
            self.state, self._facts = state, report

    async def _watch(self) -> None:
        """Kill a process that has reported before and does not any more, where that is asked for."""
        while True:
            await anyio.sleep(1)
            if self._kill_silent and self.state == "running" and anyio.current_time() - self._last_report > SILENT:
                self._last_problem = f"It had not reported for {SILENT:g} s and was killed."
                self._signal(signal.SIGKILL)

    def _failed(self, problem: str) -> None:
        self.state, self.problem = "failed", problem if problem.endswith(".") else f"{problem}."

    def _signal(self, number: int) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                self._process.send_signal(signal.Signals(number))


def child_environment(url: str | None = None) -> dict[str, str]:
    """The environment of a hosted process: it can import what this process can.

    Args:
        url: the server that all its connections use, whatever they are made from; None: as our environment says.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    if url is not None:
        environment = {name: value for name, value in environment.items() if not name.startswith("REDIS_")}
        for name in ("STREAMMACHINE_EMBEDDED", "STREAMMACHINE_EMBEDDED_FSYNC"):
            environment.pop(name, None)
        environment.update({"REDIS_URL": url, CHILD_URL: url})
    return environment
