"""What is counted, and how Prometheus gets it: as text at ``/metrics``, or through a registry of the program's own."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from streammachine.errors import SettingsError

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from streammachine.runtime.app.app import App
    from streammachine.runtime.model.message import Message

# Upper bounds in seconds of the handler-time histogram.
BUCKETS = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)
PREFIX = "streammachine_"
RATE_WINDOW = 10.0  # seconds that a rate is taken over
COUNTERS = {
    "consumed": "Messages handled",
    "failed": "Handler calls that failed",
    "retried": "Attempts repeated",
    "dead": "Messages given up to the dead-letter stream",
    "lost": "Messages that another consumer had taken over",
    "reclaimed": "Messages taken over from others",
    "repeats": "Messages skipped as repeats",
    "alone": "Messages run alone",
    "reconnects": "Times the reader lost its connection",
    "groups_recreated": "Times the group had to be created again",
}
GAUGES = {
    "lag": "Messages not given out yet",
    "pending": "Messages given out and not finished",
    "oldest_pending_seconds": "Age of the oldest unfinished message",
    "in_flight": "Messages whose handler runs now",
    "held": "Messages read and not finished in this process and its workers",
    "latency_seconds": "Seconds from sending to reading of the last message",
}


class Rate:
    """How fast a counter rises, over the last ten seconds as far as anybody asked."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, int]] = []

    def of(self, count: int) -> float:
        """Per second, now that the counter stands at ``count``."""
        now = time.monotonic()
        self._marks.append((now, count))
        while len(self._marks) > 2 and now - self._marks[1][0] > RATE_WINDOW:
            self._marks.pop(0)
        then, before = self._marks[0]
        return (count - before) / (now - then) if now - then > 0.01 else 0.0


@dataclass
class ConsumerMetrics:
    """Counters of one consumer since it started. Times are seconds."""

    consumed: int = 0
    failed: int = 0
    retried: int = 0
    dead: int = 0
    lost: int = 0
    reclaimed: int = 0
    repeats: int = 0
    alone: int = 0
    reconnects: int = 0
    groups_recreated: int = 0
    handler_seconds: float = 0.0
    latency_seconds: float = 0.0
    last_poll: float = field(default_factory=time.monotonic)
    last_end: float = field(default_factory=time.monotonic)
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    _rate: Rate = field(default_factory=Rate)

    def handled(self, seconds: float, message: Message) -> None:
        """Count a handled message and the time its handler took."""
        self.consumed += 1
        self.handler_seconds += seconds
        self.buckets[bisect_left(BUCKETS, seconds)] += 1
        self.last_end = time.monotonic()
        if message.sent is not None and message.received is not None:
            self.latency_seconds = message.received - message.sent

    def polled(self) -> None:
        """Note that the reader has come back from Redis."""
        self.last_poll = time.monotonic()

    def rate(self) -> float:
        """Messages per second over the last ten seconds, as far as anybody asked."""
        return self._rate.of(self.consumed)

    def counts(self) -> dict[str, Any]:
        """What ``of`` takes: the counters, for another process."""
        found: dict[str, Any] = {name: getattr(self, name) for name in COUNTERS}
        return found | {
            "handler_seconds": self.handler_seconds,
            "latency_seconds": self.latency_seconds,
            "buckets": self.buckets,
        }

    @classmethod
    def of(cls, counts: Mapping[str, Any]) -> ConsumerMetrics:
        """The inverse of ``counts``."""
        return cls(**counts)

    def add(self, other: ConsumerMetrics) -> None:
        """Add another's counters; of the latencies the longer one stays."""
        for name in COUNTERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.handler_seconds += other.handler_seconds
        self.latency_seconds = max(self.latency_seconds, other.latency_seconds)
        self.buckets = [ours + theirs for ours, theirs in zip(self.buckets, other.buckets, strict=True)]


@dataclass
class Row:
    """One agent on one stream, here or in all its workers together."""

    agent: str
    stream: str
    group: str
    metrics: ConsumerMetrics
    in_flight: int = 0
    held: int = 0


