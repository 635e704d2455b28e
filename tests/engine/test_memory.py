"""How much memory the roads of many ticks take beyond what they give. docs/scaling.md has it for ten million."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from streammachine.ohlc.aggregator import IMPLEMENTATION
from streammachine.ohlc.consumer import tick_book
from streammachine.redis.connection import RedisConnection
from streammachine.settings import Settings

TESTS = Path(__file__).parents[1]
MEGABYTE = 1 << 20
pytestmark = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak of a process is read from /proc"
)


def measured(road: str, size: int, *more: str) -> tuple[int, int]:
    """Bytes: the growth, and what was given."""
    path = os.pathsep.join((str(TESTS), str(TESTS.parent / "engine")))
    command = [sys.executable, "-m", "support.memory", road, str(size), *more]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    growth, given = map(int, done.stdout.split())
    return growth, given


@pytest.mark.skipif("Cython" not in IMPLEMENTATION, reason="the native engine is not built")
@pytest.mark.parametrize("road", ["categories", "texts"])
def test_columns_of_a_million_ticks(road: str) -> None:
    assert measured(road, 1_000_000)[0] < 8 * MEGABYTE


@pytest.mark.skipif(not tick_book.NATIVE, reason="the native parts are not built")
@pytest.mark.parametrize("road", ["symbols", "books"])
def test_ten_thousand_symbols_of_four_intervals(road: str) -> None:
    assert measured(road, 10_000)[0] < 60 * MEGABYTE


async def fill(redis: RedisConnection, entries: int) -> None:
    await redis.pipeline_xadd("few", [{"symbol": "X", "price": "1", "volume": 1}])
    for at in range(0, entries, 1000):
        records = [{"symbol": "BTCUSDT", "price": f"{50_000 + n / 4:.2f}", "volume": n} for n in range(at, at + 1000)]
        await redis.pipeline_xadd("ticks", records)


@pytest.mark.anyio
async def test_read_frame_takes_little_more_than_the_frame(redis: RedisConnection, settings: Settings) -> None:
    assert settings.redis_url is not None
    await fill(redis, 200_000)
    growth, given = measured("frame", 200_000, settings.redis_url.get_secret_value())
    assert growth < 1.3 * given + 12 * MEGABYTE
