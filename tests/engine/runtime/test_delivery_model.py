"""Delivery against a model: whatever is read, finished, failed, dropped or taken over, a message is in one place.

Hypothesis drives real ``Delivery`` objects on the shared Valkey. A lease that runs out, a process that dies and a reply
that is lost are steps like any other, so nothing here waits. The model knows where each message must stand; after
every step the server is asked where it does.
"""

from __future__ import annotations

import itertools
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from streammachine.redis.connection import RedisConnection
from streammachine.redis.embedded.server import EmbeddedServer
from streammachine.redis.transport.codec import RespError
from streammachine.redis.transport.raw_connection import RawConnection, encode_command
from streammachine.runtime.admin.dead_letters import DeadLetters
from streammachine.runtime.delivery.dead_letter import move_to_dead_letters
from streammachine.runtime.delivery.group import Delivery, Effect, Item, LostError
from streammachine.runtime.delivery.keys import Companions
from streammachine.runtime.delivery.retention import trim_acknowledged
from streammachine.settings import Settings
from support.runtime import Probe

T = TypeVar("T")
STREAM, GROUP = "s", "g"
KEYS = Companions(STREAM, GROUP)
CONSUMERS = 2
LATER = 1000.0  # seconds: a retry that does not become due

UNREAD, PENDING, RETRY, RETRY_PENDING = "unread", "pending", "retry", "retry, pending"
DELAYED, DELAYED_LONG, DEAD, DONE = "delayed", "delayed for long", "dead", "done"

HANDLERS = {  # what a handler does with a message that some consumer believes to hold; with weights
    "start": 1, "acknowledge": 2, "commit": 3, "commit_batch": 2, "fail": 4, "fail_for_long": 1, "give_up": 2,
    "redis_is_away": 1,
}  # fmt: skip
COUNTED = {
    "send": 4, "read": 5, "read_and_lose_the_reply": 1, "read_retries": 3, "read_retries_and_lose_the_reply": 1,
    "sweep": 3, "move_due": 3,
}  # fmt: skip
OTHERS = {
    "recover": 2,
    "renew": 2,
    "crash": 1,
    "end": 1,
    "delete_idle_consumers": 1,
    "mark": 2,
    "trim": 2,
    "redrive": 2,
}
STEPS = [step for step, weight in (HANDLERS | COUNTED | OTHERS).items() for _ in range(weight)]

Places = dict[int, str]
Owners = dict[tuple[str, bytes], tuple[str, int]]
picks = st.integers(0, 10_000)  # of a list, modulo its length
consumers = st.integers(0, CONSUMERS - 1)
counts = st.integers(1, 5)


