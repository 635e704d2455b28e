"""Pages of REST in columns: the same in every sink as row by row, and rows where columns cannot hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from streammachine.market.emitters.csv import CSVEmitter
from streammachine.market.emitters.frame import FrameEmitter
from streammachine.market.emitters.parquet import ParquetEmitter
from streammachine.market.model.kline import Kline, with_fields
from streammachine.market.model.kline_columns import KlineColumns
from support.backfill import market, utc

pytestmark = pytest.mark.anyio

EXCHANGES = ("binance", "okx", "kraken", "bybit", "coinbase")
MINUTE = 60_000


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMMACHINE_DATA_DIR", str(tmp_path / "data"))


class Counted(FrameEmitter):
    """Knows how many of its rows came in columns."""

    in_columns = 0

    async def emit_columns(self, columns: KlineColumns) -> None:
        self.in_columns += len(columns)
        await super().emit_columns(columns)


async def taken(exchange: str, folder: Path, *, columns: bool) -> tuple[Counted, list[Any]]:
    """Ten hours of minutes up to now, into three sinks."""
    frame = Counted()
    sinks = [frame, CSVEmitter(file_path=folder / "out.csv"), ParquetEmitter(folder / "parquet")]
    async with market(exchange) as here:
        backfill = here.backfill("1m", "2024-02-02T19:00", "2024-02-03T05:00", columns=columns)
        for sink in sinks:
            backfill.register_emitter(sink)
        await backfill.arun()
    return frame, backfill.gaps


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_pages_in_columns_write_what_rows_write(exchange: str, tmp_path: Path) -> None:
    (tmp_path / "columns").mkdir()
    (tmp_path / "rows").mkdir()
    frame, gaps = await taken(exchange, tmp_path / "columns", columns=True)
    plain, _ = await taken(exchange, tmp_path / "rows", columns=False)
    assert not gaps
    assert len(frame.frame()) == 600
    assert plain.in_columns == 0
    assert (frame.in_columns > 0) == (exchange not in ("coinbase", "kraken")), "those fold trades for minutes this old"
    pd.testing.assert_frame_equal(frame.frame(), plain.frame())
    made, wanted = (tmp_path / name / "out.csv" for name in ("columns", "rows"))
    assert made.read_bytes() == wanted.read_bytes()
    pd.testing.assert_frame_equal(
        *(pd.read_parquet(tmp_path / name / "parquet").sort_values("open_ts") for name in ("columns", "rows")),
        check_like=True,
    )


def candles(count: int = 4, **fields: Any) -> list[Kline]:
    start = utc("2024-02-02")
    return [
        Kline(
            source="Bybit",
            symbol="BTCUSDT",
            timeframe="1m",
            open_ts=start + at * MINUTE,
            end_ts=start + (at + 1) * MINUTE - 1,
            open=1.0,
            high=3.0 + at,
            low=0.5,
            close=2.0,
            volume=10.0,
            is_closed=True,
            origin="rest",
        ).model_copy(update=fields)
        for at in range(count)
    ]


@pytest.mark.parametrize("fields", [{}, {"n_trades": 3}, {"vwap": 1.5, "quote_volume": 15.0, "estimated": True}])
def test_columns_give_the_rows_back(fields: dict[str, Any]) -> None:
    klines = candles(**fields)
    columns = KlineColumns.of(klines)
    assert columns is not None
    assert columns.rows() == klines
    assert columns[1:3].rows() == klines[1:3]
    assert columns[columns.open_ts > klines[1].open_ts].rows() == klines[2:]


@pytest.mark.parametrize(
    "fields",
    [
        {"is_closed": False},
        {"is_complete": False},
        {"symbol": "ETHUSDT"},
        {"origin": "trades"},
        {"estimated": True},
        {"vwap": 1.5},
        {"n_trades": 2**70},
        {"end_ts": 5},
        {"open_ts": 5, "end_ts": MINUTE + 4},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_columns_cannot_hold_stays_rows(fields: dict[str, Any]) -> None:
    klines = candles()
    klines[2] = with_fields(klines[2], **fields)
    assert KlineColumns.of(klines) is None


def test_a_month_has_no_columns() -> None:
    assert KlineColumns.of(candles(timeframe="1M")) is None
    assert KlineColumns.of([]) is None
