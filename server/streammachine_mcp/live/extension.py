"""The Events extension of MCP: ``events/list``, ``events/poll`` and ``events/stream``.

SEP-3415, https://modelcontextprotocol.io/seps/3415-events-extension: a subscription is a name with arguments; a cursor
is opaque to the client, here the id of a stream's entry, so that a poll or a stream goes on without a gap, here or at
another server. Delivery to a webhook needs a principal to belong to, and an alert has its own.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anyio
from fastmcp.server.extensions import MethodBinding, ServerExtension
from mcp.server.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, Notification, RequestParams
from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from streammachine.errors import StreamMachineError
from streammachine_mcp.live.events import UnknownEventError, split_cursor
from streammachine_mcp.live.hub import MOST_EVENTS
from streammachine_mcp.live.kinds import KINDS, Kind
from streammachine_mcp.live.schemas import input_schema

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

    from streammachine_mcp.live.events import Event, Subscription
    from streammachine_mcp.live.hub import Live

log = logging.getLogger(__name__)

NOT_FOUND = -32011  # the extension's code for an event that there is not
POLL_MS = 2000  # what a client waits between two polls, where there is nothing more
HEARTBEAT = 15.0  # seconds without an event after which a stream says that it lives
MOST_STREAMING = 256  # streams that are open at a time
LAST_MS = 253_402_300_799_000  # the end of the year 9999
SEND_WAIT = 20.0  # seconds for a client to take a notice; one that does not is gone
_NAMES = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", defer_build=True)


class ListEvents(RequestParams):
    """Parameters of ``events/list``."""

    model_config = _NAMES
    cursor: str | None = None


class StreamEvents(RequestParams):
    """Parameters of ``events/stream``."""

    model_config = _NAMES
    name: str
    arguments: dict[str, Any] | None = None
    cursor: str | None = None
    max_age_ms: int | None = Field(None, ge=0)


class PollEvents(StreamEvents):
    """Parameters of ``events/poll``."""

    max_events: int | None = Field(None, ge=1)


class _Frame(Notification[dict[str, Any], str]):
    """A notice on a stream of events."""

    method: str
    params: dict[str, Any]


class EventsExtension(ServerExtension):
    """Serves the events.

    Args:
        live: where they come from.
    """

    identifier = "io.modelcontextprotocol/events"

    def __init__(self, live: Live) -> None:
        self._live = live
        self._streaming: set[anyio.Event] = set()

    def settings(self) -> dict[str, Any]:
        """What the capability says: the list of events does not change."""
        return {"listChanged": False}

    def methods(self) -> Sequence[MethodBinding]:
        """The three methods."""
        return (
            MethodBinding("events/list", ListEvents, self._list),
            MethodBinding("events/poll", PollEvents, self._poll),
            MethodBinding("events/stream", StreamEvents, self._stream),
        )

    def close(self) -> None:
        """End the open streams."""
        for end in self._streaming:
            end.set()

    async def _list(self, _: ServerRequestContext[Any, Any], params: ListEvents) -> dict[str, Any]:
        return {"events": [_described(kind) for kind in KINDS.values()]}

    async def _poll(self, _: ServerRequestContext[Any, Any], params: PollEvents) -> dict[str, Any]:
        wanted, cursor = await self._begin(params)
        if params.cursor is None:  # from now on
            return {"events": [], "cursor": cursor, "truncated": False, "hasMore": False, "nextPollMs": POLL_MS}
        most = min(params.max_events or MOST_EVENTS, MOST_EVENTS)
        try:
            batch = await self._live.read(wanted, cursor, most)
        except StreamMachineError as error:
            raise MCPError(INTERNAL_ERROR, str(error)) from None
        events, skipped = _young(batch.events, params.max_age_ms)
        return {
            "events": [_occurrence(event) for event in events],
            "cursor": batch.cursor,
            "truncated": batch.truncated or skipped,
            "hasMore": batch.more,
            "nextPollMs": 0 if batch.more else POLL_MS,
        }

    async def _stream(self, context: ServerRequestContext[Any, Any], params: StreamEvents) -> dict[str, Any]:
        if len(self._streaming) >= MOST_STREAMING:
            raise MCPError(INTERNAL_ERROR, f"{MOST_STREAMING} streams of events are open already.")
        wanted, cursor = await self._begin(params)
        meta = {SUBSCRIPTION_ID_META_KEY: context.request_id}

        async def send(what: str, **fields: Any) -> None:
            frame = _Frame(method=f"notifications/events/{what}", params={**fields, "_meta": meta})
            with anyio.fail_after(SEND_WAIT):
                await context.session.send_notification(
                    frame,  # type: ignore[arg-type]  # the SDK's type lists the notices of its specification only
                    related_request_id=context.request_id,
                )

        end = anyio.Event()
        self._streaming.add(end)
        try:
            await self._follow(wanted, cursor, params, send, end)
        except TimeoutError:
            log.warning("A client does not take the events of %s; its stream is ended", wanted.name)
        finally:
            self._streaming.discard(end)
        return {"_meta": meta}

    async def _follow(
        self, wanted: Subscription, cursor: str, params: StreamEvents, send: Any, end: anyio.Event
    ) -> None:
        """Send the events from a cursor on until the stream is to end."""
        active = failing = False
        with self._live.watch.waiting([(wanted.stream, cursor)]) as waiter:
            while not end.is_set():
                try:
                    batch = await self._live.read(wanted, cursor)
                    failing = False
                except StreamMachineError as error:
                    if not failing:
                        await send("error", error={"code": INTERNAL_ERROR, "message": str(error)})
                    failing = True
                    await _wait(end.wait, 1.0)
                    continue
                events, skipped = _young(batch.events, params.max_age_ms)
                if not active or batch.truncated or skipped:
                    await send("active", cursor=cursor, truncated=batch.truncated or skipped)
                    active = True
                for event in events:
                    await send("event", **_occurrence(event), cursor=event.id)
                cursor = batch.cursor
                if batch.more:
                    continue
                if not await _wait(waiter.wait, HEARTBEAT, end):
                    await send("heartbeat", cursor=cursor)

    async def _begin(self, params: StreamEvents) -> tuple[Subscription, str]:
        """The subscription, and where it begins."""
        try:
            wanted = await self._live.subscribe(params.name, params.arguments or {})
            if params.cursor is not None:
                return wanted, split_cursor(params.cursor, 1)[0]
            return wanted, await wanted.now(await self._live.connect())
        except UnknownEventError as error:
            raise MCPError(NOT_FOUND, str(error)) from None
        except (StreamMachineError, ValueError) as error:
            code = INVALID_PARAMS if isinstance(error, ValueError) else INTERNAL_ERROR
            raise MCPError(code, str(error)) from None


async def _wait(wait: Any, seconds: float, end: anyio.Event | None = None) -> bool:
    """Whether it happened within the seconds; ``end`` ends the wait too."""
    happened = False
    with anyio.move_on_after(seconds):
        async with anyio.create_task_group() as tasks:

            async def until_end() -> None:
                assert end is not None
                await end.wait()
                tasks.cancel_scope.cancel()

            if end is not None:
                tasks.start_soon(until_end)
            await wait()
            happened = True
            tasks.cancel_scope.cancel()
        return happened or (end is not None and end.is_set())
    return False


def _described(kind: Kind) -> dict[str, Any]:
    return {
        "name": kind.name,
        "description": kind.description,
        "delivery": ["poll", "push"],
        "inputSchema": input_schema(kind.arguments),
        "payloadSchema": {"type": "object"},
    }


def _occurrence(event: Event) -> dict[str, Any]:
    ms = min(max(event.ms, 0), LAST_MS)  # as the entry says it, who may write anything
    moment = datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"eventId": event.id, "name": event.name, "timestamp": moment, "data": event.data}


def _young(events: list[Event], max_age_ms: int | None) -> tuple[list[Event], bool]:
    """The events that are not too old, and whether any was."""
    if max_age_ms is None:
        return events, False
    oldest = datetime.now(UTC).timestamp() * 1000 - max_age_ms
    kept = [event for event in events if event.ms >= oldest]
    return kept, len(kept) < len(events)
