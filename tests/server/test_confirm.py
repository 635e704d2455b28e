"""storage_clear and obj_delete destroy nothing that nobody agreed to; nothing else asks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal

import anyio
import pytest
from fastmcp import Client, FastMCP
from fastmcp.client.elicitation import ElicitResult
from fastmcp.exceptions import ToolError
from mcp.shared.exceptions import MCPError

from streammachine.redis.connection import RedisConnection
from streammachine.redis.objects import RedisObjectStorage
from streammachine.redis.storage import Storage
from streammachine.settings import Settings
from streammachine_mcp import safety
from streammachine_mcp.server import create_server
from support.mcp import LEGACY, RawClient

pytestmark = pytest.mark.anyio

Mode = Literal["auto", "legacy"]
DESTRUCTIVE: list[tuple[str, dict[str, Any]]] = [("storage_clear", {}), ("obj_delete", {"pattern": "*"})]
FOREIGN = ("user:1", "k1", "sm:storage-of-mine", "sm:objects", "obj:k1", "{s}:dlq")

every_mode = pytest.mark.parametrize("mode", ["auto", "legacy"])
every_tool = pytest.mark.parametrize(("tool", "arguments"), DESTRUCTIVE, ids=[name for name, _ in DESTRUCTIVE])


class World:
    """A server on a Redis that holds three values, three objects of the same names, and keys of other people."""

    def __init__(self, redis: RedisConnection, settings: Settings) -> None:
        self.redis = redis
        self.server: FastMCP[Any] = create_server(settings)
        self.storage = Storage(redis)
        self.objects = RedisObjectStorage(connection=redis)

    async def fill_own(self) -> None:
        for key in ("k1", "k2", "k3"):
            await self.storage.write(key, key)
            await self.objects.store_with_pickle(key, {"name": key})

    async def fill(self) -> None:
        await self.fill_own()
        for key in FOREIGN:
            await self.redis.run(lambda client, key=key: client.set(key, "not yours"))  # type: ignore[misc]
        await self.redis.run(lambda client: client.xadd("s", {"a": "1"}))

    async def left(self, tool: str) -> int:
        """How many of the tool's own things are left; everything else must be."""
        values, objects = len(await self.storage.keys()), len(await self.objects.list_keys())
        for key in FOREIGN:
            assert await self.redis.run(lambda client, key=key: client.get(key)) == b"not yours"  # type: ignore[misc]
        assert await self.redis.run(lambda client: client.xlen("s")) == 1
        assert (objects if tool == "storage_clear" else values) == 3
        return values if tool == "storage_clear" else objects


@pytest.fixture
async def world(redis: RedisConnection, settings: Settings) -> AsyncIterator[World]:
    world = World(redis, settings)
    await world.fill()
    yield world


def data(result: Any) -> dict[str, Any]:
    found: dict[str, Any] = result.structured_content
    assert json.loads(result.content[0].text) == found
    return found


class User:
    """Answers the server's questions, and keeps them."""

    def __init__(self, action: Literal["accept", "decline", "cancel"], content: dict[str, Any] | None = None) -> None:
        self.questions: list[str] = []
        self.action = action
        self.content = content
        self.meanwhile: Callable[[], Awaitable[Any]] | None = None

    async def __call__(self, message: str, kind: Any, params: Any, context: Any) -> ElicitResult[Any]:
        self.questions.append(message)
        assert params.requested_schema["properties"]["confirm"]["type"] == "boolean"
        if self.meanwhile is not None:
            await self.meanwhile()
        return ElicitResult(action=self.action, content=self.content)


@every_mode
@every_tool
async def test_confirm_true_acts_at_once(world: World, tool: str, arguments: dict[str, Any], mode: Mode) -> None:
    async with Client(world.server, mode=mode) as client:
        result = data(await client.call_tool(tool, {**arguments, "confirm": True}))
    assert result["deleted" if tool == "obj_delete" else "count"] == 3
    assert await world.left(tool) == 0


@every_mode
@every_tool
async def test_a_client_that_cannot_ask_gets_a_plan_and_a_token_for_it(
    world: World, tool: str, arguments: dict[str, Any], mode: Mode
) -> None:
    async with Client(world.server, mode=mode) as client:
        plan = data(await client.call_tool(tool, arguments))
        assert await world.left(tool) == 3
        assert plan["confirmed"] is False
        assert plan["count"] == 3
        assert "3" in plan["plan"]
        assert plan["expires_in_s"] == safety.TOKEN_LIFE
        assert "Nothing was deleted" in plan["hint"]
        assert not plan.get("cleared")
        assert not plan.get("deleted")
        done = data(await client.call_tool(tool, {**arguments, "confirm_token": plan["confirm_token"]}))
        assert done.get("cleared") is True or done["deleted"] == 3
        assert await world.left(tool) == 0
        with pytest.raises(ToolError, match="does not fit"):  # the plan it was for is done
            await client.call_tool(tool, {**arguments, "confirm_token": plan["confirm_token"]})


