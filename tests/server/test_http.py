"""--transport http: on loopback addresses only, Host and Origin checked, ended by signals as stdio is."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from http.client import HTTPMessage
from pathlib import Path
from typing import Literal

import pytest
from fastmcp import Client

from streammachine.redis.embedded.server import EmbeddedServer
from support.golden import golden
from support.http_server import ACCEPT, COMMAND, HttpServer
from support.mcp import LEGACY, clean_environment
from support.servers import embedded_pids, free_port, redis_at, until

Answer = tuple[int, HTTPMessage, str]


@pytest.fixture(scope="module")
def server(shared_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    folder = tmp_path_factory.mktemp("http")
    env = {"REDIS_URL": shared_server.url, "STREAMMACHINE_DATA_DIR": str(folder / "data")}
    with HttpServer(env, folder / "log") as running:
        yield running


INITIALIZE = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
    }
).encode()


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_tools_resources_and_prompts_work_over_http(server: HttpServer, mode: Literal["auto", "legacy"]) -> None:
    async with Client(server.url, mode=mode) as client:
        assert {tool.name for tool in await client.list_tools()} == set(golden())
        sent = await client.call_tool("stream_send", {"stream": f"http-{mode}", "message": {"a": "1"}})
        read = await client.call_tool("stream_read", {"stream": f"http-{mode}"})
        assert read.structured_content is not None
        assert sent.structured_content is not None
        assert read.structured_content["messages"][0]["id"] == sent.structured_content["message_id"]
        assert (await client.call_tool("health_check")).structured_content["status"] == "healthy"  # type: ignore[index]
        assert await client.read_resource("streammachine://status")
        assert await client.list_prompts()


@pytest.mark.parametrize("host", ["attacker.example", "attacker.example:80", "127.0.0.1.attacker.example", "10.0.0.1"])
def test_another_host_name_is_misdirected(server: HttpServer, host: str) -> None:
    """A page that rebinds its DNS name to 127.0.0.1 still sends its own name."""
    assert server.post(INITIALIZE, Host=host)[0] == 421


@pytest.mark.parametrize("origin", ["https://attacker.example", "http://127.0.0.1.attacker.example", "null"])
def test_a_page_from_elsewhere_is_refused(server: HttpServer, origin: str) -> None:
    assert server.post(INITIALIZE, Origin=origin)[0] == 403


def test_local_names_and_pages_are_served(server: HttpServer) -> None:
    assert server.post(INITIALIZE)[0] == 200
    assert server.post(INITIALIZE, Host=f"localhost:{server.port}")[0] == 200
    assert server.post(INITIALIZE, Origin="http://localhost:3000")[0] == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_status_0_and_its_snapshot_written(
    number: signal.Signals, private_env: dict[str, str], tmp_path: Path
) -> None:
    data_dir = Path(private_env["STREAMMACHINE_DATA_DIR"])
    with HttpServer(private_env, tmp_path / "log") as server:
        create = {"name": "ohlc_create", "arguments": {"name": "btc"}}
        tick = {"name": "btc", "symbol": "BTC", "price": 1, "volume": 1}
        for call in (create, {"name": "ohlc_update", "arguments": tick}):
            assert call_tool(server, call)
        assert len(embedded_pids(data_dir)) == 1
        server.process.send_signal(number)
        assert server.process.wait(30) == 0
        assert "Traceback" not in server.log
    assert embedded_pids(data_dir) == []
    with EmbeddedServer.acquire(data_dir) as valkey, redis_at(valkey.url) as redis:
        assert redis.hexists("sm:ohlc:{btc}", "data")


@pytest.mark.parametrize("signals", [1, 2])
def test_it_ends_while_a_client_holds_a_stream_open_and_at_once_on_a_second_signal(
    server_env: dict[str, str], tmp_path: Path, signals: int
) -> None:
    with HttpServer(server_env, tmp_path / "log") as server:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
        connection.request("POST", "/mcp", INITIALIZE, ACCEPT)
        answer = connection.getresponse()
        session = answer.headers["mcp-session-id"]
        answer.read()
        connection.request("GET", "/mcp", headers={"Accept": "text/event-stream", "mcp-session-id": session})
        assert connection.getresponse().status == 200  # open from here on
        server.process.terminate()
        if signals == 2:
            until(lambda: "SIGTERM: ending" in server.log)
            server.process.terminate()
        assert server.process.wait(30) == (0 if signals == 1 else 128 + signal.SIGTERM)
        assert "Traceback" not in server.log
        connection.close()


def asked(server: HttpServer, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
    """One request; status, headers and text of the answer."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


