"""coredis' client as we hand it out: opened by its first command, and without its traps.

- **Repeats.** Its own retries are off, in pipelines of a Cluster too: they send what may have run already.
- **Floats.** It writes them with 15 digits, so ``0.1 + 0.2`` became ``0.3``; here with all that they have.
- **Lone keys.** ``delete("ab")`` deleted the keys ``a`` and ``b``: a text in the place of a list is one element here.
- **Bad arguments.** It encodes arguments in the connection's writer task, so one ``None`` or lone surrogate closes the
  connection under everybody's commands. Here they are checked before they are queued, in the caller's own task.
- **Slots.** Its pools lose a place for good when a caller is cancelled (or times out) while a connection is opened, and
  when a connection dies while it is lent out; with all places lost every command waits for ever. A cancelled waiter
  also swallows the next one's wake-up. ``client_pool.py`` counts with a semaphore instead.
- **RESP2.** It demands HELLO 3. A server without it is spoken to in RESP2 (``resp2.py``).
- **Keep-alive.** Its client cannot ask for TCP keep-alive; the connection class can.
- **Life.** Its client must be entered by a task that outlives its users; these run in the task group of our host task,
  so a pool costs nothing before its first command. Entering one of them does nothing.
"""

from __future__ import annotations

import functools
import inspect
import logging
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar, cast

from anyio.abc import TaskGroup
from coredis import Redis, RedisCluster
from coredis.commands.request import CommandRequest
from coredis.connection import BaseConnection, ClusterConnection, TCPConnection, TCPLocation, UnixDomainSocketConnection
from coredis.connection import UnixDomainSocketLocation as UnixLocation
from coredis.connection._request import Request, RequestBatch
from coredis.exceptions import (
    AuthenticationError,
    AuthenticationRequiredError,
    AuthorizationError,
    ProtocolError,
    ResponseError,
)
from coredis.exceptions import ConnectionError as LostError
from coredis.patterns.pipeline import ClusterPipeline, ClusterPipelineCommandRequest, Pipeline
from coredis.patterns.pubsub import ShardedPubSub
from coredis.retry import NoRetryPolicy

from streammachine.errors import RedisCommandError
from streammachine.redis.client_pool import ClusterPool, Discovery, Pool
from streammachine.redis.resp2 import Resp2Parser, as_resp3
from streammachine.redis.transport.cluster import ClusterConnections
from streammachine.redis.transport.shared_connection import SharedConnection
from streammachine.redis_url import Endpoint

CONNECT_TIMEOUT = 2.0  # seconds to open a socket
_REFUSED = (AuthenticationError, AuthorizationError)  # of HELLO: the login, not the command

T = TypeVar("T")
log = logging.getLogger(__name__)


def make_client(
    endpoint: Endpoint,
    connections: int,
    timeout: float,
    tasks: TaskGroup,
    shared: SharedConnection | ClusterConnections,
) -> Redis[bytes]:
    """A client for one server or Cluster, ready for use. Who sends a command bounds the time for its reply.

    Args:
        connections: most connections at a time; a Cluster's nodes share them, one each at least.
        timeout: seconds to wait for a connection, its opening and handshake included.
        tasks: the task group that its connections live in.
        shared: the transport's connection to the same server; of a Cluster it knows the map of slots.

    Returns:
        A ``Redis``; for a Cluster a ``RedisCluster``, which has the same commands.
    """
    options: dict[str, Any] = {
        "timeout": timeout,
        "connect_timeout": CONNECT_TIMEOUT,
        "username": endpoint.username,
        "password": endpoint.password,
    }
    if isinstance(shared, ClusterConnections):
        cluster = ClusterPool(
            tasks,
            connections,
            Discovery(shared, endpoint.host),
            connection_class=_NodeConnection,
            ssl_context=endpoint.ssl_context(),
            **options,
        )
        return cast("Redis[bytes]", _ClusterClient(connection_pool=cluster, retry_policy=NoRetryPolicy()))
    options |= {"max_connections": connections, "db": endpoint.db}
    pool = (
        Pool(tasks, connection_class=_UnixConnection, location=UnixLocation(endpoint.path), **options)
        if endpoint.path is not None
        else Pool(
            tasks,
            connection_class=_TCPConnection,
            location=TCPLocation(endpoint.host, endpoint.port),
            ssl_context=endpoint.ssl_context(),
            endpoint=endpoint,
            **options,
        )
    )
    return _Client(connection_pool=pool, retry_policy=NoRetryPolicy())


