"""Transactional handlers: what they send and store becomes visible together with the acknowledgement, once.

While such a handler runs, ``app.send`` and every storage write of its App go to a buffer; storage reads see the
handler's own writes. When it returns, one ``commit.lua`` writes the buffer and acknowledges the message. Values that
``update`` read are checked there; if one has changed, nothing is written and the handler runs again, in a queue with
those of this process that change the same values. ``incr`` is added in the commit, and checked only if the handler has
read the sum; a handler that gives the sum to what takes no number but an int or a float runs again, and is given those
from then on.

On a Cluster one script writes in one slot, that of the message's stream. A write elsewhere is refused by name, or with
``transactional="best-effort"`` made just before the commit: at least once, since a crash in between repeats it.
"""

from __future__ import annotations

import contextvars
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anyio

from streammachine.errors import CrossSlotError, StreamMachineError
from streammachine.redis.provisional import ProvisionalSum, plain, refused
from streammachine.redis.storage import KEY as STORAGE_KEY
from streammachine.redis.transport.cluster import slot_of
from streammachine.redis.transport.codec import encode_fields
from streammachine.redis.update_queue import UpdateQueue
from streammachine.runtime.delivery.group import ChangedError, Check, Effect, Guard, Item, NoRoomError
from streammachine.runtime.delivery.keys import tagged
from streammachine.runtime.model.config import Transactional

if TYPE_CHECKING:
    from streammachine.runtime.delivery.group import Delivery

MAX_RERUNS = 100  # of a handler whose values kept changing; then the retry policy takes over
RERUN_PAUSE = 0.05  # seconds before a rerun, at most
QUEUE_WAIT = 30.0  # seconds that a handler waits there; the one before it may wait for that very handler

_update_queue = UpdateQueue()  # of the handlers of this process whose values have changed

# Runs a handler call and commits it: False when the guard's key was there already.
Committer = Callable[["Delivery", Sequence[Item], Callable[[], Awaitable[None]], Guard | None], Awaitable[bool]]


class TransactionClosed(StreamMachineError):  # noqa: N818 - a public name
    """A send or write of a transactional handler came after the handler had returned. It was not done."""


class Transaction:
    """The buffer of one handler call.

    Args:
        owner: the App it belongs to. home: the stream whose Cluster slot all writes must stand in; None: no matter.
        plain_sums: ``incr`` gives plain numbers, each of which the commit checks.
    """

    def __init__(self, owner: object, home: str | None = None, *, plain_sums: bool = False) -> None:
        self.owner = owner
        self.plain_sums = plain_sums
        self.sealed = False
        self._home = home
        self._sends: list[Effect] = []
        self._hashes: dict[str, HeldHash] = {}

    def send(self, topic: str, fields: Mapping[bytes, bytes], maxlen: int, guard: Guard | None = None) -> None:
        """Hold back an XADD; not done where the guard's key exists.

        Args:
            maxlen: keep about so many entries of the stream (0: all).

        Raises:
            TransactionClosed: the handler has returned. CrossSlotError: the stream stands in another Cluster slot.
        """
        self.refuse_if_sealed()
        self.refuse_if_elsewhere(topic)
        flat = [part for pair in fields.items() for part in pair]
        trim: list[Any] = ["MAXLEN", "~", maxlen] if maxlen else []
        self._sends.append(Effect("XADD", topic, [*trim, "*", *flat], guard))

    def hash(self, key: str = STORAGE_KEY) -> HeldHash:
        """The writes to one Redis hash."""
        if key not in self._hashes:
            self._hashes[key] = HeldHash(self, key)
        return self._hashes[key]

    def seal(self) -> None:
        """The handler has returned: nothing more is taken."""
        self.sealed = True

    def effects(self) -> list[Effect]:
        """The commands of the commit, sends in the order they were made."""
        return [*self._sends, *(effect for held in self._hashes.values() for effect in held.effects())]

    def checks(self) -> list[Check]:
        """The values that must not have changed."""
        return [check for held in self._hashes.values() for check in held.checks()]

    def refuse_if_sealed(self) -> None:
        """Raise TransactionClosed once the handler has returned."""
        if self.sealed:
            raise TransactionClosed(
                "The transactional handler has returned, so its transaction is closed; nothing was sent or written. "
                "Await every send and write inside the handler."
            )

    def refuse_if_elsewhere(self, key: str) -> None:
        """Raise CrossSlotError for a key that cannot be written together with the acknowledgement."""
        if self._home is None or slot_of(key) == slot_of(self._home):
            return
        tag = tagged(self._home)
        tag = tag[tag.index("{") : tag.index("}") + 1]
        what, instead = f"the stream {key!r}", f"Use the tag, as in '{tag}:{key}'"
        if key == STORAGE_KEY:
            what, instead = "app.storage", f"Keep the value in record.state, which has the tag {tag}"
        raise CrossSlotError(
            f"On a Cluster {what} stands in another slot than {self._home!r}, so it cannot be written together with "
            f"the acknowledgement. {instead}, or declare the agent with transactional='best-effort' (then such a write "
            "happens at least once)."
        )


