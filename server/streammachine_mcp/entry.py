"""The process ``streammachine-mcp``: arguments, transport, signals.

SIGTERM, SIGINT and end of stdin end the server alike: drain, leave the lifespan, exit 0. A second signal ends at
once. stdin and stdout are taken for the protocol before anything that may print is imported.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from streammachine_mcp.address import check_address, checked_tls, own_names, warn_of_address
from streammachine_mcp.end import Deadline, watch_input
from streammachine_mcp.http import RATE, SESSION_IDLE, checked_hosts, checked_origins, http_app
from streammachine_mcp.stderr import Pump
from streammachine_mcp.stdio import DRAIN, Wire

if TYPE_CHECKING:
    import anyio
    from fastmcp import FastMCP
    from fastmcp.server.auth import TokenVerifier
    from starlette.applications import Starlette

    from streammachine.settings import Settings

log = logging.getLogger("streammachine")

EVENT_LOOP = {"use_uvloop": sys.platform != "win32"}
DEFAULT_PORT = 8765


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the server until its client goes or a signal comes; exits the process."""
    # Loading allocates only what stays, so the collector would look at all of it again and again for nothing.
    gc.disable()
    for number in (signal.SIGTERM, signal.SIGINT):  # while it loads nothing is open yet; watch_signals takes over
        signal.signal(number, lambda *_: os._exit(0))
    options = _parser().parse_args(argv)
    pump = Pump.take()
    wire = Wire.take() if options.transport == "stdio" else None
    sys.exit(_run(options, wire, pump))


def _run(options: argparse.Namespace, wire: Wire | None, pump: Pump | None = None) -> int:
    import anyio

    from streammachine.errors import SettingsError, StreamMachineError
    from streammachine.logs import dropped_notice

    try:
        settings = _settings(options)
        _check_app(options.app)
        configure_logging(settings.log_level, pump, settings.log_format)
        if pump is not None:
            pump.notice = dropped_notice(settings.log_format)
        if wire is None:
            hosts, origins = checked_hosts(options.allowed_hosts), checked_origins(options.allowed_origins)
            if not 0 <= options.rate_limit <= 1e6:
                raise SettingsError(
                    f"--rate-limit {options.rate_limit:g}: give requests a second, or 0 for any number."
                )
            if not 1 <= options.session_idle <= 7 * 86_400:
                raise SettingsError(f"--session-idle {options.session_idle:g}: give seconds from 1 to 604800.")
            callers = _callers(settings)
            tls = checked_tls(options.tls_cert, options.tls_key)
            check_address(options.host, known=bool(callers))
        sockets = _listen(options.host, options.port, options.tls_cert) if wire is None else []
    except StreamMachineError as error:
        from streammachine.logs import print_error

        print_error("streammachine-mcp", str(error))
        return 2
    from streammachine_mcp.server import create_server

    join_fastmcp_log()
    make_no_idle_spans()
    server = create_server(settings, options.app)
    gc.freeze()
    gc.enable()
    if wire is not None:
        serve_stdio(server, wire)
    else:
        from streammachine_mcp.access.guard import protect

        protect(server, callers)
        warn_of_address(options.host, hosts, tls=tls is not None)
        app = http_app(server, [*hosts, *own_names(options.host)], origins, options.session_idle, options.rate_limit)
        if options.dashboard:
            from streammachine_mcp.dashboard import add_dashboard

            add_dashboard(app, server, settings, options.host, sockets[0].getsockname()[1], tls=tls is not None)
        anyio.run(run_http, app, sockets, server.draining, tls, backend_options=EVENT_LOOP)
        log.info("ended")
    return 0


def serve_stdio(server: FastMCP[Any], wire: Wire) -> None:
    """Serve over the wire until the end; where its input cannot be watched this also ends the process."""
    import anyio

    anyio.run(run_stdio, server, wire, backend_options=EVENT_LOOP)
    log.info("ended")
    if not wire.watchable:
        # A thread may sit in read() until the client goes, and Python would wait for it: do what an exit does, leave.
        atexit._run_exitfuncs()
        os._exit(0)


