"""Every handler of the MCP server, called by real clients over stdio.

Runs alone, without pytest::

    python tests/test_mcp_client.py

It starts the real server on an embedded Valkey of its own in a temporary folder, calls all tools, resources and
prompts, holds every result against its output schema and its text against its structured content, prints a line per
handler, and exits 1 if one failed. Under pytest the same checks run with three clients: the raw one that speaks as
Claude Desktop does, and FastMCP's in both eras of the protocol.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import anyio
import jsonschema
from anyio.from_thread import BlockingPortal, start_blocking_portal

from support.mcp import CLAUDE_DESKTOP, RawClient, clean_environment
from support.simulator import exchange

CLIENTS = ("raw", "legacy", "auto")
MODERN = "2026-07-28"
T0 = 1_723_161_600_000  # a full minute and a full 5 minutes


class Peer(Protocol):
    """What the checks need of a client; answers are the protocol's own JSON."""

    def ask(self, method: str, **params: Any) -> dict[str, Any]: ...


@dataclass
class FastPeer:
    """FastMCP's client, seen from synchronous code."""

    client: Any
    portal: BlockingPortal

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        calls: dict[str, Callable[[], Any]] = {
            "tools/list": self.client.list_tools_mcp,
            "tools/call": lambda: self.client.call_tool_mcp(params["name"], params["arguments"]),
            "resources/list": self.client.list_resources_mcp,
            "resources/read": lambda: self.client.read_resource_mcp(params["uri"]),
            "prompts/list": self.client.list_prompts_mcp,
            "prompts/get": lambda: self.client.get_prompt_mcp(params["name"]),
        }

        async def answer() -> dict[str, Any]:
            result = await calls[method]()
            found: dict[str, Any] = result.model_dump(mode="json", by_alias=True, exclude_none=True)
            return found

        return self.portal.call(answer)


@dataclass
class RawPeer:
    """The raw client in this interface."""

    client: RawClient

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        return self.client.request(method, **params)


@contextmanager
def connected(kind: str, folder: Path) -> Iterator[Handlers]:
    """A server on a private Valkey in ``folder`` and a simulated exchange, and a client of this kind."""
    with exchange("binance", speed=30) as market:
        env = {**market.env, "STREAMMACHINE_EMBEDDED": "always", "STREAMMACHINE_DATA_DIR": str(folder / "data")}
        with _client(kind, env, folder / "server.log") as handlers:
            yield handlers


@contextmanager
def _client(kind: str, env: dict[str, str], log: Path) -> Iterator[Handlers]:
    if kind == "raw":
        with RawClient(env=env, capabilities=CLAUDE_DESKTOP, log=log) as raw:
            assert raw.server_info["protocolVersion"] == "2025-11-25"
            yield Handlers(RawPeer(raw), env)
        return
    from fastmcp import Client
    from fastmcp.client.transports import StdioTransport

    transport = StdioTransport(
        command=sys.executable,
        args=["-m", "streammachine.mcp_server"],
        env=clean_environment(env),
        keep_alive=False,
        log_file=log,
    )
    client = Client(transport, mode=kind)  # type: ignore[arg-type]
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(client):
        assert client.protocol_version == ("2025-11-25" if kind == "legacy" else MODERN)
        yield Handlers(FastPeer(client, portal), env)


