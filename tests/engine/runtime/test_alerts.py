"""Alerts fire once each time their condition becomes true, whoever evaluates them and whoever dies meanwhile."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest

from streammachine import Alert, App, create_alert
from streammachine.errors import OwnKeyError, SettingsError
from streammachine.redis import streams
from streammachine.redis.connection import RedisConnection
from streammachine.runtime.alerts.alert import (
    FIRED,
    OUTBOX,
    AlertExistsError,
    alert_states,
    all_alerts,
    delete_alert,
    is_evaluated,
)
from streammachine.runtime.alerts.host import AlertHost
from streammachine.runtime.model.message import Message
from support.runtime import Script
from support.valkey import until

pytestmark = pytest.mark.anyio

SOURCE = "kline:binance:BTCUSDT:1m"
MINUTE = 60_000
T0 = 1_723_161_600_000


async def add(redis: RedisConnection, number: int, close: float, *, closed: bool = True, rev: int = 9) -> None:
    start = T0 + number * MINUTE
    fields: dict[str, Any] = {"open_ts": start, "end_ts": start + MINUTE - 1, "volume": 1.0, "symbol": "BTCUSDT"}
    fields |= dict.fromkeys(("open", "high", "low", "close"), close)
    fields["is_closed"] = "true" if closed else "false"
    flat = [str(part) for pair in fields.items() for part in pair]
    await redis.command("XADD", SOURCE, f"{start}-{rev}", *flat)


async def fired(redis: RedisConnection) -> list[dict[str, str]]:
    return [entry.data for entry in await streams.read_from(redis, FIRED)]


async def reached(redis: RedisConnection, name: str, number: int) -> None:
    """Wait until an alert was evaluated up to a candle."""

    async def there() -> bool:
        state = (await alert_states(redis))[name]
        return int(state.at.partition("-")[0]) >= T0 + number * MINUTE

    await until(there)


@asynccontextmanager
async def hosted(redis: RedisConnection, count: int = 1) -> AsyncIterator[list[AlertHost]]:
    hosts = [AlertHost(redis) for _ in range(count)]
    async with anyio.create_task_group() as tasks:
        for host in hosts:
            tasks.start_soon(host.run)
        await until(lambda: any(host.holding for host in hosts))
        yield hosts
        for host in hosts:
            host.stop()


async def test_it_fires_once_each_time_the_condition_becomes_true(redis: RedisConnection) -> None:
    alert, state, created = await create_alert(redis, Alert("up", SOURCE, "close > 50000"))
    assert (created, state.holds, alert.created_ms > 0) == (True, False, True)
    async with hosted(redis, 3) as hosts:
        assert sum(host.holding for host in hosts) == 1
        for number, close in enumerate((49_000, 50_001, 50_002, 49_999, 50_003, 50_004)):
            await add(redis, number, close)
        await reached(redis, "up", 5)
    told = await fired(redis)
    assert [(each["alert"], each["price"], each["fired"]) for each in told] == [
        ("up", "50001.0", "1"), ("up", "50003.0", "2"),
    ]  # fmt: skip
    assert told[0]["ts"] == str(T0 + 2 * MINUTE - 1)
    assert not await is_evaluated(redis)


async def test_what_is_true_already_fires_when_it_becomes_true_again(redis: RedisConnection) -> None:
    await add(redis, 0, 60_000)
    _, state, _ = await create_alert(redis, Alert("up", SOURCE, "close > 50000"))
    assert state.holds
    async with hosted(redis):
        for number, close in ((1, 61_000), (2, 40_000), (3, 62_000)):
            await add(redis, number, close)
        await reached(redis, "up", 3)
    assert [each["price"] for each in await fired(redis)] == ["62000.0"]


async def test_in_its_cooldown_it_does_not_fire(redis: RedisConnection) -> None:
    await create_alert(redis, Alert("up", SOURCE, "cross(close, 10)", cooldown_s=180))
    async with hosted(redis):
        for number, close in enumerate((9, 11, 9, 11, 9, 9, 9, 11)):
            await add(redis, number, close)
        await reached(redis, "up", 7)
    assert [int(each["ts"]) // MINUTE - T0 // MINUTE for each in await fired(redis)] == [1, 4, 7]


async def test_a_running_candle_fires_before_it_closes_and_a_closed_one_only_then(redis: RedisConnection) -> None:
    await create_alert(redis, Alert("running", SOURCE, "close > 10 && prev.close < 10", on="running"))
    await create_alert(redis, Alert("closed", SOURCE, "close > 10"))
    async with hosted(redis):
        await add(redis, 0, 9)
        await add(redis, 1, 11, closed=False, rev=1)
        await add(redis, 1, 9, closed=False, rev=2)
        await add(redis, 1, 9.5, rev=9)
        await reached(redis, "closed", 1)
        await reached(redis, "running", 1)
    assert [each["alert"] for each in await fired(redis)] == ["running"]


async def test_ticks_are_a_series_too(redis: RedisConnection) -> None:
    await create_alert(redis, Alert("tick", "ticks", "price > sma(price, 3) && price > 12", on="tick"))
    async with hosted(redis):
        for price in (10, 11, 12, 13, 14, 5, 20):
            await redis.command("XADD", "ticks", "*", "price", str(price), "volume", "1")
        await until(lambda: _fired_at_least(redis, 2))
    assert [each["price"] for each in await fired(redis)] == ["13.0", "20.0"]


async def _fired_at_least(redis: RedisConnection, count: int) -> bool:
    return len(await fired(redis)) >= count


async def test_the_next_host_goes_on_where_the_last_one_was(redis: RedisConnection) -> None:
    await create_alert(redis, Alert("up", SOURCE, "cross_up(close, sma5)"))
    closes = [10 + (number * 7919) % 13 for number in range(60)]
    for begin in range(0, 60, 20):
        async with hosted(redis):
            for number in range(begin, begin + 20):
                await add(redis, number, closes[number])
            await reached(redis, "up", begin + 10)
    async with hosted(redis):
        await reached(redis, "up", 59)
    split = [each["ts"] for each in await fired(redis)]
    await redis.command("DEL", FIRED)
    await delete_alert(redis, "up")
    await redis.command("RENAME", SOURCE, "kept")
    await create_alert(redis, Alert("up", SOURCE, "cross_up(close, sma5)"))
    await redis.command("RENAME", "kept", SOURCE)
    async with hosted(redis):
        await reached(redis, "up", 59)
    assert split == [each["ts"] for each in await fired(redis)]
    assert len(split) > 5


async def test_it_is_sent_into_a_stream_once_where_an_agent_hears_it(redis: RedisConnection) -> None:
    heard: list[dict[str, str]] = []
    app = App("desk", to_scan=False, alerts=True, settings=redis.settings)

    @app.agent("alerts")
    async def wake(message: Message) -> None:
        heard.append(message.message)

    async with app:
        await create_alert(redis, Alert("up", SOURCE, "close > 10", stream="alerts", about={"symbol": "BTCUSDT"}))
        await until(lambda: is_evaluated(redis))
        await add(redis, 0, 11)
        await until(lambda: bool(heard))
    assert [(each["alert"], each["symbol"], each["close"]) for each in heard] == [("up", "BTCUSDT", "11.0")]
    assert await streams.length(redis, "alerts") == 1
    assert not await redis.command("HLEN", OUTBOX)


class Receiver(ThreadingHTTPServer):
    """A webhook that refuses the first post."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, dict[str, Any]]] = []
        posts = self.posts

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                posts.append((self.headers["Idempotency-Key"], json.loads(body)))
                self.send_response(500 if len(posts) == 1 else 204)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def test_a_webhook_is_tried_until_it_takes_the_post(redis: RedisConnection, receiver: Receiver) -> None:
    url = f"http://127.0.0.1:{receiver.server_port}/hook"
    await create_alert(redis, Alert("up", SOURCE, "close > 10", webhook=url))
    async with hosted(redis):
        await add(redis, 0, 11)
        await until(lambda: len(receiver.posts) == 2)
        await until(lambda: _is_empty(redis))
    (key, body), again = receiver.posts
    assert again == (key, body)
    assert key == f'"{body["id"]}"'
    assert (body["alert"], body["data"]["price"]) == ("up", "11.0")


