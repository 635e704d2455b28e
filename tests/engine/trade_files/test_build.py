"""Trade files to candles: every layout and packing gives what the plain path gives, bit for bit."""

from __future__ import annotations

import gzip
import random
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import anyio
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streammachine import abuild_candles, build_candles
from streammachine.errors import DataInputError, EmitterError, TimeframeError
from streammachine.trade_files import blocks, columns, folding
from support.trade_files import FORMS, SOURCES, T0, Kept, T, lines, packed, plain, trades, values

NAMES = ["1m", "5m", "1h"]
BINANCE = "BTCUSDT-trades-2025-01-01.csv"


def built(source: Any, names: Any = NAMES, **options: Any) -> tuple[Any, list[Any]]:
    sink = Kept()
    return build_candles(source, names, sink, **options), sink.rows


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("packing", ["", ".gz", ".zip"])
def test_every_layout_in_every_packing(tmp_path: Path, form: str, packing: str) -> None:
    ts = trades(2_000)
    path = tmp_path / (form.removesuffix(".csv") + packing if packing == ".zip" else form + packing)
    done, rows = built(packed(path, FORMS[form](ts)))
    assert values(rows) == plain(ts, NAMES, joined="aggTrades" in form)
    assert (done.files, done.trades, done.candles, done.late, done.symbols) == (1, 2_000, len(rows), 0, ["BTCUSDT"])
    known = SOURCES.get(form) or ("Bybit" if form.startswith(("BTCUSDT2", "BTCUSDT_")) else "Binance")
    assert {(row.source, row.origin) for row in rows} == {(known, "trades")}
    newest = max(t.ms for t in ts)
    assert all(row.is_closed is (True if row.end_ts < newest else None) for row in rows)


def test_a_file_that_is_named_twice_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = packed(tmp_path / "X.csv", lines([(T0, 1.0, 2.0)], "ts,price,qty"))
    (tmp_path / "link.csv").symlink_to(path)
    done, rows = built(["X.csv", str(path), "./*.csv"], "1m")
    assert (done.files, done.trades, [row.volume for row in rows]) == (1, 1, [2.0])


def test_a_table_takes_candles_of_no_known_exchange(tmp_path: Path) -> None:
    path = packed(tmp_path / "X.csv", lines([(T0, 1.0, 2.0)], "ts,price,qty"))
    for _ in range(2):
        done = build_candles(path, "1m", f"duckdb:{tmp_path / 'x.duckdb'}")
        assert (done.candles, done.failed) == (1, 0)
    with duckdb.connect(str(tmp_path / "x.duckdb")) as found:
        assert found.execute("SELECT source, symbol, volume FROM klines").fetchall() == [("", "X", 2.0)]