class Handlers:
    """All handlers of one server, and what a call of each must give. Each check leaves what the next ones read."""

    def __init__(self, peer: Peer, env: dict[str, str]) -> None:
        self.peer = peer
        self.env = env
        self.tools = {tool["name"]: tool for tool in peer.ask("tools/list")["tools"]}
        self.called: set[str] = set()

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool that must succeed; its structured content, checked against schema and text."""
        self.called.add(tool)
        result = self.peer.ask("tools/call", name=tool, arguments=arguments)
        part, *_ = result["content"]
        assert not result.get("isError"), part["text"]
        structured: dict[str, Any] = result["structuredContent"]
        assert json.loads(part["text"]) == structured, "the text differs from the structured content"
        jsonschema.validate(structured, self.tools[tool]["outputSchema"], jsonschema.Draft202012Validator)
        return structured

    def refused(self, tool: str, **arguments: Any) -> str:
        """Call a tool that must fail; the text that the model reads."""
        result = self.peer.ask("tools/call", name=tool, arguments=arguments)
        assert result.get("isError") is True, result
        text: str = result["content"][0]["text"]
        assert "Traceback" not in text
        return text

    # -- streams ------------------------------------------------------------------------------

    def stream_send(self) -> str:
        sent = self.call("stream_send", stream="trades", message={"symbol": "BTCUSDT", "price": 61837.63, "live": True})
        milliseconds, _, sequence = sent["message_id"].partition("-")
        assert milliseconds.isdigit() and sequence.isdigit()
        return sent["message_id"]

    def stream_send_batch(self) -> str:
        sent = self.call("stream_send_batch", stream="trades", messages=[{"n": n} for n in range(20)])
        assert len(sent["message_ids"]) == 20
        return f"{len(sent['message_ids'])} messages"

    def stream_read(self) -> str:
        newest = self.call("stream_read", stream="trades")
        assert [message["data"] for message in newest["messages"]] == [{"n": str(n)} for n in range(10, 20)]
        assert newest["count"] == 10 and newest["truncated"] is True
        first = self.call("stream_read", stream="trades", count=1, start="-")
        assert first["messages"][0]["data"] == {"symbol": "BTCUSDT", "price": "61837.63", "live": "true"}
        rest = self.call("stream_read", stream="trades", count=100, start=first["next_cursor"])
        assert rest["count"] == 20 and rest["truncated"] is False
        assert "Did you mean 'trades'?" in self.refused("stream_read", stream="trade")
        return "newest, from the start, and on behind the cursor"

    def stream_info(self) -> str:
        info = self.call("stream_info", stream="trades")
        assert info["length"] == 21 and info["groups"] == []
        assert info["last_entry"]["id"] == info["last_generated_id"]
        return f"length {info['length']}"

    def stream_list(self) -> str:
        assert self.call("stream_list")["streams"] == ["trades"]
        assert self.call("stream_list", pattern="nothing*")["streams"] == []
        return "1 stream"

    def stream_trim(self) -> str:
        self.call("stream_send_batch", stream="old", messages=[{"n": n} for n in range(5)])
        plan = self.call("stream_trim", stream="old", keep=2)
        assert plan["deleted"] == 0 and plan["count"] == 3
        assert self.call("stream_trim", stream="old", keep=2, confirm_token=plan["confirm_token"]) == {"deleted": 3}
        assert self.call("stream_trim", stream="old", before="now-1d", confirm=True) == {"deleted": 0}
        assert "either keep" in self.refused("stream_trim", stream="old")
        return "3 messages, after their plan"

    def stream_delete(self) -> str:
        plan = self.call("stream_delete", stream="old")
        assert plan["deleted"] is False and plan["count"] == 2
        assert self.call("stream_delete", stream="old", confirm_token=plan["confirm_token"])["deleted"] is True
        assert "StreamMachine's own" in self.refused("stream_delete", stream="sm:storage", confirm=True)
        return "after its plan"

    # -- storage ------------------------------------------------------------------------------

    def storage_write(self) -> str:
        for key, value in {"limit": {"price": 50000.5, "tags": ["a", None]}, "flag": False, "text": "ö"}.items():
            assert self.call("storage_write", key=key, value=value) == {"key": key, "written": True}
        return "3 values"

    def storage_read(self) -> str:
        assert self.call("storage_read", key="limit")["value"] == {"price": 50000.5, "tags": ["a", None]}
        assert self.call("storage_read", key="flag")["value"] is False
        assert self.call("storage_read", key="absent", default="d") == {"key": "absent", "value": "d", "exists": False}
        return "values and a default"

    def storage_delete(self) -> str:
        assert self.call("storage_delete", key="text")["existed"] is True
        assert self.call("storage_delete", key="text")["existed"] is False
        return "there, then not"

    def storage_keys(self) -> str:
        assert self.call("storage_keys")["keys"] == ["flag", "limit"]
        return "2 keys"

    def storage_clear(self) -> str:
        plan = self.call("storage_clear")
        assert plan["cleared"] is False and plan["count"] == 2
        assert self.call("storage_keys")["count"] == 2, "the plan alone has deleted something"
        assert self.call("storage_clear", confirm_token=plan["confirm_token"])["cleared"] is True
        assert self.call("storage_clear", confirm=True)["cleared"] is True
        return "a plan, then with its token, then with confirm"

    # -- health -------------------------------------------------------------------------------

    def health_check(self) -> str:
        health = self.call("health_check")
        assert (health["status"], health["redis"], health["origin"]) == ("healthy", "connected", "embedded")
        return health["why"]

    def redis_info(self) -> str:
        info = self.call("redis_info", section="server")
        return f"Valkey {info['valkey_version']}"

    def redis_ping(self) -> str:
        assert self.call("redis_ping") == {"ping": "pong"}
        return "pong"

    # -- objects ------------------------------------------------------------------------------

    def obj_list(self) -> str:
        anyio.run(store_objects, self.env["STREAMMACHINE_DATA_DIR"])
        assert self.call("obj_list")["keys"] == ["model:a", "model:b"]
        return "2 objects that a Python process stored"

    def obj_get(self) -> str:
        assert self.call("obj_get", key="model:a")["value"] == {"weights": [1.5, 2.5]}
        assert "Did you mean 'model:a'" in self.refused("obj_get", key="model:aa")
        return "a pickle, shown as JSON"

    def obj_delete(self) -> str:
        plan = self.call("obj_delete", pattern="model:*")
        assert plan["deleted"] == 0 and plan["count"] == 2
        assert self.call("obj_delete", pattern="model:*", confirm_token=plan["confirm_token"])["deleted"] == 2
        return "a plan, then with its token"

    # -- candles ------------------------------------------------------------------------------

    def ohlc_create(self) -> str:
        made = self.call("ohlc_create", name="btc", intervals=[60_000, 300_000])
        assert made["intervals"] == [60_000, 300_000] and made["created"] is True
        assert self.call("ohlc_create", name="btc", intervals=[300_000, 60_000])["created"] is False
        assert "exists with the intervals" in self.refused("ohlc_create", name="btc", intervals=[1000])
        return f"{made['implementation']} engine"

    def ohlc_update(self) -> str:
        one = self.call("ohlc_update", name="btc", symbol="BTCUSDT", price=100.0, volume=1.0, timestamp_ms=T0)
        assert one["tick_count"] == 1
        ticks = [
            {"symbol": "BTCUSDT", "price": price, "volume": 0.5, "timestamp_ms": T0 + second * 1000}
            for second, price in ((10, 110.0), (20, 90.0), (50, 105.0), (70, 120.0))
        ]
        assert self.call("ohlc_update", name="btc", ticks=ticks)["tick_count"] == 5
        assert "volume missing" in self.refused("ohlc_update", name="btc", symbol="BTCUSDT", price=1.0)
        return "one trade and a batch"

    def ohlc_get_candles(self) -> str:
        page = self.call("ohlc_get_candles", name="btc", symbol="BTCUSDT", interval_ms=60_000)
        found = page["columns"]
        names = ("open", "high", "low", "close", "volume")
        assert [found[name][0] for name in names] == [100.0, 110.0, 90.0, 105.0, 2.5]
        assert (found["candle_start_ms"][1], found["trade_count"][1]) == (T0 + 60_000, 1)
        return "2 candles"

    def ohlc_get_completed(self) -> str:
        page = self.call(
            "ohlc_get_completed",
            name="btc",
            symbol="BTCUSDT",
            interval_ms=60_000,
            before_timestamp_ms=T0 + 60_000,
        )
        assert page["columns"]["candle_start_ms"] == [T0]
        return "1 candle"

    def ohlc_flush(self) -> str:
        given = {"name": "btc", "symbol": "BTCUSDT", "interval_ms": 60_000, "before_timestamp_ms": T0 + 60_000}
        assert self.call("ohlc_flush", **given)["flushed"] == 1
        assert self.call("ohlc_flush", **given)["flushed"] == 0
        return "1 candle, then none"

    def ohlc_stats(self) -> str:
        stats = self.call("ohlc_stats", name="btc")
        assert stats["tick_count"] == 5 and stats["symbols"] == ["BTCUSDT"]
        return f"{stats['tick_count']} ticks"

    def ohlc_clear(self) -> str:
        assert self.call("ohlc_clear", name="btc")["cleared"] is True
        assert self.call("ohlc_stats", name="btc")["tick_count"] == 0
        return "no tick is left"

    def ohlc_list(self) -> str:
        assert self.call("ohlc_list")["aggregators"] == ["btc"]
        return "1 aggregator"

    # -- agents -------------------------------------------------------------------------------

    def agent_create(self) -> str:
        self.call("stream_send", stream="raw", message={"price": "5"})
        made = self.call("agent_create", name="dear", stream="raw", filter="num.price > 1.0", output_stream="dear")
        return f"{made['name']} is declared"

    def agent_list(self) -> str:
        assert any("dear" in agent["name"] for agent in self.call("agent_list")["agents"])
        return "the declared one is there"

    def agent_stats(self) -> str:
        return str(self.call("agent_stats", name="dear")["name"])

    def agent_pause(self) -> str:
        assert self.call("agent_pause", name="dear")["paused"] is True
        return "reads nothing more"

    def agent_resume(self) -> str:
        assert self.call("agent_resume", name="dear")["paused"] is False
        return "reads again"

    def dead_letter_list(self) -> str:
        assert self.call("dead_letter_list", stream="raw")["count"] == 0
        return "none"

    def dead_letter_redrive(self) -> str:
        self.call("dead_letter_redrive", stream="raw", all=True)
        return "none"

    def dead_letter_purge(self) -> str:
        self.call("dead_letter_purge", stream="raw", confirm=True)
        return "none"

    def agent_delete(self) -> str:
        self.call("agent_delete", name="dear", confirm=True)
        return "no agent is left"

    def backfill_start(self) -> str:
        day = "2025-07-19"
        made = self.call("backfill_start", exchange="binance", symbol="ETHUSDT", start=day, end=day, timeframe="1h")
        assert made["started"] is True
        return f"{made['name']} is under way"

    def backfill_status(self) -> str:
        def done() -> bool:
            (row,) = self.call("backfill_status")["backfills"]
            return bool(row["state"] == "done" and row["rows"] == 24)

        self.wait(done)
        return "24 candles of a day"

    def runner_start(self) -> str:
        made = self.call("runner_start", exchange="binance", symbols=["BTCUSDT"], timeframe="1m")
        assert made["streams"] == ["kline:binance:BTCUSDT:1m"]
        return f"{made['name']} streams"

    def runner_list(self) -> str:
        self.wait(lambda: self.call("runner_list")["runners"][0].get("last"))
        return "a candle has come"

    def candles_read(self) -> str:
        page = self.call("candles_read", exchange="binance", symbol="BTCUSDT")
        assert page["count"] >= 1
        assert page["columns"]["is_closed"][0] is True
        return f"{page['count']} candles"

    def candles_chart(self) -> str:
        summary = self.call("candles_chart", exchange="binance", symbol="BTCUSDT", limit=50)
        assert summary["count"] >= 1 and "picture_problem" not in summary
        return f"{summary['count']} candles"

    def runner_stop(self) -> str:
        (row,) = self.call("runner_list")["runners"]
        assert self.call("runner_stop", name=row["name"])["stopped"] is True
        return "none is left"

    def wait(self, condition: Callable[[], Any]) -> None:
        """Wait until it is true, a minute at most."""
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, "it did not come true"
            time.sleep(0.1)

    def alert_create(self) -> str:
        made = self.call("alert_create", symbol="BTCUSDT", condition="close > 1.0", name="awake")
        assert made["name"] == "awake"
        assert "close" in self.refused("alert_create", symbol="BTCUSDT", condition="clos > 1.0")
        return "a condition over closed candles"

    def alert_list(self) -> str:
        assert [alert["name"] for alert in self.call("alert_list")["alerts"]] == ["awake"]
        return "the one"

    def alert_delete(self) -> str:
        self.call("alert_delete", name="awake")
        assert self.call("alert_list")["alerts"] == []
        return "none is left"

    def symbols_list(self) -> str:
        found = self.call("symbols_list", exchange="binance", query="BTC/USDT")
        assert "BTCUSDT" in [row["symbol"] for row in found["symbols"]]
        return "in the exchange's spelling and in ours"

    def stream_describe(self) -> str:
        found = self.call("stream_describe", stream="waited")
        assert [field["name"] for field in found["fields"]] == ["n"]
        return "one field"

    def stream_query(self) -> str:
        found = self.call("stream_query", sql='SELECT sum(n) AS total FROM "waited"')
        assert found["columns"] == {"total": [3]}
        return "a sum over a stream"

    def explain(self) -> str:
        found = self.call("explain", topic="groups")
        assert "STREAMMACHINE_TOOLSETS" in json.dumps(found)
        return "how consumer groups are turned on"

    def event_wait(self) -> str:
        wanted = [{"name": "stream.message", "arguments": {"stream": "waited", "filter": "num.n > 1.0"}}]
        begun = self.call("event_wait", events=wanted, timeout_s=0.1)
        assert begun["timed_out"] is True and begun["events"] == []
        self.call("stream_send_batch", stream="waited", messages=[{"n": 1}, {"n": 2}])
        found = self.call("event_wait", events=wanted, cursor=begun["cursor"], timeout_s=30)
        assert [event["name"] for event in found["events"]] == ["stream.message"] and found["timed_out"] is False
        return "the message behind the cursor"

    # -- resources and prompts ----------------------------------------------------------------

    def config(self) -> str:
        return f"{len(self.resource('streammachine://config'))} settings"

    def status(self) -> str:
        status = self.resource("streammachine://status")
        assert status["redis"]["connected"] is True
        return "Redis connected"

    def page(self) -> str:
        html = self.text_of(CHART_PAGE, "text/html;profile=mcp-app")
        assert html.startswith("<!doctype html>")
        return f"{len(html):,} characters"

    def resource(self, uri: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.text_of(uri, "application/json"))
        return found

    def text_of(self, uri: str, mime_type: str) -> str:
        listed = {resource["uri"]: resource for resource in self.peer.ask("resources/list")["resources"]}
        (content,) = self.peer.ask("resources/read", uri=uri)["contents"]
        assert content["mimeType"] == listed[uri]["mimeType"] == mime_type
        self.called.add(uri)
        return str(content["text"])

    def prompts(self) -> str:
        names = [prompt["name"] for prompt in self.peer.ask("prompts/list")["prompts"]]
        return ", ".join(f"{name}: {self.prompt(name)}" for name in names)

    def skills(self) -> str:
        uris = [resource["uri"] for resource in self.peer.ask("resources/list")["resources"]]
        chosen = [uri for uri in uris if uri.startswith("skill://")]
        for uri in chosen:
            (content,) = self.peer.ask("resources/read", uri=uri)["contents"]
            assert content["mimeType"] == "text/markdown" and content["text"].startswith("---\nname: ")
            self.called.add(uri)
        return f"{len(chosen)} files"

    def prompt(self, name: str) -> str:
        (message,) = self.peer.ask("prompts/get", name=name)["messages"]
        assert message["role"] == "user" and len(message["content"]["text"]) > 500
        self.called.add(name)
        return f"{len(message['content']['text']):,} characters"

    # -- all of them --------------------------------------------------------------------------

    def checks(self) -> list[tuple[str, Callable[[], str]]]:
        """Every check by its handler's name, in the order in which they build on each other."""
        named = {"config": "streammachine://config", "status": "streammachine://status", "page": CHART_PAGE}
        return [(named.get(name, name), getattr(self, name)) for name in ORDER]

    def everything(self) -> set[str]:
        """The names of all handlers that the server lists."""
        resources = {resource["uri"] for resource in self.peer.ask("resources/list")["resources"]}
        prompts = {prompt["name"] for prompt in self.peer.ask("prompts/list")["prompts"]}
        return set(self.tools) | resources | prompts


