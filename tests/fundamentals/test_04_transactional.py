"""Chapter 4: with ``transactional=True`` what a handler sends and stores becomes visible together with the
acknowledgement, once. A handler that fails, or whose process dies, leaves nothing behind.
"""

from __future__ import annotations

import pytest

from streammachine import App, Message, RetryPolicy, wait_until
from streammachine.redis import streams

pytestmark = pytest.mark.anyio


async def test_a_failed_attempt_leaves_nothing_behind(app: App) -> None:
    attempts = []

    @app.agent("orders", transactional=True, retry=RetryPolicy(max_attempts=3, initial=0.01, maximum=0.05))
    async def bill(order: Message) -> None:
        await app.send("bills", {"id": order.message["id"]})
        await app.storage.incr("billed")
        attempts.append(order.attempt)
        if order.attempt < 3:
            raise RuntimeError("after the bill was sent")

    async def is_billed() -> bool:
        return bool(await app.storage.read("billed"))

    async with app:
        await app.send("orders", {"id": "1"})
        await wait_until(is_billed)
        bills = await streams.read_from(app.redis, "bills")
        assert attempts == [1, 2, 3]  # it ran three times,
        assert [bill.data["id"] for bill in bills] == ["1"]  # and one bill was sent
        assert await app.storage.read("billed") == 1


async def test_a_message_that_comes_twice_is_handled_once(app: App) -> None:
    handled = []

    @app.agent("payments", dedup=lambda record: record.message["id"])
    async def pay(record: Message) -> None:
        handled.append(record.message["id"])

    async with app:
        await app.send_batch("payments", [{"id": "1"}, {"id": "1"}, {"id": "2"}])
        await wait_until(lambda: "2" in handled)
    assert handled == ["1", "2"]