def test_duckdb_and_polars_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of several symbols, with gaps and trades out of order, read in many blocks."""
    monkeypatch.setattr(blocks, "BLOCK", 50_000)
    monkeypatch.setattr(folding, "FLUSH_ROWS", 5_000)
    symbols = ["A", "B/C", "a symbol of more than 16 bytes", "é"]
    ts = trades(60_000, symbols=symbols)
    path = packed(
        tmp_path / "any.csv.gz", lines(((t.ms, t.symbol, t.price, t.volume) for t in ts), "ts,symbol,price,qty")
    )
    done, rows = built(path, "1m,15m", exchange="Elsewhere")
    assert (done.trades, done.late, done.symbols) == (60_000, 0, sorted(symbols))
    ours = pd.DataFrame([row.model_dump() for row in rows]).sort_values(["timeframe", "symbol", "open_ts"])
    assert set(ours["source"]) == {"Elsewhere"}
    raw = pl.read_csv(path, schema_overrides={"symbol": pl.String}).with_row_index("row")
    for name, interval in (("1m", 60_000), ("15m", 900_000)):
        mine = ours[ours["timeframe"] == name].reset_index(drop=True)
        theirs = duckdb.sql(
            f"SELECT symbol, ts - ts % {interval} AS open_ts, arg_min(price, (ts, row)) AS open, max(price) AS high, "
            "min(price) AS low, arg_max(price, (ts, row)) AS close, fsum(qty) AS volume, "
            "fsum(price * qty) AS quote_volume, count(*) AS n_trades FROM raw GROUP BY ALL ORDER BY symbol, open_ts"
        ).df()
        other = (
            raw.sort("ts", maintain_order=True)
            .with_columns(open_ts=pl.col("ts") - pl.col("ts") % interval)
            .group_by("symbol", "open_ts")
            .agg(
                open=pl.col("price").first(), high=pl.col("price").max(), low=pl.col("price").min(),
                close=pl.col("price").last(), volume=pl.col("qty").sum(),
                quote_volume=(pl.col("price") * pl.col("qty")).sum(), n_trades=pl.len(),
            )
            .sort("symbol", "open_ts")
            .to_pandas()
        )  # fmt: skip
        for oracle in (theirs, other):
            for column in ("symbol", "open_ts", "open", "high", "low", "close", "n_trades"):
                assert mine[column].tolist() == oracle[column].tolist(), (name, column)
            for column in ("volume", "quote_volume"):
                np.testing.assert_allclose(mine[column], oracle[column], rtol=1e-9, atol=0)


def test_files_in_any_order_that_overlap_give_each_trade_once(tmp_path: Path) -> None:
    ts = trades(6_000, disorder=0)
    paths = []
    for number, (first, behind) in enumerate([(0, 2_500), (2_000, 4_000), (4_000, 6_000), (2_000, 4_000)]):
        packing = (".csv", ".csv.gz", ".zip", ".csv")[number]
        place = tmp_path / f"{number}" / f"BTCUSDT-trades-2025-01-0{number + 1}{packing}"
        paths.append(packed(place, FORMS[BINANCE](ts[first:behind])))
    random.Random(1).shuffle(paths)
    done, rows = built(paths)
    assert values(rows) == plain(ts, NAMES)
    assert (done.files, done.trades, done.duplicates) == (4, 6_000, 2_500)
    done, again = built(str(tmp_path / "*" / "BTCUSDT-trades-*"))
    assert values(again) == values(rows) and len(rows) == done.candles


def test_a_zip_of_many_symbols_and_gzip_in_pieces(tmp_path: Path) -> None:
    ts = trades(3_000, symbols=["XBTUSD", "ETHEUR"])
    with zipfile.ZipFile(tmp_path / "Kraken_Trading_History.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("__MACOSX/x.csv", "junk")
        for symbol in ("XBTUSD", "ETHEUR"):
            archive.writestr(f"{symbol}.csv", FORMS["BTCUSDT.csv"]([t for t in ts if t.symbol == symbol]))
    _, rows = built(tmp_path / "Kraken_Trading_History.zip")
    assert values(rows) == plain(ts, NAMES)
    text = FORMS["BTCUSDT.csv"](trades(3_000))
    (tmp_path / "BTCUSDT.csv.gz").write_bytes(gzip.compress(text[:50_001]) + gzip.compress(text[50_001:]))
    _, rows = built(tmp_path / "BTCUSDT.csv.gz")
    assert values(rows) == plain(trades(3_000), NAMES)


def test_parquet_and_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "ROWS", 700)
    ts = trades(3_000, symbols=["A", "B"])
    table = pa.table(
        {"symbol": [t.symbol for t in ts], "price": [float(t.price) for t in ts], "qty": [float(t.volume) for t in ts],
         "time": [t.ms for t in ts], "x": [None] * len(ts)}
    )  # fmt: skip
    expected = plain(ts, NAMES)
    stamped = table.set_column(3, "time", table["time"].cast(pa.timestamp("ms")).cast(pa.timestamp("us")))
    coded = table.set_column(0, "symbol", table["symbol"].dictionary_encode())
    micro = table.set_column(3, "time", pa.array([t.ms * 1000 + 999 for t in ts]))
    exact = table.set_column(3, "time", pa.array([t.ms / 1000 for t in ts]))
    for number, form in enumerate((table, stamped, coded, micro, exact)):
        pyarrow.parquet.write_table(form, tmp_path / f"{number}.parquet")
        assert values(built(tmp_path / f"{number}.parquet")[1]) == expected
        assert values(built(form)[1]) == expected
    assert values(built(table.to_pandas())[1]) == expected
    assert values(built(pl.from_arrow(table))[1]) == expected
    single = table.drop_columns("symbol")
    assert values(built(single, symbol="A")[1]) == plain([t._replace(symbol="A") for t in ts], NAMES)
    with pytest.raises(DataInputError, match="no column of symbols: give symbol="):
        built(single)
    with pytest.raises(DataInputError, match="row 2: it has no price"):
        built(pa.table({"symbol": ["A"] * 3, "price": [1.0, 2.0, None], "qty": [1, 1, 1], "time": [T0] * 3}))
    with pytest.raises(DataInputError, match="row 1: the volume -1 is refused"):
        built(pa.table({"symbol": ["A"] * 3, "price": [1.0, 2.0, 3.0], "qty": [1, -1, 1], "time": [T0] * 3}))


def test_trades_later_than_an_hour_are_counted_and_in_no_candle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 4_000)
    monkeypatch.setattr(folding, "FLUSH_ROWS", 1)
    hours = [T(k, "1.0", "1", T0 + k * 60_000) for k in range(400)]
    stray = [*hours[:-1], T(900, "9.0", "1", T0 + 30_000), T(901, "9.0", "1", T0 + 339 * 60_000), hours[-1]]
    done, rows = built(packed(tmp_path / BINANCE, FORMS[BINANCE](stray)), "1m")
    assert done.late == 1 and done.trades == len(stray)
    assert values(rows) == plain([t for t in stray if t.id != 900], ["1m"])


def test_a_file_that_runs_backwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bybit's oldest files do; of trades at one time the first in the file is the open."""
    monkeypatch.setattr(blocks, "BLOCK", 4_000)
    monkeypatch.setattr(folding, "FLUSH_ROWS", 1)
    ts = trades(5_000, disorder=0)[::-1]
    done, rows = built(packed(tmp_path / "BTCUSDT2020-01-01.csv.gz", FORMS["BTCUSDT2025-01-01.csv"](ts)))
    assert done.late == 0 and values(rows) == plain(ts, NAMES)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_split_of_trades_into_files_and_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, 60))
    gaps = data.draw(st.lists(st.sampled_from([0, 0, 1, 500, 60_000, 7_200_000]), min_size=count, max_size=count))
    prices = data.draw(st.lists(st.integers(1, 10**12), min_size=count, max_size=count))
    ms = T0 + np.cumsum(gaps)
    ts = [T(k + 1, f"{prices[k] / 10**4:.4f}", str(prices[k] % 7), int(ms[k])) for k in range(count)]
    cut = data.draw(st.integers(0, count))
    monkeypatch.setattr(blocks, "BLOCK", data.draw(st.integers(1, 3_000)))
    monkeypatch.setattr(folding, "FLUSH_ROWS", data.draw(st.integers(1, 30)))
    over = data.draw(st.integers(0, 5))
    pieces = [piece for piece in (ts[:cut], ts[max(0, cut - over) :]) if piece]
    paths = [packed(tmp_path / f"{k}" / BINANCE, FORMS[BINANCE](piece)) for k, piece in enumerate(pieces)]
    done, rows = built(data.draw(st.permutations(paths)), ["1m", "1h"])
    assert values(rows) == plain(ts, ["1m", "1h"]) and done.trades == count


