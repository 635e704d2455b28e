"""Candles from trades: exact, flat where nothing was traded, and none that trades may be missing of."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from streammachine.market.aggregation.range_folder import Fold
from streammachine.market.model.kline import Trade
from streammachine.market.network import rest_queries
from streammachine.market.simulator import Tape
from support.backfill import NOW, assert_golden, golden, market, rows_of, utc

MINUTE = 60_000


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STREAMMACHINE_DATA_DIR", str(tmp_path / "data"))


def trade(number: int, minute: float, price: float = 10.0, fills: int = 1) -> Trade:
    return Trade(
        source="Kraken", symbol="BTC/USD", price=price, volume=1, ts=int(minute * MINUTE), trade_id=str(number),
        side="buy", fills=fills,
    )  # fmt: skip


def folded(trades: list[Trade], until: int, **options: object) -> list[int]:
    """The minutes that candles were made of."""
    fold = Fold("Kraken", "BTC/USD", "1m", 0, contiguous=True, **options)  # type: ignore[arg-type]
    return [kline.open_ts // MINUTE for kline in [*fold.add(trades), *fold.until(until * MINUTE)]]


def test_minutes_between_trades_that_follow_each_other_are_flat() -> None:
    assert folded([trade(1, 0.5), trade(2, 3.5), trade(5, 3.6, fills=3)], 6) == [0, 1, 2, 3, 4, 5]


def test_a_candle_that_trades_may_be_missing_of_is_not_made() -> None:
    assert folded([trade(1, 0.5), trade(3, 3.5), trade(4, 4.5)], 6) == [4, 5]
    assert folded([trade(1, 0.5), trade(3, 0.6), trade(4, 1.5)], 3) == [1, 2]
    assert folded([trade(1, 0.5), trade(2, 1.5), trade(4, 2.0)], 4) == [0, 3]
    assert folded([trade(8, 2.5)], 4, close=10.0, last_id=7) == [0, 1, 2, 3]
    assert folded([trade(9, 2.5)], 4, close=10.0, last_id=7) == [3]


def test_what_is_behind_a_hole_begins_at_the_right_close() -> None:
    fold = Fold("Kraken", "BTC/USD", "1m", 0, contiguous=True)
    made = [*fold.add([trade(1, 0.5, 5.0), trade(3, 1.5, 7.0)]), *fold.until(3 * MINUTE)]
    assert [(kline.open_ts // MINUTE, kline.open, kline.n_trades) for kline in made] == [(2, 7.0, 0)]


@pytest.mark.anyio
async def test_pages_of_trades_shorter_than_asked_are_no_end() -> None:
    async with market("kraken", rules={"trades_page": 37}) as here:
        backfill = here.backfill("5m", "2024-01-20", "2024-01-20", file_path="out.csv")
        await backfill.arun()
    assert backfill.gaps == []
    assert_golden(rows_of(Path("out.csv")), here.tape, "5m", utc("2024-01-20"), utc("2024-01-21"))


@pytest.mark.anyio
async def test_trades_that_no_page_can_reach_make_a_gap_and_never_a_flat_candle() -> None:
    start, end = utc("2024-02-02T00:00"), utc("2024-02-02T02:00")
    tape = Tape.generate(seed=3, symbols=("BTC/USDT",), start_ms=start, trades_per_minute=300)
    moments = [row.ts for row in tape.rows("BTC/USDT", start, end)]
    crowded = {ts for ts in moments if moments.count(ts) > 2}  # more in a nanosecond than a page holds
    assert crowded, "the tape has no such moment: take another seed"
    rules = {"trades_page": 2, "coarse_times": True}
    async with market("kraken", now=NOW, tape=tape, rules=rules) as here:
        backfill = here.backfill("1m", start, end, file_path="out.csv")
        await backfill.arun()
    whole = {candle[0]: candle for candle, _ in golden(tape, "1m", start, end)}
    rows = {int(row["open_ts"]): row for row in rows_of(Path("out.csv"))}
    for ts, row in rows.items():
        assert (float(row["close"]), int(row["n_trades"])) == (whole[ts][4], whole[ts][5])
    gone = {ts for gap in backfill.gaps for ts in range(gap.start, gap.end, MINUTE)}
    assert gone == set(whole) - set(rows)
    assert {ts // MINUTE * MINUTE for ts in crowded} <= gone


@pytest.mark.anyio
@pytest.mark.parametrize("place", ["first", "middle", "last"])
async def test_a_trade_that_cannot_be_read_costs_its_own_candles_alone(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, end = utc("2024-02-02T00:00"), utc("2024-02-02T01:00")
    tape = Tape.generate(seed=3, symbols=("BTC/USDT",), start_ms=NOW - 3_600_000, history_per_minute=20, quiet=0)
    trades = list(tape.rows("BTC/USDT", start, end))
    lost = {"first": trades[0], "middle": trades[len(trades) // 2], "last": trades[-1]}[place]
    read = rest_queries.trade_pages

    async def pages(*arguments: Any, **options: Any) -> AsyncGenerator[list[Trade]]:
        async for page in read(*arguments, **options):
            yield [trade for trade in page if trade.trade_id != str(lost.id)]

    monkeypatch.setattr(rest_queries, "trade_pages", pages)
    async with market("kraken", now=NOW, tape=tape) as here:
        backfill = here.backfill("1m", start, end, file_path="out.csv")
        await backfill.arun()
    gone = {ts for gap in backfill.gaps for ts in range(gap.start, gap.end, MINUTE)}
    # Nothing shows that there was a trade before the first one that is given.
    assert gone == (set() if place == "first" else {lost.ts // MINUTE * MINUTE})
    whole = {candle[0]: candle for candle, _ in golden(tape, "1m", start, end)}
    rows = [row for row in rows_of(Path("out.csv")) if place != "first" or int(row["open_ts"]) > start]
    assert all(int(row["n_trades"]) == whole[int(row["open_ts"])][5] for row in rows)
