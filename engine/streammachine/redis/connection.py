"""RedisConnection: one client, entered once, with every timeout set and no silent retries.

How it lives. coredis keeps its sockets in a task group, so its client must be entered and left by one
task that outlives all users (entered inside a request it would die with the request). ``serve()`` is
that task: the MCP server and the App run it in their own task group. Used bare, as in
``RedisConnection()`` or ``async with RedisConnection()``, a host task per event loop does the same; it
ends with ``close()`` or with the loop, and is the only detached task in this project.

How a command runs. ``run(fn)`` calls ``fn(client)`` under a deadline. A write is sent once: coredis' default
policy would repeat an XADD whose reply was lost (three entries for one call were measured). If the
connection could not be opened nothing was sent, and the call is tried once more after the embedded
server was brought back. After a timeout the pool's connections are dropped, because coredis keeps a dead
one and lets the next commands run into it too.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio
import anyio.abc
import anyio.to_thread

from streammachine.errors import RedisUnavailableError, StreamMachineError
from streammachine.redis.target import Target, choose_target
from streammachine.redis.url import Endpoint, parse_url
from streammachine.settings import Settings

if TYPE_CHECKING:
    from coredis import Redis
    from coredis.pool import ConnectionPool

    from streammachine.redis.failures import Failure
    from streammachine.redis.reader import GroupReader

T = TypeVar("T")
log = logging.getLogger(__name__)

COMMAND_TIMEOUT = 5.0  # seconds for one command, its connection included
CONNECT_TIMEOUT = 2.0  # seconds to open a socket and shake hands
MAX_READERS = 1024  # blocking readers hold a connection each; this only guards against a leak
WATCH_PERIOD = 0.5  # seconds between two looks at the embedded server's process


class RedisConnection:
    """A connection to one Redis or Valkey server, safe for any number of concurrent tasks.

    Args:
        host, port, db, url: the server. Any of them counts as explicit; ``url`` wins. None of them:
            the REDIS_ variables, else the choice of DESIGN decision 1 (running embedded server,
            localhost:6379, a new embedded server).
        max_connections: bound of the command pool (REDIS_MAX_CONNECTIONS). Blocking readers have
            connections of their own.
        settings: read from the environment when not given.
        timeout: seconds one command may take.
    """

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        db: int | None = None,
        max_connections: int | None = None,
        url: str | None = None,
        *,
        settings: Settings | None = None,
        timeout: float = COMMAND_TIMEOUT,
    ) -> None:
        self.settings = settings if settings is not None else Settings()
        self.max_connections = max_connections or self.settings.redis_max_connections
        self.timeout = timeout
        self._url = _explicit_url(self.settings, host, port, db, url)
        self._hosts: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Host] = weakref.WeakKeyDictionary()
        self._served: _Host | None = None

    # -- life cycle ---------------------------------------------------------------------------

    async def open(self) -> Self:
        """Connect, and check that the server answers. Opening twice is allowed.

        Raises:
            RedisUnavailableError: nothing answers there; RedisAuthError: it wants another password.
        """
        await self._ensure_host()
        try:
            await self.run(lambda client: client.ping(), repeatable=True)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.close()
            raise
        return self

    async def close(self) -> None:
        """Leave the client of this loop; the last holder of an embedded server shuts it down."""
        host = self._hosts.pop(asyncio.get_running_loop(), None)
        if host is not None:
            host.closing.set()
            if host.task is not None and host.task is not asyncio.current_task():
                await asyncio.wait([host.task])

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Hold the client open until cancelled: the structured way, for an App or a server.

        Reports started once the server is chosen and the client entered; whether the server answers is for
        ``health_check`` to say, so a server that comes later is found then.
        """
        host = _Host()
        await self._host_main(host, task_status)

    @property
    def target(self) -> Target | None:
        """The chosen server, or None before the connection is open."""
        host = self._current_host()
        return host.target if host is not None else None

    @property
    def client(self) -> Redis[bytes]:
        """The coredis client of this loop, for commands that have no method here. It must be open."""
        host = self._current_host()
        if host is None or host.client is None:
            raise RedisUnavailableError(
                "The connection is not open. Use 'async with RedisConnection() as redis:' or await redis.open()."
            )
        return host.client

    # -- commands -----------------------------------------------------------------------------

    async def run(
        self, command: Callable[[Redis[bytes]], Awaitable[T]], *, repeatable: bool = False, timeout: float | None = None
    ) -> T:
        """Run ``command(client)`` under the deadline; translate every failure into this package's errors.

        Args:
            repeatable: the command may run twice without harm (a read), so it is sent again when the connection broke.
            timeout: seconds, instead of the connection's own.

        Raises:
            RedisTimeoutError, RedisUnavailableError, RedisAuthError, RedisFullError, WrongTypeError,
            UnsupportedServerError, RedisCommandError.
        """
        host = self._current_host()
        if host is None or host.client is None:
            host = await self._ensure_host()
        client = host.client
        assert client is not None
        limit = timeout or self.timeout
        try:
            with anyio.fail_after(limit):
                return await command(client)
        except StreamMachineError:
            raise
        except Exception as error:  # noqa: BLE001 - every kind is translated and raised again
            failure = host.translate(error, limit)
            if not (failure.unsent or (repeatable and failure.lost)):
                raise failure.error from error
        await self._revive(host, limit)
        try:
            with anyio.fail_after(limit):
                return await command(client)
        except StreamMachineError:
            raise
        except Exception as error:  # noqa: BLE001
            raise host.translate(error, limit).error from error

    async def run_reader(self, command: Callable[[Redis[bytes]], Awaitable[T]]) -> T:
        """Run a blocking read on a connection of its own; the command bounds its own time."""
        host = await self._ensure_host()
        assert host.reader is not None
        try:
            return await command(host.reader)
        except StreamMachineError:
            raise
        except Exception as error:  # noqa: BLE001 - every kind is translated and raised again
            raise host.translate(error, self.timeout).error from error

    def drop_readers(self) -> None:
        """Close the blocking readers' connections, after one of them turned out to be dead."""
        host = self._current_host()
        if host is not None and host.reader_pool is not None:
            host.reader_pool.disconnect()

    async def pipeline_xadd(
        self, topic: str | bytes, records: Sequence[Mapping[Any, Any]], maxlen: int | None = None
    ) -> list[str]:
        """Append the records in one round trip, in order; give their ids ("ms-seq").

        Every record is checked before anything is sent.

        Raises:
            FieldError: a record holds a value that is not str, bytes, int, float or bool.
        """
        from streammachine.redis.streams import append_many

        return await append_many(self, topic, records, maxlen=maxlen)

    def consumer(
        self,
        channel: str,
        consumer: str,
        group: str,
        start_from_backlog: bool = False,
        auto_acknowledge: bool = True,
        timeout: int | None = 5000,
    ) -> GroupReader:
        """Read ``channel`` as ``consumer`` of ``group``: an async iterator of ``(stream, entry)``.

        The group is created at the stream's start. An entry is acknowledged after the loop's body, when
        the next one is asked for; a body that raises leaves it pending.

        Args:
            start_from_backlog: first give what this consumer was given before and never acknowledged.
            auto_acknowledge: False leaves acknowledging to ``await reader.acknowledge(entry)``.
            timeout: milliseconds without an entry after which the iteration ends; None waits for ever.
        """
        from streammachine.redis.reader import GroupReader

        return GroupReader(
            self, channel, consumer, group, backlog=start_from_backlog, acknowledge=auto_acknowledge, timeout_ms=timeout
        )

    async def health_check(self) -> bool:
        """Whether the server answers PING within the connection's timeout. Never raises for a server that is away."""
        try:
            await self.run(lambda client: client.ping(), repeatable=True)
        except StreamMachineError as error:
            log.debug("health check: %s", error)
            return False
        return True

    # -- hosting ------------------------------------------------------------------------------

    def _current_host(self) -> _Host | None:
        if self._served is not None:
            return self._served
        try:
            return self._hosts.get(asyncio.get_running_loop())
        except RuntimeError:
            return None

    async def _ensure_host(self) -> _Host:
        """This loop's host, started when there is none."""
        if self._served is not None:
            return self._served
        loop = asyncio.get_running_loop()
        host = self._hosts.get(loop)
        if host is None:
            host = self._hosts[loop] = _Host()
            host.task = loop.create_task(self._bare_host(host), name="streammachine-redis-host")
        await host.ready.wait()
        if host.failure is not None:
            self._hosts.pop(loop, None)
            raise host.failure
        return host

    async def _bare_host(self, host: _Host) -> None:
        try:
            await self._host_main(host, anyio.TASK_STATUS_IGNORED)
        except Exception as error:  # noqa: BLE001 - handed to every caller that waits in _ensure_host
            if host.ready.is_set():
                log.exception("The Redis host task failed; the next call opens a new one")
            host.failure = error
        finally:
            host.ready.set()
            loop = asyncio.get_running_loop()
            if self._hosts.get(loop) is host and host.failure is None:
                self._hosts.pop(loop, None)

    async def _host_main(self, host: _Host, task_status: anyio.abc.TaskStatus[None]) -> None:
        served = host.task is None
        host.target = target = await anyio.to_thread.run_sync(choose_target, self.settings, self._url)
        try:
            async with AsyncExitStack() as stack:
                host.pool, host.client = _make_client(target.endpoint, self.max_connections, self.timeout)
                host.reader_pool, host.reader = _make_client(target.endpoint, MAX_READERS, None)
                await stack.enter_async_context(host.client)
                await stack.enter_async_context(host.reader)
                if served:
                    self._served = host
                host.ready.set()
                task_status.started()
                if target.embedded is None:
                    await host.closing.wait()
                else:
                    await self._watch_embedded(host)
        finally:
            host.client = host.reader = None
            if served:
                self._served = None
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(target.release)

    async def _watch_embedded(self, host: _Host) -> None:
        """Bring the embedded server back when its process dies, whoever started it."""
        assert host.target is not None
        server = host.target.embedded
        assert server is not None
        while True:
            with anyio.move_on_after(WATCH_PERIOD):
                await host.closing.wait()
                return
            if not server.alive():
                log.warning("The embedded Valkey died; starting it again on %s", server.url)
                try:
                    await anyio.to_thread.run_sync(server.ensure)
                except StreamMachineError as error:
                    log.error("The embedded Valkey could not be started again: %s", error)

    async def _revive(self, host: _Host, limit: float) -> None:
        """Before the second try: bring the embedded server back, or wait until a socket opens."""
        assert host.target is not None
        if host.target.embedded is not None:
            await anyio.to_thread.run_sync(host.target.embedded.ensure)
            return
        location = host.pool.location if host.pool is not None else None
        with anyio.move_on_after(min(1.0, limit)):
            while location is not None and not await location.check():
                await anyio.sleep(0.05)


