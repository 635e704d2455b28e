"""An ASGI application served by uvicorn inside a task of ours: no signal handlers, ended by cancelling."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import anyio
import uvicorn

if TYPE_CHECKING:
    from starlette.types import ASGIApp

log = logging.getLogger(__name__)


class WebServer(uvicorn.Server):
    """Without uvicorn's own signal handlers: the app has its own.

    Args:
        on_listen: called with the port once it listens.
    """

    def __init__(self, config: uvicorn.Config, on_listen: Callable[[int], None]) -> None:
        super().__init__(config)
        self._on_listen = on_listen

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    async def startup(self, sockets: object = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            self._on_listen(self.servers[0].sockets[0].getsockname()[1])


async def serve_web(
    web: ASGIApp, host: str, port: int, name: str, *, on_listen: Callable[[int], None], on_end: Callable[[], None]
) -> None:
    """Serve until cancelled.

    Args:
        name: what is served, for the error. on_listen: called with the port once it listens. on_end: called before
            the server ends: what holds a request open, ends it.

    Raises:
        OSError: the port is taken.
    """
    config = uvicorn.Config(
        web,
        host=host,
        port=port,
        log_config=None,
        http="h11",  # uvicorn would take httptools where it is installed, which holds headers of any size
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=2,
    )
    server = WebServer(config, on_listen)
    log.info("%s on http://%s:%d/", name, host, port)

    async def end_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            on_end()
            server.should_exit = True  # within a tenth of a second; its sockets are closed then

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(end_when_cancelled)
        try:
            with anyio.CancelScope(shield=True):
                await server.serve()
        except SystemExit as error:  # what uvicorn raises when the port is taken
            raise OSError(f"{name} cannot listen on {host}:{port}.") from error
        tasks.cancel_scope.cancel()
