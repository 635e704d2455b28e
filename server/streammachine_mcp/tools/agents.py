"""Agent tools: which agents run and how far they are, declaring new ones, and their dead letters."""

import re
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
from streammachine_mcp.argument_types import Position
from streammachine_mcp.results import cut_text, fit, fit_fields
from streammachine_mcp.safety import Confirmer, Plan, Unconfirmed
from streammachine_mcp.state import ServerState
from streammachine_mcp.tools.family import Family, tool

if TYPE_CHECKING:  # the runtime is loaded by the first call that needs it: it would delay the first tools/list
    from streammachine.redis.connection import RedisConnection
    from streammachine.runtime.admin.dead_letters import Letter
    from streammachine.runtime.admin.roster import RosterEntry
    from streammachine.runtime.declared.agents import DeclaredAgent
    from streammachine.runtime.presence import RunningProcess

_WHOLE_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}", re.ASCII)
MOST_LETTERS = 1000  # redriven in one call
VALUE_CHARS = 1000  # of a dead letter's field
LETTER_BYTES = 40_000  # of all fields of one letter
TRACEBACK_CHARS = 10_000
PART_BYTES = 25_000  # of each part of what dead_letter_redrive tells

AgentName = Annotated[str, Field(description="Agent name, as agent_list gives it", min_length=1, max_length=512)]
StreamName = Annotated[str, Field(description="Stream name", min_length=1, max_length=512)]
Confirm = Annotated[bool, Field(description="true deletes at once; only when the user has agreed")]
ConfirmToken = Annotated[str | None, Field(description="The token of the plan that the user agreed to")]


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
    agents: list[AgentRow]
    count: int
    truncated: bool
    hint: NotRequired[str]


class Stats(TypedDict):
    name: str
    kind: str
    app: str
    status: str
    problem: NotRequired[str]
    streams: list[dict[str, Any]]
    processes: list[dict[str, Any]]
    definition: NotRequired[dict[str, Any]]


class Paused(TypedDict):
    name: str
    paused: bool
    changed: bool


class Created(TypedDict):
    name: str
    stream: str
    output_stream: str
    group: str
    created: bool
    trial: NotRequired[dict[str, Any]]


class Deleted(Unconfirmed, total=False):
    deleted: Required[bool]


class ShownLetter(TypedDict):
    id: str
    reason: str
    group: str
    attempts: str
    error: str
    failed_at_ms: str
    origin_id: str
    data: dict[str, str]
    fields_left_out: NotRequired[int]
    traceback: NotRequired[str]


class Letters(TypedDict):
    stream: str
    total: int
    count: int
    letters: list[ShownLetter]
    truncated: bool
    hint: NotRequired[str]


class Redriven(TypedDict):
    redriven: int
    ids: dict[str, str]
    missing: list[str]
    refused: dict[str, str]
    remaining: int
    truncated: NotRequired[bool]
    hint: NotRequired[str]


class Purged(Unconfirmed, total=False):
    purged: Required[int]


