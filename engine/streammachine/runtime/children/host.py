"""The process that hosts an App, the declared agents or the alerts, for a supervisor.

Started as ``python -m streammachine.runtime.children.host``.

It takes its stdin and stdout for itself before it imports the App: what the App prints goes to stderr, and its stdin is
empty. On stdout it reports its state once a second (``processes/reports.py``). When its stdin ends, its supervisor is
gone and it drains. ``processes/supervisor.py`` is the supervisor's side.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import anyio

from streammachine.logs import configure_logging
from streammachine.runtime.handlers import end_without_threads
from streammachine.runtime.processes.child_io import UNLOADABLE, stop_at_signal, take_streams
from streammachine.runtime.processes.origin import CHILD_URL, NoAppError, Origin
from streammachine.runtime.processes.reports import MOST_TEXT, Reporter, problem_text

if TYPE_CHECKING:
    from streammachine.runtime.app.app import App

log = logging.getLogger("streammachine.runtime.children.host")

ORPHAN_LIFE = 10.0  # seconds beyond the grace before a process whose supervisor is gone and that hangs ends itself


def main() -> None:
    """Host what the command line names, until a signal or the supervisor's end."""
    options = _parser().parse_args()
    reporter = take_streams(ORPHAN_LIFE + (25.0 if options.grace is None else options.grace))
    configure_logging(options.log_level, child=True)
    url = os.environ.pop(CHILD_URL, None)
    backend = {"use_uvloop": sys.platform != "win32"}
    try:
        if options.alerts:
            anyio.run(_host_alerts, url, reporter, backend_options=backend)
        elif options.app is None:
            anyio.run(_host_declared, url, reporter, backend_options=backend)
        else:
            app = _load(options, url, reporter)
            anyio.run(_host_app, app, reporter, backend_options=backend)
            end_without_threads()
    except Exception as error:
        log.exception("%s failed", options.app or "The host of the declared agents")
        reporter.send("failed", problem=problem_text(error))
        sys.exit(1)


def _load(options: argparse.Namespace, url: str | None, reporter: Reporter) -> App:
    """Import the App and set it up; where it cannot be imported, end the process with UNLOADABLE."""
    from streammachine.redis.connection import RedisConnection
    from streammachine.runtime.children.loading import load_app

    here = os.getcwd()  # noqa: PTH109 - as a string, for sys.path
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        origin = Origin.parse(options.app)
        origin.as_script(options.arguments)
        app = load_app(origin)
    except (Exception, SystemExit) as error:
        if not isinstance(error, NoAppError):  # NoAppError says all in its text
            log.exception("%s cannot be loaded", options.app)
        reporter.send("failed", problem=f"It cannot be loaded: {problem_text(error)}")
        sys.exit(UNLOADABLE)
    if url is not None:
        app._use_connection(RedisConnection(url=url, settings=app._settings))
    changes: dict[str, Any] = {} if options.grace is None else {"grace": min(options.grace, app.config.grace)}
    if options.no_dashboard:
        changes["dashboard_enabled"] = False
    app.config = dataclasses.replace(app.config, **changes)
    return app


async def _host_app(app: App, reporter: Reporter) -> None:
    async def facts() -> dict[str, Any] | None:
        if not app.is_running:  # asking would open a connection of its own
            return None
        found = await app.health_check()
        return {
            "app": app.name,
            "status": found["status"],
            "problems": [str(problem)[:MOST_TEXT] for problem in found["problems"][:5]],
            "agents": found["registered_agents"],
            "timers": found["registered_timers"],
            "part_restarts": found["restarts"],
        }

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reporter.keep, facts)
        await app._run_with_signals(in_child=True)
        tasks.cancel_scope.cancel()
    await app.redis.close()  # a health check may have opened it again while the app ended


async def _host_declared(url: str | None, reporter: Reporter) -> None:
    from streammachine.redis.connection import RedisConnection
    from streammachine.runtime.declared.host import DeclaredHost

    async with RedisConnection(url=url) as connection:
        host = DeclaredHost(connection)

        async def facts() -> dict[str, Any]:
            problems = [f"{name}: {text}"[:MOST_TEXT] for name, text in list(host.problems.items())[:5]]
            return {
                "app": "declared agents",
                "status": "degraded" if problems else "healthy",
                "problems": problems,
                "agents": host.running,
            }

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop_at_signal, host.stop)
            tasks.start_soon(reporter.keep, facts)
            await host.run()
            tasks.cancel_scope.cancel()


async def _host_alerts(url: str | None, reporter: Reporter) -> None:
    from streammachine.redis.connection import RedisConnection
    from streammachine.runtime.alerts.host import AlertHost

    async with RedisConnection(url=url) as connection:
        host = AlertHost(connection)

        async def facts() -> dict[str, Any]:
            problems = [f"{name}: {text}"[:MOST_TEXT] for name, text in list(host.problems.items())[:5]]
            return {
                "app": "alerts",
                "status": "degraded" if problems else "healthy",
                "problems": problems,
                "alerts": host.running,
            }

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop_at_signal, host.stop)
            tasks.start_soon(reporter.keep, facts)
            await host.run()
            tasks.cancel_scope.cancel()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Hosts an App, the alerts, or without either the declared agents.")
    parser.add_argument("--app", metavar="MODULE:NAME")
    parser.add_argument("--alerts", action="store_true", help="host the alerts")
    parser.add_argument("--grace", type=float, help="most seconds that running handlers get at the end")
    parser.add_argument("--no-dashboard", action="store_true", help="leave the status page to another process")
    parser.add_argument("--log-level", default="INFO")
    parser.add_argument("arguments", nargs="*", help="what the App's module finds in sys.argv")
    return parser


if __name__ == "__main__":
    main()
