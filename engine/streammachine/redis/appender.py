"""Appender: sends of many tasks travel together in one pipeline.

Whatever has come while the last pipeline was under way goes with the next: no timer, no added wait for a lone send, and
a thousand concurrent sends cost one round trip. Order is the order of the calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import anyio

from streammachine.errors import RedisUnavailableError, StreamMachineError
from streammachine.redis.commands import RedisCommands
from streammachine.redis.transport.codec import RespError
from streammachine.redis.transport.raw_connection import RawConnection, encode_command, refused

MOST = 1000  # sends in one pipeline

_Send = tuple[bytes, str, "asyncio.Future[str]"]  # the command, its stream, who waits


class Appender:
    """Collects XADDs and sends them. ``run`` it in a task group."""

    def __init__(self, connection: RedisCommands) -> None:
        self._connection = connection
        self._waiting: list[_Send] = []
        self._arrived = anyio.Event()

    async def append(self, stream: str, fields: Mapping[bytes, bytes], maxlen: int = 0) -> str:
        """XADD the encoded fields; gives the id.

        Raises:
            What the server said of this one, or that the connection broke (whether it was appended is not known then).
        """
        trim = ("MAXLEN", "~", maxlen) if maxlen else ()
        flat = [part for pair in fields.items() for part in pair]
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.append((encode_command(("XADD", stream, *trim, "*", *flat)), stream, future))
        self._arrived.set()
        return await future

    async def run(self) -> None:
        """Send what comes until cancelled; what waits then fails by name."""
        connection: RawConnection | None = None
        batch: list[_Send] = []
        try:
            while True:
                if not self._waiting:
                    self._arrived = anyio.Event()
                    await self._arrived.wait()
                batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                try:
                    if connection is None or connection.stale:
                        if connection is not None:
                            await connection.aclose()
                        connection = await self._connection.open_connection()
                    payload = b"".join(command for command, _, _ in batch)
                    replies = await connection.exchange(payload, len(batch), self._connection.timeout)
                except StreamMachineError as error:
                    _fail(batch, await self._connection.explain(error))
                    continue
                for (_, stream, future), reply in zip(batch, replies, strict=True):
                    if future.done():
                        continue
                    if isinstance(reply, RespError):
                        future.set_exception(refused(reply, self._connection.name, ("XADD", stream)))
                    else:
                        future.set_result(bytes(reply).decode())
                batch = []
        finally:
            _fail([*batch, *self._waiting], RedisUnavailableError("The app has ended; the record was not sent."))
            self._waiting = []
            if connection is not None:
                await connection.aclose()


def _fail(batch: list[_Send], error: StreamMachineError) -> None:
    for *_, future in batch:
        if not future.done():
            future.set_exception(error)
