"""The HTTP transport: which hosts and pages are served, and request bodies read as lines on stdio are.

FastMCP's app guards Host and Origin and serves ``/mcp``. Around it: CORS for the origins that were named, bodies that
are no message refused with their id (``messages.py``), a short road for tool calls (``http_calls.py``), and answers in
which nothing ends a line. A client that goes while it sends is no error of ours.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from streammachine_mcp.messages import BOM, INVALID_REQUEST, Refusal, messages_in, one_line, plain_request

if TYPE_CHECKING:
    from fastmcp import FastMCP
    from mcp_types import JSONRPCRequest
    from starlette.applications import Starlette
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from streammachine_mcp.http_calls import ShortRoad

log = logging.getLogger(__name__)

PATH = "/mcp"
RATE = 50.0  # requests a second of one token, twice as many at once
SESSION_IDLE = 1800.0  # seconds without a request after which a session ends; each holds 38 kB
MAX_BODY = 4 << 20  # bytes; the SDK refuses more with status 413
_METHODS = ("GET", "POST", "DELETE", "OPTIONS")


def http_app(
    server: FastMCP[Any], hosts: Sequence[str], origins: Sequence[str], session_idle: float, rate: float = 0
) -> Starlette:
    """The app that serves ``/mcp`` and the server's own routes, on loopback names and the hosts and pages named.

    Args:
        hosts: further names that may stand in the header Host. origins: pages ("https://app.example") that may call
        and read the answers. session_idle: seconds after which a session that nobody uses ends. rate: requests a
        second of one token; 0: any number.
    """
    from starlette.middleware import Middleware
    from starlette.middleware.cors import CORSMiddleware

    from streammachine_mcp.access.guard import Guard
    from streammachine_mcp.http_calls import ShortRoad

    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=list(_METHODS),
        allow_headers=["*"],
        expose_headers=["mcp-session-id", "mcp-protocol-version"],
    )
    short_road = ShortRoad()
    # FastMCP's guard lets loopback names pass by itself, with any port.
    app = server.http_app(
        path=PATH,
        middleware=[*([cors] if origins else []), Middleware(Messages, short_road), Middleware(Guard, rate=rate)],
        host_origin_protection=True,
        allowed_hosts=list(hosts) or None,
        allowed_origins=list(origins) or None,
        session_idle_timeout=session_idle,
    )
    short_road.join(app, PATH)
    return app


def checked_hosts(text: str) -> list[str]:
    """The host names of ``--allowed-hosts``.

    Raises:
        SettingsError: one is no name, or stands for all.
    """
    from streammachine.errors import SettingsError

    hosts = [part.strip() for part in text.split(",") if part.strip()]
    for host in hosts:
        if "*" in host or "/" in host:
            raise SettingsError(
                f"--allowed-hosts {host!r} is not accepted: give names as they stand in a URL, e.g. mcp.example.org."
            )
    return hosts


def checked_origins(text: str) -> list[str]:
    """The origins of ``--allowed-origins``.

    Raises:
        SettingsError: one is no origin, or stands for all.
    """
    from streammachine.errors import SettingsError

    origins = [part.strip().rstrip("/") for part in text.split(",") if part.strip()]
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or "*" in origin:
            raise SettingsError(
                f"--allowed-origins {origin!r} is not accepted: give scheme and host, e.g. https://app.example.org."
            )
    return origins


class Messages:
    """ASGI middleware between the transport and its clients."""

    def __init__(self, app: ASGIApp, short_road: ShortRoad) -> None:
        self._app = app
        self._short_road = short_road

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"].rstrip("/") != PATH:
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            await _answer(send, 204, b"", [(b"allow", ", ".join(_METHODS).encode())])
        elif scope["method"] == "POST":
            await self._post(scope, receive, send)
        else:
            await self._app(scope, receive, _OneLine(send).send)

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = await _body(receive)
        if body is None:
            log.debug("A client was gone before its request was here")
            return
        if not more:
            request = plain_request(body)
            if request is not None and await self._short_road.serve(request, scope, receive, send):
                return
            found = _one_message(body, request)
            if isinstance(found, Refusal):
                await _answer(send, 400, found.encoded(), [(b"content-type", b"application/json")])
                return
            body = found
        given = _sized(scope, len(body)) if not more else scope
        await self._app(given, _again(body, more, receive), _OneLine(send).send)


async def _body(receive: Receive) -> tuple[bytes | None, bool]:
    """The body, and whether more of it than is taken comes; None when the client went away."""
    body = bytearray()
    more = True
    while more and len(body) <= MAX_BODY:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None, False
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body), more


def _one_message(body: bytes, plain: JSONRPCRequest | None) -> bytes | Refusal:
    """The body for the server: as it came, where the SDK's parser understands it as we do.

    Args:
        plain: what ``plain_request`` makes of it.
    """
    from mcp_types import jsonrpc_message_adapter

    if plain is not None:
        return body
    found = messages_in(body)
    if len(found) != 1:
        return next(
            (each for each in found if isinstance(each, Refusal)),
            Refusal(INVALID_REQUEST, "A request brings one message."),
        )
    message = found[0]
    if isinstance(message, Refusal):
        return message
    body = body.removeprefix(BOM)
    try:
        as_it_is = jsonrpc_message_adapter.validate_json(body, by_name=False) == message
    except ValueError:
        as_it_is = False
    return body if as_it_is else message.model_dump_json(by_alias=True, exclude_unset=True).encode()


def _sized(scope: Scope, size: int) -> Scope:
    headers = [pair for pair in scope["headers"] if pair[0] not in (b"content-length", b"transfer-encoding")]
    return {**scope, "headers": [*headers, (b"content-length", str(size).encode())]}


def _again(body: bytes, more: bool, receive: Receive) -> Receive:
    """A ``receive`` that gives the body that was read, then what comes."""
    given = False

    async def first() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": more}

    return first


async def _answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    headers = [*headers, (b"content-length", str(len(body)).encode())] if status != 204 else headers
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _OneLine:
    """Passes an answer on with nothing in it that ends a line for readers of lines (``messages.one_line``)."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._body = bytearray()

    async def send(self, message: Message) -> None:
        """Pass on one part. An event is one part; a JSON body is sent when it is whole, since its length changes."""
        if message["type"] == "http.response.start":
            kind = dict(message["headers"]).get(b"content-type", b"")
            if kind.startswith(b"application/json"):
                self._start = message
                return
        elif message["type"] == "http.response.body":
            if self._start is not None:
                self._body += message.get("body", b"")
                if message.get("more_body", False):
                    return
                body = one_line(bytes(self._body))
                headers = [pair for pair in self._start["headers"] if pair[0] != b"content-length"]
                headers.append((b"content-length", str(len(body)).encode()))
                await self._send({**self._start, "headers": headers})
                self._start = None
                message = {**message, "body": body}
            else:
                message = {**message, "body": one_line(message.get("body", b""))}
        await self._send(message)
