"""What a child process sees of its parent, and what becomes of work that no child can do."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from streammachine.runtime.consumer import quarantine
from streammachine.runtime.model.message import Message
from streammachine.runtime.processes import isolated as alone
from streammachine.runtime.processes.origin import Origin
from support.runtime import MakeApp, Probe, Script
from support.valkey import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]
DEADLINE = 60.0
MakeScript = Callable[..., Script]

READS_ITS_ARGUMENTS = """
import json
threshold = float(sys.argv[1])
assert sys.stdin.read() == ""
app = App("reads", to_scan=False)

@app.agent("s", lease=1.0{processes})
async def handle(message):
    import beside
    import subprocess
    path = subprocess.run([sys.executable, "-c", "import sys; print(sys.path)"], capture_output=True, text=True).stdout
    sees = {{"argv": sys.argv[1:], "name": os.path.basename(sys.argv[0]), "cwd": os.getcwd(), "beside": beside.WHAT}}
    sees |= {{"threshold": threshold, "pid": os.getpid(), "optimized": not __debug__, "leaks": "helpers" in path}}
    await app.redis.command("RPUSH", "seen", json.dumps(sees))

if __name__ == "__main__":
    sys.path.append(os.path.join(os.path.dirname(__file__), "helpers"))
    os.chdir(sys.argv[2])
