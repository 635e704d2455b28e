"""Binance's bulk files: which are taken, how they are checked, and what happens where they fail."""

from __future__ import annotations

import hashlib
import io
import socket
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest

from streammachine.market.backfill import bulk_files as bulk
from streammachine.market.exchanges import adapter_for
from streammachine.market.model import timeframe as timeframes
from streammachine.market.simulator import Fault, Tape
from streammachine.market.simulator.protocols.binance_bulk import BulkFiles
from streammachine.market.simulator.venue.transport import Answer
from support.backfill import NOW, assert_golden, market, rows_of, utc

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STREAMMACHINE_DATA_DIR", str(tmp_path / "data"))


def _files(asked: list[str]) -> list[str]:
    """The labels of the bulk files that were had."""
    return sorted(
        target.rpartition("1m-")[2].removesuffix(".zip")
        for target in asked
        if target.startswith("200 /data/") and target.endswith(".zip")
    )


async def test_months_days_and_the_rest_meet_without_a_seam() -> None:
    async with market() as here:
        backfill = here.backfill("1m", "2023-12-30T12:00", "2024-02-03T04:30", file_path="out.csv")
        await backfill.arun()
        assert _files(here.asked()) == ["2023-12-31", "2024-01", "2024-02-01"]
    rows = rows_of(Path("out.csv"))
    assert_golden(rows, here.tape, "1m", utc("2023-12-30T12:00"), utc("2024-02-03T04:30"))
    kinds = {row["open_ts"]: row["origin"] for row in rows}
    assert kinds[str(utc("2024-01-15"))] == "bulk"
    assert kinds[str(utc("2023-12-30T12:00"))] == kinds[str(utc("2024-02-03T04:29"))] == "rest"


async def test_two_days_take_no_month() -> None:
    async with market() as here:
        await here.backfill("1m", "2024-01-10", "2024-01-11", file_path="out.csv").arun()
        assert _files(here.asked()) == ["2024-01-10", "2024-01-11"]
    assert_golden(rows_of(Path("out.csv")), here.tape, "1m", utc("2024-01-10"), utc("2024-01-12"))


async def test_times_in_microseconds_since_2025() -> None:
    now = utc("2025-01-03T12:00:30")
    tape = Tape.generate(seed=5, symbols=("BTC/USDT",), start_ms=now)
    async with market(now=now, tape=tape) as here:
        await here.backfill("1m", "2024-12-31", "2025-01-02", file_path="out.csv").arun()
        assert "2025-01-01" in _files(here.asked())
    assert_golden(rows_of(Path("out.csv")), tape, "1m", utc("2024-12-31"), utc("2025-01-03"))


@pytest.mark.parametrize("kind", ["USDM", "COINM"])
async def test_the_futures_files_with_their_header(kind: str) -> None:
    async with market() as here:
        symbol = here.simulator.symbol("binance", "BTC/USDT", kind)
        options = {"symbol": symbol, "market_type": kind, "file_path": "out.csv"}
        backfill = here.backfill("1m", "2024-01-10", "2024-01-11T03:00", **options)
        await backfill.arun()
        assert _files(here.asked()) == ["2024-01-10"]
    rows = rows_of(Path("out.csv"))
    assert [int(row["open_ts"]) for row in rows] == list(
        timeframes.starts("1m", utc("2024-01-10"), utc("2024-01-11T03:00"))
    )
    assert {row["origin"] for row in rows} == {"bulk", "rest"}
    assert backfill.file_path == Path("out.csv")
    if kind == "USDM":
        assert_golden(rows, here.tape, "1m", utc("2024-01-10"), utc("2024-01-11T03:00"))


async def test_a_month_that_is_not_there_yet_is_taken_by_days() -> None:
    async with market(now=utc("2024-02-01T03:00:10")) as here:  # the files come ten hours later
        await here.backfill("1m", "2024-01-01", "2024-01-31", file_path="out.csv").arun()
        asked = here.asked()
        assert any(target.startswith("404") and "2024-01.zip" in target for target in asked)
        assert _files(asked) == [f"2024-01-{day:02}" for day in range(1, 31)]  # the 31st is not there either
    rows = rows_of(Path("out.csv"))
    assert_golden(rows, here.tape, "1m", utc("2024-01-01"), utc("2024-02-01"))
    assert rows[-1]["origin"] == "rest"


