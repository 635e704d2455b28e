"""What ``@app.agent`` declares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from streammachine.runtime.model.checks import checked_handler
from streammachine.runtime.model.config import ConsumerConfig, TimerConfig
from streammachine.runtime.model.typed import adapted


@dataclass(frozen=True)
class Agent:
    """A declared agent: its settings and its handler. ``name`` is the same in every process of the app."""

    config: ConsumerConfig
    handler: Callable[..., Any]
    name: str

    @classmethod
    def declare(
        cls, config: ConsumerConfig, handler: Callable[..., Any], local_names: Mapping[str, Any] | None = None
    ) -> Agent:
        """The agent of a decorated function.

        Args:
            config: its settings. handler: what is called with a message, or with a batch of them, or with what its
                argument is annotated as (``typed.py``). local_names: what is known where it is decorated.

        Raises:
            SettingsError: it is nothing that can handle a message, or a message cannot be made to what it takes.
        """
        checked_handler(handler, "message" if config.batch is None else "messages")
        called = adapted(handler, batch=config.batch is not None, local_names=local_names)
        return cls(config, called, f"{name_of(handler)}@{','.join(config.topics)}/{config.group}")


@dataclass(frozen=True)
class DeclaredTimer:
    """A declared timer: its settings and its handler."""

    config: TimerConfig
    handler: Callable[[], Any]
    name: str

    @classmethod
    def declare(cls, config: TimerConfig, handler: Callable[[], Any]) -> DeclaredTimer:
        """The timer of a decorated function.

        Args:
            config: its settings. handler: what is called at each tick, with nothing.

        Raises:
            SettingsError: it is nothing that can be called at each tick.
        """
        checked_handler(handler)
        return cls(config, handler, f"{name_of(handler)}/{config.t}")


def name_of(handler: Callable[..., Any]) -> str:
    """A handler's qualified name."""
    return getattr(handler, "__qualname__", None) or type(handler).__qualname__
