"""The status page: /livez, /readyz, /metrics, and a plain live page (``status.html``). Loopback unless the host says
otherwise.

Imported only when ``dashboard_enabled`` is set. Every value that comes from outside is escaped. The page renews what is
in its ``main`` from the server; without scripts it loads itself again.
"""

from __future__ import annotations

import contextlib
import html
import logging
from base64 import b64encode
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from streammachine.runtime.observability.health import check_app, consumers_of, read_gauges
from streammachine.runtime.observability.metrics import families, prometheus_text

if TYPE_CHECKING:
    from streammachine.runtime.observability.running_app import Gauges, RunningApp

log = logging.getLogger(__name__)

_PAGE = files(__package__).joinpath("status.html").read_text("utf-8")
_SCRIPT = _PAGE.partition("<script>")[2].partition("</script>")[0]
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        f"frame-ancestors 'none'; script-src 'sha256-{b64encode(sha256(_SCRIPT.encode()).digest()).decode()}'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def status_app(app: RunningApp) -> Starlette:
    """The ASGI application of an App's status page."""

    async def page(_: Request) -> Response:
        return HTMLResponse(await _page(app), headers=_HEADERS)

    async def live(_: Request) -> Response:
        stalled = [facts["agent"] for facts in consumers_of(app) if facts["stalled"]]  # Redis is not asked
        return JSONResponse({"alive": not stalled, "stalled": stalled}, status_code=503 if stalled else 200)

    async def ready(_: Request) -> Response:
        facts = await check_app(app)
        return JSONResponse(facts, status_code=200 if facts["status"] == "healthy" else 503)

    async def metrics(_: Request) -> Response:
        text = prometheus_text(families(app, await read_gauges(app)))
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    return Starlette(
        routes=[Route("/", page), Route("/livez", live), Route("/readyz", ready), Route("/metrics", metrics)]
    )


