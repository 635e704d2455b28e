"""Ticks to candles: our engine beside others on the same ticks, in one run, the rounds interleaved.

    python benchmarks/ohlc.py [--ticks 2000000] [--rounds 5] [--json]

The peer is the published streammachine 0.1.0 with its Cython file compiled at -O3 under a private name; it is
downloaded and built in a temporary folder, and left out with a word where that fails. Quote the ratios: the absolute
numbers are this machine's. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from benchmarks.measuring import keep
from benchmarks.published import built, published_wheel
from streammachine.ohlc import reference, threads
from streammachine.ohlc.aggregator import IMPLEMENTATION, FastOHLC

INTERVALS = [60_000, 300_000, 900_000]
SYMBOLS = [f"SYM{k:02d}".encode() for k in range(50)]
START_MS = 1_700_000_000_000
REPLY_ENTRIES = 1_000

FLOOR = """
# cython: language_level=3
cdef class Floor:
    cpdef empty(self, symbol, double price, double volume, long long timestamp_ms):
        pass
"""

Row = dict[str, Any]
Run = Callable[[], int]  # does the work once and returns how many ticks that was


def main(argv: list[str] | None = None) -> list[Row]:
    """Measure everything; print a table, or with ``--json`` the rows."""
    parser = argparse.ArgumentParser(description="Ticks to candles, beside others, in one run.")
    parser.add_argument("--ticks", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        floor = built("sm_bench_floor", FLOOR, Path(folder))
        peer = published_peer(Path(folder))
        ticks = make_ticks(options.ticks)
        rows = [
            *measured("update_tick", "published Cython", options.rounds, update_tick_runs(ticks, floor, peer)),
            *measured(
                "process_stream_batch", "published Cython", options.rounds, stream_runs(options.ticks // 5, peer)
            ),
            *measured("columns", "DuckDB, three GROUP BYs", options.rounds, column_runs(ticks)),
        ]
    keep(rows)
    print(json.dumps(rows, indent=2) if options.json else table(rows))
    return rows


def update_tick_runs(ticks: list[tuple[bytes, float, float, int]], floor: Any, peer: Any) -> dict[str, Run]:
    """``update_tick`` from a plain ``for`` loop; the floor is a compiled method that does nothing."""

    def loop(make: Callable[[], Callable[..., Any]]) -> Run:
        def run() -> int:
            update = make()
            for symbol, price, volume, ms in ticks:
                update(symbol, price, volume, ms)
            return len(ticks)

        return run

    runs = {f"ours ({IMPLEMENTATION})": loop(lambda: FastOHLC(INTERVALS).update_tick)}
    if floor:
        runs["an empty Cython method"] = loop(lambda: floor.Floor().empty)
    if peer:
        runs["published Cython"] = loop(lambda: peer.FastOHLC(INTERVALS).update_tick)
    runs["our plain-Python twin"] = loop(lambda: reference.FastOHLC(INTERVALS).update_tick)
    return runs


def stream_runs(count: int, peer: Any) -> dict[str, Run]:
    """Replies of 1,000 entries in the shape that suits the peer: lists of tuples, dicts, bytes everywhere."""
    rnd = random.Random(2)
    replies = [
        [
            (
                SYMBOLS[reply % len(SYMBOLS)],
                [
                    (
                        b"%d-0" % (START_MS + (reply * REPLY_ENTRIES + k) * 5),
                        {b"price": b"%.8f" % (60_000 + rnd.random()), b"volume": b"%.8f" % rnd.random()},
                    )
                    for k in range(REPLY_ENTRIES)
                ],
            )
        ]
        for reply in range(max(1, count // REPLY_ENTRIES))
    ]

    def batches(make: Callable[[], Any]) -> Run:
        def run() -> int:
            process = make().process_stream_batch
            return sum(process(reply) for reply in replies)

        return run

    runs = {f"ours ({IMPLEMENTATION})": batches(lambda: FastOHLC(INTERVALS))}
    if peer:
        runs["published Cython"] = batches(lambda: peer.FastOHLC(INTERVALS))
    runs["our plain-Python twin"] = batches(lambda: reference.FastOHLC(INTERVALS))
    return runs


def column_runs(ticks: list[tuple[bytes, float, float, int]]) -> dict[str, Run]:
    """``update_batch`` over columns; pandas and DuckDB do the same candles with GROUP BY."""
    import numpy as np
    import pandas as pd

    symbols = np.array([SYMBOLS[0].decode()] * len(ticks), dtype=object)
    names = {symbol: symbol.decode() for symbol in SYMBOLS}
    symbols[:] = [names[symbol] for symbol, _, _, _ in ticks]
    prices = np.array([price for _, price, _, _ in ticks])
    volumes = np.array([volume for _, _, volume, _ in ticks])
    times = np.array([ms for _, _, _, ms in ticks])
    coded = pd.Categorical(symbols)
    fixed = symbols.astype("U")
    frame = pd.DataFrame({"symbol": coded, "price": prices, "volume": volumes, "ms": times})

    def batch(column: Any, cores: int = 1) -> Run:
        def run() -> int:
            before, threads.MOST_THREADS = threads.MOST_THREADS, cores
            try:
                return int(FastOHLC(INTERVALS).update_batch(column, prices, volumes, times))
            finally:
                threads.MOST_THREADS = before

        return run

    def pandas_group_by() -> int:
        for interval in INTERVALS:
            grouped = frame.groupby(["symbol", frame["ms"] // interval], observed=True)
            grouped["price"].agg(["first", "max", "min", "last", "size"])
            grouped["volume"].sum()
        return len(frame)

    runs: dict[str, Run] = {
        f"ours ({IMPLEMENTATION}), one symbol": batch("X"),
        f"ours ({IMPLEMENTATION}), categorical symbols": batch(coded),
        f"ours ({IMPLEMENTATION}), the same on two cores": batch(coded, 2),
        f"ours ({IMPLEMENTATION}), object array": batch(symbols),
        f"ours ({IMPLEMENTATION}), the same on two cores ": batch(symbols, 2),
        f"ours ({IMPLEMENTATION}), fixed-width text array": batch(fixed),
        f"ours ({IMPLEMENTATION}), pandas text": batch(pd.Series(symbols, dtype="str")),
        **arrow_runs(batch, [str(symbol) for symbol in symbols]),
        "NumPy sums, one thread": sums_run([prices, volumes, times], 1),
        "NumPy sums, two threads": sums_run([prices, volumes, times], 2),
        "pandas groupby": pandas_group_by,
    }
    try:
        import duckdb
    except ImportError:
        print("DuckDB is not installed: left out.", file=sys.stderr)
        return runs
    connection = duckdb.connect()
    connection.register("frame", frame)
    connection.execute("CREATE TABLE ticks AS SELECT * FROM frame")

    def duckdb_group_by() -> int:
        for interval in INTERVALS:
            connection.execute(
                "SELECT symbol, ms // ? AS bar, arg_min(price, ms), max(price), min(price), arg_max(price, ms), "
                "sum(volume), count(*) FROM ticks GROUP BY ALL",
                [interval],
            ).fetchnumpy()
        return len(frame)

    runs["DuckDB, three GROUP BYs"] = duckdb_group_by
    return runs


def sums_run(columns: list[Any], threads_used: int) -> Run:
    """The columns added up, each thread its stretch of rows: what a second core gives at all where all that is done
    is to read them."""

    def run() -> int:
        size = len(columns[0]) // threads_used
        pieces = [[column[k * size : (k + 1) * size] for column in columns] for k in range(threads_used)]

        def add(piece: list[Any]) -> None:
            for column in piece:
                column.sum()

        others = [threading.Thread(target=add, args=(piece,)) for piece in pieces[1:]]
        for other in others:
            other.start()
        add(pieces[0])
        for other in others:
            other.join()
        return len(columns[0])

    return run


def arrow_runs(batch: Callable[[Any], Run], symbols: list[str]) -> dict[str, Run]:
    """The same with symbols in Arrow's layout, where the libraries are there."""
    runs: dict[str, Run] = {}
    try:
        import pyarrow

        runs[f"ours ({IMPLEMENTATION}), Arrow string"] = batch(pyarrow.array(symbols))
        import polars

        runs[f"ours ({IMPLEMENTATION}), polars String"] = batch(polars.Series(symbols))
        runs[f"ours ({IMPLEMENTATION}), polars Categorical"] = batch(polars.Series(symbols, dtype=polars.Categorical))
    except ImportError as error:
        print(f"{error.name} is not installed: left out.", file=sys.stderr)
    return runs


