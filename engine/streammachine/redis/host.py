"""LoopHost: what one event loop holds of a connection, from its opening to its end.

coredis keeps its sockets in a task group, and a raw connection ends with its loop, so both must be entered and left by
one task that outlives all users: opened inside a request they would die with the request. ``hold`` is that task. It
holds the chosen server, the transport's connections, and from the first use on coredis' client.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import anyio.to_thread

from streammachine.errors import RedisUnavailableError, StreamMachineError
from streammachine.redis.target import Target, choose_target
from streammachine.redis.transport.cluster import ClusterConnections
from streammachine.redis.transport.sentinel import primary_of
from streammachine.redis.transport.shared_connection import SharedConnection, UnsentError
from streammachine.redis_url import Endpoint
from streammachine.settings import Settings

if TYPE_CHECKING:
    from coredis import Redis

    from streammachine.redis.embedded.server import EmbeddedServer
    from streammachine.redis.failures import Failure

log = logging.getLogger(__name__)

WATCH_PERIOD = 0.5  # seconds between two looks at the embedded server's process
REVIVE_WAIT = 1.0  # seconds to wait for a server that is just being restarted


class LoopHost:
    """The open connection of one loop. ``task`` is None where somebody else's task holds it (``serve``).

    Args:
        max_connections: what the shared connection and coredis' pool may open together.
        timeout: seconds coredis may wait for a connection.
    """

    def __init__(self, max_connections: int, timeout: float) -> None:
        self.ready = anyio.Event()
        self.closing = anyio.Event()
        self.failure: Exception | None = None
        self.task: asyncio.Task[None] | None = None
        self.target: Target | None = None
        self._max_connections = max_connections
        self._timeout = timeout
        self._shared: SharedConnection | ClusterConnections | None = None
        self._client: Redis[bytes] | None = None
        self._tasks: anyio.abc.TaskGroup | None = None

    async def hold(self, settings: Settings, url: str | None, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Choose the server, and hold its connections open until ``closing`` is set or the task is cancelled.

        Args:
            url: the server that a constructor's arguments name; None: the settings choose.

        Raises:
            SettingsError, RedisAuthError, EmbeddedServerError: no server can be chosen.
            RedisUnavailableError: no node of a Cluster answers.
        """
        try:
            target = await anyio.to_thread.run_sync(choose_target, settings, url)
            try:
                await self._hold_connections(target, task_status)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(target.release)
        except BaseException as error:
            if not self.ready.is_set():
                self.failure = error if isinstance(error, Exception) else self.closed()
            raise
        finally:
            self.ready.set()

    async def _hold_connections(self, target: Target, task_status: anyio.abc.TaskStatus[None]) -> None:
        self.target = target
        shared = (
            ClusterConnections(target.endpoint, target.url)
            if target.endpoint.cluster
            else SharedConnection(target.endpoint, target.url)
        )
        try:
            if target.endpoint.cluster:
                await shared.each_primary()
            async with anyio.create_task_group() as self._tasks:
                self._shared = shared
                self.ready.set()
                task_status.started()
                try:
                    if target.embedded is None:
                        await self.closing.wait()
                    else:
                        await _watch(target.embedded, self.closing)
                finally:
                    self._client = self._shared = None  # before they close: who still uses them learns why
                    self._tasks.cancel_scope.cancel()
        except UnsentError as error:
            raise error.cause from error
        finally:
            await shared.aclose()

    def opened(self) -> SharedConnection | ClusterConnections:
        """The transport's connection.

        Raises:
            RedisUnavailableError: the host has left it meanwhile.
        """
        if self._shared is None:
            raise self.closed()
        return self._shared

    def client(self) -> Redis[bytes]:
        """coredis' client of the same server, made on first use; its connections are opened by its first commands.

        Loads the library where nothing has loaded it yet, which takes a sixth of a second.

        Raises:
            RedisUnavailableError: the host has left it meanwhile.
        """
        shared = self.opened()
        if self._client is None:
            from streammachine.redis.client import make_client

            assert self.target is not None and self._tasks is not None
            # One of the connections is the transport's.
            most = max(1, self._max_connections - 1)
            self._client = make_client(self.target.endpoint, most, self._timeout, self._tasks, shared)
        return self._client

    async def loaded_client(self) -> Redis[bytes]:
        """As ``client``; the library is loaded where it holds up no loop."""
        if self._client is None:
            await anyio.to_thread.run_sync(importlib.import_module, "streammachine.redis.client")
        return self.client()

    def closed(self) -> RedisUnavailableError:
        """The error for a command that comes while the connection is being closed."""
        where = f" to {self.target.url}" if self.target is not None else ""
        return RedisUnavailableError(f"The connection{where} was closed meanwhile. Open it again.")

    def translate(self, error: Exception, limit: float) -> Failure:
        """coredis' error in our terms; a timeout and a replica's answer also drop its pool's connections."""
        from streammachine.redis.failures import Failure, translate

        if self._client is None:
            return Failure(self.closed())
        assert self.target is not None
        failure = translate(error, self.target.url, limit)
        if failure.timed_out or failure.replica or (failure.unsent and self.target.endpoint.cluster):
            self._client.connection_pool.disconnect()
        return failure

    async def revive(self, limit: float) -> None:
        """Before a second try: bring the embedded server back, or wait until a socket opens, a second at most.

        A Cluster needs neither: its connections ask another node for the map first.
        """
        if self.target is None or self._shared is None or self.target.endpoint.cluster:
            return
        embedded = self.target.embedded
        with anyio.move_on_after(min(REVIVE_WAIT, limit)):
            while True:
                if embedded is not None:
                    # A killed process counts as alive until the kernel is through with it: hence the loop.
                    await anyio.to_thread.run_sync(embedded.ensure)
                if await _listens(self.target.endpoint):
                    return
                await anyio.sleep(0.05)


async def _listens(endpoint: Endpoint) -> bool:
    """Whether a socket opens there; behind Sentinels at the primary that they name."""
    try:
        place = await primary_of(endpoint)
        stream: anyio.abc.ByteStream = (
            await anyio.connect_unix(place.path)
            if place.path is not None
            else await anyio.connect_tcp(place.host, place.port)
        )
    except (OSError, RedisUnavailableError):
        return False
    await stream.aclose()
    return True


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
