"""FrameEmitter: rows and columns alike become one DataFrame."""

from __future__ import annotations

import pandas as pd
import pytest

from streammachine.errors import EmitterError
from streammachine.market.emitters.frame import FrameEmitter
from streammachine.market.emitters.outlet import Outlet
from streammachine.market.model.kline import Kline
from support.rows import candle, candles, columns_of, trade

pytestmark = pytest.mark.anyio


async def kept(emitter: FrameEmitter, *pieces: list[Kline], columns: bool) -> pd.DataFrame:
    async with Outlet(emitter) as outlet:
        for piece in pieces:
            await (outlet.put_columns(columns_of(piece)) if columns else outlet.put(piece))
            assert await outlet.drain() == []
    return emitter.frame()


async def test_columns_and_rows_make_the_same_frame() -> None:
    rows = candles(100, origin="bulk")
    frames = [await kept(FrameEmitter(), rows[:60], rows[60:], columns=columns) for columns in (True, False)]
    pd.testing.assert_frame_equal(*frames)
    assert list(frames[0]) == list(Kline.model_fields)
    assert frames[0]["open_ts"].tolist() == [row.open_ts for row in rows]
    assert frames[0].dtypes.astype(str)[["n_trades", "vwap", "is_closed"]].tolist() == ["int64", "float64", "bool"]


async def test_columns_beside_rows() -> None:
    emitter = FrameEmitter()
    await kept(emitter, candles(3, origin="bulk"), columns=True)
    frame = await kept(emitter, [candle(3, n_trades=None, vwap=5.5)], columns=False)
    assert frame["n_trades"].isna().tolist() == [False, False, False, True]
    assert frame["vwap"].tolist()[3:] == [5.5]
    assert len(emitter) == len(frame) == 4
    emitter.clear()
    assert emitter.frame().empty
    assert list(emitter.frame()) == list(Kline.model_fields)


async def test_others_than_candles_need_a_transformer() -> None:
    emitter = FrameEmitter(transformer=lambda row: {"price": row["price"]})
    async with Outlet(FrameEmitter()) as plain, Outlet(emitter) as outlet:
        for each in (plain, outlet):
            await each.put([trade()])
            await each.drain()
        assert plain.stats.skipped == 1
    assert emitter.frame().to_dict("list") == {"price": [100.0]}


@pytest.mark.parametrize("columns", [True, False])
async def test_it_may_be_bounded(columns: bool) -> None:
    emitter = FrameEmitter(most=5)
    async with Outlet(emitter) as outlet:
        await (outlet.put_columns(columns_of(candles(9))) if columns else outlet.put(candles(9)))
        assert await outlet.drain() == []
        assert (outlet.stats.emitted, outlet.stats.failed) == (5, 4)
        assert "holds 5 rows, and 5 at most" in str(outlet.stats.last_error)
    with pytest.raises(EmitterError, match="most=0"):
        FrameEmitter(most=0)
