"""A line: some streams of an exchange, kept served over one connection after another.

The first retry is made at once, the next ones after a pause of full jitter whose bound doubles; it begins anew once
data has flowed for a while. Before an exchange's limit of a connection's life, and when it announces that it will close
it, the next connection is opened, subscribed and delivering before the old one is closed.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import anyio

from streammachine.errors import ExchangeError
from streammachine.market.network.session_options import SessionOptions
from streammachine.market.network.websocket_session import SessionOwner, State, WebSocketSession

if TYPE_CHECKING:
    from streammachine.market.clock.clock import Clock
    from streammachine.market.exchanges.base import Adapter, Subscription

log = logging.getLogger(__name__)

MOST_PATIENCE: Final = 16  # a market without trades is connected to anew after at most so many times ``stale_after``
REPLACED_AFTER: Final = (0.90, 0.97)  # the part of its allowed life after which a connection is replaced


class LineOwner(SessionOwner, Protocol):
    """Whom a line works for."""

    def lost(self, session: WebSocketSession) -> None:
        """A session of the line has ended."""


@dataclass(frozen=True, kw_only=True)
class LineOptions(SessionOptions):
    """Times in seconds.

    Attributes:
        backoff, longest_backoff: bounds of the second pause between two attempts, and of all.
        flowing: data must have flowed for so long until the backoff begins anew.
        handover: how long a new connection may take to deliver until it takes over without.
    """

    backoff: float = 1.0
    longest_backoff: float = 30.0
    flowing: float = 10.0
    handover: float = 30.0


class Line:
    """Keeps streams served until cancelled or closed.

    Args:
        numbers: gives each connection its number.

    Attributes:
        session: the one that counts now. connects: connections begun. replaced: those replaced in good order.
    """

    def __init__(
        self,
        adapter: Adapter,
        url: str,
        subscriptions: Sequence[Subscription],
        owner: LineOwner,
        *,
        clock: Clock,
        options: LineOptions,
        rng: random.Random,
        numbers: Iterator[int],
    ) -> None:
        self.subscriptions = tuple(subscriptions)
        self.session: WebSocketSession | None = None
        self.connects = 0
        self.replaced = 0
        self._adapter = adapter
        self._url = url
        self._owner = owner
        self._clock = clock
        self._options = options
        self._rng = rng
        self._numbers = numbers
        self._failures = 0
        self._stale_after = clock.patience(options.stale_after)
        self._closing = False
        self._alive: set[WebSocketSession] = set()
        self._begin: Callable[[WebSocketSession], object] | None = None

    async def run(self) -> None:
        """Until cancelled or closed.

        Raises:
            ExchangeError: the URL is not one of a WebSocket, or the server says so at the first connection.
        """
        async with anyio.create_task_group() as tasks:
            self._begin = lambda session: tasks.start_soon(self._live, session)
            session = self._open()
            while True:
                self.session = session
                await session.replaceable.wait()
                if self._closing:
                    return
                if session.state is State.ENDED:
                    if session.not_found and self.connects == 1:
                        raise ExchangeError(f"{self._adapter.source}: {session.reason}. Check its base URL")
                    await self._pause(session)
                    session = self._open()
                else:
                    session = await self._replace(session)

    async def close(self) -> None:
        """Close its connections. The caller cancels ``run`` afterwards, which may be waiting to try again."""
        self._closing = True
        for session in tuple(self._alive):
            session.close()
            await session.ended.wait()

    def _open(self) -> WebSocketSession:
        lifetime = self._adapter.socket.lifetime
        session = WebSocketSession(
            self._adapter,
            self._url,
            self.subscriptions,
            self._owner,
            clock=self._clock,
            options=self._options,
            number=next(self._numbers),
            stale_after=self._stale_after,
            lifetime=None if lifetime is None else lifetime * self._rng.uniform(*REPLACED_AFTER),
        )
        self.connects += 1
        self._alive.add(session)
        if self._begin is not None:
            self._begin(session)
        return session

    async def _live(self, session: WebSocketSession) -> None:
        try:
            await session.run()
        finally:
            self._alive.discard(session)
            self._owner.lost(session)

    async def _pause(self, session: WebSocketSession) -> None:
        """Wait before the next attempt, after a session that ended."""
        if session.flowed >= self._options.flowing:
            self._failures = 0
            self._stale_after = self._clock.patience(self._options.stale_after)
        elif session.stale and not session.flowed:
            most = MOST_PATIENCE * self._clock.patience(self._options.stale_after)
            self._stale_after = min(2 * self._stale_after, most)
        pause = 0.0
        if self._failures:
            bound = min(self._options.backoff * 2.0 ** (self._failures - 1), self._options.longest_backoff)
            pause = self._rng.uniform(0, bound)
        self._failures += 1
        log.warning(
            "%s connection %d ended: %s; connecting again in %.1f s",
            self._adapter.source,
            session.number,
            session.reason,
            pause,
        )
        await self._clock.sleep(pause)

    async def _replace(self, old: WebSocketSession) -> WebSocketSession:
        """Make before break: the session that has taken over."""
        while True:
            new = self._open()
            with self._clock.move_on_after(self._options.handover):
                await new.ready.wait()
            if self._closing:
                return new
            if new.state is State.OPEN:
                self.replaced += 1
                old.close()
                return new
            new.close()
            await new.ended.wait()
            await self._pause(new)
            if old.state is State.ENDED:
                return self._open()
