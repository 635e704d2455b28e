"""The list of all agents, in whichever process they run, with their state and counters.

``agent_list`` and ``streammachine inspect`` show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from streammachine.errors import SettingsError
from streammachine.runtime.declared.agents import HOST_NAME, DeclaredAgent, declared_agents, not_found
from streammachine.runtime.delivery.gauges import group_gauges
from streammachine.runtime.delivery.keys import Companions
from streammachine.runtime.model.counters import HEALTH_COUNTERS
from streammachine.runtime.presence import RunningProcess, paused_agents, running_processes, set_paused

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection

Kind = Literal["app", "declared", "candles"]
Status = Literal["running", "active", "standby", "paused", "waiting", "failing", "lost"]
COUNTED = (*HEALTH_COUNTERS, "in_flight", "rate")


@dataclass
class AgentEntry:
    """One agent on all its streams and in all its processes.

    Attributes:
        kind: "app" for a handler of an App, "declared" for one that a model declared, "candles" for a FastOHLCConsumer.
        streams: its streams, with the group that reads them. facts: what each process announced for each stream.
        paused: whether it is paused for every process.
        definition: of a declared agent.
    """

    name: str
    kind: Kind
    app: str
    streams: dict[str, str] = field(default_factory=dict)
    facts: list[tuple[RunningProcess, Mapping[str, Any]]] = field(default_factory=list)
    paused: bool = False
    definition: DeclaredAgent | None = None

    @property
    def alive(self) -> list[tuple[RunningProcess, Mapping[str, Any]]]:
        """The facts of processes that announced themselves lately."""
        return [(process, facts) for process, facts in self.facts if process.alive]

    @property
    def processes(self) -> int:
        """How many processes run it."""
        return len({process.process for process, _ in self.alive})

    @property
    def problem(self) -> str:
        """What is wrong with it, as its processes announced; "" when nothing is."""
        return "; ".join(sorted({str(facts["problem"]) for _, facts in self.alive if facts.get("problem")}))

    @property
    def status(self) -> Status:
        """Its state.

        "paused"; "waiting": declared, and no host runs it yet; "lost": the processes that ran it died; "failing": one
        of its processes has a problem; else "running". Of FastOHLCConsumers one is "active"; all are "standby" while
        they wait for the lease of one that died to run out.
        """
        if self.paused:
            return "paused"
        if not self.alive:
            return "waiting" if self.kind == "declared" else "lost"
        if self.problem:
            return "failing"
        if self.kind == "candles":
            return "active" if any(facts.get("state") == "active" for _, facts in self.alive) else "standby"
        return "running"

    def counted(self, stream: str | None = None) -> dict[str, float]:
        """The counters summed over all its processes.

        Args:
            stream: of this stream only; None: of all its streams.
        """
        chosen = [facts for _, facts in self.alive if stream is None or facts.get("stream") == stream]
        return {name: round(sum(_number(facts.get(name)) for facts in chosen), 1) for name in COUNTED}


async def list_agents(connection: RedisConnection) -> list[AgentEntry]:
    """All agents: those that run, those that ran until a crash within the last hour, and those that are declared.

    Returns:
        One entry per agent, sorted by name.

    Raises:
        RedisUnavailableError: Redis does not answer.
    """
    paused = await paused_agents(connection)
    entries: dict[str, AgentEntry] = {}
    for name, agent in (await declared_agents(connection)).items():
        entries[name] = AgentEntry(name, "declared", HOST_NAME, {agent.stream: agent.group}, definition=agent)
    for process in await running_processes(connection):
        for facts in process.agents:
            name = str(facts.get("agent"))
            if process.declared and name not in entries:
                continue  # deleted a moment ago; its host still runs it
            kind: Kind = "candles" if facts.get("kind") == "candles" else "app"
            entry = entries.setdefault(name, AgentEntry(name, kind, process.app))
            entry.streams.setdefault(str(facts.get("stream")), str(facts.get("group")))
            entry.facts.append((process, facts))
    for entry in entries.values():
        entry.paused = entry.name in paused
    return sorted(entries.values(), key=lambda entry: entry.name)


async def gauges(connection: RedisConnection, stream: str, group: str) -> dict[str, float]:
    """What Redis says of one group.

    Returns:
        ``lag``, ``pending`` and ``oldest_pending_seconds`` of the group (left out where unknown), ``delayed``: messages
        that wait for a later try, and ``dead_letters`` of the stream.
    """
    found = await group_gauges(connection, stream, group)
    keys = Companions(stream, group)
    later = int(await connection.command("ZCARD", keys.delayed, repeatable=True))
    found["delayed"] = later + int(await connection.command("XLEN", keys.retry, repeatable=True))
    found["dead_letters"] = int(await connection.command("XLEN", keys.dead_letters, repeatable=True))
    return found


def find_entry(entries: Sequence[AgentEntry], name: str) -> AgentEntry:
    """The agent of this name.

    Args:
        entries: the agents to choose from. name: its name; of an App's agent the handler's name is enough where no
            other agent has it.

    Raises:
        AgentNotFoundError: there is none; names the nearest.
        SettingsError: several agents have a handler of this name.
    """
    for entry in entries:
        if entry.name == name:
            return entry
    short = [entry for entry in entries if entry.name.partition("@")[0] == name]
    if len(short) > 1:
        raise SettingsError(f"Several agents are called {name!r}; say which: {', '.join(e.name for e in short)}.")
    if not short:
        raise not_found(name, [entry.name for entry in entries])
    return short[0]


async def pause_agent(connection: RedisConnection, name: str, paused: bool) -> tuple[AgentEntry, bool]:
    """Pause or resume an agent in every process.

    Returns:
        The agent, and whether that changed anything.

    Raises:
        AgentNotFoundError, SettingsError: as ``find_entry``.
    """
    entry = find_entry(await list_agents(connection), name)
    changed = await set_paused(connection, entry.name, paused)
    entry.paused = paused
    return entry, changed


def _number(value: object) -> float:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else 0.0
