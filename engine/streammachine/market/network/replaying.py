"""Replay: a file of frames in the place of an exchange. Sessions, decode, ledgers and healing are the real ones.

A player reads the events and lets each happen at its time, by the runner's clock: connections open and end, frames
come, and REST has the answers that it had by then. What was not recorded cannot be answered: the healer says the Gap.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

import anyio
import anyio.lowlevel
import websockets

from streammachine.errors import ExchangeUnavailableError
from streammachine.market.exchanges.base import Request, TradePage
from streammachine.market.model.kline import Kline
from streammachine.market.network.frame_file import read_events, read_header
from streammachine.market.network.opening import NotOpenedError
from streammachine.market.network.recording import stream_key
from streammachine.market.network.rest_client import RestClient

if TYPE_CHECKING:
    from streammachine.market.clock.clock import Clock
    from streammachine.market.network.websocket_session import WebSocketSession

T = TypeVar("T")

ANSWERS_KEPT: Final = 2_000
LAST_MOMENT: Final = 0.5  # seconds behind the last event, for what follows from it
ANSWER_WAIT: Final = 30.0  # seconds that an answer may have taken when it was recorded
FRAMES_AHEAD: Final = 1_000  # of one connection that may wait to be read
# Parts of a query that say which page is meant, not of what.
PAGING: Final = frozenset(
    {"startTime", "endTime", "limit", "start", "end", "after", "before", "since", "fromId", "count", "cursor", "page"}
)


class Player:
    """Plays one recording. ``run`` beside whoever opens sockets and asks.

    Args:
        path: the file.

    Attributes:
        header: what was recorded. ended: set when all has been played. now: the time of the last event.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.header = read_header(self.path)
        self.ended = anyio.Event()
        self._connections: dict[int, ReplayedSocket] = {}
        self._waiting: dict[str, deque[ReplayedSocket | str]] = defaultdict(deque)  # opened, or why it was not
        self._changed = anyio.Event()
        self._answers: deque[tuple[str, Mapping[str, str], bytes]] = deque(maxlen=ANSWERS_KEPT)

    async def run(self, clock: Clock) -> None:
        """Let everything happen at its time, to the end of the file.

        Raises:
            DataInputError: the file is damaged.
        """
        for event in _without_last_ends(read_events(self.path)):
            if event[1] > clock.time_ms():
                await clock.sleep_until(event[1])
            await self._happen(event)
        for socket in self._connections.values():
            while socket.held and not socket.given_up:
                await anyio.lowlevel.checkpoint()
        await clock.sleep(LAST_MOMENT)
        self.ended.set()
        self._note_change()

    async def _happen(self, event: Sequence[Any]) -> None:
        kind = event[0]
        if kind == "f":
            socket = self._connections.get(event[2])
            if socket is not None:
                await socket.put(event[3])
        elif kind == "o":
            socket = self._connections[event[2]] = ReplayedSocket()
            self._waiting[event[3]].append(socket)
        elif kind == "n":
            self._waiting[event[2]].append(event[3])
        elif kind == "x":
            if (socket := self._connections.pop(event[2], None)) is not None:
                socket.end()
        elif kind == "r":
            self._answers.append((event[2], event[3], event[4].encode()))
        if kind != "f":
            self._note_change()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def open(self, session: WebSocketSession, clock: Clock, timeout: float) -> Any:
        """The next connection of the session's streams, when it was opened; as ``open_socket``."""
        found = await self.next_socket(stream_key(session))
        found.questions += len(session.adapter.opening)
        return found

    async def next_socket(self, key: str | None = None) -> ReplayedSocket:
        """The next connection of these streams (None: of any).

        Raises:
            NotOpenedError: it could not be opened then, or there are no more.
        """
        while True:
            keys = [key] if key is not None else list(self._waiting)
            for each in keys:
                if self._waiting[each]:
                    found = self._waiting[each].popleft()
                    if isinstance(found, str):
                        raise NotOpenedError(found)
                    return found
            if self.ended.is_set():
                await anyio.sleep_forever()  # whoever plays it ends now
            await self._changed.wait()

    async def answers(self, request: Request, clock: Clock) -> list[bytes]:
        """What REST said to this question: the answer to the same one, else all to the same but for the page."""
        deadline = clock.monotonic() + ANSWER_WAIT
        while True:
            found = self.find(request.path, request.params)
            if found or self.ended.is_set() or clock.monotonic() >= deadline:
                return found
            with clock.move_on_after(deadline - clock.monotonic()):
                await self._changed.wait()

    def find(self, path: str, params: Mapping[str, str]) -> list[bytes]:
        """As ``answers``, of what was said by now; the newest last."""
        same = [body for where, query, body in self._answers if where == path and dict(query) == dict(params)]
        if same:
            return same[-1:]
        wanted = _subject(params)
        return [body for where, query, body in self._answers if where == path and _subject(query) == wanted]


