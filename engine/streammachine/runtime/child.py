"""The process that a worker or a message alone runs in: ``python -m streammachine.runtime.child``.

It imports the App from where its parent has it, and ends when its stdin ends: a parent that dies takes its children
along.
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

from streammachine.redis.codec import parse_entries
from streammachine.redis.connection import RedisConnection
from streammachine.runtime.agent import Agent
from streammachine.runtime.alone import TROUBLE, UNKNOWN
from streammachine.runtime.app import App
from streammachine.runtime.calling import end_without_threads
from streammachine.runtime.child_io import outlive_log
from streammachine.runtime.consumer import StreamConsumer
from streammachine.runtime.delivery import Item
from streammachine.runtime.health import consumer_facts
from streammachine.runtime.life import has_uvloop, run_hook, single
from streammachine.runtime.origin import CHILD_URL, Origin
from streammachine.runtime.reporting import Reporter
from streammachine.runtime.tracing import find_tracing
from streammachine.runtime.transaction import transactional

log = logging.getLogger(__name__)


def main() -> None:
    """Run what the parent asked for: a worker, or with ``--alone`` the entries that it names on stdin."""
    parser = argparse.ArgumentParser()
    parser.add_argument("origin")
    parser.add_argument("agent")
    parser.add_argument("--alone", nargs=2, metavar=("TOPIC", "CONSUMER"))
    parser.add_argument("--log-level", default="INFO")
    options = parser.parse_args()
    answers = os.dup(1)
    os.dup2(2, 1)  # what a handler prints must not be taken for an answer
    outlive_log()
    logging.basicConfig(
        level=options.log_level,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s [%(process)d]: %(message)s",
    )
    try:
        app = Origin.parse(options.origin).load()
        agent = next(agent for agent in app.agents if agent.name == options.agent)
    except (ImportError, ValueError, StopIteration) as error:
        log.error("%s cannot be loaded: %s", options.origin, error)
        sys.exit(UNKNOWN)
    url = os.environ.pop(CHILD_URL, None)
    if url is not None:
        app._use_connection(RedisConnection(url=url, settings=app._settings))
    backend = {"use_uvloop": has_uvloop()}
    if options.alone is None:
        threading.Thread(target=_drain_with_parent, daemon=True).start()
        app._only = agent.name
        anyio.run(_run_worker, app, Reporter(answers), backend_options=backend)
        end_without_threads()
        return
    try:
        anyio.run(_run_alone, app, agent, answers, *options.alone, backend_options=backend)
    except Exception:
        log.exception("The process of messages that run alone failed outside of their handler")
        sys.exit(TROUBLE)


async def _run_worker(app: App, reporter: Reporter) -> None:
    """Run the app's one agent, and report how far it is."""
    consumers: list[tuple[Agent, StreamConsumer]] = []

    async def facts() -> dict[str, Any] | None:
        if app._life is None or not app._life.began:
            return None
        consumers[:] = app._consumers
        return {"consumers": [_report(*each) for each in consumers]}

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reporter.keep, facts)
            await app._run_with_signals(in_child=True)
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise single(group) from None
    reporter.say("running", consumers=[_report(*each) for each in consumers])  # what it did while it drained


def _report(agent: Agent, consumer: StreamConsumer) -> dict[str, Any]:
    return {**consumer_facts(agent.name, consumer), "counts": consumer.metrics.counts()}


def _drain_with_parent() -> None:
    """Wait for the end of stdin, which is the end of the parent."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


async def _run_alone(app: App, agent: Agent, answers: int, topic: str, consumer_name: str) -> None:
    """Run entries as they come, with the app's hooks around them; how each ends is committed here."""
    orders, coming = anyio.create_memory_object_stream[bytes](1)
    busy = threading.Event()
    token = anyio.lowlevel.current_token()

    def send(line: bytes | None) -> None:
        if line is None:
            anyio.from_thread.run_sync(orders.close, token=token)
        else:
            anyio.from_thread.run(orders.send, line, token=token)

    threading.Thread(target=_read_orders, args=(send, busy), daemon=True).start()
    async with anyio.create_task_group() as tasks, coming:
        await tasks.start(app.redis.serve)
        for hook in app._startup:
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
        async for line in coming:
            deliveries, identifier, key = line.decode().rstrip("\n").split(" ", 2)
            lane = consumer.delivery.main if key == topic else consumer.delivery.retry
            for name, fields in parse_entries(await app.redis.command("XRANGE", key, identifier, identifier)):
                if fields is not None:
                    await consumer.run_one(Item(lane, name, fields, int(deliveries)))
            busy.clear()
            os.write(answers, b"done\n")
        for hook in app._shutdown:
            await run_hook(hook)
        tasks.cancel_scope.cancel()


def _read_orders(send: Callable[[bytes | None], None], busy: threading.Event) -> None:
    """Pass on the lines of stdin. Its end is the parent's: what runs then is left undone for another."""
    # Not sys.stdin: a daemon thread that waits in it makes the interpreter abort at its end.
    while line := os.read(0, 65536):  # one line: the parent waits for each answer
        busy.set()
        send(line)
    if busy.is_set():
        os.kill(os.getpid(), signal.SIGKILL)
    send(None)


if __name__ == "__main__":
    main()
