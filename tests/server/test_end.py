"""How a server ends: stdin's end, SIGTERM and SIGINT alike; a client that vanished; requests under way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from streammachine.redis.embedded.server import EmbeddedServer
from support.mcp import LEGACY, RawClient, clean_environment
from support.servers import embedded_pids, redis_at, running, until

SERVER = (sys.executable, "-m", "streammachine.mcp_server")
Ending = Callable[[RawClient], None]

SLOW = """
from streammachine_mcp import entry

wire = entry.Wire.take()
import os, sys
from contextlib import asynccontextmanager
import anyio
from fastmcp import FastMCP

entry.configure_logging("INFO")

@asynccontextmanager
async def lifespan(_):
    yield {}
    print("the lifespan is being left", flush=True)
    await anyio.sleep(float(os.environ.get("LAST", "0")))
    print("the lifespan was left", flush=True)

server = FastMCP("slow", lifespan=lifespan)

@server.tool
async def hang() -> dict:
    print("hanging", flush=True)
    import time
    time.sleep(3600)
    return {}

@server.tool
async def work(seconds: float) -> dict:
    print("working", flush=True)
    try:
        await anyio.sleep(seconds)
    except BaseException as error:
        print("work ended by", type(error).__name__, flush=True)
        raise
    return {"seconds": seconds}

entry.serve_stdio(server, wire)
"""


def end_of_stdin(client: RawClient) -> None:
    assert client.process.stdin is not None
    client.process.stdin.close()


def sigterm(client: RawClient) -> None:
    client.process.send_signal(signal.SIGTERM)


def sigint(client: RawClient) -> None:
    client.process.send_signal(signal.SIGINT)


every_ending = pytest.mark.parametrize("end", [end_of_stdin, sigterm, sigint])


@pytest.fixture
def slow_server(tmp_path: Path) -> Callable[[], RawClient]:
    (tmp_path / "slow.py").write_text(SLOW)
    command = [sys.executable, str(tmp_path / "slow.py")]
    return lambda: RawClient(command=command, log=tmp_path / "log")


def handshake() -> bytes:
    hello = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    lines = (
        {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
    )
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def request(identifier: int, method: str, **params: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": identifier, "method": method, "params": params}).encode() + b"\n"


@every_ending
def test_it_exits_0_with_its_snapshot_written_and_its_own_valkey_shut_down(
    end: Ending, private_env: dict[str, str]
) -> None:
    data_dir = Path(private_env["STREAMMACHINE_DATA_DIR"])
    with RawClient(env=private_env) as client:
        client.call("ohlc_create", name="btc")
        client.call("ohlc_update", name="btc", symbol="BTC", price=1.0, volume=1.0, timestamp_ms=1_723_161_600_000)
        pid = client.call("health_check")["embedded"]["pid"]
        assert embedded_pids(data_dir) == [pid]
        end(client)
        assert client.ended() == 0
    assert embedded_pids(data_dir) == []
    with EmbeddedServer.acquire(data_dir) as server, redis_at(server.url) as redis:
        assert redis.hexists("sm:ohlc:{btc}", "data")
        assert redis.xlen("sm:ohlc:{btc}:journal") == 0


def test_a_valkey_that_another_server_uses_stays(private_env: dict[str, str]) -> None:
    with RawClient(env=private_env) as first, RawClient(env=private_env) as second:
        pid = first.call("health_check")["embedded"]["pid"]
        first.call("storage_write", key="k", value=1)
        assert second.call("health_check")["embedded"] == {
            **first.call("health_check")["embedded"],
            "adopted": True,
        }
        sigterm(first)
        assert first.ended() == 0
        assert second.call("storage_read", key="k")["value"] == 1
        assert second.call("health_check")["embedded"]["pid"] == pid


@pytest.mark.parametrize("end", [end_of_stdin, sigterm])
def test_a_request_under_way_is_finished_and_answered(
    end: Ending, slow_server: Callable[[], RawClient], tmp_path: Path
) -> None:
    with slow_server() as client:
        identifier = client.send("tools/call", name="work", arguments={"seconds": 0.5})
        until(lambda: "working" in (tmp_path / "log").read_text())
        end(client)
        assert client.wait(identifier)["structuredContent"] == {"seconds": 0.5}
        assert client.ended() == 0
    assert "the lifespan was left" in (tmp_path / "log").read_text()


def test_a_request_that_takes_too_long_is_cancelled_and_answered_with_an_error(
    slow_server: Callable[[], RawClient], tmp_path: Path
) -> None:
    with slow_server() as client:
        identifier = client.send("tools/call", name="work", arguments={"seconds": 3600})
        until(lambda: "working" in (tmp_path / "log").read_text())
        end_of_stdin(client)
        assert "closed" in client.answer(identifier)["error"]["message"].lower()
        assert client.ended(timeout=10) == 0
    log = (tmp_path / "log").read_text()
    assert "work ended by CancelledError" in log
    assert "the lifespan was left" in log


def test_a_request_that_the_client_cancelled_is_not_waited_for(
    slow_server: Callable[[], RawClient], tmp_path: Path
) -> None:
    with slow_server() as client:
        identifier = client.send("tools/call", name="work", arguments={"seconds": 3600})
        until(lambda: "working" in (tmp_path / "log").read_text())
        client.notify("notifications/cancelled", requestId=identifier)
        end_of_stdin(client)
        assert client.ended(timeout=10) == 0
    assert "still under way" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(
    second: signal.Signals, slow_server: Callable[[], RawClient], tmp_path: Path
) -> None:
    with slow_server() as client:
        client.send("tools/call", name="work", arguments={"seconds": 3600})
        until(lambda: "working" in (tmp_path / "log").read_text())
        client.process.send_signal(signal.SIGTERM)
        until(lambda: "SIGTERM: ending" in (tmp_path / "log").read_text())
        client.process.send_signal(second)
        assert client.ended() == 128 + second
    assert "the lifespan was left" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_loads_ends_it_quietly(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "fastmcp").mkdir()
    (tmp_path / "fastmcp" / "__init__.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(3600)\n")
    env = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    with RawClient(env=env, initialize=False, log=tmp_path / "log") as client:
        until(lambda: "loading" in (tmp_path / "log").read_text())
        client.process.send_signal(number)
        assert client.ended() == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


@every_ending
def test_it_ends_though_a_tool_blocks_the_event_loop_and_says_where(
    end: Ending, slow_server: Callable[[], RawClient], tmp_path: Path
) -> None:
    with slow_server() as client:
        client.send("tools/call", name="hang", arguments={})
        until(lambda: "hanging" in (tmp_path / "log").read_text())
        end(client)
        assert client.ended() == 1
    log = (tmp_path / "log").read_text()
    assert "something hangs; the process is ended" in log
    assert "time.sleep(3600)" in log


def test_a_second_signal_ends_it_though_a_tool_blocks_the_event_loop(
    slow_server: Callable[[], RawClient], tmp_path: Path
) -> None:
    with slow_server() as client:
        client.send("tools/call", name="hang", arguments={})
        until(lambda: "hanging" in (tmp_path / "log").read_text())
        client.process.send_signal(signal.SIGINT)
        until(lambda: signal_was_taken(client.process.pid, signal.SIGINT))
        client.process.send_signal(signal.SIGTERM)
        assert client.ended() == 128 + signal.SIGTERM


def test_a_first_signal_after_the_end_of_input_breaks_nothing_off(
    slow_server: Callable[[], RawClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAST", "1")
    with slow_server() as client:
        end_of_stdin(client)
        until(lambda: "the lifespan is being left" in (tmp_path / "log").read_text())
        sigterm(client)
        assert client.ended() == 0
    assert "the lifespan was left" in (tmp_path / "log").read_text()


def signal_was_taken(pid: int, number: signal.Signals) -> bool:
    """Whether the signal is no more pending for the process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pending = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return not any(mask & 1 << (number - 1) for mask in pending)


