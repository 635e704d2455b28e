"""Bulk files in columns: exactly what the plain way makes of them, whatever is in them."""

from __future__ import annotations

import io
import logging
import tracemalloc
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streammachine.errors import EmitterError
from streammachine.market.backfill import bulk_columns
from streammachine.market.backfill import bulk_files as bulk
from streammachine.market.backfill.backfill import Backfilling
from streammachine.market.backfill.column_order import runs
from streammachine.market.emitters.base import DataEmitter, RowsRefusedError
from streammachine.market.emitters.csv import CSVEmitter
from streammachine.market.emitters.duckdb import DuckDBEmitter
from streammachine.market.emitters.parquet import ParquetEmitter
from streammachine.market.exchanges import adapter_for
from streammachine.market.model import kline_columns
from streammachine.market.model.kline import Kline
from streammachine.market.model.kline_columns import HAS_NATIVE, KlineColumns, number_texts
from streammachine.market.simulator import Fault, Tape
from support.backfill import assert_golden, market, rows_of, utc
from support.bulk import MINUTE, ODD_CELLS, ODD_LINES, START, change_files, line, zipped

BINANCE = {kind: adapter_for("binance", kind) for kind in ("SPOT", "USDM", "COINM")}
native = pytest.mark.skipif(not HAS_NATIVE, reason="not compiled here: the plain way does its work")


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STREAMMACHINE_DATA_DIR", str(tmp_path / "data"))


def read(file: io.BytesIO, kind: str = "SPOT", **sizes: int) -> tuple[list[Kline], str, int]:
    """The candles, what ended them, and how many came in columns."""
    found: list[Kline] = []
    columns = 0
    try:
        for batch in bulk_columns.read(file, BINANCE[kind], "BTCUSDT", "1m", **sizes):
            found += batch if isinstance(batch, list) else batch.rows()
            columns += 0 if isinstance(batch, list) else len(batch)
    except bulk.BadFileError as error:
        return found, str(error), columns
    return found, "", columns


def plain(file: io.BytesIO, kind: str = "SPOT") -> tuple[list[Kline], str]:
    found: list[Kline] = []
    try:
        for klines in bulk.read(file, BINANCE[kind], "BTCUSDT", "1m"):
            found += klines
    except bulk.BadFileError as error:
        return found, str(error)
    return found, ""


# -- one file ---------------------------------------------------------------------------------


@native
@pytest.mark.parametrize("kind", list(BINANCE))
@pytest.mark.parametrize("thousandths", [False, True])
def test_a_usual_file_comes_in_columns_and_is_the_same(kind: str, thousandths: bool) -> None:
    lines = [line(number, thousandths=thousandths) for number in range(12_345)]
    header = [] if kind == "SPOT" else [ODD_LINES[4]]
    found, error, columns = read(zipped([*header, *lines]), kind)
    assert (found, error) == plain(zipped([*header, *lines]), kind)
    assert columns == len(found) == 12_345
    assert [vars(row) for row in found[:9]] == [vars(row) for row in plain(zipped([*header, *lines]), kind)[0][:9]]


cells = st.tuples(st.integers(0, 11), st.sampled_from(ODD_CELLS) | st.text("0123456789.", max_size=20))
odd_lines = (
    st.sampled_from(ODD_LINES)
    | st.builds(lambda number, cell: line(number, **{f"c{cell[0]}": cell[1]}), st.integers(0, 40), cells)
    | st.builds(line, st.integers(0, 40), thousandths=st.booleans())
)
changes = st.lists(st.tuples(st.integers(0, 60), st.booleans(), odd_lines), max_size=6)


