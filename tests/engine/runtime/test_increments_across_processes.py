"""Four processes count together: 1,000 increments give 1,000."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from streammachine.redis.storage import Storage
from support.runtime import Probe, Script
from support.valkey import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]
DEADLINE = 150.0
COUNT = 1000
PROCESSES = 4

COUNTER = """
app = App("counters", to_scan=False)

@app.agent("s", concurrency=5, transactional={transactional}{processes})
async def handle(message):
    # The first messages wait until all processes have some, so that all of them count.
    await app.redis.command("SADD", "pids", os.getpid())
    while await app.redis.command("SCARD", "pids") < {count}:
        await anyio.sleep(0.02)
    await app.storage.incr("incremented")
    await app.storage.update("updated", lambda value: value + 1, default=0)
"""


@pytest.mark.parametrize("transactional", [False, True])
@pytest.mark.parametrize("how", ["processes", "workers"])
async def test_no_increment_is_lost(script: Callable[..., Script], probe: Probe, transactional: bool, how: str) -> None:
    """``processes=4`` of the agent, or ``streammachine run --workers 4``."""
    processes = f", processes={PROCESSES}" if how == "processes" else ""
    ours = script(COUNTER.format(transactional=transactional, processes=processes, count=PROCESSES))
    await probe.redis.pipeline_xadd("s", [{"n": number} for number in range(COUNT)])
    if how == "processes":
        process = ours.start()
    else:
        command = [sys.executable, "-m", "streammachine.cli", "run", f"{ours.path}:app", "--workers", str(PROCESSES)]
        process = ours.start(command=command)
    await until(lambda: probe.done("s", COUNT), DEADLINE)
    storage = Storage(probe.redis)
    assert (await storage.read("incremented"), await storage.read("updated")) == (COUNT, COUNT)
    pids = {int(pid) for pid in await probe.ask("SMEMBERS", "pids")}
    assert len(pids) == PROCESSES and process.pid not in pids
    assert await probe.ask("EXISTS", "{s}:dlq") == 0
    process.terminate()
    await until(lambda: process.poll() is not None, DEADLINE)
    assert process.returncode == 0