@every_tool
async def test_a_token_is_for_one_call(world: World, tool: str, arguments: dict[str, Any]) -> None:
    async with Client(world.server) as client:
        plans = [data(await client.call_tool(tool, arguments)) for _ in range(2)]
        for plan in plans:
            await client.call_tool(tool, {**arguments, "confirm_token": plan["confirm_token"]})
            assert await world.left(tool) == 0
            await world.fill_own()  # the same things once more
        for plan in plans:
            with pytest.raises(ToolError, match=r"used before.*Nothing was deleted"):
                await client.call_tool(tool, {**arguments, "confirm_token": plan["confirm_token"]})


@every_tool
@pytest.mark.parametrize("change", ["a thing more", "a thing less", "another thing", "another value"])
async def test_a_token_does_not_fit_what_has_changed_since(
    world: World, tool: str, arguments: dict[str, Any], change: str
) -> None:
    async def write(key: str) -> None:
        await (world.storage.write(key, 1) if tool == "storage_clear" else world.objects.store_with_pickle(key, 1))

    async def delete(key: str) -> None:
        await (world.storage.delete(key) if tool == "storage_clear" else world.objects.delete([key]))

    async with Client(world.server) as client:
        token = data(await client.call_tool(tool, arguments))["confirm_token"]
        if change in ("a thing less", "another thing"):
            await delete("k1")
        if change in ("a thing more", "another thing"):
            await write("k9")
        if change == "another value":
            await write("k1")
        before = await world.left(tool)
        with pytest.raises(ToolError, match=r"has changed since.*Nothing was deleted"):
            await client.call_tool(tool, {**arguments, "confirm_token": token})
        assert await world.left(tool) == before
        again = data(await client.call_tool(tool, arguments))["confirm_token"]
        await client.call_tool(tool, {**arguments, "confirm_token": again})
        assert await world.left(tool) == 0


async def test_a_token_fits_no_other_tool_pattern_or_server(world: World, settings: Settings) -> None:
    async with Client(world.server) as client:
        cleared = data(await client.call_tool("storage_clear", {}))["confirm_token"]
        deleted = data(await client.call_tool("obj_delete", {"pattern": "*"}))["confirm_token"]
        for tool, arguments, token in (
            ("obj_delete", {"pattern": "*"}, cleared),  # the same names, and the same count
            ("storage_clear", {}, deleted),
            ("obj_delete", {"pattern": "k*"}, deleted),  # matches the same objects
        ):
            with pytest.raises(ToolError, match="does not fit"):
                await client.call_tool(tool, {**arguments, "confirm_token": token})
    async with Client(create_server(settings)) as other:
        with pytest.raises(ToolError, match="does not fit"):
            await other.call_tool("storage_clear", {"confirm_token": cleared})
    assert await world.left("storage_clear") == await world.left("obj_delete") == 3


@every_tool
async def test_garbage_is_no_token(world: World, tool: str, arguments: dict[str, Any]) -> None:
    async with Client(world.server) as client:
        token = data(await client.call_tool(tool, arguments))["confirm_token"]
        expires, _, signature = token.partition(".")
        forged = [
            ".",
            "true",
            "é.é",
            f"²{expires}.{signature}",
            f"-{expires}.{signature}",
            f"{int(expires) + 1}.{signature}",
            f"{expires}.{signature[:-1]}",
            f"{expires}.{signature.upper()}x",
            f" {token}",
            token * 2,
            "9" * 100_000 + f".{signature}",
        ]
        for text in forged:
            with pytest.raises(ToolError, match="Nothing was deleted"):
                await client.call_tool(tool, {**arguments, "confirm_token": text})
        assert await world.left(tool) == 3


@every_tool
async def test_a_token_expires(
    world: World, tool: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safety, "TOKEN_LIFE", -1)
    async with Client(world.server) as client:
        token = data(await client.call_tool(tool, arguments))["confirm_token"]
        with pytest.raises(ToolError, match=r"expired\. Nothing was deleted"):
            await client.call_tool(tool, {**arguments, "confirm_token": token})
    assert await world.left(tool) == 3


