"""What stands between a known caller and the tools: the rate, the scopes, and the line in the log for each write."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastmcp.exceptions import ToolError
from fastmcp.server.auth import AccessToken, TokenVerifier
from fastmcp.server.dependencies import get_access_token
from fastmcp.server.middleware import CallNext, MiddlewareContext
from fastmcp.tools import InputRequiredToolResult, Tool
from fastmcp.tools.base import ToolResult
from mcp_types import CallToolRequestParams

from streammachine_mcp.access.scopes import READ, needed
from streammachine_mcp.safety import ToolMiddleware

if TYPE_CHECKING:
    from fastmcp import FastMCP
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

audit = logging.getLogger("streammachine_mcp.audit")

MOST_CALLERS = 10_000  # whose rate is remembered
_FORBIDDEN, _TOO_MANY = -32_003, -32_029  # of our own: JSON-RPC leaves -32000 to -32099 to servers
# What a caller without the scope read may ask: what there is, and its tools, which have scopes of their own.
_OPEN = {
    *("initialize", "ping", "server/discover", "logging/setLevel", "tools/list", "tools/call"),
    *("prompts/list", "prompts/get", "resources/list", "resources/templates/list"),
}


def protect(server: FastMCP[Any], verifiers: Sequence[TokenVerifier]) -> None:
    """Let in only whom a verifier knows, and log each write. Without verifiers everybody may call: on loopback only."""
    audit.setLevel(logging.INFO)
    if verifiers:
        server.auth = _Any(verifiers)
        _make_lists_private(server)
    server.add_middleware(ScopedTools(known=bool(verifiers)))


def _make_lists_private(server: FastMCP[Any]) -> None:
    """Lists differ by caller now, so no cache between may share them (catalogue.py says that it may)."""
    sdk = server._mcp_server
    hints = sdk.cache_hints or {}
    sdk.cache_hints = {method: dataclasses.replace(hint, scope="private") for method, hint in hints.items()}


class _Any(TokenVerifier):
    """The first verifier that knows a token says whose it is."""

    def __init__(self, verifiers: Sequence[TokenVerifier]) -> None:
        super().__init__()
        self._verifiers = verifiers

    async def verify_token(self, token: str) -> AccessToken | None:
        """Whose token it is; None where nobody knows it."""
        for verifier in self._verifiers:
            if (found := await verifier.verify_token(token)) is not None:
                return found
        return None


class ScopedTools(ToolMiddleware):
    """Hides tools that the caller's scopes do not allow, refuses to call them, and logs each call of one that writes.

    Args:
        known: callers have tokens; else all is allowed.
    """

    def __init__(self, *, known: bool) -> None:
        self._known = known

    async def on_list_tools(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]) -> Sequence[Tool]:
        tools: Sequence[Tool] = await call_next(context)
        if not self._known:
            return tools
        scopes = _scopes()
        return [tool for tool in tools if tool.name in needed() and needed()[tool.name].is_met(scopes)]

    async def on_call_tool(
        self, context: MiddlewareContext[CallToolRequestParams], call_next: CallNext[CallToolRequestParams, ToolResult]
    ) -> ToolResult:
        name = context.message.name
        wanted = needed().get(name)
        if wanted is None:
            return await call_next(context)
        if self._known and not wanted.is_met(_scopes()):
            _log(name, wanted.kind, "refused")
            raise ToolError(
                f"The token {_caller()!r} may not call {name}: it needs the scope {' or '.join(wanted.scopes)}. "
                "Whoever runs the server can give it one.",
                log_level=logging.INFO,
            )
        if wanted.kind == READ:
            return await call_next(context)
        try:
            result = await call_next(context)
        except BaseException:
            _log(name, wanted.kind, "failed")
            raise
        _log(name, wanted.kind, "asks first" if _asks(result) else "done")
        return result


class Guard:
    """ASGI: how often a caller may ask, and what is no tool only with the scope ``read``.

    Args:
        rate: requests a second of one caller, twice as many at once; 0: any number.
    """

    def __init__(self, app: ASGIApp, rate: float) -> None:
        self._app = app
        self._rate = rate
        self._callers: dict[str, tuple[float, float]] = {}  # requests left, and when that was so

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        token = getattr(scope.get("user"), "access_token", None)
        if scope["type"] != "http" or token is None:
            await self._app(scope, receive, send)
            return
        if (wait := self._wait(token.client_id)) > 0:
            text = f"The token {token.client_id!r} asked more than {self._rate:g} times a second. Wait {wait:.1f} s."
            retry = (b"retry-after", str(math.ceil(wait)).encode())
            await _refuse(send, 429, _TOO_MANY, text, None, [retry])
            return
        if scope["method"] != "POST" or READ in token.scopes:
            await self._app(scope, receive, send)
            return
        message = await receive()
        method, identifier = _method(message)
        if method and method not in _OPEN and not method.startswith("notifications/"):
            text = f"The token {token.client_id!r} needs the scope read for {method}."
            await _refuse(send, 403, _FORBIDDEN, text, identifier, [])
            return
        await self._app(scope, _again(message, receive), send)

    def _wait(self, caller: str) -> float:
        """Seconds until a caller may ask again; 0: now, which is counted."""
        if self._rate <= 0:
            return 0.0
        now, burst = time.monotonic(), max(1.0, 2 * self._rate)
        left, then = self._callers.pop(caller, (burst, now))
        left = min(burst, left + (now - then) * self._rate)
        if len(self._callers) >= MOST_CALLERS:
            self._callers.pop(next(iter(self._callers)))
        self._callers[caller] = (left - 1 if left >= 1 else left, now)
        return 0.0 if left >= 1 else (1 - left) / self._rate


def verifiers_of(settings: Any) -> list[TokenVerifier]:
    """Who is let in, by the settings; none where nothing is set.

    Raises:
        SettingsError: a setting cannot be used, or one of the three for JWT is missing.
    """
    from streammachine.errors import SettingsError

    found: list[TokenVerifier] = []
    if settings.http_tokens is not None:
        from streammachine_mcp.access.tokens import FileTokens

        found.append(FileTokens(settings.http_tokens))
    three = {
        "STREAMMACHINE_JWT_JWKS": settings.jwt_jwks,
        "STREAMMACHINE_JWT_ISSUER": settings.jwt_issuer,
        "STREAMMACHINE_JWT_AUDIENCE": settings.jwt_audience,
    }
    if any(three.values()):
        if missing := [name for name, value in three.items() if not value]:
            raise SettingsError(f"JWT needs all of {', '.join(three)}: {', '.join(missing)} is not set.")
        from streammachine_mcp.access.jwt import JwtTokens

        found.append(JwtTokens(settings.jwt_jwks, settings.jwt_issuer, settings.jwt_audience))
    return found


def _asks(result: ToolResult) -> bool:
    """Whether nothing was done yet: the user is asked, or the caller got a plan."""
    return isinstance(result, InputRequiredToolResult) or (result.structured_content or {}).get("confirmed") is False


def _scopes() -> Sequence[str]:
    token = get_access_token()
    return token.scopes if token is not None else ()


def _caller() -> str:
    token = get_access_token()
    return token.client_id if token is not None else "-"


def _log(tool: str, kind: str, outcome: str) -> None:
    # Not token=: what stands behind that word is masked in JSON logs.
    audit.info("caller=%s tool=%s kind=%s %s", _caller(), tool, kind, outcome)


def _method(message: Message) -> tuple[str, Any]:
    """The method and id of a request; it stands whole in one part, ``http.Messages`` has seen to that."""
    try:
        found = json.loads(message.get("body", b""))
        return str(found.get("method", "")), found.get("id")
    except (ValueError, AttributeError, RecursionError):
        return "unreadable", None


def _again(message: Message, receive: Receive) -> Receive:
    """A ``receive`` that gives this message first."""
    waiting = [message]

    async def first() -> Message:
        return waiting.pop() if waiting else await receive()

    return first


async def _refuse(
    send: Send, status: int, code: int, text: str, identifier: Any, headers: list[tuple[bytes, bytes]]
) -> None:
    error = {"jsonrpc": "2.0", "id": identifier, "error": {"code": code, "message": text}}
    body = json.dumps(error).encode()
    length = (b"content-length", str(len(body)).encode())
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", b"application/json"), length, *headers],
        }
    )
    await send({"type": "http.response.body", "body": body})
