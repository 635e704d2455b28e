"""Storage: shared values in one Redis hash, the same for every process, machine and MCP tool.

A value is stored as JSON where it comes back equal and of the same type, else as a signed pickle
(``signing.py``). JSON numbers are what HINCRBY works on, so ``incr`` is one command; ``update`` compares and
sets in a script.
"""

from __future__ import annotations

import json
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, ClassVar, Self, cast

import anyio

from streammachine.errors import ConflictError, RedisCommandError, UnsupportedServerError, WrongTypeError
from streammachine.redis.connection import RedisConnection
from streammachine.redis.json_values import from_json, to_json
from streammachine.redis.provisional import ProvisionalSum, plain
from streammachine.redis.scripts import MAY, LuaScript
from streammachine.redis.signing import MAGIC, Signer, is_unicode
from streammachine.redis.update_queue import UpdateQueue
from streammachine.redis.write_hold import WriteHold

log = logging.getLogger(__name__)

KEY = "sm:storage"
UPDATE_DEADLINE = 30.0  # seconds of losing every race before update() gives up
_ESCAPE = "\\x"  # how a byte that is no UTF-8 begins in the text of a key
LONGEST_TTL = 1e11  # seconds; some 3,000 years, a little less than servers take
_COUNTABLE = 2**63  # what HINCRBY counts to, either way

# Sets the field only if nobody changed it since it was read (``old``, if it ``existed``); gives 1 or 0. HSET drops its
# time to live, so that is set again where the server has one (``keeps_ttl``).
_COMPARE_AND_SET = LuaScript(
    MAY
    + """
local now = redis.call('HGET', KEYS[1], ARGV[1])
if ARGV[4] == '1' then
  if now ~= ARGV[3] then return 0 end
elseif now then
  return 0
end
local ttl = -1
if now and ARGV[5] == '1' then ttl = redis.call('HPTTL', KEYS[1], 'FIELDS', 1, ARGV[1])[1] end
local no = ttl > 0 and refusal('HPEXPIRE', KEYS[1], ttl, 'FIELDS', 1, ARGV[1])
if no then return no end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if ttl > 0 then redis.call('HPEXPIRE', KEYS[1], ttl, 'FIELDS', 1, ARGV[1]) end
return 1
""",
    keys=("hash",),
    args=("field", "new", "old", "existed", "keeps_ttl"),
)

# Adds ``by`` to a field and gives the sum's text. Whole numbers stay exact (64 bits) as long as all parts are whole.
_INCREMENT = LuaScript(
    """
local now = redis.call('HGET', KEYS[1], ARGV[1])
if ARGV[3] == '1' and not (now and string.find(now, '^%-?%d+%.') or now and string.find(now, '^%-?[%d.]+[eE]')) then
  redis.call('HINCRBY', KEYS[1], ARGV[1], ARGV[2])
else
  redis.call('HINCRBYFLOAT', KEYS[1], ARGV[1], ARGV[2])
end
return redis.call('HGET', KEYS[1], ARGV[1])
""",
    keys=("hash",),
    args=("field", "by", "whole"),
)

# Writes a field that lives so many milliseconds. Who may not set a time to live writes nothing: the value would stay.
_WRITE_EXPIRING = LuaScript(
    MAY
    + """
local no = refusal('HPEXPIRE', KEYS[1], ARGV[3], 'FIELDS', 1, ARGV[1])
if no then return no end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HPEXPIRE', KEYS[1], ARGV[3], 'FIELDS', 1, ARGV[1])
""",
    keys=("hash",),
    args=("field", "value", "ttl_ms"),
)

# Deletes the hash; gives how many fields it had.
_CLEAR = LuaScript(
    """
local count = redis.call('HLEN', KEYS[1])
redis.call('DEL', KEYS[1])
return count
""",
    keys=("hash",),
)


