"""Deleting exactly what somebody has agreed to delete: values are known by their digests, and a changed one stays.

A digest is the SHA-1 of the stored bytes, made by the server: no value travels for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from streammachine.redis.commands import RedisCommands

_CHUNK = 500  # values in one script

# KEYS[1] a hash, ARGV fields of it. Gives the digest of each value, "" where there is none.
_FIELD_DIGESTS = """
local found = {}
for i, field in ipairs(ARGV) do
  local value = redis.call('HGET', KEYS[1], field)
  found[i] = value and redis.sha1hex(value) or ''
end
return found
"""
# KEYS[1] a hash, ARGV field and digest in turn. Deletes the fields whose values have these digests; gives how many.
_DELETE_FIELDS = """
local deleted = 0
for i = 1, #ARGV, 2 do
  local value = redis.call('HGET', KEYS[1], ARGV[i])
  if value and redis.sha1hex(value) == ARGV[i + 1] then deleted = deleted + redis.call('HDEL', KEYS[1], ARGV[i]) end
end
return deleted
"""
# KEYS strings. Gives the digest of each value, "" where there is none.
_KEY_DIGESTS = """
local found = {}
for i, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  found[i] = value and redis.sha1hex(value) or ''
end
return found
"""
# KEYS strings, ARGV their digests. Deletes those whose values have these digests; gives how many.
_DELETE_KEYS = """
local deleted = 0
for i, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  if value and redis.sha1hex(value) == ARGV[i] then deleted = deleted + redis.call('UNLINK', key) end
end
return deleted
"""


async def field_digests(connection: RedisCommands, key: str) -> dict[bytes, bytes]:
    """The digest of every value of a hash, by field."""
    fields = [bytes(field) for field in await connection.command("HKEYS", key, repeatable=True)]
    found: dict[bytes, bytes] = {}
    for start in range(0, len(fields), _CHUNK):
        chunk = fields[start : start + _CHUNK]
        digests = await connection.command("EVAL", _FIELD_DIGESTS, 1, key, *chunk, repeatable=True)
        found.update((field, bytes(digest)) for field, digest in zip(chunk, digests, strict=True) if digest)
    return found


async def delete_fields(connection: RedisCommands, key: str, digests: Mapping[bytes, bytes]) -> int:
    """Delete the fields of a hash whose values still have these digests; gives how many."""
    flat = [part for pair in digests.items() for part in pair]
    deleted = 0
    for start in range(0, len(flat), 2 * _CHUNK):
        chunk = flat[start : start + 2 * _CHUNK]
        deleted += int(await connection.command("EVAL", _DELETE_FIELDS, 1, key, *chunk))
    return deleted


async def key_digests(connection: RedisCommands, keys: Sequence[str]) -> dict[str, bytes]:
    """The digest of the value of every key; a key without one is left out."""
    found: dict[str, bytes] = {}
    for chunk in _chunks(connection, keys):
        digests = await connection.command("EVAL", _KEY_DIGESTS, len(chunk), *chunk, repeatable=True)
        found.update((key, bytes(digest)) for key, digest in zip(chunk, digests, strict=True) if digest)
    return found


async def delete_keys(connection: RedisCommands, digests: Mapping[str, bytes]) -> int:
    """Delete the keys whose values still have these digests; gives how many."""
    deleted = 0
    for chunk in _chunks(connection, list(digests)):
        wanted = [digests[key] for key in chunk]
        deleted += int(await connection.command("EVAL", _DELETE_KEYS, len(chunk), *chunk, *wanted))
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
