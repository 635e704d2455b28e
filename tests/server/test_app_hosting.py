"""``streammachine-mcp --app``: the user's App beside the tools, whatever it prints, raises or kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from streammachine.redis.embedded.server import EmbeddedServer
from support.mcp import RawClient, ToolFailure, clean_environment
from support.servers import redis_at, running, until

DATABASE = 6  # of the run's shared Valkey; no other test uses it
HEAD = """\
import os, time
from streammachine.runtime.app.app import App
app = App("mine")
"""


class Hosted:
    """A server that hosts a script's App."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.script = folder / "hosted_app.py"
        self.log_path = folder / "server.log"
        self.env = env

    def __call__(self, body: str, *options: str, head: str = HEAD) -> RawClient:
        self.script.write_text(head + body)
        return RawClient("--app", f"{self.script}:app", *options, env=self.env, log=self.log_path)

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def processes(self) -> list[int]:
        """Living processes that were started for the script, the server not among them."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                ours = b"streammachine.runtime." in command and os.fsencode(self.script) in command
                if ours and running(int(entry.name)):
                    found.append(int(entry.name))
        return found


@pytest.fixture
def env(shared_server: EmbeddedServer, tmp_path: Path) -> dict[str, str]:
    return {"REDIS_URL": f"{shared_server.url}?db={DATABASE}", "STREAMMACHINE_DATA_DIR": str(tmp_path / "data")}


@pytest.fixture
def store(env: dict[str, str]) -> Iterator[redis.Redis]:
    with redis_at(env["REDIS_URL"]) as client:
        client.flushdb()
        yield client
        client.flushdb()


@pytest.fixture
def hosted(store: redis.Redis, env: dict[str, str], tmp_path: Path) -> Iterator[Hosted]:
    one = Hosted(tmp_path, env)
    yield one
    until(lambda: not one.processes(), "no process is left")


def state(client: RawClient) -> dict[str, Any]:
    (app,) = client.call("health_check")["apps"]
    assert isinstance(app, dict)
    return app


def reached(client: RawClient, wanted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The App's state once it is as wanted."""
    last: dict[str, Any] = {}

    def look() -> dict[str, Any] | None:
        last.clear()
        last.update(state(client))
        return last if wanted(last) else None

    return until(look, f"the App's state, last {last}") or {}


def read(client: RawClient, stream: str) -> list[dict[str, str]]:
    try:
        return [entry["data"] for entry in client.call("stream_read", stream=stream, count=100)["messages"]]
    except ToolFailure:
        return []


def test_its_streams_storage_and_agents_are_seen_by_the_tools(hosted: Hosted) -> None:
    body = """
@app.agent("in", group="g")
async def work(record):
    await app.storage.write("last", record.message["n"])
    await app.send("out", record.message)
"""
    with hosted(body) as client:
        reached(client, lambda app: app["state"] == "running")
        client.call("stream_send", stream="in", message={"n": "7"})
        until(lambda: read(client, "out") == [{"n": "7"}])
        assert client.call("storage_read", key="last")["value"] == "7"
        row = until(lambda: client.call("agent_list")["agents"])[0]
        assert (row["name"], row["app"], row["group"]) == ("work@in/g", "mine", "g")
        stats = until(lambda: (s := client.call("agent_stats", name="work"))["streams"][0]["counted"]["consumed"] and s)
        assert stats["streams"][0]["counted"]["consumed"] == 1
        assert state(client)["agents"] == 1


def test_it_uses_the_embedded_server_that_the_server_chose(private_env: dict[str, str], tmp_path: Path) -> None:
    hosted = Hosted(tmp_path, private_env)
    with hosted('@app.on_startup\nasync def begin():\n    await app.send("up", {"a": "1"})\n') as client:
        until(lambda: read(client, "up") == [{"a": "1"}])
    until(lambda: not hosted.processes())


def test_nothing_that_it_prints_or_reads_touches_the_wire(hosted: Hosted) -> None:
    body = """
import sys, subprocess
print("printed at import"); os.write(1, b"written at import\\n"); subprocess.run(["echo", "a child at import"])
assert sys.stdin.read() == ""
@app.on_startup
def begin(): print("printed in the hook")
@app.agent("in")
async def work(record):
    print("printed in the handler")
    os.write(1, b"written in the handler\\n")
    await app.send("out", {"done": "1"})
"""
    with hosted(body) as client:
        client.call("stream_send", stream="in", message={"a": "1"})
        until(lambda: read(client, "out"))
        assert client.close() == 0
        assert client.garbage == []
    for text in (
        "printed at import",
        "written at import",
        "a child at import",
        "in the hook",
        "written in the handler",
    ):
        assert text in hosted.log


def test_a_message_that_kills_its_process_leaves_the_server_answering(hosted: Hosted, store: redis.Redis) -> None:
    body = """
@app.agent("in", group="g", lease=1.0)
async def work(record):
    if record.message["n"] == "killer": os._exit(9)
    await app.send("out", record.message, dedup_key=record.key)
"""
    with hosted(body) as client:
        server = client.process.pid
        for name in ("1", "killer", "2", "3"):
            store.xadd("in", {"n": name})
        letters = until(
            lambda: client.call("redis_ping")["ping"] == "pong" and store.xrange("{in}:dlq"), "the dead letter", 60
        )
        ((_, letter),) = letters
        assert (letter[b"n"], letter[b"sm-reason"]) == (b"killer", b"max-deliveries")
        until(lambda: sorted(entry["n"] for entry in read(client, "out")) == ["1", "2", "3"])
        assert client.process.poll() is None
        assert client.process.pid == server
        assert reached(client, lambda app: app["state"] == "running")["restarts"] >= 1


