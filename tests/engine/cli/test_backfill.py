"""``streammachine backfill``: from the command line into sinks, against the simulator in its process."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from streammachine.cli.backfill import split_to
from streammachine.errors import DataInputError, EmitterError
from streammachine.market.emitters.csv import CSVEmitter
from streammachine.market.emitters.kafka import KafkaEmitter
from streammachine.market.emitters.logger import Logger
from streammachine.market.emitters.parquet import ParquetEmitter
from streammachine.market.emitters.postgres import PostgresEmitter
from streammachine.market.emitters.redis import RedisEmitter
from streammachine.market.emitters.sink_text import emitter_for, shown
from streammachine.market.simulator import Fault
from support.backfill import rows_of, utc
from support.simulator import exchange

DAYS_AGO = [f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%d}" for days in range(10)]


@pytest.fixture(autouse=True)
def _in_its_folder(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cli.folder)


def test_the_issues_line(cli: Any) -> None:
    arguments = ("okx", "BTC-USDT", "--timeframe", "1m", "--from", DAYS_AGO[3], "--to", DAYS_AGO[2])
    done = cli("backfill", *arguments, "--to", "csv:out.csv", "--to", "parquet:folder", "--simulated")
    assert done.returncode == 0, done.stderr
    assert "BTC-USDT 1m to csv:out.csv, parquet:folder: 2,880 candles" in done.stdout
    rows = rows_of(cli.folder / "out.csv")
    assert len(rows) == 2880
    assert {row["source"] for row in rows} == {"OKX"}
    assert len(list((cli.folder / "folder").rglob("*.parquet"))) == 1
    again = cli("backfill", *arguments, "--to", "csv:out.csv", "--to", "parquet:folder", "--simulated")
    assert "nothing new" in again.stdout
    assert rows_of(cli.folder / "out.csv") == rows


@pytest.mark.parametrize(
    ("exchange", "symbols"),
    [("binance", ["BTCUSDT", "ETHUSDT"]), ("bybit", ["BTCUSDT"]), ("kraken", ["BTC/USD", "ETH/USD"])],
)
def test_without_a_sink_each_symbol_has_its_file(cli: Any, exchange: str, symbols: list[str]) -> None:
    arguments = ("--timeframe", "1h", "--from", DAYS_AGO[4], "--to", DAYS_AGO[3], "--simulated")
    done = cli("backfill", exchange, *symbols, *arguments)
    assert done.returncode == 0, done.stderr
    files = sorted(Path(cli.folder).glob("*.csv"))
    assert len(files) == len(symbols)
    assert [len(rows_of(file)) for file in files] == [48] * len(symbols)
    assert all(f"1h-{DAYS_AGO[4]}_{DAYS_AGO[3]}.csv" in file.name for file in files)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("binnance", "BTCUSDT", "--from", "2024-01-01"), "did you mean binance?"),
        (("binance", "BTC-USDT", "--from", "2024-01-01"), "Binance writes BTCUSDT"),
        (("okx", "BTC-USDT", "--from", "2024-01-02", "--to", "2024-01-01"), "not before"),
        (("okx", "BTC-USDT", "--from", "2124-01-02"), "in the future: the clock that the exchange"),
        (("okx", "BTC-USDT", "--from", "first of May"), "give a date"),
        (("okx", "BTC-USDT", "--from", "2024-01-02", "--timeframe", "7m"), "'7m' is no timeframe"),
        (("okx", "BTC-USDT", "--from", "2024-01-02", "--to", "2024-01-02", "--to", "2024-01-03"), "two ends"),
        (("okx", "BTC-USDT", "--from", "2024-01-02", "--to", "excel:out"), "no sink 'excel'"),
        (("okx", "BTC-USDT", "--from", "2024-01-02", "--to", "csv:"), "csv:..."),
        (("okx", "BTC-USDT", "--from", "2024-01-02", "--to", "csv:a.csv", "--to", "csv:./a.csv"), "given twice"),
        (("okx", "BTC-USDT", "--from", DAYS_AGO[2], "--to", "csv:no/where.csv", "--simulated"), "does not exist"),
    ],
)
def test_mistakes_are_one_line(cli: Any, arguments: tuple[str, ...], said: str) -> None:
    done = cli("backfill", *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_of_several_symbols_the_last_is_checked_before_the_first_is_loaded(cli: Any) -> None:
    with exchange("okx") as market:
        arguments = ("--from", "2025-07-18", "--to", "2025-07-18", "--to", "csv:out.csv")
        refused = cli("backfill", "okx", "BTC-USDT", "NOSUCH-USDT", *arguments, **market.env)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "OKX does not trade NOSUCH-USDT" in refused.stderr
        assert refused.stderr.count("\n") == 1
        assert not (cli.folder / "out.csv").exists() or not rows_of(cli.folder / "out.csv")
        done = cli("backfill", "okx", "BTC-USDT", "ETH-USDT", *arguments, **market.env)
        assert done.returncode == 0, done.stderr
        assert len(rows_of(cli.folder / "out.csv")) == 2 * 1440


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_and_the_same_command_goes_on(cli: Any, number: signal.Signals, status: int) -> None:
    arguments = ["backfill", "okx", "BTC-USDT", "--from", "2025-07-10", "--to", "2025-07-16"]
    arguments += ["--to", "csv:out.csv", "--to", "parquet:folder"]
    faults = [Fault("status", value=503, seconds=1000, after=20)]
    with exchange("okx", speed=60, faults=faults) as market:
        command = [sys.executable, "-m", "streammachine.cli", *arguments]
        with subprocess.Popen(
            command, env=cli.environment(**market.env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            while process.poll() is None and not market.simulator.log.of("fault"):
                time.sleep(0.005)
            process.send_signal(number)
            said, errors = process.communicate(timeout=60)
        assert (process.returncode, said) == (status, ""), errors
        assert errors == "ended before it was through: the same command goes on from here\n"
        done = cli(*arguments, **market.env)
        assert done.returncode == 0, done.stderr
        assert "of earlier runs" in done.stdout
    starts = [int(row["open_ts"]) for row in rows_of(cli.folder / "out.csv")]
    assert starts == list(range(utc("2025-07-10"), utc("2025-07-17"), 60_000))
    assert sorted(pd.read_parquet(cli.folder / "folder")["open_ts"]) == starts


def test_dates_and_sinks_may_be_mixed() -> None:
    assert split_to(["csv:a.csv", "2024-02-01", "redis"]) == ("2024-02-01", ["csv:a.csv", "redis"])
    assert split_to(["redis", "1704067200000"]) == ("1704067200000", ["redis"])
    assert split_to(["NOW"]) == ("NOW", [])
    assert split_to(["2024-02-01T10:00"]) == ("2024-02-01T10:00", [])
    assert split_to([]) == ("now", [])
    with pytest.raises(DataInputError, match="two ends"):
        split_to(["now", "2024-02-01"])


def test_a_range_may_be_given_in_epoch_milliseconds(cli: Any) -> None:
    start = utc(DAYS_AGO[2])
    arguments = ("--from", str(start), "--to", str(start + 3_600_000), "--to", "csv:out.csv", "--simulated")
    done = cli("backfill", "okx", "BTC-USDT", *arguments)
    assert done.returncode == 0, done.stderr
    assert [int(row["open_ts"]) for row in rows_of(cli.folder / "out.csv")] == list(
        range(start, start + 3_600_000, 60_000)
    )


@pytest.mark.parametrize(
    ("text", "made", "target"),
    [
        ("log", Logger, None),
        ("csv:out.csv", CSVEmitter, "out.csv"),
        ("parquet:folder", ParquetEmitter, "folder"),
        ("redis", RedisEmitter, None),
        ("redis://example:6390/2", RedisEmitter, "example:6390"),
        ("redis:redis://example:6390/2", RedisEmitter, "example:6390"),
        ("kafka:a:9092,b:9092/candles", KafkaEmitter, "candles"),
        ("kafka://a:9092/candles", KafkaEmitter, "a:9092"),
        ("postgres:postgresql://me:secret@host:5433/db", PostgresEmitter, "#klines"),
        ("postgres://me:secret@host:5433/db", PostgresEmitter, "host:5433/db"),
        ("postgresql://me:secret@host/db#candles", PostgresEmitter, "#candles"),
    ],
)
def test_sinks_by_their_text(text: str, made: type, target: str | None) -> None:
    emitter = emitter_for(text)
    assert type(emitter) is made
    if target is not None:
        assert target in emitter.target  # type: ignore[attr-defined]
        assert "secret" not in emitter.target  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("csv:out.csv", "csv:out.csv"),
        ("redis://host:6379/2", "redis://host:6379/2"),
        ("redis://:secret@host/2", "redis://:***@host/2"),
        ("redis://host/2?x=1&password=secret", "redis://host/2?x=1&password=***"),
        ("redis://secret@host/2", "redis://***@host/2"),
        ("redis:rediss://host?ssl_keyfile_password=secret", "redis:rediss://host?ssl_keyfile_password=***"),
        ("postgres://me@host/db?sslpassword=secret#t", "postgres://me@host/db?sslpassword=***#t"),
        ("postgres:postgresql://me:secret@host/db#candles", "postgres:postgresql://me:***@host/db#candles"),
        ("postgres://me:sec@ret/secret@host/db", "postgres://me:***@host/db"),
        ("postgres://me@host/db?password=secret#t", "postgres://me@host/db?password=***#t"),
        ("postgres:me:secret@host", "host"),
    ],
)
def test_no_password_of_a_sink_is_shown(text: str, told: str) -> None:
    assert shown(text) == told


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no sink"),
        ("csv", "csv:..."),
        ("parquet:", "parquet:..."),
        ("kafka:host:9092", "kafka:HOST:PORT/TOPIC"),
        ("kafka:/topic", "kafka:HOST:PORT/TOPIC"),
        ("kafka:host:9092/a/b", "kafka:HOST:PORT/TOPIC"),
        ("postgres:", "USER@HOST"),
        ("postgres:me:secret@host", "USER@HOST"),
        ("postgres://host/db#1; drop table x", "table name"),
        ("log:out", "no sink"),
        ("unix", "no sink"),
        ("csv:out.csv.gz", "compressed"),
    ],
)
def test_sinks_that_are_none(text: str, said: str) -> None:
    with pytest.raises(EmitterError, match=said.replace(".", r"\.")) as raised:
        emitter_for(text)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(("width", "times"), [(120, 2), (60, 1)])
def test_a_terminal_gets_a_bar_with_an_eta_and_a_pipe_does_not(cli: Any, width: int, times: int) -> None:
    arguments = ["backfill", "okx", "BTC-USDT", "--from", DAYS_AGO[2], "--to", DAYS_AGO[2], "--simulated"]
    assert "ETA" not in cli(*arguments, "--to", "csv:one.csv").stderr
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "streammachine.cli", *arguments, "--to", "csv:two.csv"],
            env=cli.environment(TERM="xterm", COLUMNS=str(width)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=theirs,
        ) as process:
            os.close(theirs)
            shown = b""
            with contextlib.suppress(OSError):  # Linux: how the other end's closing is told
                while chunk := os.read(ours, 4096):
                    shown += chunk
            assert process.wait(60) == 0
    finally:
        os.close(ours)
    text = shown.decode()
    assert "OKX BTC-USDT 1m" in text
    assert "ETA" in text
    assert "1,440 candles" in text
    assert "100%" in text
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n").strip().splitlines()[-1]
    assert len(re.findall(r"\b\d:\d\d:\d\d\b", last)) == times
    assert "…" not in last