class Storage:
    """Values by key, kept in Redis. ``Storage()`` without arguments is one instance per process.

    Args:
        connection: the connection to use; without it, one of its own that opens on first use.
        hold: gives the place where writes are held back now, or None to write at once.
        key: the Redis hash that holds the values.
    """

    _instance: ClassVar[Storage | None] = None

    def __new__(
        cls,
        connection: RedisConnection | None = None,
        *,
        hold: Callable[[], WriteHold | None] | None = None,
        key: str = KEY,
    ) -> Self:
        if connection is not None:
            return super().__new__(cls)
        if cls._instance is None:
            cls._instance = super().__new__(cls)
        return cls._instance  # type: ignore[return-value]

    def __init__(
        self,
        connection: RedisConnection | None = None,
        *,
        hold: Callable[[], WriteHold | None] | None = None,
        key: str = KEY,
    ) -> None:
        if connection is None and hasattr(self, "_connection"):
            return
        self.key = key
        self._hold = hold if hold is not None else _no_hold
        self._connection = connection if connection is not None else RedisConnection()
        self._owned = connection is None
        self._signer: Signer | None = None
        self._keeps_ttl: bool | None = None
        self._turns = UpdateQueue()

    @classmethod
    def reset_instance(cls) -> None:
        """Forget the cached instance; the data stays in Redis. Close it first if it was used."""
        cls._instance = None

    async def close(self) -> None:
        """Close the connection if it is this storage's own."""
        if self._owned:
            await self._connection.close()

    async def write(self, key: str, value: Any, *, ttl: float | None = None) -> None:
        """Store ``value`` under ``key``; with ``ttl`` it vanishes after so many seconds.

        Raises:
            SerializationError: neither JSON nor pickle takes the value.
            UnsupportedServerError: ``ttl`` on a server without HPEXPIRE (before Redis 7.4 or Valkey 9.0).
        """
        key = _checked(key)
        encoded = self.encode(key, value)
        if ttl is not None and not 0 < ttl <= LONGEST_TTL:
            raise ValueError(f"ttl={ttl!r}: give a number of seconds above 0, at most {LONGEST_TTL:,.0f}.")
        ttl_ms = max(1, round(ttl * 1000)) if ttl is not None else None
        if ttl_ms is not None:
            await self._require_field_ttl()
        held = self._hold()
        if held is not None:
            held.put(key, encoded, ttl_ms)
        elif ttl_ms is None:
            await self._connection.command("HSET", self.key, key, encoded, repeatable=True)
        else:
            await self._write_expiring(key, encoded, ttl_ms)

    async def read(self, key: str, default: Any = None) -> Any:
        """The value under ``key``, or ``default`` when there is none.

        Raises:
            SignatureError: a pickle that this installation did not sign; it was not loaded.
        """
        stored = await self.read_raw(key)
        return default if stored is None else self.decode(key, stored)

    async def delete(self, key: str) -> bool:
        """Delete ``key``; True if it existed."""
        key = _checked(key)
        held = self._hold()
        if held is not None:
            existed = await self.read_raw(key) is not None
            held.put(key, None)
            return existed
        return bool(await self._connection.command("HDEL", self.key, *await self._names_of(key)))

    async def delete_many(self, keys: Iterable[str]) -> int:
        """Delete exactly these keys in one command; gives how many there were."""
        names = [_checked(key) for key in keys]
        if not names:
            return 0
        if self._hold() is not None:
            return sum([await self.delete(name) for name in names])
        fields = [field for name in names for field in await self._names_of(name)]
        return int(await self._connection.command("HDEL", self.key, *fields))

    async def exists(self, key: str) -> bool:
        """Whether ``key`` has a value."""
        key = _checked(key)
        held = self._hold()
        if held is not None:
            known, value = held.get(key)
            if known or held.added(key) is not None:
                return value is not None or not known
        return await self.read_raw(key) is not None if _ESCAPE in key else await self._exists(key)

    async def keys(self) -> list[str]:
        """All keys, sorted. One that somebody else wrote and that is no UTF-8 shows its bytes as ``\\xff``; it can be
        read and deleted by that."""
        names = {_text(name) for name in await self._connection.command("HKEYS", self.key, repeatable=True)}
        held = self._hold()
        if held is not None:
            for name, value in held.written().items():
                (names.add if value is not None else names.discard)(name)
        return sorted(names)

    async def count(self) -> int:
        """How many keys there are."""
        if self._hold() is not None:
            return len(await self.keys())
        return int(await self._connection.command("HLEN", self.key, repeatable=True))

    async def clear(self) -> int:
        """Delete every key; gives how many there were."""
        held = self._hold()
        if held is not None:
            names = await self.keys()
            for name in names:
                held.put(name, None)
            return len(names)
        return int(await _CLEAR(self._connection, hash=self.key))

    async def update(self, key: str, fn: Callable[[Any], Any], *, default: Any = None) -> Any:
        """Replace the value by ``fn(value)`` atomically, and give the new one.

        ``fn`` may be async; it runs again when somebody else changed the value meanwhile, so it must have
        no effect of its own. Updates of one key in one process take turns. A missing value is passed as ``default``.
        A time to live stays as it was.

        Raises:
            ConflictError: others kept changing the value for 30 s.
        """
        key = _checked(key)
        held = self._hold()
        if held is not None:
            return await self._update_held(held, key, fn, default)
        async with self._turns.of(key):
            pause = 0.001
            end = time.monotonic() + UPDATE_DEADLINE
            while time.monotonic() < end:
                stored = await self._stored(key)
                value = await self._applied(key, stored, fn, default)
                if await self._compare_and_set(key, stored, self.encode(key, value)):
                    return value
                await anyio.sleep(random.uniform(0, pause))
                pause = min(2 * pause, 0.1)  # of few: those of one process take turns
        raise ConflictError(f"The value of {key!r} kept changing for {UPDATE_DEADLINE:g} s; use incr() for counters.")

    async def incr(self, key: str, by: float = 1) -> int | float:
        """Add ``by`` to a number atomically (a missing one counts as 0) and give the sum; a whole sum is an int.

        In a transactional handler the addition is done in the commit, and nobody else's stands in its way. What this
        gives there is a ``ProvisionalSum``: a number that has the commit check it if the handler reads it. A handler
        that gives it to what takes an int or a float only (``json.dumps``) runs again, once, with plain numbers.

        Raises:
            WrongTypeError: the value is not a number. RedisCommandError: a whole sum does not fit into 64 bits.
        """
        key, by = _checked(key), plain(by)
        if isinstance(by, bool) or not isinstance(by, (int, float)) or not math.isfinite(by):
            raise ValueError(f"by={by!r}: give a finite number.")
        held = self._hold()
        if held is not None:
            return await self._incr_held(held, key, by)
        whole = isinstance(by, int)
        step = str(int(by)) if whole else repr(float(by))
        try:
            total = await _INCREMENT(self._connection, hash=self.key, field=key, by=step, whole="1" if whole else "0")
        except RedisCommandError as error:
            if not any(words in str(error) for words in ("hash value is not", "overflow", "out of range")):
                raise
            now = await self.read(key)
            if isinstance(now, bool) or not isinstance(now, (int, float)):
                raise WrongTypeError(
                    f"The value of {key!r} is a {type(now).__name__}, not a number: it cannot be incremented."
                ) from error
            raise RedisCommandError(
                f"{key!r} cannot be incremented by {by}: whole numbers end at 64 bits here. update() has no such limit."
            ) from error
        assert isinstance(total, bytes)
        return json.loads(total)  # type: ignore[no-any-return]

    # -- encoding -----------------------------------------------------------------------------

    async def read_raw(self, key: str) -> bytes | None:
        """The stored bytes of ``key``, undecoded; None when there are none."""
        key = _checked(key)
        held = self._hold()
        if held is not None:
            known, value = held.get(key)
            if known:
                return value
        stored = await self._stored(key)
        if stored is None and _ESCAPE in key:
            for name in await self._names_of(key):
                stored = await self._stored(name)
        added = held.added(key) if held is not None else None
        if held is None or added is None:
            return stored
        held.check(key, stored)  # whoever reads the sum relies on it
        return self.encode(key, _added(key, 0 if stored is None else self.decode(key, stored), added))

    async def stored_bytes(self, key: str) -> int:
        """How many bytes stand under ``key``; 0 when there are none."""
        return int(await self._connection.command("HSTRLEN", self.key, _checked(key), repeatable=True))

    def encode(self, key: str, value: Any) -> bytes:
        """JSON where it comes back equal and of the same type, else a signed pickle."""
        value = plain(value)
        encoded = to_json(value)
        return encoded if encoded is not None else self.signer.dump(value, self.key, key)

    def decode(self, key: str, stored: bytes) -> Any:
        """The value behind stored bytes."""
        if stored.startswith(MAGIC):
            return self.signer.load(stored, self.key, key)
        return from_json(key, stored, self.key)

    def decode_plain(self, key: str, stored: bytes) -> Any:
        """As ``decode``, but a pickle of more than plain data raises UnsafePickleError instead of loading."""
        if stored.startswith(MAGIC):
            return self.signer.load_plain(stored, self.key, key)
        return from_json(key, stored, self.key)

    @property
    def signer(self) -> Signer:
        """The signer of this installation, made on first use."""
        if self._signer is None:
            self._signer = Signer.from_settings(self._connection.settings)
        return self._signer

    # -- details ------------------------------------------------------------------------------

    async def _write_expiring(self, key: str, encoded: bytes, ttl_ms: int) -> None:
        await _WRITE_EXPIRING(self._connection, hash=self.key, field=key, value=encoded, ttl_ms=ttl_ms, repeatable=True)

    async def _update_held(self, held: WriteHold, key: str, fn: Callable[[Any], Any], default: Any) -> Any:
        """``update`` in a transaction: what it read is checked again in the commit."""
        while True:
            known, stored = held.get(key)
            if not known:
                stored = await self._stored(key)
            added = None if known else held.added(key)
            start = stored
            if added is not None:
                start = self.encode(key, _added(key, 0 if stored is None else self.decode(key, stored), added))
            value = await self._applied(key, start, fn, default)
            now_known, now = held.get(key)
            if (now_known and now != stored) or (not now_known and held.added(key) != added):
                continue  # another task of the same handler wrote it meanwhile
            if not now_known:
                held.check(key, stored)
            held.put(key, self.encode(key, value), keep_ttl=True)
            return value

    async def _incr_held(self, held: WriteHold, key: str, by: float) -> int | float:
        """``incr`` in a transaction: an addition for the commit; a write where the value was written there before."""
        stored = await self._stored(key)
        if held.get(key)[0] or not self._adds_up(stored, by, held.added(key) or 0):
            return await self._update_held(held, key, lambda now: _added(key, now, by), 0)  # type: ignore[no-any-return]
        on_read = held.add(key, by, stored)
        total = _added(key, 0 if stored is None else self.decode(key, stored), held.added(key) or 0)
        if held.plain_sums:
            on_read()
            return total
        return cast("int", ProvisionalSum(total, on_read))

    def _adds_up(self, stored: bytes | None, by: float, added: float) -> bool:
        """Whether the server can add to what stands there: it counts with 64 bits, and with no pickled numbers."""
        if stored is not None and stored.startswith(MAGIC):
            return False
        now = 0 if stored is None else from_json("", stored, self.key)
        if isinstance(now, bool) or not isinstance(now, (int, float)):
            return False  # refused by name where it is added
        parts = [now, by, added, added + by, now + added + by]
        return all(abs(part) < _COUNTABLE if isinstance(part, int) else math.isfinite(part) for part in parts)

    async def _names_of(self, key: str) -> list[bytes | str]:
        """The key, or those that ``keys`` shows under this text since they are no UTF-8."""
        if _ESCAPE not in key:
            return [key]
        names: list[bytes] = await self._connection.command("HKEYS", self.key, repeatable=True)
        return [name for name in names if _text(name) == key] or [key]

    async def _exists(self, key: str) -> bool:
        return bool(await self._connection.command("HEXISTS", self.key, key, repeatable=True))

    async def _stored(self, key: str | bytes) -> bytes | None:
        stored: bytes | None = await self._connection.command("HGET", self.key, key, repeatable=True)
        return stored

    async def _applied(self, key: str, stored: bytes | None, fn: Callable[[Any], Any], default: Any) -> Any:
        value = fn(default if stored is None else self.decode(key, stored))
        return await value if isinstance(value, Awaitable) else value

    async def _require_field_ttl(self) -> None:
        if not await self._has_field_ttl():
            raise UnsupportedServerError(
                "ttl= needs HPEXPIRE, which this server lacks. "
                "Use Redis 7.4 or Valkey 9.0 and later, or write without ttl."
            )

    async def _has_field_ttl(self) -> bool:
        if self._keeps_ttl is None:
            try:
                info = await self._connection.command("COMMAND", "INFO", "HPEXPIRE", repeatable=True)
                self._keeps_ttl = bool(info and info[0])
            except RedisCommandError as error:  # a user without the right, a proxy without the command
                log.debug("%s", error)
                self._keeps_ttl = await self._answers_field_ttl()
        return self._keeps_ttl

    async def _answers_field_ttl(self) -> bool:
        """Whether the server knows the commands about a field's life: tried with one that changes nothing."""
        try:
            await self._connection.command("HPTTL", self.key, "FIELDS", 1, "x", repeatable=True)
        except RedisCommandError as error:
            if "unknown command" not in str(error).lower():
                raise
            return False
        return True

    async def _compare_and_set(self, key: str, old: bytes | None, new: bytes) -> bool:
        done = await _COMPARE_AND_SET(
            self._connection,
            hash=self.key,
            field=key,
            new=new,
            old=old if old is not None else b"",
            existed="1" if old is not None else "0",
            keeps_ttl="1" if await self._has_field_ttl() else "0",
        )
        return bool(done)


def _no_hold() -> None:
    """Outside of transactions nothing is held back."""


def _added(key: str, now: Any, by: float) -> int | float:
    if isinstance(now, bool) or not isinstance(now, (int, float)):
        raise WrongTypeError(f"The value of {key!r} is a {type(now).__name__}, not a number: it cannot be incremented.")
    total = now + by
    return int(total) if isinstance(total, float) and total.is_integer() else total


def _checked(key: str) -> str:
    if not isinstance(key, str) or not key or not is_unicode(key):
        raise ValueError(f"A storage key is a text that is not empty, not {key!r}.")
    return key


def _text(name: bytes | str) -> str:
    return name if isinstance(name, str) else name.decode("utf-8", "backslashreplace")
