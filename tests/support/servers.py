"""Real Redis servers and processes for tests: start them, find them, see them end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

import redis

from streammachine.redis.embedded.server import EmbeddedServer, find_binary

T = TypeVar("T")
DEADLINE = 60.0


def until(condition: Callable[[], T], what: str = "", timeout: float = DEADLINE) -> T:
    """Wait until ``condition`` gives something true, and give that."""
    end = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {timeout} s: {what or condition}"
        time.sleep(0.01)
    return found


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


class Valkey:
    """A Valkey on a TCP port, without persistence. Leaving the block kills it."""

    def __init__(self, folder: Path, port: int, *options: str, password: str | None = None) -> None:
        self.port = port
        self.password = password
        self.options = [*options, *(("--requirepass", password) if password else ())]
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [
                find_binary(),
                "--port",
                str(self.port),
                "--bind",
                "127.0.0.1",
                "--dir",
                self.folder,
                "--save",
                "",
                *self.options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(self.answers, "Valkey answers")

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=self.password, socket_timeout=1)

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def stop(self) -> None:
        """SIGSTOP: it holds its sockets open and says nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def embedded_pids(data_dir: Path) -> list[int]:
    """The embedded servers that run on a data directory."""
    wanted = b" --dir " + os.fsencode(os.path.realpath(data_dir) + "/valkey") + b" "
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
            except OSError:
                continue
            if b"valkey-server" in command and wanted in command and running(int(entry.name)):
                found.append(int(entry.name))
    return found


def running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def stop_embedded(data_dir: Path) -> None:
    """Shut down the embedded server that a killed process left on a data directory."""
    left = EmbeddedServer.running(data_dir)
    if left is not None:
        left.release()
    assert not embedded_pids(data_dir)


def redis_at(url: str) -> redis.Redis:
    """A client of an embedded server's ``unix://`` URL."""
    options: dict[str, Any] = {"socket_timeout": 5}
    return redis.Redis.from_url(url, **options)
