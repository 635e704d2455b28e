"""The DuckDB sink: upsert by its key, one process at a time, nothing lost or doubled by a kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import duckdb
import pytest

from streammachine.errors import EmitterError
from streammachine.market.emitters.duckdb import KEY, DuckDBEmitter
from streammachine.market.emitters.outlet import Outlet
from streammachine.market.emitters.sink_text import emitter_for
from streammachine.market.model.kline import Gap, Kline
from streammachine.market.model.rows import Lane
from streammachine_mcp.hosting import sinks as hosting
from support.backfill import utc
from support.rows import START, candle, candles, trade
from support.simulator import exchange

pytestmark = pytest.mark.anyio
WAIT = 60.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.duckdb"


def rows(path: Path, query: str = "SELECT * FROM klines ORDER BY ALL") -> list[tuple[Any, ...]]:
    with duckdb.connect(str(path)) as database:
        return database.execute(query).fetchall()


async def put(emitter: DuckDBEmitter, *batches: list[Any]) -> Outlet:
    async with Outlet(emitter) as outlet:
        for batch in batches:
            await outlet.put(batch)
            await outlet.drain(WAIT)
    return outlet


async def test_a_candle_comes_back_as_it_was(path: Path) -> None:
    row = candle(vwap=0.1 + 0.2, n_trades=None, is_closed=None, quote_volume=None, origin=None)
    await put(DuckDBEmitter(path), [row, candle(1)])
    with duckdb.connect(str(path)) as database:
        cursor = database.execute("SELECT * FROM klines ORDER BY open_ts")
        names = [column[0] for column in cursor.description]
        found = [Kline(**dict(zip(names, values, strict=True))) for values in cursor.fetchall()]
    assert found == [row, candle(1)]


async def test_the_same_again_changes_nothing_and_the_later_updates(path: Path) -> None:
    await put(DuckDBEmitter(path), candles(5), candles(5), [candle(2, close=7.0), candle(2, close=8.0)])
    await put(DuckDBEmitter(path), candles(2, 4))
    assert rows(path, "SELECT open_ts, close FROM klines ORDER BY 1") == [
        (START + number * 60_000, 8.0 if number == 2 else 100.0 + number) for number in range(6)
    ]


@pytest.mark.parametrize("is_together", [True, False])
async def test_an_open_candle_never_replaces_a_closed_one(path: Path, is_together: bool) -> None:
    first, later = candle(close=1.0), candle(close=2.0, is_closed=False)
    await put(DuckDBEmitter(path), *([[first, later]] if is_together else [[first], [later]]))
    assert rows(path, "SELECT close, is_closed FROM klines") == [(1.0, True)]
    await put(DuckDBEmitter(path), [candle(1, is_closed=False)], [candle(1, close=3.0)])
    assert rows(path, "SELECT close, is_closed FROM klines ORDER BY open_ts")[1] == (3.0, True)


async def test_a_row_that_does_not_fit_is_refused_alone(path: Path) -> None:
    def spoilt(row: dict[str, Any]) -> dict[str, Any]:
        number = (row["open_ts"] - START) // 60_000
        return row | {3: {"volume": "much"}, 5: {"symbol": None}}.get(number, {})

    outlet = await put(DuckDBEmitter(path, transformer=spoilt), candles(8))
    assert (outlet.stats.emitted, outlet.stats.failed) == (6, 2)
    assert "symbol" in str(outlet.stats.last_error) or "much" in str(outlet.stats.last_error)
    assert len(rows(path)) == 6


async def test_a_table_of_the_users_own_is_filled_as_far_as_its_columns_go(path: Path) -> None:
    with duckdb.connect(str(path)) as database:
        database.execute(
            'CREATE TABLE mine ("close" DECIMAL(12, 3), source TEXT, symbol TEXT, timeframe TEXT, open_ts BIGINT, '
            f'"order" INT, UNIQUE ({", ".join(KEY)}))'
        )
    await put(DuckDBEmitter(path, "mine", transformer=lambda row: row | {"order": 3}), candles(3))
    found = rows(path, 'SELECT open_ts, "close"::DOUBLE, "order" FROM mine ORDER BY 1')
    assert found == [(START + number * 60_000, 100.0 + number, 3) for number in range(3)]


async def test_trades_and_gaps_are_left_out(path: Path) -> None:
    gap = Gap("Binance", "BTCUSDT", "1m", START, START + 60_000, "away")
    outlet = await put(DuckDBEmitter(path), [trade(), gap, candle()])
    assert (outlet.stats.emitted, outlet.stats.skipped) == (1, 2)
    with pytest.raises(EmitterError, match="only trades are going to come"):
        async with Outlet(DuckDBEmitter(path), expected=[Lane("Binance", "BTCUSDT", None)]):
            pass


async def test_two_tables_of_one_file_in_one_process(path: Path) -> None:
    async with Outlet(DuckDBEmitter(path)) as one, Outlet(DuckDBEmitter(path, "other")) as two:
        for outlet in (one, two):
            await outlet.put(candles(100))
        assert await one.drain(WAIT) == await two.drain(WAIT) == []
    assert rows(path) == rows(path, "SELECT * FROM other ORDER BY ALL")


# -- what cannot work is one sentence ---------------------------------------------------------


def test_a_second_process_that_holds_the_file_is_named(path: Path) -> None:
    code = f"import duckdb, sys; c = duckdb.connect({str(path)!r}); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(EmitterError, match=f"is open in another process .PID {other.pid}, ") as told:
            anyio.run(DuckDBEmitter(path).connect)
        assert "\n" not in str(told.value)
        assert "End that one, or give another file" in str(told.value)
        other.communicate(b"")
    anyio.run(put, DuckDBEmitter(path), candles(1))


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("CREATE TABLE klines (source TEXT, open_ts BIGINT PRIMARY KEY)", "no primary key of source, symbol"),
        ("CREATE VIEW klines AS SELECT 1 AS a", "klines"),
    ],
)
async def test_a_table_that_is_another_is_refused(path: Path, statement: str, said: str) -> None:
    with duckdb.connect(str(path)) as database:
        database.execute(statement)
    with pytest.raises(EmitterError, match=said):
        await DuckDBEmitter(path).connect()
    with duckdb.connect(str(path)):  # given back
        pass


async def test_files_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EmitterError, match=r"the folder .* does not exist"):
        await DuckDBEmitter(tmp_path / "none" / "x.duckdb").connect()
    (tmp_path / "text").write_text("not a database\n" * 500)
    for wrong in (tmp_path, tmp_path / "text"):
        with pytest.raises(EmitterError, match=r"^DuckDB at [^\n]*$"):
            await DuckDBEmitter(wrong).connect()
    for arguments in ((":memory:",), ("",), (tmp_path / "x", "a-b"), (tmp_path / "x", "a; DROP TABLE b")):
        with pytest.raises(EmitterError, match="not accepted"):
            DuckDBEmitter(*arguments)


def test_its_texts(tmp_path: Path) -> None:
    made = emitter_for(f"duckdb:{tmp_path}/a.duckdb#btc")
    assert isinstance(made, DuckDBEmitter)
    assert (made.path, made.table) == (tmp_path / "a.duckdb", "btc")
    made = emitter_for(f"duckdb:{tmp_path}/x#y/a.duckdb")
    assert isinstance(made, DuckDBEmitter)
    assert (made.path, made.table) == (tmp_path / "x#y" / "a.duckdb", "klines")
    for wrong in ("duckdb:#btc", "duckdb:a.duckdb#", "duckdb:a.duckdb#b-c"):
        with pytest.raises(EmitterError, match="not accepted"):
            emitter_for(wrong)


def test_a_model_may_name_a_table() -> None:
    assert hosting.check(["duckdb:one#btc", "duckdb:one"]) == ["duckdb:one#btc", "duckdb:one"]
    for wrong in ("duckdb:one#", "duckdb:one#a/b", "duckdb:#btc", "duckdb:../x#btc", "csv:one#btc"):
        with pytest.raises(EmitterError, match="not accepted"):
            hosting.check([wrong])


# -- kill -9 ----------------------------------------------------------------------------------

WRITER = """
import sys, anyio
from streammachine.market.emitters.duckdb import DuckDBEmitter
from streammachine.market.emitters.outlet import Outlet
from support.rows import candles

