"""What comes in over stdio: huge lines, garbage, floods, and a client that reads nothing."""

from __future__ import annotations

import array
import fcntl
import json
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streammachine.redis.embedded import EmbeddedServer
from support_mcp import LEGACY, RawClient, clean_environment
from support_servers import until

MB = 1 << 20
INVALID_REQUEST, METHOD_NOT_FOUND = -32600, -32601


def send_bytes(client: RawClient, data: bytes) -> None:
    assert client.process.stdin is not None
    client.process.stdin.write(data)
    client.process.stdin.flush()


def peak_memory(client: RawClient) -> int:
    status = Path(f"/proc/{client.process.pid}/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))


def readable(descriptor: int) -> int:
    """The bytes that stand in a pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, count)
    return count[0]


@pytest.fixture(scope="module")
def server(shared_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawClient]:
    """A server of this file's own: what harms it must not take other tests along."""
    env = {"REDIS_URL": shared_server.url, "STREAMMACHINE_DATA_DIR": str(tmp_path_factory.mktemp("server"))}
    with RawClient(env=env) as client:
        yield client


@pytest.fixture
def client(server_env: dict[str, str], tmp_path: Path) -> Iterator[RawClient]:
    with RawClient(env=server_env, log=tmp_path / "log") as client:
        yield client
        assert client.call("redis_ping") == {"ping": "pong"}, "still at work after it"


def test_a_line_of_5_mb_goes_in_and_comes_out(client: RawClient) -> None:
    text = "é" * (5 * MB // 2)
    assert client.call("storage_read", key="absent", default=text)["value"] == text


def test_a_line_over_64_mb_is_dropped_as_a_whole_without_filling_the_memory(client: RawClient, tmp_path: Path) -> None:
    before = peak_memory(client)
    chunk = b" " * MB  # if only a part were dropped, the request at its end would be carried out
    for _ in range(130):
        send_bytes(client, chunk)
    send_bytes(client, b'{"jsonrpc": "2.0", "id": 9000, "method": "tools/list"}\n')
    answer = client.request("tools/list")
    assert answer["tools"]
    assert 9000 not in client._answers
    assert peak_memory(client) - before < 100 * MB
    assert (tmp_path / "log").read_text().count("A line of more than 67108864 bytes came in") == 1


@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b"\xff\xfe\x00",
        b"",
        b"   ",
        b"null",
        b"17",
        b'"text"',
        b"{}",
        b"[]",
        b"[" * 100_000,
        b'{"jsonrpc": "2.0"}',
        b'{"jsonrpc": "2.0", "method": 5}',
        b'{"jsonrpc": "2.0", "id": null, "method": "tools/list"}',
        b'{"jsonrpc": "2.0", "id": 1e400, "method": "tools/list"}',
        b'{"jsonrpc": "2.0", "method": "notifications/unknown"}',
        b'{"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": [1]}}',
        b'{"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 4711}}',
        b'{"jsonrpc": "2.0", "method": "notifications/cancelled"}',
        b'{"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": {}, "progress": "x"}}',
        b'{"jsonrpc": "2.0", "id": 4711, "result": {}}',
        b'{"jsonrpc": "2.0", "id": 4711, "error": {"code": 1, "message": "no"}}',
    ],
    ids=lambda line: line[:40].decode("ascii", "replace") or "empty",
)
def test_what_asks_for_no_answer_gets_none_and_does_no_harm(server: RawClient, line: bytes) -> None:
    known = server.lines.qsize()
    send_bytes(server, line + b"\n")
    assert server.call("redis_ping") == {"ping": "pong"}
    assert server.lines.qsize() == known


@pytest.mark.parametrize(
    "body",
    [
        {"method": "tools/list"},
        {"jsonrpc": "1.0", "method": "tools/list"},
        {"jsonrpc": "2.0"},
        {"jsonrpc": "2.0", "method": 5},
        {"jsonrpc": "2.0", "method": "tools/list", "params": [1, 2]},
        {"jsonrpc": "2.0", "method": "tools/list", "params": "text"},
        {"jsonrpc": "2.0", "error": "text"},
    ],
)
@pytest.mark.parametrize("identifier", [9001, "nine"])
def test_what_is_no_valid_message_is_refused_by_its_id(
    server: RawClient, body: dict[str, Any], identifier: int | str
) -> None:
    server.write({**body, "id": identifier})
    assert server.answer(identifier)["error"]["code"] == INVALID_REQUEST


def test_each_request_of_a_batch_is_refused(server: RawClient) -> None:
    batch = [{"jsonrpc": "2.0", "id": number, "method": "tools/list"} for number in (9002, 9003)]
    send_bytes(server, json.dumps([*batch, 17, {"jsonrpc": "2.0", "method": "x"}]).encode() + b"\n")
    for number in (9002, 9003):
        error = server.answer(number)["error"]
        assert error["code"] == INVALID_REQUEST
        assert "batch" in error["message"]


def test_an_id_that_is_no_unicode_is_refused_without_harm(server: RawClient) -> None:
    send_bytes(server, b'{"jsonrpc": "2.0", "id": "\\ud800", "method": "tools/list"}\n')
    assert server.answer("?")["error"]["code"] == INVALID_REQUEST


def test_an_unknown_method_is_an_error(server: RawClient) -> None:
    assert server.answer(server.send("tools/nothing"))["error"]["code"] == METHOD_NOT_FOUND


def test_windows_line_ends_and_several_messages_in_one_piece_are_understood(server: RawClient) -> None:
    pings = [json.dumps({"jsonrpc": "2.0", "id": number, "method": "ping"}) for number in (9004, 9005)]
    send_bytes(server, "\r\n".join([*pings, ""]).encode())
    for number in (9004, 9005):
        assert server.answer(number)["result"] == {}


def test_a_message_in_small_pieces_is_understood(server: RawClient) -> None:
    for byte in b'{"jsonrpc": "2.0", "id": 9006, "method": "ping"}\n':
        send_bytes(server, bytes([byte]))
    assert server.answer(9006)["result"] == {}


def test_1500_requests_at_once_are_all_answered(server: RawClient) -> None:
    """More than may be under way at a time: the rest waits in the pipe."""
    identifiers = [server.send("tools/call", name="redis_ping", arguments={}) for _ in range(1500)]
    assert all(server.wait(identifier)["structuredContent"]["ping"] == "pong" for identifier in identifiers)


def test_a_client_that_does_not_read_holds_up_nobody_else_and_still_can_be_ended(
    server_env: dict[str, str], server: RawClient
) -> None:
    hello = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    lists = [{"jsonrpc": "2.0", "id": number, "method": "tools/list"} for number in range(1, 31)]
    lines = [{"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello}, *lists]
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    with subprocess.Popen(
        [sys.executable, "-m", "streammachine.mcp_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=clean_environment(server_env),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(data)
        process.stdin.flush()
        until(lambda: readable(process.stdout.fileno()) > 32_000, "its pipe is full")  # type: ignore[union-attr]
        assert server.call("health_check")["status"] == "healthy"
        answered = sorted(json.loads(process.stdout.readline())["id"] for _ in lines)
        assert answered == list(range(31)), "nothing was lost meanwhile"
        process.stdin.write(b"".join(json.dumps(line).encode() + b"\n" for line in lists))
        process.stdin.flush()
        until(lambda: readable(process.stdout.fileno()) > 32_000, "its pipe is full again")  # type: ignore[union-attr]
        process.terminate()
        assert process.wait(30) == 0