def test_an_app_that_cannot_be_imported_is_reported_and_tried_again(hosted: Hosted) -> None:
    with hosted('raise RuntimeError("no database")\n') as client:
        found = reached(client, lambda app: app["restarts"] >= 1 and "problem" in app)
        assert "RuntimeError: no database" in found["problem"]
        assert client.call("health_check")["status"] == "degraded"
        client.call("stream_send", stream="in", message={"a": "1"})
        hosted.script.write_text(HEAD)  # mended
        reached(client, lambda app: app["state"] == "running" and "problem" not in app)
        assert client.call("health_check")["status"] == "healthy"
    assert 'raise RuntimeError("no database")' in hosted.log


@pytest.mark.parametrize("body", ["import sys\nsys.exit(3)\n", "app = None\n", "this is no Python\n"])
def test_whatever_goes_wrong_at_import_the_tools_answer(hosted: Hosted, body: str) -> None:
    with hosted(body) as client:
        assert "cannot be loaded" in reached(client, lambda app: app["state"] == "failed")["problem"]
        assert client.call("redis_ping") == {"ping": "pong"}


def test_a_hook_that_raises_is_reported_and_a_handler_that_raises_makes_a_dead_letter(hosted: Hosted) -> None:
    body = """
@app.on_startup
async def begin():
    if not await app.storage.exists("ready"): raise ValueError("not ready yet")
@app.agent("in", group="g", retry=1)
async def work(record):
    raise KeyError("nope")
"""
    with hosted(body) as client:
        assert "ValueError: not ready yet" in reached(client, lambda app: app["state"] == "failed")["problem"]
        client.call("storage_write", key="ready", value=True)
        reached(client, lambda app: app["state"] == "running")
        client.call("stream_send", stream="in", message={"a": "1"})
        found = until(lambda: (f := client.call("dead_letter_list", stream="in"))["total"] and f)
        assert found["letters"][0]["error"] == "KeyError: 'nope'"


def test_an_app_that_ends_by_itself_is_not_started_again(hosted: Hosted) -> None:
    body = """
@app.agent("in")
async def work(record):
    await app.shutdown()
"""
    with hosted(body) as client:
        client.call("stream_send", stream="in", message={"a": "1"})
        assert reached(client, lambda app: app["state"] == "ended")["restarts"] == 0
        assert client.call("health_check")["status"] == "healthy"


@pytest.mark.parametrize("end", ["stdin", "SIGTERM"])
def test_the_end_of_the_server_drains_the_app(hosted: Hosted, store: redis.Redis, end: str) -> None:
    body = """
import anyio
@app.agent("in", group="g")
async def work(record):
    await app.send("began", record.message)
    await anyio.sleep(0.3)
    await app.send("out", record.message)
@app.on_shutdown
async def bye():
    await app.send("bye", {"a": "1"})
"""
    with hosted(body) as client:
        store.xadd("in", {"n": "1"})
        until(lambda: store.xlen("began"))
        if end == "SIGTERM":
            client.process.send_signal(signal.SIGTERM)
            assert client.ended() == 0
        else:
            assert client.close() == 0
    assert (store.xlen("out"), store.xlen("bye")) == (1, 1)
    assert store.xpending("in", "g")["pending"] == 0
    assert store.xinfo_consumers("in", "g") == []


def test_an_app_that_does_not_end_is_killed_and_its_message_comes_again(hosted: Hosted, store: redis.Redis) -> None:
    body = """
@app.agent("in", group="g")
async def work(record):
    await app.send("began", record.message)
    time.sleep(600)
"""
    with hosted(body) as client:
        store.xadd("in", {"n": "1"})
        until(lambda: store.xlen("began"))
        assert client.close() == 0
    assert hosted.processes() == []
    assert store.xpending("in", "g")["pending"] == 1


def test_kill_9_of_the_server_ends_the_app(hosted: Hosted, store: redis.Redis) -> None:
    with hosted('@app.on_shutdown\nasync def bye():\n    await app.send("bye", {"a": "1"})\n') as client:
        reached(client, lambda app: app["state"] == "running")
        client.kill()
        until(lambda: not hosted.processes(), "the App sees the end of its server")
    assert store.xlen("bye") == 1


def test_kill_9_of_the_app_starts_it_again(hosted: Hosted) -> None:
    with hosted("") as client:
        first = reached(client, lambda app: app["state"] == "running")["pid"]
        os.kill(first, signal.SIGKILL)
        found = reached(client, lambda app: app["restarts"] == 1 and app["state"] == "running")
        assert found["pid"] != first


def test_a_package_by_its_module_name(hosted: Hosted, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("")
    (tmp_path / "shop" / "main.py").write_text(HEAD)
    (tmp_path / "shop" / "orders.py").write_text(
        "from shop.main import app\n@app.agent('in')\nasync def work(record): await app.send('out', record.message)\n"
    )
    hosted.env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with RawClient("--app", "shop.main:app", env=hosted.env, log=hosted.log_path) as client:
        client.call("stream_send", stream="in", message={"a": "1"})
        until(lambda: read(client, "out") == [{"a": "1"}])


def test_what_names_no_app_is_one_line_and_status_2(env: dict[str, str]) -> None:
    command = [sys.executable, "-m", "streammachine.mcp_server", "--app", "nonsense"]
    done = subprocess.run(
        command,
        env=clean_environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "'nonsense' does not name an App" in done.stderr
    assert "Traceback" not in done.stderr
