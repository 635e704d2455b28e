"""app.start() in a process of its own: signals, worker processes, and what a dying parent leaves."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable

import httpx2
import pytest

from support.runtime import Probe, Script
from support.servers import free_port, running
from support.valkey import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]
DEADLINE = 60.0
MakeScript = Callable[..., Script]

TOLD = """
@app.agent("s", concurrency=5, prefetch=55, lease=30.0)
async def handle(message):
    await app.redis.command("RPUSH", "started", message.message["n"])
    while not await app.redis.command("EXISTS", "gate"):
        await anyio.sleep(0.02)
    await app.redis.command("RPUSH", "finished", message.message["n"])
"""


async def length(probe: Probe, key: str) -> int:
    return int(await probe.ask("LLEN", key))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_finishes_what_runs_and_hands_back_the_rest(
    script: MakeScript, probe: Probe, number: int
) -> None:
    """Five run and 50 are prefetched: five finish, 50 are readable at once elsewhere, as if never read."""
    ours = script("app = App('drain', grace=50)\n" + TOLD)
    await probe.redis.pipeline_xadd("s", [{"n": n} for n in range(55)])
    process = ours.start(STREAMMACHINE_COUNT="100")
    await until(lambda: length_is(probe, "started", 5), DEADLINE)
    await until(lambda: pending_is(probe, 55), DEADLINE)
    process.send_signal(number)
    await until(lambda: "ending" in ours.log, DEADLINE)

    async def handed_back() -> bool:
        rows = await probe.rows("s")
        return sum(consumer == "sm-handed-back" and count == 0 for _, consumer, count in rows) == 50

    await until(handed_back, DEADLINE)
    other = script("app = App('other')\n" + TOLD.replace("concurrency=5, prefetch=55", "concurrency=50"), "other")
    other.start(STREAMMACHINE_COUNT="100")
    await until(lambda: length_is(probe, "started", 55), DEADLINE)  # the lease of 30 s has long not run out
    await probe.ask("SET", "gate", 1)
    await until(lambda: length_is(probe, "finished", 55), DEADLINE)
    await until(lambda: process.poll() is not None, DEADLINE)
    assert process.returncode == 0
    started = await probe.ask("LRANGE", "started", 0, -1)
    assert len(set(started)) == 55
    await until(lambda: pending_is(probe, 0), DEADLINE)
    assert not [name for name in await probe.consumers("s") if name.startswith("drain")]
    assert "sm-handed-back" not in await probe.consumers("s")


async def length_is(probe: Probe, key: str, count: int) -> bool:
    return await length(probe, key) == count


async def pending_is(probe: Probe, count: int) -> bool:
    return await probe.pending("s") == count


async def test_a_second_signal_ends_at_once(script: MakeScript, probe: Probe) -> None:
    ours = script("app = App('twice', grace=500)\n" + TOLD)
    await probe.redis.pipeline_xadd("s", [{"n": 1}])
    process = ours.start()
    await until(lambda: length_is(probe, "started", 1), DEADLINE)
    process.terminate()
    await until(lambda: "ending" in ours.log, DEADLINE)
    assert process.poll() is None
    process.terminate()
    await until(lambda: process.poll() is not None, DEADLINE)
    assert process.returncode == 1


SYNC = """
app = App("threads", grace=0.5)

@app.agent("s"PROCESSES)
def handle(message):
    log = open(os.path.join(os.path.dirname(__file__), "started"), "w")
    log.close()
    time.sleep(600)

@app.on_shutdown
async def bye():
    await app.redis.command("INCR", "byes")