@every_mode
@every_tool
async def test_a_user_who_agrees_is_asked_once_and_obeyed(
    world: World, tool: str, arguments: dict[str, Any], mode: Mode
) -> None:
    user = User("accept", {"confirm": True})
    async with Client(world.server, mode=mode, elicitation_handler=user) as client:
        result = data(await client.call_tool(tool, arguments))
    assert result.get("cleared") is True or result["deleted"] == 3
    [question] = user.questions
    assert "3" in question
    assert await world.left(tool) == 0


@every_tool
async def test_what_came_while_the_user_was_thinking_stays(world: World, tool: str, arguments: dict[str, Any]) -> None:
    """The legacy question is answered within the call; the user agreed to three things, not to a fourth or new ones."""

    async def meanwhile() -> None:
        for key in ("late", "k1"):
            await world.storage.write(key, 1)
            await world.objects.store_with_pickle(key, 1)

    user = User("accept", {"confirm": True})
    user.meanwhile = meanwhile
    async with Client(world.server, mode="legacy", elicitation_handler=user) as client:
        result = data(await client.call_tool(tool, arguments))
    assert result["deleted" if tool == "obj_delete" else "count"] == 2
    assert (
        await (world.storage.read("k1") if tool == "storage_clear" else world.objects.retrieve_with_pickle("k1")) == 1
    )
    assert "late" in await world.storage.keys()
    assert "late" in await world.objects.list_keys()


NO: list[tuple[Any, dict[str, Any] | None]] = [
    ("decline", None),
    ("cancel", None),
    ("decline", {"confirm": True}),
    ("accept", {"confirm": False}),
    ("accept", None),
]
NOT_ALLOWED: list[dict[str, Any]] = [{"confirm": "false"}, {"confirm": 1}, {"something": True}, {}]


@every_mode
@every_tool
async def test_a_user_who_does_not_agree_keeps_everything(
    world: World, tool: str, arguments: dict[str, Any], mode: Mode
) -> None:
    user = User("decline")
    async with Client(world.server, mode=mode, elicitation_handler=user) as client:
        for user.action, user.content in NO:
            with pytest.raises(ToolError, match="nothing was deleted"):
                await client.call_tool(tool, arguments)
            assert await world.left(tool) == 3
    assert len(user.questions) == len(NO)


@every_mode
@every_tool
async def test_an_answer_that_the_questions_form_does_not_allow_keeps_everything(
    world: World, tool: str, arguments: dict[str, Any], mode: Mode
) -> None:
    """FastMCP's client does not send it from 4.2 on: it says so to us or (legacy) to the server, which gives a plan."""
    user = User("accept")
    async with Client(world.server, mode=mode, elicitation_handler=user) as client:
        for user.content in NOT_ALLOWED:
            try:
                assert data(await client.call_tool(tool, arguments))["confirm_token"]
            except ToolError as error:
                assert "nothing was deleted" in str(error)
            except MCPError as error:
                assert "Failed validating" in str(error)
            assert await world.left(tool) == 3
    assert len(user.questions) == len(NOT_ALLOWED)


def test_such_an_answer_on_the_wire_deletes_nothing_and_is_told_so(server_env: dict[str, str]) -> None:
    with RawClient(env=server_env, capabilities={"elicitation": {}}) as client:
        client.call("storage_write", key="k", value=1)
        for content in NOT_ALLOWED:
            identifier, question = raw_call(client, "storage_clear", {})
            reply = {"action": "accept", "content": content}
            client.write({"jsonrpc": "2.0", "id": question["id"], "result": reply})
            result = client.wait(identifier)
            assert result["isError"]
            assert "nothing was deleted" in result["content"][0]["text"]
        assert client.call("storage_keys")["keys"] == ["k"]


@every_tool
@pytest.mark.parametrize("key", ["k9", "k1"])
async def test_what_changes_while_the_user_thinks_is_not_deleted_unseen(
    world: World, tool: str, arguments: dict[str, Any], key: str
) -> None:
    async def meanwhile() -> None:
        await world.storage.write(key, 1)
        await world.objects.store_with_pickle(key, 1)

    user = User("accept", {"confirm": True})
    user.meanwhile = meanwhile
    async with Client(world.server, elicitation_handler=user) as client:
        with pytest.raises(ToolError, match="has changed since"):
            await client.call_tool(tool, arguments)
    assert len(await world.storage.keys()) == len(await world.objects.list_keys()) == (4 if key == "k9" else 3)


