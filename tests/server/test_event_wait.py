"""event_wait: each of the seven events, once, from a cursor on, over two servers, a restart and a kill -9."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from streammachine.redis.embedded.server import EmbeddedServer
from streammachine_mcp.live.states import lag_bucket, lag_step
from support.mcp import RawClient, ToolFailure
from support.servers import redis_at, until

T0 = 1_723_161_600_000
MINUTE = 60_000
CANDLE = {"name": "candle.closed", "arguments": {"exchange": "binance", "symbol": "BTCUSDT"}}


@pytest.fixture
def store(server_env: dict[str, str], raw: RawClient) -> Iterator[redis.Redis]:
    with redis_at(server_env["REDIS_URL"]) as client:
        yield client


def add_candle(store: redis.Redis, number: int, close: float, *, closed: bool = True) -> str:
    start = T0 + number * MINUTE
    fields = {
        "source": "Binance", "symbol": "BTCUSDT", "timeframe": "1m", "open_ts": start, "end_ts": start + MINUTE - 1,
        "open": close, "high": close, "low": close, "close": close, "volume": 1.5,
        "is_closed": "true" if closed else "false", "is_complete": "true",
    }  # fmt: skip
    made = store.xadd("kline:binance:BTCUSDT:1m", fields, id=f"{start}-{9 if closed else 1}")
    return bytes(made).decode()


def begin(client: RawClient, **arguments: Any) -> int:
    return client.send("tools/call", name="event_wait", arguments=arguments)


def end(client: RawClient, request: int) -> dict[str, Any]:
    result = client.wait(request)
    assert not result.get("isError"), result
    found: dict[str, Any] = result["structuredContent"]
    return found


def waiting(store: redis.Redis) -> bool:
    return any(each["cmd"].startswith("xread") for each in store.client_list())


def test_a_candle_that_closes_ends_the_wait(raw: RawClient, store: redis.Redis) -> None:
    add_candle(store, 0, 100.0)
    request = begin(raw, events=[CANDLE])
    until(lambda: waiting(store), "the server reads")
    add_candle(store, 1, 101.0, closed=False)
    identifier = add_candle(store, 1, 102.0)
    found = end(raw, request)
    [event] = found["events"]
    assert (event["name"], event["id"], found["cursor"], found["timed_out"]) == (
        "candle.closed", identifier, identifier, False,
    )  # fmt: skip
    assert event["data"]["close"] == 102.0
    assert event["data"]["open_ts"] == T0 + MINUTE


def test_without_an_event_it_gives_a_cursor_that_misses_nothing(raw: RawClient, store: redis.Redis) -> None:
    first = raw.call("event_wait", events=[CANDLE], timeout_s=0)
    assert (first["events"], first["timed_out"]) == ([], True)
    ids = [add_candle(store, number, 100.0 + number) for number in range(3)]
    found = raw.call("event_wait", events=[CANDLE], cursor=first["cursor"], timeout_s=0)
    assert [event["id"] for event in found["events"]] == ids
    assert raw.call("event_wait", events=[CANDLE], cursor=found["cursor"], timeout_s=0)["timed_out"]


def test_two_events_have_two_cursors_in_one(raw: RawClient, store: redis.Redis) -> None:
    both = [CANDLE, {"name": "stream.message", "arguments": {"stream": "orders", "filter": "num.qty > 1.0"}}]
    cursor = raw.call("event_wait", events=both, timeout_s=0)["cursor"]
    add_candle(store, 0, 1.0)
    for quantity in (1, 2):
        raw.call("stream_send", stream="orders", message={"qty": quantity})
    found = raw.call("event_wait", events=both, cursor=cursor, timeout_s=5)
    assert [event["name"] for event in found["events"]] == ["candle.closed", "stream.message"]
    assert found["events"][1]["data"] == {"stream": "orders", "fields": {"qty": "2"}}
    with pytest.raises(ToolFailure, match="same events"):
        raw.call("event_wait", events=[*both, CANDLE], cursor=found["cursor"])


def test_a_price_crosses_a_level_once_each_way(raw: RawClient, store: redis.Redis) -> None:
    for number, close in enumerate((49_000.0, 50_500.0, 51_000.0, 50_000.0, 49_999.0, 50_000.0)):
        add_candle(store, number, close)
    level = {"exchange": "binance", "symbol": "BTCUSDT", "price": 50_000}
    found = raw.call("event_wait", events=[{"name": "price.crossed", "arguments": level}], cursor=str(T0), timeout_s=0)
    crossed = [
        (event["data"]["direction"], event["data"]["previous"], event["data"]["price"]) for event in found["events"]
    ]
    assert crossed == [("up", 49_000, 50_500), ("down", 51_000, 50_000), ("up", 49_999, 50_000)]
    up = {"name": "price.crossed", "arguments": {**level, "direction": "down"}}
    behind = raw.call("event_wait", events=[up], cursor=found["events"][0]["id"], timeout_s=0)
    assert [event["data"]["price"] for event in behind["events"]] == [50_000]


def test_a_dead_letter_is_told(raw: RawClient, store: redis.Redis) -> None:
    wanted = [{"name": "dead_letter.added", "arguments": {"stream": "orders"}}]
    request = begin(raw, events=wanted)
    until(lambda: waiting(store), "the server reads")
    store.xadd("{orders}:dlq", {"id": "7", "sm-group": "billing", "sm-reason": "retries", "sm-attempts": "3"})
    data = end(raw, request)["events"][0]["data"]
    assert data == {"stream": "orders", "group": "billing", "reason": "retries", "attempts": "3", "fields": {"id": "7"}}


def test_a_runner_that_changes_its_state_and_an_agent_that_falls_behind_are_told(
    raw: RawClient, store: redis.Redis
) -> None:
    state = [{"name": "runner.state", "arguments": {"runner": "r1"}}]
    lag = [{"name": "agent.lag", "arguments": {"above": 5}}]
    cursor = raw.call("event_wait", events=state, timeout_s=0)["cursor"]
    cursor_of_lag = raw.call("event_wait", events=lag, timeout_s=0)["cursor"]
    until(lambda: store.hexists("{sm:events}:runner.state:seen", ""), "the first look")
    spec = '{"name": "r1", "exchange": "binance", "symbols": ["BTCUSDT"], "timeframe": "1m", "emit": ["redis"]}'
    said = int(time.time() * 1000) + 60_000
    store.hset("sm:runners", "r1", spec)
    store.hset("sm:runners:status", "r1", f'{{"state": "failed", "problem": "away", "said_ms": {said}}}')
    store.hset("sm:agents", "big", '{"name": "big", "stream": "trades", "output_stream": "out"}')
    store.xgroup_create("trades", "agent:big", mkstream=True)
    store.hset("sm:agents:paused", "big", "1")
    for number in range(7):
        store.xadd("trades", {"n": number})
    states = []
    while not any(event["data"]["state"] == "failed" for event in states):
        found = raw.call("event_wait", events=state, cursor=cursor, timeout_s=20)
        states += found["events"]
        cursor = found["cursor"]
    behind = raw.call("event_wait", events=lag, cursor=cursor_of_lag, timeout_s=20)["events"]
    assert [(event["data"]["name"], event["data"]["above"]) for event in behind] == [("big", 5)]
    store.delete("sm:agents", "sm:runners")


def test_lags_are_told_in_steps() -> None:
    assert [lag_step(lag) for lag in (1, 3, 5, 6, 999, 1000, 1001)] == [1, 5, 5, 10, 1000, 1000, 2000]
    assert [lag_bucket(lag) for lag in (0, 1, 4, 5, 9, 10, 1999)] == [0, 1, 2, 5, 5, 10, 1000]


def test_what_was_trimmed_behind_a_cursor_is_said(raw: RawClient, store: redis.Redis) -> None:
    ids = [raw.call("stream_send", stream="orders", message={"n": n})["message_id"] for n in range(4)]
    store.xtrim("orders", maxlen=1, approximate=False)
    wanted = [{"name": "stream.message", "arguments": {"stream": "orders"}}]
    found = raw.call("event_wait", events=wanted, cursor=ids[0], timeout_s=0)
    assert ([event["id"] for event in found["events"]], found["truncated"]) == ([ids[3]], True)
    assert "truncated" not in raw.call("event_wait", events=wanted, cursor=ids[3], timeout_s=0)


def test_many_large_messages_come_in_bounded_answers(raw: RawClient, store: redis.Redis) -> None:
    wanted = [{"name": "stream.message", "arguments": {"stream": "big"}}]
    ids = [bytes(store.xadd("big", {f"f{place}": "x" * 5000 for place in range(8)})).decode() for _ in range(12)]
    cursor, heard = "0-0", []
    while len(heard) < len(ids):
        found = raw.call("event_wait", events=wanted, cursor=cursor, timeout_s=0)
        assert found["events"]
        assert len(str(found)) < 60_000
        heard += [event["id"] for event in found["events"]]
        cursor = found["cursor"]
    assert heard == ids


def test_a_cancelled_wait_is_over_at_once(raw: RawClient, store: redis.Redis) -> None:
    request = begin(raw, events=[CANDLE], timeout_s=40)
    until(lambda: waiting(store), "the server reads")
    raw.notify("notifications/cancelled", requestId=request)
    until(lambda: not waiting(store), "the server reads no more")


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([{"name": "candle.closed", "arguments": {"exchange": "binance"}}], "symbol: Field required"),
        ([{"name": "candle.closed", "arguments": {"exchange": "kraken", "symbol": "BTCUSD"}}], "BTC/USD"),
        ([{"name": "stream.message", "arguments": {"stream": "s", "filter": "foo > 1"}}], "not defined"),
        ([{"name": "stream.message", "arguments": {"stream": "s", "depth": 1}}], "It takes stream, filter"),
        ([{"name": "candle.opened"}], "candle.closed"),
        ([], "at least 1"),
    ],
)
def test_what_is_refused_says_what_to_write(raw: RawClient, events: list[Any], said: str) -> None:
    with pytest.raises(ToolFailure, match=said):
        raw.call("event_wait", events=events)


def test_a_key_that_is_no_stream_stops_nobody_elses_wait(raw: RawClient, store: redis.Redis) -> None:
    first = begin(raw, events=[{"name": "stream.message", "arguments": {"stream": "odd"}}], timeout_s=3)
    second = begin(raw, events=[CANDLE])
    until(lambda: waiting(store), "the server reads")
    store.set("odd", "text")
    add_candle(store, 0, 1.0)
    assert end(raw, second)["events"]
    raw.answer(first)


def test_a_server_killed_while_it_waits_loses_and_doubles_nothing(
    shared_server: EmbeddedServer, server_env: dict[str, str], store: redis.Redis, tmp_path: Path
) -> None:
    """Messages keep coming while the client goes from one server to the other and back."""
    wanted = [{"name": "stream.message", "arguments": {"stream": "flow"}}]
    sent: list[str] = []
    heard: list[str] = []
    cursor: str | None = None

    def send(count: int) -> None:
        sent.extend(bytes(store.xadd("flow", {"n": len(sent) + place})).decode() for place in range(count))

    def listen(client: RawClient) -> None:
        nonlocal cursor
        found = client.call("event_wait", events=wanted, **({} if cursor is None else {"cursor": cursor}), timeout_s=0)
        heard.extend(event["id"] for event in found["events"])
        cursor = found["cursor"]

    with RawClient(env=server_env) as other:
        for round_ in range(2):
            doomed = RawClient(env=server_env)
            listen(doomed)
            send(20)
            listen(doomed)
            begin(doomed, events=wanted, cursor=cursor, timeout_s=40)
            send(20)
            doomed.kill()
            send(20)
            while len(heard) < len(sent):
                listen(other)
            assert heard == sent, round_
