"""Dead letters: what stands in ``{stream}:dlq``, and how one goes back to the group that failed on it."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from streammachine.errors import StreamMachineError, text_of
from streammachine.redis.scripts import MAY, LuaScript
from streammachine.runtime.delivery.group import (
    MOST_ARGUMENTS,
    Delivery,
    Effect,
    Item,
    LostError,
    first_seen,
    origin_id,
)
from streammachine.runtime.delivery.keys import Companions, dead_letters
from streammachine.runtime.model.headers import ATTEMPT, FIRST_SEEN, ORIGIN_ID, ORIGIN_STREAM

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection

TEXT_BYTES = 4096  # of the error's text, and the end of its traceback
# What a dead letter tells of the message's end. Its other fields are the message's own: its sent time and trace too.
FACTS = frozenset(
    b"sm-" + name
    for name in (
        b"reason", b"group", b"consumer", b"attempts", b"origin-stream", b"origin-id", b"first-seen", b"failed-at",
        b"error-type", b"error", b"traceback",
    )
)  # fmt: skip
_REDRIVE = LuaScript(
    MAY + files(__package__).joinpath("lua", "redrive.lua").read_text(),
    keys=("dead_letters", "retry"),
    args=("identifier", "*fields"),
)


class NoLetterError(StreamMachineError, LookupError):
    """There is no such dead letter, or it is none of ours."""


async def move_to_dead_letters(
    delivery: Delivery, item: Item, reason: str, attempts: int, error: BaseException | None, *, maxlen: int
) -> None:
    """Acknowledge the item and make it a dead letter: its own fields untouched, the rest in ``sm-`` fields.

    Args:
        delivery: whose item it is. reason: why it is given up, in one word. attempts: how often it was tried.
        error: what the last attempt failed with. maxlen: keep about so many dead letters of the stream.

    Raises:
        What ``Delivery.commit`` raises.
    """
    fields = dict(item.fields)
    if item.lane.companion:
        for ours in (ATTEMPT, ORIGIN_ID, ORIGIN_STREAM, FIRST_SEEN):
            fields.pop(ours, None)
    facts: dict[str, Any] = {
        "sm-reason": reason,
        "sm-group": delivery.group,
        "sm-consumer": delivery.consumer,
        "sm-attempts": attempts,
        "sm-origin-stream": delivery.stream,
        "sm-origin-id": origin_id(item),
        "sm-first-seen": first_seen(item),
        "sm-failed-at": int(time.time() * 1000),
    }
    if error is not None:
        facts["sm-error-type"] = type(error).__name__
        facts["sm-error"] = text_of(error).encode("utf-8", "backslashreplace")[:TEXT_BYTES]
        trace = "".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace")
        facts["sm-traceback"] = trace[-TEXT_BYTES:]
    fields = {name: value for name, value in fields.items() if name.decode("latin-1") not in facts}
    flat = [part for pair in fields.items() for part in pair] + [part for pair in facts.items() for part in pair]
    arguments = ["MAXLEN", "~", maxlen, "*", *flat]
    if len(arguments) <= MOST_ARGUMENTS:
        await delivery.commit([item], [Effect("XADD", delivery.keys.dead_letters, arguments)])
        return
    # More than a script can pass on. It is written first, so that a crash in between repeats and loses nothing.
    written = await delivery.connection.command("XADD", delivery.keys.dead_letters, *arguments)
    try:
        await delivery.commit([item])
    except LostError:  # somebody else has finished the message
        await delivery.connection.command("XDEL", delivery.keys.dead_letters, written)
        raise


def redrive_fields(dead_letter: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """The fields of a dead letter as they go back to its group: a first attempt again, its origin noted."""
    kept = {name: value for name, value in dead_letter.items() if name not in FACTS}
    kept[ORIGIN_ID] = dead_letter[b"sm-origin-id"]
    kept[ORIGIN_STREAM] = dead_letter[b"sm-origin-stream"]
    kept[ATTEMPT] = b"0"
    kept[FIRST_SEEN] = dead_letter.get(b"sm-first-seen", b"0")
    return kept


async def redrive(
    connection: RedisConnection, stream: str, identifier: str, dead_letter: Mapping[bytes, bytes]
) -> str | None:
    """Give one dead letter back to the group that failed on it, and to no other.

    Args:
        stream: the stream that the message was sent to. identifier: the dead letter's id. dead_letter: its fields.

    Returns:
        The new id, in the group's retry companion; None when the dead letter is gone.

    Raises:
        NoLetterError: the entry lacks the fields of a dead letter, or has more fields than can be given back.
    """
    missing = [name.decode() for name in (b"sm-group", b"sm-origin-id", b"sm-origin-stream") if name not in dead_letter]
    if missing:
        raise NoLetterError(
            f"The entry {identifier} of {dead_letters(stream)!r} is no dead letter of StreamMachine: it has no "
            f"{', '.join(missing)}. Append its fields to the stream yourself."
        )
    companions = Companions(stream, dead_letter[b"sm-group"].decode())
    flat = [part for pair in redrive_fields(dead_letter).items() for part in pair]
    if len(flat) > MOST_ARGUMENTS:
        raise NoLetterError(
            f"The dead letter {identifier} of {stream!r} has {len(flat) // 2:,} fields; at most "
            f"{MOST_ARGUMENTS // 2:,} can be given back. Append its fields to the stream yourself."
        )
    new = await _REDRIVE(
        connection,
        dead_letters=companions.dead_letters,
        retry=companions.retry,
        identifier=identifier,
        fields=flat,
    )
    return None if new is None else bytes(new).decode()
