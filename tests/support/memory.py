"""How much memory a road takes: ``python -m support.memory ROAD SIZE [URL]`` prints two numbers of bytes.

The first is by how much the process was larger at its peak than before, once what the road imports was there; the
second is what it gave. Roads: ``categories`` and ``texts`` (``update_batch`` of SIZE rows), ``symbols`` (SIZE symbols
of four intervals in one aggregator), ``books`` (the same, an aggregator each as the consumer has them), and ``frame``
(``read_frame`` of SIZE entries of the server at URL).
"""

from __future__ import annotations

import asyncio
import gc
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from streammachine.frames.read import read_frame
from streammachine.ohlc.aggregator import FastOHLC
from streammachine.ohlc.consumer.candle_book import TickFields
from streammachine.ohlc.consumer.tick_book import make_book
from streammachine.redis.connection import RedisConnection

START = 1_700_000_000_000
INTERVALS = [60_000, 300_000, 900_000, 3_600_000]
SYMBOLS = 50


def status(name: str) -> int:
    """Bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def grown(run: Callable[[], int]) -> tuple[int, int]:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew; see proc(5)
    before = status("VmRSS")
    result = run()
    return status("VmHWM") - before, result


def columns(road: str, rows: int) -> tuple[int, int]:
    codes = (np.arange(rows) % SYMBOLS).astype("i1")
    names = [f"SYM{number:02d}" for number in range(SYMBOLS)]
    symbols: object = pd.Categorical.from_codes(codes, names)
    if road == "texts":
        import pyarrow as pa

        symbols = pa.array(names).take(pa.array(codes))
    prices = 100.0 + np.arange(rows) % 977
    volumes, times = np.ones(rows), START + np.arange(rows)
    FastOHLC(INTERVALS[:3]).update_batch(symbols[:1000], prices[:1000], volumes[:1000], times[:1000])  # type: ignore[index]
    engine = FastOHLC(INTERVALS[:3])
    found = grown(lambda: engine.update_batch(symbols, prices, volumes, times))
    assert engine.tick_count == rows
    return found[0], len(engine.dump())


def symbols(count: int) -> tuple[int, int]:
    engine = FastOHLC(INTERVALS)
    names = pd.Categorical([f"SYM{number:05d}" for number in range(count)])
    prices, times = np.ones(count), np.full(count, START)
    found = grown(lambda: engine.update_batch(names, prices, prices, times))
    assert len(engine.symbols) == count
    return found[0], count


def books(count: int) -> tuple[int, int]:
    fields = TickFields(timestamp="ts")
    book = make_book("ticks", INTERVALS, fields, grace_ms=5000, max_candles=10_000)

    def fold() -> int:
        for number in range(count):
            tick = {b"symbol": b"SYM%05d" % number, b"price": b"1.5", b"volume": b"2", b"ts": b"%d" % START}
            book.fold([(b"1-%d" % number, tick)], START)
        return book.counts()["symbols"]

    return grown(fold)


def frame(url: str, entries: int) -> tuple[int, int]:
    async def read(stream: str) -> pd.DataFrame:
        async with RedisConnection(url=url) as redis:
            return await read_frame(stream, redis=redis)

    assert len(asyncio.run(read("few"))) == 1
    kept = []

    def run() -> int:
        kept.append(asyncio.run(read("ticks")))
        return int(kept[0].memory_usage(deep=True).sum())

    found = grown(run)
    assert len(kept[0]) == entries
    return found


if __name__ == "__main__":
    road, size = sys.argv[1], int(sys.argv[2])
    if road == "frame":
        print(*frame(sys.argv[3], size))
    else:
        print(
            *({"symbols": symbols, "books": books}[road](size) if road in ("symbols", "books") else columns(road, size))
        )
