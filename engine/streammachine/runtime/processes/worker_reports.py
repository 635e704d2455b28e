"""What the worker processes of an App report about their consumers, summed up for health, metrics and status page.

A worker reports once a second, and at its end. Its counts stay in the sums when it has ended or has given a partition
up: a counter must not fall.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streammachine.runtime.model.counters import HEALTH_COUNTERS, ConsumerMetrics, ConsumerRow

if TYPE_CHECKING:
    from streammachine.runtime.model.agent import Agent

SLOW_START = 30.0  # seconds without a first report after which a start counts as a problem
SILENT = 10.0  # seconds without a further one after which a worker counts as hanging
SUMMED = (*HEALTH_COUNTERS, "rate", "in_flight", "held")

Place = tuple[str, str, str]  # agent, stream, group


@dataclass
class _Worker:
    agent: Agent
    reported: float  # when it last did; time.monotonic()
    consumers: dict[Place, Mapping[str, Any]] | None = None  # as it last reported them


class WorkerReports:
    """The reports of all workers of one App."""

    def __init__(self) -> None:
        self._agents: list[Agent] = []
        self._workers: dict[int, _Worker] = {}  # by process id
        self._ended: dict[Place, ConsumerMetrics] = {}
        self._failed: dict[str, str] = {}  # by agent: why the last worker that failed did, until one runs

    def expect(self, agent: Agent) -> None:
        """Note that workers of this agent will be started."""
        self._agents.append(agent)

    def begin(self, pid: int, agent: Agent) -> None:
        """Note that a worker has started."""
        self._workers[pid] = _Worker(agent, time.monotonic())

    def receive(self, pid: int, report: Mapping[str, Any]) -> None:
        """Take a worker's report."""
        worker = self._workers[pid]
        worker.reported = time.monotonic()
        if report["state"] == "failed":
            self._failed[worker.agent.name] = str(report.get("problem", ""))
        if report["state"] != "running":
            return
        if worker.consumers is None:
            self._failed.pop(worker.agent.name, None)
        now = {(facts["agent"], facts["stream"], facts["group"]): facts for facts in report["consumers"]}
        for place, facts in (worker.consumers or {}).items():
            if place not in now or now[place]["consumed"] < facts["consumed"]:  # given up, or begun anew
                self._retire(place, facts)
        worker.consumers = now

    def end(self, pid: int) -> None:
        """Note that a worker has ended."""
        for place, facts in (self._workers.pop(pid).consumers or {}).items():
            self._retire(place, facts)

    def rows(self) -> list[ConsumerRow]:
        """The counters of every agent on every stream, summed over all workers, ended ones too. Thread-safe."""
        found = {place: ConsumerRow(*place, ConsumerMetrics()) for place in self._places()}
        for place, ended in list(self._ended.items()):
            found[place].metrics.add(ended)
        for worker in list(self._workers.values()):
            for place, facts in (worker.consumers or {}).items():
                row = found.setdefault(place, ConsumerRow(*place, ConsumerMetrics()))
                row.metrics.add(ConsumerMetrics.of(facts["counts"]))
                row.in_flight += facts["in_flight"]
                row.held += facts["held"]
        return list(found.values())

    def facts(self) -> list[dict[str, Any]]:
        """As ``consumer_facts`` gives them, for every agent on every stream; with ``processes``, the workers on it."""
        return [self._facts(place) for place in self._places()]

    def _facts(self, place: Place) -> dict[str, Any]:
        agent, stream, group = place
        now = time.monotonic()
        totals: dict[str, float] = dict.fromkeys(SUMMED, 0)
        if place in self._ended:
            totals |= {name: getattr(self._ended[place], name) for name in HEALTH_COUNTERS}
        problems = {f"lacks workers: one {self._failed[agent]}"} if agent in self._failed else set()
        paused = stalled = False
        processes, oldest_poll = 0, 0.0
        for pid, worker in self._workers.items():
            silent = now - worker.reported
            starting = worker.consumers is None
            if worker.agent.name == agent and silent > (SLOW_START if starting else SILENT):
                problems.add(f"is not heard of: its worker {pid} has reported nothing for {silent:.0f} s")
                stalled = stalled or not starting
            facts = (worker.consumers or {}).get(place)
            if facts is None:
                continue
            processes += 1
            for name in SUMMED:
                totals[name] += facts[name]
            paused, stalled = paused or facts["paused"], stalled or facts["stalled"]
            problems |= {facts["problem"]} - {""}
            oldest_poll = max(oldest_poll, facts["seconds_since_poll"] + silent)
        return {
            "agent": agent,
            "stream": stream,
            "group": group,
            **totals,
            "rate": round(totals["rate"], 1),
            "paused": paused,
            "stalled": stalled,
            "problem": "; ".join(sorted(problems)),
            "seconds_since_poll": round(oldest_poll, 3),
            "processes": processes,
        }

    def _places(self) -> list[Place]:
        """Every agent on every stream, whether or not a worker has begun there."""
        declared = [(agent.name, topic, agent.config.group) for agent in self._agents for topic in agent.config.topics]
        return list(dict.fromkeys([*declared, *list(self._ended)]))

    def _retire(self, place: Place, facts: Mapping[str, Any]) -> None:
        self._ended.setdefault(place, ConsumerMetrics()).add(ConsumerMetrics.of(facts["counts"]))
