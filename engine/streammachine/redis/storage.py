"""Storage: shared values in one Redis hash, the same for every process, machine and MCP tool.

A value is stored as JSON where it comes back equal and of the same type, else as a signed pickle
(``signing.py``). JSON numbers are what HINCRBY works on, so ``incr`` is one command; ``update`` compares and
sets in a script.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Self

import anyio

from streammachine.errors import ConflictError, RedisCommandError, UnsupportedServerError, WrongTypeError
from streammachine.redis.connection import RedisConnection
from streammachine.redis.signing import MAGIC, Signer, is_unicode

if TYPE_CHECKING:
    from coredis import Redis

KEY = "sm:storage"
UPDATE_DEADLINE = 30.0  # seconds of losing every race before update() gives up
_MAX_DEPTH = 100  # deeper values go to pickle, which has the same limit as Python itself
_MAX_BITS = 2048  # longer integers go to pickle: Python may be set to refuse their decimals (from 640 digits on)

# KEYS[1] the hash; ARGV[1] the field, ARGV[2] the new value, ARGV[3] the value that was read, ARGV[4] "1" if
# there was one, ARGV[5] "1" if the server has times to live of hash fields (HSET drops them, so they are set again).
# Sets the field only if nobody changed it since; gives 1 or 0.
_COMPARE_AND_SET = """
local now = redis.call('HGET', KEYS[1], ARGV[1])
if ARGV[4] == '1' then
  if now ~= ARGV[3] then return 0 end
elseif now then
  return 0
end
local ttl = -1
if now and ARGV[5] == '1' then ttl = redis.call('HPTTL', KEYS[1], 'FIELDS', 1, ARGV[1])[1] end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if ttl > 0 then redis.call('HPEXPIRE', KEYS[1], ttl, 'FIELDS', 1, ARGV[1]) end
return 1
"""

# KEYS[1] the hash; ARGV[1] the field, ARGV[2] what to add, ARGV[3] "1" if that is a whole number. Whole numbers
# stay exact (64 bits) as long as all parts are whole; gives the sum's text.
_INCREMENT = """
local now = redis.call('HGET', KEYS[1], ARGV[1])
if ARGV[3] == '1' and not (now and string.find(now, '^%-?%d+%.') or now and string.find(now, '^%-?[%d.]+[eE]')) then
  redis.call('HINCRBY', KEYS[1], ARGV[1], ARGV[2])
else
  redis.call('HINCRBYFLOAT', KEYS[1], ARGV[1], ARGV[2])
