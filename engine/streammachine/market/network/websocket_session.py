"""One connection's life: opened, subscribed, watched, read, closed.

What comes in is handed to a ``SessionOwner``; what the frames mean for candles and trades is not known here. Two
watchdogs: no frame at all (pongs count) for ``adapter.socket.silent`` means a dead transport, and no data for
``stale_after`` a socket that is open and says nothing. A session that ends never raises: ``reason`` says why it ended.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

import anyio
import websockets
from websockets.asyncio.client import ClientConnection

from streammachine.market.exchanges.base import Ack, Adapter, Alive, Command, Notice, Refused, Subscription
from streammachine.market.network.opening import NotOpenedError, error_text, open_socket
from streammachine.market.network.rate_budget import Budget
from streammachine.market.network.session_options import SessionOptions

if TYPE_CHECKING:
    from streammachine.market.clock.clock import Clock

log = logging.getLogger(__name__)

CLOSING: Final = 2.0  # seconds for the closing handshake
ATTEMPTS: Final = 2  # how often one subscription is asked for on one connection
HEARTBEAT_GAP: Final = 4.0  # seconds; exchanges with a heartbeat send it every second
BUSY: Final = 5.0  # seconds until a subscription is repeated that the exchange was too busy for
REFUSED_AGAIN: Final = 60.0  # and one that it refused for another reason


class State(Enum):
    """Where a session is."""

    OPENING = "opening"
    OPEN = "open"
    ENDED = "ended"


class SessionOwner(Protocol):
    """Whom a session works for."""

    def received(self, session: WebSocketSession, frame: bytes) -> bool:
        """A frame came. True: there is no room for more; wait for ``room``."""

    async def room(self) -> None:
        """Return when there is room again."""

    def silence(self, session: WebSocketSession) -> None:
        """A frame comes after ``HEARTBEAT_GAP`` without one."""

    def acknowledged(self, session: WebSocketSession, subscription: Subscription) -> None:
        """The stream is served now."""

    def refused(self, session: WebSocketSession, subscription: Subscription, reason: str) -> None:
        """The stream is not served on this connection."""

    def has_data_since(self, subscription: Subscription, since_ms: int) -> bool:
        """Whether data of the stream came since the moment."""


@dataclass
class _Asked:
    """A command that was sent and is not answered completely yet."""

    command: Command
    sent_at: float
    sent_ms: int
    wanted: bool  # False: it unsubscribes
    missing: int


class WebSocketSession:
    """One connection that carries some streams.

    Args:
        number: of the connection, for the log.
        stale_after: seconds without data until it is given up; may exceed ``options.stale_after``.

    Attributes:
        state, reason: where it is, and why it ended.
        opened: set when it is open. ready: set when all its streams are served (or refused) and data flows.
        ended: set at the end. replaceable: set when another connection should take over (it may live on for a while).
        last_frame, last_data: moments (``Clock.monotonic``). stale: it ended because no data came.
        not_found: the server says that there is no WebSocket at the URL.
        flowed: seconds between the first and the last data.
    """

    def __init__(
        self,
        adapter: Adapter,
        url: str,
        subscriptions: Iterable[Subscription],
        owner: SessionOwner,
        *,
        clock: Clock,
        options: SessionOptions,
        number: int = 1,
        stale_after: float | None = None,
        lifetime: float | None = None,
    ) -> None:
        self.adapter = adapter
        self.url = url
        self.subscriptions = tuple(subscriptions)
        self.number = number
        self.state = State.OPENING
        self.reason = ""
        self.opened = anyio.Event()
        self.ready = anyio.Event()
        self.ended = anyio.Event()
        self.replaceable = anyio.Event()
        self.stale = False
        self.not_found = False
        self.acked: set[Subscription] = set()
        self.last_frame = self.last_data = clock.monotonic()
        self._first_data: float | None = None
        self._owner = owner
        self._clock = clock
        self._options = options
        self._stale_after = options.stale_after if stale_after is None else stale_after
        self._lifetime = lifetime
        self._blocked = False
        self._reading_since = 0.0  # when the owner last had room again
        self._scope = anyio.CancelScope()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._socket: ClientConnection | None = None
        self._messages = Budget(adapter.socket.messages, adapter.socket.messages_within)
        self._next_id = 1
        self._asked: dict[int, _Asked] = {}
        self._tries: dict[Subscription, int] = {}
        self._refused: set[Subscription] = set()
        self._last_sent = clock.monotonic()
        self._pings_unanswered = 0
        self._planned = False  # closed by us, with the closing handshake
        self._message_number = -1  # of the last message, where they are numbered

    # -- what the owner may do --

    @property
    def flowed(self) -> float:
        """Seconds for which data has flowed."""
        return 0.0 if self._first_data is None else self.last_data - self._first_data

    def close(self) -> None:
        """End it, with the closing handshake."""
        self._planned = True
        self._end("closed by us")

    def note_data(self, moment: float) -> None:
        """A frame held data."""
        self.last_data = moment
        if self._first_data is None:
            self._first_data = moment
            self._check_ready()

    def skipped(self, number: int) -> bool:
        """Take note of a message's number; whether others before it did not come."""
        last = self._message_number
        if number > last:
            self._message_number = number
        return number > last + 1 and last >= 0

    def control(self, event: Ack | Refused | Notice | Alive) -> None:
        """What a frame said of the connection."""
        if isinstance(event, Alive):
            if self._pings_unanswered:
                self._pings_unanswered = 0
            elif event.idle:
                self.last_data = self.last_frame  # a heartbeat: the exchange would say if there were anything
        elif isinstance(event, Ack):
            self._acknowledge(event)
        elif isinstance(event, Refused):
            self._refuse(event)
        elif event.reconnect:
            log.info("%s: %s; another connection takes over", self._name, event.text)
            self.replaceable.set()
        else:
            log.info("%s: %s", self._name, event.text)

    def resubscribe(self, subscriptions: Sequence[Subscription]) -> None:
        """Unsubscribe streams and subscribe them again."""
        if self._tasks is not None and self.state is State.OPEN:
            self._tasks.start_soon(self._resubscribe, tuple(subscriptions))

    # -- its life --

    async def run(self) -> None:
        """Live until closed, given up, or cut. Never raises but for cancellation and a URL that is none.

        Raises:
            ExchangeError: the URL is not one of a WebSocket.
        """
        try:
            with self._scope:
                socket = await self._open()
                if socket is not None:
                    self._socket = socket
                    await self._live(socket)
        finally:
            self.state = State.ENDED
            try:
                if self._socket is not None:
                    await self._disconnect(self._socket)
            finally:
                self.replaceable.set()
                self.ready.set()
                self.opened.set()
                self.ended.set()

    async def _open(self) -> ClientConnection | None:
        try:
            if self._options.opener is not None:
                found: ClientConnection = await self._options.opener(self, self._clock, self._options.open_timeout)
                return found
            return await open_socket(self.url, self.adapter.socket, self._clock, self._options.open_timeout)
        except NotOpenedError as error:
            self.reason, self.not_found = error.reason, error.not_found
            return None

    async def _live(self, socket: ClientConnection) -> None:
        self.state = State.OPEN
        now = self._clock.monotonic()
        self.last_frame = self.last_data = self._last_sent = now
        self.opened.set()
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._begin)
                tasks.start_soon(self._watch_transport)
                tasks.start_soon(self._watch_data)
                tasks.start_soon(self._keep_alive)
                if self._lifetime is not None:
                    tasks.start_soon(self._end_of_life, self._lifetime)
                await self._read(socket)
        finally:
            self._tasks = None

    async def _read(self, socket: ClientConnection) -> None:
        owner, clock = self._owner, self._clock
        last = clock.monotonic()
        try:
            while True:
                frame = await socket.recv(decode=False)
                self.last_frame = moment = clock.monotonic()
                if moment - last > HEARTBEAT_GAP:
                    owner.silence(self)
                last = moment
                if owner.received(self, frame):
                    self._blocked = True
                    await owner.room()
                    self._blocked = False
                    self.last_frame = self.last_data = self._reading_since = last = clock.monotonic()
        except websockets.ConnectionClosed as error:
            self._end(error_text(error))

    async def _disconnect(self, socket: ClientConnection) -> None:
        """Close the socket: with the closing handshake where we planned it, else at once."""
        try:
            if self._planned:
                with anyio.CancelScope(shield=True), self._clock.move_on_after(CLOSING):
                    await socket.close()
        finally:
            socket.transport.abort()
            with anyio.CancelScope(shield=True):
                await socket.wait_closed()

    def _end(self, reason: str) -> None:
        if not self.reason:
            self.reason = reason
        self._scope.cancel()

    async def _end_of_life(self, lifetime: float) -> None:
        await self._clock.sleep(lifetime)
        log.info("%s: nears the end of its allowed life; another connection takes over", self._name)
        self.replaceable.set()

    # -- watchdogs and keep-alive --

    async def _watch_transport(self) -> None:
        silent = self._clock.patience(self.adapter.socket.silent)
        while True:
            now = self._clock.monotonic()
            if self._blocked:
                self.last_frame = now
            left = self.last_frame + silent - now
            if left <= 0:
                self._end(f"no frame for {silent:g} s")
            await self._clock.sleep(max(left, 0.01))

    async def _watch_data(self) -> None:
        while True:
            now = self._clock.monotonic()
            if self._blocked:
                self.last_data = now
            left = self.last_data + self._stale_after - now
            if left <= 0:
                self.stale = True
                self._end(f"no data for {self._stale_after:g} s, though it is open")
            await self._clock.sleep(max(left, 0.01))

    async def _keep_alive(self) -> None:
        every = self.adapter.socket.ping_every
        while True:
            left = self._last_sent + every - self._clock.monotonic()
            if left > 0:
                await self._clock.sleep(left)
                continue
            text = self.adapter.ping()
            if text is None:
                await self._ping()
            else:
                self._pings_unanswered += 1
                await self._send(text)

    async def _ping(self) -> None:
        if self._socket is None:
            return
        self._last_sent = self._clock.monotonic()
        self._messages.reserve(1, self._last_sent)
        try:
            pong = await self._socket.ping()
        except websockets.ConnectionClosed as error:
            self._end(error_text(error))
            return
        if self._tasks is not None:
            self._tasks.start_soon(self._await_pong, pong)

    async def _await_pong(self, pong: Awaitable[float]) -> None:
        try:
            await pong
            self.last_frame = self._clock.monotonic()
        except websockets.ConnectionClosed as error:
            self._end(error_text(error))

    async def _send(self, text: str) -> None:
        """Send a frame; the message rate is the caller's business, but for being counted."""
        if self._socket is None:
            return
        self._last_sent = self._clock.monotonic()
        try:
            await self._socket.send(text)
        except websockets.ConnectionClosed as error:
            self._end(error_text(error))

    # -- subscriptions --

    async def _begin(self) -> None:
        for text in self.adapter.opening:
            self._messages.reserve(1, self._clock.monotonic())
            await self._send(text)
        await self._subscribe(self.subscriptions)

    async def _subscribe(self, subscriptions: Sequence[Subscription]) -> None:
        """Ask for streams under the message rate, and see to it that each is answered."""
        if subscriptions:
            await self._command(self.adapter.subscribe(subscriptions, self._next_id), wanted=True)

    async def _resubscribe(self, subscriptions: tuple[Subscription, ...]) -> None:
        self.acked.difference_update(subscriptions)
        await self._command(self.adapter.unsubscribe(subscriptions, self._next_id), wanted=False)
        for subscription in subscriptions:
            self._tries.pop(subscription, None)
        await self._subscribe(subscriptions)

    async def _command(self, commands: Sequence[Command], *, wanted: bool) -> None:
        self._next_id += len(commands)
        for command in commands:
            now = self._clock.monotonic()
            await self._clock.sleep(self._messages.reserve(1, now) - now)
            if wanted:
                for subscription in command.subscriptions:
                    self._tries[subscription] = self._tries.get(subscription, 0) + 1
            asked = _Asked(
                command,
                self._clock.monotonic(),
                self._clock.time_ms(),
                wanted,
                command.acks,
            )
            self._asked[command.request_id] = asked
            if self._tasks is not None:
                self._tasks.start_soon(self._await_answer, asked)
            await self._send(command.frame)

    async def _await_answer(self, asked: _Asked) -> None:
        """Ask again for what was not answered in time; give the connection up if that does not help either."""
        deadline = self._clock.patience(self._options.ack_timeout)
        while (
            left := max(asked.sent_at, self._reading_since) + deadline - self._clock.monotonic()
        ) > 0 or self._blocked:
            await self._clock.sleep(left if left > 0 else deadline)  # what is not read cannot be an answer
        self._asked.pop(asked.command.request_id, None)
        if not asked.wanted:
            return
        silent = []
        for subscription in asked.command.subscriptions:
            if subscription in self.acked or subscription in self._refused:
                continue
            if self._owner.has_data_since(subscription, asked.sent_ms):  # served, though nothing acknowledged it
                self._serve(subscription)
            else:
                silent.append(subscription)
        if not silent:
            return
        if any(self._tries.get(subscription, 0) >= ATTEMPTS for subscription in silent):
            self._end(f"{len(silent)} subscriptions were not acknowledged, {silent[0].symbol} among them")
        else:
            log.warning("%s: %d subscriptions were not acknowledged; asking again", self._name, len(silent))
            await self._subscribe(silent)

    def _acknowledge(self, ack: Ack) -> None:
        asked = self._asked.get(ack.request_id) if ack.request_id is not None else None
        if asked is None or asked.wanted:
            if ack.subscription is not None:
                self._serve(ack.subscription)
            if asked is None:
                return
        asked.missing -= 1
        if asked.missing > 0:
            return
        del self._asked[asked.command.request_id]
        if asked.wanted:
            for subscription in asked.command.subscriptions:
                if subscription not in self._refused:
                    self._serve(subscription)

    def _serve(self, subscription: Subscription) -> None:
        if subscription in self._tries and subscription not in self.acked:
            self.acked.add(subscription)
            self._refused.discard(subscription)
            self._owner.acknowledged(self, subscription)
            self._check_ready()

    def _refuse(self, refused: Refused) -> None:
        asked = self._asked.get(refused.request_id) if refused.request_id is not None else None
        if refused.subscription is not None:
            named = [refused.subscription] if refused.subscription in self._tries else []
        elif asked is not None:
            named = [one for one in asked.command.subscriptions if refused.symbol in (None, one.symbol)]
        else:
            named = [one for one in self._tries if refused.symbol is not None and one.symbol == refused.symbol]
        if asked is not None and not asked.wanted:
            return
        if not named:
            log.warning("%s: refused: %s", self._name, refused.reason)
        elif refused.retry:
            log.warning("%s: refused for now: %s", self._name, refused.reason)
            self._later(tuple(named), BUSY)
        elif len(named) > 1:  # one bad name refuses all of a request: find out which
            log.warning("%s: %d streams refused together: %s", self._name, len(named), refused.reason)
            half = len(named) // 2
            for part in (named[:half], named[half:]):
                for subscription in part:
                    self._tries[subscription] = 0
                if self._tasks is not None:
                    self._tasks.start_soon(self._subscribe, tuple(part))
        elif named[0] not in self.acked:
            self._refused.add(named[0])
            self._owner.refused(self, named[0], refused.reason)
            self._check_ready()
            self._later((named[0],), REFUSED_AGAIN)

    def _later(self, subscriptions: tuple[Subscription, ...], pause: float) -> None:
        async def again() -> None:
            await self._clock.sleep(pause)
            for subscription in subscriptions:
                self._tries[subscription] = 0
            await self._subscribe([one for one in subscriptions if one not in self.acked])

        if self._tasks is not None:
            self._tasks.start_soon(again)

    def _check_ready(self) -> None:
        served = len(self.acked) + len(self._refused) >= len(self.subscriptions)
        if served and self._first_data is not None:
            self.ready.set()

    @property
    def _name(self) -> str:
        return f"{self.adapter.source} connection {self.number}"
