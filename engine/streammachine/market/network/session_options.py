"""The times of a connection, and what opens its socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

# Opens the socket of a session (a WebSocketSession), by a clock, within seconds.
Opener = Callable[[Any, Any, float], Awaitable[Any]]


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """Times of a connection, in seconds.

    Attributes:
        open_timeout: for the opening handshake. ack_timeout: for one acknowledgement.
        stale_after: without data for so long an open connection is given up.
        opener: opens a session's socket in place of ``open_socket``: a recorder, or a recording that is played.
    """

    open_timeout: float = 10.0
    ack_timeout: float = 10.0
    stale_after: float = 60.0
    opener: Opener | None = None
