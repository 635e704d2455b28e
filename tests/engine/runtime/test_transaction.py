"""transactional=True: what a handler sends and stores becomes visible together with the acknowledgement, once."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from decimal import Decimal
from typing import Any, cast

import anyio
import anyio.from_thread
import anyio.lowlevel
import orjson
import pydantic
import pytest

from streammachine.runtime.delivery import transaction
from streammachine.runtime.delivery.transaction import TransactionClosed
from streammachine.runtime.model.message import Message, MessageBatch
from streammachine.runtime.model.retry import RetryPolicy
from support.runtime import MakeApp, Probe
from support.valkey import until

pytestmark = pytest.mark.anyio
QUICK = RetryPolicy(max_attempts=3, initial=0.001, maximum=0.002)


async def test_nothing_is_visible_before_the_acknowledgement(make_app: MakeApp, probe: Probe) -> None:
    app, watcher = make_app(), make_app("watcher")
    inside, gate = anyio.Event(), anyio.Event()
    seen: list[object] = []

    @app.agent("s", transactional=True)
    async def handle(message: Message) -> None:
        assert await app.send("out", {"n": message.message["n"]}) is None
        assert await app.send_batch("out", [{"n": "batch"}]) == []
        await app.storage.write("last", message.message["n"])
        await app.storage.write("gone", 1)
        await app.storage.delete("gone")
        seen.append(await app.storage.read("last"))
        seen.append(await app.storage.keys())
        seen.append(await app.storage.exists("gone"))
        await message.state.write("count", 5)
        inside.set()
        await gate.wait()

    async with app:
        await app.send("s", {"n": "1"})
        await inside.wait()
        assert await probe.ask("EXISTS", "out", "sm:storage", "{s}:state:eventengine") == 0
        assert await watcher.storage.read("last") is None
        gate.set()
        await until(lambda: probe.done("s", 1))
        assert await watcher.storage.read("last") == "1"
    assert seen == ["1", ["last"], False]
    assert [fields["n"] for fields in await probe.fields("out")] == ["1", "batch"]
    assert await probe.ask("HGET", "{s}:state:eventengine", "count") == b"5"
    await watcher.redis.close()


async def test_a_failed_attempt_leaves_nothing(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()

    @app.agent("s", transactional=True, retry=QUICK)
    async def handle(message: Message) -> None:
        await app.send("out", {"attempt": message.attempt})
        await app.storage.incr("attempts")
        if message.attempt < 3:
            raise ValueError("not yet")

    async with app:
        await app.send("s", {"n": 1})
        await until(lambda: probe.done("s", 1))
        assert await app.storage.read("attempts") == 1
    assert [fields["attempt"] for fields in await probe.fields("out")] == ["3"]


async def test_a_conflicting_update_runs_the_handler_again(make_app: MakeApp, probe: Probe) -> None:
    app, other = make_app(), make_app("other")
    runs = 0

    @app.agent("s", transactional=True)
    async def handle(message: Message) -> None:
        nonlocal runs
        runs += 1
        value = await app.storage.update("count", lambda now: now + 1, default=0)
        if runs == 1:
            await other.storage.write("count", 10)
        await app.send("out", {"value": value})

    async with app:
        await app.send("s", {"n": 1})
        await until(lambda: probe.done("s", 1))
        assert await app.storage.read("count") == 11
        assert app.consumers[0][1].metrics.failed == 0
    assert runs == 2
    assert [fields["value"] for fields in await probe.fields("out")] == ["11"]
    await other.redis.close()


async def test_concurrent_handlers_count_exactly(make_app: MakeApp, probe: Probe) -> None:
    apps = [make_app(f"app{number}", count=100) for number in range(2)]
    for app in apps:

        def register(app=app) -> None:  # type: ignore[no-untyped-def]
            @app.agent("s", transactional=True, concurrency=8)
            async def handle(message: Message) -> None:
                # Two in one handler, at a time: neither is lost.
                await asyncio.gather(app.storage.incr("a"), app.storage.incr("a"), message.state.incr("b", 0.5))

        register()
    async with apps[0], apps[1]:
        await apps[0].send_batch("s", [{"n": number} for number in range(200)])
        await until(lambda: probe.done("s", 200), 60)
        assert await apps[0].storage.read("a") == 400
    assert await probe.ask("HGET", "{s}:state:eventengine", "b") in (b"100", b"100.0")


async def test_a_time_to_live_is_kept_by_updates_and_set_by_writes(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    await app.storage.write("kept", 1, ttl=500)
    await app.storage.write("dropped", 1, ttl=500)

    @app.agent("s", transactional=True)
    async def handle(message: Message) -> None:
        await app.storage.incr("kept")
        await app.storage.write("dropped", 2)
        await app.storage.write("new", 3, ttl=500)

    async with app:
        await app.send("s", {"n": 1})
        await until(lambda: probe.done("s", 1))
    kept, dropped, new = await probe.ask("HPTTL", "sm:storage", "FIELDS", 3, "kept", "dropped", "new")
    assert kept > 0
    assert dropped == -1
    assert new > 0


async def test_what_comes_late_is_refused(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    tasks: list[asyncio.Task[object]] = []
    gate = anyio.Event()

    @app.agent("s", transactional=True)
    async def handle(message: Message) -> None:
        async def late(action: str) -> None:
            await gate.wait()
            if action == "send":
                await app.send("out", {"n": 1})
            elif action == "write":
                await app.storage.write("k", 1)
            else:
                await app.storage.incr("k")

        tasks.extend(asyncio.create_task(late(action)) for action in ("send", "write", "incr"))

    async with app:
        await app.send("s", {"n": 1})
        await until(lambda: probe.done("s", 1))
        gate.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        await app.send("out", {"n": "outside"})  # nobody's transaction
    assert [type(error) for error in done] == [TransactionClosed] * 3
    assert [fields["n"] for fields in await probe.fields("out")] == ["outside"]


async def test_another_apps_sends_are_not_held_back(make_app: MakeApp, probe: Probe) -> None:
    app, other = make_app(), make_app("other")
    sent: list[str | None] = []

    @app.agent("s", transactional=True, retry=1)
    async def handle(message: Message) -> None:
        sent.append(await other.send("direct", {"n": 1}))
        raise ValueError("discarded")

    async with app, other:
        await app.send("s", {"n": 1})
        await until(lambda: probe.ask("XLEN", "{s}:dlq"))
    assert sent[0] is not None
    assert len(await probe.fields("direct")) == 1


async def test_sync_handlers_in_threads_have_their_transaction_too(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()

    @app.agent("s", transactional=True, retry=QUICK, concurrency=3)
    def handle(message: Message) -> None:
        assert anyio.from_thread.run(app.send, "out", {"n": message.message["n"]}) is None
        anyio.from_thread.run(app.storage.incr, "count")
        if message.attempt == 1:
            raise ValueError("not yet")

    async with app:
        await app.send_batch("s", [{"n": number} for number in range(10)])
        await until(lambda: probe.done("s", 10))
        assert await app.storage.read("count") == 10
    assert sorted(int(fields["n"]) for fields in await probe.fields("out")) == list(range(10))


async def test_one_failed_item_discards_the_batchs_effects(make_app: MakeApp, probe: Probe) -> None:
    app = make_app(count=100)

    @app.agent("s", transactional=True, batch=16, retry=QUICK)
    async def handle(batch: MessageBatch) -> None:
        for message in batch:
            await app.send("out", {"n": message.message["n"]})
            await app.storage.incr("count")
            if message.message["n"] == "5":
                batch.fail(message, "poison")
            if message.message["n"] == "11":
                raise ValueError("poison, too")

    await app.send_batch("s", [{"n": number} for number in range(16)])
    async with app:
        await until(lambda: probe.done("s", 16))
        assert await app.storage.read("count") == 14
    out = sorted(int(fields["n"]) for fields in await probe.fields("out"))
    assert out == [number for number in range(16) if number not in (5, 11)]
    assert sorted(letter["n"] for letter in await probe.fields("{s}:dlq")) == ["11", "5"]


async def test_an_output_of_another_type_is_refused_before_anything_is_written(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    await probe.ask("SET", "out", "text")

    @app.agent("s", transactional=True, retry=QUICK)
    async def handle(message: Message) -> None:
        await app.storage.incr("count")
        await app.send("out", {"n": 1})

    async with app:
        await app.send("s", {"n": 1})
        await until(lambda: probe.ask("XLEN", "{s}:dlq"))
        assert await app.storage.read("count") is None
    (letter,) = await probe.fields("{s}:dlq")
    assert (letter["sm-error-type"], letter["n"]) == ("WrongTypeError", "1")


async def test_dedup_keys_are_part_of_the_commit(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()

    @app.agent("s", transactional=True, concurrency=4, prefetch=10, dedup=lambda message: message.message["id"])
    async def handle(message: Message) -> None:
        await anyio.lowlevel.checkpoint()
        await app.send("out", {"id": message.message["id"]})
        await app.send("once", {"id": message.message["id"]}, dedup_key="one for all")

    await app.send_batch("s", [{"id": number % 3} for number in range(12)])
    async with app:
        await until(lambda: probe.done("s", 12))
        assert app.consumers[0][1].metrics.repeats == 9
    assert sorted(fields["id"] for fields in await probe.fields("out")) == ["0", "1", "2"]
    assert len(await probe.fields("once")) == 1


async def test_what_another_has_finished_is_not_committed_again(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    inside, gate = anyio.Event(), anyio.Event()

    @app.agent("s", transactional=True)
    async def handle(message: Message) -> None:
        await app.send("out", {"n": 1})
        inside.set()
        await gate.wait()

    async with app:
        identifier = await app.send("s", {"n": 1})
        assert identifier is not None
        await inside.wait()
        await probe.ask("XACK", "s", "eventengine", identifier)
        gate.set()
        await until(lambda: app.consumers[0][1].metrics.lost == 1)
    assert await probe.ask("EXISTS", "out") == 0


async def test_increments_of_one_value_stand_in_nobodys_way(make_app: MakeApp, probe: Probe) -> None:
    """All handlers have counted before the first of them commits, and none runs twice."""
    app = make_app(count=100)
    runs = 0
    counted, gate = anyio.Event(), anyio.Event()

    @app.agent("s", transactional=True, concurrency=48)
    async def handle(message: Message) -> None:
        nonlocal runs
        runs += 1
        await app.storage.incr("count")
        await app.storage.incr("half", 0.5)
        if runs == 48:
            counted.set()
        await gate.wait()

    async with app:
        await app.send_batch("s", [{"n": number} for number in range(48)])
        await counted.wait()
        gate.set()
        await until(lambda: probe.done("s", 48))
        assert await app.storage.read("count") == 48
        assert await app.storage.read("half") == 24
    assert runs == 48


@pytest.mark.parametrize("how", ["sent", "stored", "compared", "counted", "shown", "read", "updated", "pickled"])
async def test_a_sum_that_a_handler_reads_is_the_right_one(make_app: MakeApp, probe: Probe, how: str) -> None:
    """Each of many handlers at a time sees another sum, as if they ran one after the other."""
    app = make_app(count=100)

    @app.agent("s", transactional=True, concurrency=16)
    async def handle(message: Message) -> None:
        total = await app.storage.incr("count")
        await anyio.sleep(0.001)
        seen: object = total
        if how == "stored":
            await app.storage.write(f"seen {message.message['n']}", total)
            seen = await app.storage.read(f"seen {message.message['n']}")
        elif how == "compared":
            seen = next(number for number in range(1, 100) if number == total)
        elif how == "counted":
            seen = 2 * total - total
        elif how == "shown":
            seen = f"{total:d}"
        elif how == "read":
            seen = await app.storage.read("count")
        elif how == "updated":
            seen = await app.storage.update("count", lambda now: now)
        elif how == "pickled":
            await app.storage.write(f"seen {message.message['n']}", {"total": total})
            seen = (await app.storage.read(f"seen {message.message['n']}"))["total"]
        await app.send("out", {"seen": seen})  # type: ignore[dict-item]

    async with app:
        await app.send_batch("s", [{"n": number} for number in range(40)])
        await until(lambda: probe.done("s", 40))
        assert await app.storage.read("count") == 40
    assert sorted(int(fields["seen"]) for fields in await probe.fields("out")) == list(range(1, 41))


@pytest.mark.parametrize("how", ["json", "json key", "orjson", "pydantic", "decimal", "timedelta"])
async def test_what_takes_plain_numbers_only_gets_them(make_app: MakeApp, probe: Probe, how: str) -> None:
    """The handler is run once more and no attempt of a message is used up; every sum is the right one."""
    app = make_app(count=100)
    runs, attempts = 0, []

    @app.agent("s", transactional=True, concurrency=4, retry=RetryPolicy(max_attempts=1))
    async def handle(message: Message) -> None:
        nonlocal runs
        runs += 1
        attempts.append(message.attempt)
        total = await app.storage.incr("count")
        if how == "json":
            shown = json.dumps(total)
        elif how == "json key":
            shown = str(json.loads(json.dumps({total: 1})).popitem()[0])
        elif how == "orjson":
            shown = orjson.dumps(total).decode()
        elif how == "pydantic":
            shown = pydantic.TypeAdapter(dict[str, Any]).dump_json({"n": total}).decode()[5:-1]
        elif how == "decimal":
            shown = str(Decimal(total))
        else:
            shown = str(int(timedelta(seconds=total).total_seconds()))
        await app.send("out", {"seen": shown})

    async with app:
        await app.send("s", {"n": 0})
        await until(lambda: probe.done("s", 1))
        assert runs == 2
        await app.send_batch("s", [{"n": number} for number in range(20)])
        await until(lambda: probe.done("s", 21))
    assert set(attempts) == {1}
    assert sorted(int(fields["seen"]) for fields in await probe.fields("out")) == list(range(1, 22))


async def test_a_handler_that_fails_for_another_reason_is_not_run_again_unasked(
    make_app: MakeApp, probe: Probe
) -> None:
    app = make_app()
    runs = 0

    @app.agent("s", transactional=True, retry=RetryPolicy(max_attempts=1))
    async def handle(message: Message) -> None:
        nonlocal runs
        runs += 1
        await app.storage.incr("count")
        raise TypeError("Object of type Order is not JSON serializable")

    async with app:
        await app.send("s", {"n": 0})
        await until(lambda: probe.ask("XLEN", "{s}:dlq"))
    assert runs == 1


async def test_a_sum_counts_like_the_number_that_it_is(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    seen: list[object] = []

    @app.agent("s", transactional=True)
    async def handle(message: Message) -> None:
        total = cast("int", await app.storage.incr("count", 6))
        seen.extend((total & 3, 1 << total, total | 1, ~total, pow(total, 2, 5), 2**total, total.bit_length()))
        seen.append(await app.storage.incr("other", total))
        await app.storage.write("nested", {"totals": [total]})

    async with app:
        await app.send("s", {"n": 0})
        await until(lambda: probe.done("s", 1))
    assert seen == [2, 64, 7, -7, 1, 64, 3, 6]
    assert await probe.ask("HGET", "sm:storage", "nested") == b'{"totals":[6]}'


async def test_increments_mix_with_the_other_writes_of_a_handler(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    seen: list[object] = []
    await app.storage.write("deleted", 1)

    @app.agent("s", transactional=True)
    async def handle(message: Message) -> None:
        storage = app.storage
        await storage.incr("a", 2)
        seen.append((await storage.exists("a"), await storage.keys(), await storage.count()))
        await storage.write("b", 5)
        seen.append(await storage.incr("b", 2))
        await storage.incr("c", 3)
        await storage.write("c", 10)
        await storage.incr("d")
        seen.append(await storage.update("d", lambda now: now * 10, default=0))
        await storage.incr("deleted")
        seen.append(await storage.delete("deleted"))
        seen.append(await storage.exists("deleted"))
        await storage.incr("big", 2**62)
        await storage.incr("big", 2**62)  # beyond what the server counts to
        await asyncio.gather(
            *(storage.incr("e") for _ in range(5)), storage.update("e", lambda now: now + 1, default=0)
        )

    async with app:
        await app.send("s", {"n": 1})
        await until(lambda: probe.done("s", 1))
        values = {key: await app.storage.read(key) for key in await app.storage.keys()}
        assert app.consumers[0][1].metrics.failed == 0
    assert values == {"a": 2, "b": 7, "c": 10, "d": 10, "big": 2**63, "e": 6}
    assert seen == [(True, ["a", "deleted"], 2), 7, 10, True, False]


async def test_what_cannot_be_counted_fails_by_name_and_writes_nothing(make_app: MakeApp, probe: Probe) -> None:
    app, other = make_app(), make_app("other")
    await app.storage.write("text", "no number")

    @app.agent("s", transactional=True, retry=QUICK)
    async def handle(message: Message) -> None:
        await app.storage.incr(message.message["key"])
        if message.message["key"] == "count":  # it becomes another type behind the handler's back
            await other.storage.write("count", "no number")
        await app.send("out", {"n": 1})

    async with app:
        await app.send("s", {"key": "text"})
        await until(lambda: probe.done("s", 1))
        await app.send("s", {"key": "count"})
        await until(lambda: probe.done("s", 2))
    letters = {letter["key"]: letter for letter in await probe.fields("{s}:dlq")}
    assert {letter["sm-error-type"] for letter in letters.values()} == {"WrongTypeError"}
    assert "a str, not a number" in letters["text"]["sm-error"]
    assert await probe.ask("EXISTS", "out") == 0
    await other.redis.close()


async def test_a_handler_that_waits_for_another_in_its_turn_does_not_wait_for_ever(
    make_app: MakeApp, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "QUEUE_WAIT", 0.1)
    app, other = make_app(), make_app("other")
    inside, done = anyio.Event(), anyio.Event()
    runs = {"first": 0, "second": 0}

    @app.agent("s", transactional=True, concurrency=2)
    async def handle(message: Message) -> None:
        kind = message.message["kind"]
        runs[kind] += 1
        await app.storage.update("count", lambda now: now + 1, default=0)
        if kind == "first" and runs[kind] == 1:
            await other.storage.write("count", 10)  # so it runs again, in its turn
        elif kind == "first":
            inside.set()
            await done.wait()
        else:
            await app.send("done", {"n": 1})

    @app.agent("done")
    async def tell(message: Message) -> None:
        done.set()

    async with app:
        await app.send("s", {"kind": "first"})
        await inside.wait()
        await app.send("s", {"kind": "second"})
        await until(lambda: probe.done("s", 2))
        assert await app.storage.read("count") == 12
    await other.redis.close()


async def test_handlers_that_update_one_value_take_turns(make_app: MakeApp, probe: Probe) -> None:
    """Nobody runs again and again: once beside the others, once in its turn."""
    app = make_app(count=100)
    runs: dict[str, int] = {}

    @app.agent("s", transactional=True, concurrency=48)
    async def handle(message: Message) -> None:
        number = message.message["n"]
        runs[number] = runs.get(number, 0) + 1
        keys = ("a", "b") if int(number) % 2 else ("b", "a")
        for key in keys:
            await app.storage.update(key, lambda now: now + 1, default=0)
            await anyio.sleep(0.002)

    async with app:
        await app.send_batch("s", [{"n": number} for number in range(144)])
        await until(lambda: probe.done("s", 144))
        assert (await app.storage.read("a"), await app.storage.read("b")) == (144, 144)
    assert max(runs.values()) <= 3
