"""The outlet: order, retries, one bad row among good ones, back-pressure, and what is left at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest

import streammachine as sf
from streammachine.errors import EmitterError, EmitterUnavailableError
from streammachine.market.clock.clock import VirtualClock
from streammachine.market.emitters.base import DataEmitter
from streammachine.market.emitters.outlet import Outlet
from streammachine.market.model.kline import Gap, Kline
from streammachine.market.model.rows import Row
from support.rows import candle, candles, trade
from support.valkey import until

pytestmark = pytest.mark.anyio
WAIT = 60.0


class Kept(DataEmitter):
    """Takes rows one by one; ``refuse`` gives the error for a row, if any."""

    name = "kept"

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.calls: list[str] = []
        self.errors: list[Exception] = []  # raised one after another, first to last

    async def connect(self) -> None:
        self.calls.append("connect")

    async def emit(self, row: Any) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.rows.append(row)

    async def flush(self) -> None:
        self.calls.append("flush")

    async def close(self) -> None:
        self.calls.append("close")


class KeptInBatches(Kept):
    """Takes batches, all or nothing; refuses those that hold a close in ``bad``."""

    def __init__(self, bad: set[float] | None = None, error: type[Exception] = EmitterError) -> None:
        super().__init__()
        self.bad = bad or set()
        self.error = error
        self.sizes: list[int] = []

    async def emit_batch(self, rows: Sequence[Row]) -> None:
        if self.errors:
            raise self.errors.pop(0)
        values = [value for row in rows if (value := self.transformed(row)) is not None]
        for row in rows:
            if isinstance(row, Kline) and row.close in self.bad:
                raise self.error(f"no {row.close}")
        self.sizes.append(len(values))
        self.rows += values


@asynccontextmanager
async def virtual() -> AsyncIterator[VirtualClock]:
    clock = VirtualClock()
    async with anyio.create_task_group() as group:
        group.start_soon(clock.drive)
        yield clock
        group.cancel_scope.cancel()


async def test_rows_go_out_in_order_and_the_emitter_is_connected_flushed_and_closed() -> None:
    emitter = Kept()
    async with Outlet(emitter) as outlet:
        await outlet.put(candles(3))
        await outlet.put(candles(2, first=3))
        assert await outlet.drain() == []
        assert [row.close for row in emitter.rows] == [100, 101, 102, 103, 104]
        assert outlet.stats.emitted == 5
        assert outlet.stats.queued == 0
    assert emitter.calls == ["connect", "flush", "flush", "close"]
    assert outlet.stats.state == "closed"


async def test_an_object_with_plain_methods_is_an_emitter() -> None:
    class Plain:
        rows: list[Any]

        def connect(self) -> None:
            self.rows = []

        def emit(self, row: Any) -> None:
            self.rows.append(row)

        def close(self) -> None:
            self.rows.append("closed")

    emitter = Plain()
    async with Outlet(emitter) as outlet:
        await outlet.put([candle(), trade(), Gap("Binance", "BTCUSDT", "1m", 0, 60_000, "lost")])
    assert [type(row).__name__ for row in emitter.rows] == ["Kline", "Trade", "Gap", "str"]


async def test_an_object_with_emit_alone_is_an_emitter() -> None:
    class Bare:
        def __init__(self) -> None:
            self.rows: list[Any] = []

        async def emit(self, row: Any) -> None:
            self.rows.append(row)

    emitter = Bare()
    async with Outlet(emitter) as outlet:
        await outlet.put(candles(2))
    assert len(emitter.rows) == 2


async def test_a_sink_that_refuses_everything_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Any] = []
    bad = {row.close for row in candles(1500)}
    async with Outlet(KeptInBatches(bad), on_error=lambda row, why: told.append(row)) as outlet:
        await outlet.put(candles(1500))
        await outlet.drain()
        assert outlet.stats.failed == len(told) == 1500
    lines = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(lines) == 9 + 3
    assert all("candle of BTCUSDT" in line for line in lines[:9])
    assert [line.partition(":")[0] for line in lines[9:]] == [
        f"kept left out {count} rows so far; the last" for count in ("10", "100", "1,000")
    ]


@pytest.mark.parametrize("wrong", [object(), "csv", Kept, None])
def test_what_is_no_emitter_is_refused_before_anything_starts(wrong: object) -> None:
    with pytest.raises(EmitterError, match=r"emitter|class"):
        Outlet(wrong)


async def test_an_emitter_that_cannot_connect_stops_the_start_and_is_closed() -> None:
    class Wrong(Kept):
        async def connect(self) -> None:
            raise EmitterError("no such database")

    emitter = Wrong()
    with pytest.raises(EmitterError, match="no such database"):
        async with Outlet(emitter):
            raise AssertionError("it was entered")
    assert emitter.calls == ["close"]


@pytest.mark.parametrize("in_batches", [False, True])
async def test_an_outage_loses_nothing_doubles_nothing_and_is_logged_once(
    in_batches: bool, caplog: pytest.LogCaptureFixture
) -> None:
    emitter = KeptInBatches() if in_batches else Kept()
    emitter.errors = [
        EmitterUnavailableError("away"),
        ConnectionResetError("reset"),
        TimeoutError("late"),
        OSError(28, "no space left on device"),
    ] * 5
    async with virtual() as clock, Outlet(emitter, clock=clock, batch=4) as outlet:
        await outlet.put(candles(10))
        assert await outlet.drain() == []
        assert [row.close for row in emitter.rows] == [100.0 + number for number in range(10)]
        assert outlet.stats.retried == 20
        assert outlet.stats.failed == 0
        assert clock.monotonic() > 20
    logged = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(logged) == 2
    assert "takes no rows: away" in logged[0]
    assert "takes rows again" in logged[1]
    assert "none was lost" in logged[1]


async def test_an_outage_in_the_middle_of_single_rows_does_not_repeat_those_before_it() -> None:
    class Flaky(Kept):
        async def emit(self, row: Any) -> None:
            if row.close == 105 and len(self.rows) == 5 and not self.calls.count("failed"):
                self.calls.append("failed")
                raise ConnectionResetError("reset")
            await super().emit(row)

    emitter = Flaky()
    async with virtual() as clock, Outlet(emitter, clock=clock) as outlet:
        await outlet.put(candles(10))
        await outlet.drain()
    assert [row.close for row in emitter.rows] == [100.0 + number for number in range(10)]


async def test_a_library_error_that_was_caused_by_a_broken_connection_counts_as_an_outage() -> None:
    class Webhook(Kept):
        async def emit(self, row: Any) -> None:
            if len(self.calls) < 8:
                self.calls.append("tried")
                async with httpx2.AsyncClient() as client:
                    await client.post("http://127.0.0.1:9/closed")
            await super().emit(row)

    emitter = Webhook()
    async with virtual() as clock, Outlet(emitter, clock=clock) as outlet:
        await outlet.put(candles(1))
        assert await outlet.drain() == []
        assert outlet.stats.failed == 0
    assert len(emitter.rows) == 1


@pytest.mark.parametrize("error", [EmitterError, ValueError])
async def test_one_bad_row_in_a_batch_is_named_counted_and_given_to_on_error_and_the_others_go_out(
    error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    emitter = KeptInBatches({105.0, 777.0}, error)
    given: list[tuple[Any, Exception]] = []
    outlet = Outlet(emitter, on_error=lambda row, why: given.append((row, why)))
    async with outlet:
        await outlet.put(candles(1000))
        assert await outlet.drain() == []
        assert (outlet.stats.emitted, outlet.stats.failed) == (998, 2)
    assert [row.close for row in emitter.rows] == [100.0 + n for n in range(1000) if 100.0 + n not in emitter.bad]
    assert [row.close for row, _ in given] == [105.0, 777.0]
    assert all(isinstance(why, error) for _, why in given)
    assert f"the 1m candle of BTCUSDT at {candle(5).open_ts}" in caplog.text


async def test_an_unknown_exception_is_tried_three_times_before_the_row_is_given_up() -> None:
    emitter = Kept()
    emitter.errors = [ValueError("once"), ValueError("twice")]
    async with virtual() as clock, Outlet(emitter, clock=clock) as outlet:
        await outlet.put(candles(1))
        await outlet.drain()
        assert outlet.stats.emitted == 1
        emitter.errors = [ValueError("once"), ValueError("twice"), ValueError("thrice")]
        await outlet.put(candles(2))
        await outlet.drain()
        assert (outlet.stats.emitted, outlet.stats.failed) == (2, 1)
        assert outlet.stats.last_error == "ValueError: thrice"


async def test_on_error_may_be_async_and_its_own_failure_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def on_error(row: Any, why: Exception) -> None:
        raise RuntimeError("on_error is broken")

    emitter = KeptInBatches({101.0})
    async with Outlet(emitter, on_error=on_error) as outlet:
        await outlet.put(candles(3))
    assert [row.close for row in emitter.rows] == [100.0, 102.0]
    assert "on_error is broken" in caplog.text


@pytest.mark.parametrize("in_batches", [False, True])
async def test_a_transformer_runs_once_per_row_drops_with_none_and_its_failure_costs_its_row_only(
    in_batches: bool, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[float] = []

    def transformer(row: dict[str, Any]) -> Any:
        seen.append(row["close"])
        if row["close"] == 102:
            return None
        if row["close"] == 104:
            raise ZeroDivisionError("by zero")
        if row["close"] == 106:
            return 5
        return {"price": row["close"], "nth": len(seen)}

    emitter = (KeptInBatches() if in_batches else Kept()).set_transformer(transformer)
    emitter.errors = [ConnectionResetError(), ConnectionResetError()]
    given: list[Any] = []
    outlet = Outlet(emitter, on_error=lambda row, why: given.append(row.close))
    async with outlet:
        await outlet.put(candles(8))
        await outlet.drain()
        assert (outlet.stats.emitted, outlet.stats.dropped, outlet.stats.failed) == (5, 1, 2)
    assert seen == [100.0 + number for number in range(8)]
    assert [row["price"] for row in emitter.rows] == [100, 101, 103, 105, 107]
    assert [row["nth"] for row in emitter.rows] == [1, 2, 4, 6, 8]
    assert given == [104, 106]
    assert "by zero" in caplog.text
    assert "return a dict" in caplog.text


async def test_rows_that_are_not_an_emitters_are_left_out_before_its_transformer() -> None:
    class Picky(KeptInBatches):
        def wants(self, row: Row) -> bool:
            return row.symbol == "ETHUSDT"

    seen: list[str] = []
    emitter = Picky()
    emitter.set_transformer(lambda row: seen.append(row["symbol"]) or row)
    async with Outlet(emitter) as outlet:
        await outlet.put([candle(0), candle(0, symbol="ETHUSDT"), candle(1)])
        await outlet.drain()
        assert (outlet.stats.emitted, outlet.stats.skipped) == (1, 2)
    assert seen == ["ETHUSDT"]


async def test_put_waits_while_the_queue_is_full_and_a_slow_sink_does_not_stop_a_fast_one() -> None:
    gate = asyncio.Event()

    class Slow(Kept):
        async def emit(self, row: Any) -> None:
            await gate.wait()
            await super().emit(row)

    slow, fast = Slow(), Kept()
    async with Outlet(slow, capacity=5, batch=2) as narrow, Outlet(fast) as wide, anyio.create_task_group() as group:
        group.start_soon(narrow.put, candles(12))
        await wide.put(candles(12))
        await wide.drain()
        assert len(fast.rows) == 12
        assert narrow.stats.queued == 5
        assert not slow.rows
        gate.set()
        await until(lambda: len(slow.rows) == 12, WAIT)
    assert [row.close for row in slow.rows] == [100.0 + number for number in range(12)]


async def test_concurrent_puts_that_wait_keep_their_rows_together() -> None:
    emitter = Kept()
    async with Outlet(emitter, capacity=3) as outlet, anyio.create_task_group() as group:
        group.start_soon(outlet.put, candles(20))
        group.start_soon(outlet.put, candles(20, first=20))
    assert [row.close for row in emitter.rows] == [100.0 + number for number in range(40)]


async def test_linger_fills_the_batch_and_a_drain_does_not_wait_for_it() -> None:
    emitter = KeptInBatches()
    async with virtual() as clock, Outlet(emitter, clock=clock, batch=4, linger=3600.0) as outlet:
        for row in candles(6):
            await outlet.put([row])
            await anyio.lowlevel.checkpoint()
        before = clock.monotonic()
        await outlet.drain()
        assert clock.monotonic() == before
        assert emitter.sizes == [4, 2]


async def test_drain_has_a_deadline_and_says_what_waits() -> None:
    emitter = Kept()
    emitter.errors = [ConnectionRefusedError("away") for _ in range(10_000)]
    async with virtual() as clock, Outlet(emitter, clock=clock, close_timeout=0.05) as outlet:
        rows = candles(3)
        await outlet.put(rows)
        assert await outlet.drain(timeout=30) == rows
        assert clock.monotonic() >= 30
        assert outlet.stats.state == "away"


async def test_what_is_not_delivered_at_the_end_is_logged_returned_and_given_to_on_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    emitter = Kept()
    emitter.errors = [ConnectionRefusedError("away") for _ in range(10_000)]
    given: list[Any] = []
    rows = candles(3)
    async with virtual() as clock:
        outlet = Outlet(emitter, clock=clock, on_error=lambda row, why: given.append(row))
        async with outlet:
            await outlet.put(rows)
            assert await outlet.close(timeout=20) == rows
            assert await outlet.close() == rows
            with pytest.raises(EmitterError, match="closed"):
                await outlet.put(rows)
    assert given == rows
    assert outlet.stats.failed == 3
    assert "3 rows not delivered" in caplog.text
    assert emitter.calls[-1] == "close"


async def test_a_cancelled_runner_still_delivers_what_waits() -> None:
    emitter = KeptInBatches()
    with anyio.move_on_after(WAIT) as scope:
        async with Outlet(emitter) as outlet:
            await outlet.put(candles(500))
            scope.cancel()
            await anyio.sleep_forever()
    assert len(emitter.rows) == 500
    assert emitter.calls == ["connect", "flush", "close"]


async def test_leaving_after_a_drain_that_was_given_up_does_not_wait_again() -> None:
    emitter = Kept()
    emitter.errors = [ConnectionRefusedError("away") for _ in range(10_000)]
    async with virtual() as clock:
        async with Outlet(emitter, clock=clock, close_timeout=1000) as outlet:
            await outlet.put(candles(3))
            assert outlet.room == 9_997
            with clock.move_on_after(30) as given_up:
                await outlet.drain()
            assert given_up.cancelled_caught
        assert clock.monotonic() < 40
    assert outlet.stats.failed == 3
    assert emitter.calls == ["connect", "close"]


async def test_a_drain_tries_at_once_instead_of_waiting_for_the_next_try() -> None:
    emitter = Kept()
    emitter.errors = [ConnectionRefusedError("away") for _ in range(8)]
    async with virtual() as clock, Outlet(emitter, clock=clock) as outlet:
        await outlet.put(candles(1))
        await until(lambda: outlet.stats.retried == 8, WAIT)
        before = clock.monotonic()
        assert await outlet.drain() == []
        assert clock.monotonic() - before < 10


async def test_a_flush_that_fails_is_an_error_of_drain() -> None:
    class Unflushable(Kept):
        async def flush(self) -> None:
            raise EmitterError("the disk says no")

    async with Outlet(Unflushable()) as outlet:
        await outlet.put(candles(1))
        with pytest.raises(EmitterError, match="the disk says no"):
            await outlet.drain()


async def test_one_emitter_in_two_outlets_is_connected_and_closed_once_and_is_never_called_twice_at_a_time() -> None:
    class Exclusive(KeptInBatches):
        inside = 0

        async def emit_batch(self, rows: Sequence[Row]) -> None:
            self.inside += 1
            assert self.inside == 1
            await anyio.lowlevel.checkpoint()
            await super().emit_batch(rows)
            self.inside -= 1

    emitter = Exclusive()
    emitter.set_transformer(dict)
    async with Outlet(emitter, batch=3) as first:
        async with Outlet(emitter, batch=3) as second:
            await first.put(candles(30))
            await second.put(candles(30, first=30))
            await second.drain()
        assert "close" not in emitter.calls
        await first.drain()
        assert first.stats.failed == second.stats.failed == 0
    assert len(emitter.rows) == 60
    assert emitter.calls.count("connect") == emitter.calls.count("close") == 1


@pytest.mark.parametrize("inplace", [True, False])
def test_a_transformer_is_set_in_place_or_for_chaining_on_every_emitter(inplace: bool) -> None:
    emitters: list[Any] = [
        sf.Logger(),
        sf.CSVEmitter(),
        sf.KafkaEmitter("h:9092", "t"),
        sf.ParquetEmitter("p"),
        sf.PostgresEmitter("h", "d", "u", "p"),
        sf.RedisEmitter("redis://h"),
        sf.BinanceBackfilling("BTCUSDT", "1m", "2024-01-01"),
        Kept(),
    ]
    for emitter in emitters:
        assert emitter.set_transformer(dict, inplace=inplace) is (None if inplace else emitter)
        assert emitter.set_transformer(dict) is emitter
