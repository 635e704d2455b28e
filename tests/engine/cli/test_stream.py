"""``streammachine stream``: from the command line into sinks; what cannot work is said before anything starts."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
import redis

from streammachine.redis.embedded.server import EmbeddedServer
from support.simulator import Exchange, exchange


@pytest.fixture(scope="module")
def market() -> Iterator[Exchange]:
    with exchange("binance", speed=60) as running:
        yield running


@pytest.fixture(autouse=True)
def _in_its_folder(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cli.folder)


def test_a_file_of_candles_takes_no_trades_and_the_other_way_round(cli: Any, market: Exchange) -> None:
    for first, then in (((), ("--type", "trade")), (("--type", "trade"), ())):
        out = f"{len(first)}.csv"
        arguments = ("stream", "binance", "BTCUSDT", "--to", f"csv:{out}", "--candles", "1")
        assert cli(*arguments, *first, **market.env).returncode == 0
        before = (cli.folder / out).read_bytes()
        refused = cli(*arguments, *then, **market.env)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert f"{out} has the columns" in refused.stderr
        assert "Give another file_path" in refused.stderr
        assert refused.stderr.count("\n") == 1
        assert (cli.folder / out).read_bytes() == before


def test_a_backfill_that_a_redis_stream_does_not_take_is_refused_at_once(cli: Any, market: Exchange) -> None:
    arguments = ("binance", "BTCUSDT", "--to", "redis")
    assert cli("stream", *arguments, "--candles", "1", **market.env).returncode == 0
    before = len(market.simulator.log.of("rest"))
    refused = cli("backfill", *arguments, "--from", "2025-07-18", "--to", "2025-07-18", **market.env)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "kline:binance:BTCUSDT:1m already holds candles, from 2025-07-20 " in refused.stderr
    assert "fresh stream" in refused.stderr
    assert refused.stderr.count("\n") == 1
    asked = [entry.detail for entry in market.simulator.log.of("rest")[before:]]
    assert not [detail for detail in asked if "klines" in detail or "data/" in detail]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_when_the_sinks_have_everything(
    cli: Any, market: Exchange, number: signal.Signals, status: int
) -> None:
    command = [sys.executable, "-m", "streammachine.cli", "stream", "binance", "BTCUSDT"]
    command += ["--to", "csv:out.csv", "--to", "parquet:folder"]
    with subprocess.Popen(
        command, env=cli.environment(**market.env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None and not (cli.folder / "out.csv").exists():
            time.sleep(0.01)
        while process.poll() is None and (cli.folder / "out.csv").read_bytes().count(b"\n") < 3:
            time.sleep(0.01)
        process.send_signal(number)
        said, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert errors == ""
    assert "candles" in said
    written = [int(line.split(",")[3]) for line in (cli.folder / "out.csv").read_text().splitlines()[1:]]
    assert sorted(pd.read_parquet(cli.folder / "folder")["open_ts"]) == written


@pytest.mark.parametrize(
    "arguments",
    [
        ("stream", "--timeframe", "1m", "--candles", "2", "--speed", "600"),
        ("backfill", "--from", "2024-01-01", "--to", "2024-01-01"),
    ],
)
def test_what_a_simulated_exchange_says_has_streams_of_its_own(cli: Any, arguments: tuple[str, ...]) -> None:
    verb, *rest = arguments
    with EmbeddedServer.acquire(cli.folder / "valkey", fsync="everysec") as server:
        done = cli(verb, "binance", "BTCUSDT", *rest, "--to", server.url, "--simulated")
        assert done.returncode == 0, done.stdout + done.stderr
        with redis.Redis.from_url(server.url) as database:
            assert database.keys("*kline:*") == [b"simulated:kline:binance:BTCUSDT:1m"]
            assert database.xlen("simulated:kline:binance:BTCUSDT:1m") >= 2


def test_refused_rows_are_told_by_the_exit_status(cli: Any, market: Exchange) -> None:
    ahead = market.clock.time_ms() + 10 * 86_400_000
    program = (
        "import asyncio; from streammachine import RedisConnection\n"
        "async def main():\n    async with RedisConnection() as redis:\n"
        f"        await redis.command('XADD', 'kline:binance:BTCUSDT:1m', '{ahead}-1', 'a', 'b')\n"
        "asyncio.run(main())"
    )
    subprocess.run([sys.executable, "-c", program], env=cli.environment(), check=True, timeout=60)
    done = cli("stream", "binance", "BTCUSDT", "--to", "redis", "--to", "csv:out.csv", "--candles", "2", **market.env)
    assert done.returncode == 1, done.stdout
    assert "redis: 0 written, 0 waiting, 2 not written" in done.stdout
    assert "csv: 2 written" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("BTCUSDT", "--to", "csv:a.csv", "--to", "csv:./a.csv"), "is given twice"),
        (("BTCUSDT", "--speed", "10"), "give --simulated too"),
        (("BTCUSDT", "--timeframe", "3m", "--aggregate", "5m"), "no multiple of 3m"),
        (("NOSUCHUSDT",), "Binance does not trade NOSUCHUSDT"),
        (("BTC-USDT",), "Binance writes BTCUSDT"),
        (("BTCUSDT", "--timeframe", "7m"), "'7m' is no timeframe"),
        (("BTCUSDT", "--to", "csv:no/where.csv"), "does not exist"),
        (("BTCUSDT", "--to", "csv:/proc/out.csv"), "/proc/out.csv cannot be written: No such file"),
        (("BTCUSDT", "--to", "kafka:127.0.0.1:1/candles"), "Kafka at 127.0.0.1:1 does not answer"),
    ],
)
def test_mistakes_are_one_line(cli: Any, market: Exchange, arguments: tuple[str, ...], said: str) -> None:
    done = cli("stream", "binance", *arguments, **market.env)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(cli.folder.glob("*.csv"))


@pytest.mark.parametrize("width", [100, 80, 60, 40])
def test_the_table_has_whole_values_whatever_the_width(cli: Any, market: Exchange, width: int) -> None:
    arguments = ("binance", "BTCUSDT", "ETHUSDT", "--candles", "2")
    done = cli("stream", *arguments, **market.env, COLUMNS=str(width))
    lines = done.stdout.splitlines()
    rows = [line for line in lines if line.startswith(("BTCUSDT 1m", "ETHUSDT 1m"))]
    assert rows, done.stdout
    assert "…" not in "".join(rows)
    assert max(map(len, lines)) <= width
    header = lines[1].split()
    assert header[0] == "symbol"
    assert {"close", "seen"} <= set(header)
    assert ("trades" in header) is (width >= 80)


def test_sinks_of_a_kind_are_told_apart(cli: Any, market: Exchange) -> None:
    sinks = ("--to", "csv:a.csv", "--to", "csv:b.csv", "--to", "parquet:folder")
    done = cli("stream", "binance", "BTCUSDT", *sinks, "--candles", "1", **market.env)
    assert done.returncode == 0, done.stderr
    assert [line.partition(" written")[0] for line in done.stdout.splitlines()[-3:]] == [
        "csv:a.csv: 1",
        "csv:b.csv: 1",
        "parquet: 1",
    ]


def test_a_killed_stream_goes_on_where_it_stopped(cli: Any, market: Exchange) -> None:
    command = [sys.executable, "-m", "streammachine.cli", "stream", "binance", "BTCUSDT"]
    command += ["--to", "csv:out.csv", "--aggregate", "5m"]
    out = cli.folder / "out.csv"

    def rows() -> int:
        return out.read_bytes().count(b"\n") if out.exists() else 0

    for _ in range(3):
        before = rows()
        with subprocess.Popen(
            command, env=cli.environment(**market.env), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            while process.poll() is None and rows() < before + 6:
                time.sleep(0.01)
            process.kill()
            assert process.stderr is not None
            assert process.stderr.read() == ""
    frame = pd.read_csv(out)
    for timeframe, length in (("1m", 60_000), ("5m", 300_000)):
        starts = list(frame[frame.timeframe == timeframe].open_ts)
        assert starts == list(range(starts[0], starts[-1] + length, length))
    assert set(frame.is_complete) == {True}
    fresh = cli(*command[3:], "--fresh", "--candles", "1", **market.env)
    assert fresh.returncode == 0


def test_quotes_go_into_a_file(cli: Any, market: Exchange) -> None:
    done = cli(
        *("stream", "binance", "BTCUSDT", "--type", "quote", "--every", "100ms", "--to", "csv:quotes.csv"),
        *("--candles", "5"),
        **market.env,
    )
    assert done.returncode == 0, done.stderr
    frame = pd.read_csv(cli.folder / "quotes.csv")
    assert list(frame.columns) == ["source", "symbol", "pair", "bid", "bid_size", "ask", "ask_size", "ts"]
    assert len(frame) >= 5
    assert (frame.bid < frame.ask).all()
    assert "quotes" in done.stdout
