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
from streammachine.redis_url import Endpoint


class SharedConnection:
    """One road that any number of tasks use at a time, opened anew after a failure.

    Commands of concurrent tasks follow each other on the wire without waiting for replies, in the order of the calls.
    """

    def __init__(self, endpoint: Endpoint, name: str) -> None:
        self._endpoint = endpoint
        self.name = name
        self._road: RawConnection | None = None
        self._lent: weakref.WeakSet[RawConnection] = weakref.WeakSet()
        self._opening = anyio.Lock()
        self._failures = 0  # attempts to open the road that failed
        self._failure: Callable[[], RedisUnavailableError] = RedisUnavailableError  # the last one's

    async def open(self, key: str | bytes | None = None) -> RawConnection:
        """A road of the caller's own, for blocking commands."""
        from streammachine.redis.transport.sentinel import primary_of

        road = await RawConnection.open(await primary_of(self._endpoint), self.name)
        self._lent.add(road)
        return road

    async def each_primary(self) -> list[SharedConnection]:
        """The one server there is."""
        return [self]

    async def exchange(self, payload: bytes, replies: int, timeout: float, key: str | bytes | None = None) -> list[Any]:
        """As ``RawConnection.exchange``, on the shared road. What a replica refused goes once more over a new road: the
        server's address may lead to the new primary by now.

        Raises:
            UnsentError: no road could be opened, so nothing was sent.
        """
        road = self._road
        if road is None or road.stale:
            road = await self._fresh()
        found = await road.exchange(payload, replies, timeout)
        if road.retired and all(isinstance(reply, RespError) and is_replica(reply) for reply in found):
            found = await (await self._fresh()).exchange(payload, replies, timeout)
        return found

    async def aclose(self) -> None:
        """Close the road and those that were lent; who waits on one gets an error."""
        for road in list(self._lent):
            await road.aclose()
        self._road = None

    async def _fresh(self) -> RawConnection:
        failures = self._failures
        async with self._opening:
            if self._road is not None and not self._road.stale:
                return self._road
            if self._failures > failures:
                # Who waited for an attempt shares how it ended: one by one they would wait for minutes.
                raise UnsentError(self._failure())
            if self._road is not None and not self._road.retired:
                await self._road.aclose()
            try:
                self._road = await self.open()
            except RedisUnavailableError as error:
                self._failures, self._failure = self._failures + 1, partial(type(error), str(error))
                raise UnsentError(error) from error
            return self._road


class UnsentError(Exception):
    """Nothing was sent; ``cause`` says why."""

    def __init__(self, cause: RedisUnavailableError) -> None:
        super().__init__(str(cause))
        self.cause = cause
