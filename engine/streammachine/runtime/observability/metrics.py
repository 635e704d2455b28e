"""The metrics of an App, for Prometheus: as text at ``/metrics``, or through a registry of the program's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from streammachine.errors import SettingsError
from streammachine.runtime.model.counters import BUCKETS, COUNTERS, ConsumerRow

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from streammachine.runtime.observability.running_app import Gauges, RunningApp

PREFIX = "streammachine_"
Kind = Literal["counter", "gauge", "histogram"]


class Meaning(NamedTuple):
    """What one metric is: its kind, the labels of its values, and what it means, as a sentence without its stop."""

    kind: Kind
    labels: tuple[str, ...]
    text: str


CONSUMER = ("app", "agent", "stream", "group")
TIMER = ("app", "timer")
# Every metric there is, by its name without PREFIX. docs/metrics.md is made from this table.
METRICS = {
    **{name: Meaning("counter", CONSUMER, text) for name, text in COUNTERS.items()},
    "lag": Meaning("gauge", CONSUMER, "Messages not given out yet"),
    "pending": Meaning("gauge", CONSUMER, "Messages given out and not finished"),
    "oldest_pending_seconds": Meaning("gauge", CONSUMER, "Age of the oldest unfinished message"),
    "in_flight": Meaning("gauge", CONSUMER, "Messages whose handler runs now"),
    "held": Meaning("gauge", CONSUMER, "Messages read and not finished in this process and its workers"),
    "latency_seconds": Meaning("gauge", CONSUMER, "Seconds from sending to reading of the last message"),
    "handler_seconds": Meaning("histogram", CONSUMER, "Time a handler took"),
    "timer_ticks": Meaning("counter", TIMER, "Ticks of a timer"),
    "timer_failures": Meaning("counter", TIMER, "Ticks of a timer that failed"),
    "timer_lateness_seconds": Meaning("gauge", TIMER, "Time by which the last tick came late"),
    "workers": Meaning("gauge", ("app",), "Worker processes that run"),
    "workers_wanted": Meaning("gauge", ("app",), "Worker processes that there should be"),
    "restarts": Meaning("counter", ("app",), "Parts and workers started again"),
}


@dataclass
class Family:
    """One metric of Prometheus' data model.

    ``samples``: what follows the name (``_total``, ``_bucket``), labels, value.
    """

    name: str
    meaning: Meaning
    samples: list[tuple[str, dict[str, str], float]] = field(default_factory=list)

    @property
    def kind(self) -> Kind:
        """Its kind in Prometheus' words."""
        return self.meaning.kind

    @property
    def help(self) -> str:
        """What it means, as a sentence."""
        return f"{self.meaning.text}."

    def add(self, value: float, *labels: str) -> None:
        """Add the value of a counter or gauge, with the values of its labels."""
        suffix = "_total" if self.kind == "counter" else ""
        self.samples.append((suffix, dict(zip(self.meaning.labels, labels, strict=True)), value))

    def observe(self, counts: Sequence[int], total: float, *labels: str) -> None:
        """Add a histogram's buckets, which Prometheus has summed up, and the sum of its values."""
        named = dict(zip(self.meaning.labels, labels, strict=True))
        below = 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
            below += count
            self.samples.append(("_bucket", {**named, "le": bound}, below))
        self.samples += [("_sum", named, total), ("_count", named, below)]


def rows_of(app: RunningApp) -> list[ConsumerRow]:
    """The counters of an App's consumers, those in its worker processes included. Any thread may call it."""
    rows = [
        ConsumerRow(agent.name, consumer.topic, consumer.config.group, consumer.metrics, consumer.active, consumer.held)
        for agent, consumer in list(app.consumers)
    ]
    return rows + (app.workers.reports.rows() if app.workers is not None else [])


def families(app: RunningApp, gauges: Gauges) -> list[Family]:
    """All metrics of an App, in the order of ``METRICS``.

    Args:
        app: the App; nothing is asked of Redis here.
        gauges: what Redis said of the groups (``health.read_gauges``).
    """
    found = {name: Family(PREFIX + name, meaning) for name, meaning in METRICS.items()}
    for row in rows_of(app):
        labels = (app.name, row.agent, row.stream, row.group)
        values = {
            **{name: getattr(row.metrics, name) for name in COUNTERS},
            **gauges.get((row.stream, row.group), {}),
            "in_flight": row.in_flight,
            "held": row.held,
            "latency_seconds": row.metrics.latency_seconds,
        }
        for name, value in values.items():
            found[name].add(value, *labels)
        found["handler_seconds"].observe(row.metrics.buckets, row.metrics.handler_seconds, *labels)
    for timer in list(app.running_timers):
        found["timer_ticks"].add(timer.ticks, app.name, timer.name)
        found["timer_failures"].add(timer.failures, app.name, timer.name)
        found["timer_lateness_seconds"].add(timer.lateness, app.name, timer.name)
    pool = app.workers
    found["workers"].add(len(pool.alive) if pool is not None else 0, app.name)
    found["workers_wanted"].add(pool.wanted if pool is not None else 0, app.name)
    found["restarts"].add(app.restarts + (pool.restarts if pool is not None else 0), app.name)
    return list(found.values())


def prometheus_text(found: Iterable[Family]) -> str:
    """Metrics in the Prometheus text format, version 0.0.4.

    Source: https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    lines: list[str] = []
    for family in found:
        typed = f"{family.name}_total" if family.kind == "counter" else family.name
        lines += [f"# HELP {typed} {family.help}", f"# TYPE {typed} {family.kind}"]
        lines += [f"{family.name}{suffix}{_labels(labels)} {value}" for suffix, labels, value in family.samples]
    return "\n".join(lines) + "\n"


def collector(*apps: RunningApp) -> Collector:
    """A collector of Apps' metrics for a registry of prometheus-client's.

    Counters are as of the moment of the scrape; what Redis knows (lag, pending) is a few seconds old at most.

    Args:
        apps: all Apps of the program: a registry takes each metric's name once, so one collector only.

    Returns:
        What ``registry.register`` takes. A scrape may come in any thread.

    Raises:
        SettingsError: prometheus-client is not installed (extra ``monitoring``).

    Example:
        >>> from prometheus_client import REGISTRY, start_http_server
        >>> REGISTRY.register(collector(app))
        >>> start_http_server(9100)
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