"""


async def quarantined(probe: Probe, stream: str, *names: str) -> None:
    """Messages that two processes have begun and not finished."""
    await probe.redis.pipeline_xadd(stream, [{"n": name} for name in names])
    await probe.ask("XGROUP", "CREATE", stream, "eventengine", "0")
    ((_, entries),) = await probe.ask("XREADGROUP", "GROUP", "eventengine", "dead", "STREAMS", stream, ">")
    for identifier, _ in entries:
        await probe.ask("XCLAIM", stream, "eventengine", "dead", 0, identifier, "RETRYCOUNT", 2, "JUSTID")


@pytest.mark.parametrize("processes", ["", ", processes=2"])
async def test_children_see_the_arguments_folder_and_path_of_their_parent(
    script: MakeScript, probe: Probe, tmp_path: Path, processes: str
) -> None:
    folder = tmp_path / "elsewhere"
    for name in ("elsewhere", "helpers"):
        (tmp_path / name).mkdir()
    (tmp_path / "helpers" / "beside.py").write_text("WHAT = 'found'\n")
    (folder / "logging.py").write_text("raise ImportError('the working folder is not on the path of a script')\n")
    ours = script(READS_ITS_ARGUMENTS.format(processes=processes))
    await quarantined(probe, "s", "alone")
    parent = ours.start(command=[sys.executable, "-O", str(ours.path), "2.5", str(folder), "--x"])
    await until(lambda: probe.done("s", 1), DEADLINE)
    await probe.redis.pipeline_xadd("s", [{"n": "another"}])
    await until(lambda: probe.done("s", 2), DEADLINE)
    alone, another = (json.loads(line) for line in await probe.ask("LRANGE", "seen", 0, -1))
    assert alone.pop("pid") != parent.pid
    assert (another.pop("pid") == parent.pid) == (not processes)
    assert alone == another
    assert alone == {
        "argv": ["2.5", str(folder), "--x"], "name": "script.py", "cwd": str(folder), "beside": "found",
        "threshold": 2.5, "optimized": True, "leaks": False,
    }  # fmt: skip


async def test_the_app_of_a_packages_main_module_is_loaded_by_its_children(
    script: MakeScript, probe: Probe, tmp_path: Path
) -> None:
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").touch()
    ours = script("""
        app = App("shop")

        @app.agent("s", processes=1)
        async def handle(message):
            await app.redis.command("RPUSH", "seen", sys.argv[1])
    """)
    (package / "__main__.py").write_text(ours.path.read_text())
    await probe.redis.pipeline_xadd("s", [{"n": 1}])
    ours.start(command=[sys.executable, "-m", "shop", "2.5"], PYTHONPATH=str(tmp_path))
    await until(lambda: probe.done("s", 1), DEADLINE)
    assert await probe.ask("LRANGE", "seen", 0, -1) == [b"2.5"]


FAILURES = {
    "raises": ("raise IndexError('no licence')", "IndexError: no licence"),
    "exits": ("sys.exit(3)", "SystemExit: 3"),
    "dies": ("os._exit(4)", "ended with status 4"),
    "lacks the agent": ("app = App('other')", "there is no agent"),
    "its hook fails": (
        "@app.on_startup\ndef begin(): raise OSError('the port is taken')",
        "OSError: the port is taken",
    ),
    "its hook dies": ("@app.on_startup\ndef begin(): os._exit(5)", "ended with status 5"),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("supervised", [False, True])
async def test_what_cannot_run_alone_ends_and_its_neighbours_go_on(
    make_app: MakeApp, script: MakeScript, probe: Probe, monkeypatch: pytest.MonkeyPatch, failure: str, supervised: bool
) -> None:
    body, reason = FAILURES[failure]
    monkeypatch.setattr(quarantine, "BACKOFF_FIRST", 0.001)
    monkeypatch.setattr(quarantine, "TRIES", 2)
    there = script(
        "app = App('test', to_scan=False)\n@app.agent('s', lease=1.0)\nasync def handle(message): ...\n" + body
    )
    app = make_app()
    got: list[tuple[str, int]] = []

    async def handle(message: Message) -> None:
        got.append((message.message["n"], message.attempt))

    handle.__qualname__ = "handle"  # the agent's name in the script too
    app.agent("s", lease=1.0)(handle)
    app._origin, app._in_child = Origin("", str(there.path), "app"), supervised
    await quarantined(probe, "s", "suspect", "spent")
    async with app:
        await app.send_batch("s", [{"n": str(number)} for number in range(3)])
        await until(lambda: probe.done("s", 5), DEADLINE)
        health = await app.health_check()
    assert [each for each in got if each[0].isdigit()] == [("0", 1), ("1", 1), ("2", 1)]
    assert health["status"] == "degraded"
    assert reason in health["problems"][0]
    letters = await probe.fields("{s}:dlq")
    if supervised:  # its death would end a process that is started again
        assert letters == []
        assert sorted(got)[3:] == [("spent", 3), ("suspect", 3)]
    else:
        assert [(each["n"], each["sm-reason"], each["sm-attempts"]) for each in letters] == [
            ("suspect", "unrunnable", "2"),
            ("spent", "unrunnable", "2"),
        ]
        assert reason in letters[0]["sm-error"]


async def test_a_process_that_cannot_be_started_or_is_never_ready_is_no_reason_to_wait_for_ever(
    make_app: MakeApp, script: MakeScript, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "BACKOFF_FIRST", 0.001)
    monkeypatch.setattr(quarantine, "TRIES", 1)
    monkeypatch.setattr(alone, "START", 0.2)
    there = script("app = App('test', to_scan=False)\ntime.sleep(600)\n")
    for stream, executable, reason in (
        ("s", sys.executable, "not ready within 0.2 s"),
        ("t", "/", "cannot be started"),
    ):
        app = make_app()

        @app.agent(stream, lease=1.0)
        async def handle(message: Message) -> None: ...

        app._origin = Origin("", str(there.path), "app")
        await quarantined(probe, stream, "suspect")
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", executable)
            async with app:
                await until(lambda stream=stream: probe.done(stream, 1), DEADLINE)  # type: ignore[misc]
        (letter,) = await probe.fields(f"{{{stream}}}:dlq")
        assert letter["sm-reason"] == "unrunnable"
        assert reason in letter["sm-error"]


async def test_health_says_why_workers_do_not_start(script: MakeScript, probe: Probe) -> None:
    ours = script("""
        app = App("broken", to_scan=False)

        @app.agent("s", processes=2)
        async def handle(message): ...

        @app.timer(0.1)
        async def tell():
            health = await app.health_check()
            await app.redis.command("SET", "health", " ".join([health["status"], *health["problems"]]))

        licence = __name__ == "__main__" or sys.argv[1]
    """)
    ours.start()

    async def told() -> bool:
        return b"IndexError: list index out of range" in (await probe.ask("GET", "health") or b"")

    await until(told, DEADLINE)
    assert (await probe.ask("GET", "health")).startswith(b"degraded")
