"""A year of minutes from Binance's bulk files into each sink: in columns, row by row, and a peer on the same files.

    python -m benchmarks.bulk_history [--rounds 5] [--no-postgres] [--json]

A server in another process gives the zips, their checksums, and what a backfill asks of REST. "row by row" is
``columns=False``, the way of whatever is unusual; it does one of the twelve months, as it is slow, and databases get
three. The peers check nothing. polars reads each zip's CSV from the disk and writes it as Parquet, a file a month.
"bare" is psycopg with tuples that lie ready: COPY and one upsert for 5,000 of them (benchmarks/market_postgres.py).
Everybody in turns; quote the ratios. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sqlalchemy import create_engine

from benchmarks import market_postgres as pg
from benchmarks.measuring import Row, keep, median_ratio, table
from streammachine.market.backfill.backfill import BinanceBackfilling
from streammachine.market.emitters.base import DataEmitter
from streammachine.market.emitters.csv import CSVEmitter
from streammachine.market.emitters.duckdb import DuckDBEmitter
from streammachine.market.emitters.parquet import ParquetEmitter
from streammachine.market.emitters.postgres import PostgresEmitter

YEAR = 2024
MONTHS = 12
SHARE = 1  # month that is done row by row
QUARTER = 3  # months that go into a database
MINUTE = 60_000
NAMES = ("open_ts", "open", "high", "low", "close", "volume", "end_ts", "quote_volume", "n_trades", "b", "q", "i")
Run = Callable[[], int]  # gives the number of rows


class Nothing(DataEmitter):
    """Takes all and keeps nothing."""

    async def emit_batch(self, rows: Any) -> None:
        """Rows."""

    async def emit_columns(self, columns: Any) -> None:
        """Columns."""


def main(argv: list[str] | None = None) -> None:
    """Measure everything; print a table, or with ``--json`` the rows."""
    parser = argparse.ArgumentParser(description="A year of minutes from bulk files into each sink.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-postgres", action="store_true")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="sm-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user where this runs as root
        zips = write_zips(folder / "data")
        with files(folder / "data") as url:
            rows = measure(groups(folder, zips, url), options.rounds)
            if not options.no_postgres:
                with pg.postgres(folder) as server:
                    rows += measure({"PostgreSQL": into_postgres(folder, zips, url, server)}, options.rounds)
    keep(rows)
    print(json.dumps(rows, indent=2) if options.json else table(rows))


def groups(folder: Path, zips: list[Path], url: str) -> dict[str, dict[str, Run]]:
    """What is measured beside what; the last of each is the base of the ratios."""
    run = partial(backfilled, folder, url)
    return {
        "no sink": {
            "ours, columns": partial(run, Nothing, MONTHS),
            "ours, row by row": partial(run, Nothing, SHARE, columns=False),
        },
        "Parquet": {
            "ours, columns": partial(run, lambda: ParquetEmitter(folder / "parquet"), MONTHS),
            "polars": partial(by_polars, folder / "polars", zips),
            "ours, row by row": partial(run, lambda: ParquetEmitter(folder / "parquet"), SHARE, columns=False),
        },
        "CSV": {
            "ours, columns": partial(run, lambda: CSVEmitter(file_path=folder / "out.csv"), MONTHS),
            "ours, row by row": partial(run, lambda: CSVEmitter(file_path=folder / "out.csv"), SHARE, columns=False),
        },
        "DuckDB": {
            "ours, columns": partial(run, lambda: DuckDBEmitter(folder / "out.duckdb"), QUARTER),
            "ours, row by row": partial(run, lambda: DuckDBEmitter(folder / "out.duckdb"), SHARE, columns=False),
        },
    }


def into_postgres(folder: Path, zips: list[Path], url: str, server: str) -> dict[str, Run]:
    """The same into PostgreSQL, beside COPY and upsert of tuples that lie ready."""
    ready = [row for path in zips[:QUARTER] for row in tuples(path)]

    def emitter() -> PostgresEmitter:
        return PostgresEmitter(url=server).set_model(pg.Candle).on_conflict(list(pg.KEY))

    def bare() -> int:
        pg.bare(server, ready)
        return len(ready)

    def fresh(run: Run) -> int:
        pg.execute(server, "DROP TABLE IF EXISTS candles")
        pg.Base.metadata.create_all(create_engine(server.replace("postgresql://", "postgresql+psycopg://")))
        return run()

    run = partial(backfilled, folder, url, emitter)
    return {
        "ours, columns": partial(fresh, partial(run, QUARTER)),
        "ours, row by row": partial(fresh, partial(run, SHARE, columns=False)),
        "bare COPY and upsert": partial(fresh, bare),
    }


def measure(found: dict[str, dict[str, Run]], rounds: int) -> list[Row]:
    """Rows a second of everybody, and as multiples of the others of its group."""
    rates: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds + 1):
        for group, runs in found.items():
            for who, run in runs.items():
                began = time.perf_counter()
                rate = run() / (time.perf_counter() - began)
                if number:  # the first round warms up
                    rates.setdefault((group, who), []).append(rate)
    rows: list[Row] = []
    for (group, who), each in rates.items():
        row: Row = {"into": group, "who": who, "rows a second": sorted(each)[len(each) // 2]}
        for other in found[group]:
            if other != "ours, columns":
                row[f"x {other}"] = median_ratio(each, rates[group, other])
        rows.append(row)
    return rows


def backfilled(folder: Path, url: str, emitter: Callable[[], Any], months: int, *, columns: bool = True) -> int:
    """One backfill from the beginning."""
    for name in ("parquet", "journals"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("out.csv", "out.duckdb"):
        (folder / name).unlink(missing_ok=True)
    last = datetime.fromtimestamp(start_of(months + 1) / 1000 - 1, UTC)
    backfill = BinanceBackfilling(
        *("BTCUSDT", "1m", f"{YEAR}-01-01", f"{last:%Y-%m-%d}"),
        rest_url=url,
        bulk_url=url,
        progress=False,
        columns=columns,
        data_dir=folder / "journals",
    )
    backfill.register_emitter(emitter()).run()
    wanted = (start_of(months + 1) - start_of(1)) // MINUTE
    found = backfill.stats()
    if found["rows"] != wanted or found["gaps"]:
        raise RuntimeError(f"{wanted} rows asked for: {found}")
    return wanted


def by_polars(folder: Path, zips: list[Path]) -> int:
    """Each zip's CSV, as Parquet."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    count = 0
    for path in zips:
        frame = read_by_polars(path)
        frame.write_parquet(folder / f"{path.stem}.parquet")
        count += len(frame)
    return count


