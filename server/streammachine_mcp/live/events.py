"""Events: what happened in a stream, told by name, with filters, from a cursor on.

An event is made of stream entries and of nothing else, so a server keeps no state of who heard what: the cursor is the
id of the last entry that was looked at, and whoever comes back with it, to this server or to another one on the same
Redis, hears what followed, each event once. Seven kinds there are: ``KINDS``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from streammachine.errors import StreamIdError, StreamMachineError, StreamNotFoundError
from streammachine.redis import streams
from streammachine.redis.stream_watch import id_parts
from streammachine_mcp.live.kinds import KINDS, Arguments, Kind

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection
    from streammachine_mcp.live.filters import Filters

PAGE = 500  # entries of one read
FIRST = "0-0"


class EventError(StreamMachineError, ValueError):
    """There is no such event, or its arguments are not accepted."""


class UnknownEventError(EventError):
    """There is no event of this name."""


@dataclass(frozen=True)
class Event:
    """One event. ``id`` is that of the entry it was made of; ``ms`` when it happened, epoch milliseconds."""

    name: str
    id: str
    ms: int
    data: dict[str, Any]


@dataclass
class Batch:
    """What one read gave.

    Attributes:
        cursor: where to go on. more: whether there is more to read right now.
        truncated: entries between the cursor that was given and the first one read are gone from the stream.
    """

    events: list[Event] = field(default_factory=list)
    cursor: str = FIRST
    more: bool = False
    truncated: bool = False


class Subscription:
    """An event that somebody asked for, with its arguments.

    Args:
        name, arguments: as they were given. filters: evaluates CEL filters.

    Raises:
        EventError: there is no such event, or an argument is refused; the text says which and what to write.
    """

    def __init__(self, name: str, arguments: dict[str, Any], filters: Filters) -> None:
        self.kind: Kind = kind_of(name)
        self.name = name
        try:
            self.arguments: Arguments = self.kind.arguments.model_validate(arguments)
        except ValidationError as error:
            raise EventError(f"{name}: {_problems(error)} It takes {_usage(self.kind)}.") from None
        self.stream = self.arguments.stream_name()
        self._filters = filters

    async def prepare(self) -> None:
        """Check the filter before the first read.

        Raises:
            ExpressionError: it is refused.
        """
        if text := self.arguments.cel():
            await self._filters.check(text)

    async def now(self, connection: RedisConnection) -> str:
        """The cursor behind which everything is yet to come: the last id that the stream gave."""
        try:
            return (await streams.describe(connection, self.stream)).last_generated_id
        except StreamNotFoundError:
            return FIRST

    async def read(self, connection: RedisConnection, cursor: str, most: int) -> Batch:
        """Read on from a cursor: one page of the stream, at most ``most`` events of it."""
        entries = await streams.read_from(connection, self.stream, f"({cursor}", count=PAGE)
        batch = Batch(cursor=cursor, more=len(entries) == PAGE)
        if not entries:
            return batch
        batch.truncated = await self._truncated(connection, cursor, entries[0].id)
        before = await self._before(connection, cursor)
        for entry in entries:
            if len(batch.events) >= most:
                batch.more = True
                break
            data = self.arguments.event(before, entry)
            if data is not None and await self._passes(entry):
                batch.events.append(Event(self.name, entry.id, _moment(data, entry), data))
            before = entry
            batch.cursor = entry.id
        return batch

    async def _passes(self, entry: streams.Entry) -> bool:
        text = self.arguments.cel()
        return not text or await self._filters.passes(text, self.stream, entry)

    async def _before(self, connection: RedisConnection, cursor: str) -> streams.Entry | None:
        if not self.kind.compares:
            return None
        found = await streams.read_newest(connection, self.stream, 1, end=cursor)
        return found[0] if found else None

    async def _truncated(self, connection: RedisConnection, cursor: str, first: str) -> bool:
        """Whether the entry at the cursor is gone, and what stood behind it may be gone too."""
        if cursor == FIRST or "-" not in cursor:
            return False
        if await streams.read_from(connection, self.stream, "-", cursor, count=1):
            return False
        info = await streams.describe(connection, self.stream)
        return (
            info.entries_added is not None and info.entries_added > info.length and id_parts(first) > id_parts(cursor)
        )


def kind_of(name: str) -> Kind:
    """The kind of event of this name.

    Raises:
        UnknownEventError: there is none; names the nearest.
    """
    if name not in KINDS:
        raise UnknownEventError(
            f"There is no event {name!r}.{streams.nearest(name, list(KINDS))} There are {', '.join(KINDS)}."
        )
    return KINDS[name]


def split_cursor(cursor: str, count: int) -> list[str]:
    """The ids that a cursor of ``count`` events is made of: one each, or one for all.

    Raises:
        StreamIdError: it is none.
    """
    parts = [part.strip() for part in cursor.split(",")]
    if len(parts) not in (1, count):
        raise StreamIdError(
            f"The cursor holds {len(parts)} ids for {count} events: give back the cursor with the same events in the "
            "same order, or one time for all of them."
        )
    found = []
    for part in parts:
        position = streams.parse_position(part)
        if position in ("-", "+") or position.startswith("("):
            raise StreamIdError(f"{part!r} is no cursor: give one that you got, an id, or a time as 'now-15m'.")
        found.append(position if "-" in position else _before_time(int(position)))
    return found * count if len(found) == 1 else found


def _before_time(ms: int) -> str:
    """The cursor of which everything from a time on stands behind."""
    return f"{ms - 1}-{2**64 - 1}" if ms > 0 else FIRST


def _moment(data: dict[str, Any], entry: streams.Entry) -> int:
    found = data.get("ts", data.get("end_ts"))
    return found if isinstance(found, int) else id_parts(entry.id)[0]


def _usage(kind: Kind) -> str:
    known = kind.arguments.model_fields
    return ", ".join(name if each.is_required() else f"{name} (optional)" for name, each in known.items()) or "none"


def _problems(error: ValidationError) -> str:
    parts: Iterator[str] = (
        f"{'.'.join(map(str, problem['loc'])) or 'arguments'}: {problem['msg'].removeprefix('Value error, ')}."
        for problem in error.errors(include_url=False, include_input=False)[:5]
    )
    return " ".join(part.replace("..", ".") for part in parts)
