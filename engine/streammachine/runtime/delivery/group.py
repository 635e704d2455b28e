"""Delivery: how a message is given out, kept, tried again, and acknowledged once.

The protocol, for one group on one stream:

1. **Read.** A reader asks for as many entries as it has free slots; they stand in the group's pending list under its
   consumer name. The group begins at the stream's start.
2. **Lease.** Whoever holds an entry renews it every third of the lease (``renew.lua``, which leaves the delivery count
   alone). A consumer that was paused beyond the lease learns there which entries are not its own any more.
3. **Reclaim.** Entries idle for longer than the lease are taken over (``take.lua``), those of dead consumers whatever
   stands before them. Their delivery count rises when the handler starts (``begin.lua``), not before: it counts real
   starts.
4. **Isolate.** An entry that was started twice without an end may be what killed its process. It runs alone, in a
   process of its own, and is a dead letter only when it has failed there: counting deliveries alone condemned six
   innocent neighbours of two killers in the prototype's chaos run.
5. **Commit.** ``commit.lua`` writes the effects (outputs, state, retry, dead letter) and acknowledges in one step, and
   only for whoever turns the entry from pending to acknowledged. So effects on Redis happen once, whatever crashes.
   What Redis refuses of them is refused as a whole, and nothing is acknowledged; at its memory limit it is waited for.
6. **Retry.** Short waits are slept in place with the lease kept. Long ones go to a sorted set and, when due, to a
   companion stream that only this group reads: never back to the stream, where other groups would see them again.
7. **Mark.** How far everything is acknowledged is noted every second, so that a lost group (FLUSHALL, XGROUP DESTROY)
   begins where nothing is skipped and little is repeated (``mark.lua``, ``reopen.lua``).

Plain acknowledgements are collected and sent together; they are safe to repeat.
"""

from __future__ import annotations

import contextlib
import logging
import re
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import anyio

from streammachine.errors import (
    FieldError,
    RedisAuthError,
    RedisCommandError,
    RedisFullError,
    RedisUnavailableError,
    StreamMachineError,
    WrongTypeError,
)
from streammachine.redis.scripts import AHEAD, MAY
from streammachine.redis.streams import ensure_group
from streammachine.redis.transport.codec import Entry, RespError, parse_entries, parse_stream_reply
from streammachine.redis.transport.raw_connection import RawConnection, encode_command, group_is_gone, refused
from streammachine.runtime.delivery.keys import Companions
from streammachine.runtime.model.headers import ATTEMPT, FIRST_SEEN, ORIGIN_ID, ORIGIN_STREAM

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection

log = logging.getLogger(__name__)

