"""Chapter 5: a timer, which runs every so many seconds or by a cron line.

Ticks do not drift: the next one is counted from the plan, not from the end of the last. With ``scope="fleet"`` each
tick runs in one process of all that run the App.
"""

from __future__ import annotations

import time

import pytest

from streammachine import App, wait_until
from streammachine.errors import SettingsError

pytestmark = pytest.mark.anyio


async def test_a_timer_ticks_beside_the_agents(app: App) -> None:
    ticks = []

    @app.timer(0.05)
    async def heartbeat() -> None:
        ticks.append(time.monotonic())

    async with app:
        await wait_until(lambda: len(ticks) >= 3)
    assert ticks[2] - ticks[0] > 0.05


async def test_in_a_fleet_each_tick_runs_once(app: App) -> None:
    ticks = []

    @app.timer(0.1, scope="fleet")
    async def report() -> None:
        ticks.append(time.time())

    async with app:
        await wait_until(lambda: len(ticks) >= 2)
    assert len(ticks) >= 2


def test_a_timer_that_makes_no_sense_is_refused_where_it_is_written(app: App) -> None:
    with pytest.raises(SettingsError):
        app.timer("every now and then")
