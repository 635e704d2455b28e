"""FastOHLCConsumer and ``read_frame`` against engines that are not ours, with silent minutes and late ticks."""

from __future__ import annotations

import random

import pandas as pd
import pytest

from streammachine.frames.read import read_frame
from streammachine.ohlc.consumer import tick_book
from streammachine.redis.connection import RedisConnection
from support.candles import GRACE, INTERVALS, START, Tick, caught_up, feed, maker
from support.oracles import assert_agree, by_duckdb, by_polars

pytestmark = pytest.mark.anyio
NUMBERS = ("open", "high", "low", "close", "volume")


def uneven_ticks(count: int) -> list[Tick]:
    """Four symbols: ties, some seconds of disorder, minutes without a tick, and one tick in twenty far behind."""
    rnd = random.Random(11)
    found: list[Tick] = []
    now = START
    for _ in range(count):
        now += 200_000 if rnd.random() < 0.01 else rnd.randrange(1_500)
        behind = rnd.randrange(10_000, 400_000) if rnd.random() < 0.05 else rnd.randrange(3_000)
        found.append((f"S{rnd.randrange(4)}", round(100 + rnd.gauss(0, 3), 2), round(rnd.random(), 4), now - behind))
    return found


@pytest.mark.parametrize("road", ["native", "plain"])
async def test_duckdb_and_polars_make_the_same_candles(
    redis: RedisConnection, monkeypatch: pytest.MonkeyPatch, road: str
) -> None:
    if road == "native" and not tick_book.NATIVE:
        pytest.skip("the native parts are not built")
    monkeypatch.setattr(tick_book, "NATIVE", road == "native")
    await feed(redis, uneven_ticks(2_000))
    consumer = maker(redis)()
    await consumer.start()
    await caught_up(redis, 2_000)
    late = consumer.stats()["late"]
    await consumer.stop()
    assert late > 50

    stream = await read_frame("ticks", redis=redis)
    ticks = pd.DataFrame(
        {
            "symbol": stream["symbol"].astype(str),
            "price": stream["price"].astype(float),
            "volume": stream["volume"].astype(float),
            "ms": stream["ts"].astype("int64"),
            "row": range(len(stream)),
        }
    )
    assert len(ticks) == 2_000
    for interval in INTERVALS:
        made = await read_frame(consumer.output_stream(interval), redis=redis)
        ours = made.assign(
            start=made["candle_start_ms"].astype("int64"),
            n=made["trade_count"].astype("int64"),
            **{name: made[name].astype(float) for name in NUMBERS},
        ).sort_values(["symbol", "start"])
        for oracle in (by_duckdb, by_polars):
            theirs = oracle(ticks, interval, GRACE)
            assert theirs["n"].sum() < len(ticks) - 50
            assert_agree(ours, theirs)
