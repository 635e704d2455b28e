"""ParquetEmitter: whole files by source, symbol and timeframe, typed columns, nothing half written."""

from __future__ import annotations

import datetime
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

import support.rows
from streammachine.errors import EmitterError, EmitterUnavailableError
from streammachine.market.emitters.outlet import Outlet
from streammachine.market.emitters.parquet import ParquetEmitter
from streammachine.market.model.kline import Gap
from streammachine.market.model.quote import Quote
from support.rows import candle, candles, trade

pytestmark = pytest.mark.anyio


async def emitted(emitter: ParquetEmitter, rows: Any, **options: Any) -> Outlet:
    async with Outlet(emitter, **options) as outlet:
        await outlet.put(rows)
    return outlet


async def test_candles_read_back_as_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "candles"
    rows = [*candles(5), *candles(3, source="Kraken", symbol="BTC/USD", timeframe="5m"), Gap("x", "y", "1m", 0, 1, "")]
    outlet = await emitted(ParquetEmitter(folder), rows)
    assert (outlet.stats.emitted, outlet.stats.skipped) == (8, 1)
    frame = pd.read_parquet(folder).sort_values(["source", "open_ts"])
    assert frame["close"].tolist() == [100, 101, 102, 103, 104, 100, 101, 102]
    assert frame["symbol"].astype(str).tolist() == ["BTCUSDT"] * 5 + ["BTC/USD"] * 3
    (file,) = (folder / "source=Binance").rglob("*.parquet")
    types = {field.name: str(field.type) for field in pyarrow.parquet.read_schema(file)}
    assert types["open_ts"] == types["n_trades"] == "int64"
    assert types["close"] == types["vwap"] == "double"
    assert types["is_closed"] == "bool"
    assert types["origin"] == "string"
    query = f"SELECT timeframe, count(*), sum(volume) FROM read_parquet('{folder}/**/*.parquet') GROUP BY 1 ORDER BY 1"
    assert duckdb.sql(query).fetchall() == [("1m", 5, 12.5), ("5m", 3, 7.5)]


async def test_a_file_is_written_when_it_is_full_flushed_or_old(tmp_path: Path) -> None:
    def files(pattern: str = "*.parquet") -> int:
        return len(list(tmp_path.rglob(pattern)))

    async with Outlet(ParquetEmitter(tmp_path, rows=10)) as outlet:
        for first in range(0, 25, 5):
            await outlet.put(candles(5, first=first))
            await outlet.drain()
        assert files() == 5
        await outlet.put(candles(5, first=25))
    assert files() == 6
    old = ParquetEmitter(tmp_path / "old", seconds=1e-9)
    await old.connect()
    for row in candles(3):
        await old.emit(row)
    assert len(list((tmp_path / "old").rglob("*.parquet"))) == 2
    await old.close()
    assert len(pd.read_parquet(tmp_path / "old")) == 3
    assert files() == 6 + 3
    assert files(".*") == 0  # none that is half written


async def test_trades_and_what_a_transformer_makes_have_their_own_columns(tmp_path: Path) -> None:
    await emitted(ParquetEmitter(tmp_path / "trades"), [trade(0), trade(1, side=None)])
    frame = pd.read_parquet(tmp_path / "trades")
    assert frame["trade_id"].tolist() == ["1000", "1001"]
    assert set(frame["timeframe"].astype(str)) == {"trade"}
    made = ParquetEmitter(tmp_path / "made")
    day = datetime.date(2024, 1, 2)
    made.set_transformer(lambda row: {"price": row["close"], "day": day, "none": None, "up": 1})
    await emitted(made, candles(2))
    frame = pd.read_parquet(tmp_path / "made")
    assert frame["price"].tolist() == [100.0, 101.0]
    assert frame["day"].tolist() == [day, day]