async def serve_status(app: RunningApp) -> None:
    """Serve the status page until cancelled.

    Raises:
        OSError: its port is taken.
    """
    config = uvicorn.Config(
        status_app(app),
        host=app.config.dashboard_host,
        port=app.config.dashboard_port,
        log_config=None,
        http="h11",  # uvicorn would take httptools where it is installed, which holds headers of any size
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=2,
    )

    class Server(uvicorn.Server):
        """Without uvicorn's own signal handlers: the app has its own."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    server = Server(config)
    log.info("Status page on http://%s:%d/", app.config.dashboard_host, app.config.dashboard_port)

    async def end_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            server.should_exit = True  # within a tenth of a second; its sockets are closed then

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(end_when_cancelled)
        try:
            with anyio.CancelScope(shield=True):
                await server.serve()
        except SystemExit as error:  # what uvicorn raises when the port is taken
            raise OSError(
                f"The status page cannot listen on {app.config.dashboard_host}:{app.config.dashboard_port}."
            ) from error
        tasks.cancel_scope.cancel()


# -- the page -------------------------------------------------------------------------------------


async def _page(app: RunningApp) -> str:
    """The page as HTML; every value from outside goes through ``_text``, which escapes it."""
    facts = await check_app(app)
    gauges = await read_gauges(app) if facts["redis"] == "connected" else {}
    live = "".join((_head(app, facts), _tiles(facts, gauges), _agents(facts, gauges), _timers(app)))
    values = {
        "title": f"{facts['status']} · {_text(app.name)}",
        "every": app.config.dashboard_refresh_interval,
        "live": live,
    }
    return Template(_PAGE).substitute(values)


def _head(app: RunningApp, facts: dict[str, Any]) -> str:
    well = facts["status"] == "healthy"
    problems = "".join(f"<li>{_text(problem)}</li>" for problem in facts["problems"])
    wrong = f'<div class="box bad"><strong>What is wrong</strong><ul>{problems}</ul></div>' if problems else ""
    moment = datetime.now(UTC).strftime("%H:%M:%S")
    workers = f" · {facts['workers']} worker processes" if facts["workers"] else ""
    restarts = f" · {facts['restarts']} restarts" if facts["restarts"] else ""
    return (
        f"<header><h1><span>{_text(app.name)}</span>{_pill(facts['status'], 'ok' if well else 'bad')}</h1>"
        f'<p class="soft">Redis {_text(facts["redis"])} ({_text(app.redis.name)}){workers}{restarts} · as of '
        f"{moment} UTC</p>{wrong}</header>"
    )


def _tiles(facts: dict[str, Any], gauges: Gauges) -> str:
    consumers = facts["consumers"]
    known = [group for group in gauges.values() if "lag" in group]
    tiles = {
        "messages a second": _number(round(sum(each["rate"] for each in consumers), 1)),
        "handled": _number(sum(each["consumed"] for each in consumers)),
        "waiting": _number(sum(group["lag"] for group in known) if known else None),
        "running now": _number(sum(each["in_flight"] for each in consumers)),
        "failed calls": _number(sum(each["failed"] for each in consumers)),
        "dead letters made": _number(sum(each["dead"] for each in consumers)),
    }
    return '<dl class="tiles">' + "".join(f"<div><dt>{n}</dt><dd>{v}</dd></div>" for n, v in tiles.items()) + "</dl>"


def _agents(facts: dict[str, Any], gauges: Gauges) -> str:
    heads = [
        "agent", "stream", "group", "state", "msg/s", "handled", "waiting", "pending", "oldest", "running", "retried",
        "dead",
    ]  # fmt: skip
    rows = []
    for found in facts["consumers"]:
        group = gauges.get((found["stream"], found["group"]), {})
        oldest = group.get("oldest_pending_seconds")
        rows.append(
            [
                _name(found["agent"], found["agent"].partition("@")[0]),
                _text(found["stream"]),
                _text(found["group"]),
                _state(found),
                _number(found["rate"]),
                _number(found["consumed"]),
                _number(group.get("lag")),
                _number(group.get("pending")),
                "–" if oldest is None else f"{_number(round(oldest, 1))} s",
                _number(found["in_flight"]),
                _number(found["retried"]),
                _number(found["dead"]),
            ]
        )
    return _table("Agents", heads, rows, texts=4, none="There are no agents here.")


def _timers(app: RunningApp) -> str:
    heads = ["timer", "every", "scope", "ticks", "failures", "last was late"]
    rows = []
    for timer in app.running_timers:
        every = timer.config.t if isinstance(timer.config.t, str) else f"{timer.config.t:g} s"
        late = f"{timer.lateness * 1000:,.1f} ms"
        name = _name(timer.name, timer.name.removesuffix(f"/{timer.config.t}"))
        rows.append([name, _text(every), timer.config.scope, _number(timer.ticks), _number(timer.failures), late])
    return _table("Timers", heads, rows, texts=3, none="There are no timers here.")


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int, none: str) -> str:
    """A table of cells that are HTML already; the first ``texts`` columns hold text, the others numbers.

    The roles stay with the table where a narrow screen shows each row as a card.
    """
    if not rows:
        return f'<h2>{title}</h2><p class="soft">{none}</p>'
    marks = [' class="text"' if place < texts else "" for place in range(len(heads))]
    head = "".join(
        f'<th role="columnheader" scope="col"{mark}>{name}</th>' for mark, name in zip(marks, heads, strict=True)
    )
    body = ""
    for row in rows:
        cells = zip(marks, heads, row, strict=True)
        body += '<tr role="row">'
        body += "".join(f'<td role="cell"{mark} data-head="{name}">{cell}</td>' for mark, name, cell in cells)
        body += "</tr>"
    return (
        f'<h2 id="{title}">{title}</h2><table role="table" aria-labelledby="{title}"><thead role="rowgroup">'
        f'<tr role="row">{head}</tr></thead><tbody role="rowgroup">{body}</tbody></table>'
    )


def _state(found: dict[str, Any]) -> str:
    if found["problem"]:
        return f'{_pill("problem", "bad")}<div class="why">{_text(found["problem"])}</div>'
    if found["paused"]:
        return _pill("paused", "still")
    processes = found.get("processes")
    return _pill("reads" if processes is None else f"reads in {processes} workers", "ok")


def _name(whole: str, shown: str) -> str:
    """The part of a name that the other columns do not say again."""
    return f'<span title="{_text(whole)}">{_text(shown)}</span>'


def _pill(text: str, mark: str) -> str:
    return f'<span class="pill {mark}">{_text(text)}</span>'


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.1f}" if isinstance(value, float) and not value.is_integer() else f"{int(value):,}"


def _text(value: object) -> str:
    return html.escape(str(value))
