"""What an App, an agent and a timer are configured with. Wrong combinations are refused in one sentence."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from streammachine.errors import SettingsError
from streammachine.runtime.model.checks import above_zero, at_least, flag, from_zero, takes
from streammachine.runtime.model.retry import RetryPolicy

if TYPE_CHECKING:
    from streammachine.runtime.model.message import Message

DEFAULT_GROUP = "eventengine"
_START = re.compile(r"\$|\d+(-\d+)?")
Transactional = bool | Literal["best-effort"]


@dataclass(frozen=True)
class AppConfig:
    """The App's own settings.

    Args:
        name: used in logs and consumer names. to_scan: also import the sub-modules of the app's package.
        max_processes: most worker processes of all agents together. max_threads: most sync handlers at once.
        grace: seconds that running handlers get at the end. dashboard_*: the dashboard and the status page.
        stream_maxlen: keep about so many entries of a stream the app sends to (0 is off).
        send_limit: most sends under way at once; a further one waits (back-pressure).
        tracing: OpenTelemetry spans; None where the program has set a tracer provider.
        alerts: evaluate alerts, where nobody else does.
    """

    name: str = ""
    to_scan: bool = True
    max_processes: int = 5
    max_threads: int = 5
    redis_url: str | None = None
    redis_max_connections: int = 10
    dashboard_enabled: bool = False
    dashboard_port: int = 8000
    dashboard_host: str = "localhost"
    dashboard_refresh_interval: int = 5
    stream_maxlen: int = 0
    grace: float = 25.0
    send_limit: int = 1000
    tracing: bool | None = None
    alerts: bool = False
    dashboard_token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        at_least("max_processes", self.max_processes, 1)
        at_least("max_threads", self.max_threads, 1)
        at_least("redis_max_connections", self.redis_max_connections, 1)
        at_least("stream_maxlen", self.stream_maxlen, 0)
        at_least("send_limit", self.send_limit, 1)
        at_least("dashboard_refresh_interval", self.dashboard_refresh_interval, 1)
        from_zero("grace", self.grace)
        if type(self.dashboard_port) is not int or not 0 <= self.dashboard_port <= 65535:
            raise SettingsError(f"dashboard_port={self.dashboard_port!r}: give a port from 0 to 65535.")
        if not isinstance(self.name, str):
            raise SettingsError(f"name={self.name!r}: give a text.")
        if not isinstance(self.dashboard_host, str):
            raise SettingsError(f"dashboard_host={self.dashboard_host!r}: give a host's name or address.")
        token = self.dashboard_token
        if token is not None and (not isinstance(token, str) or len(token) < 16 or not token.isascii()):
            raise SettingsError("dashboard_token: give at least 16 characters, ASCII; without it one is made.")


@dataclass(frozen=True)
class Batch:
    """A handler that takes a list: at most ``size`` messages, waiting ``within`` seconds for the list to fill."""

    size: int
    within: float = 0.0

    def __post_init__(self) -> None:
        at_least("batch size", self.size, 1)
        from_zero("batch within", self.within)


@dataclass(frozen=True)
class ConsumerConfig:
    """What ``@app.agent`` declares; see there for the meaning."""

    topic: str | Sequence[str]
    group: str = DEFAULT_GROUP
    concurrency: int = 1
    processes: int | None = None
    decorator_type: str = "agent"
    obj_name: str | None = None
    batch: Batch | None = None
    key: str | Callable[[Message], Any] | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout: float | None = None
    lease: float = 30.0
    dead_letter: bool = True
    dead_letter_maxlen: int = 100_000
    max_deliveries: int = 4
    dedup: Callable[[Message], str | None] | None = None
    dedup_window: float = 3600.0
    prefetch: int | None = None
    start: str = "0"
    transactional: Transactional = False
    retain: Literal["all", "acked"] = "all"

    def __post_init__(self) -> None:
        topics = self.topics
        if not topics or not all(isinstance(topic, str) and topic for topic in topics):
            raise SettingsError("An agent needs the name of a stream, or a list of names, none of them empty.")
        if len(set(topics)) != len(topics):
            raise SettingsError("An agent names a stream twice; name each once.")
        if isinstance(self.retry, bool) or not isinstance(self.retry, RetryPolicy):
            raise SettingsError(f"retry={self.retry!r}: give a number of attempts, or a RetryPolicy.")
        if self.retain not in ("all", "acked"):
            raise SettingsError(f"retain={self.retain!r}: give 'all' or 'acked'.")
        if self.key is not None and not callable(self.key) and not (isinstance(self.key, str) and self.key):
            raise SettingsError(f"key={self.key!r}: give a field's name, or a function of the message.")
        for name, function in (("key", self.key), ("dedup", self.dedup)):
            if callable(function) and not takes(function, 1):
                raise SettingsError(f"{name}={function!r} cannot be called with one argument, the message.")
        if not isinstance(self.group, str) or not self.group:
            raise SettingsError("An agent's group needs a name that is not empty.")
        at_least("concurrency", self.concurrency, 1)
        at_least("max_deliveries", self.max_deliveries, 1)
        at_least("dead_letter_maxlen", self.dead_letter_maxlen, 1)
        if self.processes is not None:
            at_least("processes", self.processes, 1)
        if self.prefetch is not None:
            at_least("prefetch", self.prefetch, 1)
        above_zero("lease", self.lease)
        if self.timeout is not None:
            above_zero("timeout", self.timeout, "or None")
        above_zero("dedup_window", self.dedup_window)
        if self.dedup is not None and not callable(self.dedup):
            raise SettingsError(f"dedup={self.dedup!r}: give a function of the message, which gives its key.")
        if not isinstance(self.start, str) or not _START.fullmatch(self.start):
            raise SettingsError(f"start={self.start!r}: give '0' (the stream's start), '$' (its end), or an id.")
        if self.batch is not None and not isinstance(self.batch, Batch):
            raise SettingsError(f"batch={self.batch!r}: give a number of messages, or Batch(size, within).")
        if self.batch is not None and self.key is not None:
            raise SettingsError("batch and key do not go together: a batch is taken in stream order, not by key.")
        if self.batch is not None and self.dedup is not None:
            raise SettingsError("batch and dedup do not go together: check for repeats inside the batch handler.")
        flag("dead_letter", self.dead_letter)
        if self.transactional not in (True, False, "best-effort"):
            raise SettingsError(f"transactional={self.transactional!r}: give True, False or 'best-effort'.")

    @property
    def topics(self) -> tuple[str, ...]:
        """The streams, as a tuple."""
        return (self.topic,) if isinstance(self.topic, str) else tuple(self.topic)

    @property
    def held(self) -> int:
        """Most messages held at once: the prefetch, else what the workers can take."""
        if self.prefetch is not None:
            return self.prefetch
        return max(self.concurrency * 2, self.batch.size * self.concurrency if self.batch else 1)


@dataclass(frozen=True)
class TimerConfig:
    """What ``@app.timer`` declares: an interval in seconds or a cron string."""

    t: float | str
    decorator_type: str = "timer"
    obj_name: str | None = None
    scope: Literal["process", "fleet"] = "process"
    overlap: bool = False
    timezone: str = "UTC"
    lease: float = 15.0

    def __post_init__(self) -> None:
        if self.scope not in ("process", "fleet"):
            raise SettingsError(f"scope={self.scope!r}: give 'process' (each process) or 'fleet' (one of all).")
        flag("overlap", self.overlap)
        above_zero("lease", self.lease)
        try:
            zoneinfo.ZoneInfo(self.timezone)
        except (ValueError, TypeError, LookupError, OSError):
            raise SettingsError(f"timezone={self.timezone!r}: give a name such as 'Europe/Berlin'.") from None
        if isinstance(self.t, str):
            from croniter import croniter

            if not croniter.is_valid(self.t):
                raise SettingsError(f"timer {self.t!r} is no cron expression, e.g. '*/5 * * * *'.")
            try:
                croniter(self.t).get_next()
            except ValueError:
                raise SettingsError(f"timer {self.t!r} never comes: there is no such date.") from None
        elif isinstance(self.t, bool) or not isinstance(self.t, (int, float)) or not 0 < self.t < 1e9:
            raise SettingsError(f"timer t={self.t!r}: give seconds above 0, or a cron string.")
