"""The agent tools over the wire: declared agents run and survive, pauses hold, dead letters go back or away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from anyio.from_thread import start_blocking_portal

from streammachine.ohlc.consumer.consumer import FastOHLCConsumer
from streammachine.redis.connection import RedisConnection
from streammachine.redis.embedded.server import EmbeddedServer
from streammachine.settings import Settings
from support.mcp import RawClient, ToolFailure
from support.servers import redis_at, until

BIG = {
    "name": "big",
    "stream": "trades",
    "output_stream": "big_trades",
    "filter": "num.qty > 1.0",
    "select": "{'qty': num.qty}",
}
LETTER = {"id": "7", "sm-group": "g", "sm-origin-stream": "orders", "sm-origin-id": "1-1", "sm-reason": "retries"}


@pytest.fixture
def store(hosting_env: dict[str, str]) -> Iterator[redis.Redis]:
    """The servers' database, empty before and after."""
    with redis_at(hosting_env["REDIS_URL"]) as client:
        client.flushdb()
        yield client
        client.flushdb()


@pytest.fixture
def client(store: redis.Redis, hosting_env: dict[str, str], tmp_path: Path) -> Iterator[RawClient]:
    with RawClient(env=hosting_env, log=tmp_path / "server.log") as client:
        yield client


def sent(client: RawClient, stream: str) -> list[dict[str, str]]:
    try:
        return [entry["data"] for entry in client.call("stream_read", stream=stream, count=100)["messages"]]
    except ToolFailure:
        return []


def agents(client: RawClient) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in client.call("agent_list")["agents"]}


def test_a_declared_agent_works_in_the_background_and_survives_the_server(
    store: redis.Redis, hosting_env: dict[str, str]
) -> None:
    with RawClient(env=hosting_env) as client:
        client.call("stream_send_batch", stream="trades", messages=[{"qty": 0.5}, {"qty": 2}])
        created = client.call("agent_create", **BIG)
        assert created["created"] is True
        assert created["trial"]["output"] == {"qty": "2.0"}
        assert client.call("agent_create", **BIG)["created"] is False
        until(lambda: sent(client, "big_trades") == [{"qty": "2.0"}], "the output")
        row = until(lambda: (r := agents(client)["big"])["status"] == "running" and r)
        assert (row["kind"], row["group"], row["lag"], row["pending"]) == ("declared", "agent:big", 0, 0)
        stats = client.call("agent_stats", name="big")
        assert stats["definition"]["filter"] == BIG["filter"]
        (hosted,) = until(lambda: client.call("health_check").get("apps"))
        assert hosted["app"] == "declared agents"
    store.xadd("trades", {"qty": "9"})
    with RawClient(env=hosting_env) as client:
        until(lambda: len(sent(client, "big_trades")) == 2, "the output after a restart")


def test_two_servers_run_an_agent_once_and_one_takes_over_after_kill_9(
    store: redis.Redis, hosting_env: dict[str, str]
) -> None:
    with RawClient(env=hosting_env) as second:
        first = RawClient(env=hosting_env)
        try:
            first.call("agent_create", **BIG)
            until(lambda: agents(second)["big"]["status"] == "running")
            store.xadd("trades", {"qty": "2"})
            until(lambda: len(sent(second, "big_trades")) == 1)
        finally:
            first.kill()
        for _ in range(50):
            store.xadd("trades", {"qty": "3"})
        until(lambda: len(sent(second, "big_trades")) == 51, "the second server's output")
        assert agents(second)["big"]["lag"] == 0


def test_pause_and_resume(client: RawClient, store: redis.Redis) -> None:
    client.call("agent_create", **BIG)
    until(lambda: agents(client)["big"]["status"] == "running")
    assert client.call("agent_pause", name="big") == {"name": "big", "paused": True, "changed": True}
    assert client.call("agent_pause", name="big")["changed"] is False
    assert agents(client)["big"]["status"] == "paused"
    assert store.hexists("sm:agents:paused", "big")
    store.xadd("trades", {"qty": "2"})
    client.call("agent_resume", name="big")
    until(lambda: sent(client, "big_trades") == [{"qty": "2.0"}])
    with pytest.raises(ToolFailure, match=r"no agent 'bigg'\. Did you mean 'big'"):
        client.call("agent_pause", name="bigg")


