"""What a consumer counts and times."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streammachine.runtime.model.message import Message

# Upper bounds in seconds of the handler-time histogram.
BUCKETS = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)
RATE_WINDOW = 10.0  # seconds that a rate is taken over


class Rate:
    """How fast a counter rises, over the last ten seconds as far as anybody asked."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, int]] = []

    def of(self, count: int) -> float:
        """Per second, now that the counter stands at ``count``; 0 at the first call."""
        now = time.monotonic()
        self._marks.append((now, count))
        while len(self._marks) > 2 and now - self._marks[1][0] > RATE_WINDOW:
            self._marks.pop(0)
        then, before = self._marks[0]
        return (count - before) / (now - then) if now - then > 0.01 else 0.0


def counter(meaning: str, *, in_health: bool = False) -> int:
    """A counter of ``ConsumerMetrics``. Its one line there is the new metric; what else names counters, reads them.

    Args:
        meaning: what it counts, for Prometheus and docs/metrics.md.
        in_health: health_check, the list of agents and worker reports show it too.
    """
    return field(default=0, metadata={"meaning": meaning, "in_health": in_health})


@dataclass
class ConsumerMetrics:
    """Counters of one consumer since it started. Times are seconds."""

    consumed: int = counter("Messages handled", in_health=True)
    failed: int = counter("Handler calls that failed", in_health=True)
    retried: int = counter("Attempts repeated", in_health=True)
    dead: int = counter("Messages given up to the dead-letter stream", in_health=True)
    lost: int = counter("Messages that another consumer had taken over")
    reclaimed: int = counter("Messages taken over from others", in_health=True)
    repeats: int = counter("Messages skipped as repeats")
    alone: int = counter("Messages run alone")
    reconnects: int = counter("Times the reader lost its connection")
    groups_recreated: int = counter("Times the group had to be created again")
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


# What the counters mean, by name; and those that health_check shows.
COUNTERS: dict[str, str] = {
    each.name: each.metadata["meaning"] for each in fields(ConsumerMetrics) if "meaning" in each.metadata
}
HEALTH_COUNTERS = tuple(each.name for each in fields(ConsumerMetrics) if each.metadata.get("in_health"))


@dataclass
class ConsumerRow:
    """The counters of one agent on one stream, in this process or summed over all its workers."""

    agent: str
    stream: str
    group: str
    metrics: ConsumerMetrics
    in_flight: int = 0
    held: int = 0
