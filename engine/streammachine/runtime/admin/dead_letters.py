"""Dead letters: listing them, giving them back to the group that failed on them, and deleting them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from streammachine.errors import StreamNotFoundError
from streammachine.redis import streams
from streammachine.redis.streams import Entry
from streammachine.redis.transport.codec import parse_entries
from streammachine.runtime.delivery.dead_letter import NoLetterError, redrive
from streammachine.runtime.delivery.keys import dead_letters

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection

PAGE = 500  # letters read at once


@dataclass(frozen=True)
class Letter:
    """One dead letter: the message's own fields, and why it was given up.

    Args:
        entry: its entry in the dead-letter stream.
    """

    entry: Entry

    @property
    def id(self) -> str:
        """Its id in the dead-letter stream."""
        return self.entry.id

    @property
    def data(self) -> dict[str, str]:
        """The message's own fields."""
        return {name: value for name, value in self.entry.data.items() if not name.startswith("sm-")}

    def fact(self, name: str) -> str:
        """One fact about its end.

        Args:
            name: reason, group, attempts, error-type, error, traceback, origin-stream, origin-id, consumer, first-seen
                or failed-at.

        Returns:
            The fact as text; "" where it is missing.
        """
        return self.entry.data.get(f"sm-{name}", "")


@dataclass
class Redriven:
    """What a redrive did.

    Attributes:
        ids: the messages' new ids, by letter. missing: letters that are gone. refused: the reason, by letter.
    """

    ids: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DeadLetters:
    """The dead letters of one stream.

    Attributes:
        stream: the stream's name. key: the dead-letter stream's.

    Example:
        >>> letters = await DeadLetters.open(app.redis, "orders")
        >>> newest, more = await letters.newest(app.redis, 10)
        >>> done = await letters.redrive(app.redis, [letter.id for letter in newest])
    """

    stream: str
    key: str

    @classmethod
    async def open(cls, connection: RedisConnection, stream: str) -> DeadLetters:
        """The dead letters of a stream.

        Args:
            connection: where it is. stream: its name, or that of its dead-letter stream.

        Raises:
            StreamNotFoundError: there is neither the stream nor a dead letter of it; names the nearest.
        """
        name = stream
        if stream.endswith(":dlq") and streams.is_own(stream):
            name = stream.removesuffix(":dlq")
            if name.startswith("{") and name.endswith("}") and dead_letters(name[1:-1]) == stream:
                name = name[1:-1]
        letters = cls(name, dead_letters(name))
        if not await letters.count(connection):
            await streams.require_stream(connection, name)
        return letters

    async def count(self, connection: RedisConnection) -> int:
        """How many there are."""
        return await streams.length(connection, self.key)

    async def version(self, connection: RedisConnection) -> tuple[object, ...]:
        """A value that differs after any letter was added or deleted; an entry itself cannot be changed."""
        info = await streams.describe(connection, self.key)
        ends = [(entry.id, sorted(entry.raw.items())) for entry in (info.first_entry, info.last_entry) if entry]
        return (info.length, info.last_generated_id, info.entries_added, ends)

    async def newest(
        self, connection: RedisConnection, count: int, *, before: str | None = None, group: str | None = None
    ) -> tuple[list[Letter], bool]:
        """The newest letters.

        Args:
            connection: where they are. count: most letters to give.
            before: only letters older than this id. group: only those that this group failed on.

        Returns:
            The letters, the newest first, and whether there are older ones.
        """
        found: list[Letter] = []
        end = f"({before}" if before is not None else "+"
        while True:
            reply = await connection.command("XREVRANGE", self.key, end, "-", "COUNT", PAGE, repeatable=True)
            page = [Letter(Entry(name.decode(), raw=fields)) for name, fields in parse_entries(reply)]
            for letter in page:
                if group is None or letter.fact("group") == group:
                    found.append(letter)
                    if len(found) > count:
                        return found[:count], True
            if len(page) < PAGE:
                return found, False
            end = f"({page[-1].id}"

    async def letter(self, connection: RedisConnection, identifier: str) -> Letter:
        """One letter.

        Raises:
            NoLetterError: there is none of this id.
        """
        found = await streams.read_from(connection, self.key, identifier, identifier, 1)
        if not found:
            raise NoLetterError(f"There is no dead letter {identifier} of {self.stream!r}.")
        return Letter(found[0])

    async def redrive(self, connection: RedisConnection, identifiers: Sequence[str]) -> Redriven:
        """Give letters back to the groups that failed on them, and to no others.

        Args:
            connection: where they are. identifiers: the letters' ids.

        Returns:
            What became of each letter; one that is refused stays a dead letter.
        """
        done = Redriven()
        groups: dict[str, set[str]] = {}
        for identifier in identifiers:
            try:
                letter = await self.letter(connection, identifier)
            except NoLetterError:
                done.missing.append(identifier)
                continue
            origin = letter.fact("origin-stream")
            stream = origin if origin and dead_letters(origin) == self.key else self.stream
            try:
                if stream not in groups:
                    groups[stream] = {group.name for group in (await streams.describe(connection, stream)).groups}
                if letter.fact("group") and letter.fact("group") not in groups[stream]:
                    raise NoLetterError(f"its group {letter.fact('group')!r} is gone, so nobody would read it")
                new = await redrive(connection, stream, identifier, letter.entry.raw)
            except (NoLetterError, StreamNotFoundError) as error:
                done.refused[identifier] = str(error)
                continue
            if new is None:
                done.missing.append(identifier)
            else:
                done.ids[identifier] = new
        return done

    async def purge(self, connection: RedisConnection, up_to: str) -> int:
        """Delete the letters up to and including the id ``up_to``, and none that came after.

        Returns:
            How many were deleted.
        """
        milliseconds, _, sequence = up_to.partition("-")
        behind = f"{milliseconds}-{int(sequence) + 1}"
        return int(await connection.command("XTRIM", self.key, "MINID", "=", behind, repeatable=True))


async def dead_letter_streams(connection: RedisConnection) -> list[tuple[str, int]]:
    """The names of all dead-letter streams that hold something, with their lengths."""
    names, _ = await streams.find_streams(connection, "*:dlq", own=True)
    counted = [(name, await streams.length(connection, name)) for name in names if streams.is_own(name)]
    return [(name, count) for name, count in counted if count]
