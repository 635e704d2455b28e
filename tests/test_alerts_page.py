"""docs/alerts.md: its calls, its script and its conditions do what the page says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from streammachine.redis.embedded.server import EmbeddedServer
from streammachine.runtime.alerts.condition import AlertCondition
from streammachine_mcp.live.kinds import KINDS
from support.docs import blocks, environment
from support.mcp import RawClient
from support.servers import redis_at, until

PAGE = Path(__file__).parents[1] / "docs" / "alerts.md"
TEXT = PAGE.read_text(encoding="utf-8")
MINUTE = 60_000
T0 = 1_723_161_600_000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def env(data: Path) -> Iterator[dict[str, str]]:
    with environment(data) as found:
        yield found


@pytest.fixture
def store(env: dict[str, str], data: Path) -> Iterator[redis.Redis]:
    with EmbeddedServer.acquire(data, fsync="everysec") as server, redis_at(server.url) as client:
        client.flushall()
        yield client


def add(store: redis.Redis, number: int, close: float) -> None:
    start = T0 + number * MINUTE
    fields: dict[str, Any] = {"open_ts": start, "end_ts": start + MINUTE - 1, "volume": 1.0, "is_closed": "true"}
    prices = dict.fromkeys(("open", "high", "low", "close"), close)
    store.xadd("kline:binance:BTCUSDT:1m", {**fields, **prices}, id=f"{start}-9")


def evaluated(store: redis.Redis) -> bool:
    return bool(store.exists("{sm:alerts}:lease"))


def test_its_calls_wake_a_chat(env: dict[str, str], store: redis.Redis) -> None:
    create, wait = (json.loads(block.code) for block in blocks(PAGE, "json"))
    with RawClient(env=env) as client:
        assert client.call(create["name"], **create["arguments"])["created"]
        request = client.send("tools/call", **wait)
        until(lambda: evaluated(store), "the server evaluates")
        add(store, 0, 49_000.0)
        add(store, 1, 50_500.0)
        [event] = client.wait(request)["structuredContent"]["events"]
    assert (event["data"]["alert"], event["data"]["price"]) == ("btc-50k", 50_500.0)


def test_its_script_hears_the_alert(env: dict[str, str], store: redis.Redis, tmp_path: Path) -> None:
    [block] = blocks(PAGE, "python")
    assert block.file == "desk.py"
    (tmp_path / "desk.py").write_text(block.code, encoding="utf-8")
    command = [sys.executable, "desk.py"]
    with subprocess.Popen(command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as script:
        try:
            until(lambda: evaluated(store) and store.hexists("{sm:alerts}:defined", "btc-50k"), "the App evaluates")
            add(store, 0, 49_000.0)
            add(store, 1, 50_500.0)
            assert script.stdout is not None
            assert script.stdout.readline() == "btc-50k 50500.0\n"
        finally:
            script.terminate()


def test_its_conditions_are_taken() -> None:
    rows = TEXT[TEXT.index("| condition |") : TEXT.index("- The words are")]
    conditions = re.findall(r"^\| `(.*?)` \|", rows, re.MULTILINE)
    assert len(conditions) == 6
    for condition in conditions:
        AlertCondition(condition)


def test_it_names_the_events_and_their_arguments() -> None:
    rows = TEXT[TEXT.index("| event |") : TEXT.index("A cursor is")]
    named = dict(re.findall(r"^\| `([\w.]+)` \| (.*) \|$", rows, re.MULTILINE))
    assert list(named) == list(KINDS)
    for name, arguments in named.items():
        own = set(KINDS[name].arguments.model_fields)
        if name == "price.crossed":
            own -= set(KINDS["candle.closed"].arguments.model_fields)
        assert own == set(re.findall(r"`(\w+)`", arguments)), name
