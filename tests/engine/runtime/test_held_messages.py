"""What a consumer holds runs: whatever breaks while messages are handed on, none is kept and forgotten."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest

from streammachine.errors import RedisUnavailableError
from streammachine.runtime.delivery.group import Delivery, Item
from streammachine.runtime.model.message import Message
from support.runtime import MakeApp, Probe
from support.valkey import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


async def both_lanes(probe: Probe, consumer: str) -> Delivery:
    """Three entries of each lane pending under the consumer's name; what it holds of them is nothing."""
    for stream in ("s", "{s}:retry:g"):
        await probe.redis.pipeline_xadd(stream, [{"n": n} for n in range(3)])
        await probe.ask("XGROUP", "CREATE", stream, "g", "0")
        await probe.ask("XREADGROUP", "GROUP", "g", consumer, "STREAMS", stream, ">")
    delivery = Delivery(probe.redis, "s", "g", "me", lease=0.01)
    delivery.retry_open = True
    return delivery


@pytest.mark.parametrize(
    ("step", "command"), [("recover_own", "XPENDING"), ("recover_own", "XCLAIM"), ("sweep", "EVAL")]
)
async def test_what_breaks_in_the_second_lane_keeps_nothing_of_the_first(
    probe: Probe, step: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = await both_lanes(probe, "me" if step == "recover_own" else "dead")
    if step == "sweep":
        await anyio.sleep(0.05)
    run = delivery._call

    async def broken(*words: Any, **options: Any) -> Any:
        if words[0] == command and delivery.retry.key in words:
            raise RedisUnavailableError("the connection broke")
        return await run(*words, **options)

    async def step_of() -> list[Item]:
        return await (delivery.recover_own() if step == "recover_own" else delivery.sweep(100))

    monkeypatch.setattr(delivery, "_call", broken)
    with pytest.raises(RedisUnavailableError):
        await step_of()
    assert delivery.held == 0
    monkeypatch.undo()
    assert len(await delivery.recover_own()) + len(await delivery.sweep(100)) == delivery.held == 6


async def test_a_read_that_breaks_after_a_sweep_leaves_nothing_stuck(make_app: MakeApp, probe: Probe) -> None:
    """The commit's answer is lost, then the look for the retries breaks, then the read of the retries."""
    app = make_app()

    @app.agent("s", group="g", transactional=True, lease=0.5, concurrency=4)
    async def handle(message: Message) -> None:
        await app.send("out", {"n": message.message["n"]})

    await both_lanes(probe, "dead")
    breaks = 0
    async with app:
        delivery = app.consumers[0][1].delivery
        call, script, read = delivery._call, delivery._script, delivery.read_retries

        async def broken_call(*words: Any, **options: Any) -> Any:
            nonlocal breaks
            if words[0] == "XPENDING" and words[1] == delivery.retry.key and breaks < 6:
                breaks += 1
                raise RedisUnavailableError("the connection broke")
            return await call(*words, **options)

        async def broken_script(name: str, *arguments: Any) -> Any:
            nonlocal breaks
            reply = await script(name, *arguments)
            if name == "commit" and breaks < 6:
                breaks += 1
                raise RedisUnavailableError("the answer is lost")
            return reply

        async def broken_read(*arguments: Any) -> Any:
            nonlocal breaks
            if breaks < 12:
                breaks += 1
                raise RedisUnavailableError("the connection broke")
            return await read(*arguments)

        delivery._call = broken_call  # type: ignore[method-assign]
        delivery._script = broken_script  # type: ignore[method-assign]
        delivery.read_retries = broken_read  # type: ignore[method-assign]
        await probe.redis.pipeline_xadd("s", [{"n": n} for n in range(3, 30)])
        await until(lambda: probe.done("s", 30, "g"))
        await until(lambda: breaks >= 12)
        await until(lambda: app.consumers[0][1].held == 0)
        assert await probe.ask("XLEN", "{s}:retry:g") == 0
    assert len(await probe.fields("out")) == 33


async def test_a_held_message_that_nobody_runs_is_seen_and_given_back(
    make_app: MakeApp, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    """Should it ever happen: nobody else can take it over, since its lease is renewed."""
    app = make_app()
    got = []

    @app.agent("s", lease=1.0)
    async def handle(message: Message) -> None:
        got.append(message.message["n"])

    async with app:
        consumer = app.consumers[0][1]
        put = consumer.queue.put
        consumer.queue.put = lambda items: None  # type: ignore[method-assign]  # the mistake
        await app.send("s", {"n": 1})
        await until(consumer.context.strays)
        assert "nobody runs" in str((await app.health_check())["problems"])
        consumer.queue.put = put  # type: ignore[method-assign]
        await until(lambda: got == ["1"])
        await until(lambda: probe.done("s", 1))
        assert (await app.health_check())["status"] == "healthy"
    assert [r.levelno for r in caplog.records if "nobody ran them" in r.message] == [logging.ERROR]


async def test_a_busy_consumer_has_no_strays(make_app: MakeApp, probe: Probe) -> None:
    """Waiting, running, alone, being acknowledged: all of that is looked after."""
    app = make_app(count=100)
    seen = 0

    @app.agent("s", concurrency=8, lease=1.0)
    async def handle(message: Message) -> None:
        nonlocal seen
        await anyio.sleep(0.001)
        seen += len(app.consumers[0][1].strays())

    await probe.redis.pipeline_xadd("s", [{"n": n} for n in range(500)])
    await probe.ask("XGROUP", "CREATE", "s", "eventengine", "0")
    await probe.ask("XREADGROUP", "GROUP", "eventengine", "dead", "COUNT", 5, "STREAMS", "s", ">")
    rows = [row[0] for row in await probe.rows("s")]
    await probe.ask("XCLAIM", "s", "eventengine", "dead", 0, *rows, "IDLE", 60_000, "RETRYCOUNT", 3, "JUSTID")
    async with app:
        await until(lambda: probe.done("s", 500))
        assert app.consumers[0][1].metrics.alone == 5
    assert seen == 0