@every_mode
@every_tool
async def test_confirm_and_token_spare_the_user_the_question(
    world: World, tool: str, arguments: dict[str, Any], mode: Mode
) -> None:
    user = User("decline")
    async with Client(world.server, mode=mode, elicitation_handler=user) as client:
        await client.call_tool(tool, {**arguments, "confirm": True})
    assert user.questions == []
    assert await world.left(tool) == 0


def raw_call(client: RawClient, tool: str, arguments: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Call a destructive tool over the wire; its id, and the question that the server asks."""
    identifier = client.send("tools/call", name=tool, arguments=arguments)
    message = client.lines.get(timeout=30)
    assert message is not None
    assert message.get("method") == "elicitation/create", message
    return identifier, message


@every_tool
async def test_a_question_that_nobody_answers_becomes_a_plan(
    world: World, tool: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silence() -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(safety, "ASK_TIMEOUT", 0.2)
    user = User("accept", {"confirm": True})
    user.meanwhile = silence
    async with Client(world.server, mode="legacy", elicitation_handler=user) as client:
        plan = data(await client.call_tool(tool, arguments))
        assert len(user.questions) == 1
        assert await world.left(tool) == 3
        await client.call_tool(tool, {**arguments, "confirm_token": plan["confirm_token"]})
    assert await world.left(tool) == 0


@every_tool
async def test_a_client_that_refuses_to_ask_gets_a_plan(world: World, tool: str, arguments: dict[str, Any]) -> None:
    """It declares elicitation, and answers the question with a JSON-RPC error."""

    async def broken(*_: Any) -> Any:
        raise RuntimeError("not implemented here")

    async with Client(world.server, mode="legacy", elicitation_handler=broken) as client:
        assert data(await client.call_tool(tool, arguments))["confirm_token"]
    assert await world.left(tool) == 3


NONSENSE: list[Any] = [
    {},
    {"action": "maybe"},
    {"action": 5},
    {"action": "accept", "content": "yes"},
    {"action": "accept", "content": {"confirm": {"a": [1]}}},
    "text",
    None,
]


def test_a_nonsense_answer_deletes_nothing_and_is_named_in_our_words(server_env: dict[str, str]) -> None:
    with RawClient(env=server_env, capabilities={"elicitation": {}}) as client:
        client.call("storage_write", key="k", value=1)
        for answer in NONSENSE:
            identifier, question = raw_call(client, "storage_clear", {})
            client.write({"jsonrpc": "2.0", "id": question["id"], "result": answer})
            result = client.wait(identifier)
            if isinstance(answer, dict):
                assert result["isError"]
                assert "so nothing was deleted" in result["content"][0]["text"]
                assert "pydantic" not in result["content"][0]["text"]
            else:  # no result at all, as if it had refused to ask
                assert result["structuredContent"]["confirm_token"]
                assert client.answer(None)["error"]["code"] == -32600
        assert client.call("storage_keys")["keys"] == ["k"]


def test_a_nonsense_answer_of_the_modern_protocol_is_named_in_our_words(server_env: dict[str, str]) -> None:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
    }
    with RawClient(env=server_env, initialize=False) as client:
        asked = client.request("tools/call", name="storage_clear", arguments={}, _meta=meta)
        for answer in NONSENSE:
            again = {"requestState": asked["requestState"], "inputResponses": {"confirm": answer}, "_meta": meta}
            error = client.answer(client.send("tools/call", name="storage_clear", arguments={}, **again))["error"]
            assert "The answer to 'confirm' is none, so nothing was done" in error["message"]
        again["inputResponses"] = ["no map"]
        error = client.answer(client.send("tools/call", name="storage_clear", arguments={}, **again))["error"]
        assert "is none, so nothing was done" in error["message"]


def test_on_the_wire_the_question_carries_its_form_and_a_url_only_client_gets_a_plan(
    server_env: dict[str, str],
) -> None:
    with RawClient(env=server_env, capabilities={"elicitation": {}}) as client:
        client.call("storage_write", key="k", value=1)
        identifier, question = raw_call(client, "storage_clear", {})
        assert question["params"]["requestedSchema"]["required"] == ["confirm"]
        reply = {"action": "accept", "content": {"confirm": True}}
        client.write({"jsonrpc": "2.0", "id": question["id"], "result": reply})
        assert client.wait(identifier)["structuredContent"]["cleared"] is True
        identifier, question = raw_call(client, "storage_clear", {})
        client.write({"jsonrpc": "2.0", "id": question["id"], "error": {"code": -32601, "message": "no such method"}})
        assert client.wait(identifier)["structuredContent"]["confirm_token"]
    with RawClient(env=server_env, capabilities={"elicitation": {"url": {}}}) as client:
        assert client.server_info["protocolVersion"] == LEGACY
        assert client.call("storage_clear")["confirm_token"]


async def test_a_value_whose_name_is_no_utf8_is_cleared_with_the_others(world: World) -> None:
    await world.redis.command("HSET", "sm:storage", b"\xff\xfe", b"1")
    async with Client(world.server) as client:
        token = data(await client.call_tool("storage_clear", {}))["confirm_token"]
        assert data(await client.call_tool("storage_clear", {"confirm_token": token}))["count"] == 4
    assert await world.redis.command("EXISTS", "sm:storage") == 0


async def test_a_purge_is_bound_to_the_letters_and_an_agents_end_to_what_it_does(world: World) -> None:
    agent = {"name": "a", "stream": "s", "output_stream": "out"}
    async with Client(world.server) as client:
        await world.redis.command("DEL", "{s}:dlq")

        async def letter(identifier: str, value: str) -> None:
            await world.redis.command("XADD", "{s}:dlq", identifier, "n", value)

        await letter("1-1", "old")
        await letter("1-2", "old")
        token = data(await client.call_tool("dead_letter_purge", {"stream": "s"}))["confirm_token"]
        await world.redis.command("DEL", "{s}:dlq")
        await letter("1-1", "new")
        await letter("1-2", "new")
        with pytest.raises(ToolError, match="has changed since"):
            await client.call_tool("dead_letter_purge", {"stream": "s", "confirm_token": token})
        assert await world.redis.command("XLEN", "{s}:dlq") == 2
        await client.call_tool("agent_create", agent)
        token = data(await client.call_tool("agent_delete", {"name": "a"}))["confirm_token"]
        await client.call_tool("agent_delete", {"name": "a", "confirm": True})
        await client.call_tool("agent_create", agent)
        with pytest.raises(ToolError, match="has changed since"):
            await client.call_tool("agent_delete", {"name": "a", "confirm_token": token})
    user = User("accept", {"confirm": True})
    async with Client(world.server, mode="legacy", elicitation_handler=user) as client:

        async def meanwhile() -> None:
            async with Client(world.server) as other:
                await other.call_tool("agent_delete", {"name": "a", "confirm": True})
                await other.call_tool("agent_create", {**agent, "output_stream": "elsewhere"})

        user.meanwhile = meanwhile
        with pytest.raises(ToolError, match="has changed since"):
            await client.call_tool("agent_delete", {"name": "a"})
        assert [row["name"] for row in data(await client.call_tool("agent_list", {}))["agents"]] == ["a"]


@every_mode
async def test_deleting_and_clearing_what_is_named_exactly_asks_nobody(world: World, mode: Mode) -> None:
    user = User("decline")
    async with Client(world.server, mode=mode, elicitation_handler=user) as client:
        await client.call_tool("ohlc_create", {"name": "btc"})
        tick = {"name": "btc", "symbol": "BTC", "price": 1, "volume": 1, "timestamp_ms": 1_723_161_600_000}
        await client.call_tool("ohlc_update", tick)
        flushed = await client.call_tool("ohlc_flush", {"name": "btc", "symbol": "BTC", "interval_ms": 60_000})
        assert data(flushed)["flushed"] == 1
        assert data(await client.call_tool("ohlc_clear", {"name": "btc"}))["ticks_removed"] == 1
        assert data(await client.call_tool("storage_delete", {"key": "k1"}))["existed"] is True
    assert user.questions == []
    assert await world.left("storage_clear") == 2


async def test_a_pattern_deletes_what_it_matches_and_no_more(world: World) -> None:
    for key in ("model:a", "model:b", "m[x]", "m?", "m*"):
        await world.objects.store_with_pickle(key, 1)
    async with Client(world.server) as client:
        gone = {"model:*": 2, "m[[]x]": 1, "m\\*": 1, "../*": 0, "sm:obj:*": 0, "user:*": 0, "absent": 0}
        for pattern, count in gone.items():
            result = data(await client.call_tool("obj_delete", {"pattern": pattern, "confirm": True}))
            assert result["deleted"] == count, pattern
        with pytest.raises(ToolError):
            await client.call_tool("obj_delete", {"pattern": "", "confirm": True})
    assert await world.objects.list_keys() == ["k1", "k2", "k3", "m?"]
    assert await world.left("obj_delete") == 4
