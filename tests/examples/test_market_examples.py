"""The market examples of the specification, run as a user runs them: a process each, against a simulated exchange.

All start together; a minute of the market is a second and a half here. Ctrl-C ends them, and what they wrote is whole.
"""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from streammachine.market.model import timeframe as timeframes
from support.kafka import Kafka
from support.mcp import clean_environment
from support.postgres import Postgres
from support.servers import until
from support.simulator import Exchange, exchange

EXAMPLES = Path(__file__).parents[2] / "examples" / "market"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))
DEADLINE = 100.0
PASSWORD = "secret"


@dataclass
class Example:
    """One running example: its process, its folder, and what it has printed."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text(encoding="utf-8")

    def shows(self, text: str) -> None:
        until(lambda: text in self.out + self.err, f"{text!r} in {self.out[-2000:]}{self.err[-2000:]}", DEADLINE)

    def rows(self, name: str) -> list[dict[str, str]]:
        path = self.folder / name
        if not path.exists():
            return []
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def writes(self, name: str, count: int) -> None:
        until(lambda: len(self.rows(name)) >= count, f"{count} rows in {name}: {self.err[-2000:]}", DEADLINE)

    def interrupted(self) -> None:
        """Ctrl-C ends it, and it says nothing but so."""
        assert self.process.poll() is None, self.err
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(60) in (-signal.SIGINT, 130), self.err
        assert "KeyboardInterrupt" in self.err
        assert "not delivered" not in self.err
        assert "never retrieved" not in self.err


@pytest.fixture(scope="module")
def market() -> Iterator[Exchange]:
    with exchange(
        "binance", "okx", "kraken", "bybit", speed=40.0, symbols=("BTC/USDT", "ETH/USDT", "BTC/USD")
    ) as found:
        yield found


@pytest.fixture(scope="module")
def sinks() -> Iterator[tuple[Postgres, Kafka]]:
    with Postgres() as database, Kafka() as kafka:
        database.execute("CREATE DATABASE crypto")
        database.execute(f"ALTER USER postgres PASSWORD '{PASSWORD}'")
        yield database, kafka


@pytest.fixture(scope="module")
def examples(
    tmp_path_factory: pytest.TempPathFactory, market: Exchange, sinks: tuple[Postgres, Kafka]
) -> Iterator[dict[str, Example]]:
    database, kafka = sinks
    running: dict[str, Example] = {}
    env = clean_environment({**market.env, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"})
    try:
        for name in NAMES:
            folder = tmp_path_factory.mktemp(name)
            text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
            # Where the servers are, and a week in place of a year.
            text = text.replace('host="localhost",', f'host="127.0.0.1", port={database.port},')
            text = text.replace("localhost:9092", kafka.servers).replace("2024-12-31", "2024-01-07")
            (folder / f"{name}.py").write_text(text, encoding="utf-8")
            with (folder / "out").open("wb") as stdout, (folder / "err").open("wb") as stderr:
                process = subprocess.Popen(
                    [sys.executable, f"{name}.py"],
                    cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
                )  # fmt: skip
            running[name] = Example(process, folder)
        yield running
    finally:
        for example in running.values():
            example.process.kill()
            example.process.wait(30)


def truth(market: Exchange, symbol: str, start: int, end: int, timeframe: str = "1m") -> list[tuple[int, float, int]]:
    """open_ts, close and trades of each candle."""
    found = []
    before = market.tape.last_before(symbol, start)
    price = float(before.price) if before is not None else 0.0
    for ts in timeframes.starts(timeframe, start, end):
        trades = market.tape.trades(symbol, ts, timeframes.end_of(timeframe, ts))
        price = float(trades[-1].price) if trades else price
        found.append((ts, price, len(trades)))
    return found


def written(rows: list[dict[str, Any]]) -> list[tuple[int, float, int]]:
    return [(int(row["open_ts"]), float(row["close"]), int(row["n_trades"])) for row in rows]


def holds(market: Exchange, rows: list[dict[str, str]], timeframe: str = "1m", symbol: str = "BTC/USDT") -> None:
    """The rows are the tape's own candles, without a hole."""
    ours = written(rows)
    theirs = truth(market, symbol, ours[0][0], ours[-1][0] + 1, timeframe)
    wrong = [f"{row} is {right}" for row, right in zip(rows, theirs, strict=False) if written([row]) != [right]]
    assert not wrong, "\n".join([f"{len(wrong)} of {len(rows)}:", *wrong[:5]])
    assert ours == theirs


