"""Health by progress: a consumer is well when its reads come back, not when Redis answers a ping."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio

from streammachine.errors import StreamMachineError
from streammachine.redis.condition import condition_of
from streammachine.redis.streams import describe, lags
from streammachine.runtime.observability.metrics import rows_of

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection
    from streammachine.runtime.app.app import App
    from streammachine.runtime.consumer.consumer import StreamConsumer

STALE_POLL = 5.0  # seconds without a finished read (one takes a second at most) after which a consumer stands still
STALE_HANDLER = 60.0  # seconds in which no handler has ended (three leases where that is longer)
GAUGES_WAIT = 3.0  # seconds for all groups: a scrape must not wait for a Redis that is away


async def check_app(app: App) -> dict[str, Any]:
    """The state of an App; ``status`` is "healthy" only when everything that should run does."""
    condition = await condition_of(app.redis)
    connected = condition.connected
    consumers = consumers_of(app)
    problems = [condition.problem] if condition.problem else []
    if not connected:
        problems = [f"Redis does not answer: {condition.problem}"]
    if app._life is None or not app._life.began:
        problems.append("the app is not running")
    problems += [f"{facts['agent']} on {facts['stream']} {facts['problem']}" for facts in consumers if facts["problem"]]
    workers = app._workers
    if workers is not None and len(workers.alive) < workers.wanted:
        problems.append(f"{workers.wanted - len(workers.alive)} of {workers.wanted} worker processes are down")
    active = sum(facts["in_flight"] for facts in consumers) + sum(timer.running for timer in app._running_timers)
    return {
        "status": "degraded" if problems else "healthy",
        "redis": "connected" if connected else "disconnected",
        "active_tasks": active,
        "registered_agents": len(app.agents),
        "registered_timers": len(app.timers),
        "problems": problems,
        "consumers": consumers,
        "workers": len(workers.alive) if workers is not None else 0,
        "restarts": app.restarts + (workers.restarts if workers is not None else 0),
    }


def consumers_of(app: App) -> list[dict[str, Any]]:
    """The facts of all consumers, those in worker processes included."""
    found = [consumer_facts(agent.name, consumer) for agent, consumer in app._consumers]
    return found + (app._workers.reports.facts() if app._workers is not None else [])


def consumer_facts(agent: str, consumer: StreamConsumer) -> dict[str, Any]:
    """What one consumer is doing, for people, other processes and models.

    ``stalled`` is a standstill that only a new start would end; a Redis that is away or refuses is a problem, and no
    standstill.
    """
    metrics = consumer.metrics
    now = time.monotonic()
    silent, unfinished = now - metrics.last_poll, now - max(metrics.last_end, metrics.last_poll)
    problem, stalled = "", True
    if consumer.trouble:
        problem, stalled = consumer.trouble, False
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
        "consumed": metrics.consumed,
        "failed": metrics.failed,
        "retried": metrics.retried,
        "dead": metrics.dead,
        "reclaimed": metrics.reclaimed,
        "rate": round(metrics.rate(), 1),
        "in_flight": consumer.active,
        "held": consumer.held,
        "paused": consumer.paused,
        "stalled": bool(problem) and stalled,
        "problem": problem,
        "seconds_since_poll": round(silent, 3),
    }


async def group_gauges(connection: RedisConnection, stream: str, group: str) -> dict[str, float]:
    """Lag, pending and the age of the oldest pending entry of a group; empty when it cannot be asked.

    The age is taken from the entry's id. A lag that the server does not know is counted, up to LAG_LOOK.
    """
    try:
        info = await describe(connection, stream)
        found = next((found for found in info.groups if found.name == group), None)
        if found is None:
            return {}
        gauges: dict[str, float] = {"pending": found.pending}
        gauges["lag"] = (await lags(connection, stream, [found]))[group]
        summary = await connection.command("XPENDING", stream, group, repeatable=True)
    except StreamMachineError:
        return {}
    if int(summary[0]):
        oldest = int(bytes(summary[1]).decode().partition("-")[0])
        gauges["oldest_pending_seconds"] = max(0.0, time.time() - oldest / 1000)
    return gauges


async def read_gauges(app: App) -> dict[tuple[str, str], dict[str, float]]:
    """What Redis says of the groups of all the app's consumers, by (stream, group).

    Groups that it has not told of within GAUGES_WAIT seconds are left out.
    """
    found: dict[tuple[str, str], dict[str, float]] = {}

    async def read(stream: str, group: str) -> None:
        found[stream, group] = await group_gauges(app.redis, stream, group)

    with anyio.move_on_after(GAUGES_WAIT):
        async with anyio.create_task_group() as tasks:
            for stream, group in dict.fromkeys((row.stream, row.group) for row in rows_of(app)):
                tasks.start_soon(read, stream, group)
    return found
