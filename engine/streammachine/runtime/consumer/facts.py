"""What a consumer says of itself: is it reading, running, stuck."""

from __future__ import annotations

import time
from typing import Any

from streammachine.runtime.consumer.context import ConsumerContext
from streammachine.runtime.model.counters import HEALTH_COUNTERS

STALE_POLL = 5.0  # seconds without a finished read (one takes a second at most) after which a consumer stands still
STALE_HANDLER = 60.0  # seconds in which no handler has ended (three leases where that is longer)


def consumer_facts(agent: str, context: ConsumerContext) -> dict[str, Any]:
    """What one consumer is doing, for people, other processes and models.

    Args:
        agent: the name of its agent. context: what the consumer's parts share.

    Returns:
        Counters, rates per second, the mean time of a handler and the time from sending to reading of the last message
        (milliseconds), and ``problem`` ("" when there is none). ``stalled`` is a standstill that only a new
        start would end; a Redis that is away or refuses is a problem, and no standstill.
    """
    metrics = context.metrics
    problem, stalled = _problem_of(context)
    return {
        "agent": agent,
        "stream": context.topic,
        "group": context.config.group,
        **{name: getattr(metrics, name) for name in HEALTH_COUNTERS},
        "rate": round(metrics.rate(), 1),
        "handler_ms": round(1000 * metrics.handler_seconds / metrics.consumed, 3) if metrics.consumed else 0.0,
        "latency_ms": round(1000 * metrics.latency_seconds, 1),
        "in_flight": context.active,
        "held": context.held,
        "paused": context.paused,
        "stalled": stalled,
        "problem": problem,
        "seconds_since_poll": round(time.monotonic() - metrics.last_poll, 3),
    }


def _problem_of(context: ConsumerContext) -> tuple[str, bool]:
    """What is wrong with the consumer ("" when nothing is), and whether that is a standstill."""
    metrics = context.metrics
    now = time.monotonic()
    silent, unfinished = now - metrics.last_poll, now - max(metrics.last_end, metrics.last_poll)
    if context.last_error:
        return context.last_error, False
    if not context.running:
        return "is not running", True
    if context.active and unfinished > max(STALE_HANDLER, 3 * context.config.lease):
        return f"has finished nothing for {unfinished:.0f} s", True
    if strays := len(context.strays()):
        return f"holds {strays} messages that nobody runs", False
    if context.maintenance_errors and not context.paused:
        step, reason = next(iter(context.maintenance_errors.items()))
        return f"fails at {step}: {reason}", False
    if silent > STALE_POLL and not context.active and not context.paused and not context.isolation.locked():
        return "stands still", True
    if context.isolation_error:
        return f"has messages that must run alone and cannot: {context.isolation_error}", False
    return "", False
