"""Tasks of one process that change the same value go one after the other.

A courtesy, not a lock: what they do is safe without it (compare and set), but of a hundred that race all but one would
lose, again and again.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import anyio

_inside: contextvars.ContextVar[bool] = contextvars.ContextVar("streammachine_turn", default=False)


@dataclass(slots=True)
class _Queue:
    lock: anyio.Lock = field(default_factory=anyio.Lock)
    users: int = 0


class UpdateQueue:
    """The queues of one storage, by key; each event loop has its own."""

    def __init__(self) -> None:
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Queue]] = WeakKeyDictionary()

    @asynccontextmanager
    async def of(self, *keys: str, patience: float = math.inf) -> AsyncIterator[None]:
        """Wait for our turn with all of these keys, first come first served, and have it while the block runs. Inside
        of another turn nobody waits: two tasks that change two values in each other's order would wait for ever.

        Args:
            patience: seconds to wait for one key's turn; then the block runs without it.
        """
        if not keys or _inside.get():
            yield
            return
        async with AsyncExitStack() as stack:
            for key in sorted(set(keys)):  # in one order, so that two that want two keys never wait for each other
                await stack.enter_async_context(self._turn(key, patience))
            token = _inside.set(True)
            try:
                yield
            finally:
                _inside.reset(token)

    def taken(self, *keys: str) -> bool:
        """Whether somebody has a turn with one of these keys, or waits for it."""
        queues = self._loops.get(asyncio.get_running_loop(), {})
        return any(key in queues for key in keys)

    @asynccontextmanager
    async def _turn(self, key: str, patience: float) -> AsyncIterator[None]:
        queues = self._loops.setdefault(asyncio.get_running_loop(), {})
        queue = queues.setdefault(key, _Queue())
        queue.users += 1
        try:
            mine = False
            with anyio.move_on_after(patience):
                await queue.lock.acquire()
                mine = True
            try:
                yield
            finally:
                if mine:
                    queue.lock.release()
        finally:
            queue.users -= 1
            if not queue.users:
                del queues[key]