class _Host:
    """What one loop's host task holds."""

    def __init__(self) -> None:
        self.ready = anyio.Event()
        self.closing = anyio.Event()
        self.failure: Exception | None = None
        self.task: asyncio.Task[None] | None = None
        self.target: Target | None = None
        self.client: Redis[bytes] | None = None
        self.reader: Redis[bytes] | None = None
        self.pool: ConnectionPool[Any] | None = None
        self.reader_pool: ConnectionPool[Any] | None = None

    def translate(self, error: Exception, limit: float) -> Failure:
        """The failure in our terms; a timeout also drops the pool's connections."""
        from streammachine.redis.failures import translate

        assert self.target is not None
        failure = translate(error, self.target.url, limit)
        if failure.timed_out and self.pool is not None:
            self.pool.disconnect()
        return failure


def _explicit_url(
    settings: Settings, host: str | None, port: int | None, db: int | None, url: str | None
) -> str | None:
    """The URL that the constructor's arguments name, or None when they name nothing."""
    if url is not None:
        parse_url(url)
        return url
    if host is None and port is None and db is None:
        return None
    name = host if host is not None else settings.redis_host
    bracketed = f"[{name}]" if ":" in name else name
    return f"redis://{bracketed}:{port or settings.redis_port}/{settings.redis_db if db is None else db}"


