"""What the views give: bounded whatever there is, right, and safe with odd things in Redis."""

from __future__ import annotations

import json
import time
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from streammachine.dashboard.board import PAGE, Dashboard
from streammachine.dashboard.web import VIEWS, Events
from streammachine.market.emitters.redis import _index
from streammachine.redis.connection import RedisConnection
from streammachine.redis.storage import Storage
from streammachine.redis.transport.raw_connection import encode_command
from streammachine.runtime.presence import RUNNING

pytestmark = pytest.mark.anyio
MOST = 64_000  # bytes of an update


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streammachine.dashboard.board.PACE", 0)


def board_of(redis: RedisConnection) -> Dashboard:
    async def connect() -> RedisConnection:
        return redis

    return Dashboard(connect, 0.01)


async def look(board: Dashboard, view: str, **query: str) -> dict[str, Any]:
    """A view as the page gets it."""
    text = await Events(board, VIEWS[view], query)._look()
    assert len(text) < MOST
    found: dict[str, Any] = json.loads(text, parse_constant=pytest.fail)
    return found


async def many(redis: RedisConnection, commands: list[list[Any]]) -> None:
    for start in range(0, len(commands), 1000):
        part = commands[start : start + 1000]
        await redis.exchange(b"".join(map(encode_command, part)), len(part))


async def test_ten_thousand_streams_and_a_hundred_agents_go_out_by_the_page(redis: RedisConnection) -> None:
    names = [f"{'long' * 20}:{number:05}" for number in range(10_000)]
    await many(redis, [["XADD", name, "*", "field", "value" * 100] for name in names])
    await many(redis, [["XGROUP", "CREATE", name, "g" * 60, "0"] for name in names[:2000]])
    facts = {
        "stream": names[0],
        "group": "g",
        "rate": 1.5,
        "consumed": 7,
        "problem": "x" * 1000,
        "latency_ms": float("inf"),
    }
    agents = [{**facts, "agent": f"agent-{number:03}", "stream": names[number]} for number in range(100)]
    told = {"app": "a" * 1000, "host": "h", "pid": 1, "declared": False, "agents": agents}
    await redis.command("HSET", RUNNING, "p", f"{int(time.time() * 1000)} {json.dumps(told)}")
    board = board_of(redis)
    first = await look(board, "streams")
    assert (first["total"], len(first["rows"]), first["rows"][0]["name"]) == (10_000, PAGE, names[0])
    last = await look(board, "streams", page="999999")
    assert last["rows"][-1]["name"] == names[-1]
    assert [row["name"] for row in (await look(board, "streams", q="09999"))["rows"]] == [names[9999]]
    assert (await look(board, "streams", sort="length"))["rows"][0]["length"] == 1
    await board.survey.look()
    groups = await look(board, "groups")
    assert (groups["total"], len(groups["rows"]), groups["rows"][0]["lag"]) == (2000, PAGE, 1)
    found = await look(board, "agents", page="1")
    assert (found["total"], len(found["rows"]), found["rows"][0]["latency_ms"]) == (100, PAGE, None)
    for view in VIEWS:
        await look(board, view, stream=names[0])


async def running(redis: RedisConnection, agents: dict[str, list[str]]) -> None:
    facts = [{"agent": name, "stream": each, "group": "g"} for name, streams in agents.items() for each in streams]
    told = {"app": "a", "host": "h", "pid": 1, "declared": False, "agents": facts}
    await redis.command("HSET", RUNNING, "p", f"{int(time.time() * 1000)} {json.dumps(told)}")


async def test_an_agent_of_many_streams_shows_the_lag_of_all(redis: RedisConnection) -> None:
    names = [f"s:{number}" for number in range(2500)]
    await many(redis, [["XGROUP", "CREATE", name, "g", "0", "MKSTREAM"] for name in names])
    await many(redis, [["XADD", name, "*", "n", 1] for name in names])
    await running(redis, {"some": names[:20], "more": names[:1000]})
    found = await look(board_of(redis), "agents")
    assert [(row["name"], row["lag"]) for row in found["rows"]] == [("more", 1000), ("some", 20)]
    assert found["note"] == ""
    await running(redis, {"some": names[2400:2420], "most": names[:2400]})
    found = await look(board_of(redis), "agents")
    assert [(row["name"], row["lag"]) for row in found["rows"]] == [("most", 1980), ("some", 20)]
    assert "1,980 of the 2,400 of most" in found["note"]


