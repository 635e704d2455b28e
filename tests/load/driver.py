"""Clients that call the tools of every day in turns, and the memory of the servers before and after.

Beside them, where wanted, the same clients call a server that does nothing: a slice of the calls each, in turns.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streammachine.redis.embedded.server import EmbeddedServer
from support.http_server import ACCEPT, HttpServer
from support.mcp import MODERN_META, RawClient, clean_environment
from support.servers import until

TRANSPORTS = ("stdio", "http")
WARM = 0.3  # the part of the calls after which the memory is measured first: caches are full then
GROWTH = 16 << 20  # bytes that a server may take more at the end than after it was warm
SLICES = 10  # parts of the calls: ours, the empty server's, ours ...
EMPTY = Path(__file__).parent / "empty.py"

Call = Callable[[str, dict[str, Any]], dict[str, Any]]
Connected = tuple[Call, int]  # and the server's process
Calls = Iterator[tuple[str, dict[str, Any]]]


@dataclass
class Report:
    """What came of it: calls answered, errors (some of their texts), seconds, memory grown by process, latencies, and
    those of an empty server."""

    transport: str
    calls: int = 0
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0
    grown: dict[int, int] = field(default_factory=dict)
    taken: list[float] = field(default_factory=list)
    empty: list[float] = field(default_factory=list)

    def problems(self) -> list[str]:
        """What must not be: errors, and memory that grew."""
        grown = [f"process {pid} grew by {more:,} bytes" for pid, more in self.grown.items() if more > GROWTH]
        return [*self.errors[:3], *grown]

    def __str__(self) -> str:
        middle, late = _milliseconds(self.taken)
        beside = ""
        if self.empty:
            empty_middle, empty_late = _milliseconds(self.empty)
            beside = (
                f" An empty server: median {empty_middle:.1f} ms, p99 {empty_late:.1f} ms; "
                f"ours is {middle / empty_middle:.2f} and {late / empty_late:.2f} of it."
            )
        return (
            f"{self.transport}: {self.calls} calls in {self.seconds:.1f} s, median {middle:.1f} ms, p99 {late:.1f} ms, "
            f"{len(self.errors)} errors, most grown {max(self.grown.values()):,} bytes. {self.problems() or 'Fine.'}"
            f"{beside}"
        )


def run(transport: str, clients: int, calls: int, folder: Path, *, beside: bool = False) -> Report:
    """Let ``clients`` call at once, ``calls`` times each, over a transport.

    Args:
        beside: call an empty server as often, in turns; both are called warm before it counts.
    """
    report, empty = Report(transport), Report(transport)
    with EmbeddedServer.acquire(folder / "redis", fsync="everysec") as redis, contextlib.ExitStack() as stack:
        env = {"REDIS_URL": redis.url, "STREAMMACHINE_DATA_DIR": str(folder / "data")}
        connected = _connections(transport, clients, env, folder, stack)
        others = _empty_connections(transport, clients, stack) if beside else []
        wanted = [_wanted(f"load-{place}") for place in range(clients)]
        nothing = [_nothing() for _ in others]
        pids = {pid for _, pid in connected}
        warm = int(calls * WARM)
        _everybody(connected, wanted, warm, report)
        _everybody(others, nothing, warm, empty)
        before = {pid: memory(pid) for pid in pids}
        if beside:
            report.taken.clear()
            empty.taken.clear()
        for part in range(SLICES):
            share = (calls - warm) * (part + 1) // SLICES - (calls - warm) * part // SLICES
            began = time.monotonic()
            _everybody(connected, wanted, share, report)
            report.seconds += time.monotonic() - began
            _everybody(others, nothing, share, empty)
        report.grown = {pid: memory(pid) - before[pid] for pid in pids}
    report.errors += empty.errors
    report.empty = empty.taken
    return report


def memory(pid: int) -> int:
    """The resident memory of a process in bytes (Linux: statm of proc(5))."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _milliseconds(taken: list[float]) -> tuple[float, float]:
    """The median and the 99th percentile."""
    ordered = sorted(taken)
    return 1000 * ordered[len(ordered) // 2], 1000 * ordered[int(len(ordered) * 0.99)]


def _connections(
    transport: str, clients: int, env: dict[str, str], folder: Path, stack: contextlib.ExitStack
) -> list[Connected]:
    if transport == "stdio":
        return [stack.enter_context(_over_stdio(RawClient(env=env))) for _ in range(clients)]
    server = stack.enter_context(HttpServer(env, folder / "log"))
    return [stack.enter_context(_over_http(server.connection(), server.process.pid)) for _ in range(clients)]


def _empty_connections(transport: str, clients: int, stack: contextlib.ExitStack) -> list[Connected]:
    if transport == "stdio":
        command = (sys.executable, str(EMPTY))
        return [stack.enter_context(_over_stdio(RawClient(command=command))) for _ in range(clients)]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(EMPTY), str(port)], env=clean_environment({}))
    stack.callback(process.wait)
    stack.callback(process.kill)
    until(lambda: _listens(port), "the empty server listens")
    connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(clients)]
    return [stack.enter_context(_over_http(connection, process.pid)) for connection in connections]


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def _over_stdio(started: RawClient) -> Iterator[Connected]:
    with started as client:
        yield lambda tool, given: client.request("tools/call", name=tool, arguments=given), client.process.pid


@contextlib.contextmanager
def _over_http(connection: http.client.HTTPConnection, pid: int) -> Iterator[Connected]:
    """A client of protocol 2026-07-28 on one connection."""
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
        yield call, pid


def _everybody(connected: list[Connected], wanted: list[Calls], calls: int, report: Report) -> None:
    threads = [
        threading.Thread(target=_one, args=(call, itertools.islice(given, calls), report))
        for (call, _), given in zip(connected, wanted, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _one(call: Call, wanted: Calls, report: Report) -> None:
    for tool, given in wanted:
        began = time.monotonic()
        try:
            result = call(tool, given)
            if result.get("isError"):
                report.errors.append(f"{tool}: {result['content'][0]['text']}")
        except (AssertionError, OSError, ValueError, http.client.HTTPException) as error:
            report.errors.append(f"{tool}: {type(error).__name__}: {error}")
        report.calls += 1
        report.taken.append(time.monotonic() - began)


def _nothing() -> Calls:
    """The calls of the empty server, without end."""
    for number in itertools.count():
        yield "nothing", {"number": number}


def _wanted(name: str) -> Calls:
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