"""


@pytest.mark.parametrize("processes", ["", ", processes=1"])
async def test_a_sync_handler_that_outlives_the_grace_does_not_hold_the_process(
    script: MakeScript, probe: Probe, processes: str
) -> None:
    ours = script(SYNC.replace("PROCESSES", processes))
    await probe.redis.pipeline_xadd("s", [{"n": 1}])
    process = ours.start()
    await until((ours.path.parent / "started").exists, DEADLINE)
    process.terminate()
    await until(lambda: process.poll() is not None, DEADLINE)
    assert process.returncode == 0
    assert "1 sync handlers still running" in ours.log
    assert ours.children() == []
    assert "is killed" not in ours.log
    assert await probe.ask("GET", "byes") == (b"2" if processes else b"1")
    assert await probe.pending("s") == 1  # it comes again


async def test_a_startup_hook_that_hangs_ends_with_the_grace(script: MakeScript) -> None:
    ours = script("""
    app = App("hooked", grace=0.5)

    @app.on_startup
    async def wait_for_the_database():
        print("waiting", flush=True)
        await anyio.sleep_forever()
    """)
    process = ours.start()
    await until(lambda: "waiting" in ours.log, DEADLINE)
    process.terminate()
    await until(lambda: process.poll() is not None, DEADLINE)
    assert process.returncode == 0
    assert "The start-up hooks were cancelled" in ours.log


async def test_a_failing_startup_hook_ends_the_process_with_its_error(script: MakeScript) -> None:
    ours = script("app = App('hooked')\n@app.on_startup\nasync def begin():\n    raise KeyError('no table')\n")
    process = ours.start()
    await until(lambda: process.poll() is not None, DEADLINE)
    assert process.returncode == 1
    assert "KeyError: 'no table'" in ours.log
    assert "ExceptionGroup" not in ours.log


WORKERS = """
app = App("fleet", grace=20)

@app.on_startup
async def begin():
    await app.redis.command("RPUSH", "begun", os.getpid())

@app.on_shutdown
async def end():
    await app.redis.command("RPUSH", "ended", os.getpid())

@app.agent("s", processes=2, lease=1.0)
async def handle(message):
    await app.redis.command("SADD", "pids", os.getpid())
    if message.message["n"] == "hold":
        await app.redis.command("SET", "holder", os.getpid())
        while await app.redis.command("EXISTS", "hold"):
            await anyio.sleep(0.02)

@app.timer(0.2)
async def tick():
    await app.redis.command("SADD", "ticks", os.getpid())
"""


async def pids(probe: Probe) -> set[int]:
    return {int(pid) for pid in await probe.ask("SMEMBERS", "pids")}


async def test_worker_processes_are_spawned_supervised_and_drained(script: MakeScript, probe: Probe) -> None:
    ours = script(WORKERS)
    parent = ours.start()
    await until(lambda: length_is(probe, "begun", 3), DEADLINE)

    async def both_work() -> bool:
        await probe.redis.pipeline_xadd("s", [{"n": 1}] * 20)
        return len(await pids(probe)) == 2

    await until(both_work, DEADLINE)
    workers = await pids(probe)
    assert parent.pid not in workers
    assert set(ours.children()) == workers
    # One that is killed is replaced, and what it held comes to another.
    await probe.ask("SET", "hold", 1)
    await probe.redis.pipeline_xadd("s", [{"n": "hold"}])
    await until(lambda: probe.ask("EXISTS", "holder"), DEADLINE)
    victim = int(await probe.ask("GET", "holder"))
    os.kill(victim, signal.SIGKILL)
    await until(lambda: length_is(probe, "begun", 4), DEADLINE)
    await until(lambda: holder_is_not(probe, victim), DEADLINE)
    await probe.ask("DEL", "hold")
    await until(lambda: pending_is(probe, 0), DEADLINE)
    assert re.search(r"A worker of handle@s/eventengine ended with status -9", ours.log)
    assert await probe.ask("SMEMBERS", "ticks") == [b"%d" % parent.pid]
    parent.terminate()
    await until(lambda: parent.poll() is not None, DEADLINE)
    assert parent.returncode == 0
    assert ours.children() == []
    assert await length(probe, "ended") == 3


WATCHED = """
app = App("watched", grace=20, dashboard_enabled=True, dashboard_host="127.0.0.1", dashboard_port=PORT,
          dashboard_token="a-token-of-the-test")

@app.agent("s", processes=2, concurrency=2, lease=1.0, retry=2)
async def handle(message):
    if message.message["n"] == "bad":
        raise ValueError("bad")
    while message.message["n"] == "hold" and not await app.redis.command("EXISTS", "gate"):
        await anyio.sleep(0.02)
