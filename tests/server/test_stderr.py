"""A client that pipes stderr and never reads it: log lines, prints and children's output hold nobody up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from support.mcp import RawClient, clean_environment
from support.servers import redis_at, until

WRONG_CALLS = 500  # more than a pipe of 64 kB takes lines of
APP = """
import sys
from streammachine import App

app = App("loud")

@app.agent("in", group="g")
async def handler(message):
    for number in range(2000):
        print("a child prints", "x" * 100)
        print("and on stderr", "x" * 100, file=sys.stderr)
    await app.send("out", {"done": "1"})
"""
ORPHAN = """
import sys
from streammachine_mcp.stderr import Pump
Pump.take()
import subprocess
child = subprocess.Popen([sys.executable, "-m", "streammachine.runtime.children.host", "--app", sys.argv[1]],
    stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
import time
time.sleep(3600)
"""
PUMP = """
import os, sys
from streammachine_mcp.stderr import Pump
pump = Pump.take()
for number in range(20_000):
    pump.write(f"{number:06} " + "x" * 200 + "\\n")
    os.write(2, f"raw {number:06}\\n".encode()) if number < 3 else None
print("written", flush=True)
sys.stdin.readline()
pump.write("the last line\\n")
"""


@pytest.fixture
def unread() -> Iterator[tuple[int, int]]:
    """The two ends of a pipe that nobody reads."""
    read_fd, write_fd = os.pipe()
    yield read_fd, write_fd
    os.close(read_fd)
    os.close(write_fd)


@pytest.fixture
def store(hosting_env: dict[str, str]) -> Iterator[redis.Redis]:
    """The servers' database, empty before and after."""
    with redis_at(hosting_env["REDIS_URL"]) as client:
        client.flushdb()
        yield client
        client.flushdb()


def end_of_stdin(client: RawClient) -> None:
    assert client.process.stdin is not None
    client.process.stdin.close()


def sigterm(client: RawClient) -> None:
    client.process.send_signal(signal.SIGTERM)


def sigint(client: RawClient) -> None:
    client.process.send_signal(signal.SIGINT)


@pytest.mark.parametrize("end", [end_of_stdin, sigterm, sigint])
def test_hundreds_of_wrong_calls_are_answered_and_the_end_comes_with_stderr_unread(
    end: Callable[[RawClient], None], server_env: dict[str, str], unread: tuple[int, int]
) -> None:
    with RawClient(env=server_env, stderr=unread[1]) as client:
        for _ in range(WRONG_CALLS):
            identifier = client.send("tools/call", name="stream_read", arguments={"stream": 5, "nothing": "x" * 200})
            assert client.wait(identifier)["isError"]
        assert client.call("redis_ping") == {"ping": "pong"}
        end(client)
        assert client.ended() == 0


def test_children_that_print_go_on_with_stderr_unread(
    store: redis.Redis, hosting_env: dict[str, str], unread: tuple[int, int], tmp_path: Path
) -> None:
    (tmp_path / "loud.py").write_text(APP)
    with RawClient("--app", str(tmp_path / "loud.py:app"), env=hosting_env, stderr=unread[1]) as client:
        client.call("stream_send_batch", stream="in", messages=[{"n": "1"}, {"n": "2"}])
        until(lambda: "out" in client.call("stream_list")["streams"], "the first is done")
        until(lambda: client.call("stream_info", stream="out")["length"] == 2, "both are")
        end_of_stdin(client)
        assert client.ended() == 0


def test_what_was_dropped_is_counted_and_the_count_said(unread: tuple[int, int]) -> None:
    read_fd, write_fd = unread
    process = subprocess.Popen(
        [sys.executable, "-c", PUMP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=write_fd
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process, process.stdout, process.stdin:
        assert process.stdout.readline() == b"written\n"
        got: list[bytes] = []
        reader = threading.Thread(target=read_all, args=(read_fd, got))
        reader.start()
        until(lambda: b"were dropped" in b"".join(got), "the count")
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.wait(30) == 0
        until(lambda: b"the last line\n" in b"".join(got))
        os.write(write_fd, b"END")
        reader.join()
    lines = b"".join(got).decode().splitlines()
    shown = [int(line.split()[0]) for line in lines if line[:6].isdigit()]
    assert shown == list(range(len(shown))), "the first ones, in order"
    [(place, said)] = [(place, line) for place, line in enumerate(lines) if "were dropped" in line]
    raw = [line for line in lines if line.startswith("raw")]
    assert int(said.split()[0].replace(",", "")) + len(shown) + len(raw) == 20_003
    assert lines[place + 1 :] == ["the last line", "END"]


def read_all(descriptor: int, got: list[bytes]) -> None:
    while not b"".join(got[-2:]).endswith(b"END"):
        got.append(os.read(descriptor, 1 << 16))


def test_a_child_whose_server_was_killed_drains_though_its_stderr_is_broken(
    store: redis.Redis, hosting_env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "calm.py").write_text(APP.replace("range(2000)", "range(20)").replace("app.send", "late_send") + LATE)
    env = clean_environment(hosting_env)
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(tmp_path / "calm.py:app")], stdout=subprocess.PIPE, env=env
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        store.xadd("in", {"n": "1"})
        until(lambda: store.exists("began"), "the handler runs")
        parent.kill()
    until(lambda: store.xlen("out") == 1, "the handler ends well")
    assert store.xlen("{in}:dlq") == 0


LATE = """

async def late_send(stream, fields):
    import anyio, os
    await app.redis.command("SET", "began", "1")
    while os.getppid() != 1 and os.getppid() == PARENT:
        await anyio.sleep(0.01)
    await anyio.sleep(0.2)
    print("after the server's end", flush=True)
    print("and on stderr", file=sys.stderr, flush=True)
    await app.send(stream, fields)

import os
PARENT = os.getppid()
"""
