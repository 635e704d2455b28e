"""What decorators register on an App (agents, timers, topics, hooks), and the import of the modules that do so."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from streammachine.errors import SettingsError
from streammachine.runtime.model.agent import Agent, DeclaredTimer
from streammachine.runtime.model.checks import takes
from streammachine.runtime.model.config import Batch, ConsumerConfig, TimerConfig, Transactional
from streammachine.runtime.model.retry import RetryPolicy

if TYPE_CHECKING:
    from streammachine.runtime.app.topics import Topic
    from streammachine.runtime.model.message import Message

H = TypeVar("H", bound=Callable[..., Any])


class Registry:
    """The part of an App that holds what its decorators register; ``App`` is one.

    Args:
        default_group: the consumer group of agents that name none.
    """

    def __init__(self, default_group: str) -> None:
        self._default_group = default_group
        self._agents: list[Agent] = []
        self._timers: list[DeclaredTimer] = []
        self._topics: dict[str, Topic] = {}  # by stream
        self._startup: list[Callable[[], Any]] = []
        self._shutdown: list[Callable[[], Any]] = []

    @property
    def agents(self) -> Sequence[Agent]:
        """The agents registered so far."""
        return tuple(self._agents)

    @property
    def timers(self) -> Sequence[DeclaredTimer]:
        """The timers registered so far."""
        return tuple(self._timers)

    @property
    def startup_hooks(self) -> Sequence[Callable[[], Any]]:
        """The start-up hooks in the order in which they run; one that a hook registers comes in at the end."""
        return self._startup

    @property
    def shutdown_hooks(self) -> Sequence[Callable[[], Any]]:
        """The shutdown hooks in the order in which they run; one that a hook registers comes in at the end."""
        return self._shutdown

    def topic_of(self, stream: str) -> Topic | None:
        """The partitioned topic that a stream is a partition of; None for a plain stream."""
        return self._topics.get(stream)

    def agent(
        self,
        stream: str | Sequence[str],
        group: str | None = None,
        concurrency: int = 1,
        processes: int | None = None,
        *,
        batch: Batch | int | None = None,
        key: str | Callable[[Message], Any] | None = None,
        retry: RetryPolicy | int | None = None,
        timeout: float | None = None,
        lease: float = 30.0,
        dead_letter: bool = True,
        max_deliveries: int = 4,
        dedup: Callable[[Message], str | None] | None = None,
        dedup_window: float = 3600.0,
        prefetch: int | None = None,
        start: str = "0",
        transactional: Transactional = False,
        retain: Literal["all", "acked"] = "all",
    ) -> Callable[[H], H]:
        """Register a handler for the messages of one stream, or of several.

        Consumers of one group share the messages; several groups each get every message. A message is acknowledged when
        its handler has returned; one that raises is tried again by ``retry`` and ends in ``{stream}:dlq``.

        The handler gets what its argument is annotated as: ``Message`` (or nothing), ``dict``, ``bytes`` (the value of
        the only field), a pydantic model or a dataclass; with ``batch``, a list of one of them. A message that does not
        fit is a dead letter at once, with the field's name.

        Args:
            stream: a name, a list of names, or a ``Topic``.
            group: the consumer group; STREAMMACHINE_DEFAULT_GROUP when not given.
            concurrency: handlers at once in one process.
            processes: run in so many spawned worker processes instead of this one.
            batch: hand over lists of up to this many messages.
            key: a field (or function of the message) whose values keep their order.
            retry: a policy, or just the number of attempts.
            timeout: seconds that one attempt may take.
            lease: seconds after which a message of a dead process is given to another.
            dead_letter: False drops what is given up.
            max_deliveries: starts without an end before a message is given up.
            dedup: gives a key; a message whose key was finished within ``dedup_window`` seconds is skipped.
            dedup_window: seconds, see ``dedup``.
            prefetch: most messages held at once.
            start: where a new group begins: "0" the beginning, "$" the end, or an id.
            transactional: sends and storage writes become visible with the acknowledgement, once.
            retain: "acked" trims what every group has acknowledged.

        Returns:
            A decorator that gives the handler back unchanged.

        Raises:
            SettingsError: a combination that makes no sense, in one sentence; a handler that cannot be called with one
                argument, or is annotated as something that no message can be made to.

        Example:
            >>> app = App("shop")
            >>> @app.agent("orders", group="billing", retry=3)
            ... async def bill(message):
            ...     print(message["id"])
        """
        config = ConsumerConfig(
            topic=_streams_of(stream),
            group=group if group is not None else self._default_group,
            concurrency=concurrency,
            processes=processes,
            batch=Batch(batch) if type(batch) is int else batch,  # type: ignore[arg-type]
            key=key,
            retry=RetryPolicy() if retry is None else _attempts(retry),
            timeout=timeout,
            lease=lease,
            dead_letter=dead_letter,
            max_deliveries=max_deliveries,
            dedup=dedup,
            dedup_window=dedup_window,
            prefetch=prefetch,
            start=start,
            transactional=transactional,
            retain=retain,
        )

        def register(handler: H) -> H:
            self._add(Agent.declare(config, handler, sys._getframe(1).f_locals))
            return handler

        return register

    def timer(
        self,
        t: float | str,
        *,
        scope: Literal["process", "fleet"] = "process",
        overlap: bool = False,
        timezone: str = "UTC",
        lease: float = 15.0,
    ) -> Callable[[H], H]:
        """Register a handler that runs every ``t`` seconds, or by a cron string.

        Args:
            t: seconds between two ticks, or a cron string such as "*/5 * * * *".
            scope: "process" runs each tick in every process, "fleet" in one process of all that run the app.
            overlap: begin a tick while the last one still runs.
            timezone: of the cron string, such as "Europe/Berlin".
            lease: seconds that a fleet's tick belongs to its process without renewal. Where that process is killed, the
                fleet has no tick for so long.

        Returns:
            A decorator that gives the handler back unchanged.

        Raises:
            SettingsError: t is 0 or less, or no cron string.

        Example:
            >>> @app.timer("0 8 * * MON-FRI", timezone="Europe/Berlin", scope="fleet")
            ... async def morning_report():
            ...     ...
        """
        config = TimerConfig(t=t, scope=scope, overlap=overlap, timezone=timezone, lease=lease)

        def register(handler: H) -> H:
            self._timers.append(DeclaredTimer.declare(config, handler))
            return handler

        return register

    def on_startup(self, hook: H) -> H:
        """Register a hook that runs when Redis answers and before the first message.

        Args:
            hook: a function without arguments, async or sync.

        Returns:
            The hook, so this is a decorator too.

        Raises:
            SettingsError: the hook cannot be called without arguments.
        """
        self._startup.append(_checked_hook(hook))
        return hook

    def on_shutdown(self, hook: H) -> H:
        """Register a hook that runs after the last message, while the connection to Redis is still open.

        Args:
            hook: a function without arguments, async or sync.

        Returns:
            The hook, so this is a decorator too.

        Raises:
            SettingsError: the hook cannot be called without arguments.
        """
        self._shutdown.append(_checked_hook(hook))
        return hook

    def include(self, module: ModuleType | str | Registry) -> None:
        """Take over the handlers, topics and hooks of other Apps.

        Args:
            module: an App; or a module (or its name), whose Apps are all included.

        Raises:
            SettingsError: it is neither, or two agents have the same name.

        Example:
            >>> app.include("shop.billing")
        """
        if isinstance(module, str):
            module = importlib.import_module(module)
        if not isinstance(module, (ModuleType, Registry)):
            raise SettingsError(f"include({module!r}): give a module, its name, or an App.")
        others = (
            [module]
            if isinstance(module, Registry)
            else [value for value in vars(module).values() if isinstance(value, Registry)]
        )
        for other in others:
            if other is self:
                continue
            for agent in other._agents:
                self._add(agent)
            self._timers += [timer for timer in other._timers if timer not in self._timers]
            self._topics |= other._topics
            self._startup += [hook for hook in other._startup if hook not in self._startup]
            self._shutdown += [hook for hook in other._shutdown if hook not in self._shutdown]

    def _add(self, agent: Agent) -> None:
        if agent in self._agents:
            return
        if any(known.name == agent.name for known in self._agents):
            raise SettingsError(
                f"The agent {agent.name!r} is registered twice. Give one of the handlers another name or group."
            )
        self._agents.append(agent)


def import_submodules(module: str, package: str) -> None:
    """Import all sub-modules of the package that an App was made in, so that their handlers register.

    Args:
        module: the ``__name__`` of the module that made the App. package: its ``__package__``; empty: there is none.
    """
    if not package:
        return
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if module == "__main__" and spec is not None:
        # python -m package.module: a sub-module that imports it must find this App, not a second one.
        sys.modules.setdefault(spec.name, sys.modules["__main__"])
    found = pkgutil.walk_packages(getattr(sys.modules.get(package), "__path__", None) or [], f"{package}.")
    for submodule in found:
        if not submodule.name.endswith(".__main__"):
            importlib.import_module(submodule.name)


def _streams_of(stream: str | Sequence[str]) -> str | tuple[str, ...]:
    """The streams an agent names; what is no list of names is refused with the rest of what it declares."""
    if isinstance(stream, str):
        return stream
    return tuple(stream) if isinstance(stream, Sequence) and not isinstance(stream, bytes) else ()


def _checked_hook(hook: H) -> H:
    if not callable(hook):
        raise SettingsError(f"The hook {hook!r} is no function.")
    if not takes(hook, 0):
        raise SettingsError(f"The hook {hook!r} cannot be called as it will be, with no arguments.")
    return hook


def _attempts(retry: RetryPolicy | int) -> RetryPolicy:
    return RetryPolicy(max_attempts=retry) if type(retry) is int else retry  # type: ignore[return-value]