"""


async def test_the_parent_tells_what_its_workers_do(script: MakeScript, probe: Probe) -> None:
    port = free_port()
    ours = script(WATCHED.replace("PORT", str(port)))
    parent = ours.start()
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:

        async def metric(name: str) -> float:
            try:
                text = (await client.get("/metrics")).text
            except httpx2.TransportError:
                return -1.0
            lines = [line for line in text.splitlines() if line.startswith(f"streammachine_{name}{{")]
            return sum(float(line.rpartition(" ")[2]) for line in lines)

        async def is_now(**wanted: float) -> bool:
            return all([await metric(name) == number for name, number in wanted.items()])

        await until(lambda: is_now(workers=2, consumed_total=0), DEADLINE)
        await probe.redis.pipeline_xadd("s", [{"n": "bad"}, *[{"n": n} for n in range(40)], {"n": "hold"}])
        expected = {"consumed_total": 40, "failed_total": 2, "retried_total": 1, "dead_total": 1, "in_flight": 1}
        await until(lambda: is_now(handler_seconds_count=40, lag=0, pending=1, **expected), DEADLINE)

        async def facts() -> tuple[int, int, int]:
            (found,) = (await client.get("/readyz")).json()["consumers"]
            return found["processes"], found["consumed"], found["in_flight"]

        async def both_report() -> bool:
            return await facts() == (2, 40, 1)

        await until(both_report, DEADLINE)
        page = (await client.get("/status", headers={"Authorization": "Bearer a-token-of-the-test"})).text
        assert "handle@s/eventengine" in page
        # What a worker had counted is not forgotten with it.
        for child in ours.children():
            os.kill(child, signal.SIGKILL)
        await until(lambda: is_now(workers=2, restarts_total=2), DEADLINE)
        assert await metric("consumed_total") == 40
        await probe.ask("SET", "gate", 1)
        await until(lambda: is_now(consumed_total=41, in_flight=0, pending=0), DEADLINE)
        # One that hangs is told.
        for child in ours.children():  # one may be where the held message ran alone
            os.kill(child, signal.SIGSTOP)

        async def told() -> bool:
            return (await client.get("/livez")).status_code == 503

        await until(told, DEADLINE)
        assert "has reported nothing for" in str((await client.get("/readyz")).json()["problems"])
        for child in ours.children():
            os.kill(child, signal.SIGCONT)
    parent.terminate()
    await until(lambda: parent.poll() is not None, DEADLINE)
    assert parent.returncode == 0


async def holder_is_not(probe: Probe, pid: int) -> bool:
    return int(await probe.ask("GET", "holder")) != pid


async def test_ctrl_c_reaches_the_workers_through_their_parent(script: MakeScript, probe: Probe) -> None:
    ours = script(WORKERS)
    parent = ours.start()
    await until(lambda: length_is(probe, "begun", 3), DEADLINE)
    for child in ours.children():
        os.kill(child, signal.SIGINT)  # a terminal that sends it to everybody
    parent.send_signal(signal.SIGINT)
    await until(lambda: parent.poll() is not None, DEADLINE)
    assert parent.returncode == 0
    assert await length(probe, "ended") == 3


async def test_a_killed_parent_leaves_no_child(script: MakeScript, probe: Probe) -> None:
    ours = script(WORKERS)
    parent = ours.start()
    await until(lambda: length_is(probe, "begun", 3), DEADLINE)
    children = ours.children()
    assert len(children) == 2
    parent.kill()
    parent.wait()
    await until(lambda: not any(running(child) for child in children), DEADLINE)


async def test_processes_that_cannot_be_are_refused(script: MakeScript) -> None:
    ours = script("app = App('many', max_processes=2)\n@app.agent('s', processes=3)\nasync def handle(m): ...\n")
    process = ours.start()
    await until(lambda: process.poll() is not None, DEADLINE)
    assert "asks for processes=3; the app has 2 left (max_processes)" in ours.log
    hidden = script(
        "def make():\n    hidden = App('hidden')\n    @hidden.agent('s', processes=1)\n    async def h(m): ...\n"
        "    return hidden\nclass Holder: pass\nholder = Holder()\nholder.app = make()\n"
        "app = type('Door', (), {'start': staticmethod(lambda: holder.app.start())})\n",
        "hidden",
    )
    process = hidden.start()
    await until(lambda: process.poll() is not None, DEADLINE)
    assert "no other process can import its App" in hidden.log


async def test_a_script_that_starts_its_app_when_it_is_loaded_breeds_no_processes(
    script: Callable[..., Script], probe: Probe
) -> None:
    runs = script("""
        app = App("test", to_scan=False)

        @app.agent("s", processes=2)
        async def handle(message): ...

        async def main():
            async with app:
                await asyncio.sleep(60)

        asyncio.run(main())
    """)
    runs.start()
    await until(lambda: runs.log.count("if __name__ == '__main__'") >= 2)
    assert len(runs.children()) <= 2
