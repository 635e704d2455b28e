"""``--json``: what a command shows is one JSON object a line, for programs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
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


def test_a_recording_gives_its_candles_and_names_its_file(cli: Any, tmp_path: Any) -> None:
    frames = tmp_path / "frames.gz"
    options = ("--simulated", "--speed", "240", "--candles", "2", "--json")
    done = cli("record", "binance", "BTCUSDT", "--frames", str(frames), *options)
    assert done.returncode == 0, done.stderr
    *candles, end = lines(done.stdout)
    assert [row["type"] for row in candles] == ["kline"] * 2
    assert (end["rows"], end["frames"], frames.stat().st_size > 0) == (2, str(frames), True)


def test_the_entry_of_a_client_is_one_object(cli: Any, tmp_path: Any) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"theme": "dark"}')
    command = ("install", "claude-desktop", "--config-path", str(path), "--env", "A=b", "--json")
    (shown,) = lines(cli(*command, "--dry-run").stdout)
    assert (shown["written"], shown["backup"], path.read_text()) == (False, None, '{"theme": "dark"}')
    (done,) = lines(cli(*command).stdout)
    assert (done["file"], done["name"], done["written"]) == (str(path), "streammachine", True)
    assert json.loads(path.read_text())["mcpServers"]["streammachine"] == done["entry"] == shown["entry"]
    assert done["entry"]["env"] == {"A": "b"}
    assert json.loads(Path(done["backup"]).read_text()) == {"theme": "dark"}
    (again,) = lines(cli(*command).stdout)
    assert (again["written"], again["backup"]) == (False, None)


def test_the_demo_gives_what_it_shows(cli: Any) -> None:
    chart = cli.folder / "chart.png"
    done = cli("demo", "--count", "500", "--chart", str(chart), "--json")
    assert done.returncode == 0, done.stderr
    socket, minutes, fives, end = lines(done.stdout)
    assert (socket["type"], socket["whole"], socket["healed"] > 0) == ("socket", True, True)
    assert (minutes["timeframe"], fives["timeframe"]) == ("1m", "5m")
    assert sum(candle["trade_count"] for candle in minutes["candles"]) == end["trades"] == end["ticks"] == 500
    assert (end["complete"], end["chart"], end["chart_problem"]) == (True, str(chart), None)
    assert chart.read_bytes().startswith(b"\x89PNG")


def test_run_tells_each_state_of_a_worker_and_what_the_app_prints_is_not_among_it(cli: Any) -> None:
    app = cli.folder / "quits.py"
    app.write_text(
        "from streammachine import App\n"
        "app = App('quits', to_scan=False)\n"
        "@app.timer(0.05)\n"
        "async def quit() -> None:\n"
        "    print('from the App')\n"
        "    await app.shutdown()\n"
    )
    done = cli("run", f"{app}:app", "--workers", "2", "--json")
    assert done.returncode == 0, done.stderr
    found = lines(done.stdout)
    assert {line["worker"] for line in found} == {1, 2}
    for number in (1, 2):
        states = [line["state"] for line in found if line["worker"] == number]
        assert (states[0], states[-1]) == ("starting", "ended")
    assert all(line["app"] == f"{app}:app" for line in found)
    assert "from the App" in done.stderr


def test_run_tells_why_an_app_cannot_be_loaded(cli: Any) -> None:
    app = cli.folder / "broken.py"
    app.write_text("import nowhere_to_be_found\n")
    done = cli("run", f"{app}:app", "--json")
    assert done.returncode == 1
    assert any("nowhere_to_be_found" in line.get("problem", "") for line in lines(done.stdout))
