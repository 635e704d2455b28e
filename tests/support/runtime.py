"""What tests of the runtime share: scripts that run as processes of their own, and questions to the server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from streammachine.redis.connection import RedisConnection
from streammachine.runtime.app.app import App
from support.servers import running
from support.valkey import wait_until

MakeApp = Callable[..., App]

PREAMBLE = """\
import os, signal, time, asyncio, sys
import anyio
from streammachine.runtime.app.app import App
from streammachine.runtime.model.config import Batch
from streammachine.runtime.model.message import Message
from streammachine.runtime.model.retry import Reject, Retry, RetryPolicy, Skip

"""


class Script:
    """A Python script that makes ``app``, run as a process; its output goes to ``log``."""

    def __init__(self, folder: Path, url: str, body: str, name: str = "script") -> None:
        self.path = folder / f"{name}.py"
        self.path.write_text(PREAMBLE + textwrap.dedent(body) + "\nif __name__ == '__main__':\n    app.start()\n")
        self.log_path = folder / f"{name}.log"
        self._url = url
        self._data = folder / "data"
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *, command: Sequence[str] | None = None, **environment: str) -> subprocess.Popen[bytes]:
        """Run the script, or a command about it."""
        environ = {**os.environ, "REDIS_URL": self._url, "STREAMMACHINE_DATA_DIR": str(self._data), **environment}
        with self.log_path.open("ab") as log:
            process = subprocess.Popen(
                command or [sys.executable, str(self.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environ,
            )
        self.processes.append(process)
        return process

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(30)
        wait_until(lambda: not self.children())

    def children(self) -> list[int]:
        """Living processes of this script other than those started here."""
        known = {process.pid for process in self.processes}
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) in known:
                continue
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            ours = os.fsencode(self.path) in command and b"streammachine.runtime." in command
            if ours and running(int(entry.name)):
                found.append(int(entry.name))
        return found


class Probe:
    """Questions to the server about streams and groups."""

    def __init__(self, redis: RedisConnection) -> None:
        self.redis = redis

    async def ask(self, *command: bytes | str | int) -> Any:
        return await self.redis.command(*command, repeatable=True)

    async def pending(self, stream: str, group: str = "eventengine") -> int:
        return int((await self.ask("XPENDING", stream, group))[0])

    async def rows(self, stream: str, group: str = "eventengine") -> list[tuple[str, str, int]]:
        """(id, consumer, deliveries) of what is pending."""
        reply = await self.ask("XPENDING", stream, group, "-", "+", 10_000)
        return [(row[0].decode(), row[1].decode(), row[3]) for row in reply]

    async def consumers(self, stream: str, group: str = "eventengine") -> list[str]:
        facts = await self.ask("XINFO", "CONSUMERS", stream, group)
        return sorted(dict(zip(each[::2], each[1::2], strict=True))[b"name"].decode() for each in facts)

    async def fields(self, stream: str) -> list[dict[str, str]]:
        reply = await self.ask("XRANGE", stream, "-", "+")
        return [{k.decode(): v.decode() for k, v in zip(entry[1][::2], entry[1][1::2], strict=True)} for entry in reply]

    async def done(self, stream: str, count: int, group: str = "eventengine") -> bool:
        """Whether the group has acknowledged ``count`` entries and holds none."""
        groups = await self.ask("XINFO", "GROUPS", stream)
        for facts in groups:
            found = dict(zip(facts[::2], facts[1::2], strict=True))
            if found[b"name"] == group.encode():
                return found[b"pending"] == 0 and (found[b"entries-read"] or 0) >= count
        return False
