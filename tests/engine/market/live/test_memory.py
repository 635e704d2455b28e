"""Runners that remember: a restart goes on where the sinks are, heals what was missed by REST, or says the gap."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pandas as pd
import pytest

from streammachine.market.clock.clock import VirtualClock
from streammachine.market.emitters.csv import CSVEmitter
from streammachine.market.emitters.logger import Logger
from streammachine.market.emitters.parquet import ParquetEmitter
from streammachine.market.live import memory
from streammachine.market.live.runner import Runner, runner_for
from streammachine.market.model.data_input import DataInput
from streammachine.market.simulator import Simulator, Tape

START = 1_753_000_020_000
MINUTE = 60_000
pytestmark = pytest.mark.anyio


class World:
    """A simulated exchange, and runners of it that keep their memory in one folder."""

    def __init__(self, simulator: Simulator, clock: VirtualClock, folder: Path) -> None:
        self.simulator = simulator
        self.clock = clock
        self.folder = folder

    def runner(self, wanted: DataInput, exchange: str = "binance", **options: Any) -> Runner:
        urls = self.simulator.urls(exchange)
        return runner_for(
            exchange, wanted, ws_url=urls.ws, rest_url=urls.rest, clock=self.clock,
            **{"remember": self.folder / "memory", **options},
        )  # fmt: skip

    async def run(self, runner: Runner, minutes: int, *emitters: Any) -> list[Any]:
        """Run for so many minutes of the market, in good order; the rows."""
        for emitter in emitters:
            runner.register_emitter(emitter)
        rows = []
        until = self.clock.time_ms() + minutes * MINUTE
        async for row in runner.stream():
            rows.append(row)
            if (row.ts if hasattr(row, "ts") else row.open_ts) >= until:
                break
        await runner.close()
        return rows

    @property
    def files(self) -> list[Path]:
        return sorted((self.folder / "memory").glob("*.json"))


@pytest.fixture
async def world(tmp_path: Path, anyio_backend: str) -> AsyncIterator[World]:
    clock = VirtualClock(START)
    tape = Tape.generate(3, symbols=("BTC/USDT", "ETH/USDT"), start_ms=START)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.drive)
        async with Simulator(tape, ("binance", "kraken"), clock) as simulator:
            yield World(simulator, clock, tmp_path)
        tasks.cancel_scope.cancel()


def starts(path: Path, timeframe: str = "1m", symbol: str = "BTCUSDT") -> list[int]:
    frame = pd.read_csv(path)
    return list(frame[(frame.timeframe == timeframe) & (frame.symbol == symbol)].open_ts)


def is_whole(found: list[int], length: int = MINUTE) -> bool:
    return found == list(range(found[0], found[-1] + length, length))


async def test_a_restart_goes_on_where_the_file_ends(world: World) -> None:
    path = world.folder / "out.csv"
    wanted = DataInput("kline", ["BTCUSDT"], "1m", ["5m"])
    await world.run(world.runner(wanted, active_warmup=True), 7, CSVEmitter(file_path=path))
    assert [oct(file.stat().st_mode)[-3:] for file in world.files] == ["600"]
    await world.clock.sleep(33 * 60)
    runner = world.runner(wanted, active_warmup=True)
    await world.run(runner, 8, CSVEmitter(file_path=path))
    assert is_whole(starts(path))
    assert len(starts(path)) >= 33 + 7
    assert is_whole(starts(path, "5m"), 5 * MINUTE)
    assert not runner.gaps
    assert set(pd.read_csv(path).is_complete) == {True}


async def test_rows_that_the_memory_does_not_know_of_are_not_written_twice(world: World) -> None:
    """As after a kill between the sink and the memory: the file is ahead of what is remembered."""
    path = world.folder / "out.csv"
    wanted = DataInput("kline", ["BTCUSDT"], "1m")
    await world.run(world.runner(wanted), 8, CSVEmitter(file_path=path))
    [file] = world.files
    values = json.loads(file.read_text())
    values["candles"][0][2] -= 3 * MINUTE
    file.write_text(json.dumps(values))
    await world.run(world.runner(wanted), 4, CSVEmitter(file_path=path))
    assert is_whole(starts(path))


async def test_of_quotes_the_time_in_which_nobody_ran_is_a_gap(world: World) -> None:
    path = world.folder / "out.csv"
    wanted = DataInput("quote", ["BTCUSDT"])
    first = await world.run(world.runner(wanted), 1, CSVEmitter(file_path=path))
    await world.clock.sleep(7 * 60)
    began = world.clock.time_ms()
    runner = world.runner(wanted)
    again = await world.run(runner, 1, CSVEmitter(file_path=path))
    [gap] = runner.gaps
    assert (gap.symbol, gap.timeframe, gap.end) == ("BTCUSDT", "quote", began)
    assert 0 < gap.start - first[-1].ts <= 1000  # what came behind the last one that was looked at went into the file
    assert "quotes of the past cannot be had" in gap.reason
    assert again[0].ts >= began
    fresh = world.runner(wanted, fresh=True)
    await world.run(fresh, 1, CSVEmitter(file_path=path))
    assert not fresh.gaps


async def test_other_symbols_find_what_is_theirs(world: World) -> None:
    path = world.folder / "out.csv"
    await world.run(world.runner(DataInput("kline", ["BTCUSDT"], "1m")), 4, CSVEmitter(file_path=path))
    await world.clock.sleep(600)
    both = DataInput("kline", ["BTCUSDT", "ETHUSDT"], "1m")
    await world.run(world.runner(both), 4, CSVEmitter(file_path=path))
    assert is_whole(starts(path))
    assert len(starts(path)) > len(starts(path, symbol="ETHUSDT")) + 10
    await world.run(world.runner(both, fresh=True), 3, CSVEmitter(file_path=world.folder / "other.csv"))
    assert len(world.files) == 3  # another sink is another memory


async def test_one_sink_more_leaves_no_hole_in_the_others(world: World) -> None:
    one, more, other = (world.folder / f"{name}.csv" for name in ("one", "more", "other"))
    wanted = DataInput("kline", ["BTCUSDT"], "1m")
    await world.run(world.runner(wanted), 5, CSVEmitter(file_path=one))
    await world.run(world.runner(wanted), 3, CSVEmitter(file_path=other))
    had = starts(one)[-1]
    await world.clock.sleep(12 * 60)
    await world.run(world.runner(wanted), 4, CSVEmitter(file_path=one), CSVEmitter(file_path=more))
    assert is_whole(starts(one))
    assert is_whole(starts(more)) and starts(more)[0] == had + MINUTE
    await world.clock.sleep(9 * 60)
    await world.run(world.runner(wanted), 4, CSVEmitter(file_path=more))
    assert is_whole(starts(more))


async def test_fresh_begins_anew(world: World) -> None:
    path = world.folder / "out.csv"
    wanted = DataInput("kline", ["BTCUSDT"], "1m")
    await world.run(world.runner(wanted), 4, CSVEmitter(file_path=path))
    await world.clock.sleep(1800)
    await world.run(world.runner(wanted, fresh=True), 3, CSVEmitter(file_path=path))
    assert not is_whole(starts(path))


async def test_what_cannot_be_had_is_a_gap(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MOST_CANDLES", 5)
    path = world.folder / "out.csv"
    wanted = DataInput("kline", ["BTCUSDT"], "1m")
    await world.run(world.runner(wanted), 4, CSVEmitter(file_path=path))
    await world.clock.sleep(1800)
    runner = world.runner(wanted)
    await world.run(runner, 3, CSVEmitter(file_path=path))
    [gap] = runner.gaps
    found = starts(path)
    at = found.index(gap.end)
    assert found[at - 1] + MINUTE == gap.start
    assert is_whole(found[at:])


@pytest.mark.parametrize("exchange", ["binance", "kraken"])
async def test_trades_go_on_behind_the_last_one(world: World, exchange: str) -> None:
    symbol = {"binance": "BTCUSDT", "kraken": "BTC/USDT"}[exchange]
    wanted = DataInput("trade", [symbol])
    path = world.folder / "trades.csv"
    await world.run(world.runner(wanted, exchange), 1, CSVEmitter(file_path=path))
    await world.clock.sleep(300)
    runner = world.runner(wanted, exchange)
    await world.run(runner, 1, CSVEmitter(file_path=path))
    ids = [int(each) for each in pd.read_csv(path).trade_id]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    assert not runner.gaps
    await world.clock.sleep(3 * 3600)
    late = world.runner(wanted, exchange)
    await world.run(late, 1, CSVEmitter(file_path=path))
    assert [gap.timeframe for gap in late.gaps] == ["trade"]


async def test_a_parquet_file_that_is_not_written_yet_is_not_remembered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "EVERY", 0.01)
    kept: list[int] = []
    emitter = ParquetEmitter(world.folder / "rows", rows=1000)

    async def save(self: Any, candles: dict[Any, int], trades: Any) -> None:
        kept.append(len(candles))

    monkeypatch.setattr(memory.Memory, "save", save)
    runner = world.runner(DataInput("kline", ["BTCUSDT"], "1m"))
    runner.register_emitter(emitter)
    async for row in runner.stream():
        if row.open_ts > START + 6 * MINUTE:  # type: ignore[union-attr]
            assert not any(kept)  # only the beginning, when nothing was there
            break
    await runner.close()
    assert kept[-1] == 1


async def test_without_a_sink_that_keeps_anything_nothing_is_remembered(world: World) -> None:
    await world.run(world.runner(DataInput("kline", ["BTCUSDT"], "1m")), 2, Logger())
    await world.run(world.runner(DataInput("kline", ["BTCUSDT"], "1m")), 2)
    assert world.files == []


async def test_a_file_that_is_none_is_left_out_and_a_second_runner_is_not_remembered(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    path = world.folder / "out.csv"
    wanted = DataInput("kline", ["BTCUSDT"], "1m")
    await world.run(world.runner(wanted), 3, CSVEmitter(file_path=path))
    [file] = world.files
    file.write_text('{"version": 1, "candles": [["BTCUSDT", "1m", "x"]], "trades": []}')
    runner = world.runner(wanted)
    await world.run(runner, 2, CSVEmitter(file_path=path))
    assert "is left out" in caplog.text
    plan = runner._run.plan if runner._run is not None else None
    assert plan is not None and plan.memory is not None
    with plan.memory:
        await world.run(world.runner(wanted), 2, CSVEmitter(file_path=path))
    assert "the same runner is at work" in caplog.text