def _make_client(
    endpoint: Endpoint, connections: int, timeout: float | None
) -> tuple[ConnectionPool[Any], Redis[bytes]]:
    """A coredis client with every timeout set, TCP keep-alive on and coredis' own retries off."""
    from coredis import Redis
    from coredis.connection import TCPLocation, UnixDomainSocketLocation
    from coredis.pool import ConnectionPool
    from coredis.retry import NoRetryPolicy

    common: dict[str, Any] = {
        "max_connections": connections,
        "timeout": timeout or COMMAND_TIMEOUT,
        "stream_timeout": timeout,
        "connect_timeout": CONNECT_TIMEOUT,
        "username": endpoint.username,
        "password": endpoint.password,
        "db": endpoint.db,
        "client_name": "streammachine",
    }
    pool: ConnectionPool[Any]
    if endpoint.path is not None:
        pool = ConnectionPool(location=UnixDomainSocketLocation(endpoint.path), **common)
    else:
        pool = ConnectionPool(
            location=TCPLocation(endpoint.host, endpoint.port),
            ssl_context=endpoint.ssl_context(),
            socket_keepalive=True,
            socket_keepalive_options=_keepalive(),
            **common,
        )
    return pool, Redis(connection_pool=pool, retry_policy=NoRetryPolicy())


def _keepalive() -> dict[int, int]:
    """Find a half-open link within about 20 seconds (5 s idle, then 3 probes 5 s apart)."""
    if sys.platform != "linux":
        return {}
    return {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
