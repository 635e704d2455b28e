"""Deleting exactly what somebody has agreed to delete: values are known by their digests, and a changed one stays.

A digest is the SHA-1 of the stored bytes, made by the server: no value travels for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from streammachine.redis.commands import RedisCommands
from streammachine.redis.scripts import LuaScript

_CHUNK = 500  # values in one script

# Gives the digest of each field's value, "" where there is none.
_FIELD_DIGESTS = LuaScript(
    """
local found = {}
for i, field in ipairs(ARGV) do
  local value = redis.call('HGET', KEYS[1], field)
  found[i] = value and redis.sha1hex(value) or ''
end
return found
""",
    keys=("hash",),
    args=("*fields",),
)
# Deletes the fields whose values have these digests (field and digest in turn); gives how many.
_DELETE_FIELDS = LuaScript(
    """
local deleted = 0
for i = 1, #ARGV, 2 do
  local value = redis.call('HGET', KEYS[1], ARGV[i])
  if value and redis.sha1hex(value) == ARGV[i + 1] then deleted = deleted + redis.call('HDEL', KEYS[1], ARGV[i]) end
end
return deleted
""",
    keys=("hash",),
    args=("*digests",),
)
# Gives the digest of each string, "" where there is none.
_KEY_DIGESTS = LuaScript(
    """
local found = {}
for i, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  found[i] = value and redis.sha1hex(value) or ''
end
return found
""",
    keys=("*strings",),
)
# Deletes the strings whose values have these digests; gives how many.
_DELETE_KEYS = LuaScript(
    """
local deleted = 0
for i, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  if value and redis.sha1hex(value) == ARGV[i] then deleted = deleted + redis.call('UNLINK', key) end
end
return deleted
""",
    keys=("*strings",),
    args=("*digests",),
)


async def field_digests(connection: RedisCommands, key: str) -> dict[bytes, bytes]:
    """The digest of every value of a hash, by field."""
    fields = [bytes(field) for field in await connection.command("HKEYS", key, repeatable=True)]
    found: dict[bytes, bytes] = {}
    for start in range(0, len(fields), _CHUNK):
        chunk = fields[start : start + _CHUNK]
        digests = await _FIELD_DIGESTS(connection, hash=key, fields=chunk, repeatable=True)
        found.update((field, bytes(digest)) for field, digest in zip(chunk, digests, strict=True) if digest)
    return found


async def delete_fields(connection: RedisCommands, key: str, digests: Mapping[bytes, bytes]) -> int:
    """Delete the fields of a hash whose values still have these digests; gives how many."""
    flat = [part for pair in digests.items() for part in pair]
    deleted = 0
    for start in range(0, len(flat), 2 * _CHUNK):
        chunk = flat[start : start + 2 * _CHUNK]
        deleted += int(await _DELETE_FIELDS(connection, hash=key, digests=chunk))
    return deleted


async def key_digests(connection: RedisCommands, keys: Sequence[str]) -> dict[str, bytes]:
    """The digest of the value of every key; a key without one is left out."""
    found: dict[str, bytes] = {}
    for chunk in _chunks(connection, keys):
        digests = await _KEY_DIGESTS(connection, strings=chunk, repeatable=True)
        found.update((key, bytes(digest)) for key, digest in zip(chunk, digests, strict=True) if digest)
    return found


async def delete_keys(connection: RedisCommands, digests: Mapping[str, bytes]) -> int:
    """Delete the keys whose values still have these digests; gives how many."""
    deleted = 0
    for chunk in _chunks(connection, list(digests)):
        wanted = [digests[key] for key in chunk]
        deleted += int(await _DELETE_KEYS(connection, strings=chunk, digests=wanted))
    return deleted


def fingerprint(digests: Mapping[bytes, bytes] | Mapping[str, bytes]) -> str:
    """One digest of all names and values."""
    whole = hashlib.sha256()
    named = {name.encode("utf-8", "surrogatepass") if isinstance(name, str) else name: d for name, d in digests.items()}
    for name in sorted(named):
        whole.update(b"%d:%b=%b;" % (len(name), name, named[name]))
    return whole.hexdigest()


def _chunks(connection: RedisCommands, keys: Sequence[str]) -> list[Sequence[str]]:
    size = 1 if connection.is_cluster else _CHUNK  # one script is for one slot
    return [keys[start : start + size] for start in range(0, len(keys), size)]