BAD: dict[str, tuple[bytes, str]] = {
    "empty.csv": (b"", "empty.csv: empty.csv is empty"),
    "none.csv": (b"a,b\n1,2\n", "none of its columns is the price: it has a, b"),
    "nothing.csv": (b"1,2\n3,4\n", "2 columns without names"),
    "line.csv": (b"ts,price,qty\n1735689600000,1,1\n1735689600000,x,1\n", "line 3: the price 'x' is refused"),
    "below.csv": (
        b"ts,price,qty\n1735689600000,1,1\n\n1735689600000,-5.0,1\n",
        "below.csv: line 4: the price '-5.0' is re",
    ),
    "short.csv.gz": (gzip.compress(b"ts,price,qty\n" + b"1735689600000,1,1\n" * 9)[:-9], "short.csv.gz"),
    "no.csv.gz": (b"ts,price,qty\n", "no.csv.gz"),
    "no.zip": (b"PK", "no.zip"),
    "no.parquet": (b"PAR1", "no.parquet"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_trade_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(BAD[name][0])
    with pytest.raises(DataInputError, match=BAD[name][1]):
        built(tmp_path / name)


@pytest.mark.parametrize("price", [-5.0, float("inf")])
def test_a_price_of_parquet_that_is_none_is_named_with_its_row(tmp_path: Path, price: float) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    path = tmp_path / "X.parquet"
    pq.write_table(pa.table({"ts": [T0, T0, T0], "price": [1.0, 2.0, price], "qty": [1.0, 1.0, 1.0]}), path)
    with pytest.raises(DataInputError, match=rf"X\.parquet: row 2: the price {price} is refused"):
        built(path)


def test_a_bad_line_far_behind_is_named_and_what_was_built_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 10_000)
    monkeypatch.setattr(folding, "FLUSH_ROWS", 1)
    ts = [T(k, "1", "1", T0 + k * 10_000) for k in range(5_000)]
    sink = Kept()
    path = packed(tmp_path / f"{BINANCE}.gz", FORMS[BINANCE](ts) + b"9,1,-1,1,1735689600000,True,True\n")
    with pytest.raises(DataInputError, match=r"csv\.gz: line 5001: the volume '-1' is refused"):
        build_candles(path, "1m", sink)
    assert 0 < len(sink.rows) < 900


def test_arguments_that_are_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / BINANCE, FORMS[BINANCE](trades(5)))
    for names, error in (("2m", TimeframeError), ("1M", DataInputError), ([], DataInputError)):
        with pytest.raises(error):
            built(path, names)
    for source in ([], tmp_path, tmp_path / "none.csv", str(tmp_path / "*.zip")):
        with pytest.raises(DataInputError):
            built(source)
    with pytest.raises(DataInputError, match="no sink"):
        build_candles(path, "1m", [])
    with pytest.raises(EmitterError, match="there is no sink"):
        build_candles(path, "1m", "nix:x")


