"""Runners against the simulator: from the socket to the emitters and the ``async for``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from streammachine import DataEmitter, DataInput, Gap, Kline, Trade, merge_streams
from streammachine.errors import EmitterError, EmitterUnavailableError, MarketError
from streammachine.market.simulator import Fault
from support.market_runs import EXCHANGES, MINUTE, START, Collector, run_until, same, short, world

pytestmark = pytest.mark.anyio


def closed(count: int, timeframe: str = "1m", symbols: int = 1) -> Callable[[list[Any]], bool]:
    """Whether so many closed candles of a timeframe came of each of so many symbols."""

    def enough(rows: list[Any]) -> bool:
        counts: dict[str, int] = {}
        for row in rows:
            if isinstance(row, Kline) and row.timeframe == timeframe and row.is_closed:
                counts[row.symbol] = counts.get(row.symbol, 0) + 1
        return len(counts) == symbols and min(counts.values()) >= count

    return enough


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_every_closed_candle_of_the_tape_comes_once_and_in_order(exchange: str) -> None:
    async with world(exchange) as there:
        runner = there.runner(exchange, ["BTC/USDT", "ETH/USDT"])
        collector = Collector(closed(12, symbols=2))
        await run_until(runner, collector)
        for symbol in ("BTC/USDT", "ETH/USDT"):
            ours = collector.klines(there.simulator.symbol(exchange, symbol))
            assert ours[0].open_ts == START
            same(short(ours), there.truth(symbol, "1m", START, ours[-1].end_ts + 1))
            assert all(row.is_closed and row.is_complete and row.source == runner.source for row in ours)
    assert (collector.connects, collector.closes) == (1, 1)
    assert collector.flushes >= 1
    assert runner.stats().state == "closed"


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_with_warmup_every_aggregated_candle_is_complete(exchange: str) -> None:
    async with world(exchange) as there:
        runner = there.runner(exchange, targets=["1h", "5m", "15m"], active_warmup=True)
        collector = Collector(closed(1, "1h"))
        await run_until(runner, collector)
        hour = START // 3_600_000 * 3_600_000
        assert collector.klines(timeframe="1m")[0].open_ts == START  # warm-up itself is not emitted
        for timeframe, step in (("5m", 5), ("15m", 15), ("1h", 60)):
            ours = collector.klines(timeframe=timeframe)
            begin = START // (step * MINUTE) * step * MINUTE
            same(short(ours), there.truth("BTC/USDT", timeframe, begin, ours[-1].end_ts + 1))
            assert all(row.is_complete and row.origin == "aggregate" for row in ours)
        assert collector.klines(timeframe="1h")[0].open_ts == hour


async def test_without_warmup_the_first_aggregated_candle_is_marked_incomplete() -> None:
    async with world() as there:
        collector = Collector(closed(2, "5m"))
        await run_until(there.runner(targets=["5m"]), collector)
        assert [row.is_complete for row in collector.klines(timeframe="5m")] == [False, True]


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_emitted_warmup_and_the_live_feed_meet_without_a_hole_or_a_duplicate(exchange: str) -> None:
    # 200 ms before a minute ends: it closes between warm-up and the first live frame.
    async with world(exchange, start=START) as there:
        await there.clock.sleep_until(START + 5 * MINUTE - 200)
        runner = there.runner(exchange, ["BTC/USDT", "ETH/USDT"], targets=["15m"], emit_warmup=True)
        collector = Collector(closed(2, "15m", symbols=2))
        await run_until(runner, collector)
        quarter = (START + 5 * MINUTE - 200) // (15 * MINUTE) * 15 * MINUTE
        for symbol in ("BTC/USDT", "ETH/USDT"):
            name = there.simulator.symbol(exchange, symbol)
            ours = collector.klines(name, "1m")
            assert ours[0].open_ts == quarter
            same(short(ours), there.truth(symbol, "1m", quarter, ours[-1].end_ts + 1))
            targets = collector.klines(name, "15m")
            same(short(targets), there.truth(symbol, "15m", quarter, targets[-1].end_ts + 1))
            assert all(row.is_complete for row in targets)
    assert not runner.gaps


@pytest.mark.parametrize("kind", ["kline", "trade"])
async def test_what_the_sinks_lack_is_made_up_for_also_a_target_that_was_not_written_yet(kind: str) -> None:
    ten = (START // (15 * MINUTE) + 1) * 15 * MINUTE
    async with world() as there:
        await there.clock.sleep_until(ten + 33 * MINUTE + 20_000)
        # killed right behind the base candle that ended two targets, one of which had failed once before
        had = {("BTCUSDT", "1m"): ten + 14 * MINUTE, ("BTCUSDT", "5m"): ten, ("BTCUSDT", "15m"): ten - 15 * MINUTE}
        runner = there.runner(targets=["15m", "5m"], kind=kind, resume=had)
        collector = Collector(closed(3, "15m"))
        await run_until(runner, collector)
        for timeframe, step, begin in (("1m", 1, 15), ("5m", 5, 5), ("15m", 15, 0)):
            ours = collector.klines(timeframe=timeframe)
            assert ours[0].open_ts == ten + begin * MINUTE, timeframe
            same(short(ours), there.truth("BTC/USDT", timeframe, ours[0].open_ts, ours[-1].end_ts + 1))
            assert [row.open_ts for row in ours] == list(range(ours[0].open_ts, ours[-1].open_ts + 1, step * MINUTE))
            assert all(row.is_complete for row in ours)


async def test_what_was_missed_and_cannot_be_had_is_a_gap() -> None:
    async with world("kraken") as there:
        name = there.simulator.symbol("kraken", "BTC/USDT")
        had = START - 1000 * MINUTE  # Kraken gives 720 candles back
        runner = there.runner("kraken", resume={(name, "1m"): had}, emit_gap=True)
        collector = Collector(closed(725))
        await run_until(runner, collector)
        [gap] = collector.gaps()
        ours = collector.klines()
        assert (gap.start, gap.end) == (had + MINUTE, ours[0].open_ts)
        same(short(ours), there.truth("BTC/USDT", "1m", ours[0].open_ts, ours[-1].end_ts + 1))


async def test_without_targets_warmup_is_what_came_since_midnight() -> None:
    midnight = START // 86_400_000 * 86_400_000
    async with world() as there:
        collector = Collector(closed(520))
        await run_until(there.runner(emit_warmup=True), collector)
        ours = collector.klines()
        assert ours[0].open_ts == midnight
        same(short(ours), there.truth("BTC/USDT", "1m", midnight, ours[-1].end_ts + 1))


async def test_kraken_gives_720_candles_and_a_longer_target_says_that_it_is_incomplete() -> None:
    day = START // 86_400_000 * 86_400_000
    async with world("kraken", start=day + 20 * 3_600_000) as there:
        runner = there.runner("kraken", targets=["1d", "1h"], active_warmup=True)
        collector = Collector(closed(1, "1d"))
        await run_until(runner, collector, 5 * 3600)
        [made] = collector.klines(timeframe="1d")
        assert (made.open_ts, made.is_complete) == (day, False)
        assert all(row.is_complete for row in collector.klines(timeframe="1h"))


async def test_stream_yields_what_the_emitters_get() -> None:
    async with world() as there:
        runner = there.runner(targets=["5m"])
        collector = Collector()
        runner.register_emitter(collector)
        taken: list[Kline | Trade] = []
        async for kline in runner.stream():
            taken.append(kline)
            if isinstance(kline, Kline) and kline.timeframe == "5m" and len(taken) > 10:
                await runner.close()
        assert len(taken) > 10
        assert taken == collector.rows
        assert collector.closes == 1


async def test_leaving_the_loop_drains_and_closes_the_emitters() -> None:
    async with world() as there:
        runner = there.runner()
        collector = Collector()
        runner.register_emitter(collector)
        rows = runner.stream()
        async for _ in rows:
            break
        await rows.aclose()
        assert (len(collector.rows), collector.closes) == (1, 1)
        assert there.simulator.sockets("binance") == 0
        assert [kline async for kline in runner.stream() if await runner.close() is None] != []  # it can go again


async def test_cancelling_the_run_drains_the_emitters() -> None:
    class Slow(Collector):
        async def emit(self, row: Any) -> None:
            await super().emit(row)
            await there.clock.sleep(0.5)

    async with world(symbols=[f"C{k}/USDT" for k in range(10)]) as there:
        runner = there.runner(symbols=[f"C{k}/USDT" for k in range(10)])
        collector = Slow(3)
        runner.register_emitter(collector)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.run)
            await collector.done.wait()
            assert len(collector.rows) == 3
            tasks.cancel_scope.cancel()
        assert collector.closes == 1
        assert len(collector.rows) == runner.stats().rows > 3
        assert runner.stats().emitters[0]["failed"] == 0


async def test_a_second_cancellation_cuts_the_draining_short() -> None:
    class Away(Collector):
        async def emit(self, row: Any) -> None:
            raise EmitterUnavailableError("the database is away")

    lost: list[Any] = []
    async with world(symbols=[f"C{k}/USDT" for k in range(5)]) as there:
        runner = there.runner(
            symbols=[f"C{k}/USDT" for k in range(5)],
            drain_timeout=3_600.0,
            on_error=lambda row, error: lost.append(row),
        )
        runner.register_emitter(Away())
        task = asyncio.get_running_loop().create_task(runner.run())
        while runner.stats().rows < 5:
            await there.clock.sleep(1.0)
        before = there.clock.monotonic()
        for _ in range(2):
            task.cancel()
            await there.clock.sleep(1.0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert there.clock.monotonic() - before < 60.0
        assert len(lost) == runner.stats().rows >= 5  # nothing is dropped in silence
        assert runner.stats().state == "closed"


async def test_an_emitter_may_close_the_runner() -> None:
    class Enough(Collector):
        async def emit(self, row: Any) -> None:
            await super().emit(row)
            if len(self.rows) == 3:
                runner.close()

    async with world() as there:
        runner = there.runner()
        collector = Enough()
        runner.register_emitter(collector)
        await runner.run()
        assert len(collector.rows) >= 3
        assert collector.closes == 1


def test_a_loop_that_is_just_left_closes_the_emitters_too() -> None:
    collector = Collector()

    async def take_one() -> None:
        async with world() as there:
            runner = there.runner()
            runner.register_emitter(collector)
            async for _ in runner.stream():
                break
            await there.clock.sleep(30.0)  # the loop closes the generator by itself
            assert runner.stats().state == "closed"

    asyncio.run(take_one())
    assert (len(collector.rows), collector.closes) == (1, 1)


async def test_closing_before_it_starts_is_an_end_too() -> None:
    async with world() as there:
        runner = there.runner()
        await runner.close()
        await runner.run()
        assert [row async for row in runner.stream()] == []


async def test_closing_while_it_starts_ends_it() -> None:
    async with world(faults=[Fault("timeout", seconds=60, times=5)]) as there:
        runner = there.runner()
        collector = Collector()
        runner.register_emitter(collector)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.run)
            await there.clock.sleep(1.0)
            assert runner.stats().state == "checking"
            await runner.close()
        assert (runner.stats().state, collector.connects) == ("closed", 0)


async def test_it_runs_once_at_a_time() -> None:
    async with world() as there:
        runner = there.runner()
        collector = Collector(1)
        runner.register_emitter(collector)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.run)
            await collector.done.wait()
            with pytest.raises(MarketError, match="is running"):
                await runner.run()
            with pytest.raises(MarketError, match="is running"):
                runner.register_emitter(Collector())
            with pytest.raises(MarketError, match="is running"):
                runner.set_stream_input(DataInput("kline", ["BTCUSDT"], "1m"))
            await runner.close()


async def test_open_candles_come_where_they_are_asked_for() -> None:
    async with world() as there:
        runner = there.runner(targets=["5m"], active_warmup=True, emit_only_closed_candles=False)
        collector = Collector(closed(2, "5m"))
        await run_until(runner, collector)
        running = [row for row in collector.klines(timeframe="5m") if not row.is_closed]
        assert running
        last: dict[tuple[str, int], Kline] = {}
        for row in collector.klines():
            before = last.get((row.timeframe, row.open_ts))
            assert before is None or not before.is_closed  # nothing comes behind the closed one
            last[row.timeframe, row.open_ts] = row
        ended = [row for row in collector.klines(timeframe="5m") if row.is_closed]
        begin = START // (5 * MINUTE) * 5 * MINUTE
        same(short(ended), there.truth("BTC/USDT", "5m", begin, ended[-1].end_ts + 1))


async def test_a_slow_sink_does_not_stop_a_fast_one_while_its_queue_has_room() -> None:
    class Stuck(Collector):
        async def emit(self, row: Any) -> None:
            await anyio.sleep_forever()

    async with world() as there:
        runner = there.runner(drain_timeout=1.0)
        stuck, fast = Stuck(), Collector(closed(10))
        runner.register_emitter(stuck)
        await run_until(runner, fast)
        assert len(fast.rows) >= 10
        lost = runner.stats().emitters[0]
        assert (lost["emitted"], lost["failed"]) == (0, len(fast.rows))


async def test_a_full_sink_holds_the_exchange_up_and_nothing_is_lost() -> None:
    class Slow(Collector):
        async def emit(self, row: Any) -> None:
            await there.clock.sleep(45.0)
            await super().emit(row)

    symbols = ["BTC/USDT", "ETH/USDT"]
    async with world() as there:
        runner = there.runner(symbols=symbols, capacity=2, drain_timeout=600.0)
        collector = Slow(closed(6, symbols=2))
        await run_until(runner, collector)
        for symbol in symbols:
            ours = collector.klines(there.simulator.symbol("binance", symbol))
            same(short(ours), there.truth(symbol, "1m", START, ours[-1].end_ts + 1))


async def test_an_emitter_that_fails_ends_nothing_and_its_rows_are_told() -> None:
    class Broken(DataEmitter):
        name = "broken"

        async def emit(self, row: Any) -> None:
            raise ValueError("no such column")

    told: list[tuple[Any, Exception]] = []
    async with world() as there:
        runner = there.runner(on_error=lambda row, error: told.append((row, error)))
        runner.register_emitter(Broken())
        collector = Collector(closed(3))
        await run_until(runner, collector)
    assert [row for row, _ in told] == collector.rows
    assert "no such column" in str(told[0][1])
    assert runner.stats().emitters[0]["failed"] == len(collector.rows)


@pytest.mark.parametrize("kind", ["plain", "async", "broken"])
async def test_gaps_are_told_and_kept_and_emitted_only_where_asked_for(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Gap] = []

    def plain(gap: Gap) -> None:
        told.append(gap)

    async def other(gap: Gap) -> None:
        await anyio.lowlevel.checkpoint()
        told.append(gap)

    def broken(gap: Gap) -> None:
        told.append(gap)
        raise RuntimeError("on_gap is broken")

    hole = START + 3 * MINUTE
    faults = [Fault("lost_close", at=190.0, times=1), Fault("missing", value=hole)]
    async with world(faults=faults) as there:
        runner = there.runner(
            targets=["5m"], on_gap={"plain": plain, "async": other, "broken": broken}[kind], emit_gap=kind == "plain"
        )
        collector = Collector(closed(2, "5m"))
        with caplog.at_level(logging.ERROR):
            await run_until(runner, collector)
    assert [(gap.symbol, gap.timeframe, gap.start, gap.end) for gap in told] == [("BTCUSDT", "1m", hole, hole + MINUTE)]
    assert list(runner.gaps) == told
    assert runner.stats().gap_count == 1
    assert collector.gaps() == (told if kind == "plain" else [])
    assert hole not in [row.open_ts for row in collector.klines(timeframe="1m")]
    assert ("on_gap is broken" in caplog.text) == (kind == "broken")


async def test_stats_say_how_it_stands() -> None:
    faults = [Fault("reset", at=150.0), Fault("malformed", at=30.0)]
    async with world(faults=faults) as there:
        runner = there.runner(symbols=["BTC/USDT", "ETH/USDT"], targets=["5m"])
        assert runner.stats().state == "new"
        collector = Collector(closed(5, symbols=2))
        runner.register_emitter(collector)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.run)
            await collector.done.wait()
            stats = runner.stats()
            await runner.close()
    assert (stats.exchange, stats.market_type, stats.state, stats.error) == ("binance", "SPOT", "running", None)
    assert (stats.feed["reconnects"], stats.feed["bad_frames"]) == (1, 1)
    assert stats.rows == len(collector.rows)
    assert 0 < stats.rate < 1
    last = {(row["symbol"], row["timeframe"]): row for row in stats.last}
    assert last["BTCUSDT", "1m"]["open_ts"] == collector.klines("BTCUSDT", "1m")[-1].open_ts
    assert [emitter["name"] for emitter in stats.emitters] == ["collector"]


async def test_three_runners_of_one_exchange_and_one_of_each_other_each_with_its_own_emitters() -> None:
    async with world(*EXCHANGES) as there:
        runs = [
            (there.runner("binance", ["BTC/USDT"]), "BTC/USDT", "1m"),
            (there.runner("binance", ["ETH/USDT"], targets=["5m"], active_warmup=True), "ETH/USDT", "5m"),
            (there.runner("binance", ["BTC/USDT", "ETH/USDT"], "3m"), "ETH/USDT", "3m"),
            (there.runner("okx", ["BTC/USDT"]), "BTC/USDT", "1m"),
            (there.runner("kraken", ["ETH/USDT"], targets=["5m"], active_warmup=True), "ETH/USDT", "5m"),
            (there.runner("bybit", ["BTC/USDT"]), "BTC/USDT", "1m"),
        ]
        collectors = [
            Collector(closed(3, timeframe, len(runner.stream_input.symbols if runner.stream_input else [])))
            for runner, _, timeframe in runs
        ]
        async with anyio.create_task_group() as tasks:
            for (runner, _, _), collector in zip(runs, collectors, strict=True):
                tasks.start_soon(run_until, runner, collector)
        for (runner, symbol, timeframe), collector in zip(runs, collectors, strict=True):
            assert runner.stream_input is not None
            assert {row.symbol for row in collector.klines()} == set(runner.stream_input.symbols)
            assert {row.source for row in collector.klines()} == {runner.source}
            name = there.simulator.symbol(runner.exchange, symbol)
            ours = collector.klines(name, timeframe)
            same(short(ours), there.truth(symbol, timeframe, ours[0].open_ts, ours[-1].end_ts + 1))


async def test_runners_are_merged() -> None:
    async with world("binance", "kraken") as there:
        runners = [there.runner("binance"), there.runner("binance", ["ETH/USDT"]), there.runner("kraken")]
        rows: list[Kline | Trade] = []
        merged = merge_streams(*runners)
        async for row in merged:
            rows.append(row)
            if len(rows) >= 15:
                break
        await merged.aclose()
        assert {(row.source, row.symbol) for row in rows} == {
            ("Binance", "BTCUSDT"),
            ("Binance", "ETHUSDT"),
            ("Kraken", "BTC/USDT"),
        }
        assert [runner.stats().state for runner in runners] == ["closed"] * 3


async def test_five_hundred_symbols_on_one_runner() -> None:
    symbols = [f"C{k}/USDT" for k in range(500)]
    async with world(symbols=symbols, trades_per_minute=2) as there:
        runner = there.runner(symbols=symbols, targets=["5m"], active_warmup=True)
        collector = Collector(closed(2, "5m", symbols=500))
        await run_until(runner, collector)
        begin = START // (5 * MINUTE) * 5 * MINUTE
        for symbol in symbols[::50]:
            ours = collector.klines(there.simulator.symbol("binance", symbol), "5m")
            same(short(ours), there.truth(symbol, "5m", begin, ours[-1].end_ts + 1))
        assert len({row.symbol for row in collector.klines(timeframe="1m")}) == 500
    assert not runner.gaps


async def test_emitters_that_cannot_connect_end_it_before_anything_starts() -> None:
    class Away(DataEmitter):
        async def connect(self) -> None:
            raise EmitterUnavailableError("there is no database at localhost:5432")

    async with world() as there:
        runner = there.runner()
        first = Collector()
        runner.register_emitter(first)
        runner.register_emitter(Away())
        with pytest.raises(EmitterError, match="there is no database"):
            await runner.run()
        assert (first.connects, first.closes, first.rows) == (1, 1, [])
        assert runner.stats().state == "failed"
        assert "no database" in (runner.stats().error or "")
        assert there.simulator.log.of("open") == []


async def test_a_run_without_an_emitter_is_logged_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="streammachine.candles")
    async with world() as there:
        runner = there.runner()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.run)
            while runner.stats().rows < 2:
                await there.clock.sleep(1.0)
            tasks.cancel_scope.cancel()
        assert runner.emitters == []
    lines = [record.getMessage() for record in caplog.records if record.name == "streammachine.candles"]
    assert lines[0].startswith("no emitter is registered, so the rows are logged: runner.register_emitter(...)")
    assert "Binance BTCUSDT 1m" in lines[1]
    assert len(lines) == 1 + runner.stats().rows
