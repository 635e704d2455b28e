"""What one server has for all who wait: the reader of streams, the events, the subscriptions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from streammachine.redis.stream_watch import StreamWatch
from streammachine_mcp.live import states
from streammachine_mcp.live.events import Batch, Event, Subscription, split_cursor
from streammachine_mcp.live.filters import Filters
from streammachine_mcp.live.kinds import Kind
from streammachine_mcp.live.resources import streams_of
from streammachine_mcp.live.subscriptions import Subscriptions
from streammachine_mcp.results import fit

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection

MOST_EVENTS = 100  # in one answer
MOST_WANTED = 20  # different events that one call waits for
EVENT_BYTES = 40_000  # of the events of one answer


@dataclass
class Waited:
    """What came of waiting."""

    events: list[Event]
    cursor: str
    timed_out: bool
    truncated: bool


class Live:
    """The live part of one server.

    Args:
        connect: gives the open connection; waits for it, and raises RedisUnavailableError when there is none.
        opened: gives the open connection, or None, and opens none.
        writes: whether this server may write to Redis; one that may not writes no states.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[RedisConnection]],
        opened: Callable[[], RedisConnection | None],
        *,
        writes: bool,
    ) -> None:
        self.connect = connect
        self.watch = StreamWatch(connect)
        self.filters = Filters()
        self.subscriptions = Subscriptions(self.watch, connect, streams_of)
        self._writes = writes
        self._states = states.StateWriter(opened)

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.watch.run)
                tasks.start_soon(self.subscriptions.run)
                if self._writes:
                    tasks.start_soon(self._states.run)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                await self.filters.close()

    async def subscribe(self, name: str, arguments: Mapping[str, Any]) -> Subscription:
        """An event to wait for.

        Raises:
            EventError, ExpressionError: it is refused.
        """
        wanted = Subscription(name, dict(arguments), self.filters)
        await wanted.prepare()
        if wanted.stream in Kind.sampled and self._writes:
            await states.ask(await self.connect())
            self._states.ask()
        return wanted

    async def read(self, wanted: Subscription, cursor: str, most: int = MOST_EVENTS) -> Batch:
        """Read on from a cursor."""
        return await wanted.read(await self.connect(), cursor, most)

    async def wait(self, wanted: Sequence[Subscription], cursor: str | None, timeout: float) -> Waited:
        """Wait until one of the events happens.

        Args:
            cursor: where to go on; None: from now on. timeout: seconds, after which it gives no event.

        Raises:
            StreamIdError: the cursor is none. RedisUnavailableError: Redis does not answer.
        """
        connection = await self.connect()
        if cursor is None:
            cursors = [await each.now(connection) for each in wanted]
        else:
            cursors = split_cursor(cursor, len(wanted))
        truncated = False
        deadline = anyio.current_time() + timeout
        with self.watch.waiting((each.stream, at) for each, at in zip(wanted, cursors, strict=True)) as waiter:
            while True:
                found, more, lost = await self._read_all(wanted, cursors)
                truncated = truncated or lost
                if found or anyio.current_time() >= deadline:
                    return Waited(found, ",".join(cursors), not found, truncated)
                if not more:
                    with anyio.move_on_at(deadline):
                        await waiter.wait()

    async def _read_all(self, wanted: Sequence[Subscription], cursors: list[str]) -> tuple[list[Event], bool, bool]:
        """Read each on from its cursor, which is moved behind the last event that fits into one answer."""
        found: list[Event] = []
        more = truncated = False
        room = EVENT_BYTES
        for place, each in enumerate(wanted):
            if len(found) >= MOST_EVENTS or room <= 0:
                more = True
                break
            batch = await self.read(each, cursors[place], MOST_EVENTS - len(found))
            truncated = truncated or batch.truncated
            more = more or batch.more
            shown = [{"name": event.name, "id": event.id, "data": event.data} for event in batch.events]
            kept, cut = fit(shown, room)
            found += batch.events[: len(kept)]
            room -= sum(len(str(row)) for row in kept)
            cursors[place] = batch.events[len(kept) - 1].id if cut else batch.cursor
        return found, more, truncated
