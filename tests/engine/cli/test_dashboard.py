"""``streammachine dashboard``: it prints its address once, serves behind the token, and ends at SIGTERM."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from typing import Any

import httpx2

from support.servers import until


def test_it_prints_its_address_and_ends_when_it_is_told_to(cli: Any) -> None:
    log = cli.folder / "log"
    command = [sys.executable, "-m", "streammachine.cli", "dashboard", "--port", "0", "--every", "0.5"]
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr, env=cli.environment()
        )
    try:
        found = until(lambda: re.search(r"Dashboard: http://localhost:(\d+)/\?token=(\S+)", log.read_text()))
        address = f"http://localhost:{found[1]}"
        with httpx2.Client(follow_redirects=True) as client:
            assert client.get(address).status_code == 401
            assert "<title>StreamMachine</title>" in client.get(f"{address}/?token={found[2]}").text
            with client.stream("GET", f"{address}/events/streams") as events:
                assert '"total": 0' in next(line for line in events.iter_lines() if line.startswith("data:"))
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0
        assert log.read_text().count(found[2]) == 1
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()


def test_a_taken_port_is_one_line(cli: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = cli("dashboard", "--host", "127.0.0.1", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1 and "give another --port" in done.stderr and "Traceback" not in done.stderr
