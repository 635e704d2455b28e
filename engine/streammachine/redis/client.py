"""coredis' client as we use it: connecting is bounded, its own retries are off, three faults of 6.9 are mended.

- **Slots.** Its pool loses a place for good when a caller is cancelled (or times out) while a connection is opened, and
  when a connection dies while it is lent out; with all places lost every command waits for ever. A cancelled waiter
  also swallows the next one's wake-up. ``Pool`` counts places with a semaphore instead.
- **Bad arguments.** It encodes arguments in the connection's writer task, so one ``None`` or lone surrogate closes the
  connection under everybody's commands. Here they are checked before they are queued, in the caller's own task.
- **Keep-alive.** Its client cannot ask for TCP keep-alive; the connection class can.
"""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import anyio
from anyio.abc import TaskStatus
from coredis import Redis
from coredis.commands.request import CommandRequest
from coredis.connection import BaseConnection, TCPConnection, TCPLocation, UnixDomainSocketConnection
from coredis.connection import UnixDomainSocketLocation as UnixLocation
from coredis.connection._request import Request, RequestBatch
from coredis.exceptions import RedisError, ResponseError
from coredis.pool import ConnectionPool
from coredis.retry import NoRetryPolicy

from streammachine.errors import RedisCommandError
from streammachine.redis.transport.sentinel import primary_of
from streammachine.redis_url import Endpoint

CONNECT_TIMEOUT = 2.0  # seconds to open a socket

log = logging.getLogger(__name__)


def make_client(endpoint: Endpoint, connections: int, timeout: float) -> Redis[bytes]:
    """A client for one server, not entered yet. Who sends a command bounds the time for its reply.

    Args:
        connections: most connections at a time.
        timeout: seconds to wait for a connection, its opening and handshake included.
    """
    options: dict[str, Any] = {
        "max_connections": connections,
        "timeout": timeout,
        "connect_timeout": CONNECT_TIMEOUT,
        "username": endpoint.username,
        "password": endpoint.password,
        "db": endpoint.db,
    }
    pool = (
        Pool(connection_class=_UnixConnection, location=UnixLocation(endpoint.path), **options)
        if endpoint.path is not None
        else Pool(
            connection_class=_TCPConnection,
            location=TCPLocation(endpoint.host, endpoint.port),
            ssl_context=endpoint.ssl_context(),
            endpoint=endpoint,
            **options,
        )
    )
    return Redis(connection_pool=pool, retry_policy=NoRetryPolicy())


class Pool(ConnectionPool[Any]):
    """At most ``max_connections`` connections; a place is given back however its user ends.

    A connection is lent for the time it takes to queue a command (a blocking command: until its reply), so one
    connection carries many commands at a time.
    """

    def __init__(self, *, endpoint: Endpoint | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._endpoint = endpoint  # behind Sentinels: asked before every new connection
        self._places = anyio.Semaphore(self.max_connections)
        self._idle: list[BaseConnection] = []

    async def get_connection(self, **_: Any) -> BaseConnection:
        """An idle connection, else a new one. Raises TimeoutError when none comes free in time."""
        with anyio.fail_after(self.timeout):
            await self._places.acquire()
            try:
                connection = self._reusable() or await self._opened()
            except BaseException:
                self._places.release()
                raise
        self.statistics.connection_leased(connection)
        return connection

    def release(self, connection: BaseConnection) -> None:
        """Give a connection back; one that is broken is forgotten."""
        self.statistics.connection_released(connection)
        if connection.usable:
            self._idle.append(connection)
        self._places.release()

    def _reusable(self) -> BaseConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
            connection.invalidate()
        return None

    async def _opened(self) -> BaseConnection:
        if self._endpoint is not None and self._endpoint.sentinels:
            primary = await primary_of(self._endpoint)
            self.location = TCPLocation(primary.host, primary.port)
        connection: BaseConnection = await self._construct_connection()
        connection.register_connect_callback(_tell_name)
        if error := await self.task_group.start(self._host, connection):
            raise error
        self.statistics.connection_created(connection)
        self._online_connections.add(connection)
        return connection

    async def _host(self, connection: BaseConnection, *, task_status: TaskStatus[RedisError | None]) -> None:
        """The task that a connection lives in."""
        try:
            await connection.run(task_status=task_status)
        except RedisError as error:
            task_status.started(error)
        finally:
            self._online_connections.discard(connection)
            if connection in self._idle:
                self._idle.remove(connection)
            _close_streams(connection)

    def _reset(self) -> None:
        self._idle.clear()


async def _tell_name(connection: BaseConnection) -> None:
    """Name the connection for people who look at the server; a user without the right to it stays without a name."""
    try:
        await connection.create_request(b"CLIENT SETNAME", "streammachine", decode=False)
    except ResponseError as error:
        log.debug("The server takes no name for a connection: %s", error)


class _Checked(BaseConnection):
    """Refuses an argument that cannot be encoded before it is queued among other callers' commands."""

    def create_request(self, command: bytes, *args: Any, **options: Any) -> Request:
        _check(command, args)
        return super().create_request(command, *args, **options)

    def create_request_batch(
        self, commands: Sequence[CommandRequest[Any]], timeout: float | None = None
    ) -> RequestBatch:
        for command in commands:
            _check(command.name, command.serialized_arguments)
        return super().create_request_batch(commands, timeout)


class _TCPConnection(_Checked, TCPConnection):
    def __init__(self, location: TCPLocation, **options: Any) -> None:
        super().__init__(location, socket_keepalive=True, socket_keepalive_options=_keepalive(), **options)


class _UnixConnection(_Checked, UnixDomainSocketConnection):
    pass


def _close_streams(connection: BaseConnection) -> None:
    """Close what coredis leaves open when a connection attempt failed; Python warns of each."""
    for name in ("_write_buffer", "_push_message_buffer", "_streamed_message_buffer"):
        for end in ("in", "out"):
            getattr(connection, f"{name}_{end}").close()


def _check(command: bytes, arguments: Iterable[Any]) -> None:
    for argument in arguments:
        if isinstance(argument, bytes):
            continue
        if isinstance(argument, str):
            if argument.isascii():
                continue
            try:
                argument.encode()
            except UnicodeEncodeError:
                raise RedisCommandError(
                    f"{command.decode()}: {argument!r} holds half of a surrogate pair, which is not valid text. "
                    "Nothing was sent; repair the text, or give bytes."
                ) from None
        elif not isinstance(argument, (int, float)):
            raise RedisCommandError(
                f"{command.decode()}: a {type(argument).__name__} cannot be sent. Nothing was sent; "
                "give text, bytes or a number."
            )


def _keepalive() -> dict[int, int | bytes]:
    """Find a half-open link within about 20 seconds (5 s idle, then 3 probes 5 s apart)."""
    if sys.platform != "linux":
        return {}
    return {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