async def main():
    first = int(sys.argv[2])
    async with Outlet(DuckDBEmitter(sys.argv[1])) as outlet:
        while True:
            await outlet.put(candles(500, first))
            await outlet.drain()
            first += 500
            print(first, flush=True)

anyio.run(main)
"""


def writers_killed(path: Path, rounds: int) -> int:
    """Kill a process that writes batch after batch, each round after some more of them; the next one begins with the
    first that it did not say it had written. Gives how many rows were said to be written; raises AssertionError where
    one of them is missing, or there is one twice or another."""
    said = 0
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    for number in range(rounds):
        command = [sys.executable, "-c", WRITER, str(path), str(said)]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(2 + number % 5):
                said = int(process.stdout.readline())
            time.sleep(0.0007 * number)  # anywhere within the next batch
            process.send_signal(signal.SIGKILL)
            said = max([said, *map(int, process.stdout.read().split(b"\n")[:-1])])
        assert process.returncode == -signal.SIGKILL
        found = rows(path, "SELECT open_ts, close FROM klines ORDER BY ALL")
        assert found == [(START + at * 60_000, 100.0 + at) for at in range(len(found))]
        assert said <= len(found) <= said + 500
    return said


def test_a_killed_writer_loses_and_doubles_nothing(path: Path) -> None:
    assert writers_killed(path, 4) >= 4 * 1000


def killed_rounds(folder: Path, rounds: int) -> int:
    """Kill a backfill into a file -9 as often, each time somewhat further on, then let it end. How often it was still
    running; raises AssertionError where a candle is lost, doubled or another than in the file that nobody killed."""
    command = [sys.executable, "-m", "streammachine.cli", "backfill", "binance", "BTCUSDT", "--timeframe", "1m"]
    command += ["--from", "2025-06-26", "--to", "2025-07-03"]
    killed = 0
    with exchange("binance", speed=60) as here:
        env = {**os.environ, **here.env}
        out = folder / "out.duckdb"
        for number in range(rounds):
            grown = sum(map(_size, (out, out.with_name("out.duckdb.wal")))) + 40_000 * (number % 7)
            with subprocess.Popen([*command, "--to", f"duckdb:{out}"], env=env, stdout=subprocess.DEVNULL) as process:
                while process.poll() is None and _size(out) + _size(out.with_name("out.duckdb.wal")) <= grown:
                    time.sleep(0.001)
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
            killed += process.returncode == -signal.SIGKILL
        for name in ("out", "whole"):
            to = ["--to", f"duckdb:{folder / name}.duckdb"]
            done = subprocess.run([*command, *to], env=env, capture_output=True, text=True, timeout=100, check=False)
            assert done.returncode == 0, done.stderr
    found, whole = rows(out), rows(folder / "whole.duckdb")
    assert [row[3] for row in found] == list(range(utc("2025-06-26"), utc("2025-07-04"), 60_000))
    assert found == whole
    return killed


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def test_kills_of_a_backfill_lose_and_double_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMMACHINE_DATA_DIR", str(tmp_path / "data"))
    assert killed_rounds(tmp_path, 2) >= 1


async def test_it_may_be_registered_with_several_runners_at_once(path: Path) -> None:
    emitter = DuckDBEmitter(path)
    async with Outlet(emitter) as one, Outlet(emitter) as two:
        await one.put(candles(10))
        await two.put(candles(10, 5))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.drain, WAIT)
            tasks.start_soon(two.drain, WAIT)
    assert len(rows(path)) == 15
