"""Which Redis this process talks to, and why (docs/decisions/01-embedded-server.md).

In this order: what the REDIS_ variables (or a constructor's arguments) name; this user's running
embedded server; a server that answers PING on localhost:6379; else an embedded Valkey is started.
What is named explicitly and does not answer is an error, never a silent empty server. Everything here blocks; callers
run it in a thread.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Literal

from streammachine.errors import EmbeddedServerError, RedisAuthError, SettingsError
from streammachine.masking import mask_url
from streammachine.redis.embedded.server import EmbeddedServer
from streammachine.redis_url import Endpoint, parse_url, with_db
from streammachine.settings import Settings

Origin = Literal["explicit", "embedded", "local"]
LOCAL = ("localhost", 6379)  # where a Redis that nobody named is looked for
PROBE_TIMEOUT = 0.5  # seconds; loopback answers in well under one millisecond


@dataclass(frozen=True)
class Target:
    """The chosen server: where it is, how it was chosen, and the hold on it if it is embedded."""

    endpoint: Endpoint
    origin: Origin
    url: str  # masked, for people
    why: str
    embedded: EmbeddedServer | None = None

    def release(self) -> None:
        """Let go of the embedded server; the last holder shuts it down. Blocks until it is down."""
        if self.embedded is not None:
            self.embedded.release()


def choose_target(settings: Settings, url: str | None = None, *, local: tuple[str, int] = LOCAL) -> Target:
    """Choose the server. ``url`` (an argument of the caller) counts as explicit.

    Args:
        local: where to look for a Redis that nobody named.

    Raises:
        SettingsError: STREAMMACHINE_EMBEDDED contradicts the REDIS_ variables, or a bad URL.
        RedisAuthError: the server at ``local`` demands a password that nobody gave.
        EmbeddedServerError: the embedded server cannot be started, or is switched off and nothing else is there.
    """
    if url is not None or settings.redis_is_explicit:
        if url is None and settings.embedded == "always":
            raise SettingsError(
                "STREAMMACHINE_EMBEDDED=always contradicts the REDIS_ variables that are set: unset one or the other."
            )
        chosen = url if url is not None else settings.explicit_url()
        why = "it was given as an argument" if url is not None else "a REDIS_ variable names it"
        return Target(parse_url(chosen), "explicit", mask_url(chosen), why)
    if settings.embedded == "always":
        return _embedded(_start(settings), "STREAMMACHINE_EMBEDDED=always")
    if settings.embedded == "auto":
        running = EmbeddedServer.running(settings.data_dir, fsync=settings.embedded_fsync)
        if running is not None:
            return _embedded(running, "this user's embedded Valkey was already running")
    host, port = local
    answer = probe(host, port)
    if answer == "auth":
        raise RedisAuthError(
            f"The Redis on {host}:{port} demands a password. Set REDIS_URL=redis://:PASSWORD@{host}:{port}, "
            "or STREAMMACHINE_EMBEDDED=always to use an embedded Valkey instead."
        )
    if answer == "redis":
        return Target(Endpoint(host, port), "local", f"redis://{host}:{port}", f"a server answers on {host}:{port}")
    if settings.embedded == "never":
        raise EmbeddedServerError(
            f"No Redis answers on {host}:{port} and STREAMMACHINE_EMBEDDED=never forbids an embedded one. "
            "Start a Redis or Valkey, or set REDIS_URL, or STREAMMACHINE_EMBEDDED=auto."
        )
    return _embedded(_start(settings), f"no REDIS_ variable is set and no Redis answers on {host}:{port}")


def explicit_url(settings: Settings, host: str | None, port: int | None, db: int | None, url: str | None) -> str | None:
    """The URL that the constructor's arguments name, or None when they name nothing."""
    if url is None and host is None and port is None:
        if db is None:
            return None
        if settings.redis_url is not None:
            return with_db(settings.explicit_url(), db)  # the database alone: on the server that REDIS_URL names
    if url is None:
        name = host if host is not None else settings.redis_host
        if not isinstance(name, str):
            raise SettingsError(
                f"A host is a name, not a {type(name).__name__}. A connection that is open is given as connection=."
            )
        bracketed = f"[{name}]" if ":" in name else name
        number = settings.redis_port if port is None else port
        url = f"redis://{bracketed}:{number}/{settings.redis_db if db is None else db}"
    parse_url(url)
    return url


def probe(host: str, port: int, timeout: float = PROBE_TIMEOUT) -> Literal["redis", "auth", "none"]:
    """Whether something that speaks Redis listens there: it answers PING, or asks for a password."""
    try:
        with socket.create_connection((host, port), timeout=timeout) as connection:
            connection.sendall(b"PING\r\n")
            answer = connection.recv(64)
    except OSError:
        return "none"
    if answer.startswith((b"+PONG", b"-LOADING", b"-BUSY", b"-MASTERDOWN")):
        return "redis"
    return "auth" if answer.startswith((b"-NOAUTH", b"-NOPERM", b"-ERR operation not permitted")) else "none"


def _start(settings: Settings) -> EmbeddedServer:
    return EmbeddedServer.acquire(settings.data_dir, fsync=settings.embedded_fsync)


def _embedded(server: EmbeddedServer, why: str) -> Target:
    return Target(parse_url(server.url), "embedded", server.url, why, server)
