"""``streammachine top``, and the map of commands: agents, runners and backfills in one table, what is wrong first."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from streammachine.redis.embedded.server import EmbeddedServer
from support.servers import redis_at

DATABASE = 10  # of the run's shared Valkey; no other test uses it
SPEC = {"name": "", "exchange": "binance", "symbols": ["BTCUSDT"], "timeframe": "1m"}
PAST = {"name": "old", "exchange": "okx", "symbol": "BTC-USDT", "timeframe": "1m", "start_ms": 0, "end_ms": 60_000}


@pytest.fixture
def store(cli: Any, shared_server: EmbeddedServer) -> Iterator[redis.Redis]:
    url = f"{shared_server.url}?db={DATABASE}"
    cli.env.update({"REDIS_URL": url, "STREAMMACHINE_EMBEDDED": "auto"})
    with redis_at(url) as client:
        client.flushdb()
        yield client
        client.flushdb()


def remember(store: redis.Redis, kind: str, spec: dict[str, Any], silent: float = 0.0, **status: Any) -> None:
    store.hset(f"sm:{kind}s", spec["name"], json.dumps(spec))
    status["said_ms"] = int((time.time() - silent) * 1000)
    store.hset(f"sm:{kind}s:status", spec["name"], json.dumps(status))


def test_without_anything_it_says_how_to_begin(cli: Any, store: redis.Redis) -> None:
    done = cli("top", "--once")
    assert (done.returncode, done.stderr) == (0, "")
    assert "streammachine run app.py:app" in done.stdout


def test_what_has_a_problem_stands_first(cli: Any, store: redis.Redis) -> None:
    last = [{"symbol": "BTCUSDT", "open_ts": int(time.time() * 1000) - 30_000}]
    remember(store, "runner", {**SPEC, "name": "a-good"}, state="running", rate=2.5, rows=40, gaps=0, last=last)
    remember(store, "runner", {**SPEC, "name": "b-gone"}, silent=60, state="running", rate=1.0, rows=7, gaps=[])
    remember(store, "backfill", PAST, state="running", fraction=0.25, rows=10, gaps=0)
    rows = [json.loads(line) for line in cli("top", "--json").stdout.splitlines()]
    assert [(row["name"], row["state"]) for row in rows] == [
        ("b-gone", "lost"), ("old", "running 25%"), ("a-good", "running"),
    ]  # fmt: skip
    assert "no word from its host" in rows[0]["problem"]
    assert (rows[2]["rate"], rows[2]["done"], round(rows[2]["age"], -1)) == (2.5, 40, 30)
    shown = cli("top").stdout
    assert shown.index("b-gone") < shown.index("a-good")


def test_a_declared_agent_that_nobody_runs_waits(cli: Any, store: redis.Redis) -> None:
    store.xadd("ticks", {"price": "1"})
    store.hset("sm:agents", "big", json.dumps({"name": "big", "stream": "ticks", "output_stream": "out"}))
    rows = [json.loads(line) for line in cli("top", "--json").stdout.splitlines()]
    assert [(row["kind"], row["name"], row["state"]) for row in rows] == [("agent", "big", "waiting")]


def test_the_map_of_commands_is_shown_without_arguments(cli: Any) -> None:
    done = cli()
    assert done.returncode == 0
    places = [done.stdout.index(f" {name} ") for name in ("Begin", "demo", "Market data", "stream", "Apps and", "top")]
    assert places == sorted(places)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_for_a_shell(cli: Any, shell: str) -> None:
    done = cli("completion", "--shell", shell)
    assert (done.returncode, done.stderr) == (0, "")
    written = [path for path in (cli.folder / "home").rglob("*") if path.is_file()]
    assert any("streammachine" in path.read_text(encoding="utf-8") for path in written)
