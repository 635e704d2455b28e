"""Runners against a simulated market: client and exchanges in one loop, on one clock that jumps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import duckdb
import pandas as pd
import pytest

from streammachine import DataEmitter, DataInput, Gap, Kline
from streammachine.market.clock.clock import VirtualClock
from streammachine.market.exchanges import EXCHANGES as EXCHANGES
from streammachine.market.live.runner import Runner, runner_for
from streammachine.market.model import timeframe as timeframes
from streammachine.market.model.rows import Row
from streammachine.market.simulator import Fault, Script, Simulator, Tape

START = 1_753_000_020_000  # 2025-07-20 08:27 UTC, on the minute
MINUTE = 60_000

Candles = list[tuple[Any, ...]]


@dataclass
class World:
    """A simulated market and its clock."""

    clock: VirtualClock
    tape: Tape
    simulator: Simulator

    def options(self, exchange: str) -> dict[str, Any]:
        """What a runner or a backfill needs to be in this world."""
        urls = self.simulator.urls(exchange)
        return {
            "clock": self.clock,
            "ws_url": urls.ws,
            "ws_business_url": urls.ws_business,
            "rest_url": urls.rest,
            "bulk_url": urls.bulk or None,
        }

    def runner(
        self,
        exchange: str = "binance",
        symbols: Sequence[str] = ("BTC/USDT",),
        timeframe: str | None = "1m",
        targets: Sequence[str] = (),
        *,
        kind: str = "kline",
        **options: Any,
    ) -> Runner:
        """A runner; symbols as the tape writes them."""
        names = [self.simulator.symbol(exchange, symbol) for symbol in symbols]
        wanted = DataInput(kind, names, timeframe, list(targets))
        return runner_for(exchange, wanted, **self.options(exchange), **options)

    def truth(self, symbol: str, timeframe: str, start: int, end: int) -> Candles:
        """The candles that begin within [start, end), folded by DuckDB from the tape: (open_ts, open, high, low, close,
        n_trades), flat where nothing was traded."""
        step = timeframes.MILLISECONDS[timeframe]
        before = self.tape.last_before(symbol, start)
        trades = pd.DataFrame(
            [(row.id, row.ts, float(row.price)) for row in self.tape.rows(symbol, start, end)],
            columns=["id", "ts", "price"],
        )
        with duckdb.connect(config={"threads": 1}) as connection:
            connection.register("trades", trades)
            rows = connection.sql(
                f"""SELECT ts - ts % {step}, arg_min(price, id), max(price), min(price), arg_max(price, id),
                count(*)::BIGINT FROM trades GROUP BY 1"""
            ).fetchall()
        found = {row[0]: row for row in rows}
        price = float(before.price) if before is not None else 0.0
        candles: Candles = []
        for ts in range(start, end, step):
            candles.append(found.get(ts, (ts, price, price, price, price, 0)))
            price = candles[-1][4]
        return candles


@asynccontextmanager
async def world(
    *exchanges: str,
    symbols: Sequence[str] = ("BTC/USDT", "ETH/USDT"),
    seed: int = 7,
    start: int = START,
    faults: Iterable[Fault] | Script = (),
    trades_per_minute: int = 20,
    **generated: Any,
) -> AsyncIterator[World]:
    """A market with these exchanges; its time begins ``START``."""
    clock = VirtualClock(start)
    tape = Tape.generate(seed, symbols=symbols, start_ms=start, trades_per_minute=trades_per_minute, **generated)
    failed: list[Exception] = []  # kept out of the groups, so that a test fails with its own words
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.drive)
        async with Simulator(tape, exchanges=exchanges or ("binance",), clock=clock, faults=faults) as simulator:
            try:
                yield World(clock, tape, simulator)
            except Exception as error:
                failed.append(error)
        tasks.cancel_scope.cancel()
    if failed:
        raise failed[0]


class Collector(DataEmitter):
    """Keeps what it gets. ``until``: asked after each row; when it says so, ``done`` is set."""

    name = "collector"

    def __init__(self, until: Callable[[list[Row]], bool] | int | None = None) -> None:
        self.rows: list[Row] = []
        self.connects = self.closes = self.flushes = 0
        self.done = anyio.Event()
        self._until = until

    async def connect(self) -> None:
        self.connects += 1

    async def emit(self, row: Any) -> None:
        self.rows.append(row)
        until = self._until
        if until is not None and (len(self.rows) >= until if isinstance(until, int) else until(self.rows)):
            self.done.set()

    async def flush(self) -> None:
        self.flushes += 1

    async def close(self) -> None:
        self.closes += 1

    def klines(self, symbol: str | None = None, timeframe: str | None = None) -> list[Kline]:
        return [
            row
            for row in self.rows
            if isinstance(row, Kline) and symbol in (None, row.symbol) and timeframe in (None, row.timeframe)
        ]

    def gaps(self) -> list[Gap]:
        return [row for row in self.rows if isinstance(row, Gap)]


def short(rows: Iterable[Kline]) -> Candles:
    """As ``World.truth``."""
    return [(row.open_ts, row.open, row.high, row.low, row.close, row.n_trades) for row in rows]


def without_counts(rows: Iterable[tuple[Any, ...]]) -> Candles:
    """For the exchanges that do not say how many trades a candle has."""
    return [row[:5] for row in rows]


def same(ours: Candles, truth: Candles) -> None:
    """Prices are exact, counts too where the exchange gives them."""
    if any(row[5] is None for row in ours):
        ours, truth = without_counts(ours), without_counts(truth)
    wrong = sorted(set(ours) ^ set(truth))
    assert not wrong, f"{len(wrong)} differ: {wrong[:6]}"
    assert ours == truth


async def run_until(runner: Runner, collector: Collector, seconds: float = 7_200.0) -> None:
    """Run until the collector has what it wants, then close in good order."""
    if collector not in runner.emitters:
        runner.register_emitter(collector)
    clock = runner._clock
    assert clock is not None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runner.run)
        with clock.move_on_after(seconds) as scope:
            await collector.done.wait()
        if scope.cancelled_caught:
            pytest.fail(f"not within {seconds} s: {len(collector.rows)} rows; {runner.stats()}")
        await runner.close()
