"""App: the registry of agents and timers, sending, and the ways to run it.

``start()`` blocks and owns loop and signals; ``async with app`` and ``run_async()`` run it headless inside somebody
else's loop: no signal handlers, no loop policy, any number of Apps side by side. What a run does stands in ``life.py``.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import pkgutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import anyio

from streammachine.errors import SettingsError, StreamMachineError, single
from streammachine.redis import streams
from streammachine.redis.connection import RedisConnection
from streammachine.redis.storage import Storage
from streammachine.runtime.app.current import inside
from streammachine.runtime.app.lifecycle import Lifecycle
from streammachine.runtime.app.topics import Key, Topic
from streammachine.runtime.delivery import keys as companions
from streammachine.runtime.delivery.group import Guard
from streammachine.runtime.delivery.send_once import checked_stream, dedup_life, send_once
from streammachine.runtime.delivery.transaction import active, fields_of, hold
from streammachine.runtime.handlers import end_without_threads
from streammachine.runtime.model.agent import Agent, DeclaredTimer
from streammachine.runtime.model.checks import takes
from streammachine.runtime.model.config import AppConfig, Batch, ConsumerConfig, TimerConfig, Transactional
from streammachine.runtime.model.message import Message
from streammachine.runtime.model.retry import RetryPolicy
from streammachine.runtime.observability.tracing import Tracing, find_tracing
from streammachine.runtime.processes.origin import CHILD_NAME, Origin, refuse_while_loading
from streammachine.runtime.processes.signals import has_uvloop, watch_signals
from streammachine.settings import Settings

if TYPE_CHECKING:
    from streammachine.redis.appender import Appender
    from streammachine.runtime.consumer.consumer import StreamConsumer
    from streammachine.runtime.processes.worker_pool import WorkerPool
    from streammachine.runtime.timer import Timer

H = TypeVar("H", bound=Callable[..., Any])


class App:
    """Agents and timers on Redis Streams.

    Args:
        name: the app's name in logs and consumer names; without it the calling module's, for a script its stem.
        to_scan: import the sub-modules of the app's package at the start, so that their handlers register.
        max_processes: most worker processes. max_threads: most sync handlers at once.
        dashboard_enabled: serve /livez, /readyz, /metrics and a status page on dashboard_host:dashboard_port.
        stream_maxlen: keep about so many entries of every stream this app sends to (STREAMMACHINE_STREAM_MAXLEN).
        redis_url: the server, instead of the settings'. settings: instead of the environment's.
        grace: seconds that running handlers get when the app ends. send_limit: most sends under way at once.
        tracing: OpenTelemetry spans for sends and handlers (extra ``monitoring``). None: where the program has set a
            tracer provider; True: always, False: never.
    """

    def __init__(
        self,
        name: str | None = None,
        to_scan: bool = True,
        max_processes: int = 5,
        max_threads: int = 5,
        dashboard_enabled: bool = False,
        dashboard_port: int = 8000,
        dashboard_host: str = "localhost",
        dashboard_refresh_interval: int = 5,
        stream_maxlen: int | None = None,
        *,
        redis_url: str | None = None,
        settings: Settings | None = None,
        grace: float = 25.0,
        send_limit: int = 1000,
        tracing: bool | None = None,
    ) -> None:
        if redis_url is not None and not isinstance(redis_url, str):
            raise SettingsError("redis_url: give a URL as a text, e.g. 'redis://localhost:6379/0'.")
        frame = sys._getframe(1)
        self._module = str(frame.f_globals.get("__name__", "__main__"))
        self._package = str(frame.f_globals.get("__package__") or "")
        self._settings = settings if settings is not None else Settings()
        self.config = AppConfig(
            name=name or _default_name(self._module, frame.f_globals.get("__file__")),
            to_scan=to_scan,
            max_processes=max_processes,
            max_threads=max_threads,
            redis_url=redis_url,
            redis_max_connections=self._settings.redis_max_connections,
            dashboard_enabled=dashboard_enabled,
            dashboard_port=dashboard_port,
            dashboard_host=dashboard_host,
            dashboard_refresh_interval=dashboard_refresh_interval,
            stream_maxlen=self._settings.stream_maxlen if stream_maxlen is None else stream_maxlen,
            grace=grace,
            send_limit=send_limit,
            tracing=tracing,
        )
        self._agents: list[Agent] = []
        self._timers: list[DeclaredTimer] = []
        self._topics: dict[str, Topic] = {}  # by stream
        self._startup: list[Callable[[], Any]] = []
        self._shutdown: list[Callable[[], Any]] = []
        self._redis = RedisConnection(url=redis_url, settings=self._settings)
        self._storage = Storage(self._redis, hold=hold(self))
        self._life: Lifecycle | None = None  # while it runs
        self._main: asyncio.Task[None] | None = None
        self._only: str | None = None  # in a worker process: the one agent to run
        self._origin: Origin | None = None  # in a child: where it was loaded from
        self._signalled = False  # whether the process was asked to end
        self._supervised = False  # whether the process is a child that is started again when it dies
        self._collected = False  # whether a registry collects its metrics
        self.restarts = 0

    # -- registry -----------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The app's name."""
        return self.config.name

    @property
    def agents(self) -> Sequence[Agent]:
        """The agents registered so far."""
        return tuple(self._agents)

    @property
    def timers(self) -> Sequence[DeclaredTimer]:
        """The timers registered so far."""
        return tuple(self._timers)

    def agent(
        self,
        stream: str | Sequence[str],
        group: str | None = None,
        concurrency: int = 1,
        processes: int | None = None,
        *,
        batch: Batch | int | None = None,
        key: str | Callable[[Message], Any] | None = None,
        retry: RetryPolicy | int | None = None,
        timeout: float | None = None,
        lease: float = 30.0,
        dead_letter: bool = True,
        max_deliveries: int = 4,
        dedup: Callable[[Message], str | None] | None = None,
        dedup_window: float = 3600.0,
        prefetch: int | None = None,
        start: str = "0",
        transactional: Transactional = False,
        retain: Literal["all", "acked"] = "all",
    ) -> Callable[[H], H]:
        """Register a handler for the messages of one stream, or of several.

        Consumers of one group share the messages; several groups each get every message. A message is acknowledged when
        its handler has returned; one that raises is tried again by ``retry`` and ends in ``{stream}:dlq``.

        Args:
            stream: a name or a list of names. group: STREAMMACHINE_DEFAULT_GROUP when not given.
            concurrency: handlers at once in one process. processes: run in so many spawned worker processes.
            batch: hand over lists of up to this many messages. key: a field (or function) whose values keep their
            order.
            retry: a policy, or just the number of attempts. timeout: seconds a handler may take.
            lease: seconds after which a message of a dead process is given to another.
            dead_letter: False drops what is given up. max_deliveries: starts without an end before that.
            dedup: gives a key; a message whose key was finished within ``dedup_window`` seconds is skipped.
            prefetch: most messages held at once. start: where a new group begins ("0" the beginning, "$" the end, an
            id).
            transactional: sends and storage writes become visible with the acknowledgement, once.
            retain: "acked" trims what every group has acknowledged.

        Raises:
            SettingsError: a combination that makes no sense, in one sentence.
        """
        config = ConsumerConfig(
            topic=_streams_of(stream),
            group=group if group is not None else self._settings.default_group,
            concurrency=concurrency,
            processes=processes,
            batch=Batch(batch) if type(batch) is int else batch,  # type: ignore[arg-type]
            key=key,
            retry=RetryPolicy() if retry is None else _attempts(retry),
            timeout=timeout,
            lease=lease,
            dead_letter=dead_letter,
            max_deliveries=max_deliveries,
            dedup=dedup,
            dedup_window=dedup_window,
            prefetch=prefetch,
            start=start,
            transactional=transactional,
            retain=retain,
        )

        def register(handler: H) -> H:
            self._add(Agent.declare(config, handler))
            return handler

        return register

    def timer(
        self,
        t: float | str,
        *,
        scope: Literal["process", "fleet"] = "process",
        overlap: bool = False,
        timezone: str = "UTC",
        lease: float = 15.0,
    ) -> Callable[[H], H]:
        """Register a handler that runs every ``t`` seconds, or by a cron string in ``timezone``.

        Args:
            scope: "fleet" runs each tick in one process of all that run the app. overlap: begin a tick while the last
            one runs. lease: of a fleet's tick; where its process is killed, the fleet has no tick for so many seconds.

        Raises:
            SettingsError: t is 0 or less, or no cron string.
        """
        config = TimerConfig(t=t, scope=scope, overlap=overlap, timezone=timezone, lease=lease)

        def register(handler: H) -> H:
            self._timers.append(DeclaredTimer.declare(config, handler))
            return handler

        return register

    def topic(self, name: str, partitions: int = 8, key: Key = "symbol", *, ordered: bool = True) -> Topic:
        """A partitioned topic: ``await topic.send(record)``, and ``@app.agent(topic)`` for its streams.

        Args:
            key: a field (or function of the record) whose values keep their order: each has its partition for ever.
            ordered: each partition is consumed by one process of a group at a time. False: all share all.

        Raises:
            SettingsError: an argument is refused; at the start, another number of partitions than the topic has.
        """
        topic = Topic(self, name, partitions, key, ordered=ordered)
        self._topics |= dict.fromkeys(topic.streams, topic)
        self.on_startup(topic.check)
        return topic

    def on_startup(self, hook: H) -> H:
        """Register a hook (async or sync) that runs when Redis is there and before the first message."""
        self._startup.append(_hook(hook))
        return hook

    def on_shutdown(self, hook: H) -> H:
        """Register a hook that runs after the last message, while Redis is still there."""
        self._shutdown.append(_hook(hook))
        return hook

    def include(self, module: ModuleType | str | App) -> None:
        """Take over the handlers of other Apps: those in a module (or its name), or one App's."""
        if isinstance(module, str):
            module = importlib.import_module(module)
        if not isinstance(module, (ModuleType, App)):
            raise SettingsError(f"include({module!r}): give a module, its name, or an App.")
        others = [module] if isinstance(module, App) else [v for v in vars(module).values() if isinstance(v, App)]
        for other in others:
            if other is self:
                continue
            for agent in other._agents:
                self._add(agent)
            self._timers += [timer for timer in other._timers if timer not in self._timers]
            self._topics |= other._topics
            self._startup += [hook for hook in other._startup if hook not in self._startup]
            self._shutdown += [hook for hook in other._shutdown if hook not in self._shutdown]

    def _add(self, agent: Agent) -> None:
        if agent in self._agents:
            return
        if any(known.name == agent.name for known in self._agents):
            raise SettingsError(
                f"The agent {agent.name!r} is registered twice. Give one of the handlers another name or group."
            )
        self._agents.append(agent)

    # -- sending ------------------------------------------------------------------------------

    @property
    def storage(self) -> Storage:
        """The shared storage. In a transactional handler writes are held back until the commit."""
        return self._storage

    @property
    def redis(self) -> RedisConnection:
        """The app's connection."""
        return self._redis

    rc = redis

    def _use_connection(self, connection: RedisConnection) -> None:
        """Use another connection (the test kit's); only while the app does not run."""
        self._redis = connection
        self._storage = Storage(connection, hold=hold(self))

    async def send(
        self,
        topic: str,
        record: Mapping[Any, Any],
        *,
        dedup_key: str | None = None,
        dedup_window: float = 3600.0,
    ) -> str | None:
        """Append a record to a stream; gives its id ("ms-seq"), in a transactional handler None (it is held back).

        The caller's mapping is not changed. Many sends at once travel together; at most ``send_limit`` are under way.

        Args:
            dedup_key: a second send with this key within ``dedup_window`` seconds gives the first one's id instead.

        Raises:
            FieldError: names the field that is not str, bytes, int, float or bool; or the stream has no name.
        """
        checked_stream(topic)
        fields = fields_of(record, time.time_ns() // 1_000_000)
        window = dedup_life(dedup_window) if dedup_key is not None else 0
        tracing = self._tracing
        if tracing is None:
            return await self._send(topic, fields, dedup_key, window)
        with tracing.sending(topic, [fields]) as span:
            identifier = await self._send(topic, fields, dedup_key, window)
            if identifier is not None:
                span.set_attribute("messaging.message.id", identifier)
        return identifier

    async def send_batch(self, topic: str, records: Iterable[Mapping[Any, Any]]) -> list[str]:
        """Append the records in order, pipelined; gives their ids. All are checked before any is sent."""
        checked_stream(topic)
        now = time.time_ns() // 1_000_000
        encoded = [fields_of(record, now) for record in records]
        tracing = self._tracing
        if tracing is None:
            return await self._send_batch(topic, encoded)
        with tracing.sending(topic, encoded, batch=True):
            return await self._send_batch(topic, encoded)

    async def _send(self, topic: str, fields: dict[bytes, bytes], dedup_key: str | None, window_ms: int) -> str | None:
        transaction = active(self)
        if transaction is not None:
            guard = Guard(companions.dedup_key(topic, dedup_key), window_ms) if dedup_key is not None else None
            transaction.send(topic, fields, self.config.stream_maxlen, guard)
            return None
        if dedup_key is not None:
            return await send_once(self._redis, topic, fields, dedup_key, window_ms, self.config.stream_maxlen)
        life = self._life
        if life is None or life.appender is None or self._redis.is_cluster:  # one pipeline is for one node
            return await streams.append(self._redis, topic, fields, maxlen=self.config.stream_maxlen)
        async with life.slots:
            return await life.appender.append(topic, fields, self.config.stream_maxlen)

    async def _send_batch(self, topic: str, encoded: list[dict[bytes, bytes]]) -> list[str]:
        transaction = active(self)
        if transaction is not None:
            for fields in encoded:
                transaction.send(topic, fields, self.config.stream_maxlen)
            return []
        return await streams.append_many(self._redis, topic, encoded, maxlen=self.config.stream_maxlen)

    @property
    def _tracing(self) -> Tracing | None:
        return self._life.tracing if self._life is not None else find_tracing(self.config.tracing)

    # -- life cycle ---------------------------------------------------------------------------

    def start(self) -> None:
        """Run until SIGTERM or SIGINT (or ``shutdown()``); blocks. A second signal ends the process at once.

        Raises:
            StreamMachineError: a loop runs in this thread already; ``run_async`` is for there.
        """
        if asyncio._get_running_loop() is not None:
            raise StreamMachineError(
                "start() runs a loop of its own, and one runs here already. Use 'async with app:' or "
                "'await app.run_async()' inside of it."
            )
        if not logging.getLogger().handlers:
            logging.basicConfig(
                level=self._settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
            )
        anyio.run(self._run_with_signals, backend_options={"use_uvloop": has_uvloop()})
        if self._signalled:
            end_without_threads()

    async def run_async(self) -> None:
        """Run headless in the current task until ``shutdown()`` or cancellation."""
        try:
            await self._run()
        except BaseExceptionGroup as group:
            raise single(group) from None

    async def __aenter__(self) -> Self:
        ready = anyio.Event()
        self._main = asyncio.create_task(self._run(ready), name=f"streammachine-app-{self.name}")
        waiting = asyncio.create_task(ready.wait())
        try:
            await asyncio.wait([self._main, waiting], return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            self._main.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([self._main])
            self._main = None
            raise
        finally:
            waiting.cancel()
        if self._main.done():
            await self._finish_main()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shutdown()
        await self._finish_main()

    async def shutdown(self) -> None:
        """Drain and end: running handlers finish within the grace, the rest is handed back. Returns when all is done.

        Called by one of the app's own handlers, timers or hooks it returns at once, since the app waits for those.
        """
        life = self._life
        if life is not None:
            life.stop.set()
            if inside.get() is not self:
                await life.ended.wait()

    async def health_check(self) -> dict[str, Any]:
        """The app's health by progress: "degraded" when Redis is away, a consumer stands still or a worker is down."""
        from streammachine.runtime.observability.health import check_app

        return await check_app(self)

    async def _finish_main(self) -> None:
        main, self._main = self._main, None
        if main is None:
            return
        try:
            await main
        except BaseExceptionGroup as group:
            raise single(group) from None

    async def _run_with_signals(self, *, in_child: bool = False) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                self._signalled, self._supervised = False, in_child
                await tasks.start(watch_signals, self._end, self.config.grace, in_child)
                await self._run()
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise single(group) from None

    def _end(self) -> None:
        self._signalled = True
        if self._life is not None:
            self._life.stop.set()

    async def _run(self, ready: anyio.Event | None = None) -> None:
        if self._life is not None:
            raise StreamMachineError(f"The app {self.name!r} runs already.")
        refuse_while_loading()
        self._life = Lifecycle(self)
        try:
            await self._life.run(ready)
        finally:
            self._life = None

    # -- what runs now ------------------------------------------------------------------------

    @property
    def _consumers(self) -> list[tuple[Agent, StreamConsumer]]:
        return self._life.consumers if self._life is not None else []

    @property
    def _running_timers(self) -> list[Timer]:
        return self._life.timers if self._life is not None else []

    @property
    def _workers(self) -> WorkerPool | None:
        return self._life.workers if self._life is not None else None

    @property
    def _appender(self) -> Appender | None:
        return self._life.appender if self._life is not None else None

    def _scan(self) -> None:
        """Import the sub-modules of the app's package; a script on its own has none."""
        if not self.config.to_scan or not self._package or self._module == CHILD_NAME:
            return
        spec = getattr(sys.modules.get("__main__"), "__spec__", None)
        if self._module == "__main__" and spec is not None:
            # python -m package.module: a sub-module that imports it must find this App, not a second one.
            sys.modules.setdefault(spec.name, sys.modules["__main__"])
        package = sys.modules.get(self._package)
        for found in pkgutil.walk_packages(getattr(package, "__path__", None) or [], f"{self._package}."):
            if not found.name.endswith(".__main__"):
                importlib.import_module(found.name)


def _default_name(module: str, file: Any) -> str:
    if module not in ("__main__", CHILD_NAME):
        return module
    return Path(str(file)).stem if file else "app"


def _streams_of(stream: str | Sequence[str]) -> str | tuple[str, ...]:
    """The streams an agent names; what is no list of names is refused with the rest of what it declares."""
    if isinstance(stream, str):
        return stream
    return tuple(stream) if isinstance(stream, Sequence) and not isinstance(stream, bytes) else ()


def _hook(hook: H) -> H:
    if not callable(hook):
        raise SettingsError(f"The hook {hook!r} is no function.")
    if not takes(hook, 0):
        raise SettingsError(f"The hook {hook!r} cannot be called as it will be, with no arguments.")
    return hook


def _attempts(retry: RetryPolicy | int) -> RetryPolicy:
    return RetryPolicy(max_attempts=retry) if type(retry) is int else retry  # type: ignore[return-value]
