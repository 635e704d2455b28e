"""What a consumer counts, and the Prometheus text of it."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streammachine.runtime.message import Message

# Upper bounds in seconds of the handler-time histogram.
BUCKETS = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)
RATE_WINDOW = 10.0  # seconds that a rate is taken over


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
    _marks: list[tuple[float, int]] = field(default_factory=list)

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
        now = time.monotonic()
        self._marks.append((now, self.consumed))
        while len(self._marks) > 2 and now - self._marks[1][0] > RATE_WINDOW:
            self._marks.pop(0)
        then, count = self._marks[0]
        return (self.consumed - count) / (now - then) if now - then > 0.01 else 0.0


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
    "held": "Messages read and not finished in this process",
    "latency_seconds": "Seconds from sending to reading of the last message",
}


def prometheus_text(rows: Iterable[tuple[dict[str, str], ConsumerMetrics, dict[str, float]]]) -> str:
    """The Prometheus text format (version 0.0.4) of consumers: their labels, counters and gauges."""
    rows = list(rows)
    lines: list[str] = []
    for name, help_text in COUNTERS.items():
        lines += [f"# HELP streammachine_{name}_total {help_text}.", f"# TYPE streammachine_{name}_total counter"]
        lines += [f"streammachine_{name}_total{_labels(labels)} {getattr(m, name)}" for labels, m, _ in rows]
    for name, help_text in GAUGES.items():
        lines += [f"# HELP streammachine_{name} {help_text}.", f"# TYPE streammachine_{name} gauge"]
        lines += [
            f"streammachine_{name}{_labels(labels)} {values[name]}" for labels, _, values in rows if name in values
        ]
    lines += [
        "# HELP streammachine_handler_seconds Time a handler took.",
        "# TYPE streammachine_handler_seconds histogram",
    ]
    for labels, metrics, _ in rows:
        total = 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), metrics.buckets, strict=True):
            total += count
            lines.append(f"streammachine_handler_seconds_bucket{_labels({**labels, 'le': bound})} {total}")
        lines.append(f"streammachine_handler_seconds_sum{_labels(labels)} {metrics.handler_seconds}")
        lines.append(f"streammachine_handler_seconds_count{_labels(labels)} {total}")
    return "\n".join(lines) + "\n"


def _labels(labels: dict[str, str]) -> str:
    shown = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{shown}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
