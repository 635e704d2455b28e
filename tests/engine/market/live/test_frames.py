"""Recordings of raw frames: what was recorded is played through the real decode, and gives the same rows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from streammachine.errors import DataInputError, MarketError
from streammachine.market.clock.clock import VirtualClock
from streammachine.market.emitters.csv import CSVEmitter
from streammachine.market.live.runner import BinanceRunner, Runner, runner_for
from streammachine.market.model.data_input import DataInput
from streammachine.market.network.frame_file import FramesHeader, FrameWriter, read_events, read_header
from streammachine.market.simulator import Fault, Simulator, Tape
from support.mcp import clean_environment
from support.simulator import Exchange, exchange

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

START = 1_753_000_020_000
MINUTE = 60_000
SYMBOLS = {"binance": "BTCUSDT", "okx": "BTC-USDT", "kraken": "BTC/USDT", "bybit": "BTCUSDT", "coinbase": "BTC-USDT"}
FAULTS = [Fault.parse("reset@150"), Fault.parse("stall@320:lasts=45"), Fault.parse("malformed@60")]
pytestmark = pytest.mark.anyio


async def recorded(
    name: str, path: Path, wanted: DataInput, minutes: int, faults: list[Fault]
) -> tuple[list[Any], Any]:
    """Record a runner of the simulated exchange; its rows and its gaps."""
    clock = VirtualClock(START)
    tape = Tape.generate(3, symbols=("BTC/USDT",), start_ms=START)
    rows: list[Any] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.drive)
        async with Simulator(tape, (name,), clock, faults) as simulator:
            urls = simulator.urls(name)
            login = urls.rest.replace("//", "//me:hunter2@")
            runner = runner_for(
                name, wanted, active_warmup=bool(wanted.aggregate_list), ws_url=urls.ws,
                ws_business_url=urls.ws_business, rest_url=login, clock=clock, record=path,
            )  # fmt: skip
            async for row in runner.stream():
                rows.append(row)
                if (row.ts if hasattr(row, "ts") else row.open_ts) >= START + minutes * MINUTE:
                    break
            await runner.close()
        tasks.cancel_scope.cancel()
    return rows, list(runner.gaps)


async def played(path: Path, **options: Any) -> tuple[list[Any], Runner]:
    runner = Runner(frames=path, **options)
    return [row async for row in runner.stream()], runner


def assert_the_same(again: list[Any], rows: list[Any]) -> None:
    """Up to the end; what REST was about to heal when the recording ended is not in it, and some more may be."""
    plain = [[row.model_dump(exclude={"origin"}) for row in found[: len(rows)]] for found in (again, rows)]
    assert len(again) >= len(rows) - 1
    assert plain[0] == plain[1][: len(again)]


@pytest.mark.parametrize("faults", [[], FAULTS], ids=["sound", "faults"])
@pytest.mark.parametrize("name", SYMBOLS)
async def test_a_recording_gives_the_same_candles_again(name: str, faults: list[Fault], tmp_path: Path) -> None:
    path = tmp_path / "frames.zst"
    wanted = DataInput("kline", [SYMBOLS[name]], "1m", ["5m"])
    rows, gaps = await recorded(name, path, wanted, 11, faults)
    again, runner = await played(path, active_warmup=True)
    assert len(rows) >= 12
    assert_the_same(again, rows)
    assert list(runner.gaps)[: len(gaps)] == gaps
    text = b"".join(repr(event).encode() for event in read_events(path))
    for secret in (b"hunter2", b"me:", b"127.0.0.1", b"User-Agent", b"uthorization"):
        assert secret not in text


async def test_trades_are_played_too(tmp_path: Path) -> None:
    path = tmp_path / "trades.gz"
    rows, _ = await recorded("binance", path, DataInput("trade", ["BTCUSDT"]), 3, FAULTS)
    again, runner = await played(path)
    assert_the_same(again, rows)
    assert runner.stream_input == DataInput("trade", ["BTCUSDT"])


async def test_a_cut_off_file_is_read_up_to_the_cut(tmp_path: Path) -> None:
    wanted = DataInput("kline", ["BTCUSDT"], "1m")
    for name in ("whole.zst", "whole.gz", "whole.jsonl"):
        path = tmp_path / name
        rows, _ = await recorded("binance", path, wanted, 4, [])
        whole = path.read_bytes()
        assert len(list(read_events(path))) > 10
        cut = path.with_stem("cut")
        for part in (0.5, 0.9):
            cut.write_bytes(whole[: int(len(whole) * part)])
            events = list(read_events(cut))
            assert events == list(read_events(path))[: len(events)]
        if path.suffix == ".jsonl":
            again, _ = await played(cut)
            assert again == rows[: len(again)]
            assert again


async def test_sinks_get_what_is_played_however_fast(tmp_path: Path) -> None:
    path = tmp_path / "frames.zst"
    rows, _ = await recorded("binance", path, DataInput("kline", ["BTCUSDT"], "1m"), 6, [])
    runner = Runner(frames=path, capacity=1)
    runner.register_emitter(CSVEmitter(file_path=tmp_path / "out.csv"))
    await runner.run()
    assert (tmp_path / "out.csv").read_text().count("\n") >= len(rows)
    quick = Runner(frames=path, speed=3000)
    assert [row.open_ts async for row in quick.stream()][:3] == [row.open_ts for row in rows][:3]  # type: ignore[union-attr]


def test_what_is_no_recording_is_said(tmp_path: Path) -> None:
    header = FramesHeader("binance", "SPOT", "kline", ("BTCUSDT",), "1m", (), START)
    path = tmp_path / "x.gz"
    FrameWriter(path, header).close()
    assert read_header(path) == header
    with pytest.raises(DataInputError, match="is there already"):
        FrameWriter(path, header)
    with pytest.raises(DataInputError, match="of binance, not of okx"):
        runner_for("okx", frames=path)
    with pytest.raises(DataInputError, match="is of kline 1m"):
        BinanceRunner(DataInput("trade", ["BTCUSDT"]), frames=path)
    for name, content in (("a.gz", b"nothing"), ("b.jsonl", b"{}\n"), ("c.jsonl", b""), ("d.zst", b"nothing"),
                          ("e.jsonl", b"[" * 100_000 + b"\n")):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataInputError, match=r"no recording|cannot be read"):
            Runner(frames=tmp_path / name)
    with pytest.raises(DataInputError, match="cannot be read"):
        Runner(frames=tmp_path / "missing.zst")


def test_without_zstandard_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("zstandard", "compression"):
        monkeypatch.setitem(sys.modules, module, None)
    header = FramesHeader("binance", "SPOT", "kline", ("BTCUSDT",), "1m", (), START)
    with pytest.raises(DataInputError, match=r"pip install zstandard.*\.gz needs none"):
        FrameWriter(tmp_path / "x.zst", header)
    assert not list(tmp_path.iterdir())


# -- the commands -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def market() -> Iterator[Exchange]:
    with exchange("binance", speed=60) as running:
        yield running


def test_record_is_killed_and_what_it_wrote_is_served(tmp_path: Path, market: Exchange) -> None:
    env = clean_environment({"STREAMMACHINE_DATA_DIR": str(tmp_path / "data"), "COLUMNS": "200"})
    cli = [sys.executable, "-m", "streammachine.cli"]
    path = tmp_path / "frames.zst"
    command = [*cli, "record", "binance", "BTCUSDT", "--frames", str(path), "--to", f"csv:{tmp_path / 'live.csv'}"]
    with subprocess.Popen(command, env={**env, **market.env}, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and _lines(tmp_path / "live.csv") < 5:
            time.sleep(0.02)
        time.sleep(1.1)  # the recording is written about once a second
        process.kill()
    events = list(read_events(path))
    assert sum(event[0] == "f" for event in events) > 20
    taken = subprocess.run(command, env={**env, **market.env}, capture_output=True, text=True, timeout=60, check=False)
    assert (taken.returncode, "is there already" in taken.stderr) == (1, True)

    served = [*cli, "simulate", "--frames", str(path), "--speed", "120"]
    with subprocess.Popen(served, env=env, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        said = ""
        while "Ctrl-C" not in said:
            said += server.stdout.readline()
        variables = dict(re.findall(r"export (\w+)=(\S+)", said))
        client = [*cli, "stream", "binance", "BTCUSDT", "--to", f"csv:{tmp_path / 'again.csv'}", "--candles", "3"]
        done = subprocess.run(client, env={**env, **variables}, capture_output=True, text=True, timeout=60, check=False)
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=30)
    assert done.returncode == 0, done.stderr
    live, again = (_candles(tmp_path / name) for name in ("live.csv", "again.csv"))
    assert len(again) == 3
    assert again == live[:3]
    assert server.returncode == 0


@pytest.mark.skipif(resource is None, reason="this system bounds no file's size")
@pytest.mark.parametrize("keep_going", [False, True])
def test_record_ends_with_an_error_when_its_file_can_take_no_more(keep_going: bool, tmp_path: Path) -> None:
    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    path = tmp_path / "frames.txt"
    command = [
        sys.executable, "-m", "streammachine.cli", "record", "binance", "BTCUSDT", "--frames", str(path),
        "--simulated", "--speed", "600", "--candles", "25", "--to", f"csv:{tmp_path / 'live.csv'}",
        *(["--keep-going"] if keep_going else []),
    ]  # fmt: skip
    env = clean_environment({"STREAMMACHINE_DATA_DIR": str(tmp_path / "data"), "COLUMNS": "300"})
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False, preexec_fn=bounded)
    said = f"the recording {path} has ended, for it cannot be written: File too large"
    assert path.stat().st_size == 40_000
    assert sum(event[0] == "f" for event in read_events(path)) > 20
    written = _lines(tmp_path / "live.csv") - 1
    if keep_going:
        assert (done.returncode, written) == (0, 25), done.stderr
        assert said in done.stdout
    else:
        assert done.returncode == 1
        assert done.stderr.strip() == f"streammachine: {said}; keep_going=True (--keep-going) goes on unrecorded"
        assert 0 < written < 25


async def test_a_runner_whose_recording_ended_fails_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FrameWriter.__init__, "__kwdefaults__", {"most_bytes": 10_000})
    clock = VirtualClock(START)
    tape = Tape.generate(3, symbols=("BTC/USDT",), start_ms=START)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.drive)
        async with Simulator(tape, ("binance",), clock, []) as simulator:
            urls = simulator.urls("binance")
            wanted = DataInput("kline", ["BTCUSDT"], "1m")
            runner = BinanceRunner(wanted, ws_url=urls.ws, rest_url=urls.rest, clock=clock, record=tmp_path / "x.txt")
            with pytest.raises(
                MarketError, match=r"x.txt has ended, for it has \d\d,\d{3} bytes, and 10,000 are the most"
            ):
                async for _ in runner.stream():
                    pass
        tasks.cancel_scope.cancel()
    stats = runner.stats()
    assert (stats.state, stats.unrecorded) == (
        "failed",
        str(stats.error).removeprefix("MarketError: ").partition(";")[0],
    )


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if os.path.exists(path) else 0  # noqa: PTH110


def _candles(path: Path) -> list[str]:
    return [line.rpartition(",")[0] for line in path.read_text().splitlines()[1:]]  # without the origin
