"""WebhookEmitter against a receiver of our own that fails, stalls, answers 500 and 429, and redirects."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest

from streammachine.errors import EmitterError
from streammachine.market.emitters.outlet import Outlet
from streammachine.market.emitters.sink_text import emitter_for, shown
from streammachine.market.emitters.webhook import WebhookEmitter
from streammachine.market.model.kline import Gap
from support.rows import candles, trade
from support.valkey import until
from support.webhook import Receiver

pytestmark = pytest.mark.anyio
WAIT = 60.0


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


async def test_what_is_sent(receiver: Receiver) -> None:
    emitter = WebhookEmitter(
        f"{receiver.url.replace('//', '//me:pw%21@')}/in?x=1", headers={"X-Own": "é".encode().hex()}
    )
    gap = Gap("Binance", "BTCUSDT", "1m", 1, 2, "why")
    async with Outlet(emitter, batch=3) as outlet:
        await outlet.put([*candles(1), trade(), gap])
        assert await outlet.drain(WAIT) == []
    [request] = receiver.requests
    assert request.path == "/in?x=1"
    assert request.headers["authorization"] == "Basic bWU6cHch"
    assert request.headers["x-own"] == "c3a9"
    assert request.headers["content-type"] == "application/json"
    assert request.key.startswith('"')
    assert [row["type"] for row in request.rows] == ["kline", "trade", "gap"]
    assert request.rows[0] == {"type": "kline", **candles(1)[0].model_dump()}


async def test_whatever_the_receiver_does_each_row_arrives_in_order_and_once_by_its_key(receiver: Receiver) -> None:
    chance = random.Random(7)
    steps: list[Any] = ["reset", "late", 500, 502, 503, 429, 408, 404, 401, (429, {"Retry-After": "0"}), 200, 200]
    receiver.plan.extend(chance.choice(steps) for _ in range(40))
    rows = [row for pair in zip(candles(60), candles(60, symbol="ETHUSDT"), strict=True) for row in pair]
    emitter = WebhookEmitter(receiver.url, timeout=5, batch_size=7)
    async with Outlet(emitter) as outlet:
        for at in range(0, len(rows), 11):
            await outlet.put(rows[at : at + 11])
        while await outlet.drain(0.2):  # each drain has the next try made at once
            pass
        assert (outlet.stats.emitted, outlet.stats.failed) == (len(rows), 0)
    assert [(row["symbol"], row["open_ts"]) for row in receiver.taken] == [(row.symbol, row.open_ts) for row in rows]
    bodies: dict[str, bytes] = {}
    for request in receiver.requests:
        assert bodies.setdefault(request.key, request.body) == request.body
    assert len(set(bodies.values())) == len(bodies)


async def test_a_receiver_that_stalls_is_asked_again(receiver: Receiver) -> None:
    receiver.plan.extend(["stall", 200])
    async with Outlet(WebhookEmitter(receiver.url, timeout=0.2)) as outlet:
        await outlet.put(candles(3))
        assert await outlet.drain(WAIT) == []
    first, second = receiver.requests
    assert (first.key, first.body) == (second.key, second.body)


@pytest.mark.parametrize("as_date", [False, True])
async def test_retry_after_is_honoured_whoever_is_in_a_hurry(receiver: Receiver, as_date: bool) -> None:
    receiver.plan.append((429, {"Retry-After": formatdate(time.time() + 2, usegmt=True) if as_date else "1"}))
    async with Outlet(WebhookEmitter(receiver.url)) as outlet:
        await outlet.put(candles(2))
        assert await outlet.drain(WAIT) == []
        assert "we are to slow down" in str(outlet.stats.last_error)
    first, second = receiver.requests
    assert second.began - first.ended >= (0.9 if as_date else 1.0)


async def test_a_redirect_is_followed_within_the_place_and_nowhere_else(receiver: Receiver) -> None:
    with Receiver() as elsewhere:
        receiver.plan.append((308, {"Location": "/there"}))
        async with Outlet(WebhookEmitter(f"{receiver.url}/here", headers={"X-Secret": "hunter2"})) as outlet:
            await outlet.put(candles(1))
            assert await outlet.drain(WAIT) == []
            assert [request.path for request in receiver.requests] == ["/here", "/there"]
            receiver.plan.extend([(307, {"Location": f"{elsewhere.url}/x"}), (302, {"Location": "/there"})])
            receiver.plan.append((307, {"Location": receiver.url.replace("127.0.0.1", "localhost")}))
            await outlet.put(candles(1, 1))
            assert await outlet.drain(WAIT) == []
            assert "hunter2" not in str(outlet.stats.last_error)
        assert elsewhere.requests == []
    assert [row["open_ts"] for row in receiver.taken] == [row.open_ts for row in candles(2)]


@pytest.mark.parametrize(
    "there", ["https://h:99999/", "https://h:x/", "http://[::1", "//", "\x00", "https://\xff.example/"]
)
async def test_a_redirect_to_what_is_no_url_loses_no_row(receiver: Receiver, there: str) -> None:
    """More often than an exception of an unknown kind is tried."""
    receiver.plan.extend([(307, {"Location": there})] * 4)
    async with Outlet(WebhookEmitter(receiver.url)) as outlet:
        await outlet.put(candles(2))
        assert await outlet.drain(WAIT) == []
        assert outlet.stats.failed == 0
    assert [row["open_ts"] for row in receiver.taken] == [row.open_ts for row in candles(2)]


async def test_rows_that_are_refused_stand_alone(receiver: Receiver) -> None:
    bad = candles(1, 5)[0]
    receiver.refuses = lambda body: 422 if str(bad.open_ts).encode() in body else None
    given: list[Any] = []
    async with Outlet(WebhookEmitter(receiver.url), on_error=lambda row, why: given.append((row, str(why)))) as outlet:
        await outlet.put(candles(10))
        assert await outlet.drain(WAIT) == []
        assert (outlet.stats.emitted, outlet.stats.failed) == (9, 1)
    [(row, why)] = given
    assert row == bad
    assert "status 422" in why
    assert [row["open_ts"] for row in receiver.taken] == [row.open_ts for row in candles(10) if row != bad]


async def test_a_request_stays_below_its_bound(receiver: Receiver) -> None:
    emitter = WebhookEmitter(receiver.url, max_body=2048, transformer=lambda row: {**row, "text": "x" * 500})
    huge = WebhookEmitter(receiver.url, max_body=2048, transformer=lambda row: {"text": "x" * 5000})
    async with Outlet(emitter) as outlet:
        await outlet.put(candles(10))
        assert await outlet.drain(WAIT) == []
    assert max(len(request.body) for request in receiver.requests) <= 2048
    assert len(receiver.taken) == 10
    async with Outlet(huge) as outlet:
        await outlet.put(candles(2))
        assert await outlet.drain(WAIT) == []
        assert outlet.stats.failed == 2


async def test_a_body_of_ones_own_and_rows_that_look_the_same(receiver: Receiver) -> None:
    emitter = WebhookEmitter(
        receiver.url, batch_size=1, transformer=lambda row: {"text": "up"}, body=lambda rows: rows[0]
    )
    async with Outlet(emitter) as outlet:
        await outlet.put(candles(2))
        assert await outlet.drain(WAIT) == []
    assert [json.loads(request.body) for request in receiver.requests] == [{"text": "up"}] * 2
    assert len({request.key for request in receiver.requests}) == 2  # two alerts, not one twice


async def test_a_slow_receiver_holds_up_the_runner_and_nothing_is_dropped(receiver: Receiver) -> None:
    receiver.plan.extend([500] * 3)
    async with Outlet(WebhookEmitter(receiver.url, batch_size=2), capacity=4) as outlet:
        await outlet.put(candles(4))
        assert outlet.room == 0
        await until(lambda: outlet.stats.state == "away")
        await outlet.put(candles(4, 4))
        assert await outlet.drain(WAIT) == []
    assert [row["open_ts"] for row in receiver.taken] == [row.open_ts for row in candles(8)]


@pytest.mark.parametrize(
    "url",
    ["http://example.com/x", "http://127.0.0.1.example.com/x", "ftp://127.0.0.1/", "https://", "x", "https://h:x/", 5],
)
def test_what_is_no_url_for_it_is_refused(url: Any) -> None:
    with pytest.raises(EmitterError, match=r"webhook's URL"):
        WebhookEmitter(url)


def test_other_arguments_are_checked() -> None:
    WebhookEmitter("http://example.com/x", allow_insecure=True)
    WebhookEmitter("http://[::1]:8000/x")
    for wrong in ({"batch_size": 0}, {"max_body": 5}, {"timeout": 0}, {"body": 5}, {"headers": {"a": "b\nc"}}):
        with pytest.raises(EmitterError, match=r"not accepted|no function"):
            WebhookEmitter("https://example.com/x", **wrong)  # type: ignore[arg-type]


async def test_nothing_shows_the_path_or_the_login(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    text = f"webhook:{receiver.url.replace('//', '//me:hunter2@')}/services/T000/hunter3?token=hunter4"
    emitter = emitter_for(text)
    receiver.plan.append(500)
    async with Outlet(emitter) as outlet:
        await outlet.put(candles(1))
        assert await outlet.drain(WAIT) == []
        seen = f"{shown(text)} {emitter.name} {emitter.target} {outlet.stats} {caplog.text}"  # type: ignore[attr-defined]
    assert "hunter" not in seen
    assert receiver.url.partition("//")[2] in shown(text)
