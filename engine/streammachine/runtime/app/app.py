"""App: agents and timers on Redis Streams, sending, and the ways to run them.

``start()`` blocks and owns loop and signals; ``async with app`` and ``run_async()`` run it headless inside somebody
else's loop: no signal handlers, no loop policy, any number of Apps side by side. ``registry.py`` holds what
is registered, ``lifecycle.py`` does one run.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import anyio

from streammachine.errors import SettingsError, StreamMachineError, single
from streammachine.logs import configure_logging
from streammachine.redis import streams
from streammachine.redis.connection import RedisConnection
from streammachine.redis.storage import Storage
from streammachine.runtime.app.current import inside
from streammachine.runtime.app.lifecycle import Lifecycle
from streammachine.runtime.app.registry import Registry, import_submodules
from streammachine.runtime.app.topics import Key, Topic
from streammachine.runtime.delivery import keys as companions
from streammachine.runtime.delivery.group import Guard
from streammachine.runtime.delivery.send_once import checked_stream, dedup_life, send_once
from streammachine.runtime.delivery.transaction import active, fields_of, hold
from streammachine.runtime.handlers import end_without_threads
from streammachine.runtime.model.agent import Agent
from streammachine.runtime.model.config import AppConfig
from streammachine.runtime.observability.tracing import Tracing, find_tracing
from streammachine.runtime.processes.garbage import hold_what_is_loaded
from streammachine.runtime.processes.origin import CHILD_NAME, Origin, refuse_while_loading
from streammachine.runtime.processes.signals import has_uvloop, watch_signals
from streammachine.settings import Settings

if TYPE_CHECKING:
    from streammachine.redis.appender import Appender
    from streammachine.runtime.consumer.consumer import StreamConsumer
    from streammachine.runtime.observability.running_app import Gauges
    from streammachine.runtime.processes.worker_pool import WorkerPool
    from streammachine.runtime.timer import Timer


class App(Registry):
    """Agents and timers on Redis Streams.

    Args:
        name: the app's name in logs and consumer names; without it the calling module's, for a script its stem.
        to_scan: import the sub-modules of the app's package at the start, so that their handlers register.
        max_processes: most worker processes.
        max_threads: most sync handlers at once.
        dashboard_enabled: serve the dashboard, /livez, /readyz, /metrics and a status page (docs/dashboard.md).
        dashboard_port: its port.
        dashboard_host: the address that it listens on.
        dashboard_refresh_interval: seconds after which the pages renew themselves.
        stream_maxlen: keep about so many entries of every stream this app sends to (STREAMMACHINE_STREAM_MAXLEN).
        redis_url: the server, instead of the settings'.
        settings: instead of the environment's.
        grace: seconds that running handlers get when the app ends.
        send_limit: most sends under way at once.
        tracing: OpenTelemetry spans for sends and handlers (extra ``monitoring``). None: where the program has set a
            tracer provider; True: always, False: never.
        dashboard_token: the dashboard's token (STREAMMACHINE_DASHBOARD_TOKEN), instead of a new one at each start.
        alerts: evaluate the alerts that ``create_alert`` made, where no server or other App on this Redis does.

    Raises:
        SettingsError: an argument is refused.

    Example:
        >>> app = App("shop")
        >>> @app.agent("orders")
        ... async def handle(message):
        ...     await app.send("invoices", {"order": message["id"]})
        >>> if __name__ == "__main__":
        ...     app.start()
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
        alerts: bool = False,
        dashboard_token: str | None = None,
    ) -> None:
        if redis_url is not None and not isinstance(redis_url, str):
            raise SettingsError("redis_url: give a URL as a text, e.g. 'redis://localhost:6379/0'.")
        frame = sys._getframe(1)
        self._module = str(frame.f_globals.get("__name__", "__main__"))
        self._package = str(frame.f_globals.get("__package__") or "")
        self._settings = settings if settings is not None else Settings()
        super().__init__(self._settings.default_group)
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
            alerts=alerts,
            dashboard_token=self._settings.dashboard_token.get_secret_value()
            if dashboard_token is None and self._settings.dashboard_token is not None
            else dashboard_token,
        )
        self._redis = RedisConnection(url=redis_url, settings=self._settings)
        self._storage = Storage(self._redis, hold=hold(self))
        self._lifecycle: Lifecycle | None = None  # while it runs
        self._earlier_restarts = 0  # of the runs that have ended
        self._main: asyncio.Task[None] | None = None
        self._only_agent: str | None = None  # in a worker process: the one agent to run
        self._origin: Origin | None = None  # in a child: where it was loaded from
        self._signalled = False  # whether the process was asked to end
        self._in_child = False  # whether the process is a child that is started again when it dies
        self._gauges_wanted = False  # whether a collector reads the groups' gauges

    @property
    def name(self) -> str:
        """The app's name."""
        return self.config.name

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

    def topic(self, name: str, partitions: int = 8, key: Key = "symbol", *, ordered: bool = True) -> Topic:
        """Declare a partitioned topic: ``await topic.send(record)``, and ``@app.agent(topic)`` for its streams.

        Args:
            name: the topic's name, without braces.
            partitions: how many streams it has; it must stay the same.
            key: a field (or function of the record) whose values keep their order: each always has the same partition.
            ordered: each partition is consumed by one process of a group at a time. False: all processes share all.

        Returns:
            The topic. It checks its number of partitions in Redis when the app starts.

        Raises:
            SettingsError: an argument is refused; at the start, another number of partitions than the topic has.

        Example:
            >>> ticks = app.topic("ticks", partitions=8, key="symbol")
            >>> @app.agent(ticks, group="candles")
            ... async def on_tick(message):
            ...     ...
        """
        topic = Topic(self, name, partitions, key, ordered=ordered)
        self._topics |= dict.fromkeys(topic.streams, topic)
        self.on_startup(topic.check)
        return topic

    # -- sending ------------------------------------------------------------------------------

    async def send(
        self,
        topic: str,
        record: Mapping[Any, Any],
        *,
        dedup_key: str | None = None,
        dedup_window: float = 3600.0,
    ) -> str | None:
        """Append a record to a stream.

        Many sends at once travel together; at most ``send_limit`` are under way.

        Args:
            topic: the stream's name.
            record: the fields: values of str, bytes, int, float or bool. It is not changed.
            dedup_key: a second send with this key within ``dedup_window`` seconds gives the first one's id instead.
            dedup_window: seconds, see ``dedup_key``.

        Returns:
            The entry's id ("ms-seq"); in a transactional handler None: the record is held back until the commit.

        Raises:
            FieldError: names the field that cannot be sent; or the stream has no name.
            RedisUnavailableError: Redis does not answer. The record may have been appended all the same.

        Example:
            >>> await app.send("orders", {"id": "1", "total": 12.5})
            '1700000000000-0'
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
        """Append records to a stream, in order and in one pipeline. All are checked before any is sent.

        Args:
            topic: the stream's name. records: as ``send`` takes them.

        Returns:
            The entries' ids in the order of the records; in a transactional handler an empty list.

        Raises:
            FieldError: names the field that cannot be sent; nothing was sent.
            RedisUnavailableError: Redis does not answer. Some records may have been appended all the same.

        Example:
            >>> ids = await app.send_batch("orders", [{"id": "1"}, {"id": "2"}])
        """
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
        run = self._lifecycle
        if run is None or run.appender is None or self._redis.is_cluster:  # one pipeline is for one node
            return await streams.append(self._redis, topic, fields, maxlen=self.config.stream_maxlen)
        async with run.slots:
            return await run.appender.append(topic, fields, self.config.stream_maxlen)

    async def _send_batch(self, topic: str, encoded: list[dict[bytes, bytes]]) -> list[str]:
        transaction = active(self)
        if transaction is not None:
            for fields in encoded:
                transaction.send(topic, fields, self.config.stream_maxlen)
            return []
        return await streams.append_many(self._redis, topic, encoded, maxlen=self.config.stream_maxlen)

    @property
    def _tracing(self) -> Tracing | None:
        return self._lifecycle.tracing if self._lifecycle is not None else find_tracing(self.config.tracing)

    # -- life cycle ---------------------------------------------------------------------------

    def start(self) -> None:
        """Run until SIGTERM or SIGINT (or ``shutdown()``); blocks. A second signal ends the process at once.

        Raises:
            StreamMachineError: a loop runs in this thread already (``run_async`` is for there), or the app runs.
            RedisUnavailableError: no server answers at the start.

        Example:
            >>> if __name__ == "__main__":
            ...     app.start()
        """
        if asyncio._get_running_loop() is not None:
            raise StreamMachineError(
                "start() runs a loop of its own, and one runs here already. Use 'async with app:' or "
                "'await app.run_async()' inside of it."
            )
        if not logging.getLogger().handlers:
            configure_logging(self._settings.log_level, log_format=self._settings.log_format)
        anyio.run(self._run_with_signals, backend_options={"use_uvloop": has_uvloop()})
        if self._signalled:
            end_without_threads()

    async def run_async(self) -> None:
        """Run headless in the current task until ``shutdown()`` or cancellation.

        Raises:
            StreamMachineError: the app runs already.
            RedisUnavailableError: no server answers at the start.

        Example:
            >>> async with anyio.create_task_group() as tasks:
            ...     tasks.start_soon(app.run_async)
        """
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
        run = self._lifecycle
        if run is not None:
            run.stop.set()
            if inside.get() is not self:
                await run.ended.wait()

    async def health_check(self) -> dict[str, Any]:
        """The app's health, judged by progress: whether its consumers' reads come back and their handlers end.

        Returns:
            ``status`` ("healthy", or "degraded" when Redis is away, a consumer stands still or a worker is down),
            ``problems`` (sentences), ``redis``, ``active_tasks``, ``registered_agents``, ``registered_timers``,
            ``consumers`` (the facts of each), ``workers`` (processes alive) and ``restarts``.

        Example:
            >>> (await app.health_check())["status"]
            'healthy'
        """
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
                self._signalled, self._in_child = False, in_child
                await tasks.start(watch_signals, self._end, self.config.grace, in_child)
                ready = anyio.Event()
                tasks.start_soon(hold_what_is_loaded, ready)
                await self._run(ready)
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise single(group) from None

    def _end(self) -> None:
        self._signalled = True
        if self._lifecycle is not None:
            self._lifecycle.stop.set()

    async def _run(self, ready: anyio.Event | None = None) -> None:
        if self._lifecycle is not None:
            raise StreamMachineError(f"The app {self.name!r} runs already.")
        refuse_while_loading()
        self._lifecycle = run = Lifecycle(
            self, self.config, self._redis, self._find_origin,
            only_agent=self._only_agent, in_child=self._in_child,
            serve_status=self._serve_status if self.config.dashboard_enabled else None, read_gauges=self._read_gauges,
        )  # fmt: skip
        token = inside.set(self)
        try:
            if self.config.to_scan and self._module != CHILD_NAME:
                import_submodules(self._module, self._package)
            await run.run(ready)
        finally:
            inside.reset(token)
            self._earlier_restarts += run.restarts
            self._lifecycle = None

    def _find_origin(self) -> Origin | None:
        return self._origin or Origin.of(self, self._module)

    async def _serve_status(self) -> None:
        from streammachine.dashboard.serving import serve_app  # the room above; a door, inside a function

        await serve_app(self)

    async def _read_gauges(self) -> Gauges:
        if not self._gauges_wanted:
            return {}
        from streammachine.runtime.observability.health import read_gauges

        return await read_gauges(self)

    # -- what runs now: the protocol RunningApp -----------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether its connection is open and its start-up hooks have begun."""
        return self._lifecycle is not None and self._lifecycle.began

    @property
    def consumers(self) -> Sequence[tuple[Agent, StreamConsumer]]:
        """The consumers that run in this process, each with its agent; empty while the app does not run."""
        return self._lifecycle.consumers if self._lifecycle is not None else []

    @property
    def running_timers(self) -> Sequence[Timer]:
        """The timers that run in this process; empty while the app does not run."""
        return self._lifecycle.timers if self._lifecycle is not None else []

    @property
    def workers(self) -> WorkerPool | None:
        """The worker processes; None while the app does not run."""
        return self._lifecycle.workers if self._lifecycle is not None else None

    @property
    def gauges(self) -> Gauges:
        """What Redis said of the groups, a few seconds ago at most; empty unless ``keep_gauges`` was called."""
        return self._lifecycle.gauges if self._lifecycle is not None else {}

    @property
    def restarts(self) -> int:
        """How often a part of the app failed and was started again in this process."""
        return self._earlier_restarts + (self._lifecycle.restarts if self._lifecycle is not None else 0)

    def keep_gauges(self) -> None:
        """Ask Redis about the groups every few seconds while the app runs: a collector reads ``gauges``."""
        self._gauges_wanted = True

    @property
    def _appender(self) -> Appender | None:
        return self._lifecycle.appender if self._lifecycle is not None else None


def _default_name(module: str, file: Any) -> str:
    if module not in ("__main__", CHILD_NAME):
        return module
    return Path(str(file)).stem if file else "app"