@dataclass
class Family:
    """One metric of Prometheus' data model.

    ``samples``: what follows the name (``_total``, ``_bucket``), labels, value.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: list[tuple[str, dict[str, str], float]] = field(default_factory=list)

    @classmethod
    def simple(
        cls, name: str, kind: Literal["counter", "gauge"], text: str, values: Iterable[tuple[dict[str, str], float]]
    ) -> Family:
        """A counter or a gauge, with a value for each set of labels."""
        suffix = "_total" if kind == "counter" else ""
        return cls(PREFIX + name, kind, f"{text}.", [(suffix, labels, value) for labels, value in values])

    def observe(self, labels: dict[str, str], counts: Sequence[int], total: float) -> None:
        """Add a histogram's buckets, which Prometheus has summed up, and the sum of its values."""
        below = 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
            below += count
            self.samples.append(("_bucket", {**labels, "le": bound}, below))
        self.samples += [("_sum", labels, total), ("_count", labels, below)]


def rows_of(app: App) -> list[Row]:
    """The app's consumers as they are now, those in its worker processes included. Asks nobody, so any thread may."""
    rows = [
        Row(agent.name, consumer.topic, consumer.config.group, consumer.metrics, consumer.active, consumer.held)
        for agent, consumer in list(app._consumers)
    ]
    return rows + (app._workers.reports.rows() if app._workers is not None else [])


Gauges = Mapping[tuple[str, str], Mapping[str, float]]  # of a group, by (stream, group): lag, pending, ...


def families(app: App, gauges: Gauges) -> list[Family]:
    """All metrics of an App. ``gauges``: what Redis says of the groups (``health.read_gauges``)."""
    consumers = [
        ({"app": app.name, "agent": row.agent, "stream": row.stream, "group": row.group}, row) for row in rows_of(app)
    ]
    found = [
        Family.simple(name, "counter", text, [(labels, getattr(row.metrics, name)) for labels, row in consumers])
        for name, text in COUNTERS.items()
    ]
    values = [
        (labels, {**gauges.get((row.stream, row.group), {}), "in_flight": row.in_flight, "held": row.held,
                  "latency_seconds": row.metrics.latency_seconds})
        for labels, row in consumers
    ]  # fmt: skip
    found += [
        Family.simple(name, "gauge", text, [(labels, known[name]) for labels, known in values if name in known])
        for name, text in GAUGES.items()
    ]
    seconds = Family(f"{PREFIX}handler_seconds", "histogram", "Time a handler took.")
    for labels, row in consumers:
        seconds.observe(labels, row.metrics.buckets, row.metrics.handler_seconds)
    timers = [({"app": app.name, "timer": timer.name}, timer) for timer in list(app._running_timers)]
    pool, own = app._workers, {"app": app.name}
    alive, wanted, restarts = (len(pool.alive), pool.wanted, pool.restarts) if pool is not None else (0, 0, 0)
    return [
        *found,
        seconds,
        Family.simple("timer_ticks", "counter", "Ticks of a timer", [(labels, each.ticks) for labels, each in timers]),
        Family.simple(
            "timer_failures", "counter", "Ticks of a timer that failed",
            [(labels, each.failures) for labels, each in timers],
        ),
        Family.simple(
            "timer_lateness_seconds", "gauge", "Time by which the last tick came late",
            [(labels, each.lateness) for labels, each in timers],
        ),
        Family.simple("workers", "gauge", "Worker processes that run", [(own, alive)]),
        Family.simple("workers_wanted", "gauge", "Worker processes that there should be", [(own, wanted)]),
        Family.simple("restarts", "counter", "Parts and workers started again", [(own, app.restarts + restarts)]),
    ]  # fmt: skip


def prometheus_text(found: Iterable[Family]) -> str:
    """The Prometheus text format, version 0.0.4."""
    lines: list[str] = []
    for family in found:
        typed = f"{family.name}_total" if family.kind == "counter" else family.name
        lines += [f"# HELP {typed} {family.help}", f"# TYPE {typed} {family.kind}"]
        lines += [f"{family.name}{suffix}{_labels(labels)} {value}" for suffix, labels, value in family.samples]
    return "\n".join(lines) + "\n"


def collector(*apps: App) -> Collector:
    """The apps' metrics for a registry of prometheus-client's: ``REGISTRY.register(collector(app))``.

    Counters are as of the moment of the scrape, what Redis knows (lag, pending) is a few seconds old at most. Give all
    Apps of a program to one collector: a registry takes each metric's name once.

    Raises:
        SettingsError: prometheus-client is not installed.
    """
    try:
        from streammachine.runtime.observability.prometheus import AppsCollector
    except ImportError as error:
        raise SettingsError(
            "collector() needs prometheus-client, which is not installed: pip install 'streammachine-mcp[monitoring]'"
        ) from error
    return AppsCollector(apps)


def _labels(labels: dict[str, str]) -> str:
    shown = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{shown}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