def read_by_polars(path: Path) -> pl.DataFrame:
    with zipfile.ZipFile(path) as archive:
        return pl.read_csv(archive.read(archive.namelist()[0]), has_header=False, new_columns=list(NAMES))


def tuples(path: Path) -> list[tuple[Any, ...]]:
    """The rows that bare psycopg writes."""
    frame = read_by_polars(path)
    columns = {
        **{name: frame[name].to_list() for name in NAMES[:9]},
        **dict(source="Binance", symbol="BTCUSDT", timeframe="1m", vwap=None, is_closed=True),  # noqa: C408
    }
    lists = [each if isinstance(each := columns[name], list) else [each] * len(frame) for name in pg.COLUMNS]
    return list(zip(*lists, strict=True))


# -- the files --------------------------------------------------------------------------------


def start_of(month: int) -> int:
    """Where a month of the year begins (13: the next year), epoch milliseconds."""
    return int(datetime(YEAR + (month - 1) // 12, (month - 1) % 12 + 1, 1, tzinfo=UTC).timestamp() * 1000)


def write_zips(folder: Path) -> list[Path]:
    """A zip a month, and beside it its checksum, as data.binance.vision has them."""
    made = []
    random = np.random.default_rng(7)
    below = folder / "data/spot/monthly/klines/BTCUSDT/1m"
    below.mkdir(parents=True)
    price = 42_000.0
    for month in range(1, MONTHS + 1):
        starts = np.arange(start_of(month), start_of(month + 1), MINUTE)
        steps = random.normal(0, 12, (4, len(starts)))
        close = price + np.cumsum(steps[0])
        first = np.concatenate(([price], close[:-1]))
        price = float(close[-1])
        volume = random.gamma(2.0, 8.0, len(starts))
        columns = {
            "open_ts": starts,
            "open": first.round(2),
            "high": (np.maximum(first, close) + abs(steps[1])).round(2),
            "low": (np.minimum(first, close) - abs(steps[2])).round(2),
            "close": close.round(2),
            "volume": volume.round(5),
            "end_ts": starts + MINUTE - 1,
            "quote_volume": (volume * close).round(5),
            "n_trades": random.integers(1, 5000, len(starts)),
            "b": (volume / 2).round(5),
            "q": (volume * close / 2).round(5),
            "i": np.zeros(len(starts), int),
        }
        text = pl.DataFrame(columns).write_csv(include_header=False, float_precision=8)
        path = below / f"BTCUSDT-1m-{YEAR}-{month:02}.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(path.with_suffix(".csv").name, text)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        path.with_name(f"{path.name}.CHECKSUM").write_text(f"{digest}  {path.name}\n")
        made.append(path)
    rest = folder / "api/v3"
    rest.mkdir(parents=True)
    (rest / "exchangeInfo").write_text(json.dumps({"symbols": [{"symbol": "BTCUSDT", "status": "TRADING"}]}))
    (rest / "klines").write_text(
        json.dumps([[start_of(1), *["1"] * 5, start_of(2) - 1, "1", 1, "1", "1", "0"]])  # of the first month
    )
    return made


@contextmanager
def files(folder: Path) -> Iterator[str]:
    """A server of the folder in another process; gives its URL."""
    code = (
        "import functools, http.server as h, sys\n"
        "class Quiet(h.SimpleHTTPRequestHandler):\n"
        "    protocol_version = 'HTTP/1.1'\n"
        "    def log_message(self, *_): pass\n"
        "made = h.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=sys.argv[1]))\n"
        "print(made.server_port, flush=True)\n"
        "made.serve_forever()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
