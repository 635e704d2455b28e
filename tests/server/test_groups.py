"""The toolset groups: off unless named; what it shows, and what asks before it is done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from streammachine.redis.embedded.server import EmbeddedServer
from support.mcp import RawClient, ToolFailure

T0 = 1_723_161_600_000


@pytest.fixture(scope="module")
def client(shared_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawClient]:
    env = {
        "REDIS_URL": f"{shared_server.url}?db=5",
        "STREAMMACHINE_DATA_DIR": str(tmp_path_factory.mktemp("data")),
        "STREAMMACHINE_TOOLSETS": "groups",
    }
    with RawClient(env=env) as client:
        yield client


@pytest.fixture
def database(shared_server: EmbeddedServer) -> Iterator[redis.Redis]:
    """A stream of ten entries; the consumer a of the group g holds the first four, and b the next two."""
    with redis.Redis(unix_socket_path=str(shared_server.socket_path), db=5, decode_responses=True) as database:
        database.flushdb()
        for n in range(10):
            database.xadd("s", {"n": str(n)}, id=f"{T0 + n}-0")
        database.xgroup_create("s", "g", "0")
        database.xreadgroup("g", "a", {"s": ">"}, count=4)
        database.xreadgroup("g", "b", {"s": ">"}, count=2)
        yield database


def test_groups_and_their_consumers_are_shown(client: RawClient, database: redis.Redis) -> None:
    (group,) = client.call("group_list", stream="s")["groups"]
    assert (group["name"], group["pending"], group["lag"]) == ("g", 6, 4)
    assert [(each["name"], each["pending"]) for each in group["consumers"]] == [("a", 4), ("b", 2)]
    with pytest.raises(ToolFailure, match="no stream"):
        client.call("group_list", stream="none")


def test_pending_messages_are_paged_and_filtered(client: RawClient, database: redis.Redis) -> None:
    page = client.call("group_pending", stream="s", group="g", count=4)
    assert [entry["id"] for entry in page["entries"]] == [f"{T0 + n}-0" for n in range(4)]
    assert page["truncated"]
    rest = client.call("group_pending", stream="s", group="g", after=page["entries"][-1]["id"])
    assert [(entry["consumer"], entry["deliveries"]) for entry in rest["entries"]] == [("b", 1), ("b", 1)]
    assert len(client.call("group_pending", stream="s", group="g", consumer="b")["entries"]) == 2
    assert client.call("group_pending", stream="s", group="g", min_idle_s=3600)["entries"] == []
    with pytest.raises(ToolFailure, match=r"Did you mean 'g'|has no consumer group"):
        client.call("group_pending", stream="s", group="G")


def test_acknowledging_asks_first_and_ends_only_what_was_planned(client: RawClient, database: redis.Redis) -> None:
    ids = [f"{T0}-0", f"{T0 + 1}-0"]
    plan = client.call("group_ack", stream="s", group="g", ids=ids)
    assert (plan["acknowledged"], plan["count"]) == (0, 2)
    with pytest.raises(ToolFailure, match="does not fit"):
        client.call("group_ack", stream="s", group="g", ids=ids[:1], confirm_token=plan["confirm_token"])
    done = client.call("group_ack", stream="s", group="g", ids=ids, confirm_token=plan["confirm_token"])
    assert done["acknowledged"] == 2
    assert database.xpending("s", "g")["pending"] == 4


def test_claiming_gives_messages_to_another_consumer(client: RawClient, database: redis.Redis) -> None:
    ids = [f"{T0 + n}-0" for n in (0, 4, 9)]  # of a, of b, and one that nobody holds
    assert client.call("group_claim", stream="s", group="g", consumer="c", ids=ids)["claimed"] == []
    done = client.call("group_claim", stream="s", group="g", consumer="c", ids=ids, confirm=True)
    assert (done["claimed"], done["left"]) == (ids[:2], ids[2:])
    held = database.xpending_range("s", "g", "-", "+", 10, consumername="c")
    assert [(each["message_id"], each["times_delivered"]) for each in held] == [(ids[0], 1), (ids[1], 1)]
    young = client.call("group_claim", stream="s", group="g", consumer="a", ids=ids[:1], min_idle_s=3600, confirm=True)
    assert (young["claimed"], young["left"]) == ([], ids[:1])


@pytest.mark.parametrize(
    ("to", "next_one"),
    [("-", 0), (f"{T0 + 2}-0", 3), (T0 + 2, 2), ("2024-08-09T00:00:00.002Z", 2), ("+", None), ("now", None)],
)
def test_a_group_is_moved(client: RawClient, database: redis.Redis, to: str | int, next_one: int | None) -> None:
    plan = client.call("group_reset", stream="s", group="g", to=to)
    assert plan["moved"] is False
    assert client.call("group_reset", stream="s", group="g", to=to, confirm_token=plan["confirm_token"])["moved"]
    found = database.xreadgroup("g", "d", {"s": ">"}, count=1)
    assert (found[0][1][0][0] if found else None) == (None if next_one is None else f"{T0 + next_one}-0")


def test_a_relative_time_means_what_was_planned(client: RawClient, database: redis.Redis) -> None:
    plan = client.call("group_reset", stream="s", group="g", to="now-1h")
    assert client.call("group_reset", stream="s", group="g", to="now-1h", confirm_token=plan["confirm_token"])["moved"]


def test_own_streams_are_refused(client: RawClient, database: redis.Redis) -> None:
    for stream in ("sm:agents", "{s}:dlq"):
        with pytest.raises(ToolFailure, match="StreamMachine"):
            client.call("group_reset", stream=stream, group="g", to="-", confirm=True)
        with pytest.raises(ToolFailure, match="StreamMachine"):
            client.call("group_ack", stream=stream, group="g", ids=[f"{T0}-0"], confirm=True)


def test_explain_says_what_is_off_and_how_to_turn_it_on(shared_server: EmbeddedServer, tmp_path: Path) -> None:
    env = {
        "REDIS_URL": f"{shared_server.url}?db=5",
        "STREAMMACHINE_DATA_DIR": str(tmp_path),
        "STREAMMACHINE_READ_ONLY": "true",
        "STREAMMACHINE_TOOLSETS": "stream,health",
    }
    with RawClient(env=env) as client:
        found = client.call("explain")
        by_name = {name: row for row in found["off"] for name in row["names"]}
        assert "read-only" in by_name["stream_send"]["why"]
        assert by_name["ohlc_create"]["turn_on"].startswith("STREAMMACHINE_TOOLSETS=all")
        assert "all,groups" in by_name["group_reset"]["turn_on"]
        assert "STREAMMACHINE_POSTGRES_URL" in by_name["postgres:TABLE"]["turn_on"]
        assert "stream_read" not in by_name
        assert found["on"]["toolsets"] == ["stream", "health"]
        assert "sql" in found["on"]["extras"]
        assert {name for row in client.call("explain", topic="kafka")["off"] for name in row["names"]} == {
            "kafka:TOPIC"
        }
        assert "moon" in client.call("explain", topic="moon")["hint"]
        (text,) = client.request("tools/call", name="ohlc_create", arguments={})["content"]
        assert "explain" in text["text"]


def test_an_extra_that_is_not_installed_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from streammachine.settings import Settings
    from streammachine_mcp import missing

    monkeypatch.setattr(missing, "_is_installed", lambda name: name != "duckdb")
    (row,) = [each for each in missing.missing(Settings()) if each.what == "extra"]
    assert row.names == ("sql",)
    assert row.turn_on == "pip install 'streammachine-mcp[sql]'"
