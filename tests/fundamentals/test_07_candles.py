"""Chapter 7: ticks become candles, in memory with ``FastOHLC`` or from stream to stream with ``FastOHLCConsumer``.

Times are UTC epoch milliseconds. A candle holds the ticks from its start to just before its end.
"""

from __future__ import annotations

import pytest

from streammachine import FastOHLC, FastOHLCConsumer, RedisConnection, wait_until
from streammachine.redis import streams

pytestmark = pytest.mark.anyio
MINUTE = 60_000
START = 1_723_161_600_000  # 2024-08-09 00:00 UTC


def test_ticks_are_folded_into_candles_of_every_interval() -> None:
    ohlc = FastOHLC(intervals=[MINUTE, 5 * MINUTE])
    ohlc.update_tick("BTCUSDT", 61837.63, 0.5, START)
    ohlc.update_tick("BTCUSDT", 61844.10, 0.2, START + 30_000)
    ohlc.update_tick("BTCUSDT", 61840.00, 0.1, START + 61_000)
    first, second = ohlc.get_candles("BTCUSDT", MINUTE)
    assert (first.open, first.high, first.low, first.close) == (61837.63, 61844.10, 61837.63, 61844.10)
    assert (second.open, second.trade_count) == (61840.00, 1)
    (five,) = ohlc.get_candles("BTCUSDT", 5 * MINUTE)
    assert (five.open, five.close, five.trade_count) == (61837.63, 61840.00, 3)


def test_a_late_tick_goes_to_the_candle_that_it_belongs_to() -> None:
    ohlc = FastOHLC(intervals=[MINUTE])
    ohlc.update_tick("BTCUSDT", 100.0, 1.0, START)
    ohlc.update_tick("BTCUSDT", 101.0, 1.0, START + MINUTE)
    ohlc.update_tick("BTCUSDT", 105.0, 1.0, START + 10_000)
    first, _ = ohlc.get_candles("BTCUSDT", MINUTE)
    assert (first.high, first.close) == (105.0, 105.0)


async def test_a_finished_candle_is_appended_to_its_stream_once(redis: RedisConnection) -> None:
    consumer = FastOHLCConsumer("ticks", "candles", intervals=[MINUTE], timestamp_field="ts", connection=redis)
    prices = ((START, 100.0), (START + 30_000, 101.5), (START + 65_000, 99.0))
    await redis.pipeline_xadd(
        "ticks", [{"symbol": "BTCUSDT", "price": price, "volume": 1, "ts": ts} for ts, price in prices]
    )
    await consumer.start()

    async def is_there() -> bool:
        return bool(await streams.read_from(redis, "candles_1m"))

    await wait_until(is_there)
    await consumer.stop()
    (candle,) = await streams.read_from(redis, "candles_1m")  # the second one is still open
    assert (candle.data["open"], candle.data["close"]) == ("100.0", "101.5")
