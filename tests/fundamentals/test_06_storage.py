"""Chapter 6: Storage, values that all processes, machines and the MCP tools share.

It is one hash in Redis. A value comes back as it was written: tuples, dates and your own classes too.
"""

from __future__ import annotations

import anyio
import pytest

from streammachine import RedisConnection, Storage, wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def storage(redis: RedisConnection) -> Storage:
    """In your program: ``storage = Storage()``, or ``app.storage`` in a handler."""
    return Storage(connection=redis)


async def test_a_value_comes_back_as_it_was_written(storage: Storage) -> None:
    await storage.write("limits", {"BTCUSDT": 50_000.5, "pair": (1, 2)})
    assert await storage.read("limits") == {"BTCUSDT": 50_000.5, "pair": (1, 2)}
    assert await storage.read("nothing", default="nothing here") == "nothing here"


async def test_counting_and_changing_are_atomic(storage: Storage) -> None:
    async def count() -> None:
        for _ in range(10):
            await storage.incr("visits")
            await storage.update("names", lambda names: [*names, "x"], default=[])

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(count)
    assert await storage.read("visits") == 50
    assert len(await storage.read("names")) == 50


async def test_a_value_may_have_an_end(storage: Storage) -> None:
    await storage.write("price", 61_837.63, ttl=0.05)

    async def is_gone() -> bool:
        return await storage.read("price") is None

    await wait_until(is_gone)
