"""Recording: sockets and REST as they are, with everything that comes noted in a file of frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import websockets

from streammachine.market.exchanges.base import Request
from streammachine.market.network.frame_file import FrameWriter
from streammachine.market.network.opening import NotOpenedError, open_socket
from streammachine.market.network.rest_client import RestClient

if TYPE_CHECKING:
    from streammachine.market.clock.clock import Clock
    from streammachine.market.network.websocket_session import WebSocketSession

T = TypeVar("T")


class Recorder:
    """Opens sockets for sessions, and notes what they receive.

    Args:
        writer: the file. clock: what time it is.
    """

    def __init__(self, writer: FrameWriter, clock: Clock) -> None:
        self.writer = writer
        self.clock = clock

    def close(self) -> None:
        """End the recording; a replay ends at the same time."""
        self.writer.alive(self.clock.time_ms())
        self.writer.close()

    async def open(self, session: WebSocketSession, clock: Clock, timeout: float) -> Any:
        """As ``open_socket``, for a session."""
        key = stream_key(session)
        try:
            socket = await open_socket(session.url, session.adapter.socket, clock, timeout)
        except NotOpenedError as error:
            kind = "there is no WebSocket" if error.not_found else "no connection"  # its text may name a proxy
            self.writer.not_opened(clock.time_ms(), key, kind)
            raise
        self.writer.opened(clock.time_ms(), session.number, key)
        return _RecordedSocket(socket, session.number, self)


class _RecordedSocket:
    """A socket that notes its frames; all else is the socket's own."""

    def __init__(self, socket: Any, number: int, recorder: Recorder) -> None:
        self._socket = socket
        self._number = number
        self._recorder = recorder
        self._ended = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    async def recv(self, decode: bool | None = None) -> bytes:
        """The next frame."""
        recorder = self._recorder
        try:
            frame: bytes = await self._socket.recv(decode=decode)
        except websockets.ConnectionClosed:
            self._note_end()
            raise
        recorder.writer.frame(recorder.clock.time_ms(), self._number, frame)
        return frame

    async def wait_closed(self) -> None:
        """Whoever ended it."""
        self._note_end()
        await self._socket.wait_closed()

    def _note_end(self) -> None:
        if not self._ended:
            self._ended = True
            self._recorder.writer.closed(self._recorder.clock.time_ms(), self._number)


class RecordingRest(RestClient):
    """A REST client that notes each answer that was understood."""

    writer: FrameWriter

    async def ask(self, request: Request, decode: Callable[[bytes], T], *, bulk: bool = False) -> T:
        """As ``RestClient.ask``."""

        def noted(body: bytes) -> T:
            value = decode(body)
            if not bulk:
                self.writer.answer(self.clock.time_ms(), request.path, request.params, body)
            return value

        return await super().ask(request, noted, bulk=bulk)


def stream_key(session: WebSocketSession) -> str:
    """Names the connections that carry the same streams, one after the other."""
    first = session.subscriptions[0]
    return f"{first.kind}:{first.symbol}:{first.timeframe or ''}"
