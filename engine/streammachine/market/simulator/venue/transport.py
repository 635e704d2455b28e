"""One TCP connection of the simulator: HTTP/1.1 with keep-alive, or, after the handshake, WebSocket frames.

The frames are made and read by the state machine of ``websockets`` without its I/O, so that a fault can do below the
protocol what a network does: reset, fall silent, stop half-way through an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.http11 import Request as Handshake
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

HEAD_LIMIT = 64 * 1024  # bytes of a request's head
LINE_LIMIT = 8 * 1024  # bytes of its first line, as of most web servers
BACKLOG_LIMIT = 256 * 1024 * 1024  # bytes that a client may leave unread before it is cut off
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST
WIRE_LOG = logging.getLogger("streammachine.market.simulator.venue.transport")


@dataclass(frozen=True)
class HttpRequest:
    """A request without a body: path without query, query (the last of equal names), headers in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """An HTTP answer: JSON unless ``headers`` say otherwise."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class ConnectionOwner(Protocol):
    """Who a connection belongs to; called from the loop, synchronously."""

    def connected(self, connection: Connection) -> None:
        """A client connected."""

    def requested(self, connection: Connection, request: HttpRequest) -> None:
        """A plain request came: call ``answer`` (or something worse) once."""

    def upgrading(self, connection: Connection, request: HttpRequest) -> bool:
        """A WebSocket handshake came: True takes it; False: it has been dealt with."""

    def opened(self, connection: Connection, request: HttpRequest) -> None:
        """The handshake is done."""

    def received(self, connection: Connection, opcode: Opcode, data: bytes) -> None:
        """A whole text or binary message, a ping (answered already) or a pong came."""

    def lost(self, connection: Connection) -> None:
        """The connection is gone."""

    def failed(self, error: Exception) -> None:
        """The owner itself failed in one of these calls."""


class Connection(asyncio.Protocol):
    """Serves one client."""

    def __init__(self, owner: ConnectionOwner) -> None:
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._busy = False  # an HTTP answer is due
        self._keep = True  # the client wants to go on after it
        self._ws: ServerProtocol | None = None
        self._message = bytearray()
        self._opcode = Opcode.TEXT
        self._hold = False
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self.frozen = False  # nothing more is read or written, for the client the line is dead
        self.gone = False

    # -- asyncio calls these --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without being derived from it
        self._guarded(lambda: self._owner.connected(self))

    def data_received(self, data: bytes) -> None:
        if self.frozen:
            if self._hold:
                self._incoming += data
            return
        if self._ws is not None:
            self._guarded(lambda: self._frames(data))
            return
        self._buffer += data
        self._guarded(self._http)

    def eof_received(self) -> bool:
        if self._ws is not None and not self.frozen:
            self._ws.receive_eof()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self._guarded(lambda: self._owner.lost(self))

    def _guarded(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - handed to the owner, who raises it where it is awaited
            self.reset()
            self._owner.failed(error)

    # -- HTTP --

    def _http(self) -> None:
        while not self._busy and self._ws is None and b"\r\n\r\n" in self._buffer:
            head, _, rest = self._buffer.partition(b"\r\n\r\n")
            request = _parse(head)
            if request is None:
                self._turn_down(400)
                return
            if len(head.partition(b"\r\n")[0]) > LINE_LIMIT:
                self._turn_down(414)
                return
            if request.headers.get("upgrade", "").lower() == "websocket":
                self._buffer = b""
                self._handshake(request, head + b"\r\n\r\n", rest)
                return
            self._buffer = rest
            self._busy = True
            self._keep = request.headers.get("connection", "").lower() != "close"
            if request.method != "GET":
                self._turn_down(405)
                return
            self._owner.requested(self, request)
        if len(self._buffer) > HEAD_LIMIT:
            self.reset()

    def _turn_down(self, status: int) -> None:
        self._keep = False
        self._busy = True
        self.answer(Answer(b"", status))

    def answer(self, answer: Answer) -> None:
        """Send a whole answer, then take the next request."""
        self.send_raw(self.head(answer, len(answer.body)) + answer.body)
        self.answered()

    def answered(self) -> None:
        """An answer that was sent with ``send_raw`` is complete."""
        self._busy = False
        if not self._keep:
            self.drop()
        elif self._buffer:
            self._guarded(self._http)

    def head(self, answer: Answer, length: int) -> bytes:
        """Status line and headers of an answer whose body has so many bytes."""
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(length),
            "Connection": "keep-alive" if self._keep else "close",
            **answer.headers,
        }
        try:
            phrase = HTTPStatus(answer.status).phrase
        except ValueError:
            phrase = "Unknown"
        lines = [f"HTTP/1.1 {answer.status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    # -- WebSocket --

    def _handshake(self, request: HttpRequest, head: bytes, rest: bytes) -> None:
        if not self._owner.upgrading(self, request):
            return
        made = ServerProtocol(max_size=2**24, logger=WIRE_LOG)
        made.receive_data(head)
        events = made.events_received()
        if not events or not isinstance(events[0], Handshake):
            self._turn_down(400)
            return
        made.send_response(made.accept(events[0]))
        self._ws = made
        self._flush()
        if made.state is OPEN:
            self._owner.opened(self, request)
            if rest:
                self._frames(rest)

    def _frames(self, data: bytes) -> None:
        if self._ws is None:
            return
        self._ws.receive_data(data)
        events = self._ws.events_received()
        self._flush()
        for frame in events:
            if not isinstance(frame, Frame):
                continue
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                if frame.opcode is not Opcode.CONT:
                    self._opcode = frame.opcode
                    self._message.clear()
                self._message += frame.data
                if frame.fin:
                    self._owner.received(self, self._opcode, bytes(self._message))
            elif frame.opcode in (Opcode.PING, Opcode.PONG):
                self._owner.received(self, frame.opcode, bytes(frame.data))

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return self._ws is not None and self._ws.state is OPEN and not self.gone

    def send_text(self, data: bytes) -> None:
        """Send a text message, whether it is UTF-8 or not; none where the connection is closed or closing."""
        if self._ws is not None and self.is_open:
            self._ws.send_text(data)
            self._flush()

    def send_ping(self, data: bytes = b"") -> None:
        """Send a ping frame."""
        if self._ws is not None and self.is_open:
            self._ws.send_ping(data)
            self._flush()

    def close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake. The code 1006 stands for an end without one."""
        if code == 1006 or self._ws is None:
            self.drop()
        elif self.is_open:
            with contextlib.suppress(InvalidState):
                self._ws.send_close(code, reason)
            self._flush()

    # -- below the protocol --

    def _flush(self) -> None:
        if self._ws is None:
            return
        for data in self._ws.data_to_send():
            if data:
                self.send_raw(data)
            else:
                self.drop()

    def send_raw(self, data: bytes) -> None:
        """Write bytes as they are; a client that leaves too many unread is cut off."""
        if self._transport is None or self.gone or self._transport.is_closing():
            return
        if self.frozen:
            if self._hold:
                self._outgoing += data
            return
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > BACKLOG_LIMIT:
            self.reset()

    def drop(self) -> None:
        """Close the TCP connection after what was written, without a word."""
        if self._transport is not None:
            self._transport.close()

    def end(self) -> None:
        """Close the TCP connection now; what the client does not take is given up."""
        if self._transport is None or self.gone:
            return
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()

    def reset(self) -> None:
        """Close the TCP connection with RST."""
        if self._transport is None or self.gone:
            return
        peer = self._transport.get_extra_info("socket")
        if peer is not None:
            with contextlib.suppress(OSError):
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._transport.abort()

    def freeze(self, *, hold: bool = False) -> None:
        """Read and write nothing from now on, and keep the connection. ``hold``: for ``thaw``, keep what would pass."""
        self.frozen = True
        self._hold = hold

    def thaw(self) -> None:
        """End ``freeze``: what was held passes now, as after a network's outage."""
        if not self.frozen:
            return
        self.frozen = False
        outgoing, incoming = bytes(self._outgoing), bytes(self._incoming)
        self._outgoing.clear()
        self._incoming.clear()
        if outgoing:
            self.send_raw(outgoing)
        if incoming:
            self.data_received(incoming)


def _parse(head: bytes) -> HttpRequest | None:
    lines = head.decode("latin-1").split("\r\n")
    try:
        method, target, _ = lines[0].split(" ")
    except ValueError:
        return None
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            return None
        headers[name.strip().lower()] = value.strip()
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return HttpRequest(method, unquote(parts.path), query, headers)
