"""Timers: ticks that do not drift, cron, one run per tick in a fleet, never overlapping."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import anyio
import pytest

from streammachine.errors import SettingsError
from streammachine.redis.connection import RedisConnection
from streammachine.runtime.app.app import App
from streammachine.runtime.model.config import TimerConfig
from streammachine.runtime.timer import Timer
from streammachine.settings import Settings
from support.runtime import MakeApp, Script
from support.valkey import until

pytestmark = pytest.mark.anyio


class Clock:
    """A clock that only the test moves; who sleeps on it wakes when its time has come."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def timer(redis: RedisConnection, config: TimerConfig, handler, clock=None, app_name: str = "app") -> Timer:  # type: ignore[no-untyped-def]
    return Timer(config, handler, app_name=app_name, name="tick", connection=redis, clock=clock)


@pytest.mark.parametrize("t", [0, -1, -0.5, float("nan"), float("inf"), True, None, "no cron", "61 * * * *"])
async def test_what_is_no_interval_is_refused(settings: Settings, t: object) -> None:
    app = App("refusals", to_scan=False, settings=settings)
    with pytest.raises(SettingsError, match="timer"):
        app.timer(t)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="never comes"):
        TimerConfig(t="0 0 30 2 *")
    for timezone in ("Mars/Olympus", "", None, "../UTC"):
        with pytest.raises(SettingsError, match="timezone"):
            TimerConfig(t="0 9 * * *", timezone=timezone)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="scope"):
        app.timer(1, scope="planet")  # type: ignore[arg-type]


async def test_ticks_are_multiples_of_the_interval_however_late_each_is(redis: RedisConnection) -> None:
    clock = Clock()
    found = timer(redis, TimerConfig(t=0.1), lambda: None, clock)
    found._origin = clock.now
    due = []
    for late in (0.0, 0.03, 0.09, 0.0, 1e-9, 0.05) * 50:
        due.append(found._next_due())
        clock.now = due[-1] + late
    numbers = [round((each - 1_700_000_000.0) / 0.1) for each in due]
    assert numbers == list(range(1, 301))


async def test_missed_ticks_are_skipped(redis: RedisConnection) -> None:
    clock = Clock()
    found = timer(redis, TimerConfig(t=10), lambda: None, clock)
    found._origin = clock.now
    assert found._next_due() == clock.now + 10
    clock.now += 35
    assert found._next_due() == 1_700_000_040.0


