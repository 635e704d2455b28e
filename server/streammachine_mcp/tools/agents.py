"""Agent tools: which agents run and how far they are, pausing them, declaring new ones."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, Required, cast

from fastmcp import Context
from fastmcp.dependencies import CurrentContext
from mcp_types import InputRequiredResult
from pydantic import Field
from typing_extensions import TypedDict

from streammachine.errors import WrongTypeError
from streammachine.redis import streams
from streammachine_mcp.results import cut_text, fit
from streammachine_mcp.safety import Confirm, ConfirmToken, Plan, Unconfirmed
from streammachine_mcp.tools.family import BRIEF, Family, tool

if TYPE_CHECKING:  # the runtime is loaded by the first call that needs it: it would delay the first tools/list
    from streammachine.redis.connection import RedisConnection
    from streammachine.runtime.admin.agents import AgentEntry
    from streammachine.runtime.declared.agents import DeclaredAgent
    from streammachine.runtime.presence import RunningProcess

PROBLEM_CHARS = 1000

AgentName = Annotated[str, Field(description="As agent_list gives it", min_length=1, max_length=512)]


class AgentRow(TypedDict):
    name: str
    kind: str
    app: str
    status: str
    stream: str
    group: str
    processes: int
    rate: float
    lag: NotRequired[float]
    pending: NotRequired[float]
    oldest_pending_s: NotRequired[float]
    problem: NotRequired[str]


class Agents(TypedDict):
    agents: list[Annotated[AgentRow, BRIEF]]
    count: int
    truncated: bool
    hint: NotRequired[str]


class AgentStats(TypedDict):
    name: str
    kind: str
    app: str
    status: str
    problem: NotRequired[str]
    streams: list[dict[str, Any]]
    processes: list[dict[str, Any]]
    definition: NotRequired[dict[str, Any]]


class AgentPaused(TypedDict):
    name: str
    paused: bool
    changed: bool


class AgentCreated(TypedDict):
    name: str
    stream: str
    output_stream: str
    group: str
    created: bool
    trial: NotRequired[dict[str, Any]]


class AgentDeleted(Unconfirmed, total=False):
    deleted: Required[bool]


class AgentTools(Family):
    toolset = "agent"

    @tool("agent_list", "List agents", reads=True)
    async def find(
        self,
        after: Annotated[str | None, Field(description="To go on: the last you got")] = None,
    ) -> Agents:
        """List the agents that work on streams: declared ones, FastOHLCConsumers, handlers of running Apps on any
        machine; with lag (messages to come), pending (under way) and rate (a second)."""
        from streammachine.runtime.admin import agents as fleet

        connection = await self.state.redis()
        entries = await fleet.list_agents(connection)
        wanted = [entry for entry in entries if after is None or entry.name > after]
        # All rows of an agent together, so that its name is a place to go on from.
        agents = [[await _row(connection, entry, *pair) for pair in entry.streams.items()] for entry in wanted]
        kept, cut = fit(agents)
        page: Agents = {
            "agents": [row for rows in kept for row in rows],
            "count": sum(len(entry.streams) for entry in entries),
            "truncated": cut,
        }
        if cut:
            page["hint"] = "There are more: call again with after=<the last name>."
        return page

    @tool("agent_stats", "Describe an agent", reads=True)
    async def stats(self, name: AgentName) -> AgentStats:
        """One agent in full: backlog, retries to come, dead letters, its processes and their counters, the definition
        of a declared one."""
        from streammachine.runtime.admin import agents as fleet

        connection = await self.state.redis()
        entry = fleet.find_entry(await fleet.list_agents(connection), name)
        shown: AgentStats = {
            "name": entry.name,
            "kind": entry.kind,
            "app": entry.app,
            "status": entry.status,
            "streams": [await _stream_stats(connection, entry, *pair) for pair in list(entry.streams.items())[:100]],
            "processes": [
                _process(one, facts)
                for one, facts in {process.process: (process, facts) for process, facts in entry.facts[:200]}.values()
            ],
        }
        if entry.problem:
            shown["problem"] = cut_text(entry.problem, PROBLEM_CHARS)
        if entry.definition is not None:
            agent = entry.definition
            shown["definition"] = {"filter": agent.filter, "select": agent.select, "output_stream": agent.output_stream}
        return shown

    @tool("agent_pause", "Pause an agent", idempotent=True)
    async def pause(self, name: AgentName) -> AgentPaused:
        """Have an agent read nothing more, in all its processes and after restarts; what is under way is finished.
        agent_resume lets it go on."""
        return await self._pause(name, True)

    @tool("agent_resume", "Resume an agent", idempotent=True)
    async def resume(self, name: AgentName) -> AgentPaused:
        """Let a paused agent go on where it stopped; nothing that came meanwhile is lost."""
        return await self._pause(name, False)

    @tool("agent_create", "Declare an agent", idempotent=True)
    async def create(
        self,
        name: Annotated[
            str, Field(description="Its name: letters, digits, '_', '-', '.'", min_length=1, max_length=64)
        ],
        stream: Annotated[str, Field(description="Stream to read", min_length=1, max_length=512)],
        output_stream: Annotated[str, Field(description="Stream to send to", min_length=1, max_length=512)],
        filter: Annotated[
            str | None, Field(description="CEL that must be true, e.g. num.price > 100.0 && msg.side == 'buy'")
        ] = None,
        select: Annotated[
            str | None, Field(description="CEL map of the fields to send, e.g. {'s': msg.symbol, 'v': num.price * 2.0}")
        ] = None,
        new_only: Annotated[bool, Field(description="Skip what is there already")] = False,
    ) -> AgentCreated:
        """Declare an agent that filters a stream into another, each message once, also after restarts. CEL sees msg
        (fields as text), num (numbers as doubles: write 2.0), topic, id, sent (ms); has(msg.x) tests a field. What it
        fails on becomes a dead letter."""
        from streammachine.runtime.declared import agents as declared

        connection = await self.state.redis()
        agent = declared.DeclaredAgent(
            name, stream, output_stream, filter, select, "$" if new_only else "0", created_ms=int(time.time() * 1000)
        )
        trial = await _trial(connection, agent)
        standing, new = await declared.declare(connection, agent)
        self.state.hosting.check_now()
        result: AgentCreated = {
            "name": name,
            "stream": stream,
            "output_stream": output_stream,
            "group": standing.group,
            "created": new,
        }
        if trial:
            result["trial"] = trial
        return result

    @tool("agent_delete", "Delete an agent", destructive=True, idempotent=True)
    async def delete(
        self,
        name: AgentName,
        confirm: Confirm = False,
        confirm_token: ConfirmToken = None,
        ctx: Context = CurrentContext(),
    ) -> AgentDeleted | InputRequiredResult:
        """Delete a declared agent and its place in the stream; what it sent stays. Asks the user, or gives a plan and a
        token."""
        from streammachine.runtime.admin import agents as fleet
        from streammachine.runtime.declared import agents as declared

        connection = await self.state.redis()
        agents = await declared.declared_agents(connection)
        agent = agents.get(name)
        if agent is None:
            if any(entry.name == name for entry in await fleet.list_agents(connection)):
                raise declared.AgentNotFoundError(f"{name!r} belongs to an App; it goes when its code does. Pause it.")
            raise declared.not_found(name, agents)
        found = await fleet.gauges(connection, agent.stream, agent.group)
        open_messages = int(found.get("lag", 0) + found.get("pending", 0) + found["delayed"])
        plan = Plan(
            operation=f"agent_delete {name}",
            count=1,
            fingerprint=repr((agent.work, agent.created_ms)),
            text=f"Delete the agent {name!r}; {open_messages} messages of {agent.stream!r} it has not finished",
        )
        decision = await self.confirmer.decide(ctx, plan, confirm=confirm, token=confirm_token)
        if isinstance(decision, InputRequiredResult):
            return decision
        if decision is not True:
            return cast(AgentDeleted, {"deleted": False, **decision})
        if (await declared.declared_agents(connection)).get(name) != agent:  # while the user was asked
            raise ValueError(f"The agent {name!r} has changed since. Nothing was deleted. Call again for a new plan.")
        return {"deleted": await declared.undeclare(connection, name)}

    async def _pause(self, name: str, paused: bool) -> AgentPaused:
        from streammachine.runtime.admin import agents as fleet

        entry, changed = await fleet.pause_agent(await self.state.redis(), name, paused)
        return {"name": entry.name, "paused": paused, "changed": changed}


async def _row(connection: "RedisConnection", entry: "AgentEntry", stream: str, group: str) -> AgentRow:
    from streammachine.runtime.delivery.gauges import group_gauges

    row: AgentRow = {
        "name": entry.name,
        "kind": entry.kind,
        "app": entry.app,
        "status": entry.status,
        "stream": stream,
        "group": group,
        "processes": entry.processes,
        "rate": entry.counted(stream)["rate"],
    }
    found = await group_gauges(connection, stream, group)
    _fill(cast(dict[str, Any], row), found)
    if entry.problem:
        row["problem"] = cut_text(entry.problem, 200)
    return row


def _process(one: "RunningProcess", facts: Mapping[str, Any]) -> dict[str, Any]:
    shown = {"host": one.host, "pid": one.pid, "seen_s_ago": round(one.age, 1), "alive": one.alive}
    return shown | {name: facts[name] for name in ("state", "candles", "late") if name in facts}


async def _stream_stats(connection: "RedisConnection", entry: "AgentEntry", stream: str, group: str) -> dict[str, Any]:
    from streammachine.runtime.admin import agents as fleet

    found = await fleet.gauges(connection, stream, group)
    stats: dict[str, Any] = {
        "stream": stream,
        "group": group,
        "delayed": found["delayed"],
        "dead_letters": found["dead_letters"],
        "counted": entry.counted(stream),
    }
    _fill(stats, found)
    return stats


def _fill(row: dict[str, Any], found: dict[str, float]) -> None:
    for name, shown in (("lag", "lag"), ("pending", "pending"), ("oldest_pending_seconds", "oldest_pending_s")):
        if name in found:
            row[shown] = round(found[name], 1)


async def _trial(connection: "RedisConnection", agent: "DeclaredAgent") -> dict[str, Any] | None:
    """What the agent would do with the stream's newest message; None where there is none.

    Raises:
        ExpressionError: it would fail, so most of the stream would become dead letters.
    """
    from streammachine.runtime.declared.agents import Expressions
    from streammachine.runtime.declared.evaluator import Evaluator
    from streammachine.runtime.declared.expressions import ExpressionError, ExpressionFailed
    from streammachine.runtime.model.message import Message

    try:
        entries = await streams.read_newest(connection, agent.stream, 1)
    except WrongTypeError as error:
        raise ValueError(str(error)) from error
    if not entries:
        return None
    entry = entries[0]
    try:
        async with Evaluator() as evaluator:
            record = await Expressions(agent, evaluator).check(Message(agent.stream, entry.id, data=entry.raw))
    except ExpressionFailed as error:
        raise ExpressionError(
            f"It would fail on the newest message of {agent.stream!r} ({entry.id}): {error}"
        ) from None
    if record is None:
        return {"id": entry.id, "passes": False}
    output = {_text(name): cut_text(_text(value), 200) for name, value in list(record.items())[:50]}
    return {"id": entry.id, "passes": True, "output": output}


def _text(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
