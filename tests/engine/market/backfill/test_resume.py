"""Backfills that were killed, failed, or are run again: nothing is lost, nothing is there twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pandas as pd
import pytest

from streammachine.errors import EmitterError, ExchangeUnavailableError, OutOfOrderError
from streammachine.market.backfill.journal import Journal, JournalRecord
from streammachine.market.emitters.base import DataEmitter
from streammachine.market.emitters.csv import CSVEmitter
from streammachine.market.emitters.parquet import ParquetEmitter
from streammachine.market.emitters.redis import RedisEmitter
from streammachine.market.model.kline import Gap
from streammachine.market.simulator import Fault
from streammachine.redis.connection import RedisConnection
from support.backfill import NOW, assert_golden, files, market, rows_of, utc, write
from support.simulator import Exchange, exchange

DAY = 86_400_000


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STREAMMACHINE_DATA_DIR", str(tmp_path / "data"))


class Child:
    """The command in a process of its own, against a simulator in this one."""

    def __init__(self, here: Exchange, name: str, symbol: str, start: str, end: str, out: Path) -> None:
        self._command = [sys.executable, "-m", "streammachine.cli", "backfill", name, symbol, "--timeframe", "1m"]
        self._command += ["--from", start, "--to", end, "--to", f"csv:{out}"]
        self._env = {**os.environ, **here.env}

    def killed_when(self, is_time: Callable[[], bool]) -> bool:
        """Run it, and kill it -9 as soon as it is time; whether it was still running then."""
        with subprocess.Popen(self._command, env=self._env, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and not is_time():
                time.sleep(0.002)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
        return process.returncode == -signal.SIGKILL

    def finished(self) -> str:
        """Run it to its end; what it said."""
        done = subprocess.run(self._command, env=self._env, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.mark.parametrize(
    ("name", "symbol", "start", "end", "occasions"),
    [
        ("okx", "BTC-USDT", "2025-07-13", "2025-07-19", (9, 20, 30)),
        ("binance", "BTCUSDT", "2025-06-28", "2025-07-08", (7, 12, 20)),
        ("bybit", "BTCUSDT", "2025-07-10", "2025-07-19", (4, 9, 14)),
        ("kraken", "BTC/USD", "2025-07-18", "2025-07-19", (3, 5)),
    ],
)
def test_after_a_kill_9_the_file_is_exact(
    name: str, symbol: str, start: str, end: str, occasions: tuple[int, ...], tmp_path: Path
) -> None:
    faults = [Fault("status", value=429, seconds=600, after=occasion) for occasion in occasions]
    tape_symbol = "BTC/USD" if name == "kraken" else "BTC/USDT"
    out = tmp_path / "out.csv"
    with exchange(name, speed=60, symbols=(tape_symbol,), faults=faults) as here:
        child = Child(here, name, symbol, start, end, out)
        for count in range(1, len(occasions) + 1):
            # It waits out the ban that it was just told of.
            assert child.killed_when(lambda count=count: len(here.simulator.log.of("fault")) >= count)  # type: ignore[misc]
        child.finished()
        asked = len(here.simulator.log.of("rest"))
        assert "nothing new" in child.finished()
        assert len(here.simulator.log.of("rest")) == asked
    assert_golden(rows_of(out), here.tape, "1m", utc(start), utc(end) + DAY, symbol=tape_symbol)


@pytest.mark.parametrize(("name", "symbol"), [("okx", "BTC-USDT"), ("binance", "BTCUSDT")])
def test_kills_at_any_moment_leave_the_file_exact(name: str, symbol: str, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    with exchange(name, speed=60) as here:
        child = Child(here, name, symbol, "2025-07-11", "2025-07-17", out)
        for size in (1, 300_000, 900_000):
            child.killed_when(lambda size=size: out.exists() and out.stat().st_size > size)  # type: ignore[misc]
        child.finished()
    assert_golden(rows_of(out), here.tape, "1m", utc("2025-07-11"), utc("2025-07-18"))


@pytest.mark.anyio
async def test_what_a_killed_run_wrote_last_is_taken_away(tmp_path: Path) -> None:
    faults = [Fault("status", value=503, times=-1, after=30)]
    async with market("okx", faults=faults) as here:
        with pytest.raises(ExchangeUnavailableError, match="503"):
            await here.backfill("1m", "2024-01-20", "2024-02-01", file_path="out.csv").arun()
    out = tmp_path / "out.csv"
    with out.open("a") as file:
        file.write(out.read_text().splitlines()[-1] + "\nOKX,BTC-US")  # a row twice, and half a one
    async with market("okx") as here:
        await here.backfill("1m", "2024-01-20", "2024-02-01", file_path="out.csv").arun()
        assert 20 < len(here.asked()) < 50
    assert_golden(rows_of(out), here.tape, "1m", utc("2024-01-20"), utc("2024-02-02"))


@pytest.mark.anyio
async def test_a_finished_request_is_asked_for_no_more(tmp_path: Path) -> None:
    async with market() as here:
        await here.backfill("1m", "2024-01-10", "2024-01-11").arun()
        asked, before = len(here.asked()), files(tmp_path)
        again = here.backfill("1m", "2024-01-10", "2024-01-11")
        await again.arun()
        assert len(here.asked()) == asked
        assert again.stats()["state"] == "done"
        assert again.stats()["fraction"] == 1.0
        assert again.stats()["rows"] == again.stats()["rows_before"] == 2880
    assert files(tmp_path) == before
    assert_golden(rows_of(again.file_path), here.tape, "1m", utc("2024-01-10"), utc("2024-01-12"))


@pytest.mark.anyio
async def test_a_later_end_adds_what_is_new(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    async with market("bybit", now=NOW - DAY) as here:
        await here.backfill("5m", "2024-01-30", "now", file_path=out).arun()
    async with market("bybit") as later:
        await later.backfill("5m", "2024-01-30", "now", file_path=out).arun()
        assert len(later.asked()) <= 3
        await later.backfill("5m", "2024-01-30", "2024-02-01", file_path=out).arun()
    starts = [int(row["open_ts"]) for row in rows_of(out)]
    assert starts == list(range(utc("2024-01-30"), utc("2024-02-03T05:00"), 300_000))


@pytest.mark.anyio
async def test_resume_false_does_it_all_again(tmp_path: Path) -> None:
    async with market("okx") as here:
        for resume in (True, False):
            await here.backfill("1h", "2024-02-01", "2024-02-01", file_path="own.csv", resume=resume).arun()
            await here.backfill("1h", "2024-02-01", "2024-02-01", resume=resume).arun()
            emitter = CSVEmitter(file_path="registered.csv")
            await here.backfill("1h", "2024-02-01", "2024-02-01", resume=resume).register_emitter(emitter).arun()
    assert len(rows_of(tmp_path / "own.csv")) == 24
    assert len(rows_of(here.backfill("1h", "2024-02-01", "2024-02-01").file_path)) == 24
    assert len(rows_of(tmp_path / "registered.csv")) == 48  # the user's own file is only added to


@pytest.mark.anyio
async def test_two_requests_may_share_a_file(tmp_path: Path) -> None:
    emitter = CSVEmitter(file_path=tmp_path / "both.csv")
    faults = [Fault("status", value=503, times=-1, after=30)]
    async with market("okx", faults=faults) as here:
        first = here.backfill("1m", "2024-01-20", "2024-02-01").register_emitter(emitter)
        with pytest.raises(ExchangeUnavailableError):
            await first.arun()
    write_more(tmp_path / "both.csv")  # as a kill leaves it
    async with market("okx") as here:
        second = here.backfill("1h", "2024-02-01", "2024-02-01").register_emitter(emitter)
        await second.arun()
        await here.backfill("1m", "2024-01-20", "2024-02-01").register_emitter(emitter).arun()
        await here.backfill("1h", "2024-02-01", "2024-02-01").register_emitter(emitter).arun()
    rows = rows_of(tmp_path / "both.csv")
    minutes = [row for row in rows if row["timeframe"] == "1m"]
    assert_golden(minutes, here.tape, "1m", utc("2024-01-20"), utc("2024-02-02"))
    assert_golden(
        [row for row in rows if row["timeframe"] == "1h"], here.tape, "1h", utc("2024-02-01"), utc("2024-02-02")
    )


def write_more(path: Path) -> None:
    """The last row once more, and half a row."""
    text = path.read_text()
    write(path, text + text.splitlines()[-1] + "\nOKX,BTC")


@pytest.mark.anyio
async def test_a_file_that_was_changed_is_not_touched(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    async with market("okx") as here:
        await here.backfill("1h", "2024-02-01", "2024-02-01", file_path=out).arun()
        write(out, "source,symbol\n")
        with pytest.raises(EmitterError, match="was changed"):
            await here.backfill("1h", "2024-02-01", "2024-02-02", file_path=out).arun()
        remove(out)
        await here.backfill("1h", "2024-02-01", "2024-02-01", file_path=out).arun()
        assert len(rows_of(out)) == 24
        stranger = here.backfill("1h", "2024-02-02", "2024-02-02")
        write(stranger.file_path, "whatever\n")
        with pytest.raises(EmitterError, match="no journal"):
            await stranger.arun()
        assert stranger.file_path.read_bytes() == b"whatever\n"


def remove(path: Path) -> None:
    """Delete a file."""
    path.unlink()


@pytest.mark.anyio
async def test_one_file_takes_one_backfill_at_a_time(tmp_path: Path) -> None:
    async with market("okx") as here:
        emitter = CSVEmitter(file_path=tmp_path / "out.csv")
        backfill = here.backfill("1h", "2024-02-01", "2024-02-01").register_emitter(emitter)

        class Meddler:
            error: Exception | None = None

            async def emit(self, row: Any) -> None:
                if self.error is None:
                    try:
                        await here.backfill("1h", "2024-01-31", "2024-02-01", file_path=tmp_path / "out.csv").arun()
                    except EmitterError as error:
                        self.error = error

        meddler = Meddler()
        await backfill.register_emitter(meddler).arun()
    assert "another backfill is writing" in str(meddler.error)
    assert len(rows_of(tmp_path / "out.csv")) == 24


class Durable(DataEmitter):
    """An emitter that says where its rows go; it fails where it is told to."""

    target = "test://somewhere"

    def __init__(self, rows: list[int]) -> None:
        self.rows = rows

    async def emit(self, row: Any) -> None:
        self.rows.append(row.open_ts)


@pytest.mark.anyio
async def test_each_sink_goes_on_where_it_was(tmp_path: Path) -> None:
    kept: list[int] = []
    async with market("okx") as here:
        await here.backfill("1h", "2024-01-20", "2024-01-25").register_emitter(Durable(kept)).arun()
        both = here.backfill("1h", "2024-01-20", "2024-01-31").register_emitter(Durable(kept))
        await both.register_emitter(CSVEmitter(file_path=tmp_path / "late.csv")).arun()
        assert kept == list(range(utc("2024-01-20"), utc("2024-02-01"), 3_600_000))
        assert_golden(rows_of(tmp_path / "late.csv"), here.tape, "1h", utc("2024-01-20"), utc("2024-02-01"))
        await here.backfill("1h", "2024-01-20", "2024-01-31", resume=False).register_emitter(Durable(kept)).arun()
    assert len(kept) == 2 * 12 * 24
    journals = files(tmp_path / "data" / "backfills")
    assert len(journals) == 1
    assert journals[0].startswith("test---somewhere")


@pytest.mark.anyio
async def test_what_a_sink_got_of_a_run_that_failed_does_not_come_again(tmp_path: Path) -> None:
    kept: list[int] = []
    faults = [Fault("status", value=503, times=-1, after=25)]
    folder = tmp_path / "folder"
    async with market("okx", faults=faults) as here:
        failing = here.backfill("1m", "2024-01-20", "2024-02-01").register_emitter(Durable(kept))
        with pytest.raises(ExchangeUnavailableError):
            await failing.register_emitter(ParquetEmitter(folder)).arun()
        assert 1000 < len(kept) < 18_000
    async with market("okx") as here:
        again = here.backfill("1m", "2024-01-20", "2024-02-01").register_emitter(Durable(kept))
        await again.register_emitter(ParquetEmitter(folder)).arun()
        assert again.stats()["rows"] == len(kept)
    expected = list(range(utc("2024-01-20"), utc("2024-02-02"), 60_000))
    assert kept == expected
    assert sorted(pd.read_parquet(folder)["open_ts"]) == expected


@pytest.mark.anyio
async def test_what_a_sink_got_of_a_run_that_was_stopped_does_not_come_again() -> None:
    kept: list[int] = []
    async with market("okx") as here:
        stopped = here.backfill("1m", "2024-01-20", "2024-01-25")

        class Stopping:
            """Has the run ended in the middle."""

            async def emit(self, row: Any) -> None:
                if row.open_ts == utc("2024-01-22"):
                    tasks.start_soon(stopped.aclose)

        async with anyio.create_task_group() as tasks:
            await stopped.register_emitter(Durable(kept)).register_emitter(Stopping()).arun()
        assert stopped.stats()["state"] == "stopped"
        assert len(kept) < 5 * 1440
        await here.backfill("1m", "2024-01-20", "2024-01-25").register_emitter(Durable(kept)).arun()
    assert kept == list(range(utc("2024-01-20"), utc("2024-01-26"), 60_000))


@pytest.mark.anyio
async def test_a_stream_that_a_run_of_the_request_began_is_gone_on_with(redis: RedisConnection) -> None:
    async with market("okx") as here:
        live = here.backfill("1h", "2024-02-02", "2024-02-02").register_emitter(RedisEmitter(connection=redis))
        await live.arun()
        older = here.backfill("1h", "2024-02-01", "2024-02-01").register_emitter(RedisEmitter(connection=redis))
        asked = len(here.asked())
        with pytest.raises(OutOfOrderError, match="already holds candles, from 2024-02-02 00:00 UTC on"):
            await older.arun()
        assert [detail for detail in here.asked()[asked:] if "candles" in detail] == []
        with pytest.raises(OutOfOrderError):
            await older.arun()  # the first try has not made it known
        await redis.command("XTRIM", "kline:okx:BTC-USDT:1h", "MAXLEN", 12)  # as a stream that is full is trimmed
        again = here.backfill("1h", "2024-02-02", "2024-02-02", resume=False)
        await again.register_emitter(RedisEmitter(connection=redis)).arun()
        (sink,) = again.stats()["sinks"]
        assert (sink["emitted"], sink["failed"]) == (12, 12)


@pytest.mark.anyio
async def test_the_simulator_is_not_taken_for_the_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    async with market("okx") as here:
        await here.backfill("1h", "2024-02-01", "2024-02-01", file_path="out.csv").arun()
        other = here.backfill("1h", "2024-02-01", "2024-02-01", file_path="out.csv", rest_url="http://localhost:9")
        with pytest.raises(EmitterError, match="no journal"):
            await other.arun()


@pytest.mark.anyio
async def test_a_journal_of_another_version_is_as_none(tmp_path: Path) -> None:
    async with market("okx") as here:
        write(tmp_path / ".out.csv.backfill", json.dumps({"version": 9}) + "\n[]\nnot json\nhalf a li")
        await here.backfill("1h", "2024-02-01", "2024-02-01", file_path="out.csv").arun()
    assert len(rows_of(tmp_path / "out.csv")) == 24


@pytest.mark.anyio
async def test_kraken_goes_on_folding_with_the_close_before(tmp_path: Path) -> None:
    faults = [Fault("status", value=503, times=-1, after=8)]
    async with market("kraken", faults=faults) as here:
        with pytest.raises(ExchangeUnavailableError):
            await here.backfill("1m", "2024-01-25", "2024-02-03T04:00", file_path="out.csv").arun()
    before = len(rows_of(tmp_path / "out.csv"))
    async with market("kraken") as here:
        backfill = here.backfill("1m", "2024-01-25", "2024-02-03T04:00", file_path="out.csv")
        await backfill.arun()
    assert 0 < before < 12_000
    assert_golden(rows_of(tmp_path / "out.csv"), here.tape, "1m", utc("2024-01-25"), utc("2024-02-03T04:00"))


def test_a_journal_writes_only_the_gaps_that_are_new(tmp_path: Path) -> None:
    def gap(number: int, minutes: int = 1) -> Gap:
        return Gap("OKX", "BTC-USDT", "1m", number * 600_000, number * 600_000 + minutes * 60_000, "none")

    path, gaps = tmp_path / "out.csv", [gap(number) for number in range(1000)]
    with Journal.beside(path) as journal:
        for count in range(0, 1001, 100):
            journal.write(JournalRecord("a", position=count, gaps=gaps[:count]))
        size = journal.path.stat().st_size
        journal.write(JournalRecord("a", position=2000, gaps=[*gaps[:-1], gap(999, minutes=2)]))  # the last one grew
        journal.write(JournalRecord("b", position=7, gaps=gaps[:2], clean=True))
        assert journal.path.stat().st_size - size < 1500
    with Journal.beside(path) as again:
        assert again.find("a") == JournalRecord("a", position=2000, gaps=[*gaps[:-1], gap(999, minutes=2)])
        assert again.find("b") == again.last == JournalRecord("b", position=7, gaps=gaps[:2], clean=True)


def test_a_journal_that_was_cut_off_counts_as_far_as_it_is_whole(tmp_path: Path) -> None:
    with Journal.beside(tmp_path / "out.csv") as journal:
        journal.write(JournalRecord("a", position=1))
        journal.write(JournalRecord("a", position=2))
    whole = journal.path.read_bytes()
    for end in range(len(whole) // 2, len(whole)):
        journal.path.write_bytes(whole[:end])
        with Journal.beside(tmp_path / "out.csv") as cut:
            assert cut.find("a") == JournalRecord("a", position=1)
            cut.write(JournalRecord("a", position=3))
        with Journal.beside(tmp_path / "out.csv") as mended:
            assert mended.find("a") == JournalRecord("a", position=3)


def test_a_journal_on_a_full_disk_is_a_clear_error_and_stays_whole(tmp_path: Path) -> None:
    """The limit on a file's size stands for the full disk."""
    program = """
import resource, signal, sys
from pathlib import Path
from streammachine.errors import EmitterError
from streammachine.market.backfill.journal import Journal, JournalRecord

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Journal.beside(Path(sys.argv[1])) as journal:
    journal.write(JournalRecord("a", position=0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    try:
        for position in range(1, 100):
            journal.write(JournalRecord("a", position=position))
    except EmitterError as error:
        print(position, error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(journal.find("a").position)
    journal.write(JournalRecord("b", position=7))
"""
    out = tmp_path / "out.csv"
    done = subprocess.run(
        [sys.executable, "-c", program, str(out)], capture_output=True, text=True, check=False, timeout=60
    )
    refused, kept = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert f"{out} keeps its progress in " in refused
    assert "cannot be written: File too large. Mend that" in refused
    assert int(refused.split()[0]) == int(kept) + 1
    with Journal.beside(out) as again:
        assert again.find("a") == JournalRecord("a", position=int(kept))
        assert again.find("b") == JournalRecord("b", position=7)


def test_an_unused_journal_leaves_nothing(tmp_path: Path) -> None:
    with Journal.beside(tmp_path / "out.csv") as journal:
        assert journal.path.exists()
    assert files(tmp_path) == []