async def run_stdio(server: FastMCP[Any], wire: Wire) -> None:
    """Serve over the wire until its input ends or a signal comes."""
    import anyio

    from streammachine_mcp.stdio import serve

    soon = asyncio.get_running_loop().call_soon_threadsafe
    stop, deadline = anyio.Event(), Deadline(soon)
    if wire.watchable:
        watch_input(wire.read_fd, soon)
    async with anyio.create_task_group() as tasks:
        await tasks.start(watch_signals, stop, deadline)
        await serve(server, wire, stop, deadline.begin, getattr(server, "draining", ()))
        tasks.cancel_scope.cancel()


async def run_http(
    app: Starlette,
    sockets: Sequence[socket.socket],
    draining: Sequence[Callable[[], None]] = (),
    tls: tuple[str, str] | None = None,
) -> None:
    """Serve streamable HTTP on these sockets until a signal comes; ``tls``: the files of the certificate and its key.

    Requests under way get ``DRAIN`` seconds, as on stdio; ``draining`` is called before that.
    """
    import anyio
    import uvicorn
    from sse_starlette.sse import AppStatus

    cert, key = tls if tls is not None else (None, None)
    config = uvicorn.Config(
        app,
        log_config=None,
        http="h11",  # uvicorn would take httptools where it is installed, which holds headers of any size
        lifespan="on",
        timeout_graceful_shutdown=int(2 * DRAIN),
        ws="none",
        ssl_certfile=cert,
        ssl_keyfile=key,
    )

    class Server(uvicorn.Server):
        """Without uvicorn's own signal handlers: ours drain and exit 0."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    web = Server(config)
    stop, deadline = anyio.Event(), Deadline(asyncio.get_running_loop().call_soon_threadsafe)

    async def until_stopped() -> None:
        await stop.wait()
        for each in draining:
            each()
        web.should_exit = True
        await anyio.sleep(DRAIN)
        AppStatus.should_exit = True  # for streams held open; uvicorn would break them off, with a traceback

    async with anyio.create_task_group() as tasks:
        await tasks.start(watch_signals, stop, deadline)
        tasks.start_soon(until_stopped)
        await web.serve(list(sockets))
        tasks.cancel_scope.cancel()


def _callers(settings: Settings) -> list[TokenVerifier]:
    """Who may call; nobody is known where no setting names tokens, and then nothing of it is loaded."""
    if settings.http_tokens is None and not any((settings.jwt_jwks, settings.jwt_issuer, settings.jwt_audience)):
        return []
    from streammachine_mcp.access.guard import verifiers_of

    return verifiers_of(settings)


def _listen(host: str, port: int, tls: str = "") -> list[socket.socket]:
    """The sockets to serve HTTP on; before the server is loaded, so that a wrong address is one clear line."""
    from streammachine.errors import SettingsError

    if not 0 <= port <= 65535:
        raise SettingsError(f"--port {port} is not accepted: give a whole number from 0 to 65535.")
    sockets: list[socket.socket] = []
    for address in ("127.0.0.1", "::1") if host == "localhost" else (host,):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            sockets.append(socket.create_server((address, port), family=family))
        except (OSError, UnicodeError) as error:
            if sockets and getattr(error, "errno", 0) != errno.EADDRINUSE:
                continue  # localhost on a machine without IPv6
            raise SettingsError(
                f"--host {host} --port {port} cannot be served ({getattr(error, 'strerror', None) or error}). "
                "Another server may be running there; give another --port."
            ) from None
        port = sockets[0].getsockname()[1]  # of --port 0
    scheme = "https" if tls else "http"
    log.info("listening on %s://%s:%d/mcp", scheme, f"[{host}]" if ":" in host else host, port)
    return sockets


async def watch_signals(stop: anyio.Event, deadline: Deadline, *, task_status: Any) -> None:
    """Set ``stop`` on the first SIGTERM or SIGINT, from which on the end has a deadline; end the process at once on the
    second."""
    import anyio

    if sys.platform == "win32":
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        task_status.started()
        return
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        deadline.watch_signals()
        task_status.started()
        async for received in signals:
            if stop.is_set():
                os._exit(128 + received)
            log.info("%s: ending", signal.Signals(received).name)
            stop.set()


def configure_logging(level: str, stream: Any = None, log_format: str = "text") -> None:
    """Log to ``stream`` (stderr), one line a record; libraries from WARNING on."""
    from streammachine import logs

    logs.configure_logging(level, log_format=log_format, stream=stream, force=True, libraries="WARNING")
    # The client's own reports of lost connections repeat what our errors say.
    logging.getLogger("coredis").setLevel(logging.CRITICAL if level != "DEBUG" else logging.DEBUG)


def join_fastmcp_log() -> None:
    """Have FastMCP, which brings a handler of its own when it is imported, log like the rest: one log, one format."""
    fastmcp_log = logging.getLogger("fastmcp")
    fastmcp_log.handlers.clear()
    fastmcp_log.propagate = True


def make_no_idle_spans() -> None:
    """Have FastMCP make no spans where nothing collects them; the context that came in ``_meta`` goes on all the same.

    Whoever has a tracer provider set it before this, and nothing is loaded into this process later that would. A mode
    that ``FASTMCP_TELEMETRY_MODE`` names stays.
    """
    import fastmcp

    from streammachine.runtime.observability.tracing import has_provider

    if "telemetry_mode" not in fastmcp.settings.model_fields_set and not has_provider():
        fastmcp.settings.telemetry_mode = "propagation_only"


def _settings(options: argparse.Namespace) -> Settings:
    from streammachine.settings import Settings

    given = {
        "redis_url": options.redis_url,
        "read_only": options.read_only or None,
        "toolsets": options.toolsets,
        "log_level": options.log_level,
    }
    return Settings(**{name: value for name, value in given.items() if value is not None})


def _check_app(app: str | None) -> None:
    """Refuse what names no App before anything starts; whether it can be imported shows later, in health_check."""
    if app is not None:
        from streammachine.errors import SettingsError
        from streammachine.runtime.processes.origin import Origin

        try:
            Origin.parse(app)
        except ValueError as error:
            raise SettingsError(f"--app {error}") from None


class _Parser(argparse.ArgumentParser):
    """Names the toolsets in its help; until that is asked for the settings, which may print, are not loaded."""

    toolsets: argparse.Action

    def format_help(self) -> str:
        from streammachine.settings import OPTIONAL_TOOLSETS, TOOLSETS

        optional = ",".join(OPTIONAL_TOOLSETS)
        self.toolsets.help = (
            f"only these tool families: {','.join(TOOLSETS)}; off unless named: {optional} (all,{optional})"
        )
        return super().format_help()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="streammachine-mcp",
        description="The StreamMachine MCP server. Without options it speaks MCP over stdin and stdout.",
        epilog="Every setting is also an environment variable; see the README.",
    )
    parser.add_argument("--app", metavar="MODULE:APP", help="run this App too: package.module:app or script.py:app")
    parser.add_argument("--redis-url", metavar="URL", help="the Redis or Valkey to use (REDIS_URL)")
    parser.add_argument("--read-only", action="store_true", help="leave out every tool that changes something")
    parser.toolsets = parser.add_argument("--toolsets", metavar="A,B")
    parser.add_argument("--transport", choices=("stdio", "http"), default="stdio")
    parser.add_argument("--host", default="127.0.0.1", help="address for http; others than loopback need tokens")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="port for --transport http")
    parser.add_argument(
        "--allowed-hosts", metavar="A,B", default="", help="with http: further names by which the server is called"
    )
    parser.add_argument(
        "--allowed-origins", metavar="A,B", default="", help="with http: web pages that may call it (CORS)"
    )
    parser.add_argument(
        "--session-idle",
        metavar="SECONDS",
        type=float,
        default=SESSION_IDLE,
        help="with http: when a session that nobody uses ends",
    )
    parser.add_argument(
        "--rate-limit", metavar="N", type=float, default=RATE, help="with http: requests a second of one token; 0: any"
    )
    parser.add_argument(
        "--dashboard", action="store_true", help="with http: the dashboard too, at /dashboard/, with a token of its own"
    )
    parser.add_argument("--tls-cert", metavar="FILE", default="", help="with http: serve https with this certificate")
    parser.add_argument("--tls-key", metavar="FILE", default="", help="and this key, PEM both")
    parser.add_argument("--log-level", metavar="LEVEL", help="DEBUG, INFO, WARNING, ERROR (STREAMMACHINE_LOG_LEVEL)")
    return parser


if __name__ == "__main__":
    main()
