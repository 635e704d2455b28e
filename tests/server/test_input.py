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

from streammachine.redis.embedded.server import EmbeddedServer
from support.mcp import LEGACY, RawClient, clean_environment
from support.servers import until

MB = 1 << 20
PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND = -32700, -32600, -32601


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


def test_a_line_over_64_mb_is_refused_as_a_whole_without_filling_the_memory(client: RawClient, tmp_path: Path) -> None:
    before = peak_memory(client)
    chunk = b" " * MB  # if only a part were dropped, the request at its end would be carried out
    for _ in range(130):
        send_bytes(client, chunk)
    send_bytes(client, b'{"jsonrpc": "2.0", "id": 9000, "method": "tools/list"}\n')
    answer = client.request("tools/list")
    assert answer["tools"]
    assert 9000 not in client._answers
    assert client.answer(None)["error"]["code"] == PARSE_ERROR
    assert peak_memory(client) - before < 100 * MB
    assert (tmp_path / "log").read_text().count("A line of more than 67108864 bytes came in") == 1


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"   ",
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
    ("line", "code"),
    [
        (b"garbage", PARSE_ERROR),
        (b"\xff\xfe\x00", PARSE_ERROR),
        (b"null", INVALID_REQUEST),
        (b"17", INVALID_REQUEST),
        (b'"text"', INVALID_REQUEST),
        (b"{}", INVALID_REQUEST),
        (b"[]", INVALID_REQUEST),
        (b"[17]", INVALID_REQUEST),
        (b"[" * 100_000, INVALID_REQUEST),
        (b'{"jsonrpc": "2.0"}', INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "method": 5}', INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": null, "method": "tools/list"}', INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": true, "method": "tools/list"}', INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": [1], "method": "tools/list"}', INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": 1e400, "method": "tools/list"}', INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": %s, "method": "tools/list"}' % (b"9" * 5000), INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "method": "x", "params": {}} , {}', PARSE_ERROR),
    ],
    ids=lambda line: line[:40].decode("ascii", "replace") if isinstance(line, bytes) else "",
)
def test_what_shows_no_id_is_refused_with_the_id_null(server: RawClient, line: bytes, code: int) -> None:
    send_bytes(server, line + b"\n")
    error = server.answer(None)["error"]
    assert error["code"] == code
    assert len(error["message"]) < 200
    assert server.call("redis_ping") == {"ping": "pong"}
    assert None not in server._answers, "one answer"


