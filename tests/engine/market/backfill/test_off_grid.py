"""Histories with candles off the grid, as Binance's of December 2017 and February 2018: gaps there, the rest whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from streammachine.market.model import timeframe as timeframes
from streammachine.market.simulator import Fault, Tape
from support.backfill import golden, market, rows_of, utc

pytestmark = pytest.mark.anyio

NOW = utc("2018-03-01T00:00:12")
OFF = 1_518_168_494_789  # 2018-02-09T09:28:14.789, when Binance's candles began anew
LASTS = 124_000.0  # seconds: until 2018-02-10T19:54:54.789
DECEMBER = Fault("off_grid", value=utc("2017-12-04T06:21:00"), seconds=50_000)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STREAMMACHINE_DATA_DIR", str(tmp_path / "data"))


def tape() -> Tape:
    return Tape.generate(seed=5, symbols=("BTC/USDT",), start_ms=NOW - 3_600_000)


def off(timeframe: str, *stretches: tuple[int, float]) -> set[int]:
    """The starts whose candles stand elsewhere while the grid is lost."""
    step = timeframes.MILLISECONDS.get(timeframe)
    found: set[int] = set()
    for first, seconds in stretches:
        last = first + int(seconds * 1000)
        if step is not None and step <= last - first and first % step:
            found |= set(range(first // step * step + step, last, step))
    return found


def written() -> list[dict[str, str]]:
    path = Path("out.csv")
    return rows_of(path) if path.exists() else []


STRETCHES = ((OFF, LASTS), (int(DECEMBER.value or 0), DECEMBER.seconds or 0.0))


@pytest.mark.parametrize(
    ("timeframe", "first", "last"),
    [
        ("1s", "2018-02-09T09:00", "2018-02-09T12:00"),
        ("1m", "2018-02-07", "2018-02-12"),
        ("1m", "2018-02-09T12:00", "2018-02-10T12:00"),  # nothing but what is off the grid
        *((name, "2017-08-17", "now") for name in timeframes.TIMEFRAMES if name not in ("1s", "1m")),
    ],
)
async def test_a_backfill_over_candles_off_the_grid_completes(timeframe: str, first: str, last: str) -> None:
    faults = [Fault("off_grid", value=OFF, seconds=LASTS), DECEMBER]
    async with market("binance", faults=faults, now=NOW, tape=tape()) as here:
        backfill = here.backfill(timeframe, first, last, file_path="out.csv")
        await backfill.arun()
        span = backfill.stats()
    starts = set(timeframes.starts(timeframe, span["start"], span["end"]))
    missing = off(timeframe, *STRETCHES) & starts
    rows = written()
    found = [int(row["open_ts"]) for row in rows]
    assert found == sorted(starts - missing)
    gone = {ts for gap in backfill.gaps for ts in timeframes.starts(timeframe, gap.start, gap.end)}
    assert gone == missing
    for row in rows:
        assert int(row["end_ts"]) == timeframes.end_of(timeframe, int(row["open_ts"])) - 1
    whole = {candle[0]: candle[1:] for candle, _ in golden(here.tape, timeframe, span["start"], span["end"])}
    cut = {timeframes.floor(timeframe, first) for first, _ in STRETCHES}
    for row in rows:
        if int(row["open_ts"]) not in cut:
            values = tuple(float(row[name]) for name in ("open", "high", "low", "close", "n_trades"))
            assert values == whole[int(row["open_ts"])]
