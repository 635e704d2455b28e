"""Consumer group tools: who holds what, and mending it by hand. The toolset is off unless it is named."""

import re
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, Required, cast

from fastmcp import Context
from fastmcp.dependencies import CurrentContext
from mcp_types import InputRequiredResult
from pydantic import Field
from typing_extensions import TypedDict

from streammachine.redis import streams
from streammachine_mcp.argument_types import Position, StreamName
from streammachine_mcp.results import fit
from streammachine_mcp.safety import Confirm, Confirmer, ConfirmToken, Plan, Unconfirmed
from streammachine_mcp.state import ServerState
from streammachine_mcp.tools.family import Family, tool

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection

MOST_IDS = 1000
MOST_PLANNED = 100  # resets that wait for their confirmation
_WHOLE_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}", re.ASCII)

GroupName = Annotated[str, Field(description="Consumer group", min_length=1, max_length=512)]
EntryIds = Annotated[list[str], Field(description="Ids as group_pending gives them", min_length=1, max_length=MOST_IDS)]


class ConsumerRow(TypedDict):
    name: str
    pending: int
    idle_ms: int


class GroupRow(TypedDict):
    name: str
    pending: int
    lag: int
    last_delivered_id: str
    consumers: list[ConsumerRow]


class GroupPage(TypedDict):
    stream: str
    groups: list[GroupRow]
    count: int
    truncated: bool
    hint: NotRequired[str]


class PendingRow(TypedDict):
    id: str
    consumer: str
    idle_ms: int
    deliveries: int


class PendingPage(TypedDict):
    stream: str
    group: str
    pending: int
    entries: list[PendingRow]
    truncated: bool
    hint: NotRequired[str]


class GroupAcknowledged(Unconfirmed, total=False):
    acknowledged: Required[int]


class GroupClaimed(Unconfirmed, total=False):
    claimed: Required[list[str]]
    left: list[str]


class GroupMoved(Unconfirmed, total=False):
    moved: Required[bool]
    last_delivered_id: str


