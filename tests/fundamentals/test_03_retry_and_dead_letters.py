"""Chapter 3: what happens when a handler fails: it is tried again, and in the end the message is a dead letter.

A dead letter stands in the stream ``{orders}:dlq`` with its fields untouched and the reason beside them. A redrive
gives it back to the group that failed on it, and to no other.
"""

from __future__ import annotations

import pytest

from streammachine import App, DeadLetters, Message, Reject, RetryPolicy, wait_until

pytestmark = pytest.mark.anyio
QUICK = RetryPolicy(max_attempts=3, initial=0.01, maximum=0.05)  # the default waits longer


async def test_a_handler_that_raises_is_tried_again(app: App) -> None:
    attempts = []

    @app.agent("orders", retry=QUICK)
    async def bill(order: Message) -> None:
        attempts.append(order.attempt)
        if order.attempt < 3:
            raise RuntimeError("the bank is away")

    async with app:
        await app.send("orders", {"id": "1"})
        await wait_until(lambda: len(attempts) == 3)
    assert attempts == [1, 2, 3]


async def test_what_cannot_be_done_is_a_dead_letter_that_can_be_given_back(app: App) -> None:
    done = []
    bank_knows = set()

    @app.agent("orders", group="billing", retry=QUICK)
    async def bill(order: Message) -> None:
        if order.message["account"] not in bank_knows:
            raise Reject("no such account")  # trying again would not help
        done.append(order.message["account"])

    async with app:
        await app.send("orders", {"account": "Ada"})
        letters = await DeadLetters.open(app.redis, "orders")

        async def is_dead() -> bool:
            return await letters.count(app.redis) == 1

        await wait_until(is_dead)
        (letter,), _ = await letters.newest(app.redis, 10)
        assert (letter.data["account"], letter.fact("reason")) == ("Ada", "rejected")

        bank_knows.add("Ada")
        await letters.redrive(app.redis, [letter.id])  # `streammachine dlq redrive orders --all`
        await wait_until(lambda: done == ["Ada"])
        assert await letters.count(app.redis) == 0
