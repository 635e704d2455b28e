"""The dashboard beside the HTTP transport, when ``--dashboard`` asks for it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from starlette.routing import Mount

from streammachine.dashboard.access import Gate
from streammachine.dashboard.board import Dashboard
from streammachine.dashboard.serving import announce, new_token
from streammachine.dashboard.web import dashboard_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.applications import Starlette

    from streammachine.settings import Settings
    from streammachine_mcp.server import StreamMachineServer

PATH = "/dashboard"
INTERVAL = 1.0  # seconds between two looks


def add_dashboard(
    app: Starlette, server: StreamMachineServer, settings: Settings, host: str, port: int, *, tls: bool
) -> None:
    """Serve the dashboard at ``/dashboard/`` of the app, behind a token of its own, and print its address to stderr.

    The app's own guard has looked at Host and Origin before.
    """
    board = Dashboard(server.connect, INTERVAL, read_only=settings.read_only)
    set_token = settings.dashboard_token
    token = set_token.get_secret_value() if set_token is not None else new_token()
    app.router.routes.append(Mount(PATH, Gate(dashboard_app(board), token)))
    server.draining.append(board.close)
    outer = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(running: Starlette) -> AsyncIterator[Any]:
        async with outer(running) as state, anyio.create_task_group() as tasks:
            tasks.start_soon(board.run)
            yield state
            tasks.cancel_scope.cancel()

    app.router.lifespan_context = lifespan
    announce(host, port, token, f"{PATH}/", "https" if tls else "http")
