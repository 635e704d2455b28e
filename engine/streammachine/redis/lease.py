"""A lease: a key in Redis that belongs to one holder for some seconds, so that of many processes one does the work.

The holder renews it while it works; when its process dies, another takes it once it has run out. What is done under a
lease must bear being done twice: a holder that stands still longer than its lease learns only afterwards that it is
another's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streammachine.redis.connection import RedisConnection

# KEYS[1] the lease; ARGV[1] the holder's token, ARGV[2] its new life in ms, or "0" to give it up. Only the holder's own
# lease is touched: gives 0 where it is another's, or nobody's.
_HOLD = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then return redis.call('DEL', KEYS[1]) end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""


class Lease:
    """One holder's claim on a key.

    Args:
        connection: where the key is.
        key: the key.
        token: names the holder; no two holders may have the same.
        seconds: how long the lease lasts without renewal; renew it every third of that.

    Attributes:
        key: as given. milliseconds: how long it lasts.

    Example:
        >>> lease = Lease(connection, "sm:agents:lease:big", uuid.uuid4().hex, 6.0)
        >>> if await lease.take():
        ...     try:
        ...         await work()  # and await lease.renew() every two seconds meanwhile
        ...     finally:
        ...         await lease.release()
    """

    __slots__ = ("_connection", "_token", "key", "milliseconds")

    def __init__(self, connection: RedisConnection, key: str, token: str, seconds: float) -> None:
        self.key = key
        self._connection = connection
        self._token = token
        self.milliseconds = max(1, int(seconds * 1000))

    async def take(self) -> bool:
        """Take it if nobody has it; whether it is ours now.

        Raises:
            RedisUnavailableError: Redis does not answer. It may be ours all the same.
        """
        taken = await self._connection.command("SET", self.key, self._token, "NX", "PX", self.milliseconds)
        return taken is not None

    async def renew(self) -> bool:
        """Begin its time anew; False when it has run out, or is another's.

        Raises:
            RedisUnavailableError: Redis does not answer.
        """
        return await self._hold(self.milliseconds)

    async def release(self) -> None:
        """Give it up, if it is still ours.

        Raises:
            RedisUnavailableError: Redis does not answer; it runs out by itself then.
        """
        await self._hold(0)

    async def _hold(self, milliseconds: int) -> bool:
        reply = await self._connection.command("EVAL", _HOLD, 1, self.key, self._token, milliseconds, repeatable=True)
        return bool(reply)


async def is_leased(connection: RedisConnection, key: str) -> bool:
    """Whether anybody has the lease.

    Raises:
        RedisUnavailableError: Redis does not answer.
    """
    return bool(await connection.command("EXISTS", key, repeatable=True))
