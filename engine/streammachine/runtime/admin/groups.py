"""Administration of consumer groups by hand: who holds what, and giving it to another, ending it, or moving the group.

What an App's own consumers hold they renew themselves; these commands are for groups that have lost a consumer, and for
groups of other programs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streammachine.errors import StreamIdError, StreamMachineError
from streammachine.redis import streams

if TYPE_CHECKING:
    from streammachine.redis.commands import RedisCommands

CHUNK = 1000  # ids in one command


class NoSuchGroupError(StreamMachineError, LookupError):
    """A stream has no consumer group of this name; the text names the nearest."""


@dataclass(frozen=True)
class GroupConsumer:
    """A consumer of a group.

    Attributes:
        name: its name. pending: entries it holds. idle_ms: since it last asked for entries.
    """

    name: str
    pending: int
    idle_ms: int


@dataclass(frozen=True)
class PendingEntry:
    """An entry that a consumer was given and has not acknowledged.

    Attributes:
        id: of the entry. consumer: who holds it. idle_ms: since it was given. deliveries: how often it was.
    """

    id: str
    consumer: str
    idle_ms: int
    deliveries: int


async def group_of(connection: RedisCommands, stream: str, group: str) -> streams.Group:
    """One group of a stream.

    Raises:
        StreamNotFoundError, WrongTypeError: there is no such stream. NoSuchGroupError: it has no such group.
    """
    info = await streams.describe(connection, stream)
    for found in info.groups:
        if found.name == group:
            return found
    names = [found.name for found in info.groups]
    known = f"{streams.nearest(group, names)}" if names else " It has none."
    raise NoSuchGroupError(f"The stream {stream!r} has no consumer group {group!r}.{known} group_list shows them.")


async def consumers_of(connection: RedisCommands, stream: str, group: str) -> list[GroupConsumer]:
    """The consumers of a group, by name."""
    reply = await connection.command("XINFO", "CONSUMERS", stream, group, repeatable=True)
    found = [streams.pairs(item) for item in reply]
    return sorted(
        (GroupConsumer(_text(each["name"]), int(each["pending"]), int(each["idle"])) for each in found),
        key=lambda consumer: consumer.name,
    )


async def pending_of(
    connection: RedisCommands,
    stream: str,
    group: str,
    count: int,
    *,
    start: str = "-",
    consumer: str | None = None,
    min_idle_ms: int = 0,
) -> list[PendingEntry]:
    """The oldest pending entries of a group.

    Args:
        count: most to give. start: an id; "(" before it leaves that one out. consumer: only what this one holds.
        min_idle_ms: only what was given at least so long ago.
    """
    command: list[Any] = ["XPENDING", stream, group]
    if min_idle_ms:
        command += ["IDLE", min_idle_ms]
    command += [start, "+", count]
    if consumer is not None:
        command.append(consumer)
    reply = await connection.command(*command, repeatable=True)
    return [PendingEntry(_text(each[0]), _text(each[1]), int(each[2]), int(each[3])) for each in reply]


async def acknowledge_by_hand(connection: RedisCommands, stream: str, group: str, ids: Sequence[str]) -> int:
    """End pending entries as if they had been handled; gives how many were pending."""
    done = 0
    for at in range(0, len(ids), CHUNK):
        done += int(await connection.command("XACK", stream, group, *ids[at : at + CHUNK], repeatable=True))
    return done


async def claim(
    connection: RedisCommands, stream: str, group: str, consumer: str, ids: Sequence[str], min_idle_ms: int = 0
) -> list[str]:
    """Give pending entries to a consumer, which is made if needed; their count of deliveries stays.

    Args:
        min_idle_ms: leave those that somebody was given later than that.

    Returns:
        The ids that it has now.
    """
    taken: list[str] = []
    for at in range(0, len(ids), CHUNK):
        chunk = ids[at : at + CHUNK]
        reply = await connection.command("XCLAIM", stream, group, consumer, min_idle_ms, *chunk, "JUSTID")
        taken += [_text(identifier) for identifier in reply]
    return taken


async def move(connection: RedisCommands, stream: str, group: str, to: str) -> None:
    """Have a group go on behind ``to``: an id, "0" for the beginning, "$" for the end. What is pending stays pending.

    Raises:
        StreamIdError: ``to`` is no id.
    """
    if to != "$" and not to.replace("-", "", 1).isdigit():
        raise StreamIdError(f"{to!r} is no entry id. Give one, 0 for the beginning or $ for the end.")
    await connection.command("XGROUP", "SETID", stream, group, to, repeatable=True)


def _text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
