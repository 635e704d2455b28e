"""The clocks: real, scaled, and the one that jumps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from streammachine.market.clock.clock import Clock, ScaledClock, SystemClock, VirtualClock

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def driven() -> AsyncIterator[VirtualClock]:
    clock = VirtualClock(start_ms=1_000_000)
    async with anyio.create_task_group() as group:
        group.start_soon(clock.drive)
        yield clock
        group.cancel_scope.cancel()


async def test_it_jumps_to_the_next_moment_somebody_waits_for() -> None:
    async with driven() as clock:
        woken: list[tuple[str, int]] = []

        async def sleeper(name: str, seconds: float) -> None:
            await clock.sleep(seconds)
            woken.append((name, clock.time_ms()))

        async with anyio.create_task_group() as group:
            for name, seconds in (("day", 86_400.0), ("second", 1.0), ("hour", 3_600.0)):
                group.start_soon(sleeper, name, seconds)
        assert woken == [("second", 1_001_000), ("hour", 4_600_000), ("day", 87_400_000)]


async def test_it_stands_still_while_there_is_work() -> None:
    async with driven() as clock:
        rung = anyio.Event()
        clock.call_later(1.0, rung.set)
        for _ in range(1_000):
            await asyncio.sleep(0)
            assert clock.time_ms() == 1_000_000
            asyncio.get_running_loop().call_soon(lambda: None)
        await rung.wait()
        assert clock.time_ms() == 1_001_000


async def test_it_stands_still_while_it_is_held() -> None:
    async with driven() as clock:
        rung = anyio.Event()
        with clock.held():
            clock.call_later(1.0, rung.set)
            for _ in range(200):
                await asyncio.sleep(0)
            assert not rung.is_set()
        await rung.wait()


async def test_bytes_on_their_way_over_loopback_are_work() -> None:
    async with driven() as clock:
        seen: list[int] = []

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                writer.write(line)
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        alarm = clock.call_later(5.0, lambda: seen.append(-1))
        for number in range(50):
            writer.write(b"%d\n" % number)
            seen.append(int(await reader.readline()))
        alarm.cancel()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        assert seen == list(range(50))


async def test_a_cancelled_wakeup_does_not_come() -> None:
    async with driven() as clock:
        rung: list[str] = []
        clock.call_later(1.0, lambda: rung.append("cancelled")).cancel()
        clock.call_later(2.0, lambda: rung.append("kept"))
        await clock.sleep(3.0)
        assert rung == ["kept"]


async def test_limits_are_by_the_clock() -> None:
    async with driven() as clock:
        with clock.move_on_after(30.0) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert clock.time_ms() == 1_030_000
        with pytest.raises(TimeoutError), clock.fail_after(5.0):
            await clock.sleep(10.0)
        with clock.fail_after(None):
            await clock.sleep(10.0)
        await clock.sleep_until(2_000_000)
        assert clock.time_ms() == 2_000_000


@pytest.mark.parametrize("clock", [SystemClock(), ScaledClock(1000.0, start_ms=5)])
async def test_the_others_go_by_real_time(clock: Clock) -> None:
    before = clock.monotonic()
    await clock.sleep(0.005)
    assert clock.monotonic() - before >= 0.0049
    assert clock.time_ms() > 0


def test_a_scaled_clock_needs_a_speed_above_none() -> None:
    with pytest.raises(ValueError, match="give a number above 0"):
        ScaledClock(0)
