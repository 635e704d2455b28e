"""``streammachine run``: an App in supervised processes, and started again when its code changes.

Every worker is a process of the whole App: its agents share the messages through their groups. Its timers run in each
of them, or with ``scope="fleet"`` in one at a time; the status page is the first worker's.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

from streammachine.cli.json_lines import print_json
from streammachine.errors import SettingsError
from streammachine.logs import configure_logging, print_error
from streammachine.runtime.processes.origin import Origin
from streammachine.runtime.processes.supervisor import Supervised, child_environment
from streammachine.settings import Settings

log = logging.getLogger("streammachine")

TELL_EVERY = 0.1  # seconds between two looks at the workers' states
KILL_AFTER = 30.0  # seconds for a worker to drain; the App's own grace (25 s unless it says otherwise) and a margin


def run_workers(
    target: str, arguments: Sequence[str] = (), *, workers: int, reload: bool, as_json: bool = False
) -> int:
    """Run until SIGTERM, SIGINT, or the App's own end; 1 when it cannot be loaded.

    Args:
        as_json: print a line on stdout whenever a worker's state changes.

    Raises:
        SettingsError: ``target`` names no App, or --reload lacks watchfiles.
    """
    try:
        origin = Origin.parse(target)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    if origin.file and not Path(origin.file).is_file():
        raise SettingsError(f"There is no file {origin.file}.")
    if reload:
        _require_watchfiles()
    settings = Settings()
    level = settings.log_level
    configure_logging(level, log_format=settings.log_format, force=settings.log_format == "json")
    fleet = Fleet(target, workers, level, arguments)
    return anyio.run(fleet.run, reload, as_json, backend_options={"use_uvloop": sys.platform != "win32"})


class Fleet:
    """The worker processes of one App.

    Args:
        target: ``package.module:app`` or ``path/to/script.py:app``. count: how many workers.
        arguments: what the App's module finds in ``sys.argv``.
    """

    def __init__(self, target: str, count: int, level: str, arguments: Sequence[str]) -> None:
        self._target = target
        self._workers: list[Supervised] = []
        for number in range(count):
            first = ["--no-dashboard"] if number else []
            options = ["--app", target, "--log-level", level, *first, "--", *arguments]
            self._workers.append(Supervised(f"{target} ({number + 1})", options, _environment))
        self._stopping = False
        self._failed = False
        self._seen_running = False
        self._told: dict[int, dict[str, Any]] = {}

    async def run(self, reload: bool, as_json: bool = False) -> int:
        """Run all workers to their end; the exit status."""
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._end_at_signal)
            if as_json:
                beside.start_soon(self._tell_changes)
            if reload:
                beside.start_soon(self._reload)
            async with anyio.create_task_group() as running:
                for worker in self._workers:
                    running.start_soon(worker.run)
                if not reload:
                    beside.start_soon(self._end_if_unloadable)
            beside.cancel_scope.cancel()
        if as_json:
            self._tell()
        return 1 if self._failed else 0

    async def _tell_changes(self) -> None:
        while True:
            self._tell()
            await anyio.sleep(TELL_EVERY)

    def _tell(self) -> None:
        for number, worker in enumerate(self._workers, 1):
            facts = worker.describe()
            if self._told.get(number) != facts and worker.state != "waiting":
                self._told[number] = facts
                print_json({"worker": number, **facts, "app": self._target})

    async def _stop(self) -> None:
        self._stopping = True
        async with anyio.create_task_group() as stopping:
            for worker in self._workers:
                stopping.start_soon(worker.stop, KILL_AFTER)

    async def _end_at_signal(self) -> None:
        """Drain at the first signal, end at once at the second."""
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with anyio.create_task_group() as stopping:
                async for received in signals:
                    if self._stopping:
                        for worker in self._workers:
                            worker.kill()
                        os._exit(128 + received)
                    log.info("%s: ending", signal.Signals(received).name)
                    self._stopping = True
                    stopping.start_soon(self._stop)

    async def _end_if_unloadable(self) -> None:
        """A name that is wrong from the start will not mend itself: end. Later (a deployment half way) it may."""
        while not self._seen_running:
            self._seen_running = any(worker.state in ("running", "ended") for worker in self._workers)
            found = next((worker for worker in self._workers if worker.unloadable), None)
            if found is not None and not self._seen_running:
                self._failed = True
                print_error("streammachine", f"{self._target}: {found.problem}")
                await self._stop()
                return
            await anyio.sleep(0.05)

    async def _reload(self) -> None:
        from watchfiles import PythonFilter, awatch

        folder = Path(Origin.parse(self._target).file).parent if Origin.parse(self._target).file else Path.cwd()
        log.info("Watching %s", folder)
        async for changes in awatch(folder, watch_filter=PythonFilter()):
            names = sorted({Path(path).name for _, path in changes})
            log.info("Changed: %s; starting again", ", ".join(names[:5]))
            async with anyio.create_task_group() as restarting:
                for worker in self._workers:
                    restarting.start_soon(worker.restart, KILL_AFTER)


async def _environment() -> Mapping[str, str]:
    return child_environment()


def _require_watchfiles() -> None:
    try:
        import watchfiles  # noqa: F401
    except ImportError as error:
        raise SettingsError("--reload needs watchfiles, which is not installed: pip install watchfiles") from error
