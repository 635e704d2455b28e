"""A tool call over HTTP, protocol 2026-07-28, by a short road.

The SDK serves each such request by two tasks, a stream between them and its own reading of the body, behind FastMCP's
routes. A call that is as it should be needs none of that: here it runs in the request's own task, through the same
``serve_one`` with all that FastMCP and we put around a tool. What differs in anything (another method, a header that
is missing, doubled or says something else, callers with tokens) is left to the SDK, which knows what to answer.

What a client sees is the SDK's: one JSON answer; or events (SSE), once the call tells something while it runs or lasts
15 seconds, with a comment every 15 seconds from then on. A client that goes ends its call.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import anyio
from fastmcp.server.http import StreamableHTTPASGIApp
from mcp.server.connection import Connection
from mcp.server.runner import modern_error_data, serve_one
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS, InboundModernRoute, classify_inbound_request
from mcp.shared.jsonrpc_dispatcher import progress_token_from_params
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from starlette.requests import Request

if TYPE_CHECKING:
    from mcp_types import JSONRPCRequest
    from starlette.applications import Starlette
    from starlette.types import Receive, Scope, Send

log = logging.getLogger(__name__)

METHOD = "tools/call"
QUIET = 0.05  # seconds after which it is watched whether the client is still there; most calls are done by then
PING_EVERY = 15.0  # seconds, as in the SDK: what stands between may close a connection on which nothing comes
_EVENTS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"connection", b"keep-alive"),
    (b"x-accel-buffering", b"no"),
]


class ShortRoad:
    """Serves the calls of one app."""

    def __init__(self) -> None:
        self._served: StreamableHTTPASGIApp | None = None
        self._path = ""

    def join(self, app: Starlette, path: str) -> None:
        """Serve for this app; where callers need tokens or FastMCP is built otherwise, nothing is served."""
        for route in app.routes:
            endpoint = getattr(route, "endpoint", None)
            if getattr(route, "path", None) == path and isinstance(endpoint, StreamableHTTPASGIApp):
                self._served, self._path = endpoint, path

    async def serve(self, message: JSONRPCRequest, scope: Scope, receive: Receive, send: Send) -> bool:
        """Serve a request whose body was read; False, with nothing done, where the SDK is to."""
        manager = self._served.session_manager if self._served is not None else None
        if manager is None or message.method != METHOD or scope["path"] != self._path:
            return False
        headers = _plain_headers(scope)
        if headers is None:
            return False
        body = {"method": message.method, "params": message.params}
        route = classify_inbound_request(body, headers=headers)
        sdk = manager.app
        lookup = sdk.get_tool_input_schema
        params = message.params or {}
        if not isinstance(route, InboundModernRoute) or lookup is None or lookup(str(params.get("name"))) is not None:
            return False
        answer = _Answer(message, Request(scope), headers, send)
        connection = Connection.from_envelope(route.protocol_version, route.client_info, route.client_capabilities)
        answered: dict[str, Any]
        with anyio.CancelScope() as running:
            answer.watch(receive, running)
            try:
                result = await serve_one(
                    sdk, answer, METHOD, params, connection=connection, lifespan_state=manager._lifespan_state
                )
                answered = {"result": result}
            except Exception as error:  # noqa: BLE001  # what a client may know of it, modern_error_data says
                answered = {"error": modern_error_data(error).model_dump(mode="json", by_alias=True, exclude_none=True)}
            finally:
                answer.unwatch()
        if not running.cancelled_caught:
            await answer.end(answered)
        return True


def _plain_headers(scope: Scope) -> dict[str, str] | None:
    """The headers, where each came once and they say that JSON is sent and that both forms of an answer are taken."""
    pairs = scope["headers"]
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}
    accepted = [kind.partition(";")[0].strip() for kind in headers.get("accept", "").split(",")]
    sends = headers.get("content-type", "").partition(";")[0].strip()
    takes = "application/json" in accepted and "text/event-stream" in accepted
    return headers if len(headers) == len(pairs) and sends == "application/json" and takes else None


class _Answer:
    """The way back to the client of one request: the SDK's ``DispatchContext``, and the answer itself."""

    can_send_request = False

    def __init__(self, message: JSONRPCRequest, request: Request, headers: Mapping[str, str], send: Send) -> None:
        self.request_id = message.id
        self.transport = TransportContext(kind="streamable-http", can_send_request=False, headers=headers)
        self.message_metadata = ServerMessageMetadata(request_context=request)
        self.cancel_requested = anyio.Event()
        self._progress_token = progress_token_from_params(message.params)
        self._send = send
        self._sending = asyncio.Lock()
        self._streams = False
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None

    # -- what the call may tell while it runs -------------------------------------------------

    async def send_raw_request(self, method: str, params: Mapping[str, Any] | None, opts: Any = None) -> dict[str, Any]:
        """Refuse: this protocol has no questions to the client but those that are answers."""
        raise NoBackChannelError(method)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: Any = None) -> None:
        """Send a notification as an event."""
        told: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        await self._event(told if params is None else {**told, "params": dict(params)})
        await asyncio.sleep(0)  # sending need not wait for anything, and others have their turn, and the cancellation

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Tell how far the call is, where the client asked for that."""
        if self._progress_token is None:
            return
        told = {"progressToken": self._progress_token, "progress": progress, "total": total, "message": message}
        await self.notify("notifications/progress", {name: value for name, value in told.items() if value is not None})

    # -- the client that goes, and the one that waits long ------------------------------------

    def watch(self, receive: Receive, running: anyio.CancelScope) -> None:
        """From ``QUIET`` seconds on: cancel when the client is gone, and send a comment now and then."""

        def begin() -> None:
            self._watcher = asyncio.ensure_future(self._watch(receive, running))

        self._timer = asyncio.get_running_loop().call_later(QUIET, begin)

    def unwatch(self) -> None:
        """The call has ended."""
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    async def _watch(self, receive: Receive, running: anyio.CancelScope) -> None:
        while True:
            with anyio.move_on_after(PING_EVERY):
                while (await receive())["type"] != "http.disconnect":
                    pass
                running.cancel()
                return
            await self._part(b": ping\r\n\r\n")

    # -- the answer ---------------------------------------------------------------------------

    async def end(self, answered: Mapping[str, Any]) -> None:
        """Send the answer: its result or its error."""
        message = {"jsonrpc": "2.0", "id": self.request_id, **answered}
        if self._streams:
            await self._event(message, last=True)
            return
        body = _json(message)
        status = ERROR_CODE_HTTP_STATUS.get(answered["error"]["code"], 200) if "error" in answered else 200
        headers = [(b"content-length", str(len(body)).encode()), (b"content-type", b"application/json")]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def _event(self, message: Mapping[str, Any], *, last: bool = False) -> None:
        await self._part(b"event: message\r\ndata: " + _json(message) + b"\r\n\r\n", last=last)

    async def _part(self, data: bytes, *, last: bool = False) -> None:
        async with self._sending:
            if not self._streams:
                await self._send({"type": "http.response.start", "status": 200, "headers": _EVENTS})
                self._streams = True
            await self._send({"type": "http.response.body", "body": data, "more_body": not last})


def _json(message: Mapping[str, Any]) -> bytes:
    """JSON of ASCII only, so that nothing in it ends a line."""
    return json.dumps(message, separators=(",", ":")).encode()
