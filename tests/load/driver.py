"""Clients that call the tools of every day in turns, and the memory of the servers before and after."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streammachine.redis.embedded.server import EmbeddedServer
from support.http_server import ACCEPT, HttpServer
from support.mcp import MODERN_META, RawClient

TRANSPORTS = ("stdio", "http")
WARM = 0.3  # the part of the calls after which the memory is measured first: caches are full then
GROWTH = 16 << 20  # bytes that a server may take more at the end than after it was warm

Call = Callable[[str, dict[str, Any]], dict[str, Any]]
Connected = AbstractContextManager[tuple[Call, int]]


@dataclass
class Report:
    """What came of it: calls answered, errors (some of their texts), seconds, memory grown by process, latencies."""

    transport: str
    calls: int = 0
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0
    grown: dict[int, int] = field(default_factory=dict)
    taken: list[float] = field(default_factory=list)

    def problems(self) -> list[str]:
        """What must not be: errors, and memory that grew."""
        grown = [f"process {pid} grew by {more:,} bytes" for pid, more in self.grown.items() if more > GROWTH]
        return [*self.errors[:3], *grown]

    def __str__(self) -> str:
        taken = sorted(self.taken)
        middle, late = (1000 * taken[int(len(taken) * part)] for part in (0.5, 0.99))
        return (
            f"{self.transport}: {self.calls} calls in {self.seconds:.1f} s, median {middle:.1f} ms, p99 {late:.1f} ms, "
            f"{len(self.errors)} errors, most grown {max(self.grown.values()):,} bytes. {self.problems() or 'Fine.'}"
        )


def run(transport: str, clients: int, calls: int, folder: Path) -> Report:
    """Let ``clients`` call at once, ``calls`` times each, over a transport."""
    report = Report(transport)
    with EmbeddedServer.acquire(folder / "redis", fsync="everysec") as redis, contextlib.ExitStack() as stack:
        env = {"REDIS_URL": redis.url, "STREAMMACHINE_DATA_DIR": str(folder / "data")}
        connected = _connections(transport, clients, env, folder, stack)
        pids = {pid for _, pid in connected}
        _everybody(connected, int(calls * WARM), report)
        before = {pid: memory(pid) for pid in pids}
        began = time.monotonic()
        _everybody(connected, calls - int(calls * WARM), report)
        report.seconds = time.monotonic() - began
        report.grown = {pid: memory(pid) - before[pid] for pid in pids}
    return report


def memory(pid: int) -> int:
    """The resident memory of a process in bytes (Linux: statm of proc(5))."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _connections(
    transport: str, clients: int, env: dict[str, str], folder: Path, stack: contextlib.ExitStack
) -> list[tuple[Call, int]]:
    if transport == "stdio":
        return [stack.enter_context(_over_stdio(env)) for _ in range(clients)]
    server = stack.enter_context(HttpServer(env, folder / "log"))
    return [stack.enter_context(_over_http(server)) for _ in range(clients)]


@contextlib.contextmanager
def _over_stdio(env: dict[str, str]) -> Iterator[tuple[Call, int]]:
    with RawClient(env=env) as client:
        yield lambda tool, given: client.request("tools/call", name=tool, arguments=given), client.process.pid


@contextlib.contextmanager
def _over_http(server: HttpServer) -> Iterator[tuple[Call, int]]:
    """A client of protocol 2026-07-28 on one connection."""
    connection = server.connection()
    numbers = itertools.count()

    def call(tool: str, given: dict[str, Any]) -> dict[str, Any]:
        params = {"name": tool, "arguments": given, "_meta": MODERN_META}
        body = json.dumps({"jsonrpc": "2.0", "id": next(numbers), "method": "tools/call", "params": params})
        headers = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": tool}
        connection.request("POST", "/mcp", body.encode(), {**ACCEPT, **headers})
        answer = connection.getresponse()
        text = answer.read().decode()
        lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
        message = json.loads(lines[-1] if lines else text)
        if "result" not in message:
            raise AssertionError(message)
        result: dict[str, Any] = message["result"]
        return result

    with contextlib.closing(connection):
        yield call, server.process.pid


def _everybody(connected: list[tuple[Call, int]], calls: int, report: Report) -> None:
    threads = [
        threading.Thread(target=_one, args=(place, call, calls, report)) for place, (call, _) in enumerate(connected)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _one(place: int, call: Call, calls: int, report: Report) -> None:
    for tool, given in itertools.islice(_wanted(f"load-{place}"), calls):
        began = time.monotonic()
        try:
            result = call(tool, given)
            if result.get("isError"):
                report.errors.append(f"{tool}: {result['content'][0]['text']}")
        except (AssertionError, OSError, ValueError, http.client.HTTPException) as error:
            report.errors.append(f"{tool}: {type(error).__name__}: {error}")
        report.calls += 1
        report.taken.append(time.monotonic() - began)


def _wanted(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The calls of a client, without end."""
    yield "ohlc_create", {"name": name, "intervals": [60_000]}
    for number in itertools.count():
        yield "stream_send", {"stream": name, "message": {"price": str(number)}}
        yield "stream_read", {"stream": name}
        yield "ohlc_update", {"name": name, "symbol": "A", "price": 1.0 + number % 7, "volume": 1.0}
        yield "ohlc_get_candles", {"name": name, "symbol": "A", "interval_ms": 60_000}
        yield "storage_write", {"key": name, "value": str(number)}
        yield "storage_read", {"key": name}
        yield "stream_list", {}
