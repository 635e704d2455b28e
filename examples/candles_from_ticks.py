"""Ticks into candles, and the finished candles into a Redis stream: python examples/candles_from_ticks.py"""

import asyncio
import random

from streammachine import FastOHLC, RedisConnection, format_candle_for_redis

MINUTE = 60_000
START = 1_723_161_600_000  # epoch milliseconds, a full minute


def ticks(count: int) -> list[tuple[float, float, int]]:
    """Price, volume and time of made-up trades, five a second."""
    source = random.Random(7)
    price = 60_000.0
    made = []
    for number in range(count):
        price += source.gauss(0, 2)
        made.append((round(price, 2), round(source.random(), 3), START + number * 200))
    return made


async def main() -> None:
    ohlc = FastOHLC(intervals=[MINUTE])
    for price, volume, ms in ticks(1_000):
        ohlc.update_tick("BTCUSDT", price, volume, ms)

    # Candles whose time was over at that moment; without a moment, now.
    finished = ohlc.get_completed_candles("BTCUSDT", MINUTE, before_timestamp=START + 3 * MINUTE)
    for candle in finished:
        print(f"{candle.candle_start_ms}: open {candle.open} close {candle.close}, {candle.trade_count} trades")

    async with RedisConnection() as redis:
        records = [format_candle_for_redis(candle, "BTCUSDT", MINUTE) for candle in finished]
        identifiers = await redis.pipeline_xadd("candles_1m", records)
        print(f"{len(identifiers)} candles written to the stream candles_1m of {redis.target.url}")


asyncio.run(main())