class DeliveryMachine(RuleBasedStateMachine):
    """One group on one stream, with consumers that come, go and die."""

    portal: BlockingPortal
    connection: RedisConnection

    def __init__(self) -> None:
        super().__init__()
        self.names = itertools.count()
        self.place: dict[int, str] = {}  # of each message, by its number
        self.ids: dict[str, int] = {}  # the number behind an id of the stream
        self.outputs: set[int] = set()  # committed with an output
        self.spared: set[bytes] = set()  # ids whose commit did not arrive once
        self.held: list[dict[tuple[str, bytes], Item]] = [{} for _ in range(CONSUMERS)]  # what each believes to hold
        self.deliveries: list[Delivery] = []
        self.road: RawConnection | None = None
        self.seen: tuple[Places, Owners] | None = None  # what the server said last

    def do(self, call: Callable[[], Awaitable[T]]) -> T:
        self.seen = None
        return self.portal.call(call)

    def teardown(self) -> None:
        if self.road is not None:
            self.portal.call(self.road.aclose)

    # -- steps ------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.do(lambda: Probe(self.connection).ask("FLUSHDB"))
        self.deliveries = [self.consumer() for _ in range(CONSUMERS)]
        self.do(self.deliveries[0].open_group)
        self.road = self.do(self.connection.open_connection)

    # One rule with weights: Hypothesis leaves some rules out of each run, and a long way (sent, read, failed, due, read
    # again, finished) needs them all.

    @rule(what=st.sampled_from(STEPS), who=consumers, count=counts, pick=picks)
    def step(self, what: str, who: int, count: int, pick: int) -> None:
        if what in HANDLERS and not any(self.held):
            what = "read"  # there is nothing to handle
        if what in HANDLERS:
            getattr(self, what)(*self.pick(pick))
        elif what == "redrive":
            self.redrive(pick)
        elif what in COUNTED:
            getattr(self, what)(who, count)
        else:
            getattr(self, what)(who)

    # -- the steps ----------------------------------------------------------------------------------

    def send(self, _: int, count: int) -> None:
        numbers = range(len(self.place), len(self.place) + count)
        identifiers = self.do(lambda: self.connection.pipeline_xadd(STREAM, [{"n": n} for n in numbers]))
        for identifier, n in zip(identifiers, numbers, strict=True):
            self.place[n] = UNREAD
            self.ids[identifier] = n

    def read(self, who: int, count: int) -> None:
        self.hold(who, self.read_new(who, count))

    def read_and_lose_the_reply(self, who: int, count: int) -> None:
        """It does not arrive, so the consumer does not know that it holds them."""
        for item in self.read_new(who, count):
            self.deliveries[who].drop(item)

    def read_retries(self, who: int, count: int) -> None:
        self.hold(who, self.read_due(who, count))

    def read_retries_and_lose_the_reply(self, who: int, count: int) -> None:
        for item in self.read_due(who, count):
            self.deliveries[who].drop(item)

    def recover(self, who: int) -> None:
        """After a broken link: all that stands under our name, and that we do not know of."""
        self.open_retry(who)
        known = set(self.held[who])
        ours = {key for key, (owner, _) in self.on_server()[1].items() if owner == self.deliveries[who].consumer}
        found = self.do(self.deliveries[who].recover_own)
        assert {key_of(item) for item in found} == ours - known
        self.hold(who, found)

    def sweep(self, who: int, count: int) -> None:
        """Every lease has run out, whoever holds it."""
        self.open_retry(who)
        before = self.on_server()[1]
        found = self.do(lambda: self.deliveries[who].sweep(count))
        after = self.on_server()[1]
        assert len(found) <= count
        assert {key: deliveries for key, (_, deliveries) in after.items()} == {
            key: deliveries for key, (_, deliveries) in before.items()
        }
        for item in found:
            assert key_of(item) not in self.held[who]
            assert after[key_of(item)][0] == self.deliveries[who].consumer
            assert not item.begun
        self.hold(who, found)

    def renew(self, who: int) -> None:
        delivery = self.deliveries[who]
        self.open_retry(who)
        before = self.on_server()[1]
        mine = {key for key in self.held[who] if before.get(key, ("", 0))[0] == delivery.consumer}
        lost = self.do(delivery.renew)
        assert {key_of(item) for item in lost} == set(self.held[who]) - mine
        for item in lost:
            assert item.lost
            del self.held[who][key_of(item)]
        assert self.on_server()[1] == before

    def start(self, who: int, item: Item) -> None:
        """A handler starts: counted for its present owner only."""
        before = self.on_server()[1].get(key_of(item))
        began = self.do(lambda: self.deliveries[who].begin(item))
        assert began == (before is not None and before[0] == self.deliveries[who].consumer)
        if began:
            assert before is not None
            count = self.on_server()[1][key_of(item)][1]
            assert count == item.deliveries
            assert count == before[1] + 1 or (count == before[1] and item.id in self.spared)
        else:
            del self.held[who][key_of(item)]

    def redis_is_away(self, who: int, item: Item) -> None:
        """A handler is through, and its commit does not arrive: that start is not held against the message."""
        self.deliveries[who].forgive_start(item)
        self.spared.add(item.id)
        del self.held[who][key_of(item)]

    def acknowledge(self, who: int, item: Item) -> None:
        """A plain handler is through; somebody else may have been before it."""
        mine = self.is_pending(item)
        item.lane.acks.append(item.id)
        assert self.do(self.deliveries[who].flush) == 1
        del self.held[who][key_of(item)]
        if mine:
            self.place[number(item)] = DONE

    def commit(self, who: int, item: Item) -> None:
        """A transactional handler is through: the first of all who hold the message writes its output."""
        if self.ends(who, item, lambda: self.deliveries[who].commit([item], [output(item)])):
            self.place[number(item)] = DONE
            self.outputs.add(number(item))

    def commit_batch(self, who: int, item: Item) -> None:
        """All that is held of one lane in one commit: whole, or not at all."""
        items = [other for other in self.held[who].values() if other.lane is item.lane]
        gone = {item.id for item in items if not self.is_pending(item)}
        try:
            self.do(lambda: self.deliveries[who].commit(items, [output(item) for item in items]))
        except LostError as error:
            assert error.ids == gone != set()
        else:
            assert not gone
        for item in items:
            if not gone:
                self.place[number(item)] = DONE
                self.outputs.add(number(item))
            if not gone or item.id in gone:
                del self.held[who][key_of(item)]
        # What is still pending keeps its lease: the batch runs again without the others.
        assert {key_of(item) for item in held_by(self.deliveries[who])} == set(self.held[who])

    def fail(self, who: int, item: Item) -> None:
        """A handler failed: it is tried again when somebody looks for what is due."""
        if self.ends(who, item, lambda: self.deliveries[who].delay(item, -1.0, 1)):
            self.place[number(item)] = DELAYED

    def fail_for_long(self, who: int, item: Item) -> None:
        if self.ends(who, item, lambda: self.deliveries[who].delay(item, LATER, 1)):
            self.place[number(item)] = DELAYED_LONG

    def give_up(self, who: int, item: Item) -> None:
        error = ValueError("poison")
        delivery = self.deliveries[who]
        if self.ends(who, item, lambda: move_to_dead_letters(delivery, item, "retries", 3, error, maxlen=1000)):
            self.place[number(item)] = DEAD

    def move_due(self, who: int, limit: int) -> None:
        due = [n for n, place in self.place.items() if place == DELAYED]
        moved, following = self.do(lambda: self.deliveries[who].move_due(limit))
        assert moved == min(limit, len(due))
        found = self.on_server()[0]
        assert (following is None) == (not {DELAYED, DELAYED_LONG} & set(found.values()))
        for n in due:
            if found[n] == RETRY:
                self.place[n] = RETRY
        assert sum(self.place[n] == RETRY for n in due) == moved

    def redrive(self, pick: int) -> None:
        dead = [n for n, place in self.place.items() if place == DEAD]
        if not dead:
            return
        n = dead[pick % len(dead)]

        async def call() -> list[str]:
            box = await DeadLetters.open(self.connection, STREAM)
            found, _ = await box.newest(self.connection, 1000)
            (identifier,) = (letter.id for letter in found if letter.data["n"] == str(n))
            assert (await box.redrive(self.connection, [identifier])).ids
            return (await box.redrive(self.connection, [identifier])).missing

        assert len(self.do(call)) == 1
        self.place[n] = RETRY

    def crash(self, who: int) -> None:
        """kill -9: what it held stays under its name."""
        self.deliveries[who] = self.consumer()
        self.held[who].clear()

    def end(self, who: int) -> None:
        """SIGTERM: what is held is given back, and no consumer is left that holds nothing."""
        delivery = self.deliveries[who]
        self.open_retry(who)

        async def call() -> None:
            await delivery.hand_back(held_by(delivery))
            await delivery.leave()

        self.do(call)
        owners = {owner for owner, _ in self.on_server()[1].values()}
        names = self.do(lambda: Probe(self.connection).consumers(STREAM, GROUP))
        assert (delivery.consumer in names) <= (delivery.consumer in owners)  # a lost reply, at most
        self.crash(who)

    def delete_idle_consumers(self, who: int) -> None:
        self.do(lambda: self.deliveries[who].delete_idle_consumers(-1))

    def mark(self, who: int) -> None:
        """Everything up to the mark is acknowledged."""
        self.do(self.deliveries[who].write_mark)
        mark = self.do(lambda: Probe(self.connection).ask("GET", KEYS.mark)).split()[0].decode()
        for identifier, n in self.ids.items():
            if in_order(identifier) <= in_order(mark):
                assert self.place[n] not in (UNREAD, PENDING)

    def trim(self, _: int) -> None:
        """What is unfinished stays (the invariant looks)."""
        self.do(lambda: trim_acknowledged(self.connection, STREAM))

    # -- what must hold -----------------------------------------------------------------------------

    @invariant()
    def everything_is_in_one_place(self) -> None:
        if not self.deliveries:
            return
        found, _ = self.on_server()
        assert found == {n: place for n, place in self.place.items() if place != DONE}

    # -- details --------------------------------------------------------------------------------------

    def consumer(self) -> Delivery:
        delivery = Delivery(self.connection, STREAM, GROUP, f"c{next(self.names)}", lease=1.0)
        delivery.lease_ms = 0  # whoever sweeps finds every lease run out
        return delivery

    def open_retry(self, who: int) -> None:
        self.do(self.deliveries[who].open_retry)

    async def from_stream(self, who: int, count: int) -> list[Item]:
        assert self.road is not None
        return await self.deliveries[who].read(self.road, count, 1)

    async def from_companion(self, who: int, count: int) -> list[Item]:
        assert self.road is not None
        await self.deliveries[who].open_retry()
        return await self.deliveries[who].read_retries(self.road, count) if self.deliveries[who].retry_open else []

    def read_new(self, who: int, count: int) -> list[Item]:
        wanted = [n for n in self.place if self.place[n] == UNREAD][:count]
        if not wanted:
            return []  # an idle server needs a tenth of a second to say so
        found = self.do(lambda: self.from_stream(who, count))
        assert [number(item) for item in found] == wanted
        self.place.update(dict.fromkeys(wanted, PENDING))
        return found

    def read_due(self, who: int, count: int) -> list[Item]:
        waiting = [n for n, place in self.place.items() if place == RETRY]
        found = self.do(lambda: self.from_companion(who, count))
        assert len(found) == min(count, len(waiting))
        assert {number(item) for item in found} <= set(waiting)
        self.place.update({number(item): RETRY_PENDING for item in found})
        return found

    def hold(self, who: int, items: list[Item]) -> None:
        self.held[who].update({key_of(item): item for item in items})

    def pick(self, pick: int) -> tuple[int, Item]:
        every = [(who, item) for who in range(CONSUMERS) for item in self.held[who].values()]
        return every[pick % len(every)]

    def is_pending(self, item: Item) -> bool:
        return key_of(item) in self.on_server()[1]

    def ends(self, who: int, item: Item, call: Callable[[], Awaitable[Any]]) -> bool:
        """Run what ends the item; whether it did. It must, unless somebody else has."""
        mine = self.is_pending(item)
        try:
            self.do(call)
        except LostError as error:
            assert not mine
            assert error.ids == {item.id}
        else:
            assert mine
        del self.held[who][key_of(item)]
        return mine

    def on_server(self) -> tuple[Places, Owners]:
        """Where the unfinished messages stand; owner and delivery count of what is pending."""
        if self.seen is None:
            replies = self.portal.call(self.ask)
            self.seen = self.places(replies)
        return self.seen

    async def ask(self) -> list[Any]:
        commands: list[list[str | int]] = []
        for stream in (STREAM, KEYS.retry):
            commands += [["XRANGE", stream, "-", "+"], ["XINFO", "GROUPS", stream]]
            commands += [["XPENDING", stream, GROUP, "-", "+", 10_000]]
        commands += [["ZRANGE", KEYS.delayed, 0, -1, "WITHSCORES"], ["XRANGE", KEYS.dead_letters, "-", "+"]]
        commands += [["XRANGE", "out", "-", "+"]]
        payload = b"".join(encode_command(command) for command in commands)
        return await self.connection.exchange(payload, len(commands), repeatable=True)

    def places(self, replies: list[Any]) -> tuple[Places, Owners]:
        found: list[tuple[int, str]] = []
        owners: Owners = {}
        for at, stream, unread, pending in ((0, STREAM, UNREAD, PENDING), (3, KEYS.retry, RETRY, RETRY_PENDING)):
            entries, groups, rows = replies[at : at + 3]
            fields = {identifier: n_of(flat) for identifier, flat in entries}
            last = "0-0"
            if not isinstance(groups, RespError) and groups:
                last = dict(pairs(groups[0]))[b"last-delivered-id"].decode()
                for identifier, owner, _, deliveries in rows:
                    owners[stream, identifier] = (owner.decode(), deliveries)
                    found.append((fields[identifier], pending))  # a KeyError: trimmed away
            for identifier, n in fields.items():
                if in_order(identifier.decode()) > in_order(last):
                    found.append((n, unread))
                elif stream == KEYS.retry:
                    assert (stream, identifier) in owners, "a finished entry stands in the companion"
        delayed, dead, out = replies[6:]
        for member, due in pairs(delayed):
            found.append((n_of(unpack_array(member)), DELAYED if float(due) <= time.time() * 1000 else DELAYED_LONG))
        found += [(n_of(flat), DEAD) for _, flat in dead]
        assert len(found) == len(dict(found)), "a message in two places"
        assert Counter(n_of(flat) for _, flat in out) == Counter(self.outputs)
        return dict(found), owners


