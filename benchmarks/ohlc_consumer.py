"""FastOHLCConsumer: ticks of a stream to candles, committed, in one process; beside a loop that only reads.

    python -m benchmarks.ohlc_consumer [--ticks 300000] [--rounds 3] [--json]

The server is a bundled Valkey of the benchmark's own, on the same cores. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from benchmarks.measuring import Row, in_turns, keep, median_ratio, table
from streammachine.ohlc.consumer.consumer import FastOHLCConsumer
from streammachine.redis.connection import RedisConnection
from streammachine.redis.embedded.server import EmbeddedServer
from streammachine.redis.transport.codec import encode_xadd_batch, parse_stream_reply
from streammachine.redis.transport.raw_connection import encode_command

START_MS = 1_700_000_000_000
READ_COUNT = 1000
LOOK = 0.005  # seconds between two looks at whether all is committed


def main(argv: list[str] | None = None) -> list[Row]:
    """Measure everything; print a table, or with ``--json`` the rows."""
    parser = argparse.ArgumentParser(description="Ticks of a stream to candles, in one process.")
    parser.add_argument("--ticks", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(argv)
    rows = asyncio.run(measure(options.ticks, options.rounds))
    keep(rows)
    print(json.dumps(rows, indent=2) if options.json else table(rows))
    return rows


async def measure(ticks: int, rounds: int) -> list[Row]:
    """The runs in turns, on streams of 50 and of 1,000 symbols."""
    read = "XREAD and parse, nothing else"
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        EmbeddedServer.acquire(Path(folder), fsync="everysec") as server,
    ):
        async with RedisConnection(url=server.url) as redis:
            await fill(redis, "few", ticks, 50)
            await fill(redis, "many", ticks, 1000)
            runs: dict[str, Callable[[], Awaitable[None]]] = {
                read: lambda: read_all(redis, "few"),
                "candles, time of the id, 50 symbols": lambda: candles(redis, "few", None),
                "candles, time in a field, 50 symbols": lambda: candles(redis, "few", "ts"),
                "candles, time of the id, 1,000 symbols": lambda: candles(redis, "many", None),
                "candles, time in a field, 1,000 symbols": lambda: candles(redis, "many", "ts"),
            }
            seconds = await in_turns(runs, rounds)
    return [
        {
            "run": name,
            "ticks per second": ticks / sorted(times)[len(times) // 2],
            "times the time of reading": median_ratio(times, seconds[read]),
        }
        for name, times in seconds.items()
    ]


async def fill(redis: RedisConnection, stream: str, count: int, symbols: int) -> None:
    """Ticks 5 ms apart in event time."""
    rnd = random.Random(1)
    for start in range(0, count, 1000):
        records = [
            {
                "symbol": f"SYM{rnd.randrange(symbols):03d}",
                "price": f"{100 + rnd.random():.4f}",
                "volume": f"{rnd.random():.4f}",
                "ts": str(START_MS + place * 5),
            }
            for place in range(start, min(start + 1000, count))
        ]
        await redis.exchange(encode_xadd_batch(stream, records), len(records))


async def read_all(redis: RedisConnection, stream: str) -> None:
    """Read the stream to its end."""
    road = await redis.open_connection(stream)
    position: bytes = b"0-0"
    while True:
        command = encode_command(("XREAD", "COUNT", READ_COUNT, "STREAMS", stream, position))
        (reply,) = await road.exchange(command, 1, 5)
        if reply is None:
            break
        position = parse_stream_reply(reply)[stream.encode()][-1][0]
    await road.aclose()


async def candles(redis: RedisConnection, stream: str, timestamp_field: str | None) -> None:
    """Consume the stream from its start to its end, until all is committed; then forget it."""
    consumer = FastOHLCConsumer(stream, timestamp_field=timestamp_field, connection=redis)
    await consumer.start()
    last = (await redis.command("XREVRANGE", stream, "+", "-", "COUNT", 1))[0][0].decode()
    while consumer.stats().get("position") != last:  # noqa: ASYNC110 - the consumer offers no event, and needs none
        await asyncio.sleep(LOOK)
    await consumer.stop()
    await redis.command("XGROUP", "DESTROY", stream, consumer.group)
    await redis.command("DEL", f"{{{stream}}}:ohlc:{consumer.group}")
    for interval in consumer.intervals:
        await redis.command("DEL", consumer.output_stream(interval))


if __name__ == "__main__":
    main()
