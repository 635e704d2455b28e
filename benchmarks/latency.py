"""From XADD to the committed candle through FastOHLCConsumer, at fixed rates; the native and the plain road in turns.

    python -m benchmarks.latency [--seconds 8] [--rounds 3] [--json]

Another process sends the ticks, as many as are due each time, and reads the candle stream with a blocking XREAD: a
candle's time is from the moment its closing tick was handed to the socket until the candle was read, so the way back
is in it. The percentiles are over the candles of all rounds. A road that cannot keep up shows a time that grows as
long as ticks are sent. The server is a bundled Valkey of the benchmark's own, on the same cores. Nothing here asserts
a time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from benchmarks.measuring import Row, keep, table
from streammachine.ohlc.consumer import tick_book
from streammachine.ohlc.consumer.consumer import FastOHLCConsumer
from streammachine.redis.connection import RedisConnection
from streammachine.redis.embedded.server import EmbeddedServer
from streammachine.redis.transport.codec import NEED_MORE, ReplyParser, encode_xadd_batch
from streammachine.redis.transport.raw_connection import encode_command

SYMBOLS = 50
INTERVAL_MS = 60_000
START_MS = INTERVAL_MS * 28_333_333
PAUSE = 0.001  # seconds between two looks at what is due
SWITCH = 0.0005  # seconds that one thread of the sender keeps the other waiting at most
STREAM, PREFIX = "ticks", "candles"
OUTPUT = f"{PREFIX}_1m"
SHARES = (0.5, 0.99, 0.999)
ROADS = ("native", "plain")


class Load(NamedTuple):
    """Ticks a second, and how many of a symbol make a candle."""

    rate: int
    to_a_candle: int


LOADS = (Load(1_000, 4), Load(10_000, 20), Load(50_000, 20))


def main(argv: list[str] | None = None) -> list[Row]:
    """Measure everything; print a table, or with ``--json`` the rows."""
    parser = argparse.ArgumentParser(description="From XADD to the committed candle, at fixed rates.")
    parser.add_argument("--seconds", type=float, default=8, help="of each rate in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--send", nargs=4, metavar=("PATH", "RATE", "TICKS", "SECONDS"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.send:
        path, rate, to_a_candle, seconds = options.send
        print(json.dumps(Sender(path, Load(int(rate), int(to_a_candle)), float(seconds)).run()))
        return []
    rows = asyncio.run(measure(options.seconds, options.rounds))
    keep(rows)
    print(json.dumps(rows, indent=2) if options.json else table(rows))
    return rows


async def measure(seconds: float, rounds: int) -> list[Row]:
    found: dict[tuple[Load, str], list[float]] = {(load, road): [] for load in LOADS for road in ROADS}
    sent: dict[tuple[Load, str], list[float]] = {key: [] for key in found}
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        EmbeddedServer.acquire(Path(folder), fsync="everysec") as server,
    ):
        path = server.url.removeprefix("unix://").partition("?")[0]
        async with RedisConnection(url=server.url) as redis:
            for _ in range(rounds):
                for load, road in found:
                    rate, times = await one_run(redis, path, load, road, seconds)
                    found[load, road] += times
                    sent[load, road].append(rate)
    rows: list[Row] = []
    for load in LOADS:
        plain = percentiles(found[load, "plain"])
        for road in ROADS:
            mine = percentiles(found[load, road])
            named = zip(("p50", "p99", "p99.9"), mine, plain, strict=True)
            rows.append(
                {
                    "ticks a second": f"{load.rate:,}, {road} road",
                    "sent a second": round(sorted(sent[load, road])[rounds // 2]),
                    "candles": len(found[load, road]),
                    **{f"{name} ms": value * 1000 for name, value in zip(("p50", "p99", "p99.9"), mine, strict=True)},
                    **{f"{name} x plain": value / other for name, value, other in named},
                }
            )
    return rows


def percentiles(times: list[float]) -> list[float]:
    ranked = sorted(times)
    return [ranked[min(int(len(ranked) * share), len(ranked) - 1)] for share in SHARES]


async def one_run(
    redis: RedisConnection, path: str, load: Load, road: str, seconds: float
) -> tuple[float, list[float]]:
    """Ticks sent a second, and the seconds of each candle."""
    native = tick_book.NATIVE
    tick_book.NATIVE = native and road == "native"
    try:
        consumer = FastOHLCConsumer(
            STREAM, PREFIX, [INTERVAL_MS], timestamp_field="ts", grace=0, start="$", connection=redis
        )
        await consumer.start()
    finally:
        tick_book.NATIVE = native
    arguments = ("--send", path, str(load.rate), str(load.to_a_candle), str(seconds))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.latency", *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    await consumer.stop()
    if process.returncode:
        raise SystemExit(f"the sender ended with {process.returncode}")
    keys = await redis.command("KEYS", "*")
    if keys:
        await redis.command("DEL", *keys)
    rate, times = json.loads(output)
    return rate, times


class Sender:
    """The other process: sends ticks and notes when; reads candles and notes when."""

    def __init__(self, path: str, load: Load, seconds: float) -> None:
        self._path = path
        self._rate = load.rate
        count = int(load.rate * seconds) // SYMBOLS * SYMBOLS
        step = INTERVAL_MS // load.to_a_candle
        self._closing: dict[bytes, int] = {}  # symbol and start of a candle: the tick that ends it
        self._commands: list[bytes] = []
        for place in range(count):
            number, symbol = divmod(place, SYMBOLS)
            # Symbols end their candles at different ticks, so candles come evenly.
            since = (number + symbol * load.to_a_candle // SYMBOLS) * step
            name = f"SYM{symbol:02d}"
            fields = {"symbol": name, "price": f"{100 + place % 7}.25", "volume": "1.5", "ts": str(START_MS + since)}
            self._commands.append(encode_xadd_batch(STREAM, [fields]))
            if number and since % INTERVAL_MS == 0:
                self._closing[_key(name.encode(), b"%d" % (START_MS + since - INTERVAL_MS))] = place
        self._sent = [0.0] * count
        self._seen: dict[int, float] = {}

    def run(self) -> tuple[float, list[float]]:
        """Ticks sent a second, and the seconds of each candle."""
        sys.setswitchinterval(SWITCH)
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        began = time.perf_counter()
        self._send(began)
        rate = len(self._commands) / (time.perf_counter() - began)
        reader.join(timeout=60)
        if len(self._seen) < len(self._closing):
            raise SystemExit(f"{len(self._closing) - len(self._seen)} candles did not come")
        return rate, [seen - self._sent[place] for place, seen in self._seen.items()]

    def _send(self, began: float) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.connect(self._path)
            place, count = 0, len(self._commands)
            while place < count:
                due = min(int((time.perf_counter() - began) * self._rate) + 1, count, place + 1000)
                if due <= place:
                    time.sleep(PAUSE)
                    continue
                now = time.perf_counter()
                self._sent[place:due] = [now] * (due - place)
                link.sendall(b"".join(self._commands[place:due]))
                lines = 2 * (due - place)
                while lines:
                    lines -= link.recv(1 << 16).count(b"\n")
                place = due

    def _read(self) -> None:
        parser = ReplyParser()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.connect(self._path)
            position = b"0-0"
            while len(self._seen) < len(self._closing):
                link.sendall(encode_command(("XREAD", "BLOCK", 1000, "STREAMS", OUTPUT, position)))
                while (reply := parser.get()) is NEED_MORE:
                    parser.feed(link.recv(1 << 18))
                now = time.perf_counter()
                for identifier, fields in reply[0][1] if reply else ():
                    position = identifier
                    named = dict(zip(fields[::2], fields[1::2], strict=True))
                    place = self._closing.get(_key(named[b"symbol"], named[b"candle_start_ms"]))
                    if place is not None:
                        self._seen[place] = now


def _key(symbol: bytes, start: bytes) -> bytes:
    return symbol + b" " + start


if __name__ == "__main__":
    main()
