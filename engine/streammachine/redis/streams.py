"""Stream operations: append, read, describe, find, trim.

The only place that knows the shapes of XADD, XRANGE and XINFO; the App and the MCP tools call it. Ids are texts
"ms-seq" (Redis' own format), entries are in stream order, and every value is encoded before it reaches the client: one
value that the client cannot pack would close the connection under everybody's commands
(docs/decisions/07-values-in-bytes-out.md).
"""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from streammachine.errors import (
    OwnKeyError,
    RedisCommandError,
    RedisFullError,
    StreamIdError,
    StreamNotFoundError,
    WrongTypeError,
)
from streammachine.redis.commands import RedisCommands
from streammachine.redis.scripts import LuaScript
from streammachine.redis.transport.codec import (
    RespError,
    decode_dict_bytes_to_utf8,
    encode_fields,
    encode_xadd_batch,
    parse_entries,
)
from streammachine.redis.transport.raw_connection import encode_command, refused

OWN_PREFIXES = ("sm:", "{sm:")
LAST_SEQUENCE = 2**64 - 1  # of the ids of one millisecond
LAG_LOOK = 1000  # entries counted where the server does not know the lag
_COMPANION = re.compile(r"^\{.+\}:(dlq|(retry|dedup|state):.+)$|^.*\{.+\}.*:(dlq|(retry|dedup|state):.+)$", re.DOTALL)
_COUNTED = 1000  # entries counted by one call of _COUNT
# Counts the entries from one id to another as in XRANGE, so many at most; gives their number and the id of the last.
_COUNT = LuaScript(
    """
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])
return {#found, #found > 0 and found[#found][1] or ''}
""",
    keys=("stream",),
    args=("start", "end", "most"),
)
_PIPELINE_CHUNK = 1000  # commands in one pipeline, so that no one writer fills the socket's buffer
_ID = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?")
# A capital M is a month in every timeframe, and a month has no fixed length: it is not taken for a minute.
_RELATIVE = re.compile(r"(?i:now)(?:\s*-\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*((?i:ms)|[smhdwSHDW]))?", re.ASCII)
_MONTHS = re.compile(r"(?i:now)\s*-\s*[0-9.]+\s*M", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


class Entry:
    """One stream entry: its id ("ms-seq") and its fields as text, decoded when they are asked for.

    ``raw`` holds the fields as the server gave them.
    """

    __slots__ = ("_data", "id", "raw")

    def __init__(self, id: str, data: dict[str, str] | None = None, raw: dict[bytes, bytes] | None = None) -> None:
        self.id = id
        self.raw: dict[bytes, bytes] = raw if raw is not None else {}
        self._data = data

    @property
    def data(self) -> dict[str, str]:
        """The fields as text; bytes that are not UTF-8 show as ``\\xff``."""
        if self._data is None:
            self._data = decode_dict_bytes_to_utf8(self.raw)
        return self._data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and (self.id, self.data) == (other.id, other.data)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"Entry(id={self.id!r}, data={self.data!r})"


@dataclass(frozen=True)
class Group:
    """A consumer group: who reads how far. ``lag`` is None where the server cannot tell."""

    name: str
    consumers: int
    pending: int
    last_delivered_id: str
    lag: int | None


@dataclass(frozen=True)
class StreamInfo:
    """A stream's size, ends and groups."""

    length: int
    last_generated_id: str
    first_entry: Entry | None
    last_entry: Entry | None
    groups: list[Group] = field(default_factory=list)
    entries_added: int | None = None  # ever; None where the server does not count them


async def append(
    connection: RedisCommands, stream: str | bytes, record: Mapping[Any, Any], *, maxlen: int | None = None
) -> str:
    """XADD one record; gives its id.

    Args:
        maxlen: keep about this many entries (``MAXLEN ~``); None takes STREAMMACHINE_STREAM_MAXLEN.

    Raises:
        FieldError: a value is not str, bytes, int, float or bool. WrongTypeError: the key is no stream.
    """
    flat = [part for pair in encode_fields(record).items() for part in pair]
    trim = _maxlen(connection, maxlen)
    options = ("MAXLEN", "~", trim) if trim else ()
    return _text(await _command(connection, stream, "XADD", stream, *options, "*", *flat))


async def append_many(
    connection: RedisCommands,
    stream: str | bytes,
    records: Sequence[Mapping[Any, Any]],
    *,
    maxlen: int | None = None,
) -> list[str]:
    """XADD the records in order, pipelined; gives their ids. All are checked before anything is sent."""
    payloads = [
        (encode_xadd_batch(stream, chunk, _maxlen(connection, maxlen)), len(chunk))
        for chunk in (records[start : start + _PIPELINE_CHUNK] for start in range(0, len(records), _PIPELINE_CHUNK))
    ]
    identifiers: list[str] = []
    for payload, count in payloads:
        replies = await connection.exchange(payload, count, key=stream)
        for reply in replies:
            if isinstance(reply, RespError):
                error = refused(reply, connection.name, ("XADD", stream))
                if isinstance(error, WrongTypeError):
                    await require_stream(connection, stream)
                raise error
            identifiers.append(_text(reply))
    return identifiers


async def read_newest(
    connection: RedisCommands, stream: str, count: int, *, start: str = "-", end: str = "+"
) -> list[Entry]:
    """The newest ``count`` entries from ``start`` to ``end`` (as for ``read_from``), oldest of them first."""
    reply = await _command(connection, stream, "XREVRANGE", stream, end, start, "COUNT", count, repeatable=True)
    return [Entry(_text(identifier), raw=fields) for identifier, fields in reversed(parse_entries(reply))]


async def read_from(
    connection: RedisCommands, stream: str, start: str = "-", end: str = "+", count: int | None = None
) -> list[Entry]:
    """Up to ``count`` entries from ``start`` to ``end`` (ids; "(" before one excludes it), in order."""
    limit = ("COUNT", count) if count is not None else ()
    reply = await _command(connection, stream, "XRANGE", stream, start, end, *limit, repeatable=True)
    return [Entry(_text(identifier), raw=fields) for identifier, fields in parse_entries(reply)]


async def length(connection: RedisCommands, stream: str) -> int:
    """XLEN: how many entries the stream holds; 0 when there is no such stream."""
    return int(await _command(connection, stream, "XLEN", stream, repeatable=True))


async def describe(connection: RedisCommands, stream: str) -> StreamInfo:
    """XINFO STREAM and GROUPS in our terms.

    Raises:
        StreamNotFoundError, with the nearest name. WrongTypeError: the key is no stream.
    """
    await require_stream(connection, stream)

    payload = encode_command(["XINFO", "STREAM", stream]) + encode_command(["XINFO", "GROUPS", stream])
    info, groups = await connection.exchange(payload, 2, repeatable=True, key=stream)
    for reply in (info, groups):
        if isinstance(reply, RespError):
            if "no such key" in reply.message:
                raise await not_found(connection, stream)
            raise refused(reply, connection.name, ("XINFO", "STREAM", stream))
    facts = pairs(info)
    return StreamInfo(
        length=int(facts["length"]),
        last_generated_id=_text(facts["last-generated-id"]),
        first_entry=_entry(facts["first-entry"]),
        last_entry=_entry(facts["last-entry"]),
        groups=[_group(item) for item in groups],
        entries_added=int(facts["entries-added"]) if isinstance(facts.get("entries-added"), int) else None,
    )


async def lags(connection: RedisCommands, stream: str, groups: Sequence[Group]) -> dict[str, int]:
    """How many entries each group has not been given yet, by its name.

    A lag that the server does not know (after deletions, or of a group begun in the middle) is counted, up to
    LAG_LOOK; one read serves all groups.
    """
    known = {group.name: group.lag for group in groups if group.lag is not None}
    unknown = [group for group in groups if group.lag is None]
    if not unknown:
        return known
    newest = await _command(connection, stream, "XREVRANGE", stream, "+", "-", "COUNT", LAG_LOOK, repeatable=True)
    ids = [_id_parts(_text(identifier)) for identifier, _ in parse_entries(newest)]
    for group in unknown:
        last = _id_parts(group.last_delivered_id)
        known[group.name] = sum(identifier > last for identifier in ids)
    return known


async def find_streams(
    connection: RedisCommands,
    pattern: str = "*",
    *,
    limit: int | None = None,
    own: bool = False,
    after: str | None = None,
) -> tuple[list[str], bool]:
    """The streams that match a glob pattern, sorted, and whether there are more than ``limit``.

    Walks with SCAN, which blocks nobody. ``own=False`` leaves out ``sm:*`` and companions (dead letters, retries).
    ``after`` gives only the names behind that one.
    """
    names = sorted(
        name
        for name in map(_text, await connection.scan(pattern, "stream", timeout=30))
        if (own or not is_own(name)) and (after is None or name > after)
    )
    more = limit is not None and len(names) > limit
    return (names[:limit] if more else names), more


def is_own(name: str) -> bool:
    """Whether a stream is StreamMachine's own: ``sm:*`` or a companion of another stream."""
    return name.startswith(OWN_PREFIXES) or _COMPANION.match(name) is not None


def refuse_own(name: str, argument: str = "stream") -> None:
    """Refuse to write where StreamMachine keeps its own things: whoever does breaks what reads them.

    Raises:
        OwnKeyError: the name is one of them.
    """
    if is_own(name):
        raise OwnKeyError(
            f"{argument}={name!r} is one of StreamMachine's own keys (sm:*, and what stands beside a stream: dead "
            "letters, retries, deduplication, state). Take another name."
        )


async def require_stream(connection: RedisCommands, stream: str | bytes) -> None:
    """Check that the key is a stream.

    Raises:
        StreamNotFoundError, with the nearest name. WrongTypeError: the key holds something else.
    """
    kind = _text(await connection.command("TYPE", stream, repeatable=True))
    if kind == "stream":
        return
    if kind == "none":
        raise await not_found(connection, _text(stream))
    raise WrongTypeError(f"The key {_text(stream)!r} holds a {kind}, not a stream. stream_list shows the streams.")


async def not_found(connection: RedisCommands, stream: str) -> StreamNotFoundError:
    """The error for a missing stream, with the nearest names there are."""
    names, _ = await find_streams(connection)
    return StreamNotFoundError(f"There is no stream {stream!r}.{nearest(stream, names)}")


def nearest(wanted: str, names: Sequence[str]) -> str:
    """`` Did you mean 'a' or 'b'?`` for the names closest to ``wanted``; says so when there are none at all."""
    if not names:
        return " There are none yet."
    lowered = {name.lower(): name for name in names}
    close = [lowered[match] for match in difflib.get_close_matches(wanted.lower(), lowered, n=3, cutoff=0.6)]
    if not close:
        return ""
    return f" Did you mean {' or '.join(repr(name) for name in close)}?"


async def trim(connection: RedisCommands, stream: str, *, maxlen: int) -> int:
    """XTRIM to exactly ``maxlen`` entries; gives how many were deleted."""
    return int(await _command(connection, stream, "XTRIM", stream, "MAXLEN", "=", maxlen, repeatable=True))


async def trim_before(connection: RedisCommands, stream: str, first: str) -> int:
    """XTRIM away exactly the entries whose ids are below ``first``; gives how many were deleted."""
    return int(await _command(connection, stream, "XTRIM", stream, "MINID", "=", first, repeatable=True))


async def count_before(connection: RedisCommands, stream: str, first: str) -> int:
    """How many entries have ids below ``first``; counted in the server, a piece at a time, so that others get by."""
    found, after = 0, "-"
    while True:
        number, last = await _counted(connection, stream, after, f"({first}", _COUNTED)
        found += number
        if number < _COUNTED:
            return found
        after = f"({last}"


async def id_behind(connection: RedisCommands, stream: str, entries: int) -> str | None:
    """The id of the entry that so many stand before; None: there are no more than those. Counted as above."""
    before, after = entries, "-"
    while before >= _COUNTED:
        number, last = await _counted(connection, stream, after, "+", _COUNTED)
        before -= number
        if number < _COUNTED:
            return None
        after = f"({last}"
    number, last = await _counted(connection, stream, after, "+", before + 1)
    return last if number == before + 1 else None


async def _counted(connection: RedisCommands, stream: str, start: str, end: str, most: int) -> tuple[int, str]:
    count = _COUNT.command(stream=stream, start=start, end=end, most=most)
    number, last = await _command(connection, stream, *count, repeatable=True)
    return int(number), _text(last)


async def delete(connection: RedisCommands, stream: str) -> bool:
    """Delete a stream with its consumer groups; False when there was none.

    Raises:
        WrongTypeError: the key is no stream.
    """
    try:
        await require_stream(connection, stream)
    except StreamNotFoundError:
        return False
    return bool(await connection.command("UNLINK", stream, repeatable=True))


async def ensure_group(connection: RedisCommands, stream: str, group: str, *, start: str = "0") -> bool:
    """Create the group at ``start`` (an id; "0" the beginning, "$" the end) and the stream; False if it was there.

    A server at its memory limit refuses to create any group, one that is there too; then it is looked for.
    """
    try:
        await _command(connection, stream, "XGROUP", "CREATE", stream, group, start, "MKSTREAM", repeatable=True)
    except RedisCommandError as error:
        if "BUSYGROUP" in str(error):
            return False
        raise
    except RedisFullError:
        groups = await connection.exchange(encode_command(["XINFO", "GROUPS", stream]), 1, repeatable=True, key=stream)
        if isinstance(groups[0], RespError) or group not in (_group(item).name for item in groups[0]):
            raise
        return False
    return True


def parse_position(text: str, *, now_ms: int | None = None) -> str:
    """A position in a stream, as an XRANGE start: an id "ms-seq", epoch ms, ISO 8601, "now" or "now-15m".

    A time without a zone is UTC. "-" and "0" are the stream's beginning.

    Raises:
        StreamIdError: none of these.
    """
    wanted = text.strip()
    if wanted in ("-", "+"):
        return wanted
    if match := _ID.fullmatch(wanted.removeprefix("(")):
        parts = [int(part) for part in match.groups() if part]
        if max(parts) >= 2**64 or (wanted.startswith("(") and parts == [2**64 - 1] * 2):  # nothing is behind the last
            raise _no_position(text)
        return wanted
    if match := _RELATIVE.fullmatch(wanted):
        now = now_ms if now_ms is not None else time.time_ns() // 1_000_000
        back = float(match[1]) * _UNIT_MS[match[2].lower()] if match[1] else 0.0
        return str(max(0, int(now - back)))
    try:
        moment = datetime.fromisoformat(wanted)
    except ValueError:
        raise _no_position(text) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return str(max(0, (moment - _EPOCH) // timedelta(milliseconds=1)))  # whole numbers: a float loses milliseconds


def _no_position(text: str) -> StreamIdError:
    if _MONTHS.fullmatch(text.strip()):
        return StreamIdError(
            f"{text!r} is not a position in a stream: a capital M is a month, which has no fixed length. "
            "Give minutes as 'now-15m', a month as 'now-30d'."
        )
    return StreamIdError(
        f"{text!r} is not a position in a stream. Give an entry id ('1717171717000-0'), epoch milliseconds, "
        "an ISO time ('2026-11-20T09:30:00Z'), or a relative time ('now-15m')."
    )


async def _command(connection: RedisCommands, stream: str | bytes, *command: Any, repeatable: bool = False) -> Any:
    """Run a raw command on a stream; where the key is something else, the error says what."""
    try:
        return await connection.command(*command, repeatable=repeatable)
    except WrongTypeError:
        await require_stream(connection, stream)
        raise


def _maxlen(connection: RedisCommands, maxlen: int | None) -> int:
    return connection.settings.stream_maxlen if maxlen is None else maxlen


def pairs(reply: Sequence[Any]) -> dict[str, Any]:
    """A reply of names and values in turn, by name (the shape that XINFO has in RESP2)."""
    return {_text(reply[at]): reply[at + 1] for at in range(0, len(reply), 2)}


def _id_parts(identifier: str) -> tuple[int, int]:
    milliseconds, _, sequence = identifier.partition("-")
    return int(milliseconds), int(sequence)


def _entry(item: Any) -> Entry | None:
    entries = parse_entries([item]) if item is not None else []
    return Entry(_text(entries[0][0]), raw=entries[0][1]) if entries else None


def _group(item: Sequence[Any]) -> Group:
    facts = pairs(item)
    lag = facts.get("lag")
    return Group(
        name=_text(facts["name"]),
        consumers=int(facts["consumers"]),
        pending=int(facts["pending"]),
        last_delivered_id=_text(facts["last-delivered-id"]),
        lag=int(lag) if isinstance(lag, int) and lag >= 0 else None,
    )


def _text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