class ReplayedSocket:
    """A recorded connection, as much of a WebSocket as a session uses."""

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._changed = anyio.Event()
        self._over = False
        self.given_up = False
        self.questions = 1  # that are sent before the first answer comes
        self.transport = self

    @property
    def held(self) -> int:
        """Frames that wait to be read."""
        return len(self._frames)

    async def put(self, frame: bytes) -> None:
        """A frame has come."""
        while len(self._frames) >= FRAMES_AHEAD and not self.given_up:
            await self._changed.wait()
        if not self.given_up:
            self._frames.append(frame)
            self._note_change()

    def end(self) -> None:
        """The connection ends behind what has come."""
        self._over = True
        self._note_change()

    async def recv(self, decode: bool | None = None) -> bytes:
        """The next frame."""
        while not self._frames or self.questions > 0:  # an answer does not come before its question
            if self.given_up or (self._over and not self._frames):
                raise websockets.ConnectionClosedError(None, None)
            await self._changed.wait()
        frame = self._frames.popleft()
        if len(self._frames) == FRAMES_AHEAD - 1:
            self._note_change()
        return frame

    async def send(self, text: str) -> None:
        """Nobody listens: the answers are in the recording."""
        self.questions -= 1
        if self.questions == 0:
            self._note_change()

    async def ping(self) -> asyncio.Future[float]:
        """A ping that is answered at once."""
        pong: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        pong.set_result(0.0)
        return pong

    async def close(self) -> None:
        """The session has enough."""
        self.abort()

    async def wait_closed(self) -> None:
        """It is closed."""

    def abort(self) -> None:
        """Take no more frames."""
        self.given_up = True
        self._frames.clear()
        self._note_change()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


class ReplayedRest(RestClient):
    """REST as it was recorded."""

    player: Player

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def ask(self, request: Request, decode: Callable[[bytes], T], *, bulk: bool = False) -> T:
        """What was answered then.

        Raises:
            ExchangeUnavailableError: nothing of the kind was recorded.
        """
        bodies = [] if bulk else await self.player.answers(request, self.clock)
        if not bodies:
            raise ExchangeUnavailableError(f"{self.player.path} holds no answer of {request.path} to this question")
        self.requests += 1
        return cast("T", _together([decode(body) for body in bodies]))


def _without_last_ends(events: Iterator[list[Any]]) -> Iterator[list[Any]]:
    """The events, but for the connections that ended with the recording: they would be opened again."""
    ends: list[list[Any]] = []
    for event in events:
        if event[0] == "x":
            ends.append(event)
            continue
        if event[0] != "e":
            yield from ends
            ends.clear()
        yield event


def _together(values: list[Any]) -> Any:
    """Several pages as one: candles and trades are joined, of anything else the newest counts."""
    if len(values) > 1 and all(isinstance(value, list) for value in values):
        klines = {kline.open_ts: kline for value in values for kline in value if isinstance(kline, Kline)}
        return [klines[open_ts] for open_ts in sorted(klines)]
    if len(values) > 1 and all(isinstance(value, TradePage) for value in values):
        trades = {trade.trade_id: trade for value in values for trade in value.trades}
        return TradePage(sorted(trades.values(), key=lambda trade: trade.ts), None)
    return values[-1]


def _subject(params: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in params.items() if name not in PAGING}