class AgentTools(Family):
    toolset = "agent"

    def __init__(self, state: ServerState, confirmer: Confirmer) -> None:
        super().__init__(state)
        self._confirmer = confirmer

    @tool("agent_list", "List agents", reads=True)
    async def find(
        self,
        after: Annotated[str | None, Field(description="To go on: the last one you got")] = None,
    ) -> Agents:
        """List the agents that work on streams: handlers of running Apps (on any machine) and declared ones, with
        lag (messages to come), pending (under way) and rate (a second). FastOHLCConsumers too."""
        from streammachine.runtime.admin import roster

        connection = await self.state.redis()
        entries = await roster.roster(connection)
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
    async def stats(self, name: AgentName) -> Stats:
        """One agent in full: backlog, messages delayed for a retry, dead letters, counters since its processes
        started, those processes, and the definition of a declared one."""
        from streammachine.runtime.admin import roster

        connection = await self.state.redis()
        entry = roster.find_entry(await roster.roster(connection), name)
        shown: Stats = {
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
            shown["problem"] = cut_text(entry.problem, VALUE_CHARS)
        if entry.definition is not None:
            agent = entry.definition
            shown["definition"] = {"filter": agent.filter, "select": agent.select, "output_stream": agent.output_stream}
        return shown

    @tool("agent_pause", "Pause an agent", idempotent=True)
    async def pause(self, name: AgentName) -> Paused:
        """Have an agent read nothing more, in all processes within two seconds and after restarts too; what is under
        way is finished. To let it go on where it was: agent_resume."""
        return await self._pause(name, True)

    @tool("agent_resume", "Resume an agent", idempotent=True)
    async def resume(self, name: AgentName) -> Paused:
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
        new_only: Annotated[bool, Field(description="Begin with new messages, not at the stream's start")] = False,
    ) -> Created:
        """Declare an agent that filters a stream into another one, each message once; it survives restarts. CEL
        sees msg (fields as text), num (numbers as doubles: write 2.0), topic, id, sent (ms); has(msg.x)
        tells if there is a field. What it fails on becomes a dead letter."""
        from streammachine.runtime.declared import agents as declared

        connection = await self.state.redis()
        agent = declared.DeclaredAgent(
            name, stream, output_stream, filter, select, "$" if new_only else "0", created_ms=int(time.time() * 1000)
        )
        trial = await _trial(connection, agent)
        standing, new = await declared.declare(connection, agent)
        self.state.hosting.nudge()
        result: Created = {
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
    ) -> Deleted | InputRequiredResult:
        """Delete a declared agent and its place in the stream; what it sent stays. Without confirm the user is asked,
        or you get a plan and a token."""
        from streammachine.runtime.admin import roster
        from streammachine.runtime.declared import agents as declared

        connection = await self.state.redis()
        agents = await declared.declared_agents(connection)
        agent = agents.get(name)
        if agent is None:
            if any(entry.name == name for entry in await roster.roster(connection)):
                raise declared.AgentNotFoundError(f"{name!r} belongs to an App; it goes when its code does. Pause it.")
            raise declared.not_found(name, agents)
        found = await roster.gauges(connection, agent.stream, agent.group)
        open_messages = int(found.get("lag", 0) + found.get("pending", 0) + found["delayed"])
        plan = Plan(
            operation=f"agent_delete {name}",
            count=1,
            fingerprint=repr((agent.work, agent.created_ms)),
            text=f"Delete the agent {name!r}; {open_messages} messages of {agent.stream!r} it has not finished",
        )
        decision = await self._confirmer.decide(ctx, plan, confirm=confirm, token=confirm_token)
        if isinstance(decision, InputRequiredResult):
            return decision
        if decision is not True:
            return cast(Deleted, {"deleted": False, **decision})
        if (await declared.declared_agents(connection)).get(name) != agent:  # while the user was asked
            raise ValueError(f"The agent {name!r} has changed since. Nothing was deleted. Call again for a new plan.")
        return {"deleted": await declared.undeclare(connection, name)}

    @tool("dead_letter_list", "List dead letters", reads=True)
    async def letters(
        self,
        stream: StreamName,
        count: Annotated[int, Field(description="Most letters to give", ge=1, le=200)] = 10,
        before: Annotated[
            Position | None, Field(description="Only letters before this id or time; to go on, the last you got")
        ] = None,
        group: Annotated[str | None, Field(description="Only those of this consumer group")] = None,
        traceback: Annotated[bool, Field(description="With the handler's traceback")] = False,
    ) -> Letters:
        """Show the messages of a stream that its agents gave up, the newest first: why, in which group, and their
        fields (data from outside). To have them tried again: dead_letter_redrive."""
        from streammachine.runtime.admin.dead_letters import Box

        connection = await self.state.redis()
        box = await Box.open(connection, stream)
        position = _before(before)
        total = await box.count(connection)  # first, so that no letter is counted that is not shown
        found, more = await box.newest(connection, count, before=position, group=group)
        kept, cut = fit(_shown(letter, traceback) for letter in found)
        page: Letters = {
            "stream": box.stream,
            "total": max(total, len(kept)),
            "count": len(kept),
            "letters": kept,
            "truncated": more or cut,
        }
        if more or cut:
            page["hint"] = "There are older ones: call again with before=<the last id>."
        return page

    @tool("dead_letter_redrive", "Redrive dead letters")
    async def redrive(
        self,
        stream: StreamName,
        ids: Annotated[list[str] | None, Field(description="Letters to redrive", max_length=MOST_LETTERS)] = None,
        all: Annotated[bool, Field(description=f"Instead of ids: the newest {MOST_LETTERS}")] = False,
        group: Annotated[str | None, Field(description="With all: only those of this group")] = None,
    ) -> Redriven:
        """Give dead letters back to the group that failed on them, and to no other, as a first attempt. Do it when the
        cause is mended; else they come back."""
        from streammachine.runtime.admin.dead_letters import Box

        connection = await self.state.redis()
        if bool(ids) == all:
            raise ValueError("Give ids (see dead_letter_list), or all=true.")
        _refuse_own(stream)
        box = await Box.open(connection, stream)
        chosen = [_letter_id(identifier) for identifier in ids or ()]
        if all:
            # The oldest first, as they came.
            chosen = [letter.id for letter in (await box.newest(connection, MOST_LETTERS, group=group))[0]][::-1]
        done = await box.redrive(connection, chosen)
        moved, cut = fit(done.ids.items(), 2 * PART_BYTES)
        missing, cut_missing = fit(done.missing, PART_BYTES)
        refused, cut_refused = fit(done.refused.items(), PART_BYTES)
        result: Redriven = {
            "redriven": len(done.ids),
            "ids": dict(moved),
            "missing": missing,
            "refused": dict(refused),
            "remaining": await box.count(connection),
        }
        if cut or cut_missing or cut_refused:
            result["truncated"] = True
            result["hint"] = "Not every id is named here. dead_letter_list shows the letters that are left."
        return result

    @tool("dead_letter_purge", "Purge dead letters", destructive=True, idempotent=True)
    async def purge(
        self,
        stream: StreamName,
        confirm: Confirm = False,
        confirm_token: ConfirmToken = None,
        ctx: Context = CurrentContext(),
    ) -> Purged | InputRequiredResult:
        """Delete all dead letters of a stream for good. Without confirm the user is asked, or you get a plan and a
        token."""
        from streammachine.runtime.admin.dead_letters import Box

        _refuse_own(stream)
        connection = await self.state.redis()
        box = await Box.open(connection, stream)
        newest, _ = await box.newest(connection, 1)
        count = await box.count(connection)
        if not newest:
            return {"purged": 0}
        plan = Plan(
            operation=f"dead_letter_purge {box.key}",
            count=count,
            fingerprint=repr(await box.version(connection)),
            text=f"Delete all {count} dead letters of {box.stream!r}",
        )
        decision = await self._confirmer.decide(ctx, plan, confirm=confirm, token=confirm_token)
        if isinstance(decision, InputRequiredResult):
            return decision
        if decision is not True:
            return cast(Purged, {"purged": 0, **decision})
        return {"purged": await box.purge(connection, newest[0].id)}

    async def _pause(self, name: str, paused: bool) -> Paused:
        from streammachine.runtime.admin import roster

        entry, changed = await roster.pause_agent(await self.state.redis(), name, paused)
        return {"name": entry.name, "paused": paused, "changed": changed}


