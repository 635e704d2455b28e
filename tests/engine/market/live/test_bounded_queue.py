"""The bounded queue between a run and its consumer, and the rate."""

from __future__ import annotations

import anyio
import pytest

from streammachine.market.clock.clock import VirtualClock
from streammachine.market.live.bounded_queue import Queue, RowRate

pytestmark = pytest.mark.anyio


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


async def test_rows_come_out_in_order_and_a_full_queue_waits() -> None:
    queue: Queue[int] = Queue(3)
    async with anyio.create_task_group() as group:
        group.start_soon(queue.put, range(8))
        await turns()
        assert len(queue) == 3
        found: list[int] = []
        while len(found) < 8:
            found += await queue.get()
    assert found == list(range(8))


async def test_after_the_end_what_is_there_is_still_given() -> None:
    queue: Queue[int] = Queue(10)
    await queue.put([1, 2])
    queue.end()
    await queue.put([3])
    assert await queue.get() == [1, 2]
    assert await queue.get() == []


async def test_the_end_wakes_who_waits_on_either_side() -> None:
    queue: Queue[int] = Queue(1)
    async with anyio.create_task_group() as group:
        group.start_soon(queue.get)
        await turns()
        queue.end()
    other: Queue[int] = Queue(1)
    async with anyio.create_task_group() as group:
        group.start_soon(other.put, [1, 2, 3])
        await turns()
        other.discard()
    assert await other.get() == []


async def test_opened_up_it_takes_all() -> None:
    queue: Queue[int] = Queue(1)
    async with anyio.create_task_group() as group:
        group.start_soon(queue.put, range(100))
        await turns()
        queue.open_up()
    assert await queue.get() == list(range(100))


async def test_a_rate_is_of_the_last_minute() -> None:
    clock = VirtualClock()
    rate = RowRate(clock)
    async with anyio.create_task_group() as group:
        group.start_soon(clock.drive)
        for _ in range(10):
            rate.add(30)
            rate.add(30)
            await clock.sleep(1.0)
        assert rate.per_second() == pytest.approx(60.0)
        await clock.sleep(200.0)
        assert rate.per_second() == 0.0
        group.cancel_scope.cancel()
    assert rate.total == 600
