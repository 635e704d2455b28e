"""The status page: /livez, /readyz, /metrics, and a plain live page. Loopback unless the host says otherwise.

Imported only when ``dashboard_enabled`` is set. Every value that comes from outside is escaped.
"""

from __future__ import annotations

import contextlib
import html
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from streammachine.runtime.health import check_app, group_gauges, read_gauges
from streammachine.runtime.metrics import families, prometheus_text

if TYPE_CHECKING:
    from streammachine.runtime.app import App

log = logging.getLogger(__name__)

_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="{refresh}">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title><style>
:root {{ color-scheme: light dark; font-family: system-ui, sans-serif; }}
body {{ margin: 2rem auto; max-width: 70rem; padding: 0 1rem; line-height: 1.4; }}
h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1.1rem; margin-top: 2rem; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: right; padding: .35rem .6rem; border-bottom: 1px solid #8884; font-variant-numeric: tabular-nums;
}} th:nth-child(-n+3), td:nth-child(-n+3) {{ text-align: left; overflow-wrap: anywhere; }} .ok {{ color: #1a7f37; }}
.bad {{ color: #cf222e; }} @media (prefers-color-scheme: dark) {{ .ok {{ color: #4ac26b; }} .bad {{ color: #ff7b72; }}
}} </style></head><body><h1>{title} <span class="{mark}">{status}</span></h1><p>{summary}</p>
<h2>Agents</h2>{agents}<h2>Timers</h2>{timers} <p>Also here: <a href="/livez">/livez</a>, <a href="/readyz">/readyz</a>,
<a href="/metrics">/metrics</a>. The page loads itself again every {refresh} s.</p></body></html>"""


def status_app(app: App) -> Starlette:
    """The ASGI application of an App's status page."""

    async def page(_: Request) -> Response:
        return HTMLResponse(await _page(app), headers={"Cache-Control": "no-store", "Content-Security-Policy": _CSP})

    async def live(_: Request) -> Response:
        facts = await check_app(app)
        stalled = [c["agent"] for c in facts["consumers"] if c["stalled"]]
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


async def serve_status(app: App) -> None:
    """Serve the status page until the app stops."""
    config = uvicorn.Config(
        status_app(app),
        host=app.config.dashboard_host,
        port=app.config.dashboard_port,
        log_config=None,
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
        except SystemExit as error:  # uvicorn's way to say that the port is taken
            raise OSError(
                f"The status page cannot listen on {app.config.dashboard_host}:{app.config.dashboard_port}."
            ) from error
        tasks.cancel_scope.cancel()


_CSP = "default-src 'none'; style-src 'unsafe-inline'"


async def _page(app: App) -> str:
    facts = await check_app(app)
    rows = []
    for found in facts["consumers"]:
        gauges = await group_gauges(app.redis, found["stream"], found["group"])
        rows.append(
            [
                found["agent"],
                found["stream"],
                found["group"],
                f"{found['rate']:,}",
                f"{found['consumed']:,}",
                _shown(gauges.get("lag")),
                _shown(gauges.get("pending")),
                _shown(gauges.get("oldest_pending_seconds")),
                found["in_flight"],
                f"{found['retried']:,}",
                f"{found['dead']:,}",
                "paused" if found["paused"] else found["problem"] or "reads",
            ]
        )
    heads = ["agent", "stream", "group", "msg/s", "handled", "lag", "pending", "oldest s", "running", "retried", "dead"]
    timers = [
        [
            timer.name,
            str(timer.config.t),
            timer.config.scope,
            timer.ticks,
            timer.failures,
            f"{timer.lateness * 1000:.1f}",
        ]
        for timer in app._running_timers
    ]
    problems = "; ".join(facts["problems"]) or "Everything runs."
    return _PAGE.format(
        title=html.escape(app.name),
        status=html.escape(facts["status"]),
        mark="ok" if facts["status"] == "healthy" else "bad",
        summary=html.escape(f"Redis {facts['redis']}. {problems} Worker processes: {facts['workers']}."),
        refresh=app.config.dashboard_refresh_interval,
        agents=_table([*heads, "state"], rows),
        timers=_table(["timer", "every", "scope", "ticks", "failures", "late ms"], timers),
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return "<p>None.</p>"
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _shown(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.1f}" if isinstance(value, float) and not value.is_integer() else f"{int(value):,}"