def modern(identifier: object, name: str, **arguments: object) -> tuple[bytes, dict[str, str]]:
    """A tools/call of the modern protocol: body and headers."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"name": name, "arguments": arguments, "_meta": meta}
    body = json.dumps({"jsonrpc": "2.0", "id": identifier, "method": "tools/call", "params": params})
    return body.encode(), {"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": name}


def test_health_says_how_it_is_and_nothing_else(server: HttpServer) -> None:
    status, _, text = asked(server, "GET", "/health")
    assert (status, json.loads(text)) == (200, {"status": "healthy", "redis": "connected"})
    assert asked(server, "GET", "/health", Host="attacker.example")[0] == 421


def test_health_is_503_without_redis(tmp_path: Path) -> None:
    env = {"REDIS_URL": f"redis://127.0.0.1:{free_port()}", "STREAMMACHINE_DATA_DIR": str(tmp_path / "data")}
    with HttpServer(env, tmp_path / "log") as server:
        status, _, text = asked(server, "GET", "/health")
        assert (status, json.loads(text)) == (503, {"status": "unhealthy", "redis": "disconnected"})


def test_a_page_that_was_named_may_ask_and_read_and_no_other(server_env: dict[str, str], tmp_path: Path) -> None:
    page = "https://app.example"
    options = ("--allowed-origins", f"{page}/, http://other.example:8080", "--allowed-hosts", "mcp.example, other.test")
    with HttpServer(server_env, tmp_path / "log", *options) as server:
        wanted = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "content-type,mcp-name"}
        status, headers, _ = asked(server, "OPTIONS", "/mcp", Origin=page, **wanted)
        assert (status, headers["access-control-allow-origin"]) == (200, page)
        assert "mcp-name" in headers["access-control-allow-headers"]
        assert asked(server, "OPTIONS", "/mcp", Origin="https://attacker.example", **wanted)[0] == 403
        for host in ("mcp.example", "mcp.example:443", "other.test", "127.0.0.1"):
            headers = asked(server, "POST", "/mcp", INITIALIZE, Origin=page, Host=host, **ACCEPT)[1]
            assert headers["access-control-allow-origin"] == page
            assert "mcp-session-id" in headers["access-control-expose-headers"]
        assert server.post(INITIALIZE, Host="attacker.example")[0] == 421
        assert server.post(INITIALIZE, Origin="https://attacker.example")[0] == 403


def test_options_without_named_pages_says_which_methods_there_are(server: HttpServer) -> None:
    status, headers, _ = asked(server, "OPTIONS", "/mcp")
    assert (status, headers["allow"]) == (204, "GET, POST, DELETE, OPTIONS")
    assert "access-control-allow-origin" not in asked(server, "OPTIONS", "/mcp", Origin="http://localhost:3000")[1]


@pytest.mark.parametrize(
    "options",
    [("--allowed-hosts", "*"), ("--allowed-hosts", "http://a"), ("--allowed-origins", "*"),
     ("--allowed-origins", "app.example"), ("--allowed-origins", "https://a/path"), ("--session-idle", "0"),
     ("--session-idle", "nan")],
)  # fmt: skip
def test_what_would_open_it_to_all_or_means_nothing_is_refused(options: tuple[str, str]) -> None:
    assert options[0] in refused(*options)


@pytest.mark.parametrize(
    ("body", "identifier", "code"),
    [
        (b"garbage", None, -32700),
        (b'{"jsonrpc": "2.0", "id": 1.5, "method": "ping"}', 1.5, -32600),
        (b'{"jsonrpc": "2.0", "id": null, "method": "ping"}', None, -32600),
        (b'{"jsonrpc": "2.0", "id": 7, "method": "ping", "params": {"a": %s}}' % (b"9" * 5000), 7, -32600),
        (
            b'{"jsonrpc": "2.0", "id": 7, "method": "ping", "params": {"a": %s%s}}' % (b"[" * 3000, b"]" * 3000),
            7,
            -32600,
        ),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}{"jsonrpc": "2.0", "id": 2, "method": "ping"}', None, -32600),
        (b"[]", None, -32600),
        (b"", None, -32600),
    ],
    ids=lambda value: value[:45].decode() if isinstance(value, bytes) else "",
)
def test_a_body_that_is_no_message_is_refused_by_its_id(
    server: HttpServer, body: bytes, identifier: float | None, code: int
) -> None:
    status, text = server.post(body)
    answer = json.loads(text)
    assert (status, answer["id"], answer["error"]["code"]) == (400, identifier, code)
    assert "pydantic" not in text


def test_odd_bodies_are_served_in_both_protocols(server: HttpServer) -> None:
    assert server.post(b"\xef\xbb\xbf" + INITIALIZE)[0] == 200
    assert server.post(INITIALIZE.replace(b'"id": 1,', b'"id": 1.0,'))[0] == 200
    text = "one\u2028two\u2029three\u0085four"
    body, headers = modern(1.0, "storage_read", key="absent", default=text)
    for sent in (body, b"\xef\xbb\xbf" + body):
        status, answer = server.post(sent, **headers)
        assert status == 200, answer
        assert "\\u2028" in answer
        assert len(answer.splitlines()) <= 4, "no line more than the event has"
        data = next(line for line in answer.splitlines() if "structuredContent" in line).removeprefix("data: ")
        assert json.loads(data)["result"]["structuredContent"]["value"] == text


def test_a_session_that_nobody_uses_ends(server_env: dict[str, str], tmp_path: Path) -> None:
    with HttpServer(server_env, tmp_path / "log", "--session-idle", "1") as server:
        session = asked(server, "POST", "/mcp", INITIALIZE, **ACCEPT)[1]["mcp-session-id"]
        ping = b'{"jsonrpc": "2.0", "id": 2, "method": "ping"}'
        assert server.post(ping, **{"mcp-session-id": session})[0] == 200
        time.sleep(1)  # each request begins the second anew, so asking again would keep it
        until(lambda: server.post(ping, **{"mcp-session-id": session})[0] == 404 or time.sleep(1.5), "it has ended")


def test_clients_that_go_in_the_midst_are_no_error(server_env: dict[str, str], tmp_path: Path) -> None:
    with HttpServer(server_env, tmp_path / "log", "--log-level", "DEBUG") as server:
        with socket.create_connection((server.host, server.port)) as client:
            head = b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            client.sendall(head + b"Accept: application/json, text/event-stream\r\nContent-Length: 1000\r\n\r\n{")
        until(lambda: "A client was gone before its request was here" in server.log)
        session = asked(server, "POST", "/mcp", INITIALIZE, **ACCEPT)[1]["mcp-session-id"]
        for method, body in (("GET", None), ("POST", modern(1, "health_check")[0])):
            connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
            connection.request(method, "/mcp", body, {**ACCEPT, "mcp-session-id": session})
            if method == "GET":
                connection.getresponse()
            connection.close()
        assert server.post(INITIALIZE)[0] == 200
        assert call_tool(server, {"name": "redis_ping", "arguments": {}})
        assert "Traceback" not in server.log


def call_tool(server: HttpServer, call: dict[str, object]) -> str:
    """Call a tool in a session of its own."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    headers = dict(ACCEPT)
    connection.request("POST", "/mcp", INITIALIZE, headers)
    answer = connection.getresponse()
    answer.read()
    headers["mcp-session-id"] = answer.headers["mcp-session-id"]
    body = json.dumps({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call})
    connection.request("POST", "/mcp", body, headers)
    text = connection.getresponse().read().decode()
    connection.close()
    assert '"isError":true' not in text, text
    return text


def refused(*options: str) -> str:
    """Start a server that must refuse to: exit status 2 and one line on stderr, which this gives."""
    done = subprocess.run(
        [*COMMAND, *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=clean_environment({"STREAMMACHINE_EMBEDDED": "never"}),
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.5", socket.gethostname(), ""])
def test_an_address_of_the_network_is_refused(host: str) -> None:
    message = refused("--host", host)
    assert f"--host {host} would open the server to the network" in message
    assert "127.0.0.1" in message


def test_a_port_in_use_is_one_clear_line(server: HttpServer) -> None:
    message = refused("--port", str(server.port))
    assert f"--port {server.port}" in message
    assert "in use" in message


@pytest.mark.parametrize("port", ["65536", "-1"])
def test_a_port_that_cannot_be_is_named(port: str) -> None:
    assert port in refused(f"--port={port}")
    assert "65535" in refused(f"--port={port}")


@pytest.mark.parametrize("host", ["localhost", "::1"])
def test_the_other_loopback_names_are_served(server_env: dict[str, str], tmp_path: Path, host: str) -> None:
    if host == "::1" and not ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    with HttpServer(server_env, tmp_path / "log", "--host", host) as server:
        assert server.post(INITIALIZE)[0] == 200


def ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False