REQUEST = b'{"jsonrpc": "2.0", "id": 9010, "method": "tools/call", "params": {"name": "storage_read", "arguments": %s}}'


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (b'{"key": %s}' % (b"9" * 5000), "4300 digits"),
        (b'{"key": "a", "default": %s%s}' % (b"[" * 900, b"]" * 900), "at most 190 levels"),
        (b'{"key": "a", "default": %s%s}' % (b"[" * 3000, b"]" * 3000), "at most 190 levels"),
        (b'{"key": "a", "default": %s1%s}' % (b'{"a": ' * 3000, b"}" * 3000), "at most 190 levels"),
        (b'{"key": "a", "default": "\\ud800"}', "surrogate"),
        (b'{"key": "a", "default": "\xff"}', "not UTF-8"),
        (b'{"key": "a", "default": nothing}', "no JSON"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_id(server: RawClient, arguments: bytes, says: str) -> None:
    send_bytes(server, REQUEST % arguments + b"\n")
    assert says in server.answer(9010)["error"]["message"]


@pytest.mark.parametrize("depth", [10, 60, 120, 180])
def test_what_is_nested_less_deeply_goes_in_and_out(server: RawClient, depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    server.call("storage_write", key="deep", value=value)
    found = server.call("storage_read", key="deep")
    assert found["value"] == value if depth < 50 else found["truncated"]
    assert server.call("storage_read", key="absent", default=value)["value"] == value


def test_a_whole_floating_id_is_its_number_and_a_broken_one_is_refused(server: RawClient) -> None:
    send_bytes(server, b'{"jsonrpc": "2.0", "id": 9011.0, "method": "ping"}\n')
    assert server.answer(9011)["result"] == {}
    send_bytes(server, b'{"jsonrpc": "2.0", "id": 1.5, "method": "ping"}\n')
    assert server.answer(1.5)["error"]["code"] == INVALID_REQUEST  # type: ignore[arg-type]


@pytest.mark.parametrize("between", [b"", b" ", b"\r", b" \t "])
def test_two_messages_on_one_line_are_both_answered(server: RawClient, between: bytes) -> None:
    one, other = (b'{"jsonrpc": "2.0", "id": %d, "method": "ping"}' % number for number in (9012, 9013))
    send_bytes(server, one + between + other + b"\n")
    assert server.answer(9012)["result"] == server.answer(9013)["result"] == {}


def test_a_byte_order_mark_is_no_harm(server: RawClient) -> None:
    send_bytes(server, b'\xef\xbb\xbf{"jsonrpc": "2.0", "id": 9014, "method": "ping"}\n')
    assert server.answer(9014)["result"] == {}


def test_no_answer_holds_what_ends_a_line_for_readers_of_lines(server_env: dict[str, str]) -> None:
    text = "one\u2028two\u2029three\u0085four"
    hello = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    call = {"name": "storage_read", "arguments": {"key": text, "default": text}}
    lines = [
        {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello},
        {"jsonrpc": "2.0", "id": text, "method": "tools/call", "params": call},
        {"jsonrpc": "2.0", "id": text + "!", "method": text},
    ]
    done = subprocess.run(
        [sys.executable, "-m", "streammachine.mcp_server"],
        input=b"".join(json.dumps(line).encode() + b"\n" for line in lines),
        stdout=subprocess.PIPE,
        env=clean_environment(server_env),
        timeout=60,
        check=True,
    )
    answers = {answer["id"]: answer for answer in map(json.loads, done.stdout.decode().splitlines())}
    assert answers[text]["result"]["structuredContent"]["value"] == text
    assert answers[text + "!"]["error"]["code"] == METHOD_NOT_FOUND


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


def test_a_very_long_batch_is_refused_in_part_by_id_and_the_rest_at_once(server: RawClient) -> None:
    batch = [{"jsonrpc": "2.0", "id": f"batch {number}", "method": "ping"} for number in range(1500)]
    send_bytes(server, json.dumps(batch).encode() + b"\n")
    for number in range(1000):
        assert server.answer(f"batch {number}")["error"]["code"] == INVALID_REQUEST
    assert server.answer(None)["error"]["code"] == INVALID_REQUEST
    send_bytes(server, b"{}" * 1500 + b"\n")
    assert "more than 1,000 messages" in server.answer(None)["error"]["message"]


def test_what_is_long_and_cannot_be_read_is_refused_by_its_id(server: RawClient) -> None:
    send_bytes(server, b'{"jsonrpc": "2.0", "id": 9015, "method": "ping", "params": {"a": "%s\n' % (b"x" * 9_000_000))
    assert "cannot be read" in server.answer(9015)["error"]["message"]


def test_an_id_that_is_no_unicode_is_refused_without_harm(server: RawClient) -> None:
    send_bytes(server, b'{"jsonrpc": "2.0", "id": "\\ud800", "method": "tools/list"}\n')
    assert server.answer("\ud800")["error"]["code"] == INVALID_REQUEST


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


def test_a_ping_behind_many_calls_is_answered_before_most_of_them(server_env: dict[str, str]) -> None:
    with RawClient(env=server_env) as client:
        client.call("redis_ping")
        calls = [
            {"jsonrpc": "2.0", "id": f"c{number}", "method": "tools/call", "params": {"name": "redis_ping"}}
            for number in range(200)
        ]
        lines = [*calls, {"jsonrpc": "2.0", "id": "ping", "method": "ping"}]
        assert client.process.stdin is not None
        client.process.stdin.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        client.process.stdin.flush()
        order = [client.lines.get(timeout=60) for _ in lines]
        answered = [answer["id"] for answer in order if answer is not None]
        assert answered.index("ping") < 50
        assert sorted(answered) == sorted([*(call["id"] for call in calls), "ping"])