async def _is_empty(redis: RedisConnection) -> bool:
    return not await redis.command("HLEN", OUTBOX)


async def test_a_host_killed_while_it_evaluates_loses_and_doubles_nothing(
    redis: RedisConnection, tmp_path: Path
) -> None:
    """Two Apps share the work; the one that has the lease is killed, twice."""
    await create_alert(redis, Alert("flip", SOURCE, "close > 10", stream="alerts"))
    assert redis.url is not None
    script = Script(tmp_path, redis.url, "app = App('host', to_scan=False, alerts=True)")
    number = 0
    for _ in range(2):
        process = script.start()
        await until(lambda: is_evaluated(redis))
        for _ in range(40):
            await add(redis, number, 11 if number % 2 else 9)
            number += 1
        await until(partial(_fired_at_least, redis, number // 4))
        process.kill()
        process.wait()
        for _ in range(20):
            await add(redis, number, 11 if number % 2 else 9)
            number += 1
    async with hosted(redis):
        await reached(redis, "flip", number - 1)
        await until(lambda: _is_empty(redis))
    expected = [str(T0 + each * MINUTE) for each in range(1, number, 2)]
    assert [str(int(each["ts"]) - MINUTE + 1) for each in await fired(redis)] == expected
    assert sorted(entry.data["ts"] for entry in await streams.read_from(redis, "alerts")) == sorted(
        each["ts"] for each in await fired(redis)
    )


async def test_a_name_is_one_alert(redis: RedisConnection) -> None:
    first = Alert("up", SOURCE, "close > 10")
    await create_alert(redis, first)
    assert (await create_alert(redis, first))[2] is False
    with pytest.raises(AlertExistsError, match="something else"):
        await create_alert(redis, Alert("up", SOURCE, "close > 11"))
    assert list(await all_alerts(redis)) == ["up"]
    assert await delete_alert(redis, "up")
    assert not await delete_alert(redis, "up")
    assert (await create_alert(redis, Alert("up", SOURCE, "close > 11")))[2] is True


async def test_one_that_cannot_be_read_stops_no_other(redis: RedisConnection) -> None:
    await create_alert(redis, Alert("up", SOURCE, "close > 10"))
    broken = Alert("odd", SOURCE, "close > 1").stored.replace("close > 1", "closed > 1")
    await redis.command("HSET", "{sm:alerts}:defined", "odd", broken, "text", "no JSON")
    async with hosted(redis) as [host]:
        await add(redis, 0, 11)
        await until(lambda: _fired_at_least(redis, 1))
        assert "closed" in host.problems["odd"]
        assert set(host.problems) == {"odd", "text"}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"name": "a b"}, SettingsError),
        ({"on": "never"}, SettingsError),
        ({"cooldown_s": -1}, SettingsError),
        ({"stream": SOURCE}, SettingsError),
        ({"stream": "sm:agents"}, OwnKeyError),
        ({"webhook": "http://example.com/x"}, SettingsError),
        ({"webhook": "https://user:secret@example.com/x"}, SettingsError),
        ({"webhook": "file:///etc/passwd"}, SettingsError),
    ],
)
async def test_what_is_refused(change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Alert(**{"name": "up", "source": SOURCE, "condition": "close > 1", **change})
    assert Alert("up", SOURCE, "close > 1", webhook="http://10.0.0.1/x", insecure=True)
