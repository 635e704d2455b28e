"""The dashboard beside the HTTP transport: only when asked for, behind a token of its own, ended with the server."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from streammachine.redis.embedded.server import EmbeddedServer
from support.http_server import HttpServer
from support.servers import until


@pytest.mark.parametrize("read_only", [False, True])
def test_the_dashboard_stands_beside_mcp_and_ends_with_it(
    shared_server: EmbeddedServer, tmp_path: Path, read_only: bool
) -> None:
    env = {"REDIS_URL": shared_server.url, "STREAMMACHINE_DATA_DIR": str(tmp_path / "data")}
    options = ["--dashboard", *(["--read-only"] if read_only else [])]
    with HttpServer(env, tmp_path / "log", *options) as server:
        found = until(lambda: re.search(r"Dashboard: http://127.0.0.1:\d+/dashboard/\?token=(\S+)", server.log))
        own = {"Authorization": f"Bearer {found[1]}"}

        def ask(path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, str]:
            connection = server.connection()
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.readline().decode()
            connection.close()
            return answer.status, text

        assert ask("/dashboard/")[0] == 401
        assert ask("/dashboard/events/streams")[0] == 401
        assert ask("/dashboard/", **own)[0] == 200
        assert ask("/dashboard/", Host="evil.example", **own)[0] in (403, 421)
        assert ask("/dashboard/events/streams", **{**own, "Sec-Fetch-Site": "cross-site"})[0] == 403
        status, text = ask("/dashboard/events/streams", **own)
        assert status == 200 and '"rows"' in text
        json = {"Content-Type": "application/json"}
        assert ask("/dashboard/do/pause", "POST", b"{}", **own, **json)[0] == (403 if read_only else 400)
        held = server.connection()
        held.request("GET", "/dashboard/events/agents", headers=own)
        assert held.getresponse().status == 200  # a stream of events that is open does not hold the end up
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        held.close()


def test_without_the_option_there_is_none(shared_server: EmbeddedServer, tmp_path: Path) -> None:
    env = {"REDIS_URL": shared_server.url, "STREAMMACHINE_DATA_DIR": str(tmp_path / "data")}
    with HttpServer(env, tmp_path / "log") as server:
        connection = server.connection()
        connection.request("GET", "/dashboard/")
        assert connection.getresponse().status == 404
        connection.close()
        assert "Dashboard" not in server.log
