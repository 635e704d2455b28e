"""An App that owns its process leaves what was loaded at its start out of garbage collection, and only then."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import textwrap

import anyio
import pytest

from streammachine import App
from streammachine.redis.connection import RedisConnection
from streammachine.runtime.processes.garbage import FEW, hold_what_is_loaded

pytestmark = pytest.mark.anyio
SCRIPT = """
    import gc, json, sys
    from streammachine import App

    app, found = App("one", to_scan=False), {}
    if "own" in sys.argv:
        gc.freeze()
        found["own"] = gc.get_freeze_count()

    @app.timer(0.01)
    async def look():
        if gc.get_freeze_count() > 2000:
            found.setdefault("running", gc.get_freeze_count())
            await app.shutdown()

    app.start()
    print(json.dumps({**found, "after": gc.get_freeze_count()}))
"""


async def run(redis: RedisConnection, *arguments: str) -> dict[str, int]:
    assert redis.settings.redis_url is not None
    environment = {**os.environ, "REDIS_URL": redis.settings.redis_url.get_secret_value()}
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), *arguments]
    done = await anyio.run_process(command, env=environment, stderr=subprocess.PIPE)
    found: dict[str, int] = json.loads(done.stdout)
    return found


async def test_what_was_loaded_is_held_while_the_app_runs(redis: RedisConnection) -> None:
    found = await run(redis)
    assert found["running"] > 10_000
    assert found["after"] < FEW


async def test_what_a_program_has_frozen_stays_frozen(redis: RedisConnection) -> None:
    found = await run(redis, "own")
    assert found["after"] >= 0.9 * found["own"] > 0  # some of it has ended since


async def test_an_app_within_somebody_elses_loop_leaves_the_collection_alone(redis: RedisConnection) -> None:
    async with App("two", to_scan=False):
        await anyio.wait_all_tasks_blocked()
        assert gc.get_freeze_count() < FEW


async def test_it_waits_until_the_app_is_ready() -> None:
    ready = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold_what_is_loaded, ready)
        await anyio.wait_all_tasks_blocked()
        assert gc.get_freeze_count() < FEW
        ready.set()
        await anyio.wait_all_tasks_blocked()
        assert gc.get_freeze_count() > FEW
        tasks.cancel_scope.cancel()
    assert gc.get_freeze_count() < FEW


async def test_what_python_itself_leaves_out_is_not_taken_for_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.12 has objects that never end out of the collection, without anybody's gc.freeze."""
    real, ready = gc.get_freeze_count, anyio.Event()
    monkeypatch.setattr(gc, "get_freeze_count", lambda: real() + 375)
    ready.set()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold_what_is_loaded, ready)
        await anyio.wait_all_tasks_blocked()
        assert real() > FEW
        tasks.cancel_scope.cancel()
