"""A stream as a DataFrame, straight from the socket into columns."""

import asyncio

from streammachine import RedisConnection, read_frame


async def main():
    async with RedisConnection() as redis:
        trades = [{"symbol": "BTCUSDT", "price": 61_800 + step % 50, "volume": 1 + step % 3} for step in range(5_000)]
        await redis.pipeline_xadd("frames:trades", trades)
        frame = await read_frame("frames:trades", "now-15m", columns=["timestamp_ms", "price", "volume"], redis=redis)
    price, volume = frame["price"].astype(float), frame["volume"].astype(float)
    print(len(frame), "trades, vwap", round((price * volume).sum() / volume.sum(), 3))


asyncio.run(main())
