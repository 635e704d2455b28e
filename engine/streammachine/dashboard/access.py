"""Who may see the dashboard: whoever has its token, from its own pages, and nobody else.

The token comes once, as ``?token=`` of the printed address, and is answered with a cookie that holds another secret
(HttpOnly, SameSite=Strict) and the same address without it; scripts may send ``Authorization: Bearer``. A request that
a browser says another site made (Fetch Metadata, https://www.w3.org/TR/fetch-metadata/) is refused whatever it carries,
and so is, where the dashboard listens on loopback only, one that calls it by another name (DNS rebinding).
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.responses import PlainTextResponse, RedirectResponse, Response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
OWN_SITES = ("same-origin", "none")  # of Sec-Fetch-Site: our own page, or the address bar
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
ASK = (
    "This dashboard asks for its token.\n\nOpen the address that was printed to the terminal when it started: "
    "it ends in ?token=...\n"
)


class Gate:
    """ASGI middleware: lets through who has the token or its cookie.

    Args:
        app: what is behind it. token: the secret in the printed address.
        hosts: names that may stand in the header Host; None: any.
        opened: paths that need no token, as ``/livez``.
    """

    def __init__(
        self, app: ASGIApp, token: str, hosts: Collection[str] | None = None, opened: Collection[str] = ()
    ) -> None:
        self._app = app
        self._token = token
        self._hosts = hosts
        self._opened = frozenset(opened)
        self._session = secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] in self._opened:
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        answer = self._refusal(scope, headers)
        if answer is not None:
            answer.headers.update(HEADERS)
            await answer(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}  # the status page has a policy of its own
                more = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                more = [pair for pair in more if pair[0] not in own]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        await self._app(scope, receive, guarded)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> Response | None:
        host = headers.get("host", "")
        if self._hosts is not None and _name(host) not in self._hosts:
            return PlainTextResponse("This dashboard has another name. Open the address that was printed.\n", 421)
        if not _is_own(scope, headers, host):
            return PlainTextResponse("Requests from other sites are refused. Type the address yourself.\n", 403)
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token")
        if given and scope["method"] == "GET" and _same(given[0], self._token):
            return self._welcome(scope)
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if _same(bearer, self._token) or _same(_cookie(headers, self._cookie_of(scope)), self._session):
            return None
        return PlainTextResponse(ASK, 401)

    def _welcome(self, scope: Scope) -> Response:
        rest = {
            name: values
            for name, values in parse_qs(scope["query_string"].decode("latin-1")).items()
            if name != "token"
        }
        place = scope["path"].rsplit("/", 1)[-1] or "./"  # relative: whatever stands before it is not ours to know
        answer = RedirectResponse(place + (f"?{urlencode(rest, doseq=True)}" if rest else ""), 303)
        path = scope["path"].rpartition("/")[0] + "/"
        answer.set_cookie(
            self._cookie_of(scope), self._session, path=path, httponly=True, samesite="strict",
            secure=scope.get("scheme") == "https",
        )  # fmt: skip
        return answer

    def _cookie_of(self, scope: Scope) -> str:
        """Cookies do not know ports: two dashboards of one machine must not take each other's."""
        return f"sm_dashboard_{(scope.get('server') or ('', 0))[1]}"


def _is_own(scope: Scope, headers: dict[str, str], host: str) -> bool:
    """Whether our own page asks, or nobody's: the address bar, a script."""
    if headers.get("sec-fetch-site", "none") not in OWN_SITES:
        return False
    origin = headers.get("origin")
    if origin is None:
        return scope["method"] in ("GET", "HEAD") or "sec-fetch-site" in headers or "authorization" in headers
    return urlsplit(origin).netloc.lower() == host.lower() and bool(host)


def _name(host: str) -> str:
    """A Host header without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _cookie(headers: dict[str, str], name: str) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _same(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), secret.encode())
