"""Subscriptions to resources: who asked for which, and telling them that it changed.

Redis says what changes (``StreamWatch``); only what somebody subscribed to is watched. Of one resource at most one
change a second is told. Protocol 2025-11-25 has ``resources/subscribe`` on a connection, 2026-07-28 a request
``subscriptions/listen`` that stays open (SEP-2575); both stand here beside each other. A client that does not read is
dropped: it holds up nobody, and what waits for it is bounded by what it subscribed to.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourceUpdated
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_REQUEST, EmptyResult

from streammachine.errors import StreamMachineError

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext
    from mcp_types import (
        SubscribeRequestParams,
        SubscriptionsListenRequestParams,
        SubscriptionsListenResult,
        UnsubscribeRequestParams,
    )

    from streammachine.redis.connection import RedisConnection
    from streammachine.redis.stream_watch import StreamWatch

log = logging.getLogger(__name__)

MOST_OF_ONE = 1000  # resources that one connection, or one request to listen, subscribes to
MOST_LISTENING = 256  # requests to listen that are open at a time
MOST_CLIENTS = 256  # connections with subscriptions
LONGEST_URI = 2000  # characters
DEBOUNCE = 1.0  # seconds between two notices of one resource
SEND_WAIT = 5.0  # seconds for a client to take a notice

# The streams whose growth changes a resource, each with its last id.
StreamsOf = Callable[["RedisConnection", str], Awaitable[Sequence[tuple[str, str]]]]


class Subscriptions:
    """All subscriptions of one server.

    Args:
        watch: says when streams grow. connect: gives the open connection. streams_of: what a resource is made of.
    """

    def __init__(
        self, watch: StreamWatch, connect: Callable[[], Awaitable[RedisConnection]], streams_of: StreamsOf
    ) -> None:
        self._watch = watch
        self._connect = connect
        self._streams_of = streams_of
        self._resources: dict[str, _Resource] = {}
        self._clients: dict[object, _Client] = {}
        self._bus = InMemorySubscriptionBus()
        self._listen = ListenHandler(self._bus, max_subscriptions=MOST_LISTENING)
        self._changed: set[str] = set()
        self._wake = anyio.Event()
        self._tasks: anyio.abc.TaskGroup | None = None

    @property
    def count(self) -> int:
        """How many resources somebody is subscribed to."""
        return len(self._resources)

    async def run(self) -> None:
        """Tell changes until cancelled."""
        async with anyio.create_task_group() as self._tasks:
            while True:
                due = await self._tell()
                with anyio.move_on_at(due):
                    await self._wake.wait()
                self._wake = anyio.Event()

    def close(self) -> None:
        """End the requests to listen, in the way that tells their clients that the server ends."""
        self._listen.close()

    # -- protocol 2025-11-25 ------------------------------------------------------------------

    async def subscribe(self, context: ServerRequestContext[Any, Any], params: SubscribeRequestParams) -> EmptyResult:
        """``resources/subscribe``."""
        connection = context.session._connection  # one for each client; the session is one for each request
        client = self._clients.get(connection)
        if client is None:
            if len(self._clients) >= MOST_CLIENTS or self._tasks is None:
                raise MCPError(INVALID_REQUEST, "This server has no room for another client with subscriptions.")
            client = self._clients[connection] = _Client(connection.send_resource_updated)
            connection.exit_stack.callback(self._drop, connection)
            self._tasks.start_soon(self._serve, connection, client)
        uri = str(params.uri)
        if uri not in client.uris and uri not in client.opening:
            if len(client.uris) + len(client.opening) >= MOST_OF_ONE:
                raise MCPError(
                    INVALID_REQUEST, f"{MOST_OF_ONE:,} subscriptions are the most of one client; end some first."
                )
            client.opening.add(uri)
            try:
                await self._add(uri)
            finally:
                client.opening.discard(uri)
            if self._clients.get(connection) is client:
                client.uris.add(uri)
            else:  # it went meanwhile
                self._remove([uri])
        return EmptyResult()

    async def unsubscribe(
        self, context: ServerRequestContext[Any, Any], params: UnsubscribeRequestParams
    ) -> EmptyResult:
        """``resources/unsubscribe``."""
        client = self._clients.get(context.session._connection)
        uri = str(params.uri)
        if client is not None and uri in client.uris:
            client.uris.remove(uri)
            client.waiting.discard(uri)
            self._remove([uri])
        return EmptyResult()

    async def _serve(self, connection: Any, client: _Client) -> None:
        """Send one client its notices, one after the other."""
        with client.scope:
            while True:
                await client.wake.wait()
                client.wake = anyio.Event()
                while client.waiting:
                    uri = client.waiting.pop()
                    with anyio.move_on_after(SEND_WAIT) as sending:
                        await client.send(uri)
                    if sending.cancelled_caught:
                        log.warning("A client does not take notices; its %d subscriptions are ended", len(client.uris))
                        self._drop(connection)

    def _drop(self, connection: Any) -> None:
        client = self._clients.pop(connection, None)
        if client is not None:
            self._remove(client.uris)
            client.uris.clear()
            client.waiting.clear()
            client.scope.cancel()

    # -- protocol 2026-07-28 ------------------------------------------------------------------

    async def listen(
        self, context: ServerRequestContext[Any, Any], params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        """``subscriptions/listen``: open until the client goes or the server ends."""
        wanted = sorted({str(uri) for uri in params.notifications.resource_subscriptions or ()})
        if len(wanted) > MOST_OF_ONE:
            raise MCPError(INVALID_REQUEST, f"{MOST_OF_ONE:,} resources are the most of one request to listen.")
        added: list[str] = []
        try:
            for uri in wanted:
                await self._add(uri)
                added.append(uri)
            return await self._listen(context, params)
        finally:
            self._remove(added)

    # -- resources ----------------------------------------------------------------------------

    async def _add(self, uri: str) -> None:
        """Watch a resource, once for all that want it."""
        if len(uri) > LONGEST_URI:
            raise MCPError(INVALID_REQUEST, "The URI is too long.")
        known = self._resources.get(uri)
        if known is not None:
            known.wanted += 1
            return
        try:
            streams = await self._streams_of(await self._connect(), uri)
            known = self._resources.setdefault(uri, _Resource())  # another may have come first
            known.wanted += 1
            if known.wanted == 1:
                for stream, after in streams:
                    known.ends.append(self._watch.listen(stream, after, lambda _: self._touch(uri)))
        except StreamMachineError as error:
            self._remove([uri])
            raise MCPError(INVALID_REQUEST, str(error)) from None

    def _remove(self, uris: Iterable[str]) -> None:
        for uri in list(uris):
            known = self._resources.get(uri)
            if known is None:
                continue
            known.wanted -= 1
            if known.wanted <= 0:
                del self._resources[uri]
                for end in known.ends:
                    end()

    def _touch(self, uri: str) -> None:
        self._changed.add(uri)
        self._wake.set()

    async def _tell(self) -> float:
        """Tell what is due; gives when the next is."""
        now = anyio.current_time()
        next_due = float("inf")
        for uri in list(self._changed):
            known = self._resources.get(uri)
            if known is None:
                self._changed.discard(uri)
            elif now - known.told >= DEBOUNCE:
                self._changed.discard(uri)
                known.told = now
                for client in self._clients.values():
                    client.notice(uri)
                await self._bus.publish(ResourceUpdated(uri=uri))
            else:
                next_due = min(next_due, known.told + DEBOUNCE)
        return next_due


class _Resource:
    """A resource that somebody is subscribed to. ``told``: when its last change was told."""

    def __init__(self) -> None:
        self.wanted = 0
        self.told = float("-inf")
        self.ends: list[Callable[[], None]] = []


class _Client:
    """A connection with subscriptions. ``opening``: those under way. ``waiting``: what it has not been told yet."""

    def __init__(self, send: Callable[[str], Awaitable[None]]) -> None:
        self.send = send
        self.uris: set[str] = set()
        self.opening: set[str] = set()
        self.waiting: set[str] = set()
        self.wake = anyio.Event()
        self.scope = anyio.CancelScope()

    def notice(self, uri: str) -> None:
        if uri in self.uris:
            self.waiting.add(uri)
            self.wake.set()
