"""stream_delete and stream_trim: what the user agreed to goes, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from fastmcp import Client
from fastmcp.client.elicitation import ElicitResult
from fastmcp.exceptions import ToolError

from streammachine.redis.connection import RedisConnection
from streammachine.redis.embedded.server import EmbeddedServer
from streammachine.settings import Settings
from streammachine_mcp.server import create_server
from support.mcp import LEGACY, RawClient, ToolFailure

DATABASE = 5  # as tests/server/conftest.py


@pytest.fixture
def database(raw: RawClient, shared_server: EmbeddedServer) -> Iterator[Any]:
    with redis.Redis(unix_socket_path=str(shared_server.socket_path), db=DATABASE, decode_responses=True) as client:
        yield client


def fill(database: Any, entries: int, stream: str = "orders", first: int = 1) -> None:
    with database.pipeline() as pipe:
        for number in range(first, first + entries):
            pipe.xadd(stream, {"n": number}, id=f"{number}-0")
        pipe.execute()


def test_a_stream_is_deleted_once_its_plan_is_confirmed(raw: RawClient, database: Any) -> None:
    fill(database, 3)
    fill(database, 2, "others")
    database.xgroup_create("orders", "workers")
    plan = raw.call("stream_delete", stream="orders")
    assert plan["deleted"] is False
    assert plan["count"] == 3
    assert plan["plan"] == "Delete the stream 'orders' with its 3 messages and 1 consumer groups"
    assert database.xlen("orders") == 3
    with pytest.raises(ToolFailure, match="does not fit"):
        raw.call("stream_delete", stream="others", confirm_token=plan["confirm_token"])
    assert raw.call("stream_delete", stream="orders", confirm_token=plan["confirm_token"]) == {
        "deleted": True,
        "count": 3,
    }
    assert not database.exists("orders")
    assert database.xlen("others") == 2
    assert raw.call("stream_delete", stream="others", confirm=True)["deleted"] is True


def test_a_token_does_not_delete_what_came_since(raw: RawClient, database: Any) -> None:
    fill(database, 3)
    plan = raw.call("stream_delete", stream="orders")
    fill(database, 1, first=10)
    with pytest.raises(ToolFailure, match="has changed since"):
        raw.call("stream_delete", stream="orders", confirm_token=plan["confirm_token"])
    assert database.xlen("orders") == 4


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        ({"keep": 1}, [2500]),
        ({"keep": 1000}, [1501, 2500]),
        ({"keep": 1500}, [1001, 2500]),
        ({"keep": 2499}, [2, 2500]),
        ({"keep": 2500}, [1, 2500]),
        ({"keep": 9999}, [1, 2500]),
        ({"keep": 0}, []),
        ({"before": "1234-0"}, [1234, 2500]),
        ({"before": "1-0"}, [1, 2500]),
        ({"before": "1970-01-01T00:00:02Z"}, [2000, 2500]),
        ({"before": "now-7d"}, []),
    ],
)
def test_a_stream_is_trimmed_to_the_entry(
    raw: RawClient, database: Any, arguments: dict[str, Any], left: list[int]
) -> None:
    fill(database, 2500)
    plan = raw.call("stream_trim", stream="orders", **arguments)
    gone = 2500 - (left[-1] - left[0] + 1 if left else 0)
    assert (plan["deleted"], plan["count"]) == (0, gone)
    assert database.xlen("orders") == 2500
    done = raw.call("stream_trim", stream="orders", confirm_token=plan["confirm_token"], **arguments)
    assert done == {"deleted": gone}
    found = [int(identifier.partition("-")[0]) for identifier, _ in database.xrange("orders")]
    assert found == (list(range(left[0], left[-1] + 1)) if left else [])
    assert database.exists("orders"), "its groups and its last id stay"


@pytest.mark.parametrize("arguments", [{"keep": 2}, {"before": "now-1ms"}])
def test_a_stream_that_grows_until_the_confirmation_loses_what_was_planned(
    raw: RawClient, database: Any, arguments: dict[str, Any]
) -> None:
    fill(database, 5)
    plan = raw.call("stream_trim", stream="orders", **arguments)
    newer = [database.xadd("orders", {"n": number}) for number in range(3)]
    done = raw.call("stream_trim", stream="orders", confirm_token=plan["confirm_token"], **arguments)
    assert done == {"deleted": plan["count"]}
    left = ["4-0", "5-0"] if "keep" in arguments else []
    assert [identifier for identifier, _ in database.xrange("orders")] == [*left, *newer]


@pytest.mark.parametrize("tool", ["stream_delete", "stream_trim"])
def test_own_streams_and_what_is_no_stream_are_refused(raw: RawClient, database: Any, tool: str) -> None:
    extra = {"keep": 1} if tool == "stream_trim" else {}
    own = ("sm:storage", "sm:ohlc:x:journal", "{orders}:dlq", "{orders}:retry:workers", "{orders}:dedup:k", "a{o}b:dlq")
    for stream in own:
        database.xadd(stream, {"a": "1"})
        with pytest.raises(ToolFailure, match="StreamMachine's own"):
            raw.call(tool, stream=stream, confirm=True, **extra)
        assert database.exists(stream)
    fill(database, 1)
    with pytest.raises(ToolFailure, match=r"no stream 'ordres'\. Did you mean 'orders'"):
        raw.call(tool, stream="ordres", confirm=True, **extra)
    database.set("text", "x")
    with pytest.raises(ToolFailure, match="holds a string, not a stream"):
        raw.call(tool, stream="text", confirm=True, **extra)
    assert database.get("text") == "x"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "either keep"),
        ({"keep": 1, "before": "now"}, "either keep"),
        ({"before": "-"}, "not accepted"),
        ({"before": "+"}, "not accepted"),
        ({"before": "(5-0"}, "not accepted"),
        ({"before": "soon"}, "not a position"),
        ({"keep": -1}, "keep"),
    ],
)
def test_a_trim_that_says_nothing_clear_is_refused(
    raw: RawClient, database: Any, arguments: dict[str, Any], says: str
) -> None:
    fill(database, 3)
    with pytest.raises(ToolFailure, match=says):
        raw.call("stream_trim", stream="orders", confirm=True, **arguments)
    assert database.xlen("orders") == 3


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("agreed", [True, False])
async def test_a_client_that_can_ask_asks_its_user(redis: RedisConnection, mode: Any, agreed: bool) -> None:
    for number in range(1, 6):
        await redis.command("XADD", "orders", f"{number}-0", "n", number)
    asked: list[str] = []

    async def answer(message: str, *_: Any) -> ElicitResult[Any]:
        asked.append(message)
        await redis.command("XADD", "orders", "*", "n", "new")
        return ElicitResult(action="accept" if agreed else "decline", content={"confirm": True} if agreed else None)

    server = create_server(Settings(redis_url=redis.url))
    async with Client(server, mode=mode, elicitation_handler=answer) as client:
        if agreed:
            result = await client.call_tool("stream_trim", {"stream": "orders", "keep": 2})
            assert result.structured_content == {"deleted": 3}
        else:
            with pytest.raises(ToolError, match="did not confirm"):
                await client.call_tool("stream_trim", {"stream": "orders", "keep": 2})
    assert asked == ["Delete the 3 messages of the stream 'orders' that are older than 4-0, of 5. Go ahead?"]
    assert await redis.command("XLEN", "orders") == (3 if agreed else 6)
    assert LEGACY
