"""A backfill's gaps beside those that DuckDB finds in what the exchange had: its bulk files and its REST pages."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pytest

from streammachine.market.model.kline_columns import HAS_NATIVE
from streammachine.market.simulator import Fault
from support.backfill import market, utc
from support.bulk import MINUTE, change_files

pytestmark = pytest.mark.anyio

START, END = utc("2024-01-30T21:00"), utc("2024-02-02")  # over the end of a month, which is a file's end
COUNT = (END - START) // MINUTE
ROADS = [
    pytest.param(
        "binance", True, id="columns", marks=pytest.mark.skipif(not HAS_NATIVE, reason="not compiled: no columns")
    ),
    pytest.param("binance", False, id="rows"),
    pytest.param("okx", False, id="rest"),
]

# The minutes that are in no file and on no page, and their runs: in one run minute and row number rise together.
_GAPS = """
    WITH grid AS (SELECT unnest(range($start, $stop, 60000)) AS ts),
    had AS (
        SELECT ts FROM grid ANTI JOIN (SELECT unnest($not_by_rest) AS ts) USING (ts)
        UNION SELECT ts FROM filed
    ),
    gone AS (SELECT ts, row_number() OVER (ORDER BY ts) AS place FROM grid ANTI JOIN had USING (ts))
    SELECT min(ts), max(ts) + 60000 FROM gone GROUP BY ts - place * 60000 ORDER BY 1
"""
# The same from what was written: where a row is not one minute behind the one before it.
_BETWEEN = """
    WITH ends AS (
        SELECT open_ts AS ts FROM read_csv($path) UNION ALL SELECT $start - 60000 UNION ALL SELECT $stop
    )
    SELECT ts + 60000, follows FROM (SELECT ts, lead(ts) OVER (ORDER BY ts) AS follows FROM ends)
    WHERE follows > ts + 60000 ORDER BY 1
"""


def holes(rnd: random.Random, count: int) -> set[int]:
    """Minutes in runs of one to ninety; the first, the last and those about the month's end are always among them."""
    found = {START, END - MINUTE, utc("2024-02-01"), utc("2024-02-01") - MINUTE}
    for _ in range(count):
        first = rnd.randrange(COUNT)
        found |= {START + number * MINUTE for number in range(first, min(COUNT, first + rnd.choice((1, 2, 7, 90))))}
    return found


def by_duckdb(files: Sequence[str], not_by_rest: set[int], path: Path) -> tuple[list[tuple[int, int]], ...]:
    """The runs that were to be had from neither, and the runs that are not in the file written."""
    lines = Path("files.csv")
    lines.write_text("\n".join(line.partition(",")[0] for line in files) or "0")
    span = {"start": START, "stop": END}
    with duckdb.connect() as database:
        database.execute(f"CREATE VIEW filed AS FROM read_csv('{lines}', columns={{'ts': 'BIGINT'}}, header=false)")
        gone = database.execute(_GAPS, span | {"not_by_rest": sorted(not_by_rest)}).fetchall()
        return gone, database.execute(_BETWEEN, span | {"path": str(path)}).fetchall()


@pytest.mark.parametrize(("exchange", "columns"), ROADS)
@pytest.mark.parametrize("seed", range(2))
async def test_gaps_are_those_that_duckdb_finds(
    exchange: str, columns: bool, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STREAMMACHINE_DATA_DIR", str(tmp_path / "data"))
    rnd = random.Random(seed)
    not_filed, not_by_rest = holes(rnd, 12), holes(rnd, 12)
    not_by_rest |= {ts for ts in not_filed if rnd.random() < 0.5}  # some of a run, so that its rest is to be had
    files: dict[int, list[str]] = {}

    def without(lines: list[str]) -> list[str]:
        kept = [line for line in lines if int(line.split(",")[0]) not in not_filed]
        files[int(lines[0].split(",")[0])] = kept
        return kept

    change_files(monkeypatch, without)
    faults = [Fault("missing", value=ts, timeframe="1m", times=-1) for ts in sorted(not_by_rest)]
    async with market(exchange, faults=faults) as here:
        backfill = here.backfill("1m", START, END, file_path="out.csv", columns=columns)
        await backfill.arun()
    assert bool(files) == (exchange == "binance")
    found = [(gap.start, gap.end) for gap in backfill.gaps]
    gone, between = by_duckdb([line for lines in files.values() for line in lines], not_by_rest, Path("out.csv"))
    assert found == gone == between
    assert len(found) > 10