class Spoiled:
    """Bulk files as the simulator makes them, some of them spoiled on their way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, spoil: str, times: int) -> None:
        self.times = times
        self._spoil = spoil
        made = BulkFiles.answer

        def answer(files: BulkFiles, path: str) -> Answer:
            found = made(files, path)
            if found.status != 200 or self.times == 0 or path.endswith(".CHECKSUM") != (spoil == "checksum"):
                return found
            self.times -= 1
            return Answer(self._spoiled(found.body), 200, found.headers)

        monkeypatch.setattr(BulkFiles, "answer", answer)

    def _spoiled(self, body: bytes) -> bytes:
        if self._spoil == "checksum":
            return b"<html>not a checksum</html>"
        return body[:-100] + bytes(100)


@pytest.mark.parametrize("spoil", ["file", "checksum"])
async def test_a_wrong_checksum_is_fetched_again(spoil: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Spoiled(monkeypatch, spoil, times=1)
    async with market() as here:
        await here.backfill("1m", "2024-01-10", "2024-01-10", file_path="out.csv").arun()
        assert _files(here.asked()) == ["2024-01-10"] * 2
    rows = rows_of(Path("out.csv"))
    assert_golden(rows, here.tape, "1m", utc("2024-01-10"), utc("2024-01-11"))
    assert {row["origin"] for row in rows} == {"bulk"}


@pytest.mark.parametrize("spoil", ["file", "checksum"])
async def test_a_checksum_that_stays_wrong_means_rest(spoil: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Spoiled(monkeypatch, spoil, times=-1)
    async with market() as here:
        await here.backfill("1m", "2024-01-10", "2024-01-10", file_path="out.csv").arun()
    rows = rows_of(Path("out.csv"))
    assert_golden(rows, here.tape, "1m", utc("2024-01-10"), utc("2024-01-11"))
    assert {row["origin"] for row in rows} == {"rest"}


def _changed(monkeypatch: pytest.MonkeyPatch, change: object) -> None:
    """Change the lines of each file; its checksum fits."""
    made = BulkFiles._file

    def file(files: BulkFiles, path: str, *arguments: object) -> bytes:
        with zipfile.ZipFile(io.BytesIO(made(files, path, *arguments))) as archive:  # type: ignore[arg-type]
            name = archive.namelist()[0]
            lines = archive.read(name).decode().splitlines()
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, "\n".join(change(lines)) + "\n")  # type: ignore[operator]
        return target.getvalue()

    monkeypatch.setattr(BulkFiles, "_file", file)


@pytest.mark.parametrize(
    ("change", "origins"),
    [
        (lambda lines: lines[:300] + lines[320:], {"bulk", "rest"}),  # candles that the file lacks
        (lambda lines: lines[5:-5], {"bulk", "rest"}),
        (lambda lines: [*lines[:10], *lines[5:]], {"bulk"}),  # some twice
        (lambda lines: [*lines[:10], lines[11], lines[10], *lines[12:]], {"bulk", "rest"}),  # out of order
        (lambda lines: [*lines[:100], "half,a,li"], {"bulk", "rest"}),
        (lambda lines: [*lines[:100], lines[100].replace(".", "x"), *lines[101:]], {"bulk", "rest"}),
        (lambda lines: ["<html>"], {"rest"}),
        (lambda lines: [], {"rest"}),
    ],
    ids=["hole", "cut", "twice", "disorder", "half", "letters", "html", "empty"],
)
async def test_what_a_file_lacks_comes_from_rest(
    change: object, origins: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _changed(monkeypatch, change)
    async with market() as here:
        backfill = here.backfill("1m", "2024-01-10", "2024-01-10", file_path="out.csv")
        await backfill.arun()
    rows = rows_of(Path("out.csv"))
    assert_golden(rows, here.tape, "1m", utc("2024-01-10"), utc("2024-01-11"))
    assert {row["origin"] for row in rows} == origins
    assert backfill.gaps == []


async def test_what_neither_has_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    _changed(monkeypatch, lambda lines: lines[:300] + lines[302:])
    lost = utc("2024-01-10") + 300 * 60_000
    async with market(faults=[Fault("missing", value=lost, timeframe="1m")]) as here:
        backfill = here.backfill("1m", "2024-01-10", "2024-01-10", file_path="out.csv")
        await backfill.arun()
    assert [(gap.start, gap.end) for gap in backfill.gaps] == [(lost, lost + 60_000)]
    starts = [int(row["open_ts"]) for row in rows_of(Path("out.csv"))]
    assert starts == [ts for ts in timeframes.starts("1m", utc("2024-01-10"), utc("2024-01-11")) if ts != lost]


async def test_faults_of_the_network_while_files_are_fetched() -> None:
    kinds = ("half", "slow", "timeout", "rest_refuse", "status")
    faults = [Fault(kind, after=3 * index, value=503 if kind == "status" else None) for index, kind in enumerate(kinds)]
    async with market(faults=faults) as here:
        await here.backfill("1m", "2024-01-10", "2024-01-20", file_path="out.csv").arun()
        assert len(here.simulator.log.of("fault")) == len(kinds)
    assert_golden(rows_of(Path("out.csv")), here.tape, "1m", utc("2024-01-10"), utc("2024-01-21"))


async def test_where_the_files_cannot_be_reached_rest_does_it_all() -> None:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        port = made.getsockname()[1]
    async with market() as here:
        options = {"file_path": "out.csv", "bulk_url": f"http://127.0.0.1:{port}"}
        await here.backfill("1m", "2024-01-10", "2024-01-20", **options).arun()
        assert here.clock.monotonic() < 120  # not half a minute for each file
    rows = rows_of(Path("out.csv"))
    assert_golden(rows, here.tape, "1m", utc("2024-01-10"), utc("2024-01-21"))
    assert {row["origin"] for row in rows} == {"rest"}


# -- the plan --


def test_the_pieces_cover_the_range_exactly() -> None:
    start, end = utc("2023-11-29T07:30"), utc("2024-02-03T04:30")
    found = bulk.pieces(start, end, NOW)
    edges = [(piece.start, piece.end) if isinstance(piece, bulk.Piece) else piece for piece in found]
    assert edges[0][0] == start
    assert edges[-1][1] == end
    assert all(before[1] == after[0] for before, after in pairwise(edges))
    labels = [piece.label for piece in found if isinstance(piece, bulk.Piece)]
    assert labels == ["2023-11-30", "2023-12", "2024-01", "2024-02-01", "2024-02-02"]


def test_today_has_no_file() -> None:
    assert bulk.pieces(utc("2024-02-03"), NOW, NOW) == [(utc("2024-02-03"), NOW)]


@pytest.mark.parametrize(
    ("timeframe", "worth"), [("1s", True), ("1m", True), ("3m", False), ("1d", False), ("1M", False)]
)
def test_files_are_for_what_takes_rest_more_than_a_page_a_day(timeframe: str, worth: bool) -> None:
    assert bulk.has_bulk(adapter_for("binance"), timeframe) is worth
    assert not bulk.has_bulk(adapter_for("okx"), timeframe)


def test_a_zip_bomb_of_one_line_is_refused() -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("BTCUSDT-1m-2024-01.csv", b"1" * 50_000_000)
    with pytest.raises(bulk.BadFileError, match="no kline"):
        list(bulk.read(target, adapter_for("binance"), "BTCUSDT", "1m"))
    assert len(hashlib.sha256(target.getvalue()).hexdigest()) == 64


def test_a_zip_with_two_files_is_refused() -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a.csv", "1")
        archive.writestr("b.csv", "1")
    with pytest.raises(bulk.BadFileError, match="not one CSV"):
        list(bulk.read(target, adapter_for("binance"), "BTCUSDT", "1m"))