class HeldHash:
    """What one handler call writes to one Redis hash. Implements the storage's ``WriteHold``."""

    def __init__(self, transaction: Transaction, key: str) -> None:
        self._transaction = transaction
        self._key = key
        self._values: dict[str, bytes | None] = {}  # as the handler sees them; None is deleted
        self._ttls: dict[str, int] = {}
        self._keeps_ttl: set[str] = set()
        self._added: dict[str, float] = {}  # to fields that are not among the values
        self._checks: dict[str, bytes | None] = {}

    @property
    def plain_sums(self) -> bool:
        """Whether ``incr`` is to give plain numbers."""
        return self._transaction.plain_sums

    def get(self, field: str) -> tuple[bool, bytes | None]:
        """Whether the handler wrote the field, and what (None: deleted)."""
        return (field in self._values, self._values.get(field))

    def put(self, field: str, value: bytes | None, ttl_ms: int | None = None, *, keep_ttl: bool = False) -> None:
        """Hold back a write, or with None a deletion. ``keep_ttl`` leaves the time to live as it is.

        Raises:
            TransactionClosed, CrossSlotError: as ``Transaction.send``.
        """
        self._transaction.refuse_if_sealed()
        self._transaction.refuse_if_elsewhere(self._key)
        if not keep_ttl:
            self._ttls.pop(field, None)
            self._keeps_ttl.discard(field)
        elif field not in self._values:
            self._keeps_ttl.add(field)
        self._values[field] = value
        self._added.pop(field, None)
        if ttl_ms is not None:
            self._ttls[field] = ttl_ms

    def add(self, field: str, by: float, value: bytes | None) -> Callable[[], None]:
        """Hold back an addition to ``value``, which stands there now; gives what to call when the sum is read."""
        self._transaction.refuse_if_sealed()
        self._transaction.refuse_if_elsewhere(self._key)
        self._added[field] = self._added.get(field, 0) + by

        def read() -> None:
            if not self._transaction.sealed:
                self._checks.setdefault(field, value)

        return read

    def added(self, field: str) -> float | None:
        """What was added to a field that is not written here otherwise."""
        return self._added.get(field)

    def check(self, field: str, value: bytes | None) -> None:
        """Note what an update read, to be compared in the commit."""
        self._transaction.refuse_if_sealed()
        self._checks.setdefault(field, value)

    def written(self) -> dict[str, bytes | None]:
        """All fields the handler wrote; None is deleted. Of one that it only added to, the value is not known."""
        return {**dict.fromkeys(self._added, b""), **self._values}

    def effects(self) -> list[Effect]:
        """The commands of the commit."""
        effects = []
        for field, value in self._values.items():
            if value is None:
                effects.append(Effect("HDEL", self._key, [field]))
                continue
            effects.append(Effect("HSETKEEP" if field in self._keeps_ttl else "HSET", self._key, [field, value]))
            if field in self._ttls:
                effects.append(Effect("HPEXPIRE", self._key, [self._ttls[field], "FIELDS", 1, field]))
        for field, by in self._added.items():
            whole = isinstance(by, int)
            effects.append(Effect("INCR", self._key, [field, str(by) if whole else repr(by), "1" if whole else "0"]))
        return effects

    def checks(self) -> list[Check]:
        """The values that must not have changed."""
        return [Check(self._key, field, value) for field, value in self._checks.items()]


_current: contextvars.ContextVar[Transaction | None] = contextvars.ContextVar("streammachine_transaction", default=None)


def active(owner: object) -> Transaction | None:
    """The transaction of the running handler.

    Args:
        owner: the App that it must belong to.

    Returns:
        None outside of that App's transactional handlers; a sealed transaction too, so that late sends are refused.
    """
    transaction = _current.get()
    return transaction if transaction is not None and transaction.owner is owner else None


