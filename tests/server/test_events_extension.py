"""The Events extension (SEP-3415): listed, polled and streamed, in both protocol eras, over stdio and HTTP."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import redis

from streammachine.redis.embedded.server import EmbeddedServer
from support.mcp import RawClient
from support.servers import redis_at, until
from support.web import WebServer

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {"extensions": {"io.modelcontextprotocol/events": {}}},
}
ORDERS = {"name": "stream.message", "arguments": {"stream": "orders", "filter": "num.n > 0.0"}}
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
NAMES = [
    "candle.closed", "price.crossed", "stream.message", "dead_letter.added", "agent.lag", "runner.state", "alert.fired",
]  # fmt: skip


@pytest.fixture
def store(server_env: dict[str, str], raw: RawClient) -> Iterator[redis.Redis]:
    with redis_at(server_env["REDIS_URL"]) as client:
        yield client


@pytest.fixture(params=["legacy", "modern"])
def client(request: pytest.FixtureRequest, store: redis.Redis, server_env: dict[str, str]) -> Iterator[RawClient]:
    with RawClient(env=server_env, initialize=request.param == "legacy") as client:
        client.meta = {} if request.param == "legacy" else {"_meta": META}  # type: ignore[attr-defined]
        yield client


def ask(client: RawClient, method: str, **params: Any) -> dict[str, Any]:
    return client.request(method, **params, **client.meta)  # type: ignore[attr-defined]


def frames(client: RawClient, count: int) -> list[dict[str, Any]]:
    """The next notices on streams of events."""
    found = []
    while len(found) < count:
        message = client.lines.get(timeout=30)
        assert message is not None
        if message.get("method", "").startswith("notifications/events/"):
            found.append(message)
    return found


def test_the_seven_events_are_listed(client: RawClient) -> None:
    listed = ask(client, "events/list")["events"]
    assert [event["name"] for event in listed] == NAMES
    for event in listed:
        assert event["delivery"] == ["poll", "push"]
        assert event["description"]
        jsonschema.Draft202012Validator.check_schema(event["inputSchema"])
        assert event["inputSchema"]["additionalProperties"] is False
        assert all("type" in each for each in event["inputSchema"]["properties"].values())


def test_the_capability_is_declared(store: redis.Redis, raw: RawClient) -> None:
    assert raw.server_info["capabilities"]["extensions"]["io.modelcontextprotocol/events"] == {"listChanged": False}
    assert "completions" in raw.server_info["capabilities"]


def test_a_poll_begins_now_and_goes_on_from_its_cursor(client: RawClient, store: redis.Redis) -> None:
    store.xadd("orders", {"n": 1})
    first = ask(client, "events/poll", **ORDERS, cursor=None)
    assert (first["events"], first["hasMore"], first["truncated"]) == ([], False, False)
    ids = [bytes(store.xadd("orders", {"n": n})).decode() for n in (2, 0, 3)]
    page = ask(client, "events/poll", **ORDERS, cursor=first["cursor"], maxEvents=1)
    assert ([event["eventId"] for event in page["events"]], page["hasMore"]) == ([ids[0]], True)
    rest = ask(client, "events/poll", **ORDERS, cursor=page["cursor"])
    [event] = rest["events"]
    assert (event["eventId"], event["name"], rest["cursor"], rest["hasMore"]) == (
        ids[2],
        "stream.message",
        ids[2],
        False,
    )
    assert event["data"]["fields"] == {"n": "3"}
    assert event["timestamp"].endswith("Z")
    assert ask(client, "events/poll", **ORDERS, cursor=first["cursor"], maxAgeMs=0)["truncated"]


def test_a_time_that_no_calendar_has_ends_no_poll(client: RawClient, store: redis.Redis) -> None:
    """Whoever writes the stream writes its times: nanoseconds, or anything."""
    wanted = {"name": "price.crossed", "arguments": {"exchange": "binance", "symbol": "BTCUSDT", "price": 5}}
    wanted["arguments"]["source"] = "trades"  # type: ignore[index]
    for price, ts in ((4, 1), (6, 10**18), (4, -(10**18)), (6, 1_723_161_600_000)):
        store.xadd("trades:binance:BTCUSDT", {"price": price, "ts": ts})
    found = ask(client, "events/poll", **wanted, cursor="0-0")["events"]
    assert [event["timestamp"] for event in found] == [
        "9999-12-31T23:59:59.000Z", "1970-01-01T00:00:00.000Z", "2024-08-09T00:00:00.000Z",
    ]  # fmt: skip


def test_a_stream_is_active_then_tells_and_is_resumed_elsewhere(
    client: RawClient, store: redis.Redis, raw: RawClient
) -> None:
    meta = client.meta  # type: ignore[attr-defined]
    request = client.send("events/stream", **ORDERS, **meta)
    [active] = frames(client, 1)
    assert active["method"] == "notifications/events/active"
    assert active["params"]["_meta"][SUBSCRIPTION] == request
    ids = [bytes(store.xadd("orders", {"n": n})).decode() for n in (1, 2)]
    told = [frame["params"] for frame in frames(client, 2)]
    assert [(each["eventId"], each["cursor"]) for each in told] == [(each, each) for each in ids]
    client.notify("notifications/cancelled", requestId=request, **meta)
    until(lambda: not any(each["cmd"] == "xread" for each in store.client_list()), "nobody listens")
    missed = bytes(store.xadd("orders", {"n": 3})).decode()
    found = raw.request("events/poll", **ORDERS, cursor=told[-1]["cursor"])
    assert [event["eventId"] for event in found["events"]] == [missed]


def test_an_open_stream_ends_with_its_result_when_the_server_ends(client: RawClient, store: redis.Redis) -> None:
    request = client.send("events/stream", **ORDERS, **client.meta)  # type: ignore[attr-defined]
    frames(client, 1)
    os.kill(client.process.pid, signal.SIGTERM)
    assert client.wait(request)["_meta"][SUBSCRIPTION] == request


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"name": "candle.opened"}, -32011),
        ({"name": "candle.closed", "arguments": {"exchange": "binance"}}, -32602),
        ({"name": "stream.message", "arguments": {"stream": "s", "filter": "foo"}}, -32602),
        ({**ORDERS, "cursor": "yesterday"}, -32602),
    ],
)
def test_what_is_refused(raw: RawClient, params: dict[str, Any], code: int) -> None:
    for method in ("events/poll", "events/stream"):
        assert raw.answer(raw.send(method, **params))["error"]["code"] == code


def test_over_http_a_stream_brings_what_comes(
    shared_server: EmbeddedServer, server_env: dict[str, str], store: redis.Redis, tmp_path_factory: Any
) -> None:
    with WebServer(server_env, tmp_path_factory.mktemp("http") / "log") as server:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
        body = {"jsonrpc": "2.0", "id": 7, "method": "events/stream", "params": {**ORDERS, "_meta": META}}
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "Mcp-Protocol-Version": "2026-07-28",
            "Mcp-Method": "events/stream",
        }
        until(lambda: connects(connection), "the server answers")
        connection.request("POST", "/mcp", json.dumps(body), headers)
        lines = iter(connection.getresponse().readline, b"")
        heard = (json.loads(line[6:]) for line in lines if line.startswith(b"data: "))
        assert next(heard)["method"] == "notifications/events/active"
        identifier = bytes(store.xadd("orders", {"n": 1})).decode()
        assert next(heard)["params"]["eventId"] == identifier
        connection.close()
        until(lambda: not any(each["cmd"] == "xread" for each in store.client_list()), "nobody listens")


def connects(connection: http.client.HTTPConnection) -> bool:
    try:
        connection.connect()
    except OSError:
        return False
    return True
