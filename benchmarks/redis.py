"""Our Redis layer beside the bare clients, on one private embedded Valkey, everybody in turns.

    python -m benchmarks.redis [--rounds 7] [--fsync everysec] [--json]

Run it with ``-m``: as a script its own name would hide the redis package. The peers are coredis (the client under our
layer) and redis-py (synchronous, with hiredis where that is installed); theirs is the least that does the same: no
check of the values, no deadline, no text from the bytes. The disk is kept out of it with fsync ``everysec``;
``--fsync always`` shows it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import redis as redis_py

from benchmarks.measuring import Row, in_turns, keep, median_ratio, table
from streammachine import RedisConnection, Settings, Storage
from streammachine.redis import streams
from streammachine.redis.embedded.server import EmbeddedServer

BATCH = 1000
READS = 1000
VALUE = {"symbol": "BTCUSDT", "price": 61837.63, "volume": 0.5}
OURS, COREDIS, REDIS_PY = "ours", "bare coredis", "redis-py"
Runs = dict[str, Callable[[], Awaitable[Any]]]


def main(argv: list[str] | None = None) -> None:
    """Measure everything; print a table, or with ``--json`` the rows."""
    parser = argparse.ArgumentParser(description="Our Redis layer beside the bare clients.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--fsync", choices=("always", "everysec"), default="everysec")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(argv)
    with (
        tempfile.TemporaryDirectory(prefix="sm-bench-") as folder,
        EmbeddedServer.acquire(Path(folder) / "valkey", fsync=options.fsync) as server,
    ):
        settings = Settings(redis_url=server.url, data_dir=Path(folder) / "data")
        rows = anyio.run(measured, settings, server.socket_path, options.rounds)
    keep(rows)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"Thousands a second, medians of {options.rounds} rounds; fsync {options.fsync}")
    print("A ratio above 1: ours does more in the same time.\n")
    print(table(rows))


async def measured(settings: Settings, socket: Path, rounds: int) -> list[Row]:
    """One row a subject."""
    async with RedisConnection(settings=settings) as connection:
        with redis_py.Redis(unix_socket_path=str(socket)) as peer:
            return [
                await row(f"XADD, pipelines of {BATCH}", BATCH, appends(connection, peer), rounds),
                await row(f"XRANGE COUNT {BATCH}", BATCH, reads(connection, peer), rounds),
                await row("Storage.write / HSET", READS, writes(connection, peer), rounds),
                await row("Storage.read / HGET", READS, gets(connection, peer), rounds),
            ]


async def row(subject: str, items: int, runs: Runs, rounds: int) -> Row:
    """The rates, and ours beside each peer's."""
    seconds = await in_turns(runs, rounds)
    found: Row = {"what": subject}
    for name, taken in seconds.items():
        found[name] = items / statistics.median(taken) / 1000
    for name, taken in seconds.items():
        if name != OURS:
            found[f"ours : {name}"] = median_ratio(taken, seconds[OURS])
    return found


def appends(connection: RedisConnection, peer: redis_py.Redis) -> Runs:
    """A thousand trades in one round trip."""
    records = [{"symbol": "BTCUSDT", "price": f"{61837 + n}.63", "volume": "0.5"} for n in range(BATCH)]

    async def coredis() -> None:
        async with connection.client.pipeline(transaction=False) as pipe:
            sent = [pipe.xadd("bench:coredis", field_values=record) for record in records]
        for one in sent:
            await one

    async def sync() -> None:
        pipe = peer.pipeline(transaction=False)
        for record in records:
            pipe.xadd("bench:redis-py", record)
        pipe.execute()

    return {OURS: lambda: connection.pipeline_xadd("bench:ours", records), COREDIS: coredis, REDIS_PY: sync}


def reads(connection: RedisConnection, peer: redis_py.Redis) -> Runs:
    """The first thousand of what ``appends`` wrote; ours as text, the peers' as bytes."""

    async def sync() -> None:
        peer.xrange("bench:ours", count=BATCH)

    return {
        OURS: lambda: streams.read_from(connection, "bench:ours", count=BATCH),
        COREDIS: lambda: connection.client.xrange("bench:ours", count=BATCH),
        REDIS_PY: sync,
    }


def writes(connection: RedisConnection, peer: redis_py.Redis) -> Runs:
    """A small value as JSON, one command after the other."""
    storage = Storage(connection)

    async def ours() -> None:
        for _ in range(READS):
            await storage.write("bench", VALUE)

    async def coredis() -> None:
        for _ in range(READS):
            await connection.client.hset("bench:hash", {"bench": json.dumps(VALUE)})

    async def sync() -> None:
        for _ in range(READS):
            peer.hset("bench:hash", "bench", json.dumps(VALUE))

    return {OURS: ours, COREDIS: coredis, REDIS_PY: sync}


def gets(connection: RedisConnection, peer: redis_py.Redis) -> Runs:
    """The value that ``writes`` wrote, back from JSON."""
    storage = Storage(connection)

    async def ours() -> None:
        for _ in range(READS):
            await storage.read("bench")

    async def coredis() -> None:
        for _ in range(READS):
            json.loads(await connection.client.hget("bench:hash", "bench") or b"null")

    async def sync() -> None:
        for _ in range(READS):
            json.loads(peer.hget("bench:hash", "bench") or b"null")

    return {OURS: ours, COREDIS: coredis, REDIS_PY: sync}


if __name__ == "__main__":
    main()
