"""--transport http: on loopback addresses only, Host and Origin checked, ended by signals as stdio is."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

import pytest
from fastmcp import Client

from streammachine.redis.embedded import EmbeddedServer
from support_mcp import LEGACY, clean_environment
from support_servers import embedded_pids, redis_at, until

COMMAND = (sys.executable, "-m", "streammachine.mcp_server", "--transport", "http")
ACCEPT = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


class HttpServer:
    """A server process that serves HTTP on a free port. Leaving the block kills it if it still runs."""

    def __init__(self, env: dict[str, str], log: Path, *options: str) -> None:
        self.log_path = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*COMMAND, "--port", "0", *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=clean_environment(env),
            )

    def __enter__(self) -> Self:
        found = until(lambda: re.search(r"listening on (http://(.*):(\d+)/mcp)", self.log), "it listens")
        self.url, self.host, self.port = found[1], found[2].strip("[]"), int(found[3])
        until(lambda: self.post(b"{}")[0], "it answers")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def post(self, body: bytes, **headers: str) -> tuple[int, str]:
        """POST without an MCP client; status and text of the answer."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        try:
            connection.request("POST", "/mcp", body, {**ACCEPT, **headers})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


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
        assert len(await client.list_tools()) == 41
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
