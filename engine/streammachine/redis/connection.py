"""RedisConnection: one client, entered once, with every timeout set and no silent retries.

How it lives. Its sockets belong to one task that outlives all users (``host.py``). ``serve()`` is that task: the MCP
server and the App run it in their own task group. Used bare, as in ``RedisConnection()`` or
``async with RedisConnection()``, a host task per event loop does the same; it ends with ``close()`` or with the loop,
and is the only detached task in this project.

Two ways to the server. ``command``, ``exchange`` and all that this package does itself go over the transport: appends,
group reads, commits, storage. ``client`` and ``run`` are coredis' whole client of the same server, for everything else;
it is loaded and opened by its first use.

How a command runs. Under a deadline, and a write is sent once: coredis' default policy would repeat an XADD whose reply
was lost (three entries for one call were measured). If the connection could not be opened nothing was sent, and the
call is tried once more after the embedded server was brought back. After a timeout the connections are dropped: a dead
one would let the next commands run into it too.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
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
from streammachine.redis.commands import EntryReader
from streammachine.redis.host import LoopHost
from streammachine.redis.server_info import parse_info
from streammachine.redis.target import Target, explicit_url
from streammachine.redis.transport.cluster import key_of
from streammachine.redis.transport.codec import RespError
from streammachine.redis.transport.raw_connection import RawConnection, encode_command, refused
from streammachine.redis.transport.shared_connection import SharedConnection, UnsentError
from streammachine.settings import Settings

if TYPE_CHECKING:
    from coredis import Redis

T = TypeVar("T")
log = logging.getLogger(__name__)

COMMAND_TIMEOUT = 5.0  # seconds for one command, its connection included


class RedisConnection:
    """A connection to one Redis or Valkey server, safe for any number of concurrent tasks.

    Args:
        host, port, db, url: the server. Any of them counts as explicit; ``url`` wins, and ``db`` alone is another
            database of the server in REDIS_URL. None of them: the REDIS_ variables, else a running embedded server,
            localhost:6379, a new embedded server (docs/decisions/01-embedded-server.md).
        max_connections: bound of the connections for commands, this package's and coredis' together
            (REDIS_MAX_CONNECTIONS); each has one at least. Blocking readers have connections of their own.
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
        self._url = explicit_url(self.settings, host, port, db, url)
        self._hosts: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopHost] = weakref.WeakKeyDictionary()

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
        host = self._hosts[asyncio.get_running_loop()] = self._new_host()
        await self._hold(host, task_status)

    @property
    def target(self) -> Target | None:
        """The chosen server, or None before the connection is open."""
        host = self._current_host()
        return host.target if host is not None else None

    @property
    def client(self) -> Redis[bytes]:
        """coredis' client of this loop and server, with every command it has; on a Cluster its ``RedisCluster``.

        It is loaded and opened by its first use, speaks RESP3 or, where the server knows no HELLO, RESP2, and never
        sends a command twice. A command has no deadline, and its errors are coredis'; ``run`` gives both::

            async with RedisConnection() as redis:
                await redis.client.zadd("scores", {"ann": 1.5})
                await redis.run(lambda client: client.zrange("scores", 0, -1), repeatable=True)

        Raises:
            RedisUnavailableError: the connection is not open.
        """
        host = self._current_host()
        if host is None or not host.ready.is_set():
            raise RedisUnavailableError(
                "The connection is not open. Use 'async with RedisConnection() as redis:' or await redis.open()."
            )
        return host.client()

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
        await host.loaded_client()

        async def attempt() -> T:
            with anyio.fail_after(limit):
                return await command(host.client())

        return await self._twice(host, attempt, limit, repeatable=repeatable)

    async def command(
        self, *arguments: bytes | str | int, repeatable: bool = False, timeout: float | None = None
    ) -> Any:
        """Run one command over the transport; strings in its reply are bytes.

        Raises:
            What ``run`` raises.
        """
        (reply,) = await self.exchange(
            encode_command(arguments), 1, repeatable=repeatable, timeout=timeout, key=key_of(arguments)
        )
        if isinstance(reply, RespError):
            raise await self._refused(reply, arguments)
        return reply

    async def encoded(self, payload: bytes, *arguments: bytes | str | int) -> Any:
        """Run one command that is encoded already; ``arguments`` are its first ones, up to its keys.

        Raises:
            What ``run`` raises.
        """
        (reply,) = await self.exchange(payload, 1, key=key_of(arguments))
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
        """Send prepared commands over the transport and give their replies, error replies as ``RespError`` values.

        Args:
            key: the key they are about; on a Cluster they go to its node.
        """
        host = await self._opened_host()
        limit = timeout or self.timeout
        try:
            return await host.opened().exchange(payload, replies, limit, key)
        except UnsentError:
            pass
        except RedisTimeoutError:
            raise
        except RedisUnavailableError as error:
            if not repeatable:
                raise await self.explain(error) from error
        await host.revive(limit)
        try:
            return await host.opened().exchange(payload, replies, limit, key)
        except UnsentError as error:
            raise error.cause from error

    async def open_connection(self, key: str | bytes | None = None) -> RawConnection:
        """A raw connection of the caller's own, for blocking reads and pipelines; the caller closes it.

        Args:
            key: the key it is for; on a Cluster it leads to its node.
        """
        host = await self._opened_host()
        try:
            return await host.opened().open(key)
        except RedisAuthError:
            raise
        except (RedisUnavailableError, UnsentError):
            await host.revive(self.timeout)
        try:
            return await host.opened().open(key)
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
            return await self._read_twice(host, lambda: self._walk(host, options))
        raise RedisTimeoutError(f"Redis at {self.name} holds too many keys to walk through in {timeout:g} s.")

    async def info(self, *sections: str, names: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
        """INFO of the server, by its name; of a Cluster that of every primary.

        Args:
            sections: its parts that are wanted. names: the fields, where it is not all of them.

        Raises:
            What ``run`` raises; RedisPermissionError where this user may not ask.
        """
        host = await self._opened_host()
        # Redis before 7 takes one section a command.
        commands = [encode_command(["INFO", section]) for section in sections] or [encode_command(["INFO"])]
        payload = b"".join(commands)

        async def ask() -> dict[str, dict[str, Any]]:
            found: dict[str, dict[str, Any]] = {}
            for primary in await host.opened().each_primary():
                facts: dict[str, Any] = {}
                for reply in await primary.exchange(payload, len(commands), self.timeout):
                    if isinstance(reply, RespError):
                        raise refused(reply, self.name, ("INFO",))
                    facts |= parse_info(bytes(reply).decode("utf-8", "replace"), names)
                found[primary.name] = facts
            return found

        return await self._read_twice(host, ask)

    async def explain(self, error: StreamMachineError) -> StreamMachineError:
        """The error, or a better one: an embedded server that broke a connection may have ended at a full disk."""
        embedded = self.target.embedded if self.target is not None else None
        if embedded is None or not isinstance(error, RedisUnavailableError) or isinstance(error, RedisTimeoutError):
            return error
        problem = await anyio.to_thread.run_sync(embedded.disk_problem, True)
        return RedisDiskError(f"{problem} The last command was not acknowledged.") if problem else error

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
    ) -> EntryReader:
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
        return GroupReader(
            self,
            channels,
            consumer,
            group or self.settings.default_group,
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

    def _new_host(self) -> LoopHost:
        return LoopHost(self.max_connections, self.timeout)

    def _current_host(self) -> LoopHost | None:
        try:
            return self._hosts.get(asyncio.get_running_loop())
        except RuntimeError:
            return None

    async def _opened_host(self) -> LoopHost:
        """This loop's host, started when there is none."""
        loop = asyncio.get_running_loop()
        host = self._hosts.get(loop)
        if host is None:
            host = self._hosts[loop] = self._new_host()
            host.task = loop.create_task(self._hold_bare(host), name="streammachine-redis-host")
        await host.ready.wait()
        if host.failure is not None:
            raise host.failure
        return host

    async def _hold_bare(self, host: LoopHost) -> None:
        try:
            await self._hold(host, anyio.TASK_STATUS_IGNORED)
        except Exception as error:
            if error is not host.failure:  # it came after the start, so nobody waits for it
                log.exception("The Redis host task failed; the next call opens a new one")

    async def _hold(self, host: LoopHost, task_status: anyio.abc.TaskStatus[None]) -> None:
        try:
            await host.hold(self.settings, self._url, task_status)
        finally:
            self._forget(host)

    def _forget(self, host: LoopHost) -> None:
        loop = asyncio.get_running_loop()
        if self._hosts.get(loop) is host:
            del self._hosts[loop]

    # -- details ------------------------------------------------------------------------------

    async def _walk(self, host: LoopHost, options: list[str | int]) -> set[bytes]:
        """All keys that SCAN gives with these options."""
        found: set[bytes] = set()
        for primary in await host.opened().each_primary():
            cursor = b"0"
            while True:
                cursor, keys = await self._asked(primary, encode_command(["SCAN", cursor, *options]), "SCAN")
                found.update(keys)
                if cursor == b"0":
                    break
        return found

    async def _asked(self, primary: SharedConnection, payload: bytes, command: str) -> Any:
        """One primary's reply."""
        (reply,) = await primary.exchange(payload, 1, self.timeout)
        if isinstance(reply, RespError):
            raise refused(reply, self.name, (command,))
        return reply

    async def _read_twice(self, host: LoopHost, read: Callable[[], Awaitable[T]]) -> T:
        """What a read of several steps gives; it begins once more where the connection broke."""
        try:
            return await read()
        except RedisTimeoutError:
            raise
        except (RedisUnavailableError, UnsentError):
            await host.revive(self.timeout)
        try:
            return await read()
        except UnsentError as error:
            raise error.cause from error

    async def _twice(self, host: LoopHost, attempt: Callable[[], Awaitable[T]], limit: float, *, repeatable: bool) -> T:
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
