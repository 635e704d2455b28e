"""Declared agents: stored, run once by whoever holds the lease, each output with its acknowledgement."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from streammachine.errors import SettingsError
from streammachine.redis.connection import RedisConnection
from streammachine.runtime.admin.agents import find_entry, list_agents, pause_agent
from streammachine.runtime.declared import host as declared
from streammachine.runtime.declared.agents import (
    KEY,
    LEASE_KEY,
    AgentExistsError,
    AgentNotFoundError,
    DeclaredAgent,
    declare,
    declared_agents,
    undeclare,
)
from streammachine.runtime.declared.expressions import ExpressionError
from streammachine.runtime.declared.host import DeclaredHost
from streammachine.runtime.presence import PAUSED, RUNNING, running_processes
from streammachine.settings import Settings
from support.runtime import MakeApp, Probe
from support.valkey import until

pytestmark = pytest.mark.anyio

BIG = DeclaredAgent("big", "trades", "big_trades", "num.qty > 1.0", "{'qty': num.qty, 'side': msg.side}")
WAIT = 60.0


@asynccontextmanager
async def hosting(settings: Settings) -> AsyncIterator[DeclaredHost]:
    """A host with a connection of its own, as in its child process; drained at the end."""
    async with RedisConnection(settings=settings) as connection:
        host = DeclaredHost(connection)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(host.run)
            try:
                yield host
            finally:
                host.stop()


async def send(redis: RedisConnection, *quantities: Any) -> None:
    await redis.pipeline_xadd("trades", [{"qty": str(quantity), "side": "buy"} for quantity in quantities])


async def test_an_agent_filters_selects_and_sends_each_message_once(
    redis: RedisConnection, settings: Settings, probe: Probe
) -> None:
    await send(redis, 0.5, 2, 3)  # before it is declared: nothing is skipped
    assert await declare(redis, BIG) == (BIG, True)
    async with hosting(settings):
        await send(redis, 1, 4)
        await until(lambda: probe.done("trades", 5, BIG.group), WAIT)
    found = [{k: v for k, v in entry.items() if k != "sm-sent"} for entry in await probe.fields("big_trades")]
    assert found == [{"qty": text, "side": "buy"} for text in ("2.0", "3.0", "4.0")]
    assert await probe.consumers("trades", BIG.group) == []


async def test_an_agent_whose_expressions_take_too_long_stops_no_other(
    redis: RedisConnection, settings: Settings, probe: Probe
) -> None:
    slow = r"msg.all(k, !'1'.matches('(\\w{20}){10}'))"  # 50 ms for each field, to compile that
    await declare(redis, DeclaredAgent("slow", "texts", "out", slow))
    await declare(redis, DeclaredAgent("nested", "texts", "out", "msg.all(k, msg.all(j, true))"))
    await declare(redis, BIG)
    await redis.pipeline_xadd("texts", [{f"f{n}": "v" for n in range(20_000)}] * 2 + [{"a": "1"}])
    async with hosting(settings):
        await send(redis, *range(2, 22))
        await until(lambda: _length(redis, "big_trades", 20), WAIT)
        await until(lambda: _dead(redis, "texts", 2 + 2), WAIT)
        await until(lambda: _length(redis, "out", 1 + 1), WAIT)  # both go on with the small one


async def _dead(redis: RedisConnection, stream: str, count: int) -> bool:
    return await _length(redis, "{%s}:dlq" % stream, count)  # noqa: UP031 - braces


async def _length(redis: RedisConnection, stream: str, count: int) -> bool:
    return int(await redis.command("XLEN", stream)) == count


async def test_without_expressions_the_fields_pass_unchanged(
    redis: RedisConnection, settings: Settings, probe: Probe
) -> None:
    await declare(redis, DeclaredAgent("copy", "trades", "copies"))
    await redis.pipeline_xadd("trades", [{"blob": b"\xff\x00", "sm-sent": "5"}])
    async with hosting(settings):
        await until(lambda: probe.ask("EXISTS", "copies"), WAIT)
    ((_, fields),) = await probe.ask("XRANGE", "copies", "-", "+")
    assert fields[:2] == [b"blob", b"\xff\x00"]
    assert fields[2] == b"sm-sent"
    assert fields[3] != b"5"


async def test_a_message_on_which_it_fails_is_a_dead_letter_and_the_agent_goes_on(
    redis: RedisConnection, settings: Settings, probe: Probe
) -> None:
    await declare(redis, BIG)
    async with hosting(settings):
        await send(redis, 2, "many", 3)
        await until(lambda: probe.done("trades", 3, BIG.group), WAIT)
    (letter,) = await probe.fields("{trades}:dlq")
    assert (letter["qty"], letter["sm-reason"], letter["sm-error-type"]) == ("many", "rejected", "ExpressionFailed")
    assert letter["sm-group"] == BIG.group
    assert len(await probe.fields("big_trades")) == 2


async def test_two_hosts_run_it_once_and_one_takes_over_from_the_other(
    redis: RedisConnection, settings: Settings, probe: Probe
) -> None:
    await declare(redis, BIG)
    async with hosting(settings) as second:
        await until(lambda: second.running == 1, WAIT)
        async with hosting(settings) as first:
            await send(redis, *range(2, 102))
            await until(lambda: probe.done("trades", 100, BIG.group), WAIT)
            assert (first.running, second.running) == (0, 1)
            second.stop()
            await until(lambda: first.running == 1, WAIT)
            await send(redis, *range(200, 300))
            await until(lambda: probe.done("trades", 200, BIG.group), WAIT)
    assert len(await probe.fields("big_trades")) == 200
    assert await probe.ask("EXISTS", LEASE_KEY + "big") == 0


async def test_the_lease_of_a_dead_host_runs_out(
    redis: RedisConnection, settings: Settings, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    await declare(redis, BIG)
    await probe.ask("SET", LEASE_KEY + "big", "a dead host's token", "PX", 300)
    async with hosting(settings) as host:
        await send(redis, 5)
        await until(lambda: probe.ask("EXISTS", "big_trades"), WAIT)
        assert host.running == 1
        # It was paused beyond its lease, and somebody else holds the agent now: it lets go.
        monkeypatch.setattr(declared, "LEASE", 0.3)
        await probe.ask("SET", LEASE_KEY + "big", "another host's token", "PX", 60_000)
        await until(lambda: host.running == 0, WAIT)
    assert await probe.ask("GET", LEASE_KEY + "big") == b"another host's token"


async def test_pause_holds_in_redis_for_hosts_that_start_later(
    redis: RedisConnection, settings: Settings, probe: Probe
) -> None:
    await declare(redis, BIG)
    entry, changed = await pause_agent(redis, "big", True)
    assert (entry.status, changed) == ("paused", True)
    async with hosting(settings) as host:
        await until(lambda: host.running == 1, WAIT)
        await send(redis, 5)
        await until(lambda: running_processes(redis), WAIT)
        assert await probe.ask("EXISTS", "big_trades") == 0
        assert (await pause_agent(redis, "big", False))[1] is True
        await until(lambda: probe.ask("EXISTS", "big_trades"), WAIT)
    assert await probe.ask("EXISTS", PAUSED) == 0
    assert await probe.ask("EXISTS", RUNNING) == 0


async def test_an_app_shows_its_agents_and_can_be_paused(redis: RedisConnection, make_app: MakeApp) -> None:
    app = make_app("shop")
    seen: list[str] = []

    @app.agent("orders", group="g")
    async def work(record: Any) -> None:
        seen.append(record.message["id"])

    name = app.agents[0].name
    async with app:
        entry = await until(lambda: _entry(redis, name), WAIT)
        assert (entry.kind, entry.app, entry.status, entry.streams) == ("app", "shop", "running", {"orders": "g"})
        await pause_agent(redis, name, True)
        consumer = app.consumers[0][1]
        await until(lambda: consumer.paused, WAIT)
        await until(lambda: _status(redis, name, "paused"), WAIT)
        polls = consumer.metrics.last_poll
        await app.send("orders", {"id": "1"})
        await pause_agent(redis, name, False)
        await until(lambda: seen == ["1"], WAIT)
        assert consumer.metrics.last_poll > polls
    assert await list_agents(redis) == []


async def _entry(redis: RedisConnection, name: str) -> Any:
    return next((entry for entry in await list_agents(redis) if entry.name == name), None)


async def _status(redis: RedisConnection, name: str, status: str) -> bool:
    return bool((await _entry(redis, name)).status == status)


async def test_a_name_is_found_by_its_handler_and_a_wrong_one_names_the_nearest(
    redis: RedisConnection, make_app: MakeApp
) -> None:
    app = make_app()
    for group in ("a", "b"):

        @app.agent("orders", group=group)
        async def twice(record: Any) -> None: ...

    @app.agent("orders", group="c")
    async def once(record: Any) -> None: ...

    prefix = once.__qualname__.removesuffix("once")
    async with app:
        await until(lambda: list_agents(redis), WAIT)
        entries = await list_agents(redis)
        assert find_entry(entries, f"{prefix}once").name == f"{prefix}once@orders/c"
        with pytest.raises(SettingsError, match="say which"):
            find_entry(entries, f"{prefix}twice")
        with pytest.raises(AgentNotFoundError, match="Did you mean"):
            find_entry(entries, f"{prefix}once@orders/d")


async def test_delete_takes_the_group_along_and_leaves_the_output(
    redis: RedisConnection, settings: Settings, probe: Probe
) -> None:
    await declare(redis, BIG)
    async with hosting(settings):
        await send(redis, 5)
        await until(lambda: probe.done("trades", 1, BIG.group), WAIT)
        assert await undeclare(redis, "big") is True
        assert await probe.ask("XINFO", "GROUPS", "trades") == []
        assert await undeclare(redis, "big") is False
    assert len(await probe.fields("big_trades")) == 1
    assert sorted(await probe.ask("KEYS", "*")) == [b"big_trades", b"trades"]


async def test_the_same_declaration_stands_and_another_is_refused(redis: RedisConnection) -> None:
    await declare(redis, BIG)
    again = DeclaredAgent(BIG.name, BIG.stream, BIG.output_stream, BIG.filter, BIG.select, created_ms=99)
    assert await declare(redis, again) == (BIG, False)
    with pytest.raises(AgentExistsError, match="does something else"):
        await declare(redis, DeclaredAgent("big", "trades", "elsewhere"))
    with pytest.raises(ExpressionError):
        await declare(redis, DeclaredAgent("other", "trades", "elsewhere", "nope"))
    assert list(await declared_agents(redis)) == ["big"]


async def test_agents_that_feed_each_other_in_a_circle_are_refused(redis: RedisConnection) -> None:
    await declare(redis, DeclaredAgent("ab", "a", "b"))
    await declare(redis, DeclaredAgent("bc", "b", "c"))
    with pytest.raises(SettingsError, match="circle"):
        await declare(redis, DeclaredAgent("ca", "c", "a"))
    await declare(redis, DeclaredAgent("cd", "c", "d"))


async def test_on_a_cluster_both_streams_must_share_a_slot(
    redis: RedisConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RedisConnection, "is_cluster", True)
    with pytest.raises(SettingsError, match=r"e\.g\. '{trades}:big_trades'"):
        await declare(redis, BIG)
    await declare(redis, DeclaredAgent("big", "trades", "{trades}:big"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("", "a", "b"), "name"),
        (("a@b", "a", "b"), "name"),
        (("x", "a", "a"), "the same"),
        (("x", "a", "sm:agents"), "StreamMachine's own"),
        (("x", "a", "{a}:dlq"), "StreamMachine's own"),
        (("x", "", "b"), "not empty"),
    ],
)
def test_names_that_cannot_work_are_refused(arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        DeclaredAgent(*arguments)


async def test_what_another_version_stored_is_left_alone(
    redis: RedisConnection, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    await probe.ask("HSET", KEY, "future", '{"name": "future", "language": 2}', "broken", "{")
    await declare(redis, BIG)
    assert list(await declared_agents(redis)) == ["big"]
    assert "future cannot be read" in caplog.text
    assert await probe.ask("HLEN", KEY) == 3
