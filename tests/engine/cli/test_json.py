"""``--json``: what a command shows is one JSON object a line, for programs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_doctor_gives_a_line_for_each_finding(cli: Any) -> None:
    done = cli("doctor", "--json", STREAMMACHINE_COUNT="many")
    found = {line["subject"]: line for line in lines(done.stdout)}
    assert done.returncode == 1
    assert found["Settings"]["mark"] == "bad"
    assert found["Settings"]["mend"]
    assert found["Python"]["mark"] == "ok"


def test_a_backfill_gives_a_line_for_each_symbol(cli: Any, tmp_path: Any) -> None:
    span = ("--from", "2024-01-01T00:00", "--to", "2024-01-01T00:10")
    done = cli(
        "backfill", "binance", "BTCUSDT", "ETHUSDT", *span, "--to", f"csv:{tmp_path}/out.csv", "--simulated", "--json"
    )
    assert done.returncode == 0, done.stderr
    rows = lines(done.stdout)
    assert [(row["symbol"], row["new"], row["gaps"]) for row in rows] == [("BTCUSDT", 10, []), ("ETHUSDT", 10, [])]
    assert rows[0]["sinks"][0]["emitted"] == 10


def test_a_stream_gives_each_closed_candle_and_then_how_it_ended(cli: Any) -> None:
    done = cli("stream", "binance", "BTCUSDT", "--simulated", "--speed", "240", "--candles", "3", "--json")
    assert done.returncode == 0, done.stderr
    *candles, end = lines(done.stdout)
    assert [(row["type"], row["symbol"], row["is_closed"]) for row in candles] == [("kline", "BTCUSDT", True)] * 3
    assert (end["type"], end["rows"], end["gaps"]) == ("summary", 3, 0)


def test_trades_are_lines_too(cli: Any) -> None:
    options = ("--simulated", "--speed", "240", "--candles", "2", "--json")
    done = cli("stream", "binance", "BTCUSDT", "--type", "trade", *options)
    first, second, _ = lines(done.stdout)
    assert (first["type"], first["symbol"]) == ("trade", "BTCUSDT")
    assert second["ts"] >= first["ts"]


def test_candles_of_a_file_are_told_as_one_line(cli: Any, tmp_path: Any) -> None:
    file = tmp_path / "trades.csv"
    file.write_text("timestamp,symbol,price,volume\n1735689600000,BTCUSDT,100,1\n1735689661000,BTCUSDT,101,2\n")
    done = cli("candles", str(file), "--to", f"csv:{tmp_path}/candles.csv", "--json")
    (line,) = lines(done.stdout)
    assert (line["trades"], line["candles"], line["failed"]) == (2, 2, 0)


def test_simulate_tells_where_it_listens(cli: Any) -> None:
    command = [sys.executable, "-m", "streammachine.cli", "simulate", "--exchange", "binance,okx", "--json"]
    with subprocess.Popen(command, env=cli.environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        process.send_signal(signal.SIGINT)
        rest = lines(process.stdout.read())
        assert process.wait(60) == 0
    assert [first["exchange"], second["exchange"]] == ["binance", "okx"]
    assert first["environment"]["STREAMMACHINE_BINANCE_WS"] == first["ws"]
    assert all(line["what"] for line in rest)
