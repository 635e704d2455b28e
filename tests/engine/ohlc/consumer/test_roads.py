"""The consumer's two roads on a real server: the same streams, states and dead letters, and no memory that grows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from streammachine.ohlc.consumer import active_session, tick_book
from streammachine.ohlc.consumer.active_session import ActiveSession
from streammachine.ohlc.consumer.candle_book import CandleBook
from streammachine.redis.connection import RedisConnection
from streammachine.settings import Settings
from support.candles import START, MakeConsumer, group, make_ticks, maker, records
from support.runtime import Probe
from support.valkey import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not tick_book.NATIVE, reason="the native parts are not built: there is one road only"),
]
TESTS = Path(__file__).parents[3]
ROUNDS, TICKS = 6, 20_000
MOST_GROWTH = 8 << 20  # bytes; ticks as objects would be ten times as much


@pytest.fixture
def make(redis: RedisConnection) -> MakeConsumer:
    return maker(redis)


async def consumed(redis: RedisConnection, make: MakeConsumer, name: str, count: int) -> dict[str, Any]:
    """All that a consumer of a group of its own writes."""
    consumer = make(group=name, output_stream_prefix=name)
    await consumer.start()

    async def done() -> bool:
        facts = await group(redis, "ticks", name)
        return bool(facts and facts["entries-read"] == count and facts["lag"] == 0)

    await until(done, 30)
    await consumer.stop()
    state = await Probe(redis).ask("HGETALL", f"{{ticks}}:ohlc:{name}")
    named = dict(zip(state[::2], state[1::2], strict=True))
    letters = [
        {key: value for key, value in letter.items() if key not in ("sm-first-seen", "sm-failed-at", "sm-consumer")}
        for letter in await Probe(redis).fields("{ticks}:dlq")
        if letter.pop("sm-group") == name
    ]
    return {
        "streams": [await Probe(redis).fields(f"{name}_{each}") for each in ("1m", "5m")],
        # Without the wall time of the last arrival.
        "states": {key: value[:8] + value[16:] for key, value in named.items() if key.startswith(b"s:")},
        "totals": [named.get(key) for key in (b"bad", b"candles", b"id", b"read", b"intervals")],
        "letters": letters,
    }


async def test_both_roads_write_the_same(
    redis: RedisConnection, make: MakeConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = records(make_ticks(6_000, symbols=40, late=0.01))
    odd: list[dict[str, str]] = [
        {"symbol": "S1", "price": "nan", "volume": "1", "ts": str(START)},
        {"symbol": "S1", "price": "1", "ts": str(START)},
        {"symbol": "", "price": "1", "volume": "1", "ts": str(START)},
        {"symbol": "S2", "price": "1e2", "volume": "0.1234567890123456789", "ts": f"{START}.0"},
        {"ts": str(START), "volume": "3", "price": " 5 ", "symbol": "S3"},
        {"price": "5", "volume": "1", "ts": str(START)},
    ]
    ticks = good[:2_000] + odd + good[2_000:4_000] + odd + good[4_000:]
    await redis.pipeline_xadd("ticks", ticks)
    books: list[type] = []
    run = ActiveSession.run

    async def noted(session: ActiveSession, stop: anyio.Event) -> None:
        books.append(type(session._book))
        await run(session, stop)

    monkeypatch.setattr(ActiveSession, "run", noted)
    monkeypatch.setattr(active_session, "READ_MORE", 1)  # the order among symbols is that of the reads
    native = await consumed(redis, make, "rows", len(ticks))
    monkeypatch.setattr(tick_book, "NATIVE", False)
    plain = await consumed(redis, make, "plain", len(ticks))
    assert books == [tick_book.TickBook, CandleBook]
    assert len(native["letters"]) == 6
    assert sum(map(len, native["streams"])) > 100
    for part, found in native.items():
        assert found == plain[part], part


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the size of a process is read from /proc")
async def test_ticks_leave_no_memory_behind(redis: RedisConnection, settings: Settings) -> None:
    assert settings.redis_url is not None
    command = [sys.executable, "-m", "support.tick_memory", settings.redis_url.get_secret_value(), ROUNDS, TICKS]
    env = os.environ | {"PYTHONPATH": os.pathsep.join((str(TESTS), str(TESTS.parent / "engine")))}
    done = await anyio.run_process([str(part) for part in command], env=env, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stdout) < MOST_GROWTH