def test_every_example_is_tested() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in NAMES if f'examples["{name}"]' not in source] == []


def test_first_stream(examples: dict[str, Example]) -> None:
    example = examples["first_stream"]
    example.shows("Binance")
    example.shows("BTCUSDT")
    example.interrupted()


def test_multiple_emitters(examples: dict[str, Example], market: Exchange, sinks: tuple[Postgres, Kafka]) -> None:
    example = examples["multiple_emitters"]
    example.writes("data.csv", 3)
    example.shows("BTCUSDT")
    example.interrupted()
    rows = example.rows("data.csv")
    holds(market, rows)
    database, kafka = sinks
    import psycopg

    url = f"postgresql://postgres:{PASSWORD}@127.0.0.1:{database.port}/crypto"
    with psycopg.connect(url) as connection:
        table = connection.execute("SELECT open_ts, close FROM klines ORDER BY open_ts").fetchall()
    assert table == [(int(row["open_ts"]), float(row["close"])) for row in rows]
    messages = kafka.consume("crypto-stream", len(rows), seconds=10.0)
    assert {message.key() for message in messages} == {b"Binance|BTCUSDT|1m"}
    assert len(messages) == len(rows)


def test_aggregation_in_a_file_for_each_timeframe(examples: dict[str, Example], market: Exchange) -> None:
    example = examples["aggregation"]
    example.writes("btc_5m.csv", 2)
    example.interrupted()
    for timeframe in ("1m", "5m", "15m"):
        rows = example.rows(f"btc_{timeframe}.csv")
        assert {row["timeframe"] for row in rows} <= {timeframe}
        assert all(row["is_complete"] in ("True", "true") for row in rows)
        if rows:
            holds(market, rows, timeframe)


def test_transformer(examples: dict[str, Example]) -> None:
    example = examples["transformer"]
    example.writes("transformed.csv", 2)
    example.interrupted()
    for row in example.rows("transformed.csv"):
        assert float(row["price_range"]) == float(row["high"]) - float(row["low"])
        assert row["is_bullish"].lower() == str(float(row["close"]) > float(row["open"])).lower()


def test_price_thresholds(examples: dict[str, Example]) -> None:
    example = examples["price_thresholds"]
    example.shows("🚀 BTC above $50k! Current: $")
    example.interrupted()


def test_stream_iterator(examples: dict[str, Example]) -> None:
    example = examples["stream_iterator"]
    example.shows("Received: BTC-USDT @ $")
    example.shows("BTC above $50k!")
    example.interrupted()


def test_merged_exchanges(examples: dict[str, Example]) -> None:
    example = examples["merged_exchanges"]
    for source, symbol in (("Binance", "BTCUSDT"), ("OKX", "BTC-USDT"), ("Kraken", "BTC/USD"), ("Bybit", "BTCUSDT")):
        example.shows(f"{source}: {symbol} @ ")
    example.interrupted()


def test_custom_emitter(examples: dict[str, Example]) -> None:
    example = examples["custom_emitter"]
    example.shows("connected")
    example.shows("new high of BTCUSDT: ")
    example.shows("new high of ETHUSDT: ")
    example.interrupted()
    assert example.out.endswith("closed\n")


def test_candles_from_trades(examples: dict[str, Example]) -> None:
    example = examples["candles_from_trades"]
    example.shows("1m BTC/USD: ")
    example.shows("3m BTC/USD: ")
    example.interrupted()


def test_backfill(examples: dict[str, Example], market: Exchange) -> None:
    example = examples["backfill"]
    assert example.process.wait(DEADLINE) == 0, example.err
    rows = example.rows("btc_2024.csv")
    assert len(rows) == 7 * 1440
    holds(market, rows[:60])
