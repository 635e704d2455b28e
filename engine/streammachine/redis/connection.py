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
import importlib
import logging
import os
import socket
import uuid
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio
import anyio.abc
import anyio.to_thread

from streammachine.errors import (
    RedisAuthError,
    RedisDiskError,
    RedisTimeoutError,
    RedisUnavailableError,
    SettingsError,
    StreamMachineError,
)
from streammachine.redis.target import Target, choose_target
from streammachine.redis.transport.cluster import ClusterRoads, key_of
from streammachine.redis.transport.codec import RespError
from streammachine.redis.transport.raw_connection import RawConnection, encode_command, refused
from streammachine.redis.transport.shared_connection import SharedConnection, UnsentError
from streammachine.redis_url import parse_url, with_db
from streammachine.settings import Settings

if TYPE_CHECKING:
    from coredis import Redis

    from streammachine.redis.embedded.server import EmbeddedServer
    from streammachine.redis.failures import Failure
    from streammachine.redis.group_reader import GroupReader

T = TypeVar("T")
log = logging.getLogger(__name__)

COMMAND_TIMEOUT = 5.0  # seconds for one command, its connection included
MAX_READERS = 1024  # blocking readers hold a connection each; this only guards against a leak
WATCH_PERIOD = 0.5  # seconds between two looks at the embedded server's process
REVIVE_WAIT = 1.0  # seconds to wait for a server that is just being restarted


