"""Trade files to candles: ``build_candles`` beside DuckDB and polars on the same gzipped CSV, the rounds interleaved.

    python -m benchmarks.trade_files [--trades 5000000] [--rounds 5] [--json]

The file is in the form of Binance's spot trades. The peers read it with their own reader and group by 1 and 5 minutes;
DuckDB reads it once into a table, since a file that is read for each of the two would be inflated twice. With
``--memory`` the peak of a process that builds the candles of so many trades, beside one that builds those of a tenth.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from benchmarks.measuring import keep, table
from streammachine.market.emitters.base import DataEmitter
from streammachine.trade_files.build import build_candles

START_US = 1_735_689_600_000_000
NAME = "BTCUSDT-trades-2025-01.csv.gz"
PEAK = """
import resource, sys
from benchmarks.trade_files import Counted
from streammachine.trade_files.build import build_candles
build_candles(sys.argv[1], "1m,5m", Counted())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


class Counted(DataEmitter):
    """A sink that counts."""

    rows = 0

    async def emit_batch(self, rows: Sequence[Any]) -> None:
        self.rows += len(rows)


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, and print a table or, with ``--json``, the rows."""
    parser = argparse.ArgumentParser(description="Trade files to candles, beside DuckDB and polars.")
    parser.add_argument("--trades", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="sm-bench-") as folder:
        path = Path(folder) / NAME
        write_trades(path, options.trades)
        count = options.trades
        rows = memory(path, count) if options.memory else measured(runs(path), count, options.rounds)
    keep(rows)
    print(json.dumps(rows, indent=2) if options.json else table(rows))
    return rows


def runs(path: Path) -> dict[str, Callable[[], int]]:
    """Each gives how many candles it made."""

    def ours() -> int:
        return build_candles(path, "1m,5m", Counted(), progress=False).candles

    found: dict[str, Callable[[], int]] = {"build_candles": ours}
    try:
        import duckdb

        found["DuckDB, read_csv and GROUP BY"] = lambda: by_duckdb(duckdb, path)
    except ImportError:
        print("DuckDB is not installed: left out.", file=sys.stderr)
    try:
        import polars

        found["polars, scan_csv and group_by_dynamic"] = lambda: by_polars(polars, path)
    except ImportError:
        print("polars is not installed: left out.", file=sys.stderr)
    return found


def by_duckdb(duckdb: Any, path: Path) -> int:
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TEMP TABLE trades AS SELECT column1::DOUBLE AS price, column2::DOUBLE AS volume, "
            f"column4::BIGINT AS us FROM read_csv('{path}', header = false)"
        )
        return sum(
            len(
                connection.execute(
                    "SELECT us // ? AS start, arg_min(price, us), max(price), min(price), arg_max(price, us), "
                    "sum(volume), sum(price * volume), count(*) FROM trades GROUP BY ALL",
                    [interval * 1_000_000],
                ).fetchall()
            )
            for interval in (60, 300)
        )


def by_polars(polars: Any, path: Path) -> int:
    price, volume = polars.col("price"), polars.col("volume")
    names = ["id", "price", "volume", "quote", "us", "maker", "best"]  # polars 2 counts columns from 0, polars 1 from 1
    trades = polars.scan_csv(path, has_header=False, new_columns=names).with_columns(
        start=polars.from_epoch("us", time_unit="us").set_sorted()
    )
    frames = polars.collect_all(
        [
            trades.group_by_dynamic("start", every=every).agg(
                open=price.first(),
                high=price.max(),
                low=price.min(),
                close=price.last(),
                volume=volume.sum(),
                quote=(price * volume).sum(),
                n=polars.len(),
            )
            for every in ("1m", "5m")
        ]
    )
    return sum(len(frame) for frame in frames)


def measured(candidates: dict[str, Callable[[], int]], trades: int, rounds: int) -> list[dict[str, Any]]:
    """Medians; ``ratio``: the median, over the rounds, of the better peer's seconds by ours."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    counts: dict[str, int] = {}
    for turn in range(rounds + 1):
        for name, run in candidates.items():
            begun = time.perf_counter()
            counts[name] = run()
            if turn:  # the first warms up
                seconds[name].append(time.perf_counter() - begun)
    if len(set(counts.values())) > 1:
        raise SystemExit(f"they made different numbers of candles: {counts}")
    ours = seconds["build_candles"]
    return [
        {
            "how": name,
            "trades/s": trades / statistics.median(times),
            "seconds": statistics.median(times),
            "build_candles is times as fast": statistics.median(b / a for a, b in zip(ours, times, strict=True)),
        }
        for name, times in seconds.items()
    ]


def memory(path: Path, trades: int) -> list[dict[str, Any]]:
    """The peaks, in MB, of a process for each of two sizes."""
    small = path.parent / "small" / NAME
    small.parent.mkdir()
    write_trades(small, trades // 10)
    rows = []
    for count, file in ((trades // 10, small), (trades, path)):
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(file)], capture_output=True, text=True, check=True,
            cwd=Path(__file__).parents[1],
        )  # fmt: skip
        rows.append({"how": "build_candles", "trades": count, "peak MB": int(done.stdout)})
    return rows


def write_trades(path: Path, count: int) -> None:
    """Trades in order of time, about 50 a second."""
    import numpy as np

    rng = np.random.default_rng(7)
    walk, us, piece = 0.0, START_US, 500_000
    with gzip.open(path, "wb", compresslevel=6) as file:
        for first in range(0, count, piece):
            size = min(piece, count - first)
            times = us + np.cumsum(rng.exponential(20_000, size)).astype(np.int64)
            steps = walk + np.cumsum(rng.normal(0, 2e-6, size))
            prices = np.round(60_000 * np.exp(steps), 2)
            volumes = np.maximum(0.00001, np.round(rng.lognormal(-4.5, 1.5, size), 5))
            us, walk = int(times[-1]), float(steps[-1])
            maker = np.where(rng.random(size) < 0.5, "True", "False")
            rows = zip(range(first, first + size), prices, volumes, times, maker, strict=True)
            file.write(
                "".join(
                    f"{4_000_000_000 + k},{p:.8f},{v:.8f},{p * v:.8f},{t},{m},True\n" for k, p, v, t, m in rows
                ).encode()
            )


if __name__ == "__main__":
    main()