def test_makers_of_candles_are_agents_too(
    client: RawClient, store: redis.Redis, hosting_env: dict[str, str], tmp_path: Path
) -> None:
    name = "FastOHLCConsumer@ticks/ohlc_workers"
    for number in range(5):
        store.xadd("ticks", {"symbol": "BTC", "price": number + 1, "volume": 1})
    settings = Settings(redis_url=hosting_env["REDIS_URL"], data_dir=tmp_path)
    with start_blocking_portal() as portal:
        connection = RedisConnection(settings=settings)
        consumer = FastOHLCConsumer("ticks", connection=connection)
        portal.call(consumer.start)
        row = until(lambda: (r := agents(client).get(name)) and r["lag"] == 0 and r["status"] == "active" and r)
        assert (row["kind"], row["stream"], row["group"], row["processes"]) == ("candles", "ticks", "ohlc_workers", 1)

        def state() -> str:
            (process,) = client.call("agent_stats", name=name)["processes"]
            return str(process["state"])

        assert state() == "active"
        client.call("agent_pause", name="FastOHLCConsumer")
        until(lambda: state() == "paused")
        store.xadd("ticks", {"symbol": "BTC", "price": 9, "volume": 1})
        assert agents(client)[name]["lag"] == 1
        client.call("agent_resume", name=name)
        until(lambda: agents(client)[name]["lag"] == 0)
        with pytest.raises(ToolFailure, match="belongs to an App"):
            client.call("agent_delete", name=name)
        portal.call(consumer.stop)
        portal.call(connection.close)
    assert agents(client) == {}


def test_delete_wants_a_confirmation_bound_to_the_agent(client: RawClient, store: redis.Redis) -> None:
    client.call("agent_create", **BIG)
    plan = client.call("agent_delete", name="big")
    assert (plan["deleted"], plan["confirmed"]) == (False, False)
    assert "big" in agents(client)
    with pytest.raises(ToolFailure, match="does not fit"):
        client.call("agent_delete", name="big", confirm_token=plan["confirm_token"][:-1] + "x")
    assert client.call("agent_delete", name="big", confirm_token=plan["confirm_token"]) == {"deleted": True}
    assert agents(client) == {}
    until(lambda: "apps" not in client.call("health_check"), "the host of no agents ends")
    with pytest.raises(ToolFailure, match="There is no agent 'big'"):
        client.call("agent_delete", name="big", confirm=True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"filter": "num.qty >"}, "line 1, column 10"),
        ({"filter": "qty > 1.0"}, "'qty' (line 1, column 1), which is not defined"),
        ({"select": "{'qty': num.qty * 2}"}, "write 2.0 and not 2"),
        ({"output_stream": "trades"}, "the same"),
        ({"name": "no spaces"}, "The name 'no spaces' is not accepted"),
        ({"filter": "num.price > 1.0"}, "It would fail on the newest message of 'trades'"),
    ],
)
def test_what_cannot_work_is_refused_at_create(raw: RawClient, change: dict[str, str], says: str) -> None:
    raw.call("stream_send", stream="trades", message={"qty": 2})
    with pytest.raises(ToolFailure) as refused:
        raw.call("agent_create", **{**BIG, **change})
    assert says in str(refused.value)
    assert raw.call("agent_list")["count"] == 0


def test_an_expression_that_fails_makes_a_dead_letter_that_can_be_redriven(
    client: RawClient, store: redis.Redis
) -> None:
    client.call("agent_create", **BIG)
    store.xadd("trades", {"qty": "many"})
    store.xadd("trades", {"qty": "2"})
    until(lambda: len(sent(client, "big_trades")) == 1)
    listed = until(lambda: (found := client.call("dead_letter_list", stream="trades"))["total"] and found)
    (letter,) = listed["letters"]
    assert (letter["group"], letter["data"]) == ("agent:big", {"qty": "many"})
    assert "has no field 'qty'" in letter["error"]
    done = client.call("dead_letter_redrive", stream="trades", ids=[letter["id"]])
    assert (done["redriven"], done["remaining"]) == (1, 0)
    again = until(lambda: (found := client.call("dead_letter_list", stream="trades"))["total"] and found)
    assert again["letters"][0]["id"] != letter["id"]
    assert again["letters"][0]["origin_id"] == letter["origin_id"]


def test_letters_are_listed_newest_first_in_pages(raw: RawClient, shared_store: redis.Redis) -> None:
    shared_store.xadd("orders", {"id": "1"})
    assert raw.call("dead_letter_list", stream="orders")["total"] == 0
    for number in range(5):
        group = "g" if number % 2 else "h"
        shared_store.xadd(
            "{orders}:dlq", {**LETTER, "n": number, "sm-group": group, "sm-traceback": "here"}, id=f"{number + 1}-0"
        )
    page = raw.call("dead_letter_list", stream="orders", count=2)
    assert [letter["id"] for letter in page["letters"]] == ["5-0", "4-0"]
    assert (page["total"], page["truncated"]) == (5, True)
    page = raw.call("dead_letter_list", stream="orders", count=10, before="4-0", traceback=True)
    assert [letter["id"] for letter in page["letters"]] == ["3-0", "2-0", "1-0"]
    assert (page["truncated"], page["letters"][0]["traceback"]) == (False, "here")
    assert [x["id"] for x in raw.call("dead_letter_list", stream="{orders}:dlq", group="g")["letters"]] == [
        "4-0",
        "2-0",
    ]
    with pytest.raises(ToolFailure, match=r"no stream 'order'\. Did you mean 'orders'"):
        raw.call("dead_letter_list", stream="order")