def key_of(item: Item) -> tuple[str, bytes]:
    return item.lane.key, item.id


def n_of(flat: Sequence[bytes]) -> int:
    """The message's number, among the fields of an entry."""
    return int(dict(pairs(flat))[b"n"])


def number(item: Item) -> int:
    return int(item.fields[b"n"])


def output(item: Item) -> Effect:
    return Effect("XADD", "out", ["*", "n", item.fields[b"n"]])


def held_by(delivery: Delivery) -> list[Item]:
    return [item for lane in (delivery.main, delivery.retry) for item in lane.held.values()]


def in_order(identifier: str) -> tuple[int, int]:
    milliseconds, _, sequence = identifier.partition("-")
    return int(milliseconds), int(sequence)


def pairs(flat: Sequence[T]) -> Iterator[tuple[T, T]]:
    return zip(flat[::2], flat[1::2], strict=True)


def unpack_array(packed: bytes) -> list[bytes]:
    """What ``delivery.pack_array`` packs: array 32 of str 32."""
    assert packed[:1] == b"\xdd"
    (count,) = struct.unpack_from(">I", packed, 1)
    found, at = [], 5
    for _ in range(count):
        assert packed[at : at + 1] == b"\xdb"
        (size,) = struct.unpack_from(">I", packed, at + 1)
        found.append(packed[at + 5 : at + 5 + size])
        at += 5 + size
    assert at == len(packed)
    return found


@pytest.mark.timeout(300)
def test_each_message_is_in_one_place_whatever_happens_in_which_order(
    shared_server: EmbeddedServer, tmp_path: Path
) -> None:
    with start_blocking_portal() as portal:
        connection = RedisConnection(settings=Settings(redis_url=f"{shared_server.url}?db=12", data_dir=tmp_path))
        with portal.wrap_async_context_manager(connection):

            def machine() -> DeliveryMachine:
                DeliveryMachine.portal, DeliveryMachine.connection = portal, connection
                return DeliveryMachine()

            run_state_machine_as_test(
                machine,
                settings=settings(
                    max_examples=150,
                    stateful_step_count=50,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
