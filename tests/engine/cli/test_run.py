"""``streammachine run``: workers share the messages, die and come back, end in order, and reload."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from streammachine.redis.embedded.server import EmbeddedServer
from support.servers import redis_at, until

DATABASE = 7  # of the run's shared Valkey; no other test uses it
HEAD = """\
import os, anyio
from streammachine.runtime.app.app import App
app = App("mine")
"""
WORK = """
@app.agent("in", group="g", lease=1.0)
async def work(record):
    await anyio.sleep(0.02)
    await app.send("out", {"n": record.message["n"], "pid": os.getpid()})
"""


class Run:
    """The command, started; its script and its log."""

    def __init__(self, cli: Any) -> None:
        self.script = cli.folder / "shop.py"
        self.log_path = cli.folder / "run.log"
        self._cli = cli
        self.processes: list[subprocess.Popen[bytes]] = []

    def __call__(self, body: str, *options: str, target: str | None = None) -> subprocess.Popen[bytes]:
        self.script.write_text(HEAD + body)
        command = [sys.executable, "-m", "streammachine.cli", "run", target or f"{self.script}:app", *options]
        with self.log_path.open("ab") as log:
            process = subprocess.Popen(
                command,
                env=self._cli.environment(),
                cwd=self._cli.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def workers(self) -> set[int]:
        """The worker processes that live."""
        found = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if b"streammachine.runtime.children.host" in command and os.fsencode(self.script) in command:
                    found.add(int(entry.name))
        return found


@pytest.fixture
def store(cli: Any, shared_server: EmbeddedServer) -> Iterator[redis.Redis]:
    url = f"{shared_server.url}?db={DATABASE}"
    cli.env.update({"REDIS_URL": url, "STREAMMACHINE_EMBEDDED": "auto", "PYTHONUNBUFFERED": "1"})
    with redis_at(url) as client:
        client.flushdb()
        yield client
        client.flushdb()


@pytest.fixture
def run(cli: Any, store: redis.Redis) -> Iterator[Run]:
    one = Run(cli)
    yield one
    for process in one.processes:
        process.kill()
        process.wait(30)
    until(lambda: not one.workers(), "no worker is left")


def pids(store: redis.Redis) -> set[int]:
    return {int(fields[b"pid"]) for _, fields in store.xrange("out")}


def ended(process: subprocess.Popen[bytes], run: Run) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0, run.log


def test_workers_share_the_messages_and_end_in_order(run: Run, store: redis.Redis) -> None:
    process = run(WORK, "--workers", "2")
    until(lambda: len(run.workers()) == 2)
    until(lambda: len(store.xinfo_consumers("in", "g")) == 2 if store.exists("in") else False, "two consumers")
    for number in range(100):
        store.xadd("in", {"n": number})
    until(lambda: store.xlen("out") == 100)
    assert sorted(int(fields[b"n"]) for _, fields in store.xrange("out")) == list(range(100))
    assert pids(store) == run.workers()
    ended(process, run)
    assert store.xinfo_consumers("in", "g") == []


def test_a_worker_that_dies_comes_back(run: Run, store: redis.Redis) -> None:
    process = run(WORK)
    store.xadd("in", {"n": 1})
    until(lambda: store.xlen("out") == 1)
    (first,) = run.workers()
    os.kill(first, signal.SIGKILL)
    store.xadd("in", {"n": 2})
    until(lambda: store.xlen("out") == 2)
    assert first not in run.workers()
    assert "was ended by SIGKILL" in run.log
    ended(process, run)


def test_a_script_by_its_module_name_in_the_working_folder(run: Run, store: redis.Redis) -> None:
    process = run(WORK, target="shop:app")
    store.xadd("in", {"n": 1})
    until(lambda: store.xlen("out") == 1)
    ended(process, run)


def test_the_script_finds_its_arguments(run: Run, store: redis.Redis) -> None:
    body = "import sys\nname, threshold, flag = sys.argv\n" + WORK.replace(
        '"pid": os.getpid()', '"argv": str(sys.argv)'
    )
    process = run(body, "2.5", "--workers", "1", "--", "--fast")
    store.xadd("in", {"n": 1})
    until(lambda: store.xlen("out") == 1)
    ((_, fields),) = store.xrange("out")
    assert fields[b"argv"].decode() == str([str(run.script), "2.5", "--fast"])
    ended(process, run)


def test_an_app_that_ends_by_itself_ends_the_command(run: Run, store: redis.Redis) -> None:
    process = run("@app.agent('in')\nasync def work(record):\n    await app.shutdown()\n")
    store.xadd("in", {"n": 1})
    assert process.wait(60) == 0, run.log


def test_a_second_signal_ends_at_once(run: Run, store: redis.Redis) -> None:
    process = run(
        "import time\n@app.agent('in')\nasync def work(record):\n    await app.send('out', {'a': 1}); time.sleep(600)\n"
    )
    store.xadd("in", {"n": 1})
    until(lambda: store.xlen("out") == 1)
    process.send_signal(signal.SIGINT)
    until(lambda: "SIGINT: ending" in run.log)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 128 + signal.SIGINT
    until(lambda: not run.workers())


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nonsense", "does not name an App"),
        ("nowhere.py:app", "There is no file"),
        ("no_such_module:app", "No module named 'no_such_module'"),
        ("shop:other", "There is app"),
    ],
)
def test_what_cannot_be_loaded_ends_with_a_line_and_status_1(run: Run, target: str, says: str) -> None:
    process = run("", target=target)
    assert process.wait(60) == 1
    (line,) = [line for line in run.log.splitlines() if line.startswith("streammachine: ")]
    assert says in line
    assert "Traceback" not in run.log


def test_reload_starts_again_when_a_file_changes_even_from_a_broken_one(run: Run, store: redis.Redis) -> None:
    process = run(WORK, "--reload")
    store.xadd("in", {"n": 1})
    until(lambda: store.xlen("out") == 1)
    until(lambda: "Watching" in run.log)
    run.script.write_text("this is no Python\n")
    until(lambda: "SyntaxError" in run.log, timeout=60)
    assert process.poll() is None
    run.script.write_text(HEAD + WORK.replace('"out"', '"changed"'))
    store.xadd("in", {"n": 2})
    until(lambda: store.xlen("changed") == 1, timeout=60)
    ended(process, run)


def test_reload_without_watchfiles_says_what_to_install(run: Run, cli: Any) -> None:
    (cli.folder / "path").mkdir()
    (cli.folder / "path" / "watchfiles.py").write_text("raise ImportError('not here')\n")
    cli.env["PYTHONPATH"] = os.pathsep.join([str(cli.folder / "path"), os.environ.get("PYTHONPATH", "")])
    process = run(WORK, "--reload")
    assert process.wait(60) == 1
    assert "pip install watchfiles" in run.log