def test_when_a_letter_failed_is_a_number_where_it_says_so(raw: RawClient, shared_store: redis.Redis) -> None:
    shared_store.xadd("orders", {"id": "7"})
    for told in ("1764500000004", "soon"):
        shared_store.xadd("{orders}:dlq", {**LETTER, "sm-failed-at": told})
    letters = raw.call("dead_letter_list", stream="orders")["letters"]
    assert [letter.get("failed_at_ms") for letter in letters] == [None, 1764500000004]


def test_redrive_reaches_the_group_that_failed_and_says_what_it_could_not(
    raw: RawClient, shared_store: redis.Redis
) -> None:
    shared_store.xgroup_create("orders", "g", mkstream=True)
    shared_store.xgroup_create("orders", "other")
    shared_store.xadd("{orders}:dlq", LETTER, id="1-0")
    shared_store.xadd("{orders}:dlq", {**LETTER, "sm-group": "gone"}, id="2-0")
    shared_store.xadd("{orders}:dlq", {"id": "8"}, id="3-0")
    done = raw.call("dead_letter_redrive", stream="orders", all=True)
    assert (done["redriven"], list(done["ids"]), done["remaining"]) == (1, ["1-0"], 2)
    assert set(done["refused"]) == {"2-0", "3-0"}
    assert shared_store.xlen("{orders}:retry:g") == 1
    assert shared_store.xlen("{orders}:retry:other") == shared_store.xlen("orders") == 0
    assert raw.call("dead_letter_redrive", stream="orders", ids=["1-0"])["missing"] == ["1-0"]
    for wrong in ({}, {"ids": ["2-0"], "all": True}):
        with pytest.raises(ToolFailure, match="Give ids"):
            raw.call("dead_letter_redrive", stream="orders", **wrong)


def test_purge_wants_a_confirmation_and_spares_what_came_later(raw: RawClient, shared_store: redis.Redis) -> None:
    for number in (1, 2):
        shared_store.xadd("{orders}:dlq", LETTER, id=f"{number}-0")
    plan = raw.call("dead_letter_purge", stream="orders")
    assert (plan["purged"], plan["count"]) == (0, 2)
    shared_store.xadd("{orders}:dlq", LETTER, id="3-0")
    with pytest.raises(ToolFailure, match="has changed since"):
        raw.call("dead_letter_purge", stream="orders", confirm_token=plan["confirm_token"])
    assert raw.call("dead_letter_purge", stream="orders", confirm=True) == {"purged": 3}
    assert shared_store.xlen("{orders}:dlq") == 0


def test_a_read_only_server_runs_no_declared_agents(store: redis.Redis, hosting_env: dict[str, str]) -> None:
    with RawClient("--read-only", env=hosting_env) as reader, RawClient(env=hosting_env) as writer:
        writer.call("agent_create", **BIG)
        until(lambda: writer.call("health_check").get("apps"))
        assert "apps" not in reader.call("health_check")
        assert "big" in agents(reader)


def test_with_redis_away_the_tools_say_so(private_env: dict[str, str]) -> None:
    env = {**private_env, "STREAMMACHINE_EMBEDDED": "never", "REDIS_URL": "redis://127.0.0.1:1"}
    with RawClient(env=env) as client, pytest.raises(ToolFailure, match=r"127\.0\.0\.1:1"):
        client.call("agent_list")


@pytest.fixture
def shared_store(raw: RawClient, shared_server: EmbeddedServer) -> Iterator[redis.Redis]:
    """The database of the run's shared server, emptied by ``raw``."""
    with redis.Redis(unix_socket_path=str(shared_server.socket_path), db=5) as client:
        yield client


@pytest.mark.parametrize(
    ("filter", "says"),
    [
        ("msg.all // x\n(msg, [1].all(num, [1].all (topic, true)))", "at most 2 are taken"),
        ("msg.text.matches('((((')", "no regular expression"),
        (r"msg.all(k, !'1'.matches('(\\w{20}){10}'))", "more than 1 s of computing"),
    ],
)
def test_an_expression_that_costs_too_much_is_refused_and_the_server_answers_meanwhile(
    client: RawClient, filter: str, says: str
) -> None:
    client.call("stream_send", stream="texts", message={f"f{n}": "1" for n in range(2000)})
    arguments = {"name": "slow", "stream": "texts", "output_stream": "out", "filter": filter}
    identifier = client.send("tools/call", name="agent_create", arguments=arguments)
    assert client.call("redis_ping") == {"ping": "pong"}
    result = client.wait(identifier)
    assert result["isError"]
    assert says in result["content"][0]["text"]
    assert agents(client) == {}
