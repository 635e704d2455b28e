"""The dashboard as an ASGI application: its page, its streams of events, its actions.

A page asks for one view at a time (``events/VIEW?q=...&page=...``) and gets it again whenever it has changed, bounded
in size whatever the fleet's is. Actions are POSTs of JSON (``do/ACTION``). All paths are relative: it can stand at any
place of another server.
"""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from streammachine.dashboard import alerts, candles, fleet, storage
from streammachine.dashboard import streams as stream_views
from streammachine.dashboard.access import Gate
from streammachine.dashboard.board import Dashboard, cut
from streammachine.errors import StreamMachineError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger(__name__)

View = Callable[[Dashboard, dict[str, str]], Awaitable[dict[str, Any]]]
Action = Callable[[Dashboard, dict[str, Any]], Awaitable[str]]
VIEWS: dict[str, View] = {
    "streams": stream_views.streams_view,
    "entries": stream_views.entries_view,
    "groups": stream_views.groups_view,
    "agents": fleet.agents_view,
    "letters": fleet.letters_view,
    "market": fleet.market_view,
    "candles": candles.candles_view,
    "alerts": alerts.alerts_view,
    "storage": storage.storage_view,
}
ACTIONS: dict[str, Action] = {
    "pause": fleet.pause,
    "redrive": fleet.redrive,
    "purge": fleet.purge,
    "alert-create": alerts.create,
    "alert-delete": alerts.delete,
}
ASSETS = {
    "app.js": "text/javascript", "views.js": "text/javascript", "dom.js": "text/javascript",
    "chart.js": "text/javascript", "style.css": "text/css",
}  # fmt: skip
LIBRARY = "lightweight-charts.js"  # fetched by the build; absent where that had no network
MOST_WATCHERS = 32
MOST_BODY = 64_000  # bytes of an action
MOST_QUERY = 1024  # characters of one value
VIEW_WAIT = 10.0  # seconds for a view
KEEP_ALIVE = 10.0  # seconds after which an unchanged view says that it is there


def dashboard_app(board: Dashboard) -> Starlette:
    """The application, without its gate."""

    async def page(request: Request) -> Response:
        if not request.url.path.endswith("/"):
            return RedirectResponse(request.url.path.rsplit("/", 1)[-1] + "/", 307)
        return Response(_asset("index.html"), media_type="text/html")

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name == LIBRARY:
            library = _library()
            return Response(library or b"", 200 if library else 404, media_type="text/javascript")
        if name not in ASSETS:
            return PlainTextResponse("There is no such file.\n", 404)
        return Response(_asset(name), media_type=ASSETS[name])

    async def events(request: Request) -> Response | Events:
        name = request.path_params["view"]
        if name not in VIEWS:
            return PlainTextResponse("There is no such view.\n", 404)
        if board.watchers >= MOST_WATCHERS:
            return PlainTextResponse(f"{MOST_WATCHERS} pages look already: close one.\n", 503)
        query = {key: value[:MOST_QUERY] for key, value in list(request.query_params.items())[:20]}
        return Events(board, VIEWS[name], query)

    async def act(request: Request) -> Response:
        action = ACTIONS.get(request.path_params["action"])
        if action is None:
            return JSONResponse({"error": "There is no such action."}, 404)
        if board.read_only:
            return JSONResponse({"error": "This dashboard is read-only: STREAMMACHINE_READ_ONLY is set."}, 403)
        given = await _body(request)
        if given is None:
            return JSONResponse({"error": "An action is a JSON object of at most 64 kB."}, 400)
        try:
            with anyio.fail_after(60):
                told = await action(board, given)
        except (StreamMachineError, TimeoutError) as error:
            return JSONResponse({"error": cut(error or "It took too long.", 1000)}, 400)
        log.info("Dashboard: %s: %s", request.path_params["action"], told)
        board.names.forget()
        board.touch()
        return JSONResponse({"told": told})

    return Starlette(
        routes=[
            Route("/", page),
            Route("/assets/{name}", asset),
            Route("/events/{view}", events),
            Route("/do/{action}", act, methods=["POST"]),
        ]
    )


def guarded(board: Dashboard, token: str, hosts: Collection[str] | None) -> ASGIApp:
    """The application behind its gate."""
    return Gate(dashboard_app(board), token, hosts)


class Events:
    """Server-sent events of one view (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

    def __init__(self, board: Dashboard, view: View, query: dict[str, str]) -> None:
        self._board = board
        self._view = view
        self._query = query

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the page goes or the server ends."""
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        self._board.watchers += 1
        try:
            async with anyio.create_task_group() as tasks:

                async def watch() -> None:
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    tasks.cancel_scope.cancel()

                tasks.start_soon(watch)
                await self._send_all(send)
                tasks.cancel_scope.cancel()
            if self._board.closing.is_set():
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._board.watchers -= 1

    async def _send_all(self, send: Send) -> None:
        last, said = "", 0.0
        while not self._board.closing.is_set():
            changed = self._board.changed
            text = await self._board.look((self._view, *sorted(self._query.items())), self._look)
            if text != last:
                body = f"data: {text}\n\n"
            elif time.monotonic() - said > KEEP_ALIVE:
                body = ": still the same\n\n"
            else:
                body = ""
            if body:
                await send({"type": "http.response.body", "body": body.encode(), "more_body": True})
                last, said = text, time.monotonic()
            await self._board.wait(changed)

    async def _look(self) -> str:
        try:
            with anyio.fail_after(VIEW_WAIT):
                found = await self._view(self._board, self._query)
        except StreamMachineError as error:
            found = {"error": cut(error, 1000)}
        except TimeoutError:
            found = {"error": f"Redis has not answered within {VIEW_WAIT:g} s."}
        except Exception:
            log.exception("A view of the dashboard failed")
            found = {"error": "This view failed; the log of the server says why."}
        return json.dumps({**found, "read_only": True} if self._board.read_only else found)


async def _body(request: Request) -> dict[str, Any] | None:
    """The JSON object of an action; None where it is none, or too large."""
    if not request.headers.get("content-type", "").startswith("application/json"):
        return None
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BODY:
            return None
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return given if isinstance(given, dict) else None


@functools.cache
def _asset(name: str) -> bytes:
    return files(__package__).joinpath("page", name).read_bytes()


@functools.cache
def _library() -> bytes | None:
    place = files("streammachine.charts").joinpath(LIBRARY)
    return place.read_bytes() if place.is_file() else None
