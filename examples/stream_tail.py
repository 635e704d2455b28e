"""A producer and a consumer group on one stream: python examples/stream_tail.py"""

import asyncio

from streammachine import RedisConnection


async def produce(redis: RedisConnection) -> None:
    for number in range(3):
        await redis.pipeline_xadd("orders", [{"number": number, "side": "buy", "price": 100.5 + number}])


async def consume(redis: RedisConnection) -> None:
    # Each entry is acknowledged when the loop's body is through; the loop ends after a second without a new one.
    async for stream, entry in redis.consumer("orders", consumer="tail-1", group="tail", timeout=1000):
        fields = {name.decode(): value.decode() for name, value in entry.field_values.items()}
        print(f"{stream} {entry.identifier.decode()}: {fields}")


async def main() -> None:
    async with RedisConnection() as redis:
        await asyncio.gather(produce(redis), consume(redis))


asyncio.run(main())