# -- clients ------------------------------------------------------------------------------------------------------


def _lone_is_one(kind: type[T]) -> type[T]:
    """Let every method of a client take a text or bytes, where coredis takes a list, for a list of that one."""
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        if name.startswith("_"):
            continue
        places = inspect.unwrap(method).__code__.co_varnames
        lists = {
            argument: places.index(argument) - 1  # behind self
            for argument, annotation in method.__annotations__.items()
            if str(annotation).startswith("Parameters[") and "| bytes" not in str(annotation)
        }
        if lists:
            setattr(kind, name, _with_lists(method, lists))
    return kind


def _with_lists(method: Callable[..., T], lists: dict[str, int]) -> Callable[..., T]:
    @functools.wraps(method)
    def call(self: object, *arguments: Any, **named: Any) -> T:
        given = list(arguments)
        for name, place in lists.items():
            if place < len(given) and isinstance(given[place], (str, bytes)):
                given[place] = [given[place]]
            elif isinstance(named.get(name), (str, bytes)):
                named[name] = [named[name]]
        return method(self, *given, **named)

    return call


@_lone_is_one
class _Pipeline(Pipeline[bytes]):
    """A pipeline of one server."""


@_lone_is_one
class _Client(Redis[bytes]):
    """The client of one server."""

    def pipeline(
        self, transaction: bool = True, *, raise_on_error: bool = True, timeout: float | None = None
    ) -> Pipeline[bytes]:
        return _Pipeline(self, transaction, raise_on_error, timeout)


class _OnceRequest(ClusterPipelineCommandRequest[Any]):
    """A command of a Cluster's pipeline; what broke on its way is not sent again, since it may have run."""

    def raw(self, decode_response: bool | None = None) -> CommandRequest[Any]:
        if isinstance(self.result, (LostError, TimeoutError)):
            raise self.result  # coredis asks for this to send the command once more
        return super().raw(decode_response)


@_lone_is_one
class _ClusterPipeline(ClusterPipeline[bytes]):
    """A pipeline of a Cluster: each command is sent once; sent away by MOVED or ASK, once more where it belongs."""

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncIterator[Self]:
        await cast("ClusterPool", self.connection_pool).ready()
        async with super().__asynccontextmanager__():
            yield self

    def create_request(self, name: bytes, *arguments: Any, **options: Any) -> CommandRequest[Any]:
        parameters = cast("Any", options.get("execution_parameters") or {})
        command = _OnceRequest(
            name,
            *arguments,
            callback=options["callback"],
            execution_parameters=parameters,
            type_adapter=self.type_adapter,
        )
        command.position = len(self.command_stack)
        self.command_stack.append(command)
        return command

    # coredis repeats these whole when one command met CLUSTERDOWN, those that ran among them.
    _send_cluster_transaction = inspect.unwrap(ClusterPipeline._send_cluster_transaction)
    _send_cluster_commands = inspect.unwrap(ClusterPipeline._send_cluster_commands)


class _ShardedPubSub(ShardedPubSub[bytes]):
    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncIterator[Self]:
        await cast("ClusterPool", self.connection_pool).ready()
        async with super().__asynccontextmanager__():
            yield self


@_lone_is_one
class _ClusterClient(RedisCluster[bytes]):
    """The client of a Cluster."""

    async def _execute_command(self, command: CommandRequest[T]) -> T:
        await cast("ClusterPool", self.connection_pool).ready()
        return await super()._execute_command(command)

    def pipeline(
        self, transaction: bool = False, *, raise_on_error: bool = True, timeout: float | None = None
    ) -> ClusterPipeline[bytes]:
        return _ClusterPipeline(self, raise_on_error, transaction, timeout)

    def sharded_pubsub(self, **options: Any) -> ShardedPubSub[bytes]:
        return _ShardedPubSub(self.connection_pool, **options)


# -- connections --------------------------------------------------------------------------------------------------