end
return redis.call('HGET', KEYS[1], ARGV[1])
"""


class Storage:
    """Values by key, kept in Redis. ``Storage()`` without arguments is one instance per process.

    Args:
        connection: the connection to use; without it, one of its own that opens on first use.
    """

    _instance: ClassVar[Storage | None] = None

    def __new__(cls, connection: RedisConnection | None = None) -> Self:
        if connection is not None:
            return super().__new__(cls)
        if cls._instance is None:
            cls._instance = super().__new__(cls)
        return cls._instance  # type: ignore[return-value]

    def __init__(self, connection: RedisConnection | None = None) -> None:
        if connection is None and hasattr(self, "_connection"):
            return
        self._connection = connection if connection is not None else RedisConnection()
        self._owned = connection is None
        self._signer: Signer | None = None
        self._keeps_ttl: bool | None = None

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
        if ttl is None:
            await self._connection.command("HSET", KEY, key, encoded, repeatable=True)
            return
        if not ttl > 0 or math.isinf(ttl):
            raise ValueError(f"ttl={ttl!r}: give a number of seconds above 0.")
        await self._write_expiring(key, encoded, max(1, round(ttl * 1000)))

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
        return bool(await self._connection.command("HDEL", KEY, key))

    async def delete_many(self, keys: Iterable[str]) -> int:
        """Delete exactly these keys in one command; gives how many there were."""
        names = [_checked(key) for key in keys]
        if not names:
            return 0
        return int(await self._connection.command("HDEL", KEY, *names))

    async def exists(self, key: str) -> bool:
        """Whether ``key`` has a value."""
        key = _checked(key)
        return bool(await self._connection.command("HEXISTS", KEY, key, repeatable=True))

    async def keys(self) -> list[str]:
        """All keys, sorted."""
        names = await self._connection.command("HKEYS", KEY, repeatable=True)
        return sorted(_text(name) for name in names)

    async def count(self) -> int:
        """How many keys there are."""
        return int(await self._connection.command("HLEN", KEY, repeatable=True))

    async def clear(self) -> int:
        """Delete every key; gives how many there were."""

        async def clear(client: Redis[bytes]) -> int:
            async with client.pipeline(transaction=True) as pipe:
                count = pipe.hlen(KEY)
                pipe.delete([KEY])
            return int(await count)

        return await self._connection.run(clear)

    async def update(self, key: str, fn: Callable[[Any], Any], *, default: Any = None) -> Any:
        """Replace the value by ``fn(value)`` atomically, and give the new one.

        ``fn`` may be async; it runs again when somebody else changed the value meanwhile, so it must have
        no effect of its own. A missing value is passed as ``default``. A time to live stays as it was.

        Raises:
            ConflictError: others kept changing the value for 30 s.
        """
        key = _checked(key)
        pause = 0.001
        end = time.monotonic() + UPDATE_DEADLINE
        while time.monotonic() < end:
            stored = await self.read_raw(key)
            value = fn(default if stored is None else self.decode(key, stored))
            if isinstance(value, Awaitable):
                value = await value
            if await self._compare_and_set(key, stored, self.encode(key, value)):
                return value
            await anyio.sleep(random.uniform(0, pause))
            pause = min(2 * pause, 1.0)
        raise ConflictError(f"The value of {key!r} kept changing for {UPDATE_DEADLINE:g} s; use incr() for counters.")

    async def incr(self, key: str, by: float = 1) -> int | float:
        """Add ``by`` to a number atomically (a missing one counts as 0) and give the sum; a whole sum is an int.

        Raises:
            WrongTypeError: the value is not a number. RedisCommandError: a whole sum does not fit into 64 bits.
        """
        key = _checked(key)
        if isinstance(by, bool) or not isinstance(by, (int, float)) or not math.isfinite(by):
            raise ValueError(f"by={by!r}: give a finite number.")
        whole = isinstance(by, int)
        arguments: list[bytes | str] = [key, str(int(by)) if whole else repr(float(by)), "1" if whole else "0"]
        try:
            total = await self._connection.command("EVAL", _INCREMENT, 1, KEY, *arguments)
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
        stored: bytes | None = await self._connection.command("HGET", KEY, key, repeatable=True)
        return stored

    def encode(self, key: str, value: Any) -> bytes:
        """JSON where it comes back equal and of the same type, else a signed pickle."""
        if _survives_json(value):
            return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        return self.signer.dump(value, KEY, key)

    def decode(self, key: str, stored: bytes) -> Any:
        """The value behind stored bytes."""
        if stored.startswith(MAGIC):
            return self.signer.load(stored, KEY, key)
        return _from_json(key, stored)

    def decode_plain(self, key: str, stored: bytes) -> Any:
        """As ``decode``, but a pickle of more than plain data raises UnsafePickleError instead of loading."""
        if stored.startswith(MAGIC):
            return self.signer.load_plain(stored, KEY, key)
        return _from_json(key, stored)

    @property
    def signer(self) -> Signer:
        """The signer of this installation, made on first use."""
        if self._signer is None:
            self._signer = Signer.from_settings(self._connection.settings)
        return self._signer

    # -- details ------------------------------------------------------------------------------

    async def _write_expiring(self, key: str, encoded: bytes, ttl_ms: int) -> None:
        async def write(client: Redis[bytes]) -> None:
            async with client.pipeline(transaction=True) as pipe:
                pipe.hset(KEY, {key: encoded})
                pipe.hpexpire(KEY, ttl_ms, [key])

        await self._require_field_ttl()
        await self._connection.run(write, repeatable=True)

    async def _require_field_ttl(self) -> None:
        if not await self._has_field_ttl():
            raise UnsupportedServerError(
                "ttl= needs HPEXPIRE, which this server lacks. "
                "Use Redis 7.4 or Valkey 9.0 and later, or write without ttl."
            )

    async def _has_field_ttl(self) -> bool:
        if self._keeps_ttl is None:
            info = await self._connection.run(lambda client: client.command_info("HPEXPIRE"), repeatable=True)
            self._keeps_ttl = bool(info) and any(value is not None for value in info.values())
        return self._keeps_ttl

    async def _compare_and_set(self, key: str, old: bytes | None, new: bytes) -> bool:
        arguments: list[bytes | str] = [
            key,
            new,
            old if old is not None else b"",
            "1" if old is not None else "0",
            "1" if await self._has_field_ttl() else "0",
        ]
        return bool(await self._connection.command("EVAL", _COMPARE_AND_SET, 1, KEY, *arguments))


def _checked(key: str) -> str:
    if not isinstance(key, str) or not key or not is_unicode(key):
        raise ValueError(f"A storage key is a text that is not empty, not {key!r}.")
    return key


def _text(name: bytes | str) -> str:
    return name if isinstance(name, str) else name.decode("utf-8", "backslashreplace")


def _from_json(key: str, stored: bytes) -> Any:
    try:
        return json.loads(stored)
    except (ValueError, RecursionError) as error:
        raise WrongTypeError(
            f"The value of {key!r} in {KEY} was not written by StreamMachine: it is neither JSON nor a signed pickle."
        ) from error


def _survives_json(value: Any, depth: int = 0) -> bool:
    """Whether JSON gives the value back equal and of exactly the same types."""
    kind = type(value)
    if value is None or kind is bool:
        return True
    if kind is int:
        return bool(value.bit_length() <= _MAX_BITS)
    if kind is float:
        return math.isfinite(value)
    if kind is str:
        return is_unicode(value)
    if depth >= _MAX_DEPTH:
        return False
    if kind is list:
        return all(_survives_json(item, depth + 1) for item in value)
    if kind is dict:
        return all(type(k) is str and _survives_json(k) and _survives_json(v, depth + 1) for k, v in value.items())
    return False