class RedisConnection:
    """A connection to one Redis or Valkey server, safe for any number of concurrent tasks.

    Args:
        host, port, db, url: the server. Any of them counts as explicit; ``url`` wins, and ``db`` alone is another
            database of the server in REDIS_URL. None of them: the REDIS_ variables, else a running embedded server,
            localhost:6379, a new embedded server (docs/decisions/01-embedded-server.md).
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
        self.max_connections = self.settings.redis_max_connections if max_connections is None else max_connections
        if self.max_connections < 1 or timeout <= 0:
            raise SettingsError(f"max_connections={max_connections!r}, timeout={timeout!r}: give numbers above 0.")
        self.timeout = timeout
        self._url = _explicit_url(self.settings, host, port, db, url)
        self._hosts: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Host] = weakref.WeakKeyDictionary()

    # -- life cycle ---------------------------------------------------------------------------

    async def open(self) -> Self:
        """Connect, and check that the server answers. Opening twice is allowed.

        Raises:
            RedisUnavailableError: nothing answers there; RedisAuthError: it wants another password.
        """
        was_open = self._current_host() is not None
        try:
            await self.command("PING", repeatable=True)
        except BaseException:
            if not was_open:
                with anyio.CancelScope(shield=True):
                    await self.close()
            raise
        return self

    async def close(self) -> None:
        """Leave the client of this loop; the last holder of an embedded server shuts it down.

        The next command opens it again. A client that ``serve`` holds is left alone: who serves it ends it.
        """
        host = self._current_host()
        if host is not None and host.task is not None:
            self._forget(host)
            host.closing.set()
            await asyncio.wait([host.task])

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Hold the client of this loop open until cancelled: the structured way, for an App or a server.

        Reports started once the server is chosen and the client entered; whether the server answers is for
        ``health_check`` to say, so a server that comes later is found then.
        """
        await self.close()
        host = self._hosts[asyncio.get_running_loop()] = _Host()
        await self._hold(host, task_status)

    @property
    def target(self) -> Target | None:
        """The chosen server, or None before the connection is open."""
        host = self._current_host()
        return host.target if host is not None else None

    @property
    def client(self) -> Redis[bytes]:
        """The coredis client of this loop. It must be open, and has no deadlines: ``run`` is the better way."""
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
            command: one command or one pipeline. What it does apart from that may be done twice.
            repeatable: the command may run twice without harm (a read), so it is sent again when the connection broke.
            timeout: seconds, instead of the connection's own.

        Raises:
            RedisTimeoutError, RedisUnavailableError, RedisAuthError, RedisReadOnlyError, RedisDiskError,
            RedisFullError, WrongTypeError, RedisPermissionError, UnsupportedServerError, RedisCommandError.
        """
        limit = timeout or self.timeout
        host = await self._opened_host()

        async def attempt() -> T:
            with anyio.fail_after(limit):
                return await command(host.opened(host.client))

        return await self._twice(host, attempt, limit, repeatable=repeatable)

    async def run_reader(self, command: Callable[[Redis[bytes]], Awaitable[T]]) -> T:
        """Run a blocking read on a connection of its own; the command bounds its own time."""
        host = await self._opened_host()

        async def attempt() -> T:
            return await command(host.opened(host.reader))

        return await self._twice(host, attempt, self.timeout, repeatable=False)

    async def command(
        self, *arguments: bytes | str | int, repeatable: bool = False, timeout: float | None = None
    ) -> Any:
        """Run one raw command over the fast road; strings in its reply are bytes.

        Raises:
            What ``run`` raises.
        """
        (reply,) = await self.exchange(
            encode_command(arguments), 1, repeatable=repeatable, timeout=timeout, key=key_of(arguments)
        )
        if isinstance(reply, RespError):
            raise await self._refused(reply, arguments)
        return reply

    async def _refused(self, reply: RespError, arguments: Sequence[object]) -> StreamMachineError:
        error = refused(reply, self.name, arguments)
        return await self.explain(error) if isinstance(error, RedisDiskError) else error

    async def exchange(
        self,
        payload: bytes,
        replies: int,
        *,
        repeatable: bool = False,
        timeout: float | None = None,
        key: str | bytes | None = None,
    ) -> list[Any]:
        """Send prepared commands over the fast road and give their replies, error replies as ``RespError`` values.

        Args:
            key: the key they are about; on a Cluster they go to its node.
        """
        host = await self._opened_host()
        limit = timeout or self.timeout
        try:
            return await host.opened_road().exchange(payload, replies, limit, key)
        except UnsentError:
            pass
        except RedisTimeoutError:
            raise
        except RedisUnavailableError as error:
            if not repeatable:
                raise await self.explain(error) from error
        await host.revive(limit)
        try:
            return await host.opened_road().exchange(payload, replies, limit, key)
        except UnsentError as error:
            raise error.cause from error

    async def open_road(self, key: str | bytes | None = None) -> RawConnection:
        """A raw connection of the caller's own, for blocking reads and pipelines; the caller closes it.

        Args:
            key: the key it is for; on a Cluster it leads to its node.
        """
        host = await self._opened_host()
        try:
            return await host.opened_road().open(key)
        except RedisAuthError:
            raise
        except (RedisUnavailableError, UnsentError):
            await host.revive(self.timeout)
        try:
            return await host.opened_road().open(key)
        except UnsentError as error:
            raise error.cause from error

    async def scan(self, pattern: str, kind: str | None = None, *, timeout: float = 60.0) -> set[bytes]:
        """The keys that match a glob pattern, of one type where ``kind`` names it.

        Walks with SCAN, which blocks nobody; on a Cluster through every primary. Where the connection broke it walks
        once more.

        Raises:
            What ``run`` raises; RedisTimeoutError also when the walk as a whole takes longer than ``timeout`` seconds.
        """
        host = await self._opened_host()
        options: list[str | int] = ["MATCH", pattern, "COUNT", 1000]
        if kind is not None:
            options += ["TYPE", kind]
        with anyio.move_on_after(timeout):
            try:
                return await self._walk(host, options)
            except RedisTimeoutError:
                raise
            except (RedisUnavailableError, UnsentError):
                await host.revive(self.timeout)
            try:
                return await self._walk(host, options)
            except UnsentError as error:
                raise error.cause from error
        raise RedisTimeoutError(f"Redis at {self.name} holds too many keys to walk through in {timeout:g} s.")

    async def info(self, *sections: str) -> dict[str, dict[str, Any]]:
        """INFO of the server, by its name; of a Cluster that of every primary.

        Raises:
            What ``run`` raises; RedisPermissionError where this user may not ask.
        """
        from streammachine.redis.condition import parse_info

        host = await self._opened_host()
        payload = encode_command(["INFO", *sections])

        async def ask() -> dict[str, dict[str, Any]]:
            found: dict[str, dict[str, Any]] = {}
            for road in await host.opened_road().each_primary():
                (reply,) = await road.exchange(payload, 1, self.timeout)
                if isinstance(reply, RespError):
                    raise refused(reply, self.name, ("INFO",))
                found[road.name] = parse_info(bytes(reply).decode("utf-8", "replace"))
            return found

        try:
            return await ask()
        except RedisTimeoutError:
            raise
        except (RedisUnavailableError, UnsentError):
            await host.revive(self.timeout)
        try:
            return await ask()
        except UnsentError as error:
            raise error.cause from error

    async def explain(self, error: StreamMachineError) -> StreamMachineError:
        """The error, or a better one: an embedded server that broke a connection may have ended at a full disk."""
        embedded = self.target.embedded if self.target is not None else None
        if embedded is None or not isinstance(error, RedisUnavailableError) or isinstance(error, RedisTimeoutError):
            return error
        problem = await anyio.to_thread.run_sync(embedded.disk_problem, True)
        return RedisDiskError(f"{problem} The last command was not acknowledged.") if problem else error

    async def _walk(self, host: _Host, options: list[str | int]) -> set[bytes]:
        """All keys that SCAN gives with these options."""
        found: set[bytes] = set()
        for road in await host.opened_road().each_primary():
            cursor = b"0"
            while True:
                (reply,) = await road.exchange(encode_command(["SCAN", cursor, *options]), 1, self.timeout)
                if isinstance(reply, RespError):
                    raise refused(reply, self.name, ("SCAN",))
                cursor, keys = reply
                found.update(keys)
                if cursor == b"0":
                    break
        return found

    @property
    def is_cluster(self) -> bool:
        """Whether the server is a Cluster: what one script touches must then stand in one slot."""
        target = self.target
        return target is not None and target.endpoint.cluster

    @property
    def name(self) -> str:
        """The server's masked URL, for messages."""
        target = self.target
        return target.url if target is not None else "a server that is not chosen yet"

    @property
    def url(self) -> str | None:
        """The chosen server's URL with its password, for a child process; None before the connection is open."""
        target = self.target
        if target is None or target.origin != "explicit":
            return target.url if target is not None else None
        return self._url if self._url is not None else self.settings.explicit_url()

    def drop_readers(self) -> None:
        """Close the blocking readers' connections, after one of them turned out to be dead."""
        host = self._current_host()
        if host is not None and host.reader is not None:
            host.reader.connection_pool.disconnect()

    async def pipeline_xadd(
        self, topic: str | bytes, records: Sequence[Mapping[Any, Any]], maxlen: int | None = None
    ) -> list[str]:
        """Append the records in order, pipelined; give their ids ("ms-seq").

        Every record is checked before anything is sent.

        Raises:
            FieldError: a record holds a value that is not str, bytes, int, float or bool.
        """
        from streammachine.redis.streams import append_many

        return await append_many(self, topic, records, maxlen=maxlen)

    def consumer(
        self,
        channel: str | Sequence[str],
        consumer: str | None = None,
        group: str | None = None,
        start_from_backlog: bool = False,
        auto_acknowledge: bool = True,
        timeout: int | None = 5000,
    ) -> GroupReader:
        """Read ``channel``, a stream or a list, as ``consumer`` of ``group``: an async iterator of ``(stream, entry)``.

        The group is created at the stream's start, and again if it vanishes (DEL, FLUSHALL). An entry is acknowledged
        after the loop's body, when the next one is asked for; a body that raises or breaks leaves it pending. What
        was read ahead comes first when the same reader is iterated again; another one gets it with
        ``start_from_backlog=True``.

        Args:
            channel: on a Cluster several streams must stand in one slot.
            consumer: None makes up a name of its own, under which nobody is given again what was left pending.
            group: None: STREAMMACHINE_DEFAULT_GROUP.
            start_from_backlog: first give what this consumer was given before and never acknowledged.
            auto_acknowledge: False leaves acknowledging to ``await reader.acknowledge(entry, stream)``.
            timeout: milliseconds without an entry after which the iteration ends; None or 0 waits for ever.
        """
        from streammachine.redis.group_reader import GroupReader

        channels = [channel] if isinstance(channel, str) else channel
        consumer = consumer or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        group = group or self.settings.default_group
        return GroupReader(
            self,
            channels,
            consumer,
            group,
            backlog=start_from_backlog,
            acknowledge=auto_acknowledge,
            timeout_ms=timeout,
        )

    async def health_check(self) -> bool:
        """Whether the server answers PING within the connection's timeout. Never raises for a server that is away."""
        try:
            await self.command("PING", repeatable=True)
        except StreamMachineError as error:
            log.debug("health check: %s", error)
            return False
        return True

    # -- hosting ------------------------------------------------------------------------------

    def _current_host(self) -> _Host | None:
        try:
            return self._hosts.get(asyncio.get_running_loop())
        except RuntimeError:
            return None

    async def _opened_host(self) -> _Host:
        """This loop's host, started when there is none."""
        loop = asyncio.get_running_loop()
        host = self._hosts.get(loop)
        if host is None:
            host = self._hosts[loop] = _Host()
            host.task = loop.create_task(self._bare_host(host), name="streammachine-redis-host")
        await host.ready.wait()
        if host.failure is not None:
            raise host.failure
        return host

    async def _bare_host(self, host: _Host) -> None:
        try:
            await self._hold(host, anyio.TASK_STATUS_IGNORED)
        except Exception as error:
            if error is not host.failure:  # it came after the start, so nobody waits for it
                log.exception("The Redis host task failed; the next call opens a new one")

    async def _hold(self, host: _Host, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Choose the server and hold its clients open until the host closes."""
        try:
            target = await anyio.to_thread.run_sync(_choose, self.settings, self._url)
            try:
                await self._hold_clients(host, target, task_status)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(target.release)
        except BaseException as error:
            if not host.ready.is_set():
                host.failure = error if isinstance(error, Exception) else host.closed()
            raise
        finally:
            host.ready.set()
            self._forget(host)

    async def _hold_clients(self, host: _Host, target: Target, task_status: anyio.abc.TaskStatus[None]) -> None:
        if target.endpoint.cluster:
            await self._hold_cluster(host, target, task_status)
            return
        from streammachine.redis.client import make_client

        # One of the connections is the shared road.
        commands = make_client(target.endpoint, max(1, self.max_connections - 1), self.timeout)
        readers = make_client(target.endpoint, MAX_READERS, self.timeout)
        async with commands, readers:
            host.target, host.client, host.reader = target, commands, readers
            host.shared = shared = SharedConnection(target.endpoint, target.url)
            host.ready.set()
            task_status.started()
            try:
                if target.embedded is None:
                    await host.closing.wait()
                else:
                    await _watch(target.embedded, host.closing)
            finally:
                host.client = host.reader = host.shared = None  # before they close: who still uses them learns why
                await shared.aclose()

    async def _hold_cluster(self, host: _Host, target: Target, task_status: anyio.abc.TaskStatus[None]) -> None:
        """A Cluster is reached over roads alone: they know which node a command is for."""
        host.target = target
        host.shared = shared = ClusterRoads(target.endpoint, target.url)
        try:
            await shared.each_primary()
            host.ready.set()
            task_status.started()
            await host.closing.wait()
        except UnsentError as error:
            raise error.cause from error
        finally:
            host.shared = None
            await shared.aclose()

    def _forget(self, host: _Host) -> None:
        loop = asyncio.get_running_loop()
        if self._hosts.get(loop) is host:
            del self._hosts[loop]

    async def _twice(self, host: _Host, attempt: Callable[[], Awaitable[T]], limit: float, *, repeatable: bool) -> T:
        """Try, and once more if nothing was sent, or if it may be sent twice."""
        try:
            return await attempt()
        except StreamMachineError:
            raise
        except Exception as error:
            failure = host.translate(error, limit)
            if not (failure.unsent or (repeatable and failure.lost)):
                raise failure.error from error
        await host.revive(limit)
        try:
            return await attempt()
        except StreamMachineError:
            raise
        except Exception as error:
            raise host.translate(error, limit).error from error


class _Host:
    """What one loop's host task holds. ``task`` is None where ``serve`` is that task."""

    def __init__(self) -> None:
        self.ready = anyio.Event()
        self.closing = anyio.Event()
        self.failure: Exception | None = None
        self.task: asyncio.Task[None] | None = None
        self.target: Target | None = None
        self.client: Redis[bytes] | None = None
        self.reader: Redis[bytes] | None = None
        self.shared: SharedConnection | ClusterRoads | None = None

    def opened_road(self) -> SharedConnection | ClusterRoads:
        """The shared road, or why there is none."""
        if self.shared is None:
            raise self.closed()
        return self.shared

    def opened(self, client: Redis[bytes] | None) -> Redis[bytes]:
        """The client, unless the host has left it meanwhile."""
        if client is None:
            raise self.closed()
        return client

    def closed(self) -> RedisUnavailableError:
        """The error for a command that comes while the connection is being closed."""
        where = f" to {self.target.url}" if self.target is not None else ""
        return RedisUnavailableError(f"The connection{where} was closed meanwhile. Open it again.")

    def translate(self, error: Exception, limit: float) -> Failure:
        """The failure in our terms; a timeout and a replica's answer also drop the pool's connections."""
        from streammachine.redis.failures import Failure, translate

        if self.client is None:
            return Failure(self.closed())
        assert self.target is not None
        failure = translate(error, self.target.url, limit)
        if failure.timed_out or failure.replica:
            self.client.connection_pool.disconnect()
        return failure

    async def revive(self, limit: float) -> None:
        """Before the second try: bring the embedded server back, or wait a second at most until a socket opens."""
        embedded = self.target.embedded if self.target is not None else None
        location = self.client.connection_pool.location if self.client is not None else None
        with anyio.move_on_after(min(REVIVE_WAIT, limit)):
            while location is not None:
                if embedded is not None:
                    # A killed process counts as alive until the kernel is through with it: hence the loop.
                    await anyio.to_thread.run_sync(embedded.ensure)
                if await location.check():
                    return
                await anyio.sleep(0.05)


def _choose(settings: Settings, url: str | None) -> Target:
    """Choose the server, and load the client library (a sixth of a second) where it holds up no loop."""
    importlib.import_module("streammachine.redis.client")
    return choose_target(settings, url)


async def _watch(server: EmbeddedServer, closing: anyio.Event) -> None:
    """Bring the embedded server back when its process dies, whoever started it, until ``closing``."""
    said = ""  # the last failure: one that lasts is logged once
    while True:
        with anyio.move_on_after(WATCH_PERIOD):
            await closing.wait()
            return
        if server.alive():
            continue
        if not said:
            log.warning("The embedded Valkey died; starting it again on %s", server.url)
        try:
            await anyio.to_thread.run_sync(server.ensure)
        except StreamMachineError as error:
            if str(error) != said:
                said = str(error)
                log.error("The embedded Valkey could not be started again (trying on): %s", error)
        else:
            said = ""


def _explicit_url(
    settings: Settings, host: str | None, port: int | None, db: int | None, url: str | None
) -> str | None:
    """The URL that the constructor's arguments name, or None when they name nothing."""
    if url is None and host is None and port is None:
        if db is None:
            return None
        if settings.redis_url is not None:
            return with_db(settings.explicit_url(), db)  # the database alone: on the server that REDIS_URL names
    if url is None:
        name = host if host is not None else settings.redis_host
        bracketed = f"[{name}]" if ":" in name else name
        number = settings.redis_port if port is None else port
        url = f"redis://{bracketed}:{number}/{settings.redis_db if db is None else db}"
    parse_url(url)
    return url