async def test_a_clock_that_is_set_back_is_followed(redis: RedisConnection) -> None:
    clock = Clock()
    runs: list[float] = []
    found = timer(redis, TimerConfig(t=60, scope="fleet"), lambda: runs.append(clock.now), clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(found.run)
        await until(lambda: found._last >= 0)
        first = found._last
        clock.now -= 3600
        await until(lambda: found._last == first - 60)
        clock.now += 61
        await until(lambda: len(runs) == 1)
        found.stop()


@pytest.mark.parametrize("t", [60, "* * * * *"])
async def test_a_clock_that_jumps_ahead_gives_one_tick_and_no_burst(redis: RedisConnection, t: float | str) -> None:
    """A suspended laptop, or a clock that is set: an hour of missed ticks is one tick, the next are on the minute."""
    clock = Clock(1_700_000_000.0)  # 20 s after the minute
    runs: list[float] = []
    found = timer(redis, TimerConfig(t=t, scope="fleet"), lambda: runs.append(clock.now), clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(found.run)
        await until(lambda: found.due)
        clock.now += 3600
        await until(lambda: len(runs) == 1 and found.due > clock.now)
        for _ in range(3):
            before = len(runs)
            clock.now += 60
            await until(lambda before=before: len(runs) == before + 1 and found.due > clock.now)  # type: ignore[misc]
        found.stop()
    first = 1_700_003_600.0
    assert runs == [first, first + 60, first + 120, first + 180]


async def test_a_timer_of_one_process_does_not_see_the_time_of_day(redis: RedisConnection) -> None:
    assert timer(redis, TimerConfig(t=60), lambda: None)._clock is time.monotonic
    assert timer(redis, TimerConfig(t=60, scope="fleet"), lambda: None)._clock is time.time
    assert timer(redis, TimerConfig(t="* * * * *"), lambda: None)._clock is time.time


async def test_twenty_ticks_with_a_long_handler_do_not_drift(make_app: MakeApp) -> None:
    app = make_app()
    at: list[float] = []

    @app.timer(0.1)
    async def tick() -> None:
        at.append(time.monotonic())
        await anyio.sleep(0.07)

    async with app:
        timer = app.running_timers[0]
        await until(lambda: len(at) == 20)
        origin = timer._origin
    # Each is behind its own due time, never before it, and the numbers rise.
    numbers = [int((each - origin) / 0.1) for each in at]
    assert numbers == sorted(set(numbers))
    assert min((each - origin) % 0.1 for each in at) < 0.05


async def test_cron_follows_its_zone(redis: RedisConnection) -> None:
    clock = Clock(datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC).timestamp())
    due = timer(redis, TimerConfig(t="*/5 * * * *"), lambda: None, clock)._next_due()
    assert datetime.fromtimestamp(due, UTC) == datetime(2026, 3, 1, 12, 5, tzinfo=UTC)
    due = timer(redis, TimerConfig(t="0 9 * * *", timezone="America/New_York"), lambda: None, clock)._next_due()
    assert datetime.fromtimestamp(due, UTC) == datetime(2026, 3, 1, 14, 0, tzinfo=UTC)


async def test_a_cron_timer_runs(redis: RedisConnection) -> None:
    clock = Clock(datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC).timestamp())
    runs: list[float] = []
    found = timer(redis, TimerConfig(t="* * * * *"), lambda: runs.append(clock.now), clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(found.run)
        await until(lambda: found.due)
        clock.now += 30
        await until(lambda: len(runs) == 1 and found.due > clock.now)
        clock.now += 60
        await until(lambda: len(runs) == 2)
        found.stop()
    assert runs == [clock.now - 60, clock.now]


@pytest.mark.parametrize("overlap", [False, True])
async def test_a_fleet_runs_each_tick_once(make_app: MakeApp, overlap: bool) -> None:
    runs: Counter[int] = Counter()
    apps = [make_app("fleet") for _ in range(3)]
    for app in apps:

        @app.timer(0.1, scope="fleet", overlap=overlap)
        async def tick() -> None:
            runs[int(time.time() / 0.1)] += 1

    async with apps[0], apps[1], apps[2]:
        await until(lambda: len(runs) >= 12)
    keys = [key.decode() for key in await apps[0].redis.command("KEYS", "*sm:tick:*")]
    ticks = [key for key in keys if not key.endswith(":running")]
    assert sum(runs.values()) <= len(ticks)
    if overlap:  # else a tick is left out where the one before it has not ended
        assert sum(runs.values()) >= len(ticks) - 1  # one in progress at the end may have a key and no run
    assert not [key for key in keys if key.endswith(":running")]
    await apps[0].redis.close()


async def test_a_fleets_tick_that_was_killed_holds_the_others_back_for_its_lease(
    redis: RedisConnection, make_app: MakeApp, script: Callable[..., Script]
) -> None:
    ours = script("""
        app = App("fleet", to_scan=False)

        @app.timer(0.1, scope="fleet", lease=1.0)
        async def tick():
            await app.redis.command("SET", "begun", 1)
            await anyio.sleep_forever()
    """)
    process = ours.start()

    async def begun() -> bool:
        return bool(await redis.command("EXISTS", "begun"))

    await until(begun)
    app = make_app("fleet")
    ticks: list[int] = []

    def tick() -> None:
        ticks.append(1)

    tick.__qualname__ = "tick"  # the timer's name in the script too
    app.timer(0.1, scope="fleet", lease=1.0)(tick)
    async with app:
        process.kill()
        assert 0 < await redis.command("PTTL", "{sm:tick:fleet:tick/0.1}:running") <= 1000
        await until(lambda: ticks, 10)
    for lease in (0, -1, "1", True, float("nan")):
        with pytest.raises(SettingsError, match="lease"):
            app.timer(1, lease=lease)  # type: ignore[arg-type]


@pytest.mark.parametrize("overlap", [False, True])
async def test_a_fleet_overlaps_only_when_asked(make_app: MakeApp, overlap: bool) -> None:
    now, most, runs, gate = 0, 0, 0, anyio.Event()
    apps = [make_app("fleet") for _ in range(2)]
    for app in apps:

        @app.timer(0.05, scope="fleet", overlap=overlap)
        async def tick() -> None:
            nonlocal now, most, runs
            now += 1
            runs += 1
            most = max(most, now)
            if overlap:
                await gate.wait()
            else:
                await anyio.sleep(0.12)
            now -= 1

    async with apps[0], apps[1]:
        await until(lambda: runs >= 4)
        gate.set()
    assert (most > 1) == overlap


async def test_a_failing_tick_does_not_end_the_timer(make_app: MakeApp) -> None:
    app = make_app()
    threads: set[int] = set()
    runs = 0

    @app.timer(0.05)
    def tick() -> None:
        nonlocal runs
        runs += 1
        threads.add(threading.get_ident())
        if runs == 1:
            raise ValueError("wrong")
        if runs == 2:
            raise SystemExit

    async with app:
        await until(lambda: runs >= 4)
        assert app.running_timers[0].failures == 2
        assert (await app.health_check())["registered_timers"] == 1
    assert threading.get_ident() not in threads


async def test_the_end_waits_for_a_running_tick(make_app: MakeApp) -> None:
    app = make_app()
    inside, finished = anyio.Event(), False

    @app.timer(0.05)
    async def tick() -> None:
        nonlocal finished
        inside.set()
        await until(lambda: app._lifecycle is not None and app._lifecycle.stop.is_set())
        await anyio.sleep(0.05)
        finished = True

    async with app:
        await inside.wait()
    assert finished