def hold(owner: object, key: str = STORAGE_KEY) -> Callable[[], HeldHash | None]:
    """A storage's view of the transactions of an App.

    Args:
        owner: the App. key: the hash that the storage writes to.

    Returns:
        A function that gives the place to hold writes back in, or None outside of a transactional handler.
    """

    def find() -> HeldHash | None:
        transaction = active(owner)
        return transaction.hash(key) if transaction is not None else None

    return find


def transactional(owner: object, mode: Transactional = True) -> Committer:
    """What a transactional agent's consumer runs its handler through.

    Args:
        owner: the App. mode: "best-effort" also writes to other Cluster slots, at least once.

    Returns:
        The committer. It raises what the handler raises and ``Delivery.commit`` does, and ChangedError when the values
        that the handler updates kept changing for MAX_RERUNS runs.
    """

    plain_sums = False  # once the handler has given a sum to what takes plain numbers only

    async def call(
        delivery: Delivery, items: Sequence[Item], body: Callable[[], Awaitable[None]], guard: Guard | None = None
    ) -> bool:
        nonlocal plain_sums
        clustered = delivery.connection.is_cluster
        home = delivery.stream if clustered and mode != "best-effort" else None
        queued: list[str] = []  # the values in whose queue we wait: they have changed under us
        for run in range(MAX_RERUNS):
            async with _update_queue.of(*queued, patience=QUEUE_WAIT):
                transaction = Transaction(owner, home, plain_sums=plain_sums)
                token = _current.set(transaction)
                try:
                    await body()
                except Exception as error:
                    if transaction.plain_sums or not refused(error):
                        raise
                    plain_sums = True
                    continue
                finally:
                    transaction.seal()
                    _current.reset(token)
                effects, checks = transaction.effects(), transaction.checks()
                values = [f"{check.key} {check.field}" for check in checks]
                try:
                    if not queued and _update_queue.taken(*values):
                        raise ChangedError("Others wait to change these values.")
                    if clustered and home is None:
                        effects, checks = await _write_elsewhere(delivery, effects, checks)
                    return await _commit(delivery, items, effects, checks, guard)
                except ChangedError:
                    if queued:  # so it was another process
                        await anyio.sleep(random.uniform(0, min(RERUN_PAUSE, 0.001 * 2 ** min(run, 10))))
                    queued = values
        raise ChangedError(f"Values that the handler updates kept changing for {MAX_RERUNS} runs.")

    return call


async def _commit(
    delivery: Delivery, items: Sequence[Item], effects: Sequence[Effect], checks: Sequence[Check], guard: Guard | None
) -> bool:
    """Commit, as soon as Redis takes it: the handler need not run again for that."""
    while True:
        try:
            return await delivery.commit(items, effects, checks, guard)
        except NoRoomError as error:
            if not await delivery.wait_for_room(error):
                raise


async def _write_elsewhere(
    delivery: Delivery, effects: Sequence[Effect], checks: Sequence[Check]
) -> tuple[list[Effect], list[Check]]:
    """Write what stands in other slots than the stream, slot by slot; give what is left for the commit."""
    home = slot_of(delivery.stream)
    left = [effect for effect in effects if slot_of(effect.key) == home]
    checked = [check for check in checks if slot_of(check.key) == home]
    # What may fail a check comes first: a rerun repeats what was written before it.
    slots = [*(slot_of(check.key) for check in checks), *(slot_of(effect.key) for effect in effects)]
    elsewhere = [slot for slot in dict.fromkeys(slots) if slot != home]
    if elsewhere and checked:
        await delivery.write((), checked)
    for slot in elsewhere:
        await delivery.write(
            [effect for effect in effects if slot_of(effect.key) == slot],
            [check for check in checks if slot_of(check.key) == slot],
        )
    return left, checked


def fields_of(record: Mapping[Any, Any], sent_ms: int) -> dict[bytes, bytes]:
    """The encoded record with its sent time, which never replaces a field of the user's.

    Args:
        record: field names and values (str, bytes, int, float, bool). sent_ms: epoch milliseconds.

    Raises:
        FieldError: names the field that is none of these.
    """
    if (
        _current.get() is not None
        and isinstance(record, Mapping)
        and any(type(value) is ProvisionalSum for value in record.values())
    ):
        record = {name: plain(value) for name, value in record.items()}
    fields = encode_fields(record)
    fields.setdefault(b"sm-sent", b"%d" % sent_ms)
    return fields
