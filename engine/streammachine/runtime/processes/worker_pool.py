"""Worker processes: ``processes=N`` runs an agent in N spawned processes, supervised.

Spawned, never forked: a child imports the App anew. A worker runs its one agent and the start-up and shutdown hooks;
timers stay in the parent. A worker that dies is started again with backoff; when the parent ends its workers drain;
when the parent dies they see the end of their stdin and drain too. Each reports to its parent
(``worker_reports.py``), so that health, metrics and the status page show all of them together.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio
from anyio.abc import Process

from streammachine.backoff import Backoff
from streammachine.errors import SettingsError
from streammachine.runtime.processes.child_io import open_child
from streammachine.runtime.processes.reports import reports
from streammachine.runtime.processes.worker_reports import WorkerReports

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection
    from streammachine.runtime.model.agent import Agent
    from streammachine.runtime.processes.origin import Origin

log = logging.getLogger(__name__)

BACKOFF_FIRST, BACKOFF_LAST = 0.5, 30.0  # seconds before a dead worker is started again
HEALTHY_AFTER = 10.0
LAST_REPORT_WAIT = 1.0  # seconds for a worker's last report
KILL_AFTER = 5.0  # seconds beyond the grace before a worker that does not end is killed


class WorkerPool:
    """The worker processes of one App.

    Args:
        origin: where they import the App from; None: no other process can.
        connection: names the Redis that they use.
        limit: most worker processes.

    Attributes:
        wanted: how many there should be. alive: those that run, by process id. reports: what they report.
        restarts: how often one that had ended was started again.
    """

    def __init__(self, origin: Origin | None, connection: RedisConnection, limit: int) -> None:
        self._origin = origin
        self._connection = connection
        self._free = limit
        self._stop = anyio.Event()
        self.wanted = 0
        self.restarts = 0
        self.alive: dict[int, Process] = {}
        self.reports = WorkerReports()

    def runner(self, agent: Agent) -> Callable[[], Awaitable[None]]:
        """A function that runs the agent's workers until the pool is stopped.

        Raises:
            SettingsError: more processes than the app allows, or an App that no other process can import.
        """
        count = agent.config.processes or 1
        origin = self._origin
        if origin is None:
            raise SettingsError(
                f"The agent {agent.name!r} asks for processes={count}, but no other process can import its App. "
                "Make the App in a module, at its top level."
            )
        if count > self._free:
            raise SettingsError(
                f"The agent {agent.name!r} asks for processes={count}; the app has {self._free} left (max_processes)."
            )
        self._free -= count
        self.wanted += count
        self.reports.expect(agent)

        async def run() -> None:
            async with anyio.create_task_group() as tasks:
                for _ in range(count):
                    tasks.start_soon(self._keep, origin, agent)

        return run

    async def stop(self, grace: float) -> None:
        """Ask every worker to drain, wait ``grace`` seconds and KILL_AFTER, and kill those that still run."""
        self._stop.set()
        for process in self.alive.values():
            _terminate(process)
        with anyio.move_on_after(grace + KILL_AFTER):
            for process in list(self.alive.values()):
                await process.wait()
        for process in self.alive.values():
            if process.returncode is None:
                log.error("The worker %d did not end; it is killed", process.pid)
                process.kill()

    async def _keep(self, origin: Origin, agent: Agent) -> None:
        """Run one worker, again and again, until the pool is stopped."""
        backoff = Backoff(BACKOFF_FIRST, BACKOFF_LAST)
        while not self._stop.is_set():
            began = anyio.current_time()
            status = await self._run(origin, agent)
            if self._stop.is_set():
                return
            self.restarts += 1
            if anyio.current_time() - began > HEALTHY_AFTER:
                backoff.reset()
            log.error(
                "A worker of %s ended with status %s; starting it again in %.1f s", agent.name, status, backoff.seconds
            )
            with anyio.move_on_after(backoff.pause()):
                await self._stop.wait()

    async def _run(self, origin: Origin, agent: Agent) -> int:
        async with await open_child([str(origin), agent.name], self._connection.url) as process:
            self.alive[process.pid] = process
            self.reports.begin(process.pid, agent)
            try:
                if self._stop.is_set():
                    _terminate(process)
                async with anyio.create_task_group() as tasks:
                    all_read = anyio.Event()
                    tasks.start_soon(self._listen, process, all_read)
                    status = await process.wait()
                    with anyio.move_on_after(LAST_REPORT_WAIT):  # a process that it left behind may hold the pipe open
                        await all_read.wait()
                    tasks.cancel_scope.cancel()
                return status
            finally:
                self.reports.end(process.pid)
                del self.alive[process.pid]

    async def _listen(self, process: Process, all_read: anyio.Event) -> None:
        assert process.stdout is not None
        async for report in reports(process.stdout):
            self.reports.receive(process.pid, report)
        all_read.set()


def _terminate(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        process.terminate()
