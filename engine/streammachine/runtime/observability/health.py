"""Health by progress: a consumer is healthy when its reads come back, not when Redis answers a ping."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from streammachine.redis.condition import condition_of
from streammachine.runtime.delivery.gauges import group_gauges
from streammachine.runtime.observability.metrics import rows_of

if TYPE_CHECKING:
    from streammachine.runtime.observability.running_app import RunningApp

GAUGES_WAIT = 3.0  # seconds for all groups: a scrape must not wait for a Redis that is away


async def check_app(app: RunningApp) -> dict[str, Any]:
    """The health of an App.

    Returns:
        As ``App.health_check``; ``status`` is "healthy" only when everything that should run does.
    """
    condition = await condition_of(app.redis)
    connected = condition.connected
    consumers = consumers_of(app)
    problems = [condition.problem] if condition.problem else []
    if not connected:
        problems = [f"Redis does not answer: {condition.problem}"]
    if not app.is_running:
        problems.append("the app is not running")
    problems += [f"{facts['agent']} on {facts['stream']} {facts['problem']}" for facts in consumers if facts["problem"]]
    workers = app.workers
    if workers is not None and len(workers.alive) < workers.wanted:
        problems.append(f"{workers.wanted - len(workers.alive)} of {workers.wanted} worker processes are down")
    active = sum(facts["in_flight"] for facts in consumers) + sum(timer.running for timer in app.running_timers)
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


def consumers_of(app: RunningApp) -> list[dict[str, Any]]:
    """The facts of all consumers (``consumer_facts``), those in worker processes included."""
    found = [consumer.facts(agent.name) for agent, consumer in app.consumers]
    return found + (app.workers.reports.facts() if app.workers is not None else [])


async def read_gauges(app: RunningApp) -> dict[tuple[str, str], dict[str, float]]:
    """Ask Redis about the groups of all the app's consumers.

    Returns:
        For each (stream, group): ``lag`` and ``pending`` in messages, ``oldest_pending_seconds``. Groups that Redis has
        not answered for within GAUGES_WAIT seconds are left out.
    """
    found: dict[tuple[str, str], dict[str, float]] = {}

    async def read(stream: str, group: str) -> None:
        found[stream, group] = await group_gauges(app.redis, stream, group)

    with anyio.move_on_after(GAUGES_WAIT):
        async with anyio.create_task_group() as tasks:
            for stream, group in dict.fromkeys((row.stream, row.group) for row in rows_of(app)):
                tasks.start_soon(read, stream, group)
    return found
