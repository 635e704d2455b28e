"""FastOHLCConsumer: ticks of a stream to candles, committed, in one process; beside clients that only move bytes.

    python -m benchmarks.ohlc_consumer [--ticks 300000] [--rounds 5] [--streams many5] [--json]

Its peers: a client that reads the same stream and does not look at the bytes (raw XREAD, over a blocking socket); one
that also appends the same candles, encoded before (what the server has to do at the least); and the plain road, by way
of a Python object for each entry, which is taken where the native parts are not built.

The server is a bundled Valkey of the benchmark's own, on the same cores. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from benchmarks.measuring import Row, in_turns, keep, median_ratio, table
from streammachine.ohlc.consumer import tick_book
from streammachine.ohlc.consumer.consumer import FastOHLCConsumer
from streammachine.redis.connection import RedisConnection
from streammachine.redis.embedded.server import EmbeddedServer
from streammachine.redis.transport.codec import encode_xadd_batch
from streammachine.redis.transport.raw_connection import encode_command

START_MS = 1_700_000_000_000
READ_COUNT = 1000
APPEND_AFTER = 10  # reads
LOOK = 0.002  # seconds between two looks at whether all is committed
TAIL = 500  # bytes, more than the last entry of a reply has


class Stream(NamedTuple):
    """Ticks: how many symbols, how far apart in event time, and the field that holds the time."""

    name: str
    title: str
    symbols: int
    step_ms: int
    timestamp_field: str | None


STREAMS = (
    Stream("many1", "1,000 symbols, time in a field, 1 ms apart", 1000, 1, "ts"),
    Stream("many5", "1,000 symbols, time in a field, 5 ms apart", 1000, 5, "ts"),
    Stream("few", "50 symbols, time of the id", 50, 1, None),
)


def main(argv: list[str] | None = None) -> list[Row]:
    """Measure everything; print a table, or with ``--json`` the rows."""
    parser = argparse.ArgumentParser(description="Ticks of a stream to candles, in one process.")
    parser.add_argument("--ticks", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", nargs="+", choices=[stream.name for stream in STREAMS], help="only these")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(argv)
    streams = [stream for stream in STREAMS if stream.name in (options.streams or [stream.name])]
    rows = asyncio.run(measure(streams, options.ticks, options.rounds))
    keep(rows)
    print(json.dumps(rows, indent=2) if options.json else table(rows))
    return rows


async def measure(streams: Sequence[Stream], ticks: int, rounds: int) -> list[Row]:
    """The runs in turns, a stream after the other."""
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        EmbeddedServer.acquire(Path(folder), fsync="everysec") as server,
    ):
        path = server.url.removeprefix("unix://").partition("?")[0]
        async with RedisConnection(url=server.url) as redis:
            for stream in streams:
                await fill(redis, stream, ticks)
                rows += await measure_stream(redis, path, stream, ticks, rounds)
                await redis.command("DEL", stream.name)
    return rows


async def measure_stream(redis: RedisConnection, path: str, stream: Stream, ticks: int, rounds: int) -> list[Row]:
    appends = await candles(redis, stream, to_append=True)
    names = {kind: f"{stream.title}: {kind}" for kind in ("raw XREAD", "raw XREAD and XADD", "candles", "plain road")}
    runs: dict[str, Callable[[], Awaitable[object]]] = {
        names["raw XREAD"]: lambda: asyncio.to_thread(read_raw, path, stream.name, []),
        names["raw XREAD and XADD"]: lambda: asyncio.to_thread(read_raw, path, stream.name, appends),
        names["candles"]: lambda: candles(redis, stream),
        names["plain road"]: lambda: candles(redis, stream, plain=True),
    }
    seconds = await in_turns(runs, rounds)
    raw, both, plain = (seconds[names[kind]] for kind in ("raw XREAD", "raw XREAD and XADD", "plain road"))
    return [
        {
            "run": name,
            "ticks per second": ticks / sorted(times)[len(times) // 2],
            "of raw XREAD": median_ratio(raw, times),
            "of raw XREAD and XADD": median_ratio(both, times),
            "of the plain road": median_ratio(plain, times),
        }
        for name, times in seconds.items()
    ]


async def fill(redis: RedisConnection, stream: Stream, count: int) -> None:
    """Ticks in the order of their time."""
    rnd = random.Random(1)
    for start in range(0, count, 1000):
        records = [
            {
                "symbol": f"SYM{rnd.randrange(stream.symbols):03d}",
                "price": f"{100 + rnd.random():.4f}",
                "volume": f"{rnd.random():.4f}",
                "ts": str(START_MS + place * stream.step_ms),
            }
            for place in range(start, min(start + 1000, count))
        ]
        await redis.exchange(encode_xadd_batch(stream.name, records), len(records))


async def candles(
    redis: RedisConnection, stream: Stream, *, plain: bool = False, to_append: bool = False
) -> list[tuple[bytes, int]]:
    """Consume the stream from its start to its end, until all is committed; then forget it.

    Returns:
        With ``to_append`` the candles as XADD commands, and how many: a list with a part for each ``APPEND_AFTER``
        reads.
    """
    native = tick_book.NATIVE
    tick_book.NATIVE = native and not plain
    try:
        consumer = FastOHLCConsumer(stream.name, timestamp_field=stream.timestamp_field, connection=redis)
        await consumer.start()
    finally:
        tick_book.NATIVE = native
    state = f"{{{stream.name}}}:ohlc:{consumer.group}"
    last = (await redis.command("XREVRANGE", stream.name, "+", "-", "COUNT", 1))[0][0]
    while await redis.command("HGET", state, "id") != last:  # noqa: ASYNC110 - the consumer offers no event
        await asyncio.sleep(LOOK)
    await consumer.stop()
    outputs = [consumer.output_stream(interval) for interval in consumer.intervals]
    appends = await as_appends(redis, stream, outputs) if to_append else []
    await redis.command("XGROUP", "DESTROY", stream.name, consumer.group)
    await redis.command("DEL", state, *outputs)
    return appends


async def as_appends(redis: RedisConnection, stream: Stream, outputs: list[str]) -> list[tuple[bytes, int]]:
    entries = await redis.command("XLEN", stream.name)
    parts = max(1, entries // (READ_COUNT * APPEND_AFTER))
    commands: list[bytes] = []
    for output in outputs:
        for _, fields in await redis.command("XRANGE", output, "-", "+"):
            named = dict(zip(fields[::2], fields[1::2], strict=True))
            commands.append(encode_xadd_batch(f"appended:{output}", [named]))
    share = -(-len(commands) // parts) or 1
    return [
        (b"".join(part), len(part)) for part in (commands[at : at + share] for at in range(0, len(commands), share))
    ]


def read_raw(path: str, stream: str, appends: list[tuple[bytes, int]]) -> None:
    """Read the stream to its end, looking only for the end of each reply and its last id; append what is given."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.connect(path)
        position = b"0-0"
        reads = 0
        left = list(appends)
        while position:
            link.sendall(encode_command(("XREAD", "COUNT", READ_COUNT, "STREAMS", stream, position)))
            position = last_id(link)
            reads += 1
            if left and reads % APPEND_AFTER == 0:
                append(link, *left.pop(0))
        while left:
            append(link, *left.pop(0))
        link.sendall(encode_command(("DEL", "appended:candles_1m", "appended:candles_5m")))
        link.recv(100)


def last_id(link: socket.socket) -> bytes:
    """The id of the reply's last entry, of four fields; empty where the reply has none."""
    tail = b""
    while True:
        data = link.recv(1 << 18)
        tail = (tail + data)[-TAIL:] if len(data) < TAIL else data[-TAIL:]
        if tail == b"*-1\r\n":
            return b""
        begin = tail.rfind(b"*2\r\n$")
        # The entry's two lines, the id, the head of the fields, and eight strings of two lines each.
        if begin >= 0 and tail.endswith(b"\r\n") and tail.count(b"\r\n", begin) == 20:
            return tail[begin:].split(b"\r\n")[2]


def append(link: socket.socket, commands: bytes, count: int) -> None:
    link.sendall(commands)
    lines = 0
    while lines < 2 * count:
        lines += link.recv(1 << 16).count(b"\n")


if __name__ == "__main__":
    main()
