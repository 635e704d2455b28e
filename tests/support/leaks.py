"""What a test must not leave behind: sockets, child processes, and on the server consumers and keys without end."""

from __future__ import annotations

import gc
import os
import re
import socket
from pathlib import Path
from typing import Self

import redis

from support.servers import running, until

DEADLINE = 60.0
# Keys of ours that stand for good: values, declarations, dead letters, retries to come, marks and state. Every other
# one (leases, ticks, deduplication) must have a time to live.
OURS = re.compile(rb"^\{?sm:|\}[^{}]*:(dlq|retry|dedup|state|ohlc)(:|$)")
LASTING = re.compile(
    rb"^sm:(storage|obj:.*|agents|agents:paused|agents:running|topics|ohlc|ohlc:.*)$"
    rb"|^\{sm:alerts\}:(defined|state|fired|outbox)$"
    rb"|\}[^{}]*:(dlq|retry:[^:]+|retry:.*:due|retry:.*:mark|state:.*|ohlc:[^:]+)$"
)


class Leaks:
    """Remembers what there was; ``check`` finds what has come since."""

    def __init__(self) -> None:
        self._sockets = _sockets()
        self._children = _children()

    @classmethod
    def of_nothing(cls) -> Self:
        """As if there had been none."""
        leaks = cls()
        leaks._sockets, leaks._children = set(), {}
        return leaks

    def check_process(self, seconds: float = DEADLINE) -> None:
        """No socket and no child more than before. The loop that the test ran in must have ended."""
        gc.collect()
        until(lambda: _sockets() <= self._sockets, "no socket is left open", seconds)
        until(lambda: set(_children()) <= set(self._children), f"no child is left: {_children()}", seconds)


def check_server(client: redis.Redis) -> None:
    """No key of ours without end that need not last, and no consumer of an App of this process."""
    mine = f"-{socket.gethostname()}-{os.getpid()}-".encode()
    endless = [key for key in client.scan_iter(count=1000) if OURS.search(key) and client.ttl(key) == -1]
    assert [key for key in endless if not LASTING.search(key)] == []
    for stream in client.scan_iter(count=1000, _type="stream"):
        for group in client.xinfo_groups(stream):
            names = [facts["name"] for facts in client.xinfo_consumers(stream, group["name"])]
            left = [name for name in names if mine in name]
            assert not left, f"consumers left on {stream!r} in group {group['name']!r}: {left}"


def _sockets() -> set[str]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue  # the one that lists the folder
        if target.startswith("socket:"):
            found.add(target)
    return found


def _children() -> dict[int, str]:
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if parent == os.getpid() and running(int(entry.name)):
            found[int(entry.name)] = command
    return found
