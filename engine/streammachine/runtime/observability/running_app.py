"""What metrics, health and the status page ask of an App. ``App`` has all of it; here nobody needs to import it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection
    from streammachine.runtime.consumer.consumer import StreamConsumer
    from streammachine.runtime.model.agent import Agent, DeclaredTimer
    from streammachine.runtime.model.config import AppConfig
    from streammachine.runtime.processes.worker_pool import WorkerPool
    from streammachine.runtime.timer import Timer

Gauges = Mapping[tuple[str, str], Mapping[str, float]]  # of a group, by (stream, group): lag, pending, ...


class RunningApp(Protocol):
    """An App as seen from outside.

    Attributes:
        name: its name. config: its settings. redis: its connection.
        agents, timers: what is registered on it.
        is_running: whether its connection is open and its start-up hooks have begun.
        consumers, running_timers: what runs in this process. workers: the worker processes, where there are any.
        gauges: what Redis said of the groups lately; empty unless ``keep_gauges`` was called.
        restarts: how often a part of it failed and was started again.
    """

    config: AppConfig

    @property
    def name(self) -> str: ...
    @property
    def redis(self) -> RedisConnection: ...
    @property
    def agents(self) -> Sequence[Agent]: ...
    @property
    def timers(self) -> Sequence[DeclaredTimer]: ...
    @property
    def is_running(self) -> bool: ...
    @property
    def consumers(self) -> Sequence[tuple[Agent, StreamConsumer]]: ...
    @property
    def running_timers(self) -> Sequence[Timer]: ...
    @property
    def workers(self) -> WorkerPool | None: ...
    @property
    def gauges(self) -> Gauges: ...
    @property
    def restarts(self) -> int: ...
    def keep_gauges(self) -> None:
        """Ask Redis about the groups every few seconds while the app runs."""