async def test_a_side_that_nobody_is_on_yet_is_a_column_of_the_first_file_too(tmp_path: Path) -> None:
    """Readers of a folder take the first file's columns for all."""
    emitter = ParquetEmitter(tmp_path)
    await emitter.connect()
    whole = Quote(source="Binance", symbol="B", bid=1.0, bid_size=2.0, ask=3.0, ask_size=4.0, ts=2)
    for row in (whole.model_copy(update={"bid": None, "bid_size": None, "ts": 1}), whole):
        await emitter.emit_batch([row])
        await emitter.flush()
    await emitter.close()
    frame = pd.read_parquet(tmp_path).sort_values("ts")
    assert frame["bid"].isna().tolist() == [True, False]
    assert frame["bid_size"].tolist()[1] == 2.0


async def test_a_value_of_another_kind_than_its_column_is_refused_by_name(tmp_path: Path) -> None:
    changes: dict[float, Any] = {101.0: "many", 102.0: [1], 103.0: 2**70}
    emitter = ParquetEmitter(tmp_path)
    emitter.set_transformer(lambda row: row | {"n": changes.get(row["close"], 5)})
    refused: dict[float, str] = {}
    outlet = await emitted(emitter, candles(5), on_error=lambda row, why: refused.update({row.close: str(why)}))
    assert (outlet.stats.emitted, outlet.stats.failed) == (2, 3)
    assert {close: "n=" in text for close, text in refused.items()} == dict.fromkeys(changes, True)
    assert len(pd.read_parquet(tmp_path)) == 2


def types_of(folder: Path, column: str) -> set[str]:
    schemas = [pyarrow.parquet.read_schema(file) for file in folder.rglob("*.parquet")]
    return {str(schema.field(column).type) for schema in schemas if column in schema.names}


VALUES: dict[str, tuple[list[Any], str]] = {
    "whole numbers, then fractions, before a file": ([1, 2.5], "double"),
    "fractions, then whole numbers": ([2.5, 1], "double"),
    "nothing, then a number": ([None, 5], "int64"),
    "decimals of any scale": ([Decimal("12345678901234567890.5"), Decimal("0.00000001")], "decimal128(38, 18)"),
    "times with zones": (
        [
            datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
            datetime.datetime(2024, 1, 1, tzinfo=ZoneInfo("Asia/Tokyo")),
        ],
        "timestamp[us, tz=UTC]",
    ),
    "numbers of a library": ([np.float64(1.5), 2], "double"),
}


