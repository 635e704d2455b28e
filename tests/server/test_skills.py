"""Each skill is walked through: every call that it shows is made as it is written, in order, by a client over stdio.

The server is real, a simulated exchange runs beside it, and an App whose agent fails on some orders.
"""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from streammachine.redis.connection import RedisConnection
from streammachine.redis.objects import RedisObjectStorage
from streammachine.settings import OPTIONAL_TOOLSETS, TOOLSETS, Settings
from support.desk import Desk, desk, shop
from support.mcp import RawClient
from support.servers import until

PROMPTS = {
    "guide": "streammachine-guide",
    "patterns": "stream-processing-patterns",
    "investigate-lag": "investigate-lag",
    "candle-report": "candle-report",
    "build-a-pipeline": "build-a-pipeline",
}
TICK = {"symbol": "BTCUSDT", "price": 64_000.5, "volume": 2, "timestamp_ms": 1_753_000_021_000}
WORDS: dict[str, Any] = {  # what a reader puts in place of a word of the text
    "true": True,
    "false": False,
    "exchange": "binance",
    "symbol": "BTCUSDT",
    "timeframe": "1m",
    "query": "btc/",
    "start": "now-1h",
    "end": "now",
    "indicators": ["sma:20"],
    "section": "memory",
    "topic": "postgres",
    "stream": "orders",
    "output_stream": "picked",
    "group": "billing",
    "interval": "1m",
    "interval_ms": "1m",
    "price": 64_000.5,
    "volume": 1,
    "timestamp_ms": 1_753_000_021_000,
    "condition": "close > 50000",
    "message": {"id": "1", "amount": "5"},
    "messages": [{"id": "2", "amount": "6"}],
    "ticks": [TICK],
    "symbols": ["BTCUSDT"],
    "key": "limits",
    "value": {"BTCUSDT": 5},
    "ttl_s": 60,
    "pattern": "model:*",
    "filter": "num.price > 5.0",
    "select": "{'p': msg.price}",
    "sql": "SELECT count(*) FROM orders",
}
NAMES = {"agent": "billing", "ohlc": "desk"}  # of what a tool's name begins with
OTHER: dict[tuple[str, str], Any] = {  # where a word means something else in one tool
    ("obj_get", "key"): "model:btc",
    ("agent_create", "name"): "picker",
    ("agent_create", "stream"): "trades",
    ("agent_delete", "name"): "picker",
}
INPUTS = {
    "events": {"kind": "a"},
    "work_queue": {"task_id": "1", "status": "pending"},
    "results": {"task_id": "1"},
    "trades": {"symbol": "BTCUSDT", "side": "buy", "price": "64000", "volume": "2"},
    "trades:binance:BTCUSDT": {"price": "64000", "volume": "2"},
}


class Walk:
    """Makes the calls of one skill; keeps the last result of each tool."""

    def __init__(self, client: RawClient, place: Desk) -> None:
        self.client = client
        self.place = place
        self.tools = client.tools()
        self.results: dict[str, dict[str, Any]] = {}
        self.made: list[str] = []

    def through(self, text: str) -> None:
        """Make every call that stands in the text."""
        for shown in re.findall(r"`([a-z_]+\([^`]*\))`", text):
            call = ast.parse(re.sub(r"\s*\n\s*", " ", shown), mode="eval").body
            assert isinstance(call, ast.Call)
            tool = ast.unparse(call.func)
            if tool not in self.tools:
                continue
            arguments = self.arguments(tool, call)
            if tool == "event_wait":
                arguments.setdefault("timeout_s", 3)
            self.made.append(shown)
            try:
                self.results[tool] = self.client.call(tool, **arguments)
            except Exception as error:
                raise AssertionError(f"{shown} with {arguments}: {error}") from error
            self.ready(tool)

    def arguments(self, tool: str, call: ast.Call) -> dict[str, Any]:
        """The arguments by name: a word that is one names itself, others come in the order of the tool's schema."""
        names = list(self.tools[tool]["inputSchema"]["properties"])
        given = [
            (node.id if isinstance(node, ast.Name) and node.id in names else name, node)
            for name, node in zip(names, call.args, strict=False)
        ]
        if any(isinstance(node, ast.Constant) and node.value is ... for _, node in given):  # f(..., word=value)
            given = [(name, ast.Name(name)) for name in self.tools[tool]["inputSchema"]["required"]]
        given += [(str(keyword.arg), keyword.value) for keyword in call.keywords]
        return {name: self.value(tool, name, node) for name, node in given}

    def value(self, tool: str, name: str, node: ast.expr) -> Any:
        """A literal as it stands; a word, or what is left out by "...", as a reader fills it in."""
        if isinstance(node, ast.Name):
            return self.word(tool, node.id)
        if isinstance(node, ast.List) and any(isinstance(each, ast.Name) for each in node.elts):
            return [self.word(tool, each.id) for each in node.elts if isinstance(each, ast.Name)]
        if "Ellipsis" in ast.dump(node):
            return self.word(tool, name)
        value = ast.literal_eval(node)
        if value == "2024-01-31":
            return "now-2d"  # the simulated exchange makes each trade of the time
        return value.replace("SELECT ...", "SELECT count(*)") if isinstance(value, str) else value

    def word(self, tool: str, word: str) -> Any:
        """What a word stands for, by what the calls before gave."""
        if (tool, word) in OTHER:
            return OTHER[tool, word]
        if word == "next_cursor":
            return self.results["stream_read"]["next_cursor"]
        if word == "ids":
            return [self.client.call("dead_letter_list", stream="orders")["letters"][0]["id"]]
        if word == "name":
            family = tool.partition("_")[0]
            return NAMES.get(family) or self.results[f"{family}_{'create' if family == 'alert' else 'start'}"]["name"]
        return WORDS[word]

    def ready(self, tool: str) -> None:
        """What takes a while is waited for, as the text says."""
        if tool == "backfill_start":
            name = self.results[tool]["name"]
            until(lambda: self.client.call("backfill_status", name=name)["backfills"][0]["state"] == "done", name)
        elif tool == "dead_letter_redrive":
            until(lambda: self.place.store.xlen("{orders}:dlq") >= 5, "they fail again")
        elif tool == "agent_create":
            until(lambda: self.place.store.exists(self.results[tool]["output_stream"]), "the agent's output")
        elif tool == "runner_start":
            until(lambda: self.client.call("runner_list")["runners"][0]["state"] == "running", "the runner")
            for stream in self.results[tool]["streams"]:
                if stream.endswith(("1m", "5m")):
                    until(lambda stream=stream: self.place.store.exists(stream), stream)  # type: ignore[misc]


