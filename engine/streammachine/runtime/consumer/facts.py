"""What a consumer says of itself: is it reading, running, stuck."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from streammachine.runtime.model.counters import HEALTH_COUNTERS

if TYPE_CHECKING:
    from streammachine.runtime.consumer.consumer import StreamConsumer


STALE_POLL = 5.0  # seconds without a finished read (one takes a second at most) after which a consumer stands still


STALE_HANDLER = 60.0  # seconds in which no handler has ended (three leases where that is longer)


def consumer_facts(agent: str, consumer: StreamConsumer) -> dict[str, Any]:
    """What one consumer is doing, for people, other processes and models.

    ``stalled`` is a standstill that only a new start would end; a Redis that is away or refuses is a problem, and no
    standstill.
    """
    metrics = consumer.metrics
    now = time.monotonic()
    silent, unfinished = now - metrics.last_poll, now - max(metrics.last_end, metrics.last_poll)
    problem, stalled = "", True
    if consumer.last_error:
        problem, stalled = consumer.last_error, False
    elif not consumer.running:
        problem = "is not running"
    elif consumer.active and unfinished > max(STALE_HANDLER, 3 * consumer.config.lease):
        problem = f"has finished nothing for {unfinished:.0f} s"
    elif strays := len(consumer.strays()):
        problem, stalled = f"holds {strays} messages that nobody runs", False
    elif consumer.upkeep and not consumer.paused:
        name, reason = next(iter(consumer.upkeep.items()))
        problem, stalled = f"fails at {name}: {reason}", False
    elif silent > STALE_POLL and not consumer.active and not consumer.paused and not consumer.quarantine.busy:
        problem = "stands still"
    elif consumer.quarantine.problem:
        problem, stalled = f"has messages that must run alone and cannot: {consumer.quarantine.problem}", False
    return {
        "agent": agent,
        "stream": consumer.topic,
        "group": consumer.config.group,
        **{name: getattr(metrics, name) for name in HEALTH_COUNTERS},
        "rate": round(metrics.rate(), 1),
        "in_flight": consumer.active,
        "held": consumer.held,
        "paused": consumer.paused,
        "stalled": bool(problem) and stalled,
        "problem": problem,
        "seconds_since_poll": round(silent, 3),
    }
