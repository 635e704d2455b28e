"""Who gets which message, how many at once, and in which order."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict

import anyio
import anyio.lowlevel
import pytest

from streammachine.redis.connection import RedisConnection
from streammachine.runtime.model.message import Message
from streammachine.runtime.model.retry import RetryPolicy
from streammachine.runtime.presence import PAUSED
from support.runtime import MakeApp, Probe
from support.valkey import until

pytestmark = pytest.mark.anyio
LONG = 60.0


async def test_a_group_begins_at_the_streams_start(make_app: MakeApp, redis: RedisConnection) -> None:
    await redis.pipeline_xadd("s", [{"n": 0}, {"n": 1}])
    app = make_app()
    got, late = [], []

    @app.agent("s")
    async def handle(message: Message) -> None:
        got.append(message.message["n"])

    @app.agent("s", group="late", start="$")
    async def only_new(message: Message) -> None:
        late.append(message.message["n"])

    async with app:
        await app.send("s", {"n": 2})
        await until(lambda: len(got) == 3 and late)
    assert (got, late) == (["0", "1", "2"], ["2"])


async def test_each_group_gets_every_message_and_consumers_of_one_share(make_app: MakeApp) -> None:
    got: dict[str, list[str]] = defaultdict(list)
    apps = []
    for number in range(3):
        app = make_app(f"app{number}")
        apps.append(app)
        for group in ("one", "two"):

            def register(group: str = group, number: int = number) -> None:
                async def handle(message: Message) -> None:
                    got[group].append(message.message["n"])
                    got[f"{group} {number}"].append(message.message["n"])
                    await anyio.lowlevel.checkpoint()

                apps[number].agent("s", group=group, prefetch=2)(handle)

            register()
    async with apps[0], apps[1], apps[2]:
        await apps[0].send_batch("s", [{"n": number} for number in range(300)])
        await until(lambda: len(got["one"]) == len(got["two"]) == 300)
    for group in ("one", "two"):
        assert sorted(map(int, got[group])) == list(range(300))
        assert all(got[f"{group} {number}"] for number in range(3))


async def test_one_agent_reads_several_streams(make_app: MakeApp) -> None:
    app = make_app()
    got = set()

    @app.agent(["a", "b"])
    async def handle(message: Message) -> None:
        got.add((message.topic, message.message["n"]))

    async with app:
        await app.send("a", {"n": 1})
        await app.send("b", {"n": 2})
        await until(lambda: len(got) == 2)
    assert got == {("a", "1"), ("b", "2")}


async def test_sync_handlers_run_in_threads(make_app: MakeApp) -> None:
    app = make_app(max_threads=3)
    threads, most, now = set(), 0, 0
    lock, gate = threading.Lock(), threading.Event()

    @app.agent("s", concurrency=6)
    def handle(message: Message) -> None:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
            threads.add(threading.get_ident())
        gate.wait(LONG)
        with lock:
            now -= 1

    async with app:
        await app.send_batch("s", [{"n": number} for number in range(12)])
        await until(lambda: now == 3)
        gate.set()
        await until(lambda: app.consumers[0][1].metrics.consumed == 12)
    assert most == 3
    assert threading.get_ident() not in threads


async def test_as_many_run_at_once_as_asked_and_no_more(make_app: MakeApp) -> None:
    app = make_app()
    now, most, gate = 0, 0, anyio.Event()

    @app.agent("s", concurrency=8)
    async def handle(message: Message) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await gate.wait()
        now -= 1

    async with app:
        # One after the other: a worker that slept must wake, too.
        for number in range(8):
            await app.send("s", {"n": number})
            await until(lambda number=number: now == number + 1)  # type: ignore[misc]
        await app.send_batch("s", [{"n": number} for number in range(20)])
        gate.set()
        await until(lambda: app.consumers[0][1].metrics.consumed == 28)
    assert most == 8


async def test_an_idle_worker_is_not_kept_waiting_by_busy_ones(make_app: MakeApp) -> None:
    app = make_app()
    got, gate = [], anyio.Event()

    @app.agent("s", concurrency=6, prefetch=6)
    async def handle(message: Message) -> None:
        if message.message["n"] == "slow":
            await gate.wait()
        got.append(message.message["n"])

    async with app:
        await app.send_batch("s", [{"n": "slow"}] * 4)
        for number in range(10):
            await app.send("s", {"n": number})
            await until(lambda number=number: len(got) == number + 1)  # type: ignore[misc]
        gate.set()


async def test_key_keeps_each_keys_order_whatever_fails(make_app: MakeApp) -> None:
    app = make_app(count=100)
    rnd = random.Random(6)
    got: dict[str, list[int]] = defaultdict(list)
    running: set[str] = set()

    @app.agent(
        "s", key="k", concurrency=8, prefetch=200, retry=RetryPolicy(max_attempts=50, initial=0.001, maximum=0.002)
    )
    async def handle(message: Message) -> None:
        key = message.message["k"]
        assert key not in running
        running.add(key)
        try:
            if rnd.random() < 0.05:
                await anyio.lowlevel.checkpoint()
            if rnd.random() < 0.02:
                raise ValueError("again")
            got[key].append(int(message.message["n"]))
        finally:
            running.discard(key)

    async with app:
        await app.send_batch("s", [{"k": f"k{n % 10}", "n": n // 10} for n in range(10_000)])
        await until(lambda: sum(map(len, got.values())) == 10_000, LONG)
    assert all(numbers == list(range(1000)) for numbers in got.values())
    assert app.agents[0].config.key == "k"


async def test_key_may_be_a_function_and_its_failure_is_the_messages(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    got = []

    @app.agent("s", key=lambda message: message.json("body")["customer"], concurrency=4, retry=2)
    async def handle(message: Message) -> None:
        got.append(message.message["body"])

    async with app:
        await app.send_batch("s", [{"body": '{"customer": 1}'}, {"body": "no json"}, {"body": '{"customer": 2}'}])
        await until(lambda: len(got) == 2)
        await until(lambda: probe.ask("XLEN", "{s}:dlq"))
    assert "JSONDecodeError" in str(await probe.fields("{s}:dlq"))


async def test_no_more_is_held_than_the_prefetch(make_app: MakeApp, probe: Probe) -> None:
    apps = [make_app(f"app{number}", count=1000) for number in range(2)]
    got, most = [], 0
    for app in apps:

        @app.agent("s", prefetch=20, concurrency=4, lease=1.0)
        async def handle(message: Message) -> None:
            await anyio.sleep(0.001)
            got.append(message.message["n"])

    async def look() -> bool:
        nonlocal most
        counts: dict[str, int] = defaultdict(int)
        for _, consumer, _ in await probe.rows("s"):
            counts[consumer] += 1
        most = max([most, *counts.values()])
        return len(set(got)) >= 1000

    async with apps[0], apps[1]:
        await apps[0].send_batch("s", [{"n": number} for number in range(1000)])
        await until(look, LONG)
    assert most <= 20
    assert sorted(set(map(int, got))) == list(range(1000))


async def test_what_a_dead_consumer_held_counts_within_the_prefetch(make_app: MakeApp, probe: Probe) -> None:
    app = make_app(count=1000)
    await probe.ask("XGROUP", "CREATE", "s", "eventengine", "0", "MKSTREAM")
    await probe.redis.pipeline_xadd("s", [{"n": number} for number in range(200)])
    await probe.ask("XREADGROUP", "GROUP", "eventengine", "dead", "COUNT", 100, "STREAMS", "s", ">")
    most, got = 0, set()

    @app.agent("s", prefetch=10, lease=0.4)
    async def handle(message: Message) -> None:
        got.add((message.message["n"], message.attempt))

    async def look() -> bool:
        nonlocal most
        most = max(most, sum(consumer != "dead" for _, consumer, _ in await probe.rows("s")))
        return len(got) == 200

    async with app:
        await until(look, LONG)
    assert most <= 10
    assert sorted(attempt for _, attempt in got) == [1] * 100 + [2] * 100


async def test_a_slow_handler_keeps_its_lease(make_app: MakeApp, probe: Probe) -> None:
    """So does what waits behind it: for three leases, in which another App looks for entries that nobody renews."""
    apps = [make_app(f"app{number}") for number in range(2)]
    began: list[int] = []
    lease = 2.0  # long enough that a busy machine renews it in time
    for app in apps:

        @app.agent("s", lease=lease, prefetch=5)
        async def handle(message: Message) -> None:
            began.append(message.attempt)
            if message.message["n"] == "0":
                await anyio.sleep(3 * lease)

    async with apps[0], apps[1]:
        await apps[0].send_batch("s", [{"n": number} for number in range(4)])
        await until(lambda: probe.done("s", 4), LONG)
    assert began == [1, 1, 1, 1]


async def test_a_paused_consumer_reads_nothing_and_does_not_spin(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    got = []

    @app.agent("s")
    async def handle(message: Message) -> None:
        got.append(message.message["n"])

    async with app:
        consumer = app.consumers[0][1]
        await probe.ask("HSET", PAUSED, app.agents[0].name, "test")  # as agent_pause does
        await until(lambda: consumer.paused)
        await app.send("s", {"n": 0})
        await until(lambda: got or consumer.metrics.last_poll < time.monotonic() - 1.2)
        seen = len(got)
        turns = 0
        wait = consumer.settler.slots_available.wait

        async def counted() -> None:
            nonlocal turns
            turns += 1
            await wait()

        consumer.settler.slots_available.wait = counted  # type: ignore[method-assign]
        await app.send("s", {"n": 1})
        await until(lambda: turns >= 2 and consumer.held == 0)
        base, began = turns, time.monotonic()
        await until(lambda: turns >= base + 3)
        assert time.monotonic() - began > 1.5  # by its looks, a second each, not by the processor
        assert len(got) == seen
        assert (await app.health_check())["status"] == "healthy"
        await probe.ask("DEL", PAUSED)
        await until(lambda: got == ["0", "1"])


async def test_a_full_consumer_does_not_spin(make_app: MakeApp) -> None:
    app = make_app()
    gate = anyio.Event()

    @app.agent("s", concurrency=2)
    async def handle(message: Message) -> None:
        await gate.wait()

    async with app:
        await app.send_batch("s", [{"n": number} for number in range(10)])
        consumer = app.consumers[0][1]
        await until(lambda: consumer.held == 4 and consumer.active == 2)
        looks = 0
        wait = consumer.settler.slots_available.wait

        async def counted() -> None:
            nonlocal looks
            looks += 1
            await wait()

        consumer.settler.slots_available.wait = counted  # type: ignore[method-assign]
        await until(lambda: looks >= 1)
        base, began = looks, time.monotonic()
        await until(lambda: looks >= base + 3)
        assert time.monotonic() - began > 1.5  # by its looks, a second each, not by the processor
        gate.set()


async def test_a_finished_dedup_key_is_skipped(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()
    got = []

    @app.agent("s", dedup=lambda message: message.message.get("id"))
    async def handle(message: Message) -> None:
        got.append(message.message["n"])

    async with app:
        records = [{"id": "a", "n": 1}, {"id": "a", "n": 2}, {"id": "b", "n": 3}, {"n": 4}, {"n": 5}]
        await app.send_batch("s", records)
        await until(lambda: probe.done("s", 5))
        assert app.consumers[0][1].metrics.repeats == 1
    assert got == ["1", "3", "4", "5"]


async def test_no_consumer_is_left_behind(make_app: MakeApp, probe: Probe) -> None:
    app = make_app()

    @app.agent("s", concurrency=3)
    async def handle(message: Message) -> None: ...

    async with app:
        await app.send_batch("s", [{"n": number} for number in range(50)])
        await until(lambda: probe.done("s", 50))
        assert len(await probe.consumers("s")) == 1
    assert await probe.consumers("s") == []
    assert sorted(key.decode() for key in await probe.ask("KEYS", "*")) in (["s"], ["s", "{s}:retry:eventengine:mark"])
