"""How far a process grows that consumes ticks: ``python -m support.tick_memory URL ROUNDS TICKS``.

Each round appends so many ticks of 100 symbols, waits until they are committed, and deletes them. Prints by how many
bytes the process is larger after the last round than after the third.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from streammachine.ohlc.consumer.consumer import FastOHLCConsumer
from streammachine.redis.connection import RedisConnection
from streammachine.redis.transport.codec import encode_xadd_batch

START = 1_700_000_000_000
PAGE = 4096


def resident() -> int:
    """Bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


async def main(url: str, rounds: int, ticks: int) -> int:
    begun = 0
    async with RedisConnection(url=url) as redis:
        consumer = FastOHLCConsumer("ticks", timestamp_field="ts", connection=redis)
        await consumer.start()
        for number in range(rounds):
            for at in range(number * ticks, (number + 1) * ticks, 1000):
                records = [
                    {"symbol": f"S{k % 100}", "price": f"{k % 977}.25", "volume": "0.5", "ts": START + 5 * k}
                    for k in range(at, at + 1000)
                ]
                ids = await redis.exchange(encode_xadd_batch("ticks", records), len(records))
            while consumer.stats().get("position") != ids[-1].decode():  # noqa: ASYNC110 - the consumer offers no event
                await asyncio.sleep(0.01)
            for stream in ("ticks", "candles_1m", "candles_5m"):
                await redis.command("XTRIM", stream, "MAXLEN", 0)
            if number == 2:
                begun = resident()
        assert consumer.stats()["ticks"] == rounds * ticks
        await consumer.stop()
    return resident() - begun


if __name__ == "__main__":
    print(asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
