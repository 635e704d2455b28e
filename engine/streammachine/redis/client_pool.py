"""The pools of coredis' client: places that are never lost, and connections in the host's task group."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, Self, cast

import anyio
from anyio.abc import TaskGroup, TaskStatus
from coredis.cluster._discovery import DiscoveryService
from coredis.cluster._node import ClusterNodeLocation
from coredis.connection import BaseConnection, ClusterConnection, TCPLocation
from coredis.exceptions import ConnectionError as LostError
from coredis.exceptions import RedisError, ResponseError
from coredis.pool import ClusterConnectionPool, ConnectionPool

from streammachine.errors import RedisUnavailableError
from streammachine.redis.transport.cluster import ClusterConnections
from streammachine.redis.transport.codec import RespError
from streammachine.redis.transport.raw_connection import encode_command
from streammachine.redis.transport.sentinel import primary_of
from streammachine.redis.transport.shared_connection import UnsentError
from streammachine.redis_url import Endpoint

MAP_TIMEOUT = 2.0  # seconds for a Cluster's map of slots

log = logging.getLogger(__name__)


class Pool(ConnectionPool[Any]):
    """The connections to one server."""

    def __init__(self, tasks: TaskGroup, *, endpoint: Endpoint | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._task_group = tasks
        self._endpoint = endpoint  # behind Sentinels: asked before every new connection
        self._places = _Places(self.max_connections, self.timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def get_connection(self, **_: Any) -> BaseConnection:
        """A connection to send on; ``release`` takes it back. Raises TimeoutError when none comes free in time."""
        connection = await self._places.lend(self._opened)
        self.statistics.connection_leased(connection)
        return connection

    def release(self, connection: BaseConnection) -> None:
        """Give a connection back."""
        self.statistics.connection_released(connection)
        self._places.give_back(connection)

    async def _opened(self) -> BaseConnection:
        if self._endpoint is not None and self._endpoint.sentinels:
            primary = await primary_of(self._endpoint)
            self.location = TCPLocation(primary.host, primary.port)
        connection: BaseConnection = await self._construct_connection()
        await _started(self.task_group, connection, lambda: self._ended(connection))
        self.statistics.connection_created(connection)
        self._online_connections.add(connection)
        return connection

    def _ended(self, connection: BaseConnection) -> None:
        self._online_connections.discard(connection)
        if connection in self._places.idle:
            self._places.idle.remove(connection)


class ClusterPool(ClusterConnectionPool):
    """The connections to the nodes of a Cluster; its map is read by the first command."""

    def __init__(self, tasks: TaskGroup, connections: int, discovery: Discovery, **options: Any) -> None:
        super().__init__([], max_connections=connections, reinitialize_steps=1, **options)
        self._task_group = tasks
        self.cluster_layout._discovery_service = discovery
        self._places: dict[tuple[str, int], _Places] = {}
        self._known = False
        self._reading = anyio.Lock()
        tasks.start_soon(self._follow)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def ready(self) -> None:
        """Know which node serves which slot."""
        if self._known:
            return
        async with self._reading:
            if self._known:
                return
            await self.cluster_layout.initialize()
            self._known = True

    async def get_connection(
        self, node: ClusterNodeLocation | None = None, primary: bool = True, **_: Any
    ) -> ClusterConnection:
        """A connection to ``node``, or to any; ``release`` takes it back."""
        await self.ready()
        place = node if node is not None else self.cluster_layout.random_node(primary)
        connection = await self._places_of(place).lend(lambda: self._opened(place))
        self.statistics.connection_leased(connection)
        return cast("ClusterConnection", connection)

    def release(self, connection: ClusterConnection) -> None:
        """Give a connection back."""
        self.statistics.connection_released(connection)
        self._places_of(connection.location).give_back(connection)

    def disconnect(self) -> None:
        """Close all connections, and read the map anew before the next command."""
        super().disconnect()
        self._known = False

    async def _follow(self) -> None:
        """Read the map anew after errors that tell that it is old."""
        try:
            await self.cluster_layout.monitor()
        finally:
            for end in self.cluster_layout._error_stream:
                end.close()

    def _places_of(self, node: TCPLocation) -> _Places:
        places = self._places.get((node.host, node.port))
        if places is None:
            most = max(1, self.max_connections // max(1, len(self.cluster_layout.nodes)))
            places = self._places[node.host, node.port] = _Places(most, self.timeout)
        return places

    async def _opened(self, node: TCPLocation) -> BaseConnection:
        location = TCPLocation(node.host, node.port)
        connection = self.connection_class(location, **self.connection_kwargs)
        await _started(self.task_group, connection, lambda: self._ended(connection))
        self.statistics.connection_created(connection)
        self._online_connections.add(connection)
        return connection

    def _ended(self, connection: ClusterConnection) -> None:
        self._online_connections.discard(connection)
        idle = self._places_of(connection.location).idle
        if connection in idle:
            idle.remove(connection)


class Discovery(DiscoveryService):
    """The map of slots by way of the transport: its nodes are found, logged into and followed there already."""

    def __init__(self, shared: ClusterConnections, host: str) -> None:
        super().__init__()
        self._shared = shared
        self._host = host  # of a node that does not know its own name

    async def get_cluster_layout(self) -> tuple[list[ClusterNodeLocation], defaultdict[int, list[ClusterNodeLocation]]]:
        """All nodes, and of each slot its primary and replicas."""
        try:
            (reply,) = await self._shared.exchange(encode_command(["CLUSTER", "SLOTS"]), 1, MAP_TIMEOUT)
        except (UnsentError, RedisUnavailableError) as error:
            raise LostError(f"Unable to establish a connection to the Cluster: {error}") from error
        if isinstance(reply, RespError):
            raise ResponseError(reply.message)
        nodes: dict[tuple[str, int], ClusterNodeLocation] = {}
        slots: defaultdict[int, list[ClusterNodeLocation]] = defaultdict(list)
        for first, last, *serving in reply:
            found = []
            for number, (host, port, identity, *_) in enumerate(serving):
                place = (bytes(host or b"").decode() or self._host, int(port))
                node = ClusterNodeLocation(
                    *place, server_type="replica" if number else "primary", node_id=bytes(identity).decode()
                )
                found.append(nodes.setdefault(place, node))
            slots.update({slot: list(found) for slot in range(first, last + 1)})
        return list(nodes.values()), slots


class _Places:
    """At most so many connections to one node; a place is given back however its user ends.

    A connection is lent for the time it takes to queue a command (a blocking command: until its reply), so one
    connection carries many commands at a time.
    """

    def __init__(self, most: int, timeout: float | None) -> None:
        self._free = anyio.Semaphore(most)
        self._timeout = timeout
        self.idle: list[BaseConnection] = []

    async def lend(self, open_one: Callable[[], Awaitable[BaseConnection]]) -> BaseConnection:
        """An idle connection, else a new one. Raises TimeoutError when none comes free in time."""
        with anyio.fail_after(self._timeout):
            await self._free.acquire()
            try:
                return self._reusable() or await open_one()
            except BaseException:
                self._free.release()
                raise

    def give_back(self, connection: BaseConnection) -> None:
        """Take a connection back; one that is broken is forgotten."""
        if connection.usable:
            self.idle.append(connection)
        self._free.release()

    def _reusable(self) -> BaseConnection | None:
        while self.idle:
            connection = self.idle.pop()
            if connection.reusable:
                return connection
            connection.invalidate()
        return None


async def _started(tasks: TaskGroup, connection: BaseConnection, ended: Callable[[], None]) -> None:
    """Open a connection in a task of its own; ``ended`` is called when it is no more."""

    async def run(*, task_status: TaskStatus[RedisError | None]) -> None:
        try:
            await _run(connection, task_status=task_status)
        finally:
            ended()

    connection.register_connect_callback(_tell_name)
    try:
        if error := await tasks.start(run):
            raise error
    except BaseException:
        _close_streams(connection)  # the task may not have begun
        raise


async def _run(connection: BaseConnection, *, task_status: TaskStatus[RedisError | None]) -> None:
    """The task that a connection lives in."""
    try:
        await connection.run(task_status=task_status)
    except RedisError as error:
        task_status.started(error)
    finally:
        _close_streams(connection)


async def _tell_name(connection: BaseConnection) -> None:
    """Name the connection for people who look at the server; a user without the right to it stays without a name."""
    try:
        await connection.create_request(b"CLIENT SETNAME", "streammachine", decode=False)
    except ResponseError as error:
        log.debug("The server takes no name for a connection: %s", error)


def _close_streams(connection: BaseConnection) -> None:
    """Close what coredis leaves open when a connection attempt failed; Python warns of each."""
    for name in ("_write_buffer", "_push_message_buffer", "_streamed_message_buffer"):
        for end in ("in", "out"):
            getattr(connection, f"{name}_{end}").close()