async def test_pages_that_ask_the_same_share_a_look_until_an_action(redis: RedisConnection) -> None:
    await many(redis, [["XADD", "s", "*", "n", 1]])

    async def connect() -> RedisConnection:
        return redis

    board, looks = Dashboard(connect, 60), 0

    async def make() -> str:
        nonlocal looks
        looks += 1
        await anyio.lowlevel.checkpoint()
        return f"look {looks}"

    async def ask(question: str, into: list[str]) -> None:
        into.append(await board.look(question, make))

    found: list[str] = []
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(ask, "same", found)
    assert found == ["look 1"] * 3
    await ask("another", found)
    changed = board.changed
    board.touch()
    await board.wait(changed)  # an action during a look is not missed
    await ask("same", found)
    assert found[3:] == ["look 2", "look 3"]


async def test_the_furthest_behind_stands_first_and_its_numbers_are_of_now(redis: RedisConnection) -> None:
    for name, count in (("a", 3), ("b", 30)):
        await redis.command("XGROUP", "CREATE", name, "g", "0", "MKSTREAM")
        await many(redis, [["XADD", name, f"1000-{number + 1}", "n", 1] for number in range(count)])
    board = board_of(redis)
    await board.survey.look()
    await redis.command("XREADGROUP", "GROUP", "g", "me", "COUNT", 10, "STREAMS", "b", ">")
    rows = (await look(board, "groups"))["rows"]
    assert [(row["stream"], row["lag"], row["pending"]) for row in rows] == [("b", 20, 10), ("a", 3, 0)]
    assert rows[0]["oldest"] > 1e9 and rows[1]["oldest"] is None


async def test_odd_things_in_redis_do_no_harm(redis: RedisConnection) -> None:
    for key in ("sm:runners", "sm:backfills", "sm:agents", RUNNING, "{sm:alerts}:defined", "{sm:alerts}:state"):
        await redis.command("HSET", key, b"\xff<b>", b'{"a": NaN, "b": "\\ud800"}')
    await redis.command(
        "HSET", "sm:runners", "odd", json.dumps({"name": "odd", "exchange": "x", "symbols": [1], "timeframe": None})
    )
    status = {"state": 5, "rows": 1e400, "gaps": {}, "last": [{"open_ts": "x"}, 3], "said_ms": 1}
    await redis.command("HSET", "sm:runners:status", "odd", json.dumps(status))
    await redis.command("XADD", b"kline:\xff", "*", b"\xff", b"\x00\xfe")
    await redis.command(
        "XADD", "{odd}:dlq", "*", "sm-failed-at", "9" * 40, "sm-reason", "x" * 5000, "a", b"\xff" * 5000
    )
    await redis.command("HSET", "sm:storage", b"\xff", b"\x01SM1nonsense")
    await Storage(redis).write("big", "x" * 2_000_000)
    board = board_of(redis)
    for view in VIEWS:
        await look(board, view)
    assert (await look(board, "market"))["rows"][0]["state"] == "lost"
    assert "too large" in (await look(board, "storage", key="big"))["note"]
    letters = await look(board, "letters", stream="{odd}:dlq")
    assert (len(letters["letters"]), letters["letters"][0]["failed"]) == (1, None)
    assert "There is no stream" in (await look(board, "entries", stream="gone"))["error"]
    assert (await look(board, "candles", stream="{odd}:dlq", indicators="nonsense:1"))["candles"] == []


async def test_candles_come_once_each_with_their_last_state_and_their_archive(redis: RedisConnection) -> None:
    key = "kline:binance:BTCUSDT:1m"

    async def write(stream: str, minute: int, close: float, closed: bool) -> None:
        candle = {"open_ts": minute * 60_000, "open": 1, "high": 9, "low": 0.5, "close": close, "volume": 2}
        fields = [str(part) for pair in candle.items() for part in pair]
        await redis.command("XADD", stream, "*", *fields, "is_closed", "true" if closed else "false")

    await write(f"{key}:archive:1", 1, 1.5, True)
    await redis.command("ZADD", _index(key), 1, f"{key}:archive:1")
    await write(key, 2, 2.0, False)
    await write(key, 2, 2.5, True)
    await write(key, 3, 3.0, False)
    found = await look(board_of(redis), "candles")
    assert found["stream"] == key and found["rows"] == [key]
    assert [(row[0] // 60_000, row[4], row[6]) for row in found["candles"]] == [
        (1, 1.5, True),
        (2, 2.5, True),
        (3, 3.0, False),
    ]


async def test_a_busy_loop_does_not_make_the_order_of_groups_older(
    redis: RedisConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A walk that took long by the clock, since others were at work, is not paid for by minutes without one."""
    board, rests = board_of(redis), []

    async def took_long() -> None:
        board.survey.took = 2.0

    async def rest(seconds: float) -> None:
        rests.append(seconds)
        scope.cancel()
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(board.survey, "look", took_long)
    monkeypatch.setattr("streammachine.dashboard.board.anyio.sleep", rest)
    await board.survey.behind()
    with anyio.CancelScope() as scope:
        await board.run()
    assert rests == [40]