@pytest.mark.parametrize(("values", "kind"), VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("symbols", [["A", "B"], ["A", "A"]], ids=["two partitions", "one partition"])
async def test_a_column_has_one_type_in_all_files_of_a_folder(
    tmp_path: Path, values: list[Any], kind: str, symbols: list[str]
) -> None:
    rows = [candle(number, symbol=symbol) for number, symbol in enumerate(symbols)]
    made = dict(zip((row.open_ts for row in rows), values, strict=True))
    emitter = ParquetEmitter(tmp_path).set_transformer(lambda row: {**row, "x": made[row["open_ts"]]})
    await emitted(emitter, rows)
    assert types_of(tmp_path, "x") == {kind}
    # and over a restart
    await emitted(emitter, rows)
    assert types_of(tmp_path, "x") == {kind}
    frame = pd.read_parquet(tmp_path)
    assert len(frame) == 4
    query = f"SELECT count(*), count(x) FROM read_parquet('{tmp_path}/**/*.parquet', union_by_name=true)"
    assert duckdb.sql(query).fetchall() == [(4, 4 - 2 * values.count(None))]


async def test_a_value_of_another_type_than_the_folders_files_is_refused_by_name_over_restarts(tmp_path: Path) -> None:
    def emitter(value: Any) -> ParquetEmitter:
        return ParquetEmitter(tmp_path).set_transformer(lambda row: {**row, "x": value})

    await emitted(emitter(1), [candle(0)])
    for number, (value, taken) in enumerate([(2.0, True), (2.5, False), ("text", False), (True, False), (None, True)]):
        refused: list[str] = []
        row = candle(1 + number, symbol=f"S{number}")  # another partition
        await emitted(emitter(value), [row], on_error=lambda row, why, refused=refused: refused.append(str(why)))
        assert bool(refused) is not taken
        assert all("x=" in text and "is no int" in text for text in refused)
    assert types_of(tmp_path, "x") == {"int64"}
    assert len(pd.read_parquet(tmp_path)) == 3


async def test_types_of_files_that_others_wrote_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "source=Binance" / "symbol=BTCUSDT" / "timeframe=1m"
    folder.mkdir(parents=True)
    theirs = pyarrow.table({"close": pyarrow.array([1.5], pyarrow.float32()), "n": pyarrow.array([1], pyarrow.int32())})
    pyarrow.parquet.write_table(theirs, folder / "theirs.parquet")
    (folder / "broken.parquet").write_text("nothing of the kind")
    refused: list[str] = []
    emitter = ParquetEmitter(tmp_path).set_transformer(
        lambda row: {"close": row["close"], "n": 2 if row["close"] == 100 else 2**40}
    )
    await emitted(emitter, candles(2), on_error=lambda row, why: refused.append(str(why)))
    assert "broken.parquet is no Parquet file" in caplog.text
    (folder / "broken.parquet").unlink()
    assert (types_of(tmp_path, "close"), types_of(tmp_path, "n")) == ({"float"}, {"int32"})
    assert ["n=1099511627776 is no Arrow int32" in text for text in refused] == [True]


async def test_what_cannot_be_written_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for place in (file, tmp_path / "missing" / "folder"):
        with pytest.raises(EmitterError, match="cannot be written"):
            await ParquetEmitter(place).connect()
    with pytest.raises(EmitterError, match="compression"):
        ParquetEmitter(tmp_path, compression="rar")
    with pytest.raises(EmitterError, match="rows"):
        ParquetEmitter(tmp_path, rows=0)


async def test_a_disk_error_leaves_the_rows_to_be_written_later(tmp_path: Path) -> None:
    folder = tmp_path / "candles"
    emitter = ParquetEmitter(folder)
    async with Outlet(emitter) as outlet:
        await outlet.put([candle(0)])
        await outlet.put([candle(1)])
        blocker = folder / "source=Binance"
        blocker.touch()  # where a folder should be
        with pytest.raises(EmitterUnavailableError, match="did not flush"):
            await outlet.drain(0.2)
        blocker.unlink()
        await outlet.drain()
    assert len(pd.read_parquet(folder)) == 2


def test_on_a_full_disk_readers_see_whole_files_and_nothing_is_left_behind(tmp_path: Path) -> None:
    """The limit on a file's size stands for the full disk."""
    program = """
import asyncio, resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from support.rows import candles
from streammachine.market.emitters.parquet import ParquetEmitter

async def main():
    emitter = ParquetEmitter(sys.argv[1], compression="none")
    await emitter.connect()
    await emitter.emit_batch(candles(10))
    await emitter.flush()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    await emitter.emit_batch(candles(3000, first=10))
    try:
        await emitter.flush()
    except OSError:
        print("full")
    print([path.name for path in Path(sys.argv[1]).rglob("*") if path.is_file() and path.name.startswith(".")])
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await emitter.close()

asyncio.run(main())
"""
    tests = str(Path(support.rows.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), tests], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.splitlines() == ["full", "[]"], done.stderr
    assert duckdb.sql(f"SELECT count(*) FROM read_parquet('{tmp_path}/**/*.parquet')").fetchall() == [(3010,)]


def test_a_file_that_a_kill_left_half_written_is_no_parquet_file(tmp_path: Path) -> None:
    program = """
import asyncio, os, signal, sys
sys.path.insert(0, sys.argv[2])
from support.rows import candles
from streammachine.market.emitters.parquet import ParquetEmitter

async def main():
    emitter = ParquetEmitter(sys.argv[1])
    await emitter.connect()
    await emitter.emit_batch(candles(10))
    os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # the moment at which the file is not yet on the disk
    await emitter.flush()

asyncio.run(main())
"""
    tests = str(Path(support.rows.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path), tests], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not list(tmp_path.rglob("*.parquet"))


async def test_rows_that_cannot_be_written_at_the_end_are_said_to_be_lost(tmp_path: Path) -> None:
    emitter = ParquetEmitter(tmp_path)
    await emitter.connect()
    await emitter.emit_batch(candles(3))
    (tmp_path / "source=Binance").touch()
    with pytest.raises(EmitterError, match="3 rows could not be written"):
        await emitter.close()
