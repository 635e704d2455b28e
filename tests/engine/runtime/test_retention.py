"""retain="acked" trims what every group has acknowledged, and nothing else."""

from __future__ import annotations

import anyio
import pytest

from streammachine.redis.connection import RedisConnection
from streammachine.runtime.delivery.retention import trim_acknowledged
from streammachine.runtime.model.message import Message
from support.runtime import MakeApp, Probe
from support.valkey import until

pytestmark = pytest.mark.anyio


async def test_what_a_group_has_not_acknowledged_stays(make_app: MakeApp, probe: Probe) -> None:
    app = make_app(count=100)
    gate = anyio.Event()
    slow: list[int] = []

    @app.agent("s", retain="acked", lease=1.0)
    async def quick(message: Message) -> None: ...

    @app.agent("s", group="slow", retain="acked", lease=1.0)
    async def handle(message: Message) -> None:
        if message.message["n"] == "40":
            await gate.wait()
        slow.append(int(message.message["n"]))

    async with app:
        await app.send_batch("s", [{"n": number} for number in range(100)])
        await until(lambda: probe.done("s", 100))
        await until(lambda: len(slow) == 40)

        async def down_to(count: int) -> bool:
            return int(await probe.ask("XLEN", "s")) <= count

        await until(lambda: down_to(60))
        assert [int(fields["n"]) for fields in await probe.fields("s")] == list(range(40, 100))
        gate.set()
        await until(lambda: down_to(1))
    assert slow == list(range(100))


async def test_the_oldest_unfinished_entry_of_any_group_bounds_the_trim(redis: RedisConnection, probe: Probe) -> None:
    # Sequence numbers beyond what a Lua number holds exactly: they are compared as texts.
    ids = [f"5-{number}" for number in (1, 9, 10, 9007199254740993, 9007199254740994, 18446744073709551615)]
    for identifier in ids:
        await probe.ask("XADD", "s", identifier, "n", "1")
    assert await trim_acknowledged(redis, "missing") == 0
    assert await trim_acknowledged(redis, "s") == 0  # no group yet: somebody may come
    for group in ("a", "b"):
        await probe.ask("XGROUP", "CREATE", "s", group, "0")
    assert await trim_acknowledged(redis, "s") == 0
    for group in ("a", "b"):
        await probe.ask("XREADGROUP", "GROUP", group, "c", "STREAMS", "s", ">")
    await probe.ask("XACK", "s", "a", *ids)
    assert await trim_acknowledged(redis, "s") == 0
    await probe.ask("XACK", "s", "b", *ids[:4])
    assert await trim_acknowledged(redis, "s") == 4
    await probe.ask("XACK", "s", "b", *ids)
    assert await trim_acknowledged(redis, "s") == 1
    assert [entry[0].decode() for entry in await probe.ask("XRANGE", "s", "-", "+")] == ids[-1:]
