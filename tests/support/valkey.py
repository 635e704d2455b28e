"""Private Valkey servers on TCP for tests that restart, limit or lock a server, and waiting for a condition."""

from __future__ import annotations

import asyncio
import inspect
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from streammachine.redis.embedded.server import find_binary

DEADLINE = 60.0  # seconds: generous, for a busy machine


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Valkey:
    """A server of the test's own: ``with Valkey(tmp_path, "--requirepass", "x") as server``.

    Without ``binary`` it is the bundled one.
    """

    def __init__(self, directory: Path, *options: str, binary: str | None = None) -> None:
        self.directory = directory
        self.options = options
        self.binary = binary
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        fixed = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.directory)]
        self.directory.mkdir(exist_ok=True)
        with (self.directory / "valkey.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.binary or find_binary(), *fixed, *self.options], stdin=subprocess.DEVNULL, stdout=log
            )
        wait_until(self.listens)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def listens(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64) != b""
        except OSError:
            return False


def wait_until(condition: Callable[[], object], seconds: float = DEADLINE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.005)


async def until(condition: Callable[[], Any], seconds: float = DEADLINE) -> Any:
    """Wait until the condition (sync or async) gives something true, and give that."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < end, "the condition did not come true"
        await asyncio.sleep(0.005)
