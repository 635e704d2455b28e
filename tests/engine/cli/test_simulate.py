"""``streammachine simulate``: another process's clients find it, faults strike, and it ends when it is told to."""

from __future__ import annotations

import csv
import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

READY = "Ctrl-C ends it"


@contextmanager
def simulating(cli: Any, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str], list[str]]]:
    """The running command, the variables that it said to set, and its lines so far."""
    process = subprocess.Popen(
        [sys.executable, "-m", "streammachine.cli", "simulate", *arguments],
        env=cli.environment(COLUMNS="60"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if READY in line:
                break
        exports = (line.removeprefix("export ") for line in lines if line.startswith("export "))
        yield process, dict(line.split("=", 1) for line in exports), lines
    finally:
        process.kill()
        process.communicate()


def told(process: subprocess.Popen[str], *words: str) -> str:
    """The next line that holds the words."""
    assert process.stdout is not None
    for line in process.stdout:
        if all(word in line for word in words):
            return line
    raise AssertionError(f"it ended without {words}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_client_in_another_process_gets_candles_and_a_signal_ends_it(cli: Any, number: signal.Signals) -> None:
    with simulating(cli, "--exchange", "bybit,binance", "--speed", "100", "--seed", "5") as (process, variables, lines):
        assert "simulating bybit, binance from" in lines[0]
        assert "100 times as fast" in lines[0]
        assert set(variables) == {
            "STREAMMACHINE_CLOCK_URL", "STREAMMACHINE_BYBIT_WS", "STREAMMACHINE_BYBIT_REST",
            "STREAMMACHINE_BINANCE_WS", "STREAMMACHINE_BINANCE_REST", "STREAMMACHINE_BINANCE_BULK",
        }  # fmt: skip
        with urllib.request.urlopen(variables["STREAMMACHINE_CLOCK_URL"]) as answer:
            assert json.load(answer)["speed"] == 100
        with connect(variables["STREAMMACHINE_BYBIT_WS"] + "/spot", compression=None) as line:
            line.send('{"op":"subscribe","args":["kline.1.BTCUSDT"]}')
            while '"confirm":true' not in line.recv():
                pass
        assert "kline.1.BTCUSDT" in told(process, "bybit", "subscribe", "#1")
        process.send_signal(number)
        out, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
        assert out.splitlines()[-1] == "ended"


def test_scripted_faults_strike_and_are_told(cli: Any) -> None:
    with simulating(cli, "--exchange", "okx", "--speed", "50", "--fault", "status:value=503", "--fault", "reset@5") as (
        process, variables, _,
    ):  # fmt: skip
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(variables["STREAMMACHINE_OKX_REST"] + "/api/v5/public/time")
        assert "status:value=503" in told(process, "okx", "fault")
        told(process, "okx", "fault", "reset@5")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 0


def test_recorded_trades_can_be_the_tape(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "trades.csv"
    with path.open("w", newline="") as file:
        rows = [(1_723_161_255_342 + n * 1000, n + 1, "61837.63000000", "0.02", n % 2) for n in range(300)]
        csv.writer(file).writerows([("trade_ms", "trade_id", "price", "qty", "buyer_is_maker"), *rows])
    with simulating(cli, "--exchange", "kraken", "--tape", str(path), "--symbols", "BTC/USD", "--speed", "200") as (
        process, variables, lines,
    ):  # fmt: skip
        assert process.stdout is not None
        assert "from 2024-08-08 23:54:00 UTC" in lines[0]
        base = variables["STREAMMACHINE_KRAKEN_REST"]
        while True:
            with urllib.request.urlopen(f"{base}/0/public/OHLC?pair=XBTUSD&interval=1") as answer:
                rows_told = json.load(answer).get("result", {}).get("XXBTZUSD", ())  # none: asked too often
            if len(rows_told) > 2:
                break
            process.stdout.readline()  # its line of this request; unread, they fill the pipe and stop it
        assert rows_told[1][0:2] == [1_723_161_300, "61837.63"]
        assert rows_told[1][7] == 60


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--exchange", "bitstamp"), "there is no exchange 'bitstamp'"),
        (("--fault", "rest@3"), "did you mean reset?"),
        (("--tape", "/nowhere/trades.csv"), "/nowhere/trades.csv cannot be used as a tape"),
        (("--symbols", "BTCUSDT"), "write it as BASE/QUOTE"),
    ],
)
def test_what_cannot_be_simulated_is_one_line_and_status_1(cli: Any, arguments: tuple[str, ...], text: str) -> None:
    done = cli("simulate", *arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_fault_help_lists_what_can_go_wrong(cli: Any) -> None:
    done = cli("simulate", "--fault", "help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "reset        the TCP connection is reset" in done.stdout.splitlines()


def test_a_taken_port_is_one_line_and_status_1(cli: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = cli("simulate", "--exchange", "okx", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "cannot be used: " in done.stderr
    assert len(done.stderr.splitlines()) == 1