CHART_PAGE = "ui://streammachine/candles"
ORDER = (
    *("health_check", "redis_ping", "redis_info"),
    *("stream_send", "stream_send_batch", "stream_read", "stream_info", "stream_list"),
    *("storage_write", "storage_read", "storage_delete", "storage_keys", "storage_clear"),
    *("obj_list", "obj_get", "obj_delete"),
    *("ohlc_create", "ohlc_update", "ohlc_get_candles", "ohlc_get_completed", "ohlc_flush"),
    *("ohlc_stats", "ohlc_clear", "ohlc_list"),
    *("agent_create", "agent_list", "agent_stats", "agent_pause", "agent_resume"),
    *("dead_letter_list", "dead_letter_redrive", "dead_letter_purge", "agent_delete"),
    *("backfill_start", "backfill_status", "runner_start", "runner_list", "candles_read", "candles_chart"),
    *("symbols_list", "alert_create", "alert_list", "alert_delete", "runner_stop"),
    *("event_wait", "stream_describe", "stream_query", "explain", "stream_trim", "stream_delete"),
    *("config", "status", "page", "prompts", "skills"),
)


async def store_objects(data_dir: str) -> None:
    """Store two objects as a Python program beside the server would: no MCP tool makes pickles."""
    from streammachine import RedisConnection, RedisObjectStorage, Settings

    async with RedisConnection(settings=Settings(embedded="always", data_dir=Path(data_dir))) as connection:
        objects = RedisObjectStorage(connection=connection)
        await objects.store_with_pickle("model:a", {"weights": (1.5, 2.5)})
        await objects.store_with_pickle("model:b", [1, 2, 3])


def run(kind: str, report: Callable[[str], None]) -> list[str]:
    """Check every handler with this client; gives the failures."""
    failures = []
    with tempfile.TemporaryDirectory(prefix="sm-client-") as folder, connected(kind, Path(folder)) as handlers:
        for name, check in handlers.checks():
            try:
                seen = check()
            except Exception as error:
                failures.append(f"{name}: {type(error).__name__}: {error}")
                report(f"FAIL  {failures[-1]}")
            else:
                report(f"ok    {name}: {seen}")
        for name in sorted(handlers.everything() ^ handlers.called):
            failures.append(f"{name}: listed and not called, or called and not listed")
            report(f"FAIL  {failures[-1]}")
        report(f"{len(handlers.called)} handlers called, {len(failures)} failures")
    return failures


def pytest_generate_tests(metafunc: Any) -> None:
    metafunc.parametrize("kind", CLIENTS)


def test_every_handler_answers_as_its_schema_says(kind: str) -> None:
    assert run(kind, print) == []


if __name__ == "__main__":
    sys.exit(1 if run("raw", print) else 0)