@native
@settings(max_examples=300, deadline=None)
@given(
    count=st.integers(0, 50),
    changes=changes,
    chunk=st.sampled_from([1, 3, 7, 20, 5000]),
    batch=st.integers(1, 4),
    block=st.sampled_from([1, 60, 1000, 5000, 1 << 20]),
    end=st.sampled_from(["\n", "\n", "\r\n"]),
    last=st.sampled_from(["\n", "", "\n\n"]),
    kind=st.sampled_from(list(BINANCE)),
)
@example(count=9, changes=[(3, False, line(3, c8="007"))], chunk=3, batch=1, block=1, end="\n", last="\n", kind="SPOT")
@example(count=9, changes=[(8, False, "half,a,li")], chunk=3, batch=2, block=60, end="\n", last="", kind="SPOT")
@example(count=9, changes=[(8, False, line(8, c1="0"))], chunk=3, batch=2, block=60, end="\n", last="", kind="SPOT")
def test_an_odd_file_gives_what_the_plain_way_gives(
    count: int,
    changes: list[tuple[int, bool, str]],
    chunk: int,
    batch: int,
    block: int,
    end: str,
    last: str,
    kind: str,
) -> None:
    lines = [line(number) for number in range(count)]
    for at, is_instead, odd in changes:
        lines[at : at + is_instead] = [odd]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "ROWS", chunk)
        found, error, _ = read(zipped(lines, end, last), kind, most=batch * chunk, block=block)
        assert (found, error) == plain(zipped(lines, end, last), kind)


@native
@settings(max_examples=60, deadline=None)
@given(at=st.floats(0.1, 0.999), block=st.sampled_from([4096, 1 << 16, 1 << 23]), keep=st.booleans())
def test_a_broken_zip_gives_what_the_plain_way_gives(at: float, block: int, keep: bool) -> None:
    whole = zipped([line(number) for number in range(3000)]).getvalue()
    place = int(at * len(whole))
    spoiled = whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :] if keep else whole[:place]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "ROWS", 100)
        found, error, _ = read(io.BytesIO(spoiled), most=1000, block=block)
        assert (found, error) == plain(io.BytesIO(spoiled))


@native
def test_one_odd_line_costs_its_neighbours_only() -> None:
    lines = [line(number) for number in range(20_000)]
    lines[12_000] = line(12_000, c6=str(START))  # an end that is none, as in files of days when the exchange was away
    found, error, columns = read(zipped(lines))
    assert (found, error) == plain(zipped(lines))
    assert columns == 15_000


@native
def test_prices_and_volumes_are_those_that_duckdb_and_polars_read(tmp_path: Path) -> None:
    lines = [line(number, c5=f"{number}.12345678", c7=f"{number * 999_999}.87654321") for number in range(2000)]
    lines[7] = line(7, c5="0.00000001", c7="98765432109876543210.12345678")
    text = "\n".join(lines).encode()
    (tmp_path / "plain.csv").write_bytes(text)
    frame = pl.read_csv(text, has_header=False)
    table = duckdb.read_csv(str(tmp_path / "plain.csv"), header=False).fetchnumpy()
    found, _, columns = read(zipped(lines))
    assert columns == 2000
    names = ("open_ts", "open", "high", "low", "close", "volume", "end_ts", "quote_volume", "n_trades")
    for at, name in enumerate(names):
        ours = [getattr(row, name) for row in found]
        assert ours == frame.to_series(at).to_list()
        assert ours == list(table.values())[at].tolist()


