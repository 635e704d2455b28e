"""Memory does not grow with what waits in the stream."""

from __future__ import annotations

from pathlib import Path

import pytest

from streammachine.redis.connection import RedisConnection
from streammachine.runtime.delivery.group import HANDED_BACK
from streammachine.settings import Settings
from support.runtime import Probe, Script
from support.valkey import Valkey, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]
DEADLINE = 240.0
BACKLOG = 1_000_000
HANDLED = 200_000  # of them: what is held at a time does not depend on how many have gone before
MOST_MB = 50

COUNTS = f"""
app = App("memory", to_scan=False)
handled = 0

def megabytes(name):
    with open("/proc/self/status") as facts:
        return next(int(line.split()[1]) // 1024 for line in facts if line.startswith(name))

@app.on_startup
async def begin():
    await app.redis.command("SET", "idle", megabytes("VmRSS:"))

@app.agent("s", prefetch=1000, concurrency=4)
async def handle(message):
    global handled
    handled += 1
    message.message
    if handled == {HANDLED}:
        await app.redis.command("SET", "peak", megabytes("VmHWM:"))
"""


async def test_a_backlog_of_a_million_messages_stays_in_redis(tmp_path: Path, anyio_backend: str) -> None:
    with Valkey(tmp_path / "valkey") as server:
        ours = Script(tmp_path, server.url, COUNTS)
        async with RedisConnection(url=server.url, settings=Settings(data_dir=tmp_path)) as redis:
            probe = Probe(redis)
            records = [{"symbol": "BTCUSDT", "price": "61837.63", "n": str(n)} for n in range(10_000)]
            for _ in range(BACKLOG // len(records)):
                await redis.pipeline_xadd("s", records)
            assert await probe.ask("XLEN", "s") == BACKLOG
            process = ours.start(STREAMMACHINE_COUNT="1000")
            try:
                await until(lambda: probe.ask("EXISTS", "peak"), DEADLINE)
                process.terminate()
                await until(lambda: process.poll() is not None, DEADLINE)
                idle, peak = int(await probe.ask("GET", "idle")), int(await probe.ask("GET", "peak"))
            finally:
                ours.end()
            assert process.returncode == 0, ours.log
            assert peak - idle < MOST_MB
            assert {consumer for _, consumer, _ in await probe.rows("s")} <= {HANDED_BACK}