class _Checked(BaseConnection):
    """Refuses an argument that cannot be encoded before it is queued among other callers' commands, and speaks RESP2
    with a server that knows no other."""

    _resp2 = False
    _queued: Sequence[CommandRequest[Any]] = ()  # what the next EXEC gives the replies of

    def create_request(self, command: bytes, *args: Any, **options: Any) -> Request:
        request = super().create_request(command, *_encoded(command, args), **options)
        if self._resp2 and not request.complete:
            queued = self._queued
            resolve = request.resolve
            request.resolve = lambda reply: resolve(as_resp3(command, args, reply, queued))  # type: ignore[method-assign, assignment]
        return request

    def create_request_batch(
        self, commands: Sequence[CommandRequest[Any]], timeout: float | None = None
    ) -> RequestBatch:
        for command in commands:
            command.serialized_arguments = _encoded(command.name, command.serialized_arguments)
        batch = super().create_request_batch(commands, timeout)
        if self._resp2:
            self._queued = commands
            consume = batch.consume

            def shaped(reply: Any) -> None:
                command = commands[batch._cursor]
                consume(as_resp3(command.name, command.serialized_arguments, reply))

            batch.consume = shaped  # type: ignore[method-assign, assignment]
        return batch

    def send_command(self, command: bytes, *args: Any) -> None:
        if isinstance(self._parser, Resp2Parser) and command.endswith(b"SUBSCRIBE"):
            self._parser.subscribed = True
        super().send_command(command, *_encoded(command, args))

    # coredis' own handshake, private to its class, begins with HELLO 3.
    async def _BaseConnection__perform_handshake(self) -> None:  # noqa: N802
        try:
            await super()._BaseConnection__perform_handshake()  # type: ignore[misc]
        except (ResponseError, ProtocolError) as error:
            # Who has not logged in yet is told to do that first, whether HELLO is there or not.
            unheard = isinstance(error, AuthenticationRequiredError) and self._password
            if self.client_id is not None or (isinstance(error, _REFUSED) and not unheard):
                raise
            log.debug("The server speaks RESP2 alone: %s", error.args[0].partition(",")[0])
            await self._greet_in_resp2()

    async def _greet_in_resp2(self) -> None:
        self._handshake_attempted = False
        self._resp2 = True
        self._parser = Resp2Parser(self._parser)  # type: ignore[assignment]
        try:
            if self._password:
                login = [self._username, self._password] if self._username else [self._password]
                try:
                    await self.create_request(b"AUTH", *login, decode=False)
                except ResponseError as error:
                    raise AuthenticationError(error.args[0]) from error
            if self._db:
                await self.create_request(b"SELECT", self._db, decode=False)
            await self._trigger_connect_callbacks()
            self._ready = True
        finally:
            self._handshake_attempted = True


class _TCPConnection(_Checked, TCPConnection):
    def __init__(self, location: TCPLocation, **options: Any) -> None:
        super().__init__(location, socket_keepalive=True, socket_keepalive_options=_keepalive(), **options)


class _NodeConnection(_Checked, ClusterConnection):
    def __init__(self, location: TCPLocation, **options: Any) -> None:
        options |= {"socket_keepalive": True, "socket_keepalive_options": _keepalive()}  # its base takes them
        super().__init__(location, **options)


class _UnixConnection(_Checked, UnixDomainSocketConnection):
    pass


def _encoded(command: bytes, arguments: Iterable[Any]) -> tuple[Any, ...]:
    """The arguments as they are sent: floats with all their digits.

    Raises:
        RedisCommandError: one cannot be sent.
    """
    return tuple(_argument(command, argument) for argument in arguments)


def _argument(command: bytes, argument: Any) -> Any:
    if isinstance(argument, bytes):
        return argument
    if isinstance(argument, str):
        if argument.isascii():
            return argument
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise RedisCommandError(
                f"{command.decode()}: {argument!r} holds half of a surrogate pair, which is not valid text. "
                "Nothing was sent; repair the text, or give bytes."
            ) from None
        return argument
    if isinstance(argument, float):
        return _shortest(argument)
    if isinstance(argument, int):
        return argument
    raise RedisCommandError(
        f"{command.decode()}: a {type(argument).__name__} cannot be sent. Nothing was sent; "
        "give text, bytes or a number."
    )


def _shortest(number: float) -> bytes:
    """The shortest text that is exactly this number, whole ones without a point as coredis writes them."""
    return (b"%d" % int(number)) if number.is_integer() and abs(number) < 1e15 else repr(float(number)).encode()


def _keepalive() -> dict[int, int | bytes]:
    """Find a half-open link within about 20 seconds (5 s idle, then 3 probes 5 s apart)."""
    if sys.platform != "linux":
        return {}
    return {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
