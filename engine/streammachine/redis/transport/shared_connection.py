"""One connection that many callers share, in order."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio

from streammachine.errors import RedisUnavailableError
from streammachine.redis.transport.codec import RespError
from streammachine.redis.transport.raw_connection import RawConnection, is_replica
from streammachine.redis.transport.sentinel import primary_of
from streammachine.redis_url import Endpoint


class SharedConnection:
    """One raw connection that any number of tasks use at a time, opened anew after a failure.

    Commands of concurrent tasks follow each other on the wire without waiting for replies, in the order of the calls.
    """

    def __init__(self, endpoint: Endpoint, name: str) -> None:
        self._endpoint = endpoint
        self.name = name
        self._current: RawConnection | None = None
        self._lent: weakref.WeakSet[RawConnection] = weakref.WeakSet()
        self._opening = anyio.Lock()
        self._failures = 0  # attempts to open the connection that failed
        self._failure: Callable[[], RedisUnavailableError] = RedisUnavailableError  # the last one's

    async def open(self, key: str | bytes | None = None) -> RawConnection:
        """A connection of the caller's own, for blocking commands."""
        connection = await RawConnection.open(await primary_of(self._endpoint), self.name)
        self._lent.add(connection)
        return connection

    async def each_primary(self) -> list[SharedConnection]:
        """The one server there is."""
        return [self]

    async def exchange(self, payload: bytes, replies: int, timeout: float, key: str | bytes | None = None) -> list[Any]:
        """As ``RawConnection.exchange``, on the shared connection. What a replica refused goes once more over a new
        one: the server's address may lead to the new primary by now.

        Raises:
            UnsentError: no connection could be opened, so nothing was sent.
        """
        connection = self._current
        if connection is None or connection.stale:
            connection = await self._fresh()
        found = await connection.exchange(payload, replies, timeout)
        if connection.retired and all(isinstance(reply, RespError) and is_replica(reply) for reply in found):
            found = await (await self._fresh()).exchange(payload, replies, timeout)
        return found

    async def aclose(self) -> None:
        """Close the connection and those that were lent; who waits on one gets an error."""
        for connection in list(self._lent):
            await connection.aclose()
        self._current = None

    async def _fresh(self) -> RawConnection:
        failures = self._failures
        async with self._opening:
            if self._current is not None and not self._current.stale:
                return self._current
            if self._failures > failures:
                # Who waited for an attempt shares how it ended: one by one they would wait for minutes.
                raise UnsentError(self._failure())
            if self._current is not None and not self._current.retired:
                await self._current.aclose()
            try:
                self._current = await self.open()
            except RedisUnavailableError as error:
                self._failures, self._failure = self._failures + 1, partial(type(error), str(error))
                raise UnsentError(error) from error
            return self._current


class UnsentError(Exception):
    """Nothing was sent; ``cause`` says why."""

    def __init__(self, cause: RedisUnavailableError) -> None:
        super().__init__(str(cause))
        self.cause = cause
