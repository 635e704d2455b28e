"""Serving the dashboard: beside an App's status page, or by a process of its own (``streammachine dashboard``)."""

from __future__ import annotations

import secrets
import sys
from typing import TYPE_CHECKING

import anyio
from starlette.applications import Starlette
from starlette.routing import Mount

from streammachine.dashboard.access import LOOPBACK, Gate
from streammachine.dashboard.board import Dashboard
from streammachine.dashboard.web import dashboard_app
from streammachine.runtime.observability.status_page import status_routes
from streammachine.runtime.observability.web_server import serve_web

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection
    from streammachine.runtime.observability.running_app import RunningApp
    from streammachine.settings import Settings

OPENED = ("/livez", "/readyz", "/metrics")  # for probes and Prometheus, which have no token


async def serve_app(app: RunningApp) -> None:
    """Serve an App's dashboard and its status page until cancelled.

    Raises:
        OSError: its port is taken.
    """

    async def connect() -> RedisConnection:
        return app.redis

    config = app.config
    read_only = app.redis.settings.read_only
    board = Dashboard(connect, config.dashboard_refresh_interval, read_only=read_only)
    web = Starlette(routes=[*status_routes(app), Mount("/", dashboard_app(board))])
    await serve(web, board, config.dashboard_host, config.dashboard_port, config.dashboard_token)


async def serve_alone(connection: RedisConnection, host: str, port: int, interval: float, settings: Settings) -> None:
    """Serve the dashboard of what stands in Redis until cancelled; alerts that nobody evaluates are evaluated here.

    Args:
        settings: whether it is read-only, and its token, where one is set.

    Raises:
        OSError: its port is taken.
    """
    from streammachine.runtime.alerts.host import AlertHost

    async def connect() -> RedisConnection:
        return connection

    board = Dashboard(connect, interval, read_only=settings.read_only)
    token = settings.dashboard_token.get_secret_value() if settings.dashboard_token is not None else None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(AlertHost(connection).run)
        await serve(Starlette(routes=[Mount("/", dashboard_app(board))]), board, host, port, token)
        tasks.cancel_scope.cancel()


async def serve(web: Starlette, board: Dashboard, host: str, port: int, token: str | None) -> None:
    """Serve behind the gate, and print the address with the token once, to stderr."""
    token = token or new_token()
    gate = Gate(web, token, LOOPBACK if host in LOOPBACK else None, OPENED)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(board.run)
        await serve_web(
            gate, host, port, "The dashboard", on_listen=lambda bound: announce(host, bound, token), on_end=board.close
        )
        tasks.cancel_scope.cancel()


def new_token() -> str:
    """A token that nobody can guess."""
    return secrets.token_urlsafe(32)


def announce(host: str, port: int, token: str, path: str = "/", scheme: str = "http") -> None:
    """Print the address with its token; a log would keep the token, so it goes to stderr alone."""
    shown = f"[{host}]" if ":" in host else host
    sys.stderr.write(f"Dashboard: {scheme}://{shown}:{port}{path}?token={token}\n")
    sys.stderr.flush()