def test_it_ends_when_its_client_is_killed(server_env: dict[str, str]) -> None:
    client = (
        "import subprocess, sys, time\n"
        f"server = subprocess.Popen({SERVER!r}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        f"server.stdin.write({handshake()!r}); server.stdin.flush()\n"
        "server.stdout.readline()\n"
        "print(server.pid, flush=True)\n"
        "time.sleep(3600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", client], stdout=subprocess.PIPE, env=clean_environment(server_env), text=True
    ) as parent:
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        assert running(server)
        parent.kill()
    until(lambda: not running(server), "the server ended")


def test_it_ends_when_a_socket_client_vanishes_with_answers_unread(server_env: dict[str, str], tmp_path: Path) -> None:
    """Node gives its children sockets, not pipes; such an end comes as ECONNRESET."""
    ours, theirs = socket.socketpair()
    with ours, (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(SERVER, stdin=theirs, stdout=theirs, stderr=log, env=clean_environment(server_env))
        theirs.close()
        ours.sendall(handshake() + b"".join(request(1 + number, "tools/list") for number in range(50)))
        until(lambda: len(ours.recv(1 << 16, socket.MSG_PEEK)) > 10_000, "answers that nobody reads")
    assert process.wait(30) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_it_ends_when_nobody_reads_its_stdout_any_more(server_env: dict[str, str], tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            SERVER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=clean_environment(server_env)
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdin:
            process.stdin.write(handshake())
            process.stdin.flush()
            process.stdout.readline()
            process.stdout.close()
            process.stdin.write(request(1, "tools/list"))
            process.stdin.flush()
            assert process.wait(30) == 0
    log_text = (tmp_path / "log").read_text()
    assert "The client is gone" in log_text
    assert "Traceback" not in log_text


def test_a_file_as_stdin_is_answered_and_ends_it(server_env: dict[str, str], tmp_path: Path) -> None:
    calls = [
        request(1, "tools/call", name="stream_send", arguments={"stream": "s", "message": {"a": "1"}}),
        request(2, "tools/call", name="health_check", arguments={}),
        request(3, "tools/list").rstrip(b"\n"),  # the last line needs no end
    ]
    (tmp_path / "requests.jsonl").write_bytes(handshake() + b"".join(calls))
    with (tmp_path / "requests.jsonl").open() as requests, (tmp_path / "answers.jsonl").open("wb") as written:
        subprocess.run(
            SERVER, stdin=requests, stdout=written, env=clean_environment(server_env), timeout=60, check=True
        )
    lines = (tmp_path / "answers.jsonl").read_bytes().splitlines()
    answers = {answer["id"]: answer for answer in map(json.loads, lines)}
    assert answers.keys() == {0, 1, 2, 3}
    assert not any("error" in answer or answer["result"].get("isError") for answer in answers.values())


def test_no_stdin_at_all_ends_it(server_env: dict[str, str]) -> None:
    done = subprocess.run(
        SERVER,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=clean_environment(server_env),
        timeout=60,
        check=True,
    )
    assert done.stdout == b""
