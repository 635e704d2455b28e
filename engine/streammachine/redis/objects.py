"""RedisObjectStorage: any picklable object under a key, signed.

Keys stand in Redis as ``sm:obj:<key>``, so no pattern can touch a key that this storage did not write.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from anyio import to_thread

from streammachine.redis.connection import RedisConnection
from streammachine.redis.signing import Signer, is_unicode

PREFIX = "sm:obj:"
_CHUNK = 1000  # keys in one command


class RedisObjectStorage:
    """Objects by key. Same settings as everything else; opens its connection on first use.

    Args:
        redis_host, redis_port, redis_db: another server than the settings name.
        connection: a connection to share instead.
    """

    def __init__(
        self,
        redis_host: str | None = None,
        redis_port: int | None = None,
        redis_db: int | None = None,
        *,
        connection: RedisConnection | None = None,
    ) -> None:
        self._owned = connection is None
        self._connection = (
            connection if connection is not None else RedisConnection(host=redis_host, port=redis_port, db=redis_db)
        )
        self._signer: Signer | None = None

    async def store_with_pickle(self, key: str, obj: Any) -> float:
        """Store ``obj`` under ``key``; gives the milliseconds it took.

        Raises:
            SerializationError: pickle does not take the object.
        """
        started = time.perf_counter()
        name = _name(key)
        stored = self.signer.dump(obj, name)
        await self._connection.command("SET", name, stored, repeatable=True)
        return (time.perf_counter() - started) * 1000

    async def retrieve_with_pickle(self, key: str) -> Any:
        """The object under ``key``; None when there is none.

        Raises:
            SignatureError: the value is unsigned, changed, or signed with another key; it was not loaded.
        """
        stored = await self.read_raw(key)
        return None if stored is None else self.signer.load(stored, _name(key))

    async def retrieve_plain(self, key: str) -> Any:
        """As ``retrieve_with_pickle``, but only plain data is loaded (what the MCP tools show).

        Raises:
            UnsafePickleError: the object is more than plain data; it was not loaded.
        """
        stored = await self.read_raw(key)
        return None if stored is None else await to_thread.run_sync(self.signer.load_plain, stored, _name(key))

    async def read_raw(self, key: str) -> bytes | None:
        """The stored bytes of ``key``, not loaded; None when there are none."""
        name = _name(key)
        stored: bytes | None = await self._connection.command("GET", name, repeatable=True)
        return stored

    async def stored_bytes(self, key: str) -> int:
        """How many bytes stand under ``key``; 0 when there are none."""
        return int(await self._connection.command("STRLEN", _name(key), repeatable=True))

    async def list_keys(self, pattern: str = "*") -> list[str]:
        """The keys that match a glob pattern, sorted. Walks with SCAN, which blocks nobody."""
        names = await self._names(pattern)
        return sorted(name.removeprefix(PREFIX.encode()).decode("utf-8", "backslashreplace") for name in names)

    async def delete_keys(self, pattern: str) -> int:
        """Delete the objects that match a glob pattern; gives how many there were."""
        return await self._unlink(list(await self._names(pattern)))

    async def delete(self, keys: Iterable[str]) -> int:
        """Delete exactly these keys; gives how many there were."""
        return await self._unlink([_name(key) for key in keys])

    async def close(self) -> None:
        """Close the connection if it is this storage's own."""
        if self._owned:
            await self._connection.close()

    @property
    def signer(self) -> Signer:
        """The signer of this installation, made on first use."""
        if self._signer is None:
            self._signer = Signer.from_settings(self._connection.settings)
        return self._signer

    async def _unlink(self, names: Sequence[str | bytes]) -> int:
        deleted = 0
        if self._connection.is_cluster:  # one command is for one slot
            for name in names:
                deleted += int(await self._connection.command("UNLINK", name))
            return deleted
        for start in range(0, len(names), _CHUNK):
            deleted += int(await self._connection.command("UNLINK", *names[start : start + _CHUNK]))
        return deleted

    async def _names(self, pattern: str) -> set[bytes]:
        return await self._connection.scan(PREFIX + pattern)


def _name(key: str) -> str:
    if not isinstance(key, str) or not key or not is_unicode(key):
        raise ValueError(f"An object's key is a text that is not empty, not {key!r}.")
    return PREFIX + key