def measured(what: str, rival: str, rounds: int, runs: dict[str, Run]) -> list[Row]:
    """Medians over rounds in which every candidate runs once; ``ratio`` is the median of the rounds' own ratios."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    counts: dict[str, int] = {}
    for _ in range(rounds):
        for name, run in runs.items():
            gc.collect()
            gc.disable()
            begun = time.perf_counter()
            counts[name] = run()
            seconds[name].append(time.perf_counter() - begun)
            gc.enable()
    rows = []
    for name, times in seconds.items():
        median = statistics.median(times)
        row: Row = {"what": what, "how": name, "ticks_per_second": counts[name] / median, "rounds": rounds}
        row["ns_per_tick"] = 1e9 / row["ticks_per_second"]
        if rival in seconds:
            row["rival"] = rival
            row["ratio"] = statistics.median(b / a for a, b in zip(times, seconds[rival], strict=True))
        rows.append(row)
    return rows


def table(rows: list[Row]) -> str:
    lines = [f"{'what':<22}{'how':<42}{'ticks/s':>12}{'ns/tick':>10}   times the rival"]
    for row in rows:
        ratio = f"{row['ratio']:.2f} x {row['rival']}" if "ratio" in row else ""
        speed = f"{row['ticks_per_second'] / 1e6:>11.2f}M{row['ns_per_tick']:>10.1f}"
        lines.append(f"{row['what']:<22}{row['how']:<42}{speed}   {ratio}")
    return "\n".join(lines)


def make_ticks(count: int) -> list[tuple[bytes, float, float, int]]:
    """Fifty symbols, in order of time, a tick each 5 ms: what the published engine is quoted on."""
    rnd = random.Random(1)
    return [(rnd.choice(SYMBOLS), 100 + rnd.random(), rnd.random(), START_MS + k * 5) for k in range(count)]


def published_peer(folder: Path) -> ModuleType | None:
    """The published FastOHLC, compiled; None where it cannot be had."""
    wheel = published_wheel(folder)
    if wheel is None:
        return None
    with zipfile.ZipFile(wheel) as packed:
        source = packed.read("streammachine/cython/fast_ohlc.pyx").decode()
    return built("sm_bench_published", source, folder)


if __name__ == "__main__":
    main()
