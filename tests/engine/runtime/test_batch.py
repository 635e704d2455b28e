"""batch= handlers: lists, results of single messages, and finding the one to blame."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from streammachine.runtime.model.config import Batch
from streammachine.runtime.model.message import Message, MessageBatch
from streammachine.runtime.model.retry import Reject, RetryPolicy, Skip
from support.runtime import MakeApp, Probe
from support.valkey import until

pytestmark = pytest.mark.anyio
QUICK = RetryPolicy(max_attempts=3, initial=0.001, maximum=0.002)


def numbers(batch: list[Message]) -> list[int]:
    return [int(message.message["n"]) for message in batch]


async def test_a_batch_is_as_large_as_asked_and_in_order(make_app: MakeApp, probe: Probe) -> None:
    app = make_app(count=1000)
    got: list[list[int]] = []

    @app.agent("s", batch=100)
    async def handle(batch: MessageBatch) -> None:
        got.append(numbers(batch))

    await app.send_batch("s", [{"n": number} for number in range(1000)])
    async with app:
        await until(lambda: probe.done("s", 1000))
    assert [number for batch in got for number in batch] == list(range(1000))
    assert max(map(len, got)) == 100
    await app.redis.close()


async def test_within_waits_for_a_batch_to_fill(make_app: MakeApp) -> None:
    app = make_app()
    got: list[list[int]] = []

    @app.agent("s", batch=Batch(3, within=60))
    async def handle(batch: MessageBatch) -> None:
        got.append(numbers(batch))

    async with app:
        for number in range(6):
            await app.send("s", {"n": number})
        await until(lambda: len(got) == 2)
        await app.send("s", {"n": 6})  # an incomplete one does not hold up the end
        await until(lambda: app.consumers[0][1].held == 1)
    assert got[:2] == [[0, 1, 2], [3, 4, 5]]


async def test_sync_batches_run_in_a_thread(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    got: list[int] = []

    @app.agent("s", batch=5)
    def handle(batch: MessageBatch) -> None:
        got.extend(numbers(batch))

    async with app:
        await app.send_batch("s", [{"n": number} for number in range(20)])
        await until(lambda: probe.done("s", 20))
    assert got == list(range(20))


async def test_single_messages_of_a_batch_fail_alone(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    calls: list[list[int]] = []

    @app.agent("s", batch=Batch(10, within=30), retry=QUICK)
    async def handle(batch: MessageBatch) -> None:
        calls.append(numbers(batch))
        for message in batch:
            if message.message["n"] == "3" and message.attempt < 3:
                batch.fail(message, "not yet")
            if message.message["n"] == "7":
                batch.fail(message, Reject("never"))
        with pytest.raises(ValueError, match="not part"):
            batch.fail(Message(), "x")

    async with app:
        await app.send_batch("s", [{"n": number} for number in range(10)])
        await until(lambda: probe.done("s", 10))
    assert calls == [list(range(10)), [3], [3]]
    letters = await probe.fields("{s}:dlq")
    assert [(letter["n"], letter["sm-reason"]) for letter in letters] == [("7", "rejected")]


async def test_a_failing_batch_is_split_to_find_the_poison(make_app: MakeApp, probe: Probe) -> None:
    app = make_app(count=100)
    done: list[int] = []
    calls = 0

    @app.agent("s", batch=Batch(64, within=30), retry=QUICK)
    async def handle(batch: MessageBatch) -> None:
        nonlocal calls
        calls += 1
        if 17 in numbers(batch):
            raise ValueError("poison")
        done.extend(numbers(batch))

    async with app:
        await app.send_batch("s", [{"n": number} for number in range(64)])
        await until(lambda: probe.done("s", 64))
    assert sorted(done) == [number for number in range(64) if number != 17]
    assert [letter["n"] for letter in await probe.fields("{s}:dlq")] == ["17"]
    assert calls <= 1 + 2 * 6 + 2  # halving, and the poison's own attempts


async def test_a_skipped_batch_is_acknowledged(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    calls = 0

    @app.agent("s", batch=5)
    async def handle(batch: MessageBatch) -> None:
        nonlocal calls
        calls += 1
        raise Skip

    async with app:
        await app.send_batch("s", [{"n": number} for number in range(5)])
        await until(lambda: probe.done("s", 5))
    assert calls <= 5
    assert await probe.ask("EXISTS", "{s}:dlq") == 0


async def test_the_end_hands_back_what_a_split_has_not_reached(make_app: MakeApp, probe: Probe) -> None:
    app = make_app(count=100)
    inside, gate = anyio.Event(), anyio.Event()

    @app.agent("s", batch=Batch(8, within=30), retry=QUICK)
    async def handle(batch: MessageBatch) -> None:
        if not inside.is_set():
            inside.set()
            await gate.wait()
            raise ValueError("the first call fails while the app ends")

    async with app:
        await app.send_batch("s", [{"n": number} for number in range(8)])
        await inside.wait()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app.shutdown)
            await until(lambda: app.consumers[0][1].stopping)
            gate.set()
    rows = await probe.rows("s")
    assert len(rows) == 8
    assert {(consumer, deliveries) for _, consumer, deliveries in rows} == {("sm-handed-back", 0)}


async def test_batches_with_several_workers_lose_nothing(make_app: MakeApp, probe: Probe) -> None:
    app = make_app(count=100)
    got: list[int] = []

    @app.agent("s", batch=Batch(10, within=0.01), concurrency=4)
    async def handle(batch: MessageBatch) -> None:
        await anyio.lowlevel.checkpoint()
        got.extend(numbers(batch))

    async with app:
        await app.send_batch("s", [{"n": number} for number in range(997)])
        await until(lambda: probe.done("s", 997))
    assert sorted(got) == list(range(997))
