"""Alerts over the wire: created, waited for, evaluated by one of two servers, over kill -9 and restarts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from support.mcp import RawClient, ToolFailure
from support.servers import redis_at, until

T0 = 1_723_161_600_000
MINUTE = 60_000
SOURCE = "kline:binance:BTCUSDT:1m"
FIRED = {"name": "alert.fired", "arguments": {"alert": "flip"}}


@pytest.fixture
def store(hosting_env: dict[str, str]) -> Iterator[redis.Redis]:
    with redis_at(hosting_env["REDIS_URL"]) as client:
        client.flushdb()
        yield client
        client.flushdb()


@pytest.fixture
def client(store: redis.Redis, hosting_env: dict[str, str], tmp_path: Path) -> Iterator[RawClient]:
    with RawClient(env=hosting_env, log=tmp_path / "server.log") as client:
        yield client


def add(store: redis.Redis, number: int, close: float) -> None:
    start = T0 + number * MINUTE
    fields: dict[str, Any] = {"open_ts": start, "end_ts": start + MINUTE - 1, "volume": 1.0, "is_closed": "true"}
    store.xadd(SOURCE, {**fields, **dict.fromkeys(("open", "high", "low", "close"), close)}, id=f"{start}-9")


def alert(client: RawClient, name: str) -> dict[str, Any]:
    return next(row for row in client.call("alert_list")["alerts"] if row["name"] == name)


def evaluated(client: RawClient) -> bool:
    return bool(client.call("alert_list")["evaluated"])


def test_wake_me_when_btc_closes_above_50k(client: RawClient, store: redis.Redis) -> None:
    made = client.call("alert_create", symbol="btcusdt", condition="close > 50000", name="flip", timeframe="1m")
    assert (made["created"], made["stream"], made["holds"]) == (True, SOURCE, False)
    assert "runner_start" in made["hint"]
    waiting = client.send("tools/call", name="event_wait", arguments={"events": [FIRED], "timeout_s": 40})
    until(lambda: evaluated(client), "a host evaluates")
    for number, close in enumerate((49_000, 50_100)):
        add(store, number, close)
    [event] = client.wait(waiting)["structuredContent"]["events"]
    assert event["data"]["price"] == 50_100.0
    assert (event["data"]["symbol"], event["data"]["ts"]) == ("BTCUSDT", T0 + 2 * MINUTE - 1)
    row = alert(client, "flip")
    assert (row["holds"], row["fired"], row["last_ms"]) == (True, 1, T0 + 2 * MINUTE - 1)
    assert client.call("alert_delete", name="flip")["deleted"]
    assert client.call("alert_list")["count"] == 0
    with pytest.raises(ToolFailure, match="no alert 'flip'"):
        client.call("alert_delete", name="flip")


def test_what_holds_already_is_said_and_the_same_alert_is_one(client: RawClient, store: redis.Redis) -> None:
    add(store, 0, 60_000)
    first = client.call("alert_create", symbol="BTCUSDT", condition="close > 50000")
    assert (first["holds"], "again" in first["hint"]) == (True, True)
    again = client.call("alert_create", symbol="BTCUSDT", condition="close > 50000")
    assert (again["name"], again["created"]) == (first["name"], False)
    assert client.call("alert_list")["count"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"condition": "clse > 1"}, "Did you mean 'close'"),
        ({"condition": "[1,2,3].map(x, x * x).size() > 1"}, "means nothing"),
        ({"condition": "sma(volume, 100000) > 1"}, "give 1 to 2000"),
        (
            {"condition": " + ".join(f"sma(close,{length})" for length in range(2, 14)) + " > 1"},
            "more than 10 indicators",
        ),
        ({"condition": "(" * 120 + "close" + ")" * 120 + " > 1"}, "at most 200 are taken"),
        ({"condition": "close > 1 && " * 40 + "close > 1"}, "at most 500 characters"),
        ({"condition": "close > 1", "webhook": "http://example.com/x"}, "Give https"),
        ({"condition": "close > 1", "stream": "sm:agents"}, "own keys"),
        ({"condition": "close > 1", "symbol": "BTC/USD/X"}, "symbol|takes|BTCUSDT"),
    ],
)
def test_what_is_refused_says_what_to_write(raw: RawClient, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ToolFailure, match=said):
        raw.call("alert_create", **{"symbol": "BTCUSDT", **arguments})


def test_the_setting_says_where_webhooks_may_go(hosting_env: dict[str, str]) -> None:
    allowed = {"STREAMMACHINE_ALERT_WEBHOOKS": "10.0.0.0/8:9000"}
    with RawClient(env=hosting_env | allowed) as client:
        arguments = {"symbol": "BTCUSDT", "condition": "close > 1"}
        with pytest.raises(ToolFailure, match=r"127\.0\.0\.1 port 9000 is none .*STREAMMACHINE_ALERT_WEBHOOKS="):
            client.call("alert_create", **arguments, webhook="http://127.0.0.1:9000/")
        found = client.call("alert_create", **arguments, webhook="http://10.1.2.3:9000/hook")
        client.call("alert_delete", name=found["name"])


def test_two_servers_of_which_one_is_killed_lose_and_double_nothing(
    store: redis.Redis, hosting_env: dict[str, str]
) -> None:
    """The server whose child evaluates is killed with it; the other one goes on, and then is started anew."""
    first = RawClient(env=hosting_env)
    first.call("alert_create", symbol="BTCUSDT", condition="close > 10", name="flip", stream="alerts")
    until(lambda: evaluated(first), "the first server evaluates")
    heard: list[int] = []
    number = 0
    with RawClient(env=hosting_env) as second:
        cursor = second.call("event_wait", events=[FIRED], timeout_s=0)["cursor"]

        def send(count: int) -> None:
            nonlocal number
            for _ in range(count):
                add(store, number, 11 if number % 2 else 9)
                number += 1

        def listen(expected: int) -> None:
            nonlocal cursor
            while len(heard) < expected:
                found = second.call("event_wait", events=[FIRED], cursor=cursor, timeout_s=40)
                heard.extend((event["data"]["ts"] - T0) // MINUTE for event in found["events"])
                cursor = found["cursor"]

        send(20)
        listen(5)
        child = _children(first.process.pid)
        first.kill()
        for pid in child:
            os.kill(pid, signal.SIGKILL)
        send(20)
        listen(20)
    with RawClient(env=hosting_env) as third:
        send(10)
        until(lambda: alert(third, "flip")["fired"] == 25, "the third server evaluates the rest")
        found = third.call("event_wait", events=[FIRED], cursor=cursor, timeout_s=0)
        heard.extend((event["data"]["ts"] - T0) // MINUTE for event in found["events"])
        until(lambda: store.xlen("alerts") == 25, "all is sent on")
    assert heard == list(range(1, 50, 2))
    sent = [int(fields[b"ts"]) for _, fields in store.xrange("alerts")]
    assert sorted(sent) == [T0 + (each + 1) * MINUTE - 1 for each in heard]


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
