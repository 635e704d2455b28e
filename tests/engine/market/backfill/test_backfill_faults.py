"""Backfills while everything that can go wrong with REST does, at random moments."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from streammachine.market.simulator import Fault
from support.backfill import golden, market, rows_of, utc

pytestmark = pytest.mark.anyio
START, END = utc("2024-02-01T12:00"), utc("2024-02-03T05:00")
KINDS = ("status", "timeout", "slow", "half", "garbage", "rest_refuse")


def _faults(seed: int) -> tuple[list[Fault], set[int]]:
    """Some faults, and the candles that nobody has."""
    chance = random.Random(seed)
    faults = []
    for _ in range(8):
        kind = chance.choice(KINDS)
        given = {"after": chance.randrange(7)}
        if kind == "status":
            faults.append(Fault(kind, value=chance.choice([418, 429, 500, 503]), seconds=chance.randrange(90), **given))
        else:
            faults.append(Fault(kind, seconds=chance.uniform(1, 40), **given))
    lost = {chance.randrange(utc("2024-02-03"), END, 60_000) for _ in range(3)}
    return [*faults, *(Fault("missing", value=ts, timeframe="1m") for ts in lost)], lost


@pytest.mark.parametrize("exchange", ["binance", "okx", "bybit", "kraken"])
@pytest.mark.parametrize("seed", range(4))
async def test_what_is_there_comes_and_the_rest_is_a_gap(exchange: str, seed: int, tmp_path: Path) -> None:
    faults, lost = _faults(seed)
    async with market(exchange, faults=faults) as here:
        backfill = here.backfill("1m", START, END, file_path=tmp_path / "out.csv")
        await backfill.arun()
        assert len(here.simulator.log.of("fault")) >= 3
    expected = [candle for candle, _ in golden(here.tape, "1m", START, END) if candle[0] not in lost]
    rows = rows_of(tmp_path / "out.csv")
    assert [int(row["open_ts"]) for row in rows] == [candle[0] for candle in expected]
    for row, candle in zip(rows, expected, strict=True):
        assert tuple(float(row[name]) for name in ("open", "high", "low", "close")) == candle[1:5]
    missing = {ts for gap in backfill.gaps for ts in range(gap.start, gap.end, 60_000)}
    assert missing == lost
