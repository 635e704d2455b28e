"""A simulated exchange and backfills of it on one virtual clock, and what they should find, folded by DuckDB."""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import duckdb

from streammachine.market.backfill.backfill import Backfilling, backfill_for
from streammachine.market.clock.clock import VirtualClock
from streammachine.market.exchanges import adapter_for
from streammachine.market.exchanges.base import Urls
from streammachine.market.model import timeframe as timeframes
from streammachine.market.network.rest_client import RestClient
from streammachine.market.simulator import Fault, Simulator, Tape

SYMBOL = "BTC/USDT"


def utc(text: str) -> int:
    """Epoch milliseconds of an ISO text in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


NOW = utc("2024-02-03T05:00:12")  # between two minutes
LISTED = "2023-12-20"


@dataclass
class Market:
    """One simulated exchange."""

    exchange: str
    clock: VirtualClock
    tape: Tape
    simulator: Simulator
    urls: Urls

    @property
    def symbol(self) -> str:
        """The tape's symbol as the exchange writes it."""
        return self.simulator.symbol(self.exchange, SYMBOL)

    def backfill(self, timeframe: str, start: Any, end: Any = "now", **options: Any) -> Backfilling:
        """A backfill of it that needs no network."""
        symbol = options.pop("symbol", self.symbol)
        given = {"clock": self.clock, "rest_url": self.urls.rest, "bulk_url": self.urls.bulk or None, **options}
        return backfill_for(self.exchange, symbol, timeframe, start, end, **given)

    def rest(self, **options: Any) -> RestClient:
        """A REST client of it."""
        return RestClient(adapter_for(self.exchange), self.urls, clock=self.clock, **options)

    def asked(self) -> list[str]:
        """Every REST request so far: its answer's status and its target."""
        return [entry.detail for entry in self.simulator.log.of("rest")]


@asynccontextmanager
async def market(
    exchange: str = "binance",
    *,
    faults: Sequence[Fault] = (),
    now: int = NOW,
    tape: Tape | None = None,
    rules: dict[str, Any] | None = None,
) -> AsyncIterator[Market]:
    """Run an exchange on a virtual clock."""
    clock = VirtualClock(now)
    tape = tape or Tape.generate(seed=11, symbols=(SYMBOL,), start_ms=now - 3_600_000)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.drive)
        simulator = Simulator(tape, (exchange,), clock, faults, rules={exchange: rules or {}})
        async with simulator:
            yield Market(exchange, clock, tape, simulator, simulator.urls(exchange))
        tasks.cancel_scope.cancel()


Candle = tuple[int, float, float, float, float, int]  # open_ts, open, high, low, close, trades


def golden(tape: Tape, timeframe: str, start: int, end: int, *, symbol: str = SYMBOL) -> list[tuple[Candle, float]]:
    """The candles that begin within [start, end) and their volumes, folded by DuckDB; empty ones flat."""
    trades = [(trade.id, trade.ts, trade.price, trade.quantity) for trade in tape.rows(symbol, start, end)]
    before = tape.last_before(symbol, start)
    starts = list(timeframes.starts(timeframe, start, end))
    with duckdb.connect() as database:
        database.execute("CREATE TABLE trades (id BIGINT, ts BIGINT, price DECIMAL(18, 8), volume DECIMAL(18, 8))")
        for at in range(0, len(trades), 50_000):
            some = trades[at : at + 50_000]
            database.execute(
                "INSERT INTO trades SELECT unnest($1::BIGINT[]), unnest($2::BIGINT[]), "
                "unnest($3::VARCHAR[])::DECIMAL(18, 8), unnest($4::VARCHAR[])::DECIMAL(18, 8)",
                [list(column) for column in zip(*some, strict=True)],
            )
        database.execute("CREATE TABLE starts (start BIGINT)")
        database.execute("INSERT INTO starts SELECT unnest($1::BIGINT[])", [starts])
        found = database.execute(
            "SELECT start, arg_min(price, id), max(price), min(price), arg_max(price, id), count(*), sum(volume) "
            "FROM trades ASOF JOIN starts ON ts >= start GROUP BY start ORDER BY start"
        ).fetchall()
    by_start = {row[0]: row for row in found}
    close = float(before.price) if before is not None else None
    made: list[tuple[Candle, float]] = []
    for ts in starts:
        row = by_start.get(ts)
        if row is not None:
            close = float(row[4])
            made.append(((ts, float(row[1]), float(row[2]), float(row[3]), close, row[5]), float(row[6])))
        elif close is not None:
            made.append(((ts, close, close, close, close, 0), 0.0))
    return made


def files(folder: Path) -> list[str]:
    """The names of what is in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


def write(path: Path, text: str) -> None:
    """Write a file."""
    path.write_text(text)


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, in its order."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_golden(
    rows: Sequence[dict[str, Any]], tape: Tape, timeframe: str, start: int, end: int, *, symbol: str = SYMBOL
) -> None:
    """The rows are exactly the range's candles, in order, each once: prices and counts (where the exchange tells them)
    exact, volumes to 1e-9."""
    expected = golden(tape, timeframe, start, end, symbol=symbol)
    starts = [int(row["open_ts"]) for row in rows]
    assert starts == [candle[0] for candle, _ in expected]
    for row, (candle, volume) in zip(rows, expected, strict=True):
        found = tuple(float(row[name]) for name in ("open", "high", "low", "close"))
        assert found == candle[1:5], row
        assert abs(float(row["volume"]) - volume) <= 1e-9 * max(1.0, volume), row
        if row["n_trades"] not in (None, "") or row["source"] in ("Binance", "Kraken"):
            assert int(row["n_trades"]) == candle[5], row
        assert int(row["end_ts"]) == timeframes.end_of(timeframe, candle[0]) - 1
        assert row["is_closed"] in (True, "true")
