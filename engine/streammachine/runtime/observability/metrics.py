"""What is counted, and how Prometheus gets it: as text at ``/metrics``, or through a registry of the program's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from streammachine.errors import SettingsError
from streammachine.runtime.model.counters import BUCKETS, COUNTERS, Row

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from streammachine.runtime.observability.running_app import Gauges, RunningApp

PREFIX = "streammachine_"
GAUGES = {
    "lag": "Messages not given out yet",
    "pending": "Messages given out and not finished",
    "oldest_pending_seconds": "Age of the oldest unfinished message",
    "in_flight": "Messages whose handler runs now",
    "held": "Messages read and not finished in this process and its workers",
    "latency_seconds": "Seconds from sending to reading of the last message",
}


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


def rows_of(app: RunningApp) -> list[Row]:
    """The app's consumers as they are now, those in its worker processes included. Asks nobody, so any thread may."""
    rows = [
        Row(agent.name, consumer.topic, consumer.config.group, consumer.metrics, consumer.active, consumer.held)
        for agent, consumer in list(app.consumers)
    ]
    return rows + (app.workers.reports.rows() if app.workers is not None else [])


def families(app: RunningApp, gauges: Gauges) -> list[Family]:
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
    timers = [({"app": app.name, "timer": timer.name}, timer) for timer in list(app.running_timers)]
    pool, own = app.workers, {"app": app.name}
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


def collector(*apps: RunningApp) -> Collector:
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
