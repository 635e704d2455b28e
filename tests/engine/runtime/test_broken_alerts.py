"""An alert that cannot be evaluated or sent on disturbs no other, and its webhook's path stays a secret."""

from __future__ import annotations

import json
import logging

import anyio
import anyio.abc
import pytest

from streammachine import Alert, create_alert
from streammachine.errors import SettingsError
from streammachine.redis import streams
from streammachine.redis.connection import RedisConnection
from streammachine.runtime.alerts import delivery
from streammachine.runtime.alerts.alert import FIRED, OUTBOX, shown_webhook
from streammachine.runtime.alerts.host import AlertHost
from support.valkey import until

pytestmark = pytest.mark.anyio


async def fired(redis: RedisConnection) -> list[str]:
    return [entry.data["alert"] for entry in await streams.read_from(redis, FIRED)]


async def waiting(redis: RedisConnection) -> int:
    return int(await redis.command("HLEN", OUTBOX))


@pytest.mark.parametrize("when", ["before", "while it is evaluated"])
async def test_a_source_that_is_no_stream_any_more_stops_no_other(redis: RedisConnection, when: str) -> None:
    await create_alert(redis, Alert("a", "gone", "price > 1", "tick"))
    await create_alert(redis, Alert("b", "ticks", "price > 1", "tick"))
    host = AlertHost(redis)
    if when == "before":
        await redis.command("SET", "gone", "x")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host.run)
        if when != "before":
            await until(lambda: host.running == 2)
            await redis.command("XADD", "gone", "*", "price", "2")
            await until(lambda: _has(redis, "a"))
            await redis.command("DEL", "gone")
            await redis.command("SET", "gone", "x")
        await redis.command("XADD", "ticks", "*", "price", "2")
        await until(lambda: _has(redis, "b"))
        if when == "before":
            await until(lambda: "a" in host.problems)
            await redis.command("DEL", "gone")
            await redis.command("XADD", "gone", "*", "price", "2")
            await until(lambda: _has(redis, "a"))
            assert "a" not in host.problems
        host.stop()


async def _has(redis: RedisConnection, name: str) -> bool:
    return name in await fired(redis)


@pytest.mark.parametrize(
    "url",
    [
        "https://h:abc/",
        "http://[::1",
        "https://exa\nmple.org/",
        "https://a b/",
        "https://\u2603.com/",
        "https://h:99999/",
    ],
)
async def test_a_webhook_that_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="webhook"):
        Alert("a", "s", "close > 1", webhook=url)


async def test_what_cannot_be_posted_holds_nothing_else_up(
    redis: RedisConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "LONGEST_TRY", 0.0)
    await redis.command("SET", "taken", "x")
    for number, told in enumerate((
        {"alert": "a", "stream": "", "webhook": "https://\u2603.com/", "fields": {}},  # of an older version
        {"alert": "b", "stream": "taken", "webhook": "", "fields": {"x": "1"}},
        {"alert": "c", "stream": "out", "webhook": "", "fields": {"x": "1"}},
        {"alert": "d", "stream": 5, "webhook": "", "fields": {"x": "1"}},
    )):  # fmt: skip
        await redis.command("HSET", OUTBOX, f"{number + 1}-0", json.dumps(told))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(delivery.Deliveries(redis).run)

        async def empty() -> bool:
            return await waiting(redis) == 0

        await until(empty)
        tasks.cancel_scope.cancel()
    assert [entry.data["x"] for entry in await streams.read_from(redis, "out")] == ["1"]


async def test_without_a_cooldown_a_tick_of_an_earlier_time_fires_too(redis: RedisConnection) -> None:
    await create_alert(redis, Alert("a", "ticks", "price > 1", "tick"))
    for price, ts in (("2", "2000"), ("1", "2001"), ("2", "1999")):
        await redis.command("XADD", "ticks", "*", "price", price, "ts", ts)
    host = AlertHost(redis)

    async def twice() -> bool:
        return len(await fired(redis)) == 2

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host.run)
        await until(twice)
        host.stop()


async def test_the_path_of_a_webhook_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)

    async def answer(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")

    url = f"http://127.0.0.1:{port}/services/hidden-path"
    with caplog.at_level(logging.INFO):
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, answer)
            assert "404" in await delivery._post(url, "1-0", {})
            tasks.cancel_scope.cancel()
    assert "hidden-path" not in caplog.text
    assert shown_webhook(url) == f"http://127.0.0.1:{port}/***"
    assert shown_webhook("https://example.com") == "https://example.com"
