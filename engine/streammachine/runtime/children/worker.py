"""The process of a worker, or of isolated messages (``processes/preparation.py`` says how it is started).

It imports the App from where its parent has it, reports on its stdout (``processes/reports.py``), and ends when its
stdin ends, so with its parent. The user's code has an empty stdin, and prints to stderr.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel

from streammachine.errors import single
from streammachine.logs import configure_logging
from streammachine.redis.connection import RedisConnection
from streammachine.redis.transport.codec import parse_entries
from streammachine.runtime.app.app import App
from streammachine.runtime.app.lifecycle import run_hook
from streammachine.runtime.children.loading import load_app
from streammachine.runtime.consumer.consumer import StreamConsumer
from streammachine.runtime.delivery.group import Item
from streammachine.runtime.delivery.transaction import transactional
from streammachine.runtime.handlers import end_without_threads
from streammachine.runtime.model.agent import Agent
from streammachine.runtime.observability.tracing import find_tracing
from streammachine.runtime.processes.child_io import OUTSIDE_HANDLER, UNLOADABLE, outlive_log
from streammachine.runtime.processes.origin import CHILD_URL, NoAppError, Origin
from streammachine.runtime.processes.preparation import take_stdin
from streammachine.runtime.processes.reports import Reporter, problem_text
from streammachine.runtime.processes.signals import has_uvloop

log = logging.getLogger(__name__)


def main(argv: list[str]) -> None:
    """Run what the parent asked for: a worker, or with ``--alone`` the entries that it names on stdin.

    Args:
        argv: the parent's ``sys.argv``, for the user's code.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("origin")
    parser.add_argument("agent")
    parser.add_argument("--alone", nargs=2, metavar=("TOPIC", "CONSUMER"))
    parser.add_argument("--log-level", default="INFO")
    options = parser.parse_args()
    sys.argv[:] = argv
    orders, reporter = take_stdin(), Reporter(os.dup(1))
    os.dup2(2, 1)  # what a handler prints must not be taken for a report
    outlive_log()
    configure_logging(options.log_level, child=True)
    app, agent = _load(options, reporter)
    url = os.environ.pop(CHILD_URL, None)
    if url is not None:
        app._use_connection(RedisConnection(url=url, settings=app._settings))
    backend = {"use_uvloop": has_uvloop()}
    try:
        if options.alone is None:
            threading.Thread(target=_drain_when_parent_ends, args=(orders,), daemon=True).start()
            app._only_agent = agent.name
            anyio.run(_run_worker, app, reporter, backend_options=backend)
            end_without_threads()
        else:
            anyio.run(_run_isolated, app, agent, orders, reporter, *options.alone, backend_options=backend)
    except (Exception, SystemExit) as error:
        log.exception("The process of %s failed outside of its handler", agent.name)
        reporter.send("failed", problem=f"failed outside of the handler: {problem_text(error)}")
        sys.exit(1 if options.alone is None else OUTSIDE_HANDLER)


def _load(options: argparse.Namespace, reporter: Reporter) -> tuple[App, Agent]:
    """Import the App and find the agent in it; where that fails, end the process with UNLOADABLE."""
    try:
        app = load_app(Origin.parse(options.origin))
    except (Exception, SystemExit) as error:
        problem = problem_text(error)
        if not isinstance(error, NoAppError):
            log.exception("%s cannot be loaded", options.origin)
    else:
        agent = next((agent for agent in app.agents if agent.name == options.agent), None)
        if agent is not None:
            return app, agent
        problem = f"there is no agent {options.agent!r} in it"
    log.error("%s cannot be loaded: %s", options.origin, problem)
    reporter.send("failed", problem=f"cannot load {options.origin}: {problem}")
    sys.exit(UNLOADABLE)


async def _run_worker(app: App, reporter: Reporter) -> None:
    """Run the app's one agent, and report its consumers once a second."""
    consumers: list[tuple[Agent, StreamConsumer]] = []

    async def facts() -> dict[str, Any] | None:
        if not app.is_running:
            return None
        consumers[:] = app.consumers
        return {"consumers": [_report(*each) for each in consumers]}

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reporter.keep, facts)
            await app._run_with_signals(in_child=True)
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise single(group) from None
    reporter.send("running", consumers=[_report(*each) for each in consumers])  # what it did while it drained


def _report(agent: Agent, consumer: StreamConsumer) -> dict[str, Any]:
    return {**consumer.facts(agent.name), "counts": consumer.metrics.counts()}


def _drain_when_parent_ends(orders: int) -> None:
    """Wait for the end of what was stdin, which is the parent's end; then drain."""
    while os.read(orders, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


async def _run_isolated(
    app: App, agent: Agent, orders: int, reporter: Reporter, topic: str, consumer_name: str
) -> None:
    """Run entries as the parent names them, with the app's hooks around them. Each is committed here."""
    arriving, coming = anyio.create_memory_object_stream[bytes](1)
    busy = threading.Event()
    token = anyio.lowlevel.current_token()

    def send(line: bytes | None) -> None:
        if line is None:
            anyio.from_thread.run_sync(arriving.close, token=token)
        else:
            anyio.from_thread.run(arriving.send, line, token=token)

    threading.Thread(target=_read_orders, args=(orders, send, busy), daemon=True).start()
    async with anyio.create_task_group() as tasks, coming:
        await tasks.start(app.redis.serve)
        for hook in app.startup_hooks:
            await run_hook(hook)
        tracing = find_tracing(app.config.tracing)
        consumer = StreamConsumer(
            agent.config,
            agent.handler if tracing is None else tracing.handler_of(agent),
            connection=app.redis,
            topic=topic,
            consumer=consumer_name,
            limiter=anyio.CapacityLimiter(1),
            committer=transactional(app, agent.config.transactional) if agent.config.transactional else None,
            owner=app,
        )
        reporter.send("ready")
        async for line in coming:
            deliveries, identifier, key = line.decode().rstrip("\n").split(" ", 2)
            lane = consumer.delivery.main if key == topic else consumer.delivery.retry
            for name, fields in parse_entries(await app.redis.command("XRANGE", key, identifier, identifier)):
                if fields is not None:
                    await consumer.run_one(Item(lane, name, fields, int(deliveries)))
            busy.clear()
            reporter.send("done")
        for hook in app.shutdown_hooks:
            await run_hook(hook)
        tasks.cancel_scope.cancel()


def _read_orders(orders: int, send: Callable[[bytes | None], None], busy: threading.Event) -> None:
    """Pass on the lines of what was stdin. At its end the parent is gone; a message that runs then comes again."""
    # Not a file object: a daemon thread that waits in one makes the interpreter abort at its end.
    while line := os.read(orders, 65536):  # one line: the parent waits for each answer
        busy.set()
        send(line)
    if busy.is_set():
        os.kill(os.getpid(), signal.SIGKILL)
    send(None)