@pytest.mark.anyio
async def test_in_a_running_loop_into_sinks_by_text(tmp_path: Path) -> None:
    ts = trades(3_000)
    path = packed(tmp_path / f"{BINANCE}.gz", FORMS[BINANCE](ts))
    sink = Kept()
    done = await abuild_candles(path, NAMES, [f"parquet:{tmp_path}/out", f"csv:{tmp_path}/out.csv", sink])
    count = len(plain(ts, NAMES))
    assert done.candles == count == len(sink.rows)
    assert len(pd.read_csv(tmp_path / "out.csv")) == count
    assert duckdb.sql(f"SELECT count(*) FROM '{tmp_path}/out/**/*.parquet'").fetchall() == [(count,)]
    with anyio.move_on_after(0) as scope:
        await abuild_candles(path, NAMES, sink)
    assert scope.cancelled_caught


@pytest.fixture(params=["zlib", "isal"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    made = zlib if request.param == "zlib" else pytest.importorskip("isal.isal_zlib")
    monkeypatch.setattr(blocks, "_zlib", lambda: made)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("packing", [".csv.gz", ".zip"])
def test_damage_in_a_packed_file_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: str) -> None:
    monkeypatch.setattr(blocks, "READ", 1_000)
    monkeypatch.setattr(blocks, "BLOCK", 10_000)
    ts = trades(3_000)
    path = packed(tmp_path / f"BTCUSDT-trades-2025-01-01{packing}", FORMS[BINANCE](ts))
    assert values(built(path)[1]) == plain(ts, NAMES)
    whole = path.read_bytes()
    end = len(whole) - 8 if packing == ".csv.gz" else whole.rindex(b"PK\x01\x02") + 16  # where the CRC-32 stands
    for bad in (whole[:end] + bytes([whole[end] ^ 1]) + whole[end + 1 :], whole[: len(whole) // 2]):
        path.write_bytes(bad)
        with pytest.raises(DataInputError, match=path.name):
            built(path)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Peaks of two processes; the larger file's text is 60 MB longer. What a run needs at all is in both."""
    peaks = []
    rows = FORMS[BINANCE](trades(5_000, disorder=0))
    for count in (20, 200):
        with gzip.open(tmp_path / f"BTCUSDT-trades-{count}.csv.gz", "wb", 1) as file:
            for number in range(count):  # another 5,000 trades, some days later: ids and times that rise
                file.write(
                    rows.replace(b"\n10", b"\n%02d" % (10 + number // 10)).replace(b"17356", b"%05d" % (17356 + number))
                )
        done = subprocess.run([sys.executable, "-c", PEAK, str(file.name)], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 24_000, peaks


PEAK = """
import resource, sys
from streammachine import build_candles
from streammachine.market.emitters.base import DataEmitter
class Nowhere(DataEmitter):
    async def emit_batch(self, rows): pass
built = build_candles(sys.argv[1], "1m,5m,1h", Nowhere())
assert built.trades > 90_000, built
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