HANDED_BACK = "sm-handed-back"  # the consumer that prefetched entries are handed to at the end
AT_ONCE = 86_400_000  # ms of idle time noted for entries that are handed back: beyond anybody's lease
CLAIM_CHUNK = 1000  # ids in one script call
# Entries of living consumers that one sweep looks at, and those it walks over where they are more: some ms of Redis'.
SWEEP_LOOK, SWEEP_WALK = 10_000, 2_000
MOST_FORGIVEN = 10_000  # entries remembered that Redis did not take; most of them come back at once
MOST_ARGUMENTS = 7000  # of one effect; Lua's unpack ends at about 8000
READ_MARGIN = 2.0  # seconds beyond BLOCK before the link counts as dead
MOST_DIGITS = 20  # of the milliseconds of an id
ROOM_PERIOD = 1.0  # seconds between two looks whether Redis takes writes again
# Of a script: with flags, the server refuses it at its memory limit, with a full disk or without its replicas before
# it begins, as it refuses a SET. What needs no memory (an acknowledgement, a deletion) goes through at the limit.
_IF_ROOM, _ALLOW_OOM = "#!lua\n", "#!lua flags=allow-oom\n"
_NO_WRITES = ("MISCONF", "NOREPLICAS", "READONLY")  # answers of a server that takes no writes just now, whoever asks
# KEYS[1] a companion; ARGV the group, the ids. Acknowledged entries vanish in the same step: only this group reads it.
_FINISH = (
    MAY
    + """
local no = refusal('XDEL', KEYS[1], ARGV[2])
if no then return no end
redis.call('XACK', KEYS[1], unpack(ARGV))
return redis.call('XDEL', KEYS[1], unpack(ARGV, 2))
"""
)
_NAMES = ("begin", "commit", "leave", "mark", "move", "renew", "reopen", "take")
_COMMENTS = re.compile(r"^--.*\n+", re.MULTILINE)  # travel with every call and say nothing to the server
_SCRIPTS = {name: _COMMENTS.sub("", files(__package__).joinpath("lua", f"{name}.lua").read_text()) for name in _NAMES}
_SCRIPTS["move"] = MAY + _SCRIPTS["move"]
_SCRIPTS["take"] = AHEAD + _SCRIPTS["take"]
_SCRIPTS["settle"] = _ALLOW_OOM + _SCRIPTS["commit"]  # a commit that needs no memory
_SCRIPTS["commit"] = _IF_ROOM + _SCRIPTS["commit"]
_SCRIPTS["room"] = _IF_ROOM + "return 1"


@dataclass(slots=True)
class DeliveryLane:
    """A stream that the group reads (the stream itself, or its retry companion) and what is held of it."""

    key: str
    companion: bool
    held: dict[bytes, Item] = field(default_factory=dict)
    acks: list[bytes] = field(default_factory=list)
    sending: list[bytes] = field(default_factory=list)  # acknowledgements that are under way
    cursor: str = "0-0"


@dataclass(slots=True)
class Item:
    """One entry that this consumer holds."""

    lane: DeliveryLane
    id: bytes
    fields: dict[bytes, bytes]
    deliveries: int
    begun: bool = True  # False: taken over, and its start is not counted yet
    isolated: bool = False  # it runs in another process, which acknowledges it
    lost: bool = False  # somebody else took it over; what its handler does is not committed
    breaks: int = 0  # attempts that a broken connection ended, and that do not count
    error: Exception | None = None  # it cannot be handled (its key cannot be told): the handler is not called


@dataclass(slots=True)
class Guard:
    """A key that must not exist yet; the commit sets it for ``life_ms``. With it there, nothing but the acknowledgement
    is done."""

    key: str
    life_ms: int


@dataclass(slots=True)
class Effect:
    """One command of a commit: ``command key arguments``; not done where its guard's key exists."""

    command: str
    key: str
    arguments: Sequence[bytes | str | int]
    guard: Guard | None = None


@dataclass(slots=True)
class Check:
    """A hash field that must still hold what was read."""

    key: str
    field: str
    value: bytes | None


class LostError(StreamMachineError):
    """Entries are not pending under this group any more: somebody else has finished them. Nothing was written."""

    def __init__(self, ids: Iterable[bytes]) -> None:
        self.ids = frozenset(ids)
        super().__init__(f"{len(self.ids)} entries were finished by another consumer; nothing was written.")


class ChangedError(StreamMachineError):
    """A value that the handler read for an update has changed. Nothing was written; the handler runs again."""


class UncommittedError(StreamMachineError):
    """Redis went away during a commit. If it was not done, the entries are given out again."""


class RefusedError(RedisCommandError):
    """Redis refused an effect of a commit. Nothing of the commit was written, and nothing acknowledged."""


class NoRoomError(StreamMachineError):
    """Redis takes no writes just now: it is at its memory limit, its disk is full, or its replicas are away. Nothing
    was written; ``Delivery.wait_for_room`` waits for it."""


class NoGroupError(StreamMachineError):
    """The group or the stream is gone (FLUSHALL, an empty failover, XGROUP DESTROY)."""


