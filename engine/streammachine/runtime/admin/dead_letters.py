"""Looking at dead letters, giving them back to the group that failed on them, and throwing them away."""

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

PAGE = 500  # letters looked at in one go


@dataclass(frozen=True)
class Letter:
    """One dead letter: the message's own fields, and what is known of its end."""

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
        """One of the ``sm-`` fields, "" where it is missing: reason, group, attempts, error-type, error, traceback,
        origin-stream, origin-id, consumer, first-seen, failed-at."""
        return self.entry.data.get(f"sm-{name}", "")


@dataclass
class Redriven:
    """What a redrive did: new ids by letter, letters that are gone, and those refused with the reason."""

    ids: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DeadLetters:
    """The dead letters of one stream."""

    stream: str
    key: str

    @classmethod
    async def open(cls, connection: RedisConnection, stream: str) -> DeadLetters:
        """The box of a stream (or of its dead-letter stream's own name).

        Raises:
            StreamNotFoundError: there is neither the stream nor a dead letter of it; names the nearest.
        """
        name = stream
        if stream.endswith(":dlq") and streams.is_own(stream):
            name = stream.removesuffix(":dlq")
            if name.startswith("{") and name.endswith("}") and dead_letters(name[1:-1]) == stream:
                name = name[1:-1]
        box = cls(name, dead_letters(name))
        if not await box.count(connection):
            await streams.require_stream(connection, name)
        return box

    async def count(self, connection: RedisConnection) -> int:
        """How many there are."""
        return await streams.length(connection, self.key)

    async def version(self, connection: RedisConnection) -> tuple[object, ...]:
        """What changes with every letter that comes or goes; an entry itself cannot be changed."""
        info = await streams.describe(connection, self.key)
        ends = [(entry.id, sorted(entry.raw.items())) for entry in (info.first_entry, info.last_entry) if entry]
        return (info.length, info.last_generated_id, info.entries_added, ends)

    async def newest(
        self, connection: RedisConnection, count: int, *, before: str | None = None, group: str | None = None
    ) -> tuple[list[Letter], bool]:
        """Up to ``count`` letters, the newest first, and whether there are older ones.

        Args:
            before: only letters older than this one. group: only those of this group.
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
        """Give letters back to the groups that failed on them, and to no others."""
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
        """Delete the letters up to and including ``up_to``, and none that came after; gives how many."""
        milliseconds, _, sequence = up_to.partition("-")
        behind = f"{milliseconds}-{int(sequence) + 1}"
        return int(await connection.command("XTRIM", self.key, "MINID", "=", behind, repeatable=True))


Box = DeadLetters  # the name that its callers here know


async def boxes(connection: RedisConnection) -> list[tuple[str, int]]:
    """All dead-letter streams that hold something, with their lengths."""
    names, _ = await streams.find_streams(connection, "*:dlq", own=True)
    counted = [(name, await streams.length(connection, name)) for name in names if streams.is_own(name)]
    return [(name, count) for name, count in counted if count]
