"""Waiting for what happens."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from streammachine_mcp.live.hub import MOST_WANTED
from streammachine_mcp.live.kinds import KINDS
from streammachine_mcp.tools.family import Family, tool

LONGEST_WAIT = 40  # seconds: clients end a call after 60

if TYPE_CHECKING:
    EventName = str
else:  # the kinds' names, which a type checker cannot read
    EventName = Literal[tuple(KINDS)]


class EventWanted(TypedDict):
    name: EventName
    arguments: NotRequired[dict[str, Any]]


class EventRow(TypedDict):
    name: str
    id: str
    data: dict[str, Any]


class EventPage(TypedDict):
    events: list[EventRow]
    cursor: str
    timed_out: bool
    truncated: NotRequired[bool]
    hint: NotRequired[str]


class LiveTools(Family):
    toolset = "live"

    @tool("event_wait", "Wait for an event", reads=True)
    async def wait(
        self,
        events: Annotated[
            list[EventWanted],
            Field(
                description="Arguments: candle.closed exchange symbol timeframe; price.crossed also price direction "
                "(up, down); stream.message stream filter (CEL); dead_letter.added stream; agent.lag agent above; "
                "runner.state runner state; alert.fired alert",
                min_length=1,
                max_length=MOST_WANTED,
            ),
        ],
        cursor: Annotated[str | None, Field(description="Of the last answer, or a time; default: now")] = None,
        timeout_s: Annotated[float, Field(description="At most", ge=0, le=LONGEST_WAIT)] = 25,
    ) -> EventPage:
        """Wait until one of the events happens. To go on, call again with cursor and the same events: nothing is
        missed. With timed_out nothing happened yet."""
        wanted = [await self.state.live.subscribe(each["name"], each.get("arguments") or {}) for each in events]
        found = await self.state.live.wait(wanted, cursor, timeout_s)
        page: EventPage = {
            "events": [{"name": event.name, "id": event.id, "data": event.data} for event in found.events],
            "cursor": found.cursor,
            "timed_out": found.timed_out,
        }
        if found.truncated:
            page["truncated"] = True
            page["hint"] = "Some events before these were deleted from their stream before they were read."
        return page