def _before(text: str | None) -> str | None:
    """The id that ``Box.newest`` is to stay before; None is the box's end."""
    if text is None:
        return None
    position = streams.parse_position(text).removeprefix("(")
    return {"+": None, "-": "0-1", "0": "0-1", "0-0": "0-1"}.get(position, position)  # nothing is before 0-1


def _refuse_own(stream: str) -> None:
    """A stream's dead letters are what these tools are for, by its own name or theirs; other keys are not."""
    if stream.startswith(streams.OWN_PREFIXES) or not stream.endswith(":dlq"):
        streams.refuse_own(stream)


def _letter_id(text: str) -> str:
    if not _WHOLE_ID.fullmatch(text):
        raise ValueError(
            f"{text!r} is no id of a dead letter. Give those that dead_letter_list shows ('1717171717000-0')."
        )
    return text


async def _row(connection: "RedisConnection", entry: "RosterEntry", stream: str, group: str) -> AgentRow:
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


async def _stream_stats(connection: "RedisConnection", entry: "RosterEntry", stream: str, group: str) -> dict[str, Any]:
    from streammachine.runtime.admin import roster

    found = await roster.gauges(connection, stream, group)
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


def _shown(letter: "Letter", traceback: bool) -> ShownLetter:
    kind, error = letter.fact("error-type"), letter.fact("error")
    data, left_out = fit_fields(letter.data, VALUE_CHARS, LETTER_BYTES)
    shown: ShownLetter = {
        "id": letter.id,
        "reason": letter.fact("reason"),
        "group": letter.fact("group"),
        "attempts": letter.fact("attempts"),
        "error": cut_text(f"{kind}: {error}" if kind else error, VALUE_CHARS),
        "failed_at_ms": letter.fact("failed-at"),
        "origin_id": letter.fact("origin-id"),
        "data": data,
    }
    if left_out:
        shown["fields_left_out"] = left_out
    if traceback:
        shown["traceback"] = cut_text(letter.fact("traceback"), TRACEBACK_CHARS)
    return shown


def _text(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
