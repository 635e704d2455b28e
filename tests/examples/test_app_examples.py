"""The App examples of the specification, run as a user runs them: a process each, until it shows what it should.

All start together, each on a database of its own of one private Valkey, so the slowest (a timer of 30 seconds) bounds
the whole file.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from streammachine.redis.embedded.server import EmbeddedServer
from support.mcp import clean_environment
from support.servers import redis_at, until

EXAMPLES = Path(__file__).parents[2] / "examples" / "app"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))
DEADLINE = 90.0
TICK_MS = 1_638_360_000_000  # 2021-12-01 12:00 UTC, the specification's own


@dataclass
class Example:
    """One running example: its process, what it has printed, and its database."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path
    redis: redis.Redis

    def printed(self, text: str) -> bool:
        return text in self.out.read_text(encoding="utf-8")

    def entries(self, stream: str) -> list[dict[bytes, bytes]]:
        return [fields for _, fields in self.redis.xrange(stream)]

    def shows(self, text: str) -> None:
        until(lambda: self.printed(text), f"{text!r} in {self.out.name}: {self.err.read_text()[-2000:]}", DEADLINE)

    def sends(self, stream: str, **fields: str) -> None:
        wanted = {name.encode(): value.encode() for name, value in fields.items()}
        until(
            lambda: any(wanted.items() <= entry.items() for entry in self.entries(stream)),
            f"{fields} in {stream}: {self.err.read_text()[-2000:]}",
            DEADLINE,
        )


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Example]]:
    folder = tmp_path_factory.mktemp("app-examples")
    with EmbeddedServer.acquire(folder / "valkey", fsync="everysec") as server:
        running: dict[str, Example] = {}
        try:
            for number, name in enumerate(NAMES):
                url = f"{server.url}?db={number}"
                out, err = folder / f"{name}.out", folder / f"{name}.err"
                env = clean_environment(
                    {"REDIS_URL": url, "STREAMMACHINE_DATA_DIR": str(folder / "data"), "PYTHONUNBUFFERED": "1"}
                )
                with out.open("wb") as stdout, err.open("wb") as stderr:
                    process = subprocess.Popen(
                        [sys.executable, str(EXAMPLES / f"{name}.py")],
                        env=env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
                    )  # fmt: skip
                running[name] = Example(process, out, err, redis_at(url))
            yield running
        finally:
            for example in running.values():
                example.process.kill()
                example.process.wait(30)
                example.redis.close()


def ended(example: Example) -> None:
    """SIGTERM ends it in order, with nothing to complain about."""
    assert example.process.poll() is None, example.err.read_text()
    example.process.send_signal(signal.SIGTERM)
    assert example.process.wait(60) == 0, example.err.read_text()
    assert "Traceback" not in example.err.read_text()


def test_every_example_is_tested() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in NAMES if f'examples["{name}"]' not in source] == []


def test_basic_producer_consumer(examples: dict[str, Example]) -> None:
    example = examples["producer_consumer"]
    example.shows("Processing: {'task_id': '123', 'status': 'pending'}")
    example.sends("results", task_id="123", status="done")
    ended(example)


def test_pipeline(examples: dict[str, Example]) -> None:
    example = examples["pipeline"]
    example.shows("Final result: 20")
    ended(example)


def test_shared_state(examples: dict[str, Example]) -> None:
    example = examples["shared_state"]
    example.shows("received: {'count': '2'}")
    ended(example)


def test_fan_out(examples: dict[str, Example]) -> None:
    example = examples["fan_out"]
    example.shows("Analytics: {'type': 'user_action', 'user_id': '123'}")
    example.shows("Audit log: {'type': 'user_action', 'user_id': '123'}")
    ended(example)


def test_agent_with_its_timer(examples: dict[str, Example]) -> None:
    example = examples["agent_usage"]
    example.redis.xadd("input_stream", {"a": "1", "sm-sent": "1638360000000"})
    example.sends("output_stream", processed="true")
    example.shows("input_stream: task ")
    until(lambda: example.entries("heartbeat"), "a heartbeat", DEADLINE)
    ended(example)


def test_time_series(examples: dict[str, Example]) -> None:
    example = examples["time_series"]
    example.redis.xadd("ticks", {"value": "10"})
    example.shows("Rolling mean: 10.0")
    example.redis.xadd("ticks", {"value": "20"})
    example.shows("Rolling mean: 15.0")
    ended(example)


def test_real_time_ohlc_aggregation(examples: dict[str, Example]) -> None:
    example = examples["ohlc_aggregation"]
    example.redis.xadd("ticks", {"symbol": "AAPL", "price": "150.25", "volume": "1000"}, id=f"{TICK_MS}-0")
    for minutes in (1, 5, 15):
        interval = str(minutes * 60_000)
        example.sends(f"candles_{minutes}m", symbol="AAPL", interval_ms=interval, open="150.25", trade_count="1")
    ended(example)


def test_fast_ohlc_consumer(examples: dict[str, Example]) -> None:
    example = examples["ohlc_consumer"]
    for offset, price in ((0, "100"), (30_000, "90"), (61_000, "110")):
        example.redis.xadd("ticks", {"symbol": "AAPL", "price": price, "volume": "1"}, id=f"{TICK_MS + offset}-0")
    example.sends("candles_1m", symbol="AAPL", interval_ms="60000", trade_count="2")
    ended(example)


def test_health_monitoring(examples: dict[str, Example]) -> None:
    example = examples["health_monitor"]
    example.shows("Health: {'status': 'healthy', 'redis': 'connected'")
    example.shows("'registered_timers': 1")
    ended(example)