@native
def test_memory_does_not_grow_with_the_file() -> None:
    """300,000 lines (45 MB of text): a batch, a block and what they are made of."""
    seconds = io.BytesIO()
    with zipfile.ZipFile(seconds, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a.csv", "\n".join(map(line, range(300_000))) + "\n")
    tracemalloc.start()
    try:
        count = sum(len(batch) for batch in bulk_columns.read(seconds, BINANCE["SPOT"], "BTCUSDT", "1m", block=1 << 20))
        assert count == 300_000
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


# -- order, repetitions, holes ----------------------------------------------------------------


def series(numbers: Sequence[int]) -> KlineColumns:
    """Candles at these minutes; the close says which of the batch it is."""
    import numpy as np

    starts = np.array(numbers, np.int64) * MINUTE
    values = np.arange(1.0, len(numbers) + 1)
    return KlineColumns(
        source="Binance",
        symbol="BTCUSDT",
        timeframe="1m",
        step=MINUTE,
        open_ts=starts,
        open=values,
        high=values,
        low=values,
        close=values,
        volume=values,
        quote_volume=None,
        n_trades=starts,
        origin="bulk",
    )


@settings(deadline=None)
@given(
    numbers=st.lists(st.integers(0, 30), max_size=40) | st.integers(1, 30).map(lambda count: list(range(count))),
    position=st.integers(0, 20),
    length=st.integers(0, 30),
)
@example(numbers=list(range(10)), position=0, length=10)
@example(numbers=[3, 4, 4, 5, 2, 9, 10, 6, 11], position=2, length=9)
def test_runs_are_what_is_taken_one_by_one(numbers: list[int], position: int, length: int) -> None:
    expected: list[list[int]] = []
    at, end = position, position + length
    for number in numbers:
        if at <= number < end:
            if number > at or not expected:
                expected.append([])
            expected[-1].append(number)
            at = number + 1
    found = list(runs(series(numbers), position * MINUTE, end * MINUTE))
    assert [[ts // MINUTE for ts in run.open_ts.tolist()] for run in found] == expected
    assert all(run.end == (group[-1] + 1) * MINUTE for run, group in zip(found, expected, strict=True))


# -- whole backfills, both ways ---------------------------------------------------------------


CHANGES = {
    "usual": lambda lines: lines,
    "hole": lambda lines: lines[:300] + lines[320:],
    "cut": lambda lines: lines[5:-5],
    "twice": lambda lines: [*lines[:10], *lines[5:]],
    "beyond": lambda lines: [*lines, *lines[-3:], lines[0]],
    "disorder": lambda lines: [*lines[:10], lines[11], lines[10], *lines[12:]],
    "half": lambda lines: [*lines[:100], "half,a,li"],
    "letters": lambda lines: [*lines[:100], lines[100].replace(".", "x"), *lines[101:]],
    "columns": lambda lines: [text.rpartition(",")[0] for text in lines],
    "nan": lambda lines: [*lines[:50], ",".join(["NaN" if n == 1 else c for n, c in enumerate(lines[50].split(","))])],
    "empty": lambda lines: [],
}


def read_lines(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return list(file)


async def _both_ways() -> list[tuple[list[str], list[Any], dict[str, Any], list[str]]]:
    """The CSV's lines, the gaps, the numbers and the requests of a backfill in columns, and row by row."""
    found = []
    for columns in (True, False):
        faults = [Fault("missing", value=utc("2024-01-10") + 310 * MINUTE, timeframe="1m")]
        async with market(faults=faults) as here:
            path = Path(f"{columns}.csv")
            backfill = here.backfill("1m", "2024-01-09T20:00", "2024-01-10", file_path=path, columns=columns)
            await backfill.arun()
            again = {"told_to_wait_s", "requests"}  # a download may be tried once more
            stats = {name: value for name, value in backfill.stats().items() if name not in again}
            asked = sorted({entry.replace(here.urls.rest, "") for entry in here.asked()})
            found.append((read_lines(path), backfill.gaps, stats, asked))
    return found


@pytest.mark.anyio
@pytest.mark.parametrize("name", list(CHANGES))
async def test_a_backfill_is_the_same_both_ways(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change_files(monkeypatch, CHANGES[name])
    columns, rows = await _both_ways()
    assert columns == rows
    assert len(columns[0]) > 1600


@pytest.mark.anyio
async def test_months_of_microseconds_and_months_that_are_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    now = utc("2025-02-02T12:00:30")
    tape = Tape.generate(seed=5, symbols=("BTC/USDT",), start_ms=now)
    change_files(monkeypatch, lambda lines: [] if lines[0].find(",") == 13 else lines)  # that of 2024
    async with market(now=now, tape=tape) as here:
        await here.backfill("1m", "2024-12-31", "2025-01-31", file_path="out.csv").arun()
    rows = rows_of(Path("out.csv"))
    assert_golden(rows, tape, "1m", utc("2024-12-31"), utc("2025-02-01"))
    assert {row["origin"] for row in rows} == {"rest", "bulk"}


def _emitters(folder: Path) -> list[DataEmitter]:
    folder.mkdir()
    return [
        CSVEmitter("binance", "BTCUSDT", "1m", folder / "out.csv"),
        ParquetEmitter(folder / "rows"),
        DuckDBEmitter(folder / "out.duckdb"),
    ]


def _tables(folder: Path) -> Iterator[list[Any]]:
    yield [(folder / "out.csv").read_text()]
    names = "* EXCLUDE (filename)"
    with duckdb.connect() as database:
        query = f"SELECT {names} FROM read_parquet('{folder}/rows/**/*.parquet', filename=true) ORDER BY open_ts"
        yield database.execute(query).fetchall()
    with duckdb.connect(str(folder / "out.duckdb")) as database:
        yield database.execute("SELECT * FROM klines ORDER BY open_ts").fetchall()


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["SPOT", "COINM"])
async def test_every_sink_has_the_same_both_ways(kind: str, tmp_path: Path) -> None:
    for columns in (True, False):
        async with market() as here:
            symbol = here.simulator.symbol("binance", "BTC/USDT", kind)
            backfill = here.backfill(
                *("1m", "2024-01-10", "2024-01-11T03:00"), symbol=symbol, market_type=kind, columns=columns
            )
            for emitter in _emitters(tmp_path / str(columns)):
                backfill.register_emitter(emitter)
            await backfill.arun()
    for mine, plain_one in zip(_tables(tmp_path / "True"), _tables(tmp_path / "False"), strict=True):
        assert mine == plain_one
        assert len(mine) in (1, 1620)


# -- who takes no columns ---------------------------------------------------------------------


class Kept(DataEmitter):
    """Keeps rows, and columns in a list of their own."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.batches: list[KlineColumns] = []

    async def emit_batch(self, rows: Sequence[Any]) -> None:
        self.rows += [made for row in rows if (made := self.transformed(row)) is not None]

    async def emit_columns(self, columns: KlineColumns) -> None:
        self.batches.append(columns)


class ByRow(Kept):
    """Overrides what takes rows, so columns may not pass it by."""

    async def emit_batch(self, rows: Sequence[Any]) -> None:
        await super().emit_batch([row for row in rows if row.open_ts % 120_000 == 0])


class Filtering(Kept):
    def wants(self, row: Any) -> bool:
        return bool(row.volume > 0)


class Picky(Kept):
    """Refuses one candle, as columns all that are with it."""

    async def emit_batch(self, rows: Sequence[Any]) -> None:
        refused = {at: EmitterError("not this one") for at, row in enumerate(rows) if row.open_ts == REFUSED}
        await super().emit_batch([row for row in rows if row.open_ts != REFUSED])
        if refused:
            raise RowsRefusedError(refused)

    async def emit_columns(self, columns: KlineColumns) -> None:
        if REFUSED in columns.open_ts:
            raise EmitterError("one of these is refused")
        await super().emit_columns(columns)


REFUSED = utc("2024-01-10T05:00")


async def _backfilled(*emitters: Any, **options: Any) -> Backfilling:
    async with market() as here:
        backfill = here.backfill("1m", "2024-01-10", "2024-01-10", **options)
        for emitter in emitters:
            backfill.register_emitter(emitter)
        await backfill.arun()
    return backfill


def _starts(emitter: Kept) -> list[int]:
    return sorted([*(row.open_ts for row in emitter.rows), *(ts for each in emitter.batches for ts in each.open_ts)])


DAY = list(range(utc("2024-01-10"), utc("2024-01-11"), MINUTE))


@native
@pytest.mark.anyio
async def test_an_emitter_of_ones_own_may_take_columns() -> None:
    kept = Kept()
    backfill = await _backfilled(kept)
    assert not kept.rows
    assert _starts(kept) == DAY
    assert backfill.stats()["sinks"][0]["emitted"] == backfill.stats()["rows"] == 1440
    assert kept.batches[0].column("is_closed") is True


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [ByRow, Filtering])
async def test_what_a_subclass_does_to_rows_is_not_passed_by(kind: type[Kept]) -> None:
    kept = kind()
    await _backfilled(kept)
    assert not kept.batches
    assert 0 < len(kept.rows) <= 1440


@pytest.mark.anyio
async def test_a_method_put_into_the_object_is_not_passed_by() -> None:
    kept = Kept()
    kept.wants = lambda row: row.open_ts % 120_000 == 0  # type: ignore[method-assign]
    await _backfilled(kept)
    assert not kept.batches
    assert len(kept.rows) in (720, 1440)  # as an object's own ``wants`` is taken row by row


@pytest.mark.anyio
async def test_a_transformer_gets_rows() -> None:
    kept = Kept()
    await _backfilled(kept, transformer=lambda row: {"ts": row["open_ts"]})
    assert not kept.batches
    assert [row["ts"] for row in kept.rows] == DAY


@pytest.mark.anyio
async def test_beside_a_sink_without_columns_all_get_rows() -> None:
    kept, rows = Kept(), []

    class Plain:
        def emit(self, row: Any) -> None:
            rows.append(row.open_ts)

    await _backfilled(kept, Plain())
    assert not kept.batches
    assert _starts(kept) == rows == DAY


@native
@pytest.mark.anyio
async def test_a_candle_that_is_refused_stands_alone(caplog: pytest.LogCaptureFixture) -> None:
    picky = Picky()
    with caplog.at_level(logging.ERROR):
        backfill = await _backfilled(picky)
    assert _starts(picky) == [ts for ts in DAY if ts != REFUSED]
    (stats,) = backfill.stats()["sinks"]
    assert (stats["emitted"], stats["failed"], stats["last_error"]) == (1439, 1, "not this one")
    assert f"left out the 1m candle of BTCUSDT at {REFUSED}: not this one" in caplog.text


@pytest.mark.anyio
async def test_a_csv_that_selects_others_skips_them(tmp_path: Path) -> None:
    backfill = await _backfilled(CSVEmitter("okx", file_path=tmp_path / "okx.csv"))
    assert (tmp_path / "okx.csv").read_text() == ""
    assert backfill.stats()["sinks"][0]["emitted"] == 0


def test_without_the_native_module_it_is_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_columns, "HAS_NATIVE", False)
    lines = [line(number) for number in range(6000)]
    found, error, columns = read(zipped(lines))
    assert (found, error) == plain(zipped(lines))
    assert (len(found), columns) == (6000, 0)


@native
@settings(deadline=None)
@given(
    count=st.integers(0, 5),
    columns=st.lists(st.sampled_from([b"", b"1.5", b"true", b"2024-01-01 00:00"]) | st.none(), min_size=1, max_size=6),
    separator=st.sampled_from([b",", b"\t"]),
    end=st.sampled_from([b"\n", b"\r\n"]),
)
def test_lines_are_the_same_natively_and_not(
    count: int, columns: list[bytes | None], separator: bytes, end: bytes
) -> None:
    cells: list[Any] = [
        (b"a,b",) if text is None else b",".join([text, b"x", text, b"", text][:count]) for text in columns
    ]
    made = kline_columns.lines(cells, count, separator, end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kline_columns, "HAS_NATIVE", False)
        assert kline_columns.lines(cells, count, separator, end) == made
    assert made.count(end) == count


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30))
@example([5e-05, 1e16, 0.0, -0.0, 1e-4, 123456.789, 1e22, 9007199254740993.0])
def test_numbers_as_text_are_as_repr_writes_them(values: list[float]) -> None:
    import numpy as np

    assert number_texts(np.array(values), shortest=True).decode().split(",") == list(map(repr, values))
    some = number_texts(np.array(values), shortest=False).decode().split(",")
    assert list(map(float, some)) == values
