"""The App whose hook, handler or timer the current task runs."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection

H = TypeVar("H", bound=Callable[..., Any])


class CurrentApp(Protocol):
    """What code that runs inside an App may ask of it."""

    @property
    def name(self) -> str:
        """The App's name."""
        ...

    @property
    def redis(self) -> RedisConnection:
        """The App's connection."""
        ...

    @property
    def shutdown_hooks(self) -> Sequence[Callable[[], Any]]:
        """The shutdown hooks registered so far."""
        ...

    def on_shutdown(self, hook: H) -> H:
        """Register a hook that runs before the connection closes."""
        ...


inside: contextvars.ContextVar[CurrentApp | None] = contextvars.ContextVar("streammachine_app", default=None)
