"""Turns: tasks of one process that change the same value go one after the other.

A courtesy, not a lock: what they do is safe without it (compare and set), but of a hundred that race all but one would
lose, again and again.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import anyio

_inside: contextvars.ContextVar[bool] = contextvars.ContextVar("streammachine_turn", default=False)


@dataclass(slots=True)
class _Queue:
    lock: anyio.Lock = field(default_factory=anyio.Lock)
    users: int = 0


class Turns:
    """The queues of one storage, by key; each event loop has its own."""

    def __init__(self) -> None:
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Queue]] = WeakKeyDictionary()

    @asynccontextmanager
    async def of(self, key: str) -> AsyncIterator[None]:
        """Wait for our turn, and have it while the block runs. Inside of another turn nobody waits: two tasks that
        change two values in each other's order would wait for ever."""
        if _inside.get():
            yield
            return
        queues = self._loops.setdefault(asyncio.get_running_loop(), {})
        queue = queues.setdefault(key, _Queue())
        queue.users += 1
        try:
            async with queue.lock:
                token = _inside.set(True)
                try:
                    yield
                finally:
                    _inside.reset(token)
        finally:
            queue.users -= 1
            if not queue.users:
                del queues[key]
