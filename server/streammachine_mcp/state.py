"""What the server holds while it runs; opened once, in the lifespan.

The Redis connection runs under a supervisor: when no server can be chosen or reached it logs, waits with
backoff and tries again, so the MCP server starts and answers ``health_check`` while Redis is away, and
recovers by itself. Nothing is opened before the first tool asks for it or until no call has come for a moment,
because loading the Redis client would delay the first tools/list.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from streammachine.errors import RedisUnavailableError, StreamMachineError
from streammachine.settings import Settings
from streammachine_mcp.hosting.supervisor import Hosting
from streammachine_mcp.live.hub import Live

if TYPE_CHECKING:
    from streammachine.ohlc.durable import DurableAggregators
    from streammachine.redis.connection import RedisConnection
    from streammachine.redis.objects import RedisObjectStorage
    from streammachine.redis.storage import Storage
    from streammachine_mcp.query.pool import QueryPool

log = logging.getLogger(__name__)

IDLE_START = 1.0  # seconds without a tool call before the Redis client is loaded anyway
OPEN_WAIT = 15.0  # seconds a tool waits for the first connection (an embedded server loads its data)
RETRY_WAIT = 2.0  # seconds a tool waits for one more attempt when the last one failed
# Seconds for what is hosted to drain and for the last snapshots; what is not in one is in the journal. Clients kill a
# server that is still there four seconds after they closed its stdin, and two of them may have gone for requests under
# way.
LAST_WAIT = 1.5
BACKOFF_FIRST, BACKOFF_LAST = 0.5, 10.0  # seconds between two attempts to choose a server


class ServerState:
    """Connection, storages and aggregators of one server, and what it hosts (``hosting/supervisor.py``).

    Args:
        app: the App to host, as ``package.module:app``.
    """

    def __init__(self, settings: Settings, app: str | None = None) -> None:
        self.settings = settings
        may = () if settings.read_only else settings.toolsets
        self.hosting = Hosting(
            app,
            declared="agent" in may,
            market="market" in may,
            alerts="live" in may,
            log_level=settings.log_level,
            opened=lambda: self.connection,
            connect=self.redis,
        )
        self.live = Live(self.redis, lambda: self.connection, writes=not settings.read_only)
        self._queries: QueryPool | None = None
        self.started = time.time()
        self.problem: StreamMachineError | None = None
        self.restarts = 0
        self._wanted = anyio.Event()
        self._changed = anyio.Event()
        self._connection: RedisConnection | None = None
        self._storage: Storage | None = None
        self._objects: RedisObjectStorage | None = None
        self._aggregators: DurableAggregators | None = None

    @property
    def queries(self) -> QueryPool:
        """The processes that run SQL; what they need is imported by the first query."""
        if self._queries is None:
            from streammachine_mcp.query.pool import QueryPool

            self._queries = QueryPool(self.redis)
        return self._queries

    @asynccontextmanager
    async def open(self) -> AsyncIterator[ServerState]:
        """Run the supervisor for as long as the block lasts. At its end what is hosted drains while the snapshots that
        are due are written; then the connection closes.

        The supervisor is a task of its own that this block starts and awaits: FastMCP 4.1 leaves the lifespan inside a
        cancel scope that it did not enter it in, which no task group survives.
        """
        self._wanted, self._changed = anyio.Event(), anyio.Event()
        self.started = time.time()
        supervisor = asyncio.create_task(self._supervise(), name="streammachine-supervisor")
        hosting = asyncio.create_task(self.hosting.run(), name="streammachine-hosting")
        live = asyncio.create_task(self.live.run(), name="streammachine-live")
        try:
            yield self
        finally:
            if self._queries is not None:
                await self._queries.close()
            draining = asyncio.create_task(self.hosting.stop(LAST_WAIT), name="streammachine-draining")
            with anyio.move_on_after(LAST_WAIT):
                if self._aggregators is not None and self._connection is not None:
                    await self._aggregators.snapshot_all()
            await asyncio.wait([draining])
            for task in (live, hosting, supervisor):
                task.cancel()
            for task in (live, hosting, supervisor):
                await asyncio.wait([task])
                if not task.cancelled() and task.exception() is not None:
                    log.error("%s failed", task.get_name(), exc_info=task.exception())

    @property
    def connection(self) -> RedisConnection | None:
        """The open connection, or None; asking opens none."""
        return self._connection

    # -- what tools ask for -------------------------------------------------------------------

    async def redis(self) -> RedisConnection:
        """The open connection; waits for the first one. When the last attempt to open one failed, asks for another.

        Raises:
            RedisUnavailableError or SettingsError: no server could be chosen, and why.
        """
        if self._connection is not None:
            return self._connection
        self._wanted.set()
        with anyio.move_on_after(OPEN_WAIT if self.problem is None else RETRY_WAIT):
            attempts = self.restarts
            while self._connection is None and self.restarts == attempts:
                await self._changed.wait()
        if self._connection is not None:
            return self._connection
        if self.problem is not None:
            raise self.problem
        raise RedisUnavailableError(f"No Redis server could be opened within {OPEN_WAIT:g} s; see the server's log.")

    async def storage(self) -> Storage:
        """The shared key-value storage."""
        connection = await self.redis()
        if self._storage is None:
            from streammachine.redis.storage import Storage

            self._storage = Storage(connection)
        return self._storage

    async def objects(self) -> RedisObjectStorage:
        """The object storage."""
        connection = await self.redis()
        if self._objects is None:
            from streammachine.redis.objects import RedisObjectStorage

            self._objects = RedisObjectStorage(connection=connection)
        return self._objects

    async def aggregators(self) -> DurableAggregators:
        """The durable candle aggregators."""
        connection = await self.redis()
        if self._aggregators is None:
            from streammachine.ohlc.durable import DurableAggregators

            self._aggregators = DurableAggregators(connection)
        return self._aggregators

    async def health(self) -> dict[str, Any]:
        """Where Redis is and how it is; never raises for a Redis that is away."""
        facts: dict[str, Any] = {"status": "unhealthy", "redis": "disconnected"}
        try:
            connection = await self.redis()
        except StreamMachineError as error:
            facts["problem"] = str(error)
        else:
            from streammachine.redis.condition import condition_of

            condition = await condition_of(connection)
            if condition.connected:
                facts.update(status="healthy", redis="connected", latency_ms=round(condition.latency * 1000, 3))
            if condition.problem:
                facts.update(problem=condition.problem)
                if condition.connected:
                    facts.update(status="degraded")
        target = self._connection.target if self._connection is not None else None
        if target is not None:
            facts.update(url=target.url, origin=target.origin, why=target.why)
            if target.embedded is not None:
                facts["embedded"] = {
                    "pid": target.embedded.pid,
                    "fsync": target.embedded.fsync,
                    "adopted": target.embedded.adopted,
                    "data_dir": str(target.embedded.data_dir),
                }
        if apps := self.hosting.describe():
            facts["apps"] = apps
            if facts["status"] == "healthy" and any("problem" in app for app in apps):
                facts["status"] = "degraded"
        facts["uptime_s"] = round(time.time() - self.started, 1)
        facts["read_only"] = self.settings.read_only
        return facts

    # -- supervision --------------------------------------------------------------------------

    async def _supervise(self) -> None:
        with anyio.move_on_after(IDLE_START):
            await self._wanted.wait()
        delay = BACKOFF_FIRST
        while True:
            began = time.monotonic()
            try:
                await self._serve_connection()
            except StreamMachineError as error:
                if str(error) != str(self.problem):
                    log.warning("%s (trying again)", error)
                self._lost(error)
            except Exception as error:
                log.exception("The Redis connection failed (trying again)")
                self._lost(RedisUnavailableError(f"The Redis connection failed: {type(error).__name__}."))
            if time.monotonic() - began > BACKOFF_LAST:
                delay = BACKOFF_FIRST
            await anyio.sleep(BACKOFF_FIRST)
            with anyio.move_on_after(delay):
                await self._wanted.wait()
            delay = min(delay * 2, BACKOFF_LAST)

    async def _serve_connection(self) -> None:
        connection = await anyio.to_thread.run_sync(_new_connection, self.settings)
        try:
            async with anyio.create_task_group() as tasks:
                await tasks.start(connection.serve)
                self._connection, self.problem = connection, None
                self._notify()
        except* StreamMachineError as group:
            raise _first(group) from None
        finally:
            self._connection = self._storage = self._objects = self._aggregators = None

    def _lost(self, error: StreamMachineError) -> None:
        self.problem = error
        self.restarts += 1
        self._wanted = anyio.Event()
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


def _new_connection(settings: Settings) -> RedisConnection:
    """Load what speaks with Redis and make the connection; run in a thread."""
    from streammachine.redis.connection import RedisConnection

    return RedisConnection(settings=settings)


def _first(group: BaseExceptionGroup[StreamMachineError]) -> StreamMachineError:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, StreamMachineError)
    return found
