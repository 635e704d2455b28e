"""Chapter 2: an agent, which handles the messages of a stream, one after the other or several at once.

An ``App`` holds agents and timers. A message is acknowledged when its handler has returned, and not before: what a
process had in its hands when it died is given to another one.
"""

from __future__ import annotations

import pytest

from streammachine import App, Message, wait_until

pytestmark = pytest.mark.anyio


async def test_an_agent_handles_what_stands_in_its_stream_and_what_comes(app: App) -> None:
    seen = []

    @app.agent("orders", group="billing")
    async def bill(order: Message) -> None:
        seen.append((order.message["id"], order.attempt))

    await app.send("orders", {"id": "1"})  # before anybody reads: it waits in the stream
    async with app:  # app.start() in a script: it blocks until SIGTERM or Ctrl-C
        await app.send("orders", {"id": "2"})
        await wait_until(lambda: len(seen) == 2)
    assert seen == [("1", 1), ("2", 1)]


async def test_each_group_gets_every_message(app: App) -> None:
    seen = []

    @app.agent("orders", group="billing")
    async def bill(order: Message) -> None:
        seen.append(("billing", order.message["id"]))

    @app.agent("orders", group="audit")
    def note(order: Message) -> None:  # a function that is not async runs in a thread
        seen.append(("audit", order.message["id"]))

    async with app:
        await app.send("orders", {"id": "1"})
        await wait_until(lambda: len(seen) == 2)
    assert sorted(seen) == [("audit", "1"), ("billing", "1")]


async def test_messages_of_one_key_keep_their_order(app: App) -> None:
    seen = []

    @app.agent("moves", concurrency=8, key="piece")
    async def move(record: Message) -> None:
        seen.append((record.message["piece"], record.message["to"]))

    async with app:
        await app.send_batch("moves", [{"piece": p, "to": n} for n in range(3) for p in ("king", "queen")])
        await wait_until(lambda: len(seen) == 6)
    assert [to for piece, to in seen if piece == "king"] == ["0", "1", "2"]