class Delivery:
    """The Redis side of one consumer of a group on a stream.

    Args:
        connection: the connection to use. stream, group: what is read. consumer: the consumer's name in the group.
        lease: seconds after which others may take over what is not renewed.

    Attributes:
        main, retry: what is held of the stream, and of its retry companion. retry_open: whether that one stands and has
            the group. stop: set when its consumer is to end: nothing is waited for any more.
        full: why Redis takes no writes, while somebody waits for it; else "".
    """

    def __init__(self, connection: RedisConnection, stream: str, group: str, consumer: str, *, lease: float) -> None:
        self.connection = connection
        self.stream = stream
        self.group = group
        self.consumer = consumer
        self.lease_ms = max(1, int(lease * 1000))
        self.keys = Companions(stream, group)
        self.main = DeliveryLane(stream, companion=False)
        self.retry = DeliveryLane(self.keys.retry, companion=True)
        self.retry_open = False
        self.stop = anyio.Event()
        self.full = ""
        self._forgiven: dict[tuple[str, bytes], int] = {}  # delivery counts whose last start ended here, alive

    @property
    def held(self) -> int:
        """Entries that are held: read and not finished."""
        return len(self.main.held) + len(self.retry.held)

    # -- read ---------------------------------------------------------------------------------

    async def open_group(self, start: str = "0") -> None:
        """Create the group at ``start`` unless it is there."""
        await ensure_group(self.connection, self.stream, self.group, start=start)

    async def reopen_group(self) -> str:
        """Create a lost group again; gives the id that it begins behind ("" when it was there)."""
        self.retry_open = False
        return bytes(await self._script("reopen", [self.stream, self.keys.mark], [self.group])).decode()

    async def open_retry(self) -> None:
        """Look whether the retry companion stands; then read it too."""
        if not self.retry_open and await self._call("EXISTS", self.retry.key, repeatable=True):
            await ensure_group(self.connection, self.retry.key, self.group)
            self.retry_open = True

    async def read(self, raw: RawConnection, count: int, block_ms: int) -> list[Item]:
        """XREADGROUP: up to ``count`` new entries, waiting ``block_ms`` for the first.

        Raises:
            NoGroupError: the group is gone. RedisUnavailableError: the link broke; assigned entries may stand in the
            pending list (``recover_own`` finds them).
        """
        return await self._read(raw, self.main, count, block_ms)

    async def read_retries(self, raw: RawConnection, count: int) -> list[Item]:
        """Up to ``count`` entries of the retry companion that stand there now."""
        try:
            return await self._read(raw, self.retry, count, None)
        except NoGroupError:
            self.retry_open = False
            return []

    async def recover_own(self) -> list[Item]:
        """Entries that stand in the pending list under our name and that we do not hold: their reply was lost."""
        found: list[Item] = []
        with self._all_or_none(found):
            for lane in self._lanes():
                start = "-"
                while True:
                    page = await self._call(
                        "XPENDING", lane.key, self.group, start, "+", CLAIM_CHUNK, self.consumer, repeatable=True
                    )
                    by_count: dict[int, list[bytes]] = {}
                    for identifier, _, _, count in page:
                        if bytes(identifier) not in lane.held:
                            by_count.setdefault(int(count), []).append(bytes(identifier))
                    for count, identifiers in by_count.items():
                        # The count stays; started once at most it is as good as read just now.
                        reply = await self._call(
                            "XCLAIM", lane.key, self.group, self.consumer, 0, *identifiers, "RETRYCOUNT", count
                        )
                        found += self._hold(lane, parse_entries(reply), count, begun=count < 2)
                    if len(page) < CLAIM_CHUNK:
                        break
                    start = f"({bytes(page[-1][0]).decode()}"
        return found

    # -- lease --------------------------------------------------------------------------------

    async def renew(self) -> list[Item]:
        """Renew the lease of all that is held; gives what others have taken over (this process was paused too long)."""
        lost: list[Item] = []
        for lane in self._lanes():
            identifiers = list(lane.held)
            for start in range(0, len(identifiers), CLAIM_CHUNK):
                chunk = identifiers[start : start + CLAIM_CHUNK]
                gone = {bytes(identifier) for identifier in await self._on_lane("renew", lane, self.consumer, *chunk)}
                for identifier in gone.difference(lane.acks, lane.sending):
                    item = lane.held.get(identifier)
                    if item is not None and not item.isolated:
                        item.lost = True
                        del lane.held[identifier]
                        lost.append(item)
        return lost

    # -- reclaim ------------------------------------------------------------------------------

    async def sweep(self, count: int) -> list[Item]:
        """Take over up to ``count`` entries whose lease ran out. ``begin`` counts their start."""
        taken: list[Item] = []
        with self._all_or_none(taken):
            for lane in self._lanes():
                if count > len(taken):
                    taken += await self._sweep(lane, count - len(taken))
        return taken

    async def _sweep(self, lane: DeliveryLane, count: int) -> list[Item]:
        cursor, rows, trimmed = await self._on_lane(
            "take", lane, self.consumer, self.lease_ms, lane.cursor, count, HANDED_BACK, SWEEP_LOOK, SWEEP_WALK
        )
        lane.cursor = bytes(cursor).decode()
        if trimmed:
            log.error(
                "%d entries of %r that group %r had not finished were trimmed away: they are lost. Keep more "
                "(stream_maxlen), or use retain='acked'.", len(trimmed), lane.key, self.group,
            )  # fmt: skip
        return [
            item
            for identifier, deliveries, flat in rows
            for item in self._hold(lane, parse_entries([[identifier, flat]]), int(deliveries), begun=False)
        ]

    async def begin(self, item: Item) -> bool:
        """Count the start of a taken-over entry.

        Returns:
            False when it is not ours any more; it is not held then.
        """
        if not await self._on_lane("begin", item.lane, self.consumer, item.id, item.deliveries + 1):
            self.drop(item)
            return False
        item.begun = True
        item.deliveries += 1
        return True

    def drop(self, item: Item) -> None:
        """Hold the item no longer. Unless it is finished it stands in the pending list until its lease runs out."""
        if item.lane.held.get(item.id) is item:
            del item.lane.held[item.id]

    def forgive_start(self, item: Item) -> None:
        """Hold the item no longer, because Redis did not take what became of it. Should it come here again, its start
        is not held against it: the process lived to its end."""
        if item.begun:
            if len(self._forgiven) >= MOST_FORGIVEN:
                self._forgiven.clear()
            self._forgiven[item.lane.key, item.id] = item.deliveries
        self.drop(item)

    async def hand_back(self, items: Iterable[Item], *, at_once: bool = True) -> None:
        """Give entries back whose handler has not run: their delivery count is as before they were read.

        Args:
            at_once: others may take them now; else when the lease has run out.
        """
        groups: dict[tuple[str, int], list[bytes]] = {}
        for item in items:
            if item.lane.held.get(item.id) is item:
                self.drop(item)
                count = max(0, item.deliveries - item.begun)
                groups.setdefault((item.lane.key, count), []).append(item.id)
        for (key, count), identifiers in groups.items():
            for start in range(0, len(identifiers), CLAIM_CHUNK):
                chunk = identifiers[start : start + CLAIM_CHUNK]
                await self._call(
                    "XCLAIM", key, self.group, HANDED_BACK, 0, *chunk, "IDLE", AT_ONCE if at_once else 0,
                    "RETRYCOUNT", count, "JUSTID",
                )  # fmt: skip

    async def leave(self) -> None:
        """Delete our consumer from the groups if nothing is pending under it."""
        for lane in self._lanes():
            await self._on_lane("leave", lane, self.consumer, -1)

    async def delete_idle_consumers(self, idle_ms: int) -> int:
        """Delete consumers of dead processes: nothing pending and not seen for ``idle_ms``. Gives how many."""
        deleted = 0
        for lane in self._lanes():
            for facts in await self._call("XINFO", "CONSUMERS", lane.key, self.group):
                consumer = dict(zip(facts[::2], facts[1::2], strict=True))
                if not consumer[b"pending"] and consumer[b"idle"] > idle_ms and consumer[b"name"] != self.consumer:
                    # The script looks again: it may have begun to read since.
                    deleted += await self._on_lane("leave", lane, bytes(consumer[b"name"]), idle_ms)
        return deleted

    async def write_mark(self) -> None:
        """Note the id up to which the group has acknowledged everything (see ``reopen_group``)."""
        await self._script("mark", [self.stream, self.keys.mark], [self.group])

    # -- end ----------------------------------------------------------------------------------

    async def flush(self) -> int:
        """Send the collected acknowledgements; gives how many. What cannot be sent stays collected."""
        done = 0
        for lane in (self.main, self.retry):
            if not lane.acks:
                continue
            lane.sending = batch = lane.acks
            lane.acks = []
            try:
                if not lane.companion:
                    await self._call("XACK", lane.key, self.group, *batch, repeatable=True)
                for start in range(0, len(batch) if lane.companion else 0, CLAIM_CHUNK):
                    chunk = batch[start : start + CLAIM_CHUNK]
                    await self._call("EVAL", _FINISH, 1, lane.key, self.group, *chunk, repeatable=True)
            except BaseException:
                lane.acks[:0] = batch
                raise
            finally:
                lane.sending = []
            for identifier in batch:
                lane.held.pop(identifier, None)
            done += len(batch)
        return done

    async def commit(
        self,
        items: Sequence[Item],
        effects: Sequence[Effect] = (),
        checks: Sequence[Check] = (),
        guard: Guard | None = None,
    ) -> bool:
        """Acknowledge the items (of one lane) and write the effects, in one step.

        Returns:
            False when the guard's key was there: the items are acknowledged and nothing else was done.

        Raises:
            LostError: an item is not pending any more. ChangedError: a checked value has changed. WrongTypeError: an
            effect's key is of another type. RefusedError: Redis refused an effect. NoRoomError: Redis takes no writes
            just now. Nothing was written in these cases. UncommittedError: Redis went away.
        """
        lane = items[0].lane
        verdict, *detail = await self._commit(lane.key, items, effects, checks, guard, delete=lane.companion)
        gone = {bytes(identifier) for identifier in detail[0]} if verdict == 0 else None
        for item in items:
            if gone is None or item.id in gone:  # the rest of a batch runs again, and keeps its lease
                self.drop(item)
        if gone is not None:
            raise LostError(gone)
        return bool(verdict == 1)

    async def write(self, effects: Sequence[Effect], checks: Sequence[Check] = ()) -> None:
        """Write effects (of one Cluster slot) in one step, and acknowledge nothing.

        Raises:
            ChangedError, WrongTypeError, RefusedError, NoRoomError, UncommittedError: as ``commit``.
        """
        await self._commit(checks[0].key if checks else effects[0].key, (), effects, checks)

    async def wait_for_room(self, error: Exception) -> bool:
        """Wait until Redis takes writes again that ``error`` says it does not; False when the consumer is to end."""
        if not self.full:
            log.error("%r in group %r waits until Redis takes writes again: %s", self.stream, self.group, error)
        self.full = str(error)
        while not self.stop.is_set():
            with anyio.move_on_after(ROOM_PERIOD):
                await self.stop.wait()
                return False
            try:
                await self._script("room", [self.stream], [])
            except StreamMachineError as still:
                if _takes_no_writes(still):
                    continue
            self.full = ""
            return True
        return False

    async def _commit(
        self,
        key: str,
        items: Sequence[Item],
        effects: Sequence[Effect],
        checks: Sequence[Check],
        guard: Guard | None = None,
        *,
        delete: bool = False,
    ) -> Any:
        """Run ``commit.lua``; gives its verdict."""
        keys = [key]

        def place(key: str) -> int:
            if key not in keys:
                keys.append(key)
            return keys.index(key) + 1

        def guarded(by: Guard | None) -> tuple[int, int]:
            return (place(by.key), by.life_ms) if by is not None else (0, 0)

        arguments: list[Any] = [self.group, "1" if delete else "0", len(items), *(item.id for item in items)]
        arguments += [*guarded(guard), len(checks)]
        for check in checks:
            was = check.value is not None
            arguments += [place(check.key), check.field, "1" if was else "0", check.value if was else b""]
        arguments.append(len(effects))
        for effect in effects:
            if len(effect.arguments) > MOST_ARGUMENTS:
                raise FieldError(f"A record for {effect.key!r} has more than {MOST_ARGUMENTS // 2} fields.")
            arguments += [effect.command, place(effect.key), *guarded(effect.guard), len(effect.arguments)]
            arguments += effect.arguments
        grows = guard is not None or any(effect.command != "HDEL" for effect in effects)
        try:
            verdict, *detail = await self._script("commit" if grows else "settle", keys, arguments)
        except RedisAuthError:
            raise  # it answered, and refused
        except RedisUnavailableError as error:
            raise UncommittedError(str(error)) from error
        except (RedisFullError, RedisCommandError) as error:
            if _takes_no_writes(error):
                raise NoRoomError(str(error)) from error
            raise
        if verdict == -1:
            raise ChangedError(f"The value of {bytes(detail[0]).decode(errors='replace')!r} changed meanwhile.")
        if verdict == -2:
            key, kind = (bytes(part).decode(errors="replace") for part in detail)
            raise WrongTypeError(f"The key {key!r} is a {kind}, so the handler's write to it is refused.")
        if verdict == -3:
            command, key, words = (bytes(part).decode(errors="replace") for part in detail)
            raise RefusedError(
                f"Redis refused {command} on {key!r}: {words}. Nothing was written or acknowledged. "
                "Give this Redis user the right, or correct what is written there."
            )
        return verdict, *detail

    async def delay(self, item: Item, seconds: float, attempts: int) -> None:
        """Acknowledge the item and have it tried again by this group after ``seconds``."""
        fields = {
            **item.fields,
            ORIGIN_ID: origin_id(item),
            ORIGIN_STREAM: self.stream.encode(),
            ATTEMPT: b"%d" % attempts,
            FIRST_SEEN: b"%d" % first_seen(item),
        }
        flat = [part for pair in fields.items() for part in pair]
        due = int((time.time() + seconds) * 1000)
        await self.commit([item], [Effect("ZADD", self.keys.delayed, [due, pack_array(flat)])])

    async def move_due(self, limit: int = 100) -> tuple[int, float | None]:
        """Move delayed messages that are due into the companion; how many, and seconds until the next one.

        What stands among them and is none of ours becomes a dead letter, with its bytes in the field ``member``.
        """
        now = int(time.time() * 1000)
        facts = {"sm-reason": "broken", "sm-group": self.group, "sm-origin-stream": self.stream, "sm-failed-at": now,
                 "sm-error": f"This member of {self.keys.delayed} was not written by StreamMachine."}  # fmt: skip
        flat = [part for pair in facts.items() for part in pair]
        keys = [self.keys.delayed, self.keys.retry, self.keys.dead_letters]
        moved, following, broken = await self._script("move", keys, [now, limit, *flat])
        if broken:
            log.error(
                "%d members of %r were not written by StreamMachine; they are dead letters now (%s); the rest goes on",
                len(broken), self.keys.delayed, ", ".join(bytes(letter).decode() for letter in broken[:10]),
            )  # fmt: skip
        wait = None if following in (b"", "") else max(0.0, (float(following) - now) / 1000)
        return int(moved), wait

    # -- details ------------------------------------------------------------------------------

    def _lanes(self) -> tuple[DeliveryLane, ...]:
        return (self.main, self.retry) if self.retry_open else (self.main,)

    async def _read(self, raw: RawConnection, lane: DeliveryLane, count: int, block_ms: int | None) -> list[Item]:
        block: list[str | int] = ["BLOCK", block_ms] if block_ms is not None else []
        payload = encode_command(
            ["XREADGROUP", "GROUP", self.group, self.consumer, "COUNT", count, *block, "STREAMS", lane.key, ">"]
        )
        (reply,) = await raw.exchange(payload, 1, (block_ms or 0) / 1000 + READ_MARGIN)
        if reply is None:
            return []
        if isinstance(reply, RespError):
            if group_is_gone(reply):
                raise NoGroupError(reply.message)
            raise refused(reply, self.connection.name, ("XREADGROUP", "STREAMS", lane.key))
        return [
            item for entries in parse_stream_reply(reply).values() for item in self._hold(lane, entries, 1, begun=True)
        ]

    @contextlib.contextmanager
    def _all_or_none(self, items: list[Item]) -> Iterator[None]:
        """What an error keeps from being handed on is not held: it would be renewed for ever, and nobody would run it.
        It stands under our name, where ``recover_own`` finds it."""
        try:
            yield
        except BaseException:
            for item in items:
                self.drop(item)
            raise

    def _hold(self, lane: DeliveryLane, entries: Iterable[Entry], deliveries: int, *, begun: bool) -> list[Item]:
        """The entries as items held from now on. One that is held already runs here, and is left alone."""
        items = []
        held = lane.held
        for identifier, fields in entries:
            if identifier not in held and fields is not None:
                item = held[identifier] = Item(lane, identifier, fields, deliveries, begun)
                if self._forgiven and self._forgiven.pop((lane.key, identifier), None) == deliveries:
                    item.deliveries, item.begun = deliveries - 1, False
                items.append(item)
        return items

    async def _on_lane(self, script: str, lane: DeliveryLane, *arguments: Any) -> Any:
        return await self._script(script, [lane.key], [self.group, *arguments])

    async def _script(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        return await self._call("EVAL", _SCRIPTS[name], len(keys), *keys, *arguments)

    async def _call(self, *command: Any, repeatable: bool = False) -> Any:
        try:
            return await self.connection.command(*command, repeatable=repeatable)
        except RedisCommandError as error:
            if "NOGROUP" in str(error) or "no such key" in str(error).lower():
                raise NoGroupError(f"The group {self.group!r} of {self.stream!r} is gone.") from error
            raise


def pack_array(parts: Sequence[bytes]) -> bytes:
    """The parts as a msgpack array of strings.

    https://github.com/msgpack/msgpack/blob/master/spec.md: array 32, str 32.
    """
    return b"\xdd" + struct.pack(">I", len(parts)) + b"".join(b"\xdb" + struct.pack(">I", len(p)) + p for p in parts)


def _takes_no_writes(error: Exception) -> bool:
    return isinstance(error, RedisFullError) or any(code in str(error) for code in _NO_WRITES)


def origin_id(item: Item) -> bytes:
    """The id that the item had in its own stream."""
    return item.fields.get(ORIGIN_ID, item.id) if item.lane.companion else item.id


def first_seen(item: Item) -> int:
    """Epoch milliseconds of the item's first attempt; that of its id where nothing else is known."""
    noted = item.fields.get(FIRST_SEEN, b"") if item.lane.companion else b""
    for text in (noted, origin_id(item).partition(b"-")[0], item.id.partition(b"-")[0]):
        if text.isdigit() and len(text) <= MOST_DIGITS:
            return int(text)
    return 0