class GroupTools(Family):
    toolset = "groups"

    def __init__(self, state: ServerState, confirmer: Confirmer) -> None:
        super().__init__(state, confirmer)
        self._planned: dict[tuple[str, str, str], str] = {}  # where each planned reset goes

    @tool("group_list", "List consumer groups", reads=True)
    async def groups(
        self,
        stream: StreamName,
        after: Annotated[str | None, Field(description="To go on: the last group you got")] = None,
    ) -> GroupPage:
        """The consumer groups of a stream with lag and pending, and their consumers: what each holds, and how long ago
        it last asked."""
        from streammachine.runtime.admin.groups import consumers_of

        connection = await self.state.redis()
        info = await streams.describe(connection, stream)
        chosen = sorted((each for each in info.groups if after is None or each.name > after), key=lambda g: g.name)
        lags = await streams.lags(connection, stream, chosen)
        rows: list[GroupRow] = []
        for group in chosen[:200]:
            found = await consumers_of(connection, stream, group.name)
            shown, _ = fit((_consumer(each) for each in found), 10_000)
            rows.append(
                {
                    "name": group.name,
                    "pending": group.pending,
                    "lag": lags[group.name],
                    "last_delivered_id": group.last_delivered_id,
                    "consumers": shown,
                }
            )
        kept, _ = fit(rows)
        page: GroupPage = {"stream": stream, "groups": kept, "count": len(kept), "truncated": len(kept) < len(chosen)}
        if page["truncated"]:
            page["hint"] = "There are more: call again with after=<the last name>."
        return page

    @tool("group_pending", "Show pending messages", reads=True)
    async def pending(
        self,
        stream: StreamName,
        group: GroupName,
        consumer: Annotated[str | None, Field(description="Only what this one holds")] = None,
        min_idle_s: Annotated[float, Field(description="Only what was given out so long ago", ge=0, le=1e9)] = 0,
        count: Annotated[int, Field(description="Most to give", ge=1, le=MOST_IDS)] = 100,
        after: Annotated[str | None, Field(description="To go on: the last id you got")] = None,
    ) -> PendingPage:
        """Messages that a group was given and has not acknowledged, the oldest first: who holds each, for how long, how
        often it was delivered."""
        from streammachine.runtime.admin.groups import group_of, pending_of

        connection = await self.state.redis()
        found = await group_of(connection, stream, group)
        start = "-" if after is None else f"({_id(after)}"
        entries = await pending_of(
            connection, stream, group, count + 1, start=start, consumer=consumer, min_idle_ms=int(min_idle_s * 1000)
        )
        rows: list[PendingRow] = [
            {"id": each.id, "consumer": each.consumer, "idle_ms": each.idle_ms, "deliveries": each.deliveries}
            for each in entries[:count]
        ]
        kept, cut = fit(rows)
        more = cut or len(entries) > count
        page: PendingPage = {
            "stream": stream, "group": group, "pending": found.pending, "entries": kept, "truncated": more,
        }  # fmt: skip
        if more:
            page["hint"] = "There are more: call again with after=<the last id>."
        return page

    @tool("group_ack", "Acknowledge messages", destructive=True, idempotent=True)
    async def acknowledge(
        self,
        stream: StreamName,
        group: GroupName,
        ids: EntryIds,
        confirm: Confirm = False,
        confirm_token: ConfirmToken = None,
        ctx: Context = CurrentContext(),
    ) -> GroupAcknowledged | InputRequiredResult:
        """End pending messages of a group as if they had been handled: it will not see them again. Asks the user, or
        gives a plan and a token."""
        from streammachine.runtime.admin.groups import acknowledge_by_hand

        connection, chosen = await self._chosen(stream, group, ids)
        plan = Plan(
            operation=f"group_ack {stream} {group}",
            count=len(chosen),
            fingerprint=" ".join(chosen),
            text=f"Acknowledge {len(chosen)} messages of the group {group!r} of {stream!r} that nobody has handled",
        )
        decision = await self.confirmer.decide(ctx, plan, confirm=confirm, token=confirm_token)
        if isinstance(decision, InputRequiredResult):
            return decision
        if decision is not True:
            return cast(GroupAcknowledged, {"acknowledged": 0, **decision})
        return {"acknowledged": await acknowledge_by_hand(connection, stream, group, chosen)}

    @tool("group_claim", "Give messages to a consumer", destructive=True)
    async def claim(
        self,
        stream: StreamName,
        group: GroupName,
        consumer: Annotated[str, Field(description="Who gets them", min_length=1, max_length=512)],
        ids: EntryIds,
        min_idle_s: Annotated[float, Field(description="Leave what was given out later", ge=0, le=1e9)] = 0,
        confirm: Confirm = False,
        confirm_token: ConfirmToken = None,
        ctx: Context = CurrentContext(),
    ) -> GroupClaimed | InputRequiredResult:
        """Give pending messages of a group to another of its consumers. One that still works on them may handle them
        too. Asks the user, or gives a plan and a token."""
        from streammachine.runtime.admin.groups import claim

        connection, chosen = await self._chosen(stream, group, ids)
        plan = Plan(
            operation=f"group_claim {stream} {group} {consumer} {min_idle_s}",
            count=len(chosen),
            fingerprint=" ".join(chosen),
            text=f"Give {len(chosen)} pending messages of the group {group!r} of {stream!r} to {consumer!r}",
        )
        decision = await self.confirmer.decide(ctx, plan, confirm=confirm, token=confirm_token)
        if isinstance(decision, InputRequiredResult):
            return decision
        if decision is not True:
            return cast(GroupClaimed, {"claimed": [], **decision})
        taken = await claim(connection, stream, group, consumer, chosen, int(min_idle_s * 1000))
        return {"claimed": taken, "left": [each for each in chosen if each not in set(taken)]}

    @tool("group_reset", "Move a consumer group", destructive=True, idempotent=True)
    async def reset(
        self,
        stream: StreamName,
        group: GroupName,
        to: Annotated[
            Position, Field(description="It goes on with what is after this: id, time, now-1h, - (all), now or + (end)")
        ],
        confirm: Confirm = False,
        confirm_token: ConfirmToken = None,
        ctx: Context = CurrentContext(),
    ) -> GroupMoved | InputRequiredResult:
        """Move a group back, to see messages again, or forward, to skip some; what is pending stays so. Asks the user,
        or gives a plan and a token."""
        from streammachine.runtime.admin.groups import group_of, move

        streams.refuse_own(stream)
        connection = await self.state.redis()
        found = await group_of(connection, stream, group)
        wanted = (stream, group, to)
        target = self._planned.get(wanted) if confirm_token or ctx.input_responses else None
        target = target or _target(to)
        self._planned[wanted] = target
        while len(self._planned) > MOST_PLANNED:
            self._planned.pop(next(iter(self._planned)))
        plan = Plan(
            operation=f"group_reset {stream} {group}",
            count=1,
            fingerprint=target,
            text=f"Move the group {group!r} of {stream!r} from {found.last_delivered_id} to {_place(target)}",
        )
        decision = await self.confirmer.decide(ctx, plan, confirm=confirm, token=confirm_token)
        if isinstance(decision, InputRequiredResult):
            return decision
        if decision is not True:
            return cast(GroupMoved, {"moved": False, **decision})
        await move(connection, stream, group, target)
        after = await group_of(connection, stream, group)
        return {"moved": True, "last_delivered_id": after.last_delivered_id}

    async def _chosen(self, stream: str, group: str, ids: list[str]) -> "tuple[RedisConnection, list[str]]":
        """The connection, and the ids, each once and in order; the group must be there."""
        from streammachine.runtime.admin.groups import group_of

        streams.refuse_own(stream)
        connection = await self.state.redis()
        await group_of(connection, stream, group)
        return connection, list(dict.fromkeys(map(_id, ids)))


def _consumer(consumer: Any) -> ConsumerRow:
    return {"name": consumer.name, "pending": consumer.pending, "idle_ms": consumer.idle_ms}


def _id(text: str) -> str:
    if not _WHOLE_ID.fullmatch(text):
        raise ValueError(f"{text!r} is no id of a message. Give those that group_pending shows ('1717171717000-0').")
    return text


def _target(to: str) -> str:
    """Where a group is moved to: "$", or the id behind which it goes on. A time means what came at it or later."""
    if to.replace(" ", "").lower() in ("+", "now"):
        return "$"
    position = streams.parse_position(to).removeprefix("(")
    if position in ("-", "0", "0-0"):
        return "0"
    if "-" in position:
        return position
    milliseconds = int(position)
    return f"{milliseconds - 1}-{streams.LAST_SEQUENCE}" if milliseconds else "0"


def _place(target: str) -> str:
    return {"0": "the beginning, so that it sees all again", "$": "the end, so that it skips what it has not seen"}.get(
        target, target
    )
