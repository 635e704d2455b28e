"""One run of an App: the connection outermost, in it the hooks, in them everything that runs, until the last drain.

Consumers, timers and worker processes run in one task group, each under a supervisor that logs a failure and starts it
again.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc

from streammachine.backoff import Backoff
from streammachine.errors import (
    RedisAuthError,
    RedisDiskError,
    RedisReadOnlyError,
    RedisUnavailableError,
    StreamMachineError,
)
from streammachine.redis.appender import Appender
from streammachine.runtime.consumer.consumer import StreamConsumer
from streammachine.runtime.consumer.partitions import Partitions
from streammachine.runtime.delivery.transaction import transactional
from streammachine.runtime.model.agent import Agent, name_of
from streammachine.runtime.observability.tracing import find_tracing, has_provider
from streammachine.runtime.presence import Presence
from streammachine.runtime.processes.isolated import IsolatedRunner
from streammachine.runtime.processes.worker_pool import WorkerPool
from streammachine.runtime.timer import Timer

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection
    from streammachine.runtime.app.registry import Registry
    from streammachine.runtime.app.topics import Topic
    from streammachine.runtime.model.config import AppConfig
    from streammachine.runtime.observability.running_app import Gauges
    from streammachine.runtime.processes.origin import Origin

log = logging.getLogger(__name__)


BACKOFF_FIRST, BACKOFF_LAST = 0.5, 30.0  # seconds before a failed part is started again
GAUGES_PERIOD = 5.0  # seconds between two reads of the groups' gauges, for collectors
HEALTHY_AFTER = 10.0  # seconds of running after which the backoff begins anew


class Lifecycle:
    """One run of an App.

    Args:
        registry: the App: what runs, and the owner of its transactions.
        config: its settings.
        connection: the connection to hold open.
        find_origin: where other processes can import the App from; asked after the start-up hooks.
        only_agent: in a worker process: run this one agent, no timers and no status page.
        in_child: the process is a child that is started again when it dies.
        serve_status: serves the status page until cancelled; None: there is none.
        read_gauges: asks Redis about the groups, where a collector wants to know.

    Attributes:
        stop: set it to drain and end. ended: set when all is done.
        began: whether the connection is open and the start-up hooks have begun.
        consumers, timers, workers: what works. appender: what sends go through while the connection is open.
        slots: bounds the sends under way. tracing: makes the spans, where there are to be any.
        gauges: what ``read_gauges`` gave last. restarts: how often a part failed and was started again.
    """

    def __init__(
        self,
        registry: Registry,
        config: AppConfig,
        connection: RedisConnection,
        find_origin: Callable[[], Origin | None],
        *,
        only_agent: str | None,
        in_child: bool,
        serve_status: Callable[[], Awaitable[None]] | None,
        read_gauges: Callable[[], Awaitable[Gauges]],
    ) -> None:
        self.stop = anyio.Event()
        self.ended = anyio.Event()
        self.began = False
        self.consumers: list[tuple[Agent, StreamConsumer]] = []
        self.timers: list[Timer] = []
        self.workers: WorkerPool | None = None
        self.appender: Appender | None = None
        self.slots = anyio.Semaphore(config.send_limit)
        self.tracing = find_tracing(config.tracing)
        self.gauges: Gauges = {}
        self.restarts = 0
        self._registry = registry
        self._config = config
        self._connection = connection
        self._find_origin = find_origin
        self._only_agent = only_agent
        self._in_child = in_child
        self._serve_status = serve_status
        self._read_gauges = read_gauges
        self._limiter = anyio.CapacityLimiter(config.max_threads)

    async def run(self, ready: anyio.Event | None = None) -> None:
        """Run until ``stop`` is set, then drain. ``ready`` is set when every consumer reads."""
        try:
            async with anyio.create_task_group() as outer:
                base = anyio.CancelScope(shield=True)  # outlives what uses it, also when we are cancelled
                try:
                    await outer.start(self._hold_base, base)
                    await self._run_hooks_around(ready)
                finally:
                    base.cancel()
        finally:
            self.ended.set()

    async def _hold_base(self, scope: anyio.CancelScope, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Hold the connection and the appender until the scope is cancelled."""
        connection = self._connection
        with scope:
            async with anyio.create_task_group() as tasks:
                await tasks.start(connection.serve)
                await connection.command("PING", repeatable=True)
                self.appender = Appender(connection)
                tasks.start_soon(self._supervise, "the appender", self.appender.run)
                task_status.started()

    async def _run_hooks_around(self, ready: anyio.Event | None) -> None:
        self.began = True
        if not await self._run_startup_hooks():
            return
        self.tracing = find_tracing(self._config.tracing)  # a hook may have set the tracer provider
        if self.tracing is not None and not has_provider():
            log.warning("tracing=True, but no tracer provider is set (trace.set_tracer_provider): spans go nowhere")
        try:
            await self._work(ready)
        finally:
            with anyio.CancelScope(shield=True):
                for hook in self._registry.shutdown_hooks:
                    try:
                        await run_hook(hook)
                    except Exception:
                        log.exception("The shutdown hook %s failed", name_of(hook))

    async def _run_startup_hooks(self) -> bool:
        """Run the start-up hooks; False when the app was stopped and its grace ran out before they had ended."""
        async with anyio.create_task_group() as hooks:

            async def end_with_grace() -> None:
                await self.stop.wait()
                hooks.cancel_scope.deadline = anyio.current_time() + self._config.grace

            hooks.start_soon(end_with_grace)
            for hook in self._registry.startup_hooks:
                await run_hook(hook)
            hooks.cancel_scope.cancel()
            return True
        log.warning("The start-up hooks were cancelled: the app was to end %g s ago", self._config.grace)
        return False

    async def _work(self, ready: anyio.Event | None) -> None:
        """Run consumers, timers and workers until ``stop`` is set, then drain."""
        grace, origin = self._config.grace, self._find_origin()
        self.workers = WorkerPool(origin, self._connection, self._config.max_processes)
        async with anyio.create_task_group() as beside:
            if self._only_agent is None and self._serve_status is not None:
                beside.start_soon(self._supervise, "the dashboard", self._serve_status)
            if self._only_agent is None and self._config.alerts:
                from streammachine.runtime.alerts.host import AlertHost

                beside.start_soon(self._supervise, "the alerts", AlertHost(self._connection).run)
            presence = Presence(
                self._connection, self._config.name, lambda: ((agent.name, each) for agent, each in self.consumers),
                timers=lambda: self.timers,
            )  # fmt: skip
            async with anyio.create_task_group() as parts:
                self._start_workers(beside, self.workers)
                await self._start_parts(parts, origin, presence)
                beside.start_soon(presence.run)
                beside.start_soon(self._keep_gauges)
                if ready is not None:
                    ready.set()
                await self.stop.wait()
                parts.cancel_scope.deadline = anyio.current_time() + grace
                for timer in self.timers:
                    timer.stop()
                for _, consumer in self.consumers:
                    parts.start_soon(consumer.drain)
                # The workers have the same grace, so they are waited for a little longer.
                with anyio.CancelScope(shield=True):
                    await self.workers.stop(grace)
            if parts.cancel_scope.cancelled_caught:
                log.warning("Handlers still running after %g s were cancelled; their messages come again", grace)
            beside.cancel_scope.cancel()

    async def _keep_gauges(self) -> None:
        while True:
            self.gauges = await self._read_gauges()
            await anyio.sleep(GAUGES_PERIOD)

    # -- starting -----------------------------------------------------------------------------

    def _start_workers(self, beside: anyio.abc.TaskGroup, workers: WorkerPool) -> None:
        """Start the worker processes. They are not cancelled after the grace: that would kill them while they drain."""
        for agent in self._registry.agents if self._only_agent is None else ():
            if agent.config.processes is not None:
                beside.start_soon(self._supervise, agent.name, workers.runner(agent))

    async def _start_parts(self, parts: anyio.abc.TaskGroup, origin: Origin | None, presence: Presence) -> None:
        """Start consumers and timers; returns when every consumer reads, or when the app is stopped before that."""
        registry, only = self._registry, self._only_agent
        waits: list[tuple[Agent, StreamConsumer]] = []
        partitioned: list[tuple[Agent, Topic, list[str]]] = []
        for agent in registry.agents:
            if agent.name != only if only is not None else agent.config.processes is not None:
                continue
            topics = {stream: registry.topic_of(stream) for stream in agent.config.topics}
            shared = [stream for stream, topic in topics.items() if topic is not None and topic.ordered]
            first = topics[shared[0]] if shared else None
            if first is not None:
                partitioned.append((agent, first, shared))
            waits += [
                (agent, self._consumer(agent, topic, origin)) for topic in agent.config.topics if topic not in shared
            ]
        self.consumers = waits
        await presence.apply_pauses()  # a paused agent must not read first
        if only is None:
            self._start_timers(parts)

        async def end_with_stop(scope: anyio.CancelScope) -> None:
            await self.stop.wait()
            scope.cancel()

        async with anyio.create_task_group() as starting:
            starting.start_soon(end_with_stop, starting.cancel_scope)
            for agent, consumer in list(waits):
                await parts.start(self._start_consumer, agent, consumer)
            for agent, topic, shared in partitioned:
                await parts.start(self._start_partitions, agent, topic, shared, origin)
            starting.cancel_scope.cancel()

    def _consumer(self, agent: Agent, topic: str, origin: Origin | None) -> StreamConsumer:
        registry, config = self._registry, self._config
        return StreamConsumer(
            agent.config,
            agent.handler if self.tracing is None else self.tracing.handler_of(agent),
            connection=self._connection,
            topic=topic,
            consumer=consumer_name(config.name),
            limiter=self._limiter,
            alone=IsolatedRunner(origin, agent) if origin is not None else None,
            in_place=self._in_child,
            committer=transactional(registry, agent.config.transactional) if agent.config.transactional else None,
            owner=registry,
        )

    async def _start_consumer(
        self, agent: Agent, consumer: StreamConsumer, *, task_status: anyio.abc.TaskStatus[None]
    ) -> None:
        status = _StatusOnce(task_status)
        await self._supervise(f"{agent.name} on {consumer.topic}", lambda: consumer.run(task_status=status), status)

    async def _start_partitions(
        self,
        agent: Agent,
        topic: Topic,
        shared: list[str],
        origin: Origin | None,
        *,
        task_status: anyio.abc.TaskStatus[None],
    ) -> None:
        agent = topic.keyed(agent)
        partitions = Partitions(
            agent, shared, topic.name, connection=self._connection, running=self.consumers,
            make=lambda stream: self._consumer(agent, stream, origin), stop=self.stop,
        )  # fmt: skip
        status = _StatusOnce(task_status)
        await self._supervise(f"{agent.name}, partitions", lambda: partitions.run(task_status=status), status)

    def _start_timers(self, parts: anyio.abc.TaskGroup) -> None:
        for declared in self._registry.timers:
            timer = Timer(
                declared.config,
                declared.handler,
                app_name=self._config.name,
                name=declared.name,
                connection=self._connection,
                limiter=self._limiter,
            )
            self.timers.append(timer)
            parts.start_soon(self._supervise, declared.name, timer.run)

    # -- supervising --------------------------------------------------------------------------

    async def _supervise(
        self, name: str, run: Callable[[], Awaitable[None]], status: _StatusOnce | None = None
    ) -> None:
        """Run a part; when it fails log it and start it again with backoff. Ends when the part ends by itself.

        Raises:
            StreamMachineError: the part has not begun yet, as ``status`` knows, and cannot.
        """
        backoff = Backoff(BACKOFF_FIRST, BACKOFF_LAST)
        while True:
            began = time.monotonic()
            try:
                await run()
            except Exception as error:
                if self.stop.is_set():
                    log.exception("%s failed", name)
                    return
                if status is not None and not status.reported and _is_final(error):
                    raise
                self.restarts += 1
                log.exception("%s failed; starting it again in %.1f s", name, backoff.seconds)
            else:
                return
            if time.monotonic() - began > HEALTHY_AFTER:
                backoff.reset()
            with anyio.move_on_after(backoff.pause()):
                await self.stop.wait()
                return


async def run_hook(hook: Callable[[], Any]) -> None:
    """Run a start-up or shutdown hook, async or sync."""
    result = hook()
    if isinstance(result, Awaitable):
        await result


def consumer_name(app: str) -> str:
    """A consumer name that no other process has."""
    return f"{app}-{socket.gethostname()}-{os.getpid()}-{random.getrandbits(32):08x}"


def _is_final(error: Exception) -> bool:
    """Whether trying again is of no use: Redis answers, and refuses."""
    if isinstance(error, RedisUnavailableError):
        return isinstance(error, (RedisAuthError, RedisReadOnlyError, RedisDiskError))
    return isinstance(error, StreamMachineError)


class _StatusOnce:
    """A task status that a restarted consumer may report again."""

    def __init__(self, status: anyio.abc.TaskStatus[None]) -> None:
        self._status: anyio.abc.TaskStatus[None] | None = status

    @property
    def reported(self) -> bool:
        """Whether it was reported."""
        return self._status is None

    def started(self, value: None = None) -> None:
        """Report the first time; later ones say nothing."""
        status, self._status = self._status, None
        if status is not None:
            status.started()