async def stored(env: dict[str, str]) -> None:
    settings = Settings(data_dir=env["STREAMMACHINE_DATA_DIR"], embedded="always", embedded_fsync="everysec")  # type: ignore[arg-type]
    async with RedisConnection(settings=settings) as connection:
        await RedisObjectStorage(connection=connection).store_with_pickle("model:btc", {"weights": [0.5]})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    import time

    with desk(tmp_path_factory.mktemp("desk"), start_ms=int(time.time()) // 60 * 60_000, speed=120.0) as opened:
        asyncio.run(stored(opened.env))
        yield opened


@contextmanager
def walked(place: Desk, skill: str) -> Iterator[tuple[Walk, str]]:
    """A walk through a skill, and its text as the server gives it; failed orders and inputs stand ready."""
    for key in place.store.scan_iter():
        if not str(key).startswith("sm:obj:"):
            place.store.delete(key)
    for stream, fields in INPUTS.items():
        place.store.xadd(stream, fields)  # type: ignore[arg-type]
    with shop(place), RawClient("--toolsets", ",".join((*TOOLSETS, *OPTIONAL_TOOLSETS)), env=place.env) as client:
        messages = [{"id": str(number), "amount": "much" if number % 2 else "7"} for number in range(10)]
        client.call("stream_send_batch", stream="orders", messages=messages)
        until(lambda: place.store.xlen("{orders}:dlq") == 5, "dead letters")
        (message,) = client.request("prompts/get", name=PROMPTS[skill])["messages"]
        walk = Walk(client, place)
        walk.client.call("ohlc_create", name="desk", intervals=["1m", "5m"])
        walk.client.call("ohlc_update", name="desk", ticks=[TICK])
        yield walk, message["content"]["text"]


def test_investigate_lag(place: Desk) -> None:
    with walked(place, "investigate-lag") as (walk, text):
        walk.through(text)
        (worst,) = (row for row in walk.client.call("agent_list")["agents"] if row["lag"] is not None)
        assert worst["name"].startswith("billing@")
        # What step 3 has the model look at is there.
        stats = walk.results["agent_stats"]
        (stream,) = stats["streams"]
        assert stats["status"] in ("running", "failing")
        assert {"lag", "pending", "counted"} <= set(stream)
        assert {"failed", "rate"} <= set(stream["counted"])
        assert "could not convert" in walk.results["dead_letter_list"]["letters"][0]["error"]
        assert walk.results["dead_letter_purge"]["confirm_token"]


def test_candle_report(place: Desk) -> None:
    with walked(place, "candle-report") as (walk, text):
        # Steps 1 and 2 look; nothing is there yet, so step 3 brings it.
        before, steps = text.split("3. If not:")
        walk.through(before.partition("2. Is it there")[0])
        assert walk.results["symbols_list"]["symbols"][0]["pair"] == "BTC/USDT"
        assert walk.client.call("runner_list")["count"] == 0
        walk.through(steps)
        read = walk.results["candles_read"]
        assert {"sma20", "rsi14"} <= set(read["columns"])
        assert None not in read["columns"]["rsi14"]
        assert {"sma20", "rsi14"} <= set(walk.results["candles_chart"]["indicators"])
        assert walk.results["alert_delete"]["deleted"] is True


@pytest.mark.parametrize("skill", ["guide", "patterns", "build-a-pipeline"])
def test_every_call_of_a_skill_works_as_it_is_written(place: Desk, skill: str) -> None:
    with walked(place, skill) as (walk, text):
        walk.through(text)
        assert len(walk.made) > 8, walk.made
