"""The MCP server beside an empty FastMCP server: start, and the cost of a call, over stdio.

    python -m benchmarks.mcp [--starts 9] [--rounds 7] [--calls 200] [--json]

The empty server has one tool that does nothing, is started by the same Python with the same flags and environment, and
is asked by the same client: JSON lines, nothing else. Its tool is ``async``, as ours are: FastMCP would run a plain
function in a thread, which costs more. The servers take turns every few calls, and a ratio is the median of the
rounds' ratios. Our server runs on an embedded Valkey of its own, once with fsync ``always`` and once
with ``everysec``; the difference of the two is what the disk costs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from benchmarks.measuring import Row, keep, median_ratio, table

OURS = "streammachine.mcp_server"
EMPTY = "sm_bench_empty"
EMPTY_SOURCE = """
from fastmcp import FastMCP

mcp = FastMCP("empty")


@mcp.tool
async def nothing() -> dict[str, str]:
    return {}


if __name__ == "__main__":
    mcp.run(show_banner=False)
"""
START_MS = 1_700_000_000_000
SLICE = 10  # calls of one server before the next one has its turn


def main(argv: list[str] | None = None) -> None:
    """Measure everything; print tables, or with ``--json`` one object."""
    parser = argparse.ArgumentParser(description="The MCP server beside an empty FastMCP server, over stdio.")
    parser.add_argument("--starts", type=int, default=9, help="starts of each server")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each tool")
    parser.add_argument("--calls", type=int, default=200, help="calls of each server in a round")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="sm-bench-") as name:
        folder = Path(name)
        (folder / f"{EMPTY}.py").write_text(EMPTY_SOURCE)
        starts = started(folder, options.starts)
        calls = called(folder, options.rounds, options.calls)
        disk = flushed(folder)
    keep({"start": starts, "calls": calls, "disk": disk})
    if options.json:
        print(json.dumps({"start": starts, "calls": calls, "disk": disk}, indent=2))
        return
    print(f"From the start of the process to its first tools/list, medians of {options.starts} starts each\n")
    print(table(starts))
    print(f"\nOne call, medians of {options.rounds} rounds of {options.calls} calls each\n")
    print(table(calls))
    print(f"\nThe disk: an fdatasync after 100 bytes takes {disk['fdatasync ms']:.2f} ms (median of {disk['writes']}).")


# -- start ------------------------------------------------------------------------------------


def started(folder: Path, starts: int) -> list[Row]:
    """Both servers, started in turns; a first start of each fills the bytecode caches and is not counted."""
    seconds: dict[str, list[float]] = {EMPTY: [], OURS: []}
    listed: dict[str, int] = {}
    tools: dict[str, int] = {}
    for number in range(starts + 1):
        for module, taken in seconds.items():
            began = time.perf_counter()
            with Server(module, folder, fsync="always") as server:
                answer = server.line("tools/list")
                if number:
                    taken.append(time.perf_counter() - began)
            listed[module] = len(answer)
            tools[module] = len(json.loads(answer)["result"]["tools"])
    return [
        {
            "server": "empty FastMCP" if module == EMPTY else "ours",
            "tools": tools[module],
            "tools/list bytes": listed[module],
            "start ms": statistics.median(taken) * 1000,
            "ratio": median_ratio(taken, seconds[EMPTY]),
        }
        for module, taken in seconds.items()
    ]


# -- calls ------------------------------------------------------------------------------------


def called(folder: Path, rounds: int, calls: int) -> list[Row]:
    """Every tool of ``TOOLS`` beside the empty tool, with one kind of fsync after the other: on one file system, what
    one server leaves to be written later would be waited for by the other."""
    rows: list[Row] = [{"tool": label} for label in TOOLS]
    with Server(EMPTY, folder, fsync="always") as empty:
        nothing = caller(empty, "nothing", lambda _: {})
        for fsync in ("always", "everysec"):
            with Server(OURS, folder, fsync=fsync) as server:
                prepare(server)
                for row, (tool, arguments) in zip(rows, TOOLS.values(), strict=True):
                    callers = {"empty": nothing, "ours": caller(server, tool, arguments)}
                    taken = side_by_side(callers, rounds, calls)
                    if fsync == "always":
                        row["empty ms"] = statistics.median(taken["empty"]) * 1000
                    row[f"{fsync} ms"] = statistics.median(taken["ours"]) * 1000
                    row[f"{fsync} : empty"] = median_ratio(taken["ours"], taken["empty"])
    for row in rows:
        row["disk ms"] = row["always ms"] - row["everysec ms"]
    return rows


Arguments = Callable[[int], dict[str, Any]]
TOOLS: dict[str, tuple[str, Arguments]] = {
    "redis_ping": ("redis_ping", lambda _: {}),
    "health_check": ("health_check", lambda _: {}),
    "stream_read, 1 message": ("stream_read", lambda _: {"stream": "ticks", "count": 1}),
    "storage_read": ("storage_read", lambda _: {"key": "k"}),
    "ohlc_get_candles, 10 candles": (
        "ohlc_get_candles",
        lambda _: {"name": "ten", "symbol": "BTCUSDT", "interval_ms": 60_000},
    ),
    "stream_send": ("stream_send", lambda number: {"stream": "ticks", "message": message(number)}),
    "storage_write": ("storage_write", lambda number: {"key": "k", "value": {"price": 61837.63, "n": number}}),
    "ohlc_update": (
        "ohlc_update",
        lambda number: {
            "name": "fed",
            "symbol": "BTCUSDT",
            "price": 61837.63,
            "volume": 0.5,
            "timestamp_ms": START_MS + number,
        },
    ),
}


def message(number: int) -> dict[str, str]:
    """A trade as it stands in a stream."""
    return {"symbol": "BTCUSDT", "price": "61837.63", "volume": "0.5", "n": str(number)}


def prepare(server: Server) -> None:
    """What the reading tools read."""
    server.call("stream_send_batch", stream="ticks", messages=[message(number) for number in range(1000)])
    server.call("storage_write", key="k", value={"price": 61837.63, "n": 0})
    for name in ("ten", "fed"):
        server.call("ohlc_create", name=name, intervals=[60_000, 300_000])
    ticks = [
        {"symbol": "BTCUSDT", "price": 1.0 + minute, "volume": 1.0, "timestamp_ms": START_MS + minute * 60_000}
        for minute in range(10)
    ]
    server.call("ohlc_update", name="ten", ticks=ticks)


def caller(server: Server, tool: str, arguments: Arguments) -> Callable[[int], float]:
    """A function that makes one call, of this number, and gives its seconds."""

    def call(number: int) -> float:
        given = arguments(number)
        began = time.perf_counter()
        answer = server.line("tools/call", name=tool, arguments=given)
        seconds = time.perf_counter() - began
        if b'"isError":true' in answer or b'"error":{' in answer:
            raise RuntimeError(answer.decode())
        return seconds

    return call


def side_by_side(callers: Mapping[str, Callable[[int], float]], rounds: int, calls: int) -> dict[str, list[float]]:
    """The median call of each round. Within a round the servers take turns every ``SLICE`` calls, so that a busy moment
    of the machine hits all of them; a first round warms up and is not counted."""
    medians: dict[str, list[float]] = {name: [] for name in callers}
    for turn in range(rounds + 1):
        taken: dict[str, list[float]] = {name: [] for name in callers}
        for start in range(0, calls, SLICE):
            for name, call in callers.items():
                taken[name] += [call(turn * calls + number) for number in range(start, min(start + SLICE, calls))]
        if turn:
            for name, seconds in taken.items():
                medians[name].append(statistics.median(seconds))
    return medians


def flushed(folder: Path, writes: int = 200) -> Row:
    """What this disk takes to make 100 bytes durable, as an append-only file does."""
    taken = []
    descriptor = os.open(folder / "disk", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for _ in range(writes):
            os.write(descriptor, b"x" * 100)
            began = time.perf_counter()
            os.fdatasync(descriptor)
            taken.append(time.perf_counter() - began)
    finally:
        os.close(descriptor)
    return {"fdatasync ms": statistics.median(taken) * 1000, "writes": writes}


# -- the client -------------------------------------------------------------------------------


class Server:
    """A server process and the wire to it, greeted as Claude Desktop greets; one request at a time."""

    def __init__(self, module: str, folder: Path, *, fsync: str) -> None:
        self._next = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(folder, fsync),
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self.line(
            "initialize",
            protocolVersion="2025-11-25",
            capabilities={},
            clientInfo={"name": "claude-ai", "version": "0.1.0"},
        )
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._in.close()
        self._process.wait(30)
        self._out.close()

    def line(self, method: str, **params: Any) -> bytes:
        """Send a request and give the line that answers it, not parsed: parsing is the client's own cost."""
        self._next += 1
        self._send({"jsonrpc": "2.0", "id": self._next, "method": method, "params": params})
        mark = b'"id":%d' % self._next
        while True:
            line = self._out.readline()
            if not line:
                raise RuntimeError(f"the server ended with status {self._process.wait(30)}")
            if mark in line:
                return line

    def call(self, tool: str, **arguments: Any) -> None:
        """Call a tool that must not fail."""
        answer = json.loads(self.line("tools/call", name=tool, arguments=arguments))
        if "error" in answer or answer["result"].get("isError"):
            raise RuntimeError(f"{tool}: {answer}")

    def _send(self, message: dict[str, Any]) -> None:
        self._in.write(json.dumps(message).encode() + b"\n")
        self._in.flush()


def environment(folder: Path, fsync: str) -> dict[str, str]:
    """The same for both servers: no Redis of the user's, an embedded one per kind of fsync."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("REDIS_", "STREAMMACHINE_"))}
    # Started as what is installed is, from byte code: some environments forbid to write it beside the sources.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    env["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    env.update(
        PYTHONPATH=os.pathsep.join([str(folder), env.get("PYTHONPATH", "")]),
        STREAMMACHINE_EMBEDDED="always",
        STREAMMACHINE_EMBEDDED_FSYNC=fsync,
        STREAMMACHINE_DATA_DIR=str(folder / fsync),
    )
    return env


if __name__ == "__main__":
    main()
