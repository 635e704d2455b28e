"""A server process that serves HTTP."""

from __future__ import annotations

import http.client
import re
import ssl
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from support.mcp import clean_environment
from support.servers import until

COMMAND = (sys.executable, "-m", "streammachine.mcp_server", "--transport", "http")
ACCEPT = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


class HttpServer:
    """A server process that serves HTTP on a free port. Leaving the block kills it if it still runs.

    Args:
        command: what starts it; by default the product's.
    """

    def __init__(self, env: Mapping[str, str], log: Path, *options: str, command: Sequence[str] = COMMAND) -> None:
        self.log_path = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*command, "--port", "0", *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=clean_environment(env),
            )

    def __enter__(self) -> Self:
        found = until(lambda: re.search(r"listening on (https?://(.*):(\d+)/mcp)", self.log), "it listens")
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
        connection = self.connection()
        try:
            connection.request("POST", "/mcp", body, {**ACCEPT, **headers})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def connection(self) -> http.client.HTTPConnection:
        """A connection to it; over TLS with any certificate."""
        if self.url.startswith("https"):
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            return http.client.HTTPSConnection(self.host, self.port, timeout=30, context=context)
        return http.client.HTTPConnection(self.host, self.port, timeout=30)
