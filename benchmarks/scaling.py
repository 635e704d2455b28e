"""The constants of docs/scaling.md: what a tick and a candle cost the server and the consumer.

    python -m benchmarks.scaling [--ticks 300000] [--rounds 5] [--json]

Processor time, so that others on the machine change little. Two streams whose ticks give 2 and 10 candles a hundred;
the costs of a tick and of a candle are the line through both. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from benchmarks.measuring import Row, keep, table
from benchmarks.ohlc_consumer import LOOK, STREAMS, Stream, fill
from streammachine.ohlc.consumer.consumer import FastOHLCConsumer
from streammachine.redis.connection import RedisConnection
from streammachine.redis.embedded.server import EmbeddedServer
from streammachine.runtime.consumer.partitions import assign

SHARED = ((64, 16), (1000, 250), (2000, 1000))  # partitions and members


def main(argv: list[str] | None = None) -> list[Row]:
    """Measure everything; print a table, or with ``--json`` the rows."""
    parser = argparse.ArgumentParser(description="What a tick and a candle cost.")
    parser.add_argument("--ticks", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(argv)
    rows = asyncio.run(measure(options.ticks, options.rounds)) + sharing(options.rounds)
    keep(rows)
    print(json.dumps(rows, indent=2) if options.json else table(rows))
    return rows


async def measure(ticks: int, rounds: int) -> list[Row]:
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        EmbeddedServer.acquire(Path(folder), fsync="everysec") as server,
    ):
        async with RedisConnection(url=server.url) as redis:
            few, many = [await costs(redis, stream, ticks, rounds) for stream in STREAMS[:2]]
    more = many["candles"] - few["candles"]

    def line(name: str) -> tuple[float, float]:
        """Microseconds of a tick, and of a candle."""
        candle = (many[name] - few[name]) / more
        return (few[name] - candle * few["candles"]) / ticks * 1e6, candle * 1e6

    server_line, consumer_line = line("server"), line("consumer")
    return [
        {"what": "server: append a tick (pipelined XADD)", "cost": few["append"] / ticks * 1e6, "unit": "us"},
        {"what": "server: read a tick (XREAD)", "cost": server_line[0], "unit": "us"},
        {"what": "server: commit a candle", "cost": server_line[1], "unit": "us"},
        {"what": "consumer: a tick", "cost": consumer_line[0], "unit": "us"},
        {"what": "consumer: a candle", "cost": consumer_line[1], "unit": "us"},
        {"what": "server: a tick in the stream", "cost": few["entry bytes"], "unit": "bytes"},
        {"what": "server: a candle in its stream", "cost": many["candle bytes"], "unit": "bytes"},
        {"what": "server: the state of a symbol", "cost": few["state bytes"], "unit": "bytes"},
    ]


async def costs(redis: RedisConnection, stream: Stream, ticks: int, rounds: int) -> dict[str, float]:
    """Seconds of the server's and of the consumer's processor for the whole stream; candles; bytes."""
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for _ in range(rounds):
        before = await processor(redis)
        await fill(redis, stream, ticks)
        note("append", await processor(redis) - before)
        note("entry bytes", await memory(redis, stream.name) / ticks)
        before, own = await processor(redis), time.process_time()
        consumer = FastOHLCConsumer(stream.name, timestamp_field=stream.timestamp_field, connection=redis)
        await consumer.start()
        last = (await redis.command("XREVRANGE", stream.name, "+", "-", "COUNT", 1))[0][0].decode()
        while consumer.stats().get("position") != last:  # noqa: ASYNC110 - the consumer offers no event
            await asyncio.sleep(LOOK)
        note("consumer", time.process_time() - own)
        note("server", await processor(redis) - before)
        made = consumer.stats()["candles"]
        await consumer.stop()
        state = f"{{{stream.name}}}:ohlc:{consumer.group}"
        outputs = [consumer.output_stream(interval) for interval in consumer.intervals]
        note("candles", made)
        note("state bytes", await memory(redis, state) / stream.symbols)
        note("candle bytes", sum([await memory(redis, output) for output in outputs]) / made)
        await redis.command("DEL", stream.name, state, *outputs)
    return {name: statistics.median(values) for name, values in found.items()}


async def processor(redis: RedisConnection) -> float:
    """Seconds of the processor that the server has used."""
    facts = await info(redis, "cpu")
    return float(facts["used_cpu_user"]) + float(facts["used_cpu_sys"])


async def memory(redis: RedisConnection, key: str) -> int:
    """Bytes of a key: what was deleted is freed behind the server's back, so its total tells less."""
    return int(await redis.command("MEMORY", "USAGE", key, "SAMPLES", 0))


async def info(redis: RedisConnection, section: str) -> dict[str, str]:
    lines = (await redis.command("INFO", section)).decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def sharing(rounds: int) -> list[Row]:
    """What a member computes when another comes or goes."""
    rows: list[Row] = []
    for partitions, members in SHARED:
        streams = [f"{{ticks.{number}}}" for number in range(partitions)]
        names = [secrets.token_hex(8) for _ in range(members)]
        seconds = []
        for _ in range(rounds):
            began = time.process_time()
            assign(streams, names)
            seconds.append(time.process_time() - began)
        what = f"member: to share {partitions:,} partitions among {members:,}"
        rows.append({"what": what, "cost": statistics.median(seconds) * 1e6, "unit": "us"})
    return rows


if __name__ == "__main__":
    main()
